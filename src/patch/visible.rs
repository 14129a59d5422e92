//! The records of which something is seen once all are written, in memory by their number.
//!
//! A compressed patch of a few bytes may have records without number, most of which hide each
//! other. So the list is swept before it grows: what is hidden goes, what is left is cut to what
//! can be seen of it, and only where that is more than half of the list is more memory asked for.

use std::cell::Cell;
use std::io::{Read, Seek};

use super::check::RECORDS_PER_ASK;
use super::places::Places;
use super::reader::PatchReader;
use super::sweep::{Stretch, Sweep};
use crate::error::{Error, Kind, Result};

/// Memory for a record, in bytes, at most.
pub const ENTRY_BYTES: usize = 24;
/// What a list has room for when it is begun.
const FIRST: usize = 4096;

const _: () = assert!(size_of::<Stretch>() <= ENTRY_BYTES);

/// Collects records in the patch's order.
struct Visible {
    records: Vec<Stretch>,
    /// Those that may still come.
    left: u64,
}

impl Visible {
    /// Of a patch with so many records.
    fn of(records: u64) -> Self {
        Self { records: Vec::new(), left: records }
    }

    /// Adds the record that comes next in the patch.
    ///
    /// # Errors
    /// `Kind::Patch` without memory for what is seen of so many.
    fn push(&mut self, record: Stretch) -> Result<()> {
        if self.records.len() == self.records.capacity() {
            self.drop_hidden();
            if self.records.len() >= self.records.capacity() / 2 {
                make_room(&mut self.records, self.left)?;
            }
        }
        self.records.push(record);
        self.left = self.left.saturating_sub(1);
        Ok(())
    }

    fn finish(mut self) -> Vec<Stretch> {
        self.drop_hidden();
        self.records.shrink_to_fit();
        self.records
    }

    fn drop_hidden(&mut self) {
        self.records.sort_unstable_by_key(|record| (record.range.start, record.position));
        let visible = cut_to_visible(&mut self.records);
        self.records.truncate(visible);
    }
}

/// Reads a patch, whose records are `expected`, from the first one on. Returns those of which
/// anything is seen once all are written, ascending, each from its first visible byte to its last:
/// no two begin at one offset, and a [`Sweep`] over them finds what one over all would.
///
/// # Errors
/// `Kind::Patch` without memory, or when they are others; what the reader fails with and
/// `is_wanted` returns.
pub(super) fn visible_records<R: Read + Seek>(
    reader: &mut PatchReader<R>,
    expected: Places,
    is_wanted: &dyn Fn() -> Result<()>,
) -> Result<Vec<Stretch>> {
    let mut visible = Visible::of(expected.records());
    let mut found = Places::NONE;
    while let Some(place) = reader.next_place()? {
        if found.records().is_multiple_of(RECORDS_PER_ASK) {
            is_wanted()?;
        }
        visible.push(place.into())?;
        found.append(Places::of(place));
    }
    expected.expect(found)?;
    Ok(visible.finish())
}

/// Makes room in a full list for as many again, but for no more than `left`.
///
/// # Errors
/// `Kind::Patch` without memory: how many there are is up to the patch.
pub(super) fn make_room<T>(list: &mut Vec<T>, left: u64) -> Result<()> {
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    list.try_reserve_exact(list.len().max(FIRST).min(left)).map_err(|err| {
        let what = format!("no memory to keep track of more than {} records", list.len());
        Error::new(Kind::Patch, what).with_source(err)
    })
}

/// Makes of records, sorted by start and position, the visible ones only, each from its first
/// visible byte to its last. Returns how many are left, at the front.
///
/// Such a record still shows what it showed before: where the cut one would have hidden
/// another, that one stands earlier in the patch or is hidden itself.
fn cut_to_visible(records: &mut [Stretch]) -> usize {
    let cells = Cell::from_mut(records).as_slice_of_cells();
    let mut sweep = Sweep::new(cells.iter().map(Cell::get), 0);
    let mut used = 0;
    while let Some(seen) = sweep.next() {
        let Some(slot) = sweep.note() else { continue };
        match *slot {
            // Seen before, then hidden by a shorter one, now seen again.
            Some(slot) => {
                let mut record = cells[slot].get();
                record.range.end = seen.range.end;
                cells[slot].set(record);
            }
            // Never ahead of the sweep: each slot is for another record that it has read.
            None => {
                cells[used].set(seen);
                *slot = Some(used);
                used += 1;
            }
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::ByteRange;
    use proptest::prelude::*;

    fn collected(ranges: &[(u64, u64)], mut collect: impl FnMut(&mut Visible)) -> Vec<Stretch> {
        let mut visible = Visible::of(ranges.len() as u64);
        for (record, &(start, len)) in (0u64..).zip(ranges) {
            let range = ByteRange::new(start, start + len);
            visible.push(Stretch { range, position: record * 1000 }).unwrap();
            collect(&mut visible);
        }
        visible.finish()
    }

    proptest! {
        #[test]
        fn what_is_seen_is_the_same_however_often_the_hidden_ones_go(
            ranges in proptest::collection::vec((0u64..200, 1u64..60), 1..60),
            every in 1usize..20,
        ) {
            let whole = collected(&ranges, |_| {});
            let mut count = 0;
            let in_steps = collected(&ranges, |visible| {
                count += 1;
                if count % every == 0 {
                    visible.drop_hidden();
                }
            });
            let seen = |list: Vec<Stretch>| Sweep::new(list.into_iter(), 0).collect::<Vec<_>>();
            prop_assert_eq!(seen(whole), seen(in_steps));
        }
    }

    #[test]
    fn hidden_records_take_no_memory() {
        let mut visible = Visible::of(u64::MAX);
        for i in 0..1_000_000u64 {
            let start = i % 3 * 10;
            let record = Stretch { range: ByteRange::new(start, start + 15), position: i * 28 };
            visible.push(record).unwrap();
        }
        assert!(visible.records.capacity() <= FIRST);
        assert_eq!(visible.finish().len(), 3);
    }

    #[test]
    fn records_that_are_seen_take_their_own_memory_and_no_more() {
        const RECORDS: u64 = 100_000;
        let mut visible = Visible::of(RECORDS);
        for i in 0..RECORDS {
            let range = ByteRange::new(i * 10, i * 10 + 15);
            visible.push(Stretch { range, position: i * 28 }).unwrap();
        }
        assert_eq!(visible.records.capacity() as u64, RECORDS);
    }
}

//! Which of overlapping records is seen where: the one that stands last in the patch.
//!
//! A sweep over records in ascending order of their offsets. It holds only records that may
//! still be seen further on: of two of them the one that stands later in the patch ends
//! earlier, so that there are never more than a record's longest length, whatever the patch.

use std::collections::BTreeMap;

use super::batch::RecordPlace;
use crate::units::ByteRange;

/// A stretch of a record's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where it goes in the device; never empty.
    pub range: ByteRange,
    /// Where its first byte is in the patch. Orders records as they stand in the patch.
    pub position: u64,
}

impl From<RecordPlace> for Stretch {
    fn from(whole: RecordPlace) -> Self {
        Self { range: whole.range, position: whole.position }
    }
}

/// The visible stretches of overlapping ones, in ascending order.
pub struct Sweep<I> {
    /// Ascending by the start of their ranges.
    input: I,
    next: Option<Stretch>,
    /// By position: range of the record, and what the caller noted for it.
    active: BTreeMap<u64, (ByteRange, Option<usize>)>,
    /// Everything below is given out.
    at: u64,
}

impl<I: Iterator<Item = Stretch>> Sweep<I> {
    /// Begins at `from`; what lies before is left out.
    pub fn new(mut input: I, from: u64) -> Self {
        let next = input.next();
        Self { input, next, active: BTreeMap::new(), at: from }
    }

    /// The note for the record that the last stretch came from.
    pub fn note(&mut self) -> Option<&mut Option<usize>> {
        self.active.last_entry().map(|entry| &mut entry.into_mut().1)
    }

    fn admit(&mut self, record: Stretch) {
        let Stretch { range, position } = record;
        // Of the later ones, the nearest ends last: does it hide all of this one?
        if self.active.range(position..).next().is_some_and(|(_, (r, _))| r.end >= range.end) {
            return;
        }
        while let Some((&hidden, _)) =
            self.active.range(..position).next_back().filter(|(_, (r, _))| r.end <= range.end)
        {
            self.active.remove(&hidden);
        }
        self.active.insert(position, (range, None));
    }
}

impl<I: Iterator<Item = Stretch>> Iterator for Sweep<I> {
    type Item = Stretch;

    fn next(&mut self) -> Option<Stretch> {
        loop {
            while self.active.last_key_value().is_some_and(|(_, (r, _))| r.end <= self.at) {
                self.active.pop_last();
            }
            if self.active.is_empty() {
                self.at = self.at.max(self.next?.range.start);
            }
            while let Some(next) = self.next.filter(|next| next.range.start <= self.at) {
                if next.range.end > self.at {
                    self.admit(next);
                }
                self.next = self.input.next();
            }
            let Some((&position, &(range, _))) = self.active.last_key_value() else { continue };
            let mut end = range.end;
            while let Some(next) = self.next.filter(|next| next.range.start < range.end) {
                if next.position > position {
                    end = next.range.start;
                    break;
                }
                self.admit(next);
                self.next = self.input.next();
            }
            let seen = Stretch {
                range: ByteRange::new(self.at, end),
                position: position + (self.at - range.start),
            };
            self.at = end;
            return Some(seen);
        }
    }
}

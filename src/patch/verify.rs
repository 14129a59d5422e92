//! Compares a device with the records that were written to it.

use std::io::{Read, Seek};
use std::iter::Peekable;
use std::vec::IntoIter;

use super::batch::Record;
use super::check::Summary;
use super::reader::{BUFFER_BYTES, PatchReader};
use super::sweep::{Stretch, Sweep};
use super::visible::{make_room, visible_records};
use crate::buffer::PageBuffer;
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;

/// Bytes between two records that are read with them: less than another call to the disk takes.
const GAP_BYTES_MAX: u64 = 128 * 1024;

/// Reads back what the patch wrote below `limit_bytes` and compares. Bytes that a later record
/// overwrote count for that record only: where records overlap or come in any order, as the patch's
/// `summary` tells, it is found out first what is seen of each, in at most 72 bytes of memory for a
/// record of which anything is. `open` opens the patch from its first byte.
///
/// # Errors
/// `Kind::Checksum` naming the first range, in the patch's order, that differs, what the reader
/// and the device fail with, what `check` returns, `Kind::Patch` without memory for the records.
pub fn verify_records<R: Read + Seek>(
    device: &dyn Device,
    limit_bytes: u64,
    summary: &Summary,
    open: &dyn Fn() -> Result<PatchReader<R>>,
    check: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let seen = if summary.ascending {
        None
    } else {
        let visible = visible_records(&mut open()?, summary.places, check)?;
        Some(stretches_in_order(visible)?.into_iter().peekable())
    };
    let mut verifier = Verifier { device, limit_bytes, seen, found: PageBuffer::new(BUFFER_BYTES) };
    let mut reader = open()?;
    while let Some(batch) = reader.next_batch()? {
        check()?;
        let records: Vec<_> = batch.records().collect();
        let mut rest = &records[..];
        while !rest.is_empty() {
            let (run, behind) = rest.split_at(run_len(rest));
            verifier.compare_run(run)?;
            rest = behind;
        }
    }
    Ok(())
}

/// How many of the records, the first one and neighbours of it, are read at once: less than what
/// fits the buffer, and little in between.
fn run_len(records: &[Record<'_>]) -> usize {
    let start = records.first().map_or(0, |record| record.offset);
    let is_near = |pair: &[Record<'_>]| {
        let end = pair[0].place().range.end;
        (end..=end.saturating_add(GAP_BYTES_MAX)).contains(&pair[1].offset)
            && pair[1].place().range.end - start <= BUFFER_BYTES as u64
    };
    1 + records.windows(2).take_while(|pair| is_near(pair)).count()
}

/// Reads and compares.
struct Verifier<'a> {
    device: &'a dyn Device,
    limit_bytes: u64,
    /// What is seen of the records that come next; `None`: all of every one.
    seen: Option<Peekable<IntoIter<Stretch>>>,
    found: PageBuffer,
}

impl Verifier<'_> {
    fn compare_run(&mut self, run: &[Record<'_>]) -> Result<()> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(()) };
        let data_end = last.position + last.data.len() as u64;
        let is_hidden = |seen: &mut Peekable<IntoIter<Stretch>>| {
            seen.peek().is_none_or(|next| next.position >= data_end)
        };
        if self.seen.as_mut().is_some_and(is_hidden) {
            return Ok(());
        }
        let range = ByteRange::new(first.offset, last.place().range.end).clip(self.limit_bytes);
        let bytes = &mut self.found[..range.len() as usize];
        match self.device.read_exact_at(bytes, range.start) {
            Ok(()) => {}
            // What lies between the records is nothing to fail by.
            Err(_) if run.len() > 1 => {
                return run.chunks(1).try_for_each(|record| self.compare_run(record));
            }
            Err(err) => return Err(err),
        }
        for record in run {
            let from = ((record.offset - first.offset) as usize).min(bytes.len());
            let part = &bytes[from..];
            match &mut self.seen {
                None => compare(self.device, part, record, record.place().range)?,
                Some(seen) => {
                    let data_end = record.position + record.data.len() as u64;
                    while let Some(next) = seen.next_if(|next| next.position < data_end) {
                        compare(self.device, part, record, next.range)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// What is seen of each record, in the patch's order.
fn stretches_in_order(visible: Vec<Stretch>) -> Result<Vec<Stretch>> {
    // Each begins or ends where a record does.
    let most = 2 * visible.len();
    let mut seen = Vec::new();
    for stretch in Sweep::new(visible.into_iter(), 0) {
        if seen.len() == seen.capacity() {
            let left = most.saturating_sub(seen.len());
            make_room(&mut seen, left as u64)?;
        }
        seen.push(stretch);
    }
    seen.sort_unstable_by_key(|stretch| stretch.position);
    Ok(seen)
}

/// Fails when `found`, the bytes from the record's offset on as far as they count, is not what
/// the record has for `seen`, which lies in it.
fn compare(device: &dyn Device, found: &[u8], record: &Record<'_>, seen: ByteRange) -> Result<()> {
    // Both are at most a record's length.
    let from = (seen.start - record.offset) as usize;
    let to = ((seen.end - record.offset) as usize).min(found.len());
    let (Some(found), Some(expected)) = (found.get(from..to), record.data.get(from..to)) else {
        return Ok(());
    };
    if found == expected {
        return Ok(());
    }
    let differs = |(a, b): (&u8, &u8)| a != b;
    let pairs = || found.iter().zip(expected);
    let start = pairs().position(differs).unwrap_or(0);
    let len = pairs().skip(start).take_while(|&pair| differs(pair)).count();
    let start = seen.start + start as u64;
    Err(Error::new(Kind::Checksum, "the device does not hold what was written to it")
        .with_path(device.path())
        .with_range(ByteRange::new(start, start + len as u64)))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Cursor;

    use super::super::check;
    use super::super::tests::written_patch;
    use super::*;
    use crate::device::faulty::{Call, Fault, FaultyDevice, Operation};
    use crate::device::{DeviceMut, MemoryDevice};
    use proptest::prelude::*;

    fn verify(device: &MemoryDevice, limit: u64, ascending: bool, patch: &[u8]) -> Result<()> {
        let open = || PatchReader::new(Cursor::new(patch), "patch");
        let summary = Summary { ascending, ..check(open()?, &|| Ok(()))? };
        verify_records(device, limit, &summary, &open, &|| Ok(()))
    }

    fn patch_of(blocks: &[(u64, Vec<u8>)]) -> Vec<u8> {
        written_patch(200, blocks)
    }

    #[test]
    fn differing_bytes_are_named() {
        let patch = patch_of(&[(10, vec![1; 10]), (50, vec![2; 10])]);
        let mut content = vec![0; 200];
        content[10..20].fill(1);
        content[50..60].fill(2);
        let device = MemoryDevice::new(content);
        verify(&device, 200, true, &patch).unwrap();
        device.write_all_at(&[9, 9], 53).unwrap();
        for ascending in [true, false] {
            let err = verify(&device, 200, ascending, &patch).unwrap_err();
            assert_eq!(err.exit_code(), 5);
            assert_eq!(err.range(), Some(ByteRange::new(53, 55)));
        }
        verify(&device, 53, true, &patch).unwrap();
    }

    #[test]
    fn scattered_records_are_read_together_and_hidden_ones_not_at_all() {
        let size = 3 * GAP_BYTES_MAX;
        let reads = |ascending, records: &[u64], fault: Option<Fault>| {
            let records: Vec<_> = records.iter().map(|&at| (at, vec![0; 10])).collect();
            let patch = written_patch(size, &records);
            let device = MemoryDevice::new(vec![0; size as usize]);
            let device = FaultyDevice::new(device, Vec::from_iter(fault));
            let open = || PatchReader::new(Cursor::new(&patch), "patch");
            let summary = Summary { ascending, ..check(open().unwrap(), &|| Ok(())).unwrap() };
            verify_records(&device, size, &summary, &open, &|| Ok(())).unwrap();
            device.calls()
        };
        let read = |start, end| Call::Read(ByteRange::new(start, end));
        let far = 110 + GAP_BYTES_MAX;
        let together = read(0, far + 10);
        assert_eq!(reads(true, &[0, 100, far], None), [together]);
        assert_eq!(reads(true, &[0, 100, far + 1], None), [read(0, 110), read(far + 1, far + 11)]);
        assert_eq!(reads(false, &[5, 5, 5, 0], None), [read(5, 15), read(0, 10)]);
        // What cannot be read in between is not what was written.
        let fault = Fault::once(Operation::Read, 0);
        let singly = [together, read(0, 10), read(100, 110), read(far, far + 10)];
        assert_eq!(reads(true, &[0, 100, far], Some(fault)), singly);
    }

    #[test]
    fn records_are_read_together_as_far_as_the_buffer_and_the_limit_go() {
        let gap = GAP_BYTES_MAX;
        let records: Vec<_> = (0..8).map(|i| (i * gap, vec![3; 10])).collect();
        let size = 8 * gap;
        let patch = written_patch(size, &records);
        let mut content = vec![0; size as usize];
        records.iter().for_each(|(at, data)| content[*at as usize..][..10].copy_from_slice(data));
        for limit in [size, 7 * gap, 5 * gap + 4, 2 * gap - 1, gap + 1] {
            let device = MemoryDevice::new(content.clone());
            verify(&device, limit, true, &patch).unwrap();
            device.write_all_at(&[9], limit - 1).unwrap();
            let last = (limit - 1) % gap < 10;
            assert_eq!(verify(&device, limit, true, &patch).is_err(), last, "limit {limit}");
        }
    }

    #[test]
    fn a_wish_for_an_end_ends_it() {
        let patch = patch_of(&[(10, vec![1; 10]), (5, vec![2; 10])]);
        let mut content = vec![1; 200];
        content[5..15].fill(2);
        let device = MemoryDevice::new(content);
        let open = || PatchReader::new(Cursor::new(&patch), "patch");
        let summary = check(open().unwrap(), &|| Ok(())).unwrap();
        let stop = || Err(Error::new(Kind::Interrupted(libc::SIGINT), "stop"));
        for ascending in [true, false] {
            let summary = Summary { ascending, ..summary.clone() };
            let err = verify_records(&device, 200, &summary, &open, &stop).unwrap_err();
            assert_eq!(err.kind(), Kind::Interrupted(libc::SIGINT));
        }
    }

    /// Each record hides half of the one before, byte by byte differing from it.
    #[test]
    fn many_records_over_each_other_are_read_twice_and_no_more() {
        let records: Vec<_> = (0..4000u64)
            .map(|i| (i / 2 * 8, [[1; 16], [2; 16]][i as usize % 2].to_vec()))
            .collect();
        let size = 2000 * 8 + 16;
        let patch = written_patch(size, &records);
        let mut content = vec![0; size as usize];
        for (at, data) in &records {
            content[*at as usize..][..16].copy_from_slice(data);
        }
        let opened = Cell::new(0);
        let open = || {
            opened.set(opened.get() + 1);
            PatchReader::new(Cursor::new(&patch), "patch")
        };
        let device = MemoryDevice::new(content);
        let summary = check(open().unwrap(), &|| Ok(())).unwrap();
        verify_records(&device, size, &summary, &open, &|| Ok(())).unwrap();
        assert_eq!(opened.get(), 3);
    }

    proptest! {
        #[test]
        fn only_bytes_that_are_not_the_last_written_ones_are_refused(
            blocks in proptest::collection::vec((0u64..100, 1usize..100), 0..10),
            damage in proptest::option::of(0usize..200),
            limit in 100usize..201,
        ) {
            let blocks: Vec<_> =
                (1u8..).zip(blocks).map(|(i, (at, len))| (at, vec![i; len])).collect();
            let mut content = vec![0xee; limit];
            for (at, data) in &blocks {
                for (i, byte) in data.iter().enumerate() {
                    if let Some(place) = content.get_mut(*at as usize + i) {
                        *place = *byte;
                    }
                }
            }
            let hit = damage.filter(|&at| at < limit);
            let touched = hit.is_some_and(|at| content[at] != 0xee);
            if let Some(at) = hit {
                content[at] ^= 0x80;
            }
            let result = verify(&MemoryDevice::new(content), limit as u64, false, &patch_of(&blocks));
            prop_assert_eq!(result.is_err(), touched);
        }
    }
}

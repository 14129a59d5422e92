//! Compares a device with the records that were written to it.

use std::io::Read;

use super::reader::{BUFFER_BYTES, PatchReader, Record};
use crate::buffer::PageBuffer;
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, push_joined};

/// Ranges that differ and may still turn out to have been overwritten by a later record: so
/// many are gathered before the patch is read again to find out.
const SUSPECTS_MAX: usize = 1024;

/// Bytes that differ from what a record wrote there.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    /// The record's place in the patch, counted from 0.
    record_index: u64,
    range: ByteRange,
}

/// Reads back what the patch wrote below `limit_bytes` and compares. Bytes that a later record
/// overwrote count for that record only. `open` opens the patch from its first byte: where
/// records overlap (not `ascending`) and something differs, it is read again.
///
/// # Errors
/// `Kind::Checksum` naming the first range that differs, what the reader and the device fail
/// with, what `check` returns.
pub fn verify_records<R: Read>(
    device: &dyn Device,
    limit_bytes: u64,
    ascending: bool,
    open: &dyn Fn() -> Result<PatchReader<R>>,
    check: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let mut suspects = Vec::new();
    let suspects_max = if ascending { 1 } else { SUSPECTS_MAX };
    let mut record_index = 0;
    let mut found = PageBuffer::new(BUFFER_BYTES);
    let mut reader = open()?;
    while let Some(batch) = reader.next_batch()? {
        check()?;
        let records: Vec<_> = batch.records().collect();
        for run in records.chunk_by(|a, b| record_range(a).end == b.offset) {
            // Neighbours are read at once: a batch, and so a run, fits the buffer.
            let start = run.first().map_or(0, |record| record.offset);
            let end = run.last().map_or(0, |record| record_range(record).end);
            let range = ByteRange::new(start, end).clip(limit_bytes);
            let bytes = &mut found[..range.len() as usize];
            device.read_exact_at(bytes, range.start)?;
            let mut rest = &*bytes;
            for record in run {
                let (part, behind) = rest.split_at(rest.len().min(record.data.len()));
                rest = behind;
                for range in differences(part, record.data, record.offset) {
                    suspects.push(Suspect { record_index, range });
                }
                record_index += 1;
            }
            if suspects.len() >= suspects_max {
                refuse_unexcused(std::mem::take(&mut suspects), ascending, open, device)?;
            }
        }
    }
    refuse_unexcused(suspects, ascending, open, device)
}

fn record_range(record: &Record<'_>) -> ByteRange {
    ByteRange::new(record.offset, record.offset + record.data.len() as u64)
}

/// The ranges, from `start` on, where `found` is not the beginning of `expected`.
fn differences(found: &[u8], expected: &[u8], start: u64) -> Vec<ByteRange> {
    let mut ranges = vec![];
    if found == &expected[..found.len()] {
        return ranges;
    }
    for (at, (a, b)) in (start..).zip(found.iter().zip(expected)) {
        if a != b {
            push_joined(&mut ranges, ByteRange::new(at, at + 1));
        }
    }
    ranges
}

/// Fails when anything is left of the suspects once what later records overwrote is taken away.
fn refuse_unexcused<R: Read>(
    mut suspects: Vec<Suspect>,
    ascending: bool,
    open: &dyn Fn() -> Result<PatchReader<R>>,
    device: &dyn Device,
) -> Result<()> {
    if !ascending && !suspects.is_empty() {
        let mut reader = open()?;
        let mut record_index = 0;
        while let Some(batch) = reader.next_batch()? {
            for record in batch.records() {
                excuse(&mut suspects, record_index, record_range(&record));
                record_index += 1;
            }
        }
    }
    let Some(first) = suspects.iter().map(|suspect| suspect.range).min() else { return Ok(()) };
    Err(Error::new(Kind::Checksum, "the device does not hold what was written to it")
        .with_path(device.path())
        .with_range(first))
}

/// Takes away from suspects of earlier records what this one wrote.
fn excuse(suspects: &mut Vec<Suspect>, record_index: u64, written: ByteRange) {
    let is_hit = |suspect: &Suspect| {
        suspect.record_index < record_index && !suspect.range.intersect(&written).is_empty()
    };
    if !suspects.iter().any(is_hit) {
        return;
    }
    let left = suspects.iter().flat_map(|suspect| {
        let whole = suspect.range;
        let parts = if is_hit(suspect) {
            let before = ByteRange::new(whole.start, whole.start.max(written.start));
            [before, ByteRange::new(whole.end.min(written.end), whole.end)]
        } else {
            [whole, ByteRange::new(whole.end, whole.end)]
        };
        let filled = parts.into_iter().filter(|range| !range.is_empty());
        filled.map(|range| Suspect { range, ..*suspect })
    });
    *suspects = left.collect();
}

#[cfg(test)]
mod tests {
    use super::super::tests::written_patch;
    use super::*;
    use crate::device::{DeviceMut, MemoryDevice};
    use proptest::prelude::*;

    fn verify(device: &MemoryDevice, limit: u64, ascending: bool, patch: &[u8]) -> Result<()> {
        verify_records(device, limit, ascending, &|| PatchReader::new(patch, "patch"), &|| Ok(()))
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

//! Compares a device with the records that were written to it.

use std::io::{Read, Seek};

use super::batch::Record;
use super::check::RECORDS_PER_ASK;
use super::reader::{BUFFER_BYTES, PatchReader};
use super::sweep::{Stretch, Sweep};
use crate::buffer::PageBuffer;
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;

/// Reads back what the patch wrote below `limit_bytes` and compares. Bytes that a later record
/// overwrote count for that record only: where records overlap or come in any order (not
/// `ascending`) it is found out first what is seen of each, in about 50 bytes of memory a record.
/// `open` opens the patch from its first byte.
///
/// # Errors
/// `Kind::Checksum` naming the first range, in the patch's order, that differs, what the reader
/// and the device fail with, what `check` returns, `Kind::Patch` without memory for the records.
pub fn verify_records<R: Read + Seek>(
    device: &dyn Device,
    limit_bytes: u64,
    ascending: bool,
    open: &dyn Fn() -> Result<PatchReader<R>>,
    check: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let seen = if ascending { None } else { Some(seen_stretches(&mut open()?, check)?) };
    let mut seen = seen.map(|stretches| stretches.into_iter().peekable());
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
                match &mut seen {
                    None => compare(device, part, record, record_range(record))?,
                    Some(seen) => {
                        let data_end = record.position + record.data.len() as u64;
                        while let Some(next) = seen.next_if(|next| next.position < data_end) {
                            compare(device, part, record, next.range)?;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// What is seen of each record once all are written, in the patch's order.
fn seen_stretches<R: Read + Seek>(
    reader: &mut PatchReader<R>,
    check: &dyn Fn() -> Result<()>,
) -> Result<Vec<Stretch>> {
    let mut records = Vec::new();
    while let Some(place) = reader.next_place()? {
        if (records.len() as u64).is_multiple_of(RECORDS_PER_ASK) {
            check()?;
        }
        push(&mut records, Stretch { range: place.range, position: place.position })?;
    }
    records.sort_unstable_by_key(|record| (record.range.start, record.position));
    let mut seen = Vec::new();
    for stretch in Sweep::new(records.into_iter(), 0) {
        push(&mut seen, stretch)?;
    }
    seen.sort_unstable_by_key(|stretch| stretch.position);
    Ok(seen)
}

/// How many there are is up to the patch: too many must not end the process.
fn push(list: &mut Vec<Stretch>, stretch: Stretch) -> Result<()> {
    list.try_reserve(1).map_err(|err| {
        let what = format!("no memory to compare more than {} records", list.len());
        Error::new(Kind::Patch, what).with_source(err)
    })?;
    list.push(stretch);
    Ok(())
}

fn record_range(record: &Record<'_>) -> ByteRange {
    ByteRange::new(record.offset, record.offset + record.data.len() as u64)
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

    use super::super::tests::written_patch;
    use super::*;
    use crate::device::{DeviceMut, MemoryDevice};
    use proptest::prelude::*;

    fn verify(device: &MemoryDevice, limit: u64, ascending: bool, patch: &[u8]) -> Result<()> {
        let open = || PatchReader::new(Cursor::new(patch), "patch");
        verify_records(device, limit, ascending, &open, &|| Ok(()))
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
        verify_records(&device, size, false, &open, &|| Ok(())).unwrap();
        assert_eq!(opened.get(), 2);
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

//! The index of a stored patch, against a reader that applies the records in their order.
#![no_main]

use bdsync::device::MemoryDevice;
use bdsync::patch::{PatchIndex, PatchReader};
use bdsync::units::ByteRange;
use libfuzzer_sys::fuzz_target;

/// A device longer than this is not built for comparison.
const SIZE_MAX: u64 = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let Ok(index) = PatchIndex::open(&MemoryDevice::new(input)) else { return };
    let size = index.header().size_bytes;
    let mut end = 0;
    for piece in index.pieces(ByteRange::new(0, u64::MAX)) {
        assert!(piece.range.start >= end && !piece.range.is_empty());
        end = piece.range.end;
        if let Some(at) = piece.position {
            assert!(at + piece.range.len() <= input.len() as u64);
        }
    }
    if size > SIZE_MAX {
        return;
    }
    let (mut applied, mut looked_up) = (vec![0; size as usize], vec![0; size as usize]);
    let mut reader = PatchReader::new(input, "input").expect("indexed before");
    while let Some(batch) = reader.next_batch().expect("indexed before") {
        for record in batch.records() {
            let Ok(at) = usize::try_from(record.offset) else { continue };
            if at < applied.len() {
                let len = record.data.len().min(applied.len() - at);
                applied[at..at + len].copy_from_slice(&record.data[..len]);
            }
        }
    }
    for piece in index.pieces(ByteRange::new(0, size)) {
        let Some(from) = piece.position else { continue };
        let (from, len) = (from as usize, piece.range.len() as usize);
        looked_up[piece.range.start as usize..][..len].copy_from_slice(&input[from..from + len]);
    }
    assert!(applied == looked_up);
});

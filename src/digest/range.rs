//! Hashes of a device's blocks: holes skipped, large reads, the end filled up with zeros.

use super::algorithm::Digest;
use super::block::{BlockHasher, is_zero};
use super::feed::{feed_zeros, next_data};
use super::hasher::Hasher;
use super::leaf_cache::Kept;
use super::pool::{READ_BYTES, Scratch};
use super::span::BlockSpan;
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;

/// Most blocks that one read covers: bounds the buffer for their hashes, to 256 KiB.
const BLOCKS_PER_READ_MAX: u64 = 4096;

/// What [`walk`] finds, in ascending order.
pub(super) enum Run<'a> {
    /// So many blocks in a hole or past the end.
    Zeros(u64),
    /// The hashes of the next blocks.
    Hashes(&'a [u8]),
}

/// The hashes of `n` blocks of `step` bytes from `start` on, `n` times the hash's length.
///
/// Holes are not read. Blocks past the device's end hash as zeros, and one that reaches past it
/// as filled up with zeros. The caller bounds `n`.
///
/// # Errors
/// `Kind::Protocol` when the blocks do not fit 64 bits or their hashes not memory; `Kind::Read`
/// as the device's.
pub fn hash_range(
    device: &dyn Device,
    hasher: &BlockHasher,
    start: u64,
    step: u64,
    n: u64,
    scratch: &mut Scratch,
) -> Result<Vec<u8>> {
    hash_range_with(device, hasher, BlockSpan::new(start, step, n)?, None, scratch)
}

/// As [`hash_range`]; takes from what is `kept`, and adds what is computed if it is to.
///
/// # Errors
/// As [`hash_range`].
pub fn hash_range_with(
    device: &dyn Device,
    hasher: &BlockHasher,
    blocks: BlockSpan,
    kept: Option<Kept<'_>>,
    scratch: &mut Scratch,
) -> Result<Vec<u8>> {
    let hash_len = hasher.hash_len();
    let bytes = usize::try_from(blocks.n()).ok().and_then(|n| n.checked_mul(hash_len));
    let mut out = Vec::new();
    bytes.and_then(|bytes| out.try_reserve_exact(bytes).ok()).ok_or_else(|| {
        let what = format!("{} hashes are too many to hold in memory", blocks.n());
        Error::new(Kind::Protocol, what).with_range(blocks.range())
    })?;
    walk(device, hasher, blocks, kept, scratch, &mut |run| match run {
        Run::Hashes(hashes) => out.extend_from_slice(hashes),
        Run::Zeros(count) => {
            let zero = hasher.zero_hash(blocks.step());
            (0..count).for_each(|_| out.extend_from_slice(&zero));
        }
    })?;
    Ok(out)
}

/// Hashes `blocks` in ascending order and hands the results to `visit` as they come.
pub(super) fn walk(
    device: &dyn Device,
    hasher: &BlockHasher,
    blocks: BlockSpan,
    kept: Option<Kept<'_>>,
    scratch: &mut Scratch,
    visit: &mut impl FnMut(Run<'_>),
) -> Result<()> {
    let limit = blocks.range().end.min(device.size());
    let mut i = 0;
    while i < blocks.n() {
        let from = blocks.offset(i);
        let Some(data) = next_data(device, from, limit)? else {
            make_zero_hash(device, hasher, blocks.step())?;
            visit(Run::Zeros(blocks.n() - i));
            break;
        };
        let first = i + (data.start - from) / blocks.step();
        let end = (data.end - blocks.start()).div_ceil(blocks.step());
        if first > i {
            make_zero_hash(device, hasher, blocks.step())?;
            visit(Run::Zeros(first - i));
        }
        hash_data(device, hasher, blocks.part(first, end), kept, scratch, visit)?;
        i = end;
    }
    Ok(())
}

/// Has the hash of a zero block computed, where that can still be ended: whoever needs it
/// afterwards finds it.
fn make_zero_hash(device: &dyn Device, hasher: &BlockHasher, step: u64) -> Result<()> {
    hasher.zero_hash_while(step, &|| device.check()).map(drop)
}

/// Hashes blocks that hold data and all begin before the device's end.
fn hash_data(
    device: &dyn Device,
    hasher: &BlockHasher,
    blocks: BlockSpan,
    kept: Option<Kept<'_>>,
    scratch: &mut Scratch,
    visit: &mut impl FnMut(Run<'_>),
) -> Result<()> {
    let per_read = (READ_BYTES as u64 / blocks.step()).clamp(1, BLOCKS_PER_READ_MAX);
    let mut i = 0;
    while i < blocks.n() {
        scratch.hashes.clear();
        let rest = blocks.part(i, blocks.n());
        let known = kept.map_or(0, |kept| kept.cache.get(rest, &mut scratch.hashes));
        let part = blocks.part(i, i + if known > 0 { known } else { per_read.min(blocks.n() - i) });
        if known == 0 {
            hash_read(device, hasher, part, scratch)?;
            if let Some(Kept { cache, adds: true }) = kept {
                cache.put(part, &scratch.hashes);
            }
        }
        visit(Run::Hashes(&scratch.hashes));
        i += part.n();
    }
    Ok(())
}

/// Reads and hashes blocks that one buffer holds, or a single longer one, to `scratch.hashes`.
fn hash_read(
    device: &dyn Device,
    hasher: &BlockHasher,
    blocks: BlockSpan,
    scratch: &mut Scratch,
) -> Result<()> {
    let range = blocks.range().clip(device.size());
    if blocks.step() > READ_BYTES as u64 {
        let hash = hash_long_block(device, hasher, blocks.range(), scratch.data())?;
        scratch.hashes.extend_from_slice(&hash);
        return Ok(());
    }
    let (data, hashes) = scratch.both();
    // Both casts are of at most READ_BYTES.
    hashes.resize(blocks.n() as usize * hasher.hash_len(), 0);
    let data = &mut data[..range.len() as usize];
    device.read_exact_at(data, range.start)?;
    hasher.hash_blocks(data, blocks.step() as usize, hashes);
    Ok(())
}

/// Hashes one block that is longer than the buffer. Zeros are only fed once something else
/// follows them, so that a block of zeros alone costs no hashing.
fn hash_long_block(
    device: &dyn Device,
    hasher: &BlockHasher,
    block: ByteRange,
    buffer: &mut [u8],
) -> Result<Digest> {
    let limit = block.end.min(device.size());
    let go_on = &mut |_| device.check();
    let mut stream: Option<Hasher> = None;
    let mut fed_to = block.start;
    let mut pos = block.start;
    while let Some(data) = next_data(device, pos, limit)? {
        for piece in data.pieces(buffer.len() as u64) {
            let bytes = &mut buffer[..piece.len() as usize];
            device.read_exact_at(bytes, piece.start)?;
            if !is_zero(bytes) {
                let stream = stream.get_or_insert_with(|| hasher.stream());
                feed_zeros(stream, ByteRange::new(fed_to, piece.start), go_on)?;
                stream.update(bytes);
                fed_to = piece.end;
            }
        }
        pos = data.end;
    }
    Ok(match stream {
        None => hasher.zero_hash_while(block.len(), &|| device.check())?,
        Some(mut stream) => {
            feed_zeros(&mut stream, ByteRange::new(fed_to, block.end), go_on)?;
            stream.finish()
        }
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::super::algorithm::Algorithm;
    use super::super::leaf_cache::LeafCache;
    use super::super::testing::{TestDevice, naive_hashes};
    use super::*;
    use crate::units::MIB;

    fn hasher() -> BlockHasher {
        BlockHasher::new(Algorithm::Md5, b"salt").expect("a good salt")
    }

    #[test]
    fn more_hashes_than_fit_are_refused() {
        let err =
            hash_range(&TestDevice::new(vec![]), &hasher(), 0, 1, 1 << 60, &mut Scratch::new())
                .expect_err("too many hashes");
        assert_eq!(err.kind(), Kind::Protocol);
    }

    #[test]
    fn holes_and_what_lies_past_the_end_are_not_read() {
        let mut device = TestDevice::new(vec![1; 64 * 1024]);
        device.punch(ByteRange::new(8192, 32768));
        let hashes = hash_range(&device, &hasher(), 0, 4096, 32, &mut Scratch::new());
        assert_eq!(hashes.expect("hashes"), naive_hashes(&device, &hasher(), 0, 4096, 32));
        assert_eq!(device.reads(), [ByteRange::new(0, 8192), ByteRange::new(32768, 65536)]);
    }

    #[test]
    fn reads_are_large_and_few() {
        let device = TestDevice::new(vec![1; MIB as usize]);
        hash_range(&device, &hasher(), 0, 512, 2048, &mut Scratch::new()).expect("hashes");
        assert_eq!(device.reads().len(), 4);
        assert!(device.reads().iter().all(|read| read.len() == READ_BYTES as u64));
    }

    #[test]
    fn a_block_longer_than_the_buffer_streams() {
        let mut device = TestDevice::new(vec![0; MIB as usize + 5]);
        device.punch(ByteRange::new(100_000, 300_000));
        device.set(400_001, 7);
        device.set(MIB as usize + 4, 9);
        for step in [READ_BYTES as u64 + 1, MIB, 3 * MIB] {
            let hashes = hash_range(&device, &hasher(), 3, step, 5, &mut Scratch::new());
            assert_eq!(
                hashes.expect("hashes"),
                naive_hashes(&device, &hasher(), 3, step, 5),
                "step {step}"
            );
        }
    }

    #[test]
    fn a_huge_block_past_the_end_costs_no_reading() {
        let device = TestDevice::new(vec![]);
        let hashes = hash_range(&device, &hasher(), 1 << 50, 1 << 20, 3, &mut Scratch::new());
        assert_eq!(hashes.expect("hashes"), hasher().zero_hash(1 << 20).repeat(3));
        assert!(device.reads().is_empty());
    }

    #[test]
    fn what_is_kept_in_part_is_read_behind_that() {
        let device = TestDevice::new(vec![1; 1000]);
        let cache = LeafCache::new(hasher().hash_len(), 1000);
        let hash = |n| {
            let (blocks, kept) = (BlockSpan::new(0, 100, n), Kept { cache: &cache, adds: true });
            let scratch = &mut Scratch::new();
            hash_range_with(&device, &hasher(), blocks.unwrap(), Some(kept), scratch).unwrap()
        };
        for n in [3, 10] {
            assert_eq!(hash(n), naive_hashes(&device, &hasher(), 0, 100, n));
        }
        assert_eq!(device.reads(), [ByteRange::new(0, 300), ByteRange::new(300, 1000)]);
    }

    /// A device that nobody is interested in any more.
    struct Unwanted(TestDevice);

    impl Device for Unwanted {
        fn path(&self) -> &Path {
            self.0.path()
        }

        fn size(&self) -> u64 {
            self.0.size()
        }

        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
            self.0.read_exact_at(buf, offset)
        }

        fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
            self.0.next_data(from)
        }

        fn check(&self) -> Result<()> {
            Err(Error::new(Kind::Connection, "nobody waits for it"))
        }
    }

    /// There may be gigabytes in a block.
    #[test]
    fn the_hash_of_a_block_of_zeros_can_be_ended() {
        let mut data_behind_a_hole = TestDevice::new(vec![1; 3 << 16]);
        data_behind_a_hole.punch(ByteRange::new(0, 2 << 16));
        for device in [TestDevice::new(vec![]), data_behind_a_hole] {
            let hashes =
                hash_range(&Unwanted(device), &hasher(), 0, 1 << 16, 3, &mut Scratch::new());
            assert_eq!(hashes.unwrap_err().kind(), Kind::Connection);
        }
    }

    #[test]
    fn kept_hashes_cost_no_reading_and_who_only_looks_adds_none() {
        let device = TestDevice::new(vec![1; 1000]);
        let cache = LeafCache::new(hasher().hash_len(), 1000);
        let blocks = BlockSpan::new(0, 100, 10).unwrap();
        let hash = |adds| {
            let kept = Some(Kept { cache: &cache, adds });
            hash_range_with(&device, &hasher(), blocks, kept, &mut Scratch::new()).unwrap()
        };
        for (adds, reads) in [(false, 1), (false, 2), (true, 3), (true, 3), (false, 3)] {
            assert_eq!(hash(adds), naive_hashes(&device, &hasher(), 0, 100, 10));
            assert_eq!(device.reads().len(), reads);
        }
    }

    #[test]
    fn a_read_error_is_the_devices_own() {
        let mut device = TestDevice::new(vec![1; 9000]);
        device.fail_at(5000);
        let err = hash_range(&device, &hasher(), 0, 1000, 9, &mut Scratch::new());
        assert_eq!(err.expect_err("the read fails").kind(), Kind::Read);
    }

    proptest! {
        #[test]
        fn any_range_of_any_device_hashes_as_the_naive_way(
            device in TestDevice::any(3000),
            start in 0_u64..3500,
            step in 1_u64..1200,
            n in 0_u64..40,
        ) {
            let hashes = hash_range(&device, &hasher(), start, step, n, &mut Scratch::new());
            prop_assert_eq!(hashes.expect("hashes"), naive_hashes(&device, &hasher(), start, step, n));
        }
    }
}

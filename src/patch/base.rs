//! Whether a device is in the state that a sealed patch was made for.

use std::io::{self, Read, Seek};

use super::base_state::BaseState;
use super::digested::Digested;
use super::fingerprint::FingerprintBuilder;
use super::reader::{PatchReader, read_error};
use super::seal::{Base, FoundSeal, Seal};
use super::sizes::SizePlan;
use super::tail::foreign_end;
use crate::device::Device;
use crate::digest::BlockHasher;
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, MIB};

/// Bytes of the device that are read and hashed at a time, or one block where that is more.
const READ_BYTES: u64 = MIB;
/// Bytes of the patch that are digested at a time.
const DIGEST_STEP_BYTES: usize = 1024 * 1024;

/// Reads all of a sealed patch and compares its digest with the one that it carries.
///
/// # Errors
/// `Kind::Patch` when they differ or the patch has changed, `Kind::Read`, what `check` returns.
pub fn verify_seal(
    patch: impl Read,
    found: &FoundSeal,
    check: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let mut patch = Digested::new(patch);
    let mut buffer = vec![0; DIGEST_STEP_BYTES];
    loop {
        check()?;
        match patch.read(&mut buffer) {
            Ok(0) => return patch.verify(found),
            Ok(_) => {}
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(read_error(err)),
        }
    }
}

/// Finds out in which state the device is; `None` where the seal does not say what it was made for.
/// `open` opens the patch from its first byte; `sizes` says which part of it counts, and what becomes
/// of the device's end.
///
/// # Errors
/// `Kind::Patch` when the seal does not fit the patch, what device, reader and `check` fail with.
pub fn target_state<R: Read + Seek>(
    device: &dyn Device,
    seal: &Seal,
    sizes: &SizePlan,
    open: &dyn Fn() -> Result<PatchReader<R>>,
    check: &dyn Fn() -> Result<()>,
) -> Result<Option<BaseState>> {
    let Some(base) = &seal.base else { return Ok(None) };
    if let Some(bytes) = seal.target_bytes()
        && let Some(foreign) = foreign_end(device, bytes, sizes, &mut open()?, check)?
    {
        return Ok(Some(foreign));
    }
    base_state(device, base, sizes.limit_bytes, open, check).map(Some)
}

/// As [`target_state`], by what the overwritten blocks hold.
fn base_state<R: Read + Seek>(
    device: &dyn Device,
    base: &Base,
    limit_bytes: u64,
    open: &dyn Fn() -> Result<PatchReader<R>>,
    check: &dyn Fn() -> Result<()>,
) -> Result<BaseState> {
    let (found, ranges) = fingerprint(device, base, &mut open()?, check)?;
    if (found.blocks, found.level) != (base.fingerprint.blocks, base.fingerprint.level) {
        let what = format!(
            "malformed patch: its seal is for {} blocks, found {}",
            base.fingerprint.blocks, found.blocks
        );
        return Err(Error::new(Kind::Patch, what));
    }
    let differing = base.fingerprint.differing_parts(&found);
    let Some(&differs_first) = differing.first() else { return Ok(BaseState::Original) };
    let mut parts: Vec<PartState> = ranges.iter().map(|&range| PartState::new(range)).collect();
    for &i in &differing {
        parts[i].is_original = false;
    }
    let block_bytes = base.block_bytes;
    compare_with_patch(device, limit_bytes, block_bytes, &mut open()?, &mut parts, check)?;
    Ok(if parts.iter().all(PartState::is_new) {
        BaseState::Applied
    } else if looks_interrupted(&parts) {
        BaseState::Interrupted
    } else {
        // Those that hold the patch's own bytes are not what is foreign, where others are.
        let mut foreign = parts.iter().filter(|part| !part.is_original && !part.is_new());
        let (first, more) = (foreign.next(), foreign.count());
        let (first, differing) = match first {
            Some(first) => (first.range, 1 + more),
            None => (parts[differs_first].range, differing.len()),
        };
        BaseState::Foreign { first, differing, parts: parts.len() }
    })
}

/// The summary of what the device holds in the blocks that the patch has records for.
fn fingerprint<R: Read + Seek>(
    device: &dyn Device,
    base: &Base,
    reader: &mut PatchReader<R>,
    check: &dyn Fn() -> Result<()>,
) -> Result<(super::Fingerprint, Vec<ByteRange>)> {
    let hasher = BlockHasher::new(base.algorithm, &base.salt)
        .map_err(|err| Error::new(Kind::Patch, "malformed patch: its seal").with_source(err))?;
    let mut blocks = BlockReader {
        device,
        hasher,
        block_bytes: base.block_bytes,
        builder: FingerprintBuilder::new(),
        pending: ByteRange::new(0, 0),
        data: vec![],
    };
    while let Some(place) = reader.next_place()? {
        let start = place.range.start - place.range.start % base.block_bytes;
        // A block that 64 bits cannot hold ends where they do.
        let block = ByteRange::new(start, start.saturating_add(base.block_bytes));
        let behind = blocks.pending.end;
        if place.range.end > block.end || start < behind && block.end != behind {
            let what = "malformed patch: it is sealed, but its records are no blocks in order";
            return Err(Error::new(Kind::Patch, what).with_offset(place.position));
        }
        if start < behind {
            continue;
        }
        if start != behind || blocks.pending.len() + base.block_bytes > READ_BYTES {
            check()?;
            blocks.hash_pending()?;
            blocks.pending = block;
        }
        blocks.pending.end = block.end;
    }
    blocks.hash_pending()?;
    Ok(blocks.builder.finish())
}

/// Reads and hashes blocks of a device, neighbours together.
struct BlockReader<'a> {
    device: &'a dyn Device,
    hasher: BlockHasher,
    block_bytes: u64,
    builder: FingerprintBuilder,
    /// Neighbouring blocks that wait; the last one reached this far.
    pending: ByteRange,
    /// What they hold.
    data: Vec<u8>,
}

impl BlockReader<'_> {
    fn hash_pending(&mut self) -> Result<()> {
        let inside = self.pending.clip(self.device.size());
        self.data.resize(inside.len() as usize, 0);
        let data = &mut self.data[..];
        self.device.read_exact_at(data, inside.start)?;
        let mut hash = vec![0; self.hasher.hash_len()];
        for block in self.pending.pieces(self.block_bytes) {
            let from = ((block.start - self.pending.start) as usize).min(data.len());
            let to = ((block.end - self.pending.start) as usize).min(data.len());
            // Behind the device's end a block is zeros, as when the hashes were exchanged.
            self.hasher.hash_block(&data[from..to], self.block_bytes, &mut hash);
            self.builder.add(block, &hash);
        }
        Ok(())
    }
}

/// What is known of one part of the seal.
#[derive(Clone, Copy, Debug)]
struct PartState {
    range: ByteRange,
    /// It has the digest that the seal has.
    is_original: bool,
    /// A block of it does not hold the patch's bytes.
    is_not_new: bool,
    /// A block holds them behind one that does not.
    is_mixed: bool,
}

impl PartState {
    fn new(range: ByteRange) -> Self {
        Self { range, is_original: true, is_not_new: false, is_mixed: false }
    }

    fn is_new(&self) -> bool {
        !self.is_not_new
    }

    /// Whether it was written, which a part that the patch does not change cannot show: blocks
    /// that several patches changed there and back are in what squash makes of them.
    fn is_surely_new(&self) -> bool {
        self.is_new() && !self.is_original
    }

    /// Whether it was not written.
    fn is_surely_old(&self) -> bool {
        self.is_original && !self.is_new()
    }

    fn count_block(&mut self, is_new: bool) {
        self.is_mixed |= is_new && self.is_not_new;
        self.is_not_new |= !is_new;
    }
}

/// Finds out of each of `parts` whether the device holds what the patch has for it, as far as it
/// lies below `limit_bytes`.
fn compare_with_patch<R: Read>(
    device: &dyn Device,
    limit_bytes: u64,
    block_bytes: u64,
    reader: &mut PatchReader<R>,
    parts: &mut [PartState],
    check: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let limit_bytes = limit_bytes.min(device.size());
    let mut found = vec![0; super::format::RECORD_READ_BYTES_MAX];
    let mut count = |(start, is_new): (u64, bool)| {
        let index = parts.partition_point(|part| part.range.end <= start);
        if let Some(part) = parts.get_mut(index) {
            part.count_block(is_new);
        }
    };
    // A block may have several records: where it begins, and whether it holds all so far.
    let mut block: Option<(u64, bool)> = None;
    while let Some(batch) = reader.next_batch()? {
        check()?;
        for record in batch.records() {
            let room = limit_bytes.saturating_sub(record.offset).min(record.data.len() as u64);
            if room == 0 {
                continue;
            }
            let bytes = &mut found[..room as usize];
            device.read_exact_at(bytes, record.offset)?;
            let start = record.offset - record.offset % block_bytes;
            let is_new = record.data[..bytes.len()] == *bytes;
            block = match block {
                Some((before, all)) if before == start => Some((start, all && is_new)),
                before => {
                    before.into_iter().for_each(&mut count);
                    Some((start, is_new))
                }
            };
        }
    }
    block.into_iter().for_each(count);
    Ok(())
}

/// Some parts new, the others as they were. One may be half done, where an apply in ascending
/// order got to: behind new ones, before ones that are as they were. Those tell it from a device
/// that went on from either state, whose changes must not be overwritten.
fn looks_interrupted(parts: &[PartState]) -> bool {
    let is_half = |part: &PartState| !part.is_new() && !part.is_original;
    match parts.iter().position(is_half) {
        None => parts.iter().any(PartState::is_surely_new),
        Some(at) => {
            let (done, half, rest) = (&parts[..at], &parts[at], &parts[at + 1..]);
            done.iter().any(PartState::is_surely_new)
                && done.iter().all(PartState::is_new)
                && !half.is_mixed
                && rest.iter().any(PartState::is_surely_old)
                && rest.iter().all(|part| part.is_original)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::format::RECORD_WRITE_BYTES_MAX;
    use super::super::seal::BaseMaker;
    use super::super::{Header, PatchWriter, check as check_patch};
    use super::*;
    use crate::device::MemoryDevice;
    use crate::digest::Algorithm;
    use proptest::prelude::*;

    const BLOCK: usize = 16;

    /// A sealed patch from `old` to `new`, as a client makes it.
    fn sealed(old: &[u8], new: &[u8]) -> (Vec<u8>, Base) {
        let differs = |&block: &usize| block_of(new, BLOCK, block) != block_of(old, BLOCK, block);
        let blocks: Vec<_> = (0..new.len().div_ceil(BLOCK)).filter(differs).collect();
        sealed_over(old, new, BLOCK, &blocks)
    }

    /// A sealed patch over these blocks, changed or not, as squash makes one of patches that went
    /// there and back.
    fn sealed_over(
        old: &[u8],
        new: &[u8],
        block_bytes: usize,
        blocks: &[usize],
    ) -> (Vec<u8>, Base) {
        let header = Header { size_bytes: new.len() as u64, name: b"d".to_vec() };
        let mut writer = PatchWriter::new_sealed(Vec::new(), &header).unwrap();
        let hasher = BlockHasher::new(Algorithm::Md5, &[7; 32]).unwrap();
        let mut maker = BaseMaker::new(block_bytes as u64, Algorithm::Md5, &[7; 32]);
        let mut hash = [0; 16];
        for &block in blocks {
            let at = (block * block_bytes) as u64;
            writer.write_block(at, block_of(new, block_bytes, block)).unwrap();
            let before = block_of(old, block_bytes, block);
            hasher.hash_block(before, block_bytes as u64, &mut hash);
            maker.add(at, &hash);
        }
        let base = maker.finish();
        let seal = Seal { base: Some(base.clone()), ..Seal::default() };
        (writer.finish_sealed(None, &seal).unwrap(), base)
    }

    /// What there is of a block.
    fn block_of(content: &[u8], block_bytes: usize, block: usize) -> &[u8] {
        content.chunks(block_bytes).nth(block).unwrap_or_default()
    }

    fn state(content: &[u8], limit: usize, patch: &[u8], base: &Base) -> BaseState {
        let device = MemoryDevice::new(content);
        let open = || PatchReader::new(Cursor::new(patch), "patch");
        base_state(&device, base, limit as u64, &open, &|| Ok(())).unwrap()
    }

    #[test]
    fn each_state_is_told_from_the_others() {
        let old = vec![1; 160];
        let mut new = old.clone();
        new[20..120].fill(2);
        let (patch, base) = sealed(&old, &new);
        assert_eq!(state(&old, 160, &patch, &base), BaseState::Original);
        assert_eq!(state(&new, 160, &patch, &base), BaseState::Applied);
        for done in 21..120 {
            let torn = [&new[..done], &old[done..]].concat();
            let found = state(&torn, 160, &patch, &base);
            // Torn in the last block it could be a device that went on from the new state.
            if (32..=112).contains(&done) {
                assert_eq!(found, BaseState::Interrupted, "{done}");
            } else {
                assert!(matches!(found, BaseState::Foreign { .. }), "no sign of an apply");
            }
        }
        for (at, first) in [(20, 16), (119, 112)] {
            let mut other = old.clone();
            other[at] ^= 4;
            let first = ByteRange::new(first, first + 16);
            let expected = BaseState::Foreign { first, differing: 1, parts: 7 };
            assert_eq!(state(&other, 160, &patch, &base), expected);
        }
        let mut unrelated = old;
        unrelated[150] = 9;
        assert_eq!(state(&unrelated, 160, &patch, &base), BaseState::Original);
    }

    #[test]
    fn blocks_that_reached_the_disk_in_any_order_are_an_interrupted_apply() {
        let (old, new) = (vec![1; 96], vec![2; 96]);
        let (patch, base) = sealed(&old, &new);
        for written in 1u8..1 << 6 {
            let block = |i: usize| if written & 1 << i != 0 { &new } else { &old };
            let torn: Vec<u8> = (0..6).flat_map(|i| block(i)[..BLOCK].to_vec()).collect();
            let is_whole = written == (1 << 6) - 1;
            let expected = if is_whole { BaseState::Applied } else { BaseState::Interrupted };
            assert_eq!(state(&torn, 96, &patch, &base), expected, "{written:b}");
        }
    }

    #[test]
    fn a_device_that_went_on_from_the_new_state_is_no_interrupted_apply() {
        for blocks in [1, 2, 5, 300] {
            let (old, new) = (vec![1; blocks * BLOCK], vec![2; blocks * BLOCK]);
            let (patch, base) = sealed(&old, &new);
            for changed in [0, blocks / 2, blocks - 1] {
                let mut later = new.clone();
                later[changed * BLOCK + 5] = 3;
                let found = state(&later, later.len(), &patch, &base);
                assert!(matches!(found, BaseState::Foreign { .. }), "{changed} of {blocks}");
            }
        }
    }

    #[test]
    fn blocks_that_the_patch_does_not_change_prove_nothing() {
        let old = vec![1; 10 * BLOCK];
        let mut new = old.clone();
        new[5 * BLOCK..6 * BLOCK].fill(2);
        for blocks in [&[0, 5, 9][..], &[0, 5], &[5, 9]] {
            let (patch, base) = sealed_over(&old, &new, BLOCK, blocks);
            for before in [&old, &new] {
                let mut later = before.clone();
                later[5 * BLOCK + 3] = 9;
                let found = state(&later, later.len(), &patch, &base);
                assert!(matches!(found, BaseState::Foreign { .. }), "{blocks:?}: {found:?}");
            }
            assert_eq!(state(&old, old.len(), &patch, &base), BaseState::Original);
            assert_eq!(state(&new, new.len(), &patch, &base), BaseState::Applied);
        }
    }

    #[test]
    fn what_the_patch_does_not_change_is_no_sign_that_it_was_written() {
        let old = vec![1; 10 * BLOCK];
        let mut new = old.clone();
        new[5 * BLOCK..6 * BLOCK].fill(2);
        // The first or the last one changes as well; the patch has the other one as it was.
        for changed in [0, 9] {
            let mut new = new.clone();
            new[changed * BLOCK..][..BLOCK].fill(2);
            let (patch, base) = sealed_over(&old, &new, BLOCK, &[0, 5, 9]);
            let mut later = old.clone();
            later[..BLOCK].copy_from_slice(&new[..BLOCK]);
            later[5 * BLOCK + 3] = 9;
            let found = state(&later, later.len(), &patch, &base);
            assert!(matches!(found, BaseState::Foreign { .. }), "{changed} changed: {found:?}");
        }
    }

    #[test]
    fn a_part_with_new_blocks_behind_others_was_not_written_in_order() {
        const BLOCKS: usize = 300;
        let (old, new) = (vec![1; BLOCKS * BLOCK], vec![2; BLOCKS * BLOCK]);
        let (patch, base) = sealed(&old, &new);
        let torn = |done: usize| [&new[..done * BLOCK], &old[done * BLOCK..]].concat();
        // Every part has more than one block.
        for done in 149..155 {
            let mut later = torn(done);
            assert_eq!(state(&later, later.len(), &patch, &base), BaseState::Interrupted);
            later[(done - 3) * BLOCK] = 9;
            let found = state(&later, later.len(), &patch, &base);
            assert!(matches!(found, BaseState::Foreign { .. }), "{done}: {found:?}");
        }
        let mut later = torn(150);
        let blocks_a_part = 1 << base.fingerprint.level;
        assert!(blocks_a_part > 2, "parts of {blocks_a_part} blocks");
        let part = 150 / blocks_a_part * blocks_a_part;
        later[part * BLOCK..][..blocks_a_part * BLOCK].fill(1);
        later[(part + 1) * BLOCK..][..BLOCK].fill(2);
        let found = state(&later, later.len(), &patch, &base);
        assert!(matches!(found, BaseState::Foreign { .. }), "{found:?}");
    }

    #[test]
    fn what_is_foreign_is_named_by_its_first_block_and_counted_without_what_was_written() {
        let (old, new) = (vec![1; 10 * BLOCK], vec![2; 10 * BLOCK]);
        let (patch, base) = sealed(&old, &new);
        let mut later = old;
        later[..2 * BLOCK].fill(2);
        for block in [3, 6, 8] {
            later[block * BLOCK + 1] = 9;
        }
        let first = ByteRange::new(3 * BLOCK as u64, 4 * BLOCK as u64);
        let expected = BaseState::Foreign { first, differing: 3, parts: 10 };
        assert_eq!(state(&later, later.len(), &patch, &base), expected);
    }

    #[test]
    fn a_block_of_several_records_is_new_as_a_whole_only() {
        const BYTES: usize = 65536;
        let old = vec![1; 3 * BYTES];
        let mut new = old.clone();
        // The first record of the first block stays what it was.
        new[BYTES - 1] = 2;
        new[2 * BYTES..].fill(2);
        let (patch, base) = sealed_over(&old, &new, BYTES, &[0, 2]);
        let mut other = old.clone();
        other[BYTES - 100] = 9;
        let found = state(&other, other.len(), &patch, &base);
        assert!(matches!(found, BaseState::Foreign { .. }), "{found:?}");
        let torn = [&new[..BYTES], &old[BYTES..]].concat();
        assert_eq!(state(&torn, torn.len(), &patch, &base), BaseState::Interrupted);
        // Its last record is as it was before, which says nothing of what is before it.
        let (old, mut new) = (vec![1; 4 * BYTES], vec![2; 4 * BYTES]);
        new[BYTES + RECORD_WRITE_BYTES_MAX..2 * BYTES].fill(1);
        let (patch, base) = sealed_over(&old, &new, BYTES, &[0, 1, 2, 3]);
        let torn = [&new[..BYTES + 100], &old[BYTES + 100..]].concat();
        assert_eq!(state(&torn, torn.len(), &patch, &base), BaseState::Interrupted);
    }

    #[test]
    fn a_seal_for_other_blocks_than_the_patch_has_is_refused() {
        let (patch, _) = sealed(&[1; 32], &[2; 32]);
        for bytes in [16, 48] {
            let (_, base) = sealed(&vec![1; bytes], &vec![2; bytes]);
            let open = || PatchReader::new(Cursor::new(&patch), "patch");
            let device = MemoryDevice::new([1; 32]);
            let err = base_state(&device, &base, 32, &open, &|| Ok(())).unwrap_err();
            assert_eq!(err.kind(), Kind::Patch);
            assert!(err.to_string().contains("its seal is for"), "{err}");
        }
    }

    #[test]
    fn a_wish_for_an_end_ends_every_pass() {
        let old = vec![1; 96];
        let mut new = old.clone();
        // Blocks that are read apart.
        new[0] = 2;
        new[3 * BLOCK] = 2;
        let (patch, base) = sealed(&old, &new);
        let open = || PatchReader::new(Cursor::new(&patch), "patch");
        let asked = std::cell::Cell::new(0);
        for stop_at in 1..3 {
            asked.set(0);
            let check = || {
                asked.set(asked.get() + 1);
                if asked.get() < stop_at {
                    return Ok(());
                }
                Err(Error::new(Kind::Interrupted(libc::SIGINT), "stop"))
            };
            // Once for its hashes, once for what differs.
            let device = MemoryDevice::new(new.clone());
            let err = base_state(&device, &base, 96, &open, &check).unwrap_err();
            assert_eq!(err.kind(), Kind::Interrupted(libc::SIGINT));
        }
        let found = Seal::decode(&check_patch(open().unwrap(), &|| Ok(())).unwrap().trailer.tail);
        let stop = || Err(Error::new(Kind::Interrupted(libc::SIGINT), "stop"));
        let err = verify_seal(&patch[..], &found.unwrap().unwrap(), &stop).unwrap_err();
        assert_eq!(err.kind(), Kind::Interrupted(libc::SIGINT));
    }

    #[test]
    fn what_lies_behind_the_end_does_not_count() {
        let old = vec![1; 100];
        let mut new = [&old[..], &[2; 100]].concat();
        new[3] = 9;
        let (patch, base) = sealed(&old, &new);
        assert_eq!(state(&old, 100, &patch, &base), BaseState::Original);
        assert_eq!(state(&new[..100], 100, &patch, &base), BaseState::Applied);
    }

    #[test]
    fn records_that_are_no_blocks_in_order_are_refused() {
        let base = sealed(&[1; 32], &[2; 32]).1;
        for blocks in [&[(16, 16), (0, 16)][..], &[(8, 16)], &[(0, 17)]] {
            let header = Header { size_bytes: 32, name: vec![] };
            let mut writer = PatchWriter::new(Vec::new(), &header).unwrap();
            for &(at, len) in blocks {
                writer.write_block(at, &vec![0; len]).unwrap();
            }
            let patch = writer.finish(None).unwrap();
            let open = || PatchReader::new(Cursor::new(&patch), "patch");
            let device = MemoryDevice::new([1; 32]);
            let err = base_state(&device, &base, 32, &open, &|| Ok(())).unwrap_err();
            assert_eq!(err.kind(), Kind::Patch);
            assert!(err.to_string().contains("no blocks in order"), "{err}");
        }
    }

    proptest! {
        #[test]
        fn the_original_is_known_whatever_the_sizes(
            old in proptest::collection::vec(0u8..3, 0..3000),
            new in proptest::collection::vec(0u8..3, 0..3000),
        ) {
            let (patch, base) = sealed(&old, &new);
            let limit = old.len().min(new.len());
            let found = state(&old, limit, &patch, &base);
            prop_assert!(matches!(found, BaseState::Original));
        }

        #[test]
        fn any_changed_byte_of_a_sealed_patch_is_noticed(
            place in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let old = vec![1; 160];
            let mut new = old.clone();
            new[20..120].fill(2);
            let mut patch = sealed(&old, &new).0;
            let at = place.index(patch.len());
            patch[at] ^= 1 << bit;
            let read = || -> Result<()> {
                let reader = PatchReader::new(Cursor::new(&patch), "patch")?;
                let tail = check_patch(reader, &|| Ok(()))?.trailer.tail;
                let found = Seal::decode(&tail)?
                    .ok_or_else(|| Error::new(Kind::Patch, "the seal is gone"))?;
                verify_seal(&patch[..], &found, &|| Ok(()))
            };
            prop_assert_eq!(read().unwrap_err().kind(), Kind::Patch);
        }
    }
}

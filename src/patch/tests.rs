//! An apply as the command does it, over devices and patches that are not as they should be.

mod faults;
mod power_loss;
mod sealed;

use std::io::{Read, Seek};
use std::path::Path;

use super::{
    Apply, BaseMaker, Checksum, Digested, Header, PatchReader, PatchWriter, Seal, SizePlan,
    Written, Zeros, check, checksum_algorithm, format, target_state, verify_checksum,
    verify_records, verify_seal, write_undo,
};
use crate::device::DeviceMut;
use crate::digest::{Algorithm, BlockHasher, Hasher};
use crate::error::{Error, Kind, Result};
use crate::progress::Silent;
use crate::units::SizeRule;

/// A patch of these records as they come, also in an order that no writer of ours would choose.
pub(super) fn patch_of(size_bytes: u64, name: &str, records: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Header { size_bytes, name: name.into() }.encode().unwrap();
    for (offset, data) in records {
        let len = data.len() as u16;
        bytes.extend(format::RecordHeader { offset: *offset, len }.encode());
        bytes.extend(data);
    }
    bytes.extend(format::END);
    bytes.push(0);
    bytes
}

/// A patch of these blocks, as the writer makes it.
pub(super) fn written_patch(size_bytes: u64, blocks: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let header = Header { size_bytes, name: b"d".to_vec() };
    let mut writer = PatchWriter::new(Vec::new(), &header).unwrap();
    for (offset, data) in blocks {
        writer.write_block(*offset, data).unwrap();
    }
    writer.finish(None).unwrap()
}

/// How a patch is applied.
#[derive(Clone, Copy, Default)]
struct Options<'a> {
    undo: Option<&'a Path>,
    zeros: Zeros,
    verify: bool,
    force: bool,
}

/// Applies a patch that can be read twice, in the steps of `bdsync --patch`.
fn apply_checked<R: Read + Seek>(
    target: &dyn DeviceMut,
    input: impl Fn() -> R,
    options: Options<'_>,
) -> Result<()> {
    let go_on = || Ok(());
    let open = || PatchReader::new(input(), "patch");
    let summary = check(open()?, &go_on)?;
    if let Some(checksum) = &summary.trailer.checksum {
        checksum_algorithm(checksum)?;
    }
    let seal = Seal::decode(&summary.trailer.tail)?;
    if let Some(found) = &seal {
        verify_seal(input(), found, &go_on)?;
    }
    let sizes = SizePlan::new(SizeRule::Resize, target, summary.header.size_bytes)?;
    if let Some(found) = seal.as_ref().filter(|_| !options.force) {
        let state = target_state(target, &found.seal, &sizes, &open, &go_on)?;
        if state.is_some_and(|state| state.fault().is_some()) {
            return Err(Error::new(Kind::Seal, "foreign"));
        }
    }
    if let Some(path) = options.undo {
        write_undo(path, target, &sizes, &mut open()?, &summary, &go_on)?;
    }
    let record_bytes_max = write(target, &mut open()?, &sizes, options.zeros)?;
    if options.verify {
        verify_records(target, sizes.limit_bytes, &summary, &open, &go_on)?;
    }
    match &summary.trailer.checksum {
        Some(sum) => {
            verify_checksum(target, sum, &sizes, record_bytes_max, true, &|_| go_on()).map(drop)
        }
        None => Ok(()),
    }
}

/// The size that no target in memory gets.
const ROOM_BYTES: u64 = 1 << 20;

/// Applies a patch as it comes.
fn apply_stream(target: &dyn DeviceMut, patch: impl Read) -> Result<()> {
    let mut input = Digested::new(patch);
    let mut reader = PatchReader::new(&mut input, "patch")?;
    let sizes = SizePlan::new(SizeRule::Resize, target, reader.header().size_bytes)?;
    if sizes.resize_bytes.is_some_and(|bytes| bytes > ROOM_BYTES) {
        return Err(Error::new(Kind::Write, "no room"));
    }
    let record_bytes_max = write(target, &mut reader, &sizes, Zeros::Written)?;
    let trailer = reader.trailer().cloned().expect("all is read");
    if let Some(found) = Seal::decode(&trailer.tail)? {
        input.verify(&found)?;
    }
    match &trailer.checksum {
        Some(sum) => {
            verify_checksum(target, sum, &sizes, record_bytes_max, true, &|_| Ok(())).map(drop)
        }
        None => Ok(()),
    }
}

/// Everything that changes the target; returns the longest record's length.
fn write<R: Read>(
    target: &dyn DeviceMut,
    reader: &mut PatchReader<R>,
    sizes: &SizePlan,
    zeros: Zeros,
) -> Result<u64> {
    let limit_bytes = sizes.limit_bytes;
    let apply = Apply { target, limit_bytes, zeros, signal: &|| None, progress: &Silent };
    let mut written = Written::default();
    sizes.grow(target)?;
    apply.write_records(reader, &mut written, &|| {})?;
    sizes.shrink(target)?;
    target.sync()?;
    Ok(written.record_bytes_max)
}

/// A patch from `old` to `new`, made of what a client's is made of.
struct Making<'a> {
    old: &'a [u8],
    new: &'a [u8],
    block_bytes: usize,
    algorithm: Algorithm,
    checksum: Option<Algorithm>,
    /// What the seal says of the two devices.
    identities: [&'a [u8]; 2],
}

impl Making<'_> {
    fn sealed(&self) -> Vec<u8> {
        let Self { old, new, block_bytes, .. } = *self;
        let header = Header { size_bytes: new.len() as u64, name: b"/dev/target".to_vec() };
        let mut writer = PatchWriter::new_sealed(Vec::new(), &header).unwrap();
        let salt = [7; 32];
        let hasher = BlockHasher::new(self.algorithm, &salt).unwrap();
        let mut base = BaseMaker::new(block_bytes as u64, self.algorithm, &salt);
        let mut hashes = [vec![0; hasher.hash_len()], vec![0; hasher.hash_len()]];
        for at in (0..new.len()).step_by(block_bytes) {
            let blocks = [old, new]
                .map(|image| &image[at.min(image.len())..(at + block_bytes).min(image.len())]);
            for (block, hash) in blocks.iter().zip(&mut hashes) {
                hasher.hash_block(block, block_bytes as u64, hash);
            }
            if hashes[0] != hashes[1] {
                writer.write_block(at as u64, blocks[1]).unwrap();
                base.add(at as u64, &hashes[0]);
            }
        }
        let checksum = self.checksum.map(|algorithm| {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(new);
            Checksum { name: algorithm.name().into(), digest: hasher.finish().to_vec() }
        });
        let [source, target] = self.identities.map(<[u8]>::to_vec);
        let seal = Seal { resize: false, base: Some(base.finish()), source, target };
        writer.finish_sealed(checksum.as_ref(), &seal).unwrap()
    }
}

/// Xorshift: good enough to pick.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// An image of stretches of zeros, of one byte, and of noise.
fn image(seed: u64, size: usize) -> Vec<u8> {
    let mut chance = Chance(seed | 1);
    let mut bytes = vec![];
    while bytes.len() < size {
        let len = 1 + chance.below(3000);
        match chance.below(4) {
            0 | 1 => bytes.resize(bytes.len() + len, 0),
            2 => bytes.resize(bytes.len() + len, 0xee),
            _ => bytes.extend((0..len).map(|_| chance.below(256) as u8)),
        }
    }
    bytes.truncate(size);
    bytes
}

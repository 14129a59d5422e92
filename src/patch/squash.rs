//! Makes one patch of several that follow each other.
//!
//! A byte of the result comes from the last patch that has it. A patch that makes the device
//! smaller takes away what lies behind, which a later one that makes it larger again finds as
//! zeros; so the device is looked at in segments, between the sizes that it has on the way:
//!
//! ```text
//!   A makes 9 bytes    a a a a a a a . .        where nobody else has a byte behind a cut
//!   B makes 4          . b b .                  there are zeros: the device that the result is
//!   C makes 7          . . . . . c .            applied to may hold other bytes there
//!   A, B, C            a b b a 0 c 0
//! ```
//! Ascending, in one pass; memory for the indexes only.

use std::io::Write;
use std::sync::Arc;

use super::base::verify_seal;
use super::format::{Checksum, Header, RECORD_HEADER_BYTES, RECORD_WRITE_BYTES_MAX};
use super::index::{DeviceReader, PatchIndex, Piece};
use super::seal::{Base, Seal};
use super::writer::PatchWriter;
use crate::buffer::ZEROS;
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, KIB};

/// Bytes of a patch read at a time while its digest is verified.
const READ_BYTES: u64 = 256 * KIB;

/// One of the patches.
pub struct Layer {
    patch: Arc<dyn Device>,
    index: PatchIndex,
}

/// Several patches, in the order in which they were made.
pub struct Squash {
    /// Never empty.
    layers: Vec<Layer>,
    /// Size of the device that the first is for, where that is known.
    base_bytes: Option<u64>,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Squashed {
    /// Bytes of data that came from the patches.
    pub data_bytes: u64,
    /// Bytes of zeros that stand for what a change of size took away.
    pub zero_bytes: u64,
    /// Bytes of the patches that were read from, whole.
    pub read_bytes: u64,
}

/// A part of the device in which the same patches count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    range: ByteRange,
    /// The first layer that counts.
    first: usize,
    /// Whether bytes that none of them has are zeros, and not the device's own.
    zeros: bool,
}

impl Layer {
    /// Checks all of `patch`, its seal too, and indexes it.
    ///
    /// # Errors
    /// `Kind::Patch`, `Kind::Read`.
    pub fn open(patch: Arc<dyn Device>) -> Result<Self> {
        let index = PatchIndex::open(&*patch)?;
        if let Some(found) = index.seal() {
            let input = DeviceReader { device: &*patch, at: 0 };
            let input = std::io::BufReader::with_capacity(READ_BYTES as usize, input);
            verify_seal(input, found, &|| Ok(())).map_err(|err| err.with_path(patch.path()))?;
        }
        Ok(Self { patch, index })
    }

    fn seal(&self) -> Option<&Seal> {
        self.index.seal().map(|found| &found.seal)
    }

    /// What the patch holds.
    #[must_use]
    pub fn index(&self) -> &PatchIndex {
        &self.index
    }

    fn size_bytes(&self) -> u64 {
        self.index.header().size_bytes
    }
}

impl Squash {
    /// Patches that follow each other; they must be for one device, unless forced. `base_bytes`
    /// is the size of the device that the first is for, where that is known.
    ///
    /// # Errors
    /// `Kind::Usage` without patches, or when two name different devices.
    pub fn new(layers: Vec<Layer>, base_bytes: Option<u64>, force: bool) -> Result<Self> {
        let Some(last) = layers.last() else {
            return Err(Error::new(Kind::Usage, "there is no patch to squash"));
        };
        let name = &last.index.header().name;
        let other = layers.iter().find(|layer| layer.index.header().name != *name);
        match other {
            Some(other) if !force => {
                let what = format!(
                    "the patches are for different devices: {} is for {}, and {} for {} \
                     (see --force)",
                    other.patch.path().display(),
                    String::from_utf8_lossy(&other.index.header().name),
                    last.patch.path().display(),
                    String::from_utf8_lossy(name)
                );
                Err(Error::new(Kind::Usage, what))
            }
            _ => Ok(Self { layers, base_bytes }),
        }
    }

    /// Writes the one patch, and gives `output` back.
    ///
    /// # Errors
    /// `Kind::Write`, `Kind::Read`, `Kind::Patch` when a patch changes meanwhile.
    pub fn write<W: Write>(&self, output: W) -> Result<(W, Squashed)> {
        let header = self.header();
        let seal = self.seal();
        // A seal that knows blocks wants none of the records to reach beyond one.
        let base = seal.as_ref().and_then(|seal| seal.base.as_ref());
        let block_bytes = base.map_or(u64::MAX, |base| base.block_bytes);
        let mut writer = match &seal {
            Some(_) => PatchWriter::new_sealed(output, header)?,
            None => PatchWriter::new(output, header)?,
        };
        let mut done = Squashed {
            read_bytes: self.layers.iter().map(|layer| layer.index.patch_bytes()).sum(),
            ..Squashed::default()
        };
        for segment in self.segments() {
            self.write_segment(segment, block_bytes, &mut writer, &mut done)?;
        }
        if let Some(layer) = self.layers.iter().find(|layer| layer.patch.is_changed()) {
            let what = "the patch changes while it is read";
            return Err(Error::new(Kind::Patch, what).with_path(layer.patch.path()));
        }
        let checksum = self.checksum();
        let output = match &seal {
            Some(seal) => writer.finish_sealed(checksum, seal)?,
            None => writer.finish(checksum)?,
        };
        Ok((output, done))
    }

    fn header(&self) -> &Header {
        // There is a last one: `new` has looked.
        self.layers[self.layers.len() - 1].index.header()
    }

    fn segments(&self) -> Vec<Segment> {
        let end = self.header().size_bytes;
        let mut cuts: Vec<_> = self.layers.iter().map(Layer::size_bytes).collect();
        cuts.extend(self.base_bytes);
        cuts.extend([0, end]);
        cuts.retain(|&cut| cut <= end);
        cuts.sort_unstable();
        cuts.dedup();
        let segment = |pair: &[u64]| {
            let range = ByteRange::new(pair[0], pair[1]);
            let cutter = self.layers.iter().rposition(|layer| layer.size_bytes() <= range.start);
            let is_in_base = self.base_bytes.is_none_or(|bytes| range.start < bytes);
            Segment {
                range,
                first: cutter.map_or(0, |index| index + 1),
                zeros: cutter.is_some() && is_in_base,
            }
        };
        cuts.windows(2).map(segment).collect()
    }

    fn write_segment<W: Write>(
        &self,
        segment: Segment,
        block_bytes: u64,
        writer: &mut PatchWriter<W>,
        done: &mut Squashed,
    ) -> Result<()> {
        let layers = &self.layers[segment.first..];
        let mut stack: Vec<_> =
            layers.iter().map(|layer| Pieces::new(&layer.index, segment.range)).collect();
        let mut buffer = vec![];
        let mut at = segment.range.start;
        while at < segment.range.end {
            let mut end = segment.range.end;
            let mut found = None;
            for (layer, pieces) in layers.iter().zip(&mut stack).rev() {
                let Some(piece) = pieces.at(at) else { continue };
                // What lies above must not be run over, whoever has it.
                end = end.min(piece.range.end);
                if let Some(position) = piece.position {
                    // Data is cut at the blocks' bounds; where there is none, it is one step.
                    end = end.min((at - at % block_bytes).saturating_add(block_bytes));
                    found = Some((layer, position + (at - piece.range.start)));
                    break;
                }
            }
            let range = ByteRange::new(at, end);
            match found {
                Some((layer, position)) => {
                    // A piece that has a position is no longer than a record.
                    buffer.resize(range.len() as usize, 0);
                    layer.patch.read_exact_at(&mut buffer, position)?;
                    writer.write_block(at, &buffer)?;
                    done.data_bytes += range.len();
                }
                None if segment.zeros => {
                    write_zeros(writer, range)?;
                    done.zero_bytes += range.len();
                }
                None => {}
            }
            at = end;
        }
        Ok(())
    }

    /// Bytes of the records of all zeros that a change of size may take.
    #[must_use]
    pub fn zeros_bytes_max(&self) -> u64 {
        let segments = self.segments();
        let zeros = segments.iter().filter(|segment| segment.zeros).map(|one| one.range.len());
        zeros.map(records_bytes).fold(0, u64::saturating_add)
    }

    /// The smallest size that the device has on the way, in bytes: what lies behind it is zeros
    /// where no later patch has it.
    #[must_use]
    pub fn smallest_bytes(&self) -> u64 {
        self.layers.iter().map(Layer::size_bytes).min().unwrap_or(0)
    }

    /// The checksum of the last patch is that of the device that the result makes. Without one,
    /// that of a patch before will do when nothing has changed since.
    pub fn checksum(&self) -> Option<&Checksum> {
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let checksum = layer.index.trailer().checksum.as_ref();
            let before = i.checked_sub(1).map(|before| &self.layers[before]);
            let changes = layer.index.records() > 0
                || before.is_none_or(|before| before.size_bytes() != layer.size_bytes());
            if checksum.is_some() || changes {
                return checksum;
            }
        }
        None
    }

    /// The seal of the result, when all patches have one: made from the last one's source, for
    /// the first one's target.
    fn seal(&self) -> Option<Seal> {
        let seals: Vec<_> = self.layers.iter().filter_map(Layer::seal).collect();
        let (first, last) = (seals.first()?, seals.last()?);
        if seals.len() < self.layers.len() {
            log::warn!("the result has no seal: some of the patches have none");
            return None;
        }
        let base = self.base();
        if base.is_none() && seals.iter().any(|seal| seal.base.is_some()) {
            log::warn!(
                "the result's seal does not say what the target must hold: no patch's seal does, \
                 for all blocks that change"
            );
        }
        Some(Seal {
            resize: seals.iter().all(|seal| seal.resize),
            base,
            source: last.source.clone(),
            target: first.target.clone(),
        })
    }

    /// What the target's blocks must hold. A seal sums its patch's blocks up, so that the first
    /// one's says it of the result only if the others change no further blocks.
    fn base(&self) -> Option<Base> {
        let size_bytes = self.header().size_bytes;
        if self.layers.iter().any(|layer| layer.size_bytes() != size_bytes) {
            return None;
        }
        let first = self.layers.iter().position(|layer| layer.index.records() > 0).unwrap_or(0);
        let (first, others) = (&self.layers[first], &self.layers[first + 1..]);
        let base = first.seal()?.base.as_ref()?;
        let inside = |layer: &Layer| covers(&first.index, &layer.index, base.block_bytes);
        others.iter().all(inside).then(|| base.clone())
    }
}

/// Whether every block that `inner` changes is one of those that `outer` does.
fn covers(outer: &PatchIndex, inner: &PatchIndex, block_bytes: u64) -> bool {
    let mut from = 0;
    while let Some(extent) = inner.next_extent(from) {
        let blocks = extent.align_out(block_bytes);
        let mut at = blocks.start;
        while at < blocks.end {
            match outer.next_extent(at) {
                // Its last block is covered as well, however little of it.
                Some(found) if found.start < at.saturating_add(block_bytes) => {
                    at = ByteRange::new(at, found.end).align_out(block_bytes).end;
                }
                _ => return false,
            }
        }
        from = extent.end;
    }
    true
}

/// Bytes of the records of so many zeros in one piece.
fn records_bytes(bytes: u64) -> u64 {
    let records = bytes.div_ceil(RECORD_WRITE_BYTES_MAX as u64);
    bytes.saturating_add(records.saturating_mul(RECORD_HEADER_BYTES as u64))
}

fn write_zeros<W: Write>(writer: &mut PatchWriter<W>, range: ByteRange) -> Result<()> {
    for piece in range.pieces(ZEROS.len() as u64) {
        writer.write_block(piece.start, &ZEROS[..piece.len() as usize])?;
    }
    Ok(())
}

/// The pieces of one layer, walked from left to right.
struct Pieces<'a> {
    rest: Box<dyn Iterator<Item = Piece> + 'a>,
    current: Option<Piece>,
}

impl<'a> Pieces<'a> {
    fn new(index: &'a PatchIndex, range: ByteRange) -> Self {
        Self { rest: Box::new(index.pieces(range)), current: None }
    }

    /// The piece that `at` lies in, which must not be less than before.
    fn at(&mut self, at: u64) -> Option<Piece> {
        while self.current.is_none_or(|piece| piece.range.end <= at) {
            self.current = Some(self.rest.next()?);
        }
        self.current
    }
}

#[cfg(test)]
mod tests {
    use super::super::fingerprint::FingerprintBuilder;
    use super::super::tests::patch_of;
    use super::super::{Apply, PatchReader, SizePlan, Written, Zeros, check};
    use super::*;
    use crate::device::MemoryDevice;
    use crate::digest::Algorithm;
    use crate::progress::Silent;
    use crate::units::SizeRule;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn layer(patch: &[u8]) -> Layer {
        Layer::open(Arc::new(MemoryDevice::new(patch).with_path("p"))).unwrap()
    }

    fn squashed(patches: &[Vec<u8>], base: Option<u64>) -> (Vec<u8>, Squashed) {
        let layers = patches.iter().map(|patch| layer(patch)).collect();
        Squash::new(layers, base, false).unwrap().write(vec![]).unwrap()
    }

    fn apply(target: &MemoryDevice, patch: &[u8]) {
        let mut reader = PatchReader::new(patch, "patch").unwrap();
        let sizes = SizePlan::new(SizeRule::Resize, target, reader.header().size_bytes).unwrap();
        sizes.grow(target).unwrap();
        let apply = Apply {
            target,
            limit_bytes: sizes.limit_bytes,
            zeros: Zeros::Written,
            signal: &|| None,
            progress: &Silent,
        };
        apply.write_records(&mut reader, &mut Written::default(), &|| {}).unwrap();
        sizes.shrink(target).unwrap();
    }

    fn any_patch() -> impl Strategy<Value = Vec<u8>> {
        (1u64..300).prop_flat_map(|size| {
            let record = (0..size, 1usize..40, 1u8..)
                .prop_map(move |(at, len, byte)| (at, vec![byte; len.min((size - at) as usize)]));
            vec(record, 0..8).prop_map(move |records| patch_of(size, "d", &records))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        #[test]
        fn one_patch_does_what_all_of_them_do_one_after_the_other(
            patches in vec(any_patch(), 1..5),
            base_bytes in 0usize..350,
            is_base_known: bool,
        ) {
            let (one, done) = squashed(&patches, is_base_known.then_some(base_bytes as u64));
            let summary = check(PatchReader::new(Cursor::new(&one), "one").unwrap(), &|| Ok(())).unwrap();
            prop_assert!(summary.ascending);
            prop_assert_eq!(summary.data_bytes, done.data_bytes + done.zero_bytes);
            let base = vec![0xee; base_bytes];
            let (expected, found) = (MemoryDevice::new(base.clone()), MemoryDevice::new(base));
            patches.iter().for_each(|patch| apply(&expected, patch));
            apply(&found, &one);
            prop_assert_eq!(found.content(), expected.content());
        }
    }

    #[test]
    fn example_of_the_head_of_this_file() {
        let a = patch_of(9, "d", &[(0, b"aaaaaaa".to_vec())]);
        let b = patch_of(4, "d", &[(1, b"bb".to_vec())]);
        let c = patch_of(7, "d", &[(5, b"c".to_vec())]);
        let (one, done) = squashed(&[a.clone(), b.clone(), c.clone()], None);
        let target = MemoryDevice::new(*b"---------");
        apply(&target, &one);
        assert_eq!(target.content(), b"abba\0c\0");
        assert_eq!(done.zero_bytes, 2);
        let layers = [&a, &b, &c].map(|patch| layer(patch)).into();
        assert_eq!(Squash::new(layers, None, false).unwrap().smallest_bytes(), 4);
        // A target that ends there needs no zeros.
        assert_eq!(squashed(&[a, b, c], Some(4)).1.zero_bytes, 0);
    }

    #[test]
    fn patches_for_different_devices_need_force_and_the_last_counts() {
        let patches = [patch_of(4, "x", &[]), patch_of(4, "y", &[])];
        let layers = || patches.iter().map(|patch| layer(patch)).collect();
        let err = Squash::new(layers(), None, false).err().unwrap();
        assert_eq!(err.exit_code(), 1);
        let (one, _) = Squash::new(layers(), None, true).unwrap().write(vec![]).unwrap();
        assert_eq!(layer(&one).index.header().name, b"y");
        assert!(Squash::new(vec![], None, false).is_err());
    }

    #[test]
    fn checksum_is_the_last_ones_or_an_earlier_ones_when_nothing_changed_since() {
        let patch = |blocks: &[u64], size_bytes, checksum: Option<&str>| {
            let header = Header { size_bytes, name: b"d".to_vec() };
            let mut writer = PatchWriter::new(vec![], &header).unwrap();
            blocks.iter().for_each(|&at| writer.write_block(at, b"x").unwrap());
            let checksum = checksum.map(|name| Checksum { name: name.into(), digest: vec![1; 16] });
            writer.finish(checksum.as_ref()).unwrap()
        };
        let checksum = |patches: &[Vec<u8>]| {
            let (one, _) = squashed(patches, None);
            layer(&one).index.trailer().checksum.as_ref().map(|sum| sum.name.clone())
        };
        let a = patch(&[1], 9, Some("a"));
        assert_eq!(checksum(&[a.clone(), patch(&[2], 9, Some("b"))]), Some(b"b".to_vec()));
        assert_eq!(checksum(&[a.clone(), patch(&[2], 9, None)]), None);
        assert_eq!(checksum(&[a.clone(), patch(&[], 9, None)]), Some(b"a".to_vec()));
        assert_eq!(checksum(&[a.clone(), patch(&[], 8, None)]), None);
        assert_eq!(checksum(&[patch(&[], 9, None)]), None);
    }

    /// A patch of blocks of 4 bytes with a seal that knows them.
    fn sealed(blocks: &[u64], source: &str, target: &str) -> Vec<u8> {
        sealed_by(4, blocks, source, target)
    }

    fn sealed_by(block_bytes: u64, blocks: &[u64], source: &str, target: &str) -> Vec<u8> {
        sealed_of(40, block_bytes, blocks, source, target)
    }

    fn sealed_of(
        size_bytes: u64,
        block_bytes: u64,
        blocks: &[u64],
        source: &str,
        target: &str,
    ) -> Vec<u8> {
        let mut builder = FingerprintBuilder::new();
        for &at in blocks {
            builder.add(ByteRange::new(at, at + block_bytes), &[at as u8; 16]);
        }
        let (fingerprint, _) = builder.finish();
        let base = Base { block_bytes, algorithm: Algorithm::Md5, salt: vec![], fingerprint };
        let seal =
            Seal { resize: false, base: Some(base), source: source.into(), target: target.into() };
        let header = Header { size_bytes, name: b"d".to_vec() };
        let mut writer = PatchWriter::new_sealed(vec![], &header).unwrap();
        blocks
            .iter()
            .for_each(|&at| writer.write_block(at, &vec![7; block_bytes as usize]).unwrap());
        writer.finish_sealed(None, &seal).unwrap()
    }

    #[test]
    fn seals_are_combined_and_say_what_the_target_holds_when_one_of_them_knows() {
        let seal_of = |patches: &[Vec<u8>]| layer(&squashed(patches, None).0).seal().cloned();
        let a = sealed(&[0, 4, 20], "s1", "t1");
        let inside = sealed(&[4, 20], "s2", "t2");
        let outside = sealed(&[4, 8], "s3", "t3");
        let empty = sealed(&[], "s4", "t4");
        let one = seal_of(&[a.clone(), inside]).unwrap();
        assert_eq!((&one.source[..], &one.target[..]), (&b"s2"[..], &b"t1"[..]));
        assert_eq!(one.base, layer(&a).seal().unwrap().base);
        assert_eq!(seal_of(&[a.clone(), outside.clone()]).unwrap().base, None);
        let later = seal_of(&[empty, outside.clone()]).unwrap();
        assert_eq!(later.base, layer(&outside).seal().unwrap().base);
        assert_eq!(seal_of(&[a.clone(), patch_of(40, "d", &[])]), None);
        // The block right before those of the first one, and what a change of size does.
        let before = sealed(&[0], "s5", "t5");
        assert_eq!(seal_of(&[sealed(&[4], "s6", "t6"), before]).unwrap().base, None);
        let shorter = sealed_of(36, 4, &[4], "s7", "t7");
        assert_eq!(seal_of(&[a.clone(), shorter.clone()]).unwrap().base, None);
        assert_eq!(seal_of(&[shorter, a]).unwrap().base, None);
    }

    #[test]
    fn records_keep_to_the_blocks_that_the_seal_knows() {
        let patches = [sealed(&[0, 4, 8, 12], "", ""), sealed_by(8, &[0, 8], "", "")];
        let (one, _) = squashed(&patches, None);
        let one = layer(&one);
        assert!(one.seal().unwrap().base.is_some());
        assert_eq!(one.index.records(), 4);
    }

    /// Block by block it would take for ever.
    #[test]
    fn size_of_the_device_does_not_count() {
        let blocks = [0, 4, (1 << 60) - 4];
        let (one, done) = squashed(&[sealed_of(1 << 60, 4, &blocks, "", "")], None);
        assert_eq!((layer(&one).index.records(), done.data_bytes), (3, 12));
    }

    #[test]
    fn patch_whose_digest_is_not_the_sealed_one_is_refused() {
        let mut patch = sealed(&[0], "", "");
        let at = patch.iter().position(|&byte| byte == 7).unwrap();
        patch[at] ^= 1;
        let err = Layer::open(Arc::new(MemoryDevice::new(patch))).err().unwrap();
        assert_eq!(err.kind(), Kind::Patch);
    }
}

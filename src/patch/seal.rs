//! The seal: what a patch may carry behind its checksum field, where classic readers do not look.
//!
//! ```text
//!   "BDSEAL1\n"  length u16 (of all of this)  flags u8
//!   flag BASE:   block size u64  digest name u8+[]  salt u8+[]
//!                blocks u64  level u8  whole [32]  parts u8+[16 each]
//!   source u16+[]  target u16+[]       "key=value" lines: what was known of the two devices;
//!                                      the target's first "size=" counts, in bytes; it stands
//!                                      before what may be cut off, as a path
//!   digest [32]                        BLAKE3 of the patch up to here, seal included
//!   "BDSEAL1\n"
//! ```
//! Pure: bytes <-> types. The mark at both ends tells a damaged seal from other bytes.

use super::fingerprint::{Fingerprint, FingerprintBuilder, PART_BYTES, PARTS_MAX, WHOLE_BYTES};
use super::format::{MAGIC, TAIL_BYTES_LIMIT};
use crate::digest::{Algorithm, SALT_BYTES_MAX};
use crate::error::{Error, Kind, Result};
use crate::units::{BLOCK_BYTES_MAX, ByteRange};

/// How a seal begins and ends.
const MARK: &[u8; 8] = b"BDSEAL1\n";
/// Bytes of the digest of the patch.
pub const DIGEST_BYTES: usize = 32;
/// The longest description of a device, in bytes; longer ones are cut.
pub const IDENTITY_BYTES_MAX: usize = 640;
/// Bytes behind the part of the seal that the digest covers.
pub const BEHIND_BYTES: usize = DIGEST_BYTES + MARK.len();
/// Applying the patch sets the target's size without being told to.
const FLAG_RESIZE: u8 = 1;
/// The seal says what the target's blocks held.
const FLAG_BASE: u8 = 2;

/// What a seal says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seal {
    /// Whether applying sets the target's size without `--diffsize`: undo patches want that.
    pub resize: bool,
    /// What the target's blocks held when the patch was made, if that is known.
    pub base: Option<Base>,
    /// What was known of the source, as `key=value` lines.
    pub source: Vec<u8>,
    /// What was known of the target, as `key=value` lines; the first `size=` counts, in bytes.
    pub target: Vec<u8>,
}

/// The state that the target must be in, by the blocks that the patch overwrites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Bytes of a block, `1..=BLOCK_BYTES_MAX`; blocks begin at its multiples.
    pub block_bytes: u64,
    /// Digest of the blocks.
    pub algorithm: Algorithm,
    /// What is hashed before each block, or the key.
    pub salt: Vec<u8>,
    /// Of the blocks' hashes, in ascending order.
    pub fingerprint: Fingerprint,
}

/// Makes the base of a seal while the differing blocks are found.
#[derive(Clone, Debug)]
pub struct BaseMaker {
    block_bytes: u64,
    algorithm: Algorithm,
    salt: Vec<u8>,
    builder: FingerprintBuilder,
}

impl BaseMaker {
    /// Of blocks of `block_bytes`, hashed by `algorithm` with `salt`.
    #[must_use]
    pub fn new(block_bytes: u64, algorithm: Algorithm, salt: &[u8]) -> Self {
        let builder = FingerprintBuilder::new();
        Self { block_bytes, algorithm, salt: salt.to_vec(), builder }
    }

    /// Takes in the hash that the target gave for the differing block at `offset`, filled up with
    /// zeros to the whole block; blocks come in ascending order, those with records only.
    pub fn add(&mut self, offset: u64, target_hash: &[u8]) {
        let end = offset.saturating_add(self.block_bytes);
        self.builder.add(ByteRange::new(offset, end), target_hash);
    }

    /// The base.
    #[must_use]
    pub fn finish(self) -> Base {
        let Self { block_bytes, algorithm, salt, builder } = self;
        Base { block_bytes, algorithm, salt, fingerprint: builder.finish().0 }
    }
}

/// A seal as it was found, and the digest that the patch must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundSeal {
    /// What it says.
    pub seal: Seal,
    /// BLAKE3 of the patch but for its last [`BEHIND_BYTES`] bytes.
    pub digest: [u8; DIGEST_BYTES],
}

impl Seal {
    /// The size of the target that the patch was made for, in bytes, if that is known.
    pub(super) fn target_bytes(&self) -> Option<u64> {
        let mut lines = self.target.split_inclusive(|byte| *byte == b'\n');
        let size = lines.find_map(|line| line.strip_prefix(b"size="))?;
        // Digits behind which nothing ends may be cut.
        str::from_utf8(size.strip_suffix(b"\n")?).ok()?.parse().ok()
    }

    /// The bytes up to the digest.
    pub(super) fn encode_body(&self) -> Vec<u8> {
        let mut bytes = MARK.to_vec();
        bytes.extend([0; 2]);
        bytes.push(
            if self.resize { FLAG_RESIZE } else { 0 }
                | if self.base.is_some() { FLAG_BASE } else { 0 },
        );
        if let Some(base) = &self.base {
            bytes.extend(base.block_bytes.to_le_bytes());
            push_short(&mut bytes, base.algorithm.name().as_bytes());
            push_short(&mut bytes, &base.salt);
            let print = &base.fingerprint;
            bytes.extend(print.blocks.to_le_bytes());
            bytes.push(print.level);
            bytes.extend(print.whole);
            bytes.push(print.parts.len() as u8);
            bytes.extend(print.parts.concat());
        }
        for identity in [&self.source, &self.target] {
            let cut = &identity[..identity.len().min(IDENTITY_BYTES_MAX)];
            bytes.extend((cut.len() as u16).to_le_bytes());
            bytes.extend(cut);
        }
        let len = (bytes.len() + BEHIND_BYTES) as u16;
        bytes[MARK.len()..MARK.len() + 2].copy_from_slice(&len.to_le_bytes());
        bytes
    }

    /// What stands behind the body, `digest` being that of the patch with the body.
    pub(super) fn encode_end(digest: &[u8; DIGEST_BYTES]) -> Vec<u8> {
        [&digest[..], MARK].concat()
    }

    /// The seal in the bytes behind a patch's checksum field, as many of them as may be there
    /// or [`TAIL_BYTES_LIMIT`]; `None` when they hold none.
    ///
    /// # Errors
    /// `Kind::Patch` when they hold a damaged one, and when they are too many.
    pub fn decode(tail: &[u8]) -> Result<Option<FoundSeal>> {
        if tail.starts_with(MAGIC) {
            let what = "another patch follows behind the end of this one: apply them one after the \
                        other, each from an input of its own, or make one of them with squash";
            return Err(Error::new(Kind::Patch, what));
        }
        if tail.len() >= TAIL_BYTES_LIMIT {
            // A record header that was damaged can make an end mark of zeros in the data: the
            // rest of the records, and the seal, stand behind it then.
            let what = format!(
                "malformed patch: {TAIL_BYTES_LIMIT} or more bytes stand behind its end, so that \
                 it is damaged or not alone"
            );
            return Err(Error::new(Kind::Patch, what));
        }
        let is_begun = !tail.is_empty() && MARK.starts_with(tail);
        if !is_begun && !tail.starts_with(MARK) && !tail.ends_with(MARK) {
            return Ok(None);
        }
        let found = Fields { rest: tail }.seal(tail.len());
        let what = "malformed patch: its seal is damaged";
        found.map(Some).ok_or_else(|| Error::new(Kind::Patch, what))
    }
}

fn push_short(bytes: &mut Vec<u8>, field: &[u8]) {
    // Digest names and salts have at most 127 bytes.
    bytes.push(field.len() as u8);
    bytes.extend(field);
}

/// What is left to decode; every method is `None` when it does not hold what is asked for.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn seal(&mut self, tail_len: usize) -> Option<FoundSeal> {
        self.mark()?;
        let len = usize::from(u16::from_le_bytes(self.array()?));
        if len != tail_len || len >= TAIL_BYTES_LIMIT {
            return None;
        }
        let [flags] = self.array()?;
        if flags & !(FLAG_RESIZE | FLAG_BASE) != 0 {
            return None;
        }
        let base = if flags & FLAG_BASE == 0 { None } else { Some(self.base()?) };
        let source = self.identity()?;
        let target = self.identity()?;
        let digest = self.array()?;
        self.mark()?;
        let seal = Seal { resize: flags & FLAG_RESIZE != 0, base, source, target };
        self.rest.is_empty().then_some(FoundSeal { seal, digest })
    }

    fn base(&mut self) -> Option<Base> {
        let block_bytes = u64::from_le_bytes(self.array()?);
        let name = str::from_utf8(self.short()?).ok()?;
        let algorithm = Algorithm::from_name(name)?;
        let salt = self.short()?.to_vec();
        let blocks = u64::from_le_bytes(self.array()?);
        let [level] = self.array()?;
        let whole = self.array::<WHOLE_BYTES>()?;
        let [count] = self.array()?;
        let parts = self.take(usize::from(count) * PART_BYTES)?.as_chunks().0.to_vec();
        let fits = (1..=BLOCK_BYTES_MAX).contains(&block_bytes)
            && salt.len() <= SALT_BYTES_MAX
            && parts.len() <= PARTS_MAX + 1
            && Fingerprint::part_count(blocks, level) == Some(parts.len() as u64);
        let fingerprint = Fingerprint { blocks, level, whole, parts };
        fits.then_some(Base { block_bytes, algorithm, salt, fingerprint })
    }

    fn identity(&mut self) -> Option<Vec<u8>> {
        let len = usize::from(u16::from_le_bytes(self.array()?));
        (len <= IDENTITY_BYTES_MAX).then_some(())?;
        self.take(len).map(<[u8]>::to_vec)
    }

    fn mark(&mut self) -> Option<()> {
        (self.array::<8>()? == *MARK).then_some(())
    }

    fn short(&mut self) -> Option<&'a [u8]> {
        let [len] = self.array()?;
        self.take(usize::from(len))
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::identity_of;
    use proptest::prelude::*;

    fn bytes_of(seal: &Seal) -> Vec<u8> {
        [seal.encode_body(), Seal::encode_end(&[9; DIGEST_BYTES])].concat()
    }

    fn seal_of(blocks: u64, identity_bytes: usize, salt_bytes: usize) -> Seal {
        let mut maker = BaseMaker::new(4096, Algorithm::Sha512_256, &vec![3; salt_bytes]);
        for i in 0..blocks {
            maker.add(i * 4096, &i.to_le_bytes());
        }
        Seal {
            resize: false,
            base: Some(maker.finish()),
            source: vec![b's'; identity_bytes],
            target: vec![b't'; identity_bytes],
        }
    }

    #[test]
    fn seals_decode_to_what_was_encoded_and_stay_below_the_limit() {
        for blocks in [0, 1, 129, 257, 10_000] {
            let seal = seal_of(blocks, IDENTITY_BYTES_MAX, SALT_BYTES_MAX);
            let bytes = bytes_of(&seal);
            assert!(bytes.len() < TAIL_BYTES_LIMIT, "{} bytes", bytes.len());
            let found = Seal::decode(&bytes).unwrap().unwrap();
            assert_eq!((found.seal, found.digest), (seal, [9; 32]));
        }
        let undo = Seal { resize: true, ..Seal::default() };
        assert_eq!(Seal::decode(&bytes_of(&undo)).unwrap().unwrap().seal, undo);
    }

    #[test]
    fn too_long_identities_are_cut() {
        let seal = seal_of(1, IDENTITY_BYTES_MAX + 1, 32);
        let found = Seal::decode(&bytes_of(&seal)).unwrap().unwrap();
        assert_eq!(found.seal.source.len(), IDENTITY_BYTES_MAX);
    }

    #[test]
    fn the_size_of_the_target_is_known_however_long_its_path_is() {
        for path_bytes in [1, 600, 620, 626, 628, IDENTITY_BYTES_MAX, 4096] {
            let target = identity_of(&vec![b'p'; path_bytes], 3_000_000);
            let bytes = bytes_of(&Seal { target, ..Seal::default() });
            let found = Seal::decode(&bytes).unwrap().unwrap();
            assert_eq!(found.seal.target_bytes(), Some(3_000_000), "{path_bytes}");
        }
    }

    #[test]
    fn of_a_size_that_may_be_cut_nothing_is_known() {
        for target in [&b"path=x\nsize=30"[..], b"path=x\n", b"", b"path=x\nsize=x\n"] {
            let seal = Seal { target: target.to_vec(), ..Seal::default() };
            assert_eq!(seal.target_bytes(), None);
        }
        let seal = Seal { target: b"path=x\nsize=30\nwwid=1\n".to_vec(), ..Seal::default() };
        assert_eq!(seal.target_bytes(), Some(30));
    }

    #[test]
    fn more_bytes_than_may_stand_behind_a_patch_are_refused() {
        assert_eq!(Seal::decode(&[7; TAIL_BYTES_LIMIT - 1]).unwrap(), None);
        let err = Seal::decode(&[7; TAIL_BYTES_LIMIT]).unwrap_err();
        assert_eq!(err.kind(), Kind::Patch);
    }

    #[test]
    fn other_bytes_are_no_seal_and_cut_ones_are_damaged() {
        for tail in [&b""[..], b"\0", b"something else"] {
            assert_eq!(Seal::decode(tail).unwrap(), None);
        }
        let bytes = bytes_of(&seal_of(3, 5, 32));
        for len in 1..bytes.len() {
            assert_eq!(Seal::decode(&bytes[..len]).unwrap_err().kind(), Kind::Patch);
        }
        for damaged in [0, bytes.len() - 1] {
            let mut bytes = bytes.clone();
            bytes[damaged] ^= 1;
            assert_eq!(Seal::decode(&bytes).unwrap_err().kind(), Kind::Patch);
        }
    }

    #[test]
    fn a_seal_with_numbers_that_no_patch_has_is_damaged() {
        let seal = seal_of(3, 5, SALT_BYTES_MAX);
        let bytes = bytes_of(&seal);
        let salt_len = seal.base.as_ref().map_or(0, |base| base.salt.len());
        let block_bytes_at = MARK.len() + 2 + 1;
        let blocks_at = block_bytes_at + 8 + 1 + "sha512-256".len() + 1 + salt_len;
        let with = |at: usize, number: u64| {
            let mut bytes = bytes.clone();
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            Seal::decode(&bytes).map(|found| found.and_then(|found| found.seal.base))
        };
        for block_bytes in [1, BLOCK_BYTES_MAX] {
            let base = with(block_bytes_at, block_bytes).unwrap().unwrap();
            assert_eq!(base.block_bytes, block_bytes);
        }
        for block_bytes in [0, BLOCK_BYTES_MAX + 1] {
            let err = with(block_bytes_at, block_bytes).unwrap_err();
            assert_eq!(err.kind(), Kind::Patch, "blocks of {block_bytes} bytes");
        }
        assert_eq!(with(blocks_at, 3).unwrap().unwrap().fingerprint.blocks, 3);
        for blocks in [0, 2, 4, u64::MAX] {
            let err = with(blocks_at, blocks).unwrap_err();
            assert_eq!(err.kind(), Kind::Patch, "{blocks} blocks in 3 parts");
        }
        let long_salt = seal_of(3, 5, SALT_BYTES_MAX + 1);
        assert_eq!(Seal::decode(&bytes_of(&long_salt)).unwrap_err().kind(), Kind::Patch);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            place in any::<prop::sample::Index>(),
            byte: u8,
        ) {
            let mut seal = bytes_of(&seal_of(3, 5, 32));
            let at = place.index(seal.len());
            seal[at] = byte;
            let _ = Seal::decode(&seal);
            bytes.splice(..0, *MARK);
            let _ = Seal::decode(&bytes);
        }
    }
}

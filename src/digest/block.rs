//! Salted hashes of blocks in memory.

use parking_lot::RwLock;

use super::algorithm::{Algorithm, Digest};
use super::feed::feed_zeros;
use super::hasher::{BlockLoop, Hasher};
use super::nh::{Nh, NhStream};
use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;

/// Longest salt in bytes that a peer may send (protocol).
pub const SALT_BYTES_MAX: usize = 127;

/// Bytes of the salts that we draw; BLAKE3's key has the same length.
pub const SALT_BYTES: usize = 32;

/// How many hashes of zero blocks are kept; a client uses a handful of steps, a hostile one any
/// number.
const ZERO_HASHES_MAX: usize = 64;

/// Hashes blocks with one algorithm and one salt: `H(salt || block)`, or BLAKE3 keyed with the
/// salt.
pub struct BlockHasher {
    /// What has seen the salt already; cloned for each block.
    prefix: Hasher,
    /// The salt as BLAKE3's key; unused by the others.
    key: [u8; SALT_BYTES],
    /// Step and hash of zero blocks.
    zero_hashes: RwLock<Vec<(u64, Digest)>>,
    /// What hashes the leaves of trees, where that is not this.
    leaves: Option<Box<BlockHasher>>,
}

/// A salt that nobody could foresee.
///
/// # Errors
/// `Kind::Random` when the system has no random bytes.
pub fn draw_salt() -> Result<[u8; SALT_BYTES]> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt)
        .map_err(|err| Error::new(Kind::Random, "no random bytes for the salt").with_source(err))?;
    Ok(salt)
}

impl BlockHasher {
    /// A hasher of `algorithm` with `salt`.
    ///
    /// # Errors
    /// `Kind::Protocol` when the salt has more than 127 bytes, or for BLAKE3 not exactly 32.
    pub fn new(algorithm: Algorithm, salt: &[u8]) -> Result<Self> {
        if salt.len() > SALT_BYTES_MAX {
            let what = format!("salt of {} bytes, at most {SALT_BYTES_MAX} allowed", salt.len());
            return Err(Error::new(Kind::Protocol, what));
        }
        let key = match algorithm {
            Algorithm::Blake3 => salt.try_into().map_err(|_| {
                let what = format!("salt of {} bytes, blake3 needs 32", salt.len());
                Error::new(Kind::Protocol, what)
            })?,
            _ => [0; SALT_BYTES],
        };
        Ok(Self::behind(Hasher::salted(algorithm, salt, &key), key))
    }

    fn behind(prefix: Hasher, key: [u8; 32]) -> Self {
        Self { prefix, key, zero_hashes: RwLock::new(Vec::new()), leaves: None }
    }

    /// The same, but if `wanted` (and blocks have BLAKE3) with [NH](super::nh) for the leaves of
    /// trees.
    #[must_use]
    pub fn with_universal_leaves(mut self, wanted: bool) -> Self {
        if wanted && self.algorithm() == Algorithm::Blake3 {
            let prefix = Hasher::universal(NhStream::new(Nh::new(&self.key)));
            self.leaves = Some(Box::new(Self::behind(prefix, self.key)));
        }
        self
    }

    /// What hashes the leaves of trees, the blocks of level 0.
    #[must_use]
    pub fn leaves(&self) -> &Self {
        self.leaves.as_deref().unwrap_or(self)
    }

    /// Whether a leaf's hash is that of a block, so that leaves can be compared in place of blocks.
    #[must_use]
    pub fn leaves_are_blocks(&self) -> bool {
        self.leaves.is_none()
    }

    /// The algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.prefix.algorithm
    }

    /// Length of a hash in bytes.
    #[must_use]
    pub fn hash_len(&self) -> usize {
        self.prefix.hash_len()
    }

    /// Length of the hashes of a tree's leaves and nodes, in bytes.
    #[must_use]
    pub fn tree_hash_len(&self) -> usize {
        self.leaves().hash_len()
    }

    /// Hashes one block of `step` bytes. `data` may be shorter: the rest counts as zeros.
    ///
    /// # Panics
    /// When `data` is longer than `step`, or `out` is not one hash long.
    pub fn hash_block(&self, data: &[u8], step: u64, out: &mut [u8]) {
        let missing = step.checked_sub(data.len() as u64).expect("data of one block at most");
        if is_zero(data) {
            out.copy_from_slice(&self.zero_hash(step));
        } else if missing == 0 {
            self.prefix.state.for_blocks(&self.key, One(data, out));
        } else {
            let mut hasher = self.stream();
            hasher.update(data);
            hasher.update_zeros(missing);
            out.copy_from_slice(&hasher.finish());
        }
    }

    /// Hashes blocks that lie one behind the other, each of `step` bytes; the last may be shorter
    /// and counts as filled up with zeros. `out` gets one hash a block.
    ///
    /// # Panics
    /// When `out` is not exactly as long as that, or `step` is 0.
    pub fn hash_blocks(&self, data: &[u8], step: usize, out: &mut [u8]) {
        let hash_len = self.hash_len();
        assert_eq!(out.len(), data.len().div_ceil(step) * hash_len, "one hash a block");
        let full_blocks = data.len() / step;
        let (full, rest) = data.split_at(full_blocks * step);
        let (full_out, rest_out) = out.split_at_mut(full_blocks * hash_len);
        let each = FullBlocks { hasher: self, data: full, step, out: full_out };
        self.prefix.state.for_blocks(&self.key, each);
        if !rest.is_empty() {
            self.hash_block(rest, step as u64, rest_out);
        }
    }

    /// The hash of a tree's node over the hashes of its children.
    ///
    /// # Panics
    /// When `out` is not one hash of a tree long.
    pub(super) fn hash_children(&self, hashes: &[u8], out: &mut [u8]) {
        match self.algorithm() {
            Algorithm::Blake3 => {
                let hash = blake3::keyed_hash(&self.key, hashes);
                out.copy_from_slice(&hash.as_bytes()[..self.tree_hash_len()]);
            }
            _ => self.prefix.state.for_blocks(&self.key, One(hashes, out)),
        }
    }

    /// The hash of `step` zero bytes; computed once for each step.
    #[must_use]
    pub fn zero_hash(&self, step: u64) -> Digest {
        self.zero_hash_while(step, &|| Ok(())).expect("nothing ends it")
    }

    /// The same; `check` is asked every so often, because gigabytes of zeros take seconds.
    ///
    /// # Errors
    /// Whatever `check` returns.
    pub fn zero_hash_while(&self, step: u64, check: &dyn Fn() -> Result<()>) -> Result<Digest> {
        let find = |known: &[(u64, Digest)]| known.iter().find(|k| k.0 == step).map(|k| k.1);
        if let Some(hash) = find(&self.zero_hashes.read()) {
            return Ok(hash);
        }
        // Held while hashing: whoever needs it as well would only hash the same.
        let mut known = self.zero_hashes.write();
        if let Some(hash) = find(&known) {
            return Ok(hash);
        }
        let mut hasher = self.stream();
        feed_zeros(&mut hasher, ByteRange::new(0, step), &mut |_| check())?;
        let hash = hasher.finish();
        if known.len() >= ZERO_HASHES_MAX {
            known.remove(0);
        }
        known.push((step, hash));
        Ok(hash)
    }

    /// A digest that has seen the salt, for blocks that come in pieces.
    pub(super) fn stream(&self) -> Hasher {
        self.prefix.clone()
    }
}

/// One whole block.
struct One<'a>(&'a [u8], &'a mut [u8]);

impl BlockLoop for One<'_> {
    fn run(self, digest: impl Fn(&[u8], &mut [u8])) {
        digest(self.0, self.1);
    }
}

/// The loop over blocks that are all of full length.
struct FullBlocks<'a> {
    hasher: &'a BlockHasher,
    data: &'a [u8],
    step: usize,
    out: &'a mut [u8],
}

impl BlockLoop for FullBlocks<'_> {
    fn run(self, digest: impl Fn(&[u8], &mut [u8])) {
        let Self { hasher, data, step, out } = self;
        let mut zero_hash = None;
        let slots = out.chunks_exact_mut(hasher.hash_len());
        for (block, slot) in data.chunks_exact(step).zip(slots) {
            if is_zero(block) {
                let hash = zero_hash.get_or_insert_with(|| hasher.zero_hash(step as u64));
                slot.copy_from_slice(hash);
            } else {
                digest(block, slot);
            }
        }
    }
}

/// Whether all of `data` is zero bytes, every one of them.
///
/// Data that begins with anything else, which is nearly all data, costs one comparison;
/// zeros are compared with themselves one byte further on, which is memcmp at full speed.
#[must_use]
pub fn is_zero(data: &[u8]) -> bool {
    match data {
        [] => true,
        [0, rest @ ..] => *rest == data[..rest.len()],
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(algorithm: Algorithm, salt: &[u8], data: &[u8], step: usize) -> Vec<u8> {
        let mut padded = data.to_vec();
        padded.resize(data.len().next_multiple_of(step), 0);
        let mut out = vec![];
        for block in padded.chunks(step) {
            if algorithm == Algorithm::Blake3 {
                let key = salt.try_into().expect("32 bytes");
                out.extend_from_slice(blake3::keyed_hash(key, block).as_bytes());
            } else {
                let mut hasher = Hasher::new(algorithm);
                hasher.update(&[salt, block].concat());
                out.extend_from_slice(&hasher.finish());
            }
        }
        out
    }

    /// Every other block zero, bytes that differ elsewhere, and an unfinished last block.
    fn data(len: usize, step: usize) -> Vec<u8> {
        (0..len)
            .map(|i| if (i / step).is_multiple_of(2) { (i % 251) as u8 + 1 } else { 0 })
            .collect()
    }

    #[test]
    fn blocks_of_every_digest_hash_as_salt_and_padded_block() {
        let salt: Vec<u8> = (0..32).collect();
        for algorithm in Algorithm::all() {
            let hasher = BlockHasher::new(algorithm, &salt).expect("a good salt");
            for step in [1, 7, 64, 1024, 4096] {
                for len in [0, 1, step, 4 * step + step / 2, 5 * step + step / 2] {
                    let data = data(len, step);
                    let mut out = vec![0; len.div_ceil(step) * hasher.hash_len()];
                    hasher.hash_blocks(&data, step, &mut out);
                    let expected = naive(algorithm, &salt, &data, step);
                    assert_eq!(out, expected, "{algorithm:?}, step {step}, {len} bytes");
                }
            }
        }
    }

    #[test]
    fn one_block_is_filled_up_with_zeros() {
        let salt = [7; 32];
        let hasher = BlockHasher::new(Algorithm::Blake3, &salt).expect("a good salt");
        for data in [&b""[..], b"\0\0", b"ab"] {
            let mut out = [0; 32];
            hasher.hash_block(data, 3000, &mut out);
            let mut block = data.to_vec();
            block.resize(3000, 0);
            assert_eq!(out[..], naive(Algorithm::Blake3, &salt, &block, 3000));
        }
    }

    #[test]
    fn no_position_of_a_byte_escapes_the_zero_test() {
        for len in [0_usize, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 255, 4096, 4097] {
            let mut data = vec![0; len];
            assert!(is_zero(&data), "{len} zeros");
            for i in 0..len {
                for value in [1, 0x80] {
                    data[i] = value;
                    assert!(!is_zero(&data), "byte {i} of {len} is {value}");
                }
                data[i] = 0;
            }
        }
    }

    #[test]
    fn no_position_of_a_byte_escapes_in_a_hashed_block() {
        let hasher = BlockHasher::new(Algorithm::Blake3, &[0; 32]).expect("a good salt");
        let mut data = vec![0; 2 * 512 + 100];
        for i in 0..data.len() {
            data[i] = 1;
            let mut out = [0; 96];
            hasher.hash_blocks(&data, 512, &mut out);
            let different = out.chunks(32).position(|hash| *hash != *hasher.zero_hash(512));
            assert_eq!(different, Some(i / 512));
            data[i] = 0;
        }
    }

    #[test]
    fn salts_of_a_wrong_length_are_refused() {
        let kind =
            |algorithm, len| BlockHasher::new(algorithm, &vec![0; len]).err().map(|err| err.kind());
        assert_eq!(kind(Algorithm::Md5, 0), None);
        assert_eq!(kind(Algorithm::Md5, 127), None);
        assert_eq!(kind(Algorithm::Md5, 128), Some(Kind::Protocol));
        assert_eq!(kind(Algorithm::Blake3, 32), None);
        assert_eq!(kind(Algorithm::Blake3, 31), Some(Kind::Protocol));
        assert_eq!(kind(Algorithm::Blake3, 33), Some(Kind::Protocol));
    }

    #[test]
    fn any_number_of_steps_keeps_few_zero_hashes() {
        let hasher = BlockHasher::new(Algorithm::Md5, b"s").expect("a good salt");
        for step in 1..=200 {
            assert_eq!(
                *hasher.zero_hash(step),
                naive(Algorithm::Md5, b"s", &vec![0; step as usize], step as usize)[..]
            );
        }
        assert_eq!(hasher.zero_hashes.read().len(), ZERO_HASHES_MAX);
    }
}

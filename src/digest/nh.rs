//! NH: a universal hash for the leaves of trees, several times as fast as a cryptographic one.
//!
//! ```text
//!   leaf     | 8 KiB       | 8 KiB       | ... | rest, filled up to 64 bytes |
//!               4 sums        4 sums              4 sums       of 64 bits, little-endian
//!               \__________________ BLAKE3, keyed ___________________________/ --> 16 bytes
//! ```
//! A sum is Black, Halevi, Krawczyk, Krovetz and Rogaway's NH (UMAC, CRYPTO '99) over 32-bit
//! words: `(m0 + k0) * (m1 + k1) + (m2 + k2) * (m3 + k3) + ...`, the inner sums modulo 2^32, the
//! outer one modulo 2^64. The second to fourth sum use the same key, moved on by 16 words each
//! (their Toeplitz construction). Two pieces that differ have the same four sums with a
//! probability of at most 2^-128, **whatever** they hold, for keys that are drawn without
//! regard to them. That is what a comparison needs: the salt is drawn when it begins. It is no
//! cryptographic hash: who knows the salt can make collisions. So nothing that outlives the
//! comparison (a patch's checksum, its seal) and no block that is shipped depends on it. More
//! than 16 bytes of hash, of a leaf or of the nodes above, would not make it any surer.
//!
//! Key: BLAKE3 in its mode for deriving keys, with [`CONTEXT`], over the salt. Of its output, the
//! first 32 bytes are the key of the last step, the others NH's key, as little-endian words.

use std::sync::Arc;

use multiversion::multiversion;

/// Length of a hash, and of those of the nodes above such leaves.
pub(super) const HASH_BYTES: usize = 16;

/// What the keys are for, as BLAKE3 wants to be told.
const CONTEXT: &str = "bdsync 2026-11-26 NH hashes of tree leaves";

/// Bytes of one piece; the key is as long. Longer ones have fewer sums to be hashed, and keys that
/// crowd the data out of the processor's first cache.
const PIECE_BYTES: usize = 8192;
/// Sums of a piece, each worth 32 bits of certainty.
const SUMS: usize = 4;
/// Bytes of the sums of a piece.
const SUMS_BYTES: usize = SUMS * 8;
/// Pieces whose sums are fed to the last step at once: a call costs it as much as hashing the sums
/// of two.
const PIECES_AT_ONCE: usize = 16;
/// Lanes that are worked on at once. One holds two words of 32 bits.
const LANES: usize = 8;
/// Bytes of all lanes.
const ROW_BYTES: usize = LANES * 8;
/// Rows of a piece.
const ROWS: usize = PIECE_BYTES / ROW_BYTES;

type Row = [u64; LANES];
/// Keys for the rows of a piece, and those that the later sums are moved on by.
type Keys = [Row; ROWS + SUMS - 1];

/// The keys, from one salt. Aligned, so that no row lies in two lines of the processor's cache.
#[repr(C, align(64))]
pub(super) struct Nh {
    /// Of each lane the key of the first word, and that of the second.
    low: Keys,
    high: Keys,
    last: [u8; 32],
}

impl Nh {
    /// The keys from `salt`.
    pub(super) fn new(salt: &[u8; 32]) -> Arc<Self> {
        let mut stream = blake3::Hasher::new_derive_key(CONTEXT).update(salt).finalize_xof();
        let none = [[0; LANES]; ROWS + SUMS - 1];
        let mut nh = Self { low: none, high: none, last: [0; 32] };
        stream.fill(&mut nh.last);
        let mut word = || {
            let mut bytes = [0; 4];
            stream.fill(&mut bytes);
            u64::from(u32::from_le_bytes(bytes))
        };
        for (low, high) in nh.low.as_flattened_mut().iter_mut().zip(nh.high.as_flattened_mut()) {
            (*low, *high) = (word(), word());
        }
        Arc::new(nh)
    }

    /// The sums of one piece, of at most [`PIECE_BYTES`], little-endian.
    fn sums(&self, piece: &[u8]) -> [u8; SUMS_BYTES] {
        let (rows, rest) = piece.as_chunks::<ROW_BYTES>();
        if !rest.is_empty() {
            return self.sums_filled_up(piece);
        }
        let mut bytes = [0; SUMS_BYTES];
        let (slots, _) = bytes.as_chunks_mut();
        let sums = sums_of(&self.low, &self.high, rows);
        slots.iter_mut().zip(sums).for_each(|(slot, sum)| *slot = sum.to_le_bytes());
        bytes
    }

    /// The same of a piece that does not end with a row.
    #[cold]
    fn sums_filled_up(&self, piece: &[u8]) -> [u8; SUMS_BYTES] {
        let mut filled_up = [0; PIECE_BYTES];
        filled_up[..piece.len()].copy_from_slice(piece);
        self.sums(&filled_up[..piece.len().next_multiple_of(ROW_BYTES)])
    }

    /// The hash of a whole leaf.
    pub(super) fn hash(&self, leaf: &[u8], out: &mut [u8]) {
        let mut last = blake3::Hasher::new_keyed(&self.last);
        for pieces in leaf.chunks(PIECES_AT_ONCE * PIECE_BYTES) {
            let mut sums = [[0; SUMS_BYTES]; PIECES_AT_ONCE];
            let pieces = pieces.chunks(PIECE_BYTES);
            let count = pieces.len();
            pieces.zip(&mut sums).for_each(|(piece, sums)| *sums = self.sums(piece));
            last.update(sums[..count].as_flattened());
        }
        out.copy_from_slice(&last.finalize().as_bytes()[..HASH_BYTES]);
    }
}

/// The four sums of at most [`ROWS`] rows. Compiled for several instruction sets; the best one that
/// the machine has is chosen when it runs.
#[multiversion(targets("x86_64+avx512f+avx512dq", "x86_64+avx2"))]
fn sums_of(low: &[Row], high: &[Row], rows: &[[u8; ROW_BYTES]]) -> [u64; SUMS] {
    const WORD: u64 = 0xFFFF_FFFF;
    let mut sums = [[0_u64; LANES]; SUMS];
    // One length for both, so that it is looked at once for each key and not twice.
    let (low, high) = (&low[..rows.len() + SUMS - 1], &high[..rows.len() + SUMS - 1]);
    // With indices, and keys of a length that is not known when it is compiled: of the ways to say
    // this, one that compilers make whole vectors of (`cargo bench -- nh` tells).
    for (r, row) in rows.iter().enumerate() {
        let (words, _) = row.as_chunks::<8>();
        let lanes: Row = std::array::from_fn(|lane| u64::from_le_bytes(words[lane]));
        for (i, sum) in sums.iter_mut().enumerate() {
            let (low, high) = (&low[r + i], &high[r + i]);
            for lane in 0..LANES {
                let first = lanes[lane].wrapping_add(low[lane]) & WORD;
                let second = (lanes[lane] >> 32).wrapping_add(high[lane]) & WORD;
                sum[lane] = sum[lane].wrapping_add(first * second);
            }
        }
    }
    sums.map(|sum| sum.iter().fold(0_u64, |all, lane| all.wrapping_add(*lane)))
}

/// A leaf that comes in pieces.
#[derive(Clone)]
pub(super) struct NhStream {
    nh: Arc<Nh>,
    /// What does not make a whole piece yet.
    begun: Vec<u8>,
    last: blake3::Hasher,
}

impl NhStream {
    /// Of a leaf of which nothing is known yet.
    pub(super) fn new(nh: Arc<Nh>) -> Self {
        let last = blake3::Hasher::new_keyed(&nh.last);
        Self { nh, begun: Vec::new(), last }
    }

    /// The keys.
    pub(super) fn nh(&self) -> &Nh {
        &self.nh
    }

    /// Feeds `data`.
    pub(super) fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.begun.is_empty() && data.len() >= PIECE_BYTES {
                let (piece, rest) = data.split_at(PIECE_BYTES);
                self.last.update(&self.nh.sums(piece));
                data = rest;
                continue;
            }
            let (more, rest) = data.split_at(data.len().min(PIECE_BYTES - self.begun.len()));
            self.begun.extend_from_slice(more);
            data = rest;
            if self.begun.len() == PIECE_BYTES {
                self.last.update(&self.nh.sums(&self.begun));
                self.begun.clear();
            }
        }
    }

    /// Writes the hash of all that was fed.
    pub(super) fn finish_into(mut self, out: &mut [u8]) {
        if !self.begun.is_empty() {
            self.last.update(&self.nh.sums(&self.begun));
        }
        out.copy_from_slice(&self.last.finalize().as_bytes()[..HASH_BYTES]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// From the definition, word by word.
    fn naive(salt: &[u8; 32], leaf: &[u8]) -> [u8; HASH_BYTES] {
        let mut bytes = vec![0; 32 + PIECE_BYTES + (SUMS - 1) * ROW_BYTES];
        blake3::Hasher::new_derive_key(CONTEXT).update(salt).finalize_xof().fill(&mut bytes);
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        let key: Vec<u32> = bytes[32..].chunks(4).map(word).collect();
        let mut last = blake3::Hasher::new_keyed(bytes[..32].try_into().unwrap());
        for piece in leaf.chunks(PIECE_BYTES) {
            let mut piece = piece.to_vec();
            piece.resize(piece.len().next_multiple_of(ROW_BYTES), 0);
            let words: Vec<u32> = piece.chunks(4).map(word).collect();
            for sum in 0..SUMS {
                let at = |i: usize| u64::from(words[i].wrapping_add(key[i + 16 * sum]));
                let pairs = (0..words.len()).step_by(2);
                let total = pairs.fold(0_u64, |all, i| all.wrapping_add(at(i) * at(i + 1)));
                last.update(&total.to_le_bytes());
            }
        }
        *last.finalize().as_bytes().first_chunk().unwrap()
    }

    fn bytes(len: usize, seed: u8) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 251) as u8 ^ seed).collect()
    }

    fn hash(salt: &[u8; 32], leaf: &[u8]) -> [u8; HASH_BYTES] {
        let mut out = [0; HASH_BYTES];
        Nh::new(salt).hash(leaf, &mut out);
        out
    }

    #[test]
    fn any_length_hashes_as_defined() {
        for len in [0, 1, 8, 63, 64, 65, 4096, 8127, 8129, 8192, 8193, 16384, 20_000, 300_000] {
            let leaf = bytes(len, 3);
            assert_eq!(hash(&[9; 32], &leaf), naive(&[9; 32], &leaf), "{len}");
        }
    }

    #[test]
    fn the_largest_words_do_not_overflow() {
        let leaf = vec![0xFF; 16384];
        assert_eq!(hash(&[1; 32], &leaf), naive(&[1; 32], &leaf));
    }

    #[test]
    fn every_bit_counts_and_so_does_the_order() {
        let leaf = bytes(4096, 0);
        let known = hash(&[9; 32], &leaf);
        for bit in (0..4096 * 8).step_by(61) {
            let mut other = leaf.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(hash(&[9; 32], &other), known, "bit {bit}");
        }
        let mut swapped = leaf.clone();
        swapped.swap(8, 16);
        swapped[0..8].rotate_left(4);
        assert_ne!(hash(&[9; 32], &swapped), known);
        assert_ne!(hash(&[8; 32], &leaf), known, "the salt counts");
    }

    proptest! {
        #[test]
        fn pieces_of_any_length_make_the_same_hash(
            len in 0_usize..30_000,
            cuts in prop::collection::vec(1_usize..9000, 0..9),
        ) {
            let leaf = bytes(len, 5);
            let mut stream = NhStream::new(Nh::new(&[2; 32]));
            let mut rest = &leaf[..];
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                stream.update(piece);
                rest = after;
            }
            stream.update(rest);
            let mut out = [0; HASH_BYTES];
            stream.finish_into(&mut out);
            prop_assert_eq!(out, hash(&[2; 32], &leaf));
        }
    }
}

//! Lists of hashes held against each other. Pure.

use crate::units::{ByteRange, KIB, push_joined};

/// What a run counts for at least, in bytes: what a request for it and its bookkeeping take.
pub(super) const RUN_HELD_BYTES_MIN: u64 = KIB;
/// How many bytes each byte of a hash counts for: it is there more than once, and beside it are
/// the requests and answers that it is needed for.
const HASH_WEIGHT: u64 = 4;

/// Bytes that count against a limit while `hashes_bytes` of hashes are asked for and compared.
#[must_use]
pub fn hashes_held_bytes(hashes_bytes: u64) -> u64 {
    hashes_bytes.saturating_mul(HASH_WEIGHT)
}

/// The parts of `range` whose hashes differ; hash `i` of both lists covers
/// `cover_bytes` from `range.start + i * cover_bytes`. Neighbours are joined.
///
/// # Panics
/// When the lists differ in length: the callers ask both sides for the same hashes.
#[must_use]
pub fn differing(
    range: ByteRange,
    cover_bytes: u64,
    hash_len: usize,
    ours: &[u8],
    theirs: &[u8],
) -> Vec<ByteRange> {
    assert_eq!(ours.len(), theirs.len(), "hash lists of one range");
    let mut found = Vec::new();
    if ours == theirs {
        return found;
    }
    let pairs = ours.chunks_exact(hash_len).zip(theirs.chunks_exact(hash_len));
    for (i, (ours, theirs)) in (0u64..).zip(pairs) {
        if ours != theirs {
            let start = range.start + i * cover_bytes;
            push_joined(&mut found, ByteRange::new(start, start + cover_bytes));
        }
    }
    found
}

/// Blocks with the hashes that the remote side announced for them, one a block, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Whole blocks; the last may reach past the end of a device.
    pub blocks: ByteRange,
    /// The hashes, in the order of the blocks.
    pub hashes: Vec<u8>,
}

impl Announced {
    /// Bytes that count against a limit while the run is held: of its blocks, but no less than is
    /// held for it before these are there.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        let hashes = hashes_held_bytes(self.hashes.len() as u64);
        self.blocks.len().max(hashes).max(RUN_HELD_BYTES_MIN)
    }

    /// The hashes of `part`, which must begin at a block of this run and lie inside it.
    #[must_use]
    pub fn hashes_of(&self, part: ByteRange, block_bytes: u64, hash_len: usize) -> &[u8] {
        let index = |offset: u64| ((offset - self.blocks.start).div_ceil(block_bytes)) as usize;
        &self.hashes[index(part.start) * hash_len..index(part.end) * hash_len]
    }

    /// The runs of blocks whose own hashes in `ours` are others.
    #[must_use]
    pub fn differing_from(&self, ours: &[u8], block_bytes: u64, hash_len: usize) -> Vec<Self> {
        differing(self.blocks, block_bytes, hash_len, ours, &self.hashes)
            .into_iter()
            .map(|blocks| Self {
                blocks,
                hashes: self.hashes_of(blocks, block_bytes, hash_len).to_vec(),
            })
            .collect()
    }

    /// The run cut into pieces of at most `held_bytes` each (at least one block), with their
    /// hashes.
    pub fn pieces(
        &self,
        held_bytes: u64,
        block_bytes: u64,
        hash_len: usize,
    ) -> impl Iterator<Item = Self> + '_ {
        let each = block_bytes.max(hashes_held_bytes(hash_len as u64));
        let piece_bytes = (held_bytes / each).max(1) * block_bytes;
        self.blocks.pieces(piece_bytes).map(move |blocks| Self {
            blocks,
            hashes: self.hashes_of(blocks, block_bytes, hash_len).to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lists_differ_nowhere_and_neighbours_are_joined() {
        let range = ByteRange::new(100, 150);
        assert!(differing(range, 10, 2, b"aabbccddee", b"aabbccddee").is_empty());
        let got = differing(range, 10, 2, b"aabbccddee", b"aaBBCCddEE");
        assert_eq!(got, [ByteRange::new(110, 130), ByteRange::new(140, 150)]);
    }

    #[test]
    fn announced_hashes_follow_their_blocks_through_cuts() {
        let run = Announced { blocks: ByteRange::new(10, 50), hashes: b"aabbccdd".to_vec() };
        let pieces: Vec<_> = run.pieces(25, 10, 2).collect();
        assert_eq!(pieces[0].hashes, b"aabb");
        assert_eq!(pieces[1].blocks, ByteRange::new(30, 50));
        assert_eq!(pieces[1].hashes, b"ccdd");
        let changed = run.differing_from(b"aaXXccdd", 10, 2);
        assert_eq!(changed, [Announced { blocks: ByteRange::new(20, 30), hashes: b"bb".to_vec() }]);
    }

    #[test]
    fn a_run_counts_for_its_blocks_or_for_what_it_takes_without_them() {
        let held = |block_bytes: u64, count: u64, hash_len: usize| {
            let blocks = ByteRange::new(0, block_bytes * count);
            Announced { blocks, hashes: vec![0; count as usize * hash_len] }.held_bytes()
        };
        assert_eq!(held(4096, 1, 64), 4096);
        assert_eq!(held(512, 2000, 64), 512 * 2000);
        assert_eq!(held(64, 1, 32), RUN_HELD_BYTES_MIN);
        assert_eq!(held(1, 2000, 32), 2000 * 32 * HASH_WEIGHT);
        let run = Announced { blocks: ByteRange::new(0, 1000), hashes: vec![0; 32_000] };
        let pieces: Vec<_> = run.pieces(64 * KIB, 1, 32).collect();
        assert_eq!(pieces.len(), 2);
        assert!(pieces.iter().all(|piece| piece.held_bytes() <= 64 * KIB));
    }
}

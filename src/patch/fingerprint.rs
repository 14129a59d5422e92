//! A short summary of the hashes of many blocks, from which the differing part can be told.
//!
//! Hashes come in one by one, their number unknown. They are the leaves of a binary tree of
//! digests; kept is one level of it, the lowest that has at most [`PARTS_MAX`] full nodes:
//!
//! ```text
//!   parts      P0 = H(L0 L1)   P1 = H(L2 L3)   P2 = L4 (not full)       level 1
//!   leaves     L0      L1      L2      L3      L4                       L = H(hash of a block)
//! ```
//! Two summaries of equally many blocks have the same shape, so they are compared part by part.

use crate::units::ByteRange;

/// The most full parts; one that is not full may follow.
pub const PARTS_MAX: usize = 128;
/// Bytes of a part's digest that are kept.
pub const PART_BYTES: usize = 16;
/// Bytes of the digest of everything.
pub const WHOLE_BYTES: usize = 32;

type Node = [u8; WHOLE_BYTES];

/// What is kept of the hashes of some blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// How many blocks.
    pub blocks: u64,
    /// Every part but the last covers 2 to the power of this many blocks.
    pub level: u8,
    /// Digest of all parts' full digests.
    pub whole: [u8; WHOLE_BYTES],
    /// The first bytes of each part's digest.
    pub parts: Vec<[u8; PART_BYTES]>,
}

/// Gathers a [`Fingerprint`] in bounded memory.
#[derive(Clone, Debug, Default)]
pub struct FingerprintBuilder {
    blocks: u64,
    level: u8,
    parts: Vec<Part>,
    /// Nodes below `level` that wait for their right sibling; their levels descend.
    open: Vec<(u8, Part)>,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    node: Node,
    /// From the first block's start to the last block's end.
    range: ByteRange,
}

impl Part {
    fn join(left: Self, right: Self) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"node").update(&left.node).update(&right.node);
        Self {
            node: *hasher.finalize().as_bytes(),
            range: ByteRange::new(left.range.start, right.range.end),
        }
    }
}

impl FingerprintBuilder {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the hash of the next block, which lies at `range`.
    pub fn add(&mut self, range: ByteRange, hash: &[u8]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"leaf").update(hash);
        let mut part = Part { node: *hasher.finalize().as_bytes(), range };
        let mut level = 0;
        self.blocks += 1;
        loop {
            if level == self.level {
                if self.parts.len() < PARTS_MAX {
                    self.parts.push(part);
                    return;
                }
                let pairs = self.parts.chunks_exact(2);
                self.parts = pairs.map(|pair| Part::join(pair[0], pair[1])).collect();
                self.level += 1;
            }
            match self.open.pop() {
                Some((at, left)) if at == level => {
                    part = Part::join(left, part);
                    level += 1;
                }
                other => {
                    self.open.extend(other);
                    self.open.push((level, part));
                    return;
                }
            }
        }
    }

    /// The summary, and the bytes of the device that each of its parts covers.
    #[must_use]
    pub fn finish(mut self) -> (Fingerprint, Vec<ByteRange>) {
        let rest = self.open.iter().rev().map(|(_, part)| *part);
        if let Some(last) = rest.reduce(|right, left| Part::join(left, right)) {
            self.parts.push(last);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"whole").update(&self.blocks.to_le_bytes());
        for part in &self.parts {
            hasher.update(&part.node);
        }
        let cut = |part: &Part| {
            let mut kept = [0; PART_BYTES];
            kept.copy_from_slice(&part.node[..PART_BYTES]);
            kept
        };
        let fingerprint = Fingerprint {
            blocks: self.blocks,
            level: self.level,
            whole: *hasher.finalize().as_bytes(),
            parts: self.parts.iter().map(cut).collect(),
        };
        (fingerprint, self.parts.iter().map(|part| part.range).collect())
    }
}

impl Fingerprint {
    /// How many parts a summary of `blocks` blocks at `level` has; `None` for an impossible level.
    #[must_use]
    pub fn part_count(blocks: u64, level: u8) -> Option<u64> {
        1u64.checked_shl(u32::from(level)).map(|per_part| blocks.div_ceil(per_part))
    }

    /// Indices of the parts that differ between two summaries of equally many blocks, ascending;
    /// all of them when the shapes or only the digests of everything differ.
    #[must_use]
    pub fn differing_parts(&self, other: &Self) -> Vec<usize> {
        if self == other {
            return vec![];
        }
        let pairs = self.parts.iter().zip(&other.parts).enumerate();
        let differing: Vec<_> = pairs.filter(|(_, (a, b))| a != b).map(|(i, _)| i).collect();
        let same_shape = (self.blocks, self.level) == (other.blocks, other.level);
        if same_shape && !differing.is_empty() {
            differing
        } else {
            (0..self.parts.len()).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(hashes: impl IntoIterator<Item = u64>) -> (Fingerprint, Vec<ByteRange>) {
        let mut builder = FingerprintBuilder::new();
        for (i, hash) in (0..).zip(hashes) {
            builder.add(ByteRange::new(i * 10, i * 10 + 10), &hash.to_le_bytes());
        }
        builder.finish()
    }

    #[test]
    fn shape_depends_on_the_number_of_blocks_only() {
        for blocks in (0..700).chain([4095, 4096, 4097, 10_000]) {
            let (print, ranges) = of(0..blocks);
            assert_eq!(print.blocks, blocks);
            let count = Fingerprint::part_count(blocks, print.level).unwrap();
            assert_eq!((print.parts.len() as u64, ranges.len() as u64), (count, count));
            assert!(count <= PARTS_MAX as u64 + 1 && (blocks < 200 || count > 60), "{blocks}");
            let mut end = 0;
            for range in ranges {
                assert_eq!(range.start, end, "{blocks}");
                end = range.end;
            }
            assert_eq!(end, blocks * 10);
        }
    }

    #[test]
    fn where_no_part_differs_but_the_whole_all_of_them_may() {
        let (before, _) = of(0..300);
        let mut after = before.clone();
        after.whole[WHOLE_BYTES - 1] ^= 1;
        assert_eq!(before.differing_parts(&after), Vec::from_iter(0..before.parts.len()));
    }

    #[test]
    fn a_changed_block_is_found_in_its_part_alone() {
        for blocks in [1, 2, 127, 128, 129, 130, 257, 1000] {
            let (before, ranges) = of(0..blocks);
            for changed in [0, blocks / 2, blocks - 1] {
                let (after, _) = of((0..blocks).map(|i| if i == changed { 1 << 40 } else { i }));
                let parts = before.differing_parts(&after);
                assert_eq!(parts.len(), 1, "block {changed} of {blocks}");
                assert!(ranges[parts[0]].contains(changed * 10));
                assert_ne!(before.whole, after.whole);
            }
        }
    }

    #[test]
    fn order_and_number_of_blocks_count() {
        assert_ne!(of([1, 2]).0.whole, of([2, 1]).0.whole);
        assert_ne!(of([1]).0.whole, of([1, 1]).0.whole);
        assert_eq!(of([1, 2]).0.differing_parts(&of([1, 2, 3]).0).len(), 2);
    }
}

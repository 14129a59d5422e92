//! The steps of a coarse-to-fine comparison, chosen for a block size and a peer. Pure.
//!
//! ```text
//!   own server       tree nodes of 16^k leaves ... 16 leaves, one leaf, then blocks
//!   own, in a hurry  tree nodes one level below those, then blocks at once
//!   classic server   one coarse block, then blocks
//!   dense changes    blocks at once
//! ```
//! Going down a tree costs hashes on the wire but no second read: nodes are digests of their
//! children's hashes. A coarse block of the classic protocol has to be read again.

use crate::digest::{Algorithm, BlockHasher, node_leaves};
use crate::units::{KIB, MIB};
use crate::wire::{FIRST_LEAF_BYTES, FIRST_LOOK_BYTES};

/// Smallest leaf, in bytes, for digests whose speed does not depend on the length.
const LEAF_BYTES_SERIAL: u64 = 4 * KIB;
/// A flat coarse block covers this many bytes for every 16 bytes of hash, for the same reason.
const COARSE_BYTES: u64 = MIB;
/// Blocks that a segment, or one hash of the coarsest probe, covers at most: as many as a tree over
/// blocks of 512 bytes has below its top.
const SEGMENT_BLOCKS_MAX: u64 = 32 * KIB;

/// Most bytes of a segment, and of what one hash covers, over blocks of `block_bytes`: the hashes
/// of all its blocks have a few MiB at most. From blocks of 512 bytes on it limits nothing.
pub(super) fn segment_bytes_max(block_bytes: u64) -> u64 {
    SEGMENT_BLOCKS_MAX * block_bytes
}

/// Whether a BLAKE3 tree over blocks of `block_bytes` has the leaves and the top that it has over
/// the usual ones, which are those that a server answers unasked (extension `early`).
#[must_use]
pub fn has_usual_leaves(block_bytes: u64) -> bool {
    FIRST_LEAF_BYTES.is_multiple_of(block_bytes)
        && segment_bytes_max(block_bytes) >= FIRST_LOOK_BYTES
}

/// One step of a comparison: hashes of this coverage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Bytes that one leaf hash covers (of a flat probe: one hash).
    pub step_bytes: u64,
    /// Level in the tree, 0 for leaves; `None` for a flat probe, asked with classic messages.
    pub level: Option<u8>,
}

impl Probe {
    /// Bytes that one hash of this probe covers.
    #[must_use]
    pub fn cover_bytes(&self) -> u64 {
        self.step_bytes * node_leaves(self.level.unwrap_or(0))
    }
}

/// The probes of one comparison, coarse to fine. The last one's hashes cover one block each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    probes: Vec<Probe>,
}

impl Ladder {
    /// Blocks at once: for dense changes, and for peers that must be asked in order.
    #[must_use]
    pub fn direct(block_bytes: u64) -> Self {
        Self { probes: vec![Probe { step_bytes: block_bytes, level: None }] }
    }

    /// Tree nodes down to leaves, then blocks where a leaf is more than one block or has
    /// another hash.
    #[must_use]
    pub fn tree(block_bytes: u64, hasher: &BlockHasher) -> Self {
        let leaf_min = match hasher.algorithm() {
            Algorithm::Blake3 => FIRST_LEAF_BYTES,
            _ => LEAF_BYTES_SERIAL,
        };
        let leaf = leaf_min.div_ceil(block_bytes) * block_bytes;
        let mut top = 0u8;
        let top_max = segment_bytes_max(block_bytes);
        while leaf * node_leaves(top) < FIRST_LOOK_BYTES && leaf * node_leaves(top + 1) <= top_max {
            top += 1;
        }
        let mut probes: Vec<_> =
            (0..=top).rev().map(|level| Probe { step_bytes: leaf, level: Some(level) }).collect();
        if leaf != block_bytes || !hasher.leaves_are_blocks() {
            probes.push(Probe { step_bytes: block_bytes, level: None });
        }
        Self { probes }
    }

    /// The same with fewer probes, the shortest first: more hashes and fewer round trips. None
    /// where there is no probe to leave out.
    #[must_use]
    pub fn shortened(&self) -> Vec<Self> {
        match self.probes.as_slice() {
            [_, second, .., last] if self.probes.len() > 2 => {
                let shorter = [vec![*second, *last], self.probes[1..].to_vec()];
                shorter.into_iter().map(|probes| Self { probes }).collect()
            }
            _ => Vec::new(),
        }
    }

    /// One coarse block, then blocks: all that a classic server understands.
    #[must_use]
    pub fn flat(block_bytes: u64, algorithm: Algorithm) -> Self {
        let coarse_min = COARSE_BYTES * (algorithm.len() as u64).div_ceil(16);
        let coarse = coarse_min.min(segment_bytes_max(block_bytes)) / block_bytes * block_bytes;
        let mut ladder = Self::direct(block_bytes);
        if coarse > block_bytes {
            ladder.probes.insert(0, Probe { step_bytes: coarse, level: None });
        }
        ladder
    }

    /// The probes, coarse to fine; never empty.
    #[must_use]
    pub fn probes(&self) -> &[Probe] {
        &self.probes
    }

    /// Whether the last probe's hashes are compared with ours while going down; if not,
    /// whoever reads the blocks hashes and compares them.
    #[must_use]
    pub fn compares_blocks(&self) -> bool {
        self.probes.last().is_some_and(|probe| probe.level.is_some())
    }

    /// For how many probes local hashes are made while going down: for all but a last one that no
    /// tree covers.
    #[must_use]
    pub fn local_probes(&self) -> usize {
        self.probes.len() - usize::from(!self.compares_blocks())
    }

    /// Bytes that one hash of the coarsest probe covers.
    #[must_use]
    pub fn top_bytes(&self) -> u64 {
        self.probes[0].cover_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hasher(algorithm: Algorithm) -> BlockHasher {
        BlockHasher::new(algorithm, &[7; 32]).unwrap()
    }

    fn tree(block_bytes: u64, algorithm: Algorithm) -> Ladder {
        Ladder::tree(block_bytes, &hasher(algorithm))
    }

    fn universal(block_bytes: u64) -> Ladder {
        Ladder::tree(block_bytes, &hasher(Algorithm::Blake3).with_universal_leaves(true))
    }

    #[test]
    fn default_ladder_ends_at_blocks_and_starts_at_four_mebibytes() {
        for ladder in [tree(4096, Algorithm::Blake3), universal(4096)] {
            let covers: Vec<_> = ladder.probes().iter().map(Probe::cover_bytes).collect();
            assert_eq!(covers, [4 * MIB, 256 * KIB, 16 * KIB, 4 * KIB]);
            assert_eq!(ladder.probes()[3].level, None);
        }
    }

    #[test]
    fn leaf_of_another_hash_never_stands_for_a_block() {
        for block in [4096, 16384, 65536, 1 << 20] {
            let ladder = universal(block);
            let last = Probe { step_bytes: block, level: None };
            assert_eq!(ladder.probes().last(), Some(&last));
            assert!(!ladder.compares_blocks());
        }
    }

    #[test]
    fn leaf_of_one_block_needs_no_flat_probe() {
        let ladder = tree(65536, Algorithm::Blake3);
        assert_eq!(ladder.probes().last(), Some(&Probe { step_bytes: 65536, level: Some(0) }));
        let ladder = tree(4096, Algorithm::Md5);
        assert_eq!(ladder.probes().last(), Some(&Probe { step_bytes: 4096, level: Some(0) }));
    }

    #[test]
    fn every_cover_is_a_multiple_of_the_next_finer_one() {
        for block in [1, 7, 512, 1000, 4096, 100_000, 1 << 20, 16 << 20] {
            for algorithm in [Algorithm::Md5, Algorithm::Blake3, Algorithm::Sha512] {
                for ladder in
                    [tree(block, algorithm), Ladder::flat(block, algorithm), universal(block)]
                {
                    let covers: Vec<_> = ladder.probes().iter().map(Probe::cover_bytes).collect();
                    assert!(covers.windows(2).all(|w| w[0] % w[1] == 0));
                    assert_eq!(*covers.last().unwrap(), block);
                }
            }
        }
    }

    #[test]
    fn a_top_covers_few_blocks_but_at_least_four_mebibytes_of_ordinary_ones() {
        for block in [1, 2, 7, 16, 64, 100, 128, 200, 256, 511, 512, 513, 600, 1000, 4096, 65536] {
            for algorithm in [Algorithm::Md5, Algorithm::Blake3, Algorithm::Sha512] {
                for ladder in [tree(block, algorithm), Ladder::flat(block, algorithm)] {
                    let blocks = ladder.top_bytes() / block;
                    assert!(blocks <= SEGMENT_BLOCKS_MAX, "{blocks} blocks of {block}");
                }
                let top_bytes = tree(block, algorithm).top_bytes();
                assert!(block < 512 || top_bytes >= FIRST_LOOK_BYTES, "{top_bytes} over {block}");
            }
            let is_usual = tree(block, Algorithm::Blake3).probes()[0]
                == tree(4096, Algorithm::Blake3).probes()[0];
            assert_eq!(has_usual_leaves(block), is_usual, "{block}");
        }
    }

    #[test]
    fn unchanged_devices_cost_under_34_bytes_a_mebibyte() {
        // Headers of gettree and tree: 5 + 25 bytes each.
        let ladder = tree(4096, Algorithm::Blake3);
        let per_mib = (60 + Algorithm::Blake3.len() as u64) * MIB / ladder.top_bytes();
        assert!(per_mib < 34, "{per_mib}");
    }
}

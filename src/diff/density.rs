//! Chooses between coarse-to-fine and blocks at once, by how dense the changes are. Pure.
//!
//! Looking at coarse hashes first pays while few of them differ. Where most do, the second
//! look costs more than the first one saved, so blocks are asked for at once; now and then one
//! segment is looked at from the top again, to notice that the dense part has ended.
//!
//! A walk begins in a hurry: until its first differing bytes come in, the link has nothing to
//! carry, so that hashes which save round trips cost no time.

use std::collections::VecDeque;
use std::sync::Arc;

use super::descent::HashLengths;
use super::ladder::{Ladder, Probe, segment_bytes_max};
use crate::digest::BlockHasher;
use crate::units::MIB;
use crate::wire::HURRIED_SHARES;

/// Segments asked for directly between two looks from the top.
const DIRECT_RUN: u32 = 15;
/// A segment is at least this long, so that requests and answers have something to carry.
const SEGMENT_BYTES_MIN: u64 = 4 * MIB;
/// Bytes of one segment where the local device has a hole: nothing is read there, so what
/// counts is how few questions are asked.
const HOLE_SEGMENT_BYTES: u64 = 64 * MIB;
/// The same in segments, where blocks are so small that there may be many hashes of them.
const HOLE_SEGMENTS: u64 = 4;
/// From so many bytes on, what hashes of blocks take is small beside the blocks: of all that may be
/// looked at at once 16 MiB.
const ORDINARY_BLOCK_BYTES: u64 = 4096;
/// Segments looked at from the top before anything is known, where that may be for nothing.
const FLAT_SEGMENTS_AT_FIRST: usize = 8;
/// Weight of the newest segment in the moving average, as a divisor.
const MEMORY: f64 = 4.0;

/// The ladders to choose from, and what was seen so far.
pub struct Density {
    coarse: Arc<Ladder>,
    direct: Arc<Ladder>,
    /// For the bytes that are looked at in a hurry, and how many are left of them.
    hurry: VecDeque<(Arc<Ladder>, u64)>,
    /// Above this share of bytes that reach the last probe, going down is dearer.
    threshold: f64,
    average: f64,
    since_probe: u32,
}

/// Share of the bytes reaching the last probe above which going down a tree is dearer than
/// hashing blocks at once: a leaf hashes about twice as fast as its blocks, reading included.
const THRESHOLD_TREE: f64 = 0.5;
/// The same where leaves have the faster hash: four to five times as fast.
const THRESHOLD_UNIVERSAL: f64 = 0.75;
/// The same without a tree, where a coarse block that differs is read and hashed twice.
const THRESHOLD_FLAT: f64 = 0.125;

impl Density {
    /// The choice for a peer: `tree` when it has that extension, `in_order` when it must be
    /// asked for every block once and in ascending order.
    #[must_use]
    pub fn for_peer(block_bytes: u64, hasher: &BlockHasher, tree: bool, in_order: bool) -> Self {
        let direct = Ladder::direct(block_bytes);
        if in_order {
            return Self::new(direct.clone(), direct, 1.0);
        }
        if !tree {
            return Self::new(
                Ladder::flat(block_bytes, hasher.algorithm()),
                direct,
                THRESHOLD_FLAT,
            );
        }
        let coarse = Ladder::tree(block_bytes, hasher);
        // Where leaves are blocks, going down costs no second look, so it always pays.
        let threshold = match (coarse.compares_blocks(), hasher.leaves_are_blocks()) {
            (true, _) => 1.0,
            (false, true) => THRESHOLD_TREE,
            (false, false) => THRESHOLD_UNIVERSAL,
        };
        Self::new(coarse, direct, threshold)
    }

    /// A choice between `coarse` and `direct`; `threshold` is a share, 0 to 1, of the bytes
    /// that reach the last probe.
    #[must_use]
    pub fn new(coarse: Ladder, direct: Ladder, threshold: f64) -> Self {
        let (coarse, direct) = (Arc::new(coarse), Arc::new(direct));
        Self { coarse, direct, hurry: VecDeque::new(), threshold, average: 0.0, since_probe: 0 }
    }

    /// Of a walk over `compared_bytes`, looks at the beginning in a hurry. So small a part that
    /// an unchanged device stays within its bytes on the wire.
    #[must_use]
    pub fn with_hurry(mut self, compared_bytes: u64) -> Self {
        let shorter = self.coarse.shortened().into_iter().map(Arc::new);
        let bytes = HURRIED_SHARES.map(|share| compared_bytes / share);
        self.hurry = shorter.zip(bytes).collect();
        self
    }

    /// How many segments to ask for before the first answer shows how dense the changes are.
    /// A flat first look costs as much as the second, so where it may be for nothing it begins
    /// small; all others begin with all that fits, which saves round trips on a long link.
    #[must_use]
    pub fn segments_at_first(&self) -> usize {
        let is_flat = self.coarse.probes().iter().all(|probe| probe.level.is_none());
        if is_flat && self.coarse.probes().len() > 1 { FLAT_SEGMENTS_AT_FIRST } else { usize::MAX }
    }

    /// The ladder for the next segment, of `bytes`.
    pub fn choose(&mut self, bytes: u64) -> Arc<Ladder> {
        while let Some((ladder, left)) = self.hurry.front_mut() {
            if bytes <= *left {
                *left -= bytes;
                return Arc::clone(ladder);
            }
            self.hurry.pop_front();
        }
        if self.average <= self.threshold || self.since_probe >= DIRECT_RUN {
            self.since_probe = 0;
            return Arc::clone(&self.coarse);
        }
        self.since_probe += 1;
        Arc::clone(&self.direct)
    }

    /// Says how a segment of `segment_bytes` went: `candidate_bytes` had to be compared block
    /// by block. Segments that were asked for directly say nothing.
    pub fn learn(&mut self, used: &Arc<Ladder>, segment_bytes: u64, candidate_bytes: u64) {
        if Arc::ptr_eq(used, &self.coarse) && segment_bytes > 0 {
            #[expect(clippy::cast_precision_loss, reason = "a share, not an amount")]
            let share = candidate_bytes as f64 / segment_bytes as f64;
            self.average += (share - self.average) / MEMORY;
        }
    }

    /// Bytes of hashes that looking at `bytes` may take: our own that the finer ladder needs, and
    /// where blocks are small the remote's of all blocks, should all of them differ.
    #[must_use]
    pub fn hash_bytes(&self, bytes: u64, lengths: HashLengths) -> u64 {
        let compared = |probe: &&Probe| probe.level.is_some();
        let finest = self.coarse.probes().iter().rev().find(compared);
        let step_bytes = finest.map_or_else(|| self.block_bytes(), |leaf| leaf.step_bytes);
        let ours = bytes.div_ceil(step_bytes).saturating_mul(lengths.tree as u64);
        if self.block_bytes() >= ORDINARY_BLOCK_BYTES {
            return ours;
        }
        let theirs = bytes.div_ceil(self.block_bytes()).saturating_mul(lengths.block as u64);
        ours.saturating_add(theirs)
    }

    fn block_bytes(&self) -> u64 {
        self.direct.top_bytes()
    }

    /// Bytes of one segment: whole coarsest probes of either ladder.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        let top = self.coarse.top_bytes();
        SEGMENT_BYTES_MIN.min(segment_bytes_max(self.block_bytes())).div_ceil(top) * top
    }

    /// Bytes of one segment where the local device has a hole, at most, but for a whole segment.
    #[must_use]
    pub fn hole_segment_bytes(&self) -> u64 {
        HOLE_SEGMENT_BYTES.min(HOLE_SEGMENTS * segment_bytes_max(self.block_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;

    fn tree(block_bytes: u64) -> Ladder {
        let hasher = BlockHasher::new(Algorithm::Blake3, &[7; 32]).unwrap();
        Ladder::tree(block_bytes, &hasher)
    }

    #[test]
    fn dense_changes_turn_to_blocks_at_once_and_come_back() {
        let coarse = tree(4096);
        let mut density = Density::new(coarse.clone(), Ladder::direct(4096), 0.5);
        for _ in 0..8 {
            let used = density.choose(100);
            assert_eq!(*used, coarse);
            density.learn(&used, 100, 100);
            if density.average > 0.5 {
                break;
            }
        }
        let direct = (0..DIRECT_RUN).filter(|_| *density.choose(100) != coarse).count();
        assert_eq!(direct, DIRECT_RUN as usize);
        for _ in 0..8 {
            density.since_probe = DIRECT_RUN;
            let used = density.choose(100);
            assert_eq!(*used, coarse, "a look from the top now and then");
            density.learn(&used, 100, 0);
        }
        assert_eq!(*density.choose(100), coarse);
        density.since_probe = 0;
        assert_eq!(*density.choose(100), coarse);
    }

    #[test]
    fn a_walk_begins_in_a_hurry() {
        let coarse = tree(4096);
        let short = coarse.shortened();
        let covers = |ladder: &Ladder| -> Vec<_> {
            ladder.probes().iter().map(|probe| probe.cover_bytes() / 1024).collect()
        };
        assert_eq!(short.iter().map(covers).collect::<Vec<_>>(), [vec![256, 4], vec![256, 16, 4]]);
        let mut density = Density::new(coarse.clone(), Ladder::direct(4096), 0.5)
            .with_hurry(300 * HURRIED_SHARES[0]);
        for (bytes, ladder) in [(200, &short[0]), (100, &short[0]), (599, &short[1])] {
            assert_eq!(*density.choose(bytes), *ladder);
        }
        assert_eq!(*density.choose(2), coarse);
        let flat = Ladder::flat(4096, Algorithm::Md5);
        let mut density = Density::new(flat.clone(), Ladder::direct(4096), 0.5).with_hurry(4800);
        assert_eq!(*density.choose(1), flat, "two probes are as few as there can be");
    }

    #[test]
    fn hashes_of_small_blocks_stay_within_mebibytes_and_ordinary_ones_unlimited() {
        for algorithm in [Algorithm::Md5, Algorithm::Blake3, Algorithm::Sha512] {
            let hasher = BlockHasher::new(algorithm, &[7; 32]).unwrap();
            let lengths = HashLengths { block: hasher.hash_len(), tree: hasher.tree_hash_len() };
            for (block_bytes, has_tree) in [1, 4, 16, 64, 100, 256, 511, 512, 1000, 4095, 4096]
                .map(|b| [(b, true), (b, false)])
                .concat()
            {
                let density = Density::for_peer(block_bytes, &hasher, has_tree, false);
                let segment_bytes = density.segment_bytes();
                let theirs = |bytes| bytes / block_bytes * lengths.block as u64;
                let shown = format!("{block_bytes} bytes, {algorithm:?}, tree {has_tree}");
                if block_bytes < ORDINARY_BLOCK_BYTES {
                    assert!(theirs(segment_bytes) <= 3 * MIB, "{shown}");
                    assert!(theirs(density.hole_segment_bytes()) <= 8 * MIB, "{shown}");
                    let counted = density.hash_bytes(segment_bytes, lengths);
                    assert!(counted > theirs(segment_bytes), "{shown}");
                } else {
                    assert!(segment_bytes >= SEGMENT_BYTES_MIN, "{shown}");
                    assert_eq!(density.hole_segment_bytes(), HOLE_SEGMENT_BYTES, "{shown}");
                }
            }
        }
    }
}

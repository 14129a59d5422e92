//! One comparison from coarse to fine, as a state machine without I/O.
//!
//! ```text
//!   start() --> Ask(remote hashes of the top probe), HashLocal(the whole range, once)
//!      both there: compare --> differing nodes --> Ask(their children) --> compare --> ...
//!                                  none: Finished([])
//!      last probe: the remote hashes of the blocks that may differ --> Finished(candidates)
//! ```
//! Our own hashes are made once for all probes that a tree covers; the blocks of a candidate
//! are hashed by whoever reads them, so that what is written is what was hashed.

use std::sync::Arc;

use super::compare::{Announced, differing};
use super::ladder::{Ladder, Probe};
use crate::units::{ByteRange, push_joined};

/// A list of remote hashes that is needed to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Number of this ask within its comparison; the answer carries it.
    pub index: usize,
    /// Which hashes.
    pub probe: Probe,
    /// First byte of the first hash's coverage.
    pub start: u64,
    /// How many hashes; their bytes fit one message.
    pub count: u64,
}

/// What the caller has to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the remote side for these lists, at least one and all of one probe, and pass each answer
    /// to [`Descent::remote`].
    Ask(Vec<Ask>),
    /// Hash the local side for the first `probes` probes over the whole range, and pass the
    /// lists to [`Descent::local`].
    HashLocal {
        /// The range, aligned to the coarsest probe.
        range: ByteRange,
        /// How many probes of the ladder need local hashes.
        probes: usize,
    },
    /// Done: the blocks that may differ, with their remote hashes, ascending.
    Finished(Vec<Announced>),
}

/// Lengths of hashes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashLengths {
    /// Of blocks.
    pub block: usize,
    /// Of a tree's leaves and nodes. The same where leaves are compared in place of blocks.
    pub tree: usize,
}

/// One comparison of one range.
pub struct Descent {
    ladder: Arc<Ladder>,
    lengths: HashLengths,
    hashes_bytes_max: usize,
    /// Where local hashes start: the range aligned to the coarsest probe.
    aligned: ByteRange,
    /// The bytes in question; nothing behind its end is asked for at block level.
    wanted: ByteRange,
    /// Index of the probe that is being compared.
    stage: usize,
    asks: Vec<(ByteRange, Option<Vec<u8>>)>,
    missing: usize,
    local: Option<Vec<Vec<u8>>>,
}

impl Descent {
    /// A comparison of `wanted`, whose start must be a multiple of the block size, by hashes of
    /// these `lengths`. An answer holds at most `hashes_bytes_max` bytes of them.
    #[must_use]
    pub fn new(
        ladder: Arc<Ladder>,
        lengths: HashLengths,
        hashes_bytes_max: usize,
        wanted: ByteRange,
    ) -> Self {
        let aligned = wanted.align_out(ladder.top_bytes());
        Self {
            ladder,
            lengths,
            hashes_bytes_max,
            aligned,
            wanted,
            stage: 0,
            asks: Vec::new(),
            missing: 0,
            local: None,
        }
    }

    /// The first actions.
    pub fn start(&mut self) -> Vec<Action> {
        if self.wanted.is_empty() {
            return vec![Action::Finished(Vec::new())];
        }
        let mut actions = vec![Action::Ask(self.ask(&[self.wanted]))];
        let probes = self.ladder.local_probes();
        if probes > 0 {
            actions.push(Action::HashLocal { range: self.aligned, probes });
        }
        actions
    }

    /// Takes the answer to ask number `index`.
    ///
    /// # Panics
    /// When the answer is not of the length that was asked for; the peer checks that.
    pub fn remote(&mut self, index: usize, hashes: Vec<u8>) -> Vec<Action> {
        let (cover, hash_len) = (self.probe().cover_bytes(), self.hash_len());
        let (range, slot) = &mut self.asks[index];
        let expected = range.len().div_ceil(cover) as usize * hash_len;
        assert_eq!(hashes.len(), expected, "hashes of {range}");
        if slot.replace(hashes).is_none() {
            self.missing -= 1;
        }
        self.advance()
    }

    /// Takes the local hashes: for each probe asked for, a list over the whole range.
    pub fn local(&mut self, lists: Vec<Vec<u8>>) -> Vec<Action> {
        self.local = Some(lists);
        self.advance()
    }

    fn probe(&self) -> Probe {
        self.ladder.probes()[self.stage]
    }

    /// Length of the current probe's hashes.
    fn hash_len(&self) -> usize {
        if self.probe().level.is_some() { self.lengths.tree } else { self.lengths.block }
    }

    fn is_last(&self) -> bool {
        self.stage + 1 == self.ladder.probes().len()
    }

    /// Asks for the current probe's hashes of `ranges`, cut so that each answer fits a message.
    fn ask(&mut self, ranges: &[ByteRange]) -> Vec<Ask> {
        let probe = self.probe();
        let cover = probe.cover_bytes();
        self.asks.clear();
        for range in ranges {
            let whole = range.intersect(&self.wanted).align_out(cover);
            let hashes_max = (self.hashes_bytes_max / self.hash_len()) as u64;
            let piece_bytes = cover.saturating_mul(hashes_max);
            self.asks.extend(whole.pieces(piece_bytes).map(|piece| (piece, None)));
        }
        self.missing = self.asks.len();
        let ask = |(index, (range, _)): (usize, &(ByteRange, _))| {
            let count = range.len() / cover;
            Ask { index, probe, start: range.start, count }
        };
        self.asks.iter().enumerate().map(ask).collect()
    }

    fn advance(&mut self) -> Vec<Action> {
        let needs_local = self.stage < self.ladder.local_probes();
        if self.missing > 0 || (needs_local && self.local.is_none()) {
            return Vec::new();
        }
        if self.is_last() {
            return vec![Action::Finished(self.candidates())];
        }
        let changed = self.differing_nodes();
        if changed.is_empty() {
            return vec![Action::Finished(Vec::new())];
        }
        self.stage += 1;
        let asks = self.ask(&changed);
        if asks.is_empty() {
            // Only nodes behind the compared end differ: the tail of a common part.
            return vec![Action::Finished(Vec::new())];
        }
        vec![Action::Ask(asks)]
    }

    /// Our own hashes of the current probe for `range`, when they were made.
    fn own(&self, range: ByteRange) -> Option<&[u8]> {
        let list = self.local.as_ref()?.get(self.stage)?;
        let cover = self.probe().cover_bytes();
        let index =
            |offset: u64| ((offset - self.aligned.start) / cover) as usize * self.hash_len();
        Some(&list[index(range.start)..index(range.end)])
    }

    fn differing_nodes(&self) -> Vec<ByteRange> {
        let mut changed = Vec::new();
        for (range, theirs) in &self.asks {
            let (Some(ours), Some(theirs)) = (self.own(*range), theirs) else { continue };
            let cover = self.probe().cover_bytes();
            for part in differing(*range, cover, self.hash_len(), ours, theirs) {
                push_joined(&mut changed, part);
            }
        }
        changed
    }

    fn candidates(&mut self) -> Vec<Announced> {
        let block_bytes = self.probe().cover_bytes();
        let mut found = Vec::new();
        for (blocks, theirs) in std::mem::take(&mut self.asks) {
            let Some(hashes) = theirs else { continue };
            let announced = Announced { blocks, hashes };
            match self.own(blocks) {
                Some(ours) => {
                    found.extend(announced.differing_from(ours, block_bytes, self.hash_len()));
                }
                None => found.push(announced),
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::{Algorithm, BlockHasher};

    fn tree(block_bytes: u64, algorithm: Algorithm) -> Ladder {
        Ladder::tree(block_bytes, &BlockHasher::new(algorithm, &[7; 32]).unwrap())
    }

    const HASH_LEN: usize = 16;
    const LENGTHS: HashLengths = HashLengths { block: HASH_LEN, tree: HASH_LEN };

    /// A device of one number a block, and hashes of it that are collision-free by construction.
    struct Side(Vec<u64>);

    impl Side {
        fn block(&self, index: u64) -> u64 {
            self.0.get(index as usize).copied().unwrap_or(0)
        }

        fn hash(&self, probe: Probe, start: u64, block_bytes: u64) -> [u8; HASH_LEN] {
            let first = start / block_bytes;
            let blocks = first..first + probe.cover_bytes() / block_bytes;
            let mix = blocks.fold(0u128, |sum, index| {
                sum.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(u128::from(self.block(index)))
            });
            mix.to_le_bytes()
        }

        fn hashes(&self, probe: Probe, range: ByteRange, block_bytes: u64) -> Vec<u8> {
            let starts = (range.start..range.end).step_by(probe.cover_bytes() as usize);
            starts.flat_map(|start| self.hash(probe, start, block_bytes)).collect()
        }
    }

    /// Drives a descent to its end; answers come in the order that `shuffle` picks.
    fn drive(
        ladder: &Arc<Ladder>,
        sides: (&Side, &Side),
        block_bytes: u64,
        wanted: ByteRange,
        hashes_max: usize,
        mut shuffle: u64,
    ) -> Vec<Announced> {
        let mut descent = Descent::new(Arc::clone(ladder), LENGTHS, hashes_max, wanted);
        let mut queue = descent.start();
        loop {
            assert!(!queue.is_empty(), "a comparison that waits for nothing");
            shuffle = shuffle.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let next = queue.remove((shuffle >> 33) as usize % queue.len());
            let more = match next {
                Action::Finished(found) => return found,
                Action::HashLocal { range, probes } => {
                    let probes = &ladder.probes()[..probes];
                    let lists = probes.iter().map(|&p| sides.0.hashes(p, range, block_bytes));
                    descent.local(lists.collect())
                }
                Action::Ask(mut asks) => {
                    // One of them now, the others some time.
                    let Ask { index, probe, start, count } =
                        asks.swap_remove((shuffle >> 13) as usize % asks.len());
                    if !asks.is_empty() {
                        queue.push(Action::Ask(asks));
                    }
                    let range = ByteRange::new(start, start + count * probe.cover_bytes());
                    let hashes = sides.1.hashes(probe, range, block_bytes);
                    assert!(hashes.len() <= hashes_max, "fits one answer");
                    descent.remote(index, hashes)
                }
            };
            queue.extend(more);
        }
    }

    proptest! {
        /// Candidates cover every block that differs; where the ladder compares blocks, and for
        /// all ladders once blocks are compared, they are exactly those. The ladder, the size of
        /// answers and their order change nothing.
        #[test]
        fn finds_exactly_what_differs_whatever_the_ladder(
            blocks in 1u64..3000,
            changes in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
            which in 0usize..5,
            per_answer in 1usize..300,
            shuffle in any::<u64>(),
        ) {
            let block_bytes = 2048;
            let ladder = Arc::new(match which {
                0 => Ladder::direct(block_bytes),
                1 => Ladder::flat(block_bytes, Algorithm::Md5),
                2 => tree(block_bytes, Algorithm::Md5),
                3 => tree(block_bytes, Algorithm::Blake3),
                _ => {
                    let hasher = BlockHasher::new(Algorithm::Blake3, &[7; 32]).unwrap();
                    Ladder::tree(block_bytes, &hasher.with_universal_leaves(true))
                }
            });
            let ours = Side((0..blocks).map(|b| b + 1).collect());
            let mut theirs = Side(ours.0.clone());
            for change in changes {
                theirs.0[change.index(blocks as usize)] ^= 0xFFFF_0000;
            }
            let expected: Vec<u64> =
                (0..blocks).filter(|&b| ours.block(b) != theirs.block(b)).collect();
            let wanted = ByteRange::new(0, blocks * block_bytes);
            let max = per_answer * HASH_LEN;
            let found = drive(&ladder, (&ours, &theirs), block_bytes, wanted, max, shuffle);
            let flat = Probe { step_bytes: block_bytes, level: None };
            let mut differing = Vec::new();
            for run in &found {
                prop_assert_eq!(&run.hashes, &theirs.hashes(flat, run.blocks, block_bytes));
                let own = ours.hashes(flat, run.blocks, block_bytes);
                for part in run.differing_from(&own, block_bytes, HASH_LEN) {
                    differing.extend((part.blocks.start..part.blocks.end).step_by(2048).map(|o| o / 2048));
                }
                if ladder.compares_blocks() {
                    prop_assert_eq!(run.differing_from(&own, block_bytes, HASH_LEN).len(), 1);
                }
            }
            prop_assert_eq!(differing, expected);
        }
    }

    #[test]
    fn an_unchanged_range_takes_one_question() {
        let ladder = Arc::new(tree(4096, Algorithm::Blake3));
        let mut descent = Descent::new(ladder, LENGTHS, 1 << 17, ByteRange::new(0, 4 << 20));
        let actions = descent.start();
        let Action::Ask(asks) = &actions[0] else { panic!("{actions:?}") };
        assert!(matches!(asks[..], [Ask { count: 1, .. }]), "{actions:?}");
        assert!(matches!(actions[1], Action::HashLocal { probes: 3, .. }), "{actions:?}");
        assert!(descent.remote(0, vec![7; HASH_LEN]).is_empty());
        let lists = [1, 16, 256].map(|n| vec![7; n * HASH_LEN]);
        assert_eq!(descent.local(lists.to_vec()), [Action::Finished(vec![])]);
    }

    #[test]
    fn nothing_is_asked_for_an_empty_range() {
        let ladder = Arc::new(Ladder::direct(4096));
        let mut descent = Descent::new(ladder, LENGTHS, 1 << 17, ByteRange::new(0, 0));
        assert_eq!(descent.start(), [Action::Finished(vec![])]);
    }
}

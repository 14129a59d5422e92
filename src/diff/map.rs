//! What is known of every block: nothing yet, same, or differs. Pure.
//!
//! ```text
//!   Map ---- chunk of CHUNK_BLOCKS blocks ---- Unknown | Same | Differs   (16 bytes each)
//!        \-- ...                           \-- Runs: a list of them           (map/runs.rs)
//!                                          \-- Bits: two bits a block         (map/bits.rs)
//! ```
//! Chunks that nobody touched, and those that turned out uniform, cost nothing but their slot, and
//! those with few runs half a KiB: 1 TiB in blocks of 4 KiB takes 128 KiB while unknown, 5 MiB
//! where 0.1 % of the blocks differ, wherever they are, and 65 MiB where many do. Each chunk's
//! counts serve as the rank index: how many blocks differ below an offset.

mod bits;
mod runs;

use bits::Bits;
use runs::Runs;

/// The most blocks that a map is made for: their slots take 64 MiB, whatever is known of them. In
/// blocks of 4 KiB that is 512 TiB.
pub const BLOCKS_MAX: u64 = 1 << 37;
/// Blocks in one chunk.
pub const CHUNK_BLOCKS: u64 = 1 << 15;

/// What is known of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not compared yet.
    Unknown,
    /// The same on both sides.
    Same,
    /// Its hashes differ.
    Differs,
}

/// What is known of the blocks of a chunk, numbered from 0.
enum Chunk {
    Uniform(State),
    Runs(Box<Runs>),
    Bits(Box<Bits>),
}

/// What is known of `blocks` blocks, numbered from 0.
pub struct Map {
    blocks: u64,
    chunks: Vec<Chunk>,
    known_blocks: u64,
    differing_blocks: u64,
}

impl Map {
    /// A map of `blocks` blocks, [`BLOCKS_MAX`] at most, of which nothing is known.
    #[must_use]
    pub fn new(blocks: u64) -> Self {
        let chunks = (0..blocks.div_ceil(CHUNK_BLOCKS)).map(|_| Chunk::Uniform(State::Unknown));
        Self { blocks, chunks: chunks.collect(), known_blocks: 0, differing_blocks: 0 }
    }

    /// How many blocks there are.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// How many blocks are known to differ.
    #[must_use]
    pub fn differing_blocks(&self) -> u64 {
        self.differing_blocks
    }

    /// What is known of `block`.
    ///
    /// # Panics
    /// When there is no such block, as everywhere in this type.
    #[must_use]
    pub fn state(&self, block: u64) -> State {
        assert!(block < self.blocks, "block {block} of {}", self.blocks);
        self.chunks[chunk_of(block)].state(block % CHUNK_BLOCKS)
    }

    /// Notes `state` for blocks `[start, end)`. What is known already stays as it was: a
    /// reader may have seen it.
    pub fn learn(&mut self, start: u64, end: u64, state: State) {
        assert!(start <= end && end <= self.blocks, "blocks [{start}, {end}) of {}", self.blocks);
        assert_ne!(state, State::Unknown, "nothing is forgotten");
        let mut at = start;
        while at < end {
            let chunk_start = at - at % CHUNK_BLOCKS;
            let chunk_len = CHUNK_BLOCKS.min(self.blocks - chunk_start);
            let stop = end.min(chunk_start + chunk_len);
            let chunk = &mut self.chunks[chunk_of(at)];
            let added = chunk.learn(at - chunk_start, stop - at, chunk_len, state);
            self.known_blocks += added;
            if state == State::Differs {
                self.differing_blocks += added;
            }
            at = stop;
        }
    }

    /// The first block at or behind `from` (and below `end`) whose state is, or is not, one of
    /// interest: `wanted` says so for a state. Uniform chunks are passed in one step.
    #[must_use]
    pub fn find(&self, from: u64, end: u64, wanted: impl Fn(State) -> bool) -> Option<u64> {
        let end = end.min(self.blocks);
        let mut at = from;
        while at < end {
            let chunk_start = at - at % CHUNK_BLOCKS;
            if let Some(found) = self.chunks[chunk_of(at)].find(at - chunk_start, &wanted) {
                let block = chunk_start + found;
                return (block < end).then_some(block);
            }
            at = chunk_start + CHUNK_BLOCKS;
        }
        None
    }

    /// The last block in `[start, end)` whose state is one of interest, as for [`Map::find`].
    #[must_use]
    pub fn find_back(&self, start: u64, end: u64, wanted: impl Fn(State) -> bool) -> Option<u64> {
        let mut end = end.min(self.blocks);
        while start < end {
            let chunk_start = (end - 1) - (end - 1) % CHUNK_BLOCKS;
            let found = self.chunks[chunk_of(chunk_start)].find_back(end - chunk_start, &wanted);
            if let Some(block) = found.map(|found| chunk_start + found) {
                return (block >= start).then_some(block);
            }
            end = chunk_start;
        }
        None
    }

    /// The blocks in `[from, end)` that are known to differ, ascending.
    pub fn differing(&self, from: u64, end: u64) -> impl Iterator<Item = u64> {
        let next = move |from| self.find(from, end, |state| state == State::Differs);
        std::iter::successors(next(from), move |block| next(block + 1))
    }

    /// The first unknown block in `[from, end)`.
    #[must_use]
    pub fn first_unknown(&self, from: u64, end: u64) -> Option<u64> {
        self.find(from, end, |state| state == State::Unknown)
    }

    /// How many of the blocks below `block` are known to differ.
    #[must_use]
    pub fn rank(&self, block: u64) -> u64 {
        let block = block.min(self.blocks);
        let whole = chunk_of(block);
        let below: u64 = self.chunks[..whole].iter().map(Chunk::differing).sum();
        let inside = block % CHUNK_BLOCKS;
        if inside == 0 {
            return below;
        }
        below + self.chunks[whole].rank(inside)
    }

    /// How many of the blocks below `block` are known.
    #[must_use]
    pub fn known_below(&self, block: u64) -> u64 {
        if block >= self.blocks {
            return self.known_blocks;
        }
        let whole = chunk_of(block);
        let below: u64 = self.chunks[..whole].iter().map(|chunk| chunk.known(CHUNK_BLOCKS)).sum();
        let mut at = block - block % CHUNK_BLOCKS;
        let mut known = below + (block - at);
        while let Some(unknown) = self.first_unknown(at, block) {
            at = self.find(unknown, block, |state| state != State::Unknown).unwrap_or(block);
            known -= at - unknown;
        }
        known
    }

    /// How many runs of blocks that are known to differ begin below `block`.
    #[must_use]
    pub fn runs(&self, block: u64) -> u64 {
        let end = block.min(self.blocks);
        let (mut runs, mut before) = (0, false);
        for (start, chunk) in (0..end).step_by(CHUNK_BLOCKS as usize).zip(&self.chunks) {
            runs += chunk.runs(CHUNK_BLOCKS.min(end - start), &mut before);
        }
        runs
    }

    /// The block that has exactly `rank` known differing blocks below it and differs itself.
    #[must_use]
    pub fn select(&self, rank: u64) -> Option<u64> {
        if rank >= self.differing_blocks {
            return None;
        }
        let mut left = rank;
        for (start, chunk) in (0u64..).step_by(CHUNK_BLOCKS as usize).zip(&self.chunks) {
            let here = chunk.differing();
            if left < here {
                return Some(start + chunk.select(left));
            }
            left -= here;
        }
        None
    }
}

fn chunk_of(block: u64) -> usize {
    (block / CHUNK_BLOCKS) as usize
}

impl Chunk {
    fn known(&self, chunk_len: u64) -> u64 {
        match self {
            Chunk::Uniform(State::Unknown) => 0,
            Chunk::Uniform(_) => chunk_len,
            Chunk::Runs(runs) => runs.known(),
            Chunk::Bits(bits) => bits.known(),
        }
    }

    fn differing(&self) -> u64 {
        match self {
            // The last chunk of a map may be shorter, but then nothing is ranked behind it.
            Chunk::Uniform(State::Differs) => CHUNK_BLOCKS,
            Chunk::Uniform(_) => 0,
            Chunk::Runs(runs) => runs.differing(),
            Chunk::Bits(bits) => bits.differing(),
        }
    }

    fn state(&self, index: u64) -> State {
        match self {
            Chunk::Uniform(state) => *state,
            Chunk::Runs(runs) => runs.state(index),
            Chunk::Bits(bits) => bits.state(index),
        }
    }

    /// Returns how many blocks of the chunk, which has `chunk_len`, became known.
    fn learn(&mut self, start: u64, len: u64, chunk_len: u64, state: State) -> u64 {
        let added = match self {
            Chunk::Uniform(State::Same | State::Differs) => return 0,
            Chunk::Uniform(State::Unknown) if len == chunk_len => {
                *self = Chunk::Uniform(state);
                return len;
            }
            Chunk::Uniform(State::Unknown) => {
                let mut runs = Runs::unknown();
                let added = runs.learn(start, len, state);
                *self = Chunk::Runs(runs);
                added
            }
            Chunk::Runs(runs) => runs.learn(start, len, state),
            Chunk::Bits(bits) => bits.learn(start, len, state),
        };
        self.simplify(chunk_len);
        added
    }

    /// Takes the form that fits best. Bits stay, since more and more of them are likely to differ.
    fn simplify(&mut self, chunk_len: u64) {
        if self.known(chunk_len) == chunk_len && self.differing() == 0 {
            *self = Chunk::Uniform(State::Same);
        } else if self.differing() == chunk_len {
            *self = Chunk::Uniform(State::Differs);
        } else if let Chunk::Runs(runs) = self
            && runs.are_too_many()
        {
            let mut bits = Bits::unknown();
            let known = runs.iter().filter(|&(_, _, state)| state != State::Unknown);
            known.for_each(|(start, end, state)| {
                bits.learn(start, end - start, state);
            });
            *self = Chunk::Bits(bits);
        }
    }

    fn find(&self, from: u64, wanted: impl Fn(State) -> bool) -> Option<u64> {
        match self {
            Chunk::Uniform(state) => wanted(*state).then_some(from),
            Chunk::Runs(runs) => runs.find(from, wanted),
            Chunk::Bits(bits) => bits.find(from, wanted),
        }
    }

    /// The last block below `end`, which is above 0.
    fn find_back(&self, end: u64, wanted: impl Fn(State) -> bool) -> Option<u64> {
        match self {
            Chunk::Uniform(state) => wanted(*state).then_some(end - 1),
            Chunk::Runs(runs) => runs.find_back(end, wanted),
            Chunk::Bits(bits) => bits.find_back(end, wanted),
        }
    }

    fn rank(&self, index: u64) -> u64 {
        match self {
            Chunk::Uniform(State::Differs) => index,
            Chunk::Uniform(_) => 0,
            Chunk::Runs(runs) => runs.rank(index),
            Chunk::Bits(bits) => bits.rank(index),
        }
    }

    /// How many runs begin in the first `len` blocks. `before` says whether the block before them
    /// differs, and then whether the last one does.
    fn runs(&self, len: u64, before: &mut bool) -> u64 {
        match self {
            Chunk::Uniform(state) => {
                let differs = *state == State::Differs;
                let continues = std::mem::replace(before, differs);
                u64::from(differs && !continues)
            }
            Chunk::Runs(runs) => runs.runs(len, before),
            Chunk::Bits(bits) => bits.runs(len, before),
        }
    }

    fn select(&self, rank: u64) -> u64 {
        match self {
            Chunk::Uniform(_) => rank,
            Chunk::Runs(runs) => runs.select(rank),
            Chunk::Bits(bits) => bits.select(rank),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Blocks of the naive model: one chunk and a part of another.
    const BLOCKS: u64 = CHUNK_BLOCKS + 100;

    proptest! {
        #[test]
        fn agrees_with_a_plain_vector(
            steps in prop::collection::vec((0..BLOCKS, 0..BLOCKS, any::<bool>()), 1..120),
            probes in prop::collection::vec(0..BLOCKS, 20),
        ) {
            let mut map = Map::new(BLOCKS);
            let mut model = vec![State::Unknown; BLOCKS as usize];
            for (start, len, differs) in steps {
                // Most steps are short, some cover chunks.
                let len = if len % 32 == 0 { len } else { len % 200 };
                let end = (start + len).min(BLOCKS);
                let state = if differs { State::Differs } else { State::Same };
                map.learn(start, end, state);
                for slot in &mut model[start as usize..end as usize] {
                    if *slot == State::Unknown { *slot = state; }
                }
            }
            let differs: Vec<u64> =
                (0..BLOCKS).filter(|&b| model[b as usize] == State::Differs).collect();
            let known = model.iter().filter(|&&s| s != State::Unknown).count() as u64;
            prop_assert_eq!(map.known_below(u64::MAX), known);
            prop_assert_eq!(map.differing_blocks(), differs.len() as u64);
            for block in probes {
                prop_assert_eq!(map.state(block), model[block as usize]);
                let rank = differs.partition_point(|&b| b < block) as u64;
                prop_assert_eq!(map.rank(block), rank);
                let below = model[..block as usize].iter().filter(|&&s| s != State::Unknown);
                prop_assert_eq!(map.known_below(block), below.count() as u64);
                prop_assert_eq!(map.select(rank), differs.get(rank as usize).copied());
                let begins = |&&b: &&u64| b == 0 || model[b as usize - 1] != State::Differs;
                let runs = differs[..rank as usize].iter().filter(begins).count();
                prop_assert_eq!(map.runs(block), runs as u64);
                let unknown = (block..BLOCKS).find(|&b| model[b as usize] == State::Unknown);
                prop_assert_eq!(map.first_unknown(block, BLOCKS), unknown);
                let next = differs.get(rank as usize).copied();
                prop_assert_eq!(map.find(block, BLOCKS, |s| s == State::Differs), next);
                let three = (block..BLOCKS).filter(|&b| model[b as usize] == State::Differs);
                prop_assert!(map.differing(block, BLOCKS).take(3).eq(three.take(3)));
                let start = block / 3;
                for wanted in [State::Unknown, State::Same, State::Differs] {
                    let last = (start..block).rev().find(|&b| model[b as usize] == wanted);
                    prop_assert_eq!(map.find_back(start, block, |s| s == wanted), last);
                }
            }
        }
    }

    #[test]
    fn untouched_and_uniform_chunks_hold_nothing() {
        let mut map = Map::new(4 * CHUNK_BLOCKS);
        map.learn(0, 2 * CHUNK_BLOCKS, State::Same);
        map.learn(2 * CHUNK_BLOCKS, 2 * CHUNK_BLOCKS + 5, State::Differs);
        map.learn(2 * CHUNK_BLOCKS + 5, 3 * CHUNK_BLOCKS, State::Differs);
        assert!(map.chunks.iter().all(|chunk| matches!(chunk, Chunk::Uniform(_))));
        assert_eq!(map.first_unknown(0, 4 * CHUNK_BLOCKS), Some(3 * CHUNK_BLOCKS));
    }

    #[test]
    fn a_run_over_the_end_of_a_chunk_is_one_whatever_their_forms() {
        // By what is learned of a chunk besides the run: nothing, or so much that it takes bits.
        let many = |map: &mut Map, from: u64| {
            (0..200).for_each(|i| map.learn(from + 2 * i, from + 2 * i + 1, State::Differs));
        };
        let middle = CHUNK_BLOCKS;
        for has_bits in [[false, false], [false, true], [true, false], [true, true]] {
            for (from, to) in [(middle - 9, middle + 5), (0, middle + 5), (middle - 9, 2 * middle)]
            {
                let mut map = Map::new(2 * CHUNK_BLOCKS);
                map.learn(from, to, State::Differs);
                let mut expected = 1;
                for (chunk, at) in [(0, 1000), (1, middle + 1000)] {
                    if has_bits[chunk] && !(from..to).contains(&at) {
                        many(&mut map, at);
                        assert!(matches!(map.chunks[chunk], Chunk::Bits(_)));
                        expected += 200;
                    }
                }
                assert_eq!(map.runs(2 * CHUNK_BLOCKS), expected, "[{from}, {to}) {has_bits:?}");
            }
        }
    }

    #[test]
    fn what_is_known_stays_as_it_was() {
        let mut map = Map::new(10);
        map.learn(0, 5, State::Same);
        map.learn(0, 10, State::Differs);
        assert_eq!(map.state(4), State::Same);
        assert_eq!(map.state(5), State::Differs);
        assert_eq!(map.differing_blocks(), 5);
    }

    #[test]
    fn chunks_take_what_their_runs_ask_for() {
        let mut map = Map::new(2 * CHUNK_BLOCKS);
        map.learn(0, CHUNK_BLOCKS, State::Same);
        assert!(size_of::<Chunk>() <= 16, "{}", size_of::<Chunk>());
        for block in 0..63 {
            map.learn(CHUNK_BLOCKS + 2 * block + 1, CHUNK_BLOCKS + 2 * block + 2, State::Differs);
            assert!(matches!(map.chunks[1], Chunk::Runs(_)), "{block}");
        }
        for block in 63..70 {
            map.learn(CHUNK_BLOCKS + 2 * block + 1, CHUNK_BLOCKS + 2 * block + 2, State::Differs);
        }
        assert!(matches!(map.chunks[1], Chunk::Bits(_)));
        assert_eq!(map.differing_blocks(), 70);
        assert_eq!(map.select(69), Some(CHUNK_BLOCKS + 139));
        // With many in every chunk of 1 TiB, in blocks of 4 KiB.
        let chunks = (1u64 << 40) / 4096 / CHUNK_BLOCKS;
        let bytes = chunks * (size_of::<Bits>() + size_of::<Chunk>()) as u64;
        assert!(bytes < 80 << 20, "{bytes}");
    }
}

//! What is known of every block: nothing yet, same, or differs. Pure.
//!
//! ```text
//!   Map ---- chunk of CHUNK_BLOCKS blocks ---- Unknown | Same | Differs   (16 bytes each)
//!        \-- ...                           \-- Mixed: two bits a block, and how many differ
//! ```
//! Chunks that nobody touched, and those that turned out uniform, cost nothing but their slot:
//! 1 TiB in blocks of 4 KiB takes 128 KiB while unknown and 65 MiB when every chunk is mixed.
//! The counts a chunk serve as the rank index: how many blocks differ below an offset.

/// The most blocks that a map is made for: their slots take 64 MiB, whatever is known of them. In
/// blocks of 4 KiB that is 512 TiB.
pub const BLOCKS_MAX: u64 = 1 << 37;
/// Blocks in one chunk.
pub const CHUNK_BLOCKS: u64 = 1 << 15;
const WORDS: usize = (CHUNK_BLOCKS / 64) as usize;

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

enum Chunk {
    Uniform(State),
    Mixed(Box<Bits>),
}

struct Bits {
    known: [u64; WORDS],
    differs: [u64; WORDS],
    known_count: u32,
    differs_count: u32,
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

    /// How many blocks are known.
    #[must_use]
    pub fn known_blocks(&self) -> u64 {
        self.known_blocks
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
        match &self.chunks[chunk_of(block)] {
            Chunk::Uniform(state) => *state,
            Chunk::Mixed(bits) => bits.state(block % CHUNK_BLOCKS),
        }
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
            self.learn_in_chunk(at, stop, chunk_len, state);
            at = stop;
        }
    }

    fn learn_in_chunk(&mut self, start: u64, stop: u64, chunk_len: u64, state: State) {
        let chunk = &mut self.chunks[chunk_of(start)];
        let added = match chunk {
            Chunk::Uniform(State::Same | State::Differs) => return,
            Chunk::Uniform(State::Unknown) if stop - start == chunk_len => {
                *chunk = Chunk::Uniform(state);
                stop - start
            }
            Chunk::Uniform(State::Unknown) => {
                let mut bits = Bits::unknown();
                let added = bits.learn(start % CHUNK_BLOCKS, stop - start, state);
                *chunk = Chunk::Mixed(bits);
                added
            }
            Chunk::Mixed(bits) => {
                let added = bits.learn(start % CHUNK_BLOCKS, stop - start, state);
                let (known, differs) = (u64::from(bits.known_count), u64::from(bits.differs_count));
                if known == chunk_len && differs == 0 {
                    *chunk = Chunk::Uniform(State::Same);
                } else if differs == chunk_len {
                    *chunk = Chunk::Uniform(State::Differs);
                }
                added
            }
        };
        self.known_blocks += added;
        if state == State::Differs {
            self.differing_blocks += added;
        }
    }

    /// The first block at or behind `from` (and below `end`) whose state is, or is not, one of
    /// interest: `wanted` says so for a state. Uniform chunks are passed in one step.
    #[must_use]
    pub fn find(&self, from: u64, end: u64, wanted: impl Fn(State) -> bool) -> Option<u64> {
        let end = end.min(self.blocks);
        let mut at = from;
        while at < end {
            let chunk_end = (at - at % CHUNK_BLOCKS) + CHUNK_BLOCKS;
            match &self.chunks[chunk_of(at)] {
                Chunk::Uniform(state) if wanted(*state) => return Some(at),
                Chunk::Uniform(_) => {}
                Chunk::Mixed(bits) => {
                    let found = bits.find(at % CHUNK_BLOCKS, &wanted);
                    if let Some(found) = found {
                        let block = chunk_end - CHUNK_BLOCKS + found;
                        return (block < end).then_some(block);
                    }
                }
            }
            at = chunk_end;
        }
        None
    }

    /// The last block in `[start, end)` whose state is one of interest, as for [`Map::find`].
    #[must_use]
    pub fn find_back(&self, start: u64, end: u64, wanted: impl Fn(State) -> bool) -> Option<u64> {
        let mut end = end.min(self.blocks);
        while start < end {
            let chunk_start = (end - 1) - (end - 1) % CHUNK_BLOCKS;
            let found = match &self.chunks[chunk_of(chunk_start)] {
                Chunk::Uniform(state) => wanted(*state).then_some(end - 1),
                Chunk::Mixed(bits) => {
                    bits.find_back(end - chunk_start, &wanted).map(|found| chunk_start + found)
                }
            };
            if let Some(block) = found {
                return (block >= start).then_some(block);
            }
            end = chunk_start;
        }
        None
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
        below
            + match &self.chunks[whole] {
                Chunk::Uniform(State::Differs) => inside,
                Chunk::Uniform(_) => 0,
                Chunk::Mixed(bits) => bits.rank(inside),
            }
    }

    /// How many runs of blocks that are known to differ begin below `block`.
    #[must_use]
    pub fn runs(&self, block: u64) -> u64 {
        let end = block.min(self.blocks);
        let (mut runs, mut before) = (0, false);
        for (start, chunk) in (0..end).step_by(CHUNK_BLOCKS as usize).zip(&self.chunks) {
            match chunk {
                Chunk::Uniform(state) => {
                    let differs = *state == State::Differs;
                    runs += u64::from(differs && !before);
                    before = differs;
                }
                Chunk::Mixed(bits) => runs += bits.runs(CHUNK_BLOCKS.min(end - start), &mut before),
            }
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
                return Some(match chunk {
                    Chunk::Uniform(_) => start + left,
                    Chunk::Mixed(bits) => start + bits.select(left),
                });
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
    fn differing(&self) -> u64 {
        match self {
            // The last chunk of a map may be shorter, but then nothing is ranked behind it.
            Chunk::Uniform(State::Differs) => CHUNK_BLOCKS,
            Chunk::Uniform(_) => 0,
            Chunk::Mixed(bits) => u64::from(bits.differs_count),
        }
    }
}

impl Bits {
    fn unknown() -> Box<Self> {
        Box::new(Self { known: [0; WORDS], differs: [0; WORDS], known_count: 0, differs_count: 0 })
    }

    fn state(&self, index: u64) -> State {
        let (word, bit) = ((index / 64) as usize, 1u64 << (index % 64));
        match (self.known[word] & bit != 0, self.differs[word] & bit != 0) {
            (false, _) => State::Unknown,
            (true, false) => State::Same,
            (true, true) => State::Differs,
        }
    }

    /// Returns how many blocks became known.
    fn learn(&mut self, start: u64, len: u64, state: State) -> u64 {
        let mut added = 0;
        let mut at = start;
        while at < start + len {
            let (word, shift) = ((at / 64) as usize, at % 64);
            let bits = (64 - shift).min(start + len - at);
            let mask = (u64::MAX >> (64 - bits)) << shift;
            let fresh = mask & !self.known[word];
            self.known[word] |= fresh;
            added += fresh.count_ones();
            if state == State::Differs {
                self.differs[word] |= fresh;
            }
            at += bits;
        }
        self.known_count += added;
        if state == State::Differs {
            self.differs_count += added;
        }
        u64::from(added)
    }

    /// The blocks of one word whose state is of interest.
    fn hits(&self, word: usize, wanted: &impl Fn(State) -> bool) -> u64 {
        let (known, differs) = (self.known[word], self.differs[word]);
        let mut hits = 0;
        if wanted(State::Unknown) {
            hits |= !known;
        }
        if wanted(State::Same) {
            hits |= known & !differs;
        }
        if wanted(State::Differs) {
            hits |= differs;
        }
        hits
    }

    /// The last block below `end` (1 to [`CHUNK_BLOCKS`]) whose state is of interest.
    fn find_back(&self, end: u64, wanted: impl Fn(State) -> bool) -> Option<u64> {
        let mut word = ((end - 1) / 64) as usize;
        let mut hits = self.hits(word, &wanted) & (u64::MAX >> (63 - (end - 1) % 64));
        while hits == 0 {
            word = word.checked_sub(1)?;
            hits = self.hits(word, &wanted);
        }
        Some(word as u64 * 64 + 63 - u64::from(hits.leading_zeros()))
    }

    fn find(&self, from: u64, wanted: impl Fn(State) -> bool) -> Option<u64> {
        let pick = |word: usize| self.hits(word, &wanted);
        let first = (from / 64) as usize;
        let mut hits = pick(first) & (u64::MAX << (from % 64));
        let mut word = first;
        while hits == 0 {
            word += 1;
            if word == WORDS {
                return None;
            }
            hits = pick(word);
        }
        Some(word as u64 * 64 + u64::from(hits.trailing_zeros()))
    }

    fn rank(&self, index: u64) -> u64 {
        let (word, shift) = ((index / 64) as usize, index % 64);
        let whole: u32 = self.differs[..word].iter().map(|w| w.count_ones()).sum();
        let part = if shift == 0 { 0 } else { self.differs[word] << (64 - shift) };
        u64::from(whole + part.count_ones())
    }

    /// How many runs begin in the first `len` blocks. `before` says whether the block before them
    /// differs, and then whether the last one does.
    fn runs(&self, len: u64, before: &mut bool) -> u64 {
        let mut runs = 0;
        for (start, &word) in (0..len).step_by(64).zip(&self.differs) {
            let word = word & (u64::MAX >> (64 - (len - start).min(64)));
            runs += (word & !(word << 1 | u64::from(*before))).count_ones();
            *before = word >> 63 == 1;
        }
        u64::from(runs)
    }

    fn select(&self, rank: u64) -> u64 {
        let mut left = rank;
        for (start, &word) in (0u64..).step_by(64).zip(&self.differs) {
            let here = u64::from(word.count_ones());
            if left < here {
                let mut word = word;
                for _ in 0..left {
                    word &= word - 1;
                }
                return start + u64::from(word.trailing_zeros());
            }
            left -= here;
        }
        unreachable!("the chunk's count said that it has more than {rank} differing blocks")
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
            steps in prop::collection::vec((0..BLOCKS, 0..BLOCKS, any::<bool>()), 1..40),
            probes in prop::collection::vec(0..BLOCKS, 20),
        ) {
            let mut map = Map::new(BLOCKS);
            let mut model = vec![State::Unknown; BLOCKS as usize];
            for (start, len, differs) in steps {
                // Most steps are short, some cover chunks.
                let len = if len % 4 == 0 { len } else { len % 200 };
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
            prop_assert_eq!(map.known_blocks(), known);
            prop_assert_eq!(map.differing_blocks(), differs.len() as u64);
            for block in probes {
                prop_assert_eq!(map.state(block), model[block as usize]);
                let rank = differs.partition_point(|&b| b < block) as u64;
                prop_assert_eq!(map.rank(block), rank);
                prop_assert_eq!(map.select(rank), differs.get(rank as usize).copied());
                let begins = |&&b: &&u64| b == 0 || model[b as usize - 1] != State::Differs;
                let runs = differs[..rank as usize].iter().filter(begins).count();
                prop_assert_eq!(map.runs(block), runs as u64);
                let unknown = (block..BLOCKS).find(|&b| model[b as usize] == State::Unknown);
                prop_assert_eq!(map.first_unknown(block, BLOCKS), unknown);
                let next = differs.get(rank as usize).copied();
                prop_assert_eq!(map.find(block, BLOCKS, |s| s == State::Differs), next);
                let start = block / 3;
                for wanted in [State::Unknown, State::Same, State::Differs] {
                    let last = (start..block).rev().find(|&b| model[b as usize] == wanted);
                    prop_assert_eq!(map.find_back(start, block, |s| s == wanted), last);
                }
            }
        }
    }

    #[test]
    fn untouched_and_uniform_chunks_hold_no_bits() {
        let mut map = Map::new(4 * CHUNK_BLOCKS);
        map.learn(0, 2 * CHUNK_BLOCKS, State::Same);
        map.learn(2 * CHUNK_BLOCKS, 2 * CHUNK_BLOCKS + 5, State::Differs);
        map.learn(2 * CHUNK_BLOCKS + 5, 3 * CHUNK_BLOCKS, State::Differs);
        let mixed = map.chunks.iter().filter(|c| matches!(c, Chunk::Mixed(_))).count();
        assert_eq!(mixed, 0);
        assert_eq!(map.first_unknown(0, 4 * CHUNK_BLOCKS), Some(3 * CHUNK_BLOCKS));
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
    fn a_mixed_tebibyte_of_4_kib_blocks_takes_under_80_mib() {
        let chunks = (1u64 << 40) / 4096 / CHUNK_BLOCKS;
        let bytes = chunks * (size_of::<Bits>() + size_of::<Chunk>()) as u64;
        assert!(bytes < 80 << 20, "{bytes}");
    }
}

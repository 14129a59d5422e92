//! Two bits a block: many short runs of blocks.

use super::{CHUNK_BLOCKS, State};

const WORDS: usize = (CHUNK_BLOCKS / 64) as usize;

/// What is known of the blocks of a chunk.
pub(super) struct Bits {
    known: [u64; WORDS],
    differs: [u64; WORDS],
    known_count: u32,
    differs_count: u32,
}

impl Bits {
    /// Nothing is known of any.
    pub(super) fn unknown() -> Box<Self> {
        Box::new(Self { known: [0; WORDS], differs: [0; WORDS], known_count: 0, differs_count: 0 })
    }

    /// How many blocks are known.
    pub(super) fn known(&self) -> u64 {
        u64::from(self.known_count)
    }

    /// How many are known to differ.
    pub(super) fn differing(&self) -> u64 {
        u64::from(self.differs_count)
    }

    pub(super) fn state(&self, index: u64) -> State {
        let (word, bit) = ((index / 64) as usize, 1u64 << (index % 64));
        match (self.known[word] & bit != 0, self.differs[word] & bit != 0) {
            (false, _) => State::Unknown,
            (true, false) => State::Same,
            (true, true) => State::Differs,
        }
    }

    /// Returns how many blocks became known.
    pub(super) fn learn(&mut self, start: u64, len: u64, state: State) -> u64 {
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
    pub(super) fn find_back(&self, end: u64, wanted: impl Fn(State) -> bool) -> Option<u64> {
        let mut word = ((end - 1) / 64) as usize;
        let mut hits = self.hits(word, &wanted) & (u64::MAX >> (63 - (end - 1) % 64));
        while hits == 0 {
            word = word.checked_sub(1)?;
            hits = self.hits(word, &wanted);
        }
        Some(word as u64 * 64 + 63 - u64::from(hits.leading_zeros()))
    }

    pub(super) fn find(&self, from: u64, wanted: impl Fn(State) -> bool) -> Option<u64> {
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

    pub(super) fn rank(&self, index: u64) -> u64 {
        let (word, shift) = ((index / 64) as usize, index % 64);
        let whole: u32 = self.differs[..word].iter().map(|w| w.count_ones()).sum();
        let part = if shift == 0 { 0 } else { self.differs[word] << (64 - shift) };
        u64::from(whole + part.count_ones())
    }

    /// How many runs begin in the first `len` blocks. `before` says whether the block before them
    /// differs, and then whether the last one does.
    pub(super) fn runs(&self, len: u64, before: &mut bool) -> u64 {
        let mut runs = 0;
        for (start, &word) in (0..len).step_by(64).zip(&self.differs) {
            let word = word & (u64::MAX >> (64 - (len - start).min(64)));
            runs += (word & !(word << 1 | u64::from(*before))).count_ones();
            *before = word >> 63 == 1;
        }
        u64::from(runs)
    }

    pub(super) fn select(&self, rank: u64) -> u64 {
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

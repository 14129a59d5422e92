//! Few runs of blocks, however long.

use super::{CHUNK_BLOCKS, State};

/// The most runs in a chunk. One takes 4 bytes, so that all of them take a sixteenth of what bits
/// do.
const RUNS_MAX: usize = 128;

/// Blocks of one state, up to where the next run begins.
#[derive(Clone, Copy)]
struct Run {
    start: u16,
    state: State,
}

/// What is known of the blocks of a chunk.
pub(super) struct Runs {
    /// The first begins at 0, the last ends with the chunk, and no two neighbours have one state.
    list: Vec<Run>,
    known: u16,
    differing: u16,
}

// Places and counts are 16 bits.
const _: () = assert!(CHUNK_BLOCKS <= u16::MAX as u64);

impl Runs {
    /// Nothing is known of any.
    pub(super) fn unknown() -> Box<Self> {
        let list = vec![Run { start: 0, state: State::Unknown }];
        Box::new(Self { list, known: 0, differing: 0 })
    }

    /// Whether bits are the better form.
    pub(super) fn are_too_many(&self) -> bool {
        self.list.len() > RUNS_MAX
    }

    /// How many blocks are known.
    pub(super) fn known(&self) -> u64 {
        u64::from(self.known)
    }

    /// How many are known to differ.
    pub(super) fn differing(&self) -> u64 {
        u64::from(self.differing)
    }

    /// First block, block behind the last one, and state of every run, ascending.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64, State)> + '_ {
        (0..self.list.len()).map(|index| {
            let Run { start, state } = self.list[index];
            let end = self.list.get(index + 1).map_or(CHUNK_BLOCKS, |next| u64::from(next.start));
            (u64::from(start), end, state)
        })
    }

    fn differing_runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let differs = |&(_, _, state): &(u64, u64, State)| state == State::Differs;
        self.iter().filter(differs).map(|(start, end, _)| (start, end))
    }

    pub(super) fn state(&self, index: u64) -> State {
        let behind = self.list.partition_point(|run| u64::from(run.start) <= index);
        self.list[behind - 1].state
    }

    /// Returns how many blocks became known.
    pub(super) fn learn(&mut self, start: u64, len: u64, state: State) -> u64 {
        let end = start + len;
        if self.find(start, |before| before == State::Unknown).is_none_or(|block| block >= end) {
            return 0;
        }
        let mut added = 0;
        // At most one run more on either side.
        let mut list = Vec::with_capacity(self.list.len() + 2);
        for (from, to, before) in self.iter() {
            let (left, right) = (start.clamp(from, to), end.clamp(from, to));
            let is_news = before == State::Unknown;
            added += if is_news { right - left } else { 0 };
            push(&mut list, from, left, before);
            push(&mut list, left, right, if is_news { state } else { before });
            push(&mut list, right, to, before);
        }
        self.list = list;
        // No more than the blocks of a chunk.
        self.known += added as u16;
        if state == State::Differs {
            self.differing += added as u16;
        }
        added
    }

    pub(super) fn find(&self, from: u64, wanted: impl Fn(State) -> bool) -> Option<u64> {
        let found = self.iter().find(|&(_, end, state)| end > from && wanted(state));
        found.map(|(start, ..)| start.max(from))
    }

    /// The last block below `end` whose state is of interest.
    pub(super) fn find_back(&self, end: u64, wanted: impl Fn(State) -> bool) -> Option<u64> {
        let found = self.iter().rev().find(|&(start, _, state)| start < end && wanted(state));
        found.map(|(_, behind, _)| behind.min(end) - 1)
    }

    pub(super) fn rank(&self, index: u64) -> u64 {
        self.differing_runs().map(|(start, end)| end.min(index).saturating_sub(start)).sum()
    }

    /// How many runs begin in the first `len` blocks. `before` says whether the block before them
    /// differs, and then whether the last one does.
    pub(super) fn runs(&self, len: u64, before: &mut bool) -> u64 {
        let mut runs = 0;
        for (_, _, state) in self.iter().take_while(|&(start, ..)| start < len) {
            let differs = state == State::Differs;
            runs += u64::from(differs && !*before);
            *before = differs;
        }
        runs
    }

    pub(super) fn select(&self, rank: u64) -> u64 {
        let mut left = rank;
        for (start, end) in self.differing_runs() {
            if left < end - start {
                return start + left;
            }
            left -= end - start;
        }
        unreachable!("the chunk's count said that it has more than {rank} differing blocks")
    }
}

/// Appends blocks `[start, end)`, joining them with the last run where they go on with it.
fn push(list: &mut Vec<Run>, start: u64, end: u64, state: State) {
    if start < end && list.last().is_none_or(|last| last.state != state) {
        list.push(Run { start: start as u16, state });
    }
}

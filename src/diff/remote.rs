//! Bytes of the remote device for readers in any order: each block is fetched once for all who
//! wait for it, checked against what was compared, and kept for a while.
//!
//! ```text
//!   read(range) --> in the cache: copied               |
//!              \--> in a Unit on its way: waits for it  |--> done(bytes)
//!               \-> neither:      a Unit of blocks     |
//!   Unit --> getblock, at most FETCH_BYTES each --> checked on the pool --> cache, readers
//! ```
//! What is read ahead goes the same way and waits behind all else, unless somebody comes to want it.
//! A block that differs must have the hash that was announced when it was compared. Where
//! its print is gone, the hash is asked for again together with the block.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::cache::{Cache, Side};
use super::compare::RUN_HELD_BYTES_MIN;
use super::engine::unexpected_answer;
use super::gathering::{Gathering, OnBytes, copy_part};
use super::jobs::Blocks;
use super::map::State;
use super::prints::print_of;
use super::resolver::Resolver;
use crate::digest::Scratch;
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, MIB, Priority};
use crate::wire::{Answer, Request};

/// Most bytes asked for with one getblock. Classic clients never ask for more.
pub(super) const FETCH_BYTES: u64 = 32 * 1024;
/// What may be on its way, or kept, for a reader who has not come to it yet, in bytes.
const AHEAD_BYTES_MAX: u64 = 8 * MIB;
/// It takes at most this part of the cache, so that several readers find there what was fetched for
/// them.
const AHEAD_CACHE_SHARE: u64 = 8;

/// The blocks of the remote device.
pub struct RemoteBlocks {
    resolver: Arc<Resolver>,
    /// Bytes that are held for what is read ahead, at most.
    ahead_held_max: u64,
    state: Mutex<BlocksState>,
}

struct BlocksState {
    cache: Cache,
    /// Units on their way by their first block; no two overlap.
    coming: BTreeMap<u64, Coming>,
    /// Bytes that are held for those that are read ahead.
    ahead_held_bytes: u64,
}

/// A unit on its way.
struct Coming {
    /// Behind its last block.
    end: u64,
    /// Who waits for blocks of it.
    readers: Vec<Arc<Gathering>>,
    /// Bytes that are held for it where it is read ahead, or 0.
    ahead_held_bytes: u64,
}

/// What a fetched block is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// The print of its hash.
    Print(u32),
    /// Its hash, which is asked for again.
    Hash,
    /// Nothing: it is not compared at all.
    Anything,
}

/// Neighbouring blocks that are fetched together.
struct Unit {
    blocks: Blocks,
    range: ByteRange,
    expected: Vec<Expected>,
    priority: Priority,
    state: Mutex<Option<UnitState>>,
}

struct UnitState {
    /// Empty until the first of it comes.
    data: Vec<u8>,
    hashes: Vec<u8>,
    missing: usize,
}

impl RemoteBlocks {
    /// Nothing is fetched yet. Blocks that were fetched take at most `cache_bytes`.
    #[must_use]
    pub fn new(resolver: Arc<Resolver>, cache_bytes: u64) -> Arc<Self> {
        let ahead_held_max = AHEAD_BYTES_MAX.min(cache_bytes / AHEAD_CACHE_SHARE);
        let (cache, coming) = (Cache::new(cache_bytes), BTreeMap::new());
        let state = Mutex::new(BlocksState { cache, coming, ahead_held_bytes: 0 });
        Arc::new(Self { resolver, ahead_held_max, state })
    }

    /// A block of either side from the cache.
    #[must_use]
    pub fn cached(&self, side: Side, block: u64) -> Option<Arc<[u8]>> {
        self.state.lock().cache.get((side, block))
    }

    /// Keeps a block that was read and checked.
    pub fn keep(&self, side: Side, block: u64, data: Arc<[u8]>) {
        self.state.lock().cache.put((side, block), data);
    }

    /// Reads `range`, which lies inside the remote device. `done` is called on this thread when
    /// all is in the cache. It gets `Kind::Transmission` when a block is not the one that was
    /// compared; nothing of a failed block is kept.
    pub fn read(self: &Arc<Self>, range: ByteRange, priority: Priority, done: OnBytes) {
        let block_bytes = self.block_bytes();
        let blocks = range.start / block_bytes..range.end.div_ceil(block_bytes);
        let mut bytes = Vec::new();
        let mut units = Vec::new();
        // First blocks of units that are on their way already, ascending.
        let mut joined = Vec::new();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        for block in blocks {
            if let Some(data) = state.cache.get((Side::Remote, block)) {
                bytes.resize(range.len() as usize, 0);
                copy_part(&mut bytes, range, block * block_bytes, &data);
            } else if let Some(first) = state.on_its_way(block) {
                if joined.last() != Some(&first) {
                    joined.push(first);
                }
            } else {
                push_block(&mut units, block, self.blocks_max());
            }
        }
        let want = Gathering::new(range, bytes, joined.len() + units.len(), done);
        for unit in &units {
            state.add(unit, vec![Arc::clone(&want)], 0);
        }
        let mut late = Vec::new();
        for first in joined {
            if let Some(unit) = state.coming.get_mut(&first) {
                unit.readers.push(Arc::clone(&want));
                late.extend((unit.ahead_held_bytes > 0).then_some(first..unit.end));
            }
        }
        drop(guard);
        late.iter().for_each(|unit| self.hasten(unit));
        for blocks in units {
            self.fetch(blocks, priority);
        }
        want.check();
    }

    /// Somebody waits for `unit`, which is read ahead.
    fn hasten(&self, unit: &Blocks) {
        let peer = self.resolver.engine().peer();
        peer.hasten(&self.hashes_of(unit));
        for range in self.range_of(unit).pieces(FETCH_BYTES) {
            peer.hasten(&Request::Block { range });
        }
    }

    /// Bytes that count against a limit while `range` is read of which nothing is in the cache: of
    /// all blocks that it touches, what each of them is held against, and the requests for them.
    #[must_use]
    pub fn held_bytes(&self, range: ByteRange) -> u64 {
        let block_bytes = self.block_bytes();
        let blocks = range.end.div_ceil(block_bytes) - range.start / block_bytes;
        let units = blocks.div_ceil(self.blocks_max()).saturating_mul(RUN_HELD_BYTES_MIN);
        blocks.saturating_mul(self.block_held_bytes()).saturating_add(units)
    }

    /// Of one block, without what is held for the unit that it is in.
    fn block_held_bytes(&self) -> u64 {
        let hash_len = self.resolver.engine().hasher().hash_len();
        self.block_bytes() + (hash_len + size_of::<Expected>()) as u64
    }

    /// How far ahead of a reader it is worth to fetch, in bytes of blocks.
    #[must_use]
    pub fn ahead_bytes_max(&self) -> u64 {
        let (unit_blocks, each) = (self.blocks_max(), self.block_held_bytes());
        let unit_bytes = RUN_HELD_BYTES_MIN + unit_blocks * each;
        let rest_bytes = (self.ahead_held_max % unit_bytes).saturating_sub(RUN_HELD_BYTES_MIN);
        let blocks = self.ahead_held_max / unit_bytes * unit_blocks + rest_bytes / each;
        blocks * self.block_bytes()
    }

    /// Fetches ascending `blocks` that somebody is likely to want soon, those left out that are
    /// here or coming, and those behind the remote's end, of which nothing would ever come. Returns
    /// how many it was that there was room for. Nobody is told of errors: who reads such a block
    /// asks for it again.
    pub fn fetch_ahead(self: &Arc<Self>, blocks: &[u64]) -> usize {
        let (units, taken) = self.note_ahead(blocks);
        for unit in units {
            self.fetch_noted(unit);
        }
        taken
    }

    /// The units to fetch, which readers may join from here on, and how many of `blocks` there was
    /// room for.
    pub(crate) fn note_ahead(&self, blocks: &[u64]) -> (Vec<Blocks>, usize) {
        let remote_end = self.resolver.engine().plan().remote_bytes.div_ceil(self.block_bytes());
        let mut units = Vec::new();
        let mut taken = blocks.len();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut held_bytes = state.ahead_held_bytes;
        for (index, &block) in blocks.iter().enumerate() {
            let is_here = state.cache.contains((Side::Remote, block));
            if is_here || state.on_its_way(block).is_some() || block >= remote_end {
                continue;
            }
            held_bytes += match units.last() {
                Some(last) if has_room(last, block, self.blocks_max()) => self.block_held_bytes(),
                _ => self.block_held_bytes() + RUN_HELD_BYTES_MIN,
            };
            if held_bytes > self.ahead_held_max {
                taken = index;
                break;
            }
            push_block(&mut units, block, self.blocks_max());
        }
        for unit in &units {
            state.add(unit, Vec::new(), self.held_bytes(self.range_of(unit)));
        }
        (units, taken)
    }

    /// Fetches a unit of [`RemoteBlocks::note_ahead`].
    pub(crate) fn fetch_noted(self: &Arc<Self>, unit: Blocks) {
        self.fetch(unit.clone(), Priority::Bulk);
        // Who joined before all of it was asked for found nothing there to hasten.
        let is_joined = |coming: &Coming| !coming.readers.is_empty();
        if self.state.lock().coming.get(&unit.start).is_some_and(is_joined) {
            self.hasten(&unit);
        }
    }

    fn block_bytes(&self) -> u64 {
        self.resolver.engine().plan().block_bytes
    }

    /// Blocks of a unit at most: so many that neither their bytes nor their hashes need more
    /// than one answer, unless a single block does.
    fn blocks_max(&self) -> u64 {
        let hashes_max = self.resolver.engine().peer().session().hashes_max();
        (FETCH_BYTES / self.block_bytes()).clamp(1, hashes_max)
    }

    fn range_of(&self, blocks: &Blocks) -> ByteRange {
        let plan = self.resolver.engine().plan();
        let end = blocks.end.saturating_mul(plan.block_bytes);
        ByteRange::new(blocks.start * plan.block_bytes, end).clip(plan.remote_bytes)
    }

    fn hashes_of(&self, blocks: &Blocks) -> Request {
        let step = self.block_bytes();
        Request::Hashes { start: blocks.start * step, step, n: blocks.end - blocks.start }
    }

    fn expected(&self, block: u64) -> Expected {
        match (self.resolver.state(block), self.resolver.print(block)) {
            (State::Differs, Some(print)) => Expected::Print(print.remote),
            (State::Differs, None) => Expected::Hash,
            (State::Same | State::Unknown, _) => Expected::Anything,
        }
    }

    fn fetch(self: &Arc<Self>, blocks: Blocks, priority: Priority) {
        let engine = self.resolver.engine();
        let expected: Vec<_> = blocks.clone().map(|block| self.expected(block)).collect();
        let range = self.range_of(&blocks);
        let asks_hashes = expected.contains(&Expected::Hash);
        let parts: Vec<_> = range.pieces(FETCH_BYTES).collect();
        let state = UnitState {
            data: Vec::new(),
            hashes: Vec::new(),
            missing: parts.len() + usize::from(asks_hashes),
        };
        let unit = Unit { blocks, range, expected, priority, state: Mutex::new(Some(state)) };
        let unit = Arc::new(unit);
        if asks_hashes {
            let request = self.hashes_of(&unit.blocks);
            let (this, unit) = (Arc::clone(self), Arc::clone(&unit));
            let done = move |answer| this.arrived(&unit, None, answer);
            engine.peer().submit(request, priority, Box::new(done));
        }
        for part in parts {
            let (this, unit) = (Arc::clone(self), Arc::clone(&unit));
            let done = move |answer| this.arrived(&unit, Some(part), answer);
            engine.peer().submit(Request::Block { range: part }, priority, Box::new(done));
        }
    }

    /// Takes an answer for `unit`: the bytes of `part`, or its hashes.
    fn arrived(
        self: &Arc<Self>,
        unit: &Arc<Unit>,
        part: Option<ByteRange>,
        answer: Result<Answer>,
    ) {
        let mut guard = unit.state.lock();
        let Some(state) = &mut *guard else { return };
        match (answer, part) {
            (Ok(Answer::Block(bytes)), Some(part)) => {
                state.data.resize(unit.range.len() as usize, 0);
                let at = (part.start - unit.range.start) as usize;
                state.data[at..][..bytes.len()].copy_from_slice(&bytes);
            }
            (Ok(Answer::Hashes(hashes)), None) => state.hashes = hashes,
            (other, _) => {
                *guard = None;
                drop(guard);
                let err = other.err().unwrap_or_else(unexpected_answer);
                match unit.priority {
                    Priority::Bulk => self.fetch_alone(unit),
                    _ => self.fail(unit, &err),
                }
                return;
            }
        }
        state.missing -= 1;
        if state.missing == 0 {
            drop(guard);
            // Hashing belongs on the pool: the peer's reader thread must stay quick. Before all
            // else, whatever it was fetched for: somebody may wait for it by now.
            let (this, unit) = (Arc::clone(self), Arc::clone(unit));
            let pool = self.resolver.engine().pool();
            pool.submit(Priority::Interactive, move |_: &mut Scratch| this.check(&unit));
        }
    }

    /// `unit` failed, and so do those who wait for it.
    fn fail(&self, unit: &Unit, err: &Error) {
        let readers = self.state.lock().take(unit);
        for reader in readers {
            reader.fail(err.duplicate());
        }
    }

    /// `unit` was read ahead and failed, maybe because of blocks that nobody wants: who waits for
    /// some of it gets what there is of each alone.
    fn fetch_alone(self: &Arc<Self>, unit: &Unit) {
        let mut state = self.state.lock();
        let mut wanted = BTreeMap::<u64, Vec<Arc<Gathering>>>::new();
        for reader in state.take(unit) {
            let blocks: Vec<_> =
                unit.blocks.clone().filter(|&block| self.is_in(block, &reader)).collect();
            reader.divide(blocks.len());
            for block in blocks {
                wanted.entry(block).or_default().push(Arc::clone(&reader));
            }
        }
        let blocks: Vec<_> = wanted.keys().copied().collect();
        for (block, readers) in wanted {
            state.add(&(block..block + 1), readers, 0);
        }
        drop(state);
        for block in blocks {
            self.fetch(block..block + 1, Priority::Interactive);
        }
    }

    fn is_in(&self, block: u64, reader: &Gathering) -> bool {
        !self.range_of(&(block..block + 1)).intersect(&reader.range()).is_empty()
    }

    /// Holds the blocks of a unit against what is expected of them, keeps those that are right, and
    /// hands them on.
    fn check(&self, unit: &Unit) {
        let Some(state) = unit.state.lock().take() else { return };
        let wrong = self.wrong_blocks(unit, &state);
        let blocks = unit.blocks.clone().zip(state.data.chunks(self.block_bytes() as usize));
        let mut shared = self.state.lock();
        for (block, data) in blocks.filter(|(block, _)| wrong.binary_search(block).is_err()) {
            shared.cache.put((Side::Remote, block), Arc::from(data));
        }
        let readers = shared.take(unit);
        drop(shared);
        for reader in readers {
            match wrong.iter().find(|&&block| self.is_in(block, &reader)) {
                None => reader.put(unit.range.start, &state.data),
                Some(&block) => {
                    let range = self.range_of(&(block..block + 1));
                    reader.fail(changed_error("the remote device", range));
                }
            }
        }
    }

    /// The blocks of a unit that are not what is expected of them, ascending.
    fn wrong_blocks(&self, unit: &Unit, state: &UnitState) -> Vec<u64> {
        let hasher = self.resolver.engine().hasher();
        let block_bytes = self.block_bytes();
        let hash_len = hasher.hash_len();
        let mut hash = vec![0; hash_len];
        let blocks = unit.blocks.clone().zip(state.data.chunks(block_bytes as usize));
        let is_wrong = |(index, (_, data)): &(usize, (u64, &[u8]))| {
            let expected = unit.expected[*index];
            if expected != Expected::Anything {
                hasher.hash_block(data, block_bytes, &mut hash);
            }
            match expected {
                Expected::Anything => false,
                Expected::Print(print) => print_of(&hash) != print,
                Expected::Hash => hash != state.hashes[index * hash_len..][..hash_len],
            }
        };
        blocks.enumerate().filter(is_wrong).map(|(_, (block, _))| block).collect()
    }
}

impl BlocksState {
    /// The first block of the unit on its way that `block` is in.
    fn on_its_way(&self, block: u64) -> Option<u64> {
        let (&first, unit) = self.coming.range(..=block).next_back()?;
        (block < unit.end).then_some(first)
    }

    /// `unit` is on its way from now on.
    fn add(&mut self, unit: &Blocks, readers: Vec<Arc<Gathering>>, ahead_held_bytes: u64) {
        self.ahead_held_bytes += ahead_held_bytes;
        self.coming.insert(unit.start, Coming { end: unit.end, readers, ahead_held_bytes });
    }

    /// `unit` is on its way no more. Those who wait for it.
    fn take(&mut self, unit: &Unit) -> Vec<Arc<Gathering>> {
        let Some(unit) = self.coming.remove(&unit.blocks.start) else { return Vec::new() };
        self.ahead_held_bytes -= unit.ahead_held_bytes;
        unit.readers
    }
}

/// What is said when `range` of a device is not what was compared.
#[must_use]
pub fn changed_error(device: &str, range: ByteRange) -> Error {
    let what = format!(
        "{device} changed while it was read: these blocks are not the ones that were compared; \
         use a snapshot, or start again"
    );
    Error::new(Kind::Transmission, what).with_range(range)
}

/// Whether there is room for `block` in `unit`, which it follows.
fn has_room(unit: &Blocks, block: u64, blocks_max: u64) -> bool {
    unit.end == block && unit.end - unit.start < blocks_max
}

/// Appends `block` to the last of `units`, or begins another.
fn push_block(units: &mut Vec<Blocks>, block: u64, blocks_max: u64) {
    match units.last_mut() {
        Some(last) if has_room(last, block, blocks_max) => last.end += 1,
        _ => units.push(block..block + 1),
    }
}

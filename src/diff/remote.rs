//! Bytes of the remote device for readers in any order: each block is fetched once for all who
//! wait for it, checked against what was compared, and kept for a while.
//!
//! ```text
//!   read(range) --> in the cache: copied            |
//!              \--> on its way:   waits for it      |--> done(bytes)
//!               \-> neither:      a Unit of blocks  |
//!   Unit --> getblock, at most FETCH_BYTES each --> checked on the pool --> cache, readers
//! ```
//! What is read ahead goes the same way and waits behind all else, unless somebody comes to want it.
//! A block that differs must have the hash that was announced when it was compared. Where
//! its print is gone, the hash is asked for again together with the block.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::cache::{Cache, ENTRY_BYTES, Side};
use super::content::FETCH_BYTES;
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

/// What may be on its way, or kept, for a reader who has not come to it yet, in bytes.
const AHEAD_BYTES_MAX: u64 = 8 * MIB;
/// It takes at most this part of the cache, so that several readers find there what was fetched for
/// them.
const AHEAD_CACHE_SHARE: u64 = 8;

/// The blocks of the remote device.
pub struct RemoteBlocks {
    resolver: Arc<Resolver>,
    ahead_blocks_max: u64,
    state: Mutex<BlocksState>,
}

struct BlocksState {
    cache: Cache,
    coming: HashMap<u64, Coming>,
    /// How many of those that are coming are read ahead.
    ahead_blocks: u64,
}

/// A block on its way.
struct Coming {
    readers: Vec<Arc<Gathering>>,
    /// Those that it is fetched with, where it is read ahead.
    ahead: Option<Blocks>,
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
        let block_bytes = resolver.engine().plan().block_bytes;
        let ahead_bytes_max = AHEAD_BYTES_MAX.min(cache_bytes / AHEAD_CACHE_SHARE);
        let ahead_blocks_max = ahead_bytes_max / (block_bytes + ENTRY_BYTES);
        let (cache, coming) = (Cache::new(cache_bytes), HashMap::new());
        let state = Mutex::new(BlocksState { cache, coming, ahead_blocks: 0 });
        Arc::new(Self { resolver, ahead_blocks_max, state })
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
        let mut waits = Vec::new();
        let (mut units, mut late) = (Vec::new(), Vec::new());
        let mut state = self.state.lock();
        for block in blocks {
            if let Some(data) = state.cache.get((Side::Remote, block)) {
                bytes.resize(range.len() as usize, 0);
                copy_part(&mut bytes, range, block * block_bytes, &data);
            } else {
                waits.push(block);
            }
        }
        let want = Gathering::new(range, bytes, waits.len(), done);
        for block in waits {
            match state.coming.entry(block) {
                Entry::Occupied(mut coming) => {
                    let Coming { readers, ahead } = coming.get_mut();
                    readers.push(Arc::clone(&want));
                    if let Some(unit) = ahead
                        && late.last() != Some(unit)
                    {
                        late.push(unit.clone());
                    }
                }
                Entry::Vacant(place) => {
                    push_block(&mut units, block, self.blocks_max());
                    place.insert(Coming { readers: vec![Arc::clone(&want)], ahead: None });
                }
            }
        }
        drop(state);
        for unit in late {
            let peer = self.resolver.engine().peer();
            peer.hasten(&self.hashes_of(&unit));
            for range in self.range_of(&unit).pieces(FETCH_BYTES) {
                peer.hasten(&Request::Block { range });
            }
        }
        for blocks in units {
            self.fetch(blocks, priority);
        }
        want.check();
    }

    /// How far ahead of a reader it is worth to fetch, in bytes of blocks.
    #[must_use]
    pub fn ahead_bytes_max(&self) -> u64 {
        self.ahead_blocks_max * self.block_bytes()
    }

    /// Fetches ascending `blocks` that somebody is likely to want soon, those left out that are
    /// here or coming. Returns how many it was that there was room for. Nobody is told of errors:
    /// who reads such a block asks for it again.
    pub fn fetch_ahead(self: &Arc<Self>, blocks: &[u64]) -> usize {
        let mut units = Vec::new();
        let mut taken = blocks.len();
        let mut state = self.state.lock();
        for (index, &block) in blocks.iter().enumerate() {
            if state.coming.contains_key(&block) || state.cache.contains((Side::Remote, block)) {
                continue;
            }
            if state.ahead_blocks == self.ahead_blocks_max {
                taken = index;
                break;
            }
            state.ahead_blocks += 1;
            push_block(&mut units, block, self.blocks_max());
        }
        for unit in &units {
            for block in unit.clone() {
                let coming = Coming { readers: Vec::new(), ahead: Some(unit.clone()) };
                state.coming.insert(block, coming);
            }
        }
        drop(state);
        for unit in units {
            self.fetch(unit, Priority::Bulk);
        }
        taken
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
                for block in unit.blocks.clone() {
                    match unit.priority {
                        Priority::Bulk => self.fetch_alone(block),
                        _ => self.settle(block, Err(&err)),
                    }
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

    /// `block` was read ahead and failed, maybe because of others that it was fetched with: who
    /// waits for it gets what there is of it alone.
    fn fetch_alone(self: &Arc<Self>, block: u64) {
        let mut state = self.state.lock();
        state.ahead_blocks -= 1;
        match state.coming.entry(block) {
            Entry::Occupied(mut coming) if !coming.get().readers.is_empty() => {
                coming.get_mut().ahead = None;
                drop(state);
                self.fetch(block..block + 1, Priority::Interactive);
            }
            Entry::Occupied(unwanted) => drop(unwanted.remove()),
            Entry::Vacant(_) => {}
        }
    }

    /// Holds the blocks of a unit against what is expected of them, and hands them on.
    fn check(&self, unit: &Unit) {
        let Some(state) = unit.state.lock().take() else { return };
        let hasher = self.resolver.engine().hasher();
        let block_bytes = self.block_bytes();
        let hash_len = hasher.hash_len();
        let mut hash = vec![0; hash_len];
        let blocks = unit.blocks.clone().zip(state.data.chunks(block_bytes as usize));
        for (index, (block, data)) in blocks.enumerate() {
            let expected = unit.expected[index];
            if expected != Expected::Anything {
                hasher.hash_block(data, block_bytes, &mut hash);
            }
            let matches = match expected {
                Expected::Anything => true,
                Expected::Print(print) => print_of(&hash) == print,
                Expected::Hash => hash == state.hashes[index * hash_len..][..hash_len],
            };
            if matches {
                self.settle(block, Ok(data));
            } else {
                let range = self.range_of(&(block..block + 1));
                self.settle(block, Err(&changed_error("the remote device", range)));
            }
        }
    }

    /// Hands a block to everybody who waits for it.
    fn settle(&self, block: u64, result: Result<&[u8], &Error>) {
        let mut state = self.state.lock();
        if let Ok(data) = result {
            state.cache.put((Side::Remote, block), Arc::from(data));
        }
        let Some(Coming { readers, ahead }) = state.coming.remove(&block) else { return };
        state.ahead_blocks -= u64::from(ahead.is_some());
        drop(state);
        for want in readers {
            match result {
                Ok(data) => want.put(block * self.block_bytes(), data),
                Err(err) => want.fail(err.duplicate()),
            }
        }
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

/// Appends `block` to the last of `units`, or begins another.
fn push_block(units: &mut Vec<Range<u64>>, block: u64, blocks_max: u64) {
    match units.last_mut() {
        Some(last) if last.end == block && last.end - last.start < blocks_max => last.end += 1,
        _ => units.push(block..block + 1),
    }
}

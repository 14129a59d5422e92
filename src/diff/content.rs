//! The bytes of blocks that differ, each held against the hash that was announced for it.
//!
//! Push: the local device is read, hashed and compared, and what differs is returned: the very
//! bytes that were hashed. Pull: the remote's blocks are fetched and must hash to what the
//! remote announced before; if not, its device changed meanwhile, which is an error.

use std::sync::Arc;

use parking_lot::Mutex;

use super::compare::Announced;
use super::engine::{Engine, unexpected_answer};
use super::gathering::Gathering;
use super::remote::{FETCH_BYTES, changed_error};
use crate::digest::{BlockHasher, Scratch, hash_range};
use crate::error::Result;
use crate::units::{ByteRange, Direction, MIB, Priority};
use crate::wire::{Answer, Request};

/// What is read, fetched and checked as one piece of work, in bytes held (one block at least).
const PIECE_BYTES: u64 = MIB;

/// Neighbouring blocks with their bytes; begins at a block, and ends at a block or at the
/// end of what the patch may carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// First byte.
    pub offset: u64,
    /// The bytes.
    pub data: Vec<u8>,
    /// Push: the hashes that the target announced for the blocks. Pull: empty, as the target is
    /// the local device.
    pub target_hashes: Vec<u8>,
}

impl Changed {
    /// The blocks one by one: offset, bytes, and the target's hash where it is known.
    pub fn blocks(
        &self,
        block_bytes: u64,
        hash_len: usize,
    ) -> impl Iterator<Item = (u64, &[u8], &[u8])> {
        let offsets = (self.offset..).step_by(block_bytes as usize);
        let hashes = self.target_hashes.chunks(hash_len).chain(std::iter::repeat(&[][..]));
        let data = self.data.chunks(block_bytes as usize);
        offsets.zip(data).zip(hashes).map(|((offset, data), hash)| (offset, data, hash))
    }
}

/// Called once with the bytes of a fetch.
type OnFetched = Box<dyn FnOnce(Result<Changed>) + Send>;
/// Called once with what is to be handed on, ascending.
pub type OnSettled = Box<dyn FnOnce(Result<Vec<Changed>>) + Send>;

impl Engine {
    /// Cuts and gathers runs into groups of at most [`PIECE_BYTES`], ascending.
    #[must_use]
    pub fn group(&self, runs: Vec<Announced>) -> Vec<Vec<Announced>> {
        let (block_bytes, hash_len) = (self.plan().block_bytes, self.hasher().hash_len());
        let mut groups: Vec<Vec<Announced>> = Vec::new();
        let mut room_bytes = 0;
        for run in &runs {
            for piece in run.pieces(PIECE_BYTES, block_bytes, hash_len) {
                let bytes = piece.held_bytes();
                match groups.last_mut() {
                    Some(group) if bytes <= room_bytes => group.push(piece),
                    _ => {
                        room_bytes = PIECE_BYTES.max(bytes);
                        groups.push(vec![piece]);
                    }
                }
                room_bytes -= bytes;
            }
        }
        groups
    }

    /// Gets the bytes to be handed on for a group of runs: of a push the candidates are
    /// compared and read at once, of a pull the differing blocks are fetched.
    pub fn settle(self: &Arc<Self>, group: Vec<Announced>, done: OnSettled) {
        match self.plan().direction {
            Direction::Push => {
                let engine = Arc::clone(self);
                let work = move |_: &mut Scratch| done(engine.read_all_changed(&group));
                self.pool().submit(Priority::Scan, work);
            }
            Direction::Pull => self.fetch_all(group, done),
        }
    }

    /// Pull: zeros in the place of the bytes of all runs of a group, none of which is fetched.
    pub(super) fn zeros_for(&self, group: &[Announced]) -> Vec<Changed> {
        let zeros = |run: &Announced| {
            let range = self.plan().writable(run.blocks.clip(self.plan().remote_bytes));
            let data = vec![0; range.len() as usize];
            Changed { offset: range.start, data, target_hashes: Vec::new() }
        };
        group.iter().map(zeros).collect()
    }

    fn read_all_changed(&self, group: &[Announced]) -> Result<Vec<Changed>> {
        let mut changed = Vec::new();
        for run in group {
            changed.extend(self.read_changed(run)?);
        }
        Ok(changed)
    }

    /// Fetches all runs of a group; `done` gets them in the same order.
    fn fetch_all(self: &Arc<Self>, group: Vec<Announced>, done: OnSettled) {
        let gathered = Arc::new(Mutex::new(Gather {
            parts: vec![None; group.len()],
            missing: group.len(),
            done: Some(done),
        }));
        for (index, run) in group.into_iter().enumerate() {
            let gathered = Arc::clone(&gathered);
            let got = move |result| Gather::add(&gathered, index, result);
            self.fetch(run, Box::new(got));
        }
    }

    /// Push: reads the local blocks of `remote`, compares their hashes with the remote's, and
    /// returns those that differ and that the patch may carry.
    ///
    /// # Errors
    /// `Kind::Read` when the local device cannot be read.
    fn read_changed(&self, remote: &Announced) -> Result<Vec<Changed>> {
        let block_bytes = self.plan().block_bytes;
        let hasher = self.hasher();
        let present = remote.blocks.clip(self.local().size());
        let mut data = vec![0; present.len() as usize];
        self.local().read_exact_at(&mut data, present.start)?;
        let mut ours = Vec::with_capacity(remote.hashes.len());
        hash_padded(hasher, &data, block_bytes, remote.blocks.len() / block_bytes, &mut ours);
        let runs = remote.differing_from(&ours, block_bytes, hasher.hash_len());
        let carried = runs.into_iter().map(|run| (self.plan().writable(run.blocks), run.hashes));
        let cut = |(range, target_hashes): (ByteRange, Vec<u8>)| {
            // The only one then. A block may have 16 MiB, which need not be there twice.
            let data = if range == present {
                std::mem::take(&mut data)
            } else {
                data[(range.start - present.start) as usize..][..range.len() as usize].to_vec()
            };
            Changed { offset: range.start, data, target_hashes }
        };
        Ok(carried.filter(|(range, _)| !range.is_empty()).map(cut).collect())
    }

    /// The blocks among `remote` whose local hashes are others.
    ///
    /// # Errors
    /// `Kind::Read` when the local device cannot be read.
    pub(super) fn compare_local(
        &self,
        remote: &Announced,
        scratch: &mut Scratch,
    ) -> Result<Vec<Announced>> {
        let block_bytes = self.plan().block_bytes;
        let count = remote.blocks.len() / block_bytes;
        let start = remote.blocks.start;
        let ours = hash_range(&**self.local(), self.hasher(), start, block_bytes, count, scratch)?;
        Ok(remote.differing_from(&ours, block_bytes, self.hasher().hash_len()))
    }

    /// Pull: fetches the remote's bytes of `remote` and checks them against their hashes.
    /// `done` gets `Kind::Transmission` when they do not match: the device changed.
    fn fetch(self: &Arc<Self>, remote: Announced, done: OnFetched) {
        let range = remote.blocks.clip(self.plan().remote_bytes);
        let parts: Vec<_> = range.pieces(FETCH_BYTES).collect();
        let engine = Arc::clone(self);
        let arrived = move |bytes: Result<Vec<u8>>| match bytes {
            // Hashing belongs on the pool: the peer's reader thread must stay quick.
            Ok(data) => {
                let work = Arc::clone(&engine);
                let check = move |_: &mut Scratch| done(work.take_fetched(&remote, range, data));
                engine.pool().submit(Priority::Scan, check);
            }
            Err(err) => done(Err(err)),
        };
        let gathering = Gathering::new(range, Vec::new(), parts.len(), Box::new(arrived));
        if parts.is_empty() {
            gathering.check();
        }
        for part in parts {
            let gathering = Arc::clone(&gathering);
            Fetch { engine: Arc::clone(self), gathering, part }.ask(0);
        }
    }

    fn take_fetched(
        &self,
        remote: &Announced,
        range: ByteRange,
        mut data: Vec<u8>,
    ) -> Result<Changed> {
        self.check_fetched(remote, &data)?;
        data.truncate(self.plan().writable(range).len() as usize);
        Ok(Changed { offset: range.start, data, target_hashes: Vec::new() })
    }

    fn check_fetched(&self, remote: &Announced, data: &[u8]) -> Result<()> {
        let block_bytes = self.plan().block_bytes;
        let mut hashes = Vec::with_capacity(remote.hashes.len());
        hash_padded(
            self.hasher(),
            data,
            block_bytes,
            remote.blocks.len() / block_bytes,
            &mut hashes,
        );
        let is_left_out = |block| self.left_out().is_some_and(|left_out| left_out.touches(block));
        let changed = remote.differing_from(&hashes, block_bytes, self.hasher().hash_len());
        let mut changed = changed.iter().flat_map(|run| run.blocks.pieces(block_bytes));
        match changed.find(|block| !is_left_out(*block)) {
            None => Ok(()),
            Some(block) => Err(changed_error("the remote device", block)),
        }
    }
}

/// Appends the hashes of `count` blocks; `data` may end early, and zeros follow it.
fn hash_padded(
    hasher: &BlockHasher,
    data: &[u8],
    block_bytes: u64,
    count: u64,
    hashes: &mut Vec<u8>,
) {
    let hash_len = hasher.hash_len();
    hashes.resize(count as usize * hash_len, 0);
    let mut blocks = data.chunks(block_bytes as usize);
    for out in hashes.chunks_exact_mut(hash_len) {
        hasher.hash_block(blocks.next().unwrap_or_default(), block_bytes, out);
    }
}

/// Fetches of one group, gathered until all are there or one failed.
struct Gather {
    parts: Vec<Option<Changed>>,
    missing: usize,
    done: Option<OnSettled>,
}

impl Gather {
    fn add(gather: &Mutex<Self>, index: usize, result: Result<Changed>) {
        let mut state = gather.lock();
        let outcome = match result {
            Ok(changed) => {
                state.parts[index] = Some(changed);
                state.missing -= 1;
                if state.missing > 0 {
                    return;
                }
                Ok(state.parts.drain(..).flatten().collect())
            }
            Err(err) => Err(err),
        };
        let done = state.done.take();
        drop(state);
        if let Some(done) = done {
            done(outcome);
        }
    }
}

/// A part of a run of blocks on its way.
struct Fetch {
    engine: Arc<Engine>,
    gathering: Arc<Gathering>,
    part: ByteRange,
}

impl Fetch {
    fn ask(self, attempts: u32) {
        let engine = Arc::clone(&self.engine);
        let request = Request::Block { range: self.part };
        let got = move |answer| self.arrived(answer, attempts);
        engine.peer().submit(request, Priority::Bulk, Box::new(got));
    }

    fn arrived(self, answer: Result<Answer>, attempts: u32) {
        match answer {
            Ok(Answer::Block(block)) => self.gathering.put(self.part.start, &block),
            Ok(_) => self.gathering.fail(unexpected_answer()),
            Err(err) if self.engine.is_worth_another(&err, attempts) => self.ask(attempts + 1),
            Err(err) => self.gathering.fail(err),
        }
    }
}

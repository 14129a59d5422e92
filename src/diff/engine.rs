//! The engine: finds where two sides differ, for the command line and the mount alike.
//!
//! ```text
//!   find(range) --> Descent --Ask-------> Peer (requests in flight) --answer--> Descent ...
//!                          \--HashLocal-> HashPool (local device)  --hashes--> Descent ...
//!                                         Finished --> done(candidates)
//! ```
//! Nothing here waits: answers of the peer and results of the pool drive each comparison on
//! the threads they come from, so any number of them run at once without a thread each.
//! Whoever needs an order (the walk) or a state (the map) keeps it outside.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use parking_lot::Mutex;

use super::compare::Announced;
use super::descent::{Action, Ask, Descent, HashLengths};
use super::ladder::{Ladder, Probe};
use super::left_out::LeftOut;
use super::plan::Plan;
use super::question::{Question, questions};
use crate::device::{Device, ReadAhead, TolerantDevice};
use crate::digest::{BlockHasher, HashPool, Scratch, fold, hash_range, zero_nodes};
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, Priority};
use crate::wire::{Answer, HASHES_BYTES_MAX, Peer, Request};

/// What comparing a range came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Runs of blocks, ascending, each with its remote hashes.
    pub runs: Vec<Announced>,
    /// Bytes that had to be compared block by block.
    pub candidate_bytes: u64,
}

/// Called once with what was found.
pub type OnFound = Box<dyn FnOnce(Result<Found>) + Send>;

/// Both sides of one comparison, and the threads that work on it.
pub struct Engine {
    plan: Plan,
    local: Arc<dyn Device>,
    peer: Peer,
    pool: HashPool,
    hasher: BlockHasher,
    left_out: Option<LeftOut>,
    read_ahead: ReadAhead,
}

impl Engine {
    /// An engine over an open connection; `hasher` has the salt that the peer was told.
    #[must_use]
    pub fn new(
        plan: Plan,
        local: Arc<dyn Device>,
        peer: Peer,
        pool: HashPool,
        hasher: BlockHasher,
    ) -> Arc<Self> {
        let read_ahead = ReadAhead::new(Arc::clone(&local));
        Arc::new(Self { plan, local, peer, pool, hasher, left_out: None, read_ahead })
    }

    /// An engine that leaves out what cannot be read instead of failing: `local` reads around
    /// unreadable places, and the peer was asked to do so where it can (extension `skip`).
    #[must_use]
    pub fn leaving_out(
        plan: Plan,
        local: Arc<TolerantDevice>,
        peer: Peer,
        pool: HashPool,
        hasher: BlockHasher,
    ) -> Arc<Self> {
        let left_out = Some(LeftOut::new(Arc::clone(&local)));
        let read_ahead = ReadAhead::new(Arc::clone(&local) as Arc<dyn Device>);
        Arc::new(Self { plan, local, peer, pool, hasher, left_out, read_ahead })
    }

    /// What was left out so far; `None` for an engine that fails instead.
    #[must_use]
    pub fn left_out(&self) -> Option<&LeftOut> {
        self.left_out.as_ref()
    }

    /// Whether a request that failed by `err` is to be sent again; see [`LeftOut`].
    pub(super) fn is_worth_another(&self, err: &Error, attempts: u32) -> bool {
        self.left_out.as_ref().is_some_and(|left_out| left_out.take(err, attempts))
    }

    /// What is compared.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The local device.
    #[must_use]
    pub fn local(&self) -> &Arc<dyn Device> {
        &self.local
    }

    /// The local device for what must not take zeros for what cannot be read: a checksum.
    #[must_use]
    pub fn strict_local(&self) -> &Arc<dyn Device> {
        self.left_out.as_ref().map_or(&self.local, LeftOut::strict_local)
    }

    /// To be asked after local bytes were read that have to be those of one state.
    ///
    /// # Errors
    /// `Kind::Transmission` when the local device shows that somebody changed it since it was
    /// opened.
    pub fn check_local(&self) -> Result<()> {
        if !self.local.is_changed() {
            return Ok(());
        }
        Err(changed_under_mount(self.local.path()))
    }

    /// The connection to the remote side.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Asks the remote side, again where that is worth it (see [`LeftOut`]), and waits for the
    /// answer: not for a thread that answers come from.
    ///
    /// # Errors
    /// Those of [`Peer::submit`].
    pub fn ask(&self, request: Request) -> Result<Answer> {
        let mut attempts = 0;
        loop {
            match self.ask_watched(request.clone(), Duration::MAX, &|| {}) {
                Err(err) if self.is_worth_another(&err, attempts) => attempts += 1,
                other => return other,
            }
        }
    }

    /// Asks once, with a call of `meanwhile` each time that `interval` has passed without an answer.
    ///
    /// # Errors
    /// As [`Engine::ask`].
    pub fn ask_watched(
        &self,
        request: Request,
        interval: Duration,
        meanwhile: &dyn Fn(),
    ) -> Result<Answer> {
        let (sender, receiver) = bounded(1);
        let done = Box::new(move |answer| drop(sender.send(answer)));
        self.peer().submit(request, Priority::Scan, done);
        loop {
            match receiver.recv_timeout(interval) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) => meanwhile(),
                Err(RecvTimeoutError::Disconnected) => {
                    let what = "the remote side gave no answer";
                    return Err(Error::new(Kind::Connection, what));
                }
            }
        }
    }

    /// The worker threads.
    #[must_use]
    pub fn pool(&self) -> &HashPool {
        &self.pool
    }

    /// The block hash that both sides use.
    #[must_use]
    pub fn hasher(&self) -> &BlockHasher {
        &self.hasher
    }

    /// Compares `range` (which begins at a block) from coarse to fine as `ladder` says, and
    /// calls `done` with the blocks that may differ. Where the ladder ends in a flat probe,
    /// the blocks themselves are not yet compared: whoever reads them does that.
    pub fn find(
        self: &Arc<Self>,
        ladder: Arc<Ladder>,
        range: ByteRange,
        priority: Priority,
        done: OnFound,
    ) {
        let lengths =
            HashLengths { block: self.hasher.hash_len(), tree: self.hasher.tree_hash_len() };
        let wanted = range.intersect(&self.plan.compared);
        let mut descent = Descent::new(Arc::clone(&ladder), lengths, HASHES_BYTES_MAX, wanted);
        let actions = descent.start();
        let state = Mutex::new(Some((descent, done)));
        let job = Arc::new(Job { engine: Arc::clone(self), ladder, priority, state });
        job.act(actions, priority.of_first_look());
    }

    /// Like [`Engine::find`], and compares the blocks themselves too: `done` gets those that
    /// do differ.
    pub fn resolve(
        self: &Arc<Self>,
        ladder: Arc<Ladder>,
        range: ByteRange,
        priority: Priority,
        done: OnFound,
    ) {
        if ladder.compares_blocks() {
            return self.find(ladder, range, priority, done);
        }
        let engine = Arc::clone(self);
        let compare = move |result: Result<Found>| match result {
            Ok(found) if !found.runs.is_empty() => {
                let work = Arc::clone(&engine);
                let job = move |scratch: &mut Scratch| done(work.compare_found(&found, scratch));
                engine.pool.submit(priority, job);
            }
            other => done(other),
        };
        self.find(ladder, range, priority, Box::new(compare));
    }

    fn compare_found(&self, found: &Found, scratch: &mut Scratch) -> Result<Found> {
        let mut runs = Vec::new();
        for candidate in &found.runs {
            runs.extend(self.compare_local(candidate, scratch)?);
        }
        Ok(Found { runs, candidate_bytes: found.candidate_bytes })
    }

    /// Our own hashes of `range` for each of `probes`, which are of a tree or one that is flat: of
    /// a tree's, the leaves are hashed and the levels above are folded from them.
    fn local_hashes(
        &self,
        range: ByteRange,
        probes: &[Probe],
        scratch: &mut Scratch,
    ) -> Result<Vec<Vec<u8>>> {
        let finest = probes[probes.len() - 1];
        let count = range.len() / finest.step_bytes;
        if self.local.next_data(range.start)?.is_none_or(|data| data.start >= range.end) {
            return Ok(self.zero_hashes(range, probes));
        }
        let leaves = hash_range(
            &*self.local,
            match finest.level {
                Some(_) => self.hasher.leaves(),
                None => &self.hasher,
            },
            range.start,
            finest.step_bytes,
            count,
            scratch,
        )?;
        let (mut nodes, mut level) = (leaves, 0);
        let mut lists = Vec::with_capacity(probes.len());
        for probe in probes.iter().rev() {
            let wanted = probe.level.unwrap_or(0);
            nodes = fold(&self.hasher, nodes, wanted - level);
            level = wanted;
            lists.push(nodes.clone());
        }
        lists.reverse();
        Ok(lists)
    }

    /// The same where the local device has a hole: known without folding.
    fn zero_hashes(&self, range: ByteRange, probes: &[Probe]) -> Vec<Vec<u8>> {
        let list = |probe: &Probe| {
            let zeros = match probe.level {
                Some(level) => {
                    zero_nodes(&self.hasher, probe.step_bytes, level)[usize::from(level)]
                }
                None => self.hasher.zero_hash(probe.step_bytes),
            };
            zeros.repeat((range.len() / probe.cover_bytes()) as usize)
        };
        probes.iter().map(list).collect()
    }
}

/// One comparison under way; its state is gone once `done` was called.
struct Job {
    engine: Arc<Engine>,
    ladder: Arc<Ladder>,
    priority: Priority,
    state: Mutex<Option<(Descent, OnFound)>>,
}

impl Job {
    /// Carries out what the state machine asked for. Never called with the state locked.
    fn act(self: &Arc<Self>, actions: Vec<Action>, priority: Priority) {
        for action in actions {
            match action {
                Action::Ask(asks) => {
                    for question in questions(asks, self.engine.peer.session()) {
                        self.submit(question, priority, 0);
                    }
                }
                Action::HashLocal { range, probes } => self.hash_local(range, probes, priority),
                Action::Finished(candidates) => self.end(Ok(candidates)),
            }
        }
    }

    fn submit(self: &Arc<Self>, question: Question, priority: Priority, attempts: u32) {
        let job = Arc::clone(self);
        let request = question.request.clone();
        let done = move |answer: Result<Answer>| match answer {
            Ok(Answer::Hashes(hashes) | Answer::Tree(hashes) | Answer::Runs(hashes)) => {
                job.answered(&question.asks, hashes);
            }
            Ok(_) => job.end(Err(unexpected_answer())),
            Err(err) if job.engine.is_worth_another(&err, attempts) => {
                job.submit(question, priority, attempts + 1);
            }
            Err(err) => job.end(Err(err)),
        };
        self.engine.peer.submit(request, priority, Box::new(done));
    }

    /// Passes the hashes that answer `asks` on, to each its own.
    fn answered(self: &Arc<Self>, asks: &[Ask], hashes: Vec<u8>) {
        if let [ask] = asks {
            return self.step(|descent| descent.remote(ask.index, hashes));
        }
        let all: u64 = asks.iter().map(|ask| ask.count).sum();
        let hash_len = hashes.len() / all as usize;
        self.step(|descent| {
            let mut rest = &hashes[..];
            let mut actions = Vec::new();
            for ask in asks {
                let (own, others) = rest.split_at(ask.count as usize * hash_len);
                actions.extend(descent.remote(ask.index, own.to_vec()));
                rest = others;
            }
            actions
        });
    }

    fn hash_local(self: &Arc<Self>, range: ByteRange, probes: usize, priority: Priority) {
        let job = Arc::clone(self);
        let planned = self.engine.read_ahead.add(range);
        let work = move |scratch: &mut Scratch| {
            let is_wanted = job.state.lock().is_some();
            let hash = || job.engine.local_hashes(range, &job.ladder.probes()[..probes], scratch);
            let hashes = is_wanted.then(hash);
            job.engine.read_ahead.done(planned);
            let Some(hashes) = hashes else { return };
            match hashes {
                Ok(lists) => job.step(|descent| descent.local(lists)),
                Err(err) => job.end(Err(err)),
            }
        };
        self.engine.pool.submit(priority, work);
    }

    fn step(self: &Arc<Self>, change: impl FnOnce(&mut Descent) -> Vec<Action>) {
        let actions = match &mut *self.state.lock() {
            Some((descent, _)) => change(descent),
            None => return,
        };
        self.act(actions, self.priority);
    }

    fn end(&self, result: Result<Vec<Announced>>) {
        let state = self.state.lock().take();
        if let Some((_, done)) = state {
            done(result.map(|runs| Found {
                candidate_bytes: runs.iter().map(|run| run.blocks.len()).sum(),
                runs,
            }));
        }
    }
}

/// The peer matches answers to requests, so this is a fault of ours; it must not go unseen.
pub(super) fn unexpected_answer() -> Error {
    Error::new(Kind::Protocol, "the remote answered a request with another kind of message")
}

/// What is said when the file at `path`, which a mount shows, is not the one any more that it was.
#[must_use]
pub fn changed_under_mount(path: &Path) -> Error {
    let what = "the file was changed while it was mounted, so that reads of it fail from now on \
                (unmount, and mount again)";
    Error::new(Kind::Transmission, what).with_path(path)
}

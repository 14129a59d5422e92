//! What is known of the two devices, for readers in any order: asks only for what is unknown
//! and not already on its way, and remembers the answers.
//!
//! ```text
//!   resolve(want, window) --> in flight already: wait for it     scan(block): the segment of
//!                        \--> unknown: a job of its own           `block` and a few behind it
//!   job --> Engine::find --> both sides' hashes --> Map, Prints --> everybody who waits
//! ```
//! A failed job teaches nothing and is told to those who waited for it; the next reader asks
//! again. What was resolved once stays what it was.
//!
//! Where bytes cannot be read, a job fails for more than those: readers who want only a part of it
//! have that part compared by itself, and in its segment nothing is compared along for a while.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::compare::{Announced, differing};
use super::density::Density;
use super::engine::{Engine, Found};
use super::ladder::Ladder;
use super::map::{Map, State};
use super::prints::{Print, Prints, print_of};
use crate::digest::{Scratch, hash_range};
use crate::error::{Kind, Result};
use crate::units::{ByteRange, Direction, MIB, Priority};

/// Bytes of the device that scans may have in flight (one segment at least).
pub const SCAN_BYTES_MAX: u64 = 32 * MIB;

/// For so many jobs nothing is compared along in a segment after a first failure to read there.
const TROUBLED_JOBS_MIN: u32 = 8;

/// Blocks by number, `[start, end)`.
pub type Blocks = Range<u64>;
/// Called once when everything asked for is known, or with the error that was in the way.
pub type OnKnown = Box<dyn FnOnce(Result<()>) + Send>;

/// What is known of every block, and who waits for more.
pub struct Resolver {
    engine: Arc<Engine>,
    direct: Arc<Ladder>,
    segment_blocks: u64,
    known: Mutex<Known>,
}

struct Known {
    map: Map,
    prints: Prints,
    density: Density,
    /// Jobs in flight by their first block; no two overlap.
    jobs: BTreeMap<u64, Job>,
    scan_blocks: u64,
    /// Segments, by number, with bytes that could not be read at some time.
    troubled: BTreeMap<u64, Trouble>,
    /// Everything below this block is known.
    frontier: u64,
}

struct Job {
    end: u64,
    priority: Priority,
    waiters: Vec<Arc<Waiter>>,
}

/// For how many more jobs of a segment nothing is compared along, and how many that were after the
/// last failure: twice as many after each.
struct Trouble {
    left: u32,
    wait: u32,
}

struct Waiter {
    want: Blocks,
    priority: Priority,
    /// For how many jobs it waits, and whom to tell.
    state: Mutex<(usize, Option<OnKnown>)>,
}

/// A run of blocks that differ, with the hashes of both sides.
struct Differing {
    remote: Announced,
    /// Empty in a pull, whose local blocks nobody reads as differing ones.
    local: Vec<u8>,
}

/// How much of the comparison is done, in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Compared.
    pub known_blocks: u64,
    /// Being compared for a scan.
    pub scanning_blocks: u64,
}

impl Resolver {
    /// Nothing is known yet, and nothing is asked.
    #[must_use]
    pub fn new(engine: Arc<Engine>, density: Density) -> Arc<Self> {
        let plan = engine.plan();
        let blocks = plan.compared.end.div_ceil(plan.block_bytes);
        let known = Known {
            map: Map::new(blocks),
            prints: Prints::default(),
            jobs: BTreeMap::new(),
            scan_blocks: 0,
            troubled: BTreeMap::new(),
            frontier: 0,
            density,
        };
        let segment_blocks = known.density.segment_bytes() / plan.block_bytes;
        let direct = Arc::new(Ladder::direct(plan.block_bytes));
        Arc::new(Self { direct, segment_blocks, engine, known: Mutex::new(known) })
    }

    /// The engine below.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Blocks of a segment, which is compared from coarse to fine.
    #[must_use]
    pub fn segment_blocks(&self) -> u64 {
        self.segment_blocks
    }

    /// Whether all of `blocks` are known.
    #[must_use]
    pub fn is_known(&self, blocks: Blocks) -> bool {
        self.known.lock().map.first_unknown(blocks.start, blocks.end).is_none()
    }

    /// Looks at what is known; `look` must be quick and not call back.
    pub fn with_map<T>(&self, look: impl FnOnce(&Map) -> T) -> T {
        look(&self.known.lock().map)
    }

    /// The first block below `limit` of which nothing is known, `limit` when all is.
    #[must_use]
    pub fn frontier(&self, limit: u64) -> u64 {
        let mut known = self.known.lock();
        let blocks = known.map.blocks();
        known.frontier = known.map.first_unknown(known.frontier, blocks).unwrap_or(blocks);
        known.frontier.min(limit)
    }

    /// How far the comparison is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let known = self.known.lock();
        Progress { known_blocks: known.map.known_blocks(), scanning_blocks: known.scan_blocks }
    }

    /// The print of a block that differs, if it is still kept.
    #[must_use]
    pub fn print(&self, block: u64) -> Option<Print> {
        self.known.lock().prints.get(block)
    }

    /// What is known of `block`; blocks that are not compared at all are unknown.
    #[must_use]
    pub fn state(&self, block: u64) -> State {
        let known = self.known.lock();
        if block < known.map.blocks() { known.map.state(block) } else { State::Unknown }
    }

    /// Makes `want` known, and on the occasion `window` around or behind it; calls `done` as
    /// soon as `want` is known, on this thread when it is already.
    pub fn resolve(
        self: &Arc<Self>,
        want: Blocks,
        window: Blocks,
        priority: Priority,
        done: OnKnown,
    ) {
        let mut known = self.known.lock();
        let window = window.start..window.end.min(known.map.blocks());
        let mut jobs = known.gaps(&want, self.segment_blocks);
        jobs.iter().for_each(|job| known.begin(job, priority));
        let mut more = known.gaps(&window, self.segment_blocks);
        more.retain(|job| known.may_compare_along(job.start / self.segment_blocks));
        more.iter().for_each(|job| known.begin(job, priority));
        jobs.extend(more);
        join_neighbours(&mut known, &mut jobs, self.segment_blocks);
        let waiter = Arc::new(Waiter { want, priority, state: Mutex::new((0, Some(done))) });
        known.attach(&waiter.want, &waiter);
        drop(known);
        for job in jobs {
            self.run(job, priority);
        }
        waiter.check();
    }

    /// Makes the segment of `block` known for a scan, which needs all of it, and with `ahead` asks for
    /// the next unknown ones too, as far as [`SCAN_BYTES_MAX`] allows.
    pub fn scan(self: &Arc<Self>, block: u64, ahead: bool, done: OnKnown) {
        let segment = |block: u64| {
            let start = block - block % self.segment_blocks;
            start..start + self.segment_blocks
        };
        let want = segment(block).start..segment(block).end.min(self.with_map(Map::blocks));
        self.resolve(want.clone(), want, Priority::Scan, done);
        let scan_blocks_max = SCAN_BYTES_MAX / self.engine.plan().block_bytes;
        let mut at = segment(block).end;
        if !ahead {
            return;
        }
        loop {
            let mut known = self.known.lock();
            let blocks = known.map.blocks();
            let Some(next) = known.map.first_unknown(at, blocks) else { return };
            if known.scan_blocks + self.segment_blocks > scan_blocks_max {
                return;
            }
            let window = segment(next).start..segment(next).end.min(blocks);
            let jobs = known.gaps(&window, self.segment_blocks);
            jobs.iter().for_each(|job| known.begin(job, Priority::Scan));
            drop(known);
            for job in jobs {
                self.run(job, Priority::Scan);
            }
            at = window.end;
        }
    }

    /// Starts a job that was noted as in flight.
    fn run(self: &Arc<Self>, job: Blocks, priority: Priority) {
        let block_bytes = self.engine.plan().block_bytes;
        // Most of a segment is compared from coarse to fine, a part of it in one round trip.
        let coarse = 2 * (job.end - job.start) >= self.segment_blocks
            && job.start.is_multiple_of(self.segment_blocks);
        let range = ByteRange::new(job.start * block_bytes, job.end * block_bytes);
        let ladder = match coarse {
            true => self.known.lock().density.choose(range.len()),
            false => Arc::clone(&self.direct),
        };
        self.engine.local().will_need(range.clip(self.engine.local().size()));
        let (this, used) = (Arc::clone(self), Arc::clone(&ladder));
        let found = move |result: Result<Found>| match result {
            Ok(found) if found.runs.is_empty() => this.end(&job, &used, Ok((0, Vec::new()))),
            Ok(found) => {
                let worker = Arc::clone(&this);
                let work = move |scratch: &mut Scratch| {
                    let both = worker.compare(&found.runs, &used, scratch);
                    worker.end(&job, &used, both.map(|both| (found.candidate_bytes, both)));
                };
                this.engine.pool().submit(priority, work);
            }
            Err(err) => this.end(&job, &used, Err(err)),
        };
        self.engine.find(ladder, range, priority, Box::new(found));
    }

    /// Which of `candidates` differ, with the hashes of both sides.
    fn compare(
        &self,
        candidates: &[Announced],
        used: &Ladder,
        scratch: &mut Scratch,
    ) -> Result<Vec<Differing>> {
        let plan = self.engine.plan();
        let hasher = self.engine.hasher();
        let (block_bytes, hash_len) = (plan.block_bytes, hasher.hash_len());
        let mut both = Vec::new();
        for run in candidates {
            if used.compares_blocks() && plan.direction == Direction::Pull {
                both.push(Differing { remote: run.clone(), local: Vec::new() });
                continue;
            }
            let (start, count) = (run.blocks.start, run.blocks.len() / block_bytes);
            let local = &**self.engine.local();
            let hashes = hash_range(local, hasher, start, block_bytes, count, scratch)?;
            let own = Announced { blocks: run.blocks, hashes };
            for blocks in differing(run.blocks, block_bytes, hash_len, &own.hashes, &run.hashes) {
                let hashes = run.hashes_of(blocks, block_bytes, hash_len).to_vec();
                let local = own.hashes_of(blocks, block_bytes, hash_len).to_vec();
                both.push(Differing { remote: Announced { blocks, hashes }, local });
            }
        }
        Ok(both)
    }

    /// Learns from a job, or not, and tells those who wait for it.
    fn end(
        self: &Arc<Self>,
        job: &Blocks,
        used: &Arc<Ladder>,
        result: Result<(u64, Vec<Differing>)>,
    ) {
        let plan = self.engine.plan();
        let hash_len = self.engine.hasher().hash_len();
        // What was hashed may be of another state than what was compared before.
        let result = result.and_then(|found| self.engine.check_local().map(|()| found));
        // A remote side that went away reads nothing any more.
        let unread = result.as_ref().is_err_and(|err| err.kind() == Kind::Read)
            && self.engine.peer().last_error().is_none();
        let mut known = self.known.lock();
        let mut waiters = known.finish(job);
        let outcome = result.map(|(candidate_bytes, both)| {
            let segment_bytes = (job.end - job.start) * plan.block_bytes;
            known.density.learn(used, segment_bytes, candidate_bytes);
            for run in &both {
                known.learn_differing(run, plan.block_bytes, hash_len, job);
            }
            known.map.learn(job.start, job.end, State::Same);
            if let Some(trouble) = known.troubled.get_mut(&(job.start / self.segment_blocks)) {
                trouble.left = trouble.left.saturating_sub(1);
            }
        });
        let parts =
            if unread { known.divide(job, &mut waiters, self.segment_blocks) } else { Vec::new() };
        drop(known);
        for waiter in waiters {
            waiter.job_ended(&outcome);
        }
        for Part { waiter, jobs } in parts {
            for job in jobs {
                self.run(job, waiter.priority);
            }
            // All of it may have become known meanwhile.
            waiter.check();
        }
    }
}

/// A part of a failed job that is compared by itself, for one who waits for it.
struct Part {
    waiter: Arc<Waiter>,
    jobs: Vec<Blocks>,
}

impl Known {
    /// The parts of `blocks` that are unknown and not in flight, each trimmed to what is
    /// unknown and cut at the bounds of segments.
    fn gaps(&self, blocks: &Blocks, segment_blocks: u64) -> Vec<Blocks> {
        let mut gaps = Vec::new();
        let mut at = blocks.start;
        while let Some(start) = self.map.first_unknown(at, blocks.end) {
            let before = self.jobs.range(..=start).next_back();
            if let Some((_, job)) = before.filter(|(_, job)| job.end > start) {
                at = job.end;
                continue;
            }
            let next_job = self.jobs.range(start..).next().map_or(u64::MAX, |(&next, _)| next);
            let segment_end = (start / segment_blocks + 1) * segment_blocks;
            let stop = blocks.end.min(segment_end).min(next_job);
            let last = self.map.find_back(start, stop, |state| state == State::Unknown);
            gaps.push(start..last.map_or(stop, |last| last + 1));
            at = stop;
        }
        gaps
    }

    fn begin(&mut self, job: &Blocks, priority: Priority) {
        if priority == Priority::Scan {
            self.scan_blocks += job.end - job.start;
        }
        self.jobs.insert(job.start, Job { end: job.end, priority, waiters: Vec::new() });
    }

    fn finish(&mut self, job: &Blocks) -> Vec<Arc<Waiter>> {
        let Some(Job { end, priority, waiters }) = self.jobs.remove(&job.start) else {
            return Vec::new();
        };
        if priority == Priority::Scan {
            self.scan_blocks -= end - job.start;
        }
        waiters
    }

    /// Makes `waiter` wait for every job that covers an unknown block of `want`.
    fn attach(&mut self, want: &Blocks, waiter: &Arc<Waiter>) {
        let first = self.jobs.range(..=want.start).next_back().map_or(want.start, |(&at, _)| at);
        for (&start, job) in self.jobs.range_mut(first..want.end) {
            let (from, to) = (start.max(want.start), job.end.min(want.end));
            if self.map.first_unknown(from, to).is_some() {
                waiter.state.lock().0 += 1;
                job.waiters.push(Arc::clone(waiter));
            }
        }
    }

    fn may_compare_along(&self, segment: u64) -> bool {
        self.troubled.get(&segment).is_none_or(|trouble| trouble.left == 0)
    }

    /// After `job` could not be read: takes those out of `waiters` who want a part of it only, which
    /// may be readable. Each part is smaller than the job, so that this comes to an end. A scan needs
    /// all of it sooner or later.
    fn divide(
        &mut self,
        job: &Blocks,
        waiters: &mut Vec<Arc<Waiter>>,
        segment_blocks: u64,
    ) -> Vec<Part> {
        let new = Trouble { left: 0, wait: TROUBLED_JOBS_MIN / 2 };
        let trouble = self.troubled.entry(job.start / segment_blocks).or_insert(new);
        trouble.wait = trouble.wait.saturating_mul(2);
        trouble.left = trouble.wait;
        let mut parts = Vec::new();
        waiters.retain(|waiter| {
            let part = waiter.want.start.max(job.start)..waiter.want.end.min(job.end);
            if part == *job || waiter.priority == Priority::Scan {
                return true;
            }
            let jobs = self.gaps(&part, segment_blocks);
            jobs.iter().for_each(|job| self.begin(job, waiter.priority));
            self.attach(&part, waiter);
            // The one that failed is over.
            waiter.state.lock().0 -= 1;
            parts.push(Part { waiter: Arc::clone(waiter), jobs });
            false
        });
        parts
    }

    fn learn_differing(
        &mut self,
        run: &Differing,
        block_bytes: u64,
        hash_len: usize,
        job: &Blocks,
    ) {
        let start = run.remote.blocks.start / block_bytes;
        let hashes = run.remote.hashes.chunks_exact(hash_len);
        let mut ours = run.local.chunks_exact(hash_len);
        for (block, remote) in (start..).zip(hashes) {
            let local = ours.next().map_or(0, print_of);
            // What was known before stays, with its print: somebody may have read it.
            if job.contains(&block) && self.map.state(block) == State::Unknown {
                self.map.learn(block, block + 1, State::Differs);
                self.prints.insert(block, Print { local, remote: print_of(remote) });
            }
        }
    }
}

/// Makes one job of each two that touch, as long as it stays within one segment: what a reader
/// wants and what lies behind it are asked for with one request.
fn join_neighbours(known: &mut Known, jobs: &mut Vec<Blocks>, segment_blocks: u64) {
    jobs.sort_by_key(|job| job.start);
    jobs.dedup_by(|next, job| {
        let same_segment = job.start / segment_blocks == (next.end - 1) / segment_blocks;
        let joins = job.end == next.start && same_segment;
        if joins {
            job.end = next.end;
            known.jobs.remove(&next.start);
            if let Some(noted) = known.jobs.get_mut(&job.start) {
                noted.end = job.end;
            }
        }
        joins
    });
}

impl Waiter {
    /// Calls back when nothing is missing from the start.
    fn check(&self) {
        let mut state = self.state.lock();
        let done = if state.0 == 0 { state.1.take() } else { None };
        drop(state);
        if let Some(done) = done {
            done(Ok(()));
        }
    }

    fn job_ended(&self, outcome: &Result<()>) {
        let mut state = self.state.lock();
        state.0 -= 1;
        let over = state.0 == 0 || outcome.is_err();
        let done = if over { state.1.take() } else { None };
        drop(state);
        if let Some(done) = done {
            done(outcome.as_ref().copied().map_err(|err| err.duplicate()));
        }
    }
}

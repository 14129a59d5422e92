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

use std::sync::Arc;

use parking_lot::Mutex;

use super::budget::{Budget, Permit};
use super::compare::{Announced, RUN_HELD_BYTES_MIN, differing, hashes_held_bytes};
use super::density::Density;
use super::engine::{Engine, Found};
use super::jobs::{Blocks, Differing, Known, OnKnown, Part, Waiter};
use super::ladder::Ladder;
use super::map::{Map, State};
use super::prints::Print;
use crate::digest::{Scratch, hash_range};
use crate::error::{Kind, Result};
use crate::units::{ByteRange, Direction, MIB, Priority};

/// Bytes of the device that scans may have in flight (one segment at least).
pub const SCAN_BYTES_MAX: u64 = 32 * MIB;
/// Bytes held for comparisons under way (one at least), were all blocks of each to differ: with
/// hashes of 32 bytes those of 65536 blocks, twice as many of 1 KiB as a scan may have in flight.
pub const COMPARING_BYTES_MAX: u64 = 8 * MIB;

/// What is known of every block, and who waits for more.
pub struct Resolver {
    engine: Arc<Engine>,
    direct: Arc<Ladder>,
    segment_blocks: u64,
    comparing: Budget,
    known: Mutex<Known>,
}

impl Resolver {
    /// Nothing is known yet, and nothing is asked.
    #[must_use]
    pub fn new(engine: Arc<Engine>, density: Density) -> Arc<Self> {
        let plan = engine.plan();
        let blocks = plan.compared.end.div_ceil(plan.block_bytes);
        let segment_blocks = density.segment_bytes() / plan.block_bytes;
        let known = Known::new(blocks, segment_blocks, density);
        let direct = Arc::new(Ladder::direct(plan.block_bytes));
        let comparing = Budget::new(COMPARING_BYTES_MAX);
        Arc::new(Self { direct, segment_blocks, engine, comparing, known: Mutex::new(known) })
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
        self.known.lock().frontier(limit)
    }

    /// Bytes that count against [`COMPARING_BYTES_MAX`] now.
    #[cfg(test)]
    #[must_use]
    pub fn comparing_bytes(&self) -> u64 {
        self.comparing.used_bytes()
    }

    /// Blocks that are being compared for a scan.
    #[must_use]
    pub fn scanning_blocks(&self) -> u64 {
        self.known.lock().scan_blocks
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
        let waiter = Waiter::new(want, priority, done);
        let jobs = {
            let mut known = self.known.lock();
            let window = window.start..window.end.min(known.map.blocks());
            known.ask(&waiter, &window)
        };
        for job in jobs {
            self.run(job, priority);
        }
        waiter.check();
    }

    /// Makes the segment of `block` known for a scan, which needs all of it, and with `ahead` asks for
    /// the next unknown ones too, as far as [`SCAN_BYTES_MAX`] allows.
    pub fn scan(self: &Arc<Self>, block: u64, ahead: bool, done: OnKnown) {
        let blocks = self.with_map(Map::blocks);
        let segment = |block: u64| {
            let start = block - block % self.segment_blocks;
            start..(start + self.segment_blocks).min(blocks)
        };
        let want = segment(block);
        let mut at = want.end;
        self.resolve(want.clone(), want, Priority::Scan, done);
        if !ahead {
            return;
        }
        let scan_blocks_max = SCAN_BYTES_MAX / self.engine.plan().block_bytes;
        loop {
            let mut known = self.known.lock();
            let Some(next) = known.map.first_unknown(at, blocks) else { return };
            if known.scan_blocks + self.segment_blocks > scan_blocks_max {
                return;
            }
            let window = segment(next);
            let jobs = known.note(&window, Priority::Scan);
            drop(known);
            for job in jobs {
                self.run(job, Priority::Scan);
            }
            at = window.end;
        }
    }

    /// Starts a job that was noted as in flight, once there is room for its hashes.
    fn run(self: &Arc<Self>, job: Blocks, priority: Priority) {
        let this = Arc::clone(self);
        self.comparing.admit_as(priority, self.held_bytes(&job), move |permit| {
            this.run_admitted(job, priority, permit);
        });
    }

    /// Bytes that count against [`COMPARING_BYTES_MAX`] while `job` is under way.
    fn held_bytes(&self, job: &Blocks) -> u64 {
        let hash_len = self.engine.hasher().hash_len() as u64;
        hashes_held_bytes((job.end - job.start) * hash_len).max(RUN_HELD_BYTES_MIN)
    }

    fn run_admitted(self: &Arc<Self>, job: Blocks, priority: Priority, permit: Permit) {
        let block_bytes = self.engine.plan().block_bytes;
        // Most of a segment is compared from coarse to fine, a part of it in one round trip.
        let coarse = 2 * (job.end - job.start) >= self.segment_blocks
            && job.start.is_multiple_of(self.segment_blocks);
        let range = ByteRange::new(job.start * block_bytes, job.end * block_bytes);
        let ladder = match coarse {
            true => self.known.lock().density.choose(range.len()),
            false => Arc::clone(&self.direct),
        };
        // What is hashed on the way down is told of there.
        if ladder.local_probes() == 0 {
            self.engine.local().will_need(range.clip(self.engine.local().size()));
        }
        let (this, used) = (Arc::clone(self), Arc::clone(&ladder));
        let found = move |result: Result<Found>| {
            let worker = Arc::clone(&this);
            let work = move |scratch: &mut Scratch| {
                let outcome = result.and_then(|Found { runs, candidate_bytes }| {
                    Ok((candidate_bytes, worker.compare(&runs, &used, scratch)?))
                });
                worker.end(&job, &used, outcome, permit);
            };
            // Also where nothing is left to compare: what ends here has others begin, which has the
            // local device asked and told, and the thread that answers come from must stay quick.
            this.engine.pool().submit(priority, work);
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

    /// Learns from a job, or not, and tells those who wait for it. With the hashes it gives up what
    /// there was room for.
    fn end(
        self: &Arc<Self>,
        job: &Blocks,
        used: &Arc<Ladder>,
        result: Result<(u64, Vec<Differing>)>,
        permit: Permit,
    ) {
        let plan = self.engine.plan();
        let hash_len = self.engine.hasher().hash_len();
        // What was hashed may be of another state than what was compared before.
        let result = result.and_then(|found| self.engine.check_local().map(|()| found));
        let unread = result.as_ref().is_err_and(|err| err.kind() == Kind::Read);
        let mut known = self.known.lock();
        let mut waiters = known.finish(job);
        let outcome = result.map(|(candidate_bytes, both)| {
            let segment_bytes = (job.end - job.start) * plan.block_bytes;
            known.density.learn(used, segment_bytes, candidate_bytes);
            known.learn(job, &both, plan.block_bytes, hash_len);
        });
        let parts = if unread { known.divide(job, &mut waiters) } else { Vec::new() };
        drop(known);
        drop(permit);
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

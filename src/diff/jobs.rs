//! What a resolver knows, the comparisons under way, and who waits for them. Called with its lock
//! held: nothing here waits or calls back, but for [`Waiter::check`] and [`Waiter::job_ended`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::compare::Announced;
use super::density::Density;
use super::map::{Map, State};
use super::prints::{Print, Prints, print_of};
use crate::error::Result;
use crate::units::Priority;

/// For so many jobs nothing is compared along in a segment after a first failure to read there.
const TROUBLED_JOBS_MIN: u32 = 8;

/// Blocks by number, `[start, end)`.
pub type Blocks = Range<u64>;
/// Called once when everything asked for is known, or with the error that was in the way.
pub type OnKnown = Box<dyn FnOnce(Result<()>) + Send>;

/// What is known of every block, and what is being found out.
pub(super) struct Known {
    segment_blocks: u64,
    pub(super) map: Map,
    pub(super) prints: Prints,
    pub(super) density: Density,
    /// Jobs in flight by their first block; no two overlap.
    jobs: BTreeMap<u64, Job>,
    /// Blocks that are being compared for scans.
    pub(super) scan_blocks: u64,
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

pub(super) struct Waiter {
    want: Blocks,
    pub(super) priority: Priority,
    /// For how many jobs it waits, and whom to tell.
    state: Mutex<(usize, Option<OnKnown>)>,
}

/// A run of blocks that differ, with the hashes of both sides.
pub(super) struct Differing {
    pub(super) remote: Announced,
    /// Empty in a pull, whose local blocks nobody reads as differing ones.
    pub(super) local: Vec<u8>,
}

/// A part of a failed job that is compared by itself, for one who waits for it.
pub(super) struct Part {
    pub(super) waiter: Arc<Waiter>,
    pub(super) jobs: Vec<Blocks>,
}

impl Known {
    /// Nothing is known of `blocks` blocks.
    pub(super) fn new(blocks: u64, segment_blocks: u64, density: Density) -> Self {
        Self {
            segment_blocks,
            map: Map::new(blocks),
            prints: Prints::default(),
            density,
            jobs: BTreeMap::new(),
            scan_blocks: 0,
            troubled: BTreeMap::new(),
            frontier: 0,
        }
    }

    /// The first block below `limit` of which nothing is known, `limit` when all is.
    pub(super) fn frontier(&mut self, limit: u64) -> u64 {
        let blocks = self.map.blocks();
        self.frontier = self.map.first_unknown(self.frontier, blocks).unwrap_or(blocks);
        self.frontier.min(limit)
    }

    /// Notes the jobs that have to be run to make known what `waiter` wants, and on the occasion
    /// `window`, and has it wait for them and for those that are under way.
    pub(super) fn ask(&mut self, waiter: &Arc<Waiter>, window: &Blocks) -> Vec<Blocks> {
        let mut jobs = self.note(&waiter.want, waiter.priority);
        let mut along = self.gaps(window);
        along.retain(|job| self.may_compare_along(job));
        jobs.extend(self.begin(along, waiter.priority));
        self.join_neighbours(&mut jobs);
        self.attach(&waiter.want, waiter);
        jobs
    }

    /// Notes jobs for the unknown parts of `blocks` that nobody compares.
    pub(super) fn note(&mut self, blocks: &Blocks, priority: Priority) -> Vec<Blocks> {
        let jobs = self.gaps(blocks);
        self.begin(jobs, priority)
    }

    /// Takes note of the blocks of `job`, of which `both` differ.
    pub(super) fn learn(
        &mut self,
        job: &Blocks,
        both: &[Differing],
        block_bytes: u64,
        hash_len: usize,
    ) {
        for run in both {
            self.learn_differing(run, block_bytes, hash_len, job);
        }
        self.map.learn(job.start, job.end, State::Same);
        if let Some(trouble) = self.troubled.get_mut(&(job.start / self.segment_blocks)) {
            trouble.left = trouble.left.saturating_sub(1);
        }
    }

    /// The parts of `blocks` that are unknown and not in flight, each trimmed to what is
    /// unknown and cut at the bounds of segments.
    fn gaps(&self, blocks: &Blocks) -> Vec<Blocks> {
        let mut gaps = Vec::new();
        let mut at = blocks.start;
        while let Some(start) = self.map.first_unknown(at, blocks.end) {
            let before = self.jobs.range(..=start).next_back();
            if let Some((_, job)) = before.filter(|(_, job)| job.end > start) {
                at = job.end;
                continue;
            }
            let next_job = self.jobs.range(start..).next().map_or(u64::MAX, |(&next, _)| next);
            let segment_end = (start / self.segment_blocks + 1) * self.segment_blocks;
            let stop = blocks.end.min(segment_end).min(next_job);
            let last = self.map.find_back(start, stop, |state| state == State::Unknown);
            gaps.push(start..last.map_or(stop, |last| last + 1));
            at = stop;
        }
        gaps
    }

    fn begin(&mut self, jobs: Vec<Blocks>, priority: Priority) -> Vec<Blocks> {
        for job in &jobs {
            if priority == Priority::Scan {
                self.scan_blocks += job.end - job.start;
            }
            self.jobs.insert(job.start, Job { end: job.end, priority, waiters: Vec::new() });
        }
        jobs
    }

    pub(super) fn finish(&mut self, job: &Blocks) -> Vec<Arc<Waiter>> {
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

    fn may_compare_along(&self, job: &Blocks) -> bool {
        self.troubled
            .get(&(job.start / self.segment_blocks))
            .is_none_or(|trouble| trouble.left == 0)
    }

    /// After `job` could not be read: takes those out of `waiters` who want a part of it only, which
    /// may be readable. Each part is smaller than the job, so that this comes to an end. A scan needs
    /// all of it sooner or later.
    pub(super) fn divide(&mut self, job: &Blocks, waiters: &mut Vec<Arc<Waiter>>) -> Vec<Part> {
        let new = Trouble { left: 0, wait: TROUBLED_JOBS_MIN / 2 };
        let trouble = self.troubled.entry(job.start / self.segment_blocks).or_insert(new);
        trouble.wait = trouble.wait.saturating_mul(2);
        trouble.left = trouble.wait;
        let mut parts = Vec::new();
        waiters.retain(|waiter| {
            let part = waiter.want.start.max(job.start)..waiter.want.end.min(job.end);
            if part == *job || waiter.priority == Priority::Scan {
                return true;
            }
            let jobs = self.note(&part, waiter.priority);
            self.attach(&part, waiter);
            // The one that failed is over.
            waiter.state.lock().0 -= 1;
            parts.push(Part { waiter: Arc::clone(waiter), jobs });
            false
        });
        parts
    }

    /// Makes one job of each two that touch, as long as it stays within one segment: what a reader
    /// wants and what lies behind it are asked for with one request.
    fn join_neighbours(&mut self, jobs: &mut Vec<Blocks>) {
        jobs.sort_by_key(|job| job.start);
        jobs.dedup_by(|next, job| {
            let same_segment =
                job.start / self.segment_blocks == (next.end - 1) / self.segment_blocks;
            let joins = job.end == next.start && same_segment;
            if joins {
                job.end = next.end;
                self.jobs.remove(&next.start);
                if let Some(noted) = self.jobs.get_mut(&job.start) {
                    noted.end = job.end;
                }
            }
            joins
        });
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

impl Waiter {
    /// One who wants to know `want`.
    pub(super) fn new(want: Blocks, priority: Priority, done: OnKnown) -> Arc<Self> {
        Arc::new(Self { want, priority, state: Mutex::new((0, Some(done))) })
    }

    /// Calls back where no job is left to wait for: none was needed from the start, or what was
    /// wanted of one that was [divided](Known::divide) has become known meanwhile.
    pub(super) fn check(&self) {
        let mut state = self.state.lock();
        let done = if state.0 == 0 { state.1.take() } else { None };
        drop(state);
        if let Some(done) = done {
            done(Ok(()));
        }
    }

    pub(super) fn job_ended(&self, outcome: &Result<()>) {
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

#[cfg(test)]
mod tests {
    use super::super::ladder::Ladder;
    use super::*;
    use crate::digest::Algorithm;
    use crate::units::ByteRange;

    const BLOCK_BYTES: u64 = 4096;
    const HASH_LEN: usize = 16;

    fn known() -> Known {
        let coarse = Ladder::flat(BLOCK_BYTES, Algorithm::Md5);
        Known::new(100, 50, Density::new(coarse, Ladder::direct(BLOCK_BYTES), 0.5))
    }

    fn waiter(want: Blocks) -> Arc<Waiter> {
        Waiter::new(want, Priority::Interactive, Box::new(|_| {}))
    }

    /// Blocks that differ, whose hashes are these bytes.
    fn differing(blocks: Blocks, local: u8, remote: u8) -> Differing {
        let hashes = |byte| vec![byte; (blocks.end - blocks.start) as usize * HASH_LEN];
        let range = ByteRange::new(blocks.start * BLOCK_BYTES, blocks.end * BLOCK_BYTES);
        let remote = Announced { blocks: range, hashes: hashes(remote) };
        Differing { remote, local: hashes(local) }
    }

    #[test]
    fn who_wants_a_part_of_a_failed_job_gets_it_alone_and_fails_with_that() {
        // What is wanted begins before the job, ends behind it, or does both.
        for (before, want, job, part) in [
            (0..10, 5..15, 10..20, 10..15),
            (20..30, 15..25, 10..20, 15..20),
            (0..10, 5..25, 10..50, 10..25),
        ] {
            let mut known = known();
            known.learn(&before, &[], BLOCK_BYTES, HASH_LEN);
            let waiter = waiter(want.clone());
            assert_eq!(known.ask(&waiter, &job), std::slice::from_ref(&job));
            let mut waiters = known.finish(&job);
            let parts = known.divide(&job, &mut waiters);
            assert!(waiters.is_empty(), "{want:?} of {job:?}");
            let jobs: Vec<_> = parts.into_iter().flat_map(|part| part.jobs).collect();
            assert_eq!(jobs, std::slice::from_ref(&part), "{want:?} of {job:?}");
            let mut waiters = known.finish(&part);
            assert!(known.divide(&part, &mut waiters).is_empty(), "{part:?} again");
            assert_eq!(waiters.len(), 1, "nobody is told that {part:?} failed");
        }
    }

    #[test]
    fn only_neighbours_within_a_segment_are_one_job() {
        for (want, window, expected) in [
            (5..10, 20..60, vec![(5, 10), (20, 50), (50, 60)]),
            (20..25, 25..40, vec![(20, 40)]),
            (45..50, 50..60, vec![(45, 50), (50, 60)]),
        ] {
            let mut known = known();
            known.learn(&(10..20), &[], BLOCK_BYTES, HASH_LEN);
            let waiter = waiter(want);
            let jobs = known.ask(&waiter, &window);
            assert!(jobs.iter().map(|job| (job.start, job.end)).eq(expected.iter().copied()));
            let noted: Vec<_> = known.jobs.iter().map(|(&start, job)| (start, job.end)).collect();
            assert_eq!(noted, expected);
        }
    }

    #[test]
    fn what_is_known_of_a_block_stays_with_its_print() {
        let mut known = known();
        known.learn(&(3..5), &[differing(3..4, 1, 2)], BLOCK_BYTES, HASH_LEN);
        let print = known.prints.get(3);
        assert!(print.is_some());
        // A job over what is known, with a run that reaches beyond it.
        known.learn(&(2..8), &[differing(2..10, 7, 8)], BLOCK_BYTES, HASH_LEN);
        assert_eq!(known.prints.get(3), print);
        let found: Vec<_> = (2..10).map(|block| known.map.state(block)).collect();
        let (same, differs, unknown) = (State::Same, State::Differs, State::Unknown);
        let expected = [differs, differs, same, differs, differs, differs, unknown, unknown];
        assert_eq!(found, expected);
        for block in [4, 8, 9] {
            assert_eq!(known.prints.get(block), None, "block {block}");
        }
    }
}

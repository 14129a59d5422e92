//! The work for one answer, shared by the threads of the pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::bell::Bell;
use super::plan::{HashPlan, HashWork};
use super::served::ServedDevice;
use crate::device::{Device, Planned, ReadAhead, TolerantDevice};
use crate::digest::{
    BlockHasher, Kept, LeafCache, Scratch, Submitter, fold, hash_node, hash_range_with,
};
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, MIB, Priority};
use crate::wire::{FAULT_RANGES_MAX, FAULT_TEXT_BYTES_MAX, Message, packed};

/// How many bytes of one task the device is told of ahead of the unit that is worked on, or the
/// next unit's first ones: a disk has enough to do, and little is in memory too early.
const AHEAD_BYTES: u64 = 16 * MIB;

/// What the answers of a session are made of.
pub(super) struct Source {
    pub(super) device: ServedDevice,
    /// The same, reading around unreadable places, for a client that asked for that.
    pub(super) tolerant: Option<TolerantDevice>,
    pub(super) hasher: BlockHasher,
    /// Whether bytes of the device go out compressed.
    pub(super) packs: bool,
    /// `None` where the client does not ask for trees.
    pub(super) leaves: Option<LeafCache>,
    /// Whether the page cache shall forget what was read.
    pub(super) flush: AtomicBool,
    pub(super) read_ahead: ReadAhead,
    /// Rung when anything that an answer waits for is finished.
    pub(super) bell: Bell,
}

impl Source {
    /// The device to answer from.
    pub(super) fn answers(&self) -> &dyn Device {
        self.tolerant.as_ref().map_or(&self.device, |tolerant| tolerant)
    }

    /// The message in place of an answer that needs bytes which cannot be read.
    pub(super) fn fault(&self, err: &Error) -> Message {
        let ranges = match &self.tolerant {
            // None of them where the disk is past being read around: that ends the client's
            // attempts.
            Some(tolerant) => tolerant.take_untold(FAULT_RANGES_MAX),
            None => err.range().into_iter().collect(),
        };
        let mut text = err.full_message().into_bytes();
        text.truncate(FAULT_TEXT_BYTES_MAX);
        Message::Fault { ranges, text }
    }

    /// Fails where the client takes the answer for one of readable bytes only, but it, or one that
    /// failed before all of its units were done, has found others. So no answer goes out before
    /// the client knows which zeros in it are none.
    fn check_told(&self) -> Result<()> {
        match self.tolerant.as_ref().and_then(TolerantDevice::untold) {
            Some(err) => Err(err),
            None => Ok(()),
        }
    }

    /// Has the device begin to read `range`.
    fn will_need(&self, range: ByteRange) {
        let range = range.clip(self.device.size());
        if !range.is_empty() {
            self.device.will_need(range);
        }
    }

    /// Length of the hashes that `plan` makes, in bytes.
    fn hash_len(&self, plan: &HashPlan) -> usize {
        if plan.of_tree { self.hasher.tree_hash_len() } else { self.hasher.hash_len() }
    }

    /// Whether the first hashes that `work` wants are kept: then so are the rest of them, or most.
    pub(super) fn has_hashes(&self, work: &Work) -> bool {
        let Work::Hashes(hashes) = work else { return false };
        let plan = hashes.first();
        self.kept_for(plan).is_some_and(|leaves| leaves.has(plan.unit(0).start(), plan.step()))
    }

    /// The kept leaves that are of use for `plan`: for block hashes only where leaves have the
    /// same.
    fn kept_for(&self, plan: &HashPlan) -> Option<&LeafCache> {
        self.leaves.as_ref().filter(|_| plan.of_tree || self.hasher.leaves_are_blocks())
    }

    /// Lets go of all that was read, where the client wants that.
    pub(super) fn release_all(&self) {
        if self.flush.load(Ordering::Relaxed) {
            self.device.done_with(ByteRange::new(0, self.device.size()));
        }
    }

    /// Forgets what lies below `end`: it leaves the page cache, and is hashed anew when it is asked
    /// for again, as by who has written to it since.
    pub(super) fn release_below(&self, end: u64) {
        self.device.done_with(ByteRange::new(0, end.min(self.device.size())));
        if let Some(leaves) = &self.leaves {
            leaves.forget_below(end);
        }
    }

    /// Tells the device that `range` was read for an answer.
    fn was_read(&self, range: ByteRange) {
        let range = range.clip(self.device.size());
        if self.flush.load(Ordering::Relaxed) && !range.is_empty() {
            self.device.done_with(range);
        }
    }
}

/// What to do for one answer.
pub(super) enum Work {
    /// Compute hashes.
    Hashes(HashWork),
    /// Read these bytes, which fit an answer.
    Read(ByteRange),
}

impl Work {
    fn units(&self) -> u64 {
        match self {
            Work::Hashes(hashes) => hashes.units(),
            Work::Read(_) => 1,
        }
    }

    /// Bytes of all results.
    fn bytes(&self, source: &Source) -> usize {
        match self {
            Work::Hashes(hashes) => hashes.nodes() as usize * source.hash_len(hashes.first()),
            Work::Read(range) => range.len() as usize,
        }
    }

    /// The bytes that the first units of each part read.
    fn begins_with(&self) -> Vec<ByteRange> {
        match self {
            Work::Hashes(hashes) => {
                let first = |plan: &HashPlan| {
                    let units = plan.units().min(units_ahead(plan));
                    (units > 0).then(|| units_range(plan, 0, units))
                };
                hashes.plans().filter_map(first).collect()
            }
            Work::Read(range) => vec![*range],
        }
    }

    /// The bytes that are to be in memory when unit `i`, below [`Work::units`], is done, and that
    /// the device was not told of at the beginning.
    fn ahead_of(&self, i: u64) -> Option<ByteRange> {
        let Work::Hashes(hashes) = self else { return None };
        let (plan, unit, _) = hashes.unit(i);
        let ahead = unit.saturating_add(units_ahead(plan));
        (ahead < plan.units()).then(|| units_range(plan, ahead, ahead + 1))
    }
}

/// Units of [`AHEAD_BYTES`]. A step may be gigabytes.
fn units_ahead(plan: &HashPlan) -> u64 {
    (AHEAD_BYTES / plan.unit(0).range().len().max(1)).max(1)
}

/// What units `from..to` of `plan` read, up to [`AHEAD_BYTES`]; both are at most its units, and
/// `from < to`.
fn units_range(plan: &HashPlan, from: u64, to: u64) -> ByteRange {
    let start = plan.unit(from).start();
    ByteRange::new(start, plan.unit(to - 1).range().end).clip(start.saturating_add(AHEAD_BYTES))
}

struct State {
    /// The results of all units, each in its place.
    parts: Vec<u8>,
    /// Of bytes that were read: the same, packed, where that is shorter.
    packed: Option<Message>,
    units_left: u64,
    failed: Option<Error>,
    /// Whether all units are done, or one has failed.
    is_finished: bool,
}

/// One answer in the making. Its units may be done by any thread in any order.
pub(super) struct Task {
    source: Arc<Source>,
    work: Work,
    /// Bytes of all results.
    bytes: usize,
    /// What the device was told to read for it.
    ahead: Vec<Planned>,
    next_unit: AtomicU64,
    state: Mutex<State>,
}

impl Task {
    /// Starts `work` on the pool, on up to `threads` threads at once.
    pub(super) fn start(
        source: &Arc<Source>,
        work: Work,
        pool: &Submitter,
        threads: usize,
        priority: Priority,
    ) -> Arc<Self> {
        let (bytes, units) = (work.bytes(source), work.units());
        // Tasks wait for threads; the disk need not.
        let ahead = if source.has_hashes(&work) { Vec::new() } else { work.begins_with() };
        let ahead = ahead.into_iter().map(|range| source.read_ahead.add(range)).collect();
        let state = State {
            parts: vec![0; bytes],
            packed: None,
            units_left: units,
            failed: None,
            is_finished: units == 0,
        };
        let task = Arc::new(Self {
            source: Arc::clone(source),
            work,
            bytes,
            ahead,
            next_unit: AtomicU64::new(0),
            state: Mutex::new(state),
        });
        for _ in 0..units.min(threads as u64) {
            let task = Arc::clone(&task);
            pool.submit(priority, move |scratch| task.run(scratch));
        }
        task
    }

    /// Bytes that are held for the answer, at most.
    pub(super) fn held_bytes(&self) -> usize {
        // The answer is made while its parts are still there.
        2 * self.bytes
    }

    /// Whether there is a result, or an error in its place. The source's bell rings then.
    pub(super) fn is_finished(&self) -> bool {
        self.state.lock().is_finished
    }

    /// The answer's bytes; to be called once, when it is finished.
    ///
    /// # Errors
    /// The first error of any unit, or that of unreadable bytes which the client has not been
    /// told of.
    pub(super) fn take_result(&self) -> Result<Vec<u8>> {
        let mut state = self.state.lock();
        if let Some(err) = state.failed.take() {
            return Err(err);
        }
        let parts = std::mem::take(&mut state.parts);
        drop(state);
        self.source.check_told()?;
        Ok(match &self.work {
            Work::Hashes(hashes) if hashes.plans().any(|plan| plan.fold_levels > 0) => {
                self.folded(hashes, &parts)
            }
            _ => parts,
        })
    }

    /// The same bytes as a message of their own; `None` where they go out as they are.
    pub(super) fn take_packed(&self) -> Option<Message> {
        self.state.lock().packed.take()
    }

    /// The hashes that were asked for, of those that the units made.
    fn folded(&self, hashes: &HashWork, mut parts: &[u8]) -> Vec<u8> {
        let mut folded = Vec::new();
        for plan in hashes.plans() {
            let (of_plan, rest) =
                parts.split_at(plan.nodes() as usize * self.source.hash_len(plan));
            folded.extend(fold(&self.source.hasher, of_plan.to_vec(), plan.fold_levels));
            parts = rest;
        }
        folded
    }

    /// Gives up, as one whose threads are gone.
    pub(super) fn fail(&self, err: Error) {
        let mut state = self.state.lock();
        if !state.is_finished {
            state.failed = Some(err);
            self.end(state);
        }
    }

    /// There is a result, or the first error in its place.
    fn end(&self, mut state: MutexGuard<'_, State>) {
        state.is_finished = true;
        drop(state);
        self.ahead.iter().for_each(|&planned| self.source.read_ahead.done(planned));
        self.source.bell.ring();
    }

    /// Does units until none is left.
    fn run(&self, scratch: &mut Scratch) {
        /// Where a panic does not end the process: its waiter must not be left alone.
        struct Watch<'a>(&'a Task);
        impl Drop for Watch<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.fail(Error::new(Kind::Digest, "a hashing thread failed"));
                }
            }
        }
        let watch = Watch(self);
        loop {
            let unit = self.next_unit.fetch_add(1, Ordering::Relaxed);
            // Where one has failed the others are of no use, and a failing disk takes its time. The
            // error itself may be told and gone by now.
            if unit >= self.work.units() || self.is_finished() {
                break;
            }
            if let Some(range) = self.work.ahead_of(unit) {
                self.source.will_need(range);
            }
            match self.run_unit(unit, scratch) {
                Ok(()) => {}
                Err(err) => {
                    self.fail(err);
                    break;
                }
            }
        }
        drop(watch);
    }

    fn run_unit(&self, unit: u64, scratch: &mut Scratch) -> Result<()> {
        let source = &*self.source;
        let (at, bytes, packed) = match &self.work {
            Work::Read(range) => {
                let mut data = vec![0; range.len() as usize];
                source.answers().read_exact_at(&mut data, range.start)?;
                source.was_read(*range);
                let packed = if source.packs { packed(range.start, &data) } else { None };
                (0, data, packed)
            }
            Work::Hashes(all) => {
                let (plan, unit, nodes_before) = all.unit(unit);
                let hashes = hash_unit(source, plan, unit, scratch)?;
                source.was_read(plan.unit(unit).range());
                (nodes_before as usize * source.hash_len(plan), hashes, None)
            }
        };
        let mut state = self.state.lock();
        // Taken already when another unit has failed.
        if let Some(place) = state.parts.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(&bytes);
        }
        state.packed = packed;
        state.units_left -= 1;
        if state.units_left == 0 {
            self.end(state);
        }
        Ok(())
    }
}

/// The hashes of one unit of a plan.
fn hash_unit(
    source: &Source,
    plan: &HashPlan,
    unit: u64,
    scratch: &mut Scratch,
) -> Result<Vec<u8>> {
    let (hasher, device, nodes) = (&source.hasher, source.answers(), plan.unit(unit));
    let kept = |adds| source.kept_for(plan).map(|cache| Kept { cache, adds });
    if plan.level == 0 {
        // What a client asks for one by one it does not ask for again.
        let kept = kept(plan.fold_levels > 0);
        let hasher = if plan.of_tree { hasher.leaves() } else { hasher };
        return hash_range_with(device, hasher, nodes, kept, scratch);
    }
    let mut hashes = Vec::with_capacity(nodes.n() as usize * source.hash_len(plan));
    for i in 0..nodes.n() {
        let start = nodes.offset(i);
        let node = hash_node(device, hasher, start, plan.step(), plan.level, kept(true), scratch)?;
        hashes.extend_from_slice(&node);
    }
    Ok(hashes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::device::MemoryDevice;
    use crate::device::faulty::{Fault, FaultyDevice, Operation};
    use crate::digest::{Algorithm, HashPool};

    /// What answers of a session without extensions are made of.
    pub(in super::super) fn source(device: impl Device + 'static) -> Arc<Source> {
        let device = ServedDevice::new(Box::new(device));
        Arc::new(Source {
            read_ahead: ReadAhead::new(Arc::new(device.clone())),
            device,
            tolerant: None,
            hasher: BlockHasher::new(Algorithm::Md5, &[]).unwrap(),
            packs: false,
            leaves: None,
            flush: AtomicBool::new(false),
            bell: Bell::default(),
        })
    }

    #[test]
    fn no_unit_is_begun_of_an_answer_that_was_told_as_a_fault() {
        let content = MemoryDevice::new(vec![3; 20 << 20]);
        let source = source(FaultyDevice::new(content, [Fault::once(Operation::Read, 0)]));
        let plan = HashPlan::hashes(0, MIB, 20, 16).unwrap();
        let pool = HashPool::new().unwrap();
        // On no thread of the pool, but on this one.
        let work = Work::Hashes(plan.into());
        let task = Task::start(&source, work, &pool.submitter(), 0, Priority::Scan);
        task.run(&mut Scratch::new());
        assert!(task.is_finished());
        assert_eq!(task.take_result().unwrap_err().kind(), Kind::Read);
        // As another thread does that was busy with a unit of its own meanwhile.
        task.run(&mut Scratch::new());
        assert_eq!(task.state.lock().units_left, 20, "units are done for nobody");
    }
}

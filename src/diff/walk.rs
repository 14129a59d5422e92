//! The walk: resolves a device from start to end and hands on what differs, in order.
//!
//! ```text
//!   segments:  ... emitted | settling (bytes on their way) | found | finding | not yet asked
//!                          \_ SETTLE_BYTES_MAX held ______/ \_ window, grows as answers come
//! ```
//! Finding (hashes) runs far ahead of settling (bytes), because hashes are small and a long
//! link needs many of them under way. Both are started in ascending order, so the head of
//! the line never waits for room that a later segment took.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::compare::Announced;
use super::content::Changed;
use super::density::Density;
use super::engine::{Engine, Found};
use super::ladder::Ladder;
use crate::error::Result;
use crate::units::{ByteRange, Direction, MIB, Priority};

/// Bytes of the device whose hashes may be under way, at most.
const FIND_BYTES_MAX: u64 = 256 * MIB;
/// Segments whose hashes may be under way, at most.
const FIND_SEGMENTS_MAX: usize = 64;
/// Segments asked for before the first answer shows how dense the changes are.
const FIND_SEGMENTS_START: usize = 4;
/// Bytes of blocks read or fetched and not yet handed on, at most (one segment at least).
const SETTLE_BYTES_MAX: u64 = 16 * MIB;
/// Takes what a walk found, in ascending order.
pub trait Sink {
    /// A block that differs, with the source's bytes.
    ///
    /// # Errors
    /// Ends the walk.
    fn block(&mut self, offset: u64, data: &[u8]) -> Result<()>;

    /// Everything below `position` was handed on.
    ///
    /// # Errors
    /// Ends the walk.
    fn reached(&mut self, position: u64) -> Result<()>;
}

/// Walks over everything that is compared.
///
/// # Errors
/// The first error of either device, the peer or the sink.
pub fn walk(engine: &Arc<Engine>, density: Density, sink: &mut dyn Sink) -> Result<()> {
    Walk::new(engine, density).run(sink)
}

/// What the threads of engine and pool report to the walk; both name the segment.
enum Event {
    Found(u64, Result<Found>),
    Settled { segment: u64, piece: usize, result: Result<Vec<Changed>> },
}

/// How far a segment is.
enum Stage {
    Finding,
    Found(Vec<Announced>),
    Settling { pieces: Vec<Vec<Changed>>, missing: usize },
}

struct Segment {
    range: ByteRange,
    ladder: Arc<Ladder>,
    stage: Stage,
    /// Bytes that count against [`SETTLE_BYTES_MAX`].
    held_bytes: u64,
}

struct Walk<'a> {
    engine: &'a Arc<Engine>,
    density: Density,
    segments: VecDeque<Segment>,
    /// Number of the first segment in the queue.
    head: u64,
    /// How many segments at the front have been started to settle.
    settling: usize,
    held_bytes: u64,
    next_start: u64,
    window: usize,
    events: Receiver<Event>,
    sender: Sender<Event>,
}

impl<'a> Walk<'a> {
    fn new(engine: &'a Arc<Engine>, density: Density) -> Self {
        let (sender, events) = unbounded();
        Self {
            engine,
            density,
            segments: VecDeque::new(),
            head: 0,
            settling: 0,
            held_bytes: 0,
            next_start: engine.plan().compared.start,
            window: FIND_SEGMENTS_START,
            events,
            sender,
        }
    }

    fn run(mut self, sink: &mut dyn Sink) -> Result<()> {
        loop {
            self.start_finding();
            self.start_settling();
            self.emit(sink)?;
            if self.segments.is_empty() && self.next_start >= self.end() {
                return Ok(());
            }
            if let Ok(event) = self.events.recv() {
                self.take(event)?;
            }
        }
    }

    fn end(&self) -> u64 {
        self.engine.plan().compared.end
    }

    /// Asks for the hashes of further segments, as far ahead as the window allows.
    fn start_finding(&mut self) {
        let segment_bytes = self.density.segment_bytes();
        let most = usize::try_from(FIND_BYTES_MAX / segment_bytes).unwrap_or(1);
        let window = self.window.min(most.clamp(1, FIND_SEGMENTS_MAX));
        while self.segments.len() < window && self.next_start < self.end() {
            let start = self.next_start;
            let range = ByteRange::new(start, start.saturating_add(segment_bytes)).clip(self.end());
            self.next_start = range.end;
            let ladder = self.density.choose();
            let number = self.head + self.segments.len() as u64;
            let sender = self.sender.clone();
            let done = Box::new(move |found| {
                // The walk may have ended with an error; then nobody listens any more.
                let _ = sender.send(Event::Found(number, found));
            });
            let used = Arc::clone(&ladder);
            self.segments.push_back(Segment {
                range,
                ladder,
                stage: Stage::Finding,
                held_bytes: 0,
            });
            match self.engine.plan().direction {
                Direction::Push => self.engine.find(used, range, Priority::Scan, done),
                Direction::Pull => self.engine.resolve(used, range, Priority::Scan, done),
            }
        }
    }

    /// Starts to get the bytes of segments whose differences are known, in order.
    fn start_settling(&mut self) {
        while let Some(segment) = self.segments.get_mut(self.settling) {
            let Stage::Found(runs) = &mut segment.stage else { return };
            let bytes = runs.iter().map(|run| run.blocks.len()).sum::<u64>();
            if self.held_bytes > 0 && self.held_bytes + bytes > SETTLE_BYTES_MAX {
                return;
            }
            let groups = self.engine.group(std::mem::take(runs));
            let missing = groups.len();
            segment.stage = Stage::Settling { pieces: vec![Vec::new(); missing], missing };
            segment.held_bytes = bytes;
            self.held_bytes += bytes;
            let number = self.head + self.settling as u64;
            self.settling += 1;
            for (piece, group) in groups.into_iter().enumerate() {
                let sender = self.sender.clone();
                let done = move |result| {
                    let _ = sender.send(Event::Settled { segment: number, piece, result });
                };
                self.engine.settle(group, Box::new(done));
            }
        }
    }

    fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Found(number, found) => {
                let found = found?;
                self.window += 1;
                let segment = &mut self.segments[(number - self.head) as usize];
                self.density.learn(&segment.ladder, segment.range.len(), found.candidate_bytes);
                segment.stage = Stage::Found(found.runs);
            }
            Event::Settled { segment, piece, result } => {
                let segment = &mut self.segments[(segment - self.head) as usize];
                if let Stage::Settling { pieces, missing } = &mut segment.stage {
                    pieces[piece] = result?;
                    *missing -= 1;
                }
            }
        }
        Ok(())
    }

    /// Hands on the segments at the front that are complete.
    fn emit(&mut self, sink: &mut dyn Sink) -> Result<()> {
        let block_bytes = self.engine.plan().block_bytes;
        while let Some(segment) = self.segments.front() {
            let Stage::Settling { pieces, missing: 0 } = &segment.stage else { return Ok(()) };
            for changed in pieces.iter().flatten() {
                for (offset, data) in changed.blocks(block_bytes) {
                    sink.block(offset, data)?;
                }
            }
            sink.reached(segment.range.end)?;
            self.held_bytes -= segment.held_bytes;
            self.segments.pop_front();
            self.head += 1;
            self.settling -= 1;
        }
        Ok(())
    }
}

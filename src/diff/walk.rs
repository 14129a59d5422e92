//! The walk: resolves a device from start to end and hands on what differs, in order.
//!
//! ```text
//!   segments:  ... emitted | settling (bytes on their way) | found | finding | not yet asked
//!                          \_ SETTLE_BYTES_MAX held ______/ \_ window, grows as answers come
//! ```
//! Finding (hashes) runs far ahead of settling (bytes), because hashes are small and a long
//! link needs many of them under way, and so that bytes never wait for hashes. Both are started
//! in ascending order, so the head of the line never waits for room that a later segment took.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::compare::Announced;
use super::content::Changed;
use super::density::Density;
use super::descent::HashLengths;
use super::engine::{Engine, Found};
use super::ladder::Ladder;
use super::window::Window;
use crate::error::Result;
use crate::units::{ByteRange, Direction, MIB, Priority};

/// Segments that are not handed on yet, at most: a few hundred KiB of memory.
const SEGMENTS_MAX: usize = 4096;
/// How long nothing may happen before the link counts as what is waited for.
const PATIENCE: Duration = Duration::from_millis(4);
/// Bytes held for blocks that are read or fetched and not yet handed on, at most (one piece at
/// least). It keeps the requests for them within what the peer queues.
const SETTLE_BYTES_MAX: u64 = 16 * MIB;

/// Takes what a walk found, in ascending order.
pub trait Sink {
    /// A block that differs, with the source's bytes; of a push with the hash that the target
    /// announced for it, of a pull with an empty one.
    ///
    /// # Errors
    /// Ends the walk.
    fn block(&mut self, offset: u64, data: &[u8], target_hash: &[u8]) -> Result<()>;

    /// Everything below `position` was handed on.
    ///
    /// # Errors
    /// Ends the walk.
    fn reached(&mut self, position: u64) -> Result<()>;

    /// Whether the source's bytes are looked at. Where they are not, a pull fetches none, and hands
    /// on zeros in their place.
    fn wants_bytes(&self) -> bool {
        true
    }
}

/// What the remote is needed for after a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// Something.
    Requests,
    /// Nothing: the session is closed as soon as all that the walk needs is asked for, at its end at
    /// the latest.
    Nothing,
}

/// Walks over everything that is compared.
///
/// # Errors
/// The first error of either device, the peer or the sink.
pub fn walk(
    engine: &Arc<Engine>,
    density: Density,
    afterwards: Afterwards,
    sink: &mut dyn Sink,
) -> Result<()> {
    Walk::new(engine, density, afterwards).run(sink)?;
    if afterwards == Afterwards::Nothing {
        // Where that could not be before: no request has to be sent again any more. A server is not
        // to wait for what is done on this side alone; it may give up on us.
        engine.peer().close();
    }
    Ok(())
}

/// What the threads of engine and pool report to the walk; both name the segment.
enum Event {
    Found(u64, Result<Found>),
    Settled { segment: u64, piece: usize, result: Result<Vec<Changed>> },
}

/// How far a segment is.
enum Stage {
    Finding,
    Settling(Settling),
}

/// The differing blocks of one segment, as pieces of work in ascending order.
struct Settling {
    /// Not started yet.
    waiting: VecDeque<Vec<Announced>>,
    /// Started and not handed on, the first of them being piece number `first`.
    started: VecDeque<Piece>,
    first: usize,
}

struct Piece {
    /// Bytes that count against [`SETTLE_BYTES_MAX`].
    held_bytes: u64,
    changed: Option<Vec<Changed>>,
}

struct Segment {
    range: ByteRange,
    ladder: Arc<Ladder>,
    stage: Stage,
}

struct Walk<'a> {
    engine: &'a Arc<Engine>,
    density: Density,
    segments: VecDeque<Segment>,
    /// Number of the first segment in the queue.
    head: u64,
    window: Window,
    /// Bytes held for blocks that are being settled or wait to be handed on.
    held_bytes: u64,
    next_start: u64,
    afterwards: Afterwards,
    events: Receiver<Event>,
    sender: Sender<Event>,
}

impl<'a> Walk<'a> {
    fn new(engine: &'a Arc<Engine>, density: Density, afterwards: Afterwards) -> Self {
        let (sender, events) = unbounded();
        let density = density.with_hurry(engine.plan().walk_end());
        let walk = Self {
            engine,
            segments: VecDeque::new(),
            head: 0,
            window: Window::new(density.segments_at_first(), density.segment_bytes()),
            held_bytes: 0,
            next_start: engine.plan().compared.start,
            density,
            afterwards,
            events,
            sender,
        };
        walk.limit_looks();
        walk
    }

    /// Keeps first looks over the link within the window's limit, where bytes are fetched too.
    fn limit_looks(&self) {
        if self.engine.plan().direction == Direction::Pull {
            self.engine.peer().look_ahead(self.window.looks());
        }
    }

    fn run(mut self, sink: &mut dyn Sink) -> Result<()> {
        loop {
            // First make room, then fill it: what is waited for below must be under way.
            self.emit(sink)?;
            self.start_finding()?;
            self.start_settling(sink.wants_bytes());
            self.close_when_all_is_asked();
            if self.segments.is_empty() {
                let end = self.engine.plan().compared.end;
                return if self.end() < end { sink.reached(end) } else { Ok(()) };
            }
            if let Some(event) = self.wait() {
                self.take(event)?;
            }
        }
    }

    /// The next event; `None` when it is better to ask for more first: while nothing comes in
    /// and our own threads have nothing to do, the link or the remote is what is waited for.
    fn wait(&mut self) -> Option<Event> {
        if !self.window.can_grow() || self.next_start >= self.end() {
            return self.events.recv().ok();
        }
        let event = self.events.recv_timeout(PATIENCE).ok();
        if event.is_none() && self.engine.pool().is_idle() {
            self.window.grow();
        }
        event
    }

    fn end(&self) -> u64 {
        self.engine.plan().walk_end()
    }

    /// Asks for the hashes of further segments, as far ahead as the window allows.
    fn start_finding(&mut self) -> Result<()> {
        let segment_bytes = self.density.segment_bytes();
        while self.next_start < self.end() && self.may_look_on() {
            let range = self.next_segment(segment_bytes)?;
            self.next_start = range.end;
            self.window.begin(range.len());
            let ladder = self.density.choose(range.len());
            let number = self.head + self.segments.len() as u64;
            let sender = self.sender.clone();
            let done = Box::new(move |found| {
                // The walk may have ended with an error; then nobody listens any more.
                let _ = sender.send(Event::Found(number, found));
            });
            let used = Arc::clone(&ladder);
            self.segments.push_back(Segment { range, ladder, stage: Stage::Finding });
            match self.engine.plan().direction {
                Direction::Push => self.engine.find(used, range, Priority::Scan, done),
                Direction::Pull => self.engine.resolve(used, range, Priority::Scan, done),
            }
        }
        Ok(())
    }

    fn may_look_on(&self) -> bool {
        let hasher = self.engine.hasher();
        let lengths = HashLengths { block: hasher.hash_len(), tree: hasher.tree_hash_len() };
        let hash_bytes = self.density.hash_bytes(self.window.finding_bytes(), lengths);
        self.window.is_open(hash_bytes) && self.segments.len() < SEGMENTS_MAX
    }

    /// The segment behind the last one, longer where there is nothing to read.
    fn next_segment(&self, segment_bytes: u64) -> Result<ByteRange> {
        let start = self.next_start;
        let data = self.engine.local().next_data(start)?.map_or(self.end(), |data| data.start);
        let hole_bytes = data.saturating_sub(start).min(self.density.hole_segment_bytes());
        let bytes = (hole_bytes / segment_bytes).max(1) * segment_bytes;
        Ok(ByteRange::new(start, start.saturating_add(bytes)).clip(self.end()))
    }

    /// Starts to get the bytes of what differs, in order, as far as there is room.
    fn start_settling(&mut self, wants_bytes: bool) {
        for (number, segment) in (self.head..).zip(&mut self.segments) {
            let Stage::Settling(settling) = &mut segment.stage else { return };
            while let Some(group) = settling.waiting.front() {
                let held_bytes = group.iter().map(Announced::held_bytes).sum::<u64>();
                if self.held_bytes > 0 && self.held_bytes + held_bytes > SETTLE_BYTES_MAX {
                    return;
                }
                let Some(group) = settling.waiting.pop_front() else { return };
                let piece = settling.first + settling.started.len();
                settling.started.push_back(Piece { held_bytes, changed: None });
                self.held_bytes += held_bytes;
                self.window.settling(held_bytes);
                let sender = self.sender.clone();
                let done = move |result| {
                    let _ = sender.send(Event::Settled { segment: number, piece, result });
                };
                match self.engine.plan().direction {
                    Direction::Pull if !wants_bytes => done(Ok(self.engine.zeros_for(&group))),
                    _ => self.engine.settle(group, Box::new(done)),
                }
            }
        }
    }

    /// Closes the session behind the last request, if nothing comes afterwards. A request that
    /// failed may have to be sent again where what cannot be read is left out.
    fn close_when_all_is_asked(&mut self) {
        if self.afterwards == Afterwards::Requests || self.next_start < self.end() {
            return;
        }
        let pulls = self.engine.plan().direction == Direction::Pull;
        let is_asked = |segment: &Segment| match &segment.stage {
            Stage::Finding => false,
            Stage::Settling(settling) => !pulls || settling.waiting.is_empty(),
        };
        if self.engine.left_out().is_none() && self.segments.iter().all(is_asked) {
            self.engine.peer().close();
            self.afterwards = Afterwards::Requests;
        }
    }

    fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Found(number, found) => {
                let found = found?;
                let groups = self.engine.group(found.runs);
                let found_bytes = groups.iter().flatten().map(Announced::held_bytes).sum();
                let segment = &mut self.segments[(number - self.head) as usize];
                self.density.learn(&segment.ladder, segment.range.len(), found.candidate_bytes);
                self.window.found(segment.range.len(), found_bytes);
                segment.stage = Stage::Settling(Settling {
                    waiting: groups.into(),
                    started: VecDeque::new(),
                    first: 0,
                });
                self.limit_looks();
            }
            Event::Settled { segment, piece, result } => {
                let segment = &mut self.segments[(segment - self.head) as usize];
                if let Stage::Settling(settling) = &mut segment.stage {
                    settling.started[piece - settling.first].changed = Some(result?);
                }
            }
        }
        Ok(())
    }

    /// Hands on what is complete at the front.
    fn emit(&mut self, sink: &mut dyn Sink) -> Result<()> {
        let block_bytes = self.engine.plan().block_bytes;
        let hash_len = self.engine.hasher().hash_len();
        while let Some(segment) = self.segments.front_mut() {
            let Stage::Settling(settling) = &mut segment.stage else { return Ok(()) };
            while let Some(Piece { held_bytes, changed: Some(changed) }) = settling.started.front()
            {
                let blocks = changed.iter().flat_map(|run| run.blocks(block_bytes, hash_len));
                for (offset, data, target_hash) in blocks {
                    sink.block(offset, data, target_hash)?;
                }
                self.held_bytes -= held_bytes;
                settling.started.pop_front();
                settling.first += 1;
            }
            if !settling.waiting.is_empty() || !settling.started.is_empty() {
                return Ok(());
            }
            sink.reached(segment.range.end)?;
            self.segments.pop_front();
            self.head += 1;
        }
        Ok(())
    }
}

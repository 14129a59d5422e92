//! Goes from changed range to changed range for readers of `changes` and `extents/`.
//!
//! A reader far into a long list makes many steps, so they are made in a thread of their own:
//! neither the thread that asks nor the one that answers is held up, and no step nests in
//! another. Walks take turns of at most [`TURN_STEPS`]; a walk that waits for the scan costs
//! no thread.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

use super::change::Change;
use crate::background::spawn;
use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;

/// Steps of one walk before the next walk has its turn.
pub const TURN_STEPS: usize = 4096;

/// An answer of [`Change::next_extent`].
pub type Found = Result<Option<ByteRange>>;

/// What a walk does with what it finds. Dropped before it has answered, it answers with an error.
pub trait Walk: Send {
    /// Takes the next changed range, `None` behind the last. Returns where to look next, or
    /// `None` when the walk has answered whoever asked for it; it must, when given an error.
    fn step(&mut self, found: Found) -> Option<u64>;

    /// The next range is not known yet: the walk may answer with what it has, and then
    /// returns true and is over.
    fn answer_early(&mut self) -> bool;
}

/// The thread that walks.
pub struct Walker {
    turns: Sender<Turn>,
    thread: Option<JoinHandle<()>>,
}

enum Turn {
    Begin(Box<dyn Walk>, u64),
    GoOn(Box<dyn Walk>, Found),
    Stop,
}

/// Where an answer and the walk that waits for it meet.
enum Slot {
    /// The question is being asked.
    Asking,
    /// The answer came at once.
    Answered(Found),
    /// The answer will come later.
    Waiting(Box<dyn Walk>),
    /// Nobody wants the answer any more.
    Over,
}

impl Walker {
    /// Starts the thread that walks over `change`.
    ///
    /// # Errors
    /// `Kind::Open` when there can be no more threads.
    pub fn start(change: Arc<dyn Change>) -> Result<Self> {
        let (turns, waiting) = unbounded();
        let own_turns = turns.clone();
        let work = move || run(&change, &own_turns, &waiting);
        let thread = spawn("view-walk", Kind::Open, "cannot start a thread", work)?;
        Ok(Self { turns, thread: Some(thread) })
    }

    /// Lets `walk` begin with the first changed range that ends behind `from`.
    ///
    /// The number of walks is bounded by that of the requests that the mount lets wait.
    pub fn begin(&self, walk: Box<dyn Walk>, from: u64) {
        // Without the thread the walk is dropped, and so has its answer.
        let _ = self.turns.send(Turn::Begin(walk, from));
    }
}

impl Drop for Walker {
    fn drop(&mut self) {
        let _ = self.turns.send(Turn::Stop);
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            // A panic in it has been reported by the panic hook already.
            let _ = thread.join();
        }
    }
}

fn run(change: &Arc<dyn Change>, turns: &Sender<Turn>, waiting: &Receiver<Turn>) {
    for turn in waiting {
        match turn {
            Turn::Begin(walk, from) => {
                if let Some((walk, found)) = ask(change, turns, walk, from) {
                    take_turn(change, turns, walk, found);
                }
            }
            Turn::GoOn(walk, found) => take_turn(change, turns, walk, found),
            Turn::Stop => break,
        }
    }
}

fn take_turn(
    change: &Arc<dyn Change>,
    turns: &Sender<Turn>,
    mut walk: Box<dyn Walk>,
    mut found: Found,
) {
    for _ in 0..TURN_STEPS {
        let Some(from) = walk.step(found) else { return };
        match ask(change, turns, walk, from) {
            Some((same_walk, next)) => (walk, found) = (same_walk, next),
            None => return,
        }
    }
    let _ = turns.send(Turn::GoOn(walk, found));
}

/// Asks for the next range. `None`: the walk is over or waits, and will have its turn.
fn ask(
    change: &Arc<dyn Change>,
    turns: &Sender<Turn>,
    mut walk: Box<dyn Walk>,
    from: u64,
) -> Option<(Box<dyn Walk>, Found)> {
    let slot = Arc::new(Mutex::new(Slot::Asking));
    let (answers, turns) = (slot.clone(), turns.clone());
    change.next_extent(
        from,
        Box::new(move |found| {
            let mut slot = answers.lock();
            match std::mem::replace(&mut *slot, Slot::Over) {
                Slot::Asking => *slot = Slot::Answered(found),
                Slot::Waiting(walk) => {
                    drop(slot);
                    let _ = turns.send(Turn::GoOn(walk, found));
                }
                Slot::Answered(_) | Slot::Over => {}
            }
        }),
    );
    let mut slot = slot.lock();
    match std::mem::replace(&mut *slot, Slot::Over) {
        Slot::Answered(found) => return Some((walk, found)),
        _ if walk.answer_early() => {}
        _ => *slot = Slot::Waiting(walk),
    }
    None
}

/// What a walk answers that is dropped.
pub fn ended() -> Error {
    Error::new(Kind::Gone, "the mount is being ended")
}

//! What a session owes its client: answers in the making, and which of them goes out next.
//!
//! In the order of their requests; with the extension `reorder` one that is finished may
//! overtake those that are not, so that a block that is ready does not wait for the hashes of
//! half a device.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::checksum::ChecksumCell;
use super::task::{Source, Task};
use crate::error::Result;
use crate::wire::{Look, Message};

/// How many requests are read ahead.
pub const REQUESTS_MAX: usize = 256;
/// Bytes that are held for their answers, at most (those of one request at least).
const HELD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// An answer in the making.
pub(super) enum Answer {
    /// A message that needs no work.
    Ready(Message),
    /// To `gethashes`, with its numbers.
    Hashes { start: u64, step: u64, n: u64, task: Arc<Task> },
    /// To `gettree`, with its numbers.
    Tree { look: Look, task: Arc<Task> },
    /// To `getruns`, with its step and level and the print of its runs.
    Runs { step: u64, level: Option<u8>, print: u64, task: Arc<Task> },
    /// To `getblock`.
    Block { offset: u64, task: Arc<Task> },
    /// To `getchecksum`.
    Checksum(Arc<ChecksumCell>),
    /// Everything below this was answered and is not asked for again.
    Release { below: u64 },
    /// The session's end.
    Done,
}

impl Answer {
    /// The work that it comes from.
    fn task(&self) -> Option<&Task> {
        match self {
            Answer::Hashes { task, .. }
            | Answer::Tree { task, .. }
            | Answer::Runs { task, .. }
            | Answer::Block { task, .. } => Some(task),
            _ => None,
        }
    }

    fn is_finished(&self) -> bool {
        match self {
            Answer::Checksum(cell) => cell.is_known(),
            _ => self.task().is_none_or(Task::is_finished),
        }
    }

    /// Bytes that are held for it, at most.
    fn held_bytes(&self) -> usize {
        self.task().map_or(0, Task::held_bytes)
    }

    /// Whether it says nothing of those before it.
    fn may_overtake(&self) -> bool {
        !matches!(self, Answer::Ready(_) | Answer::Release { .. } | Answer::Done)
    }

    /// The message; to be called once it is finished.
    pub(super) fn message(self, source: &Source) -> Result<Message> {
        Ok(match self {
            Answer::Ready(message) => message,
            Answer::Hashes { start, step, n, task } => {
                Message::Hashes { start, step, n, hashes: task.take_result()? }
            }
            Answer::Tree { look, task } => Message::Tree { look, hashes: task.take_result()? },
            Answer::Runs { step, level, print, task } => {
                Message::Runs { step, level, print, hashes: task.take_result()? }
            }
            Answer::Block { offset, task } => {
                let data = task.take_result()?;
                task.take_packed().unwrap_or(Message::Block { offset, data })
            }
            Answer::Checksum(cell) => Message::Checksum(cell.value()?.to_vec()),
            Answer::Release { below } => {
                source.release_below(below);
                Message::Hashes { start: below, step: 1, n: 0, hashes: vec![] }
            }
            Answer::Done => Message::Done,
        })
    }
}

/// The answers that are owed, oldest request first.
#[derive(Default)]
pub(super) struct Backlog {
    state: Mutex<Owed>,
    /// There is room again, or nobody takes answers any more.
    room: Condvar,
}

#[derive(Default)]
struct Owed {
    answers: VecDeque<Answer>,
    held_bytes: usize,
    /// No more requests come.
    is_complete: bool,
    /// No more answers go out.
    is_closed: bool,
}

impl Owed {
    fn has_room(&self, bytes: usize) -> bool {
        self.answers.len() < REQUESTS_MAX
            && (self.answers.is_empty() || self.held_bytes + bytes <= HELD_BYTES_MAX)
    }
}

/// What there is to do for who writes answers.
pub(super) enum Next {
    /// Write this one, which has so many older ones before it.
    Write(usize, Answer),
    /// None is finished.
    Wait,
    /// All are written, and no more requests come.
    End,
}

impl Backlog {
    /// Adds the answer to the newest request; waits while there is no room. Returns whether more
    /// are wanted.
    pub(super) fn push(&self, answer: Answer) -> bool {
        let mut owed = self.state.lock();
        while !owed.has_room(answer.held_bytes()) && !owed.is_closed {
            self.room.wait(&mut owed);
        }
        if !owed.is_closed {
            owed.held_bytes += answer.held_bytes();
            owed.answers.push_back(answer);
        }
        !owed.is_closed
    }

    /// A checksum that is asked for and not known yet.
    pub(super) fn checksum(&self) -> Option<Arc<ChecksumCell>> {
        let owed = self.state.lock();
        owed.answers.iter().find_map(|answer| match answer {
            Answer::Checksum(cell) if !cell.is_known() => Some(Arc::clone(cell)),
            _ => None,
        })
    }

    /// No more requests come.
    pub(super) fn complete(&self) {
        self.state.lock().is_complete = true;
    }

    /// No more answers go out.
    pub(super) fn close(&self) {
        let mut owed = self.state.lock();
        owed.is_closed = true;
        // What a task owns may take long to drop.
        let answers = std::mem::take(&mut owed.answers);
        drop(owed);
        drop(answers);
        self.room.notify_all();
    }

    /// What there is to do now, with `reorder` whether answers may overtake others.
    pub(super) fn next(&self, reorder: bool) -> Next {
        let mut owed = self.state.lock();
        let candidates = if reorder { owed.answers.len() } else { 1 };
        let finished = |(index, answer): &(usize, &Answer)| {
            answer.is_finished() && (*index == 0 || answer.may_overtake())
        };
        let index = owed.answers.iter().enumerate().take(candidates).find(finished);
        let Some(index) = index.map(|(index, _)| index) else {
            return if owed.is_complete && owed.answers.is_empty() {
                Next::End
            } else {
                Next::Wait
            };
        };
        let answer = owed.answers.remove(index).expect("the index was found in it");
        owed.held_bytes -= answer.held_bytes();
        drop(owed);
        self.room.notify_one();
        Next::Write(index, answer)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::task::Work;
    use super::super::task::tests::source;
    use super::*;
    use crate::device::MemoryDevice;
    use crate::digest::HashPool;
    use crate::units::{ByteRange, Priority};

    /// So many answers, for which so many bytes are held.
    fn owed(answers: usize, held_bytes: usize) -> Owed {
        let answers = (0..answers).map(|_| Answer::Done).collect();
        Owed { answers, held_bytes, ..Owed::default() }
    }

    #[test]
    fn so_many_requests_are_read_ahead_and_no_more() {
        assert!(owed(REQUESTS_MAX - 1, 0).has_room(0));
        assert!(!owed(REQUESTS_MAX, 0).has_room(0));
    }

    #[test]
    fn so_many_bytes_are_held_or_those_of_one_request() {
        assert!(owed(0, 0).has_room(HELD_BYTES_MAX + 1));
        assert!(owed(1, HELD_BYTES_MAX - 5).has_room(5));
        assert!(!owed(1, HELD_BYTES_MAX - 5).has_room(6));
    }

    #[test]
    fn what_is_held_for_an_answer_is_held_until_it_goes_out() {
        let source = source(MemoryDevice::new([3; 100]));
        let pool = HashPool::new().unwrap();
        let work = Work::Read(ByteRange::new(0, 100));
        let task = Task::start(&source, work, &pool.submitter(), 1, Priority::Interactive);
        let backlog = Backlog::default();
        assert!(backlog.push(Answer::Block { offset: 0, task: Arc::clone(&task) }));
        // The message is made of it while it is still there.
        assert_eq!(backlog.state.lock().held_bytes, 200);
        while !task.is_finished() {
            thread::yield_now();
        }
        assert!(matches!(backlog.next(false), Next::Write(0, Answer::Block { .. })));
        assert_eq!(backlog.state.lock().held_bytes, 0);
    }
}

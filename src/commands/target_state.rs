//! What the process that writes to a target tells its sync: when it has it open, and what is true of
//! it after a run that failed.
//!
//! It does so in lines on its stdout, among the signs of life there, the first two first and one of
//! the others last:
//!
//! ```text
//!   bdsync target: opening LF                   the next line, or its end, is to be waited for
//!   bdsync target: open LF                      nobody else writes to it now who minds locks
//!   bdsync target: WORD LF                      WORD as in a report
//!   bdsync target: WORD, undo of no use LF      and the undo patch that was made is of no use
//! ```
//! On another host what its login shell prints stands before them.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// What every such line begins with.
const BEGIN: &str = "bdsync target: ";
/// What follows the word where there is an undo patch to be removed.
const UNUSED: &str = ", undo of no use";
/// The line that tells that the target is going to be opened, with its end.
pub(super) const OPENING_LINE: &str = "bdsync target: opening\n";
/// The line that tells that it is open, with its end.
pub(super) const OPEN_LINE: &str = "bdsync target: open\n";
/// More than the longest line has, in bytes.
const LINE_BYTES_MAX: usize = 100;

/// What is true of the target after a run that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TargetState {
    /// It is as it was.
    Untouched,
    /// It is as it was, and the undo patch that was made is of no use.
    UnusedUndo,
    /// Some of it may be changed.
    PartlyChanged,
    /// All of it is written, and whether it is equal was not shown.
    NotVerified,
    /// It was written to, and is not equal.
    Unequal,
    /// The process that writes to it cannot be heard any more, and may go on.
    OutOfSight,
    /// Something else has changed its size.
    Resized,
    /// Another one has taken its name; that one is as it was.
    Renamed,
}

impl TargetState {
    const ALL: [Self; 8] = [
        Self::Untouched,
        Self::UnusedUndo,
        Self::PartlyChanged,
        Self::NotVerified,
        Self::Unequal,
        Self::OutOfSight,
        Self::Resized,
        Self::Renamed,
    ];

    /// Its word in a report.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Untouched | Self::UnusedUndo => "untouched",
            Self::PartlyChanged => "partly_changed",
            Self::NotVerified => "not_verified",
            Self::Unequal => "unequal",
            Self::Resized => "resized",
            Self::OutOfSight => "unknown",
            Self::Renamed => "renamed",
        }
    }

    /// The line that tells it, with its end.
    pub(super) fn line(self) -> String {
        let unused = if self == Self::UnusedUndo { UNUSED } else { "" };
        format!("{BEGIN}{}{unused}\n", self.word())
    }
}

/// How far a process is with its target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Opening {
    /// It has said nothing of it.
    #[default]
    Unheard,
    Begun,
    Done,
    /// It says nothing any more, and had it not open by then.
    Over,
    /// The same, as it was silent for too long or could not be heard.
    Lost,
}

/// How far a process is with its target, for those who wait for that.
#[derive(Debug, Default)]
pub(super) struct Door {
    step: Mutex<Opening>,
    changed: Condvar,
    is_passed: AtomicBool,
}

impl Door {
    fn reach(&self, step: Opening) {
        let mut reached = self.step.lock();
        // What was opened has been, whatever comes behind.
        if *reached < step && *reached != Opening::Done {
            *reached = step;
            self.changed.notify_all();
        }
    }

    /// Nobody waits for it any more, though it is not known to be open.
    pub(super) fn pass(&self) {
        self.is_passed.store(true, Ordering::SeqCst);
    }

    /// Whether it was opened once it had been passed: what came in meanwhile was not seen.
    pub(super) fn is_opened_late(&self) -> bool {
        self.is_passed.load(Ordering::SeqCst) && self.step() == Opening::Done
    }

    fn step(&self) -> Opening {
        *self.step.lock()
    }

    /// Waits until it is farther than `step`, at most for `limit`; how far it is then.
    pub(super) fn wait_beyond(&self, step: Opening, limit: Option<Duration>) -> Opening {
        let mut reached = self.step.lock();
        while *reached <= step {
            match limit {
                Some(limit) if self.changed.wait_for(&mut reached, limit).timed_out() => break,
                Some(_) => {}
                None => self.changed.wait(&mut reached),
            }
        }
        *reached
    }
}

/// Takes what a process writes to its stdout, and keeps what that says of the target.
#[derive(Clone, Default)]
pub(super) struct Listener {
    line: Vec<u8>,
    heard: Arc<Mutex<Option<TargetState>>>,
    door: Arc<Door>,
}

impl Listener {
    /// How far the process is with its target.
    pub(super) fn door(&self) -> &Arc<Door> {
        &self.door
    }

    /// Nothing comes any more; `is_lost` if that is a failure.
    pub(super) fn end(&self, is_lost: bool) {
        self.door.reach(if is_lost { Opening::Lost } else { Opening::Over });
    }

    fn hear(&mut self) {
        let opening = [(OPENING_LINE, Opening::Begun), (OPEN_LINE, Opening::Done)];
        if let Some((_, step)) = opening.iter().find(|(line, _)| line.as_bytes() == self.line) {
            self.door.reach(*step);
        }
        let is_told = |state: &TargetState| state.line().as_bytes() == self.line;
        if let Some(state) = TargetState::ALL.into_iter().find(is_told) {
            *self.heard.lock() = Some(state);
        }
    }

    /// What was said last.
    pub(super) fn heard(&self) -> Option<TargetState> {
        *self.heard.lock()
    }
}

impl Write for Listener {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            // What is longer is none of ours.
            let room = LINE_BYTES_MAX - self.line.len();
            self.line.extend(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.hear();
                self.line.clear();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_heard_as_it_was_told_however_it_comes() {
        for state in TargetState::ALL {
            let noise = [&b"Welcome\n\n\n"[..], &[b'x'; 3 * LINE_BYTES_MAX], b"\n\n"].concat();
            let said = [&noise, state.line().as_bytes()].concat();
            for piece in [1, 2, 7, said.len()] {
                let mut listener = Listener::default();
                said.chunks(piece).for_each(|bytes| listener.write_all(bytes).unwrap());
                assert_eq!(listener.heard(), Some(state), "{piece}");
            }
        }
    }

    #[test]
    fn how_far_a_process_is_with_its_target_is_heard_and_is_no_state_of_that() {
        let mut listener = Listener::default();
        let door = Arc::clone(listener.door());
        for (said, step) in [
            ("Welcome\n\nbdsync target: op", Opening::Unheard),
            ("e\nbdsync target: opening", Opening::Unheard),
            ("\n\n\nbdsync target: opening\n", Opening::Begun),
            ("bdsync target: open\n\n", Opening::Done),
            ("bdsync target: opening\n", Opening::Done),
        ] {
            listener.write_all(said.as_bytes()).unwrap();
            assert_eq!(door.step(), step, "{said:?}");
        }
        assert_eq!(listener.heard(), None);
        assert!(!door.is_opened_late());
        listener.end(false);
        assert_eq!(door.step(), Opening::Done, "it had it open");
        let silent = Listener::default();
        silent.end(false);
        assert_eq!(silent.door().wait_beyond(Opening::Begun, None), Opening::Over);
    }

    #[test]
    fn what_is_no_whole_line_of_a_state_is_not_heard() {
        let line = TargetState::Untouched.line();
        for said in [&line[..line.len() - 1], &format!("x{line}"), "untouched\n", "\n\n"] {
            let mut listener = Listener::default();
            listener.write_all(said.as_bytes()).unwrap();
            assert_eq!(listener.heard(), None, "{said:?}");
        }
    }

    #[test]
    fn no_line_is_longer_than_what_is_kept() {
        assert!(TargetState::ALL.iter().all(|state| state.line().len() < LINE_BYTES_MAX));
    }
}

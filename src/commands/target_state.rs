//! What is true of a target after a run that failed, and how the process that writes to it tells
//! its sync.
//!
//! That process says so in a line on its stdout, the last one, after the signs of life there:
//!
//! ```text
//!   bdsync target: WORD LF                      WORD as in a report
//!   bdsync target: WORD, undo of no use LF      and the undo patch that was made is of no use
//! ```
//! On another host what its login shell prints stands before them.

use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;

/// What every such line begins with.
const BEGIN: &str = "bdsync target: ";
/// What follows the word where there is an undo patch to be removed.
const UNUSED: &str = ", undo of no use";
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

/// Takes what a process writes to its stdout, and keeps what that says of the target.
#[derive(Clone, Default)]
pub(super) struct Listener {
    line: Vec<u8>,
    heard: Arc<Mutex<Option<TargetState>>>,
}

impl Listener {
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
                let is_told = |state: &TargetState| state.line().as_bytes() == self.line;
                if let Some(state) = TargetState::ALL.into_iter().find(is_told) {
                    *self.heard.lock() = Some(state);
                }
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

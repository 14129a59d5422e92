//! What the two processes of a sync write to stderr.
//!
//! ```text
//!   the server           shown, until the session is ended from here
//!   who writes           shown, but for the error that it ends with: the cause of ours; and not what
//!                        the last line of the sync says better
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::commands::patch::{IN_PART, UNTOUCHED, WAY_BACK, WRITTEN};
use crate::report;
use crate::transport::StderrSink;

/// What every line of a bdsync begins with.
const NAME: &[u8] = b"bdsync: ";
const WARNING: &[u8] = b"bdsync: warning: ";
/// What follows in lines of the log.
const LOG_LEVELS: [&str; 5] = ["error", "warning", "info", "debug", "trace"];

/// Whether the line may be the error that a bdsync ended with, and not one of its log.
fn is_error(line: &[u8]) -> bool {
    let is_of_log = |rest: &[u8]| {
        LOG_LEVELS.iter().any(|level| {
            rest.strip_prefix(level.as_bytes()).is_some_and(|rest| rest.starts_with(b": "))
        })
    };
    line.strip_prefix(NAME).is_some_and(|rest| !is_of_log(rest))
}

fn holds(line: &[u8], what: &str) -> bool {
    line.windows(what.len()).any(|part| part == what.as_bytes())
}

/// Shows what a bdsync on this host, or on another, writes.
fn shown(is_local: bool) -> StderrSink {
    match is_local {
        true => Box::new(report::own_line),
        false => Box::new(report::remote_line),
    }
}

/// Shows a server's lines until `is_ending`.
pub fn of_server(is_local: bool, is_ending: Arc<AtomicBool>) -> StderrSink {
    let mut show = shown(is_local);
    Box::new(move |line| {
        if !is_ending.load(Ordering::SeqCst) {
            show(line);
        }
    })
}

/// What a process wrote to its stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// That nothing is changed, in a line that was shown.
    pub told_untouched: bool,
    /// Last of all, what may be the error that it ended with.
    pub error: bool,
}

/// The line that a process may have ended with.
#[derive(Clone, Default)]
pub struct LastWord {
    held: Arc<Mutex<Option<Vec<u8>>>>,
    heard: Arc<Mutex<Heard>>,
}

impl LastWord {
    /// Shows the lines of who writes to the target, but for the last one that may be an error.
    pub fn sink(&self, is_local: bool) -> StderrSink {
        let (mut show, word) = (shown(is_local), self.clone());
        Box::new(move |line| {
            let warns_of = |what: &str| line.starts_with(WARNING) && holds(line, what);
            // The last line of the sync says it better, with the host.
            if warns_of(IN_PART) || warns_of(WRITTEN) || warns_of(WAY_BACK) {
                return;
            }
            let mut heard = word.heard.lock();
            // It says more than the sync could.
            heard.told_untouched |= warns_of(UNTOUCHED);
            heard.error = is_error(line);
            drop(heard);
            let mut held = word.held.lock();
            if let Some(before) = held.take() {
                show(&before);
            }
            if is_error(line) {
                *held = Some(line.to_vec());
            } else {
                drop(held);
                show(line);
            }
        })
    }

    /// Shows the line that was held back of a process which ended well.
    pub fn show(&self, is_local: bool) {
        if let Some(line) = self.held.lock().take() {
            shown(is_local)(&line);
        }
    }

    /// What the process has written by now.
    pub fn heard(&self) -> Heard {
        *self.heard.lock()
    }

    /// The error that the process, which has ended, ended with.
    pub fn take(&self) -> Option<String> {
        let line = self.held.lock().take()?;
        Some(String::from_utf8_lossy(&line[NAME.len()..]).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_is_heard() {
        let nothing = Heard::default();
        for (line, expected) in [
            (
                "bdsync: warning: nothing of t is changed; remove u before the next try",
                Heard { told_untouched: true, ..nothing },
            ),
            ("bdsync: t is changed; remove ", Heard { error: true, ..nothing }),
            ("bdsync: warning: t is patched in part (up to 1)", nothing),
            ("bdsync: warning: to go back: bdsync --patch=t", nothing),
            ("Read-only file system", nothing),
        ] {
            let word = LastWord::default();
            word.sink(true)(line.as_bytes());
            assert_eq!(word.heard(), expected, "{line}");
        }
    }

    #[test]
    fn the_last_line_is_a_word_if_it_is_an_error() {
        for (lines, expected) in [
            (&["bdsync: a", "bdsync: b"][..], Some("b")),
            (&["bdsync: a", "bdsync: warning: b"], None),
            (&["bdsync: a", "bdsync: warning: t is patched in part (up to 1)"], Some("a")),
            (&["bdsync: a", "bdsync: info: b"], None),
            (&["sudo: a"], None),
            (&[], None),
        ] {
            let word = LastWord::default();
            let mut sink = word.sink(true);
            lines.iter().for_each(|line| sink(line.as_bytes()));
            assert_eq!(word.take().as_deref(), expected, "{lines:?}");
        }
    }
}

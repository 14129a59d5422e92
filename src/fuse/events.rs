//! What is told to a mount, and what ends it before it is one.

use std::fs;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::signals;
use crate::background::spawn;
use crate::error::{Kind, Result};
use crate::signals::{FirstSignal, Wish};

/// Why the mount may have come to an end.
pub(super) enum Event {
    /// The kernel has let go of it.
    Ended,
    Signal(i32),
    /// The other side of what it shows is gone, and it is to end because of that.
    LinkLost,
}

/// What is told to a mount. Made before it, so that no signal is missed meanwhile.
pub struct Events {
    pub(super) sender: Sender<Event>,
    pub(super) receiver: Receiver<Event>,
}

/// Until there are events: SIGINT, SIGTERM, SIGHUP and SIGQUIT end the process, and all that it has
/// started, and that in turn, after `last_words`; a second one does not wait for those. Who asks for
/// a password there may be deaf to a Ctrl-C, as what starts it is not to end by it later.
///
/// # Errors
/// `Kind::Open` when the signals cannot be watched for.
pub fn end_all_on_signal(last_words: impl Fn(i32) + Send + Sync + 'static) -> Result<()> {
    let (first, last_words) = (FirstSignal::default(), Arc::new(last_words));
    signals::watch(move |signal| match first.note(signal) {
        Wish::First => {
            let last_words = Arc::clone(&last_words);
            let end = move || {
                last_words(signal);
                end_all(signal);
            };
            if spawn("last words", Kind::Open, "cannot start a thread", end).is_err() {
                end_all(signal);
            }
        }
        Wish::Echo => {}
        Wish::Another => end_all(signal),
    })
}

/// Has `signal` end the process, and ends what that has started.
fn end_all(signal: i32) {
    let mut found = children_of(Pid::this());
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(children_of(pid));
        next += 1;
    }
    for pid in found {
        // It may be gone by now.
        let _ = kill(pid, Signal::SIGTERM);
    }
    signals::end_process(signal);
}

/// Those that the kernel tells of.
fn children_of(pid: Pid) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids = |text: String| text.split_whitespace().flat_map(str::parse).collect::<Vec<_>>();
    texts.flat_map(pids).map(Pid::from_raw).collect()
}

impl Events {
    /// SIGINT, SIGTERM, SIGHUP and SIGQUIT, of the process as a whole, are events of this one
    /// mount.
    ///
    /// # Errors
    /// `Kind::Open` when they cannot be watched for.
    pub fn with_signals() -> Result<Self> {
        let events = Self::without_signals();
        let sender = events.sender.clone();
        let first = FirstSignal::default();
        signals::watch(move |signal| {
            if first.note(signal) != Wish::Echo {
                let _ = sender.send(Event::Signal(signal));
            }
        })?;
        Ok(events)
    }

    /// What to call once the mount is to end because the other side of what it shows is gone.
    pub fn on_link_loss(&self) -> impl FnOnce() + Send + 'static {
        let sender = self.sender.clone();
        // A mount that is gone listens no more.
        move || drop(sender.send(Event::LinkLost))
    }

    /// Only what comes from the kernel.
    #[must_use]
    pub fn without_signals() -> Self {
        let (sender, receiver) = unbounded();
        Self { sender, receiver }
    }
}

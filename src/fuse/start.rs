//! What a signal does to a process that is to mount: until then it ends it.
//!
//! ```text
//!   Starting --a signal--> Ending      last words, and the end of the process
//!     |  \-----to_mount--> Mounting    an event of the mount, from before there is one; and the end
//!     |                      |         of the process if the mount has not taken the one before
//!     \--------settle--------+-------> Settled     nothing, or the end of a wait; a second one the
//!                                                  end of the process
//! ```
//! Whoever leaves `Starting` first decides, under one lock: there is no mount, nor anything said of
//! one, once a signal ends the process, and the first one does not do that once there may be a mount.

use std::fs;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;

use super::events::{Event, Events};
use super::names::Names;
use super::signals;
use crate::background::spawn;
use crate::error::{Kind, Result};
use crate::signals::{ECHO, FirstSignal, Wish, interrupted};

/// SIGINT, SIGTERM, SIGHUP and SIGQUIT of the process as a whole, which is to mount once.
pub struct Start {
    state: Arc<Mutex<State>>,
    /// A word here, or nobody left to say it: the end of the process was tried, and it is alive.
    /// The kernel lets the first process of a container be ended from outside only.
    survived: Receiver<()>,
}

/// What a signal does.
enum State {
    /// It ends the process.
    Starting,
    /// This one does so.
    Ending(i32),
    /// It is told to the mount, as was one at `told`. Where that takes none any more, it ends the
    /// process, and takes what is mounted away before: it waits for somebody who takes what it says,
    /// say, or for a file on a network.
    Mounting { events: Sender<Event>, told: Option<Instant>, attached: Arc<OnceLock<Arc<Names>>> },
    /// It ends the process where what is left to do may wait. Else that is to come to its end, and
    /// only a second one, to which it has not come by then, ends the process.
    Settled { at: Instant, may_wait: bool },
}

/// What the thread has that takes the signals.
struct Ending<F> {
    state: Arc<Mutex<State>>,
    first: FirstSignal,
    last_words: Arc<F>,
    survived: Sender<()>,
}

impl Start {
    /// From now on a signal ends the process, and all that it has started, and that in turn, after
    /// `last_words`; a second one does not wait for those. Who asks for a password there may be
    /// deaf to a Ctrl-C, as what starts it is not to end by it later.
    ///
    /// # Errors
    /// `Kind::Open` when the signals cannot be watched for.
    pub fn watch(last_words: impl Fn(i32) + Send + Sync + 'static) -> Result<Self> {
        let state = Arc::new(Mutex::new(State::Starting));
        let (sender, survived) = unbounded();
        let ending = Ending {
            state: Arc::clone(&state),
            first: FirstSignal::default(),
            last_words: Arc::new(last_words),
            survived: sender,
        };
        signals::watch(move |signal| ending.take(signal))?;
        Ok(Self { state, survived })
    }

    /// From now on signals are events, of the mount that is about to be.
    ///
    /// # Errors
    /// `Kind::Interrupted` when one ends the process.
    pub fn to_mount(&self) -> Result<Events> {
        let mut state = self.state.lock();
        if let State::Ending(signal) = *state {
            return Err(interrupted(signal, "nothing was mounted"));
        }
        let events = Events::without_signals();
        let (sender, attached) = (events.sender.clone(), Arc::clone(&events.attached));
        *state = State::Mounting { events: sender, told: None, attached };
        Ok(events)
    }

    /// Returns `outcome`, from which no signal takes anything any more; one ends the process all the
    /// same where telling it `may_wait` for somebody. Of a process that a signal ends it does not
    /// return: all is said.
    ///
    /// # Errors
    /// That of `outcome`; `Kind::Interrupted` where the system has not let the signal end the process.
    pub fn settle<T>(&self, outcome: Result<T>, may_wait: bool) -> Result<T> {
        let mut state = self.state.lock();
        let State::Ending(signal) = *state else {
            *state = State::Settled { at: Instant::now(), may_wait };
            return outcome;
        };
        drop(state);
        let _ = self.survived.recv();
        Err(interrupted(signal, "nothing was mounted"))
    }
}

impl<F: Fn(i32) + Send + Sync + 'static> Ending<F> {
    fn take(&self, signal: i32) {
        let wish = self.first.note(signal);
        let mut state = self.state.lock();
        match (&mut *state, wish) {
            (State::Starting, _) => {
                *state = State::Ending(signal);
                drop(state);
                self.begin(signal);
            }
            (State::Mounting { events, told, attached }, Wish::First | Wish::Another) => {
                let is_heard = events.is_empty() && events.send(Event::Signal(signal)).is_ok();
                if !is_heard && told.is_some_and(is_long_ago) {
                    let attached = attached.get().cloned();
                    drop(state);
                    attached.iter().for_each(Names::detach_at_last);
                    end_all(signal, &self.survived);
                } else if is_heard || told.is_none() {
                    *told = Some(Instant::now());
                }
            }
            (State::Settled { may_wait: false, .. }, Wish::First) => {}
            (State::Settled { at, may_wait: false }, _) if !is_long_ago(*at) => {}
            (State::Ending(_), Wish::Another)
            | (State::Settled { .. }, Wish::First | Wish::Another) => {
                drop(state);
                end_all(signal, &self.survived);
            }
            _ => {}
        }
    }

    /// On a thread of its own: a second signal is to be heard meanwhile.
    fn begin(&self, signal: i32) {
        let (last_words, survived) = (Arc::clone(&self.last_words), self.survived.clone());
        let end = move || {
            last_words(signal);
            end_all(signal, &survived);
        };
        if spawn("last words", Kind::Open, "cannot start a thread", end).is_err() {
            end_all(signal, &self.survived);
        }
    }
}

/// Whether what began then would be over by now, unless it waits for somebody.
fn is_long_ago(then: Instant) -> bool {
    then.elapsed() >= ECHO
}

/// Has `signal` end the process, and ends what that has started.
fn end_all(signal: i32, survived: &Sender<()>) {
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
    let _ = survived.send(());
}

/// Those that the kernel tells of.
fn children_of(pid: Pid) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids = |text: String| text.split_whitespace().flat_map(str::parse).collect::<Vec<_>>();
    texts.flat_map(pids).map(Pid::from_raw).collect()
}

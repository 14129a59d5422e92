//! Requests that wait for their answer, none of them on a thread of its own.
//!
//! ```text
//!   FUSE thread --park(thread id, reply)--> waiting --take()--> the answer, from any thread
//!                                              \---reaper-----> EINTR, when nobody waits any more
//! ```
//! The kernel lets a reader that was hit by Ctrl-C go only once its request is answered, and
//! `fuser` does not pass on the kernel's FUSE_INTERRUPT. So the reaper looks into /proc whether
//! the thread that asked is about to end.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use fuser::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Kind, Result};

/// Requests that may wait at once; one more is answered EBUSY. A request is one thread that
/// waits in a system call, or one read-ahead of the kernel.
pub(super) const PARKED_REQUESTS_MAX: usize = 4096;
/// How often the reaper looks; a reader is gone at most two looks after its Ctrl-C.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// SIGKILL, which the kernel marks as pending for every signal whose default ends a process.
const KILLED: u64 = signal_bit(libc::SIGKILL);
/// Signals that ask to end and that a program may catch, as `dd` does with SIGINT: its handler
/// runs once the read has returned.
const ASKED_TO_END: u64 = signal_bit(libc::SIGINT)
    | signal_bit(libc::SIGTERM)
    | signal_bit(libc::SIGQUIT)
    | signal_bit(libc::SIGHUP);

/// A reply that can say no. It must be sent exactly once.
pub(super) trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

/// The waiting requests. Dropping the last handle ends the reaper.
pub(super) struct Parking {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    waiting: HashMap<u64, Waiting>,
    next_number: u64,
    /// The reaper waits for the first request, without a timer.
    asleep: bool,
    /// It was said that no more requests fit; said again only once there was room again.
    full: bool,
    ending: bool,
}

struct Waiting {
    thread: u32,
    since: Instant,
    refuse: Box<dyn FnOnce(Errno) + Send>,
}

/// The right to answer one parked request.
pub(super) struct Ticket<R: Refuse> {
    parking: Weak<Inner>,
    number: u64,
    reply: Arc<Mutex<Option<R>>>,
}

impl Parking {
    /// An empty parking with its reaper.
    ///
    /// # Errors
    /// `Kind::Open` when the reaper's thread cannot be started.
    pub(super) fn start() -> Result<Self> {
        let inner = Arc::new(Inner { state: Mutex::default(), wake: Condvar::new() });
        let of_reaper = Arc::clone(&inner);
        thread::Builder::new()
            .name("reaper".into())
            .spawn(move || of_reaper.reap())
            .map_err(|err| Error::io(Kind::Open, "cannot start a thread", err))?;
        Ok(Self { inner })
    }

    /// Keeps the reply to a request of `thread` (an id as in /proc; 0: unknown). `None`: there
    /// is no room, and the reply was EBUSY.
    pub(super) fn park<R: Refuse>(&self, thread: u32, reply: R) -> Option<Ticket<R>> {
        let mut state = self.inner.state.lock();
        if state.waiting.len() >= PARKED_REQUESTS_MAX {
            let told = std::mem::replace(&mut state.full, true);
            drop(state);
            if !told {
                log::warn!("{PARKED_REQUESTS_MAX} reads are waiting: further ones fail (EBUSY)");
            }
            reply.refuse(Errno::EBUSY);
            return None;
        }
        state.full = false;
        let number = state.next_number;
        state.next_number += 1;
        let reply = Arc::new(Mutex::new(Some(reply)));
        let of_reaper = Arc::clone(&reply);
        let refuse = Box::new(move |errno| {
            if let Some(reply) = of_reaper.lock().take() {
                reply.refuse(errno);
            }
        });
        state.waiting.insert(number, Waiting { thread, since: Instant::now(), refuse });
        if std::mem::take(&mut state.asleep) {
            self.inner.wake.notify_one();
        }
        Some(Ticket { parking: Arc::downgrade(&self.inner), number, reply })
    }
}

impl Drop for Parking {
    fn drop(&mut self) {
        self.inner.state.lock().ending = true;
        self.inner.wake.notify_one();
    }
}

impl<R: Refuse> Ticket<R> {
    /// The reply, to be sent now; `None` when nobody waits for it any more.
    pub(super) fn take(self) -> Option<R> {
        self.reply.lock().take()
    }
}

impl<R: Refuse> Drop for Ticket<R> {
    fn drop(&mut self) {
        if let Some(parking) = self.parking.upgrade() {
            parking.state.lock().waiting.remove(&self.number);
        }
    }
}

impl Inner {
    fn reap(&self) {
        let mut state = self.state.lock();
        while !state.ending {
            if state.waiting.is_empty() {
                state.asleep = true;
                self.wake.wait(&mut state);
                continue;
            }
            self.wake.wait_for(&mut state, LOOK_EVERY);
            let now = Instant::now();
            let old = state.waiting.iter().filter(|(_, request)| now - request.since >= LOOK_EVERY);
            let suspects: Vec<_> = old.map(|(number, request)| (*number, request.thread)).collect();
            drop(state);
            let left: Vec<_> = suspects.into_iter().filter(|(_, id)| has_left(*id)).collect();
            state = self.state.lock();
            let gone: Vec<_> = left.iter().filter_map(|(n, _)| state.waiting.remove(n)).collect();
            if !gone.is_empty() {
                drop(state);
                gone.into_iter().for_each(|request| (request.refuse)(Errno::EINTR));
                state = self.state.lock();
            }
        }
    }
}

/// Whether a thread is gone, or will be once its system call returns.
fn has_left(thread: u32) -> bool {
    // 0: a thread of another process namespace.
    let Some(pid) = i32::try_from(thread).ok().filter(|id| *id > 0) else { return false };
    match fs::read_to_string(format!("/proc/{thread}/status")) {
        Ok(status) => is_leaving(&status),
        // /proc may hide the processes of other users (its option hidepid): ask the kernel.
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            kill(Pid::from_raw(pid), None) == Err(nix::errno::Errno::ESRCH)
        }
        Err(_) => false,
    }
}

/// Whether /proc/ID/status tells of a pending signal that ends the thread's wish to wait.
fn is_leaving(status: &str) -> bool {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
    };
    let pending = mask("SigPnd") | mask("ShdPnd");
    pending & KILLED != 0 || pending & ASKED_TO_END & !mask("SigBlk") & !mask("SigIgn") != 0
}

/// The bit of a signal in the masks of /proc.
const fn signal_bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use crossbeam_channel::{Receiver, Sender, unbounded};

    use super::*;

    struct Told(Sender<i32>);

    impl Refuse for Told {
        fn refuse(self, errno: Errno) {
            let _ = self.0.send(errno.code());
        }
    }

    fn reply() -> (Told, Receiver<i32>) {
        let (sender, receiver) = unbounded();
        (Told(sender), receiver)
    }

    const LONG: Duration = Duration::from_secs(2);

    #[test]
    fn request_of_a_thread_that_lives_stays_until_it_is_answered() {
        let parking = Parking::start().unwrap();
        let (told, refused) = reply();
        let ticket = parking.park(std::process::id(), told).unwrap();
        assert!(refused.recv_timeout(LOOK_EVERY * 3).is_err());
        assert!(ticket.take().is_some());
        assert!(parking.inner.state.lock().waiting.is_empty());
    }

    #[test]
    fn request_of_a_process_that_ended_is_refused_within_two_seconds() {
        let parking = Parking::start().unwrap();
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let (told, refused) = reply();
        let ticket = parking.park(child.id(), told).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(refused.recv_timeout(LONG).unwrap(), libc::EINTR);
        assert!(ticket.take().is_none());
    }

    #[test]
    fn threads_of_unknown_origin_are_left_alone() {
        assert!(!has_left(0));
        assert!(!has_left(u32::MAX));
    }

    #[test]
    fn one_request_too_many_is_refused_and_room_counts_again() {
        let parking = Parking::start().unwrap();
        let park = || parking.park(std::process::id(), reply().0);
        let mut tickets: Vec<_> = (0..PARKED_REQUESTS_MAX).map(|_| park().unwrap()).collect();
        let (told, refused) = reply();
        assert!(parking.park(std::process::id(), told).is_none());
        assert_eq!(refused.try_recv(), Ok(libc::EBUSY));
        tickets.pop();
        assert!(park().is_some());
    }

    #[test]
    fn only_signals_that_will_be_delivered_and_ask_to_end_count() {
        let status = |pending: u64, shared: u64, blocked: u64, ignored: u64| {
            format!(
                "Name:\tcat\nSigQ:\t1/9\nSigPnd:\t{pending:016x}\nShdPnd:\t{shared:016x}\n\
                 SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t0000000000000000\n"
            )
        };
        let interrupt = signal_bit(libc::SIGINT);
        assert!(is_leaving(&status(0x100, 0, 0, 0)));
        assert!(is_leaving(&status(0, 0x100, 0, 0)));
        assert!(is_leaving(&status(0, interrupt, 0, 0)));
        assert!(!is_leaving(&status(0, interrupt, interrupt, 0)));
        assert!(!is_leaving(&status(0, interrupt, 0, interrupt)));
        assert!(!is_leaving(&status(0, signal_bit(libc::SIGWINCH), 0, 0)));
        assert!(!is_leaving(&status(0, 0, u64::MAX, u64::MAX)));
        assert!(!is_leaving(""));
    }
}

//! Requests that wait for their answer, none of them on a thread of its own.
//!
//! ```text
//!   FUSE thread --park(thread id, reply)--> waiting --take()--> the answer, from any thread
//!                                              \---reaper-----> EINTR, when nobody waits any more
//! ```
//! The kernel lets a reader that was hit by Ctrl-C go only once its request is answered, and
//! `fuser` does not pass on the kernel's FUSE_INTERRUPT. So the reaper looks into /proc whether
//! the thread that asked is about to end. A thread that is gone already was not the one who
//! waits (asynchronous reads, read-ahead): then it is the process that counts.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use fuser::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use parking_lot::{Condvar, Mutex};

use crate::background::spawn;
use crate::error::{Kind, Result};

/// Requests that may wait at once; one more is answered EBUSY. A request is one thread that
/// waits in a system call, or one read-ahead of the kernel. Those that nobody waits for any
/// more count until their answer comes: what was begun for them goes on.
///
/// Tests make a thread for each: of those a session of systemd may have less than 5000 in all.
pub(super) const PARKED_REQUESTS_MAX: usize = if cfg!(test) { 512 } else { 4096 };
/// How often the reaper looks; a reader is gone at most two looks after its Ctrl-C.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// SIGKILL, which the kernel marks as pending for every signal whose default ends a process, but
/// for those that write a core file.
const KILLED: u64 = signal_bit(libc::SIGKILL);
/// Signals that ask to end and that a program may catch, as `dd` does with SIGINT: its handler
/// runs once the read has returned. And those that write a core file, of a watchdog or a limit.
const ASKED_TO_END: u64 = signal_bit(libc::SIGINT)
    | signal_bit(libc::SIGTERM)
    | signal_bit(libc::SIGQUIT)
    | signal_bit(libc::SIGHUP)
    | signal_bit(libc::SIGABRT)
    | signal_bit(libc::SIGXCPU)
    | signal_bit(libc::SIGXFSZ)
    | signal_bit(libc::SIGSEGV)
    | signal_bit(libc::SIGBUS)
    | signal_bit(libc::SIGILL)
    | signal_bit(libc::SIGFPE)
    | signal_bit(libc::SIGSYS)
    | signal_bit(libc::SIGTRAP);

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
    asker: Asker,
    since: Instant,
    /// `None` once it was called.
    refuse: Option<Box<dyn FnOnce(Errno) + Send>>,
}

/// Who made a request, by ids as in /proc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asker {
    /// 0: unknown, because it is of another process namespace, or was gone at once.
    thread: u32,
    /// The process of that thread, once it is known.
    process: Option<u32>,
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
        let reap = move || of_reaper.reap();
        spawn("reaper", Kind::Open, "cannot start a thread", reap)?;
        Ok(Self { inner })
    }

    /// Keeps the reply to a request of `thread` (an id as in /proc; 0: unknown). `None`: there
    /// is no room, and the reply was EBUSY. There always is for a request that waits for a local
    /// device at most.
    pub(super) fn park<R: Refuse>(
        &self,
        thread: u32,
        may_wait: bool,
        reply: R,
    ) -> Option<Ticket<R>> {
        let mut state = self.inner.state.lock();
        if may_wait && state.waiting.len() >= PARKED_REQUESTS_MAX {
            let told = std::mem::replace(&mut state.full, true);
            drop(state);
            if !told {
                log::warn!("{PARKED_REQUESTS_MAX} reads are waiting: further ones fail (EBUSY)");
            }
            reply.refuse(Errno::EBUSY);
            return None;
        }
        state.full &= state.waiting.len() >= PARKED_REQUESTS_MAX;
        let number = state.next_number;
        state.next_number += 1;
        let reply = Arc::new(Mutex::new(Some(reply)));
        let of_reaper = Arc::clone(&reply);
        let refuse = Box::new(move |errno| {
            if let Some(reply) = of_reaper.lock().take() {
                reply.refuse(errno);
            }
        });
        let asker = Asker { thread, process: None };
        let waiting = Waiting { asker, since: Instant::now(), refuse: Some(refuse) };
        state.waiting.insert(number, waiting);
        if std::mem::take(&mut state.asleep) {
            self.inner.wake.notify_one();
        }
        Some(Ticket { parking: Arc::downgrade(&self.inner), number, reply })
    }

    /// Finds out whose process the request `number` is of, which its thread may not outlive. To
    /// be called soon, but only where no answer came at once: /proc takes as long as a read.
    pub(super) fn note_process(&self, number: u64) {
        let asker = self.inner.state.lock().waiting.get(&number).map(|request| request.asker);
        let Some(asker) = asker.filter(|asker| asker.thread != 0) else { return };
        let asker = match status_of(asker.thread) {
            Found::Status(status) => Asker { process: process_of(&status), ..asker },
            // Somebody's asynchronous read: nobody can tell any more whose.
            Found::Gone => Asker { thread: 0, process: None },
            Found::Hidden => return,
        };
        if let Some(request) = self.inner.state.lock().waiting.get_mut(&number) {
            request.asker = asker;
        }
    }
}

impl Drop for Parking {
    fn drop(&mut self) {
        self.inner.state.lock().ending = true;
        self.inner.wake.notify_one();
    }
}

impl<R: Refuse> Ticket<R> {
    /// By what the request is known to its parking.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

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
            let old = state.waiting.iter().filter(|(_, request)| {
                request.refuse.is_some() && now - request.since >= LOOK_EVERY
            });
            let suspects: Vec<_> = old.map(|(number, request)| (*number, request.asker)).collect();
            drop(state);
            let left: Vec<_> = suspects.into_iter().filter(|(_, who)| has_left(*who)).collect();
            state = self.state.lock();
            let refusals: Vec<_> =
                left.iter().filter_map(|(n, _)| state.waiting.get_mut(n)?.refuse.take()).collect();
            if !refusals.is_empty() {
                drop(state);
                refusals.into_iter().for_each(|refuse| refuse(Errno::EINTR));
                state = self.state.lock();
            }
        }
    }
}

/// Whether who asked is gone, or will be once the system call returns.
fn has_left(asker: Asker) -> bool {
    let Asker { thread, process } = asker;
    if thread == 0 {
        return false;
    }
    match (status_of(thread), process) {
        // Not where the id is another's by now.
        (Found::Status(status), _) if process.is_none() || process_of(&status) == process => {
            is_leaving(&status)
        }
        (Found::Hidden, _) => false,
        (Found::Gone | Found::Status(_), Some(process)) if process != thread => {
            match status_of(process) {
                Found::Status(status) => is_leaving(&status),
                Found::Gone => true,
                Found::Hidden => false,
            }
        }
        (Found::Gone | Found::Status(_), _) => true,
    }
}

/// What there is to be known of a thread or a process.
enum Found {
    /// Its /proc/ID/status.
    Status(String),
    /// It exists.
    Hidden,
    Gone,
}

fn status_of(id: u32) -> Found {
    let Ok(pid) = i32::try_from(id) else { return Found::Hidden };
    match fs::read_to_string(format!("/proc/{id}/status")) {
        Ok(status) => Found::Status(status),
        Err(err) if err.raw_os_error() == Some(libc::ESRCH) => Found::Gone,
        // /proc may hide the processes of other users (its option hidepid): ask the kernel.
        Err(err)
            if err.kind() == io::ErrorKind::NotFound
                && kill(Pid::from_raw(pid), None) == Err(nix::errno::Errno::ESRCH) =>
        {
            Found::Gone
        }
        Err(_) => Found::Hidden,
    }
}

/// The process that /proc/ID/status names as that of a thread.
fn process_of(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
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
    use std::thread;

    use crossbeam_channel::{Receiver, Sender, unbounded};

    use super::*;

    #[derive(Clone)]
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

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn request_of_a_thread_that_lives_stays_until_it_is_answered() {
        let parking = Parking::start().unwrap();
        let (told, refused) = reply();
        let ticket = parking.park(std::process::id(), true, told).unwrap();
        assert!(refused.recv_timeout(LOOK_EVERY * 3).is_err());
        assert!(ticket.take().is_some());
        assert!(parking.inner.state.lock().waiting.is_empty());
    }

    #[test]
    fn request_of_a_process_that_ended_is_refused() {
        let parking = Parking::start().unwrap();
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let (told, refused) = reply();
        let ticket = parking.park(child.id(), true, told).unwrap();
        parking.note_process(ticket.number());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(refused.recv_timeout(LONG).unwrap(), libc::EINTR);
        assert_eq!(parking.inner.state.lock().waiting.len(), 1, "it counts until it is answered");
        assert!(ticket.take().is_none());
        assert!(parking.inner.state.lock().waiting.is_empty());
    }

    #[test]
    fn request_of_a_thread_that_ended_stays_while_its_process_lives() {
        let parking = Parking::start().unwrap();
        let (told, refused) = reply();
        let park = |told| parking.park(nix::unistd::gettid().as_raw() as u32, true, told).unwrap();
        let (noted, late) = thread::scope(|scope| {
            let submit = scope.spawn(|| {
                let noted = park(told.clone());
                parking.note_process(noted.number());
                (noted, park(told))
            });
            submit.join().unwrap()
        });
        // Scoped threads are awaited by what they return, and end a moment later.
        let thread = parking.inner.state.lock().waiting[&late.number()].asker.thread;
        while !matches!(status_of(thread), Found::Gone) {
            thread::yield_now();
        }
        parking.note_process(late.number());
        assert!(refused.recv_timeout(LOOK_EVERY * 3).is_err());
        assert!(noted.take().is_some() && late.take().is_some());
    }

    #[test]
    fn thread_that_ended_is_judged_by_its_process() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let gone = {
            let mut child = Command::new("true").spawn().unwrap();
            child.wait().unwrap();
            child.id()
        };
        assert!(!has_left(Asker { thread: gone, process: Some(child.id()) }));
        // An id that is another's by now.
        assert!(!has_left(Asker { thread: std::process::id(), process: Some(child.id()) }));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(has_left(Asker { thread: gone, process: Some(child.id()) }));
        assert!(has_left(Asker { thread: gone, process: Some(gone) }));
        assert!(has_left(Asker { thread: gone, process: None }));
    }

    #[test]
    fn threads_of_unknown_origin_are_left_alone() {
        assert!(!has_left(Asker { thread: 0, process: None }));
        assert!(!has_left(Asker { thread: u32::MAX, process: None }));
    }

    #[test]
    fn one_request_too_many_is_refused_and_room_counts_again() {
        let parking = Parking::start().unwrap();
        let park = || parking.park(std::process::id(), true, reply().0);
        let mut tickets: Vec<_> = (0..PARKED_REQUESTS_MAX).map(|_| park().unwrap()).collect();
        let (told, refused) = reply();
        assert!(parking.park(std::process::id(), true, told).is_none());
        assert_eq!(refused.try_recv(), Ok(libc::EBUSY));
        let (told, refused) = reply();
        let at_once = parking.park(std::process::id(), false, told);
        assert!(at_once.is_some_and(|ticket| ticket.take().is_some()), "it does not wait");
        assert!(refused.try_recv().is_err());
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

//! SIGINT, SIGTERM and SIGHUP as something to ask for, for work that ends at a good place; SIGQUIT
//! too where a mount is waited for.
//!
//! The signals are blocked and read from a signalfd: no handler runs, no system call is
//! interrupted, and a wait for input can wait for them as well.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, raise, sigaction,
};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getppid};
use parking_lot::Mutex;

use crate::error::{Error, Kind, Result};

/// Signals that ask for an end.
const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
/// Signals that a mount ends by. Any other work ends by SIGQUIT as if nobody had asked.
pub const MOUNT_SIGNALS: [Signal; 4] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// Has a write beyond the largest file that the process may make (`ulimit -f`) fail with `EFBIG`,
/// as any other write that fails, instead of ending the process. To be called before any thread
/// starts. Child processes do not inherit it, see [`unblock_in`].
pub fn hold_file_size_signal() {
    let mut set = SigSet::empty();
    set.add(Signal::SIGXFSZ);
    // It cannot fail; and if it did, the signal would do what it did before.
    let _ = set.thread_block();
}

/// Has `command` start with no signal held back but SIGUSR1, whatever this thread holds: `ssh` sets
/// a terminal right again before a signal ends it. SIGUSR1 may be sent to all bdsyncs of a host,
/// also to one that has only begun.
pub fn unblock_in(command: &mut Command) {
    let set = status_set();
    let unblock = move || Ok(set.thread_set_mask()?);
    // SAFETY: between fork and exec only calls are allowed that are safe in a signal handler:
    // pthread_sigmask(3) is, and nothing is allocated.
    unsafe { command.pre_exec(unblock) };
}

/// Has `command` end, by SIGTERM, once the thread that starts it is gone, whatever ended that: its
/// process, say, by SIGKILL. It does not reach what runs as another user.
pub fn end_with_parent(command: &mut Command) {
    let parent = Pid::this();
    let follow = move || {
        set_pdeathsig(Signal::SIGTERM)?;
        // It may be gone already.
        if getppid() == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
    };
    // SAFETY: between fork and exec only calls are allowed that are safe in a signal handler:
    // prctl(2) and getppid(2) are, and nothing is allocated.
    unsafe { command.pre_exec(follow) };
}

/// Has `command` outlive the terminal that it asks for a password at: no signal of that ends or
/// stops it. Where there is no terminal it does not share the fate of its process group either.
pub fn leave_terminal_in(command: &mut Command) {
    if File::open("/dev/tty").is_err() {
        command.process_group(0);
    }
    let ignored = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    let leave = move || {
        for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGTSTP] {
            // SAFETY: to ignore a signal runs no code.
            unsafe { sigaction(signal, &ignored) }?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only calls are allowed that are safe in a signal handler:
    // sigaction(2) is, and nothing is allocated.
    unsafe { command.pre_exec(leave) };
}

/// Has the ends of child processes be told, also where the process was started with SIGCHLD
/// ignored, as daemons do: the kernel would then keep no exit status. To be called before any child
/// is started.
pub fn expect_children() {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code. It cannot fail; and if it did, an end that is not
    // told is an error of the wait.
    let _ = unsafe { sigaction(Signal::SIGCHLD, &action) };
}

/// SIGUSR1, which asks how far the run is.
#[derive(Debug)]
pub struct StatusRequests {
    fd: SignalFd,
}

impl StatusRequests {
    /// Holds SIGUSR1 back from this thread and those that it starts from now on. To be called
    /// before any thread starts: the signal would end the process in one that was missed.
    pub fn hold() {
        // It cannot fail; and if it did, the signal would do what it did before.
        let _ = status_set().thread_block();
    }

    /// What comes, or came since [`hold`](Self::hold).
    ///
    /// # Errors
    /// `Kind::Open` when the kernel refuses.
    pub fn open() -> Result<Self> {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd = SignalFd::with_flags(&status_set(), flags)
            .map_err(|err| Error::io(Kind::Open, "cannot watch for SIGUSR1", err))?;
        Ok(Self { fd })
    }

    /// Waits for a request; `false` when the other end of `stop` is closed instead.
    pub fn wait(&self, stop: BorrowedFd<'_>) -> bool {
        // One that came before the end is answered.
        matches!(self.fd.read_signal(), Ok(Some(_))) || next_signal(&self.fd, stop).is_some()
    }
}

/// Waits for a signal that `fd` gives; `None` once the other end of `stop` is closed.
fn next_signal(fd: &SignalFd, stop: BorrowedFd<'_>) -> Option<i32> {
    loop {
        let mut fds =
            [PollFd::new(stop, PollFlags::POLLIN), PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) if fds[0].any().unwrap_or(true) => return None,
            // Another thread may have been quicker.
            Ok(_) => {
                if let Ok(Some(info)) = fd.read_signal() {
                    return Some(info.ssi_signo.cast_signed());
                }
            }
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

fn status_set() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGUSR1);
    set
}

/// Signals that come so soon behind the first one say the same: timeout(1) sends one to a process
/// and another to its group, and service managers SIGHUP behind SIGTERM.
pub const ECHO: Duration = Duration::from_millis(500);

/// Which signal came first, and when.
#[derive(Debug, Default)]
pub struct FirstSignal(Mutex<Option<(i32, Instant)>>);

/// What a signal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// An end.
    First,
    /// No more than the first one.
    Echo,
    /// An end at once.
    Another,
}

impl FirstSignal {
    /// What `signal`, which came just now, says.
    pub fn note(&self, signal: i32) -> Wish {
        match &mut *self.0.lock() {
            Some((_, at)) if at.elapsed() < ECHO => Wish::Echo,
            Some(_) => Wish::Another,
            first => {
                *first = Some((signal, Instant::now()));
                Wish::First
            }
        }
    }

    /// The signal that came first, if one did.
    fn get(&self) -> Option<i32> {
        self.0.lock().map(|(signal, _)| signal)
    }
}

/// Holds the signals back until it is dropped.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    mask_before: SigSet,
    first: FirstSignal,
    /// A byte here ends every wait for input.
    given_up: PipeReader,
    give_up: PipeWriter,
}

impl Signals {
    /// Blocks the signals in this thread and those that it starts from now on. A signal that
    /// the process was told to ignore (`nohup`, a shell's background job) stays ignored.
    ///
    /// # Errors
    /// `Kind::Open` when the kernel refuses.
    pub fn catch() -> Result<Self> {
        Self::catch_these(&SIGNALS)
    }

    /// As [`catch`](Self::catch), for who waits for a mount.
    ///
    /// # Errors
    /// As there.
    pub fn catch_for_mount() -> Result<Self> {
        Self::catch_these(&MOUNT_SIGNALS)
    }

    fn catch_these(signals: &[Signal]) -> Result<Self> {
        let failed = |err: Errno| Error::io(Kind::Open, "cannot watch for signals", err);
        let mut set = SigSet::empty();
        for &signal in signals.iter().filter(|&&signal| !is_ignored(signal)) {
            set.add(signal);
        }
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd = SignalFd::with_flags(&set, flags).map_err(failed)?;
        let (given_up, give_up) =
            io::pipe().map_err(|err| Error::io(Kind::Open, "cannot watch for signals", err))?;
        let mask_before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK).map_err(failed)?;
        let first = FirstSignal::default();
        Ok(Self { fd, mask_before, first, given_up, give_up })
    }

    /// The signal that asked for an end, if one did.
    #[must_use]
    pub fn pending(&self) -> Option<i32> {
        if self.first.get().is_none()
            && let Ok(Some(info)) = self.fd.read_signal()
        {
            let signal = info.ssi_signo.cast_signed();
            // A watch may have had the first one meanwhile.
            if self.first.note(signal) == Wish::Another {
                Self::end_process(signal);
            }
        }
        self.first.get()
    }

    /// Fails when a signal asked for an end; `what` was being done.
    ///
    /// # Errors
    /// `Kind::Interrupted`.
    pub fn check(&self, what: &str) -> Result<()> {
        self.pending().map_or(Ok(()), |signal| Err(interrupted(signal, what)))
    }

    /// Calls `on_signal` with the first signal, on a thread that waits for it until the watch is
    /// dropped. A second one, half a second later or more, ends the process: whatever the first has
    /// to wait for, a read from a device that is stuck perhaps, may never come.
    ///
    /// # Errors
    /// `Kind::Open` when no pipe or no thread can be had.
    pub fn watch<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        on_signal: impl FnOnce(i32) + Send + 'scope,
    ) -> Result<Watch<'scope>> {
        let failed = |err| Error::io(Kind::Open, "cannot watch for signals", err);
        let (ended, end) = io::pipe().map_err(failed)?;
        let wait = move || {
            let mut on_signal = Some(on_signal);
            while let Some(signal) = next_signal(&self.fd, ended.as_fd()) {
                match (self.first.note(signal), on_signal.take()) {
                    (Wish::First, Some(on_signal)) => on_signal(signal),
                    (Wish::Echo, unused) => on_signal = unused,
                    _ => Self::end_process(signal),
                }
            }
        };
        let thread = thread::Builder::new().name("signals".into());
        let thread = thread.spawn_scoped(scope, wait).map_err(failed)?;
        Ok(Watch { end: Some(end), thread: Some(thread) })
    }

    /// Runs `work` under such a watch.
    ///
    /// # Errors
    /// As [`Signals::watch`].
    pub fn watched<T>(
        &self,
        on_signal: impl FnOnce(i32) + Send,
        work: impl FnOnce() -> T,
    ) -> Result<T> {
        thread::scope(|scope| {
            let _watch = self.watch(scope, on_signal)?;
            Ok(work())
        })
    }

    /// Has the signals that come from now on do to the process what they would have done, as far
    /// as this thread is concerned. Those that only repeat the first are waited for before.
    pub fn let_through(&self) {
        thread::sleep(ECHO);
        while let Ok(Some(_)) = self.fd.read_signal() {}
        // It cannot fail; and if it did, they would be held back as before.
        let _ = SigSet::from_iter(SIGNALS).thread_unblock();
    }

    /// Holds them back no longer. One that came does to the process what it would have done: dropping
    /// this takes it for answered.
    pub fn give_back(self) {
        // Setting a mask that was in force before cannot fail.
        let _ = self.mask_before.thread_set_mask();
    }

    /// Leaves them held back until the process ends: what it ends with is decided.
    pub fn hold_for_good(self) {
        // Dropping it would let them through.
        let _ = ManuallyDrop::new(self);
    }

    /// Has `signal` do to the process what it does, also where it is held back.
    pub fn end_process(signal: i32) {
        if let Ok(signal) = Signal::try_from(signal) {
            let mut set = SigSet::empty();
            set.add(signal);
            // Neither can fail for a signal that exists; the process goes on if they do.
            let _ = set.thread_unblock().and_then(|()| raise(signal));
        }
    }

    /// Nobody wants any more input: ends every wait for some, now and later.
    pub fn give_up_input(&self) {
        // A pipe that is full holds a byte already.
        let _ = (&self.give_up).write(&[0]);
    }

    /// Waits until `input` can be read or has ended.
    ///
    /// # Errors
    /// When a signal came first, or the input was given up.
    pub fn wait_readable(&self, input: BorrowedFd<'_>) -> io::Result<()> {
        self.wait_readable_until(input, None).map(|_| ())
    }

    /// Waits until `input` can be read or has ended, but not longer than until `deadline`; whether
    /// it can be read.
    ///
    /// # Errors
    /// When a signal came first, or the input was given up.
    pub fn wait_readable_until(
        &self,
        input: BorrowedFd<'_>,
        deadline: Option<Instant>,
    ) -> io::Result<bool> {
        loop {
            let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
                let rest = deadline.saturating_duration_since(Instant::now());
                PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX)
            });
            if self.pending().is_some() {
                return Err(io::Error::other("a signal asked for an end"));
            }
            let mut fds = [
                PollFd::new(input, PollFlags::POLLIN),
                PollFd::new(self.fd.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.given_up.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, timeout) {
                Ok(0) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                    return Ok(false);
                }
                Ok(_) if fds[2].any().unwrap_or(true) => {
                    return Err(io::Error::other("the input is given up"));
                }
                Ok(_) if fds[0].any().unwrap_or(true) => return Ok(true),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
    }
}

/// A thread waits for a signal. It has ended when this is dropped.
pub struct Watch<'scope> {
    /// Dropped to end the thread.
    end: Option<PipeWriter>,
    thread: Option<ScopedJoinHandle<'scope, ()>>,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic on it ends the process.
            let _ = thread.join();
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // One that came when all was done is answered by that: it must not end the process
        // before it has told so.
        while let Ok(Some(_)) = self.fd.read_signal() {}
        // Setting a mask that was in force before cannot fail.
        let _ = self.mask_before.thread_set_mask();
    }
}

/// The error of work that `signal` ended.
#[must_use]
pub fn interrupted(signal: i32, what: &str) -> Error {
    let name = Signal::try_from(signal).map_or("a signal", Signal::as_str);
    Error::new(Kind::Interrupted(signal), format!("{what}: interrupted by {name}"))
}

/// Whether the process ignores `signal`. The system call is asked itself: `nix` cannot ask without
/// changing it, and proc(5) may not be there.
fn is_ignored(signal: Signal) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action the call changes nothing, and writes no more than the one that
    // is in force; zeroes are an action too.
    let action = unsafe {
        // It cannot fail for a signal that exists; zeroes mean the default.
        libc::sigaction(signal as i32, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_to_this_thread_is_held_and_told_once_and_for_all() {
        let signals = Signals::catch().unwrap();
        assert_eq!(signals.pending(), None);
        signals.check("waiting").unwrap();
        let (end, _other) = nix::unistd::pipe().unwrap();
        nix::sys::signal::raise(Signal::SIGTERM).unwrap();
        assert!(signals.wait_readable(end.as_fd()).is_err());
        assert_eq!(signals.pending(), Some(15));
        assert_eq!(signals.pending(), Some(15));
        let err = signals.check("waiting").unwrap_err();
        assert_eq!(err.full_message(), "waiting: interrupted by SIGTERM");
    }

    #[test]
    fn input_that_is_ready_or_ended_does_not_wait() {
        let signals = Signals::catch().unwrap();
        let (end, other) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&other, b"x").unwrap();
        signals.wait_readable(end.as_fd()).unwrap();
        drop(other);
        signals.wait_readable(end.as_fd()).unwrap();
        signals.give_up_input();
        (0..2).for_each(|_| assert!(signals.wait_readable(end.as_fd()).is_err()));
    }

    #[test]
    fn what_a_signal_does_is_asked_and_not_changed() {
        // By default it does nothing either.
        let signal = Signal::SIGURG;
        for (handler, ignored) in [(SigHandler::SigIgn, true), (SigHandler::SigDfl, false)] {
            let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
            // SAFETY: neither runs any code.
            unsafe { sigaction(signal, &action) }.unwrap();
            (0..2).for_each(|_| assert_eq!(is_ignored(signal), ignored));
        }
    }
}

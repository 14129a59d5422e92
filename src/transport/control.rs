//! What ends the waiting of a connection's reader and writer: the other side's silence, or the
//! owner's wish.
//!
//! The timeout runs only while an answer is outstanding ([`Control::expect_answer`] to
//! [`Control::rest`]), because a mount may be idle for hours, and starts anew with every byte
//! that arrives. A write that makes no progress is given the same time. Time in which this process
//! is stopped is no silence: see [`Silence`].

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;

use super::silence::Silence;
use crate::error::{Error, Kind, Result};

/// Shared by a connection's reader, writer and owner.
#[derive(Debug)]
pub struct Control {
    timeout: Option<Duration>,
    state: Mutex<State>,
    /// At its end once the connection is closed: then every poll on it returns.
    closed: PipeReader,
    /// A byte here makes the waiting reader look at the clock's new state.
    nudge: PipeReader,
    nudger: PipeWriter,
    /// The descriptor that is written to, where its other end's close is to be noticed.
    watched: OnceLock<OwnedFd>,
    /// The process at the other end, which can be polled as readable once it has ended, and how long
    /// what it leaves behind may be silent.
    process: OnceLock<(OwnedFd, Duration)>,
}

#[derive(Debug)]
struct State {
    /// The other side's silence while it owes an answer.
    silence: Option<Silence>,
    /// The same, of what the process at the other end left behind, once that has ended.
    left_behind: Option<Silence>,
    /// When bytes arrived last.
    last_heard: Option<Instant>,
    /// The other end of `closed`.
    open: Option<PipeWriter>,
}

/// Why a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// The descriptor can be used, if only to learn that it failed.
    Now,
    /// The owner closed the connection.
    Closed,
}

impl Control {
    /// A control whose reader fails after `timeout` of silence; `None` waits for ever.
    ///
    /// # Errors
    /// `Kind::Connection` when no pipe can be had.
    pub fn new(timeout: Option<Duration>) -> Result<Arc<Self>> {
        let pipe = || io::pipe().map_err(setup_error);
        let ((closed, open), (nudge, nudger)) = (pipe()?, pipe()?);
        for end in [nudge.as_fd(), nudger.as_fd()] {
            set_nonblocking(end).map_err(setup_error)?;
        }
        let (silence, left_behind, last_heard) = (None, None, None);
        let state = Mutex::new(State { silence, left_behind, last_heard, open: Some(open) });
        let (watched, process) = (OnceLock::new(), OnceLock::new());
        Ok(Arc::new(Self { timeout, state, closed, nudge, nudger, watched, process }))
    }

    /// How long the other side may be silent while it owes an answer.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// From now on the other side owes an answer: the timeout runs.
    pub fn expect_answer(&self) {
        let silence = Silence::new(Instant::now());
        let mut state = self.state.lock();
        let was_resting = state.silence.replace(silence).is_none();
        state.left_behind = state.left_behind.map(|_| silence);
        drop(state);
        if was_resting && (self.timeout.is_some() || self.process.get().is_some()) {
            // A full pipe nudges as well as one byte more.
            let _ = (&self.nudger).write(&[0]);
        }
    }

    /// The other side owes nothing: it may be silent for as long as it likes.
    pub fn rest(&self) {
        self.state.lock().silence = None;
    }

    /// Ends the connection from this side, at once and for good: the reader is at its end, the
    /// writer fails with `BrokenPipe`, also where they wait already.
    pub fn close(&self) {
        self.state.lock().open = None;
    }

    /// Whether [`close`](Self::close) was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state.lock().open.is_none()
    }

    /// Has [`Control::wait_for_hang_up`] look at `output`; the first call counts.
    pub(super) fn watch(&self, output: OwnedFd) {
        let _ = self.watched.set(output);
    }

    /// Minds the end of the process at the other end, which `pidfd` names: while an answer is due,
    /// what it leaves behind may be silent for as long as `grace`. The first call counts.
    pub(super) fn mind(&self, pidfd: OwnedFd, grace: Duration) {
        let _ = self.process.set((pidfd, grace));
    }

    /// Waits until nobody is left to read what we write: `true`. `false`: the connection was
    /// closed from this side, or that cannot be told of it.
    pub fn wait_for_hang_up(&self) -> bool {
        let Some(output) = self.watched.get() else { return false };
        let mut fds = [
            PollFd::new(self.closed.as_fd(), PollFlags::POLLIN),
            // Errors and hang-ups are told unasked.
            PollFd::new(output.as_fd(), PollFlags::empty()),
        ];
        let polled = poll_retrying(&mut fds, None);
        let [closed, hung_up] = fds.map(|fd| fd.any().unwrap_or(false));
        polled.is_ok() && hung_up && !closed
    }

    /// Waits up to `limit` for the end of the process at the other end; whether that has come, or
    /// cannot be told.
    pub fn wait_for_process(&self, limit: Duration) -> bool {
        let Some((process, _)) = self.process.get() else { return true };
        let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        poll_retrying(&mut fds, Some(limit)).is_ok_and(|count| count > 0)
    }

    /// Bytes arrived.
    pub(super) fn heard(&self) {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.last_heard = Some(now);
        state.silence = state.silence.map(|_| Silence::new(now));
        state.left_behind = state.left_behind.map(|_| Silence::new(now));
    }

    /// Waits until `fd` can be read. One who cannot be answered counts as gone, and so does a process
    /// that has ended and left only silent ones behind.
    pub(super) fn wait_readable(&self, fd: BorrowedFd<'_>) -> io::Result<Ready> {
        loop {
            let slice = self.patience().map(Silence::slice);
            let watched = self.watched.get().map_or(self.closed.as_fd(), AsFd::as_fd);
            let process = self.minded().map_or(self.closed.as_fd(), AsFd::as_fd);
            let mut fds = [
                PollFd::new(self.closed.as_fd(), PollFlags::POLLIN),
                PollFd::new(fd, PollFlags::POLLIN),
                PollFd::new(self.nudge.as_fd(), PollFlags::POLLIN),
                PollFd::new(watched, PollFlags::empty()),
                PollFd::new(process, PollFlags::POLLIN),
            ];
            let started = Instant::now();
            let count = poll_retrying(&mut fds, slice)?;
            let [closed, readable, nudged, hung_up, ended] = fds.map(|fd| fd.any().unwrap_or(true));
            if closed || hung_up {
                return Ok(Ready::Closed);
            }
            if readable {
                return Ok(Ready::Now);
            }
            if nudged {
                let _ = (&self.nudge).read(&mut [0; 64]);
            }
            if ended {
                self.state.lock().left_behind = Some(Silence::new(Instant::now()));
            }
            self.count_silence(started, slice);
            if count == 0 && self.patience().is_some_and(|left| left.is_zero()) {
                return match self.state.lock().left_behind {
                    Some(_) => Ok(Ready::Closed),
                    None => Err(self.timeout_error("nothing came")),
                };
            }
        }
    }

    /// Waits until `fd` can be written. The timeout counts here too: another side that takes
    /// nothing and says nothing is as good as gone.
    pub(super) fn wait_writable(&self, fd: BorrowedFd<'_>) -> io::Result<Ready> {
        let mut silence = Silence::new(Instant::now());
        loop {
            if let Some(at) = self.state.lock().last_heard {
                silence.heard(at);
            }
            let slice = self.timeout.map(|limit| Silence::slice(silence.left(limit)));
            let mut fds = [
                PollFd::new(self.closed.as_fd(), PollFlags::POLLIN),
                PollFd::new(fd, PollFlags::POLLOUT),
            ];
            let started = Instant::now();
            let count = poll_retrying(&mut fds, slice)?;
            let [closed, writable] = fds.map(|fd| fd.any().unwrap_or(true));
            if closed {
                return Ok(Ready::Closed);
            }
            if writable {
                return Ok(Ready::Now);
            }
            if let Some(asked) = slice {
                silence.waited(started, Instant::now(), asked);
            }
            if count == 0 && slice.is_some_and(|left| left.is_zero()) {
                return Err(self.timeout_error("nothing was taken"));
            }
        }
    }

    /// How much longer the silence may last; `None` for ever.
    fn patience(&self) -> Option<Duration> {
        let state = self.state.lock();
        let silence = state.silence?;
        let timeout = self.timeout.map(|limit| silence.left(limit));
        let grace = self.process.get().map_or(Duration::MAX, |(_, grace)| *grace);
        let grace = state.left_behind.map(|silence| silence.left(grace));
        timeout.into_iter().chain(grace).min()
    }

    /// The process whose end is to be noticed: while it owes nothing, that is of no interest.
    fn minded(&self) -> Option<&OwnedFd> {
        let state = self.state.lock();
        let is_due = state.silence.is_some() && state.left_behind.is_none();
        self.process.get().filter(|_| is_due).map(|(pidfd, _)| pidfd)
    }

    /// Nothing was heard since `started`, in a wait of that length.
    fn count_silence(&self, started: Instant, asked: Option<Duration>) {
        let Some(asked) = asked else { return };
        let State { silence, left_behind, .. } = &mut *self.state.lock();
        for silence in [silence, left_behind].into_iter().flatten() {
            silence.waited(started, Instant::now(), asked);
        }
    }

    fn timeout_error(&self, what: &str) -> io::Error {
        let seconds = self.timeout.unwrap_or_default().as_secs_f64();
        io::Error::new(io::ErrorKind::TimedOut, format!("{what} for {seconds} s (--timeout)"))
    }
}

/// `poll`, again after every signal (the classic ends at one). `None` waits for ever.
fn poll_retrying(fds: &mut [PollFd<'_>], patience: Option<Duration>) -> io::Result<i32> {
    let timeout = match patience {
        // Rounded up: a millisecond early would mean a loop of polls of no length.
        Some(left) if !left.is_zero() => {
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        }
        Some(_) => PollTimeout::ZERO,
        None => PollTimeout::NONE,
    };
    loop {
        match poll(fds, timeout) {
            // The caller's loop computes the patience anew.
            Err(Errno::EINTR) if patience.is_some() => return Ok(-1),
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Makes `fd` fail with `WouldBlock` where it would wait.
pub(super) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// A pipe or descriptor of a connection could not be made.
pub(super) fn setup_error(source: io::Error) -> Error {
    Error::io(Kind::Connection, "cannot set up the connection", source)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::{Connection, pair};
    use super::*;

    #[test]
    fn a_write_after_a_long_rest_is_given_all_of_the_timeout() {
        let (a, mut b) = pair(Some(Duration::from_secs(60))).unwrap();
        let Connection { mut writer, control, .. } = a;
        let long_ago = Instant::now().checked_sub(Duration::from_secs(600)).unwrap();
        control.state.lock().last_heard = Some(long_ago);
        // More than a pipe takes before somebody reads.
        let writes = thread::spawn(move || writer.write_all(&[7; 1 << 20]));
        thread::sleep(Duration::from_millis(100));
        let mut got = vec![];
        b.reader.read_to_end(&mut got).unwrap();
        writes.join().unwrap().unwrap();
        assert_eq!(got.len(), 1 << 20);
    }
}

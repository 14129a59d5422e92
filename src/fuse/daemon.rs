//! `--daemon`: the process that the user started returns once the mount is readable.
//!
//! Two processes, from the very beginning, because threads do not survive a fork. Until the
//! mount is readable the child keeps terminal and session, so that `ssh` can ask for a password
//! and errors are seen; then it leaves both.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

use crate::error::{Error, Kind, Result};
use crate::signals::{Signals, interrupted};

/// The two processes.
pub enum Forked {
    /// The one that the user started, when the other has reported; the exit status for it.
    Parent(u8),
    /// The one that is to mount.
    Child(StartingDaemon),
}

/// A process that is not yet in the background.
pub struct StartingDaemon {
    report: UnixStream,
}

/// Splits the process. To be called before any thread is started.
///
/// # Errors
/// `Kind::Open` when the system has no process or socket left; what the other one ended with.
pub fn split() -> Result<Forked> {
    let (reader, writer) =
        UnixStream::pair().map_err(|err| Error::io(Kind::Open, "cannot start a process", err))?;
    let parent = Pid::this();
    // Before there is a child, which may have mounted before this process goes on.
    let signals = Signals::catch_for_mount()?;
    // SAFETY: the caller has started no thread, so nothing that the child needs is locked.
    match unsafe { fork() }.map_err(not_started)? {
        ForkResult::Child => {
            // The other process may have passed one on by now.
            signals.give_back();
            end_with(parent)?;
            drop(reader);
            Ok(Forked::Child(StartingDaemon { report: writer }))
        }
        ForkResult::Parent { child } => {
            drop(writer);
            wait_for(reader, child, signals).map(Forked::Parent)
        }
    }
}

fn not_started(err: Errno) -> Error {
    Error::io(Kind::Open, "cannot start a process", err)
}

/// Has the child end when its parent does: whoever ended that is told of a failure, and must not
/// find a mount later.
fn end_with(parent: Pid) -> Result<()> {
    set_pdeathsig(Signal::SIGTERM).map_err(not_started)?;
    if Pid::parent() != parent {
        return Err(Error::new(Kind::Interrupted(libc::SIGTERM), "the process that waits is gone"));
    }
    Ok(())
}

/// Waits until the child has mounted, or has told its error and ended. A signal ends the wait, and
/// the process: but not once there is a mount, of which the user is told by the exit status.
fn wait_for(reader: UnixStream, child: Pid, signals: Signals) -> Result<u8> {
    let is_mounted = is_mounted(&reader, &signals).map_err(|err| {
        let what = "cannot hear whether the process of the mount is ready";
        Error::io(Kind::Open, what, err)
    })?;
    if is_mounted {
        signals.hold_for_good();
        return Ok(0);
    }
    if let Some(signal) = signals.pending() {
        pass_on(signal, child, signals);
        Signals::end_process(signal);
        return Err(interrupted(signal, "the mount was not waited for"));
    }
    // From here on they end the process as any other: the child may still tell its error.
    drop(signals);
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, code)) => Ok(u8::try_from(code).unwrap_or(u8::MAX)),
        Ok(WaitStatus::Signaled(_, signal, _)) => {
            Err(Error::new(Kind::Interrupted(signal as i32), "the process of the mount was killed"))
        }
        other => {
            let what = format!("the process of the mount ended strangely: {other:?}");
            Err(Error::new(Kind::Open, what))
        }
    }
}

/// Has `signal` end the child as well, which it may have come to, and waits for that: it is to hear
/// of this signal and not of our end before. Another one does not wait.
fn pass_on(signal: i32, child: Pid, signals: Signals) {
    drop(signals);
    if let Ok(signal) = Signal::try_from(signal) {
        // It may have ended.
        let _ = kill(child, signal);
    }
    while waitpid(child, None) == Err(Errno::EINTR) {}
}

/// A byte: it is mounted. None: the child has ended, or a signal came before and it will not say so
/// any more.
fn is_mounted(mut reader: &UnixStream, signals: &Signals) -> io::Result<bool> {
    if signals.wait_readable(reader.as_fd()).is_err() {
        // Whatever is not said by now cannot be: who tries takes its mount away again.
        reader.shutdown(Shutdown::Read)?;
    }
    match reader.read_exact(&mut [0]) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(err) => Err(err),
    }
}

impl StartingDaemon {
    /// Leaves terminal, session and working directory, and lets the parent return with success.
    ///
    /// # Errors
    /// `Kind::Open` when /dev/null cannot be opened; the parent then reports no success.
    pub fn detach(mut self) -> Result<()> {
        let failed = |err: io::Error| Error::io(Kind::Open, "cannot go into the background", err);
        let null = File::options().read(true).write(true).open("/dev/null").map_err(failed)?;
        let leave = || -> nix::Result<()> {
            setsid()?;
            chdir("/")?;
            dup2_stdin(null.as_fd())?;
            dup2_stdout(null.as_fd())
        };
        leave().map_err(|err| failed(err.into()))?;
        set_pdeathsig(None).map_err(|err| failed(err.into()))?;
        // A parent that was killed meanwhile takes no word.
        self.report.write_all(&[0]).map_err(failed)?;
        dup2_stderr(null.as_fd()).map_err(|err| failed(err.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::MOUNT_SIGNALS;
    use nix::sys::signal::raise;

    #[test]
    fn no_signal_ends_who_has_heard_of_a_mount() {
        let (reader, mut writer) = UnixStream::pair().unwrap();
        writer.write_all(&[0]).unwrap();
        let signals = Signals::catch_for_mount().unwrap();
        assert_eq!(wait_for(reader, Pid::this(), signals).unwrap(), 0);
        // They are held back from this thread, and end with it.
        MOUNT_SIGNALS.into_iter().for_each(|signal| raise(signal).unwrap());
    }

    #[test]
    fn a_signal_comes_before_a_mount_or_behind_it_and_both_know() {
        for is_told_before in [true, false] {
            let signals = Signals::catch().unwrap();
            let (reader, mut writer) = UnixStream::pair().unwrap();
            if is_told_before {
                writer.write_all(&[0]).unwrap();
            }
            raise(Signal::SIGTERM).unwrap();
            assert_eq!(is_mounted(&reader, &signals).unwrap(), is_told_before);
            assert_eq!(signals.pending(), Some(Signal::SIGTERM as i32));
            assert!(writer.write_all(&[0]).is_err());
        }
    }
}

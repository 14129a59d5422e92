//! `--daemon`: the process that the user started returns once the mount is readable.
//!
//! Two processes, from the very beginning, because threads do not survive a fork. Until the
//! mount is readable the child keeps terminal and session, so that `ssh` can ask for a password
//! and errors are seen; then it leaves both.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use nix::fcntl::OFlag;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{
    ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setsid,
};

use crate::error::{Error, Kind, Result};

/// The two processes.
pub enum Forked {
    /// The one that the user started, when the other has reported; the exit status for it.
    Parent(u8),
    /// The one that is to mount.
    Child(StartingDaemon),
}

/// A process that is not yet in the background.
pub struct StartingDaemon {
    report: File,
}

/// Splits the process. To be called before any thread is started.
///
/// # Errors
/// `Kind::Open` when the system has no process or pipe left.
pub fn split() -> Result<Forked> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(not_started)?;
    let parent = Pid::this();
    // SAFETY: the caller has started no thread, so nothing that the child needs is locked.
    match unsafe { fork() }.map_err(not_started)? {
        ForkResult::Child => {
            end_with(parent)?;
            Ok(Forked::Child(StartingDaemon { report: File::from(writer) }))
        }
        ForkResult::Parent { child } => {
            drop(writer);
            wait_for(File::from(reader), child).map(Forked::Parent)
        }
    }
}

fn not_started(err: nix::errno::Errno) -> Error {
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

/// A byte: it is mounted. None: the child has told its error and ended.
fn wait_for(mut reader: File, child: Pid) -> Result<u8> {
    match reader.read_exact(&mut [0]) {
        Ok(()) => return Ok(0),
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(err) => {
            let what = "cannot hear whether the process of the mount is ready";
            return Err(Error::io(Kind::Open, what, err));
        }
    }
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

//! SIGINT, SIGTERM, SIGHUP and SIGQUIT as events.
//!
//! Handlers with a pipe, and no blocked signals: whichever thread a signal comes to, of those that
//! `fuser` starts too, it is told.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::pipe2;

use crate::error::{Error, Kind, Result};
use crate::signals::{MOUNT_SIGNALS, Signals};

/// The pipe's writing end for the handler; below 0 while nobody listens.
static WRITER: AtomicI32 = AtomicI32::new(-1);

/// Calls `told` with the number of every SIGINT, SIGTERM, SIGHUP and SIGQUIT from now on, on a
/// thread that lives as long as the process. SIGHUP stays ignored where `nohup` had it so. For a
/// process as a whole, once.
///
/// # Errors
/// `Kind::Open` when the system has no pipe or no thread left.
pub(super) fn watch(told: impl Fn(i32) + Send + 'static) -> Result<()> {
    let failed = |err| Error::io(Kind::Open, "cannot watch for signals", err);
    let pipe = pipe2(OFlag::O_CLOEXEC).map_err(|err| failed(err.into()))?;
    let (mut reader, writer) = (File::from(pipe.0), pipe.1);
    // A handler does not wait.
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|err| failed(err.into()))?;
    let listen = move || {
        let mut signal = [0];
        while reader.read_exact(&mut signal).is_ok() {
            told(i32::from(signal[0]));
        }
    };
    thread::Builder::new().name("signals".into()).spawn(listen).map_err(failed)?;
    // Never closed, so that a handler cannot write to a file that got its number later.
    WRITER.store(writer.as_raw_fd(), Ordering::SeqCst);
    let _ = writer.into_raw_fd();
    for signal in MOUNT_SIGNALS {
        install(signal).map_err(|err| failed(err.into()))?;
    }
    // Whoever started the process may have held them back.
    SigSet::from_iter(MOUNT_SIGNALS).thread_unblock().map_err(|err| failed(err.into()))
}

/// Has `signal`, of those that are watched, end the process.
pub(super) fn end_process(signal: i32) {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code. It cannot fail for a signal that exists.
    let _ = Signal::try_from(signal).and_then(|signal| unsafe { sigaction(signal, &default) });
    Signals::end_process(signal);
}

fn install(signal: Signal) -> nix::Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: `note` calls nothing but write(2), which is async-signal-safe, and keeps errno.
    let before = unsafe { sigaction(signal, &action) }?;
    if signal == Signal::SIGHUP && matches!(before.handler(), SigHandler::SigIgn) {
        // SAFETY: it was the action until now.
        unsafe { sigaction(signal, &before) }?;
    }
    Ok(())
}

extern "C" fn note(signal: i32) {
    // SAFETY: errno of this thread; write(2) from a buffer of one byte that lives here. A pipe
    // that is full loses the signal: thousands of others are told already.
    unsafe {
        let errno = *libc::__errno_location();
        let byte = [signal as u8];
        libc::write(WRITER.load(Ordering::SeqCst), byte.as_ptr().cast(), 1);
        *libc::__errno_location() = errno;
    }
}

//! stdout as the place for a patch, or for an answer in words.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::unistd::close;

use crate::error::{Error, Kind, Result};
use crate::patient::Patient;
use crate::report;

/// Whether the process was started without a stdout.
static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Looks before Rust's runtime opens `/dev/null` in the place of a stdout that is closed: a patch
/// written there would be lost without a word.
extern "C" fn look() {
    // SAFETY: asks for the flags of a descriptor, which needs not be open.
    let closed = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) } == -1;
    WAS_CLOSED.store(closed, Ordering::Relaxed);
}

// SAFETY: the loader calls what the section lists, once, before `main`; `look` takes no arguments
// and does nothing but a system call and a store.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

/// Refuses a stdout that was closed from the start; `what` would be lost there.
fn refuse_closed(what: &str) -> Result<()> {
    if WAS_CLOSED.load(Ordering::Relaxed) {
        return Err(Error::new(Kind::Write, format!("cannot write {what}: stdout is closed")));
    }
    Ok(())
}

/// Prints what the user asked for.
///
/// # Errors
/// `Kind::Write`, also when stdout was closed from the start.
pub(super) fn answer(text: &str) -> Result<()> {
    refuse_closed("the answer")?;
    report::answer(text)
}

/// stdout for a patch. A flush has it stored as far as a close does: a network file system may learn
/// only then that there is no room, by a quota perhaps.
pub(super) struct PatchOutput(Patient<File>);

impl Write for PatchOutput {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        let second = self.0.0.try_clone()?;
        match close(OwnedFd::from(second)) {
            // It is closed all the same (close(2)).
            Ok(()) | Err(Errno::EINTR) => Ok(()),
            Err(err) => Err(err.into()),
        }
    }
}

/// stdout for a patch, unbuffered. It is waited for until it takes more.
///
/// # Errors
/// `Kind::Write` when it was closed from the start, `Kind::Usage` when it is a terminal: that would
/// be confused by the patch, and changes its line ends.
pub(super) fn stdout() -> Result<PatchOutput> {
    refuse_closed("the patch")?;
    if io::stdout().is_terminal() {
        let what = "the patch is not for a terminal: write it to a file or a pipe";
        return Err(Error::new(Kind::Usage, what));
    }
    report::stdout_file()
        .map(|file| PatchOutput(Patient(file)))
        .map_err(|err| Error::io(Kind::Write, "cannot use stdout", err))
}

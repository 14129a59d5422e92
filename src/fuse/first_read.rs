//! The first answer of a new mount, which shows that it can be read.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, bounded, select_biased};
use nix::sys::signal::SigSet;
use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};

use super::events::Event;
use crate::error::{Error, Kind, Result};

/// `st_dev` of the mount, which only an answer of its own threads can tell.
///
/// They are asked by a thread of its own: where `fuser` finds no more threads or descriptors,
/// none of them ever answers, and the kernel has the one who asked wait. That thread holds none of
/// the connection: were the process killed meanwhile, it would wait for an answer of its own
/// process, and the process for it, for ever. Nor is a core dumped meanwhile, as after an abort:
/// the kernel would first wait for all threads to end, and have the connection open.
pub(super) fn first_answer(
    guard: &mut JoinHandle<io::Result<()>>,
    path: &Path,
    events: &Receiver<Event>,
) -> Result<u64> {
    let failed = |err| Error::io(Kind::Open, "the mount does not answer", err).with_path(path);
    let place = path.to_owned();
    let read = move || fs::read_dir(&place)?.next().transpose().and(fs::metadata(&place));
    let (sender, answer) = bounded(1);
    let ask = move || {
        let_go_of_files();
        // Nobody listens after a signal.
        let _ = sender.send(read());
    };
    let _no_dump = NoDump::begin();
    thread::Builder::new().name("first-read".into()).spawn(ask).map_err(failed)?;
    select_biased! {
        // First: nobody is to be told of a mount that a signal has ended already.
        recv(events) -> event => if let Ok(Event::Signal(signal)) = event {
            let what = "interrupted before the mount could be read";
            return Err(Error::new(Kind::Interrupted(signal), what).with_path(path));
        },
        recv(answer) -> answer => match answer {
            // A thread too few may have been found out only after others had begun to answer.
            Ok(Ok(_)) if guard.is_finished() => {}
            Ok(Ok(about)) => return Ok(about.dev()),
            Ok(Err(err)) => return Err(failed(err)),
            Err(_) => return Err(failed(io::Error::other("a thread has panicked"))),
        },
    }
    let ended = || io::Error::other("it ended before it could be read");
    Err(failed(join(guard).err().unwrap_or_else(ended)))
}

/// Keeps the process from dumping a core, until it is dropped.
struct NoDump;

impl NoDump {
    /// `None` where it would not be dumped as any other process is, by the system's own rules.
    fn begin() -> Option<Self> {
        dumpable_behavior().ok().filter(|before| *before == DumpableBehavior::Dumpable)?;
        set_dumpable_behavior(DumpableBehavior::NotDumpable).ok().map(|()| Self)
    }
}

impl Drop for NoDump {
    fn drop(&mut self) {
        // It cannot fail: it was so.
        let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
    }
}

/// Gives the calling thread a table of files of its own, with nothing in it but the standard
/// streams. Signals are for the others then, which have the pipe that tells of them.
fn let_go_of_files() {
    // It cannot fail.
    let _ = SigSet::all().thread_block();
    let (first, last) = (libc::STDERR_FILENO + 1, libc::c_uint::MAX);
    // By number: not every C library has a function for it.
    // SAFETY: the table is unshared first, so that no other thread's descriptor is closed; this
    // thread uses none above standard error that it had before.
    let failed = unsafe {
        libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_UNSHARE) == -1
    };
    if failed {
        // Linux before 5.9.
        log::debug!("the first read keeps the mount's descriptors: {}", io::Error::last_os_error());
    }
}

/// The result of the session's threads. Their handle alone is taken: dropping the rest of the
/// session would unmount, see `session.rs`.
pub(super) fn join(guard: &mut JoinHandle<io::Result<()>>) -> io::Result<()> {
    let stand_in = thread::Builder::new().spawn(|| Ok(()))?;
    let threads = std::mem::replace(guard, stand_in);
    threads.join().unwrap_or_else(|_| Err(io::Error::other("a thread has panicked")))
}

//! The first answer of a new mount, which shows that it can be read.

use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, bounded, select_biased};
use nix::errno::Errno;
use nix::sys::signal::SigSet;
use rustix::process::{
    DumpableBehavior, Resource, dumpable_behavior, getrlimit, set_dumpable_behavior,
};

use super::events::Event;
use crate::error::{Error, Kind, Result};

/// How many descriptors are closed at most where it is not known which are open.
const DESCRIPTORS_MAX: RawFd = 1 << 16;

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
    // Linux before 5.9 has no call for all of them, and some filters forbid it.
    if let Err(err) = close_all().or_else(|_| close_each()) {
        log::debug!("the first read keeps the mount's descriptors: {err}");
    }
}

fn close_all() -> nix::Result<()> {
    let (first, last) = (libc::STDERR_FILENO + 1, libc::c_uint::MAX);
    // By number: not every C library has a function for it.
    // SAFETY: the table is unshared first, so that no other thread's descriptor is closed; this
    // thread uses none above standard error that it had before.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_UNSHARE) };
    Errno::result(done).map(drop)
}

/// The same, one by one.
fn close_each() -> nix::Result<()> {
    // SAFETY: nothing but the table of files is taken out of what the threads share.
    Errno::result(unsafe { libc::unshare(libc::CLONE_FILES) })?;
    // Without /proc, or a descriptor to read it with, it may be any of them.
    let open = listed_descriptors().unwrap_or_else(|_| (0..descriptors_max()).collect());
    for fd in open.into_iter().filter(|fd| *fd > libc::STDERR_FILENO) {
        // SAFETY: as above, for no other thread has this table.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// The descriptors of the calling thread. One that it was read with is among them, and closed.
fn listed_descriptors() -> io::Result<Vec<RawFd>> {
    let names = fs::read_dir("/proc/thread-self/fd")?.map(|entry| Ok(entry?.file_name()));
    let names: Vec<_> = names.collect::<io::Result<_>>()?;
    Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
}

/// Above every descriptor that the process may have, but no more than can be closed one by one: it
/// opens the lowest ones.
fn descriptors_max() -> RawFd {
    let limit = getrlimit(Resource::Nofile).current;
    limit.and_then(|limit| limit.try_into().ok()).unwrap_or(RawFd::MAX).min(DESCRIPTORS_MAX)
}

/// The result of the session's threads. Their handle alone is taken: dropping the rest of the
/// session would unmount, see `session.rs`.
pub(super) fn join(guard: &mut JoinHandle<io::Result<()>>) -> io::Result<()> {
    let stand_in = thread::Builder::new().spawn(|| Ok(()))?;
    let threads = std::mem::replace(guard, stand_in);
    threads.join().unwrap_or_else(|_| Err(io::Error::other("a thread has panicked")))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    /// Whether the calling thread has `fd` open.
    fn is_open(fd: RawFd) -> bool {
        // SAFETY: what it is of is only asked.
        unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
    }

    #[test]
    fn descriptors_are_closed_for_one_thread_alone() {
        // Linux before 5.9 has no `close_all`.
        let ways = [(close_all as fn() -> nix::Result<()>, false), (close_each, true)];
        for (close, is_always) in ways {
            let held = File::open("/dev/null").unwrap();
            let fd = held.as_raw_fd();
            let close = move || {
                let before = is_open(fd);
                let closed = close().is_ok();
                (before, closed, is_open(fd), is_open(libc::STDERR_FILENO))
            };
            let (before, closed, after, error) = thread::spawn(close).join().unwrap();
            assert!(before && error && (closed || !is_always));
            assert_eq!(after, !closed);
            held.metadata().unwrap();
        }
    }

    #[test]
    fn descriptors_are_found_with_proc_and_without() {
        let held = File::open("/dev/null").unwrap();
        assert!(listed_descriptors().unwrap().contains(&held.as_raw_fd()));
        assert!((0..descriptors_max()).contains(&held.as_raw_fd()));
    }
}

//! One mount from its beginning to its end.
//!
//! ```text
//!   attach: /dev/fuse, mount, threads --> readable
//!   serve:  umount from outside ------------------------------> end
//!           SIGINT, SIGTERM, SIGHUP --> unmount --> not in use -> end
//!                                           \-----> in use: detached, served until the last
//!                                                   user is gone, or a second signal
//! ```
//! The `Mount` of `fuser` is never dropped: it would unmount whatever is mounted at the path by
//! then, even after our own mount is gone.

use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};
use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::adapter::Adapter;
use super::mountpoint::Mountpoint;
use super::signals;
use crate::error::{Error, Kind, Result};
use crate::report;
use crate::view::View;

const DEVICE: &str = "/dev/fuse";
/// What a user without privileges mounts and unmounts with.
const HELPER: &str = "fusermount3";
/// Threads that take requests. None of them waits for the network, so a few are enough.
const THREADS_MIN: usize = 4;
const THREADS_MAX: usize = 16;
/// Read-ahead of the kernel where we may set it, in KiB: as much as one request carries. The
/// kernel's own choice is 128; it still begins small and grows with sequential reading.
const READ_AHEAD_KIB: u32 = 1024;

/// Who may use the mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Only the user who mounted it.
    #[default]
    Owner,
    /// That user and root.
    Root,
    /// Everybody.
    Everybody,
}

/// Why the mount may have come to an end.
pub(super) enum Event {
    /// The kernel has let go of it.
    Ended,
    Signal(i32),
}

/// What is told to a mount. Made before it, so that no signal is missed meanwhile.
pub struct Events {
    pub(super) sender: Sender<Event>,
    receiver: Receiver<Event>,
}

impl Events {
    /// SIGINT, SIGTERM and SIGHUP, of the process as a whole, are events of this one mount.
    ///
    /// # Errors
    /// `Kind::Open` when they cannot be watched for.
    pub fn with_signals() -> Result<Self> {
        let events = Self::without_signals();
        let sender = events.sender.clone();
        signals::watch(move |signal| {
            let _ = sender.send(Event::Signal(signal));
        })?;
        Ok(events)
    }

    /// Only what comes from the kernel.
    #[must_use]
    pub fn without_signals() -> Self {
        let (sender, receiver) = unbounded();
        Self { sender, receiver }
    }
}

/// A file system that can be read. Dropping it takes it away, lazily where it is in use.
pub struct Mount {
    session: ManuallyDrop<BackgroundSession>,
    mountpoint: Mountpoint,
    /// `st_dev` of everything in the mount.
    device: u64,
    events: Receiver<Event>,
    ended: bool,
}

impl Mount {
    /// Mounts `view` and returns once it is readable.
    ///
    /// # Errors
    /// `Kind::Open`, with the remedy where there is one.
    pub fn attach(
        view: Arc<View>,
        mountpoint: Mountpoint,
        access: Access,
        events: Events,
    ) -> Result<Self> {
        let path = mountpoint.path();
        if !Path::new(DEVICE).exists() {
            let what = "there is no /dev/fuse: load the kernel's module (modprobe fuse), or give \
                        the container that device";
            return Err(Error::new(Kind::Open, what));
        }
        let Events { sender, receiver } = events;
        let adapter = Adapter::new(view, move || {
            let _ = sender.send(Event::Ended);
        })?;
        let cannot = |err| cannot_mount(&err).with_path(path);
        let session = fuser::Session::new(adapter, path, &config(access)).map_err(cannot)?;
        let session = ManuallyDrop::new(session.spawn().map_err(cannot)?);
        let mut mount = Self { session, mountpoint, device: 0, events: receiver, ended: false };
        mount.device = mount.readable_as()?;
        raise_read_ahead(mount.device);
        Ok(mount)
    }

    /// `st_dev` of the mount, which only an answer of its own threads can tell.
    fn readable_as(&self) -> Result<u64> {
        let path = self.mountpoint.path();
        let failed = |err| Error::io(Kind::Open, "the mount does not answer", err).with_path(path);
        let read = || fs::read_dir(path)?.next().transpose().and(fs::metadata(path));
        Ok(read().map_err(failed)?.dev())
    }

    /// The directory where it is, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.mountpoint.path()
    }

    /// Serves until the mount is gone: by `umount`, or after a signal, which is returned.
    ///
    /// # Errors
    /// `Kind::Interrupted` when a second signal ended it while it was in use; `Kind::Read` when
    /// the kernel's side failed.
    pub fn serve(mut self) -> Result<Option<i32>> {
        let mut asked = None;
        loop {
            match self.events.recv() {
                Ok(Event::Ended) | Err(_) => return self.finish().map(|()| asked),
                Ok(Event::Signal(signal)) if asked.is_some() => {
                    // What is left has no name any more; the kernel ends it with our process.
                    self.ended = true;
                    let what = "ended while the mount was still in use";
                    return Err(Error::new(Kind::Interrupted(signal), what));
                }
                Ok(Event::Signal(signal)) => {
                    asked = Some(signal);
                    if self.detach() == Detached::InUse {
                        report::notice(&format!(
                            "{} is still in use: it was detached, and ends when its last user is \
                             done; a second signal ends it at once",
                            self.path().display()
                        ));
                    }
                }
            }
        }
    }

    /// The threads are done, or about to be.
    fn finish(&mut self) -> Result<()> {
        self.ended = true;
        // The handle alone: dropping the rest of the session would unmount, see above.
        let threads = std::mem::replace(&mut self.session.guard, thread::spawn(|| Ok(())));
        let failed =
            |err| Error::io(Kind::Read, "the mount has failed", err).with_path(self.path());
        match threads.join() {
            // What a thread is told that looks for a request just while the kernel gives up.
            Ok(Err(err)) if err.raw_os_error() == Some(Errno::ECONNABORTED as i32) => Ok(()),
            Ok(result) => result.map_err(failed),
            Err(_) => Err(failed(io::Error::other("a thread has panicked"))),
        }
    }

    /// Takes the mount away from its path, lazily when it is in use.
    fn detach(&self) -> Detached {
        let path = self.path();
        if !self.mountpoint.shows(self.device) {
            // By umount --lazy, or there is another mount over it, which is not ours to end.
            return Detached::InUse;
        }
        match umount2(path, MntFlags::empty()) {
            Ok(()) => Detached::Whole,
            Err(Errno::EPERM) if unmount_with_helper(path, &[]) => Detached::Whole,
            Err(Errno::EPERM) => {
                unmount_with_helper(path, &["-z"]);
                Detached::InUse
            }
            Err(_) => {
                // What remains if even this fails is told by the kernel to whoever looks there.
                let _ = umount2(path, MntFlags::MNT_DETACH);
                Detached::InUse
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !self.ended {
            self.detach();
        }
    }
}

/// How much of a mount is gone.
#[derive(Debug, PartialEq, Eq)]
enum Detached {
    /// All of it.
    Whole,
    /// Its name at most: somebody has a file open.
    InUse,
}

fn config(access: Access) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoExec,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
        MountOption::FSName("bdsync".into()),
        // Its own variant of the option does not reach the kernel when root mounts.
        MountOption::CUSTOM("subtype=bdsync".into()),
    ];
    config.acl = match access {
        Access::Owner => SessionACL::Owner,
        Access::Root => SessionACL::RootAndOwner,
        Access::Everybody => SessionACL::All,
    };
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    config.n_threads = Some(cores.clamp(THREADS_MIN, THREADS_MAX));
    // So that the threads do not share one queue's lock.
    config.clone_fd = true;
    config
}

/// The error for what `fuser` says of a failed mount, on one line.
fn cannot_mount(err: &io::Error) -> Error {
    let text = err.to_string();
    let text = text.trim();
    let what = if err.kind() == io::ErrorKind::PermissionDenied && err.raw_os_error().is_some() {
        format!("cannot mount: no permission to open {DEVICE} (users need its mode to be 0666)")
    } else if err.kind() == io::ErrorKind::NotFound {
        format!(
            "cannot mount without privileges: {HELPER} is missing (package fuse3); or run as root"
        )
    } else if text.contains("user_allow_other") {
        "--allow-other and --allow-root need the line user_allow_other in /etc/fuse.conf".to_owned()
    } else {
        format!("cannot mount: {}", text.lines().collect::<Vec<_>>().join("; "))
    };
    Error::new(Kind::Open, what)
}

/// Root may; for everybody else the kernel's default stays.
fn raise_read_ahead(device: u64) {
    let (major, minor) = (libc::major(device), libc::minor(device));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(err) = fs::write(&path, READ_AHEAD_KIB.to_string()) {
        log::debug!("the kernel's read-ahead stays as it is: {path}: {err}");
    }
}

fn unmount_with_helper(path: &Path, options: &[&str]) -> bool {
    let mut command = Command::new(HELPER);
    command.arg("-u").args(options).arg("--").arg(path);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_to_mount_name_the_remedy_on_one_line() {
        let denied = cannot_mount(&io::Error::from_raw_os_error(libc::EACCES)).full_message();
        assert!(denied.contains("/dev/fuse") && denied.contains("0666"), "{denied}");
        let missing = cannot_mount(&io::Error::from_raw_os_error(libc::ENOENT)).full_message();
        assert!(missing.contains("fusermount3") && missing.contains("root"), "{missing}");
        let text = "fusermount3: option allow_other only allowed if 'user_allow_other' is set\n";
        assert!(cannot_mount(&io::Error::other(text)).to_string().contains("/etc/fuse.conf"));
        let other = cannot_mount(&io::Error::other("fusermount3: one\nfusermount3: two\n"));
        assert_eq!(other.to_string(), "cannot mount: fusermount3: one; fusermount3: two");
    }
}

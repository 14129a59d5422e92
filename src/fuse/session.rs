//! One mount from its beginning to its end.
//!
//! ```text
//!   attach: /dev/fuse, mount, threads --> readable
//!   serve:  umount from outside ------------------------------> end
//!           SIGINT, SIGTERM,
//!           SIGHUP, SIGQUIT,
//!           a lost link (if asked) -> unmount --> not in use -> end
//!                                           \-----> in use: detached, served until the last
//!                                                   user is gone, or a second signal
//! ```
//! Whatever fails on the way takes the mount away again: a mount without its process is an
//! error for everybody who comes past it.
//!
//! The `Mount` of `fuser` is never dropped: it would unmount whatever is mounted at the path by
//! then, even after our own mount is gone.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use nix::errno::Errno;
use nix::mount::MntFlags;
use nix::unistd::geteuid;

use super::adapter::Adapter;
use super::connection::Connection;
use super::events::{Event, Events};
use super::first_read::{first_answer, join};
use super::mountpoint::{Mountpoint, is_dead};
use super::names::{Detached, Names};
use super::unmount::{HELPER, umount, unmount_with_helper};
use crate::background::core_count;
use crate::error::{Error, Kind, Result};
use crate::report;
use crate::units::{Readers, major_minor};
use crate::view::View;

const DEVICE: &str = "/dev/fuse";
/// Its numbers (Linux, `Documentation/admin-guide/devices.txt`).
const DEVICE_MAJOR: u32 = 10;
const DEVICE_MINOR: u32 = 229;
/// What is told when it says nothing.
const HELPER_FAILED: &str = "fusermount3 failed without a word";
/// Threads that take requests. None of them waits for the network, and all but one may wait for a
/// local device, so a few are enough.
const THREADS_MIN: usize = 5;
pub(super) const THREADS_MAX: usize = 16;
/// Read-ahead of the kernel where we may set it, in KiB: as much as one request carries. The
/// kernel's own choice is 128; it still begins small and grows with sequential reading.
const READ_AHEAD_KIB: u32 = 1024;

/// How long the kernel may take to end a mount that was taken away.
const END_WAIT: Duration = Duration::from_secs(1);

/// A file system that can be read. Dropping it takes it away, lazily where it is in use.
pub struct Mount {
    session: ManuallyDrop<BackgroundSession>,
    names: Arc<Names>,
    events: Receiver<Event>,
    ended: bool,
}

impl Mount {
    /// Mounts `view` and returns once it is readable; the table of mounts gives `name` as its source.
    ///
    /// # Errors
    /// `Kind::Open`, with the remedy where there is one.
    pub fn attach(
        view: Arc<View>,
        mut mountpoint: Mountpoint,
        readers: Readers,
        name: &OsStr,
        events: Events,
    ) -> Result<Self> {
        if !fs::metadata(DEVICE).is_ok_and(|found| is_fuse(&found)) {
            let what = "there is no /dev/fuse: load the kernel's module (modprobe fuse), or give \
                        the container that device";
            return Err(Error::new(Kind::Open, what));
        }
        let Events { sender, receiver: events, attached } = events;
        let adapter = Adapter::new(view, threads(), move || {
            let _ = sender.send(Event::Ended);
        })?;
        mountpoint.find_again()?;
        let path = mountpoint.path();
        let cannot = |err| cannot_mount(&err).with_path(path);
        let session = fuser::Session::new(adapter, path, &config(readers, name)).map_err(cannot)?;
        let connection = Connection::of(&session).map_err(cannot)?;
        let mut session = ManuallyDrop::new(session.spawn().map_err(cannot)?);
        match first_answer(&mut session.guard, path, &events) {
            Ok(device) => {
                let names = Arc::new(Names::new(mountpoint, device, connection));
                // Before a word that somebody may have to take. Nobody else sets it.
                let _ = attached.set(Arc::clone(&names));
                raise_read_ahead(device);
                Ok(Self { session, names, events, ended: false })
            }
            Err(err) => {
                abandon(session, connection, path);
                Err(err)
            }
        }
    }

    /// The directory where it is, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.names.path()
    }

    /// Serves until the mount is gone: by `umount`, after a signal, which is returned, or because
    /// the link is lost (see [`Events::on_link_loss`]).
    ///
    /// # Errors
    /// `Kind::Interrupted` when a second signal ended it while it was in use; `Kind::Read` when
    /// the kernel's side failed.
    pub fn serve(mut self) -> Result<Option<i32>> {
        let asked = match self.events.recv() {
            Ok(Event::Signal(signal)) => Some(signal),
            Ok(Event::LinkLost) => None,
            Ok(Event::Ended) | Err(_) => return self.finish().map(|()| None),
        };
        let mut left = self.names.detach();
        if asked.is_none() {
            // Only then: it may be that nobody takes it.
            report::notice("the link to the remote side is lost: the mount ends");
        }
        let mut event = None;
        if left == Detached::Whole {
            event = self.next_event(Some(END_WAIT));
            // Another mount namespace has it too, if nothing happens.
            left = Detached::InUse;
        }
        let event = event.or_else(|| {
            report::notice(&left.after_it_was_asked_for(self.path()));
            self.next_event(None)
        });
        let ended = match event {
            Some(Event::Signal(signal)) => self.end_at_once(signal),
            _ => self.finish(),
        };
        ended.map(|()| asked)
    }

    /// What happens next to a mount that is to end; `None` when that is nothing for as long as
    /// `limit`.
    fn next_event(&self, limit: Option<Duration>) -> Option<Event> {
        loop {
            let event = match limit {
                Some(limit) => self.events.recv_timeout(limit),
                None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Event::LinkLost) => {}
                Ok(event) => return Some(event),
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => return Some(Event::Ended),
            }
        }
    }

    /// A second signal: nobody is waited for any more.
    fn end_at_once(&mut self, signal: i32) -> Result<()> {
        self.ended = true;
        let what = match self.names.detach() {
            // What covered it is gone by now.
            Detached::Whole => return Ok(()),
            // What is left has no name any more; the kernel ends it with our process.
            Detached::InUse => {
                "ended while the mount was still in use: what reads in it gets errors".to_owned()
            }
            Detached::Covered(at) => format!(
                "ended while another mount covered it: what is left at {} has to be unmounted too",
                at.display()
            ),
            Detached::Stuck(at) => {
                format!("ended, but {} is left and has to be unmounted", at.display())
            }
        };
        Err(Error::new(Kind::Interrupted(signal), what))
    }

    /// The threads are done, or about to be: the mount is gone, or they have failed. The kernel then
    /// keeps it until our process ends, and nobody answers who comes past it.
    fn finish(&mut self) -> Result<()> {
        self.ended = true;
        let result = join(&mut self.session.guard);
        self.names.detach();
        match result {
            // What a thread is told that looks for a request just while the kernel gives up.
            Err(err) if err.raw_os_error() == Some(Errno::ECONNABORTED as i32) => Ok(()),
            result => result.map_err(|err| {
                Error::io(Kind::Read, "the mount has failed", err).with_path(self.path())
            }),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !self.ended {
            self.names.detach();
        }
    }
}

/// Takes away what was mounted at `path` a moment ago and is of no use, and the connection
/// behind it, so that whoever waits for its answer is let go. There may be no descriptor left
/// to look into the table of mounts with.
fn abandon(session: ManuallyDrop<BackgroundSession>, connection: Connection, path: &Path) {
    // It may be gone by now, and what it was mounted over a mount itself.
    if !connection.is_alive() && !is_dead(path) {
        return;
    }
    // The connection is open as long as this is.
    drop(connection);
    let flags = MntFlags::MNT_FORCE | MntFlags::MNT_DETACH;
    if umount(path, flags) == Err(Errno::EPERM) {
        // The helper has no force, but with the device closed nobody can answer any more.
        drop(ManuallyDrop::into_inner(session));
        if is_dead(path) {
            unmount_with_helper(path, &["-z"]);
        }
    }
}

fn config(readers: Readers, name: &OsStr) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoExec,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
        MountOption::FSName(source_name(name)),
        // Its own variant of the option does not reach the kernel when root mounts.
        MountOption::CUSTOM("subtype=bdsync".into()),
    ];
    config.acl = match readers {
        Readers::Owner => SessionACL::Owner,
        Readers::OwnerAndRoot => SessionACL::RootAndOwner,
        Readers::Everybody => SessionACL::All,
    };
    config.n_threads = Some(threads());
    // So that the threads do not share one queue's lock.
    config.clone_fd = true;
    config
}

/// `name` as the source of a mount. Where the helper mounts it is one of its options, which commas
/// divide.
fn source_name(name: &OsStr) -> String {
    let name = name.to_string_lossy();
    match geteuid().is_root() {
        true => name.into_owned(),
        false => name.replace('\\', "\\\\").replace(',', "\\,"),
    }
}

/// Whether it is the device of that name: something else may have been bound over it.
fn is_fuse(found: &fs::Metadata) -> bool {
    found.file_type().is_char_device() && found.rdev() == libc::makedev(DEVICE_MAJOR, DEVICE_MINOR)
}

pub(super) fn threads() -> usize {
    core_count().clamp(THREADS_MIN, THREADS_MAX)
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
        let told = text.lines().collect::<Vec<_>>().join("; ");
        format!("cannot mount: {}", if told.is_empty() { HELPER_FAILED } else { &told })
    };
    Error::new(Kind::Open, what)
}

/// Root may; for everybody else the kernel's default stays.
fn raise_read_ahead(device: u64) {
    let path = format!("/sys/class/bdi/{}/read_ahead_kb", major_minor(device));
    if let Err(err) = fs::write(&path, READ_AHEAD_KIB.to_string()) {
        log::debug!("the kernel's read-ahead stays as it is: {path}: {err}");
    }
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

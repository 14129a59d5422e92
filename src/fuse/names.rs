//! The names of a mount, wherever it is by now, and how they are taken away: by the thread of the
//! mount, or by who ends the process while that one waits for somebody.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;

use super::connection::Connection;
use super::mountpoint::{Mountpoint, Place, is_surely_dead};
use super::unmount::{HELPER, detach_lazily, unmount};
use crate::background::spawn;
use crate::error::Kind;

/// How long the end of the process waits for them to be gone.
const DETACH_WAIT: Duration = Duration::from_secs(2);

/// What finds the names of a mount.
pub(super) struct Names {
    mountpoint: Mountpoint,
    /// `st_dev` of everything in the mount.
    device: u64,
    connection: Connection,
}

impl Names {
    pub(super) fn new(mountpoint: Mountpoint, device: u64, connection: Connection) -> Self {
        Self { mountpoint, device, connection }
    }

    /// The directory that was mounted over.
    pub(super) fn path(&self) -> &Path {
        self.mountpoint.path()
    }

    /// As [`detach`](Self::detach), before the process ends: on a thread of its own, since it may come
    /// to wait for what the mount's thread waits for, such as a folder above on a network.
    pub(super) fn detach_at_last(self: &Arc<Self>) {
        let names = Arc::clone(self);
        let (working, done) = bounded::<()>(0);
        let detach = move || {
            names.detach();
            drop(working);
        };
        if spawn("detach", Kind::Open, "cannot start a thread", detach).is_err() {
            self.detach();
        }
        // Nothing is said: it is the end of the thread, or the limit.
        let _ = done.recv_timeout(DETACH_WAIT);
    }

    /// What `umount --force` and an abort may leave behind, which end the connection. The kernel may
    /// have given the number of our device to another mount: that one answers, or takes its time.
    fn detach_dead(&self) {
        while let Place::Seen(at) = self.mountpoint.find(self.device)
            && is_surely_dead(&at)
            && detach_lazily(&at)
        {}
    }

    /// Takes the mount away from wherever it is by now, bind mounts too, lazily where it is in use.
    pub(super) fn detach(&self) -> Detached {
        let (mut is_any, mut in_use) = (false, false);
        loop {
            let found = self.mountpoint.find(self.device);
            // What was found is ours only if this comes behind it.
            if !self.connection.is_alive() {
                self.detach_dead();
                return Detached::Whole;
            }
            match found {
                Place::Covered(at) => return Detached::Covered(at),
                Place::Seen(at) if unmount(&at) => {}
                Place::Seen(at) if detach_lazily(&at) => in_use = true,
                Place::Nowhere if is_any && !in_use => return Detached::Whole,
                Place::Seen(at) => return Detached::Stuck(at),
                // Or nothing from the beginning, after umount --lazy.
                Place::Nowhere => return Detached::InUse,
            }
            is_any = true;
        }
    }
}

/// How much of a mount is gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Detached {
    /// All of it.
    Whole,
    /// Its name at most: somebody has a file open.
    InUse,
    /// Nothing, whatever was tried. It is at this path.
    Stuck(PathBuf),
    /// Nothing: another mount hides it, which is not ours to end. It is at this path.
    Covered(PathBuf),
}

impl Detached {
    /// What a signal or a lost link has made of the mount at `path`, in words.
    pub(super) fn after_it_was_asked_for(&self, path: &Path) -> String {
        let path = path.display();
        match self {
            Self::Whole => format!("{path} is unmounted"),
            Self::InUse => format!(
                "{path} is still in use: it was detached, and ends when its last user is done; a \
                 second signal ends it at once"
            ),
            Self::Covered(at) => format!(
                "another mount covers {}: unmount that one and then this one; a second signal ends \
                 the process at once",
                at.display()
            ),
            Self::Stuck(at) => format!(
                "{} cannot be unmounted from here: with umount root can, its user with {HELPER} -u; \
                 a second signal ends the process at once",
                at.display()
            ),
        }
    }
}

//! What tells our own mount from another one that was given its number.
//!
//! The table of mounts knows a file system by the number of its device, which the kernel gives to the
//! next one as soon as ours is gone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The kernel's side of a mount.
pub(super) struct Connection(OwnedFd);

impl Connection {
    /// The one behind `session`, a descriptor of `/dev/fuse`.
    ///
    /// # Errors
    /// The system's, when there is no descriptor left.
    pub(super) fn of(session: &impl AsFd) -> io::Result<Self> {
        session.as_fd().try_clone_to_owned().map(Self)
    }

    /// Whether the kernel still had the file system a moment ago, with a name or without. What the
    /// table of mounts had by then under its number is it: the connection ends before the number is
    /// given to another one (Linux, `fs/fuse/inode.c`: `fuse_kill_sb_anon`).
    pub(super) fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        // Where it cannot be asked, what else is known has to do.
        let _ = poll(&mut fds, PollTimeout::ZERO);
        !fds[0].any().unwrap_or(false)
    }
}

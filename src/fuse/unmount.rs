//! How a mount is taken away, by root or by a user's helper.

use std::env;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::mountpoint::{Mountpoint, is_dead};

/// What a user without privileges mounts and unmounts with.
pub(super) const HELPER: &str = "fusermount3";

/// Unmounts what is at `at` and not in use.
pub(super) fn unmount(at: &Path) -> bool {
    match umount2(at, MntFlags::empty()) {
        Ok(()) => true,
        Err(Errno::EPERM) => unmount_with_helper(at, &[]),
        Err(_) => false,
    }
}

/// Where it is looked for, as `fuser` does to mount: also where no path leads to it.
const HELPERS: [&str; 6] = [
    HELPER,
    "fusermount",
    "/sbin/fusermount3",
    "/sbin/fusermount",
    "/bin/fusermount3",
    "/bin/fusermount",
];
/// Names another one, for `fuser` as well.
const HELPER_VARIABLE: &str = "FUSERMOUNT_PATH";

pub(super) fn unmount_with_helper(path: &Path, options: &[&str]) -> bool {
    let run = |helper: &OsStr| {
        let mut command = Command::new(helper);
        command.arg("-u").args(options).arg("--").arg(path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().ok()
    };
    let status = match env::var_os(HELPER_VARIABLE) {
        Some(helper) => run(&helper),
        None => HELPERS.iter().find_map(|helper| run(helper.as_ref())),
    };
    status.is_some_and(|status| status.success())
}

/// Takes away a mount whose process is gone.
pub fn take_away_dead(mountpoint: &Mountpoint) {
    if is_dead(mountpoint.path()) {
        detach_lazily(mountpoint.path());
    }
}

/// Takes away the name of a mount. What remains if even this fails is told by the kernel to
/// whoever looks there.
pub(super) fn detach_lazily(at: &Path) -> bool {
    match umount2(at, MntFlags::MNT_DETACH) {
        Err(Errno::EPERM) => unmount_with_helper(at, &["-z"]),
        done => done.is_ok(),
    }
}

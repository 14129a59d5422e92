//! How a mount is taken away, by root or by a user's helper.

use std::env;
use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::mountpoint::{Mountpoint, is_dead};

/// What a user without privileges mounts and unmounts with.
pub(super) const HELPER: &str = "fusermount3";

/// `umount2` of what is at `at`, a path without symbolic links: one that somebody has put there
/// meanwhile, who owns a folder above, would lead to the mount of another.
///
/// # Errors
/// The system's; `ELOOP` for such a link.
pub(super) fn umount(at: &Path, flags: MntFlags) -> nix::Result<()> {
    let flags = flags | MntFlags::UMOUNT_NOFOLLOW;
    let (Some(folder), Some(name)) = (at.parent(), at.file_name()) else {
        return umount2(at, flags);
    };
    let how = (OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    match openat2(CWD, folder, how.0, how.1, ResolveFlags::NO_SYMLINKS) {
        Ok(folder) => {
            let there = format!("/proc/self/fd/{}", folder.as_raw_fd());
            match umount2(&Path::new(&there).join(name), flags) {
                // There is no /proc.
                Err(Errno::ENOENT) if !Path::new("/proc/self/fd").exists() => umount2(at, flags),
                done => done,
            }
        }
        Err(rustix::io::Errno::LOOP) => Err(Errno::ELOOP),
        // Linux before 5.6, or no descriptor is left.
        Err(_) => umount2(at, flags),
    }
}

/// Unmounts what is at `at` and not in use.
pub(super) fn unmount(at: &Path) -> bool {
    match umount(at, MntFlags::empty()) {
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
    match umount(at, MntFlags::MNT_DETACH) {
        Err(Errno::EPERM) => unmount_with_helper(at, &["-z"]),
        done => done.is_ok(),
    }
}

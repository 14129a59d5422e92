//! What a loop device lies over, as its driver tells.
//!
//! sysfs has a path, which need not lead there: the name may be gone, or be another file's in this
//! mount namespace.

use std::fs::OpenOptions;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use linux_raw_sys::loop_device::{LOOP_GET_STATUS64, loop_info64};
use nix::libc;

use crate::units::FileId;

nix::ioctl_read_bad!(get_status, LOOP_GET_STATUS64, loop_info64);

/// What the loop device at `path` lies over, if it is the one with this `st_rdev` and may be asked.
pub(super) fn backing_of(path: &Path, number: u64) -> Option<FileId> {
    let device = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    let found = device.metadata().ok()?;
    if !found.file_type().is_block_device() || found.rdev() != number {
        return None;
    }
    let mut info = MaybeUninit::<loop_info64>::zeroed();
    // SAFETY: the descriptor is open, and the ioctl writes one such structure, or nothing.
    unsafe { get_status(device.as_raw_fd(), info.as_mut_ptr()) }.ok()?;
    // SAFETY: of numbers alone, which zeros are, too.
    let info = unsafe { info.assume_init() };
    Some(match info.lo_rdevice {
        0 => FileId { device: info.lo_device, inode: info.lo_inode },
        number => FileId::of_device(number),
    })
}

//! What has bytes, by the numbers that the kernel knows it by.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use nix::sys::stat::{major, minor};

/// Major and minor number of a block device.
pub(super) type Number = (u64, u64);

/// What has bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    /// A regular file, by the device of its file system and its inode.
    File {
        /// That device.
        device: Number,
        /// Its number there.
        inode: u64,
    },
    /// A block device.
    Device(Number),
}

impl Carrier {
    /// The file or device with these metadata.
    pub(super) fn of(found: &Metadata) -> Self {
        match found.file_type().is_block_device() {
            true => Self::Device(number_of(found.rdev())),
            false => Self::File { device: number_of(found.dev()), inode: found.ino() },
        }
    }
}

/// Of a `st_dev` or `st_rdev`.
pub(super) fn number_of(device: u64) -> Number {
    (major(device), minor(device))
}

/// `MAJOR:MINOR`.
pub(super) fn parse_number(text: &str) -> Option<Number> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

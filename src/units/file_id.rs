//! Which file or disk it is, for the kernel of the host that it is on.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::str::FromStr;

use nix::sys::stat::{major, makedev, minor};

/// `MAJOR:MINOR` of a `st_dev` or `st_rdev`, as the kernel writes it in /proc and /sys.
#[must_use]
pub fn major_minor(number: u64) -> String {
    format!("{}:{}", major(number), minor(number))
}

/// The `st_dev` or `st_rdev` that the kernel writes so.
#[must_use]
pub fn device_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// Tells a file, folder or block device from every other one on its host, for as long as somebody
/// has it open: no longer, as the kernel gives numbers anew. By whatever name it is found, and
/// through whatever node of a block device, it is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    /// Number of the block device; of a file, that of the file system which it is in.
    pub device: u64,
    /// Number of the file; 0 for a block device.
    pub inode: u64,
}

impl FileId {
    /// Stands for none, or for one that cannot be told: no device has this number.
    pub const UNKNOWN: Self = Self { device: 0, inode: 0 };

    /// That of what `metadata` is of.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        match metadata.file_type().is_block_device() {
            true => Self::of_device(metadata.rdev()),
            false => Self { device: metadata.dev(), inode: metadata.ino() },
        }
    }

    /// That of the block device with this `st_rdev`.
    #[must_use]
    pub fn of_device(number: u64) -> Self {
        Self { device: number, inode: 0 }
    }

    /// The `st_rdev` of the block device that it is.
    #[must_use]
    pub fn device_number(self) -> Option<u64> {
        (self.inode == 0 && self != Self::UNKNOWN).then_some(self.device)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.device, self.inode)
    }
}

/// As it is displayed.
impl FromStr for FileId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once(':');
        let numbers = numbers.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match numbers {
            Some((device, inode)) => Ok(Self { device, inode }),
            None => Err("expected two numbers with a colon between them".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_is_the_same_by_all_its_names_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| folder.path().join(name));
        fs::write(&a, "x").unwrap();
        fs::hard_link(&a, &b).unwrap();
        fs::write(&c, "x").unwrap();
        let id = |path| FileId::of(&fs::metadata(path).unwrap());
        assert_eq!(id(&a), id(&b));
        assert_ne!(id(&a), id(&c));
        fs::rename(&c, &a).unwrap();
        assert_ne!(id(&a), id(&b));
    }

    #[test]
    fn numbers_are_written_and_read_as_the_kernel_does() {
        for (number, text) in [(makedev(259, 1), "259:1"), (makedev(0, 50), "0:50")] {
            assert_eq!(major_minor(number), text);
            assert_eq!(device_number(text), Some(number));
        }
        for wrong in ["", "8", "8:", "8:x", ":1"] {
            assert_eq!(device_number(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_a_block_device_has_a_number() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(FileId::of(&fs::metadata(folder.path()).unwrap()).device_number(), None);
        assert_eq!(FileId::of_device(7).device_number(), Some(7));
        assert_eq!(FileId::UNKNOWN.device_number(), None);
    }

    #[test]
    fn what_is_displayed_is_understood() {
        let id = FileId { device: u64::MAX, inode: 7 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "7", "7:", ":7", "-1:2", "1:2:3", "18446744073709551616:0"] {
            assert!(wrong.parse::<FileId>().is_err(), "{wrong}");
        }
    }
}

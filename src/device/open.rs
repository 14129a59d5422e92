//! How a device is opened.
//!
//! A path is looked at before it is opened and again after, so that nothing but a disk-like
//! thing is ever opened for long: opening a fifo would wait for its other end, and opening
//! a tape or a watchdog has effects of its own.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::busy::{Kernel, users_by_lock};
use super::file::{FileDevice, FileKind};
use crate::error::{Error, Kind, Result};

/// The number of `/dev/null`, the same on every Linux. To open another character device could
/// have effects of its own: a tape rewinds, a watchdog starts.
const NULL_DEVICE: u64 = libc::makedev(1, 3);

/// How a target is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetOptions {
    /// Opens a device even when it is in use (mounted, swap, LVM, a running machine ...).
    pub force: bool,
}

/// Opens `path` for reading.
///
/// # Errors
/// `Kind::Open` when it does not exist, cannot be opened, or is neither a regular file nor a
/// block device nor `/dev/null`.
pub fn open_source(path: impl AsRef<Path>) -> Result<FileDevice> {
    let mut device = open(path.as_ref(), OpenOptions::new().read(true), Guard::None)?;
    device.watch_for_changes();
    Ok(device)
}

/// Opens `path` for reading and writing. It is never created. A block device is opened
/// exclusively, which the kernel refuses while anything in it uses the device, one of its
/// partitions, or the disk that it is a partition of. Devices and images are locked, and refused
/// while another program has locked them; an image while a loop device over it is in use, too.
/// Forced, it does without what it cannot have of all that, and warns.
///
/// # Errors
/// As [`open_source`]; `Kind::Open` as well for a device that is in use, or read-only.
pub fn open_target(path: impl AsRef<Path>, options: TargetOptions) -> Result<FileDevice> {
    let path = path.as_ref();
    let guard = if options.force { Guard::Wanted } else { Guard::Needed };
    let device = open(path, OpenOptions::new().read(true).write(true), guard)?;
    // Not every kernel refuses to open it for writing.
    if device.kind() == FileKind::Block
        && let Ok(about) = device.as_file().metadata()
        && Kernel::default().is_read_only(about.rdev())
    {
        let what = "cannot open the device: it is read-only (see blockdev --setrw)";
        return Err(Error::new(Kind::Open, what).with_path(path));
    }
    Ok(device)
}

/// What keeps others from writing meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    /// Nothing: it is only read.
    None,
    /// As much as there can be.
    Wanted,
    /// All of it, or it is not opened.
    Needed,
}

impl Guard {
    /// Fails when a device that nobody else may use has `users`, saying which, or nobody can say
    /// whether it has; where that is only wanted, warns. For a target.
    fn check(self, path: &Path, users: io::Result<Vec<String>>) -> Result<()> {
        let (what, source) = match users {
            Ok(users) if users.is_empty() => return Ok(()),
            Ok(users) => (format!("the device is in use: {}", users.join(", ")), None),
            Err(err) => ("whether the device is in use cannot be told".to_owned(), Some(err)),
        };
        if self == Guard::Needed {
            let err = Error::new(Kind::Open, format!("{what} (see --force)")).with_path(path);
            return Err(match source {
                Some(source) => err.with_source(source),
                None => err,
            });
        }
        let cause = source.map(|source| format!(" ({source})")).unwrap_or_default();
        log::warn!("{what}{cause}; it is written to because of --force: {}", path.display());
        Ok(())
    }
}

fn open(path: &Path, mode: &mut OpenOptions, guard: Guard) -> Result<FileDevice> {
    let failed = |err: io::Error| {
        let what = match err.raw_os_error() {
            Some(libc::EBUSY) => "cannot open the device: it is in use (see --force)",
            _ => "cannot open the device",
        };
        Error::io(Kind::Open, what, err).with_path(path)
    };
    let found = fs::metadata(path).map_err(failed)?;
    let kind = disk_kind(path, &found)?;
    if kind == FileKind::Block && guard != Guard::None {
        guard.check(path, Kernel::default().users(found.rdev()))?;
    }
    // O_NONBLOCK guards against a fifo that took the path's place just now. Drivers of
    // removable block devices read it as "without a medium", so those do without.
    let flags = match kind {
        FileKind::Block if guard != Guard::None => OFlag::O_EXCL,
        FileKind::Block => OFlag::empty(),
        FileKind::Regular | FileKind::Empty => OFlag::O_NONBLOCK,
    };
    let flags = flags | OFlag::O_NOCTTY;
    let mut open = |flags: OFlag| mode.custom_flags(flags.bits()).open(path);
    let file = match open(flags) {
        Err(err) if guard == Guard::Wanted && err.raw_os_error() == Some(libc::EBUSY) => {
            open(flags - OFlag::O_EXCL)
        }
        opened => opened,
    };
    let file = file.map_err(failed)?;
    let opened = file.metadata().map_err(failed)?;
    let kind = match disk_kind(path, &opened)? {
        opened_kind if opened_kind == kind && opened.rdev() == found.rdev() => kind,
        // The checks before were of another device.
        _ => {
            let what = "cannot open the device: another one took its path just now";
            return Err(Error::new(Kind::Open, what).with_path(path));
        }
    };
    match (kind, guard) {
        (_, Guard::None) | (FileKind::Empty, _) => {}
        (FileKind::Regular, _) => {
            guard.check(path, Kernel::default().users_of_image(path, &file, &opened))?;
        }
        (FileKind::Block, _) => {
            let came_meanwhile = users_by_lock(&file).filter(|_| guard == Guard::Needed);
            guard.check(path, Ok(came_meanwhile.into_iter().collect()))?;
            // Who had looked for us before we claimed it was seen by then, or is now.
            if guard == Guard::Needed {
                guard.check(path, Kernel::default().users_below(found.rdev()))?;
            }
        }
    }
    if flags.contains(OFlag::O_NONBLOCK) {
        fcntl(&file, FcntlArg::F_SETFL(OFlag::empty())).map_err(|err| failed(err.into()))?;
    }
    FileDevice::of_file(file, path, kind)
}

/// What a file is as a disk.
fn disk_kind(path: &Path, found: &fs::Metadata) -> Result<FileKind> {
    let file_type = found.file_type();
    let refused = if file_type.is_file() {
        return Ok(FileKind::Regular);
    } else if file_type.is_block_device() {
        return Ok(FileKind::Block);
    } else if file_type.is_char_device() && found.rdev() == NULL_DEVICE {
        return Ok(FileKind::Empty);
    } else if file_type.is_char_device() {
        "a character device"
    } else if file_type.is_dir() {
        "a directory"
    } else if file_type.is_fifo() {
        "a named pipe"
    } else if file_type.is_socket() {
        "a socket"
    } else {
        "no file that can be read at any offset"
    };
    let what = format!("cannot open the device: it is {refused}, not a block device or a file");
    Err(Error::new(Kind::Open, what).with_path(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_fifos_and_sockets_are_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let cases = [
            (dir.path(), "it is a directory"),
            (&fifo, "it is a named pipe"),
            (&socket, "it is a socket"),
            // Its end is found, at 0: a disk of nothing.
            (Path::new("/dev/zero"), "it is a character device"),
        ];
        for (path, words) in cases {
            for result in [open_source(path), open_target(path, TargetOptions::default())] {
                let err = result.unwrap_err();
                assert_eq!(err.kind(), Kind::Open);
                assert!(err.full_message().contains(words), "{}", err.full_message());
            }
        }
    }

    #[test]
    fn target_that_does_not_exist_is_not_created() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new");
        let err = open_target(&path, TargetOptions::default()).unwrap_err();
        assert_eq!(err.kind(), Kind::Open);
        assert!(!path.exists());
    }
}

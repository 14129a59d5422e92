//! Where a file of the user's choice goes: what is at its path, and how it is written there.
//!
//! ```text
//!   a path --links--> a regular file, or nothing yet    a new file takes its place, whole
//!                     /proc/self/fd/1 and 2             our own stdout and stderr
//!                     what else /dev and /proc have,    opened, and written to behind what
//!                     a fifo, a terminal ..             is there
//!                     a block device                    refused: it is somebody's disk
//! ```
//! A link is followed, never replaced: `/dev/stderr` is one. The kernel does not follow those that
//! somebody else put into a folder for all (proc_sys_fs(5), `protected_symlinks` and its like), and
//! no more do we.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat, geteuid};

use crate::naming::{folder_of, name_in_the_making};
use crate::report;

/// Links that are followed, as many as the kernel would.
const LINKS_MAX: usize = 40;
/// Where devices are, and links to them.
const DEVICES: &str = "/dev";
/// The folder in there that is one for files.
const SHARED_MEMORY: &str = "/dev/shm";
/// Where what looks like a link need not be one: only the kernel can follow it.
const KERNEL: &str = "/proc";
/// Our open files.
const OWN_FILES: &str = "/proc/self/fd";

/// What is at a path, once its links are followed.
#[derive(Debug, PartialEq, Eq)]
pub enum Destination {
    /// Our own stdout.
    Stdout,
    /// Our own stderr.
    Stderr,
    /// Something that is written to as it is.
    Stream(PathBuf),
    /// A regular file that can be replaced, or a name without a file.
    File(PathBuf),
}

impl Destination {
    /// Looks at `path`; opens nothing.
    ///
    /// # Errors
    /// When a folder on the way cannot be looked into, links never end, or one or the file is in a
    /// folder for all, such as `/tmp`, where somebody else has put it.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut at = path.to_owned();
        for _ in 0..LINKS_MAX {
            let folder = folder_of(&at).canonicalize()?;
            if folder.starts_with(KERNEL) {
                return Ok(Self::of_kernel(&folder, at));
            }
            // Any of the folders above may be a link as well.
            refuse_planted(&at)?;
            let mut above = at.ancestors().skip(1).filter(|part| part.is_symlink());
            above.try_for_each(refuse_planted)?;
            match fs::read_link(&at) {
                Ok(to) => at = folder.join(to),
                Err(_) => return Ok(Self::of_plain(&folder, at)),
            }
        }
        Err(io::Error::from_raw_os_error(libc::ELOOP))
    }

    fn of_kernel(folder: &Path, at: PathBuf) -> Self {
        let is_own = fs::canonicalize(OWN_FILES).is_ok_and(|own| own == folder);
        match at.file_name().and_then(OsStr::to_str) {
            Some("1") if is_own => Self::Stdout,
            Some("2") if is_own => Self::Stderr,
            _ => Self::Stream(at),
        }
    }

    /// Of a path that is no link.
    fn of_plain(folder: &Path, at: PathBuf) -> Self {
        let replaceable = match fs::metadata(&at) {
            Ok(found) => found.is_file(),
            Err(err) => err.kind() == io::ErrorKind::NotFound,
        };
        if replaceable && !is_among_devices(folder) { Self::File(at) } else { Self::Stream(at) }
    }

    /// Refuses what no file can be written to: a folder, as which `path` may also be spelled, what
    /// cannot be looked at, and a new name in a folder where none can be made.
    ///
    /// # Errors
    /// That.
    pub fn refuse_unwritable(&self, path: &Path) -> io::Result<()> {
        let is_folder = match self.metadata() {
            Ok(found) => found.is_dir(),
            Err(err) if err.kind() == io::ErrorKind::NotFound => false,
            Err(err) => return Err(err),
        };
        if is_folder || path.as_os_str().as_bytes().ends_with(b"/") {
            return Err(io::Error::from_raw_os_error(libc::EISDIR));
        }
        if let Self::File(at) = self {
            faccessat(AT_FDCWD, folder_of(at), AccessFlags::W_OK, AtFlags::AT_EACCESS)?;
            // As of chattr(1), or mounted to be read only: it cannot be replaced either.
            match OpenOptions::new().append(true).open(at) {
                Err(err) if matches!(err.raw_os_error(), Some(libc::EPERM | libc::EROFS)) => {
                    return Err(err);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether writing there may wait for who reads it.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        !matches!(self, Self::File(_))
    }

    /// Whether it is a stream that this process was started with.
    #[must_use]
    pub fn is_own_stream(&self) -> bool {
        matches!(self, Self::Stdout | Self::Stderr)
    }

    /// What is there.
    ///
    /// # Errors
    /// When there is nothing, or it cannot be looked at.
    pub fn metadata(&self) -> io::Result<Metadata> {
        match self {
            Self::Stdout => report::stdout_file()?.metadata(),
            Self::Stderr => report::stderr_file()?.metadata(),
            Self::Stream(at) | Self::File(at) => fs::metadata(at),
        }
    }

    /// Has `fill` write there, and returns what can be written to further. Whoever reads a
    /// regular file meanwhile finds the old one or the new one, unless it is a mount of its own.
    ///
    /// # Errors
    /// Those of the system, and for a block device.
    pub fn write(&self, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<File> {
        let mut file = match self {
            Self::Stdout => report::stdout_file()?,
            Self::Stderr => report::stderr_file()?,
            Self::Stream(at) => OpenOptions::new().append(true).open(at)?,
            Self::File(at) => return replace(at, fill),
        };
        if file.metadata()?.file_type().is_block_device() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a block device"));
        }
        fill(&mut file)?;
        file.flush()?;
        Ok(file)
    }
}

/// Fails when `at` was put by somebody else into a folder into which everybody may put something.
fn refuse_planted(at: &Path) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(at) else { return Ok(()) };
    let around = fs::metadata(folder_of(at))?;
    let is_for_all = around.mode() & libc::S_ISVTX != 0 && around.mode() & 0o022 != 0;
    if is_for_all && ![geteuid().as_raw(), around.uid()].contains(&found.uid()) {
        let what =
            format!("another user (number {}) has put it into a folder for all", found.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    Ok(())
}

/// Whether `path`, on another host, is among the devices there, where no file is made.
pub(super) fn is_named_as_device(path: &Path) -> bool {
    path.starts_with(DEVICES) && !path.starts_with(SHARED_MEMORY)
}

/// Whether `folder` belongs to the file system of the devices, as `/dev/shm` does not.
pub(super) fn is_among_devices(folder: &Path) -> bool {
    let same_system = |a: Metadata, b: Metadata| a.dev() == b.dev();
    folder.starts_with(DEVICES)
        && fs::metadata(folder)
            .and_then(|folder| fs::metadata(DEVICES).map(|devices| same_system(folder, devices)))
            .unwrap_or(true)
}

fn replace(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<File> {
    let temporary = Temporary(beside(path)?);
    let before = fs::metadata(path).ok();
    // Until it has the mode of what it replaces nobody else is to open it.
    let mode = if before.is_some() { 0o600 } else { 0o666 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary.0)?;
    if let Some(before) = before {
        // Some file systems know no other mode, which must not be a wider one.
        if let Err(err) = file.set_permissions(before.permissions())
            && file.metadata()?.mode() & 0o777 & !before.mode() != 0
        {
            return Err(err);
        }
        // Who may not give it away keeps it.
        let _ = fchown(&file, Some(before.uid()), Some(before.gid()));
    }
    fill(&mut file)?;
    file.sync_all()?;
    match fs::rename(&temporary.0, path) {
        // A single file that is mounted there, as into a container, stays what it is.
        Err(err) if err.raw_os_error() == Some(libc::EBUSY) => rewrite(path, &temporary.0),
        renamed => renamed.map(|()| file),
    }
}

/// Writes what is in `from` over the file at `path`.
fn rewrite(path: &Path, from: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let bytes = io::copy(&mut File::open(from)?, &mut file)?;
    file.set_len(bytes)?;
    file.sync_all()?;
    Ok(file)
}

fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(path.with_file_name(name_in_the_making(".", name, "")))
}

/// Removed when it is dropped; after the rename there is nothing to remove.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};

    fn write(path: &Path, text: &str) {
        let destination = Destination::of(path).unwrap();
        destination.write(|file| file.write_all(text.as_bytes())).unwrap();
    }

    #[test]
    fn links_are_followed_to_the_file_and_stay() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("deep")).unwrap();
        let (file, first) = (folder.path().join("deep/file"), folder.path().join("first"));
        symlink("second", &first).unwrap();
        symlink("deep/file", folder.path().join("second")).unwrap();
        for text in ["made", "replaced"] {
            write(&first, text);
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
            assert!(!file.is_symlink() && first.is_symlink());
        }
        assert_eq!(fs::read_dir(folder.path().join("deep")).unwrap().count(), 1);
    }

    #[test]
    fn what_could_not_be_written_leaves_the_old_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        let destination = Destination::of(&path).unwrap();
        let full = |file: &mut File| {
            file.write_all(b"new")?;
            Err(io::ErrorKind::StorageFull.into())
        };
        assert_eq!(destination.write(full).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_replaced_stays_whose_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let owner = if geteuid().is_root() { Some(65534) } else { None };
        fchown(File::open(&path).unwrap(), owner, owner).unwrap();
        let before = fs::metadata(&path).unwrap();
        write(&path, "another");
        let after = fs::metadata(&path).unwrap();
        assert_ne!(after.ino(), before.ino());
        let rights = |of: &Metadata| (of.mode(), of.uid(), of.gid());
        assert_eq!(rights(&after), rights(&before));
    }

    #[test]
    fn open_files_are_written_to_behind_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let (log, link) = (folder.path().join("log"), folder.path().join("link"));
        fs::write(&log, "said before\n").unwrap();
        let open = File::options().append(true).open(&log).unwrap();
        symlink(format!("/proc/self/fd/{}", open.as_raw_fd()), &link).unwrap();
        let inode = fs::metadata(&log).unwrap().ino();
        for path in [link.clone(), format!("/dev/fd/{}", open.as_raw_fd()).into()] {
            assert!(matches!(Destination::of(&path), Ok(Destination::Stream(_))), "{path:?}");
        }
        write(&link, "report\n");
        assert_eq!(fs::read_to_string(&log).unwrap(), "said before\nreport\n");
        assert_eq!(fs::metadata(&log).unwrap().ino(), inode, "the same file");
        assert!(link.is_symlink());
    }

    #[test]
    fn what_another_user_put_into_a_folder_for_all_is_not_followed() {
        if !geteuid().is_root() {
            let _ = writeln!(io::stderr(), "skipping: only root can plant another user's file");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (shared, secret) = (folder.path().join("shared"), folder.path().join("secret"));
        fs::write(&secret, "secret").unwrap();
        fs::create_dir(&shared).unwrap();
        symlink(&secret, shared.join("link")).unwrap();
        fs::write(shared.join("file"), "planted").unwrap();
        symlink(folder.path(), shared.join("way")).unwrap();
        for (mode, owner, is_refused) in
            [(0o1777, 65534, true), (0o1777, 0, false), (0o755, 65534, false)]
        {
            fs::set_permissions(&shared, fs::Permissions::from_mode(mode)).unwrap();
            for name in ["link", "file"] {
                lchown(shared.join(name), Some(owner), None).unwrap();
                let found = Destination::of(&shared.join(name));
                assert_eq!(found.is_err(), is_refused, "{mode:o} {owner} {name}");
            }
            lchown(shared.join("way"), Some(owner), None).unwrap();
            let found = Destination::of(&shared.join("way/new"));
            assert_eq!(found.is_err(), is_refused, "{mode:o} {owner} on the way");
        }
    }

    #[test]
    fn own_streams_are_known_by_any_name() {
        let folder = tempfile::tempdir().unwrap();
        for (number, expected) in [("1", Destination::Stdout), ("2", Destination::Stderr)] {
            let link = folder.path().join(number);
            symlink(Path::new("/proc/self/fd").join(number), &link).unwrap();
            assert_eq!(Destination::of(&link).unwrap(), expected);
        }
    }

    #[test]
    fn nothing_among_the_devices_is_replaced_nor_made() {
        for path in ["/dev/null", "/dev/no-such-device"] {
            let destination = Destination::of(Path::new(path)).unwrap();
            assert_eq!(destination, Destination::Stream(path.into()));
        }
    }

    #[test]
    fn links_that_never_end_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        symlink("link", &link).unwrap();
        let err = Destination::of(&link).unwrap_err();
        assert_eq!(err.raw_os_error(), Some(libc::ELOOP));
    }
}

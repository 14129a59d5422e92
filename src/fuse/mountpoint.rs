//! The place of a mount: what is refused before anything is opened, and whether the mount is
//! still there.

use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// A directory that may be mounted over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mountpoint {
    /// Without symbolic links, as the kernel names it.
    path: PathBuf,
}

impl Mountpoint {
    /// Looks at `path`, over which none of `inputs` (devices and files that the mount reads,
    /// as the user gave them) may lie. A directory that is not empty is allowed: what is in it
    /// is hidden while the mount lasts.
    ///
    /// # Errors
    /// `Kind::Open` when `path` is no directory, or what is left of a mount that died;
    /// `Kind::Usage` when an input would be hidden by the mount.
    pub fn check(path: &Path, inputs: &[&Path]) -> Result<Self> {
        let cannot = |err: io::Error| {
            let what = match err.raw_os_error() {
                Some(libc::ENOTCONN) => {
                    "an old mount that has lost its process is in the way: \
                     run `umount` (or `fusermount3 -u`) on the mountpoint first"
                }
                _ => "cannot use the mountpoint",
            };
            Error::io(Kind::Open, what, err).with_path(path)
        };
        let about = fs::metadata(path).map_err(cannot)?;
        if !about.is_dir() {
            return Err(Error::new(Kind::Open, "the mountpoint is no directory").with_path(path));
        }
        // Attributes of a dead mount may still be cached; opening asks its process.
        fs::read_dir(path).map_err(cannot)?;
        let real = path.canonicalize().map_err(cannot)?;
        for input in inputs {
            if hides(&about, input) {
                let what = format!(
                    "the mountpoint would hide {}, which the mount itself needs",
                    input.display()
                );
                return Err(Error::new(Kind::Usage, what).with_path(path));
            }
        }
        Ok(Self { path: real })
    }

    /// The directory, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file system `device` (as in `st_dev`) is what is seen here.
    pub(super) fn shows(&self, device: u64) -> bool {
        let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
        let (major, minor) = (libc::major(device), libc::minor(device));
        topmost(&table, &self.path).is_some_and(|id| id == format!("{major}:{minor}"))
    }
}

/// Whether `input` lies in the directory, by whatever path (links, bind mounts) it is reached.
fn hides(directory: &fs::Metadata, input: &Path) -> bool {
    // An input that does not exist is reported when it is opened.
    let Ok(input) = input.canonicalize() else { return false };
    input.ancestors().any(|part| {
        fs::metadata(part)
            .is_ok_and(|of| (of.dev(), of.ino()) == (directory.dev(), directory.ino()))
    })
}

/// The `major:minor` of the last mount at `path` in a table as proc_pid_mountinfo(5) has it.
fn topmost(table: &[u8], path: &Path) -> Option<String> {
    let mut found = None;
    for line in table.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        let (Some(id), Some(_root), Some(at)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if unescape(at).as_os_str().as_bytes() == path.as_os_str().as_bytes() {
            found = Some(String::from_utf8_lossy(id).into_owned());
        }
    }
    found
}

/// Space, tab, line feed and backslash are `\040` and so on in the table.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let code = match rest {
            [b'\\', a, b, c, ..] => {
                let digits = [*a, *b, *c];
                std::str::from_utf8(&digits).ok().and_then(|d| u8::from_str_radix(d, 8).ok())
            }
            _ => None,
        };
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &rest[4..] } else { tail };
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_directory_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        fs::write(&file, b"x").unwrap();
        for path in [&file, &place.path().join("missing")] {
            let err = Mountpoint::check(path, &[]).unwrap_err();
            assert_eq!(err.kind(), Kind::Open);
            assert!(err.to_string().contains(path.to_str().unwrap()));
        }
    }

    #[test]
    fn inputs_below_the_mountpoint_are_refused_by_whatever_name() {
        let place = tempfile::tempdir().unwrap();
        let at = place.path().join("at");
        fs::create_dir_all(at.join("deep")).unwrap();
        let input = at.join("deep/image");
        fs::write(&input, b"x").unwrap();
        let link = place.path().join("link");
        std::os::unix::fs::symlink(&input, &link).unwrap();
        let other = place.path().join("other");
        fs::write(&other, b"x").unwrap();

        for named in [&input, &link, &at.join("deep/../deep/image")] {
            let err = Mountpoint::check(&at, &[&other, named]).unwrap_err();
            assert_eq!(err.kind(), Kind::Usage, "{named:?}");
        }
        let good = Mountpoint::check(&at, &[&other, Path::new("/dev/null")]).unwrap();
        assert_eq!(good.path(), at.canonicalize().unwrap());
        assert!(Mountpoint::check(Path::new("/dev"), &[Path::new("/dev/null")]).is_err());
    }

    #[test]
    fn the_last_mount_at_a_path_is_what_is_seen_there() {
        let table = b"22 1 0:21 / /proc rw - proc proc rw\n\
            40 1 0:50 / /mnt/a\\040b rw - fuse.bdsync x rw\n\
            41 1 0:51 / /mnt/a\\040b rw - fuse.bdsync y rw\n\
            42 1 0:52 / /mnt rw - tmpfs z rw\nbroken\n";
        assert_eq!(topmost(table, Path::new("/mnt/a b")).as_deref(), Some("0:51"));
        assert_eq!(topmost(table, Path::new("/mnt")).as_deref(), Some("0:52"));
        assert_eq!(topmost(table, Path::new("/nowhere")), None);
        assert_eq!(unescape(b"a\\134b\\04"), Path::new("a\\b\\04"));
    }
}

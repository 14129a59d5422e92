//! Names of files: of those in the making, and whether they lead to what they led to.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Kind, Result};
use crate::units::FileId;

/// Bytes of a file's name, at most, in every file system that matters here.
const NAME_BYTES_MAX: usize = 255;

/// What the file `name` is called until it is whole: `before`, the name, a dot, `mark`, and what
/// tells it from all others. A name that has no room for that is cut.
#[must_use]
pub fn name_in_the_making(before: &str, name: &OsStr, mark: &str) -> OsString {
    let suffix = format!(".{mark}{}", suffix_of_a_run());
    let room = NAME_BYTES_MAX.saturating_sub(before.len() + suffix.len());
    let name = name.as_bytes();
    let name = &name[..name.len().min(room)];
    OsString::from_vec([before.as_bytes(), name, suffix.as_bytes()].concat())
}

/// Not only the number of the process: what a killed run left behind must not be in the way of one
/// that has the same number, as each has in a container.
fn suffix_of_a_run() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{:x}", process::id(), now.as_nanos())
}

/// The folder that a file is in, by its name alone.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Fails when `path` leads elsewhere than to `disk`, which was written to by this name, as far as
/// that can be told; `done` is what is true of it.
///
/// # Errors
/// `Kind::Transmission`.
pub fn expect_name(path: &Path, disk: FileId, done: &str) -> Result<()> {
    let is_there = match fs::metadata(path) {
        _ if disk == FileId::UNKNOWN => true,
        Ok(found) => FileId::of(&found) == disk,
        Err(err) => !matches!(err.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    };
    if is_there { Ok(()) } else { Err(name_error(path, done)) }
}

/// `path` leads elsewhere than to what was written to by this name; `done` is what is true of that.
#[must_use]
pub fn name_error(path: &Path, done: &str) -> Error {
    let what = format!(
        "{done}, but that is what had the name before: the name leads elsewhere by now, or nowhere"
    );
    Error::new(Kind::Transmission, what).with_path(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_name_has_one_in_the_making() {
        let name = "n".repeat(NAME_BYTES_MAX);
        let made = name_in_the_making(".", OsStr::new(&name), "partial-");
        assert_eq!(made.len(), NAME_BYTES_MAX);
        assert!(made.to_string_lossy().starts_with(".nnn"));
        let made = name_in_the_making("", OsStr::new("u"), "partial-");
        assert!(made.to_string_lossy().starts_with("u.partial-"));
    }

    #[test]
    fn one_process_has_another_suffix_each_time() {
        let first = suffix_of_a_run();
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert_ne!(first, suffix_of_a_run());
        assert!(suffix_of_a_run().starts_with(&format!("{}-", process::id())));
    }

    #[test]
    fn what_has_the_name_of_another_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        fs::write(&path, "x").unwrap();
        let disk = FileId::of(&fs::metadata(&path).unwrap());
        let told = || {
            let err = expect_name(&path, disk, "done").unwrap_err();
            (err.kind(), err.to_string().contains("done, but"))
        };
        expect_name(&path, disk, "done").unwrap();
        fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        assert_eq!(told(), (Kind::Transmission, true));
        fs::write(&path, "x").unwrap();
        assert_eq!(told(), (Kind::Transmission, true));
        expect_name(&path, FileId::UNKNOWN, "done").unwrap();
    }
}

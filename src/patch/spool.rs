//! A stream in a temporary file without a name, so that it can be read twice.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::reader::read_error;
use super::source::PatchFile;
use crate::buffer::PageBuffer;
use crate::error::{Error, Kind, Result};
use crate::naming::name_in_the_making;

/// Bytes copied at a time.
const COPY_BYTES: usize = 1024 * 1024;

/// Copies `input` to its end into an unlinked file in `folder`, as `--spool` wishes; see
/// [`spool_file`].
///
/// # Errors
/// As [`spool_file`].
pub fn spool(input: impl Read, folder: &Path, check: &dyn Fn() -> Result<()>) -> Result<PatchFile> {
    let elsewhere = "another folder: --spool=DIR, TMPDIR, or in a sync that of --undo";
    spool_file(input, folder, elsewhere, check).map(|file| PatchFile::new(file, 0))
}

/// Copies `input` to its end into an unlinked file in `folder`, open for reading and writing.
/// `check` is asked whether to go on when reading fails, and every so often. `elsewhere` says how
/// the user names another folder.
///
/// # Errors
/// `Kind::NoRoom`, `Kind::Write`, `Kind::Read`, `Kind::Patch` when a decoder finds the input damaged,
/// what `check` returns.
pub fn spool_file(
    mut input: impl Read,
    folder: &Path,
    elsewhere: &str,
    check: &dyn Fn() -> Result<()>,
) -> Result<File> {
    let failed = |err| {
        let what = format!("cannot keep a copy of the patch ({elsewhere})");
        Error::io(Kind::of_unkept(&err), what, err).with_path(folder)
    };
    let mut file = unnamed_file(folder).map_err(failed)?;
    let mut buffer = PageBuffer::new(COPY_BYTES);
    loop {
        check()?;
        match input.read(&mut buffer) {
            Ok(0) => return Ok(file),
            Ok(n) => file.write_all(&buffer[..n]).map_err(failed)?,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => {
                check()?;
                return Err(read_error(err));
            }
        }
    }
}

/// A file that vanishes with the process, readable by nobody else.
fn unnamed_file(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.clone().custom_flags(libc::O_TMPFILE).open(folder) {
        Err(err) if matches!(err.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {}
        result => return result,
    }
    let path = folder.join(name_in_the_making(".", OsStr::new("bdsync"), "spool-"));
    let file = options.create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_is_whole_and_leaves_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..3_000_000u32).map(|i| i as u8).collect();
        let copy = spool(&content[..], folder.path(), &|| Ok(())).unwrap();
        let mut found = vec![];
        copy.rewound().read_to_end(&mut found).unwrap();
        assert!(found == content);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn folder_that_is_none_is_a_write_error() {
        let err = spool(&b"x"[..], Path::new("/nonexistent"), &|| Ok(())).unwrap_err();
        assert_eq!(err.kind(), Kind::Write);
    }
}

//! Patches as the user has them: plain or compressed, in files or from pipes.
//!
//! ```text
//!   Stream     read once, from its beginning to its end
//!   stored()   read at random: a plain file in place, anything else from a copy without a name
//! ```
//! A copy is made in the folder for temporary files (`TMPDIR`), takes as much room there as the
//! plain patch, and is gone with the process. An index of a compressed file would be no honest
//! alternative: zstd and gzip can only be entered where whoever wrote them left a door, so that
//! it would come down to a copy in memory.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::counted::Counted;
use crate::compress::{Decoder, Encoder, Format};
use crate::device::{FileDevice, open_source};
use crate::error::{Error, Kind, Result};
use crate::patch::{PatchReader, read_error, spool_file};
use crate::patient::Patient;
use crate::progress::{Part, Progress};
use crate::units::Compression;

/// What messages call the patch on stdin.
pub const STDIN_NAME: &str = "standard input";
/// The operand that means stdin.
pub const STDIN_OPERAND: &str = "-";

/// `input`, decompressed if it is compressed; `path` is what messages call it.
///
/// # Errors
/// `Kind::Read`.
pub fn decoded<R: Read>(input: R, path: impl AsRef<Path>) -> Result<Decoder<R>> {
    Decoder::new(input).map_err(|err| read_error(err).with_path(path.as_ref()))
}

/// `output`, compressed as wished.
///
/// # Errors
/// `Kind::Write`.
pub fn encoded<W: Write>(output: W, compression: Option<Compression>) -> Result<Encoder<W>> {
    Encoder::new(output, compression)
        .map_err(|err| Error::io(Kind::Write, "cannot compress the patch", err))
}

/// Ends what [`encoded`] began: all of the output is written when this returns.
///
/// # Errors
/// `Kind::Write`.
pub fn finish<W: Write>(output: Encoder<W>) -> Result<()> {
    output.finish().map(drop).map_err(|err| Error::io(Kind::Write, "cannot write the patch", err))
}

/// A patch that is read once, decompressed, while it is told how far that is.
pub struct Stream<'a> {
    decoder: Decoder<CountedFile>,
    read_bytes: Arc<AtomicU64>,
    plain_bytes: u64,
    progress: &'a dyn Progress,
}

/// A file as it is, compressed or not.
type CountedFile = Counted<Patient<File>, Box<dyn FnMut(u64)>>;

impl<'a> Stream<'a> {
    /// Opens it; `None` is stdin.
    ///
    /// # Errors
    /// `Kind::Open`, `Kind::Read`.
    pub fn open(path: Option<&Path>, progress: &'a dyn Progress) -> Result<Self> {
        let (file, path) = match path {
            Some(path) => (open(path)?, path),
            None => (stdin()?, Path::new(STDIN_NAME)),
        };
        let size_bytes = file.metadata().map_err(|err| read_error(err).with_path(path))?.len();
        progress.begin(Part::Reading, Some(size_bytes).filter(|&bytes| bytes > 0));
        let read_bytes = Arc::new(AtomicU64::new(0));
        let file = Patient(file);
        let count = Arc::clone(&read_bytes);
        let tell: Box<dyn FnMut(u64)> =
            Box::new(move |bytes| count.store(bytes, Ordering::Relaxed));
        let decoder = decoded(Counted::new(file, tell), path)?;
        Ok(Self { decoder, read_bytes, plain_bytes: 0, progress })
    }

    /// How it is compressed, if it is.
    pub fn format(&self) -> Option<Format> {
        self.decoder.format()
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.decoder.read(buf)?;
        self.plain_bytes += n as u64;
        self.progress.advance(self.read_bytes.load(Ordering::Relaxed), self.plain_bytes);
        Ok(n)
    }
}

/// Opens a patch to be read at random; `-` is stdin.
///
/// # Errors
/// `Kind::Open`, `Kind::Read`, `Kind::Patch` when it is no patch or its compressed data are
/// damaged, `Kind::NoRoom` or `Kind::Write` when it cannot be copied.
pub fn stored(path: &Path) -> Result<FileDevice> {
    if path.as_os_str() == STDIN_OPERAND {
        return copy(stdin()?, Path::new(STDIN_NAME));
    }
    let file = open(path)?;
    let found = file.metadata().map_err(|err| read_error(err).with_path(path))?;
    // A file of no size may have content: that of a mount before all is compared, for one.
    let can_seek = found.is_file() && found.len() > 0 || found.file_type().is_block_device();
    if can_seek && decoded(&file, path)?.format().is_none() {
        return open_source(path);
    }
    // What has been looked at by now is looked at again: the file anew from its beginning.
    if can_seek { copy(open(path)?, path) } else { copy(file, path) }
}

fn open(path: &Path) -> Result<File> {
    File::open(path)
        .map_err(|err| Error::io(Kind::Open, "cannot open the patch", err).with_path(path))
}

/// Where copies go: `TMPDIR`, unless it is empty, as of who wanted to unset it.
#[must_use]
pub fn temp_folder() -> PathBuf {
    Some(std::env::temp_dir()).filter(|path| !path.as_os_str().is_empty()).unwrap_or("/tmp".into())
}

/// A patch is no text that somebody types: whoever forgot it would wait, and not know for what.
///
/// # Errors
/// `Kind::Usage` when stdin is a terminal.
pub fn refuse_terminal() -> Result<()> {
    if io::stdin().is_terminal() {
        let what =
            "standard input is a terminal: give the patch as a file (<PATCH) or through a pipe";
        return Err(Error::new(Kind::Usage, what));
    }
    Ok(())
}

fn stdin() -> Result<File> {
    refuse_terminal()?;
    let fd = io::stdin().as_fd().try_clone_to_owned();
    fd.map(File::from).map_err(|err| read_error(err).with_path(Path::new(STDIN_NAME)))
}

fn copy(input: File, path: &Path) -> Result<FileDevice> {
    let mut decoder = decoded(Patient(input), path)?;
    // Nothing but a patch is worth the room: the header is read first.
    let mut head = vec![];
    let mut seen = Seen { input: &mut decoder, seen: &mut head };
    PatchReader::new(&mut seen, path)?;
    let whole = head.as_slice().chain(decoder);
    let elsewhere = "another folder: TMPDIR";
    let file = spool_file(whole, &temp_folder(), elsewhere, &|| Ok(()))?;
    FileDevice::of_copy(file, path)
}

/// Keeps what is read: a buffer of the patch reader at most.
struct Seen<'a, R> {
    input: R,
    seen: &'a mut Vec<u8>,
}

impl<R: Read> Read for Seen<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        self.seen.extend_from_slice(&buf[..n]);
        Ok(n)
    }
}

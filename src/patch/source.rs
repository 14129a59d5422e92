//! Where a patch comes from: a file that can be read any number of times, or a stream.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::device::{Stamp, is_cached};
use crate::error::{Error, Kind, Result};
use crate::progress::{Part, Progress};
use crate::signals::Signals;
use crate::units::ByteRange;

/// A patch in a file, from some offset of it on. Reads are positional: clones do not disturb
/// each other, nor any other user of the same open file.
///
/// It is read several times, and each time the same bytes count: reading fails once the file has
/// been written to or cut.
#[derive(Clone, Debug)]
pub struct PatchFile {
    file: Arc<File>,
    /// What the file looked like in the beginning; `None` where that says nothing.
    stamp: Option<Stamp>,
    /// Offset in the file of the patch's first byte.
    start: u64,
    /// Next byte to read, counted from `start`.
    at: u64,
    /// Told how much has been passed.
    told: Option<Told>,
}

/// Who is told how much of a patch has been passed, by all that read it at the same time.
#[derive(Clone)]
struct Told {
    progress: Arc<dyn Progress>,
    passed_bytes: Arc<AtomicU64>,
}

impl Told {
    fn passed(&self, bytes: u64) {
        let before = self.passed_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.progress.advance(before + bytes, 0);
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Told").field(&self.passed_bytes).finish()
    }
}

impl PatchFile {
    /// The patch that begins at byte `start` of `file`.
    #[must_use]
    pub fn new(file: File, start: u64) -> Self {
        // Without a size yet, as in a mount before all is compared, it changes without being
        // written.
        let has_size = |of: &Metadata| of.is_file() && of.len() > 0;
        let stamp = file.metadata().ok().filter(has_size).map(|of| Stamp::of(&of));
        Self { file: Arc::new(file), stamp, start, at: 0, told: None }
    }

    /// The patch that begins at the current position of `fd`, or `None` when `fd` is nothing
    /// that can be read twice. The position stays as it is.
    ///
    /// # Errors
    /// `Kind::Read` when the kernel cannot say what `fd` is.
    pub fn of_fd(fd: BorrowedFd<'_>) -> Result<Option<Self>> {
        let failed = |err: io::Error| Error::io(Kind::Read, "cannot read the patch", err);
        let mut file = File::from(fd.try_clone_to_owned().map_err(failed)?);
        let file_type = file.metadata().map_err(failed)?.file_type();
        if !file_type.is_file() && !file_type.is_block_device() {
            return Ok(None);
        }
        let start = file.stream_position().map_err(failed)?;
        Ok(Some(Self::new(file, start)))
    }

    /// The same patch from its first byte.
    #[must_use]
    pub fn rewound(&self) -> Self {
        self.from(0)
    }

    /// The same patch from its first byte, to be passed once, which is a part of the run that
    /// `progress` is told of.
    #[must_use]
    pub fn as_part(&self, part: Part, progress: &Arc<dyn Progress>) -> Self {
        progress.begin(part, Some(self.size()).filter(|&bytes| bytes > 0));
        let told = Told { progress: Arc::clone(progress), passed_bytes: Arc::default() };
        Self { told: Some(told), ..self.rewound() }
    }

    /// The same patch from byte `at` on.
    pub(super) fn from(&self, at: u64) -> Self {
        Self { at, ..self.clone() }
    }

    fn advance(&mut self, to: u64) {
        if let Some(told) = self.told.as_ref().filter(|_| to > self.at) {
            told.passed(to - self.at);
        }
        self.at = to;
    }

    /// Bytes of the patch and of what follows it in a regular file; 0 where that is not known.
    pub(super) fn size(&self) -> u64 {
        self.file.metadata().map_or(0, |of| of.len().saturating_sub(self.start))
    }

    /// Whether its `len` bytes from `at` on are in the page cache, as far as the kernel says so.
    pub(super) fn is_cached(&self, at: u64, len: u64) -> bool {
        let range = self.start.checked_add(at).and_then(|start| ByteRange::checked_at(start, len));
        range.is_some_and(|range| is_cached(&self.file, range))
    }
}

impl Read for PatchFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.start.saturating_add(self.at))?;
        // After reading: a write changes the time before the bytes.
        if let Some(stamp) = self.stamp
            && stamp != Stamp::of(&self.file.metadata()?)
        {
            let what = "the file has changed since the patch was first read";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        self.advance(self.at + n as u64);
        Ok(n)
    }
}

impl Seek for PatchFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => {
                let end = self.file.metadata()?.len().saturating_sub(self.start);
                end.checked_add_signed(by)
            }
        };
        self.advance(target.ok_or(io::ErrorKind::InvalidInput)?);
        Ok(self.at)
    }
}

/// How long the end of the input is waited for once the patch is at its end: whoever writes it may
/// hold the pipe open, and what may stand there, a seal, comes together with the end.
const END_WAIT: Duration = Duration::from_secs(10);
/// It is waited for in so many parts, each of which counts as one however long it takes: this process
/// may be stopped meanwhile, and whoever writes the patch with it.
const END_WAIT_PARTS: u32 = 20;

/// A patch that can be read once, given up as soon as a signal asks for an end.
#[derive(Debug)]
pub struct PatchStream<'a> {
    input: File,
    signals: &'a Signals,
    is_at_end: Arc<AtomicBool>,
    /// For how many parts of [`END_WAIT`] what stands behind the end is still waited for.
    end_parts: u32,
}

impl<'a> PatchStream<'a> {
    /// Reads from `input`.
    #[must_use]
    pub fn new(input: OwnedFd, signals: &'a Signals) -> Self {
        Self {
            input: File::from(input),
            signals,
            is_at_end: Arc::default(),
            end_parts: END_WAIT_PARTS,
        }
    }

    /// To be set once all of the patch has been read but what may stand behind its checksum.
    #[must_use]
    pub fn is_at_end(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_at_end)
    }
}

impl Read for PatchStream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let input = self.input.as_fd();
        if self.is_at_end.load(Ordering::Relaxed) {
            let part = END_WAIT / END_WAIT_PARTS;
            while !self.signals.wait_readable_until(input, Some(Instant::now() + part))? {
                self.end_parts = self.end_parts.saturating_sub(1);
                if self.end_parts == 0 {
                    log::info!("the input stays open behind the end of the patch");
                    return Ok(0);
                }
            }
        } else {
            self.signals.wait_readable(input)?;
        }
        let mut len = (&self.input).read(buf)?;
        // What else is there already: few large pieces instead of many that a pipe holds. Whatever
        // fails now must not lose what was read; it fails again, or not, when more is asked for.
        while (1..buf.len()).contains(&len)
            && let Ok(true) = self.signals.wait_readable_until(input, Some(Instant::now()))
            && let Ok(more @ 1..) = (&self.input).read(&mut buf[len..])
        {
            len += more;
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Recording;
    use std::io::Write;

    #[test]
    fn file_is_read_from_its_current_position_which_stays() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"skipped:patch").unwrap();
        file.seek(SeekFrom::Start(8)).unwrap();
        let mut patch = PatchFile::of_fd(file.as_fd()).unwrap().unwrap();
        let mut text = String::new();
        patch.read_to_string(&mut text).unwrap();
        patch.rewound().read_to_string(&mut text).unwrap();
        assert_eq!(text, "patchpatch");
        assert_eq!(file.stream_position().unwrap(), 8);
        patch.seek(SeekFrom::End(-2)).unwrap();
        assert_eq!(io::read_to_string(patch).unwrap(), "ch");
    }

    #[test]
    fn file_that_changes_is_not_read_any_more() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"the patch").unwrap();
        let patch = PatchFile::new(file.reopen().unwrap(), 0);
        assert_eq!(patch.rewound().read(&mut [0; 4]).unwrap(), 4);
        file.as_file().write_all_at(b"T", 0).unwrap();
        let err = patch.rewound().read(&mut [0; 4]).unwrap_err();
        assert!(err.to_string().contains("changed"), "{err}");
        // A later one sees it as it is now.
        assert!(PatchFile::new(file.reopen().unwrap(), 0).read(&mut [0; 4]).is_ok());
        let cut = PatchFile::new(file.reopen().unwrap(), 0);
        file.as_file().set_len(3).unwrap();
        assert!(cut.rewound().read(&mut [0; 4]).is_err());
    }

    #[test]
    fn passing_it_is_a_part_that_is_told_of() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 100]).unwrap();
        let listener = Arc::new(Recording::default());
        let progress: Arc<dyn Progress> = Arc::<Recording>::clone(&listener);
        let patch = PatchFile::new(file, 10);
        let mut part = patch.as_part(Part::Checking, &progress);
        let mut half = part.from(45);
        part.read_exact(&mut [0; 20]).unwrap();
        part.seek(SeekFrom::Current(25)).unwrap();
        // Who looks at something again has not passed more.
        part.seek(SeekFrom::Start(40)).unwrap();
        half.read_exact(&mut [0; 45]).unwrap();
        assert_eq!(*listener.begun.lock(), [(Part::Checking, Some(90))]);
        assert_eq!(*listener.steps.lock(), [(20, 0), (45, 0), (90, 0)]);
        patch.rewound().read_exact(&mut [0; 90]).unwrap();
        assert_eq!(listener.steps.lock().len(), 3, "it is nobody's part");
    }

    #[test]
    fn what_was_read_before_a_failure_is_not_lost() {
        let signals = Signals::catch().unwrap();
        let (mut ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        theirs.write_all(b"records").unwrap();
        // Closed with bytes unread, it gives what was written, and then an error.
        ours.write_all(b"x").unwrap();
        drop(theirs);
        let mut stream = PatchStream::new(OwnedFd::from(ours), &signals);
        let mut buf = [0; 100];
        assert_eq!(stream.read(&mut buf).unwrap(), 7);
        assert_eq!(&buf[..7], b"records");
    }

    #[test]
    fn pipes_and_the_null_device_are_streams() {
        let (pipe, _other) = nix::unistd::pipe().unwrap();
        assert!(PatchFile::of_fd(pipe.as_fd()).unwrap().is_none());
        let null = File::open("/dev/null").unwrap();
        assert!(PatchFile::of_fd(null.as_fd()).unwrap().is_none());
    }
}

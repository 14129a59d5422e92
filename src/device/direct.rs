//! Reads a file or block device past the page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::{Device, FileDevice};
use crate::buffer::{PAGE_BYTES, PageBuffer};
use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;

/// What offsets, lengths and memory of direct reads are aligned to, in bytes. A device that
/// wants more is found out when it is opened.
const ALIGN_BYTES: usize = PAGE_BYTES;
/// Bytes read at a time.
const WINDOW_BYTES: usize = 1024 * 1024;

/// A device that is read with `O_DIRECT`: what the disk holds, not what the cache does.
#[derive(Debug)]
pub struct DirectDevice {
    path: PathBuf,
    file: File,
    size_bytes: u64,
    /// One window.
    buffer: Mutex<PageBuffer>,
}

/// The same file, past the page cache.
///
/// # Errors
/// Where its file system has no such reads.
pub(crate) fn open_directly(file: &File) -> io::Result<File> {
    // Through /proc it is the same file, whatever its path leads to by now.
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(link)
}

impl DirectDevice {
    /// Another view of `device`, or `None` where direct reads are not supported, or its last page ends
    /// behind all offsets that there are.
    #[must_use]
    pub fn of(device: &FileDevice) -> Option<Self> {
        if device.size().next_multiple_of(ALIGN_BYTES as u64) > i64::MAX as u64 {
            return None;
        }
        let file = open_directly(device.as_file()).ok()?;
        let direct = Self {
            path: device.path().to_owned(),
            file,
            size_bytes: device.size(),
            buffer: Mutex::new(PageBuffer::new(WINDOW_BYTES)),
        };
        // Some file systems take the flag and then refuse every read. Bytes that cannot be read may
        // be none that anybody asks for.
        let first = direct.read_window(&mut direct.buffer.lock(), 0, ALIGN_BYTES);
        let is_refused = first.is_err_and(|err| err.raw_os_error() == Some(libc::EINVAL));
        (!is_refused).then_some(direct)
    }

    /// Reads up to `len` bytes at `offset`, both aligned, to the beginning of `buffer`; fewer
    /// than asked for only at the end.
    fn read_window(&self, buffer: &mut [u8], offset: u64, len: usize) -> io::Result<usize> {
        loop {
            match self.file.read_at(&mut buffer[..len], offset) {
                Ok(n) => return Ok(n),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
    }

    fn read_error(&self, range: ByteRange, err: io::Error) -> Error {
        Error::io(Kind::Read, "cannot read the device past the cache", err)
            .with_path(&self.path)
            .with_range(range)
    }
}

impl Device for DirectDevice {
    fn path(&self) -> &Path {
        &self.path
    }

    fn size(&self) -> u64 {
        self.size_bytes
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut buffer = self.buffer.lock();
        let end = offset.saturating_add(buf.len() as u64);
        let mut at = offset;
        while at < end {
            let window = ByteRange::new(at, end).align_out(ALIGN_BYTES as u64);
            let len = window.len().min(WINDOW_BYTES as u64) as usize;
            let found = self
                .read_window(&mut buffer, window.start, len)
                .map_err(|err| self.read_error(ByteRange::new(at, end), err))?;
            let skip = (at - window.start) as usize;
            let bytes = buffer[..found].get(skip..).unwrap_or_default();
            let place = &mut buf[(at - offset) as usize..];
            let n = bytes.len().min(place.len());
            if n == 0 {
                let what = format!(
                    "the device became shorter: expected {} bytes, found {}",
                    end - offset,
                    at - offset
                );
                return Err(Error::new(Kind::Read, what)
                    .with_path(&self.path)
                    .with_range(ByteRange::new(offset, end)));
            }
            place[..n].copy_from_slice(&bytes[..n]);
            at += n as u64;
        }
        Ok(())
    }

    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        Ok((from < self.size_bytes).then(|| ByteRange::new(from, self.size_bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::open_source;
    use super::*;

    #[test]
    fn a_device_whose_last_page_ends_behind_all_offsets_is_read_otherwise() {
        let Ok(file) = tempfile::NamedTempFile::new_in("/dev/shm") else { return };
        for (bytes, is_direct) in [(i64::MAX as u64, false), (i64::MAX as u64 - 4095, true)] {
            // Not every kernel has files of that size, nor direct reads, there.
            if file.as_file().set_len(bytes).is_err() || open_directly(file.as_file()).is_err() {
                return;
            }
            let device = open_source(file.path()).unwrap();
            assert_eq!(DirectDevice::of(&device).is_some(), is_direct, "{bytes}");
        }
    }

    #[test]
    fn any_range_reads_as_through_the_cache() {
        let folder = tempfile::tempdir_in(".").unwrap();
        let path = folder.path().join("image");
        let content: Vec<u8> = (0..2_500_001u32).map(|i| (i * 7 / 3) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let device = open_source(&path).unwrap();
        let Some(direct) = DirectDevice::of(&device) else {
            eprintln!("skipping: O_DIRECT is not supported here");
            return;
        };
        for (offset, len) in
            [(0, 1), (0, 4096), (1, 4096), (4095, 2), (7, 2_200_000), (2_499_999, 2), (5, 0)]
        {
            let mut found = vec![0; len];
            direct.read_exact_at(&mut found, offset).unwrap();
            assert!(found == content[offset as usize..][..len], "{len} bytes at {offset}");
        }
        let err = direct.read_exact_at(&mut [0; 10], 2_499_999).unwrap_err();
        assert_eq!(err.kind(), Kind::Read);
    }
}

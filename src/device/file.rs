//! Regular files, block devices and `/dev/null`.

use std::fs::File;
use std::io::{self, IoSlice, Seek, SeekFrom};
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, Statfs, fstatfs};
use nix::unistd::{AccessFlags, faccessat, geteuid};
use parking_lot::Mutex;
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, ioctl_blksszget};
use rustix::io::{Errno, pwritev};

use super::cached::is_cached;
use super::residency::{Residency, is_almighty};
use super::stamp::Stamp;
use super::{Device, DeviceMut, write_zeros};
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, FileId, KIB, MIB};

/// The most slices that one `pwritev` takes (`IOV_MAX`, which is 1024 on Linux).
const SLICES_MAX: usize = 1024;

/// Bytes that the kernel is asked to read ahead at once. It does at most one request's worth for
/// each call, which is as little as this for some disks.
const READ_AHEAD_BYTES: u64 = 256 * KIB;

/// Bytes that count as data from where some were that were gone when their end was looked for.
const PUNCHED_BYTES: u64 = MIB;

/// What a [`FileDevice`] is, as far as the rules for it differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file: it knows holes and can change its size.
    Regular,
    /// A block device: all of it is data, its size is fixed.
    Block,
    /// `/dev/null`, a disk of 0 bytes.
    Empty,
}

/// What is said of a file whose size has changed under us.
pub const SIZE_CHANGED: &str = "its size was changed by something else";

/// The file at `path` has another size than it was opened with, or was given.
#[must_use]
pub fn size_error(path: &Path, expected_bytes: u64, found_bytes: u64) -> Error {
    let what = format!("{SIZE_CHANGED}: expected {expected_bytes} bytes, found {found_bytes}");
    Error::new(Kind::Transmission, what).with_path(path)
}

/// A disk behind a path.
#[derive(Debug)]
pub struct FileDevice {
    path: PathBuf,
    file: File,
    kind: FileKind,
    size_bytes: AtomicU64,
    /// The data that the file system told of last. To read a hole that came into being since is
    /// no fault, so this needs no care when the file changes.
    last_data: Mutex<ByteRange>,
    /// What a regular file looked like when it was opened for reading.
    stamp: Option<Stamp>,
    /// Set once the cache is to be kept: what is in it because of us, where that can be told.
    residency: OnceLock<Option<Residency>>,
}

impl FileDevice {
    /// The disk in a file that is open already; `path` is what messages call it.
    ///
    /// # Errors
    /// `Kind::Open` when its end cannot be found.
    pub(super) fn of_file(mut file: File, path: &Path, kind: FileKind) -> Result<Self> {
        let size_bytes = file.seek(SeekFrom::End(0)).map_err(|err| {
            Error::io(Kind::Open, "cannot find the end of the device", err).with_path(path)
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            kind,
            size_bytes: AtomicU64::new(size_bytes),
            last_data: Mutex::new(ByteRange::new(0, 0)),
            stamp: None,
            residency: OnceLock::new(),
        })
    }

    /// The disk in a regular file that is open already and nobody else's: a copy without a name.
    /// `path` is what messages call it.
    ///
    /// # Errors
    /// `Kind::Open` when its end cannot be found.
    pub fn of_copy(file: File, path: &Path) -> Result<Self> {
        Self::of_file(file, path, FileKind::Regular)
    }

    /// Has [`Device::is_changed`] tell of changes from now on, where a file shows them.
    pub(super) fn watch_for_changes(&mut self) {
        if self.kind == FileKind::Regular {
            self.stamp = self.stamp_now();
        }
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// The open file, for `fstat`, passthrough and ioctls. Its position means nothing.
    #[must_use]
    pub fn as_file(&self) -> &File {
        &self.file
    }

    fn stamp_now(&self) -> Option<Stamp> {
        self.file.metadata().ok().map(|meta| Stamp::of(&meta))
    }

    /// Whether the file was cut meanwhile. What it lost is no hole: nobody knows what was there.
    fn is_cut(&self) -> bool {
        self.file.metadata().map_or(true, |now| now.len() < self.size())
    }

    /// Where what is looked for begins; `None` where there is no more of it.
    fn seek(&self, what: rustix::fs::SeekFrom) -> Result<Option<u64>, Errno> {
        // Moves the position of the open file, which nothing here ever uses.
        match rustix::fs::seek(&self.file, what) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            Err(err) => Err(err),
        }
    }

    fn advise(&self, range: ByteRange, advice: Advice) {
        // No length would mean: up to the end.
        if let Some(len) = NonZero::new(range.len()) {
            // Advice only: a file system that cannot take it loses nothing.
            let _ = fadvise(&self.file, range.start, Some(len), advice);
        }
    }

    /// Drops `range` from the page cache, whoever brought it there. What is not written to the
    /// disk yet stays.
    pub fn drop_cache(&self, range: ByteRange) {
        self.advise(range, Advice::DontNeed);
    }

    /// To be told before `range` is read or written.
    fn note(&self, range: ByteRange) {
        if let Some(Some(residency)) = self.residency.get() {
            residency.note(range);
        }
    }

    /// Whether the kernel tells us what is in the cache: the owner, and who may write. Others it
    /// tells that everything is.
    fn may_ask_for_residency(&self) -> bool {
        let is_ours = || self.file.metadata().is_ok_and(|meta| meta.uid() == geteuid().as_raw());
        let may_write =
            || faccessat(AT_FDCWD, &self.path, AccessFlags::W_OK, AtFlags::AT_EACCESS).is_ok();
        is_almighty() || is_ours() || may_write()
    }

    /// Has zeros made by the file system or the device; false when they cannot.
    fn make_zeros(&self, range: ByteRange) -> bool {
        let keep_size = FallocateFlags::KEEP_SIZE;
        // A block device discards for the first and may have a command for the second.
        let ways = [FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE];
        let count = if self.kind == FileKind::Block { 2 } else { 1 };
        for way in &ways[..count] {
            // Where that fails, as on a device that is in use, plain writes do the same; and what is
            // wrong with the disk is wrong with them as well.
            if fallocate(&self.file, way.union(keep_size), range.start, range.len()).is_ok() {
                return true;
            }
        }
        false
    }

    fn write_error(&self, range: ByteRange, err: io::Error) -> Error {
        Error::io(Kind::Write, "cannot write to the device", err)
            .with_path(&self.path)
            .with_range(range)
    }

    /// Fails when something else has changed the size of a file that we have written to.
    ///
    /// # Errors
    /// `Kind::Transmission`; `Kind::Read` when it cannot be told.
    pub fn expect_own_size(&self) -> Result<()> {
        self.expect_size(|found_bytes| found_bytes == self.size())
    }

    /// Fails when the size of a file is none that `is_right`.
    fn expect_size(&self, is_right: impl Fn(u64) -> bool) -> Result<()> {
        let Some(file) = self.regular_file() else { return Ok(()) };
        let found = file.metadata().map_err(|err| {
            Error::io(Kind::Read, "cannot tell the size", err).with_path(&self.path)
        })?;
        match is_right(found.len()) {
            true => Ok(()),
            false => Err(size_error(&self.path, self.size(), found.len())),
        }
    }
}

impl AsFd for FileDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Device for FileDevice {
    fn path(&self) -> &Path {
        &self.path
    }

    fn size(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }

    fn id(&self) -> FileId {
        // A file there may become another one when it is opened for writing.
        let is_told = |on: &Statfs| on.filesystem_type() != OVERLAYFS_SUPER_MAGIC;
        match self.file.metadata() {
            Ok(_) if self.kind == FileKind::Empty => FileId::UNKNOWN,
            Ok(found) if fstatfs(&self.file).as_ref().is_ok_and(is_told) => FileId::of(&found),
            _ => FileId::UNKNOWN,
        }
    }

    fn sector_bytes(&self) -> Option<u64> {
        let is_block = self.kind == FileKind::Block;
        is_block.then(|| ioctl_blksszget(&self.file).ok().map(u64::from)).flatten()
    }

    fn regular_file(&self) -> Option<&File> {
        (self.kind == FileKind::Regular).then_some(&self.file)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let range = ByteRange::new(offset, offset.saturating_add(buf.len() as u64));
        self.note(range);
        let mut filled = 0;
        while filled < buf.len() {
            match self.file.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => {
                    let what = format!(
                        "the device became shorter: expected {} bytes, found {filled}",
                        range.len()
                    );
                    return Err(Error::new(Kind::Read, what)
                        .with_path(&self.path)
                        .with_range(range));
                }
                Ok(n) => filled += n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => {
                    let failed = ByteRange::new(offset + filled as u64, range.end);
                    return Err(Error::io(Kind::Read, "cannot read the device", err)
                        .with_path(&self.path)
                        .with_range(failed));
                }
            }
        }
        Ok(())
    }

    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        let size_bytes = self.size();
        if from >= size_bytes {
            return Ok(None);
        }
        let rest = ByteRange::new(from, size_bytes);
        if self.kind != FileKind::Regular {
            return Ok(Some(rest));
        }
        // Some file systems look for the next hole page by page. Who hashes a large file in
        // small ranges would make them do so again and again.
        let last = *self.last_data.lock();
        if last.contains(from) {
            return Ok(Some(ByteRange::new(from, last.end).clip(size_bytes)));
        }
        let start = match self.seek(rustix::fs::SeekFrom::Data(from)) {
            Ok(Some(start)) => start,
            // To read what was cut off is an error.
            Ok(None) => return Ok(self.is_cut().then_some(rest)),
            // Holes only save work. What is wrong with the file shows when it is read.
            Err(_) => return Ok(Some(rest)),
        };
        let start = start.max(from);
        let hole = self.seek(rustix::fs::SeekFrom::Hole(start)).ok().flatten();
        let data = data_up_to(start, hole, size_bytes);
        *self.last_data.lock() = data;
        Ok((!data.is_empty()).then_some(data))
    }

    fn is_changed(&self) -> bool {
        self.stamp.is_some() && self.stamp != self.stamp_now()
    }

    fn keep_cache(&self) {
        let residency = self.residency.get_or_init(|| match self.may_ask_for_residency() {
            true => Residency::of(&self.file, self.size()),
            false => None,
        });
        if residency.is_some() {
            // The kernel's own read-ahead would bring in pages that are not asked for.
            let everything = ByteRange::new(0, self.size());
            self.advise(everything, Advice::Random);
        }
    }

    fn will_need(&self, range: ByteRange) {
        // Only what is stored: read-ahead of a hole would fill the page cache with its zeros.
        let mut from = range.start;
        while let Ok(Some(data)) = self.next_data(from) {
            let part = data.intersect(&range);
            if part.is_empty() {
                return;
            }
            self.note(part);
            if !is_cached(&self.file, part) {
                for piece in part.pieces(READ_AHEAD_BYTES) {
                    self.advise(piece, Advice::WillNeed);
                }
            }
            from = part.end;
        }
    }

    fn done_with(&self, range: ByteRange) {
        match self.residency.get() {
            Some(Some(residency)) => {
                let ours = residency.take(range, self.size());
                ours.into_iter().for_each(|range| self.drop_cache(range));
            }
            _ => self.drop_cache(range),
        }
    }
}

/// The data that was found at `start`, where the next `hole` was looked for after that. Without one
/// behind it, it was punched out or cut off meanwhile, and may be there again: a small part counts as
/// data. Never empty before `size_bytes`: that would say that there is no data behind it either.
fn data_up_to(start: u64, hole: Option<u64>, size_bytes: u64) -> ByteRange {
    let end = hole.filter(|&hole| hole > start);
    let end = end.unwrap_or(start.saturating_add(PUNCHED_BYTES));
    ByteRange::new(start, end).clip(size_bytes)
}

impl DeviceMut for FileDevice {
    fn expect_uncut(&self, bytes: u64) -> Result<()> {
        self.expect_size(|found_bytes| found_bytes >= bytes)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let range = ByteRange::new(offset, offset.saturating_add(buf.len() as u64));
        self.note(range);
        self.file.write_all_at(buf, offset).map_err(|err| self.write_error(range, err))
    }

    fn write_all_vectored_at(&self, parts: &[&[u8]], offset: u64) -> Result<()> {
        // Scattered blocks come alone; the kernel takes a vector of one slower than a slice.
        if let [part] = parts {
            return self.write_all_at(part, offset);
        }
        let mut at = offset;
        for group in parts.chunks(SLICES_MAX) {
            let slices: Vec<IoSlice> = group.iter().map(|part| IoSlice::new(part)).collect();
            let total: usize = group.iter().map(|part| part.len()).sum();
            let range = ByteRange::new(at, at.saturating_add(total as u64));
            self.note(range);
            let written = match pwritev(&self.file, &slices, at) {
                Ok(written) => written,
                Err(Errno::INTR) => 0,
                Err(err) => return Err(self.write_error(range, err.into())),
            };
            // Short writes are rare (signals, a full disk): the rest goes slice by slice.
            for (rest, position) in unwritten(group, at, written) {
                self.write_all_at(rest, position)?;
            }
            at = range.end;
        }
        Ok(())
    }

    fn write_zeros_at(&self, range: ByteRange) -> Result<()> {
        if self.make_zeros(range) { Ok(()) } else { write_zeros(self, range) }
    }

    fn sync(&self) -> Result<()> {
        if self.kind == FileKind::Empty {
            return Ok(());
        }
        self.file.sync_all().map_err(|err| {
            Error::io(Kind::Write, "cannot bring what was written to the disk", err)
                .with_path(&self.path)
        })
    }

    fn can_set_size(&self) -> bool {
        self.kind == FileKind::Regular
    }

    fn set_size(&self, size_bytes: u64) -> Result<()> {
        let current = self.size();
        if self.kind != FileKind::Regular {
            if current == size_bytes {
                return Ok(());
            }
            let what = format!(
                "a block device cannot change its size: it has {current} bytes, the patch needs \
                 {size_bytes}"
            );
            return Err(Error::new(Kind::Size, what).with_path(&self.path));
        }
        let resized = match i64::try_from(size_bytes) {
            Ok(_) => self.file.set_len(size_bytes),
            Err(_) => Err(io::Error::from_raw_os_error(libc::EFBIG)),
        };
        resized.map_err(|err| {
            let what = format!("cannot set the size of the file to {size_bytes} bytes");
            Error::io(Kind::Write, what, err).with_path(&self.path)
        })?;
        self.size_bytes.store(size_bytes, Ordering::Release);
        Ok(())
    }
}

/// What is left of `parts`, one behind the other from `at` on, once `written` bytes of them are
/// written, and where it goes.
fn unwritten<'a>(
    parts: &[&'a [u8]],
    at: u64,
    written: usize,
) -> impl Iterator<Item = (&'a [u8], u64)> {
    let (mut skip, mut position) = (written, at);
    parts.iter().filter_map(move |part| {
        let done = skip.min(part.len());
        let rest = (&part[done..], position + done as u64);
        skip -= done;
        position += part.len() as u64;
        (!rest.0.is_empty()).then_some(rest)
    })
}

#[cfg(test)]
mod tests {
    use super::super::open::{TargetOptions, open_source, open_target};
    use super::*;
    use std::fs;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    fn file_of(dir: &tempfile::TempDir, content: &[u8]) -> PathBuf {
        let path = dir.path().join("image");
        fs::write(&path, content).unwrap();
        path
    }

    #[test]
    fn a_file_that_is_written_to_or_cut_is_noticed_by_its_readers_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = file_of(&dir, &[1; 100]);
        let (first, second) = (open_source(&path).unwrap(), open_source(&path).unwrap());
        assert!(!first.is_changed());
        let target = open_target(&path, TargetOptions::default()).unwrap();
        // Time stamps go in ticks of the kernel's clock: wait for another one.
        std::thread::sleep(std::time::Duration::from_millis(30));
        target.write_all_at(b"x", 50).unwrap();
        assert!(first.is_changed() && second.is_changed() && !target.is_changed());
        let third = open_source(&path).unwrap();
        assert!(!third.is_changed());
        target.set_size(10).unwrap();
        let err = target.set_size(1 << 63).unwrap_err();
        assert!(err.full_message().contains("File too large"), "{}", err.full_message());
        assert!(third.is_changed());
    }

    #[test]
    fn null_device_is_empty_and_keeps_its_size() {
        let null = open_target("/dev/null", TargetOptions::default()).unwrap();
        assert_eq!((null.size(), null.kind()), (0, FileKind::Empty));
        assert_eq!(null.next_data(0).unwrap(), None);
        null.set_size(0).unwrap();
        assert_eq!(null.set_size(1).unwrap_err().kind(), Kind::Size);
        null.sync().unwrap();
    }

    #[test]
    fn a_size_that_something_else_has_set_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let target = open_target(file.path(), TargetOptions::default()).unwrap();
        target.set_size(100).unwrap();
        target.expect_own_size().unwrap();
        target.expect_uncut(100).unwrap();
        file.as_file().set_len(99).unwrap();
        for err in [target.expect_own_size(), target.expect_uncut(100)].map(Result::unwrap_err) {
            assert_eq!(err.kind(), Kind::Transmission);
            assert!(err.full_message().contains("expected 100 bytes, found 99"), "{err}");
        }
        // Where only so many are ours.
        target.expect_uncut(99).unwrap();
    }

    #[test]
    fn what_cannot_be_made_durable_is_an_error() {
        // The kernel has no fsync for it, and says so.
        let path = Path::new("/dev/zero");
        let file = File::options().read(true).write(true).open(path).unwrap();
        let device = FileDevice::of_file(file, path, FileKind::Regular).unwrap();
        let err = device.sync().unwrap_err();
        assert_eq!(err.kind(), Kind::Write);
        assert!(err.full_message().contains("to the disk: /dev/zero"), "{}", err.full_message());
    }

    #[test]
    fn the_size_that_was_set_is_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let device = open_target(file_of(&dir, &[1; 100]), TargetOptions::default()).unwrap();
        assert!(device.can_set_size());
        for size_bytes in [5000, 10] {
            device.set_size(size_bytes).unwrap();
            assert_eq!(device.size(), size_bytes);
            assert_eq!(fs::metadata(device.path()).unwrap().len(), size_bytes);
        }
        assert!(!open_target("/dev/null", TargetOptions::default()).unwrap().can_set_size());
    }

    #[test]
    fn read_past_the_end_names_expected_and_found() {
        let dir = tempfile::tempdir().unwrap();
        let device = open_source(file_of(&dir, b"12345678")).unwrap();
        fs::write(device.path(), b"123").unwrap();
        let err = device.read_exact_at(&mut [0; 8], 0).unwrap_err();
        assert_eq!(err.kind(), Kind::Read);
        assert!(err.to_string().contains("expected 8 bytes, found 3"), "{err}");
    }

    #[test]
    fn holes_are_found_where_the_file_system_knows_them() {
        let dir = tempfile::tempdir().unwrap();
        let device = open_target(file_of(&dir, b"start"), TargetOptions::default()).unwrap();
        device.set_size(8 << 20).unwrap();
        device.write_all_at(b"middle", 4 << 20).unwrap();
        let first = device.next_data(0).unwrap().unwrap();
        assert_eq!(first.start, 0);
        let within = device.next_data(first.end - 1).unwrap();
        assert_eq!(within, Some(ByteRange::new(first.end - 1, first.end)));
        let second = device.next_data(first.end).unwrap();
        if first.end == device.size() {
            eprintln!("skipping: the file system of the test's folder knows no holes");
            return;
        }
        assert!(second.unwrap().contains(4 << 20));
        assert_eq!(device.next_data(second.unwrap().end).unwrap(), None);
        assert_eq!(device.next_data(8 << 20).unwrap(), None);
    }

    #[test]
    fn what_becomes_a_hole_while_it_is_asked_for_hides_nothing_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let device = open_target(file_of(&dir, b""), TargetOptions::default()).unwrap();
        device.set_size(16 << 20).unwrap();
        device.write_all_at(&[1; 4096], 8 << 20).unwrap();
        let (file, is_over) = (device.as_file().try_clone().unwrap(), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    file.write_all_at(&[2; 4096], 1 << 20).unwrap();
                    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    let _ = fallocate(&file, flags, 1 << 20, 4096);
                }
            });
            let find = |_| device.next_data(0).unwrap().is_some_and(|data| data.start <= 8 << 20);
            let is_found = (0..20_000).all(find);
            is_over.store(true, Ordering::Relaxed);
            assert!(is_found, "the block that nobody touches");
        });
        assert_eq!(data_up_to(5, Some(9), 20), ByteRange::new(5, 9));
        for hole in [Some(5), Some(4), None] {
            assert_eq!(data_up_to(5, hole, 20), ByteRange::new(5, 20));
            assert_eq!(data_up_to(5, hole, 1 << 40), ByteRange::new(5, 5 + PUNCHED_BYTES));
        }
        assert!(data_up_to(20, Some(20), 20).is_empty() && data_up_to(25, None, 20).is_empty());
    }

    #[test]
    fn zeros_become_a_hole_where_the_file_system_knows_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = file_of(&dir, &vec![7; 1 << 20]);
        let device = open_target(path, TargetOptions::default()).unwrap();
        device.write_zeros_at(ByteRange::new(65536, 3 * 65536)).unwrap();
        let mut found = vec![1; 1 << 20];
        device.read_exact_at(&mut found, 0).unwrap();
        let expected = [vec![7; 65536], vec![0; 2 * 65536], vec![7; 13 * 65536]].concat();
        assert!(found == expected);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(device.as_file(), flags, 65536, 4096).is_ok() {
            let data = device.next_data(65536).unwrap().unwrap();
            assert_eq!(data.start, 3 * 65536, "the zeros are stored");
        }
    }

    #[test]
    fn what_was_cut_off_is_an_error_and_no_hole() {
        let dir = tempfile::tempdir().unwrap();
        let path = file_of(&dir, &[1; 10_000]);
        let device = open_source(&path).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(5000).unwrap();
        for from in [5000, 9999] {
            assert_eq!(device.next_data(from).unwrap(), Some(ByteRange::new(from, 10_000)));
            assert_eq!(device.read_exact_at(&mut [0], from).unwrap_err().kind(), Kind::Read);
        }
        File::options().write(true).open(&path).unwrap().set_len(20_000).unwrap();
        assert_eq!(device.next_data(9999).unwrap(), None);
    }

    #[test]
    fn cache_is_left_as_it_was_found() {
        let dir = tempfile::tempdir().unwrap();
        let page = 4096;
        let path = file_of(&dir, &vec![7; 64 * page + 100]);
        let device = open_target(&path, TargetOptions::default()).unwrap();
        device.sync().unwrap();
        let everything = ByteRange::new(0, device.size());
        device.drop_cache(everything);
        let resident = || {
            let looked_at = Residency::of(&device.file, device.size()).unwrap();
            looked_at.note(everything);
            looked_at.take(everything, device.size())
        };
        if resident() != [ByteRange::new(0, 65 * page as u64)] {
            eprintln!("skipping: the file system of the test's folder keeps its files in memory");
            return;
        }
        device.advise(everything, Advice::Random);
        device.read_exact_at(&mut vec![0; 3 * page], 8 * page as u64).unwrap();
        let before = resident();
        assert_eq!(before.len(), 2, "three pages are there, in one run: {before:?}");

        device.keep_cache();
        device.will_need(ByteRange::new(0, 32 * page as u64));
        for start in (0..64).step_by(16) {
            device.read_exact_at(&mut vec![0; 16 * page], start * page as u64).unwrap();
        }
        device.read_exact_at(&mut [0; 100], 64 * page as u64).unwrap();
        device.write_all_at(&[9; 4096], 9 * page as u64).unwrap();
        device.write_all_at(&[9; 100], 20 * page as u64).unwrap();
        assert_eq!(resident(), []);
        device.sync().unwrap();
        device.done_with(ByteRange::new(0, 10 * page as u64 + 1));
        device.done_with(ByteRange::new(10 * page as u64 + 1, device.size()));
        assert_eq!(resident().last(), before.last());
        device.done_with(everything);
        assert_eq!(resident(), before);
    }

    #[test]
    fn rest_of_a_short_write_goes_where_it_belongs() {
        let parts: [&[u8]; 5] = [b"one", b"", b"three", b"4", b"fifth"];
        let whole = parts.concat();
        for written in 0..=whole.len() {
            let mut found = [&whole[..written], &vec![b'?'; whole.len() - written]].concat();
            for (rest, position) in unwritten(&parts, 1000, written) {
                let from = position as usize - 1000;
                assert!(from >= written, "{written} bytes, and again from {from} on");
                found[from..][..rest.len()].copy_from_slice(rest);
            }
            assert_eq!(found, whole, "after {written} bytes");
        }
    }

    #[test]
    fn vectored_write_of_more_slices_than_one_call_takes_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let device = open_target(file_of(&dir, b""), TargetOptions::default()).unwrap();
        let content: Vec<u8> = (0..7 * (SLICES_MAX + 3)).map(|i| (i % 251) as u8).collect();
        let parts: Vec<&[u8]> = content.chunks(7).collect();
        device.write_all_vectored_at(&parts, 5).unwrap();
        let found = fs::read(device.path()).unwrap();
        assert_eq!(found[5..], content[..]);
    }
}

//! A patch file over the device that it is meant for.
//!
//! All that differs is known from the patch's index; data are read when they are asked for,
//! in place. Reads of the two local inputs are made by the thread that asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::change::{Change, Done, Image};
use super::status::{FORMAT, Form, Link, ScanState, Status};
use crate::device::{Device, DeviceMut};
use crate::diff::changed_under_mount;
use crate::error::{Error, Kind, Result};
use crate::patch::{PatchIndex, Seal, SizePlan};
use crate::units::{ByteRange, SizeRule};

/// The longest piece of the patch file that is read at once for several records, in bytes.
const GROUP_BYTES_MAX: u64 = 256 * 1024;
/// Records that lie this close behind each other in the patch file are read together.
const GAP_BYTES_MAX: u64 = 64;

/// A stored change.
pub struct StoredChange {
    patch: Arc<dyn Device>,
    base: Arc<dyn Device>,
    index: PatchIndex,
    sizes: SizePlan,
    merged_bytes: u64,
    differing_bytes: u64,
    source_changed: AtomicBool,
    failed_reads: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl StoredChange {
    /// Validates all of `patch` and indexes it. `rule` says what differing sizes mean for a patch
    /// with such a seal, as for applying it to `base`, so that `merged` is what the target would be
    /// then.
    ///
    /// # Errors
    /// `Kind::Patch`, with the position, for a malformed patch; `Kind::Size` when applying
    /// would refuse the sizes, or no file can be that large; `Kind::Read`.
    pub fn open<B: DeviceMut + 'static>(
        patch: Arc<dyn Device>,
        base: Arc<B>,
        rule: impl FnOnce(Option<&Seal>) -> SizeRule,
    ) -> Result<Self> {
        let index = PatchIndex::open(&*patch)?;
        let rule = rule(index.seal().map(|found| &found.seal));
        let plan = SizePlan::new(rule, &*base, index.header().size_bytes)?;
        let merged_bytes = plan.resize_bytes.unwrap_or(plan.before_bytes);
        if i64::try_from(merged_bytes).is_err() {
            let what = format!(
                "the patch makes a device of {merged_bytes} bytes, expected at most {}",
                i64::MAX
            );
            return Err(Error::new(Kind::Size, what).with_path(patch.path()));
        }
        Ok(Self {
            differing_bytes: index.changed_bytes(merged_bytes),
            patch,
            base,
            index,
            sizes: plan,
            merged_bytes,
            source_changed: AtomicBool::new(false),
            failed_reads: AtomicU64::new(0),
            last_error: Mutex::new(None),
        })
    }

    /// The index of the patch.
    #[must_use]
    pub fn index(&self) -> &PatchIndex {
        &self.index
    }

    /// What the patch means for the size of the base.
    #[must_use]
    pub fn sizes(&self) -> &SizePlan {
        &self.sizes
    }

    /// Keeps `warning` for the status, as if it were what failed last.
    pub fn note(&self, warning: String) {
        *self.last_error.lock() = Some(warning);
    }

    fn read_now(&self, image: Image, range: ByteRange) -> Result<Vec<u8>> {
        let len = usize::try_from(range.len()).map_err(|err| {
            Error::new(Kind::Read, "a read does not fit memory").with_range(range).with_source(err)
        })?;
        let mut out = vec![0; len];
        match image {
            Image::Original => self.base.read_exact_at(&mut out, range.start)?,
            Image::Merged => self.read_merged(range, &mut out)?,
        }
        Ok(out)
    }

    /// Fills `out`, which is zeros, with `range` of the merged image.
    fn read_merged(&self, range: ByteRange, out: &mut [u8]) -> Result<()> {
        // Both are inside of `out`.
        let place = |at: u64| (at - range.start) as usize;
        let mut group = Group::default();
        for piece in self.index.pieces(range) {
            let target = place(piece.range.start)..place(piece.range.end);
            match piece.position {
                Some(position) => {
                    let stored = ByteRange::new(position, position + piece.range.len());
                    if !group.takes(stored) {
                        group.read(&*self.patch, out)?;
                    }
                    group.add(target.start, stored);
                }
                // Behind the base's end the target grows by zeros.
                None => {
                    let old = piece.range.clip(self.base.size());
                    if !old.is_empty() {
                        let target = place(old.start)..place(old.end);
                        self.base.read_exact_at(&mut out[target], old.start)?;
                    }
                }
            }
        }
        group.read(&*self.patch, out)
    }

    /// Passes `result` on unless an input was changed meanwhile; keeps what failed for the
    /// status.
    fn judge<T>(&self, result: Result<T>) -> Result<T> {
        let changed = [&self.patch, &self.base].into_iter().find(|input| input.is_changed());
        let result = match changed {
            Some(input) => {
                self.source_changed.store(true, Ordering::Release);
                Err(changed_under_mount(input.path()))
            }
            None => result,
        };
        if let Err(err) = &result {
            self.failed_reads.fetch_add(1, Ordering::Relaxed);
            *self.last_error.lock() = Some(err.full_message());
        }
        result
    }

    fn next_merged_data(&self, from: u64) -> Result<Option<ByteRange>> {
        let rest = ByteRange::new(from, self.merged_bytes);
        let clipped = |range: ByteRange| Some(range.intersect(&rest)).filter(|r| !r.is_empty());
        let stored = self.index.next_extent(from).and_then(clipped);
        if stored.is_some_and(|stored| stored.start == from) {
            return Ok(stored);
        }
        let old = self.base.next_data(from)?.and_then(clipped);
        Ok(match (stored, old) {
            (Some(stored), Some(old)) if stored.start < old.start => Some(stored),
            (stored, old) => old.or(stored),
        })
    }
}

impl Change for StoredChange {
    fn image_bytes(&self, image: Image) -> u64 {
        match image {
            Image::Merged => self.merged_bytes,
            Image::Original => self.base.size(),
        }
    }

    fn read(&self, image: Image, range: ByteRange, done: Done<Vec<u8>>) {
        done(self.judge(self.read_now(image, range)));
    }

    fn next_data(&self, image: Image, from: u64) -> Result<Option<ByteRange>> {
        self.judge(match image {
            Image::Merged => self.next_merged_data(from),
            Image::Original => self.base.next_data(from),
        })
    }

    fn next_extent(&self, from: u64, done: Done<Option<ByteRange>>) {
        let extent = self.index.next_extent(from).map(|extent| extent.clip(self.merged_bytes));
        done(Ok(extent.filter(|extent| extent.end > from && !extent.is_empty())));
    }

    fn changed_ranges(&self) -> Option<u64> {
        Some(self.index.extents(self.merged_bytes))
    }

    fn read_patch(&self, offset: u64, len: u32, done: Done<Vec<u8>>) {
        let end = offset.saturating_add(u64::from(len));
        let range = ByteRange::new(offset, end).clip(self.index.patch_bytes());
        // At most `len` bytes, which fits.
        let mut out = vec![0; range.len() as usize];
        let result = match range.is_empty() {
            true => Ok(()),
            false => self.judge(self.patch.read_exact_at(&mut out, range.start)),
        };
        done(result.map(|()| out));
    }

    fn patch_bytes(&self) -> Option<u64> {
        Some(self.index.patch_bytes())
    }

    fn status(&self) -> Status {
        let seen = self.source_changed.load(Ordering::Acquire);
        Status {
            format: FORMAT,
            form: Form::Stored,
            direction: None,
            merged_bytes: self.merged_bytes,
            original_bytes: self.base.size(),
            patch_bytes: Some(self.index.patch_bytes()),
            block_bytes: None,
            total_bytes: self.merged_bytes,
            compared_bytes: self.merged_bytes,
            differing_bytes: self.differing_bytes,
            sent_bytes: 0,
            received_bytes: 0,
            requests: 0,
            scan: ScanState::Done,
            link: Link::None,
            source_changed: seen || self.patch.is_changed() || self.base.is_changed(),
            failed_reads: self.failed_reads.load(Ordering::Relaxed),
            last_error: self.last_error.lock().clone(),
        }
    }
}

/// Pieces that are near each other in the patch file, to be read at once.
#[derive(Default)]
struct Group {
    /// Where they are in the patch file, what lies between included.
    span: Option<ByteRange>,
    /// Index of the first byte in the output, and place in the patch file.
    parts: Vec<(usize, ByteRange)>,
}

impl Group {
    fn takes(&self, stored: ByteRange) -> bool {
        self.span.is_none_or(|span| {
            stored.start >= span.end
                && stored.start - span.end <= GAP_BYTES_MAX
                && stored.end - span.start <= GROUP_BYTES_MAX
        })
    }

    fn add(&mut self, target: usize, stored: ByteRange) {
        let start = self.span.map_or(stored.start, |span| span.start);
        self.span = Some(ByteRange::new(start, stored.end));
        self.parts.push((target, stored));
    }

    /// Reads the pieces to their places in `out`; the group is empty then.
    fn read(&mut self, patch: &dyn Device, out: &mut [u8]) -> Result<()> {
        let Some(span) = self.span.take() else { return Ok(()) };
        if let [(target, stored)] = self.parts[..] {
            let len = stored.len() as usize;
            patch.read_exact_at(&mut out[target..target + len], stored.start)?;
        } else {
            // At most `GROUP_BYTES_MAX`.
            let mut bytes = vec![0; span.len() as usize];
            patch.read_exact_at(&mut bytes, span.start)?;
            for &(target, stored) in &self.parts {
                let at = (stored.start - span.start) as usize;
                let len = stored.len() as usize;
                out[target..target + len].copy_from_slice(&bytes[at..at + len]);
            }
        }
        self.parts.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::faulty::{Fault, FaultyDevice, Operation};
    use crate::device::{MemoryDevice, open_source};
    use crate::patch::{Header, PatchWriter};
    use std::fs;
    use std::sync::mpsc;
    use std::time::Duration;

    fn patch_of(size_bytes: u64, blocks: &[(u64, &[u8])]) -> Vec<u8> {
        let header = Header { size_bytes, name: b"/etc/passwd".to_vec() };
        let mut writer = PatchWriter::new(Vec::new(), &header).unwrap();
        for (offset, data) in blocks {
            writer.write_block(*offset, data).unwrap();
        }
        writer.finish(None).unwrap()
    }

    fn open(patch: &[u8], base: &[u8], rule: SizeRule) -> Result<StoredChange> {
        let base = MemoryDevice::new(base).with_path("base").with_holes(4);
        StoredChange::open(Arc::new(MemoryDevice::new(patch)), Arc::new(base), |_| rule)
    }

    fn read(change: &StoredChange, image: Image, range: ByteRange) -> Result<Vec<u8>> {
        let (sender, receiver) = mpsc::channel();
        change.read(image, range, Box::new(move |result| sender.send(result).unwrap()));
        receiver.recv().unwrap()
    }

    fn whole(change: &StoredChange, image: Image) -> Vec<u8> {
        read(change, image, ByteRange::new(0, change.image_bytes(image))).unwrap()
    }

    fn extents(change: &StoredChange) -> Vec<ByteRange> {
        let (sender, receiver) = mpsc::channel();
        let mut all = vec![];
        let mut from = 0;
        loop {
            let sender = sender.clone();
            change.next_extent(from, Box::new(move |result| sender.send(result).unwrap()));
            let Some(extent) = receiver.recv().unwrap().unwrap() else { return all };
            all.push(extent);
            from = extent.end;
        }
    }

    #[test]
    fn merged_has_the_size_and_bytes_that_applying_would_leave() {
        let patch = patch_of(10, &[(2, b"cd"), (8, b"ij")]);
        let longer = b"ABCDEFGHIJKLMN";
        let shorter = b"ABCDE";
        let merged = |base: &[u8], rule| {
            let change = open(&patch, base, rule).unwrap();
            assert_eq!(whole(&change, Image::Original), base);
            let changed: u64 = extents(&change).iter().map(ByteRange::len).sum();
            assert_eq!(changed, change.differing_bytes);
            whole(&change, Image::Merged)
        };
        assert_eq!(merged(&longer[..10], SizeRule::Strict), b"ABcdEFGHij");
        assert_eq!(merged(longer, SizeRule::Resize), b"ABcdEFGHij");
        assert_eq!(merged(shorter, SizeRule::Resize), b"ABcdE\0\0\0ij");
        assert_eq!(merged(b"", SizeRule::Resize), b"\0\0cd\0\0\0\0ij");
        assert_eq!(merged(longer, SizeRule::MinSize), b"ABcdEFGHijKLMN");
        assert_eq!(merged(shorter, SizeRule::MinSize), b"ABcdE");
        assert_eq!(merged(&longer[..9], SizeRule::MinSize), b"ABcdEFGHi");
        assert_eq!(merged(b"ABC", SizeRule::MinSize), b"ABc");
        assert_eq!(merged(b"", SizeRule::MinSize), b"");
    }

    #[test]
    fn differing_sizes_are_refused_when_strict() {
        let patch = patch_of(10, &[]);
        let err = open(&patch, &[0; 9], SizeRule::Strict).err().unwrap();
        assert_eq!(err.exit_code(), 3);
        let huge = patch_of(1 << 63, &[]);
        assert_eq!(open(&huge, b"", SizeRule::Resize).err().unwrap().exit_code(), 3);
        assert!(open(&patch_of(i64::MAX as u64, &[]), b"", SizeRule::Resize).is_ok());
    }

    #[test]
    fn malformed_patch_is_refused_before_sizes_are_looked_at() {
        let err = open(b"no patch", &[], SizeRule::Strict).err().unwrap();
        assert_eq!(err.exit_code(), 2);
    }

    #[test]
    fn holes_are_those_of_the_base_without_the_records() {
        let base = [&[0; 8][..], b"data", &[0; 12]].concat();
        let change = open(&patch_of(40, &[(2, b"xx"), (30, b"yy")]), &base, SizeRule::Resize);
        let change = change.unwrap();
        let next = |image, from| change.next_data(image, from).unwrap();
        assert_eq!(next(Image::Merged, 0), Some(ByteRange::new(2, 4)));
        assert_eq!(next(Image::Merged, 3), Some(ByteRange::new(3, 4)));
        assert_eq!(next(Image::Merged, 4), Some(ByteRange::new(8, 12)));
        assert_eq!(next(Image::Merged, 12), Some(ByteRange::new(30, 32)));
        assert_eq!(next(Image::Merged, 32), None);
        assert_eq!(next(Image::Original, 0), Some(ByteRange::new(8, 12)));
        assert_eq!(next(Image::Original, 12), None);
    }

    #[test]
    fn neighbouring_records_are_read_from_the_patch_at_once() {
        let blocks: Vec<_> = (0..64u64).map(|i| (i * 4096, vec![i as u8; 4096])).collect();
        let blocks: Vec<_> = blocks.iter().map(|(at, data)| (*at, &data[..])).collect();
        let patch = MemoryDevice::new(patch_of(1 << 20, &blocks));
        let patch = Arc::new(FaultyDevice::new(patch, []));
        let base = Arc::new(FaultyDevice::new(MemoryDevice::new(vec![7; 1 << 20]), []));
        let change = StoredChange::open(patch.clone(), base.clone(), |_| SizeRule::Strict).unwrap();
        assert_eq!(base.calls().len(), 0);
        patch.forget_calls();
        read(&change, Image::Merged, ByteRange::new(0, 128 * 1024)).unwrap();
        assert_eq!(patch.calls().len(), 1);
        assert_eq!(patch.read_bytes(), 128 * 1024 + 31 * 10);
        assert_eq!(base.calls().len(), 0);
        read(&change, Image::Merged, ByteRange::new(512 * 1024, 516 * 1024)).unwrap();
        assert_eq!((patch.calls().len(), base.calls().len()), (1, 1));
        assert_eq!(base.read_bytes(), 4096);
    }

    #[test]
    fn what_lies_between_records_that_are_far_apart_is_not_read() {
        let blocks: [(u64, &[u8]); 3] = [(0, &[1; 100]), (5000, &[2; 1000]), (100, &[3; 100])];
        let patch = FaultyDevice::new(MemoryDevice::new(patch_of(10_000, &blocks)), []);
        let patch = Arc::new(patch);
        let base = Arc::new(MemoryDevice::new(vec![7; 10_000]));
        let change = StoredChange::open(patch.clone(), base, |_| SizeRule::Strict).unwrap();
        patch.forget_calls();
        let bytes = read(&change, Image::Merged, ByteRange::new(0, 200)).unwrap();
        assert_eq!(bytes, [[1; 100], [3; 100]].concat());
        assert_eq!((patch.calls().len(), patch.read_bytes()), (2, 200));
    }

    #[test]
    fn read_error_is_an_error_of_that_read_and_told_in_the_status() {
        let base = FaultyDevice::new(MemoryDevice::new([1; 10]), [Fault::once(Operation::Read, 1)]);
        let patch = Arc::new(MemoryDevice::new(patch_of(10, &[(2, b"xx")])));
        let change = StoredChange::open(patch, Arc::new(base), |_| SizeRule::Strict).unwrap();
        let all = ByteRange::new(0, 10);
        assert_eq!(change.status().last_error, None);
        // The second of the two pieces of the base.
        assert_eq!(read(&change, Image::Merged, all).unwrap_err().kind().errno(), libc::EIO);
        assert!(change.status().last_error.unwrap().contains("injected fault"));
        let again = read(&change, Image::Merged, all).unwrap();
        assert_eq!(again, [1, 1, b'x', b'x', 1, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn inputs_that_change_under_the_mount_are_errors_and_never_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let (patch, base) = (dir.path().join("patch"), dir.path().join("base"));
        for spoiled in [&patch, &base] {
            fs::write(&patch, patch_of(10_000, &[(0, &[1; 5000])])).unwrap();
            fs::write(&base, [2; 10_000]).unwrap();
            let change = StoredChange::open(
                Arc::new(open_source(&patch).unwrap()),
                Arc::new(open_source(&base).unwrap()),
                |_| SizeRule::Strict,
            )
            .unwrap();
            assert!(!change.status().source_changed);
            assert!(read(&change, Image::Merged, ByteRange::new(4999, 5001)).is_ok());
            // Time stamps go in ticks of the kernel's clock: wait for another one.
            std::thread::sleep(Duration::from_millis(30));
            fs::OpenOptions::new().write(true).open(spoiled).unwrap().set_len(100).unwrap();
            let status = change.status();
            assert!(status.source_changed, "before anybody reads");
            assert_eq!((status.failed_reads, status.last_error), (0, None));
            for range in [ByteRange::new(0, 50), ByteRange::new(6000, 7000)] {
                let err = read(&change, Image::Merged, range).unwrap_err();
                assert_eq!(err.kind().errno(), libc::EIO);
                assert_eq!(err.path(), Some(spoiled.as_path()));
            }
            assert_eq!(change.status().failed_reads, 2);
            assert!(change.next_data(Image::Merged, 6000).is_err());
            assert!(change.status().source_changed);
        }
    }

    #[test]
    fn patch_is_the_files_own_bytes_up_to_its_end() {
        let patch = [&patch_of(10, &[(2, b"xx")])[..], &[9; 100]].concat();
        let change = open(&patch, &[0; 10], SizeRule::Strict).unwrap();
        let (sender, receiver) = mpsc::channel();
        for (offset, len) in [(0, u32::MAX), (3, 4), (patch.len() as u64, 1), (u64::MAX, 9)] {
            let sender = sender.clone();
            change.read_patch(offset, len, Box::new(move |r| sender.send(r.unwrap()).unwrap()));
            let start = patch.len().min(offset as usize);
            let end = patch.len().min(start.saturating_add(len as usize));
            assert_eq!(receiver.recv().unwrap(), patch[start..end]);
        }
        assert_eq!(change.patch_bytes(), Some(patch.len() as u64));
    }
}

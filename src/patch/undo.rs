//! A patch that takes another one back: what it will overwrite, as it is now.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::check::Summary;
use super::format::Header;
use super::places::Places;
use super::reader::PatchReader;
use super::seal::Seal;
use super::sizes::SizePlan;
use super::sweep::Stretch;
use super::visible::visible_records;
use super::writer::PatchWriter;
use crate::buffer::PageBuffer;
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::naming::{folder_of, name_in_the_making};
use crate::units::{ByteRange, MIB};

/// Bytes of the device that are saved at a time.
const SAVE_BYTES: u64 = MIB;

/// Fails when there is something at `path`: an undo patch is never overwritten.
///
/// # Errors
/// `Kind::Usage` when there is, `Kind::Write` when it cannot be looked at.
pub fn refuse_existing(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(unmade(err).with_path(path)),
        Ok(_) => Err(exists(path)),
    }
}

/// Saves to `path` what the patch in `reader`, which `summary` is of, will change in `target`: the
/// bytes under its records, each once, what a smaller size cuts off, and the size. When this
/// returns the undo patch is whole, durable and has its name; before, nothing has that name.
///
/// # Errors
/// `Kind::Usage` when `path` exists, `Kind::NoRoom`, `Kind::Write`, what reader, device and `check`
/// fail with.
pub fn write_undo<R: Read + Seek>(
    path: &Path,
    target: &dyn Device,
    sizes: &SizePlan,
    reader: &mut PatchReader<R>,
    summary: &Summary,
    check: &dyn Fn() -> Result<()>,
) -> Result<()> {
    refuse_existing(path)?;
    let failed = |err| unmade(err).with_path(path);
    let partial = Partial::create(path).map_err(failed)?;
    let writer = partial.begin(target).map_err(|err| err.with_path(path))?;
    let old = PageBuffer::new(SAVE_BYTES as usize);
    let mut saver = Saver { path, target, check, run: ByteRange::new(0, 0), old, writer };
    saver.save_records(sizes, reader, summary)?;
    saver.save_cut_off(sizes)?;
    // Its own size counts without a --diffsize; its digest finds out when it was damaged.
    let seal = Seal { resize: true, ..Seal::default() };
    let mut done = saver.writer.finish_sealed(None, &seal).map_err(|err| unwritten(err, path))?;
    io::Write::flush(&mut done).and_then(|()| done.sync_all()).map_err(failed)?;
    partial.give_name(path)
}

/// Copies ranges of the target into the undo patch, neighbours together.
struct Saver<'a> {
    /// What messages call the undo patch.
    path: &'a Path,
    target: &'a dyn Device,
    check: &'a dyn Fn() -> Result<()>,
    writer: PatchWriter<File>,
    /// Seen and not yet saved: at most [`SAVE_BYTES`].
    run: ByteRange,
    /// What it held.
    old: PageBuffer,
}

impl Saver<'_> {
    fn save_records<R: Read + Seek>(
        &mut self,
        sizes: &SizePlan,
        reader: &mut PatchReader<R>,
        summary: &Summary,
    ) -> Result<()> {
        let end = sizes.limit_bytes.min(sizes.before_bytes);
        if summary.ascending {
            let mut found = Places::NONE;
            while let Some(place) = reader.next_place()? {
                found.append(Places::of(place));
                self.save(place.range.clip(end))?;
            }
            summary.places.expect(found)?;
        } else {
            // However often a byte is written.
            let mut saved = 0;
            for Stretch { range, .. } in visible_records(reader, summary.places, self.check)? {
                let new = ByteRange::new(range.start.max(saved), range.end.max(saved));
                self.save(new.clip(end))?;
                saved = new.end;
            }
        }
        self.save_run()
    }

    /// Saves a range of at most [`SAVE_BYTES`], now or with the next one.
    fn save(&mut self, range: ByteRange) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        if range.start != self.run.end || self.run.len() + range.len() > SAVE_BYTES {
            self.save_run()?;
            self.run = range;
        }
        self.run.end = range.end;
        Ok(())
    }

    /// What lies behind a smaller size. Holes come back by setting the size alone.
    fn save_cut_off(&mut self, sizes: &SizePlan) -> Result<()> {
        let Some(mut at) = sizes.resize_bytes else { return Ok(()) };
        while at < sizes.before_bytes {
            let Some(data) = self.target.next_data(at)? else { return Ok(()) };
            for piece in data.pieces(SAVE_BYTES) {
                self.run = piece;
                self.save_run()?;
            }
            at = data.end;
        }
        Ok(())
    }

    fn save_run(&mut self) -> Result<()> {
        (self.check)()?;
        let old = &mut self.old[..self.run.len() as usize];
        self.target.read_exact_at(old, self.run.start)?;
        self.writer.write_block(self.run.start, old).map_err(|err| unwritten(err, self.path))
    }
}

/// There is another patch, which is only read.
fn unwritten(err: Error, path: &Path) -> Error {
    let kind = err.cause().map_or(err.kind(), Kind::of_unkept);
    err.reworded("cannot write the undo patch").of_kind(kind).with_path(path)
}

fn unmade(err: io::Error) -> Error {
    Error::io(Kind::of_unkept(&err), "cannot make the undo patch", err)
}

/// The undo patch before it has its name; vanishes unless it gets one.
struct Partial {
    path: PathBuf,
    file: File,
    /// Open from the beginning: once there is a name, nothing but the disk may fail.
    folder: File,
}

impl Partial {
    fn create(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let path = path.with_file_name(name_in_the_making("", name, "partial-"));
        let folder = File::open(folder_of(&path))?;
        let mut options = OpenOptions::new();
        // What was on a disk is nobody else's business.
        let file = options.write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { path, file, folder })
    }

    fn begin(&self, target: &dyn Device) -> Result<PatchWriter<File>> {
        let failed = |err| unmade(err).with_path(&self.path);
        let file = self.file.try_clone().map_err(failed)?;
        // The undo patch may be applied from another folder.
        let name = std::path::absolute(target.path()).unwrap_or_else(|_| target.path().into());
        let header =
            Header { size_bytes: target.size(), name: name.as_os_str().as_bytes().to_vec() };
        PatchWriter::new_sealed(file, &header)
    }

    fn give_name(self, path: &Path) -> Result<()> {
        let unnamed = |err| {
            Error::io(Kind::of_unkept(&err), "cannot name the undo patch", err).with_path(path)
        };
        let failed = |err: io::Error| {
            if err.kind() == io::ErrorKind::AlreadyExists {
                return exists(path);
            }
            unnamed(err)
        };
        let flags = RenameFlags::RENAME_NOREPLACE;
        match renameat2(AT_FDCWD, &self.path, AT_FDCWD, path, flags).map_err(io::Error::from) {
            Ok(()) => {}
            // Some file systems know no such renaming, some kernels and filters of system calls not
            // either; a link never replaces anything as well.
            Err(err)
                if matches!(
                    err.raw_os_error(),
                    Some(libc::EINVAL | libc::ENOSYS | libc::EPERM)
                ) =>
            {
                fs::hard_link(&self.path, path).map_err(failed)?;
            }
            Err(err) => return Err(failed(err)),
        }
        match self.folder.sync_all() {
            // A file system whose folders cannot be synced keeps them in its own way.
            Err(err) if err.raw_os_error() != Some(libc::EINVAL) => {
                // Nothing is written yet, and a name that may vanish would be in the way.
                let _ = fs::remove_file(path);
                Err(unnamed(err))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After the renaming there is nothing of that name.
        let _ = fs::remove_file(&self.path);
    }
}

fn exists(path: &Path) -> Error {
    let is_file = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    let what = match is_file {
        true => {
            "the file of --undo exists already (if a run that was cut short has left it, keep it and \
             run the same again without --undo; else give another name)"
        }
        false => "--undo must name a new file",
    };
    Error::new(Kind::Usage, what).with_path(path)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::tests::written_patch as patch_of;
    use super::super::{Apply, Written, Zeros, check};
    use super::*;
    use crate::device::faulty::{Call, Fault, FaultyDevice, Operation};
    use crate::device::{DeviceMut, MemoryDevice};
    use crate::progress::Silent;
    use crate::units::SizeRule;
    use proptest::prelude::*;

    fn undo_of(target: &dyn DeviceMut, rule: SizeRule, patch: &[u8], path: &Path) -> Result<()> {
        let open = || PatchReader::new(Cursor::new(patch), "patch");
        let summary = check(open()?, &|| Ok(()))?;
        let sizes = SizePlan::new(rule, target, summary.header.size_bytes)?;
        write_undo(path, target, &sizes, &mut open()?, &summary, &|| Ok(()))
    }

    fn apply(target: &dyn DeviceMut, rule: SizeRule, patch: &[u8]) {
        let mut reader = PatchReader::new(patch, "patch").unwrap();
        let sizes = SizePlan::new(rule, target, reader.header().size_bytes).unwrap();
        sizes.grow(target).unwrap();
        let limit_bytes = sizes.limit_bytes;
        let apply = Apply {
            target,
            limit_bytes,
            zeros: Zeros::Written,
            signal: &|| None,
            progress: &Silent,
        };
        apply.write_records(&mut reader, &mut Written::default(), &|| {}).unwrap();
        sizes.shrink(target).unwrap();
    }

    #[test]
    fn existing_file_is_neither_overwritten_nor_are_leftovers_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("undo");
        let target =
            FaultyDevice::new(MemoryDevice::new([1; 100]), [Fault::once(Operation::Read, 0)]);
        let patch = patch_of(100, &[(5, vec![2; 5])]);
        assert_eq!(undo_of(&target, SizeRule::Strict, &patch, &path).unwrap_err().exit_code(), 6);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        undo_of(&target, SizeRule::Strict, &patch, &path).unwrap();
        let before = fs::read(&path).unwrap();
        assert_eq!(undo_of(&target, SizeRule::Strict, &patch, &path).unwrap_err().exit_code(), 1);
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn neighbours_are_saved_together_up_to_a_mebibyte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("undo");
        // Records that do not end with a mebibyte.
        let (record, size) = (50_000, 3_000_000);
        let records: Vec<_> =
            (0..size / record).map(|i| ((i * record) as u64, vec![2; record])).collect();
        let patch = patch_of(size as u64, &records);
        let target = FaultyDevice::new(MemoryDevice::new(vec![1; size]), []);
        undo_of(&target, SizeRule::Strict, &patch, &path).unwrap();
        assert_eq!(target.read_bytes(), size as u64);
        let reads = target.calls().iter().filter(|call| matches!(call, Call::Read(_))).count();
        assert!(reads <= size / SAVE_BYTES as usize + 2, "{reads} reads");
        apply(&target, SizeRule::Strict, &patch);
        apply(&target, SizeRule::Strict, &fs::read(&path).unwrap());
        assert!(target.inner().content() == vec![1; size]);
    }

    /// The undo patch covers what was seen, and what is written must be nothing else.
    #[test]
    fn a_patch_that_changes_meanwhile_leaves_no_undo_patch() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("undo");
        let target = MemoryDevice::new([1; 100]);
        let patch = |blocks: &[(u64, Vec<u8>)]| patch_of(100, blocks);
        let (a, b, c) = ((5, vec![2; 5]), (20, vec![3; 5]), (60, vec![4; 5]));
        for (seen, found) in [
            (patch(&[a.clone(), b.clone()]), patch(&[a.clone(), c.clone()])),
            (patch(&[b.clone(), a.clone()]), patch(&[c.clone(), a.clone()])),
            (patch(std::slice::from_ref(&a)), patch(&[a, b, c])),
        ] {
            let open = |patch| PatchReader::new(Cursor::new(patch), "patch").unwrap();
            let summary = check(open(&seen), &|| Ok(())).unwrap();
            let sizes = SizePlan::new(SizeRule::Strict, &target, 100).unwrap();
            let made = write_undo(&path, &target, &sizes, &mut open(&found), &summary, &|| Ok(()));
            let err = made.unwrap_err();
            assert_eq!(err.kind(), Kind::Patch);
            assert!(err.to_string().contains("changes while it is read"), "{err}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_wish_for_an_end_leaves_no_undo_patch() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("undo");
        let target = MemoryDevice::new([1; 100]);
        let patch = patch_of(100, &[(5, vec![2; 5]), (50, vec![3; 5])]);
        let open = || PatchReader::new(Cursor::new(&patch), "patch").unwrap();
        let summary = check(open(), &|| Ok(())).unwrap();
        let sizes = SizePlan::new(SizeRule::Strict, &target, 100).unwrap();
        let stop = || Err(Error::new(Kind::Interrupted(libc::SIGINT), "stop"));
        let err = write_undo(&path, &target, &sizes, &mut open(), &summary, &stop).unwrap_err();
        assert_eq!(err.kind(), Kind::Interrupted(libc::SIGINT));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn undo_restores_the_device_byte_for_byte(
            blocks in proptest::collection::vec((0u64..200, 1usize..60), 0..12),
            old in proptest::collection::vec(any::<u8>(), 0..400),
            size in 260u64..300,
            rule in prop_oneof![Just(SizeRule::Resize), Just(SizeRule::MinSize)],
        ) {
            let blocks: Vec<_> =
                (1u8..).zip(blocks).map(|(i, (at, len))| (at, vec![i; len])).collect();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("undo");
            let target = MemoryDevice::new(old.clone()).with_holes(16);
            let patch = patch_of(size, &blocks);
            undo_of(&target, rule, &patch, &path).unwrap();
            apply(&target, rule, &patch);
            let undo = fs::read(&path).unwrap();
            let summary = check(PatchReader::new(Cursor::new(&undo), "undo").unwrap(), &|| Ok(())).unwrap();
            let found = Seal::decode(&summary.trailer.tail).unwrap().unwrap();
            prop_assert!(found.seal.resize);
            prop_assert!(summary.data_bytes <= old.len() as u64, "nothing is saved twice");
            apply(&target, SizeRule::Resize, &undo);
            prop_assert_eq!(target.content(), old);
        }
    }
}

//! Reads and writes that fail, are short, or are interrupted: the error that is documented, and
//! a way back and one forward.

use std::fs;
use std::io::{self, Cursor, ErrorKind, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use super::{Making, Options, apply_checked, apply_stream, image};
use crate::device::MemoryDevice;
use crate::device::faulty::{Fault, FaultyDevice, Operation};
use crate::digest::Algorithm;
use crate::error::Kind;
use crate::patch::Zeros;
use crate::patch::{Header, Layer, PatchWriter, Squash};

const OPERATIONS: [Operation; 4] =
    [Operation::Read, Operation::Write, Operation::SetSize, Operation::Sync];

/// Two images of these sizes that differ here and there, and the sealed patch.
fn images(old_bytes: usize, new_bytes: usize) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let old = image(1, old_bytes);
    let mut new = old.clone();
    new.resize(new_bytes, 3);
    for at in (0..new_bytes - 3000).step_by(9000) {
        new[at..at + 2000].fill((at % 3) as u8);
    }
    let patch = Making {
        old: &old,
        new: &new,
        block_bytes: 512,
        algorithm: Algorithm::Md5,
        checksum: Some(Algorithm::Sha256),
        identities: [b"", b""],
    }
    .sealed();
    (old, new, patch)
}

#[test]
fn every_call_of_the_target_may_fail() {
    let folder = tempfile::tempdir().unwrap();
    let undo_path = folder.path().join("undo");
    let mut faults = 0;
    for (old_bytes, new_bytes) in [(90_000, 90_000), (90_000, 40_000), (40_000, 90_000)] {
        let (old, new, patch) = images(old_bytes, new_bytes);
        let patch = || Cursor::new(&patch);
        for options in 0..8 {
            let undo = (options & 1 > 0).then_some(&*undo_path);
            let zeros = [Zeros::Written, Zeros::Holes][options >> 1 & 1];
            let verify = options & 4 > 0;
            let options = Options { undo, zeros, verify, force: false };
            for (operation, forever) in OPERATIONS.iter().flat_map(|op| [(*op, false), (*op, true)])
            {
                for nth in 0.. {
                    let short_bytes = nth * 100;
                    let fault = Fault { forever, short_bytes, ..Fault::once(operation, nth) };
                    let target = FaultyDevice::new(MemoryDevice::new(&old[..]), [fault]);
                    let done = apply_checked(&target, patch, options);
                    let after = target.inner().content();
                    let undo = fs::read(&undo_path).ok();
                    let _ = fs::remove_file(&undo_path);
                    let Err(err) = done else {
                        assert!(after == new, "{operation:?} {nth}");
                        break;
                    };
                    faults += 1;
                    let is_read = operation == Operation::Read;
                    let kind = if is_read { Kind::Read } else { Kind::Write };
                    assert_eq!(err.kind(), kind, "{operation:?} {nth}: {err}");
                    if let Some(undo) = &undo {
                        let target = MemoryDevice::new(&after[..]);
                        apply_checked(&target, || Cursor::new(undo), Options::default()).unwrap();
                        assert!(target.content() == old, "{operation:?} {nth}: not undone");
                    } else if options.undo.is_some() {
                        assert!(after == old, "{operation:?} {nth}: changed before there is undo");
                    }
                    let target = MemoryDevice::new(after);
                    let force = Options { force: true, ..Options::default() };
                    apply_checked(&target, patch, force).unwrap();
                    assert!(target.content() == new, "{operation:?} {nth}: not redone");
                }
            }
        }
    }
    assert!(faults > 1000, "{faults}");
}

/// Gives and takes a few bytes at a time, is interrupted before each, and may fail in the end.
struct Reluctant<T> {
    inner: T,
    calls: usize,
    fails_at: usize,
}

impl<T> Reluctant<T> {
    fn new(inner: T, fails_at: usize) -> Self {
        Self { inner, calls: 0, fails_at }
    }

    /// How many bytes the next call may move.
    fn call(&mut self) -> io::Result<usize> {
        self.calls += 1;
        match self.calls {
            calls if calls > self.fails_at => Err(io::Error::from_raw_os_error(libc::EIO)),
            calls if calls % 2 == 1 => Err(ErrorKind::Interrupted.into()),
            calls => Ok(1 + calls * 7 % 600),
        }
    }
}

impl<T: Read> Read for Reluctant<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.call()?.min(buf.len());
        self.inner.read(&mut buf[..len])
    }
}

impl<T: Seek> Seek for Reluctant<T> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

impl<T: Write> Write for Reluctant<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let len = self.call()?.min(buf.len());
        self.inner.write(&buf[..len])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[test]
fn a_patch_that_is_read_in_pieces_is_the_same_patch() {
    let (old, new, patch) = images(90_000, 90_000);
    let input = || Reluctant::new(Cursor::new(&patch), usize::MAX);
    let target = MemoryDevice::new(&old[..]);
    apply_checked(&target, input, Options { verify: true, ..Options::default() }).unwrap();
    assert!(target.content() == new);
    let target = MemoryDevice::new(old);
    apply_stream(&target, Reluctant::new(&patch[..], usize::MAX)).unwrap();
    assert!(target.content() == new);
}

#[test]
fn every_read_of_the_patch_may_fail() {
    let (old, new, patch) = images(30_000, 20_000);
    for fails_at in 0.. {
        let target = FaultyDevice::new(MemoryDevice::new(&old[..]), []);
        let input = || Reluctant::new(Cursor::new(&patch), fails_at);
        let checked = apply_checked(&target, input, Options::default());
        let piped = MemoryDevice::new(&old[..]);
        let streamed = apply_stream(&piped, Reluctant::new(&patch[..], fails_at));
        match &checked {
            Ok(()) => assert!(target.inner().content() == new),
            Err(err) => {
                assert_eq!(err.kind(), Kind::Read);
                let force = Options { force: true, ..Options::default() };
                apply_checked(&target, || Cursor::new(&patch), force).unwrap();
                assert!(target.inner().content() == new);
            }
        }
        match &streamed {
            Ok(()) => assert!(piped.content() == new),
            Err(err) => assert_eq!(err.kind(), Kind::Read),
        }
        if checked.is_ok() && streamed.is_ok() {
            assert!(fails_at > 30, "{fails_at}");
            return;
        }
    }
}

#[test]
fn every_write_of_a_patch_may_fail_and_short_ones_go_on() {
    let make = |fails_at| {
        let output = Reluctant::new(Vec::new(), fails_at);
        let header = Header { size_bytes: 10_000, name: b"d".to_vec() };
        let mut writer = PatchWriter::new_sealed(output, &header)?;
        writer.write_block(0, &[1; 10_000])?;
        writer.finish_sealed(None, &super::Seal::default()).map(|output| output.inner)
    };
    let whole = make(usize::MAX).unwrap();
    let target = MemoryDevice::new([0; 10_000]);
    apply_checked(&target, || Cursor::new(&whole), Options::default()).unwrap();
    for fails_at in 0.. {
        match make(fails_at) {
            Ok(patch) => {
                assert!(patch == whole && fails_at > 20);
                return;
            }
            Err(err) => assert_eq!(err.kind(), Kind::Write),
        }
    }
}

#[test]
fn every_read_of_squashed_patches_may_fail() {
    let (_, new, first) = images(30_000, 30_000);
    let mut newer = new.clone();
    newer[5000..9000].fill(9);
    let second = Making {
        old: &new,
        new: &newer,
        block_bytes: 512,
        algorithm: Algorithm::Md5,
        checksum: None,
        identities: [b"", b""],
    }
    .sealed();
    let squash = |faulty: usize, fault: Option<Fault>| {
        let layers: Result<Vec<_>, _> = [&first, &second]
            .iter()
            .enumerate()
            .map(|(i, patch)| {
                let faults: Vec<Fault> = fault.filter(|_| i == faulty).into_iter().collect();
                Layer::open(Arc::new(FaultyDevice::new(MemoryDevice::new(&patch[..]), faults)))
            })
            .collect();
        Squash::new(layers?, None, false)?.write(vec![]).map(|(patch, _)| patch)
    };
    let whole = squash(0, None).unwrap();
    for faulty in [0, 1] {
        for nth in 0.. {
            match squash(faulty, Some(Fault::once(Operation::Read, nth))) {
                Ok(patch) => {
                    assert!(patch == whole && nth > 3, "{nth}");
                    break;
                }
                Err(err) => assert_eq!(err.kind(), Kind::Read, "{nth}: {err}"),
            }
        }
    }
}

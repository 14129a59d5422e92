//! A device of test data with holes, which records what is read; and the naive way to hash it.

use std::path::Path;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::algorithm::Algorithm;
use super::block::BlockHasher;
use super::hasher::Hasher;
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;

#[derive(Debug)]
pub(crate) struct TestDevice {
    bytes: Vec<u8>,
    holes: Vec<ByteRange>,
    fails_at: Option<u64>,
    reads: Mutex<Vec<ByteRange>>,
}

impl TestDevice {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, holes: vec![], fails_at: None, reads: Mutex::default() }
    }

    /// Makes `range` a hole; calls come in ascending order.
    pub(crate) fn punch(&mut self, range: ByteRange) {
        let range = range.clip(self.bytes.len() as u64);
        self.bytes[range.start as usize..range.end as usize].fill(0);
        self.holes.push(range);
    }

    pub(crate) fn set(&mut self, at: usize, value: u8) {
        self.bytes[at] = value;
    }

    /// Makes every read that covers the byte at `offset` fail.
    pub(crate) fn fail_at(&mut self, offset: u64) {
        self.fails_at = Some(offset);
    }

    pub(crate) fn reads(&self) -> Vec<ByteRange> {
        self.reads.lock().clone()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Devices of up to `size` bytes with runs of zeros, data and holes.
    pub(crate) fn any(size: usize) -> impl Strategy<Value = Self> {
        let run = (1..=size / 4 + 1, 0_u8..4);
        (proptest::collection::vec(run, 0..12), 0..=size).prop_map(|(runs, size)| {
            let mut device = Self::new(vec![]);
            let mut holes = vec![];
            for (len, kind) in runs {
                let start = device.bytes.len();
                let end = (start + len).min(size);
                device.bytes.resize(end, if kind < 2 { 0 } else { kind });
                if kind == 0 {
                    holes.push(ByteRange::new(start as u64, end as u64));
                }
            }
            holes.into_iter().for_each(|hole| device.punch(hole));
            device
        })
    }
}

impl Device for TestDevice {
    fn path(&self) -> &Path {
        Path::new("test")
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let range = ByteRange::checked_at(offset, buf.len() as u64).expect("a sane read");
        if self.fails_at.is_some_and(|at| range.contains(at)) {
            return Err(Error::new(Kind::Read, "cannot read").with_range(range));
        }
        self.reads.lock().push(range);
        buf.copy_from_slice(&self.bytes[range.start as usize..range.end as usize]);
        Ok(())
    }

    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        let mut start = from;
        for hole in &self.holes {
            if hole.contains(start) {
                start = hole.end;
            } else if hole.start >= start && !hole.is_empty() {
                return Ok(Some(ByteRange::new(start, hole.start)));
            }
        }
        Ok((start < self.size()).then(|| ByteRange::new(start, self.size())))
    }
}

/// `n` block hashes, by the words of the protocol.
pub(crate) fn naive_hashes(
    device: &TestDevice,
    hasher: &BlockHasher,
    start: u64,
    step: u64,
    n: u64,
) -> Vec<u8> {
    let byte = |at: u64| usize::try_from(at).ok().and_then(|at| device.bytes.get(at)).copied();
    let mut out = vec![];
    for i in 0..n {
        let block: Vec<u8> = (0..step).map(|at| byte(start + i * step + at).unwrap_or(0)).collect();
        out.extend_from_slice(&naive_hash(hasher, &block));
    }
    out
}

/// The salted hash of `bytes`, fed byte by byte so as to share nothing with the fast ways.
pub(crate) fn naive_hash(hasher: &BlockHasher, bytes: &[u8]) -> Vec<u8> {
    assert_ne!(hasher.algorithm(), Algorithm::Blake3, "the naive way is for salts in front");
    let mut stream: Hasher = hasher.stream();
    bytes.chunks(13).for_each(|piece| stream.update(piece));
    stream.finish().to_vec()
}

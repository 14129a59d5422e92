//! Disk images from a seed: the same bytes on every machine.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// SplitMix64: tiny, seeded, good enough for test data.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..limit`; `limit` must not be 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Random bytes.
pub fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes: Vec<u8> =
        (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// Lines that compress well, and of which no two are alike.
pub fn text(lines: u32) -> Vec<u8> {
    (0..lines).flat_map(|i| format!("{i} and on\n").into_bytes()).collect()
}

/// `base` with `count` short runs of bytes changed here and there.
pub fn changed(base: &[u8], seed: u64, count: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = base.to_vec();
    for _ in 0..count {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len() as u64) as usize;
        let end = bytes.len().min(at + 1 + random.below(600) as usize);
        bytes[at..end].iter_mut().for_each(|byte| *byte ^= 0x5a);
    }
    bytes
}

/// Creates a file of `size` bytes with holes everywhere but at `pieces`.
pub fn sparse_file(path: &Path, size: u64, pieces: &[(u64, &[u8])]) {
    let file = File::create(path).expect("cannot create");
    file.set_len(size).expect("cannot set the size");
    for (offset, bytes) in pieces {
        file.write_all_at(bytes, *offset).expect("cannot write");
    }
}

/// `len` bytes of a file from `offset`.
pub fn read_at(path: &Path, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let file = File::open(path).expect("cannot open");
    file.read_exact_at(&mut bytes, offset).expect("cannot read");
    bytes
}

//! Sealed patches that were cut or changed: refused before the first write, or what they do is
//! exactly right.

use std::io::Cursor;

use proptest::prelude::*;

use super::{Chance, Making, Options, apply_checked, apply_stream, image};
use crate::device::MemoryDevice;
use crate::device::faulty::{Call, FaultyDevice};
use crate::digest::Algorithm;
use crate::error::Kind;
use crate::patch::{PatchReader, RecordPlace};

/// A sealed patch, and what it is for.
#[derive(Debug)]
struct Case {
    old: Vec<u8>,
    new: Vec<u8>,
    patch: Vec<u8>,
    /// Of everything in the patch but the records' data.
    structure: Vec<usize>,
}

impl Case {
    fn new(making: &Making<'_>) -> Self {
        let patch = making.sealed();
        let mut reader = PatchReader::new(Cursor::new(&patch), "patch").unwrap();
        let mut is_data = vec![false; patch.len()];
        while let Some(RecordPlace { range, position }) = reader.next_place().unwrap() {
            let position = position as usize;
            is_data[position..position + range.len() as usize].fill(true);
        }
        let structure = (0..patch.len()).filter(|&at| !is_data[at]).collect();
        Self { old: making.old.to_vec(), new: making.new.to_vec(), patch, structure }
    }

    /// Fails unless `patch`, as a file, is refused before the first write, or makes `new`. From a
    /// pipe it may be found out too late, but must be found out.
    #[track_caller]
    fn refused_or_right(&self, patch: &[u8], what: &str) -> bool {
        let target = FaultyDevice::new(MemoryDevice::new(&self.old[..]), []);
        let done = apply_checked(&target, || Cursor::new(patch), Options::default());
        match &done {
            Ok(()) => assert!(target.inner().content() == self.new, "{what}: silently wrong"),
            Err(err) => {
                assert!(matches!(err.kind(), Kind::Patch | Kind::Checksum), "{what}: {err}");
                let changes = |call: &Call| matches!(call, Call::Write(_) | Call::SetSize(_));
                assert!(!target.calls().iter().any(changes), "{what}: refused after a write");
            }
        }
        let target = MemoryDevice::new(&self.old[..]);
        if apply_stream(&target, patch).is_ok() {
            assert!(target.content() == self.new, "{what}, from a pipe: silently wrong");
        }
        done.is_err()
    }

    #[track_caller]
    fn refused_or_right_with(&self, at: usize, byte: u8) {
        let mut changed = self.patch.clone();
        changed[at] = byte;
        if byte != self.patch[at] {
            let is_refused = self.refused_or_right(&changed, &format!("byte {at} as {byte}"));
            assert!(is_refused, "byte {at} as {byte} is not noticed");
        }
    }
}

#[test]
fn every_change_of_any_byte_of_a_small_one_is_noticed() {
    let old = image(1, 200);
    let mut new = old.clone();
    new[3] ^= 1;
    new[60..70].fill(0);
    new.truncate(190);
    for checksum in [None, Some(Algorithm::Md5)] {
        let case = Case::new(&Making {
            old: &old,
            new: &new,
            block_bytes: 16,
            algorithm: Algorithm::Md5,
            checksum,
            identities: [b"path=a\n", b"path=b\n"],
        });
        assert!(!case.refused_or_right(&case.patch, "as it was made"));
        for at in 0..case.patch.len() {
            (0..=u8::MAX).for_each(|byte| case.refused_or_right_with(at, byte));
        }
    }
}

#[test]
fn an_end_mark_that_a_changed_length_makes_of_zeros_is_noticed() {
    let (old, new) = (vec![1; 40_000], vec![0; 40_000]);
    for block_bytes in [512, 4096, 32768] {
        let case = Case::new(&Making {
            old: &old,
            new: &new,
            block_bytes,
            algorithm: Algorithm::Blake3,
            checksum: None,
            identities: [b"", b""],
        });
        // The length's two bytes, at the end of the first record's header.
        for at in [40, 41] {
            (0..=u8::MAX).for_each(|byte| case.refused_or_right_with(at, byte));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_truncation_or_changed_byte_is_refused_before_the_first_write_or_does_no_harm(
        seed: u64,
        old_bytes in prop_oneof![0usize..2000, 0usize..30_000],
        new_bytes in prop_oneof![Just(None), (0usize..30_000).prop_map(Some)],
        edits in 0usize..12,
        block_bytes in prop_oneof![
            Just(1usize), Just(16), Just(100), Just(512), Just(4096), Just(40_000)
        ],
        algorithm in prop_oneof![Just(Algorithm::Md5), Just(Algorithm::Blake3)],
        checksum in proptest::option::of(
            prop_oneof![Just(Algorithm::Sha1), Just(Algorithm::Sha512)]
        ),
        identities in [".{0,300}", ".{0,300}"],
    ) {
        let mut chance = Chance(seed | 1);
        let old = image(seed, old_bytes);
        let mut new = old.clone();
        new.resize(new_bytes.unwrap_or(old_bytes), 0);
        let other = image(!seed, new.len());
        // Blocks of one byte have records of eleven.
        let edit_bytes = if block_bytes < 16 { 20 } else { 4000 };
        for _ in 0..edits.min(new.len()) {
            let at = chance.below(new.len());
            let end = new.len().min(at + 1 + chance.below(edit_bytes));
            new[at..end].copy_from_slice(&other[at..end]);
        }
        let [source, target] = &identities;
        let case = Case::new(&Making {
            old: &old,
            new: &new,
            block_bytes,
            algorithm,
            checksum,
            identities: [source.as_bytes(), target.as_bytes()],
        });
        prop_assert!(!case.refused_or_right(&case.patch, "as it was made"));
        let len = case.patch.len();
        // Every length where the patch is short, and around its end; else some.
        let lengths = (0..len).filter(|&at| len < 3000 || at + 600 > len);
        for cut in lengths.chain((0..500).map(|_| chance.below(len))) {
            case.refused_or_right(&case.patch[..cut], &format!("cut to {cut} bytes"));
        }
        for _ in 0..1500 {
            let at = match chance.below(3) {
                0 => chance.below(len),
                _ => case.structure[chance.below(case.structure.len())],
            };
            let byte = match chance.below(3) {
                0 => chance.below(256) as u8,
                1 => case.patch[at] ^ (1 << chance.below(8)),
                _ => [0, 1, 0xff][chance.below(3)],
            };
            case.refused_or_right_with(at, byte);
        }
    }
}

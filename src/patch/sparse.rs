//! Splits a write into bytes that must be stored and zeros that need not be.

use crate::buffer::ZEROS;
use crate::device::DeviceMut;
use crate::digest::is_zero;
use crate::error::Result;
use crate::units::ByteRange;

/// Holes begin and end at multiples of this, in bytes: the block size of common file systems.
const HOLE_BYTES: u64 = 4096;
/// Zeros are looked for in pieces of at most this many bytes.
const PROBE_BYTES: u64 = 512;

/// One piece of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// These bytes, one slice behind the other, from this offset on.
    Data(u64, Vec<&'a [u8]>),
    /// Zeros, aligned to blocks.
    Zeros(ByteRange),
}

/// The write of `parts`, one behind the other from `start` on, in pieces in ascending order.
#[must_use]
pub fn split<'a>(start: u64, parts: &[&'a [u8]]) -> Vec<Piece<'a>> {
    let mut splitter =
        Splitter { done: vec![], data_start: start, data: vec![], at: start, zeros: 0 };
    for part in parts {
        let mut rest = *part;
        while !rest.is_empty() {
            let to_boundary = PROBE_BYTES - splitter.at % PROBE_BYTES;
            let (probe, behind) = rest.split_at(rest.len().min(to_boundary as usize));
            splitter.push(probe);
            rest = behind;
        }
    }
    splitter.end_zeros();
    splitter.end_data();
    splitter.done
}

/// Writes `parts`, one behind the other from `start` on, except for zeros where there is a hole.
///
/// # Errors
/// What the device fails with.
pub fn write_over_data(target: &dyn DeviceMut, start: u64, parts: &[&[u8]]) -> Result<()> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let all = ByteRange::new(start, start + len as u64);
    let data = target.next_data(start)?;
    if data.is_some_and(|data| data.covers(&all)) {
        return target.write_all_vectored_at(parts, start);
    }
    let mut at = start;
    for part in parts {
        write_part_over_data(target, at, part)?;
        at += part.len() as u64;
    }
    Ok(())
}

fn write_part_over_data(target: &dyn DeviceMut, start: u64, part: &[u8]) -> Result<()> {
    let mut rest = part;
    while !rest.is_empty() {
        let at = start + (part.len() - rest.len()) as u64;
        let left = ByteRange::new(at, at + rest.len() as u64);
        let data = target.next_data(at)?.unwrap_or(ByteRange::new(left.end, left.end));
        let is_hole = data.start > at;
        let end = if is_hole { data.start } else { data.end }.min(left.end);
        let (piece, behind) = rest.split_at((end - at) as usize);
        if !(is_hole && is_zero(piece)) {
            target.write_all_at(piece, at)?;
        }
        rest = behind;
    }
    Ok(())
}

struct Splitter<'a> {
    done: Vec<Piece<'a>>,
    data_start: u64,
    data: Vec<&'a [u8]>,
    at: u64,
    /// Zeros right before `at` that are not yet in a piece.
    zeros: u64,
}

impl<'a> Splitter<'a> {
    fn push(&mut self, probe: &'a [u8]) {
        let len = probe.len() as u64;
        if is_zero(probe) {
            self.zeros += len;
        } else {
            self.end_zeros();
            self.data.push(probe);
        }
        self.at += len;
    }

    /// Puts the zeros before `at` into pieces: a hole as far as whole blocks go.
    fn end_zeros(&mut self) {
        let zeros = ByteRange::new(self.at - self.zeros, self.at);
        self.zeros = 0;
        let hole = ByteRange::new(
            zeros.start.next_multiple_of(HOLE_BYTES),
            zeros.end - zeros.end % HOLE_BYTES,
        );
        if hole.is_empty() {
            self.push_zeros(zeros.len());
            return;
        }
        self.push_zeros(hole.start - zeros.start);
        self.end_data();
        self.done.push(Piece::Zeros(hole));
        self.data_start = hole.end;
        self.push_zeros(zeros.end - hole.end);
    }

    /// Zeros that are written as they are; fewer than two blocks of them.
    fn push_zeros(&mut self, mut len: u64) {
        while len > 0 {
            let n = len.min(HOLE_BYTES);
            self.data.push(&ZEROS[..n as usize]);
            len -= n;
        }
    }

    fn end_data(&mut self) {
        if !self.data.is_empty() {
            self.done.push(Piece::Data(self.data_start, std::mem::take(&mut self.data)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::faulty::{Call, FaultyDevice};
    use crate::device::{Device, MemoryDevice};
    use proptest::prelude::*;

    #[test]
    fn whole_blocks_of_zeros_are_holes() {
        let data = [vec![1; 100], vec![0; 12288 - 100], vec![2; 5]].concat();
        let pieces = split(0, &[&data[..3000], &data[3000..]]);
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[1], Piece::Zeros(ByteRange::new(4096, 12288)));
        assert_eq!(split(0, &[&[0; 4095]]).len(), 1);
        assert_eq!(split(4096, &[&[0; 4096]]), [Piece::Zeros(ByteRange::new(4096, 8192))]);
        assert_eq!(split(9, &[]), []);
    }

    #[test]
    fn zeros_over_holes_are_not_written() {
        let mut old = vec![0; 100];
        old[20..35].fill(1);
        let target = FaultyDevice::new(MemoryDevice::new(old).with_holes(10), []);
        // The pieces of ten bytes from 20 to 40 hold data.
        write_over_data(&target, 5, &[&[0; 20], &[0; 25]]).unwrap();
        let writes = || -> Vec<Call> {
            let calls = target.calls().into_iter();
            calls.filter(|call| matches!(call, Call::Write(_))).collect()
        };
        let written = [ByteRange::new(20, 25), ByteRange::new(25, 40)].map(Call::Write);
        assert_eq!(writes(), written);
        write_over_data(&target, 60, &[&[0; 5], &[7; 5], &[0; 10]]).unwrap();
        let mut expected = [0; 100];
        expected[65..70].fill(7);
        let mut found = [1; 100];
        target.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found, expected);
        assert_eq!(writes()[2..], [Call::Write(ByteRange::new(65, 70))]);
    }

    proptest! {
        #[test]
        fn pieces_are_the_write_once_and_in_order(
            start in 0u64..5000,
            runs in proptest::collection::vec((0u8..2, 1usize..9000), 0..8),
            cuts in proptest::collection::vec(1usize..5000, 1..20),
        ) {
            let content: Vec<u8> =
                runs.iter().flat_map(|&(byte, len)| std::iter::repeat_n(byte, len)).collect();
            let mut parts = vec![];
            let mut rest = &content[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (part, behind) = rest.split_at(rest.len().min(*cut));
                parts.push(part);
                rest = behind;
            }
            let mut rebuilt = vec![];
            for piece in split(start, &parts) {
                let at = start + rebuilt.len() as u64;
                match piece {
                    Piece::Data(from, slices) => {
                        prop_assert_eq!(from, at);
                        rebuilt.extend(slices.concat());
                    }
                    Piece::Zeros(range) => {
                        prop_assert_eq!(range.start, at);
                        prop_assert_eq!((range.start % 4096, range.end % 4096), (0, 0));
                        rebuilt.resize(rebuilt.len() + range.len() as usize, 0);
                    }
                }
            }
            prop_assert!(rebuilt == content);
        }
    }
}

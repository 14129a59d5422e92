//! Which ranges of the target were written, in bounded memory. Pure.

use crate::units::{ByteRange, MIB};

/// So many ranges are kept; beyond, gaps are closed.
const RANGES_MAX: usize = 1 << 16;
/// The smallest gap that is closed for that, in bytes.
const GAP_BYTES_MIN: u64 = MIB / 16;

/// Ascending ranges. Where there are too many, neighbours are joined over the gap between
/// them, so that they cover more than was written but never less.
#[derive(Debug, Default)]
pub struct Touched {
    ranges: Vec<ByteRange>,
    /// Ranges with a smaller gap between them are one.
    gap_bytes: u64,
}

impl Touched {
    /// Adds a range behind all others.
    pub fn add(&mut self, range: ByteRange) {
        self.join(range);
        while self.ranges.len() > RANGES_MAX {
            self.gap_bytes = (self.gap_bytes * 2).max(GAP_BYTES_MIN);
            for range in std::mem::take(&mut self.ranges) {
                self.join(range);
            }
        }
    }

    fn join(&mut self, range: ByteRange) {
        match self.ranges.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(self.gap_bytes) => {
                last.end = last.end.max(range.end);
            }
            _ => self.ranges.push(range),
        }
    }

    /// The ranges, ascending, at most [`RANGES_MAX`].
    pub fn ranges(&self) -> &[ByteRange] {
        &self.ranges
    }

    /// Bytes in all of them.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(ByteRange::len).sum()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_and_gaps_kept() {
        let mut touched = Touched::default();
        for range in [ByteRange::new(0, 10), ByteRange::new(10, 20), ByteRange::new(30, 40)] {
            touched.add(range);
        }
        assert_eq!(touched.ranges(), [ByteRange::new(0, 20), ByteRange::new(30, 40)]);
        assert_eq!(touched.bytes(), 30);
    }

    #[test]
    fn too_many_ranges_become_fewer_that_cover_them_all() {
        let mut touched = Touched::default();
        let at = |i: u64| ByteRange::new(i * 100_000, i * 100_000 + 10);
        for i in 0..RANGES_MAX as u64 {
            touched.add(at(i));
        }
        assert_eq!(touched.ranges().len(), RANGES_MAX, "exact at the limit");
        for i in RANGES_MAX as u64..3 * RANGES_MAX as u64 {
            touched.add(at(i));
        }
        assert!(touched.ranges().len() <= RANGES_MAX);
        let mut ranges = touched.ranges().iter().copied().peekable();
        for i in 0..3 * RANGES_MAX as u64 {
            while ranges.peek().is_some_and(|range| range.end < at(i).end) {
                ranges.next();
            }
            assert_eq!(ranges.peek().unwrap().intersect(&at(i)), at(i));
        }
    }
}

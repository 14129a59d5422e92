//! A set of bytes as ranges.

use std::ops::Range;

use super::{ByteRange, push_joined};

/// Bytes of a device, as ascending ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet(Vec<ByteRange>);

impl RangeSet {
    /// No bytes.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds the bytes of `range`.
    pub fn insert(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let from = self.0.partition_point(|known| known.end < range.start);
        let to = self.0.partition_point(|known| known.start <= range.end);
        let joined = self.0[from..to].iter().fold(range, |all, known| {
            ByteRange::new(all.start.min(known.start), all.end.max(known.end))
        });
        self.0.splice(from..to, [joined]);
    }

    /// Removes the bytes of `range`; returns those that it had, ascending.
    pub fn take(&mut self, range: ByteRange) -> Vec<ByteRange> {
        let at = self.overlapping(range);
        let found: Vec<_> = self.0[at.clone()].iter().map(|held| held.intersect(&range)).collect();
        let rests = match (self.0[at.clone()].first(), self.0[at.clone()].last()) {
            (Some(first), Some(last)) => {
                [ByteRange::new(first.start, range.start), ByteRange::new(range.end, last.end)]
            }
            _ => return found,
        };
        self.0.splice(at, rests.into_iter().filter(|rest| !rest.is_empty()));
        found
    }

    /// The bytes of `range` that it does not have, ascending.
    #[must_use]
    pub fn gaps(&self, range: ByteRange) -> Vec<ByteRange> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        for held in &self.0[self.overlapping(range)] {
            push_joined(&mut gaps, ByteRange::new(at, held.start.max(at)));
            at = held.end;
        }
        push_joined(&mut gaps, ByteRange::new(at.min(range.end), range.end));
        gaps
    }

    /// Which of the ranges have a byte of `range`.
    fn overlapping(&self, range: ByteRange) -> Range<usize> {
        let from = self.0.partition_point(|held| held.end <= range.start);
        // Of no bytes, not even a range around them.
        let to = if range.is_empty() {
            from
        } else {
            self.0.partition_point(|held| held.start < range.end)
        };
        from..to
    }

    /// Whether it has any byte of `range`.
    #[must_use]
    pub fn intersects(&self, range: ByteRange) -> bool {
        let at = self.0.partition_point(|known| known.end <= range.start);
        self.0.get(at).is_some_and(|known| !known.intersect(&range).is_empty())
    }

    /// Whether it has every byte of `range`.
    #[must_use]
    pub fn contains(&self, range: ByteRange) -> bool {
        let at = self.0.partition_point(|known| known.end < range.end);
        range.is_empty() || self.0.get(at).is_some_and(|known| known.start <= range.start)
    }

    /// The ranges.
    #[must_use]
    pub fn ranges(&self) -> &[ByteRange] {
        &self.0
    }

    /// How many ranges.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_ranges_agree_with_sets_of_numbers() {
        let mut seed = 1_u64;
        let mut next = |limit: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % limit
        };
        for _ in 0..300 {
            let (mut set, mut naive) = (RangeSet::new(), [false; 40]);
            for _ in 0..next(12) {
                let start = next(35);
                let range = ByteRange::new(start, start + next(6));
                let places = start as usize..range.end as usize;
                let bytes = |ranges: &[ByteRange]| -> Vec<u64> {
                    ranges.iter().flat_map(|range| range.start..range.end).collect()
                };
                let held = |held: bool| -> Vec<u64> {
                    (range.start..range.end).filter(|at| naive[*at as usize] == held).collect()
                };
                assert_eq!(bytes(&set.gaps(range)), held(false), "{range} in {set:?}");
                if next(3) == 0 {
                    let expected = held(true);
                    assert_eq!(bytes(&set.take(range)), expected, "{range}");
                    naive[places].fill(false);
                } else {
                    set.insert(range);
                    naive[places].fill(true);
                }
            }
            for start in 0..40 {
                assert_eq!(set.intersects(ByteRange::new(start, start + 1)), naive[start as usize]);
            }
            let (start, len) = (next(30), next(6));
            let range = ByteRange::new(start, start + len);
            let all = (range.start..range.end).all(|i| naive[i as usize]);
            assert_eq!(set.contains(range), all, "{range} in {set:?}");
            assert!(set.ranges().windows(2).all(|two| two[0].end < two[1].start), "{set:?}");
            assert!(set.ranges().iter().all(|range| !range.is_empty()), "{set:?}");
            assert!(!set.intersects(ByteRange::new(3, 3)));
        }
    }
}

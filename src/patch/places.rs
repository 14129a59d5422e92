//! Whether two readings of a patch found the same records: their places, not what goes there.
//!
//! A patch in a file is read several times, and what an undo patch covers or a check has seen must
//! be what is written. The file's size and time tell of nearly every change, but not of one by who
//! sets the time back, or stores into a mapping.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use super::batch::RecordPlace;
use crate::error::{Error, Kind, Result};

/// Sums the records of a patch up, in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    records: u64,
    sum: u64,
}

impl Places {
    /// No records.
    pub(super) const NONE: Self = Self { records: 0, sum: 0 };

    /// One record.
    pub(super) fn of(place: RecordPlace) -> Self {
        // Random, so that nobody can look for other places with the same sum.
        static KEYS: OnceLock<[u64; 2]> = OnceLock::new();
        let [a, b] = KEYS.get_or_init(|| [0, 1].map(|i| RandomState::new().hash_one(i)));
        // A record's length is 16 bits, and no patch is longer than 48.
        let what = place.position << 16 | place.range.len();
        let product = u128::from(place.range.start ^ a) * u128::from(what ^ b);
        Self { records: 1, sum: (product >> 64) as u64 ^ product as u64 }
    }

    /// Adds what another reading found.
    pub(super) fn append(&mut self, other: Self) {
        self.records += other.records;
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// How many records there are.
    #[must_use]
    pub fn records(self) -> u64 {
        self.records
    }

    /// Fails unless a later reading found what these are.
    ///
    /// # Errors
    /// `Kind::Patch`.
    pub fn expect(self, found: Self) -> Result<()> {
        if found == self {
            return Ok(());
        }
        Err(Error::new(Kind::Patch, "the patch changes while it is read"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::ByteRange;

    fn sum(places: &[(u64, u64, u64)]) -> Places {
        let mut sum = Places::NONE;
        for &(start, len, position) in places {
            sum.append(Places::of(RecordPlace {
                range: ByteRange::new(start, start + len),
                position,
            }));
        }
        sum
    }

    #[test]
    fn every_part_of_a_place_counts_and_their_order_does_not() {
        let places = [(0, 10, 30), (4096, 10, 50), (1 << 40, 65535, 70)];
        let all = sum(&places);
        assert_eq!(all, sum(&[places[2], places[0], places[1]]));
        for (i, other) in [(1, 10, 30), (0, 11, 30), (0, 10, 31)].into_iter().enumerate() {
            assert_ne!(all, sum(&[other, places[1], places[2]]), "{i}");
        }
        assert_ne!(all, sum(&places[..2]));
        assert_ne!(all, sum(&[places[0], places[0], places[1], places[2]]));
        all.expect(sum(&places)).unwrap();
        assert_eq!(all.expect(sum(&places[..2])).unwrap_err().kind(), Kind::Patch);
    }
}

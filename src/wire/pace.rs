//! How many bytes to ask for at once: enough to keep a link busy, and no more than it can carry
//! soon, since whatever is asked for next waits behind them. Pure.
//!
//! An answer that takes much longer than the quickest one has waited behind others, somewhere
//! between the two sides: then less is asked for. Other traffic on a link makes answers wait
//! too, so there is a share that is always taken.

use std::time::Duration;

use crate::units::{KIB, MIB};

/// The most bytes of answers to requests sent and not answered yet: on a link of 200 ms they are
/// 84 MB a second. One request may always go. A walk settles as many at once, and our server holds
/// as many.
pub const IN_FLIGHT_BYTES_MAX: usize = (16 * MIB) as usize;
/// As many are always asked for: on a link of 50 ms they are 13 MB a second. More would stand
/// before the hashes that show where further bytes are, which take several round trips.
pub const BULK_BYTES_MIN: usize = (640 * KIB) as usize;
/// How long an answer may have waited behind others.
const QUEUED_MAX: Duration = Duration::from_millis(50);

/// How quick answers are, and what follows from that.
#[derive(Debug)]
pub(super) struct Pace {
    quickest: Duration,
    bulk_bytes: usize,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { quickest: Duration::MAX, bulk_bytes: BULK_BYTES_MIN }
    }

    /// The most bytes in flight at which more bulk may be asked for.
    pub(super) fn bulk_bytes(&self) -> usize {
        self.bulk_bytes
    }

    /// An answer of `bytes` came so long after its request.
    pub(super) fn answered(&mut self, bytes: usize, after: Duration, is_bulk: bool) {
        self.quickest = self.quickest.min(after);
        if !is_bulk {
            return;
        }
        self.bulk_bytes = match after - self.quickest < QUEUED_MAX {
            true => self.bulk_bytes + bytes,
            false => self.bulk_bytes - (bytes / 2).min(self.bulk_bytes),
        };
        self.bulk_bytes = self.bulk_bytes.clamp(BULK_BYTES_MIN, IN_FLIGHT_BYTES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is in flight at last over a link that carries `bytes_per_ms` and takes `round_trip`
    /// milliseconds, with as much in flight as is allowed.
    fn in_flight(bytes_per_ms: usize, round_trip: u64) -> usize {
        let mut pace = Pace::new();
        pace.answered(100, Duration::from_millis(round_trip), false);
        for _ in 0..10_000 {
            let carried = Duration::from_millis((pace.bulk_bytes() / bytes_per_ms) as u64);
            pace.answered(4096, carried.max(Duration::from_millis(round_trip)), true);
        }
        pace.bulk_bytes()
    }

    #[test]
    fn a_link_is_filled_and_not_overfilled() {
        // 100 Mbit/s, 50 ms: 625 kB are on the way.
        assert!((BULK_BYTES_MIN..=12_500 * 101).contains(&in_flight(12_500, 50)));
        // 100 Mbit/s, 150 ms.
        assert!((12_500 * 150..=12_500 * 201).contains(&in_flight(12_500, 150)));
        // 1 Gbit/s, 100 ms.
        assert!((125_000 * 100..=125_000 * 151).contains(&in_flight(125_000, 100)));
        // 10 Gbit/s: no limit is reached.
        assert_eq!(in_flight(1_250_000, 1), IN_FLIGHT_BYTES_MAX);
        // 1 Mbit/s: the share that is always taken.
        assert_eq!(in_flight(125, 50), BULK_BYTES_MIN);
    }
}

//! How far a run is, as numbers.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Part, Progress, percent};
use crate::units::human_bytes;

/// Keeps the latest state; tells it when asked.
#[derive(Debug, Default)]
pub struct Meter(Mutex<Parts>);

#[derive(Debug, Default)]
struct Parts {
    now: Option<State>,
    /// The latest main part, while one comes that is none.
    main: Option<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    part: Part,
    started: Instant,
    size_bytes: Option<u64>,
    position_bytes: u64,
    diff_bytes: u64,
    /// How long it took, once another part has begun.
    took: Option<Duration>,
}

/// How far a run is at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What is done.
    pub part: Part,
    /// Bytes that the part covers; `None` where that shows in its end.
    pub size_bytes: Option<u64>,
    /// Bytes that are done.
    pub position_bytes: u64,
    /// Bytes of the patch.
    pub diff_bytes: u64,
    /// Since the part began.
    pub elapsed: Duration,
}

impl Meter {
    /// The state now; `None` before the beginning.
    #[must_use]
    pub fn snapshot(&self) -> Option<Snapshot> {
        let now = self.0.lock().now?;
        let State { started, part, size_bytes, position_bytes, diff_bytes, took } = now;
        let elapsed = took.unwrap_or_else(|| started.elapsed());
        Some(Snapshot { part, size_bytes, position_bytes, diff_bytes, elapsed })
    }
}

impl Progress for Meter {
    fn begin(&self, part: Part, size_bytes: Option<u64>) {
        let started = Instant::now();
        let (position_bytes, diff_bytes, took) = (0, 0, None);
        let begun = State { started, part, size_bytes, position_bytes, diff_bytes, took };
        let parts = &mut *self.0.lock();
        let before = parts.now.replace(begun).filter(|before| before.part.is_main());
        if let Some(main) = before {
            let took = Some(main.started.elapsed());
            parts.main = Some(State { took, ..main });
        }
    }

    fn advance(&self, position_bytes: u64, diff_bytes: u64) {
        if let Some(state) = &mut self.0.lock().now {
            state.position_bytes =
                state.position_bytes.max(position_bytes.min(state.size_bytes.unwrap_or(u64::MAX)));
            state.diff_bytes = state.diff_bytes.max(diff_bytes);
        }
    }

    /// What is told last is of the main part, whatever came behind it.
    fn finish(&self) {
        let Parts { now, main } = &mut *self.0.lock();
        if let Some(state) = now {
            if !state.part.is_main()
                && let Some(main) = main.take()
            {
                *state = main;
            }
            state.position_bytes = state.size_bytes.unwrap_or(state.position_bytes);
        }
    }
}

impl Snapshot {
    /// Whole percents, rounded down.
    #[must_use]
    pub fn percent(&self) -> Option<u64> {
        self.size_bytes.map(|size_bytes| percent(self.position_bytes, size_bytes))
    }

    /// The mean rate so far.
    #[must_use]
    pub fn bytes_per_second(&self) -> u64 {
        let seconds = self.elapsed.as_secs_f64();
        // A float that is out of range becomes the largest number.
        if seconds > 0.0 { (self.position_bytes as f64 / seconds) as u64 } else { 0 }
    }

    /// How long the rest takes at the mean rate; `None` while nothing is known.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        let left = self.size_bytes? - self.position_bytes;
        if left == 0 {
            return Some(Duration::ZERO);
        }
        let share = left as f64 / self.position_bytes as f64;
        Duration::try_from_secs_f64(self.elapsed.as_secs_f64() * share).ok()
    }

    /// One line for a person.
    #[must_use]
    pub fn line(&self) -> String {
        let remaining = match self.remaining() {
            Some(time) => format!("{} s left", time.as_secs()),
            None => "time left unknown".to_owned(),
        };
        let done = match (self.percent(), self.size_bytes) {
            (Some(percent), Some(size_bytes)) => {
                format!("{percent} % of {}", human_bytes(size_bytes))
            }
            _ => human_bytes(self.position_bytes),
        };
        format!(
            "{}: {done} done{}, {}/s, {} s so far, {remaining}",
            self.part.word(),
            self.part.amount(self.diff_bytes),
            human_bytes(self.bytes_per_second()),
            self.elapsed.as_secs(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_known_before_the_beginning_and_positions_stay_in_bounds() {
        let meter = Meter::default();
        meter.advance(5, 5);
        assert_eq!(meter.snapshot(), None);
        meter.begin(Part::Comparing, Some(100));
        meter.advance(50, 7);
        meter.advance(40, 3);
        let now = meter.snapshot().unwrap();
        assert_eq!((now.position_bytes, now.diff_bytes, now.percent()), (50, 7, Some(50)));
        meter.advance(200, 7);
        assert_eq!(meter.snapshot().unwrap().position_bytes, 100);
        meter.begin(Part::Comparing, Some(10));
        assert_eq!(meter.snapshot().unwrap().position_bytes, 0);
        meter.finish();
        let now = meter.snapshot().unwrap();
        assert_eq!((now.size_bytes, now.percent()), (Some(10), Some(100)), "of the last one");
    }

    #[test]
    fn in_the_end_the_main_part_counts() {
        let meter = Meter::default();
        meter.begin(Part::Checking, Some(1000));
        meter.begin(Part::Writing, Some(100));
        meter.advance(90, 7);
        for part in [Part::Verifying, Part::Digesting] {
            meter.begin(part, Some(5));
            meter.advance(5, 0);
            assert_eq!(meter.snapshot().unwrap().part, part);
        }
        let took = meter.0.lock().main.unwrap().took;
        meter.finish();
        let now = meter.snapshot().unwrap();
        assert_eq!((now.part, now.size_bytes, now.diff_bytes), (Part::Writing, Some(100), 7));
        assert_eq!(Some(now.elapsed), took, "without what came behind it");
        assert_eq!(now.percent(), Some(100));
    }

    #[test]
    fn line_and_rates() {
        let mut now = Snapshot {
            part: Part::Comparing,
            size_bytes: Some(4 << 20),
            position_bytes: 1 << 20,
            diff_bytes: 2048,
            elapsed: Duration::from_secs(2),
        };
        assert_eq!(now.remaining(), Some(Duration::from_secs(6)));
        assert_eq!(
            now.line(),
            "comparing: 25 % of 4.0 MiB done, 2.0 KiB differ, 512.0 KiB/s, 2 s so far, 6 s left"
        );
        now.part = Part::Checking;
        assert!(now.line().starts_with("checking: 25 % of 4.0 MiB done, 512.0 KiB/s"));
        let unsized_now = Snapshot { part: Part::Keeping, size_bytes: None, ..now };
        assert_eq!(
            unsized_now.line(),
            "keeping: 1.0 MiB done, 512.0 KiB/s, 2 s so far, time left unknown"
        );
        let at_once = Snapshot { elapsed: Duration::ZERO, ..now };
        assert_eq!(at_once.bytes_per_second(), 0);
        now.position_bytes = 0;
        let empty = Snapshot { size_bytes: Some(0), ..now };
        assert_eq!(empty.remaining(), Some(Duration::ZERO));
        let a_byte = Snapshot { size_bytes: Some(1), ..now };
        assert_eq!(a_byte.remaining(), None);
        assert_eq!((now.remaining(), now.bytes_per_second()), (None, 0));
        now.elapsed = Duration::ZERO;
        assert!(now.line().ends_with("time left unknown"));
    }
}

//! The classic's progress lines (protocol).

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Part, Progress, percent};
use crate::report;

/// How long nothing is told while the percentage stays the same.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// The classic's lines on stderr, at most one per percent or second. They tell of the main
/// part of a run alone, and not of what has no size yet.
#[derive(Debug)]
pub struct ClassicLines {
    scroll: bool,
    state: Mutex<LineState>,
}

#[derive(Debug)]
struct LineState {
    /// Whether nothing is told of what goes on now.
    is_silent: bool,
    started: Instant,
    /// Of the last main part, once there was one.
    size_bytes: Option<u64>,
    position_bytes: u64,
    /// Of the patch that is made; without one what is written.
    diff_bytes: u64,
    makes_patch: bool,
    last: Option<(u64, Duration)>,
}

impl ClassicLines {
    /// Lines that end in a line feed, or with `scroll` false in a carriage return.
    #[must_use]
    pub fn new(scroll: bool) -> Self {
        let state = LineState {
            is_silent: false,
            started: Instant::now(),
            size_bytes: None,
            position_bytes: 0,
            diff_bytes: 0,
            makes_patch: false,
            last: None,
        };
        Self { scroll, state: Mutex::new(state) }
    }

    fn tell(&self, line: &str) {
        report::progress(&format!("{line}{}", if self.scroll { '\n' } else { '\r' }));
    }
}

impl Progress for ClassicLines {
    fn begin(&self, part: Part, size_bytes: Option<u64>) {
        let mut state = self.state.lock();
        let Some(size_bytes) = size_bytes.filter(|_| part.is_main()) else {
            state.is_silent = true;
            return;
        };
        state.is_silent = false;
        state.started = Instant::now();
        state.size_bytes = Some(size_bytes);
        (state.position_bytes, state.diff_bytes, state.last) = (0, 0, None);
        state.makes_patch = false;
    }

    fn patch_grows(&self, patch_bytes: u64) {
        let mut state = self.state.lock();
        (state.diff_bytes, state.makes_patch) = (patch_bytes, true);
    }

    fn advance(&self, position_bytes: u64, diff_bytes: u64) {
        let mut state = self.state.lock();
        let elapsed = state.started.elapsed();
        if !state.is_silent
            && let Some(line) = state.advance(position_bytes, diff_bytes, elapsed)
        {
            self.tell(&line);
        }
    }

    fn finish(&self) {
        let mut state = self.state.lock();
        if let Some(line) = state.finish() {
            self.tell(&line);
        }
        if !self.scroll && state.last.is_some() {
            report::progress("\n");
        }
    }
}

impl LineState {
    /// The line of the end, unless that was told before, or there was no main part.
    fn finish(&mut self) -> Option<String> {
        let size_bytes = self.size_bytes?;
        if self.last.is_some_and(|(told, _)| told == 100) {
            return None;
        }
        self.advance(size_bytes, self.diff_bytes, self.started.elapsed())
    }

    /// The line to print now, if one is due.
    fn advance(&mut self, position: u64, diff_bytes: u64, elapsed: Duration) -> Option<String> {
        let size_bytes = self.size_bytes?;
        self.position_bytes = self.position_bytes.max(position.min(size_bytes));
        if !self.makes_patch {
            self.diff_bytes = self.diff_bytes.max(diff_bytes);
        }
        let percent = percent(self.position_bytes, size_bytes);
        let due =
            self.last.is_none_or(|(told, at)| told != percent || elapsed >= at + LINE_INTERVAL);
        if !due {
            return None;
        }
        self.last = Some((percent, elapsed));
        Some(classic_line(self.position_bytes, self.diff_bytes, size_bytes, elapsed))
    }
}

/// `PROGRESS:PCT%,DIFFBYTES,POS,SIZE,ELAPSED,REMAINING`, and eight spaces that clear what a
/// longer line left behind it.
fn classic_line(position: u64, diff_bytes: u64, size: u64, elapsed: Duration) -> String {
    let times = if position == 0 {
        "-,-".to_owned()
    } else {
        let elapsed = elapsed.as_secs_f64();
        let remaining = elapsed * (size.saturating_sub(position)) as f64 / position as f64;
        format!("{elapsed:.3},{remaining:.3}")
    };
    let percent = percent(position, size);
    format!("PROGRESS:{percent:03}%,{diff_bytes},{position},{size},{times}        ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(size_bytes: u64) -> LineState {
        let mut state = ClassicLines::new(true).state.into_inner();
        state.size_bytes = Some(size_bytes);
        state
    }

    #[test]
    fn line_has_the_classic_form() {
        let second = Duration::from_secs(1);
        assert_eq!(classic_line(0, 0, 1000, second), "PROGRESS:000%,0,0,1000,-,-        ");
        assert_eq!(
            classic_line(250, 77, 1000, second),
            "PROGRESS:025%,77,250,1000,1.000,3.000        "
        );
        assert_eq!(
            classic_line(1000, 77, 1000, second / 3),
            "PROGRESS:100%,77,1000,1000,0.333,0.000        "
        );
    }

    #[test]
    fn a_line_is_due_once_a_percent_or_a_second() {
        let mut state = state(1000);
        let at = Duration::from_millis;
        assert!(state.advance(0, 0, at(0)).is_some());
        assert!(state.advance(9, 0, at(1)).is_none());
        assert!(state.advance(10, 0, at(2)).is_some());
        assert!(state.advance(11, 0, at(1001)).is_none());
        assert!(state.advance(11, 0, at(1002)).is_some());
    }

    #[test]
    fn position_never_goes_back_nor_past_the_end() {
        let mut state = state(1000);
        state.advance(500, 10, Duration::ZERO);
        assert!(state.advance(400, 5, Duration::ZERO).is_none());
        let line = state.advance(2000, 10, Duration::ZERO).unwrap();
        assert!(line.starts_with("PROGRESS:100%,10,1000,1000,"), "{line}");
    }

    #[test]
    fn of_a_patch_that_is_made_its_own_bytes_are_told() {
        let lines = ClassicLines::new(true);
        lines.begin(Part::Comparing, Some(1000));
        lines.patch_grows(77);
        let line = lines.state.lock().advance(250, 512, Duration::ZERO).unwrap();
        assert!(line.starts_with("PROGRESS:025%,77,250,1000,"), "{line}");
    }

    #[test]
    fn another_part_begins_from_nothing() {
        let lines = ClassicLines::new(true);
        lines.begin(Part::Reading, Some(1000));
        lines.state.lock().advance(1000, 77, Duration::ZERO);
        lines.begin(Part::Writing, Some(10));
        let line = lines.state.lock().advance(5, 0, Duration::ZERO).unwrap();
        assert!(line.starts_with("PROGRESS:050%,0,5,10,"), "{line}");
    }

    #[test]
    fn nothing_is_told_but_of_the_main_part() {
        let lines = ClassicLines::new(true);
        lines.begin(Part::Writing, Some(1000));
        lines.advance(500, 77);
        let last = lines.state.lock().last;
        lines.begin(Part::Verifying, Some(10));
        lines.advance(900, 80);
        {
            let state = lines.state.lock();
            let told = (state.size_bytes, state.position_bytes, state.diff_bytes, state.last);
            assert_eq!(told, (Some(1000), 500, 77, last));
        }
        lines.begin(Part::Writing, Some(10));
        lines.advance(5, 1);
        assert_eq!(lines.state.lock().position_bytes, 5, "after a silent one");
    }

    #[test]
    fn the_end_is_told_once_however_late_it_comes() {
        let mut state = state(1000);
        state.advance(500, 10, Duration::ZERO);
        assert!(state.finish().unwrap().starts_with("PROGRESS:100%,10,1000,1000,"));
        state.last = Some((100, Duration::ZERO));
        state.started = Instant::now() - 2 * LINE_INTERVAL;
        assert_eq!(state.finish(), None);
    }

    #[test]
    fn of_a_run_without_a_main_part_no_end_is_told() {
        let lines = ClassicLines::new(true);
        lines.begin(Part::Checking, Some(1000));
        lines.advance(1000, 0);
        assert_eq!(lines.state.lock().finish(), None);
    }

    #[test]
    fn an_empty_device_is_done_at_once() {
        assert_eq!(percent(0, 0), 100);
        assert_eq!(percent(u64::MAX, u64::MAX), 100);
        assert_eq!(percent(2, 1), 100, "and one that became shorter is done");
        assert_eq!(percent(999, 1000), 99, "but not before its end");
    }
}

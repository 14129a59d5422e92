//! How long somebody has been silent while this process listened (pure).

use std::time::{Duration, Instant};

/// The longest wait that is counted at once.
const SLICE: Duration = Duration::from_secs(1);

/// By so much more than it was to take, a wait takes only where this process was stopped in it.
const STOPPED: Duration = Duration::from_secs(1);

/// The silence of somebody who is waited for, in waits of at most [`Silence::slice`].
///
/// The time of day does not tell it: clocks run on while this process is stopped, as by Ctrl-Z, and
/// an `ssh` that leads to the other side is stopped with it. So only what was spent waiting counts.
/// A wait in which the process was stopped begins the silence anew: whoever is woken together with
/// it takes a moment to deliver what has come meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    since: Instant,
    counted: Duration,
}

impl Silence {
    /// One that begins `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, counted: Duration::ZERO }
    }

    /// Something was heard `at` that time: what came before does not count.
    pub(super) fn heard(&mut self, at: Instant) {
        if at > self.since {
            *self = Self::new(at);
        }
    }

    /// How much of `limit` is left.
    pub(super) fn left(&self, limit: Duration) -> Duration {
        limit.saturating_sub(self.counted)
    }

    /// How long to wait at once, where `left` may be waited.
    pub(super) fn slice(left: Duration) -> Duration {
        left.min(SLICE)
    }

    /// Counts a wait that was to take `asked` at most, in which nothing was heard.
    pub(super) fn waited(&mut self, started: Instant, ended: Instant, asked: Duration) {
        if ended.saturating_duration_since(started) >= asked + STOPPED {
            return self.heard(ended);
        }
        let took = ended.saturating_duration_since(started.max(self.since));
        self.counted += took.min(asked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// Waits as a reader does until the limit is reached, each as much longer than it was to be as
    /// `late` says of its number; how many waits that were.
    fn waits_until_the_limit(late: impl Fn(u32) -> Duration) -> u32 {
        let mut now = Instant::now();
        let mut silence = Silence::new(now);
        let mut count = 0;
        while !silence.left(LIMIT).is_zero() {
            let asked = Silence::slice(silence.left(LIMIT));
            let ended = now + asked + late(count);
            silence.waited(now, ended, asked);
            (now, count) = (ended, count + 1);
        }
        count
    }

    #[test]
    fn waits_add_up_to_the_limit_however_late_they_end() {
        assert_eq!(waits_until_the_limit(|_| Duration::ZERO), 60);
        assert_eq!(waits_until_the_limit(|_| Duration::from_millis(900)), 60);
    }

    #[test]
    fn a_stop_is_no_silence_and_the_limit_begins_anew_behind_it() {
        for stopped in [STOPPED, Duration::from_secs(3600)] {
            let late = |count| if count == 59 { stopped } else { Duration::ZERO };
            assert_eq!(waits_until_the_limit(late), 60 + 60);
        }
    }

    #[test]
    fn only_waiting_counts_and_only_since_something_was_heard() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut silence = Silence::new(start);
        // The process did something else for an hour, and then waited for 300 ms.
        silence.waited(at(3_600_000), at(3_600_300), SLICE);
        assert_eq!(silence.left(LIMIT), LIMIT - Duration::from_millis(300));
        // Heard in the middle of a wait, and told of what was heard before.
        silence.heard(at(3_700_600));
        silence.heard(at(3_600_300));
        silence.waited(at(3_700_000), at(3_701_000), SLICE);
        assert_eq!(silence.left(LIMIT), LIMIT - Duration::from_millis(400));
    }
}

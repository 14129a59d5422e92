//! `--progress=json`: an object a second on stderr, a line each.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;
use serde::Serialize;

use super::{Meter, Part, Progress, Snapshot};
use crate::background::Background;
use crate::report;

/// Time between two objects.
const INTERVAL: Duration = Duration::from_secs(1);

/// The objects; a thread tells them also while nothing moves.
#[derive(Debug)]
pub struct JsonLines {
    meter: Arc<Meter>,
    /// `None` once it has ended.
    ticker: Mutex<Option<Background<Sender<()>>>>,
}

/// What a line says.
#[derive(Serialize)]
struct Line {
    part: Part,
    /// Null while unknown, as is the size.
    percent: Option<u64>,
    position_bytes: u64,
    size_bytes: Option<u64>,
    diff_bytes: u64,
    bytes_per_second: u64,
    elapsed_seconds: f64,
    /// Null while unknown.
    remaining_seconds: Option<f64>,
    finished: bool,
}

impl Default for JsonLines {
    fn default() -> Self {
        Self::new()
    }
}

impl JsonLines {
    /// Tells nothing before the beginning.
    #[must_use]
    pub fn new() -> Self {
        let meter = Arc::new(Meter::default());
        let (stop, stopped) = bounded(0);
        let watched = Arc::clone(&meter);
        let ticker = Background::start("progress", stop, move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                if let Some(now) = watched.snapshot() {
                    tell(&now, false);
                }
            }
        });
        // Without a thread there is still the last object.
        Self { meter, ticker: Mutex::new(ticker.ok()) }
    }
}

impl Progress for JsonLines {
    fn begin(&self, part: Part, size_bytes: Option<u64>) {
        self.meter.begin(part, size_bytes);
    }

    fn advance(&self, position_bytes: u64, diff_bytes: u64) {
        self.meter.advance(position_bytes, diff_bytes);
    }

    fn finish(&self) {
        // Nothing comes behind the last object.
        drop(self.ticker.lock().take());
        self.meter.finish();
        if let Some(now) = self.meter.snapshot() {
            tell(&now, true);
        }
    }
}

fn tell(now: &Snapshot, finished: bool) {
    if let Ok(line) = serde_json::to_string(&line(now, finished)) {
        report::progress(&format!("{line}\n"));
    }
}

fn line(now: &Snapshot, finished: bool) -> Line {
    Line {
        part: now.part,
        percent: now.percent(),
        position_bytes: now.position_bytes,
        size_bytes: now.size_bytes,
        diff_bytes: now.diff_bytes,
        bytes_per_second: now.bytes_per_second(),
        elapsed_seconds: now.elapsed.as_secs_f64(),
        remaining_seconds: now.remaining().map(|time| time.as_secs_f64()),
        finished,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_one_object_with_null_for_unknown() {
        let now = Snapshot {
            part: Part::Comparing,
            size_bytes: Some(100),
            position_bytes: 0,
            diff_bytes: 0,
            elapsed: Duration::from_millis(1500),
        };
        assert_eq!(
            serde_json::to_string(&line(&now, false)).unwrap(),
            "{\"part\":\"comparing\",\"percent\":0,\"position_bytes\":0,\"size_bytes\":100,\"diff_bytes\":0,\
             \"bytes_per_second\":0,\"elapsed_seconds\":1.5,\"remaining_seconds\":null,\
             \"finished\":false}"
        );
    }

    #[test]
    fn its_thread_has_ended_when_it_is_finished() {
        let lines = JsonLines::new();
        lines.begin(Part::Writing, Some(10));
        let watched = Arc::downgrade(&lines.meter);
        assert_eq!(watched.strong_count(), 2, "its own and the thread's");
        lines.finish();
        assert_eq!(watched.strong_count(), 1);
        drop(lines);
        assert_eq!(watched.strong_count(), 0);
    }
}

//! A line whenever SIGUSR1 asks for one, around any other listener.

use std::io::{self, PipeWriter};
use std::os::fd::AsFd;
use std::sync::Arc;

use super::{Meter, Part, Progress};
use crate::background::Background;
use crate::error::{Error, Kind, Result};
use crate::report;
use crate::signals::StatusRequests;

/// What is told before the run has begun.
const NOT_BEGUN: &str = "not begun yet: waiting for the devices, or for a patch";

/// Passes everything on, and answers SIGUSR1 on stderr.
pub struct OnSignal {
    inner: Box<dyn Progress>,
    meter: Arc<Meter>,
    /// Held for its thread.
    _answers: Background<PipeWriter>,
}

impl OnSignal {
    /// Around `inner`. [`StatusRequests::hold`] must have been called before.
    ///
    /// # Errors
    /// As [`answer_requests`].
    pub fn new(inner: Box<dyn Progress>) -> Result<Self> {
        let meter = Arc::new(Meter::default());
        let watched = Arc::clone(&meter);
        let answers = answer_requests(move || watched.snapshot().map(|now| now.line()))?;
        Ok(Self { inner, meter, _answers: answers })
    }
}

/// Answers SIGUSR1 on stderr until what is returned is dropped. `line` says how far the run is,
/// once it has begun. [`StatusRequests::hold`] must have been called before.
///
/// # Errors
/// `Kind::Open` when descriptors or threads run out.
pub fn answer_requests(
    line: impl Fn() -> Option<String> + Send + 'static,
) -> Result<Background<PipeWriter>> {
    let failed = |err| Error::io(Kind::Open, "cannot watch for SIGUSR1", err);
    let requests = StatusRequests::open()?;
    let (stopped, stop) = io::pipe().map_err(failed)?;
    let answer = move || {
        while requests.wait(stopped.as_fd()) {
            report::notice(line().as_deref().unwrap_or(NOT_BEGUN));
        }
    };
    Background::start("SIGUSR1", stop, answer).map_err(failed)
}

impl Progress for OnSignal {
    fn begin(&self, part: Part, size_bytes: Option<u64>) {
        self.meter.begin(part, size_bytes);
        self.inner.begin(part, size_bytes);
    }

    fn advance(&self, position_bytes: u64, diff_bytes: u64) {
        self.meter.advance(position_bytes, diff_bytes);
        self.inner.advance(position_bytes, diff_bytes);
    }

    fn patch_grows(&self, patch_bytes: u64) {
        self.inner.patch_grows(patch_bytes);
    }

    fn pause(&self) {
        self.inner.pause();
    }

    fn finish(&self) {
        self.meter.finish();
        self.inner.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Recording;

    struct Shared(Arc<Recording>);

    impl Progress for Shared {
        fn begin(&self, part: Part, size_bytes: Option<u64>) {
            self.0.begin(part, size_bytes);
        }
        fn advance(&self, position_bytes: u64, diff_bytes: u64) {
            self.0.advance(position_bytes, diff_bytes);
        }
        fn finish(&self) {
            self.0.finish();
        }
    }

    #[test]
    fn everything_is_passed_on_and_its_thread_ends_with_it() {
        let recording = Arc::new(Recording::default());
        let outer = OnSignal::new(Box::new(Shared(Arc::clone(&recording)))).unwrap();
        outer.begin(Part::Writing, Some(10));
        outer.advance(5, 1);
        let known = |outer: &OnSignal| {
            let now = outer.meter.snapshot().unwrap();
            (now.part, now.size_bytes, now.position_bytes, now.diff_bytes)
        };
        assert_eq!(known(&outer), (Part::Writing, Some(10), 5, 1));
        outer.finish();
        assert_eq!(known(&outer), (Part::Writing, Some(10), 10, 1));
        drop(outer);
        assert_eq!(*recording.begun.lock(), [(Part::Writing, Some(10))]);
        assert_eq!(*recording.steps.lock(), [(5, 1)]);
        assert!(recording.finished.load(std::sync::atomic::Ordering::SeqCst));
    }
}

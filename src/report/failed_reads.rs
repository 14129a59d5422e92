//! Reads that fail while others go on: of a link that is gone, or a disk that dies, all do.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::Error;

/// At most one line in this time tells of them.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Warns of failed reads, in few lines.
#[derive(Default)]
pub struct FailedReads {
    /// When one was last told of, and how many were not since.
    state: Mutex<(Option<Instant>, u64)>,
}

impl Drop for FailedReads {
    fn drop(&mut self) {
        let (_, untold) = *self.state.get_mut();
        if untold > 0 {
            log::warn!("{untold} more reads have failed");
        }
    }
}

impl FailedReads {
    /// One has failed with `err`.
    pub fn tell(&self, err: &Error) {
        let (ref mut last, ref mut untold) = *self.state.lock();
        if last.is_some_and(|told| told.elapsed() < TOLD_EVERY) {
            *untold += 1;
            return;
        }
        match std::mem::take(untold) {
            0 => log::warn!("{}", err.full_message()),
            more => log::warn!("{} (and {more} failed reads before)", err.full_message()),
        }
        *last = Some(Instant::now());
    }
}

//! Reads that fail while others go on: of a link that is gone, or a disk that dies, all do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::Error;

/// At most one line in this time tells of them.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Warns of failed reads, in few lines.
#[derive(Default)]
pub struct FailedReads {
    /// When one was last told of.
    told: Mutex<Option<Instant>>,
    /// How many were not since.
    untold: AtomicU64,
}

impl Drop for FailedReads {
    fn drop(&mut self) {
        let untold = *self.untold.get_mut();
        if untold > 0 {
            log::warn!("{untold} more reads have failed");
        }
    }
}

impl FailedReads {
    /// One has failed with `err`. Where nobody takes what is said, at most one waits for that.
    pub fn tell(&self, err: &Error) {
        let told = self.told.try_lock();
        let is_due = |told: &Option<Instant>| told.is_none_or(|at| at.elapsed() >= TOLD_EVERY);
        let Some(mut told) = told.filter(|told| is_due(told)) else {
            self.untold.fetch_add(1, Ordering::Relaxed);
            return;
        };
        match self.untold.swap(0, Ordering::Relaxed) {
            0 => log::warn!("{}", err.full_message()),
            more => log::warn!("{} (and {more} failed reads before)", err.full_message()),
        }
        *told = Some(Instant::now());
    }
}

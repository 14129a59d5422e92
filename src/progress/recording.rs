//! A listener that keeps what it was told, for tests.

use parking_lot::Mutex;

use super::{Part, Progress};

/// Keeps what it was told, for tests.
#[derive(Debug, Default)]
pub struct Recording {
    /// `(position_bytes, diff_bytes)` of every call, in order.
    pub steps: Mutex<Vec<(u64, u64)>>,
    /// Parts and their sizes, in order.
    pub begun: Mutex<Vec<(Part, Option<u64>)>>,
    /// Whether the end was told.
    pub finished: std::sync::atomic::AtomicBool,
}

impl Progress for Recording {
    fn begin(&self, part: Part, size_bytes: Option<u64>) {
        self.begun.lock().push((part, size_bytes));
    }

    fn advance(&self, position_bytes: u64, diff_bytes: u64) {
        self.steps.lock().push((position_bytes, diff_bytes));
    }

    fn finish(&self) {
        self.finished.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

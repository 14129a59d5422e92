//! Wakes the thread that waits for any of many things to be finished.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Counts how often it was rung, so that a ring between a look and a wait is not missed.
#[derive(Default)]
pub(super) struct Bell {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    /// Something is finished.
    pub(super) fn ring(&self) {
        *self.rings.lock() += 1;
        self.rung.notify_all();
    }

    /// How often it was rung; to be asked before looking at what may be finished.
    pub(super) fn rings(&self) -> u64 {
        *self.rings.lock()
    }

    /// Waits until it was rung more than `seen` times.
    pub(super) fn wait_past(&self, seen: u64) {
        let mut rings = self.rings.lock();
        self.rung.wait_while(&mut rings, |rings| *rings <= seen);
    }

    /// The same, but no longer than `limit`; whether it was rung.
    pub(super) fn wait_past_for(&self, seen: u64, limit: Duration) -> bool {
        let mut rings = self.rings.lock();
        !self.rung.wait_while_for(&mut rings, |rings| *rings <= seen, limit).timed_out()
    }
}

//! Waits for what another process or thread is to bring about.
//!
//! A limit is counted by the pauses between two looks and not by the clock: however long the machine
//! stands still meanwhile, those that are waited for have had as much time as the one who waits.

use std::process::{Child, ExitStatus};
use std::thread;
use std::time::Duration;

/// More than anything takes that does come.
const LIMIT: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(16);

/// Whether it becomes true before `limit`.
pub fn within(limit: Duration, mut is_true: impl FnMut() -> bool) -> bool {
    let (mut left, mut pause) = (limit, FIRST_PAUSE);
    loop {
        if is_true() {
            return true;
        }
        if left.is_zero() {
            return false;
        }
        thread::sleep(pause);
        left = left.saturating_sub(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether it becomes true at all.
pub fn comes_true(is_true: impl FnMut() -> bool) -> bool {
    within(LIMIT, is_true)
}

/// Waits for something to become true, and fails the test when it does not.
#[track_caller]
pub fn wait_until(what: &str, is_true: impl FnMut() -> bool) {
    assert!(comes_true(is_true), "waited for: {what}");
}

/// Whether it has ended before `limit`, and how.
pub fn ended_within(limit: Duration, child: &mut Child) -> Option<ExitStatus> {
    let mut status = None;
    within(limit, || {
        status = child.try_wait().expect("cannot wait");
        status.is_some()
    });
    status
}

/// How it ended; fails the test when it does not.
#[track_caller]
pub fn ended(child: &mut Child) -> ExitStatus {
    ended_within(LIMIT, child).expect("the process does not end")
}

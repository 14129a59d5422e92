//! The bar on a terminal: share, rate, time left and what differs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Progress;
use crate::report;
use crate::units::human_bytes;

/// How often it is drawn, at most, in times a second.
const DRAWS_PER_SECOND: u8 = 8;
/// How often it is drawn while nothing moves, so that rate and time stay true.
const TICK: Duration = Duration::from_millis(500);
const TEMPLATE: &str = "{percent:>3} % [{bar:25}] {binary_bytes} of {binary_total_bytes}, \
                        {binary_bytes_per_sec}, {eta} left, {msg}";

/// A bar on stderr. Gone from the terminal when it is finished or dropped; `report` keeps
/// other lines out of its way.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    /// The amount of differing bytes from which on the message is worth changing.
    next_told_bytes: AtomicU64,
}

impl Default for Bar {
    fn default() -> Self {
        Self::new(ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND))
    }
}

impl Bar {
    fn new(target: ProgressDrawTarget) -> Self {
        let bar = ProgressBar::with_draw_target(None, target);
        // The template is a constant, and a test holds it to be a valid one.
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, next_told_bytes: AtomicU64::new(1) }
    }
}

impl Progress for Bar {
    fn begin(&self, size_bytes: u64) {
        self.bar.reset();
        self.bar.set_length(size_bytes);
        self.bar.set_message("no differences so far");
        self.next_told_bytes.store(1, Ordering::Relaxed);
        report::show_bar(self.bar.clone());
        self.bar.enable_steady_tick(TICK);
    }

    fn advance(&self, position_bytes: u64, diff_bytes: u64) {
        self.bar.set_position(position_bytes);
        // An apply calls this for every record.
        if diff_bytes >= self.next_told_bytes.load(Ordering::Relaxed) {
            self.next_told_bytes.store(diff_bytes + diff_bytes / 512 + 1, Ordering::Relaxed);
            self.bar.set_message(format!("{} differ", human_bytes(diff_bytes)));
        }
    }

    fn pause(&self) {
        self.bar.disable_steady_tick();
        report::hide_bar();
        self.bar.finish_and_clear();
    }

    fn finish(&self) {
        self.pause();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_is_valid_and_the_bar_can_begin_twice() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
        let bar = Bar::new(ProgressDrawTarget::hidden());
        for _ in 0..2 {
            bar.begin(100);
            bar.advance(50, 4096);
            assert_eq!((bar.bar.position(), bar.bar.length()), (50, Some(100)));
            assert_eq!(bar.bar.message(), "4.0 KiB differ");
            bar.finish();
            assert!(bar.bar.is_finished());
        }
    }
}

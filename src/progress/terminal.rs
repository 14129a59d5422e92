//! The bar on a terminal: share, rate, time left and what differs.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use terminal_size::{Width, terminal_size_of};

use super::{Part, Progress};
use crate::report;

/// How often it is drawn, at most, in times a second.
const DRAWS_PER_SECOND: u8 = 8;
/// How often it is drawn while nothing moves, so that rate and time stay true.
const TICK: Duration = Duration::from_millis(500);
/// Columns that the longest line of [`WIDE`] takes.
const WIDE_COLUMNS: u16 = 110;
const WIDE: &str = "{percent:>3} % [{bar:25}] {binary_bytes} of {binary_total_bytes}, \
                    {binary_bytes_per_sec}, {eta} left{msg}";
/// Of what nobody knows the size of.
const UNSIZED: &str = "{binary_bytes}, {binary_bytes_per_sec}{msg}";
/// For 80 columns.
const NARROW: &str = "{percent:>3} % [{bar:10}] of {binary_total_bytes}, \
                      {binary_bytes_per_sec}, {eta} left{msg}";

/// A bar on stderr. Gone from the terminal when it is finished or dropped; `report` keeps
/// other lines out of its way.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    part: Mutex<Part>,
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
        Self {
            bar: ProgressBar::with_draw_target(None, target),
            part: Mutex::new(Part::Comparing),
            next_told_bytes: AtomicU64::new(1),
        }
    }

    /// The form that the terminal has room for now. It comes first: what else is set is drawn.
    fn fit(&self, size_bytes: Option<u64>) {
        let Some(size_bytes) = size_bytes else {
            self.set_form(UNSIZED);
            self.bar.unset_length();
            return;
        };
        let columns = terminal_size_of(io::stderr()).map(|(Width(columns), _)| columns);
        let template = if columns.is_some_and(|of| of >= WIDE_COLUMNS) { WIDE } else { NARROW };
        self.set_form(template);
        self.bar.set_length(size_bytes);
    }

    fn set_form(&self, template: &str) {
        // All are constants, and a test holds them to be valid.
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style.progress_chars("=> "));
        }
    }

    /// What stands behind the times: how much differs, or else what is done.
    fn tell(&self, diff_bytes: u64) {
        let part = *self.part.lock();
        let amount = part.amount(diff_bytes);
        let is_told = !amount.is_empty();
        self.bar.set_message(if is_told { amount } else { format!(", {}", part.word()) });
    }
}

impl Progress for Bar {
    fn begin(&self, part: Part, size_bytes: Option<u64>) {
        self.fit(size_bytes);
        self.bar.reset();
        *self.part.lock() = part;
        self.tell(0);
        self.next_told_bytes.store(1, Ordering::Relaxed);
        report::show_bar(self.bar.clone());
        self.bar.enable_steady_tick(TICK);
    }

    fn advance(&self, position_bytes: u64, diff_bytes: u64) {
        self.bar.set_position(position_bytes);
        // An apply calls this for every record.
        if diff_bytes >= self.next_told_bytes.load(Ordering::Relaxed) {
            self.next_told_bytes.store(diff_bytes + diff_bytes / 512 + 1, Ordering::Relaxed);
            self.tell(diff_bytes);
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
    use std::sync::Arc;

    use indicatif::TermLike;

    use super::*;
    use crate::units::GIB;

    /// A terminal that keeps the last line.
    #[derive(Clone, Debug, Default)]
    struct Last(Arc<Mutex<String>>);

    impl TermLike for Last {
        fn width(&self) -> u16 {
            u16::MAX
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, line: &str) -> io::Result<()> {
            self.write_str(line)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            if !text.trim().is_empty() {
                *self.0.lock() = text.trim_end().to_owned();
            }
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_fit_the_terminals_that_they_are_for() {
        for (template, columns) in [(WIDE, WIDE_COLUMNS), (NARROW, 80)] {
            let last = Last::default();
            let bar = Bar::new(ProgressDrawTarget::term_like(Box::new(last.clone())));
            bar.set_form(template);
            bar.bar.set_length(1023 * GIB + GIB - 1);
            bar.bar.set_position(1022 * GIB);
            for diff_bytes in [0, 1023 * GIB] {
                bar.tell(diff_bytes);
                bar.bar.force_draw();
                let line = last.0.lock().clone();
                // Rate and time depend on the clock.
                let fields: Vec<&str> = line.split(", ").collect();
                let [done, _, _, amount] = fields[..] else { panic!("{line}") };
                let longest = format!("{done}, 999.99 MiB/s, 59m left, {amount}");
                assert!(longest.len() <= usize::from(columns), "{longest}");
                assert!(line.contains("=>"), "{line}");
            }
        }
    }

    #[test]
    fn the_bar_can_begin_twice_and_says_what_is_done() {
        let bar = Bar::new(ProgressDrawTarget::hidden());
        for _ in 0..2 {
            bar.begin(Part::Comparing, Some(100));
            assert_eq!(bar.bar.message(), ", no differences yet");
            bar.advance(50, 4096);
            assert_eq!((bar.bar.position(), bar.bar.length()), (50, Some(100)));
            assert_eq!(bar.bar.message(), ", 4.0 KiB differ");
            bar.begin(Part::Verifying, None);
            assert_eq!((bar.bar.message(), bar.bar.length()), (", verifying".into(), None));
            bar.finish();
            assert!(bar.bar.is_finished());
        }
    }

    #[test]
    fn a_bar_that_is_dropped_is_gone() {
        let bar = Bar::new(ProgressDrawTarget::hidden());
        bar.begin(Part::Writing, Some(100));
        let shown = bar.bar.clone();
        drop(bar);
        assert!(shown.is_finished());
    }
}

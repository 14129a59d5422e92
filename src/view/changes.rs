//! `changes` and the listing of `extents/`: the changed ranges, one by one, from anywhere.
//!
//! A line of `changes` is `OFFSET LENGTH` in decimal, padded with blanks to a fixed width, so
//! that a line's place in the file is known. Which range it holds is counted from the
//! nearest of a bounded number of checkpoints.

use std::sync::Arc;

use parking_lot::Mutex;

use super::change::Done;
use super::tree::{Entry, Node};
use super::walk::{Walk, ended};
use crate::error::Result;
use crate::units::ByteRange;

/// Bytes of a line of `changes`, its line break included: two numbers of at most 20 digits.
pub const LINE_BYTES: u64 = 42;
/// The most names that one call of a listing gives.
pub const LIST_ENTRIES_MAX: usize = 256;
/// The most checkpoints that are kept; beyond, every other one is forgotten.
const CHECKPOINTS_MAX: usize = 16 * 1024;
/// Lines from one checkpoint to the next, at first.
const CHECKPOINT_LINES: u64 = 1024;

/// The line of `changes` for a range.
#[must_use]
pub fn line(range: ByteRange) -> String {
    format!("{:>20} {:>20}\n", range.start, range.len())
}

/// What is known of the place of lines in `changes`.
#[derive(Debug)]
pub struct Lines(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Line `i * spacing` is the first range that ends behind `checkpoints[i]`.
    checkpoints: Vec<u64>,
    /// Lines from one checkpoint to the next.
    spacing: u64,
    /// Number of lines, once it is known.
    total: Option<u64>,
}

impl Lines {
    /// Nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self(Mutex::new(State { checkpoints: vec![0], spacing: CHECKPOINT_LINES, total: None }))
    }

    /// Size of `changes` in bytes, once it is known.
    #[must_use]
    pub fn file_bytes(&self) -> Option<u64> {
        self.0.lock().total.map(|lines| lines.saturating_mul(LINE_BYTES))
    }

    /// The last known line at or before `line`, and the offset behind which its range ends.
    fn nearest(&self, line: u64) -> (u64, u64) {
        let state = self.0.lock();
        let last = state.checkpoints.len() - 1;
        let index = usize::try_from(line / state.spacing).unwrap_or(last).min(last);
        (index as u64 * state.spacing, state.checkpoints[index])
    }

    /// Says that `line` is the first range that ends behind `from`.
    fn note(&self, line: u64, from: u64) {
        let mut state = self.0.lock();
        if line != state.checkpoints.len() as u64 * state.spacing {
            return;
        }
        if state.checkpoints.len() == CHECKPOINTS_MAX {
            let mut index = 0;
            state.checkpoints.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            state.spacing = state.spacing.saturating_mul(2);
        }
        // With the wider spacing it may belong further on, and is met again there.
        if line == state.checkpoints.len() as u64 * state.spacing {
            state.checkpoints.push(from);
        }
    }

    /// Says how many lines there are.
    pub(super) fn ended(&self, lines: u64) {
        self.0.lock().total = Some(lines);
    }
}

/// Reads a piece of `changes`.
pub struct ReadLines {
    lines: Arc<Lines>,
    /// Number of the line that is looked for.
    line: u64,
    /// The bytes of `changes` that are wanted.
    wanted: ByteRange,
    out: Vec<u8>,
    done: Option<Done<Vec<u8>>>,
}

impl ReadLines {
    /// The walk that reads `wanted`, and where it begins. A file of more lines than fit 64
    /// bits of offset ends there.
    #[must_use]
    pub fn new(lines: Arc<Lines>, wanted: ByteRange, done: Done<Vec<u8>>) -> (Box<Self>, u64) {
        let (line, from) = lines.nearest(wanted.start / LINE_BYTES);
        (Box::new(Self { lines, line, wanted, out: Vec::new(), done: Some(done) }), from)
    }

    fn answer(&mut self, result: Result<()>) {
        if let Some(done) = self.done.take() {
            let out = std::mem::take(&mut self.out);
            done(result.map(|()| out));
        }
    }
}

impl Drop for ReadLines {
    fn drop(&mut self) {
        if self.done.is_some() {
            self.answer(Err(ended()));
        }
    }
}

impl Walk for ReadLines {
    fn step(&mut self, found: Result<Option<ByteRange>>) -> Option<u64> {
        let range = match found {
            Ok(Some(range)) => range,
            Ok(None) => {
                self.lines.ended(self.line);
                self.answer(Ok(()));
                return None;
            }
            Err(err) => {
                self.answer(Err(err));
                return None;
            }
        };
        let start = self.line.saturating_mul(LINE_BYTES);
        let place = ByteRange::new(start, start.saturating_add(LINE_BYTES));
        let part = place.intersect(&self.wanted);
        if !part.is_empty() {
            // Both are below `LINE_BYTES` behind `start`.
            let within = (part.start - start) as usize..(part.end - start) as usize;
            self.out.extend_from_slice(&line(range).as_bytes()[within]);
        }
        self.line += 1;
        self.lines.note(self.line, range.end);
        if place.end >= self.wanted.end {
            self.answer(Ok(()));
            return None;
        }
        Some(range.end)
    }

    fn answer_early(&mut self) -> bool {
        let has_some = !self.out.is_empty();
        if has_some {
            self.answer(Ok(()));
        }
        has_some
    }
}

/// Lists a batch of `extents/`.
pub struct ListExtents {
    entries: Vec<Entry>,
    done: Option<Done<Vec<Entry>>>,
}

/// Cookies of `extents/` are offsets behind which a range ends, above those of `.` and `..`.
const EXTENT_COOKIE_MIN: u64 = 2;

impl ListExtents {
    /// The walk behind `cookie`, and where it begins.
    #[must_use]
    pub fn new(cookie: u64, done: Done<Vec<Entry>>) -> (Box<Self>, u64) {
        let walk = Box::new(Self { entries: Vec::new(), done: Some(done) });
        (walk, cookie.saturating_sub(EXTENT_COOKIE_MIN))
    }

    fn answer(&mut self, result: Result<()>) {
        if let Some(done) = self.done.take() {
            let entries = std::mem::take(&mut self.entries);
            done(result.map(|()| entries));
        }
    }
}

impl Drop for ListExtents {
    fn drop(&mut self) {
        if self.done.is_some() {
            self.answer(Err(ended()));
        }
    }
}

impl Walk for ListExtents {
    fn step(&mut self, found: Result<Option<ByteRange>>) -> Option<u64> {
        match found {
            Ok(Some(range)) => {
                let node = Node::Extent(range);
                let cookie = range.end.saturating_add(EXTENT_COOKIE_MIN);
                self.entries.push(Entry { node, name: node.name(), cookie });
                if self.entries.len() < LIST_ENTRIES_MAX {
                    return Some(range.end);
                }
                self.answer(Ok(()));
            }
            Ok(None) => self.answer(Ok(())),
            Err(err) => self.answer(Err(err)),
        }
        None
    }

    fn answer_early(&mut self) -> bool {
        let has_some = !self.entries.is_empty();
        if has_some {
            self.answer(Ok(()));
        }
        has_some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_one_width_for_all_numbers() {
        for range in [ByteRange::new(0, 1), ByteRange::new(0, u64::MAX)] {
            assert_eq!(line(range).len() as u64, LINE_BYTES);
        }
        assert_eq!(line(ByteRange::new(u64::MAX - 5, u64::MAX)).len() as u64, LINE_BYTES);
        assert_eq!(line(ByteRange::new(4096, 8192)).split_whitespace().last(), Some("4096"));
    }

    #[test]
    fn checkpoints_are_bounded_and_stay_true() {
        let lines = Lines::new();
        let total = CHECKPOINT_LINES * (CHECKPOINTS_MAX as u64 * 2 + 3);
        // The range of line n ends at 10 n + 10, so line n is looked for from 10 n.
        for line in 1..total {
            lines.note(line, line * 10);
            if line.is_multiple_of(CHECKPOINT_LINES) {
                assert!(lines.0.lock().checkpoints.len() <= CHECKPOINTS_MAX, "line {line}");
            }
        }
        for line in [0, 1, CHECKPOINT_LINES, total / 2, total - 1, u64::MAX] {
            let (at, from) = lines.nearest(line);
            assert!(at <= line);
            assert_eq!(from, at * 10);
        }
        let state = lines.0.lock();
        assert_eq!(state.spacing, CHECKPOINT_LINES * 4);
    }
}

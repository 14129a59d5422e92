//! How far a long run is: a trait that the library calls, and who listens.
//!
//! ```text
//!   Progress ---- classic.rs    the classic's lines          --progress[=noscroll]
//!            \--- terminal.rs   a bar                        on a terminal, unless asked otherwise
//!            \--- json.rs       an object a second           --progress=json
//!            \--- signal.rs     a line for every SIGUSR1, around one of the others
//!            \--- recording.rs  keeps what it was told       tests
//!   meter.rs  how far it is, as numbers
//!   part.rs   what a part of a run does
//! ```
//! The library never prints; it calls [`Progress`], from any thread and as often as it likes.
//! Positions are bytes of what a part of the run covers: the compared or patched range, or a patch
//! that is read. `diff_bytes` are those of it that differ, or that were written.

mod classic;
mod json;
mod meter;
mod part;
#[cfg(test)]
mod recording;
mod signal;
mod terminal;

pub use classic::ClassicLines;
pub use json::JsonLines;
pub use meter::{Meter, Snapshot};
pub use part::Part;
#[cfg(test)]
pub use recording::Recording;
pub use signal::{OnSignal, answer_requests};
pub use terminal::Bar;

/// Listens to how far a run is. Calls are cheap.
pub trait Progress: Send + Sync {
    /// A part of the run begins, which covers `size_bytes`; `None` where that shows in its end.
    fn begin(&self, part: Part, size_bytes: Option<u64>);

    /// Everything below `position_bytes` is done; so far `diff_bytes` differ, or are written.
    fn advance(&self, position_bytes: u64, diff_bytes: u64);

    /// The patch that is made has so many bytes by now, which the classic tells of.
    fn patch_grows(&self, _patch_bytes: u64) {}

    /// Somebody else needs the terminal, as `ssh` to ask for a password, until the next
    /// [`Progress::begin`].
    fn pause(&self) {}

    /// The run ended well: told once, when nothing of it can fail any more.
    fn finish(&self);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _part: Part, _size_bytes: Option<u64>) {}
    fn advance(&self, _position_bytes: u64, _diff_bytes: u64) {}
    fn finish(&self) {}
}

/// Whole percents, rounded down; nothing to do is all done.
fn percent(position_bytes: u64, size_bytes: u64) -> u64 {
    if size_bytes == 0 {
        return 100;
    }
    let percent = u128::from(position_bytes) * 100 / u128::from(size_bytes);
    u64::try_from(percent).unwrap_or(100).min(100)
}

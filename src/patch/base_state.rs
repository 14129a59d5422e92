//! The states that a target of a sealed patch can be found in.

use crate::units::ByteRange;

/// The state of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseState {
    /// The one that the patch was made for.
    Original,
    /// The one that the patch makes.
    Applied,
    /// An apply of this patch was cut short: some of it is new, the rest as it was.
    Interrupted,
    /// Another one.
    Foreign {
        /// The first part of the device that differs, as closely as the seal can tell.
        first: ByteRange,
        /// How many parts differ.
        differing: usize,
        /// How many parts the seal knows.
        parts: usize,
    },
    /// It has lost its end.
    Cut {
        /// The size that the patch was made for.
        made_for_bytes: u64,
        /// What it had, and the patch leaves as it was.
        missing: ByteRange,
    },
    /// It has got data behind its end, where the patch leaves what was not there, or cuts it off.
    Extended {
        /// The size that the patch was made for.
        made_for_bytes: u64,
        /// Where the first of the data is, to a mebibyte.
        first: ByteRange,
    },
}

impl BaseState {
    /// Of a state that the patch was not made for: what is wrong, to be followed by where.
    #[must_use]
    pub fn fault(&self) -> Option<(String, ByteRange)> {
        match *self {
            Self::Original | Self::Applied | Self::Interrupted => None,
            Self::Foreign { first, differing, parts } => Some((
                format!(
                    "{differing} of the {parts} changed places hold something else, the first one is"
                ),
                first,
            )),
            Self::Cut { made_for_bytes, missing } => {
                Some((format!("it had {made_for_bytes} bytes, and has lost"), missing))
            }
            Self::Extended { made_for_bytes, first } => Some((
                format!("it had {made_for_bytes} bytes, and has got data behind them, first in"),
                first,
            )),
        }
    }
}

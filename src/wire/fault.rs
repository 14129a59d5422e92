//! What a remote tells of bytes that it cannot read (extension `faults`).

use std::fmt;

use crate::error::{Error, Kind};
use crate::units::ByteRange;

/// The cause of an error that took the place of an answer: the session goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What cannot be read, as far as the remote found out and did not tell before.
    pub ranges: Vec<ByteRange>,
    /// The remote's words, not escaped.
    text: String,
}

impl Fault {
    /// The error with which a request ends that was answered by a `fault`.
    pub(crate) fn error(ranges: Vec<ByteRange>, text: &[u8]) -> Error {
        let text = String::from_utf8_lossy(text).into_owned();
        Error::new(Kind::Read, "at the remote side").with_source(Self { ranges, text })
    }

    /// The fault that `err` is about, if it is.
    #[must_use]
    pub fn of(err: &Error) -> Option<&Self> {
        err.cause()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Fault {}

//! Who is at the other end of a stream, and the errors that speak of it.

use std::fmt;
use std::io;

use super::layout::MESSAGE_BYTES_MAX;
use super::message::Message;
use crate::error::{Error, Kind};

/// How many bytes of what is no hello, or none of ours, an error message shows.
pub(super) const SHOWN_BYTES_MAX: usize = 40;

/// Where bytes that are not the protocol's come from, most often.
const NOISE_HINT: &str = "is --server missing, or does a login script print something?";

/// What a patch begins with, in any version.
const PATCH_BEGIN: &[u8] = b"BDSYNC ";

/// Where a patch in place of a hello comes from.
const PATCH_HINT: &str = "it is a patch, for a bdsync --patch: where a login is forced to serve, as by \
                          command= in authorized_keys, its devices can be read and not written";

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// Of a client's stream.
    Server,
    /// Of a server's.
    Client,
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "the remote side",
            Self::Client => "the client",
        })
    }
}

impl Other {
    /// It sent a message that is not due.
    #[must_use]
    pub fn unexpected(self, expected: &str, found: &Message) -> Error {
        let found = found.name();
        let what =
            format!("{self} sent a message out of order: expected {expected}, found {found}");
        Error::new(Kind::Protocol, what)
    }

    /// It sent what `err` says.
    pub(super) fn sent(self, err: Error) -> Error {
        let what = format!("{self} sent {err}");
        err.reworded(what)
    }

    /// The stream ended where a message was due.
    pub(super) fn gone(self) -> Error {
        Error::new(Kind::Gone, format!("{self} went away"))
    }

    /// The stream ended inside a message.
    pub(super) fn cut(self) -> Error {
        Error::new(Kind::Gone, format!("{self} went away in the middle of a message"))
    }

    /// The stream could not be read.
    pub(super) fn unread(self, source: io::Error) -> Error {
        match source.kind() {
            // The transport's own words name the time.
            io::ErrorKind::TimedOut => Error::new(Kind::Connection, format!("{self}: {source}")),
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => self.gone(),
            _ => Error::io(Kind::Gone, format!("cannot read from {self}"), source),
        }
    }

    /// The same behind the bytes with which a hello `begun`; a silence is told with them.
    pub(super) fn unread_behind(self, source: io::Error, begun: &[u8]) -> Error {
        match source.kind() {
            io::ErrorKind::TimedOut if !begun.is_empty() => {
                let what = format!("{self}: {source}, only \"{}\"", begun.escape_ascii());
                Error::new(Kind::Connection, what)
            }
            _ => self.unread(source),
        }
    }

    /// The stream could not be written to.
    pub(super) fn unwritten(self, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted => self.gone(),
            _ => Error::io(Kind::Connection, format!("cannot write to {self}"), source),
        }
    }

    /// What stands in a hello's place is most often words of a remote: show them.
    pub(super) fn no_hello(self, found: &[u8]) -> Error {
        let hint = match self {
            _ if found.starts_with(PATCH_BEGIN) => format!(" ({PATCH_HINT})"),
            Self::Server => format!(" ({NOISE_HINT})"),
            Self::Client => String::new(),
        };
        let shown = found[..found.len().min(SHOWN_BYTES_MAX)].escape_ascii();
        let what = format!("{self} does not begin with a hello but with \"{shown}\"{hint}");
        Error::new(Kind::Protocol, what)
    }

    /// What a length out of bounds most often means is a remote that prints words: show them.
    pub(super) fn bad_length(self, length: [u8; 4], behind: &[u8]) -> Error {
        let mut what = format!(
            "{self} sent a message of impossible length: expected 1 to {MESSAGE_BYTES_MAX}, \
             found {}",
            u32::from_le_bytes(length)
        );
        if length.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) {
            let shown = [&length[..], &behind[..behind.len().min(SHOWN_BYTES_MAX)]].concat();
            let hint = match self {
                Self::Server => NOISE_HINT,
                Self::Client => "no bdsync says that",
            };
            what.push_str(&format!(" (the text \"{}\"; {hint})", shown.escape_ascii()));
        }
        Error::new(Kind::Protocol, what)
    }
}

//! The one error type: a kind, what was being done to which path and bytes, and the cause.
//!
//! ```text
//!   Error { kind, what, path, range, source }
//!            |     \_____________________/
//!            |       said once, by `main`, as "bdsync: what: path, bytes [a, b): cause"
//!            +-- one table to the exit code, one to the errno of a FUSE reply
//! ```
//! What fails for a user ends as one of these. There is no conversion from a bare [`io::Error`]:
//! whoever asks a helper for I/O says what it was for, on which path, at which offset.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::units::ByteRange;

/// What went wrong, as far as the exit code or a caller cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Bad or contradictory parameters.
    Usage,
    /// Not a well-formed patch, or a record that does not fit the device.
    Patch,
    /// Sizes differ and `--diffsize` does not allow it.
    Size,
    /// The peer broke the protocol.
    Protocol,
    /// A checksum is wrong, or its digest is unknown.
    Checksum,
    /// Reading failed.
    Read,
    /// Nobody is there any more to go on with: the other side went away, or the session ended.
    Gone,
    /// No randomness for the salt.
    Random,
    /// REMSHCMD could not be started, or it was ended by a signal.
    Spawn,
    /// Writing failed.
    Write,
    /// A digest failed.
    Digest,
    /// What arrived is not what was announced: a source that changes while it is read.
    Transmission,
    /// A device cannot be opened, or must not be used.
    Open,
    /// The connection failed or stayed silent for too long.
    Connection,
    /// The target is not in the state that a sealed patch was made for.
    Seal,
    /// Unreadable ranges were left out at the user's request.
    Skipped,
    /// No room for what has to be kept before a target is written to: an undo patch, or the copy of
    /// a patch.
    NoRoom,
    /// SIGINT, SIGTERM or SIGHUP asked for an end; holds the signal's number.
    Interrupted(i32),
}

impl Kind {
    /// The exit code of the process. 1 to 13 are the classic's (protocol).
    #[must_use]
    pub const fn exit_code(self) -> i32 {
        match self {
            Kind::Usage => 1,
            Kind::Patch => 2,
            Kind::Size => 3,
            Kind::Protocol => 4,
            Kind::Checksum => 5,
            Kind::Read | Kind::Gone => 6,
            Kind::Random => 7,
            Kind::Spawn => 8,
            Kind::Write => 9,
            Kind::Digest => 10,
            Kind::Transmission => 11,
            Kind::Open => 12,
            Kind::Connection => 13,
            Kind::Seal => 14,
            Kind::Skipped => 15,
            Kind::NoRoom => 16,
            // As a shell reports a command that a signal ended.
            Kind::Interrupted(signal) => 128 + signal,
        }
    }

    /// What a bdsync that ended with `code` says went wrong, [`Kind::Read`] for that and
    /// [`Kind::Gone`]; `None` for 0 and for codes that are not its own, or that say nothing about
    /// the cause.
    #[must_use]
    pub fn of_exit_code(code: i32) -> Option<Self> {
        const KINDS: [Kind; 16] = [
            Kind::Usage,
            Kind::Patch,
            Kind::Size,
            Kind::Protocol,
            Kind::Checksum,
            Kind::Read,
            Kind::Random,
            Kind::Spawn,
            Kind::Write,
            Kind::Digest,
            Kind::Transmission,
            Kind::Open,
            Kind::Connection,
            Kind::Seal,
            Kind::Skipped,
            Kind::NoRoom,
        ];
        KINDS.into_iter().find(|kind| kind.exit_code() == code)
    }

    /// Of what could not be kept: [`Kind::NoRoom`] where that is why, else [`Kind::Write`].
    #[must_use]
    pub fn of_unkept(err: &io::Error) -> Self {
        match err.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoRoom,
            _ => Self::Write,
        }
    }

    /// The errno that a FUSE reply carries for an error of this kind.
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Kind::Usage | Kind::Size => libc::EINVAL,
            Kind::Open => libc::ENXIO,
            Kind::Interrupted(_) => libc::EINTR,
            // Whatever the cause, the reader must take the bytes for unreadable, never for zeros.
            Kind::Patch
            | Kind::Protocol
            | Kind::Checksum
            | Kind::Read
            | Kind::Gone
            | Kind::Random
            | Kind::Spawn
            | Kind::Write
            | Kind::Digest
            | Kind::Transmission
            | Kind::Connection
            | Kind::Seal
            | Kind::Skipped
            | Kind::NoRoom => libc::EIO,
        }
    }
}

/// An error of this crate. Build it with [`Error::new`] or [`Error::io`] and the `with_*` methods.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    what: String,
    path: Option<PathBuf>,
    range: Option<ByteRange>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// What fallible functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`; `what` says what failed in lower case, with expected and found
    /// where there are such, without path, offset or cause, which have places of their own.
    #[must_use]
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, what: what.into(), path: None, range: None, source: None }))
    }

    /// An error that a system call reported.
    #[must_use]
    pub fn io(kind: Kind, what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::new(kind, what).with_source(source.into())
    }

    /// Says what failed in the words of somebody who knows it better.
    #[must_use]
    pub fn reworded(mut self, what: impl Into<String>) -> Self {
        self.0.what = what.into();
        self
    }

    /// The same of another kind.
    #[must_use]
    pub fn of_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Names the file or device.
    #[must_use]
    pub fn with_path(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path = Some(path.as_ref().to_owned());
        self
    }

    /// Names the bytes, in offsets of the device or file that the error is about.
    #[must_use]
    pub fn with_range(mut self, range: ByteRange) -> Self {
        self.0.range = Some(range);
        self
    }

    /// Names a position where no length is known.
    #[must_use]
    pub fn with_offset(self, offset: u64) -> Self {
        self.with_range(ByteRange::new(offset, offset))
    }

    /// Attaches the cause. It must not be part of `what`: `main` prints it once.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// The kind, for exit codes and control flow.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The bytes that the error is about, if it named any.
    #[must_use]
    pub fn range(&self) -> Option<ByteRange> {
        self.0.range
    }

    /// The path that the error is about, if it named any.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The cause, where it is a `T`.
    #[must_use]
    pub fn cause<T: std::error::Error + 'static>(&self) -> Option<&T> {
        self.0.source.as_deref().and_then(|source| source.downcast_ref())
    }

    /// The exit code of a process that ends with this error.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        self.kind().exit_code()
    }

    /// A second error with the same words and cause, for a second waiter on the same failed
    /// request.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let inner = &*self.0;
        Self(Box::new(Inner {
            kind: inner.kind,
            what: inner.what.clone(),
            path: inner.path.clone(),
            range: inner.range,
            source: inner.source.clone(),
        }))
    }

    /// The whole message on one line, the cause at its end.
    #[must_use]
    pub fn full_message(&self) -> String {
        self.with_causes(self.to_string())
    }

    /// What failed and why, for those who tell path and place in their own way.
    #[must_use]
    pub fn words(&self) -> String {
        self.with_causes(self.0.what.clone())
    }

    fn with_causes(&self, mut text: String) -> String {
        use std::error::Error as _;
        let mut cause = self.source();
        while let Some(source) = cause {
            text.push_str(": ");
            text.push_str(&source.to_string());
            cause = source.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { what, path, range, .. } = &*self.0;
        f.write_str(what)?;
        if let Some(path) = path {
            write!(f, ": {}", path.display())?;
        }
        match range {
            Some(r) if r.is_empty() => write!(f, ", offset {}", r.start)?,
            Some(r) => write!(f, ", bytes {r}")?,
            None => {}
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|s| s as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_names_path_bytes_and_cause_once() {
        let err = Error::io(
            Kind::Read,
            "cannot read the device",
            io::Error::from_raw_os_error(libc::EIO),
        )
        .with_path("/dev/x")
        .with_range(ByteRange::new(4096, 8192));
        assert_eq!(
            err.full_message(),
            "cannot read the device: /dev/x, bytes [4096, 8192): Input/output error (os error 5)"
        );
        assert_eq!(err.duplicate().full_message(), err.full_message());
        assert_eq!(err.exit_code(), 6);
    }

    #[test]
    fn exit_codes_lead_back_to_their_kinds() {
        for code in 1..=16 {
            assert_eq!(Kind::of_exit_code(code).map(Kind::exit_code), Some(code));
        }
        for code in [0, 17, 127, 130, 255, -1] {
            assert_eq!(Kind::of_exit_code(code), None);
        }
    }

    #[test]
    fn exit_codes_of_signals_are_those_of_a_shell() {
        assert_eq!(Kind::Interrupted(libc::SIGTERM).exit_code(), 143);
    }
}

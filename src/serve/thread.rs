//! The threads of a session.

use std::thread;

use crate::error::{Error, Kind, Result};

/// Starts a named thread that is not waited for.
///
/// # Errors
/// `Kind::Digest` when threads run out.
pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map(drop)
        .map_err(|err| Error::io(Kind::Digest, format!("cannot start the {name} thread"), err))
}

//! Calls for the tests of this folder.

use std::ffi::OsString;

use super::options::Command;
use crate::error::Result;

/// What `bdsync WORD ...` comes to.
pub(super) fn parse(words: &[&str]) -> Result<Command> {
    super::parse(std::iter::once(&"bdsync").chain(words).map(OsString::from))
}

/// The words that refuse `bdsync WORD ...`.
pub(super) fn refused(words: &[&str]) -> String {
    let err = parse(words).expect_err("must be refused");
    assert_eq!(err.exit_code(), 1);
    err.full_message()
}

//! Calls for the tests of this folder.

use std::ffi::OsString;

use crate::cli::{Command, SyncOptions, parse};

/// The options of `bdsync sync WORD ...`.
pub(super) fn options(words: &[&str]) -> SyncOptions {
    let words = ["bdsync", "sync"].iter().chain(words).map(OsString::from);
    match parse(words) {
        Ok(Command::Sync(options)) => options,
        other => panic!("{other:?}"),
    }
}

//! `bdsync --server`: one session on stdin and stdout.

use crate::cli::ServerOptions;
use crate::device::{Device, open_source};
use crate::error::Result;
use crate::report;
use crate::serve;
use crate::transport::stdio;
use crate::wire::Extensions;

/// Serves the client at stdin and stdout, to its `done`.
///
/// `--zeroblocks` changes nothing: zero blocks always take a hash that is computed once, and a
/// hash has the same value either way.
///
/// # Errors
/// As [`serve::session`], and `Kind::Connection` when stdin or stdout cannot be used.
pub fn run(options: &ServerOptions) -> Result<()> {
    report::log_as_server(options.verbosity);
    serve::session(stdio()?, Extensions::ALL, &|path| {
        Ok(Box::new(open_source(path)?) as Box<dyn Device>)
    })
}

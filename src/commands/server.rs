//! `bdsync --server`: one session on stdin and stdout.

use super::record::{DeviceFacts, Record};
use crate::cli::ServerOptions;
use crate::device::Device;
use crate::digest;
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
/// As [`serve::session`]; `Kind::Connection` when stdin or stdout cannot be used, `Kind::Write`
/// when the report cannot be opened.
pub fn run(options: &ServerOptions, record: &Record) -> Result<()> {
    report::log_as_server(options.verbosity);
    let allowed = serve::Allowed::new(&options.allow)?;
    if let Some(path) = &options.report {
        Record::check_path(path)?;
    }
    // Found out while the files that tell it can still be opened.
    digest::core_count();
    serve::session(stdio(options.timeout)?, Extensions::ALL, &|path| {
        let device = allowed.open(path)?;
        record.tell(|facts| facts.source = Some(DeviceFacts::here(&device)));
        record.claims.reads("the device", path)?;
        // What is open stays open once the process is confined.
        if let Some(path) = &options.report {
            record.open_early(path)?;
        }
        serve::confine();
        Ok(Box::new(device) as Box<dyn Device>)
    })
}

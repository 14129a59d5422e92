//! `bdsync --server`: one session on stdin and stdout.

use std::thread;

use parking_lot::Mutex;

use super::last_words::LastWords;
use super::record::{DeviceFacts, Record};
use crate::background::core_count;
use crate::cli::ServerOptions;
use crate::device::Device;
use crate::error::Result;
use crate::report;
use crate::serve;
use crate::transport::{Connection, stdio};
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
    report::log_as_server(options.reporting.verbosity);
    // Before there is anything to tell: stderr may lead to the client.
    let connection = stdio(options.timeout)?;
    let Some(path) = &options.reporting.report else {
        return answer(options, connection, record, &|| {
            serve::confine();
            Ok(())
        });
    };
    Record::check_path(path)?;
    let words = LastWords::new(record, Some(path))?;
    thread::scope(|scope| {
        let watch = Mutex::new(Some(words.watch(scope)?));
        answer(options, connection, record, &|| {
            // What is open stays open once the process is confined.
            record.open_early(path)?;
            // A thread that runs already would not be confined.
            drop(watch.lock().take());
            serve::confine();
            *watch.lock() = Some(words.watch(scope)?);
            Ok(())
        })
    })
}

/// Answers the client; `confine` is called once the device is open.
fn answer(
    options: &ServerOptions,
    connection: Connection,
    record: &Record,
    confine: &(dyn Fn() -> Result<()> + Sync),
) -> Result<()> {
    let allowed = serve::Allowed::new(&options.allow)?;
    // Found out while the files that tell it can still be opened.
    core_count();
    serve::session(connection, Extensions::ALL, &|path| {
        let device = allowed.open(path)?;
        record.tell(|facts| facts.source = Some(DeviceFacts::here(&device)));
        record.claims.reads("the device", path)?;
        confine()?;
        Ok(Box::new(device) as Box<dyn Device>)
    })
}

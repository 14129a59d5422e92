//! The end of a run that a signal ends, of the modes in which that is no event of its own: its record
//! is written, and no file is left in the making.

use std::path::Path;
use std::thread::Scope;

use super::record::Record;
use crate::error::Result;
use crate::report;
use crate::signals::{Signals, Watch, interrupted};

/// Holds signals back until they are watched for, and then until the record is written.
pub(super) struct LastWords<'a> {
    signals: Signals,
    record: &'a Record,
    path: Option<&'a Path>,
}

impl<'a> LastWords<'a> {
    /// `record` goes to `path`, if anywhere.
    ///
    /// # Errors
    /// `Kind::Open` when signals cannot be held back.
    pub(super) fn new(record: &'a Record, path: Option<&'a Path>) -> Result<Self> {
        Ok(Self { signals: Signals::catch()?, record, path })
    }

    /// Until the watch is dropped a signal ends the process as it would have without, once the
    /// record is written.
    ///
    /// # Errors
    /// `Kind::Open` when signals cannot be waited for.
    pub(super) fn watch<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
    ) -> Result<Watch<'scope>> {
        self.signals.watch(scope, |signal| self.end(signal))
    }

    fn end(&self, signal: i32) {
        // Never given back.
        let _in_place = self.record.replacing.lock();
        if let Some(path) = self.path {
            if Record::may_wait(path) {
                // A second one ends the wait for who reads it.
                self.signals.let_through();
            }
            save(self.record, path, signal);
        }
        Signals::end_process(signal);
    }
}

/// Writes the record of a run that `signal` ends to `path`.
pub(super) fn save(record: &Record, path: &Path, signal: i32) {
    let outcome = Err(interrupted(signal, "the run ended"));
    if let Err(err) = record.save(path, &outcome) {
        report::error(&err);
    }
}

/// Runs `work` under such a watch.
///
/// # Errors
/// `Kind::Open` when signals cannot be waited for.
pub(super) fn kept<T>(record: &Record, path: Option<&Path>, work: impl FnOnce() -> T) -> Result<T> {
    let words = LastWords::new(record, path)?;
    words.signals.watched(|signal| words.end(signal), work)
}

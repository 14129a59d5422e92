//! The record of a run that a signal ends, of the modes in which that is no event of its own.

use std::path::Path;

use super::record::Record;
use crate::error::Result;
use crate::report;
use crate::signals::{Signals, interrupted};

/// Runs `work`. A signal ends the process as it would have without, once the record is at `path`.
///
/// # Errors
/// `Kind::Usage` when signals cannot be waited for.
pub(super) fn kept<T>(record: &Record, path: &Path, work: impl FnOnce() -> T) -> Result<T> {
    let end = |signal| {
        if let Err(err) = record.save(path, &Err(interrupted(signal, "the run ended"))) {
            report::error(&err);
        }
        Signals::end_process(signal);
    };
    Signals::catch()?.watched(end, work)
}

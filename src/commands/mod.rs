//! One file or folder a mode, and beside them what modes share. The only place where the parts are
//! wired together.
//!
//! For `main` only. May use everything.
//!
//! ```text
//!   client.rs  server.rs  patch/  mount.rs  sync/  info.rs  squash.rs      the modes
//!
//!   every mode     claims.rs            what it reads, changes and makes: no file is two of these
//!                  record.rs            --report: what it did
//!                  last_words.rs        the same, of a run that a signal ends
//!                  fault.rs             the end by a panic
//!                  heap.rs              one heap for all threads
//!   both devices   session.rs           a connection, up to where an engine can compare
//!                  trailer_checksum.rs  the checksum that the patch is to carry
//!                  touched.rs           which ranges were written (pure)
//!                  left_out.rs          what could not be read
//!   a patch        input.rs             read: plain or compressed, a file or a pipe
//!                  sealed.rs            what its seal says
//!                  output.rs            written to stdout
//!                  counted.rs           how much of it has passed
//!   a file         destination.rs       what is at its path, and how it is written there
//!   a target       target_state.rs      what is true of it after a failure
//!   a mount        scan.rs              how far its scan is
//!                  notify.rs            what systemd is told
//!   words          shell_word.rs        as a shell reads them (pure)
//! ```

mod claims;
mod client;
mod counted;
mod destination;
mod fault;
mod heap;
mod info;
mod input;
mod last_words;
mod left_out;
mod mount;
mod notify;
mod output;
mod patch;
mod record;
mod scan;
mod sealed;
mod server;
mod session;
mod shell_word;
mod squash;
mod sync;
mod target_state;
#[cfg(test)]
mod testing;
mod touched;
mod trailer_checksum;

use std::path::Path;
use std::sync::Arc;

use crate::cli::{Command, ProgressStyle};
use crate::error::{Error, Result};
use crate::progress::{Bar, ClassicLines, JsonLines, OnSignal, Progress, Silent};
use crate::report;
use crate::signals::{Signals, StatusRequests, expect_children, hold_file_size_signal};

use record::Record;

/// Does what was asked for, and puts it on record where that was asked for too. Returns the
/// exit status of a run without an error of our own: 0, or for a client what REMSHCMD exited
/// with.
///
/// # Errors
/// The one error that ended the run; nobody has printed it yet.
///
/// # Panics
/// Never to the caller: from here on a panic in any thread ends the process, with a message and
/// exit status 101.
pub fn run(command: Command) -> Result<u8> {
    fault::end_process_on_panic();
    let record = Arc::new(Record::new(command.mode()));
    record.claims.add_all(&command)?;
    // A mount in the background leaves the working directory.
    let report = command.report().map(|path| std::path::absolute(path).unwrap_or(path.to_owned()));
    // Found out before there is anything to report. A server tells its syslog, too.
    if let Some(path) = report.as_deref().filter(|_| !matches!(command, Command::Server(_))) {
        Record::check_path(path)?;
    }
    hold_file_size_signal();
    expect_children();
    // Also where nobody answers it: all bdsyncs of a host may be asked at once.
    StatusRequests::hold();
    let held = holds_signals(&command, report.is_some()).then(Signals::catch).transpose();
    let outcome = match &held {
        // Which goes on record, too.
        Err(err) => Err(err.duplicate()),
        Ok(Some(_)) if !has_signals_of_its_own(&command) => {
            let run = || run_mode(&command, &record, report.as_deref());
            last_words::kept(&record, report.as_deref(), run).flatten()
        }
        Ok(_) => run_mode(&command, &record, report.as_deref()),
    };
    // Whoever is to read a stream may never come: signals end that wait.
    let held = held.ok().flatten().filter(|_| !report.as_deref().is_some_and(Record::may_wait));
    let outcome = match report {
        Some(path) => saved(record.save(&path, &outcome), outcome),
        None => outcome,
    };
    if let Some(held) = held {
        held.hold_for_good();
    }
    outcome
}

/// What a run with this `outcome` ends with whose record was `saved`, or not.
fn saved(saved: Result<()>, outcome: Result<u8>) -> Result<u8> {
    match saved {
        Err(err) if matches!(outcome, Ok(0)) => {
            Err(err.reworded("cannot write the report of a run that went well"))
        }
        Err(err) => {
            // A server has found that out before.
            let is_news = |told: &Error| told.full_message() != err.full_message();
            if outcome.as_ref().err().is_none_or(is_news) {
                report::error(&err);
            }
            outcome
        }
        Ok(()) => outcome,
    }
}

/// Whether a signal is held back from the beginning to the end, and ends the run only where somebody
/// asks for it: never between a record that is written and an end that it tells of, nor while a
/// file is in the making.
fn holds_signals(command: &Command, has_report: bool) -> bool {
    match command {
        Command::Patch(_) | Command::Sync(_) => true,
        Command::Info(options) => has_report || options.svg.is_some(),
        // They are events of the mount.
        Command::Mount(_) => false,
        _ => has_report,
    }
}

/// Whether a signal is something that the mode itself comes to an end by.
fn has_signals_of_its_own(command: &Command) -> bool {
    use Command::{Mount, Patch, Server, Sync};
    matches!(command, Mount(_) | Patch(_) | Server(_) | Sync(_))
}

/// `report` is where the record goes, if anywhere.
fn run_mode(command: &Command, record: &Arc<Record>, report: Option<&Path>) -> Result<u8> {
    // Before there are threads that hash.
    heap::share();
    match command {
        Command::Help(text) => output::answer(text).map(|()| 0),
        Command::Client(options) => client::run(options, record, output::stdout()?),
        Command::Info(options) => info::run(options, record),
        Command::Squash(options) => squash::run(options, record, output::stdout()?),
        Command::Mount(options) => mount::run(options, record, report),
        Command::Patch(options) => patch::run(options, record),
        Command::Server(options) => server::run(options, record).map(|()| 0),
        Command::Sync(options) => sync::run(options, record),
    }
}

/// The listener that the user wants; it answers SIGUSR1 in any case.
fn progress(style: Option<ProgressStyle>) -> Result<Arc<dyn Progress>> {
    Ok(Arc::new(OnSignal::new(listener(style))?))
}

/// The listener that the user wants, where somebody else answers SIGUSR1.
fn listener(style: Option<ProgressStyle>) -> Box<dyn Progress> {
    match style {
        Some(ProgressStyle::Lines) => Box::new(ClassicLines::new(true)),
        Some(ProgressStyle::NoScroll) => Box::new(ClassicLines::new(false)),
        Some(ProgressStyle::Json) => Box::new(JsonLines::new()),
        None if report::stderr_is_terminal() => Box::new(Bar::default()),
        Some(ProgressStyle::Nothing) | None => Box::new(Silent),
    }
}

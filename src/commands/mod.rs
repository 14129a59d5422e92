//! One file a mode, and the only place where the parts are wired together.
//!
//! For `main` only. May use everything.

mod client;
mod info;
mod input;
mod left_out;
mod mount;
mod notify;
mod output;
mod patch;
mod server;
mod session;
mod squash;

use crate::cli::{Command, ProgressStyle};
use crate::error::Result;
use crate::progress::{ClassicLines, Progress, Silent};
use crate::report;

/// Does what was asked for and returns the exit status of a run without an error of our own:
/// 0, or for a client what REMSHCMD exited with.
///
/// # Errors
/// The one error that ended the run; nobody has printed it yet.
pub fn run(command: Command) -> Result<u8> {
    match command {
        Command::Help(text) => report::answer(&text).map(|()| 0),
        Command::Mount(options) => mount::run(&options),
        Command::Info(options) => info::run(&options),
        Command::Squash(options) => squash::run(&options, output::stdout()?),
        Command::Patch(options) => patch::run(&options),
        Command::Server(options) => server::run(&options).map(|()| 0),
        Command::Client(options) => client::run(&options, output::stdout()?),
    }
}

/// The listener that the user wants.
fn progress(style: Option<ProgressStyle>) -> Box<dyn Progress> {
    match style {
        Some(style) => Box::new(ClassicLines::new(style == ProgressStyle::Lines)),
        None => Box::new(Silent),
    }
}

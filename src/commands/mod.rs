//! One file a mode, and the only place where the parts are wired together.
//!
//! For `main` only. May use everything.

use crate::cli::Command;
use crate::error::{Error, Kind, Result};
use crate::report;

/// Does what was asked for and returns the exit status of a run without an error of our own:
/// 0, or for a client what REMSHCMD exited with.
///
/// # Errors
/// The one error that ended the run; nobody has printed it yet.
pub fn run(command: Command) -> Result<u8> {
    match command {
        Command::Help(text) => report::answer(&text).map(|()| 0),
        Command::Client(_) | Command::Server(_) | Command::Patch(_) => {
            Err(Error::new(Kind::Usage, "this mode is not built in yet"))
        }
    }
}

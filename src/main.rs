//! Parse, run, print the error once, exit code.

use std::process::ExitCode;

use bdsync::{cli, commands, report};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()).and_then(commands::run) {
        Ok(status) => ExitCode::from(status),
        Err(err) => {
            report::error(&err);
            // Every exit code is below 256: 1 to 16, or 128 and a signal's number.
            ExitCode::from(u8::try_from(err.exit_code()).unwrap_or(u8::MAX))
        }
    }
}

//! bdsync in which a thread panics: `faulty FILE ARGUMENTS...` is `bdsync ARGUMENTS...` until FILE
//! exists.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use bdsync::{cli, commands, report};

fn main() -> ExitCode {
    let mut args: Vec<_> = std::env::args_os().collect();
    let file = PathBuf::from(args.remove(1));
    let fault = thread::Builder::new().name("faulty".into()).spawn(move || {
        while !file.exists() {
            thread::sleep(Duration::from_millis(5));
        }
        panic!("on purpose\nin a test");
    });
    fault.expect("a thread");
    match cli::parse(args).and_then(commands::run) {
        Ok(status) => ExitCode::from(status),
        Err(err) => {
            report::error(&err);
            ExitCode::FAILURE
        }
    }
}

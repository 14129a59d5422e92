//! The end of a process in which something happened that cannot happen.

use std::any::Any;
use std::panic;
use std::process;
use std::thread;

use crate::report;

/// What the process then exits with: what Rust has for a panic of its main thread.
const EXIT_CODE: i32 = 101;

/// From now on a panic, in whatever thread, ends the process with a message: the others may wait
/// for what that thread owed them, for ever, and nobody knows what of its work can be trusted.
/// Nothing is cleaned up. A mount stays as one that answers no more, so that nobody takes the empty
/// directory below for it.
pub(super) fn end_process_on_panic() {
    panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        report::fault(&format!(
            "internal fault, please report it: thread {} panicked at {place}: {}",
            thread.name().unwrap_or("without a name"),
            words_of(panic.payload()),
        ));
        process::exit(EXIT_CODE);
    }));
}

fn words_of(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(words), _) => words,
        (_, Some(words)) => words,
        _ => "no words",
    }
}

//! The only writer of words: log lines, the final error, lines of the remote side, the
//! classic's messages. Data (a patch, protocol bytes) are not words and do not pass here.
//!
//! ```text
//!   log::warn! .. -> filter -+-> client, patch ----------------> stderr "bdsync: warning: .."
//!                            +-> server: syslog, and errors to > stderr (the client relays it)
//!                            +-> daemon: the same, and warnings > stderr (of who starts it)
//!   error(), different_sizes(), remote_line() .. ---------------> stderr
//!   answer() ---------------------------------------------------> stdout (help, version, info)
//! ```
//! Text from a peer, a patch or a file name is escaped before a terminal can see it. A stderr
//! that is closed is no reason to fail: what cannot be told is dropped.

mod failed_reads;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::ProgressBar;
use log::{Level, LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;

use crate::error::{Error, Kind, Result};
use crate::patient::Patient;
use crate::units::{ByteRange, hex};

pub use failed_reads::FailedReads;

type Syslog = syslog::Logger<syslog::LoggerBackend, syslog::Formatter3164>;

/// The server's connection to syslog, if there is one. Process-wide, as the logger itself.
static SYSLOG: OnceLock<Mutex<Syslog>> = OnceLock::new();

/// The most bytes of a line; what is longer is cut. A name from the other side may have more than a
/// pipe holds, which nobody may be reading.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// How long a fault waits for others to be done with the syslog.
const FAULT_WAIT: Duration = Duration::from_secs(1);

/// The bar on the terminal, if there is one. Process-wide, as the terminal itself.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Whether the last line on stderr is one of progress that the next takes the place of.
static IS_OVERWRITABLE: AtomicBool = AtomicBool::new(false);

/// Logs to stderr: warnings and errors, from `verbosity` 1 also what is being done, from 2 and
/// 3 details. `RUST_LOG` counts where it is set. A second call changes nothing.
pub fn log_to_stderr(verbosity: u8) {
    install(verbosity, Level::Trace);
}

/// Logs to syslog as far as it can be reached, and errors to stderr too. Levels as for
/// [`log_to_stderr`].
pub fn log_as_server(verbosity: u8) {
    open_syslog();
    install(verbosity, Level::Error);
}

/// As [`log_as_server`], and warnings to stderr too: whoever starts a daemon still reads there.
pub fn log_as_daemon(verbosity: u8) {
    open_syslog();
    install(verbosity, Level::Warn);
}

fn open_syslog() {
    let formatter = syslog::Formatter3164 {
        facility: syslog::Facility::LOG_DAEMON,
        hostname: None,
        process: "bdsync".into(),
        pid: std::process::id(),
    };
    // No socket, no syslog: nothing that the client's user should read about.
    if let Ok(connection) = syslog::unix(formatter) {
        let _ = SYSLOG.set(Mutex::new(connection));
    }
}

/// To stderr goes what is as grave as `shown`.
fn install(verbosity: u8, shown: Level) {
    let filter = builder(verbosity).build();
    let level = filter.filter();
    if log::set_boxed_logger(Box::new(Lines { filter, shown })).is_ok() {
        log::set_max_level(level);
    }
}

fn builder(verbosity: u8) -> env_logger::Builder {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(match verbosity {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    });
    // Its warnings are about every request that is not implemented, or came too late.
    builder
        .filter_module("fuser", if verbosity > 2 { LevelFilter::Trace } else { LevelFilter::Off });
    builder.parse_default_env();
    builder
}

/// Through [`to_syslog`], which does nothing where none is open, and what is as grave as `shown`
/// through [`to_stderr`] as well.
struct Lines {
    /// Only asked what matches.
    filter: env_logger::Logger,
    shown: Level,
}

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.filter.matches(record) {
            return;
        }
        let text = escape(record.args().to_string().as_bytes());
        to_syslog(record.level(), &text);
        if record.level() <= self.shown {
            to_stderr(&format!("bdsync: {}: {text}\n", word(record.level())));
        }
    }

    fn flush(&self) {}
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

fn to_syslog(level: Level, text: &str) {
    let Some(connection) = SYSLOG.get() else { return };
    let mut connection = connection.lock();
    // A syslog that went away is not worth ending a session for.
    let _ = match level {
        Level::Error => connection.err(text),
        Level::Warn => connection.warning(text),
        Level::Info => connection.info(text),
        Level::Debug | Level::Trace => connection.debug(text),
    };
}

/// Writes the whole line, below one of progress that others are to take the place of.
fn to_stderr(line: &str) {
    match IS_OVERWRITABLE.swap(false, Ordering::Relaxed) {
        true => write_whole(&format!("\n{}", cut(line))),
        false => write_whole(&cut(line)),
    }
}

/// Writes the text in one piece, so that lines of several threads do not mix; a bar makes room for
/// it.
fn write_whole(text: &str) {
    let bar = BAR.lock().clone();
    // Who shares it, as an ssh may, need not want to wait.
    let write = || drop(Patient(io::stderr().lock()).write_all(text.as_bytes()));
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// The line, as far as it is shown.
fn cut(line: &str) -> Cow<'_, str> {
    if line.len() <= LINE_BYTES_MAX {
        return line.into();
    }
    format!("{} ..\n", &line[..line.floor_char_boundary(LINE_BYTES_MAX)]).into()
}

/// A second handle of stderr, for more than words.
///
/// # Errors
/// When descriptors run out.
pub fn stderr_file() -> io::Result<File> {
    io::stderr().as_fd().try_clone_to_owned().map(File::from)
}

/// A second handle of stdout, which shares its place: one that was opened anew would write at a place
/// of its own.
///
/// # Errors
/// When descriptors run out.
pub fn stdout_file() -> io::Result<File> {
    io::stdout().as_fd().try_clone_to_owned().map(File::from)
}

/// Whether words on stderr are read by a person, as far as can be told.
#[must_use]
pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// From now on `bar` is on the terminal: lines go above it.
pub fn show_bar(bar: ProgressBar) {
    *BAR.lock() = Some(bar);
}

/// No bar is on the terminal any more.
pub fn hide_bar() {
    *BAR.lock() = None;
}

/// A line that another process of ours wrote to its stderr, without its line end.
pub fn own_line(line: &[u8]) {
    to_stderr(&format!("{}\n", escape(line)));
}

/// Tells the one error that ends the run: `bdsync: what: path, bytes: cause`. A server also
/// tells it to syslog.
pub fn error(err: &Error) {
    let message = escape(err.full_message().as_bytes());
    to_syslog(Level::Error, &message);
    to_stderr(&format!("bdsync: {message}\n"));
}

/// Tells of a fault of our own, on whatever thread and in the middle of whatever it may be: it
/// waits for nothing that this thread may hold itself.
pub fn fault(what: &str) {
    let message = escape(what.as_bytes());
    if let Some(mut syslog) = SYSLOG.get().and_then(|syslog| syslog.try_lock_for(FAULT_WAIT)) {
        let _ = syslog.err(&message);
    }
    // Not above the bar: that may be what is at fault.
    let _ = io::stderr().lock().write_all(format!("bdsync: {message}\n").as_bytes());
}

/// Relays one line that the remote side wrote to its stderr, without its line end.
pub fn remote_line(line: &[u8]) {
    to_stderr(&format!("RMTERR: {}\n", escape(line)));
}

/// Tells what is happening, to a user who waits at a terminal.
pub fn notice(text: &str) {
    to_stderr(&format!("bdsync: {}\n", escape(text.as_bytes())));
}

/// `Different sizes local=N remote=M`: a client's, sizes in bytes.
pub fn different_sizes(local_bytes: u64, remote_bytes: u64) {
    to_stderr(&format!("Different sizes local={local_bytes} remote={remote_bytes}\n"));
}

/// `Bad hash NAME`: one that the client does not know.
pub fn bad_hash(name: &[u8]) {
    to_stderr(&format!("Bad hash {}\n", escape(name)));
}

/// `Different sizes current=N patch=M`: of a target and the patch for it, sizes in bytes.
pub fn different_target_sizes(current_bytes: u64, patch_bytes: u64) {
    to_stderr(&format!("Different sizes current={current_bytes} patch={patch_bytes}\n"));
}

/// `Warning: different device names parameter=A data=B`: the device to patch as given on the
/// command line, and as the patch names it.
pub fn different_names(parameter: &[u8], data: &[u8]) {
    let (parameter, data) = (escape(parameter), escape(data));
    to_stderr(&format!("Warning: different device names parameter={parameter} data={data}\n"));
}

/// `unreadable, left out: local DEVICE, bytes [a, b)`: of the local or the remote side.
pub fn left_out(side: &str, path: &[u8], range: ByteRange) {
    to_stderr(&format!("unreadable, left out: {side} {}, bytes {range}\n", escape(path)));
}

/// `checksum[NAME]: HEX`: the checksum that a patch carries.
pub fn checksum(name: &[u8], value: &[u8]) {
    to_stderr(&format!("checksum[{}]: {}\n", escape(name), hex(value)));
}

/// One piece of progress output, line end included: a line feed, or a carriage return where the
/// next one takes its place.
pub fn progress(text: &str) {
    write_whole(text);
    IS_OVERWRITABLE.store(text.ends_with('\r'), Ordering::Relaxed);
}

/// Text that the user asked for, to stdout.
///
/// # Errors
/// `Kind::Write` when stdout does not take it.
pub fn answer(text: &str) -> Result<()> {
    stdout_file()
        .and_then(|stdout| Patient(stdout).write_all(text.as_bytes()))
        .map_err(|err| Error::io(Kind::Write, "cannot write to stdout", err))
}

/// `text` as it may be shown on a terminal: bytes that are no UTF-8, control characters except
/// the tab, and characters that turn the writing direction become `\xNN`, a byte each.
#[must_use]
pub fn escape(text: &[u8]) -> String {
    let mut shown = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        for ch in chunk.valid().chars() {
            if is_unsafe(ch) {
                push_bytes(&mut shown, ch.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                shown.push(ch);
            }
        }
        push_bytes(&mut shown, chunk.invalid());
    }
    shown
}

/// `text`, which is JSON, as it may be shown on a terminal and still be the same JSON: what
/// [`escape`] keeps from a terminal and serde does not becomes `\uNNNN`.
#[must_use]
pub fn escape_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for ch in text.chars() {
        // Below are the line breaks between values; in strings serde has escaped those.
        if ch >= '\u{7f}' && is_unsafe(ch) {
            for unit in ch.encode_utf16(&mut [0; 2]) {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(ch);
        }
    }
    shown
}

fn is_unsafe(ch: char) -> bool {
    let turns_direction = matches!(
        ch,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    let breaks_line = matches!(ch, '\u{2028}' | '\u{2029}');
    (ch.is_control() && ch != '\t') || turns_direction || breaks_line
}

fn push_bytes(shown: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(shown, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_no_pipe_holds_are_cut_at_a_character() {
        let long = "\u{e9}".repeat(LINE_BYTES_MAX);
        let shown = cut(&long);
        assert!(
            (LINE_BYTES_MAX..LINE_BYTES_MAX + 5).contains(&shown.len()) && shown.ends_with(" ..\n")
        );
        assert_eq!(cut("short\n"), "short\n");
    }

    #[test]
    fn escape_keeps_text_and_shows_what_a_terminal_would_obey() {
        for (text, shown) in [
            (&b"plain text\twith tab"[..], "plain text\twith tab"),
            ("gr\u{fc}n \u{1f600}".as_bytes(), "gr\u{fc}n \u{1f600}"),
            (b"\x1b[31mred\x07", "\\x1b[31mred\\x07"),
            (b"a\nb\r\0\x7f", "a\\x0ab\\x0d\\x00\\x7f"),
            (b"\xff\xc3", "\\xff\\xc3"),
            ("\u{9b}31m".as_bytes(), "\\xc2\\x9b31m"),
            ("\u{202e}abc".as_bytes(), "\\xe2\\x80\\xaeabc"),
        ] {
            assert_eq!(escape(text), shown);
        }
    }

    #[test]
    fn json_keeps_its_meaning_and_shows_nothing_that_a_terminal_would_obey() {
        let hostile: String = (0..0x3000).filter_map(char::from_u32).chain(['\u{1f600}']).collect();
        let json = serde_json::to_string_pretty(&[&hostile]).unwrap();
        let shown = escape_json(&json);
        assert!(shown.chars().all(|ch| !is_unsafe(ch) || ch == '\n'));
        assert_eq!(serde_json::from_str::<[String; 1]>(&shown).unwrap(), [hostile]);
        assert_eq!(
            escape_json("\"\u{9b}\u{7f}\u{fc}\u{2028}\""),
            "\"\\u009b\\u007f\u{fc}\\u2028\""
        );
    }

    #[test]
    fn no_byte_sequence_gets_a_control_character_through() {
        for first in 0..=u8::MAX {
            for second in 0..=u8::MAX {
                let shown = escape(&[first, second]);
                assert!(shown.chars().all(|ch| !ch.is_control() || ch == '\t'), "{shown:?}");
            }
        }
    }
}

//! From clap's findings to what several commands understand alike: numbers, words, operands.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;

use super::options::{
    BLOCK_SIZE_BYTES_DEFAULT, Command, CompareOptions, ProgressStyle, Reporting, SizeOptions,
};
use crate::error::{Error, Kind, Result};
use crate::units::{BLOCK_BYTES_MAX, Direction, SizeRule};

/// What `--help` and `--version` of a subcommand ask for.
pub(super) fn asked_for_words(found: &ArgMatches, name: &str) -> Result<Option<Command>> {
    if found.get_flag("help") {
        return Ok(Some(Command::Help(super::help_text(Some(name))?)));
    }
    Ok(found.get_flag("version").then(|| Command::Help(version())))
}

pub(super) fn version() -> String {
    concat!("bdsync ", env!("CARGO_PKG_VERSION"), "\n").to_owned()
}

/// The options whose value must be attached, and how that is written.
pub(super) const ATTACHED: [(&str, &str); 4] = [
    ("patch", "--patch=DEVICE or -pDEVICE"),
    ("diffsize", "--diffsize=RULE or -dRULE"),
    ("progress", "--progress=STYLE or -PSTYLE"),
    ("spool", "--spool=DIR"),
];

/// For a message about more than `count_max` operands: one of them may have been meant as the
/// value of an option that was given bare.
pub(super) fn attached_hint(found: &ArgMatches, count_max: usize) -> String {
    let is_bare = |name: &str| {
        let values = found.try_get_raw(name).ok().flatten();
        values.is_some_and(|mut values| values.any(|value| value.is_empty()))
    };
    let bare: Vec<_> =
        ATTACHED.iter().filter(|(name, _)| is_bare(name)).map(|(_, form)| *form).collect();
    if bare.is_empty() || operand_list(found).len() <= count_max {
        return String::new();
    }
    format!("; a value is attached: {}", bare.join(", "))
}

/// Whether the user gave the option, in whatever form.
pub(super) fn is_given(found: &ArgMatches, name: &str) -> bool {
    found.value_source(name) == Some(clap::parser::ValueSource::CommandLine)
}

pub(super) fn operand_list(found: &ArgMatches) -> Vec<OsString> {
    found.get_many::<OsString>("operands").into_iter().flatten().cloned().collect()
}

/// The operands, of which there must be `N`. A message that says otherwise tells `what` they are
/// and ends in `advice`.
pub(super) fn exactly<const N: usize>(
    found: &ArgMatches,
    what: &str,
    advice: &str,
) -> Result<[OsString; N]> {
    operand_list(found).try_into().map_err(|operands: Vec<_>| {
        let (count, hint) = (operands.len(), attached_hint(found, N));
        usage(format!("expected {N} {what}, found {count}{hint}{advice}"))
    })
}

/// An empty operand is a variable that was not set.
pub(super) fn refuse_empty(operands: &[(&str, &OsString)]) -> Result<()> {
    match operands.iter().find(|(_, value)| value.is_empty()) {
        Some((name, _)) => Err(usage(format!("{name} is empty"))),
        None => Ok(()),
    }
}

pub(super) fn direction(found: &ArgMatches) -> Direction {
    if found.get_flag("remdata") { Direction::Pull } else { Direction::Push }
}

/// The options of `table::comparing`.
pub(super) fn compare_options(found: &ArgMatches) -> Result<CompareOptions> {
    Ok(CompareOptions {
        block_size_bytes: match found.get_one::<String>("blocksize") {
            Some(text) => block_size(text)?,
            None => BLOCK_SIZE_BYTES_DEFAULT,
        },
        hash: found.get_one::<String>("hash").cloned(),
        checksum: found.get_one::<String>("checksum").cloned(),
        fixed_salt: found.get_flag("fixedsalt"),
        flush_cache: found.get_flag("flushcache"),
        skip_unreadable: skip_unreadable(found)?,
        // Of sync and mount, which set it.
        compress_link: false,
    })
}

/// `--on-read-error`, which only some commands have.
fn skip_unreadable(found: &ArgMatches) -> Result<bool> {
    let word = found.try_get_one::<String>("on-read-error").ok().flatten();
    match word.map(String::as_str) {
        None | Some("fail") => Ok(false),
        Some("skip") => Ok(true),
        Some(text) => Err(usage(format!("--on-read-error must be fail or skip, found '{text}'"))),
    }
}

fn block_size(text: &str) -> Result<u64> {
    match decimal(text) {
        Some(bytes @ 1..=BLOCK_BYTES_MAX) => Ok(bytes),
        _ => Err(usage(format!(
            "block size must be between 1 and {BLOCK_BYTES_MAX} bytes, found {text}"
        ))),
    }
}

/// The option of `table::connection`.
pub(super) fn timeout(found: &ArgMatches) -> Result<Option<Duration>> {
    let Some(text) = found.get_one::<String>("timeout") else { return Ok(None) };
    match decimal(text).and_then(|seconds| u32::try_from(seconds).ok()) {
        Some(0) => Ok(None),
        Some(seconds) => Ok(Some(Duration::from_secs(u64::from(seconds)))),
        None => Err(usage(format!(
            "--timeout must be a number of seconds from 0 to {}, found {text}",
            u32::MAX
        ))),
    }
}

/// A number of digits only; `None` for anything else, or when it does not fit.
pub(super) fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// The file that option `name` has made.
pub(super) fn new_file(found: &ArgMatches, name: &str) -> Result<Option<PathBuf>> {
    match found.get_one::<OsString>(name) {
        Some(path) if path.is_empty() => Err(usage(format!("--{name} needs the name of a file"))),
        // For some it would be a file, for others stdout, where a patch may go.
        Some(path) if path == "-" => Err(usage(format!(
            "--{name}=- could mean two things: give ./- for a file, or /dev/stdout"
        ))),
        path => Ok(path.map(PathBuf::from)),
    }
}

/// `--undo=FILE`, which is never a stream.
pub(super) fn undo_file(found: &ArgMatches) -> Result<Option<PathBuf>> {
    match found.get_one::<OsString>("undo") {
        Some(path) if path == "-" => {
            Err(usage("--undo=- names no file: give ./- for one of that name"))
        }
        _ => new_file(found, "undo"),
    }
}

/// Why `--undo` has no place beside `--dry-run`.
pub(super) const UNDO_OF_NOTHING: &str = "--dry-run changes nothing that --undo could take back";

/// What to tell beside the result.
pub(super) fn reporting_options(found: &ArgMatches) -> Result<Reporting> {
    Ok(Reporting { progress: progress(found)?, ..server_reporting_options(found)? })
}

/// The same of a server, which tells no progress and takes any word for it.
pub(super) fn server_reporting_options(found: &ArgMatches) -> Result<Reporting> {
    let (report, verbosity) = (new_file(found, "report")?, found.get_count("verbose"));
    Ok(Reporting { progress: None, report, verbosity })
}

/// `--progress[=STYLE]`.
fn progress(found: &ArgMatches) -> Result<Option<ProgressStyle>> {
    match found.get_one::<String>("progress").map(String::as_str) {
        None => Ok(None),
        Some("") => Ok(Some(ProgressStyle::Lines)),
        Some("noscroll") => Ok(Some(ProgressStyle::NoScroll)),
        Some("json") => Ok(Some(ProgressStyle::Json)),
        Some("none") => Ok(Some(ProgressStyle::Nothing)),
        Some(text) => {
            Err(usage(format!("--progress must be bare, noscroll, json or none, found '{text}'")))
        }
    }
}

/// `--diffsize[=OPT[,warn]]`: words may be cut; a bare option is `resize`, a bare `warn` too.
pub(super) fn size_options(found: &ArgMatches) -> Result<SizeOptions> {
    let mut given = found.get_many::<String>("diffsize").into_iter().flatten();
    let Some(text) = given.next() else { return Ok(SizeOptions::default()) };
    if given.next().is_some() {
        return Err(usage("--diffsize is given more than once"));
    }
    size_words(text)
}

fn size_words(text: &str) -> Result<SizeOptions> {
    let (mut rule, mut warn) = (None, false);
    for word in text.split(',').filter(|_| !text.is_empty()) {
        let named = match word {
            "" => None,
            _ if "strict".starts_with(word) => Some(SizeRule::Strict),
            _ if "resize".starts_with(word) => Some(SizeRule::Resize),
            _ if "minsize".starts_with(word) => Some(SizeRule::MinSize),
            _ if "warn".starts_with(word) => {
                warn = true;
                continue;
            }
            _ => None,
        };
        if named.is_none() {
            return Err(usage(format!(
                "--diffsize must be strict, resize or minsize, with or without ,warn; found '{text}'"
            )));
        }
        if rule.is_some() {
            return Err(usage(format!("--diffsize names more than one rule: '{text}'")));
        }
        rule = named;
    }
    Ok(SizeOptions { rule: rule.unwrap_or(SizeRule::Resize), warn, is_given: true })
}

pub(super) fn usage(what: impl Into<String>) -> Error {
    Error::new(Kind::Usage, what)
}

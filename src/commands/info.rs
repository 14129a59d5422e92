//! `bdsync info [PATCH]`: tells what a patch changes, and draws where.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use terminal_size::{Width, terminal_size_of};

use super::destination::Destination;
use super::input;
use super::output;
use super::record::Record;
use crate::cli::InfoOptions;
use crate::compress::Format;
use crate::device::open_source;
use crate::error::{Error, Kind, Result};
use crate::inspect::{FAULTS_MAX, Report, Style, inspect, json, partitions, svg, text};
use crate::report;

/// Columns of what is no terminal.
const COLUMNS_DEFAULT: usize = 80;

/// Tells it on stdout, what could be read of a faulty patch too.
///
/// # Errors
/// `Kind::Patch` when the patch has a fault; those of reading and writing.
pub fn run(options: &InfoOptions, record: &Record) -> Result<u8> {
    report::log_to_stderr(options.reporting.verbosity);
    let disk = match &options.base {
        Some(base) => {
            let found = partitions(&open_source(base)?)?;
            if found.is_empty() {
                log::warn!("no partition table is found on {}", base.display());
            }
            found
        }
        None => vec![],
    };
    let name = options.patch.as_deref().unwrap_or(Path::new(input::STDIN_NAME));
    let progress = super::progress(options.reporting.progress)?;
    let stream = input::Stream::open(options.patch.as_deref(), &*progress)?;
    let compression = stream.format().map(Format::name);
    let found = inspect(stream, name, compression, disk)?;
    // The answer may go to the terminal.
    progress.pause();
    tell(record, &found, name);
    let shown = name.display().to_string();
    if let Some(path) = &options.svg {
        write_picture(path, &svg(&found, &shown), record)?;
    }
    if options.json {
        output::answer(&json(&found, &shown))?;
    } else {
        output::answer(&text(&found, &shown, style()))?;
    }
    let Some(fault) = found.faults.first() else {
        progress.finish();
        return Ok(0);
    };
    let what = match found.faults.len() {
        1 => fault.text.clone(),
        // The last one says that reading was given up.
        FAULTS_MAX => format!("at least {} faults, the first: {}", FAULTS_MAX - 1, fault.text),
        count => format!("{count} faults, the first: {}", fault.text),
    };
    Err(Error::new(Kind::Patch, what).with_path(name).with_offset(fault.position))
}

/// Puts on record what was found.
fn tell(record: &Record, found: &Report, path: &Path) {
    record.tell_patch(path, found.patch_bytes, &found.header, found.records);
    record.tell(|facts| {
        facts.patch_bytes = Some(found.patch_bytes);
        facts.differing_bytes = Some(found.data_bytes);
        facts.faults = Some(found.faults.len());
    });
    if let Some(checksum) = &found.checksum {
        record.tell_checksum(&checksum.name, &checksum.digest);
    }
}

fn write_picture(path: &Path, picture: &str, record: &Record) -> Result<()> {
    let write = |destination: Destination| {
        // A signal ends the wait for who reads a stream.
        let _signals_wait = (!destination.may_wait()).then(|| record.replacing.lock());
        destination.write(|file| file.write_all(picture.as_bytes())).map(drop)
    };
    Destination::of(path)
        .and_then(write)
        .map_err(|err| Error::io(Kind::Write, "cannot write the picture", err).with_path(path))
}

/// As wide as the terminal, or as `COLUMNS` says where there is none. In colour for a terminal
/// whose user does not object (no-color.org).
fn style() -> Style {
    let stdout = io::stdout();
    let is_terminal = stdout.is_terminal();
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let columns = terminal_size_of(&stdout).map(|(Width(columns), _)| usize::from(columns));
    let said = || std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    Style {
        columns: columns.filter(|&n| n > 0).or_else(said).unwrap_or(COLUMNS_DEFAULT),
        colour: is_terminal && !no_colour && !dumb,
    }
}

//! What the user asked for: from the words of the command line to a typed [`Command`].
//!
//! ```text
//!   argv --> compat.rs --> clap, by the tables --> options.rs
//!            getopt's      parsing, help,          Command
//!            habits        man, completions
//! ```
//! classic.rs (client, server and patch), mount.rs, sync.rs and stored.rs (info and squash) each
//! have the table of their options and what these come to; subcommands.rs lists them. What several
//! share is in table.rs, options and how they are made, and in values.rs, what they mean; a single
//! option and its meaning in compression.rs and place.rs (`HOST:PATH`). Opens nothing, reads no
//! file, of the environment only how wide the terminal is, prints nothing; every part is a plain
//! function. For `main` and `commands` only.
//!
//! A subcommand's word counts only as the very first argument, and only when the rest fits that
//! subcommand: `bdsync mount LOC REM` fits the classic form alone (REMSHCMD, LOCDEV, REMDEV) and so
//! keeps its classic meaning. Whoever has a REMSHCMD of such a name writes `./sync`, or puts an
//! option or `--` before it.

mod classic;
mod compat;
mod compression;
mod mount;
mod options;
mod place;
mod stored;
mod subcommands;
mod sync;
mod table;
#[cfg(test)]
mod testing;
mod values;

use std::ffi::OsString;

use crate::error::{Error, Kind, Result};

pub use options::{
    BLOCK_SIZE_BYTES_DEFAULT, CACHE_MIB_DEFAULT, CACHE_MIB_MAX, ClientOptions, Command,
    CompareOptions, InfoOptions, MountOptions, MountSource, PatchOptions, Place, ProgressStyle,
    Reporting, ServerOptions, SessionOptions, SizeOptions, Spool, SquashOptions, SyncOptions,
};
pub use subcommands::{is_command, whole as definition};

/// Understands the arguments of the process; `args` starts with the program's name.
///
/// # Errors
/// `Kind::Usage`, on one line, for anything that is unknown, ambiguous, out of range or
/// contradictory.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command> {
    let args: Vec<OsString> = args.into_iter().skip(1).collect();
    let Some(first) = args.first() else { return Ok(Command::Help(help_text(None)?)) };
    let named = subcommands::SUBCOMMANDS.iter().find(|sub| first.as_os_str() == sub.name);
    let Some(sub) = named else { return parse_classic(&args) };
    match parse_with((sub.table)(), sub.resolve, &args[1..]) {
        Ok(command) => Ok(command),
        Err(err) if !sub.yields_to_classic => Err(err),
        Err(err) => parse_classic(&args).or(Err(err)),
    }
}

fn parse_classic(args: &[OsString]) -> Result<Command> {
    parse_with(classic::table(), classic::resolve, args)
}

/// What turns clap's findings into a command.
type Resolve = fn(&clap::ArgMatches) -> Result<Command>;

fn parse_with(mut table: clap::Command, resolve: Resolve, args: &[OsString]) -> Result<Command> {
    table.build();
    let words = compat::normalise(&table, args)?;
    let matches = table.try_get_matches_from(words).map_err(|err| one_line(&err))?;
    resolve(&matches)
}

/// The help of the whole program, or of one subcommand.
fn help_text(topic: Option<&str>) -> Result<String> {
    let mut whole = subcommands::whole();
    whole.build();
    let Some(name) = topic else { return Ok(whole.render_help().to_string()) };
    match whole.find_subcommand_mut(name) {
        Some(sub) => Ok(sub.render_help().to_string()),
        None => Err(Error::new(Kind::Usage, format!("there is no command '{name}'"))),
    }
}

/// clap's message without its heading, usage and blank lines: `main` prints one line.
fn one_line(err: &clap::Error) -> Error {
    let text = err.render().to_string();
    let text = text.split("\n\nUsage:").next().unwrap_or_default();
    let text = text.split("\n\nFor more information").next().unwrap_or_default();
    let text = text.strip_prefix("error: ").unwrap_or(text);
    Error::new(Kind::Usage, text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_is_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn no_argument_and_help_print_the_usage() {
        for words in [&[][..], &["--help"], &["-H"], &["-vH"], &["--server", "--patch", "--help"]] {
            let Ok(Command::Help(text)) = testing::parse(words) else { panic!("{words:?}") };
            assert!(text.contains("REMSHCMD LOCDEV REMDEV"), "{text}");
        }
    }

    #[test]
    fn a_subcommand_word_counts_only_where_no_classic_call_is_meant() {
        assert!(matches!(testing::parse(&["help"]), Ok(Command::Help(_))));
        assert!(matches!(testing::parse(&["help", "a", "b"]), Ok(Command::Client(_))));
        assert!(matches!(testing::parse(&["-v", "help", "a", "b"]), Ok(Command::Client(_))));
        assert!(testing::parse(&["help", "nonsense"]).is_err());
        assert!(testing::parse(&["--", "help"]).is_err());
    }

    #[test]
    fn messages_are_one_line() {
        for words in [&["a", "b", "c", "d"][..], &["a"], &["--nonsense"], &["-b"], &["-b", "x"]] {
            let text = testing::parse(words).unwrap_err().full_message();
            assert!(!text.contains('\n') && !text.is_empty(), "{text}");
        }
    }
}

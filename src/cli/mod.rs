//! What the user asked for: from the words of the command line to a typed [`Command`].
//!
//! ```text
//!   argv --> compat.rs --> table.rs (clap) --> resolve.rs --> options.rs
//!            getopt's      one definition:     numbers and     Command
//!            habits        parsing, help,      contradictions
//!                          man, completions
//! ```
//! Opens nothing, reads no file and no environment, prints nothing; every part is a plain function.
//! The commands over stored patches have their options and their meaning in stored.rs, `sync` in
//! sync.rs, with what `HOST:PATH` means in place.rs.
//! For `main` and `commands` only.
//!
//! A subcommand's word counts only as the very first argument, and only when the rest fits that
//! subcommand: `bdsync mount LOC REM` fits the classic form alone (REMSHCMD, LOCDEV, REMDEV) and so
//! keeps its classic meaning. Whoever has a REMSHCMD of such a name writes `./sync`, or puts an
//! option or `--` before it.

mod compat;
mod options;
mod place;
mod resolve;
mod stored;
mod sync;
mod table;

use std::ffi::OsString;

use crate::error::{Error, Kind, Result};

pub use options::{
    BLOCK_SIZE_BYTES_DEFAULT, CACHE_MIB_DEFAULT, CACHE_MIB_MAX, ClientOptions, Command,
    CompareOptions, InfoOptions, MountOptions, MountSource, PatchOptions, Place, ProgressStyle,
    Readers, ServerOptions, SizeOptions, SquashOptions, SyncOptions,
};
pub use table::whole as definition;

/// Understands the arguments of the process; `args` starts with the program's name.
///
/// # Errors
/// `Kind::Usage`, on one line, for anything that is unknown, ambiguous, out of range or
/// contradictory.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command> {
    let args: Vec<OsString> = args.into_iter().skip(1).collect();
    let Some(first) = args.first() else { return Ok(Command::Help(help_text(None)?)) };
    let named = table::SUBCOMMANDS.iter().find(|sub| first.as_os_str() == sub.name);
    let Some(sub) = named else { return parse_classic(&args) };
    match parse_with((sub.table)(), sub.resolve, &args[1..]) {
        Ok(command) => Ok(command),
        Err(err) if !sub.yields_to_classic => Err(err),
        Err(err) => parse_classic(&args).or(Err(err)),
    }
}

fn parse_classic(args: &[OsString]) -> Result<Command> {
    parse_with(table::classic(), resolve::classic, args)
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
    let mut whole = table::whole();
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

    fn parse_words(words: &[&str]) -> Result<Command> {
        parse(std::iter::once("bdsync").chain(words.iter().copied()).map(OsString::from))
    }

    #[test]
    fn definition_is_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn no_argument_and_help_print_the_usage() {
        for words in [&[][..], &["--help"], &["-H"], &["-vH"], &["--server", "--patch", "--help"]] {
            let Ok(Command::Help(text)) = parse_words(words) else { panic!("{words:?}") };
            assert!(text.contains("REMSHCMD LOCDEV REMDEV"), "{text}");
        }
    }

    #[test]
    fn a_subcommand_word_counts_only_where_no_classic_call_is_meant() {
        assert!(matches!(parse_words(&["help"]), Ok(Command::Help(_))));
        assert!(matches!(parse_words(&["help", "a", "b"]), Ok(Command::Client(_))));
        assert!(matches!(parse_words(&["-v", "help", "a", "b"]), Ok(Command::Client(_))));
        assert!(parse_words(&["help", "nonsense"]).is_err());
        assert!(parse_words(&["--", "help"]).is_err());
    }

    #[test]
    fn messages_are_one_line() {
        for words in [&["a", "b", "c", "d"][..], &["a"], &["--nonsense"], &["-b"], &["-b", "x"]] {
            let text = parse_words(words).unwrap_err().full_message();
            assert!(!text.contains('\n') && !text.is_empty(), "{text}");
        }
    }
}

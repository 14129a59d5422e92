//! The commands that are chosen by the first word. A new one is a file with its options and what
//! they come to, and a line in [`SUBCOMMANDS`].

use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgMatches, Command as Table, value_parser};

use super::options::Command;
use super::table::base;
use super::values::operand_list;
use super::{Resolve, classic, mount, stored, sync};
use crate::error::Result;

/// A command that is chosen by its name as the first argument.
pub(super) struct Subcommand {
    pub name: &'static str,
    pub table: fn() -> Table,
    pub resolve: Resolve,
    /// Whether what does not fit it may still be a classic call. `sync SRC DST` has the form of
    /// one, so that nothing could ever be wrong with it.
    pub yields_to_classic: bool,
}

/// All of them, in the order of the help.
pub(super) const SUBCOMMANDS: &[Subcommand] = &[
    Subcommand {
        name: "sync",
        table: sync::table,
        resolve: sync::resolve,
        yields_to_classic: false,
    },
    Subcommand {
        name: "mount",
        table: mount::table,
        resolve: mount::resolve,
        yields_to_classic: true,
    },
    Subcommand {
        name: "info",
        table: stored::info_table,
        resolve: stored::info,
        yields_to_classic: true,
    },
    Subcommand {
        name: "squash",
        table: stored::squash_table,
        resolve: stored::squash,
        yields_to_classic: true,
    },
    Subcommand { name: "help", table: help_table, resolve: help, yields_to_classic: true },
];

/// Whether the word is one that a command is chosen by.
#[must_use]
pub fn is_command(word: &OsStr) -> bool {
    SUBCOMMANDS.iter().any(|sub| word == sub.name)
}

/// The whole command line, subcommands included: what help, man page and completions show.
#[must_use]
pub fn whole() -> Table {
    classic::table().subcommands(SUBCOMMANDS.iter().map(|sub| (sub.table)()))
}

fn help_table() -> Table {
    base("help").about("Show the help of the program, or of one command").arg(
        Arg::new("operands")
            .value_name("COMMAND")
            .num_args(0..=1)
            .value_parser(value_parser!(OsString)),
    )
}

/// `bdsync help [COMMAND]`.
fn help(found: &ArgMatches) -> Result<Command> {
    let topic = operand_list(found).into_iter().next();
    let topic = topic.map(|name| name.to_string_lossy().into_owned());
    Ok(Command::Help(super::help_text(topic.as_deref())?))
}

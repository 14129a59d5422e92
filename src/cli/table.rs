//! The options that several commands have, under a heading each, and how one is made. Parsing,
//! help, man page and completions all come from these tables.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command, ValueHint, value_parser};

/// What every command has in common: no help flag of clap's own (`-h` is the hash).
pub(super) fn base(name: &'static str) -> Command {
    Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .max_term_width(100)
}

/// How two sides are compared.
pub(super) fn comparing() -> Vec<Arg> {
    headed(
        "Comparing",
        [
            valued("blocksize", 'b', "BYTES")
                .help("Bytes that one hash covers, 1 to 16777216 [default: 4096]"),
            valued("hash", 'h', "NAME").visible_alias("digest").help(
                "Digest of the block hashes, see bdsync(1) [default: md5, or a faster one if both \
                 ends know it]",
            ),
            valued("checksum", 'c', "NAME")
                .help("Put this digest of the whole source device at the patch's end"),
            flag("remdata", 'r', "Make a patch that turns LOCDEV into REMDEV, not the other way"),
            flag("twopass", 't', "Accepted for the classic's sake; changes nothing"),
            flag("zeroblocks", 'z', "Accepted for the classic's sake; changes nothing"),
            flag("flushcache", 'F', "Drop from the page cache what was read or written"),
            flag("fixedsalt", 'f', "Use a salt of zeros, for tests").hide(true),
        ],
    )
}

/// What client and sync do about failing disks.
pub(super) fn unreadable() -> Vec<Arg> {
    headed(
        "Comparing",
        [long_valued("on-read-error", "WHAT").help(
            "What to do about bytes that cannot be read: fail, or skip: leave their blocks out, \
             list them and end with exit status 15. A classic server fails anyway \
             [default: fail]",
        )],
    )
}

/// What differing sizes mean.
pub(super) fn sizes() -> Vec<Arg> {
    headed(
        "Sizes",
        [optional_value(Arg::new("diffsize").long("diffsize").short('d'))
            .value_name("RULE[,warn]")
            // All of them are kept: a second one is an error.
            .action(ArgAction::Append)
            .help(
                "When the sizes differ: strict (fail), resize (give the target the source's size; \
             the default of a bare -d), minsize (the common part only); ,warn tells both sizes \
             [default: strict]",
            )],
    )
}

/// How the remote side is waited for.
pub(super) fn connection() -> Vec<Arg> {
    headed(
        "Connection",
        [Arg::new("timeout")
            .long("timeout")
            .overrides_with("timeout")
            .value_name("SECONDS")
            .value_hint(ValueHint::Other)
            .action(ArgAction::Set)
            .help(
                "Give up when the other side says nothing for so long, except a classic one that makes \
                 a checksum or writes [default: 0, which is never]",
            )],
    )
}

/// What is told on stderr.
pub(super) fn reporting() -> Vec<Arg> {
    headed(
        "Messages",
        [
            flag("verbose", 'v', "Tell more; may be repeated. A server tells it to syslog")
                .action(ArgAction::Count),
            optional("progress", 'P', "STYLE").help(
                "Tell the progress on stderr: in lines, or as STYLE: noscroll (one line), json \
                 (an object a second), none [default: a bar on a terminal]. SIGUSR1 always tells \
                 one line",
            ),
            long_valued("report", "FILE")
                .value_hint(ValueHint::FilePath)
                .value_parser(value_parser!(OsString))
                .help("Write a JSON record of the result to FILE, also of a failure"),
        ],
    )
}

pub(super) fn other() -> Vec<Arg> {
    headed(
        "Other",
        [
            flag("help", 'H', "Print this help"),
            Arg::new("version")
                .long("version")
                .overrides_with("version")
                .action(ArgAction::SetTrue)
                .help("Print the version"),
        ],
    )
}

/// All operands of a command; their number is checked by who knows the mode.
pub(super) fn operands(value_name: &'static str) -> Arg {
    Arg::new("operands")
        .value_name(value_name)
        .action(ArgAction::Append)
        .num_args(0..)
        .value_parser(value_parser!(OsString))
}

pub(super) fn headed<const N: usize>(heading: &'static str, args: [Arg; N]) -> Vec<Arg> {
    args.into_iter().map(|arg| arg.help_heading(heading)).collect()
}

/// As with getopt, the last of several equal options counts.
pub(super) fn flag(name: &'static str, short: char, help: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).short(short).overrides_with(name);
    arg.action(ArgAction::SetTrue).help(help)
}

/// A flag without a letter.
pub(super) fn long_flag(name: &'static str, help: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).overrides_with(name);
    arg.action(ArgAction::SetTrue).help(help)
}

/// An option that needs a value and has no letter. Shells offer nothing for it, unless a
/// hint says more.
pub(super) fn long_valued(name: &'static str, value_name: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).overrides_with(name);
    arg.value_name(value_name).value_hint(ValueHint::Other).action(ArgAction::Set)
}

/// An option that needs a value, attached or the next word; the last one counts. As above.
pub(super) fn valued(name: &'static str, short: char, value_name: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).short(short).overrides_with(name);
    arg.value_name(value_name).value_hint(ValueHint::Other).action(ArgAction::Set)
}

/// An option whose value is optional and must be attached; given bare, its value is empty.
pub(super) fn optional(name: &'static str, short: char, value_name: &'static str) -> Arg {
    optional_value(Arg::new(name).long(name).short(short).value_name(value_name))
        .overrides_with(name)
        .action(ArgAction::Set)
}

pub(super) fn optional_value(arg: Arg) -> Arg {
    arg.num_args(0..=1).require_equals(true).default_missing_value("")
}

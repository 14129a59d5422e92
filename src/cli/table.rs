//! The one definition of all options: parsing, help, man page and completions come from here.
//!
//! Options that several commands share are functions that return `Vec<Arg>`, under a heading each.
//! A new subcommand is a function here, one in `resolve.rs` (both in a file of their own for `sync` and
//! for what has to do with stored patches), and a line in [`SUBCOMMANDS`].

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command, ValueHint, value_parser};

use super::{Resolve, resolve, stored, sync};

/// A command that is chosen by its name as the first argument.
pub(super) struct Subcommand {
    pub name: &'static str,
    pub table: fn() -> Command,
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
        table: mount_command,
        resolve: resolve::mount,
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
    Subcommand {
        name: "help",
        table: help_command,
        resolve: resolve::help,
        yields_to_classic: true,
    },
];

/// The whole command line, subcommands included: what help, man page and completions show.
#[must_use]
pub fn whole() -> Command {
    classic().subcommands(SUBCOMMANDS.iter().map(|sub| (sub.table)()))
}

/// The classic command line: client, server and patch.
pub(super) fn classic() -> Command {
    base("bdsync")
        .about("Finds the blocks that differ between two disks and puts them into a patch")
        .override_usage(
            "bdsync [OPTIONS] REMSHCMD LOCDEV REMDEV   client: patch to stdout\n       \
             bdsync --server [OPTIONS]                 server on stdin and stdout\n       \
             bdsync --patch[=DEVICE] [OPTIONS]         apply the patch on stdin",
        )
        .after_help(AFTER_HELP)
        .args(modes())
        .args(comparing())
        .args(unreadable())
        .args(sizes())
        .args(making())
        .args(applying())
        .args(serving())
        .args(connection())
        .args(reporting())
        .args(other())
        .arg(operands("REMSHCMD LOCDEV REMDEV").hide(true))
}

const AFTER_HELP: &str = "\
REMSHCMD starts a bdsync server: it is split at spaces, quotes group, no shell is involved.
LOCDEV and REMDEV are block devices or image files, here and at the other end.

Example: bdsync \"ssh host bdsync --server\" /dev/vg/snap /dev/vg/copy >patch
         ssh host bdsync --patch <patch

Exit status: 0 success, 1 usage, 2 bad patch, 3 sizes differ, 4 protocol, 5 checksum, 6 read,
7 no randomness, 8 REMSHCMD could not be run, 9 write, 10 digest, 11 transmission,
12 a device cannot be opened, 13 connection, 14 the target is not in the state that the patch
is sealed for, 15 unreadable ranges were left out, 101 a fault of bdsync itself. When all went
well the client exits with REMSHCMD's own status.";

/// What every command has in common: no help flag of clap's own (`-h` is the hash).
pub(super) fn base(name: &'static str) -> Command {
    Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .max_term_width(100)
}

fn help_command() -> Command {
    base("help").about("Show the help of the program, or of one command").arg(
        Arg::new("operands")
            .value_name("COMMAND")
            .num_args(0..=1)
            .value_parser(value_parser!(OsString)),
    )
}

fn mount_command() -> Command {
    base("mount")
        .about("Show a pending patch as a file system: the target as it will be, before it is")
        .override_usage(
            "bdsync mount [OPTIONS] REMSHCMD LOCDEV REMDEV MOUNTPOINT\n       \
             bdsync mount [OPTIONS] --from=PATCHFILE BASEDEV MOUNTPOINT",
        )
        .after_help(AFTER_MOUNT_HELP)
        .args(mounting())
        .args(comparing())
        .args(sizes())
        .args(connection())
        .args(reporting())
        .args(other())
        .arg(operands("REMSHCMD LOCDEV REMDEV MOUNTPOINT").hide(true))
}

const AFTER_MOUNT_HELP: &str = "\
In the mount: merged is the target as it will be, original as it is now, patch the patch itself,
changes and extents/ the ranges that change, status.json what is known so far. All are read-only,
and nothing is compared or fetched before somebody reads it. umount, Ctrl-C or SIGTERM end it.

Example: bdsync mount \"ssh host bdsync --server\" /dev/vg/snap /dev/vg/copy /mnt/preview
         bdsync mount --from=day.bdsync /dev/vg/copy /mnt/later";

/// What only the mount knows.
fn mounting() -> Vec<Arg> {
    headed(
        "Mounting",
        [
            long_valued("from", "PATCHFILE")
                .value_hint(ValueHint::FilePath)
                .value_parser(value_parser!(OsString))
                .help("Show a stored patch over BASEDEV, the device that it is meant for"),
            long_flag("daemon", "Return as soon as the mount can be read, and serve it unseen"),
            long_flag("allow-other", "Let all users read the mount, not just its owner"),
            long_flag("allow-root", "Let root read the mount as well"),
            long_valued("scan", "WHEN").help(
                "Compare what nobody has read yet: lazy (never) or background [default: lazy]",
            ),
            long_valued("cache-mib", "N")
                .help("Keep up to N MiB of fetched blocks in memory, 1 to 65536 [default: 64]"),
        ],
    )
}

/// `--server`, `--patch`.
fn modes() -> Vec<Arg> {
    headed(
        "Mode (default: client)",
        [
            flag("server", 's', "Answer a client on stdin and stdout"),
            optional("patch", 'p', "DEVICE")
                .value_hint(ValueHint::FilePath)
                .value_parser(value_parser!(OsString))
                .help(
                    "Apply the patch on stdin to DEVICE (default: the device that the patch names)",
                ),
        ],
    )
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
            flag("twopass", 't', "For the classic's sake: large steps are always compared first"),
            flag("zeroblocks", 'z', "For the classic's sake: zeros are never hashed twice"),
            flag("flushcache", 'F', "Drop from the page cache what was read or written"),
            flag("fixedsalt", 'f', "Use a salt of zeros, for tests").hide(true),
        ],
    )
}

/// What the client does about failing disks.
fn unreadable() -> Vec<Arg> {
    headed(
        "Comparing",
        [Arg::new("on-read-error")
            .long("on-read-error")
            .overrides_with("on-read-error")
            .value_name("WHAT")
            .action(ArgAction::Set)
            .help(
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

/// What making a patch adds.
fn making() -> Vec<Arg> {
    headed(
        "Making a patch",
        [
            long_flag(
                "seal",
                "Say in the patch what the blocks held that it changes: where they hold something \
                 else, or the patch is damaged, it is refused before the first write (from a pipe: \
                 with --spool)",
            ),
            stored::compress(),
        ],
    )
}

/// What applying a patch adds.
fn applying() -> Vec<Arg> {
    headed(
        "Applying",
        [
            flag("warndev", 'w', "Warn when the patch names another device than DEVICE"),
            optional_value(Arg::new("spool").long("spool"))
                .overrides_with("spool")
                .value_name("DIR")
                .value_hint(ValueHint::DirPath)
                .value_parser(value_parser!(OsString))
                .action(ArgAction::Set)
                .help(
                    "Copy a patch from a pipe to an unnamed file in DIR (default: the folder for \
                     temporary files) and check all of it before the first write",
                ),
            long_valued("undo", "FILE")
                .value_hint(ValueHint::FilePath)
                .value_parser(value_parser!(OsString))
                .help(
                    "Before the first write make FILE, which must not exist: a patch that takes \
                     this one back; --patch=DEVICE <FILE applies it. Implies --spool",
                ),
            long_flag(
                "verify",
                "Read back what was written, past the cache, and compare. Implies --spool",
            ),
            long_flag("sparse", "Make holes, or zeros by the device itself, of runs of zeros"),
            long_flag(
                "force",
                "Patch a device that is in use, or not in the state that the patch is sealed for, as \
                 after a power failure during an earlier apply",
            ),
        ],
    )
}

/// What a server lets its clients do.
fn serving() -> Vec<Arg> {
    headed(
        "Serving",
        [Arg::new("allow").long("allow").value_name("GLOB").action(ArgAction::Append).help(
            "Let clients name only devices that match GLOB, an absolute path in which *, ? and \
             [...] stop at a slash and ** does not, and {a,b} is either; links and .. are resolved \
             first. May be repeated \
             [default: all that the user may read]",
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
            .action(ArgAction::Set)
            .help(
                "Give up when the other side says nothing for so long [default: 0, which is never]",
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
                .help(
                    "Write a JSON record of the result to FILE, also of a failure. A server's is \
                     empty until it ends",
                ),
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

/// All operands of a command; their number is checked in `resolve.rs`, which knows the mode.
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

/// An option that needs a value and has no letter.
pub(super) fn long_valued(name: &'static str, value_name: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).overrides_with(name);
    arg.value_name(value_name).action(ArgAction::Set)
}

/// An option that needs a value, attached or the next word; the last one counts.
pub(super) fn valued(name: &'static str, short: char, value_name: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).short(short).overrides_with(name);
    arg.value_name(value_name).action(ArgAction::Set)
}

/// An option whose value is optional and must be attached; given bare, its value is empty.
fn optional(name: &'static str, short: char, value_name: &'static str) -> Arg {
    optional_value(Arg::new(name).long(name).short(short).value_name(value_name))
        .overrides_with(name)
        .action(ArgAction::Set)
}

fn optional_value(arg: Arg) -> Arg {
    arg.num_args(0..=1).require_equals(true).default_missing_value("")
}

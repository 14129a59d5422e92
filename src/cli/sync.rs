//! `bdsync sync`: its options, and what they come to.

use std::ffi::OsString;

use clap::{Arg, ArgMatches, Command, ValueHint, value_parser};

use super::compression;
use super::options::{Command as Parsed, CompareOptions, Place, SyncOptions};
use super::place::place;
use super::table;
use super::values::{
    UNDO_OF_NOTHING, asked_for_words, compare_options, decimal, exactly, reporting_options,
    size_options, timeout, undo_file, usage,
};
use crate::error::Result;
use crate::units::{GIB, KIB, MIB, RATE_BYTES_MIN};

/// The remote shell when none is named.
const REMOTE_SHELL: &str = "ssh";
/// What bdsync is called on the other host when nothing else is said.
const REMOTE_PROGRAM: &str = "bdsync";

pub(super) fn table() -> Command {
    table::base("sync")
        .about("Make DST equal to SRC, in one go")
        .override_usage("bdsync sync [OPTIONS] SRC DST     SRC, DST: path, or [user@]host:path")
        .after_help(AFTER_HELP)
        .args(target())
        .args(network())
        // `--remdata` is decided by which side is remote.
        .args(table::comparing().into_iter().filter(|arg| arg.get_id() != "remdata"))
        .args(table::unreadable())
        .args(table::sizes())
        .args(table::connection())
        .args(table::reporting())
        .args(table::other())
        .arg(table::operands("SRC DST").hide(true))
}

const AFTER_HELP: &str = "\
One of SRC and DST may be on another host, where bdsync is called through the remote shell: once
to compare, once to write when DST is there. A path with a colon in it is written ./a:b. The
classic bdsync will do at the other end; without --undo and --sparse then.

A sync that was interrupted leaves DST partly changed: the same command again, without --undo,
finishes it.

Examples: bdsync sync /dev/vg/snap backup:/dev/vg/copy
          bdsync sync --undo=disk.undo root@host:/dev/vg/disk disk.img";

fn target() -> Vec<Arg> {
    table::headed(
        "Target",
        [
            table::long_flag(
                "create",
                "Create the file DST, in SRC's size, if it does not exist or is empty; --diffsize \
                 does not count then",
            ),
            table::long_flag(
                "dry-run",
                "Say what would change, and change nothing; none of it is fetched",
            ),
            table::long_valued("undo", "FILE")
                .value_hint(ValueHint::FilePath)
                .value_parser(value_parser!(OsString))
                .help(
                    "Before the first write make FILE, which must not exist, on DST's host: a patch \
                     that takes everything back. The changes are kept in FILE's folder until then",
                ),
            table::long_flag("no-verify", "Do not compare again what was written"),
            table::long_flag("verify", "Compare again what was written (the default)")
                .overrides_with("no-verify"),
            table::long_flag("sparse", "Make holes, or zeros by the device, of runs of zeros"),
            table::long_flag("force", "Change a device or an image even when it is in use"),
        ],
    )
}

fn network() -> Vec<Arg> {
    table::headed(
        "Network",
        [
            table::valued("rsh", 'e', "CMD")
                .value_hint(ValueHint::CommandString)
                .value_parser(value_parser!(OsString))
                .help("Remote shell, split at spaces like REMSHCMD [default: ssh]"),
            table::long_valued("remote-path", "CMD")
                .value_parser(value_parser!(OsString))
                .help("bdsync on the other host, in the words of its shell [default: bdsync]"),
            table::long_valued("bwlimit", "RATE").help(
                "Carry at most RATE bytes a second each way between the hosts, hashes and patch \
                 together, at least 1K; K, M and G stand for 2^10, 2^20, 2^30 [default: no limit]",
            ),
            compression::link_flag(),
        ],
    )
}

pub(super) fn resolve(found: &ArgMatches) -> Result<Parsed> {
    if let Some(command) = asked_for_words(found, "sync")? {
        return Ok(command);
    }
    let [source, target] = exactly(found, "operands, SRC DST", " (see bdsync help sync)")?;
    let (source, target) = (place(&source)?, place(&target)?);
    if let (Place::Remote { .. }, Place::Remote { .. }) = (&source, &target) {
        return Err(usage(
            "SRC and DST are both remote: run bdsync on one of the two hosts, for example with ssh",
        ));
    }
    let word = |name, default: &str| match found.get_one::<OsString>(name) {
        Some(given) if given.is_empty() => Err(usage(format!("--{name} is empty"))),
        given => Ok(given.map_or_else(|| OsString::from(default), Clone::clone)),
    };
    let undo = undo_file(found)?;
    let dry_run = found.get_flag("dry-run");
    if dry_run && undo.is_some() {
        return Err(usage(UNDO_OF_NOTHING));
    }
    Ok(Parsed::Sync(SyncOptions {
        source,
        target,
        remote_shell: word("rsh", REMOTE_SHELL)?,
        remote_program: word("remote-path", REMOTE_PROGRAM)?,
        compare: CompareOptions {
            compress_link: found.get_flag("compress"),
            ..compare_options(found)?
        },
        sizes: size_options(found)?,
        create: found.get_flag("create"),
        dry_run,
        verify: !found.get_flag("no-verify"),
        undo,
        sparse: found.get_flag("sparse"),
        force: found.get_flag("force"),
        rate_bytes_max: match found.get_one::<String>("bwlimit") {
            Some(text) => rate(text)?,
            None => None,
        },
        timeout: timeout(found)?,
        reporting: reporting_options(found)?,
    }))
}

/// `512K`, `10M`, `1G`, or bytes; 0 is no limit.
fn rate(text: &str) -> Result<Option<u64>> {
    let (digits, unit) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
        Some(b'K') => (&text[..text.len() - 1], KIB),
        Some(b'M') => (&text[..text.len() - 1], MIB),
        Some(b'G') => (&text[..text.len() - 1], GIB),
        _ => (text, 1),
    };
    match decimal(digits).and_then(|number| number.checked_mul(unit)) {
        Some(0) => Ok(None),
        Some(bytes) if bytes >= RATE_BYTES_MIN => Ok(Some(bytes)),
        _ => Err(usage(format!(
            "--bwlimit must be a number of bytes a second of at least {RATE_BYTES_MIN}, with or \
             without K, M or G behind it, or 0 for no limit; found '{text}'"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::SizeRule;

    fn parse(words: &[&str]) -> Result<Parsed> {
        super::super::parse(["bdsync", "sync"].iter().chain(words).map(OsString::from))
    }

    fn options(words: &[&str]) -> SyncOptions {
        match parse(words) {
            Ok(Parsed::Sync(options)) => options,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    #[test]
    fn defaults_verify_and_go_through_ssh() {
        let options = options(&["a", "host:b"]);
        assert_eq!(options.source, Place::Local("a".into()));
        assert_eq!(options.target, Place::Remote { host: "host".into(), path: "b".into() });
        assert_eq!((options.remote_shell, options.remote_program), ("ssh".into(), "bdsync".into()));
        assert!(options.verify && !options.create && !options.dry_run && !options.force);
        assert!(!options.compare.compress_link);
        assert_eq!(
            (options.sizes, options.rate_bytes_max),
            (crate::cli::SizeOptions::default(), None)
        );
    }

    #[test]
    fn every_option_arrives() {
        let options = options(&[
            "-e",
            "ssh -p 22",
            "--remote-path=sudo bdsync",
            "--create",
            "--no-verify",
            "--undo=u",
            "--sparse",
            "--force",
            "--bwlimit=2M",
            "--compress",
            "-dresize",
            "-b512",
            "--report=r",
            "-v",
            "a",
            "b",
        ]);
        assert_eq!(options.remote_shell, "ssh -p 22");
        assert_eq!(options.remote_program, "sudo bdsync");
        assert!(options.create && !options.verify && options.sparse && options.force);
        assert!(options.compare.compress_link);
        assert_eq!(options.undo, Some("u".into()));
        assert_eq!(options.rate_bytes_max, Some(2 * MIB));
        assert_eq!(options.sizes.rule, SizeRule::Resize);
        assert_eq!((options.compare.block_size_bytes, options.reporting.verbosity), (512, 1));
        assert_eq!(options.reporting.report, Some("r".into()));
    }

    #[test]
    fn the_last_of_verify_and_no_verify_counts() {
        assert!(options(&["--no-verify", "--verify", "a", "b"]).verify);
        assert!(!options(&["--verify", "--no-verify", "a", "b"]).verify);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (words, part) in [
            (&["x:a", "y:b"][..], "both remote"),
            (&["a"], "expected 2 operands"),
            (&["--dry-run", "--undo=u", "a", "b"], "--dry-run"),
            (&["--remdata", "a", "b"], "remdata"),
            (&["-e", "", "a", "b"], "--rsh is empty"),
            (&["--undo=", "a", "b"], "undo"),
        ] {
            let text = parse(words).unwrap_err().full_message();
            assert!(text.contains(part), "{words:?}: {text}");
        }
    }

    #[test]
    fn rates_have_units_and_bounds() {
        for (text, bytes) in [("1024", 1024), ("5k", 5 * KIB), ("3G", 3 * GIB)] {
            assert_eq!(rate(text).unwrap(), Some(bytes));
        }
        assert_eq!(rate("0").unwrap(), None);
        for text in ["", "K", "1023", "-1", "1.5M", "10MB", "99999999999999999999", "99999999999G"]
        {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}

//! The classic command line, client, server and patch: its options, and what they come to.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command as Table, ValueHint, value_parser};

use super::compression;
use super::is_command;
use super::options::{ClientOptions, Command, PatchOptions, ServerOptions, SessionOptions, Spool};
use super::table::{
    base, comparing, connection, flag, headed, long_flag, long_valued, operands, optional,
    optional_value, other, reporting, sizes, unreadable,
};
use super::values::{
    UNDO_OF_NOTHING, attached_hint, compare_options, direction, exactly, is_given, operand_list,
    refuse_empty, reporting_options, server_reporting_options, size_options, timeout, undo_file,
    usage, version,
};
use crate::error::Result;
use crate::units::FileId;

/// The options of client, server and patch.
pub(super) fn table() -> Table {
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
7 no randomness, 8 REMSHCMD could not be run, or a signal ended it, 9 write, 10 digest,
11 a source changed while it was read, 12 a device cannot be opened, or is in use,
13 connection, 14 the target is not in the state that the patch is sealed for, 15 unreadable
ranges were left out, 16 no room for an undo patch or a copy of a patch, 101 a fault of bdsync
itself, 128 + n signal n. When all went well the client exits with REMSHCMD's own status.";

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

/// What making a patch adds.
fn making() -> Vec<Arg> {
    headed(
        "Making a patch",
        [
            long_flag(
                "seal",
                "Record in the patch what the changed blocks hold now: applying is refused when they \
                 hold something else, or the patch is damaged (from a pipe: with --spool)",
            ),
            compression::option(),
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
                "dry-run",
                "Check the patch and the target as before the first write, say what would be \
                 written, and change nothing. Implies --spool",
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
            long_valued("sync-size", "BYTES")
                .value_parser(value_parser!(u64))
                .help("Given by sync: patch a target of this size only")
                .hide(true),
            long_valued("sync-disk", "DISK")
                .value_parser(value_parser!(FileId))
                .help(
                    "Given by sync: patch this disk only, by its numbers, and show signs of life on \
                     stdout",
                )
                .hide(true),
        ],
    )
}

/// What a server lets its clients do.
fn serving() -> Vec<Arg> {
    headed(
        "Serving",
        [Arg::new("allow")
            .long("allow")
            .value_name("GLOB")
            .value_hint(ValueHint::FilePath)
            .action(ArgAction::Append)
            .help(
                "Let clients name only devices that match GLOB, an absolute path in which *, ? and \
                 [...] stop at a slash and ** does not, and {a,b} is either; links and .. are \
                 resolved first, but a block device below /dev also goes by the name of a link \
                 that only root could make. May be repeated \
                 [default: all that the user may read]",
            )],
    )
}

/// What they come to.
pub(super) fn resolve(found: &ArgMatches) -> Result<Command> {
    if found.get_flag("help") {
        return Ok(Command::Help(super::help_text(None)?));
    }
    if found.get_flag("version") {
        return Ok(Command::Help(version()));
    }
    refuse_contradictions(found)?;
    if found.get_flag("server") {
        // The other options of a client are accepted and mean nothing here, as in the classic.
        compare_options(found)?;
        size_options(found)?;
        return Ok(Command::Server(ServerOptions {
            allow: found.get_many::<String>("allow").into_iter().flatten().cloned().collect(),
            timeout: timeout(found)?,
            reporting: server_reporting_options(found)?,
        }));
    }
    if is_given(found, "patch") {
        return patch(found).map(Command::Patch);
    }
    client(found).map(Command::Client)
}

fn refuse_contradictions(found: &ArgMatches) -> Result<()> {
    let given = |name: &str| is_given(found, name);
    let (server, patch) = (given("server"), given("patch"));
    for (clash, text) in [
        (server && patch, "--server and --patch exclude each other"),
        (given("warndev") && !patch, "--warndev needs --patch"),
        (given("zeroblocks") && patch, "--zeroblocks means nothing with --patch"),
        (given("hash") && server, "--hash means nothing with --server: the client chooses"),
        (given("hash") && patch, "--hash means nothing with --patch"),
        (given("checksum") && server, "--checksum means nothing with --server: the client chooses"),
        (given("checksum") && patch, "--checksum means nothing with --patch"),
        (given("seal") && (server || patch), "--seal is for the client, which makes the patch"),
        (given("spool") && !patch, "--spool needs --patch"),
        (given("dry-run") && !patch, "--dry-run needs --patch, or sync"),
        (given("dry-run") && given("undo"), UNDO_OF_NOTHING),
        (given("dry-run") && given("verify"), "--dry-run writes nothing that --verify could read"),
        (given("undo") && !patch, "--undo needs --patch"),
        (given("verify") && !patch, "--verify needs --patch"),
        (given("sparse") && !patch, "--sparse needs --patch"),
        (given("force") && !patch, "--force needs --patch"),
        (given("sync-disk") && !patch, "--sync-disk needs --patch"),
        (given("sync-size") && !patch, "--sync-size needs --patch"),
        (given("on-read-error") && server, "--on-read-error means nothing with --server"),
        (given("on-read-error") && patch, "--on-read-error means nothing with --patch"),
        (given("allow") && !server, "--allow needs --server"),
        (given("compress") && server, "--compress means nothing with --server: the client chooses"),
        (given("compress") && patch, "--compress means nothing with --patch: it is recognised"),
        (given("timeout") && patch, "--timeout means nothing with --patch"),
    ] {
        if clash {
            return Err(usage(text));
        }
    }
    let operands = operand_list(found);
    if let (true, [first, ..]) = (server || patch, &operands[..]) {
        let mode = if server { "--server" } else { "--patch" };
        let shown = first.to_string_lossy();
        let hint = attached_hint(found, 0);
        return Err(usage(format!("{mode} takes no operands, found '{shown}'{hint}")));
    }
    Ok(())
}

fn client(found: &ArgMatches) -> Result<ClientOptions> {
    let advice = match operand_list(found).first().filter(|word| is_command(word)) {
        Some(word) => format!(
            "; '{0}' is a command, which comes first, before all options (see bdsync help {0})",
            word.to_string_lossy()
        ),
        None => " (see bdsync --help)".to_owned(),
    };
    let operands = exactly(found, "operands, REMSHCMD LOCDEV REMDEV", &advice)?;
    Ok(ClientOptions {
        seal: found.get_flag("seal"),
        compression: compression::resolve(found)?,
        session: session(found, operands)?,
        reporting: reporting_options(found)?,
    })
}

/// What is compared with what.
pub(super) fn session(
    found: &ArgMatches,
    [remote_command, local, remote]: [OsString; 3],
) -> Result<SessionOptions> {
    refuse_empty(&[("LOCDEV", &local), ("REMDEV", &remote)])?;
    Ok(SessionOptions {
        remote_command,
        local: PathBuf::from(local),
        remote,
        direction: direction(found),
        compare: compare_options(found)?,
        sizes: size_options(found)?,
        timeout: timeout(found)?,
    })
}

fn patch(found: &ArgMatches) -> Result<PatchOptions> {
    // Accepted and without meaning here, as in the classic; but a bad value is still told.
    compare_options(found)?;
    let path = |name| {
        let given = found.get_one::<OsString>(name).filter(|path| !path.is_empty());
        given.map(PathBuf::from)
    };
    let undo = undo_file(found)?;
    let (verify, dry_run) = (found.get_flag("verify"), found.get_flag("dry-run"));
    // The patch is read twice.
    let spools = is_given(found, "spool") || undo.is_some() || verify || dry_run;
    Ok(PatchOptions {
        target: path("patch"),
        warn_device: found.get_flag("warndev"),
        sizes: size_options(found)?,
        flush_cache: found.get_flag("flushcache"),
        spool: spools.then(|| path("spool").map_or(Spool::Temporary, Spool::Folder)),
        undo,
        verify,
        dry_run,
        sparse: found.get_flag("sparse"),
        force: found.get_flag("force"),
        sync_disk: found.get_one("sync-disk").copied(),
        sync_bytes: found.get_one("sync-size").copied(),
        reporting: reporting_options(found)?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;
    use std::time::Duration;

    use super::super::options::{CompareOptions, ProgressStyle, Reporting, SizeOptions};
    use super::super::testing::{parse, refused};
    use super::*;
    use crate::units::{Direction, SizeRule};

    fn client_of(options: &[&str]) -> ClientOptions {
        match parse(&[&["cmd", "l", "r"], options].concat()) {
            Ok(Command::Client(options)) => options,
            other => panic!("{options:?}: {other:?}"),
        }
    }

    #[test]
    fn defaults_are_the_classics() {
        let options = client_of(&[]);
        assert_eq!(options.session.direction, Direction::Push);
        assert_eq!(options.session.compare.block_size_bytes, 4096);
        assert_eq!(options.session.sizes, SizeOptions::default());
        assert!(options.session.sizes.tells_difference());
        assert_eq!((options.reporting, options.session.timeout), (Reporting::default(), None));
        assert_eq!((options.session.compare.hash, options.session.compare.checksum), (None, None));
    }

    #[test]
    fn every_client_option_arrives() {
        let options =
            client_of(&["-vvrtzFf", "-hsha1", "--checksum", "MD5", "-b512", "-Pnoscroll"]);
        assert_eq!(options.session.direction, Direction::Pull);
        assert_eq!(
            options.session.compare,
            CompareOptions {
                block_size_bytes: 512,
                hash: Some("sha1".into()),
                checksum: Some("MD5".into()),
                fixed_salt: true,
                flush_cache: true,
                skip_unreadable: false,
                compress_link: false,
            }
        );
        assert_eq!(options.reporting.progress, Some(ProgressStyle::NoScroll));
        assert_eq!(options.reporting.verbosity, 2);
        assert_eq!(client_of(&["--timeout=7"]).session.timeout, Some(Duration::from_secs(7)));
        assert!(client_of(&["--seal"]).seal && !client_of(&[]).seal);
        for (option, style) in [
            ("-P", ProgressStyle::Lines),
            ("--progress=json", ProgressStyle::Json),
            ("-Pnone", ProgressStyle::Nothing),
        ] {
            assert_eq!(client_of(&[option]).reporting.progress, Some(style));
        }
        assert_eq!(client_of(&["--report=r"]).reporting.report, Some("r".into()));
    }

    #[test]
    fn the_last_of_several_equal_options_counts() {
        assert_eq!(client_of(&["-b1", "-b2"]).session.compare.block_size_bytes, 2);
        assert_eq!(
            client_of(&["-rr", "-h", "a", "--digest=b"]).session.compare.hash,
            Some("b".into())
        );
    }

    #[test]
    fn diffsize_words_may_be_cut_and_warn_alone_resizes() {
        for (option, rule, warn) in [
            ("-d", SizeRule::Resize, false),
            ("--diffsize", SizeRule::Resize, false),
            ("--diffsize=strict", SizeRule::Strict, false),
            ("-ds", SizeRule::Strict, false),
            ("-dr", SizeRule::Resize, false),
            ("--diffsize=mins", SizeRule::MinSize, false),
            ("-dwarn", SizeRule::Resize, true),
            ("-dw", SizeRule::Resize, true),
            ("--diffs=m,w", SizeRule::MinSize, true),
            ("-dwarn,strict", SizeRule::Strict, true),
        ] {
            assert_eq!(
                client_of(&[option]).session.sizes,
                SizeOptions { rule, warn, is_given: true },
                "{option}"
            );
        }
    }

    #[test]
    fn diffsize_given_twice_or_with_two_rules_is_refused() {
        for options in [
            &["-d", "-d"][..],
            &["-d", "--diffsize=strict"],
            &["--diffsize=strict,resize"],
            &["-dresize,resize"],
            &["-dx"],
            &["-dresizex"],
            &["-dresize,"],
            &["--diffsize="],
        ] {
            let text = refused(&[options, &["cmd", "l", "r"]].concat());
            assert!(text.contains("--diffsize"), "{options:?}: {text}");
        }
    }

    #[test]
    fn block_size_is_decimal_and_limited() {
        for good in ["1", "4096", "16777216", "0512"] {
            client_of(&["-b", good]);
        }
        for bad in ["0", "16777217", "-1", "4k", "0x10", " 1", "+1", "", "99999999999999999999"] {
            let text = refused(&["-b", bad, "cmd", "l", "r"]);
            let expected = format!("block size must be between 1 and 16777216 bytes, found {bad}");
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for words in [
            &["--server", "--patch"][..],
            &["-w", "cmd", "l", "r"],
            &["-w", "-s"],
            &["-z", "-p"],
            &["-s", "-hmd5"],
            &["-p", "-hmd5"],
            &["-s", "-cmd5"],
            &["-p", "-cmd5"],
            &["-s", "x"],
            &["-p", "x"],
            &["cmd", "l"],
            &["cmd", "l", "r", "x"],
            &["-v"],
            &["cmd", "", "r"],
            &["cmd", "l", ""],
            &["--timeout=1", "-p"],
            &["-p", "--undo", ""],
            &["--undo=x", "cmd", "l", "r"],
            &["--force", "-s"],
            &["--seal", "-p"],
            &["--timeout=x", "-s"],
            &["--report", "", "-s"],
            &["--report=-", "-s"],
            &["-Pfast", "cmd", "l", "r"],
            &["-s", "-b0"],
            &["--allow=/dev/*", "cmd", "l", "r"],
            &["-p", "--allow=/dev/*"],
            &["--on-read-error=ignore", "cmd", "l", "r"],
            &["--on-read-error=skip", "-p"],
        ] {
            assert!(!refused(words).is_empty(), "{words:?}");
        }
    }

    #[test]
    fn operands_too_many_are_told_how_values_are_attached() {
        for (words, hint) in [
            (&["-p", "/dev/x"][..], "--patch=DEVICE or -pDEVICE"),
            (&["--patch=x", "--spool", "/var/tmp"], "--spool=DIR"),
            (&["--patch=x", "-d", "min"], "--diffsize=RULE or -dRULE"),
            (&["-px", "-P", "json"], "--progress=STYLE or -PSTYLE"),
            (&["-p", "x", "-d"], "--patch=DEVICE or -pDEVICE, --diffsize=RULE or -dRULE"),
            (&["-s", "-P", "json"], "--progress=STYLE or -PSTYLE"),
            (&["-P", "json", "c", "l", "r"], "--progress=STYLE or -PSTYLE (see bdsync --help)"),
            (&["sync", "-d", "min", "a", "b"], "--diffsize=RULE or -dRULE (see bdsync help sync)"),
            (&["mount", "-d", "min", "c", "l", "r", "m"], "--diffsize=RULE or -dRULE; for a"),
            (&["mount", "--from=p", "-d", "min", "l", "m"], "--diffsize=RULE or -dRULE (see"),
            (&["info", "-P", "json", "p", "d"], "--progress=STYLE or -PSTYLE"),
        ] {
            let text = refused(words);
            assert!(text.contains(&format!("; a value is attached: {hint}")), "{words:?}: {text}");
        }
        for words in [&["--patch=x", "y"][..], &["-d", "c", "l"], &["sync", "-d", "a"]] {
            assert!(!refused(words).contains("attached"), "{words:?}");
        }
    }

    #[test]
    fn every_option_with_an_attached_value_has_its_hint() {
        let whole = super::super::definition();
        let tables = std::iter::once(&whole).chain(whole.get_subcommands());
        let args = tables.flat_map(|table| table.get_arguments());
        let mut names: Vec<_> = args.filter(|arg| arg.is_require_equals_set()).collect();
        names.sort_by_key(|arg| arg.get_id());
        names.dedup_by_key(|arg| arg.get_id());
        let mut hinted = super::super::values::ATTACHED.map(|(name, _)| name);
        hinted.sort_unstable();
        assert_eq!(names.iter().map(|arg| arg.get_id().as_str()).collect::<Vec<_>>(), hinted);
    }

    #[test]
    fn server_and_patch_options_arrive() {
        let words = ["-svz", "--timeout", "3", "--allow=/dev/vg/*", "--allow", "/srv/*.img"];
        let Ok(Command::Server(server)) = parse(&words) else { panic!() };
        assert_eq!(server.allow, ["/dev/vg/*", "/srv/*.img"]);
        assert_eq!(server.reporting.verbosity, 1);
        assert_eq!(server.timeout, Some(Duration::from_secs(3)));
        let Ok(Command::Patch(patch)) = parse(&["--patch=/dev/x", "-wdm", "-F"]) else { panic!() };
        assert_eq!(patch.target, Some("/dev/x".into()));
        assert!(patch.warn_device && patch.flush_cache);
        assert!(patch.spool.is_none() && !patch.verify && !patch.sparse && !patch.force);
        let words = ["-p", "--spool=/tmp", "--undo", "u", "--verify", "--sparse", "--force"];
        let Ok(Command::Patch(careful)) = parse(&words) else { panic!() };
        assert!(careful.verify && careful.sparse && careful.force);
        assert_eq!(careful.spool, Some(Spool::Folder("/tmp".into())));
        assert_eq!(careful.undo, Some("u".into()));
        assert_eq!(patch.sizes.rule, SizeRule::MinSize);
        let Ok(Command::Patch(patch)) = parse(&["-p"]) else { panic!() };
        assert_eq!(patch.target, None);
        for implies in ["--spool", "--undo=u", "--verify", "--dry-run"] {
            let Ok(Command::Patch(patch)) = parse(&["-p", implies]) else { panic!() };
            assert_eq!(patch.spool, Some(Spool::Temporary), "{implies}");
        }
    }

    #[test]
    fn paths_need_not_be_utf8() {
        let raw = OsString::from_vec(vec![b'/', 0xff]);
        let args =
            ["bdsync", "cmd"].map(OsString::from).into_iter().chain([raw.clone(), raw.clone()]);
        let Ok(Command::Client(options)) = super::super::parse(args) else { panic!() };
        assert_eq!((options.session.local, options.session.remote), (PathBuf::from(&raw), raw));
    }
}

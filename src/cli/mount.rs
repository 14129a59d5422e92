//! `bdsync mount`: its options, and what they come to.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command as Table, ValueHint, value_parser};

use super::classic::session;
use super::compression::link_flag;
use super::options::{CACHE_MIB_DEFAULT, CACHE_MIB_MAX, Command, MountOptions, MountSource};
use super::table::{
    base, comparing, connection, headed, long_flag, long_valued, operands, other, reporting, sizes,
};
use super::values::{
    asked_for_words, decimal, exactly, is_given, refuse_empty, reporting_options, size_options,
    usage,
};
use crate::error::Result;
use crate::units::Readers;

pub(super) fn table() -> Table {
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
            long_valued("fsname", "NAME")
                .value_parser(value_parser!(OsString))
                .help("What the table of mounts names as its source [default: bdsync]"),
            long_valued("scan", "WHEN").help(
                "What to compare: lazy, only what is read, or background, all of it [default: lazy]",
            ),
            long_valued("cache-mib", "N")
                .help("Keep up to N MiB of fetched blocks in memory, 1 to 65536 [default: 64]"),
            link_flag(),
            long_flag(
                "end-with-link",
                "End the mount, as SIGTERM does, once the link to the remote side is lost",
            ),
        ],
    )
}

pub(super) fn resolve(found: &ArgMatches) -> Result<Command> {
    if let Some(answer) = asked_for_words(found, "mount")? {
        return Ok(answer);
    }
    let (source, mountpoint) = match found.get_one::<OsString>("from") {
        Some(patch) => mount_stored(found, patch)?,
        None => mount_live(found)?,
    };
    refuse_empty(&[("MOUNTPOINT", &mountpoint)])?;
    if let Some(name) = found.get_one::<OsString>("fsname") {
        refuse_empty(&[("--fsname", name)])?;
    }
    let readers = match (found.get_flag("allow-other"), found.get_flag("allow-root")) {
        (true, true) => return Err(usage("--allow-other and --allow-root exclude each other")),
        (true, false) => Readers::Everybody,
        (false, true) => Readers::OwnerAndRoot,
        (false, false) => Readers::Owner,
    };
    Ok(Command::Mount(MountOptions {
        source,
        mountpoint: PathBuf::from(mountpoint),
        daemon: found.get_flag("daemon"),
        readers,
        name: found.get_one("fsname").cloned().unwrap_or_else(|| "bdsync".into()),
        reporting: reporting_options(found)?,
    }))
}

fn mount_live(found: &ArgMatches) -> Result<(MountSource, OsString)> {
    let [command, local, remote, mountpoint] = exactly(
        found,
        "operands, REMSHCMD LOCDEV REMDEV MOUNTPOINT",
        "; for a stored patch: --from=PATCHFILE BASEDEV MOUNTPOINT (see bdsync help mount)",
    )?;
    let scan_in_background = match found.get_one::<String>("scan").map(String::as_str) {
        None | Some("lazy") => false,
        Some("background") => true,
        Some(other) => {
            return Err(usage(format!("--scan is lazy or background, found '{other}'")));
        }
    };
    let mut session = session(found, [command, local, remote])?;
    session.compare.compress_link = found.get_flag("compress");
    let cache_mib = cache_mib(found)?;
    let ends_with_link = found.get_flag("end-with-link");
    let source = MountSource::Live { session, scan_in_background, cache_mib, ends_with_link };
    Ok((source, mountpoint))
}

/// Options that are for a remote side are not silently ignored: there is none.
fn mount_stored(found: &ArgMatches, patch: &OsString) -> Result<(MountSource, OsString)> {
    for name in [
        "blocksize",
        "hash",
        "checksum",
        "remdata",
        "twopass",
        "zeroblocks",
        "flushcache",
        "fixedsalt",
        "timeout",
        "progress",
        "scan",
        "cache-mib",
        "compress",
        "end-with-link",
    ] {
        if is_given(found, name) {
            return Err(usage(format!("--{name} means nothing with --from")));
        }
    }
    let what = "operands with --from, BASEDEV MOUNTPOINT";
    let [base, mountpoint] = exactly(found, what, " (see bdsync help mount)")?;
    refuse_empty(&[("PATCHFILE", patch), ("BASEDEV", &base)])?;
    let (patch, base) = (PathBuf::from(patch), PathBuf::from(base));
    Ok((MountSource::Stored { patch, base, sizes: size_options(found)? }, mountpoint))
}

fn cache_mib(found: &ArgMatches) -> Result<u32> {
    let Some(text) = found.get_one::<String>("cache-mib") else { return Ok(CACHE_MIB_DEFAULT) };
    let number = decimal(text).and_then(|mib| u32::try_from(mib).ok());
    number.filter(|mib| (1..=CACHE_MIB_MAX).contains(mib)).ok_or_else(|| {
        usage(format!("--cache-mib is a number from 1 to {CACHE_MIB_MAX}, found '{text}'"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::options::SizeOptions;
    use super::super::testing::{parse, refused};
    use super::*;
    use crate::units::{Direction, SizeRule};

    fn mount_of(words: &[&str]) -> MountOptions {
        let command = parse(&[&["mount"], words].concat()).unwrap();
        let Command::Mount(options) = command else { panic!("{command:?}") };
        options
    }

    #[test]
    fn both_forms_of_the_mount_are_understood() {
        let words = ["ssh h bdsync --server", "a", "b", "/mnt", "-r", "--scan=background"];
        let live = mount_of(&words);
        let MountSource::Live { session, scan_in_background, cache_mib, ends_with_link } =
            live.source
        else {
            panic!("not live")
        };
        assert_eq!((session.direction, scan_in_background, cache_mib), (Direction::Pull, true, 64));
        assert!(!ends_with_link);
        let ending = mount_of(&[&words[..], &["--end-with-link"]].concat()).source;
        assert!(matches!(ending, MountSource::Live { ends_with_link: true, .. }));
        assert_eq!((live.mountpoint, live.readers), (PathBuf::from("/mnt"), Readers::Owner));

        let stored = mount_of(&["--from", "p", "base", "m", "--daemon", "--allow-root", "-d"]);
        let sizes = SizeOptions { rule: SizeRule::Resize, warn: false, is_given: true };
        let source = MountSource::Stored { patch: "p".into(), base: "base".into(), sizes };
        assert_eq!(stored.source, source);
        assert!(stored.daemon);
        assert_eq!(stored.readers, Readers::OwnerAndRoot);
    }

    #[test]
    fn the_link_is_compressed_for_who_asks_for_it() {
        for (options, compresses) in [(&[][..], false), (&["--compress"], true)] {
            let words = [options, &["c", "l", "r", "m"]].concat();
            let MountSource::Live { session, .. } = mount_of(&words).source else {
                panic!("not live")
            };
            assert_eq!(session.compare.compress_link, compresses);
        }
    }

    #[test]
    fn no_option_that_is_for_a_remote_side_is_ignored_where_there_is_none() {
        for option in [
            "--blocksize=512",
            "--hash=md5",
            "--checksum=md5",
            "--remdata",
            "--twopass",
            "--zeroblocks",
            "--flushcache",
            "--fixedsalt",
            "--timeout=9",
            "--progress",
            "--scan=background",
            "--cache-mib=8",
            "--compress",
            "--end-with-link",
        ] {
            let text = refused(&["mount", "--from=p", option, "base", "m"]);
            assert!(text.contains("means nothing with --from"), "{option}: {text}");
        }
    }

    #[test]
    fn mounts_that_make_no_sense_are_refused() {
        for words in [
            &["mount", "--from=p", "base"][..],
            &["mount", "--from=p", "base", "m", "more"],
            &["mount", "--from=", "base", "m"],
            &["mount", "c", "l", "r", "m", "--cache-mib=0"],
            &["mount", "c", "l", "r", "m", "--cache-mib=65537"],
            &["mount", "c", "l", "r", "m", "--scan=never"],
            &["mount", "c", "l", "r", ""],
            &["mount", "c", "l", "r", "m", "--allow-root", "--allow-other"],
        ] {
            assert!(!refused(words).is_empty(), "{words:?}");
        }
        assert_eq!(CACHE_MIB_MAX, 65536, "as the help says");
    }
}

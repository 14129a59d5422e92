//! The commands that work on stored patches: their options, and what these mean.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command as Table, ValueHint, value_parser};

use super::compression;
use super::options::{Command, InfoOptions, SquashOptions};
use super::table::{base, headed, long_flag, long_valued, operands, other, reporting};
use super::values::{
    self, decimal, new_file, operand_list, refuse_empty, reporting_options, usage,
};
use crate::error::Result;

pub(super) fn info_table() -> Table {
    base("info")
        .about("Tell what a patch changes, and draw where")
        .override_usage("bdsync info [OPTIONS] [PATCH [BASEDEV]]")
        .after_help(
            "PATCH is a file, plain or compressed; without it, or as -, standard input is read. \
             It is not applied, and its target is never opened: only BASEDEV is, to read its \
             partition table.\n\nExit status: 0 the patch is sound, 2 it is not, and what could \
             be read of it was told.",
        )
        .args(headed(
            "Telling",
            [
                path_valued("base", "BASEDEV")
                    .help("Mark the partitions (GPT, MBR) of the disk that the patch is for"),
                long_flag("json", "Tell it as one JSON object"),
                path_valued("svg", "FILE").help("Draw it into FILE as well, for a report"),
            ],
        ))
        .args(reporting())
        .args(other())
        .arg(operands("PATCH BASEDEV").hide(true))
}

pub(super) fn squash_table() -> Table {
    base("squash")
        .about("Make one patch of several that follow each other")
        .override_usage("bdsync squash [OPTIONS] PATCH...  >PATCH")
        .after_help(
            "The patches are files, plain or compressed, in the order in which they were made. \
             The result changes the device that the first was made for into the one that the \
             last makes. A single one is checked and written anew, which compresses or \
             decompresses it.",
        )
        .args(headed(
            "Squashing",
            [
                long_flag("force", "Squash patches that name different devices; the last counts"),
                long_valued("basesize", "BYTES").help(
                    "Size of the device that the first patch is for: saves writing zeros out \
                     where patches change its size [default: unknown]",
                ),
                compression::option(),
            ],
        ))
        .args(reporting())
        .args(other())
        .arg(operands("PATCH...").hide(true))
}

fn path_valued(name: &'static str, value_name: &'static str) -> Arg {
    long_valued(name, value_name)
        .value_hint(ValueHint::FilePath)
        .value_parser(value_parser!(OsString))
}

pub(super) fn info(found: &ArgMatches) -> Result<Command> {
    if let Some(answer) = values::asked_for_words(found, "info")? {
        return Ok(answer);
    }
    let path = |name: &str| found.get_one::<OsString>(name).map(PathBuf::from);
    let operands = operand_list(found);
    refuse_empty(&["PATCH", "BASEDEV"].into_iter().zip(&operands).collect::<Vec<_>>())?;
    let mut operands = operands.into_iter().map(PathBuf::from);
    let (patch, second) = (operands.next(), operands.next());
    if let Some(more) = operands.next() {
        let (shown, hint) = (more.display(), values::attached_hint(found, 2));
        let what = format!("expected at most 2 operands, PATCH BASEDEV, found '{shown}'{hint}");
        return Err(usage(what));
    }
    if second.is_some() && path("base").is_some() {
        return Err(usage("BASEDEV is given twice, as an operand and by --base"));
    }
    Ok(Command::Info(InfoOptions {
        patch: patch.filter(|path| path.as_os_str() != "-"),
        base: second.or_else(|| path("base")),
        json: found.get_flag("json"),
        svg: new_file(found, "svg")?,
        reporting: reporting_options(found)?,
    }))
}

pub(super) fn squash(found: &ArgMatches) -> Result<Command> {
    if let Some(answer) = values::asked_for_words(found, "squash")? {
        return Ok(answer);
    }
    let operands = operand_list(found);
    refuse_empty(&operands.iter().map(|path| ("PATCH", path)).collect::<Vec<_>>())?;
    let patches: Vec<_> = operands.into_iter().map(PathBuf::from).collect();
    if patches.is_empty() {
        return Err(usage("expected at least 1 operand, PATCH... (see bdsync help squash)"));
    }
    let base_bytes = match found.get_one::<String>("basesize") {
        None => None,
        Some(text) => Some(decimal(text).ok_or_else(|| {
            usage(format!("--basesize must be a number of bytes, found '{text}'"))
        })?),
    };
    Ok(Command::Squash(SquashOptions {
        patches,
        force: found.get_flag("force"),
        base_bytes,
        compression: compression::resolve(found)?,
        reporting: reporting_options(found)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::testing::parse;
    use super::*;
    use crate::cli::ProgressStyle;
    use crate::units::Compression;

    fn info_of(words: &[&str]) -> InfoOptions {
        match parse(&[&["info"], words].concat()) {
            Ok(Command::Info(options)) => options,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    #[test]
    fn info_takes_a_file_or_standard_input_and_the_disk_in_two_ways() {
        assert_eq!((info_of(&[]).patch, info_of(&["-"]).patch), (None, None));
        let options = info_of(&["p", "--base=d", "--json", "--svg", "f", "-v"]);
        assert_eq!((options.patch, options.base), (Some("p".into()), Some("d".into())));
        assert_eq!(
            (options.json, options.svg, options.reporting.verbosity),
            (true, Some("f".into()), 1)
        );
        assert_eq!(info_of(&["p", "d"]).base, Some("d".into()));
        assert_eq!(info_of(&["-Pjson"]).reporting.progress, Some(ProgressStyle::Json));
        assert!(parse(&["info", "--progress=loud"]).is_err());
        assert!(parse(&["info", "p", "d", "--base=e"]).is_err());
        assert!(parse(&["info", "p", "d", "e"]).is_err());
        for (words, name) in [(&["info", ""][..], "PATCH"), (&["info", "p", ""], "BASEDEV")] {
            let err = parse(words).unwrap_err().full_message();
            assert_eq!(err, format!("{name} is empty"));
        }
    }

    #[test]
    fn squash_takes_any_number_of_patches() {
        let words = ["squash", "a", "b", "c", "--force", "--basesize=10", "--compress=zstd:9"];
        let Ok(Command::Squash(options)) = parse(&words) else { panic!() };
        assert_eq!(options.patches, ["a", "b", "c"].map(PathBuf::from));
        assert_eq!((options.force, options.base_bytes), (true, Some(10)));
        assert_eq!(options.compression, Some(Compression::Zstd(9)));
        let Ok(Command::Squash(options)) = parse(&["squash", "a"]) else { panic!() };
        assert_eq!(options.patches.len(), 1);
        let Ok(Command::Help(help)) = parse(&["help", "squash"]) else { panic!() };
        assert!(help.contains("squash [OPTIONS] PATCH...  >PATCH"), "{help}");
        for bad in [&["squash"][..], &["squash", "a", "--basesize=1k"], &["squash", "a", ""]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}

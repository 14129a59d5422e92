//! From clap's findings to [`Command`]: numbers, words, and what contradicts what.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;

use super::options::*;
use super::stored;
use crate::error::{Error, Kind, Result};
use crate::units::{BLOCK_BYTES_MAX, Direction, SizeRule};

/// The classic command line.
pub(super) fn classic(found: &ArgMatches) -> Result<Command> {
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
            report: report_file(found)?,
            verbosity: found.get_count("verbose"),
        }));
    }
    if is_given(found, "patch") {
        return patch(found).map(Command::Patch);
    }
    client(found).map(Command::Client)
}

/// What `--help` and `--version` of a subcommand ask for.
pub(super) fn asked_for_words(found: &ArgMatches, name: &str) -> Result<Option<Command>> {
    if found.get_flag("help") {
        return Ok(Some(Command::Help(super::help_text(Some(name))?)));
    }
    Ok(found.get_flag("version").then(|| Command::Help(version())))
}

fn version() -> String {
    concat!("bdsync ", env!("CARGO_PKG_VERSION"), "\n").to_owned()
}

/// `bdsync help [COMMAND]`.
pub(super) fn help(found: &ArgMatches) -> Result<Command> {
    let topic = operand_list(found).into_iter().next();
    let topic = topic.map(|name| name.to_string_lossy().into_owned());
    Ok(Command::Help(super::help_text(topic.as_deref())?))
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
        (given("undo") && !patch, "--undo needs --patch"),
        (given("verify") && !patch, "--verify needs --patch"),
        (given("sparse") && !patch, "--sparse needs --patch"),
        (given("force") && !patch, "--force needs --patch"),
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

/// The options whose value must be attached, and how that is written.
const ATTACHED: [(&str, &str); 4] = [
    ("patch", "--patch=DEVICE or -pDEVICE"),
    ("diffsize", "--diffsize=RULE or -dRULE"),
    ("progress", "--progress=STYLE or -PSTYLE"),
    ("spool", "--spool=DIR"),
];

/// For a message about more than `count_max` operands: one of them may have been meant as the
/// value of an option that was given bare.
pub(super) fn attached_hint(found: &ArgMatches, count_max: usize) -> String {
    let is_bare = |name: &str| {
        let values = found.try_get_raw(name).ok().flatten();
        values.is_some_and(|mut values| values.any(|value| value.is_empty()))
    };
    let bare: Vec<_> =
        ATTACHED.iter().filter(|(name, _)| is_bare(name)).map(|(_, form)| *form).collect();
    if bare.is_empty() || operand_list(found).len() <= count_max {
        return String::new();
    }
    format!("; a value is attached: {}", bare.join(", "))
}

fn client(found: &ArgMatches) -> Result<ClientOptions> {
    let operands = operand_list(found);
    let count = operands.len();
    let operands = <[OsString; 3]>::try_from(operands).map_err(|_| {
        let hint = attached_hint(found, 3);
        usage(format!(
            "expected 3 operands, REMSHCMD LOCDEV REMDEV, found {count}{hint} (see bdsync --help)"
        ))
    })?;
    Ok(ClientOptions {
        seal: found.get_flag("seal"),
        compression: stored::compression(found)?,
        ..client_of(found, operands)?
    })
}

fn client_of(
    found: &ArgMatches,
    [remote_command, local, remote]: [OsString; 3],
) -> Result<ClientOptions> {
    refuse_empty(&[("LOCDEV", &local), ("REMDEV", &remote)])?;
    Ok(ClientOptions {
        remote_command,
        local: PathBuf::from(local),
        remote,
        direction: direction(found),
        compare: compare_options(found)?,
        sizes: size_options(found)?,
        compression: None,
        progress: progress(found)?,
        report: report_file(found)?,
        timeout: timeout(found)?,
        // Of the classic call only: a mount makes no sealed patch.
        seal: false,
        verbosity: found.get_count("verbose"),
    })
}

fn refuse_empty(operands: &[(&str, &OsString)]) -> Result<()> {
    match operands.iter().find(|(_, value)| value.is_empty()) {
        Some((name, _)) => Err(usage(format!("{name} is empty"))),
        None => Ok(()),
    }
}

/// `bdsync mount ...`.
pub(super) fn mount(found: &ArgMatches) -> Result<Command> {
    if let Some(answer) = asked_for_words(found, "mount")? {
        return Ok(answer);
    }
    let (source, mountpoint) = match found.get_one::<OsString>("from") {
        Some(patch) => mount_stored(found, patch)?,
        None => mount_live(found)?,
    };
    refuse_empty(&[("MOUNTPOINT", &mountpoint)])?;
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
        report: report_file(found)?,
        verbosity: found.get_count("verbose"),
    }))
}

fn mount_live(found: &ArgMatches) -> Result<(MountSource, OsString)> {
    let operands = operand_list(found);
    let count = operands.len();
    let [command, local, remote, mountpoint] =
        <[OsString; 4]>::try_from(operands).map_err(|_| {
            let hint = attached_hint(found, 4);
            usage(format!(
                "expected 4 operands, REMSHCMD LOCDEV REMDEV MOUNTPOINT, found {count}{hint}; for a \
                 stored patch: --from=PATCHFILE BASEDEV MOUNTPOINT (see bdsync help mount)"
            ))
        })?;
    let scan_in_background = match found.get_one::<String>("scan").map(String::as_str) {
        None | Some("lazy") => false,
        Some("background") => true,
        Some(other) => {
            return Err(usage(format!("--scan is lazy or background, found '{other}'")));
        }
    };
    let client = client_of(found, [command, local, remote])?;
    let cache_mib = cache_mib(found)?;
    Ok((MountSource::Live { client, scan_in_background, cache_mib }, mountpoint))
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
    ] {
        if is_given(found, name) {
            return Err(usage(format!("--{name} means nothing with --from")));
        }
    }
    let operands = operand_list(found);
    let count = operands.len();
    let [base, mountpoint] = <[OsString; 2]>::try_from(operands).map_err(|_| {
        let hint = attached_hint(found, 2);
        usage(format!(
            "expected 2 operands with --from, BASEDEV MOUNTPOINT, found {count}{hint} \
             (see bdsync help mount)"
        ))
    })?;
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

fn patch(found: &ArgMatches) -> Result<PatchOptions> {
    // Accepted and without meaning here, as in the classic; but a bad value is still told.
    compare_options(found)?;
    let path = |name| {
        let given = found.get_one::<OsString>(name).filter(|path| !path.is_empty());
        given.map(PathBuf::from)
    };
    if is_given(found, "undo") && path("undo").is_none() {
        return Err(usage("--undo needs the name of a file"));
    }
    Ok(PatchOptions {
        target: path("patch"),
        warn_device: found.get_flag("warndev"),
        sizes: size_options(found)?,
        flush_cache: found.get_flag("flushcache"),
        spool: is_given(found, "spool"),
        spool_folder: path("spool"),
        undo: path("undo"),
        verify: found.get_flag("verify"),
        sparse: found.get_flag("sparse"),
        force: found.get_flag("force"),
        progress: progress(found)?,
        report: report_file(found)?,
        verbosity: found.get_count("verbose"),
    })
}

/// Whether the user gave the option, in whatever form.
pub(super) fn is_given(found: &ArgMatches, name: &str) -> bool {
    found.value_source(name) == Some(clap::parser::ValueSource::CommandLine)
}

pub(super) fn operand_list(found: &ArgMatches) -> Vec<OsString> {
    found.get_many::<OsString>("operands").into_iter().flatten().cloned().collect()
}

pub(super) fn direction(found: &ArgMatches) -> Direction {
    if found.get_flag("remdata") { Direction::Pull } else { Direction::Push }
}

/// The options of `table::comparing`.
pub(super) fn compare_options(found: &ArgMatches) -> Result<CompareOptions> {
    Ok(CompareOptions {
        block_size_bytes: match found.get_one::<String>("blocksize") {
            Some(text) => block_size(text)?,
            None => BLOCK_SIZE_BYTES_DEFAULT,
        },
        hash: found.get_one::<String>("hash").cloned(),
        checksum: found.get_one::<String>("checksum").cloned(),
        fixed_salt: found.get_flag("fixedsalt"),
        flush_cache: found.get_flag("flushcache"),
        skip_unreadable: skip_unreadable(found)?,
    })
}

/// `--on-read-error`, which only some commands have.
fn skip_unreadable(found: &ArgMatches) -> Result<bool> {
    let word = found.try_get_one::<String>("on-read-error").ok().flatten();
    match word.map(String::as_str) {
        None | Some("fail") => Ok(false),
        Some("skip") => Ok(true),
        Some(text) => Err(usage(format!("--on-read-error must be fail or skip, found '{text}'"))),
    }
}

fn block_size(text: &str) -> Result<u64> {
    match decimal(text) {
        Some(bytes @ 1..=BLOCK_BYTES_MAX) => Ok(bytes),
        _ => Err(usage(format!(
            "block size must be between 1 and {BLOCK_BYTES_MAX} bytes, found {text}"
        ))),
    }
}

/// The option of `table::connection`.
pub(super) fn timeout(found: &ArgMatches) -> Result<Option<Duration>> {
    let Some(text) = found.get_one::<String>("timeout") else { return Ok(None) };
    match decimal(text).and_then(|seconds| u32::try_from(seconds).ok()) {
        Some(0) => Ok(None),
        Some(seconds) => Ok(Some(Duration::from_secs(u64::from(seconds)))),
        None => Err(usage(format!(
            "timeout must be a number of seconds from 0 to {}, found {text}",
            u32::MAX
        ))),
    }
}

/// A number of digits only; `None` for anything else, or when it does not fit.
pub(super) fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// `--report=FILE`.
pub(super) fn report_file(found: &ArgMatches) -> Result<Option<PathBuf>> {
    match found.get_one::<OsString>("report") {
        Some(path) if path.is_empty() => Err(usage("--report needs the name of a file")),
        // For some it would be a file, for others stdout, where a patch may go.
        Some(path) if path == "-" => {
            Err(usage("--report=- could mean two things: give /dev/stdout, or ./- for a file"))
        }
        path => Ok(path.map(PathBuf::from)),
    }
}

/// `--progress[=STYLE]`.
pub(super) fn progress(found: &ArgMatches) -> Result<Option<ProgressStyle>> {
    match found.get_one::<String>("progress").map(String::as_str) {
        None => Ok(None),
        Some("") => Ok(Some(ProgressStyle::Lines)),
        Some("noscroll") => Ok(Some(ProgressStyle::NoScroll)),
        Some("json") => Ok(Some(ProgressStyle::Json)),
        Some("none") => Ok(Some(ProgressStyle::Nothing)),
        Some(text) => {
            Err(usage(format!("progress must be bare, noscroll, json or none, found '{text}'")))
        }
    }
}

/// `--diffsize[=OPT[,warn]]`: words may be cut; a bare option is `resize`, a bare `warn` too.
pub(super) fn size_options(found: &ArgMatches) -> Result<SizeOptions> {
    let mut given = found.get_many::<String>("diffsize").into_iter().flatten();
    let Some(text) = given.next() else { return Ok(SizeOptions::default()) };
    if given.next().is_some() {
        return Err(usage("--diffsize is given more than once"));
    }
    size_words(text)
}

fn size_words(text: &str) -> Result<SizeOptions> {
    let (mut rule, mut warn) = (None, false);
    for word in text.split(',').filter(|_| !text.is_empty()) {
        let named = match word {
            "" => None,
            _ if "strict".starts_with(word) => Some(SizeRule::Strict),
            _ if "resize".starts_with(word) => Some(SizeRule::Resize),
            _ if "minsize".starts_with(word) => Some(SizeRule::MinSize),
            _ if "warn".starts_with(word) => {
                warn = true;
                continue;
            }
            _ => None,
        };
        if named.is_none() {
            return Err(usage(format!(
                "--diffsize must be strict, resize or minsize, with or without ,warn; found '{text}'"
            )));
        }
        if rule.is_some() {
            return Err(usage(format!("--diffsize names more than one rule: '{text}'")));
        }
        rule = named;
    }
    Ok(SizeOptions { rule: rule.unwrap_or(SizeRule::Resize), warn })
}

pub(super) fn usage(what: impl Into<String>) -> Error {
    Error::new(Kind::Usage, what)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn parse(words: &[&str]) -> Result<Command> {
        super::super::parse(std::iter::once(&"bdsync").chain(words).map(OsString::from))
    }

    fn client_of(options: &[&str]) -> ClientOptions {
        match parse(&[&["cmd", "l", "r"], options].concat()) {
            Ok(Command::Client(options)) => options,
            other => panic!("{options:?}: {other:?}"),
        }
    }

    fn refused(words: &[&str]) -> String {
        let err = parse(words).expect_err("must be refused");
        assert_eq!(err.exit_code(), 1);
        err.full_message()
    }

    #[test]
    fn defaults_are_the_classics() {
        let options = client_of(&[]);
        assert_eq!(options.direction, Direction::Push);
        assert_eq!(options.compare.block_size_bytes, 4096);
        assert_eq!(options.sizes, SizeOptions { rule: SizeRule::Strict, warn: false });
        assert!(options.sizes.tells_difference());
        assert_eq!((options.progress, options.timeout, options.verbosity), (None, None, 0));
        assert_eq!((options.compare.hash, options.compare.checksum), (None, None));
    }

    #[test]
    fn every_client_option_arrives() {
        let options =
            client_of(&["-vvrtzFf", "-hsha1", "--checksum", "MD5", "-b512", "-Pnoscroll"]);
        assert_eq!(options.direction, Direction::Pull);
        assert_eq!(
            options.compare,
            CompareOptions {
                block_size_bytes: 512,
                hash: Some("sha1".into()),
                checksum: Some("MD5".into()),
                fixed_salt: true,
                flush_cache: true,
                skip_unreadable: false,
            }
        );
        assert_eq!(options.progress, Some(ProgressStyle::NoScroll));
        assert_eq!(options.verbosity, 2);
        assert_eq!(client_of(&["--timeout=7"]).timeout, Some(Duration::from_secs(7)));
        assert!(client_of(&["--seal"]).seal && !client_of(&[]).seal);
        for (option, style) in [
            ("-P", ProgressStyle::Lines),
            ("--progress=json", ProgressStyle::Json),
            ("-Pnone", ProgressStyle::Nothing),
        ] {
            assert_eq!(client_of(&[option]).progress, Some(style));
        }
        assert_eq!(client_of(&["--report=r"]).report, Some("r".into()));
    }

    #[test]
    fn the_last_of_several_equal_options_counts() {
        assert_eq!(client_of(&["-b1", "-b2"]).compare.block_size_bytes, 2);
        assert_eq!(client_of(&["-rr", "-h", "a", "--digest=b"]).compare.hash, Some("b".into()));
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
            assert_eq!(client_of(&[option]).sizes, SizeOptions { rule, warn }, "{option}");
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
        let mut hinted = ATTACHED.map(|(name, _)| name);
        hinted.sort_unstable();
        assert_eq!(names.iter().map(|arg| arg.get_id().as_str()).collect::<Vec<_>>(), hinted);
    }

    #[test]
    fn server_and_patch_options_arrive() {
        let words = ["-svz", "--timeout", "3", "--allow=/dev/vg/*", "--allow", "/srv/*.img"];
        let Ok(Command::Server(server)) = parse(&words) else { panic!() };
        assert_eq!(server.allow, ["/dev/vg/*", "/srv/*.img"]);
        assert_eq!(server.verbosity, 1);
        assert_eq!(server.timeout, Some(Duration::from_secs(3)));
        let Ok(Command::Patch(patch)) = parse(&["--patch=/dev/x", "-wdm", "-F"]) else { panic!() };
        assert_eq!(patch.target, Some("/dev/x".into()));
        assert!(patch.warn_device && patch.flush_cache);
        assert!(!patch.spool && !patch.verify && !patch.sparse && !patch.force);
        let words = ["-p", "--spool=/tmp", "--undo", "u", "--verify", "--sparse", "--force"];
        let Ok(Command::Patch(careful)) = parse(&words) else { panic!() };
        assert!(careful.spool && careful.verify && careful.sparse && careful.force);
        assert_eq!(careful.spool_folder, Some("/tmp".into()));
        assert_eq!(careful.undo, Some("u".into()));
        assert_eq!(patch.sizes.rule, SizeRule::MinSize);
        let Ok(Command::Patch(patch)) = parse(&["-p"]) else { panic!() };
        assert_eq!(patch.target, None);
    }

    #[test]
    fn paths_need_not_be_utf8() {
        let raw = OsString::from_vec(vec![b'/', 0xff]);
        let args =
            ["bdsync", "cmd"].map(OsString::from).into_iter().chain([raw.clone(), raw.clone()]);
        let Ok(Command::Client(options)) = super::super::parse(args) else { panic!() };
        assert_eq!((options.local, options.remote), (PathBuf::from(&raw), raw));
    }

    fn mount_of(words: &[&str]) -> MountOptions {
        let command = parse(&[&["mount"], words].concat()).unwrap();
        let Command::Mount(options) = command else { panic!("{command:?}") };
        options
    }

    #[test]
    fn both_forms_of_the_mount_are_understood() {
        let live =
            mount_of(&["ssh h bdsync --server", "a", "b", "/mnt", "-r", "--scan=background"]);
        let MountSource::Live { client, scan_in_background, cache_mib } = live.source else {
            panic!("not live")
        };
        assert_eq!((client.direction, scan_in_background, cache_mib), (Direction::Pull, true, 64));
        assert_eq!((live.mountpoint, live.readers), (PathBuf::from("/mnt"), Readers::Owner));

        let stored = mount_of(&["--from", "p", "base", "m", "--daemon", "--allow-root", "-d"]);
        let sizes = SizeOptions { rule: SizeRule::Resize, warn: false };
        let source = MountSource::Stored { patch: "p".into(), base: "base".into(), sizes };
        assert_eq!(stored.source, source);
        assert!(stored.daemon);
        assert_eq!(stored.readers, Readers::OwnerAndRoot);
    }

    #[test]
    fn mounts_that_make_no_sense_are_refused() {
        for words in [
            &["mount", "--from=p", "base"][..],
            &["mount", "--from=p", "base", "m", "more"],
            &["mount", "--from=", "base", "m"],
            &["mount", "--from=p", "-r", "base", "m"],
            &["mount", "--from=p", "--cache-mib=8", "base", "m"],
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

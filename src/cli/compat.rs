//! getopt's habits, rewritten into words that clap understands the same way.
//!
//! The result holds only `--long`, `--long=value`, then `--` and the operands. So the value of
//! an option may begin with a dash, an optional value (`-pDEV`, `-dOPT`) is taken only when it
//! is attached, shorts may be bundled, long names may be cut, options may follow operands.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::{Arg, Command};

use super::values::usage;
use crate::error::Result;

/// The classic's long options. A prefix that is unique among them keeps its classic meaning,
/// whatever options were added since: `--t` is `--twopass` although there is a `--timeout`.
const CLASSIC_LONG_NAMES: [&str; 15] = [
    "server",
    "patch",
    "verbose",
    "hash",
    "blocksize",
    "checksum",
    "twopass",
    "remdata",
    "fixedsalt",
    "diffsize",
    "zeroblocks",
    "warndev",
    "flushcache",
    "progress",
    "help",
];

/// Rewrites `args` (without the program's name) for `table`, which must have been built.
/// The first word of the result stands for the program's name.
///
/// # Errors
/// `Kind::Usage` for an unknown or ambiguous option, a missing or an unwanted value.
pub(super) fn normalise(table: &Command, args: &[OsString]) -> Result<Vec<OsString>> {
    let mut words = Words { table, options: vec![table.get_name().into()], operands: vec![] };
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let bytes = arg.as_bytes();
        if bytes == b"--" {
            words.operands.extend(rest.by_ref().cloned());
        } else if let Some(long) = bytes.strip_prefix(b"--") {
            words.long(long, &mut rest)?;
        } else if bytes.len() > 1 && bytes[0] == b'-' {
            words.bundle(&bytes[1..], &mut rest)?;
        } else {
            words.operands.push(arg.clone());
        }
    }
    let Words { mut options, operands, .. } = words;
    options.push("--".into());
    options.extend(operands);
    Ok(options)
}

struct Words<'a> {
    table: &'a Command,
    options: Vec<OsString>,
    operands: Vec<OsString>,
}

/// Whether an option has a value.
#[derive(PartialEq)]
enum Takes {
    Nothing,
    Optional,
    Required,
}

fn takes(arg: &Arg) -> Takes {
    if !arg.get_action().takes_values() {
        return Takes::Nothing;
    }
    match arg.get_num_args() {
        Some(range) if range.min_values() == 0 => Takes::Optional,
        _ => Takes::Required,
    }
}

impl Words<'_> {
    /// One word `--name` or `--name=value`, without its dashes.
    fn long<'r>(
        &mut self,
        word: &[u8],
        rest: &mut impl Iterator<Item = &'r OsString>,
    ) -> Result<()> {
        let (name, attached) = match word.iter().position(|byte| *byte == b'=') {
            Some(at) => (&word[..at], Some(&word[at + 1..])),
            None => (word, None),
        };
        let arg = find_long(self.table, &String::from_utf8_lossy(name))?;
        let long = long_name(arg);
        let value = match (takes(arg), attached) {
            (Takes::Nothing, Some(_)) => {
                return Err(usage(format!("option '--{long}' takes no value")));
            }
            // `--patch=$DEV` with an empty DEV must not mean the device that the patch names.
            (Takes::Optional, Some(b"")) => {
                return Err(usage(format!("option '--{long}=' has an empty value")));
            }
            (Takes::Required, None) => Some(next_value(&format!("--{long}"), rest)?),
            (_, attached) => attached,
        };
        self.push(long, value);
        Ok(())
    }

    /// One word of shorts, without its dash.
    fn bundle<'r>(
        &mut self,
        mut shorts: &[u8],
        rest: &mut impl Iterator<Item = &'r OsString>,
    ) -> Result<()> {
        while let [short, behind @ ..] = shorts {
            let arg = find_short(self.table, *short)?;
            let long = long_name(arg);
            match takes(arg) {
                Takes::Nothing => self.push(long, None),
                Takes::Required if behind.is_empty() => {
                    let value = next_value(&format!("-{}", char::from(*short)), rest)?;
                    self.push(long, Some(value));
                }
                Takes::Optional if behind.is_empty() => self.push(long, None),
                Takes::Optional | Takes::Required => {
                    self.push(long, Some(behind));
                    return Ok(());
                }
            }
            shorts = behind;
        }
        Ok(())
    }

    fn push(&mut self, long: &str, value: Option<&[u8]>) {
        let mut word = format!("--{long}").into_bytes();
        if let Some(value) = value {
            word.push(b'=');
            word.extend_from_slice(value);
        }
        self.options.push(OsString::from_vec(word));
    }
}

fn next_value<'r>(option: &str, rest: &mut impl Iterator<Item = &'r OsString>) -> Result<&'r [u8]> {
    let value = rest.next().map(|value| OsStr::as_bytes(value));
    // Elsewhere it is the help.
    let hint = if option == "-h" { " (it is the hash; help is -H)" } else { "" };
    value.ok_or_else(|| usage(format!("option '{option}' needs a value{hint}")))
}

fn long_name(arg: &Arg) -> &str {
    arg.get_long().unwrap_or_else(|| arg.get_id().as_str())
}

fn find_short(table: &Command, short: u8) -> Result<&Arg> {
    let found = table.get_arguments().find(|arg| {
        arg.get_short_and_visible_aliases().is_some_and(|names| names.contains(&char::from(short)))
    });
    found.ok_or_else(|| {
        let shown = crate::report::escape(&[short]);
        usage(format!("unknown option '-{shown}' (see {})", help_call(table)))
    })
}

/// The option of that name; failing that, the only one that begins with it.
fn find_long<'t>(table: &'t Command, name: &str) -> Result<&'t Arg> {
    let named: Vec<(&str, &Arg)> = table
        .get_arguments()
        .filter_map(|arg| Some((arg, arg.get_long()?)))
        .flat_map(|(arg, long)| {
            let aliases = arg.get_all_aliases().unwrap_or_default();
            std::iter::once(long).chain(aliases).map(move |name| (name, arg))
        })
        .collect();
    if let Some((_, arg)) = named.iter().find(|(long, _)| *long == name) {
        return Ok(arg);
    }
    let candidates: Vec<_> = named.iter().filter(|(long, _)| long.starts_with(name)).collect();
    let mut classic = candidates.iter().filter(|(long, _)| CLASSIC_LONG_NAMES.contains(long));
    if let (Some((_, arg)), None) = (classic.next(), classic.next()) {
        return Ok(arg);
    }
    match candidates[..] {
        [] => Err(usage(format!("unknown option '--{name}' (see {})", help_call(table)))),
        [(_, arg), ref others @ ..] if others.iter().all(|(_, o)| o.get_id() == arg.get_id()) => {
            Ok(arg)
        }
        _ => {
            let longs: Vec<_> = candidates.iter().map(|(long, _)| format!("'--{long}'")).collect();
            Err(usage(format!("option '--{name}' is ambiguous: {}", longs.join(", "))))
        }
    }
}

/// What shows the options of `table`: the help of the program has those of all commands.
fn help_call(table: &Command) -> String {
    match table.get_name() {
        "bdsync" => "bdsync --help".to_owned(),
        name => format!("bdsync help {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::classic;
    use super::*;

    fn normal(words: &[&str]) -> Result<Vec<String>> {
        let mut table = classic::table();
        table.build();
        let args: Vec<OsString> = words.iter().map(OsString::from).collect();
        let all = normalise(&table, &args)?;
        Ok(all.into_iter().skip(1).map(|word| word.into_string().unwrap()).collect())
    }

    #[test]
    fn bundled_shorts_and_attached_values_are_spelt_out() {
        for (words, expected) in [
            (&["-vvr"][..], &["--verbose", "--verbose", "--remdata", "--"][..]),
            (&["-rtc", "md5"], &["--remdata", "--twopass", "--checksum=md5", "--"]),
            (&["-cmd5"], &["--checksum=md5", "--"]),
            (&["-p/dev/x"], &["--patch=/dev/x", "--"]),
            (&["-p", "x"], &["--patch", "--", "x"]),
            (&["-vp"], &["--verbose", "--patch", "--"]),
            (&["-dresize,warn"], &["--diffsize=resize,warn", "--"]),
            (&["--patch", "x"], &["--patch", "--", "x"]),
            (&["-b", "-5"], &["--blocksize=-5", "--"]),
            (&["a", "-v", "b", "--", "-v"], &["--verbose", "--", "a", "b", "-v"]),
            (&["-"], &["--", "-"]),
        ] {
            assert_eq!(normal(words).unwrap(), expected, "{words:?}");
        }
    }

    #[test]
    fn unique_prefixes_find_their_option() {
        for (word, expected) in [
            ("--prog", "--progress"),
            ("--pa=x", "--patch=x"),
            ("--b=1", "--blocksize=1"),
            ("--dig=md5", "--hash=md5"),
            ("--d", "--diffsize"),
            ("--t", "--twopass"),
            ("--ti=5", "--timeout=5"),
            ("--s", "--server"),
            ("--v", "--verbose"),
            ("--fi", "--fixedsalt"),
        ] {
            assert_eq!(normal(&[word]).unwrap()[0], expected, "{word}");
        }
    }

    #[test]
    fn ambiguous_unknown_and_valueless_options_are_refused() {
        for (words, part) in [
            (&["--p"][..], "ambiguous: '--patch', '--progress'"),
            (&["--h"], "ambiguous"),
            (&["--f"], "ambiguous"),
            (&["--nonsense"], "unknown option '--nonsense'"),
            (&["-x"], "unknown option '-x'"),
            (&["-v\u{1b}"], "unknown option '-\\x1b'"),
            (&["--server=x"], "'--server' takes no value"),
            (&["--patch="], "'--patch=' has an empty value"),
            (&["--blocksize"], "'--blocksize' needs a value"),
            (&["-vb"], "'-b' needs a value"),
            (&["-h"], "help is -H"),
        ] {
            let text = normal(words).unwrap_err().full_message();
            assert!(text.contains(part), "{words:?}: {text}");
        }
    }

    #[test]
    fn unknown_option_leads_to_the_help_that_has_the_known_ones() {
        for (words, help) in [
            (&["sync", "--seal", "a", "b"][..], "(see bdsync help sync)"),
            (&["mount", "--on-read-error=skip", "c", "l", "r", "m"], "(see bdsync help mount)"),
            (&["squash", "-x", "a", "b"], "(see bdsync help squash)"),
            (&["--on-error=skip", "c", "l", "r"], "(see bdsync --help)"),
        ] {
            let args = std::iter::once(&"bdsync").chain(words).map(OsString::from);
            let text = super::super::parse(args).unwrap_err().full_message();
            assert!(text.starts_with("unknown option") && text.ends_with(help), "{text}");
        }
    }

    #[test]
    fn values_and_operands_need_not_be_utf8() {
        let mut table = classic::table();
        table.build();
        let raw = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let all = normalise(&table, &[raw(b"-p\xff"), raw(b"\xfe")]).unwrap();
        assert_eq!(all[1..], [raw(b"--patch=\xff"), raw(b"--"), raw(b"\xfe")]);
    }
}

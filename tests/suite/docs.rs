//! The man page, the completions and the README say what the program does, both ways.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use bdsync::error::Kind;
use clap::ValueHint;

use crate::support::Workdir;
use crate::support::bdsync;
use crate::support::requirements::{find_program, program, require};

#[path = "../tools/generate/files.rs"]
mod files;
#[path = "../tools/generate/man.rs"]
mod man;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The words that look like long options.
fn long_options(text: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("--") {
        let begins = text[..at].chars().next_back().is_none_or(|c| !is_word(c));
        let rest = &text[at + 2..];
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let name = rest[..end].trim_end_matches('-');
        if begins && name.starts_with(|c: char| c.is_ascii_lowercase()) {
            found.insert(name.to_owned());
        }
    }
    found
}

/// The long options of the table that are for users.
fn table_options(command: &clap::Command) -> BTreeSet<String> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let names = shown.flat_map(|arg| arg.get_long_and_visible_aliases().unwrap_or_default());
    let mut found: BTreeSet<String> = names.map(str::to_owned).collect();
    for subcommand in command.get_subcommands() {
        found.extend(table_options(subcommand));
    }
    found
}

#[test]
fn man_page_and_completions_are_what_the_table_makes() {
    for (path, text) in files::generated() {
        assert!(read(path) == text, "{path} is out of date: run cargo run --example generate");
    }
}

#[test]
fn every_option_is_documented_and_nothing_else_is() {
    let table = table_options(&bdsync::cli::definition());
    // Without the comment and the changes of font.
    let page = read("contrib/man/bdsync.1");
    let lines: Vec<_> = page.lines().filter(|line| !line.starts_with(".\\\"")).collect();
    let page = lines.join("\n");
    let page = page.replace("\\-", "-").replace("\\fB", " ").replace("\\fR", " ");
    assert_eq!(long_options(&page), table, "man page");
    for path in ["contrib/completions/bdsync.bash", "contrib/completions/_bdsync"] {
        let found = long_options(&read(path).replace("__", " "));
        assert_eq!(table.difference(&found).next(), None, "{path}");
    }
    let fish = read("contrib/completions/bdsync.fish");
    let missing = table.iter().find(|name| !fish.contains(&format!(" -l {name}")));
    assert_eq!(missing, None, "fish completion");
}

/// What bash offers for the last of these words, a line each, in the folder and with its `bin` as PATH.
fn offered(work: &Workdir, words: &[&str]) -> String {
    let script = "source \"$COMPLETIONS\"
        compopt() { :; }
        COMP_WORDS=(\"$@\") COMP_CWORD=$(($# - 1)) PATH=$PWD/bin
        _bdsync bdsync \"${@: -1}\" \"${@: -2:1}\"
        [[ ${#COMPREPLY[@]} = 0 ]] || printf '%s\n' \"${COMPREPLY[@]}\"";
    let completions = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/completions/bdsync.bash");
    let out = Command::new("bash")
        .args(["-c", script, "bash"])
        .args(words)
        .current_dir(work.folder())
        .env("COMPLETIONS", completions)
        .output()
        .unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{words:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn bash_offers_files_for_paths_alone_and_whole_ones() {
    require!(program("bash"));
    let (work, table) = (Workdir::new(), bdsync::cli::definition());
    work.write("q r", b"");
    fs::create_dir(work.path("bin")).unwrap();
    let command = work.write("bin/q shell", b"#!/bin/sh\n");
    fs::set_permissions(command, fs::Permissions::from_mode(0o755)).unwrap();
    let mut count = 0;
    for command in std::iter::once(&table).chain(table.get_subcommands()) {
        for option in command.get_opts().filter(|option| !option.is_hide_set()) {
            let name = format!("--{}", option.get_long().unwrap());
            let found = offered(&work, &["bdsync", command.get_name(), &name, "=", "q"]);
            match option.get_value_hint() {
                ValueHint::FilePath => assert_eq!(found, "q r\n", "{name}"),
                ValueHint::CommandString => assert_eq!(found, "q shell\n", "{name}"),
                // It stays as it is.
                _ => assert!(["", "q\n"].contains(&&found[..]), "{name}: {found}"),
            }
            count += 1;
        }
    }
    assert!(count > 30, "{count}");
    assert_eq!(offered(&work, &["bdsync", "sync", "-e", "q"]), "q shell\n");
    assert_eq!(offered(&work, &["bdsync", "sync", "--on-read-error", "s"]), "skip\n");
}

#[test]
fn every_option_with_an_attached_value_is_named() {
    let table = bdsync::cli::definition();
    let attached = table.get_arguments().filter(|arg| arg.is_require_equals_set());
    let names: Vec<_> = attached.filter_map(clap::Arg::get_long).collect();
    assert!(names.len() > 2, "{names:?}");
    let page = read("contrib/man/bdsync.1").replace("\\-", "-").replace('\n', " ");
    for text in [read("README.md"), page] {
        let (before, _) = text.split_once("are attached:").unwrap();
        let (_, sentence) = before.rsplit_once("The values of").unwrap();
        for name in &names {
            assert!(long_options(sentence).contains(*name), "{name}: {sentence}");
        }
    }
}

#[test]
fn help_shows_every_option_and_command() {
    let table = bdsync::cli::definition();
    let shown = |words: &[&str]| {
        let out = bdsync(words).run().expect(0);
        String::from_utf8(out.stdout).unwrap()
    };
    let help = shown(&["--help"]);
    for command in table.get_subcommands() {
        let name = command.get_name();
        assert!(help.lines().any(|line| line.trim_start().starts_with(name)), "{name}:\n{help}");
        let own = shown(&["help", name]);
        let missing: Vec<_> = table_options(command)
            .into_iter()
            .filter(|option| !own.contains(&format!("--{option}")))
            .collect();
        assert!(missing.is_empty(), "help {name} lacks {missing:?}:\n{own}");
    }
}

#[test]
fn every_exit_status_is_documented() {
    let codes: Vec<_> = (1..128).filter(|&code| Kind::of_exit_code(code).is_some()).collect();
    assert!(codes.len() > 10, "found {codes:?} only");
    let help = String::from_utf8(bdsync(["--help"]).run().expect(0).stdout).unwrap();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, help) = help.split_once("Exit status: ").expect("the section");
    let (page, readme) = (read("contrib/man/bdsync.1"), read("README.md"));
    // The last is that of a panic.
    for code in codes.into_iter().chain([101]) {
        assert!(page.contains(&format!(".TP\n.B {code}\n")), "the man page lacks {code}");
        assert!(help.contains(&format!(", {code} ")), "the help lacks {code}");
        assert!(readme.contains(&format!("\n| {code} |")), "the README lacks {code}");
    }
}

#[test]
fn every_variable_of_the_environment_is_documented() {
    let page = read("contrib/man/bdsync.1");
    let (_, section) = page.split_once(".SH ENVIRONMENT\n").expect("the section");
    let section = section.split(".SH ").next().unwrap();
    let info = read("src/commands/info.rs");
    let calls = info.split("env::var").skip(1);
    let mut names: BTreeSet<_> = calls.filter_map(|rest| rest.split('"').nth(1)).collect();
    names.extend(["TMPDIR", "RUST_LOG", "NOTIFY_SOCKET"]);
    assert!(names.len() > 5, "found {names:?} only");
    for name in names {
        assert!(section.contains(&format!(".TP\n.B {name}\n")), "the man page lacks {name}");
    }
}

#[test]
fn every_field_of_the_status_is_documented() {
    let source = read("src/view/status.rs");
    let fields = source.split("pub struct Status {").nth(1).and_then(|rest| rest.split('}').next());
    let names = fields.expect("the struct").lines().filter_map(|line| {
        line.trim().strip_prefix("pub ").and_then(|line| line.split(':').next())
    });
    let page = read("contrib/man/bdsync.1");
    let mut count = 0;
    for name in names {
        let documented = page.lines().any(|line| line.starts_with(".B") && line.contains(name));
        assert!(documented, "the man page lacks {name}");
        count += 1;
    }
    assert!(count > 10, "found {count} fields only");
}

#[test]
fn mounts_in_the_readme_are_there_when_the_next_command_looks() {
    let readme = read("README.md");
    let scripts = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mounts: Vec<_> =
        scripts.flat_map(str::lines).filter(|line| line.starts_with("bdsync mount ")).collect();
    assert!(mounts.len() > 3, "found {mounts:?} only");
    for line in mounts {
        let command = line.split(" #").next().unwrap_or_default().trim_end();
        assert!(command.contains(" --daemon ") && !command.ends_with('&'), "{line}");
    }
}

#[test]
fn man_page_renders_without_warnings() {
    require!(program("man"));
    let out = Command::new(find_program("man").unwrap())
        .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", "contrib/man/bdsync.1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && words.is_empty(), "{words}");
}

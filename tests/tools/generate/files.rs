//! The generated files and their content.

use bdsync::cli;
use clap::{Command, ValueHint};
use clap_complete::{Shell, generate};

use super::man;

/// Path below the repository's root, and text, of every generated file.
pub fn generated() -> Vec<(&'static str, String)> {
    let template = include_str!("../../../contrib/man/bdsync.1.in");
    vec![
        ("contrib/man/bdsync.1", man::page(template, cli::definition())),
        ("contrib/completions/bdsync.bash", completion(Shell::Bash)),
        ("contrib/completions/_bdsync", completion(Shell::Zsh)),
        ("contrib/completions/bdsync.fish", completion(Shell::Fish)),
    ]
}

fn completion(shell: Shell) -> String {
    let mut table = shown(&cli::definition());
    let mut text = Vec::new();
    generate(shell, &mut table, "bdsync", &mut text);
    let text = String::from_utf8(text).expect("option names are ASCII");
    // Some shells' scripts come with blanks at the ends of lines.
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The command without its hidden options, which are for tests. Operands stay: they are files.
fn shown(command: &Command) -> Command {
    let args = command.get_arguments();
    let args = args.filter(|arg| arg.is_positional() || !arg.is_hide_set()).cloned();
    let args = args.map(|arg| match arg.is_positional() {
        true => arg.hide(false).value_hint(ValueHint::AnyPath),
        false => arg,
    });
    // clap wants names that live as long as the program, which is short.
    let name: &'static str = command.get_name().to_owned().leak();
    let mut shown = Command::new(name)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .args(args)
        .subcommands(command.get_subcommands().map(self::shown));
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    shown
}

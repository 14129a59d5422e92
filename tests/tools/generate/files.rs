//! The generated files and their content.

use bdsync::cli;
use bdsync::digest::Algorithm;
use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, ValueHint};
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
    if shell == Shell::Zsh {
        // It would take the first word for an operand, and look for the command in the second.
        table = table.mut_arg("operands", |arg| arg.hide(true));
    }
    let mut text = Vec::new();
    generate(shell, &mut table, "bdsync", &mut text);
    let text = String::from_utf8(text).expect("option names are ASCII");
    // Some shells' scripts come with blanks at the ends of lines.
    let text = text.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    match shell {
        Shell::Zsh => with_operands(text),
        Shell::Fish => text + &help_topics(&table),
        _ => with_commands(with_attached_values(text, &attached(&table))),
    }
}

/// The options whose value is never the next word, as a shell's pattern.
fn attached(table: &Command) -> String {
    let args = table.get_arguments().filter(|arg| arg.is_require_equals_set());
    let names = |arg: &Arg| {
        let short = arg.get_short().map(|name| format!("-{name}"));
        short.into_iter().chain(arg.get_long().map(|name| format!("--{name}"))).collect::<Vec<_>>()
    };
    args.flat_map(names).collect::<Vec<_>>().join(" | ")
}

/// clap's script for bash, which would not know of what option the value behind a `=` is: bash
/// makes three words of `--option=value`. And behind an option of `attached` it would offer values.
fn with_attached_values(text: String, attached: &str) -> String {
    let previous = "    prev=\"$3\"\n";
    assert_eq!(text.matches(previous).count(), 1, "another script than expected");
    let joined = "    \
    if [[ \"${COMP_WORDS[COMP_CWORD]}\" == \"=\" ]]; then
        prev=\"${COMP_WORDS[COMP_CWORD-1]}\" cur=\"\"
    elif [[ \"${prev}\" == \"=\" ]]; then
        prev=\"${COMP_WORDS[COMP_CWORD-2]}\"
    else
        case \"${prev}\" in
            ATTACHED) prev=\"\" ;;
        esac
    fi
";
    text.replace(previous, &format!("{previous}{}", joined.replace("ATTACHED", attached)))
}

/// clap's script for bash, which would offer the names of files for a command, cut at blanks.
fn with_commands(text: String) -> String {
    let files = "COMPREPLY=($(compgen -f \"${cur}\"))\n                    return 0\n";
    // `-e` and `--rsh`: values of all others are words, of their own kind or files whole.
    assert_eq!(text.matches(files).count(), 2, "another script than expected");
    let commands = "mapfile -t COMPREPLY < <(compgen -c -- \"${cur}\")
                    compopt -o filenames
                    return 0
";
    text.replace(files, commands)
}

/// clap's script for zsh, in which the first word is an operand or a command, and any other one
/// an operand where the first is no command.
fn with_operands(text: String) -> String {
    let operand = "'::operands:_files' \\\n\":: :_bdsync_commands\" \\\n";
    let commands_end = "        esac\n    ;;\nesac\n}\n";
    for (part, count) in [(operand, 1), (commands_end, 1), ("$line[2]", 3)] {
        assert_eq!(text.matches(part).count(), count, "another script than expected: {part}");
    }
    text.replace(operand, "\": :_bdsync_commands\" \\\n")
        .replace("$line[2]", "$line[1]")
        .replace(commands_end, &format!("(*)\n_files && ret=0\n;;\n{commands_end}"))
}

/// What `help` is about: clap's script for fish completes no operands.
fn help_topics(table: &Command) -> String {
    let names: Vec<_> = table.get_subcommands().map(Command::get_name).collect();
    format!(
        "complete -c bdsync -n \"__fish_bdsync_using_subcommand help\" -f -a \"{}\"\n",
        names.join(" ")
    )
}

/// The command without its hidden options, which are for tests. Operands stay: they are files.
fn shown(command: &Command) -> Command {
    let args = command.get_arguments();
    let args = args.filter(|arg| arg.is_positional() || !arg.is_hide_set()).cloned();
    let args = args.map(|arg| match arg.is_positional() {
        true if command.get_name() == "help" => arg.value_parser(topics()),
        true => arg.hide(false).value_hint(ValueHint::AnyPath),
        false => with_values(arg),
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

fn topics() -> PossibleValuesParser {
    // clap wants words that live as long as the program, which is short.
    let name = |sub: &Command| -> &'static str { sub.get_name().to_owned().leak() };
    PossibleValuesParser::new(cli::definition().get_subcommands().map(name))
}

/// The option with the words that a shell may offer as its value. The program checks values
/// itself: some have abbreviations and parts.
fn with_values(arg: Arg) -> Arg {
    let values = match arg.get_id().as_str() {
        "hash" | "checksum" => Algorithm::all().map(Algorithm::name).collect(),
        "on-read-error" => vec!["fail", "skip"],
        "diffsize" => vec!["strict", "resize", "minsize"],
        "compress" => vec!["zstd", "gzip"],
        "progress" => vec!["noscroll", "json", "none"],
        "scan" => vec!["lazy", "background"],
        _ => return arg,
    };
    arg.value_parser(PossibleValuesParser::new(values)).value_hint(ValueHint::Unknown)
}

//! The man page: hand-written sections around what the option table knows.
//!
//! In the template `@VERSION@`, `@DIGESTS@`, `@SYNOPSIS@`, `@COMMANDS@` and `@OPTIONS@` stand for
//! the latter.

use std::fmt::Write;

use bdsync::digest::Algorithm;
use clap::{Arg, Command};

/// The whole page in ROFF.
pub fn page(template: &str, mut table: Command) -> String {
    table.build();
    let mut text = String::new();
    for line in template.lines() {
        match line {
            "@SYNOPSIS@" => text += &synopsis(&table),
            "@COMMANDS@" => text += &commands(&table),
            "@OPTIONS@" => text += &options(&table, &|_| true),
            _ => {
                text += &line
                    .replace("@VERSION@", env!("CARGO_PKG_VERSION"))
                    .replace("@DIGESTS@", &digests());
                text.push('\n');
            }
        }
    }
    text
}

/// The names of all digests.
fn digests() -> String {
    let names: Vec<_> = Algorithm::all().map(Algorithm::name).collect();
    names.join(", ").replace('-', "\\-")
}

/// Every form of every command, as its usage says.
fn synopsis(table: &Command) -> String {
    let mut text = String::new();
    for command in std::iter::once(table).chain(subcommands(table)) {
        for (form, _) in forms(command) {
            let _ = writeln!(text, "{}\n.br", synopsis_line(&form));
        }
    }
    text.truncate(text.len() - ".br\n".len());
    text
}

/// The lines of a command's usage, each with the remark behind it.
fn forms(command: &Command) -> Vec<(String, String)> {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage:").unwrap_or(&usage).trim();
    let lines = usage.lines().map(|line| match line.trim().split_once("  ") {
        Some((form, remark)) => (form.trim().to_owned(), remark.trim().to_owned()),
        None => (line.trim().to_owned(), String::new()),
    });
    lines.collect()
}

/// Words in capitals are italic, the rest is bold but for brackets.
fn synopsis_line(form: &str) -> String {
    let mut text = String::new();
    for word in form.split(' ') {
        if !text.is_empty() {
            text.push(' ');
        }
        text += &word_with_fonts(word);
    }
    text
}

fn word_with_fonts(word: &str) -> String {
    let mut text = String::new();
    let mut rest = word;
    while !rest.is_empty() {
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let len = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        if len == 0 {
            let (mark, behind) = rest.split_at(rest.chars().next().map_or(1, char::len_utf8));
            text += &escape(mark);
            rest = behind;
            continue;
        }
        let (name, behind) = rest.split_at(len);
        let capital = name.chars().next().is_some_and(|c| c.is_ascii_uppercase());
        let font = if capital { 'I' } else { 'B' };
        let _ = write!(text, "\\f{font}{}\\fR", escape(name));
        rest = behind;
    }
    text
}

fn subcommands(table: &Command) -> impl Iterator<Item = &Command> {
    table.get_subcommands().filter(|command| !command.is_hide_set())
}

/// A section for every command that has a name: what it is, and the options of its own.
fn commands(table: &Command) -> String {
    let mut text = String::new();
    for command in subcommands(table) {
        let _ = writeln!(text, ".SS \"{}\"", escape(command.get_name()));
        for (form, _) in forms(command) {
            let _ = writeln!(text, "{}\n.br", synopsis_line(&form));
        }
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(text, ".PP\n{}", sentence(&about));
        text += &paragraphs(&command.get_after_help().map(ToString::to_string).unwrap_or_default());
        let own = |arg: &Arg| !shared(table, arg);
        text += &options(command, &own);
        let others: Vec<String> = visible(command)
            .filter(|arg| shared(table, arg))
            .map(|arg| format!("\\fB{}\\fR", escape(&name(arg))))
            .collect();
        if !others.is_empty() {
            let _ = writeln!(text, ".PP\nAs under OPTIONS:\n{}.", others.join(",\n"));
        }
    }
    text
}

/// Whether the classic command line has the same option with the same meaning.
fn shared(table: &Command, arg: &Arg) -> bool {
    let same = |other: &&Arg| other.get_id() == arg.get_id();
    table.get_arguments().find(same).is_some_and(|other| {
        other.get_help().map(ToString::to_string) == arg.get_help().map(ToString::to_string)
    })
}

fn visible(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !arg.is_hide_set() && !arg.is_positional())
}

fn name(arg: &Arg) -> String {
    arg.get_long().map_or_else(|| arg.get_id().to_string(), |long| format!("--{long}"))
}

/// The options of a command that are wanted, under their headings.
fn options(command: &Command, wanted: &dyn Fn(&Arg) -> bool) -> String {
    let top = !command.get_subcommands().any(|_| true);
    let mut headings: Vec<&str> = vec![];
    for arg in visible(command).filter(|arg| wanted(arg)) {
        let heading = arg.get_help_heading().unwrap_or("Options");
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    let mut text = String::new();
    for heading in headings {
        // Below a command's own heading there is no further level.
        let _ = if top {
            writeln!(text, ".PP\n\\fI{}\\fR", escape(heading))
        } else {
            writeln!(text, ".SS \"{}\"", escape(heading))
        };
        let under = |arg: &&Arg| arg.get_help_heading().unwrap_or("Options") == heading;
        for arg in visible(command).filter(|arg| wanted(arg)).filter(under) {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(text, ".TP\n{}\n{}", spellings(arg), sentence(&help));
        }
    }
    text
}

/// `-b, --blocksize=BYTES` and the like.
fn spellings(arg: &Arg) -> String {
    let value = arg.get_value_names().and_then(|names| names.first()).map(|name| name.as_str());
    let value = if arg.get_action().takes_values() { value } else { None };
    let optional = arg.get_num_args().is_some_and(|range| range.min_values() == 0);
    let attached = |prefix: &str| match value {
        None => String::new(),
        Some(value) if optional => format!("[{prefix}\\fI{}\\fR]", escape(value)),
        Some(value) => format!("{prefix}\\fI{}\\fR", escape(value)),
    };
    let mut all = vec![];
    if let Some(short) = arg.get_short() {
        let gap = if optional { "" } else { " " };
        all.push(format!("\\fB\\-{short}\\fR{}", attached(gap)));
    }
    let aliases = arg.get_visible_aliases().unwrap_or_default();
    for long in arg.get_long().into_iter().chain(aliases) {
        all.push(format!("\\fB\\-\\-{}\\fR{}", escape(long), attached("=")));
    }
    all.join(", ")
}

/// Text with a blank line between paragraphs; lines that are set in are kept as they are.
fn paragraphs(text: &str) -> String {
    let mut out = String::new();
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
        if paragraph.starts_with("Example") {
            let body = paragraph.split_once(": ").map_or(paragraph, |(_, body)| body);
            out += ".PP\n.nf\n.RS 4\n";
            for example in body.lines() {
                let _ = writeln!(out, "{}", line(example.trim()));
            }
            out += ".RE\n.fi\n";
        } else {
            out += ".PP\n";
            for words in paragraph.lines() {
                let _ = writeln!(out, "{}", line(words.trim()));
            }
        }
    }
    out
}

/// A help text, which has no full stop of its own.
fn sentence(text: &str) -> String {
    format!("{}.", line(text.trim_end_matches('.')))
}

/// A line of text, which must not begin with a control character.
fn line(text: &str) -> String {
    let escaped = escape(text);
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

/// Characters that ROFF takes for something else, or sets in a typographer's way.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\\' => escaped += "\\e",
            '-' => escaped += "\\-",
            '"' => escaped += "\\(dq",
            '\'' => escaped += "\\(aq",
            '`' => escaped += "\\(ga",
            '^' => escaped += "\\(ha",
            '~' => escaped += "\\(ti",
            _ => escaped.push(c),
        }
    }
    escaped
}

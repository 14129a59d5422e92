//! The house rules that can be counted.

use std::fs;
use std::path::{Path, PathBuf};

/// What the folders and files of `src/` may use of each other; all may use `COMMON`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("main", &["cli", "commands"]),
    ("lib", &[]),
    ("cli", &[]),
    ("commands", ANY),
    ("fuse", &["view"]),
    ("view", &["diff", "patch", "device"]),
    ("diff", &["wire", "digest", "device"]),
    ("serve", &["wire", "transport", "digest", "device"]),
    ("patch", &["device", "digest"]),
    ("inspect", &["patch", "device"]),
    ("compress", &[]),
    ("digest", &["device"]),
    ("wire", &["compress", "transport"]),
    ("transport", &[]),
    ("device", &[]),
    ("background", &[]),
    ("buffer", &[]),
    ("patient", &[]),
    ("error", &[]),
    ("mountinfo", &[]),
    ("naming", &[]),
    ("units", &[]),
    ("progress", &[]),
    ("report", &[]),
    ("signals", &[]),
];
const ANY: &[&str] = &["*"];
const COMMON: [&str; 10] = [
    "background",
    "buffer",
    "patient",
    "error",
    "mountinfo",
    "naming",
    "units",
    "progress",
    "report",
    "signals",
];

/// Lines of a file before its tests.
const FILE_LINES_MAX: usize = 500;
/// Lines of a function, from its signature to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines of `main.rs`.
const MAIN_LINES_MAX: usize = 30;

/// One source file, without its tests.
struct Source {
    path: PathBuf,
    /// The folder, or the file where it lies at the top.
    area: String,
    lines: Vec<String>,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = vec![];
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                found.push(read_source(&root, &path));
            }
        }
    }
    assert!(found.len() > 10, "sources not found");
    found
}

fn read_source(root: &Path, path: &Path) -> Source {
    let inside = path.strip_prefix(root).unwrap();
    let first = inside.iter().next().unwrap().to_str().unwrap();
    let text = fs::read_to_string(path).unwrap();
    let tests_only = path.ends_with("tests.rs") || inside.iter().any(|part| part == "tests");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    // The tests are the last module of a file.
    let tests = lines.windows(2).position(|two| {
        two[0] == "#[cfg(test)]" && two[1].trim_start_matches("pub(crate) ").starts_with("mod ")
    });
    lines.truncate(if tests_only { 0 } else { tests.unwrap_or(lines.len()) });
    Source { path: inside.to_owned(), area: first.trim_end_matches(".rs").to_owned(), lines }
}

/// The areas that a line names by `crate::`.
fn used_areas(line: &str) -> Vec<&str> {
    let code = line.split("//").next().unwrap_or_default();
    let mut areas = vec![];
    for (at, _) in code.match_indices("crate::") {
        let boundary = at == 0 || !code.as_bytes()[at - 1].is_ascii_alphanumeric();
        let behind = &code[at + "crate::".len()..];
        let end = behind.find(|ch: char| !ch.is_alphanumeric() && ch != '_');
        let area = &behind[..end.unwrap_or(behind.len())];
        if boundary && area.starts_with(char::is_lowercase) {
            areas.push(area);
        }
    }
    areas
}

#[test]
fn folders_use_each_other_only_along_the_arrows() {
    let mut faults = vec![];
    for source in sources() {
        let rule = MAY_USE.iter().find(|(area, _)| *area == source.area);
        let Some((_, allowed)) = rule else {
            faults.push(format!("src/{}: no rule for this folder", source.path.display()));
            continue;
        };
        for (number, line) in source.lines.iter().enumerate() {
            for used in used_areas(line) {
                let fine = used == source.area
                    || COMMON.contains(&used)
                    || allowed.contains(&used)
                    || *allowed == ANY;
                if !fine {
                    let place = format!("src/{}:{}", source.path.display(), number + 1);
                    faults.push(format!("{place}: {} must not use {used}", source.area));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn crate_groups_are_not_imported_in_braces() {
    // `use crate::{a, b}` would hide from the test above.
    for source in sources() {
        let hidden = source.lines.iter().find(|line| line.contains("crate::{"));
        assert!(hidden.is_none(), "src/{}: {hidden:?}", source.path.display());
    }
}

#[test]
fn files_and_functions_are_short() {
    let mut faults = vec![];
    for source in sources() {
        let shown = source.path.display();
        let limit = if source.area == "main" { MAIN_LINES_MAX } else { FILE_LINES_MAX };
        if source.lines.len() > limit {
            faults.push(format!("src/{shown}: {} lines, limit {limit}", source.lines.len()));
        }
        for (name, count) in functions(&source.lines) {
            if count > FUNCTION_LINES_MAX {
                faults.push(format!("src/{shown}: fn {name} has {count} lines"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Name and length in lines of every function, going by rustfmt's indentation.
fn functions(lines: &[String]) -> Vec<(String, usize)> {
    let mut found = vec![];
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        if line.ends_with(['}', ';']) {
            continue;
        }
        let same_indent = |line: &&String| line.len() - line.trim_start().len() == indent;
        let behind = lines[start + 1..].iter().enumerate();
        let end = behind
            .filter(|(_, line)| same_indent(line))
            .find(|(_, line)| line.trim() == "}" || line.ends_with(';'));
        if let Some((count, last)) = end
            && last.trim() == "}"
        {
            found.push((name.to_owned(), count + 2));
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    loop {
        match words.next()? {
            "fn" => return words.next().map(|name| name.split(['(', '<']).next().unwrap_or(name)),
            "pub" | "const" | "unsafe" | "async" | "extern" | "\"C\"" => {}
            word if word.starts_with("pub(") => {}
            _ => return None,
        }
    }
}

/// Which sources may have a thing that the others must not have.
fn only_in(needle: &str, allowed: &[&str]) {
    let mut faults = vec![];
    for source in sources() {
        let shown = source.path.display().to_string();
        if allowed.iter().any(|prefix| shown.starts_with(prefix)) {
            continue;
        }
        for (number, line) in source.lines.iter().enumerate() {
            if line.split("//").next().unwrap_or_default().contains(needle) {
                faults.push(format!("src/{shown}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(faults.is_empty(), "`{needle}` must not be in:\n{}", faults.join("\n"));
}

#[test]
fn only_report_prints() {
    for needle in ["println!(", "print!(", "dbg!(", "stderr()."] {
        only_in(needle, &["report.rs"]);
    }
}

#[test]
fn nothing_ends_the_process_but_main_and_faults() {
    only_in("process::exit", &["commands/fault.rs"]);
    only_in("process::abort", &[]);
}

#[test]
fn unsafe_code_stays_in_its_list() {
    for needle in ["unsafe {", "unsafe fn", "unsafe impl"] {
        let device = ["device/backing.rs", "device/cached.rs", "device/residency.rs"];
        only_in(
            needle,
            &[
                &device[..],
                &["fuse/", "commands/heap.rs", "commands/output.rs", "signals.rs"],
                // For tests only.
                &["diff/testing.rs"],
            ]
            .concat(),
        );
    }
}

#[test]
fn lints_are_not_silenced_without_a_reason() {
    for source in sources() {
        for line in &source.lines {
            let silenced = line.contains("#[allow(") || line.contains("#[expect(");
            let fine = !silenced || line.contains("reason =");
            assert!(fine, "src/{}: {line}", source.path.display());
        }
    }
}

#[test]
fn every_module_says_what_it_is() {
    for source in sources() {
        let first = source.lines.first().map(String::as_str).unwrap_or("//!");
        assert!(first.starts_with("//!"), "src/{}: {first}", source.path.display());
    }
}

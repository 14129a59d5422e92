//! The report for a terminal.

use std::fmt::Write as _;

use super::grid::{Grid, SHADES, shade};
use super::partitions::Partition;
use super::summary::Report;
use super::words::{exact_bytes, percent};
use crate::report::escape;
use crate::units::{ByteRange, counted, hex, human_bytes};

/// The most rows of the map.
const ROWS_MAX: u64 = 16;
/// The narrowest map, in columns, however narrow the terminal is.
const MAP_COLUMNS_MIN: usize = 16;
/// The widest, which a terminal never is: a bound for what the environment says.
const COLUMNS_MAX: usize = 1000;
/// Columns of the names of facts, and of the offsets left of the map.
const LABEL_COLUMNS: usize = 12;

const SHADE_CHARS: [char; SHADES] = ['\u{b7}', '\u{2591}', '\u{2592}', '\u{2593}', '\u{2588}'];
/// Dim, green, yellow, bright yellow, red: the more is changed, the warmer.
const SHADE_COLOURS: [&str; SHADES] = ["2", "32", "33", "93", "31"];
/// For the bars of partitions, in turn.
const BAR_COLOURS: [&str; 2] = ["36", "35"];

/// How the text is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Width of the terminal, in columns.
    pub columns: usize,
    /// Whether to colour it.
    pub colour: bool,
}

/// The report of the patch that messages call `path`.
#[must_use]
pub fn text(report: &Report, path: &str, style: Style) -> String {
    let mut out = String::new();
    for (name, value) in facts(report, path) {
        fact(&mut out, &name, &value);
    }
    for fault in &report.faults {
        let shown = format!("at offset {}: {}", fault.position, escape(fault.text.as_bytes()));
        let name = painted("FAULT", "1;31", style);
        let _ = writeln!(out, "{name}{:width$}{shown}", "", width = LABEL_COLUMNS - "FAULT".len());
    }
    out.push('\n');
    map(&mut out, report, style);
    partitions(&mut out, report, style);
    out
}

fn fact(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "{name:LABEL_COLUMNS$}{value}");
}

/// What is known, by name; shared with the picture. All of it is escaped.
pub(super) fn facts(report: &Report, path: &str) -> Vec<(String, String)> {
    let mut facts = vec![];
    let mut add = |name: &str, value: String| facts.push((name.to_owned(), value));
    let compression =
        report.compression.map(|name| format!(", decompressed from {name}")).unwrap_or_default();
    let length = exact_bytes(report.patch_bytes);
    let part = if report.read_to_end { "" } else { ", as far as it was read" };
    add("patch", format!("{}: {length}{part}{compression}", escape(path.as_bytes())));
    let name = &report.header.name;
    add("target", if name.is_empty() { "(none is named)".into() } else { escape(name) });
    add("size", exact_bytes(report.header.size_bytes));
    let order = match report.first_out_of_order {
        None => String::new(),
        Some(position) => format!(", not in ascending order from byte {position} on"),
    };
    let (records, runs) = (counted(report.records, "record"), counted(report.runs, "run"));
    add("records", format!("{records} in {runs}{order}"));
    // Records that overlap can only be told where they come in order.
    let most = if report.is_ascending() { "" } else { "at most " };
    let share = percent(report.changed_bytes_max(), report.header.size_bytes);
    let changed = exact_bytes(report.data_bytes);
    add("changed", format!("{changed}, {most}{share} of the device"));
    let zeros = exact_bytes(report.zero_bytes);
    let alone = human_bytes(report.zero_record_bytes);
    add("zeros", format!("{zeros}, {alone} of them in records of nothing else"));
    add(
        "checksum",
        match &report.checksum {
            Some(checksum) => format!("{} {}", escape(&checksum.name), hex(&checksum.digest)),
            None => "none".into(),
        },
    );
    seal_facts(report, &mut add);
    facts
}

fn seal_facts(report: &Report, add: &mut impl FnMut(&str, String)) {
    let Some(seal) = &report.seal else {
        add("seal", "none".into());
        return;
    };
    add(
        "seal",
        match &seal.base {
            Some(base) => format!(
                "knows what the target held when the patch was made: {} of {}, by {}",
                counted(base.fingerprint.blocks, "block"),
                human_bytes(base.block_bytes),
                base.algorithm.name()
            ),
            None if seal.resize => "whole, and sets the target's size (an undo patch)".into(),
            None => "whole; it does not say what the target held".into(),
        },
    );
    for (name, identity) in [("made from", &seal.source), ("made for", &seal.target)] {
        if !identity.is_empty() {
            let text = String::from_utf8_lossy(identity);
            let lines: Vec<_> = text.lines().map(|line| escape(line.as_bytes())).collect();
            add(name, lines.join(", "));
        }
    }
}

/// The device as lines of shades, each with the offset where it begins.
fn map(out: &mut String, report: &Report, style: Style) {
    let size_bytes = report.header.size_bytes;
    let columns = style.columns.min(COLUMNS_MAX).saturating_sub(LABEL_COLUMNS + 1);
    let grid = Grid::new(size_bytes, columns.max(MAP_COLUMNS_MIN) as u64, ROWS_MAX);
    for row in grid.rows() {
        let label = row.first().map_or_else(String::new, |first| human_bytes(first.start));
        let _ = write!(out, "{label:>width$}  ", width = LABEL_COLUMNS - 2);
        let shades = row.iter().map(|&range| shade(&report.map, range));
        push_runs(out, shades, style, |shade| (SHADE_CHARS[shade], SHADE_COLOURS[shade]));
        out.push('\n');
        if !report.partitions.is_empty() {
            let bar = bar(&row, &report.partitions);
            let _ = write!(out, "{:LABEL_COLUMNS$}", "");
            push_runs(out, bar.into_iter(), style, |(ch, turn)| (ch, BAR_COLOURS[turn]));
            out.truncate(out.trim_end().len());
            out.push('\n');
        }
    }
    if size_bytes > 0 {
        let [none, some, more, most, all] = SHADE_CHARS;
        let cell = human_bytes(grid.cell_bytes());
        let _ = writeln!(
            out,
            "{:LABEL_COLUMNS$}each {cell}:  {none} same  {some} <25 %  {more} <50 %  {most} more  \
             {all} all",
            ""
        );
    }
}

/// Characters in their colours, with as few changes of colour as it takes.
fn push_runs<T: Copy>(
    out: &mut String,
    items: impl Iterator<Item = T>,
    style: Style,
    look: impl Fn(T) -> (char, &'static str),
) {
    let mut current = None;
    for (ch, colour) in items.map(look) {
        if style.colour && current != Some(colour) {
            let _ = write!(out, "\x1b[0;{colour}m");
            current = Some(colour);
        }
        out.push(ch);
    }
    if current.is_some() {
        out.push_str("\x1b[0m");
    }
}

/// What stands under a row: a bracket for each partition, with its number where there is room.
/// It may begin or end within a cell that is its neighbour's.
fn bar(row: &[ByteRange], partitions: &[(Partition, u64)]) -> Vec<(char, usize)> {
    let owners: Vec<_> = row.iter().map(|&range| owner(range, partitions)).collect();
    let mut out = vec![];
    let mut at = 0;
    for run in owners.chunk_by(|a, b| a == b) {
        let cells = ByteRange::new(row[at].start, row[at + run.len() - 1].end);
        at += run.len();
        let is_row_end = at == row.len();
        let Some(index) = run[0] else {
            out.extend(run.iter().map(|_| (' ', 0)));
            continue;
        };
        let partition = &partitions[index].0;
        let mut chars = vec!['\u{2500}'; run.len()];
        let last = chars.len() - 1;
        let reach = if is_row_end { 0 } else { row[0].len() };
        if cells.end.saturating_add(reach) >= partition.range.end {
            chars[last] = '\u{2518}';
        }
        if cells.start < partition.range.start.saturating_add(row[0].len()) {
            chars[0] = if last == 0 { '\u{2575}' } else { '\u{2514}' };
            let number = partition.number.to_string();
            if number.len() + 2 <= chars.len() {
                chars.splice(1..=number.len(), number.chars());
            }
        }
        out.extend(chars.into_iter().map(|ch| (ch, index % BAR_COLOURS.len())));
    }
    out
}

/// Whose `range` is: the smallest partition there, since an extended one holds others.
pub(super) fn owner(range: ByteRange, partitions: &[(Partition, u64)]) -> Option<usize> {
    let here = partitions.iter().enumerate();
    let here = here.filter(|(_, (partition, _))| !partition.range.intersect(&range).is_empty());
    here.min_by_key(|(_, (partition, _))| partition.range.len()).map(|(index, _)| index)
}

fn partitions(out: &mut String, report: &Report, style: Style) {
    if !report.partitions.is_empty() {
        let name = painted("partitions", "1", style);
        let _ = writeln!(out, "\n{name}");
    }
    for (index, (partition, changed)) in report.partitions.iter().enumerate() {
        let number = format!("{:>4}", partition.number);
        let number = painted(&number, BAR_COLOURS[index % BAR_COLOURS.len()], style);
        let _ = writeln!(out, "{number}  {}", partition_line(partition, *changed));
    }
}

/// A partition in words, but for its number. Escaped.
pub(super) fn partition_line(partition: &Partition, changed_bytes: u64) -> String {
    let Partition { range, kind, name, .. } = partition;
    let (start, len) = (human_bytes(range.start), human_bytes(range.len()));
    let changed = match changed_bytes {
        0 => "unchanged".to_owned(),
        bytes => format!("{} changed, {}", human_bytes(bytes), percent(bytes, range.len())),
    };
    let name =
        if name.is_empty() { String::new() } else { format!(" \"{}\"", escape(name.as_bytes())) };
    format!("{len} at {start}  {}{name}: {changed}", escape(kind.as_bytes()))
}

fn painted(text: &str, colour: &str, style: Style) -> String {
    if style.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::summary::inspect;
    use super::*;
    use crate::digest::Algorithm;
    use crate::patch::{BaseMaker, Checksum, Header, PatchWriter, Seal};
    use crate::units::MIB;

    fn sample(disk: Vec<Partition>) -> Report {
        let header = Header { size_bytes: 64 * MIB, name: b"/dev/\x1b[31mx".to_vec() };
        let mut writer = PatchWriter::new(Vec::new(), &header).unwrap();
        writer.write_block(0, &vec![1; 4 * MIB as usize]).unwrap();
        writer.write_block(10 * MIB, &[0; 4096]).unwrap();
        let patch = writer.finish(None).unwrap();
        inspect(&patch[..], "p", None, disk).unwrap()
    }

    fn disk() -> Vec<Partition> {
        let partition = |number, start, end, name: &str| Partition {
            number,
            range: ByteRange::new(start * MIB, end * MIB),
            kind: "Linux".into(),
            name: name.into(),
        };
        vec![partition(1, 1, 20, "a\u{202e}b"), partition(12, 20, 64, "")]
    }

    #[test]
    fn plain_text_has_no_escape_sequence_and_fits_the_terminal() {
        for columns in [0, 40, 80, 131, 5000] {
            let text = text(&sample(disk()), "p\n", Style { columns, colour: false });
            assert!(text.chars().all(|ch| ch == '\n' || !ch.is_control()), "{text}");
            assert!(!text.contains('\u{202e}'));
            let map: Vec<_> = text.lines().filter(|line| line.ends_with('\u{b7}')).collect();
            let width = map.iter().map(|line| line.chars().count()).max().unwrap();
            assert!(width <= columns.clamp(MAP_COLUMNS_MIN + LABEL_COLUMNS, COLUMNS_MAX), "{text}");
        }
    }

    #[test]
    fn map_shows_where_the_changes_and_the_partitions_are() {
        let style = Style { columns: 12 + 16 + 1, colour: false };
        let text = text(&sample(disk()), "p", style);
        // 16 rows of 16 cells of 256 KiB: a row is 4 MiB.
        let rows: Vec<_> = text
            .lines()
            .filter(|line| line.contains('\u{b7}') || line.contains('\u{2588}'))
            .collect();
        assert_eq!(rows[0], format!("   0 bytes  {}", "\u{2588}".repeat(16)));
        assert_eq!(rows[1], format!("   4.0 MiB  {}", "\u{b7}".repeat(16)));
        assert!(rows[2].ends_with(&format!(
            "{}\u{2591}{}",
            "\u{b7}".repeat(8),
            "\u{b7}".repeat(7)
        )));
        assert!(
            text.contains("\u{2514}1\u{2500}") && text.contains("\u{2514}12\u{2500}"),
            "{text}"
        );
        assert!(text.contains("  12  44.0 MiB at 20.0 MiB  Linux: unchanged"), "{text}");
        assert!(text.contains("/dev/\\x1b[31mx"));
        assert!(text.contains("each 256.0 KiB:  "), "{text}");
        let first = r#"1  19.0 MiB at 1.0 MiB  Linux "a\xe2\x80\xaeb": 3.0 MiB changed, 15.8 %"#;
        assert!(text.contains(&format!("\n\npartitions\n   {first}\n")), "{text}");
    }

    #[test]
    fn coloured_text_says_the_same() {
        let report = sample(disk());
        let plain = text(&report, "p", Style { columns: 80, colour: false });
        let coloured = text(&report, "p", Style { columns: 80, colour: true });
        let mut stripped = String::new();
        let mut inside = false;
        for ch in coloured.chars() {
            match ch {
                '\x1b' => inside = true,
                'm' if inside => inside = false,
                _ if inside => {}
                _ => stripped.push(ch),
            }
        }
        let trimmed =
            |text: &str| text.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>();
        assert_eq!(trimmed(&stripped), trimmed(&plain));
    }

    #[test]
    fn facts_and_faults_are_told_before_the_map() {
        let header = Header { size_bytes: 8192, name: vec![] };
        let mut writer = PatchWriter::new(Vec::new(), &header).unwrap();
        for (offset, data) in [(4096, vec![1; 512]), (4608, vec![0; 512]), (0, vec![0, 1])] {
            writer.write_block(offset, &data).unwrap();
        }
        let checksum = Checksum { name: b"sum".to_vec(), digest: vec![0xab, 1] };
        let patch = writer.finish(Some(&checksum)).unwrap();
        let told = |patch: &[u8]| {
            let report = inspect(patch, "p", Some("gzip"), vec![]).unwrap();
            let text = text(&report, "p", Style { columns: 80, colour: false });
            text.split_once("\n\n").unwrap().0.to_owned()
        };
        assert_eq!(
            told(&patch),
            "patch       p: 1.1 KiB (1094 bytes), decompressed from gzip\n\
             target      (none is named)\n\
             size        8.0 KiB (8192 bytes)\n\
             records     3 records in 2 runs, not in ascending order from byte 1065 on\n\
             changed     1.0 KiB (1026 bytes), at most 12.5 % of the device\n\
             zeros       513 bytes, 512 bytes of them in records of nothing else\n\
             checksum    sum ab01\n\
             seal        none\n\
             FAULT       at offset 1094: the patch's checksum is of an unknown digest, 'sum'"
        );
        let cut = told(&patch[..30]);
        assert!(
            cut.contains("p: 21 bytes, as far as it was read, decompressed from gzip\n"),
            "{cut}"
        );
    }

    #[test]
    fn bar_begins_and_ends_where_its_partition_does() {
        let partition = |number, start, end| {
            let (kind, name) = (String::new(), String::new());
            (Partition { number, range: ByteRange::new(start, end), kind, name }, 0)
        };
        let partitions = [
            partition(1, 10, 30),
            partition(12, 50, 60),
            partition(3, 80, 200),
            partition(4, 230, 320),
            partition(5, 240, 270),
        ];
        // As ASCII: both corners, and the mark of a partition that has a single cell.
        let ascii = |ch| match ch {
            '\u{2500}' => '-',
            '\u{2514}' => 'L',
            '\u{2518}' => 'J',
            '\u{2575}' => '|',
            ch => ch,
        };
        let shown = |start, end| {
            let row: Vec<_> = ByteRange::new(start, end).pieces(10).collect();
            let (chars, turns): (Vec<_>, Vec<_>) = bar(&row, &partitions).into_iter().unzip();
            (chars.into_iter().map(ascii).collect::<String>(), turns)
        };
        let (first, turns) = shown(0, 160);
        assert_eq!(first, " LJ  |  L3------");
        assert_eq!(turns, [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(shown(160, 320).0, "---J   |L5J----J");
    }

    #[test]
    fn colours_change_only_where_they_must_and_end_with_the_line() {
        let shown = |items: &[char], colour| {
            let mut out = String::new();
            let style = Style { columns: 80, colour };
            push_runs(&mut out, items.iter(), style, |&ch| {
                (ch, if ch == 'r' { "31" } else { "2" })
            });
            out
        };
        assert_eq!(shown(&['r', 'r', 'a', 'b'], true), "\x1b[0;31mrr\x1b[0;2mab\x1b[0m");
        assert_eq!(shown(&['r', 'r', 'a', 'b'], false), "rrab");
        assert_eq!(shown(&[], true), "");
    }

    #[test]
    fn seal_says_what_it_is_good_for_and_what_it_was_made_from() {
        let told = |seal: Seal| {
            let report = Report { seal: Some(seal), ..sample(vec![]) };
            let mut told = vec![];
            seal_facts(&report, &mut |name, value| told.push(format!("{name}: {value}")));
            told
        };
        let mut base = BaseMaker::new(4096, Algorithm::Md5, &[]);
        base.add(0, &[1; 16]);
        let known = Seal { base: Some(base.finish()), ..Seal::default() };
        let what = "knows what the target held when the patch was made: 1 block of 4.0 KiB, by md5";
        assert_eq!(told(known), [format!("seal: {what}")]);
        let resize = true;
        assert_eq!(
            told(Seal { resize, ..Seal::default() }),
            ["seal: whole, and sets the target's size (an undo patch)"]
        );
        let [source, target] = [&b"path=a\nsize=1\n"[..], b"path=\x1b\n"].map(<[u8]>::to_vec);
        assert_eq!(
            told(Seal { source, target, ..Seal::default() }),
            [
                "seal: whole; it does not say what the target held",
                "made from: path=a, size=1",
                "made for: path=\\x1b"
            ]
        );
    }
}

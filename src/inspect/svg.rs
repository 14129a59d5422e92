//! The report as a picture: one SVG file that needs nothing else.

use std::fmt::Write as _;

use super::grid::{Grid, SHADES, shade};
use super::summary::Report;
use super::text::{facts, owner, partition_line};
use crate::report::escape;
use crate::units::human_bytes;

/// Cells in a row, and the most rows.
const COLUMNS: u64 = 96;
const ROWS_MAX: u64 = 32;
/// Lengths, in the picture's units.
const CELL: u64 = 9;
const MARGIN: u64 = 32;
const OFFSETS: u64 = 84;
const ROW: u64 = 13;
const BAR: u64 = 6;
const LINE: u64 = 20;
const WIDTH: u64 = MARGIN + OFFSETS + COLUMNS * CELL + MARGIN;
/// The longest line of text, in characters: what fits the width.
const TEXT_CHARS_MAX: usize = 118;

const SHADE_FILLS: [&str; SHADES] = ["#e9edf2", "#fde3a7", "#f9b54c", "#ec7a33", "#c0311f"];
const SHADE_NAMES: [&str; SHADES] =
    ["unchanged", "under a quarter", "under half", "more", "all of it"];
const BAR_FILLS: [&str; 6] = ["#3b6fb6", "#4f9d69", "#8e63b5", "#3a9fa8", "#b0578d", "#7a8450"];

/// The report of the patch that messages call `path`.
#[must_use]
pub fn svg(report: &Report, path: &str) -> String {
    let mut out = Picture { body: String::new(), y: MARGIN };
    let size = human_bytes(report.header.size_bytes);
    let target = match &report.header.name[..] {
        [] => "a device".to_owned(),
        name => escape(name),
    };
    out.text(MARGIN, "title", &format!("What a patch changes in {target} ({size})"));
    out.y += LINE / 2;
    for (name, value) in facts(report, path) {
        out.fact(&name, "fact", &value);
    }
    for fault in &report.faults {
        let shown = format!("at offset {}: {}", fault.position, escape(fault.text.as_bytes()));
        out.fact("FAULT", "fault", &shown);
    }
    out.y += LINE / 2;
    map(&mut out, report);
    legend(&mut out, report);
    let height = out.y + MARGIN / 2;
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\n{}</svg>\n",
        markup(&format!("What a patch changes in {target}")),
        out.body
    )
}

const STYLE: &str = "\
text{font:13px ui-sans-serif,'DejaVu Sans',Helvetica,Arial,sans-serif;fill:#24303c}\
.title{font-size:19px;font-weight:600}.name{fill:#6b7885}.offset{font-size:10px;fill:#6b7885;\
text-anchor:end}.fault{fill:#c0311f;font-weight:600}.paper{fill:#fff}";

/// What has been drawn, and where the next line goes.
struct Picture {
    body: String,
    y: u64,
}

impl Picture {
    /// A line of text; the next is below it.
    fn text(&mut self, x: u64, class: &str, text: &str) {
        let y = self.y;
        let _ = writeln!(
            self.body,
            "<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{}</text>",
            markup(&shortened(text))
        );
        self.y += LINE;
    }

    fn fact(&mut self, name: &str, class: &str, value: &str) {
        let y = self.y;
        let _ = writeln!(
            self.body,
            "<text x=\"{MARGIN}\" y=\"{y}\" class=\"name\">{}</text>",
            markup(name)
        );
        self.text(MARGIN + OFFSETS, class, value);
    }

    fn rect(&mut self, x: u64, y: u64, width: u64, height: u64, fill: &str) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"1\" \
             fill=\"{fill}\"/>"
        );
    }
}

fn map(out: &mut Picture, report: &Report) {
    let left = MARGIN + OFFSETS;
    let grid = Grid::new(report.header.size_bytes, COLUMNS, ROWS_MAX);
    for row in grid.rows() {
        let top = out.y - CELL;
        if let Some(first) = row.first() {
            let label = human_bytes(first.start);
            let (x, y) = (left - 8, out.y - 1);
            let _ = writeln!(out.body, "<text x=\"{x}\" y=\"{y}\" class=\"offset\">{label}</text>");
        }
        let shades: Vec<_> = row.iter().map(|&range| shade(&report.map, range)).collect();
        let mut x = left;
        for run in shades.chunk_by(|a, b| a == b) {
            let width = run.len() as u64 * CELL;
            out.rect(x, top, width - 1, CELL + 1, SHADE_FILLS[run[0]]);
            x += width;
        }
        if !report.partitions.is_empty() {
            let owners: Vec<_> = row.iter().map(|&r| owner(r, &report.partitions)).collect();
            let mut x = left;
            for run in owners.chunk_by(|a, b| a == b) {
                let width = run.len() as u64 * CELL;
                if let Some(index) = run[0] {
                    let fill = BAR_FILLS[index % BAR_FILLS.len()];
                    out.rect(x, top + CELL + 2, width - 1, 3, fill);
                }
                x += width;
            }
            out.y += BAR;
        }
        out.y += ROW;
    }
    if report.header.size_bytes > 0 {
        out.y += LINE / 2;
        let mut x = left;
        for (fill, name) in SHADE_FILLS.into_iter().zip(SHADE_NAMES) {
            out.rect(x, out.y - 10, CELL + 2, CELL + 2, fill);
            let y = out.y;
            let _ = writeln!(out.body, "<text x=\"{}\" y=\"{y}\">{name}</text>", x + 16);
            x += 46 + name.len() as u64 * 7;
        }
        out.text(x, "name", &format!("a cell is {}", human_bytes(grid.cell_bytes())));
    }
}

fn legend(out: &mut Picture, report: &Report) {
    for (index, (partition, changed)) in report.partitions.iter().enumerate() {
        let (x, y) = (MARGIN + OFFSETS, out.y);
        out.rect(x, y - 10, CELL + 2, CELL + 2, BAR_FILLS[index % BAR_FILLS.len()]);
        let line = format!("{}:  {}", partition.number, partition_line(partition, *changed));
        out.text(x + 16, "fact", &line);
    }
}

/// Cut to what fits the width.
fn shortened(text: &str) -> String {
    if text.chars().count() <= TEXT_CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(TEXT_CHARS_MAX - 1).chain(['\u{2026}']).collect()
}

/// Text as XML has it. What XML has no place for at all becomes a question mark.
fn markup(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for ch in text.chars() {
        match ch {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\u{fffe}' | '\u{ffff}' => out.push('?'),
            ch if ch.is_control() => out.push('?'),
            ch => out.push(ch),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::partitions::Partition;
    use super::super::summary::inspect;
    use super::*;
    use crate::patch::{Header, PatchWriter};
    use crate::units::ByteRange;

    #[test]
    fn hostile_names_stay_text() {
        let name = "</text><script>alert('&\"')</script>\u{ffff}\x1b]".repeat(9);
        let header = Header { size_bytes: 1 << 30, name: name.into_bytes() };
        let mut writer = PatchWriter::new(Vec::new(), &header).unwrap();
        writer.write_block(1 << 20, &[1; 8192]).unwrap();
        let patch = writer.finish(None).unwrap();
        let report = inspect(&patch[..], "p", None, vec![]).unwrap();
        let svg = svg(&report, "<p>");
        assert!(!svg.contains("<script") && !svg.contains("<p>") && svg.contains("&lt;script"));
        assert!(svg.chars().all(|ch| ch == '\n' || (!ch.is_control() && ch != '\u{ffff}')));
        // Every element is closed, on its own line or by name.
        let opened = svg.matches("<text").count();
        assert_eq!(opened, svg.matches("</text>").count());
        assert!(svg.matches("<rect").count() >= 32);
        assert!(svg.len() < 200_000);
    }

    #[test]
    fn picture_tells_what_the_text_does() {
        let header = Header { size_bytes: 1 << 20, name: b"/dev/x".to_vec() };
        let mut writer = PatchWriter::new(Vec::new(), &header).unwrap();
        writer.write_block(4096, &[1; 8192]).unwrap();
        let mut patch = writer.finish(None).unwrap();
        patch.pop();
        let range = ByteRange::new(4096, 1 << 19);
        let disk = vec![Partition { number: 7, range, kind: "Linux".into(), name: "a".into() }];
        let report = inspect(&patch[..], "p", None, disk).unwrap();
        let svg = svg(&report, "p");
        assert!(svg.contains(">What a patch changes in /dev/x (1.0 MiB)</text>"), "{svg}");
        for (name, value) in facts(&report, "p") {
            let [name, value] = [name, value].map(|text| format!(">{}</text>", markup(&text)));
            assert!(svg.contains(&name) && svg.contains(&value), "{name} {value} {svg}");
        }
        let [fault] = &report.faults[..] else { panic!("{:?}", report.faults) };
        assert!(svg.contains(&markup(&fault.text)), "{svg}");
        let line = partition_line(&report.partitions[0].0, 8192);
        assert!(svg.contains(&markup(&format!("7:  {line}"))), "{svg}");
        for fill in SHADE_FILLS.iter().chain([&BAR_FILLS[0]]) {
            assert!(svg.contains(fill), "{fill} {svg}");
        }
        assert!(svg.contains(">a cell is 512 bytes</text>"), "{svg}");
        // It reaches into 11 rows of 96 cells, and has a line below.
        assert_eq!(svg.matches(BAR_FILLS[0]).count(), 12, "{svg}");
    }

    #[test]
    fn what_is_longer_than_a_line_is_cut() {
        let fits = "\u{e4}".repeat(TEXT_CHARS_MAX);
        assert_eq!(shortened(&fits), fits);
        let cut = shortened(&format!("{fits}\u{e4}"));
        assert_eq!(cut.chars().count(), TEXT_CHARS_MAX);
        assert!(cut.ends_with("\u{e4}\u{2026}"), "{cut}");
    }

    #[test]
    fn text_that_markup_would_take_for_its_own_is_quoted() {
        assert_eq!(markup("a&<>\"'b"), "a&amp;&lt;&gt;&quot;&apos;b");
        assert_eq!(markup("\x1b\u{85}\u{fffe}\u{ffff}"), "????");
    }
}

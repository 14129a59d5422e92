//! The terms that all parts share: byte ranges, block sizes, directions, priorities, which file it
//! is, and the arithmetic on them that cannot overflow; numbers as people and programs read them.
//!
//! An offset with a length that a peer or a patch sent becomes a range by `ByteRange::checked_at`,
//! which refuses what 64 bits do not hold. Pure: no I/O.

mod file_id;
mod range_set;

use std::fmt;

use serde::Serialize;

pub use file_id::{FileId, device_number, major_minor};
pub use range_set::RangeSet;

/// A kibibyte, in bytes.
pub const KIB: u64 = 1024;
/// A mebibyte, in bytes.
pub const MIB: u64 = 1024 * KIB;
/// A gibibyte, in bytes.
pub const GIB: u64 = 1024 * MIB;

/// The lowest rate that a connection can be held to, in bytes a second: below, one message takes
/// minutes.
pub const RATE_BYTES_MIN: u64 = KIB;

/// `bytes` for people: three or four digits and a binary unit, `12.3 MiB`.
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut rest, mut unit) = (bytes as f64, 0);
    // What rounds up to 1024 is said in the next unit.
    while unit + 1 < units.len() && rest >= if unit == 0 { 1024.0 } else { 1023.95 } {
        rest /= 1024.0;
        unit += 1;
    }
    let decimals = usize::from(unit > 0);
    format!("{rest:.decimals$} {}", units[unit])
}

/// `1 block`, `3 blocks`.
#[must_use]
pub fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// Bytes in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Which of two waiting jobs or requests goes first, on one of the sides: a request does not carry
/// it. The client goes by who waits for what, and asks for the bytes of a walk last (`Bulk`). The
/// server goes by what is asked for, and works on bytes first (`Interactive`): they are what keeps
/// the link busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// Somebody waits for the result.
    Interactive,
    /// A walk over the device, which loses nothing by waiting a little.
    Scan,
    /// A walk's first look at what it has not come to yet; what it has begun with goes first.
    Ahead,
    /// The bytes of what a walk has found: they are many, and all else shows where more are.
    Bulk,
}

impl Priority {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 4] = [Self::Interactive, Self::Scan, Self::Ahead, Self::Bulk];

    /// For the first look at something that is then followed up with this priority.
    #[must_use]
    pub fn of_first_look(self) -> Self {
        if self == Self::Scan { Self::Ahead } else { self }
    }
}

/// Largest block size accepted, in bytes. A block is held in memory while it is verified.
pub const BLOCK_BYTES_MAX: u64 = 16 * MIB;

/// Which side the patch makes like the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The local device is the source; the patch turns the remote one into it (the default).
    Push,
    /// `--remdata`: the remote device is the source; the patch turns the local one into it.
    Pull,
}

impl Direction {
    /// Which of what is known of both sides is the source's, and which the target's.
    #[must_use]
    pub fn source_and_target<T>(self, local: T, remote: T) -> (T, T) {
        match self {
            Self::Push => (local, remote),
            Self::Pull => (remote, local),
        }
    }
}

/// Who may read a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// The user who mounted it.
    Owner,
    /// `--allow-root`: root as well.
    OwnerAndRoot,
    /// `--allow-other`: everybody.
    Everybody,
}

/// What to do when the two sizes differ (`--diffsize`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SizeRule {
    /// End with exit code 3.
    #[default]
    Strict,
    /// Give the target the source's size; compare over the larger of both.
    Resize,
    /// Compare and change the common part only.
    MinSize,
}

/// How what is written is compressed (`--compress`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// zstd, at a level of 1 to 19.
    Zstd(u8),
    /// gzip, at a level of 1 to 9.
    Gzip(u8),
}

/// A range of bytes of one device, `[start, end)`; `start <= end` always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteRange {
    /// First byte of the range.
    pub start: u64,
    /// First byte behind the range.
    pub end: u64,
}

impl ByteRange {
    /// The range `[start, end)`; an `end` below `start` gives an empty range at `start`.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end: if end < start { start } else { end } }
    }

    /// The range `[start, start + len)`, or `None` when its end does not fit 64 bits.
    #[must_use]
    pub const fn checked_at(start: u64, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether the range covers no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether `offset` lies inside the range.
    #[must_use]
    pub const fn contains(&self, offset: u64) -> bool {
        self.start <= offset && offset < self.end
    }

    /// Whether `other` lies inside the range.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.intersect(other) == *other
    }

    /// The bytes that both ranges cover; empty (at the later start) when there are none.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// The part of the range below `end`.
    #[must_use]
    pub fn clip(&self, end: u64) -> Self {
        Self::new(self.start.min(end), self.end.min(end))
    }

    /// The smallest range that covers this one and begins and ends at multiples of
    /// `unit` bytes; the end saturates at the largest multiple that fits 64 bits.
    #[must_use]
    pub fn align_out(&self, unit: u64) -> Self {
        let end = self.end.checked_next_multiple_of(unit).unwrap_or(u64::MAX - u64::MAX % unit);
        Self::new(self.start - self.start % unit, end)
    }

    /// The range cut into pieces of at most `piece_bytes`, ascending; every piece but the last is
    /// full.
    pub fn pieces(&self, piece_bytes: u64) -> impl Iterator<Item = ByteRange> + use<> {
        let Self { start, end } = *self;
        let count = (end - start).div_ceil(piece_bytes);
        (0..count).map(move |i| {
            let from = start + i * piece_bytes;
            ByteRange::new(from, end.min(from.saturating_add(piece_bytes)))
        })
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

/// Appends `range` to ascending `ranges`, joining it with the last where they touch.
pub fn push_joined(ranges: &mut Vec<ByteRange>, range: ByteRange) {
    if range.is_empty() {
        return;
    }
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_is_singular() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "run")), ["0 runs", "1 run", "2 runs"]);
    }

    #[test]
    fn range_whose_end_overflows_is_refused() {
        assert_eq!(ByteRange::checked_at(u64::MAX, 0), Some(ByteRange::new(u64::MAX, u64::MAX)));
        assert_eq!(ByteRange::checked_at(u64::MAX, 1), None);
    }

    #[test]
    fn align_out_covers_and_saturates() {
        assert_eq!(ByteRange::new(5, 9).align_out(4), ByteRange::new(4, 12));
        assert_eq!(ByteRange::new(4, 8).align_out(4), ByteRange::new(4, 8));
        assert_eq!(ByteRange::new(0, u64::MAX).align_out(4), ByteRange::new(0, u64::MAX - 3));
    }

    #[test]
    fn pieces_cover_the_range_once() {
        let got: Vec<_> = ByteRange::new(3, 13).pieces(4).collect();
        assert_eq!(got, [ByteRange::new(3, 7), ByteRange::new(7, 11), ByteRange::new(11, 13)]);
        assert_eq!(ByteRange::new(3, 3).pieces(4).count(), 0);
    }

    #[test]
    fn intersections_of_separate_ranges_are_empty() {
        assert!(ByteRange::new(0, 4).intersect(&ByteRange::new(4, 8)).is_empty());
        assert_eq!(ByteRange::new(0, 5).intersect(&ByteRange::new(4, 8)), ByteRange::new(4, 5));
        assert!(ByteRange::new(10, 20).clip(5).is_empty());
    }

    #[test]
    fn bytes_for_people_have_few_digits() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (MIB - 1, "1.0 MiB"),
            (12 * GIB + 300 * MIB, "12.3 GiB"),
            (1 << 40, "1.0 TiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    #[test]
    fn touching_ranges_join() {
        let mut all = vec![];
        for r in
            [ByteRange::new(0, 2), ByteRange::new(2, 4), ByteRange::new(5, 5), ByteRange::new(6, 7)]
        {
            push_joined(&mut all, r);
        }
        assert_eq!(all, [ByteRange::new(0, 4), ByteRange::new(6, 7)]);
    }
}

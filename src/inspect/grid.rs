//! A device as rows and columns of a picture.

use super::blockmap::BlockMap;
use crate::units::ByteRange;

/// The smallest part of a device that gets a place of its own, in bytes.
const CELL_BYTES_MIN: u64 = 512;

/// How many shades tell how much is changed; shade 0 is nothing at all.
pub(super) const SHADES: usize = 5;

/// Rows and columns for a device. Never more than asked for; fewer for small devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    size_bytes: u64,
    cell_bytes: u64,
    columns: u64,
}

impl Grid {
    /// `columns` and `rows_max` must not be 0.
    pub(super) fn new(size_bytes: u64, columns: u64, rows_max: u64) -> Self {
        let cells_max = columns.saturating_mul(rows_max);
        let cell_bytes = size_bytes.div_ceil(cells_max).max(CELL_BYTES_MIN);
        let cell_bytes = cell_bytes.checked_next_multiple_of(CELL_BYTES_MIN).unwrap_or(cell_bytes);
        Self { size_bytes, cell_bytes, columns }
    }

    /// Bytes of the device at each place; the last may have fewer.
    pub(super) fn cell_bytes(&self) -> u64 {
        self.cell_bytes
    }

    /// The parts of the device in each row.
    pub(super) fn rows(&self) -> impl Iterator<Item = Vec<ByteRange>> + use<> {
        let Self { size_bytes, cell_bytes, columns } = *self;
        let row_bytes = cell_bytes.saturating_mul(columns);
        let rows = ByteRange::new(0, size_bytes).pieces(row_bytes);
        rows.map(move |row| row.pieces(cell_bytes).collect())
    }
}

/// Which shade shows `range`: 0 for nothing, the last for (nearly) all of it.
pub(super) fn shade(map: &BlockMap, range: ByteRange) -> usize {
    match map.share(range) {
        0.0 => 0,
        ..0.25 => 1,
        ..0.5 => 2,
        ..0.995 => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grid_covers_the_device_once_in_no_more_rows_than_asked_for() {
        let full = 70 * 16 * 512;
        for size in [0, 1, 511, 512, 513, 40_960, full, full + 1, 1 << 20, (1 << 40) + 1, u64::MAX]
        {
            let grid = Grid::new(size, 70, 16);
            let rows: Vec<_> = grid.rows().collect();
            assert!(rows.len() <= 16, "{size}: {} rows", rows.len());
            let mut at = 0;
            for range in rows.iter().flatten() {
                assert_eq!(range.start, at);
                at = range.end;
            }
            assert_eq!(at, size);
            assert!(rows.iter().all(|row| row.len() <= 70));
        }
    }

    #[test]
    fn any_change_is_seen() {
        let mut map = BlockMap::new(1 << 40);
        map.add(ByteRange::new(12345, 12346));
        let first = Grid::new(1 << 40, 80, 16).rows().next().unwrap()[0];
        assert_eq!(shade(&map, first), 1);
    }

    #[test]
    fn shades_change_at_a_quarter_a_half_and_nearly_all() {
        for (changed_bytes, expected) in
            [(0, 0), (1, 1), (127, 1), (128, 2), (255, 2), (256, 3), (509, 3), (510, 4), (512, 4)]
        {
            let mut map = BlockMap::new(512);
            map.add(ByteRange::new(0, changed_bytes));
            assert_eq!(shade(&map, ByteRange::new(0, 512)), expected, "{changed_bytes}");
        }
    }
}

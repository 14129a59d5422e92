//! How much of each part of a device a patch changes, in bounded memory.

use crate::units::ByteRange;

/// The most cells, whatever the device's size; they take 8 bytes each.
const CELLS_MAX: u64 = 65_536;
/// The smallest cell, in bytes.
const CELL_BYTES_MIN: u64 = 512;

/// Changed bytes by cells of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockMap {
    size_bytes: u64,
    cell_bytes: u64,
    /// Changed bytes of each cell; more than the cell has where records overlap.
    changed: Vec<u64>,
}

impl BlockMap {
    /// The map of a device of `size_bytes` of which nothing is changed yet.
    #[must_use]
    pub fn new(size_bytes: u64) -> Self {
        let cell_bytes = size_bytes.div_ceil(CELLS_MAX).max(CELL_BYTES_MIN);
        // At most `CELLS_MAX`.
        let cells = size_bytes.div_ceil(cell_bytes) as usize;
        Self { size_bytes, cell_bytes, changed: vec![0; cells] }
    }

    /// Size of the device in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Bytes of the device that a cell covers; the last one may cover fewer.
    #[must_use]
    pub fn cell_bytes(&self) -> u64 {
        self.cell_bytes
    }

    /// Notes that `range`, of which only what lies inside the device counts, is changed.
    pub fn add(&mut self, range: ByteRange) {
        let range = range.clip(self.size_bytes);
        if range.is_empty() {
            return;
        }
        for index in range.start / self.cell_bytes..=(range.end - 1) / self.cell_bytes {
            let part = self.cell(index).intersect(&range).len();
            // Inside the device, so there is such a cell.
            let changed = &mut self.changed[index as usize];
            *changed = changed.saturating_add(part);
        }
    }

    /// The changed part of `range`, from 0 (nothing) to 1 (all of it), as exactly as the cells
    /// can tell.
    #[must_use]
    pub fn share(&self, range: ByteRange) -> f64 {
        let range = range.clip(self.size_bytes);
        if range.is_empty() {
            return 0.0;
        }
        let mut changed = 0.0;
        for index in range.start / self.cell_bytes..=(range.end - 1) / self.cell_bytes {
            let cell = self.cell(index);
            let inside = cell.intersect(&range).len() as f64 / cell.len() as f64;
            changed += self.changed[index as usize].min(cell.len()) as f64 * inside;
        }
        (changed / range.len() as f64).min(1.0)
    }

    /// Changed bytes of each part of the device of `part_bytes`, a multiple of the cells.
    #[must_use]
    pub fn changed_in_parts(&self, part_bytes: u64) -> Vec<u64> {
        let changed = |part: ByteRange| {
            let cells = part.start / self.cell_bytes..part.end.div_ceil(self.cell_bytes);
            cells.map(|i| self.changed[i as usize].min(self.cell(i).len())).sum()
        };
        ByteRange::new(0, self.size_bytes).pieces(part_bytes).map(changed).collect()
    }

    fn cell(&self, index: u64) -> ByteRange {
        let start = index * self.cell_bytes;
        ByteRange::new(start, start.saturating_add(self.cell_bytes)).clip(self.size_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact_at_cells_and_spread_within() {
        let mut map = BlockMap::new(10 * 512 + 100);
        map.add(ByteRange::new(512, 1024));
        map.add(ByteRange::new(1024, 1280));
        map.add(ByteRange::new(5120, 9000));
        for (start, end, share) in [
            (0, 512, 0.0),
            (512, 1024, 1.0),
            (1024, 1536, 0.5),
            (0, 1024, 0.5),
            (1024, 1100, 0.5),
            (5120, 5220, 1.0),
            (5120, 9999, 1.0),
            (7, 7, 0.0),
        ] {
            assert_eq!(map.share(ByteRange::new(start, end)), share, "[{start}, {end})");
        }
        assert_eq!(map.changed_in_parts(1536)[..2], [768, 0]);
        let mut map = BlockMap::new(123_456_789);
        map.add(ByteRange::new(0, 65_401));
        let part_bytes = 512 * map.cell_bytes();
        assert_eq!(map.changed_in_parts(part_bytes)[0], 65_401, "no less and no more");
    }

    #[test]
    fn memory_is_bounded_and_the_largest_device_fits() {
        for size in [0, 1, 512, 513, CELLS_MAX * 512, CELLS_MAX * 512 + 1, u64::MAX] {
            let mut map = BlockMap::new(size);
            assert!(map.changed.len() as u64 <= CELLS_MAX);
            map.add(ByteRange::new(size.saturating_sub(1), u64::MAX));
            let share = map.share(ByteRange::new(size.saturating_sub(1), size));
            assert_eq!(share > 0.0, size > 0, "{size}");
        }
    }

    #[test]
    fn bytes_that_are_written_twice_are_changed_once() {
        let mut map = BlockMap::new(1024);
        for _ in 0..5 {
            map.add(ByteRange::new(0, 512));
        }
        assert_eq!(map.share(ByteRange::new(0, 1024)), 0.5);
    }
}

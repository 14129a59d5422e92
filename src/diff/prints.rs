//! Short prints of the hashes of blocks that differ, so that what is read later can be told
//! from what was compared. Bounded: those of the blocks that were compared first. Pure.

use std::collections::HashMap;

/// Most prints that are kept: they take 35 MiB then. In blocks of 4 KiB that is 7 GiB which differ.
pub const PRINTS_MAX: usize = if cfg!(test) { 1000 } else { (1 << 21) / 8 * 7 };
/// From how many on there is room for all of them at once.
const MANY: usize = 1 << 17;
/// Bytes of a hash that its print keeps: one in four billion changes is taken for none.
const PRINT_BYTES: usize = 4;

/// The prints of one block's hashes on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Print {
    /// Of the local block.
    pub local: u32,
    /// Of the remote block.
    pub remote: u32,
}

/// The print of a hash: its first bytes.
#[must_use]
pub fn print_of(hash: &[u8]) -> u32 {
    let mut bytes = [0; PRINT_BYTES];
    let len = hash.len().min(PRINT_BYTES);
    bytes[..len].copy_from_slice(&hash[..len]);
    u32::from_le_bytes(bytes)
}

/// Prints by the number of their block.
#[derive(Default)]
pub struct Prints(HashMap<u64, Print>);

impl Prints {
    /// Keeps the print of `block`, if there is room.
    pub fn insert(&mut self, block: u64, print: Print) {
        let len = self.0.len();
        if len >= PRINTS_MAX {
            return;
        }
        if len >= MANY && len == self.0.capacity() {
            // Once for all: while it grows there are two tables.
            self.0.reserve(PRINTS_MAX - len);
        }
        self.0.insert(block, print);
    }

    /// The print of `block`, if it was kept.
    #[must_use]
    pub fn get(&self, block: u64) -> Option<Print> {
        self.0.get(&block).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_stay_wherever_their_blocks_are_and_later_ones_find_no_room() {
        let mut prints = Prints::default();
        let print = |i: usize| Print { local: i as u32, remote: 7 };
        let block = |i: usize| i as u64 * ((1 << 37) / PRINTS_MAX as u64);
        for i in 0..PRINTS_MAX + 5 {
            prints.insert(block(i), print(i));
        }
        for i in 0..PRINTS_MAX {
            assert_eq!(prints.get(block(i)), Some(print(i)));
        }
        assert_eq!(prints.get(block(PRINTS_MAX)), None);
        assert_eq!(prints.get(1), None);
    }
}

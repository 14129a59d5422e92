//! Short prints of the hashes of blocks that differ, so that what is read later can be told
//! from what was compared. Bounded: a later print may take the place of an earlier one. Pure.

/// Most prints that are kept.
pub const PRINTS_MAX: u64 = 1 << 20;
/// Slots that are allocated at once; an unused region costs nothing.
const CHUNK_SLOTS: u64 = 4096;
/// Bytes of a hash that its print keeps.
const PRINT_BYTES: usize = 8;

/// The prints of one block's hashes on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Print {
    /// Of the local block.
    pub local: u64,
    /// Of the remote block.
    pub remote: u64,
}

/// The print of a hash: its first bytes.
#[must_use]
pub fn print_of(hash: &[u8]) -> u64 {
    let mut bytes = [0; PRINT_BYTES];
    let len = hash.len().min(PRINT_BYTES);
    bytes[..len].copy_from_slice(&hash[..len]);
    u64::from_le_bytes(bytes)
}

#[derive(Clone, Copy)]
struct Slot {
    /// The block's number plus one; 0 while the slot is empty.
    block: u64,
    print: Print,
}

const EMPTY: Slot = Slot { block: 0, print: Print { local: 0, remote: 0 } };

/// Prints by block. Blocks share a slot when their numbers differ by a multiple of
/// [`PRINTS_MAX`], so any [`PRINTS_MAX`] neighbours have room at once.
pub struct Prints {
    chunks: Vec<Option<Box<[Slot]>>>,
}

impl Default for Prints {
    fn default() -> Self {
        Self { chunks: (0..PRINTS_MAX / CHUNK_SLOTS).map(|_| None).collect() }
    }
}

impl Prints {
    /// Keeps the print of `block`, in place of an older one when there is no room.
    pub fn insert(&mut self, block: u64, print: Print) {
        let (chunk, slot) = place(block);
        let slots = self.chunks[chunk]
            .get_or_insert_with(|| vec![EMPTY; CHUNK_SLOTS as usize].into_boxed_slice());
        slots[slot] = Slot { block: block.saturating_add(1), print };
    }

    /// The print of `block`, if it is still there.
    #[must_use]
    pub fn get(&self, block: u64) -> Option<Print> {
        let (chunk, slot) = place(block);
        let slot = self.chunks[chunk].as_ref()?[slot];
        (slot.block == block.saturating_add(1)).then_some(slot.print)
    }
}

fn place(block: u64) -> (usize, usize) {
    let index = block % PRINTS_MAX;
    ((index / CHUNK_SLOTS) as usize, (index % CHUNK_SLOTS) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_print_stays_until_its_slot_is_taken() {
        let mut prints = Prints::default();
        let print = Print { local: 1, remote: 2 };
        prints.insert(5, print);
        prints.insert(PRINTS_MAX - 1, Print { local: 3, remote: 4 });
        assert_eq!(prints.get(5), Some(print));
        assert_eq!(prints.get(5 + PRINTS_MAX), None);
        assert_eq!(prints.get(6), None);
        prints.insert(5 + PRINTS_MAX, Print { local: 5, remote: 6 });
        assert_eq!(prints.get(5), None);
        assert_eq!(prints.get(PRINTS_MAX - 1).unwrap().remote, 4);
    }

    #[test]
    fn all_prints_together_stay_under_32_mib() {
        assert!(PRINTS_MAX * size_of::<Slot>() as u64 <= 32 << 20);
    }
}

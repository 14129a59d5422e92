//! Blocks that were read and checked, kept for the next reader; bounded, least recently used
//! go first. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What an entry costs beside its data, in bytes, at most: 32 for the heap's and the data's own
/// counters, 166 in the two trees where their nodes are as empty as they become. It counts, so that
/// tiny blocks cannot fill the memory with bookkeeping.
pub const ENTRY_BYTES: u64 = 200;

/// Which side a block was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The local device.
    Local,
    /// The remote device.
    Remote,
}

/// Side and number of a block.
pub type Key = (Side, u64);

struct Entry {
    data: Arc<[u8]>,
    /// When it was used last, on the cache's own clock.
    used: u64,
}

/// Blocks by side and number. In trees: a table is twice as large as what it is made for, three times
/// while it grows, and stays that large.
pub struct Cache {
    limit_bytes: u64,
    held_bytes: u64,
    clock: u64,
    entries: BTreeMap<Key, Entry>,
    by_use: BTreeMap<u64, Key>,
}

impl Cache {
    /// An empty cache that holds at most `limit_bytes`, [`ENTRY_BYTES`] a block included, or one
    /// block; with 0 none.
    #[must_use]
    pub fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            held_bytes: 0,
            clock: 0,
            entries: BTreeMap::new(),
            by_use: BTreeMap::new(),
        }
    }

    /// Bytes held, bookkeeping included.
    #[cfg(test)]
    fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Whether a block is there, which does not count as using it.
    pub fn contains(&self, key: Key) -> bool {
        self.entries.contains_key(&key)
    }

    /// The data of a block, which counts as used now.
    pub fn get(&mut self, key: Key) -> Option<Arc<[u8]>> {
        let entry = self.entries.get_mut(&key)?;
        self.by_use.remove(&entry.used);
        self.clock += 1;
        entry.used = self.clock;
        self.by_use.insert(self.clock, key);
        Some(Arc::clone(&entry.data))
    }

    /// Keeps the data of a block, in place of those that were not used for longest. The last block
    /// stays also where it alone is larger than the cache: it is read in pieces, and would be
    /// fetched for each of them.
    pub fn put(&mut self, key: Key, data: Arc<[u8]>) {
        self.remove(key);
        if self.limit_bytes == 0 {
            return;
        }
        let cost = cost(&data);
        while self.held_bytes + cost > self.limit_bytes {
            let Some((_, oldest)) = self.by_use.first_key_value() else { break };
            self.remove(*oldest);
        }
        self.clock += 1;
        self.by_use.insert(self.clock, key);
        self.entries.insert(key, Entry { data, used: self.clock });
        self.held_bytes += cost;
    }

    fn remove(&mut self, key: Key) {
        if let Some(entry) = self.entries.remove(&key) {
            self.by_use.remove(&entry.used);
            self.held_bytes -= cost(&entry.data);
        }
    }
}

fn cost(data: &[u8]) -> u64 {
    data.len() as u64 + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::super::testing::held_bytes;
    use super::*;

    fn block(byte: u8) -> Arc<[u8]> {
        Arc::from(vec![byte; 40])
    }

    #[test]
    fn least_recently_used_goes_first_and_the_limit_holds() {
        let mut cache = Cache::new(3 * (40 + ENTRY_BYTES));
        for i in 0..3 {
            cache.put((Side::Remote, i), block(i as u8));
        }
        assert_eq!(cache.held_bytes(), 3 * (40 + ENTRY_BYTES), "exactly full");
        assert!(cache.get((Side::Remote, 0)).is_some());
        assert!(cache.contains((Side::Remote, 1)));
        cache.put((Side::Remote, 3), block(3));
        assert!(!cache.contains((Side::Remote, 1)), "it was looked for, not used");
        assert_eq!(cache.get((Side::Remote, 0)).unwrap()[0], 0);
        assert!(cache.get((Side::Local, 0)).is_none(), "the other side is another block");
    }

    #[test]
    fn what_the_heap_holds_is_below_the_limit_whatever_the_blocks() {
        const LIMIT_BYTES: u64 = 1 << 20;
        for block_bytes in [1, 16, 64, 256, 4096] {
            let before = held_bytes();
            let mut cache = Cache::new(LIMIT_BYTES);
            let mut random = 1u64;
            for i in 0..40_000u64 {
                random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
                // In a row, here and there, and one that is used again.
                cache.put((Side::Remote, i), Arc::from(vec![0; block_bytes]));
                cache.put((Side::Local, random >> 40), Arc::from(vec![0; block_bytes]));
                cache.get((Side::Remote, i.saturating_sub(random >> 54)));
                let held = u64::try_from(held_bytes() - before).unwrap();
                assert!(held <= cache.held_bytes() + 4096, "{held} bytes, step {i}");
            }
            assert!(cache.held_bytes() > LIMIT_BYTES - 2 * (4096 + ENTRY_BYTES));
            drop(cache);
            assert_eq!(held_bytes(), before);
        }
    }

    #[test]
    fn what_is_larger_than_the_cache_is_kept_alone() {
        let mut cache = Cache::new(40 + ENTRY_BYTES - 1);
        for i in 0..2 {
            cache.put((Side::Local, i), block(1));
            assert!(cache.get((Side::Local, i)).is_some());
        }
        assert_eq!(cache.held_bytes(), 40 + ENTRY_BYTES);
        let mut none = Cache::new(0);
        none.put((Side::Local, 0), Arc::from([]));
        assert_eq!(none.held_bytes(), 0);
    }

    #[test]
    fn a_block_put_twice_is_held_once() {
        let mut cache = Cache::new(1000);
        cache.put((Side::Local, 0), block(1));
        cache.put((Side::Local, 0), block(2));
        assert_eq!(cache.held_bytes(), 40 + ENTRY_BYTES);
        assert_eq!(cache.get((Side::Local, 0)).unwrap()[0], 2);
    }
}

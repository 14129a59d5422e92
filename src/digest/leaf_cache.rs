//! Block hashes that were computed for a tree, kept for those who go down in it.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;

use super::span::BlockSpan;

/// What an entry costs beside its hashes, roughly: two places of the key, the allocation.
const ENTRY_BYTES: usize = 96;

/// Step and start of a run of hashes, in bytes of the device.
type Key = (u64, u64);

#[derive(Default)]
struct Entries {
    runs: BTreeMap<Key, Box<[u8]>>,
    /// Oldest first. They are asked for soon or not at all.
    order: VecDeque<Key>,
    bytes: usize,
}

/// Hashes that need not be computed again.
#[derive(Clone, Copy)]
pub struct Kept<'a> {
    /// Where they are.
    pub cache: &'a LeafCache,
    /// Whether what is computed is added.
    pub adds: bool,
}

/// A bounded store of block hashes; the oldest make room.
pub struct LeafCache {
    hash_len: usize,
    limit_bytes: usize,
    entries: Mutex<Entries>,
}

impl LeafCache {
    /// An empty cache for hashes of `hash_len` bytes.
    #[must_use]
    pub fn new(hash_len: usize, limit_bytes: usize) -> Self {
        Self { hash_len, limit_bytes, entries: Mutex::default() }
    }

    /// Whether the hash of the block of `step` bytes at `start` is kept.
    #[must_use]
    pub fn has(&self, start: u64, step: u64) -> bool {
        BlockSpan::new(start, step, 1).is_ok_and(|block| self.get(block, &mut Vec::new()) > 0)
    }

    /// Forgets the hashes of what begins below `end`, in bytes of the device.
    pub fn forget_below(&self, end: u64) {
        let mut entries = self.entries.lock();
        let Entries { runs, order, bytes } = &mut *entries;
        order.retain(|key| key.1 >= end);
        runs.retain(|key, _| key.1 >= end);
        *bytes = runs.values().map(|run| run.len() + ENTRY_BYTES).sum();
    }

    /// Appends the hashes of the first of `blocks` to `out`, as many as are known without
    /// a gap, and returns how many.
    pub(super) fn get(&self, blocks: BlockSpan, out: &mut Vec<u8>) -> u64 {
        let (step, start) = (blocks.step(), blocks.start());
        let entries = self.entries.lock();
        let Some((key, run)) = entries.runs.range((step, 0)..=(step, start)).next_back() else {
            return 0;
        };
        let distance = start - key.1;
        let skip = distance / step;
        let known = (run.len() / self.hash_len) as u64;
        if !distance.is_multiple_of(step) || skip >= known {
            return 0;
        }
        let count = (known - skip).min(blocks.n());
        // Both are at most the number of hashes in the run.
        let from = skip as usize * self.hash_len;
        out.extend_from_slice(&run[from..from + count as usize * self.hash_len]);
        count
    }

    /// Offers the hashes of `blocks` for keeping.
    pub(super) fn put(&self, blocks: BlockSpan, hashes: &[u8]) {
        let cost = hashes.len() + ENTRY_BYTES;
        if hashes.is_empty() || cost > self.limit_bytes {
            return;
        }
        let key = (blocks.step(), blocks.start());
        let mut entries = self.entries.lock();
        if entries.runs.contains_key(&key) {
            return;
        }
        while entries.bytes + cost > self.limit_bytes {
            let oldest = entries.order.pop_front().and_then(|key| entries.runs.remove(&key));
            let Some(oldest) = oldest else { break };
            entries.bytes -= oldest.len() + ENTRY_BYTES;
        }
        entries.runs.insert(key, hashes.into());
        entries.order.push_back(key);
        entries.bytes += cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(start: u64, step: u64, n: u64) -> BlockSpan {
        BlockSpan::new(start, step, n).expect("a sane range")
    }

    fn get(cache: &LeafCache, start: u64, step: u64, n: u64) -> Vec<u8> {
        let mut out = vec![];
        let count = cache.get(blocks(start, step, n), &mut out);
        assert_eq!(count as usize * 2, out.len());
        out
    }

    #[test]
    fn what_is_forgotten_is_gone_and_makes_room() {
        let room = 2 * (2 + ENTRY_BYTES);
        let cache = LeafCache::new(2, room);
        cache.put(blocks(0, 10, 1), b"aa");
        cache.put(blocks(10, 10, 1), b"bb");
        cache.forget_below(10);
        assert_eq!(get(&cache, 0, 10, 2), b"");
        assert_eq!(get(&cache, 10, 10, 1), b"bb");
        cache.put(blocks(0, 10, 1), b"cc");
        assert_eq!(get(&cache, 0, 10, 1), b"cc");
        assert_eq!(get(&cache, 10, 10, 1), b"bb", "there was room for both");
        let entries = cache.entries.lock();
        assert_eq!((entries.runs.len(), entries.order.len(), entries.bytes), (2, 2, room));
    }

    #[test]
    fn parts_of_a_run_are_found_and_nothing_else() {
        let cache = LeafCache::new(2, 1000);
        cache.put(blocks(100, 10, 4), b"aabbccdd");
        assert_eq!(get(&cache, 100, 10, 4), b"aabbccdd");
        assert_eq!(get(&cache, 110, 10, 2), b"bbcc");
        assert_eq!(get(&cache, 130, 10, 9), b"dd");
        for (start, step) in [(140, 10), (90, 10), (105, 10), (100, 20), (100, 5)] {
            assert_eq!(get(&cache, start, step, 4), b"", "start {start}, step {step}");
        }
    }

    #[test]
    fn the_oldest_make_room_and_the_limit_holds() {
        let cost = ENTRY_BYTES + 2;
        let cache = LeafCache::new(2, 3 * cost);
        for i in 0..4 {
            cache.put(blocks(i * 10, 10, 1), b"xx");
            assert!(cache.entries.lock().bytes <= 3 * cost);
        }
        assert_eq!(get(&cache, 0, 10, 1), b"");
        assert_eq!(get(&cache, 10, 10, 1), b"xx");
        assert_eq!(get(&cache, 30, 10, 1), b"xx");
        let entries = cache.entries.lock();
        assert_eq!((entries.runs.len(), entries.order.len(), entries.bytes), (3, 3, 3 * cost));
    }

    #[test]
    fn an_entry_at_the_limit_is_kept_and_a_larger_one_is_not() {
        let cache = LeafCache::new(2, ENTRY_BYTES + 4);
        cache.put(blocks(0, 10, 3), b"aabbcc");
        assert_eq!(get(&cache, 0, 10, 3), b"");
        cache.put(blocks(0, 10, 2), b"aabb");
        assert_eq!(get(&cache, 0, 10, 3), b"aabb");
    }
}

//! How much of a device a walk looks at at once. Pure.
//!
//! Enough that the link always has something to carry and both sides' threads have something to
//! do; so little that what is held for it stays small, and that a walk whose changes are fetched
//! as they are found does not look at half a device first.

use crate::units::MIB;

/// Segments that may be looked at at once, as long as our own threads have enough to do.
const SEGMENTS: usize = 64;
/// Bytes of the device that may be looked at then, at most.
const BYTES: u64 = 256 * MIB;
/// How many times more of both may be looked at where the link is what is waited for.
const GROWTH_MAX: usize = 8;
/// Hashes that wait to be compared, at most, but for those of one segment.
const HASH_BYTES_MAX: u64 = 8 * MIB;
/// Bytes held for blocks that were found and whose turn to be settled has not come, at which no
/// more is looked for: what keeps a link busy while further hashes come over it.
const FOUND_BYTES_MAX: u64 = 32 * MIB;
/// First looks under way at once where bytes are fetched and changes are found everywhere.
const LOOKS_MIN: usize = 64;

/// What is being looked at and what waits behind that.
pub struct Window {
    /// Segments that may be looked at at once, counted up from a careful beginning.
    segments: usize,
    segments_max: usize,
    growth: usize,
    /// Segments that are being looked at, and their bytes.
    finding: usize,
    finding_bytes: u64,
    /// Bytes held for blocks that were found and wait to be settled.
    found_bytes: u64,
    /// Segments since the last one in which something was found.
    unchanged_run: usize,
}

impl Window {
    /// Begins with `segments`, each of `segment_bytes`.
    pub fn new(segments: usize, segment_bytes: u64) -> Self {
        let most = usize::try_from(BYTES / segment_bytes).unwrap_or(usize::MAX);
        Self {
            segments,
            segments_max: most.clamp(1, SEGMENTS),
            growth: 1,
            finding: 0,
            finding_bytes: 0,
            found_bytes: 0,
            unchanged_run: 0,
        }
    }

    /// Bytes that are being looked at.
    pub fn finding_bytes(&self) -> u64 {
        self.finding_bytes
    }

    /// Whether another segment may be looked at while hashes take `hash_bytes`.
    pub fn is_open(&self, hash_bytes: u64) -> bool {
        self.finding < self.segments.min(self.segments_max * self.growth)
            && (self.finding == 0 || hash_bytes < HASH_BYTES_MAX)
            && self.found_bytes < FOUND_BYTES_MAX
    }

    /// A segment of `bytes` is being looked at.
    pub fn begin(&mut self, bytes: u64) {
        self.finding += 1;
        self.finding_bytes += bytes;
    }

    /// In a segment of `bytes`, blocks were found for which `found_bytes` are held.
    pub fn found(&mut self, bytes: u64, found_bytes: u64) {
        self.segments = self.segments.saturating_add(1);
        self.finding -= 1;
        self.finding_bytes -= bytes;
        self.found_bytes += found_bytes;
        self.unchanged_run = if found_bytes == 0 { self.unchanged_run + 1 } else { 0 };
    }

    /// Blocks that were found and `bytes` are held for are being settled.
    pub fn settling(&mut self, bytes: u64) {
        self.found_bytes -= bytes;
    }

    /// Whether [`Window::grow`] would change anything.
    pub fn can_grow(&self) -> bool {
        self.growth < GROWTH_MAX
    }

    /// Lets more be looked at: the link is what is waited for.
    pub fn grow(&mut self) {
        self.growth = (2 * self.growth).min(GROWTH_MAX);
    }

    /// How many first looks may be under way at once where bytes are fetched as they are found:
    /// these are what the link shall carry, and both sides' threads what becomes of earlier looks.
    pub fn looks(&self) -> usize {
        LOOKS_MIN + self.unchanged_run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 4 * MIB;

    fn fill(window: &mut Window, hash_bytes: u64) -> usize {
        (0..)
            .take_while(|_| {
                window.is_open(hash_bytes) && {
                    window.begin(SEGMENT);
                    true
                }
            })
            .count()
    }

    #[test]
    fn as_many_segments_are_looked_at_as_bytes_growth_and_hashes_allow() {
        let mut window = Window::new(usize::MAX, SEGMENT);
        assert_eq!(fill(&mut window, 0), SEGMENTS);
        window.grow();
        assert_eq!(fill(&mut window, 0), SEGMENTS);
        assert_eq!(window.finding_bytes(), 2 * SEGMENTS as u64 * SEGMENT);
        (0..9).for_each(|_| window.grow());
        assert!(!window.can_grow());
        assert_eq!(fill(&mut window, HASH_BYTES_MAX), 0);
        assert_eq!(fill(&mut window, 0), SEGMENTS * (GROWTH_MAX - 2));
        let mut large = Window::new(usize::MAX, BYTES * 2);
        assert_eq!(fill(&mut large, 0), 1);
        assert!(Window::new(usize::MAX, SEGMENT).is_open(u64::MAX), "one may always be");
    }

    #[test]
    fn a_careful_beginning_goes_on_with_each_answer() {
        let mut window = Window::new(8, SEGMENT);
        assert_eq!(fill(&mut window, 0), 8);
        window.found(SEGMENT, 0);
        assert_eq!(fill(&mut window, 0), 2);
    }

    #[test]
    fn what_was_found_is_settled_before_more_is_looked_for() {
        let mut window = Window::new(usize::MAX, SEGMENT);
        window.begin(SEGMENT);
        window.found(SEGMENT, FOUND_BYTES_MAX);
        assert!(!window.is_open(0));
        window.settling(1);
        assert!(window.is_open(0));
    }

    #[test]
    fn more_looks_are_under_way_the_longer_nothing_is_found() {
        let mut window = Window::new(usize::MAX, SEGMENT);
        assert_eq!(fill(&mut window, 0), SEGMENTS);
        (0..10).for_each(|_| window.found(SEGMENT, 0));
        assert_eq!(window.looks(), LOOKS_MIN + 10);
        window.found(SEGMENT, 1);
        assert_eq!(window.looks(), LOOKS_MIN);
    }
}

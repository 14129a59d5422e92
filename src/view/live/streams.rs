//! Who reads on where they stopped, and how far to look ahead for them. Pure.
//!
//! A read that begins near the end of an earlier one continues it. Kernels read ahead with
//! several requests at once, which arrive in any order, so near is good enough. Only a stream that
//! moves forward grows its window; a reader who jumps about never gets more than the smallest.

use crate::units::{ByteRange, KIB, MIB};

/// Bytes that are compared at least when something has to be, so that neighbours come along.
pub const WINDOW_BYTES_MIN: u64 = 64 * KIB;
/// Bytes that are compared ahead of a stream at most.
pub const WINDOW_BYTES_MAX: u64 = 8 * MIB;
/// Streams that are remembered.
const STREAMS_MAX: usize = 16;
/// How far from a stream's end a read may begin to continue it.
const NEAR_BYTES: u64 = 256 * KIB;
/// Reads in a row that make a stream; before, it may be chance.
const READS_MIN: u32 = 2;

#[derive(Clone, Copy)]
struct Stream {
    end: u64,
    window_bytes: u64,
    reads: u32,
    used: u64,
    /// Bytes of its reads.
    read_bytes: u64,
    /// How far it was fetched for.
    fetched: u64,
}

impl Stream {
    fn is_near(&self, offset: u64) -> bool {
        offset.abs_diff(self.end) <= NEAR_BYTES.max(self.window_bytes / 4)
    }
}

/// The streams of one file.
#[derive(Default)]
pub struct Streams {
    streams: Vec<Stream>,
    clock: u64,
}

impl Streams {
    /// Notes a read and says how many bytes behind its end are worth looking at now: 0 for one
    /// that continues nothing.
    pub fn note(&mut self, range: ByteRange) -> u64 {
        self.clock += 1;
        let near = |stream: &&mut Stream| stream.is_near(range.start);
        if let Some(stream) = self.streams.iter_mut().filter(near).max_by_key(|s| s.used) {
            stream.used = self.clock;
            if range.end > stream.end {
                stream.end = range.end;
                stream.read_bytes += range.len();
                stream.reads = stream.reads.saturating_add(1);
                if stream.reads > READS_MIN {
                    let doubled = (2 * stream.window_bytes).min(WINDOW_BYTES_MAX);
                    stream.window_bytes = doubled;
                }
            }
            let ahead = (stream.end + stream.window_bytes).saturating_sub(range.end);
            return if stream.reads < READS_MIN { 0 } else { ahead.min(WINDOW_BYTES_MAX) };
        }
        if self.streams.len() == STREAMS_MAX {
            let oldest = (0..STREAMS_MAX).min_by_key(|&i| self.streams[i].used);
            oldest.map(|oldest| self.streams.swap_remove(oldest));
        }
        self.streams.push(Stream {
            end: range.end,
            window_bytes: WINDOW_BYTES_MIN,
            reads: 1,
            used: self.clock,
            read_bytes: range.len(),
            fetched: 0,
        });
        0
    }

    /// Has `fetch` get what is within `ahead` bytes behind `range`, which was noted before, and was
    /// not fetched for its stream yet. It says how far it came; what it left is asked for again.
    /// Not for every few bytes: half of them may wait. Not more than the stream has read so far:
    /// reads may also be near one another by chance.
    pub fn fetch(&mut self, range: ByteRange, ahead: u64, fetch: impl FnOnce(ByteRange) -> u64) {
        let near = |stream: &&mut Stream| stream.is_near(range.end);
        let Some(stream) = self.streams.iter_mut().filter(near).max_by_key(|s| s.used) else {
            return;
        };
        let ahead = ahead.min(stream.read_bytes);
        let start = stream.fetched.max(range.end);
        if start - range.end <= ahead / 2 && ahead > 0 {
            stream.fetched = fetch(ByteRange::new(start, range.end.saturating_add(ahead)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(start: u64, len: u64) -> ByteRange {
        ByteRange::new(start, start + len)
    }

    #[test]
    fn sequential_readers_see_further_and_further() {
        let mut streams = Streams::default();
        let step = 128 * KIB;
        let ahead: Vec<u64> = (0..12).map(|i| streams.note(read(i * step, step))).collect();
        assert_eq!(ahead[0], 0);
        assert!(ahead.windows(2).all(|w| w[0] <= w[1]), "{ahead:?}");
        assert_eq!(ahead[11], WINDOW_BYTES_MAX);
    }

    #[test]
    fn what_lies_ahead_is_fetched_once_and_by_halves() {
        let mut streams = Streams::default();
        let (step, ahead) = (64 * KIB, MIB);
        let mut fetched = Vec::new();
        for i in 0..48 {
            let range = read(i * step, step);
            streams.note(range);
            streams.fetch(range, ahead, |more| {
                fetched.push(more);
                more.end
            });
        }
        assert!(fetched.windows(2).all(|two| two[0].end == two[1].start), "{fetched:?}");
        assert!(fetched.iter().all(|more| more.end <= 2 * more.start), "{fetched:?}");
        // Half a dozen while it grows.
        assert!(fetched.len() <= 6 + 48 / 8, "{fetched:?}");
        assert_eq!(fetched.last().map(ByteRange::len), Some(MIB / 2), "{fetched:?}");
        streams.fetch(read(47 * step, step), 0, |more| panic!("{more}"));
        streams.fetch(read(1 << 40, step), ahead, |more| panic!("{more}"));
    }

    #[test]
    fn what_could_not_be_fetched_yet_is_asked_for_again() {
        let mut streams = Streams::default();
        let range = read(0, MIB);
        streams.note(range);
        streams.fetch(range, 0, |more| panic!("{more}"));
        for came_to in [MIB, MIB + 100 * KIB, 2 * MIB] {
            let mut asked = None;
            streams.fetch(range, MIB, |more| {
                asked = Some(more);
                came_to
            });
            assert_eq!(asked.map(|more| more.end), Some(range.end + MIB));
        }
        streams.fetch(range, MIB, |more| panic!("{more}"));
    }

    #[test]
    fn jumping_readers_never_pay() {
        let mut streams = Streams::default();
        for i in 0..1000u64 {
            let start = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 24;
            assert_eq!(streams.note(read(start, 4096)), 0, "read {i}");
        }
        assert_eq!(streams.streams.len(), STREAMS_MAX);
    }

    #[test]
    fn a_reader_among_jumping_ones_is_not_forgotten() {
        let mut streams = Streams::default();
        let mut jumps = (1..).map(|far| read(far << 40, 4096));
        let mut jump = |streams: &mut Streams| streams.note(jumps.next().unwrap());
        for _ in 0..20 {
            jump(&mut streams);
        }
        for i in 0..100 {
            let ahead = streams.note(read(i * 4096, 4096));
            assert_eq!(ahead > 0, i > 0, "read {i}");
            jump(&mut streams);
        }
    }

    #[test]
    fn a_long_stream_is_continued_from_further_away_and_never_looked_beyond_its_window() {
        let mut streams = Streams::default();
        for i in 0..64 {
            streams.note(read(i * MIB, MIB));
        }
        assert_eq!(streams.note(read(63 * MIB, MIB / 2)), WINDOW_BYTES_MAX);
        assert!(streams.note(read(65 * MIB, 4096)) > 0);
        assert_eq!(streams.note(read(80 * MIB, 4096)), 0);
    }

    #[test]
    fn reading_one_place_again_and_again_is_no_stream() {
        let mut streams = Streams::default();
        for _ in 0..100 {
            assert_eq!(streams.note(read(1 << 30, 4096)), 0);
        }
    }

    #[test]
    fn requests_out_of_order_and_a_second_stream_disturb_nothing() {
        let mut streams = Streams::default();
        let step = 128 * KIB;
        let mut last = 0;
        for i in 0..20 {
            let swapped = i ^ 1;
            last = streams.note(read(swapped * step, step));
            streams.note(read((1 << 40) + i * step, step));
        }
        assert!(last >= WINDOW_BYTES_MAX / 2, "{last}");
    }
}

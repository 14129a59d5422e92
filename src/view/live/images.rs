//! The bytes of `merged` and `original`.
//!
//! ```text
//!             common part and what resizing adds        minsize: the target's own tail
//!   push      merged local, original compared           both remote
//!   pull      merged compared, original local           both local
//! ```
//! Compared: the local bytes (zeros behind their end) where the blocks are the same, the remote's
//! where they differ.

use std::sync::Arc;

use super::super::change::{Done, Image};
use super::Live;
use super::streams::WINDOW_BYTES_MIN;
use crate::diff::{Blocks, Gathering, Map, Plan, State};
use crate::error::Result;
use crate::units::{ByteRange, Direction, Priority};

/// As many blocks are read at once: each may be a request of its own, and of tiny blocks one read has
/// more than may wait for the remote side.
const READ_BLOCKS_MAX: u64 = 16_384;

/// Where bytes of an image come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The local device.
    Local,
    /// The remote device, uncompared.
    Remote,
    /// The local device where the same, else the remote one.
    Compared,
}

/// Exact size of an image, in bytes.
pub(super) fn image_bytes(plan: &Plan, image: Image) -> u64 {
    let (_, target_bytes) = plan.source_and_target_bytes();
    match image {
        Image::Original => target_bytes,
        // A common part leaves the target as long as it is.
        Image::Merged if is_minsize(plan) => target_bytes,
        Image::Merged => plan.header_bytes,
    }
}

/// Whether only the common part of two different sizes is compared.
fn is_minsize(plan: &Plan) -> bool {
    plan.compared.end < plan.local_bytes.max(plan.remote_bytes)
}

/// The bounds of the sources of an image, ascending; at most two.
fn sources(plan: &Plan, image: Image) -> Vec<(ByteRange, Source)> {
    let size = image_bytes(plan, image);
    let (source, tail) = match (plan.direction, image) {
        (Direction::Push, Image::Merged) => (Source::Local, Source::Remote),
        (Direction::Push, Image::Original) => (Source::Compared, Source::Remote),
        (Direction::Pull, Image::Merged) => (Source::Compared, Source::Local),
        (Direction::Pull, Image::Original) => (Source::Local, Source::Local),
    };
    let all = ByteRange::new(0, size);
    let parts =
        [(all.clip(plan.compared.end), source), (ByteRange::new(plan.compared.end, size), tail)];
    parts.into_iter().filter(|(range, _)| !range.is_empty()).collect()
}

/// Where an image ends that is made of what is compared: behind it is nothing to look ahead at.
fn compared_end(plan: &Plan, image: Image) -> u64 {
    plan.compared.end.min(image_bytes(plan, image))
}

/// Whether an image takes nothing from the remote side.
pub(super) fn is_at_hand(plan: &Plan, image: Image) -> bool {
    sources(plan, image).iter().all(|(_, source)| *source == Source::Local)
}

/// Whether an image is the local device, byte for byte.
pub(super) fn is_local(plan: &Plan, image: Image) -> bool {
    image_bytes(plan, image) == plan.local_bytes && is_at_hand(plan, image)
}

impl Live {
    pub(super) fn read_image(
        self: &Arc<Self>,
        image: Image,
        range: ByteRange,
        done: Done<Vec<u8>>,
    ) {
        let piece_bytes = READ_BLOCKS_MAX * self.engine.plan().block_bytes;
        if range.len() <= piece_bytes {
            return self.read_piece(image, range, done);
        }
        self.read_on(image, range, piece_bytes, vec![], done);
    }

    /// Reads what comes behind `bytes`, a piece after the other.
    fn read_on(
        self: &Arc<Self>,
        image: Image,
        rest: ByteRange,
        piece_bytes: u64,
        mut bytes: Vec<u8>,
        done: Done<Vec<u8>>,
    ) {
        let piece = rest.clip(rest.start.saturating_add(piece_bytes));
        if piece.is_empty() {
            return done(Ok(bytes));
        }
        let live = Arc::clone(self);
        let read = move |result: Result<Vec<u8>>| match result {
            Ok(more) => {
                bytes.extend(more);
                let rest = ByteRange::new(piece.end, rest.end);
                live.read_on(image, rest, piece_bytes, bytes, done);
            }
            Err(err) => done(Err(err)),
        };
        self.read_piece(image, piece, Box::new(read));
    }

    fn read_piece(self: &Arc<Self>, image: Image, range: ByteRange, done: Done<Vec<u8>>) {
        let mut parts = sources(self.engine.plan(), image);
        parts.iter_mut().for_each(|(part, _)| *part = part.intersect(&range));
        parts.retain(|(part, _)| !part.is_empty());
        let compared = parts.iter().find(|(_, source)| *source == Source::Compared);
        let Some(&(compared, _)) = compared else {
            return self.assemble(range, &parts, done);
        };
        let want = self.blocks_of(compared);
        let ahead = self.streams[image as usize].lock().note(range);
        let window = self.window(image, compared, &want, ahead);
        if self.resolver.is_known(want.clone()) {
            if ahead > 0 {
                self.read_ahead(window);
            }
            self.assemble(range, &parts, done);
            // Behind what somebody waits for.
            return self.fetch_ahead(image, range, ahead);
        }
        let live = Arc::clone(self);
        let known = move |result: Result<()>| match result {
            // The devices are read on the pool: whoever brought the answer must go on.
            Ok(()) => {
                let worker = Arc::clone(&live);
                let work = move |_: &mut _| worker.assemble(range, &parts, done);
                live.engine.pool().submit(Priority::Interactive, work);
            }
            Err(err) => done(Err(err)),
        };
        self.resolver.resolve(want, window, Priority::Interactive, Box::new(known));
    }

    fn blocks_of(&self, range: ByteRange) -> Blocks {
        let block_bytes = self.engine.plan().block_bytes;
        range.start / block_bytes..range.end.div_ceil(block_bytes)
    }

    /// The blocks worth comparing along with `want`: the neighbours that one answer has room
    /// for, or, `ahead` of a stream, as many bytes as that is to be.
    fn window(&self, image: Image, range: ByteRange, want: &Blocks, ahead: u64) -> Blocks {
        let end = compared_end(self.engine.plan(), image);
        if ahead > 0 {
            let segment = self.resolver.segment_blocks();
            let seen = ByteRange::new(range.start, range.end.saturating_add(ahead));
            let mut window = self.blocks_of(seen.clip(end));
            // Whole segments are compared from coarse to fine.
            if window.end - want.end > segment / 2 {
                let last = self.blocks_of(ByteRange::new(0, end)).end;
                window.end = (window.end.div_ceil(segment) * segment).min(last);
            }
            return window;
        }
        let window = self.blocks_of(range.align_out(WINDOW_BYTES_MIN).clip(end));
        let hashes_max = self.engine.peer().session().hashes_max();
        let room_end = want.start.saturating_add(hashes_max);
        if window.end - window.start <= hashes_max {
            window
        } else {
            want.start..window.end.min(room_end).max(want.end)
        }
    }

    /// Compares what a stream will want next. Its errors are found again by whoever reads.
    fn read_ahead(self: &Arc<Self>, window: Blocks) {
        let Some(first) = self.resolver.with_map(|map| map.first_unknown(window.start, window.end))
        else {
            return;
        };
        // Not for every few blocks: half of the window may wait.
        if first - window.start <= (window.end - window.start) / 2 {
            let want = first..first + 1;
            self.resolver.resolve(want, first..window.end, Priority::Scan, Box::new(drop));
        }
    }

    /// Fetches what a stream that has read `range` will want next, as far as it is known.
    fn fetch_ahead(&self, image: Image, range: ByteRange, ahead: u64) {
        let plan = self.engine.plan();
        let ahead = ahead.min(self.remote.ahead_bytes_max());
        self.streams[image as usize].lock().fetch(range, ahead, |more| {
            let blocks = self.blocks_of(more.clip(compared_end(plan, image)));
            let (differing, known_end) = self.resolver.with_map(|map| {
                let known_end = map.first_unknown(blocks.start, blocks.end).unwrap_or(blocks.end);
                (map.differing(blocks.start, known_end).collect::<Vec<_>>(), known_end)
            });
            let taken = self.remote.fetch_ahead(&differing);
            differing.get(taken).unwrap_or(&known_end) * plan.block_bytes
        });
    }

    /// Puts `range` together from parts that are known. The local ones come last: whoever waits
    /// for the remote side holds no memory meanwhile.
    fn assemble(
        self: &Arc<Self>,
        range: ByteRange,
        parts: &[(ByteRange, Source)],
        done: Done<Vec<u8>>,
    ) {
        let (local, remote) = self.places(parts);
        if remote.is_empty() {
            return done(self.with_local(range, &local, vec![0; range.len() as usize]));
        }
        let fetched = remote.iter().map(|&part| self.remote.held_bytes(part));
        let bytes = fetched.fold(range.len(), u64::saturating_add);
        // Not the places, which are looked up again: of small blocks there are many.
        let (live, parts) = (Arc::clone(self), parts.to_vec());
        self.fetching.admit(bytes, move |permit| {
            let (local, remote) = live.places(&parts);
            // On the pool: whoever brings the last part must go on.
            let pool = live.engine.pool().submitter();
            let worker = Arc::clone(&live);
            let gathered = move |result: Result<Vec<u8>>| {
                pool.submit(Priority::Interactive, move |_: &mut _| {
                    done(result.and_then(|bytes| worker.with_local(range, &local, bytes)));
                    drop(permit);
                });
            };
            let placed = remote.iter().map(|&piece| (piece.start, piece));
            live.gather_remote(range, placed, Box::new(gathered));
        });
    }

    /// Where the bytes of known `parts` are: those of the local device, and those of the remote one.
    fn places(&self, parts: &[(ByteRange, Source)]) -> (Vec<ByteRange>, Vec<ByteRange>) {
        let (mut local, mut remote) = (Vec::new(), Vec::new());
        for &(part, source) in parts {
            match source {
                Source::Local => local.push(part),
                Source::Remote => remote.push(part),
                Source::Compared => {
                    let (same, other) = self.split(part);
                    local.extend(same);
                    remote.extend(other);
                }
            }
        }
        (local, remote)
    }

    /// The bytes of `range`, with pieces from the remote side that are `placed`, each where its
    /// offset in `range` says; zeros elsewhere.
    pub(super) fn gather_remote(
        &self,
        range: ByteRange,
        placed: impl ExactSizeIterator<Item = (u64, ByteRange)>,
        done: Done<Vec<u8>>,
    ) {
        let gathering = Gathering::new(range, Vec::new(), placed.len(), done);
        for (offset, piece) in placed {
            let gathering = Arc::clone(&gathering);
            let got = move |result: Result<Vec<u8>>| match result {
                Ok(data) => gathering.put(offset, &data),
                Err(err) => gathering.fail(err),
            };
            self.remote.read(piece, Priority::Interactive, Box::new(got));
        }
        gathering.check();
    }

    /// `bytes` of `range` with the local ones in their `places`.
    fn with_local(
        &self,
        range: ByteRange,
        places: &[ByteRange],
        mut bytes: Vec<u8>,
    ) -> Result<Vec<u8>> {
        for &piece in places {
            let at = (piece.start - range.start) as usize;
            self.read_local(piece, &mut bytes[at..][..piece.len() as usize])?;
        }
        if !places.is_empty() {
            self.engine.check_local()?;
        }
        Ok(bytes)
    }

    /// The parts of a known `range` that are the same, and those that differ.
    fn split(&self, range: ByteRange) -> (Vec<ByteRange>, Vec<ByteRange>) {
        let block_bytes = self.engine.plan().block_bytes;
        let blocks = self.blocks_of(range);
        let (mut same, mut other) = (Vec::new(), Vec::new());
        self.resolver.with_map(|map| {
            let mut at = blocks.start;
            while at < blocks.end {
                let differs = map.state(at) == State::Differs;
                let end = run_end(map, at, blocks.end, differs);
                let run = ByteRange::new(at * block_bytes, end * block_bytes).intersect(&range);
                if differs { &mut other } else { &mut same }.push(run);
                at = end;
            }
        });
        (same, other)
    }

    /// Reads local bytes; behind the device's end there are zeros.
    fn read_local(&self, range: ByteRange, place: &mut [u8]) -> Result<()> {
        let local = self.engine.local();
        let present = range.clip(local.size());
        let (data, zeros) = place.split_at_mut(present.len() as usize);
        zeros.fill(0);
        if data.is_empty() { Ok(()) } else { local.read_exact_at(data, present.start) }
    }

    /// A hole is what is one locally and the same on both sides as far as that matters.
    pub(super) fn next_data(&self, image: Image, from: u64) -> Result<Option<ByteRange>> {
        let plan = self.engine.plan();
        for (range, source) in sources(plan, image) {
            if range.end <= from {
                continue;
            }
            let rest = ByteRange::new(from.max(range.start), range.end);
            let data = match source {
                Source::Remote => Some(rest),
                Source::Local => self.local_data(rest)?,
                Source::Compared => self.compared_data(rest)?,
            };
            if let Some(data) = data {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    fn local_data(&self, range: ByteRange) -> Result<Option<ByteRange>> {
        let data = self.engine.local().next_data(range.start)?;
        self.engine.check_local()?;
        Ok(data.map(|data| data.intersect(&range)).filter(|data| !data.is_empty()))
    }

    fn compared_data(&self, range: ByteRange) -> Result<Option<ByteRange>> {
        let local = self.local_data(range)?;
        let hole = ByteRange::new(range.start, local.map_or(range.end, |data| data.start));
        if hole.is_empty() {
            return Ok(local);
        }
        let block_bytes = self.engine.plan().block_bytes;
        let blocks = self.blocks_of(hole);
        let stranger = self.resolver.with_map(|map| {
            let start = map.find(blocks.start, blocks.end, |state| state != State::Same)?;
            let end = map.find(start, blocks.end, |state| state == State::Same);
            let end = end.map_or(hole.end, |end| end * block_bytes);
            Some(ByteRange::new(start * block_bytes, end).intersect(&hole))
        });
        Ok(stranger.or(local))
    }
}

/// Where the run of blocks that differ, or do not, ends that `at` lies in.
fn run_end(map: &Map, at: u64, end: u64, differs: bool) -> u64 {
    map.find(at, end, |state| (state == State::Differs) != differs).unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::SizeRule;

    #[test]
    fn only_an_image_that_is_all_local_may_be_read_past_us() {
        let local = |direction, remote_bytes, rule, image| {
            is_local(&Plan::new(direction, 100, remote_bytes, 10, rule).unwrap(), image)
        };
        let (push, pull) = (Direction::Push, Direction::Pull);
        assert!(local(push, 100, SizeRule::Strict, Image::Merged));
        assert!(local(push, 150, SizeRule::Resize, Image::Merged));
        assert!(!local(push, 150, SizeRule::MinSize, Image::Merged), "has a remote tail");
        assert!(!local(push, 50, SizeRule::MinSize, Image::Merged), "is shorter");
        assert!(!local(push, 100, SizeRule::Strict, Image::Original));
        assert!(local(pull, 50, SizeRule::Resize, Image::Original));
        assert!(!local(pull, 100, SizeRule::Strict, Image::Merged));
    }
}

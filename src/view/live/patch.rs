//! The bytes of the patch file at any offset, as the client would print it.
//!
//! Nothing of it is kept: the map says which blocks it carries and where, their data are read
//! again and held against the prints of what was compared.

use std::iter::repeat_n;
use std::sync::Arc;

use super::super::change::Done;
use super::Live;
use super::budget::{Budget, Permit};
use crate::diff::{Side, State, changed_error, print_of};
use crate::error::{Error, Result};
use crate::units::{ByteRange, Direction, MIB, Priority, push_joined};

/// Bytes of blocks that one answer is made of at most (one block at least).
const ANSWER_BYTES_MAX: u64 = MIB;
/// Blocks that one answer is made of at most.
const ANSWER_BLOCKS_MAX: u64 = 4096;
/// Local blocks longer than this are kept in the cache: several reads want the same one.
const CACHED_BLOCK_BYTES_MIN: u64 = 32 * 1024;

/// What the map says about an offset of the patch file.
enum Part {
    /// Bytes that need no device.
    Ready(Vec<u8>),
    /// These records.
    Records(Vec<Piece>),
    /// What lies behind the records, from this position in it.
    Tail(u64),
    /// This block has to be compared first.
    Unknown(u64),
}

/// A part of the records of one block.
struct Piece {
    block: u64,
    part: ByteRange,
}

/// What somebody reads, as far as it is there.
struct Answer {
    offset: u64,
    len: u64,
    /// Bytes behind it that are worth fetching now.
    ahead: u64,
    got: Vec<u8>,
    /// `None` while it holds nothing.
    permit: Option<Permit>,
    done: Done<Vec<u8>>,
}

impl Answer {
    /// Where what is missing begins, and its length.
    fn rest(&self) -> (u64, u64) {
        let got = self.got.len() as u64;
        (self.offset + got, self.len - got)
    }

    fn put(&mut self, more: Vec<u8>) {
        if self.got.is_empty() {
            self.got = more;
        } else {
            self.got.extend(more);
        }
    }

    fn send(self) {
        (self.done)(Ok(self.got));
    }

    fn fail(self, err: Error) {
        (self.done)(Err(err));
    }
}

impl Live {
    /// Exact size of the patch file, when all that it may carry has been compared.
    pub(super) fn patch_bytes(&self) -> Option<u64> {
        let blocks = self.layout.blocks();
        if self.resolver.frontier(blocks) < blocks {
            return None;
        }
        Some(self.records_end() + self.layout.tail_bytes())
    }

    /// Where the records end; everything must be known.
    fn records_end(&self) -> u64 {
        let (count, last_differs) = self.differing();
        self.layout.records_end(count, last_differs)
    }

    /// Bytes that are known to differ, of those that the patch may carry.
    pub(super) fn differing_bytes(&self) -> u64 {
        let (count, last_differs) = self.differing();
        self.layout.data_bytes(count, last_differs)
    }

    /// How many of the patch's blocks are known to differ, and whether the last one is.
    fn differing(&self) -> (u64, bool) {
        let blocks = self.layout.blocks();
        self.resolver.with_map(|map| {
            let last = blocks.checked_sub(1);
            let differs = last.is_some_and(|last| map.state(last) == State::Differs);
            (map.rank(blocks), differs)
        })
    }

    /// Up to `len` bytes at `offset`: all of them where the patch is known that far, for the
    /// kernel takes less for the end of a file of known size; else at least one.
    pub(super) fn read_patch(self: &Arc<Self>, offset: u64, len: u64, done: Done<Vec<u8>>) {
        let wanted = ByteRange::new(offset, offset.saturating_add(len));
        let ahead = match self.engine.plan().direction {
            Direction::Push => 0,
            Direction::Pull => self.patch_streams.lock().note(wanted),
        };
        self.go_on(Answer { offset, len, ahead, got: Vec::new(), permit: None, done });
    }

    /// Appends to `answer` what follows in it, part by part, and sends it.
    fn go_on(self: &Arc<Self>, mut answer: Answer) {
        if answer.permit.is_none() {
            return self.admit(answer);
        }
        let (next, rest) = answer.rest();
        if rest == 0 {
            return answer.send();
        }
        match self.part(next, rest) {
            Part::Ready(bytes) => {
                answer.put(bytes);
                self.go_on(answer);
            }
            Part::Records(pieces) => {
                let live = Arc::clone(self);
                let (wanted, ahead) = (ByteRange::new(next, next + rest), answer.ahead);
                let append = move |records: Result<Vec<u8>>| match records {
                    Ok(records) => {
                        answer.put(records);
                        live.go_on(answer);
                    }
                    Err(err) => answer.fail(err),
                };
                self.read_records(pieces, Box::new(append));
                // Behind what somebody waits for.
                self.fetch_patch_ahead(wanted, ahead);
            }
            Part::Tail(from) => self.append_tail(answer, from),
            Part::Unknown(_) if !answer.got.is_empty() => answer.send(),
            Part::Unknown(block) => {
                let then = self.then(answer);
                self.scan(block, true, Box::new(then));
            }
        }
    }

    /// Fetches the blocks of the `ahead` bytes behind a stream that has read `range`, and compares
    /// on where too few of them are known. What goes wrong is found again by whoever reads.
    fn fetch_patch_ahead(self: &Arc<Self>, range: ByteRange, ahead: u64) {
        let limit = self.layout.blocks();
        let frontier = self.resolver.frontier(limit);
        let mut is_short = false;
        let ahead = ahead.min(self.remote.ahead_bytes_max());
        self.patch_streams.lock().fetch(range, ahead, |more| {
            let ranks = self.layout.records_in(more);
            let count = ranks.end - ranks.start;
            let blocks = self.differing_from(ranks.start, count, frontier);
            is_short = (blocks.len() as u64) < count;
            let taken = self.remote.fetch_ahead(&blocks) as u64;
            self.layout.records_end(ranks.start + taken, false)
        });
        let may_scan = || {
            let is_idle = self.resolver.scanning_blocks() == 0;
            is_idle && !self.failures.lock().scan_failed
        };
        if is_short && frontier < limit && may_scan() {
            self.scan(frontier, true, Box::new(drop));
        }
    }

    /// Goes on once there is room for what `answer` may hold.
    fn admit(self: &Arc<Self>, mut answer: Answer) {
        let live = Arc::clone(self);
        let (budget, bytes) = self.share_of(answer.len);
        budget.admit(bytes, move |permit| {
            answer.permit = Some(permit);
            live.go_on(answer);
        });
    }

    /// Goes on with `answer` once something is known that may take long. Nothing is held until
    /// then: what it has already is made again.
    fn then<T>(self: &Arc<Self>, mut answer: Answer) -> impl FnOnce(Result<T>) + Send + use<T> {
        (answer.got, answer.permit) = (Vec::new(), None);
        let live = Arc::clone(self);
        move |result| match result {
            Ok(_) => live.go_on(answer),
            Err(err) => answer.fail(err),
        }
    }

    /// What an answer of `len` bytes takes of which budget.
    fn share_of(&self, len: u64) -> (&Budget, u64) {
        let plan = self.engine.plan();
        match plan.direction {
            // Its blocks are read whole, one after the other.
            Direction::Push => (&self.encoding, len.saturating_add(plan.block_bytes)),
            // The blocks at both ends are fetched whole, and each may lie by itself.
            Direction::Pull => {
                let blocks = (len / plan.block_bytes + 2).min(ANSWER_BLOCKS_MAX);
                let each = self.remote.held_bytes(ByteRange::new(0, plan.block_bytes));
                (&self.fetching, len.saturating_add(blocks.saturating_mul(each)))
            }
        }
    }

    fn part(&self, offset: u64, len: u64) -> Part {
        let Some((rank, skip)) = self.layout.place(offset) else {
            let header = &self.layout.header()[offset as usize..];
            return Part::Ready(header[..header.len().min(len as usize)].to_vec());
        };
        let limit = self.layout.blocks();
        let frontier = self.resolver.frontier(limit);
        let record_bytes = self.layout.record_bytes();
        let count = (skip + len).min(ANSWER_BYTES_MAX).div_ceil(record_bytes);
        let blocks = self.differing_from(rank, count.min(ANSWER_BLOCKS_MAX), frontier);
        match blocks.first() {
            Some(&first) if skip < self.layout.record_bytes_of(first) => {
                Part::Records(self.pieces(&blocks, ByteRange::new(skip, skip + len)))
            }
            _ if frontier < limit => Part::Unknown(frontier),
            _ => Part::Tail(offset - self.records_end()),
        }
    }

    /// The first `count` of the blocks below `frontier` that are known to differ, of which `rank`
    /// come before.
    fn differing_from(&self, rank: u64, count: u64, frontier: u64) -> Vec<u64> {
        self.resolver.with_map(|map| {
            let first = map.select(rank).unwrap_or(frontier);
            map.differing(first, frontier).take(count as usize).collect()
        })
    }

    /// What of the records of each of `blocks` is in `wanted`, which counts from the first one's.
    fn pieces(&self, blocks: &[u64], wanted: ByteRange) -> Vec<Piece> {
        let mut start = 0;
        let piece = |&block: &u64| {
            let records = ByteRange::new(start, start + self.layout.record_bytes_of(block));
            let part = records.intersect(&wanted);
            let part = ByteRange::new(part.start - start, part.end - start);
            start = records.end;
            Piece { block, part }
        };
        blocks.iter().map(piece).collect()
    }

    fn read_records(self: &Arc<Self>, pieces: Vec<Piece>, done: Done<Vec<u8>>) {
        let live = Arc::clone(self);
        match self.engine.plan().direction {
            Direction::Push => {
                let work = move |_: &mut _| done(live.encode_local(&pieces));
                self.engine.pool().submit(Priority::Interactive, work);
            }
            Direction::Pull => {
                let runs = self.runs(&pieces);
                let encode = move |data: Result<Vec<u8>>| {
                    done(data.map(|data| live.encode(&pieces, &data)));
                };
                self.fetch_runs(&runs, Box::new(encode));
            }
        }
    }

    /// The bytes of the device that ascending `pieces` carry, neighbours joined.
    fn runs(&self, pieces: &[Piece]) -> Vec<ByteRange> {
        let mut runs = Vec::new();
        for &Piece { block, part } in pieces {
            let start = self.layout.carried(block).start;
            let data = self.layout.data_of(block, part);
            push_joined(&mut runs, ByteRange::new(start + data.start, start + data.end));
        }
        runs
    }

    /// Pull: the bytes of `runs` in a row, from the remote side.
    fn fetch_runs(&self, runs: &[ByteRange], done: Done<Vec<u8>>) {
        let total_bytes = runs.iter().map(ByteRange::len).sum();
        let mut end = 0;
        let placed = runs.iter().map(|&run| {
            let start = end;
            end += run.len();
            (start, run)
        });
        self.gather_remote(ByteRange::new(0, total_bytes), placed, done);
    }

    /// Push: the records `pieces`, from the local device, each block being the one that was
    /// compared. One whose print is gone is taken as it is.
    fn encode_local(&self, pieces: &[Piece]) -> Result<Vec<u8>> {
        let mut records = Vec::with_capacity(records_bytes(pieces));
        let keeps = self.engine.plan().block_bytes > CACHED_BLOCK_BYTES_MIN;
        for &Piece { block, part } in pieces {
            let data = match self.remote.cached(Side::Local, block) {
                Some(data) => data,
                None => {
                    let data = self.read_source_block(block)?;
                    if keeps {
                        self.remote.keep(Side::Local, block, Arc::clone(&data));
                    }
                    data
                }
            };
            let own = self.layout.data_of(block, part);
            let own = &data[own.start as usize..own.end as usize];
            self.layout.encode_part(block, part, own, &mut records);
        }
        Ok(records)
    }

    fn read_source_block(&self, block: u64) -> Result<Arc<[u8]>> {
        let local = self.engine.local();
        let (hasher, block_bytes) = (self.engine.hasher(), self.engine.plan().block_bytes);
        let start = block * block_bytes;
        let range = ByteRange::new(start, start.saturating_add(block_bytes)).clip(local.size());
        // Made where it stays: a block may be large.
        let mut data: Arc<[u8]> = repeat_n(0, range.len() as usize).collect();
        local.read_exact_at(Arc::make_mut(&mut data), range.start)?;
        self.engine.check_local()?;
        if let Some(print) = self.resolver.print(block) {
            let mut hash = vec![0; hasher.hash_len()];
            hasher.hash_block(&data, block_bytes, &mut hash);
            if print_of(&hash) != print.local {
                return Err(changed_error("the local device", range).with_path(local.path()));
            }
        }
        Ok(data)
    }

    /// The records `pieces`, whose bytes of the device `data` has in a row.
    fn encode(&self, pieces: &[Piece], data: &[u8]) -> Vec<u8> {
        let mut records = Vec::with_capacity(records_bytes(pieces));
        let mut rest = data;
        for &Piece { block, part } in pieces {
            let (own, behind) = rest.split_at(self.layout.data_of(block, part).len() as usize);
            self.layout.encode_part(block, part, own, &mut records);
            rest = behind;
        }
        records
    }

    /// Appends what lies behind the records from there on, which ends the patch. The checksum
    /// may take as long as reading the device.
    fn append_tail(self: &Arc<Self>, mut answer: Answer, from: u64) {
        if from >= self.layout.tail_bytes() {
            return answer.send();
        }
        let digest = match &self.checksum {
            None => Vec::new(),
            Some(checksum) => match checksum.known() {
                Some(digest) => digest,
                None => return checksum.get(Box::new(self.then(answer))),
            },
        };
        match self.layout.tail(&digest) {
            Ok(tail) => {
                let rest = answer.rest().1 as usize;
                answer.got.extend(tail.iter().skip(from as usize).take(rest));
                answer.send();
            }
            Err(err) => answer.fail(err),
        }
    }
}

fn records_bytes(pieces: &[Piece]) -> usize {
    pieces.iter().map(|piece| piece.part.len() as usize).sum()
}

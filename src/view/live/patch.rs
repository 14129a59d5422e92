//! The bytes of the patch file at any offset, as the client would print it.
//!
//! Nothing of it is kept: the map says which blocks it carries and where, their data are read
//! again and held against the prints of what was compared.

use std::sync::Arc;

use parking_lot::Mutex;

use super::super::change::Done;
use super::Live;
use crate::diff::{Side, State, changed_error, print_of};
use crate::error::Result;
use crate::units::{ByteRange, Direction, MIB, Priority, push_joined};

/// Bytes of blocks that one answer is made of at most (one block at least).
const ANSWER_BYTES_MAX: u64 = MIB;
/// Blocks that one answer is made of at most.
const ANSWER_BLOCKS_MAX: usize = 4096;
/// Local blocks longer than this are kept in the cache: several reads want the same one.
const CACHED_BLOCK_BYTES_MIN: u64 = 32 * 1024;

/// What the map says about an offset of the patch file.
enum Part {
    /// Bytes that need no device.
    Ready(Vec<u8>),
    /// Records of these blocks, from a position inside those of the first one.
    Records { blocks: Vec<u64>, skip: u64 },
    /// What lies behind the records, from this position in it.
    Tail(u64),
    /// This block has to be compared first.
    Unknown(u64),
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
        let blocks = self.layout.blocks();
        let last = blocks.checked_sub(1);
        let (count, last_differs) = self.resolver.with_map(|map| {
            let differs = last.is_some_and(|last| map.state(last) == State::Differs);
            (map.rank(blocks), differs)
        });
        self.layout.records_end(count, last_differs)
    }

    /// Up to `len` bytes at `offset`: all of them where the patch is known that far, for the
    /// kernel takes less for the end of a file of known size; else at least one.
    pub(super) fn read_patch(self: &Arc<Self>, offset: u64, len: u64, done: Done<Vec<u8>>) {
        self.gather(Vec::new(), offset, len, done);
    }

    /// Appends to `got` what follows it, part by part.
    fn gather(self: &Arc<Self>, got: Vec<u8>, offset: u64, len: u64, done: Done<Vec<u8>>) {
        let rest = len - got.len() as u64;
        if rest == 0 {
            return done(Ok(got));
        }
        let part = self.part(offset + got.len() as u64, rest);
        if let Part::Unknown(block) = part {
            if !got.is_empty() {
                return done(Ok(got));
            }
            let live = Arc::clone(self);
            let again = move |result: Result<()>| match result {
                Ok(()) => live.gather(got, offset, len, done),
                Err(err) => done(Err(err)),
            };
            return self.scan(block, true, Box::new(again));
        }
        let live = Arc::clone(self);
        let append = move |more: Result<Vec<u8>>| match more {
            Ok(more) if more.is_empty() => done(Ok(got)),
            Ok(more) => live.gather([got, more].concat(), offset, len, done),
            Err(err) => done(Err(err)),
        };
        self.read_part(part, rest, Box::new(append));
    }

    fn read_part(self: &Arc<Self>, part: Part, len: u64, done: Done<Vec<u8>>) {
        match part {
            Part::Ready(bytes) => done(Ok(bytes)),
            Part::Records { blocks, skip } => self.read_records(blocks, skip, len, done),
            Part::Tail(from) => self.read_tail(from, len, done),
            Part::Unknown(_) => done(Ok(Vec::new())),
        }
    }

    fn part(&self, offset: u64, len: u64) -> Part {
        let Some((rank, skip)) = self.layout.place(offset) else {
            let header = &self.layout.header()[offset as usize..];
            return Part::Ready(header[..header.len().min(len as usize)].to_vec());
        };
        let limit = self.layout.blocks();
        let frontier = self.resolver.frontier(limit);
        let blocks = self.resolver.with_map(|map| {
            let mut blocks = Vec::new();
            let mut next = map.select(rank).filter(|&block| block < frontier);
            let mut bytes = 0;
            while let Some(block) = next
                && bytes < skip + len
                && blocks.len() < ANSWER_BLOCKS_MAX
                && (blocks.is_empty() || bytes < ANSWER_BYTES_MAX)
            {
                blocks.push(block);
                bytes += self.layout.record_bytes();
                next = map.find(block + 1, frontier, |state| state == State::Differs);
            }
            blocks
        });
        match blocks.first() {
            Some(&first) if skip < self.layout.record_bytes_of(first) => {
                Part::Records { blocks, skip }
            }
            _ if frontier < limit => Part::Unknown(frontier),
            _ => Part::Tail(offset - self.records_end()),
        }
    }

    fn read_records(self: &Arc<Self>, blocks: Vec<u64>, skip: u64, len: u64, done: Done<Vec<u8>>) {
        let live = Arc::clone(self);
        match self.engine.plan().direction {
            Direction::Push => {
                let work = move |_: &mut _| {
                    let data = live.read_source_blocks(&blocks);
                    done(data.map(|data| live.encode(&blocks, &data, skip, len)));
                };
                self.engine.pool().submit(Priority::Interactive, work);
            }
            Direction::Pull => {
                let runs = self.runs(&blocks);
                let encode = move |data: Result<Vec<u8>>| {
                    done(data.map(|data| live.encode(&blocks, &data, skip, len)));
                };
                self.fetch_runs(&runs, Box::new(encode));
            }
        }
    }

    /// The carried bytes of ascending `blocks`, neighbours joined.
    fn runs(&self, blocks: &[u64]) -> Vec<ByteRange> {
        let mut runs = Vec::new();
        blocks.iter().for_each(|&block| push_joined(&mut runs, self.layout.carried(block)));
        runs
    }

    /// Pull: the bytes of `runs` in a row, from the remote side.
    fn fetch_runs(&self, runs: &[ByteRange], done: Done<Vec<u8>>) {
        let parts = vec![Vec::new(); runs.len()];
        let gathered = Arc::new(Mutex::new((parts, runs.len(), Some(done))));
        for (index, &run) in runs.iter().enumerate() {
            let gathered = Arc::clone(&gathered);
            let got = move |result: Result<Vec<u8>>| {
                let mut guard = gathered.lock();
                let (parts, missing, done) = &mut *guard;
                let outcome = match result {
                    Ok(bytes) => {
                        parts[index] = bytes;
                        *missing -= 1;
                        if *missing > 0 {
                            return;
                        }
                        Ok(parts.concat())
                    }
                    Err(err) => Err(err),
                };
                let done = done.take();
                drop(guard);
                if let Some(done) = done {
                    done(outcome);
                }
            };
            self.remote.read(run, Priority::Interactive, Box::new(got));
        }
    }

    /// Push: the carried bytes of `blocks` in a row, from the local device, each block being the
    /// one that was compared. One whose print is gone is taken as it is.
    fn read_source_blocks(&self, blocks: &[u64]) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let keeps = self.engine.plan().block_bytes > CACHED_BLOCK_BYTES_MIN;
        for &block in blocks {
            let carried = self.layout.carried(block).len() as usize;
            if let Some(data) = self.remote.cached(Side::Local, block) {
                bytes.extend_from_slice(&data[..carried]);
                continue;
            }
            let data = self.read_source_block(block)?;
            bytes.extend_from_slice(&data[..carried]);
            if keeps {
                self.remote.keep(Side::Local, block, Arc::from(data));
            }
        }
        Ok(bytes)
    }

    fn read_source_block(&self, block: u64) -> Result<Vec<u8>> {
        let local = self.engine.local();
        let (hasher, block_bytes) = (self.engine.hasher(), self.engine.plan().block_bytes);
        let start = block * block_bytes;
        let range = ByteRange::new(start, start.saturating_add(block_bytes)).clip(local.size());
        let mut data = vec![0; range.len() as usize];
        local.read_exact_at(&mut data, range.start)?;
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

    /// The records of `blocks`, whose bytes `data` has in a row, from `skip` on.
    fn encode(&self, blocks: &[u64], data: &[u8], skip: u64, len: u64) -> Vec<u8> {
        let mut records = Vec::new();
        let mut rest = data;
        for &block in blocks {
            let (own, behind) = rest.split_at(self.layout.carried(block).len() as usize);
            self.layout.encode_block(block, own, &mut records);
            rest = behind;
        }
        records.drain(..skip as usize);
        records.truncate(len as usize);
        records
    }

    fn read_tail(self: &Arc<Self>, from: u64, len: u64, done: Done<Vec<u8>>) {
        if from >= self.layout.tail_bytes() {
            return done(Ok(Vec::new()));
        }
        let live = Arc::clone(self);
        let cut = move |digest: Result<Vec<u8>>| {
            done(digest.and_then(|digest| live.layout.tail(&digest)).map(|mut tail| {
                tail.drain(..from as usize);
                tail.truncate(len as usize);
                tail
            }));
        };
        match &self.checksum {
            Some(checksum) => checksum.get(Box::new(cut)),
            None => cut(Ok(Vec::new())),
        }
    }
}

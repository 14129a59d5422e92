//! Compares again what was written, past the caches where that can be had.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::unbounded;

use crate::commands::session::Session;
use crate::commands::touched::Touched;
use crate::device::size_error;
use crate::diff::{Found, Ladder};
use crate::digest::{Scratch, hash_range};
use crate::error::{Error, Kind, Result};
use crate::progress::{Part, Progress};
use crate::units::{ByteRange, Direction, KIB, MIB, Priority};
use crate::wire::{Answer, Extensions, Request};

/// Bytes compared as one piece of work (one block at least).
const PIECE_BYTES: u64 = 4 * MIB;
/// Blocks of one piece, whose hashes are held: so many of 512 bytes are as long as a piece may be.
const PIECE_BLOCKS_MAX: u64 = 8 * KIB;
/// Pieces under way at once.
const PIECES_MAX: usize = 16;

/// Compares the blocks of `touched` on both sides; with `flushes_cache` without leaving them in the
/// page cache.
///
/// # Errors
/// `Kind::Checksum` naming the first range that differs; the first error of either side.
pub fn compare_again(
    session: &Session,
    touched: &Touched,
    flushes_cache: bool,
    progress: &dyn Progress,
) -> Result<()> {
    let local = session.engine.local();
    if flushes_cache {
        local.keep_cache();
    }
    drop_caches(session, touched)?;
    progress.begin(Part::Verifying, Some(touched.bytes()));
    let plan = session.engine.plan();
    let block_bytes = plan.block_bytes;
    // Where sizes differ the last block of the common part goes on differently on both sides.
    let end = match plan.local_bytes == plan.remote_bytes {
        true => u64::MAX,
        false => plan.compared.end / block_bytes * block_bytes,
    };
    let ladder = Arc::new(Ladder::direct(block_bytes));
    let whole = touched.ranges().iter().map(|range| range.clip(end));
    let mut pieces = whole.flat_map(|range| range.pieces(piece_bytes(block_bytes))).peekable();
    let (sender, receiver) = unbounded();
    let (mut under_way, mut done_bytes) = (0, 0);
    while under_way > 0 || pieces.peek().is_some() {
        while under_way < PIECES_MAX
            && let Some(piece) = pieces.next()
        {
            let sender = sender.clone();
            // After an error nobody listens any more.
            let done = move |found| drop(sender.send((piece, found)));
            session.engine.resolve(Arc::clone(&ladder), piece, Priority::Scan, Box::new(done));
            under_way += 1;
        }
        // It cannot fail: a sender is kept here.
        let Ok((piece, found)) = receiver.recv() else { break };
        let found: Found = found?;
        let mut blocks = found.runs.iter().flat_map(|run| run.blocks.pieces(block_bytes));
        if let Some(block) = blocks.find(|block| !is_left_out(session, *block)) {
            return Err(differs(block));
        }
        if flushes_cache {
            local.done_with(piece);
        }
        under_way -= 1;
        done_bytes += piece.len();
        progress.advance(done_bytes, 0);
    }
    if let Some(last) = touched.ranges().last().filter(|last| last.end > end) {
        let tail = ByteRange::new(end, last.end);
        if !is_left_out(session, tail) {
            compare_tail(session, tail)?;
        }
        if flushes_cache {
            local.done_with(*last);
        }
        progress.advance(touched.bytes(), 0);
    }
    Ok(())
}

/// Bytes of one piece of work, in whole blocks.
fn piece_bytes(block_bytes: u64) -> u64 {
    (PIECE_BYTES / block_bytes).clamp(1, PIECE_BLOCKS_MAX) * block_bytes
}

/// Whether `block` could not be read, and so was not copied: what was written may surround it.
fn is_left_out(session: &Session, block: ByteRange) -> bool {
    session.engine.left_out().is_some_and(|left_out| left_out.touches(block))
}

/// Compares `tail`, less than a block, by a hash that covers nothing else.
fn compare_tail(session: &Session, tail: ByteRange) -> Result<()> {
    let engine = &session.engine;
    let (start, step) = (tail.start, tail.len());
    let Answer::Hashes(theirs) = engine.ask(Request::Hashes { start, step, n: 1 })? else {
        return Err(Error::new(Kind::Protocol, "the remote side sent no hash").with_range(tail));
    };
    let local = &**engine.local();
    let ours = hash_range(local, engine.hasher(), start, step, 1, &mut Scratch::new())?;
    // Zeros took the place of what was found not to be readable only now.
    if ours == theirs || is_left_out(session, tail) { Ok(()) } else { Err(differs(tail)) }
}

/// What the target holds is to be read from its disk, not from memory, and not to be known from
/// before it was written. Under `--flushcache`, which was given to what wrote it as well, only what
/// was in the page cache before the run stays there.
fn drop_caches(session: &Session, touched: &Touched) -> Result<()> {
    let engine = &session.engine;
    match engine.plan().direction {
        Direction::Pull => {
            for range in touched.ranges() {
                engine.local().done_with(*range);
            }
        }
        // A classic server complains when it is asked again for what it was told to forget.
        Direction::Push if session.extensions == Extensions::NONE => {}
        Direction::Push => {
            // The server takes up what is asked for at once, so what follows waits for the echo.
            engine.ask(Request::Hint { start: engine.plan().compared.end, step: 1 })?;
        }
    }
    Ok(())
}

/// Fails when the file at `path`, which should have `expected_bytes`, has another size by now. Of
/// what is no file the size cannot change.
///
/// # Errors
/// `Kind::Transmission`.
pub fn size_holds(path: &Path, expected_bytes: u64) -> Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() && found.len() != expected_bytes => {
            Err(size_error(path, expected_bytes, found.len()))
        }
        _ => Ok(()),
    }
}

fn differs(range: ByteRange) -> Error {
    let what = "SRC and DST still differ where DST was written (SRC changes while it is read: use a \
                snapshot; or DST does not keep what is written)";
    Error::new(Kind::Checksum, what).with_range(range)
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{BLOCK_BYTES, Disk, skipping};
    use super::*;
    use crate::progress::Silent;
    use crate::units::{BLOCK_BYTES_MAX, Direction};

    #[test]
    fn tail_that_turns_out_to_be_unreadable_is_left_out_as_any_block_is() {
        let tail = ByteRange::new(2 * BLOCK_BYTES, 10_000);
        let mut touched = Touched::default();
        touched.add(ByteRange::new(0, 10_000));
        let (none, block) = (ByteRange::new(0, 0), ByteRange::new(0, BLOCK_BYTES));
        for (range, left_out) in [(tail, true), (block, true), (none, false)] {
            for (local, remote) in [(range, none), (none, range)] {
                let mut other = vec![1; 12_000];
                // Only what is readable is held against it.
                other[if left_out { range.start } else { tail.start } as usize] = 2;
                let local = Disk::new(vec![1; 10_000], local);
                let (session, server) = skipping(Direction::Push, local, Disk::new(other, remote));
                let checked = compare_again(&session, &touched, false, &Silent);
                match left_out {
                    true => checked.unwrap(),
                    false => assert_eq!(checked.unwrap_err().kind(), Kind::Checksum),
                }
                assert_eq!(is_left_out(&session, ByteRange::new(0, 10_000)), left_out);
                session.engine.peer().finish().unwrap();
                server.join().unwrap();
            }
        }
    }

    #[test]
    fn a_piece_is_whole_blocks_and_no_more_of_them_than_its_hashes_have_room_for() {
        for block_bytes in [1, 7, 511, 512, 513, 4096, PIECE_BYTES - 1, BLOCK_BYTES_MAX] {
            let bytes = piece_bytes(block_bytes);
            assert_eq!(bytes % block_bytes, 0, "{block_bytes}");
            assert!(bytes <= PIECE_BYTES.max(block_bytes), "{block_bytes}");
            // Of the longest hash there is, for all pieces under way.
            let hashes_bytes = bytes / block_bytes * 64 * PIECES_MAX as u64;
            assert!((1..=8 * MIB).contains(&hashes_bytes), "{block_bytes}: {hashes_bytes}");
        }
        assert_eq!([piece_bytes(512), piece_bytes(4096)], [PIECE_BYTES; 2]);
    }

    #[test]
    fn file_of_another_size_is_told_and_what_is_no_file_has_any() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(7).unwrap();
        size_holds(file.path(), 7).unwrap();
        let err = size_holds(file.path(), 8).unwrap_err();
        assert_eq!(err.kind(), Kind::Transmission);
        assert!(err.full_message().contains("expected 8 bytes, found 7"), "{err}");
        size_holds(Path::new("/dev/null"), 8).unwrap();
    }
}

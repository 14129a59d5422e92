//! Compares again what was written, past the caches where that can be had.

use std::sync::Arc;

use crossbeam_channel::unbounded;

use crate::commands::session::Session;
use crate::commands::touched::Touched;
use crate::diff::{Found, Ladder};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::units::{ByteRange, Direction, MIB, Priority};
use crate::wire::{Extensions, Request};

/// Bytes compared as one piece of work (one block at least).
const PIECE_BYTES: u64 = 4 * MIB;
/// Pieces under way at once.
const PIECES_MAX: usize = 16;

/// Compares the blocks of `touched` on both sides.
///
/// # Errors
/// `Kind::Checksum` naming the first range that differs; the first error of either side.
pub fn compare_again(session: &Session, touched: &Touched, progress: &dyn Progress) -> Result<()> {
    drop_caches(session, touched);
    progress.begin(touched.bytes());
    let block_bytes = session.engine.plan().block_bytes;
    let ladder = Arc::new(Ladder::direct(block_bytes));
    let piece_bytes = (PIECE_BYTES / block_bytes).max(1) * block_bytes;
    let mut pieces = touched.ranges().iter().flat_map(|range| range.pieces(piece_bytes)).peekable();
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
        if let Some(run) = found.runs.first() {
            return Err(differs(run.blocks));
        }
        under_way -= 1;
        done_bytes += piece.len();
        progress.advance(done_bytes, 0);
    }
    progress.finish();
    Ok(())
}

/// What the target holds is to be read from its disk, not from memory.
fn drop_caches(session: &Session, touched: &Touched) {
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
            let below = Request::Hint { start: engine.plan().compared.end, step: 1 };
            engine.peer().submit(below, Priority::Scan, Box::new(drop));
        }
    }
}

fn differs(range: ByteRange) -> Error {
    let what = "SRC and DST still differ where DST was written: SRC changes while it is read \
                (use a snapshot), or DST does not keep what is written";
    Error::new(Kind::Checksum, what).with_range(range)
}

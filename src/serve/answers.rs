//! Writes what a session owes its client.

use std::io::Write;
use std::time::Duration;

use super::backlog::{Answer, Next};
use super::shared::Shared;
use crate::error::{Error, Kind, Result};
use crate::wire::{FrameWriter, Message};

/// How often a client that waits for a checksum is told how far it is (protocol, `alive`).
const ALIVE_INTERVAL: Duration = Duration::from_millis(500);

/// Writes answers as they are finished, up to `done`.
pub(super) fn write_answers(writer: &mut FrameWriter<impl Write>, shared: &Shared) -> Result<()> {
    let bell = &shared.source.bell;
    let mut told_bytes = None;
    // What the reader found is the cause of what the tasks then fail with.
    let cause = |err| shared.take_fault().unwrap_or(err);
    loop {
        let rings = bell.rings();
        match shared.backlog.next(shared.extensions.reorder) {
            Next::Write(_, Answer::Done) => return write_done(writer),
            Next::Write(older, answer) => {
                if older > 0 {
                    // There are at most `REQUESTS_MAX`.
                    writer.write(&Message::Turn { older: older as u32 }).map_err(cause)?;
                }
                write_answer(answer, writer, shared).map_err(cause)?;
                shared.answer_written();
            }
            Next::Wait => {
                writer.flush().map_err(cause)?;
                wait(writer, shared, rings, &mut told_bytes).map_err(cause)?;
            }
            Next::End => {
                return Err(cause(Error::new(Kind::Gone, "the requests end without a done")));
            }
        }
    }
}

/// Waits for the bell to have rung more than `rings` times; meanwhile the client is told how far a
/// checksum is that it waits for, as long as that gets further than `told_bytes`: a disk that hangs
/// is no sign of life.
fn wait(
    writer: &mut FrameWriter<impl Write>,
    shared: &Shared,
    rings: u64,
    told_bytes: &mut Option<u64>,
) -> Result<()> {
    let bell = &shared.source.bell;
    let Some(checksum) = shared.backlog.checksum().filter(|_| shared.extensions.alive) else {
        bell.wait_past(rings);
        return Ok(());
    };
    while !bell.wait_past_for(rings, ALIVE_INTERVAL) {
        let digested_bytes = checksum.digested_bytes();
        if told_bytes.replace(digested_bytes) != Some(digested_bytes) {
            writer.write(&Message::Alive { digested_bytes })?;
            writer.flush()?;
        }
    }
    Ok(())
}

fn write_answer(
    answer: Answer,
    writer: &mut FrameWriter<impl Write>,
    shared: &Shared,
) -> Result<()> {
    let message = match answer.message(&shared.source) {
        Err(err) if shared.may_tell(&err) => {
            shared.failed_reads.tell(&err);
            shared.source.fault(&err)
        }
        other => other?,
    };
    writer.write(&message)
}

/// The session's end.
pub(super) fn write_done(writer: &mut FrameWriter<impl Write>) -> Result<()> {
    writer.write(&Message::Done)?;
    writer.flush()
}

//! Writes what a session owes its client.

use std::io::Write;

use super::backlog::{Answer, Next};
use super::shared::Shared;
use crate::error::{Error, Kind, Result};
use crate::wire::{FrameWriter, Message};

/// Writes answers as they are finished, up to `done`.
pub(super) fn write_answers(writer: &mut FrameWriter<impl Write>, shared: &Shared) -> Result<()> {
    let bell = &shared.source.bell;
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
                bell.wait_past(rings);
            }
            Next::End => {
                return Err(cause(Error::new(Kind::Read, "the requests end without a done")));
            }
        }
    }
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

//! What takes the patch for the process that writes to the target.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::commands::target_state::Opening;
use crate::transport::Control;

/// A slice of the wait for the first word of a process that has read the beginning of its patch, and
/// how many of them that may take: ten seconds in all. Who runs it there may keep its words to himself.
const WAIT_SLICE: Duration = Duration::from_millis(100);
const FIRST_WORD_SLICES: u32 = 100;
/// As many words as there can be of an [`Opening`].
const OPENING_STEPS: usize = 2;

/// Takes the patch; dropping it is the end of the patch. The first flush
/// returns once the process has read what was written, and has its target open if it tells.
pub struct PatchInput {
    writer: Box<dyn Write + Send>,
    control: Arc<Control>,
    /// Told how far the process is with its target, until that was waited for.
    opening: Option<Receiver<Opening>>,
}

impl PatchInput {
    /// Over `writer`, and what is to be told how far the process is, where it `speaks` of that.
    pub fn new(
        writer: Box<dyn Write + Send>,
        control: Arc<Control>,
        speaks: bool,
    ) -> (Self, Sender<Opening>) {
        let (told, opening) = bounded(OPENING_STEPS);
        (Self { writer, control, opening: speaks.then_some(opening) }, told)
    }

    /// Waits until the target is open, if the process tells of it. It may be alive and not be heard:
    /// what is written there meanwhile is not seen then.
    fn wait_for_target(&self, opening: &Receiver<Opening>) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        // Not by the clock: this process may be stopped meanwhile, and the other with it.
        for _ in 0..FIRST_WORD_SLICES {
            match opening.recv_timeout(WAIT_SLICE) {
                Ok(Opening::Done) => return Ok(()),
                Ok(Opening::Begun) => {
                    // From now on it shows that it is alive.
                    self.control.expect_answer();
                    let is_open = opening.iter().any(|step| step == Opening::Done);
                    self.control.rest();
                    return if is_open { Ok(()) } else { Err(gone()) };
                }
                Err(RecvTimeoutError::Disconnected) => return Err(gone()),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        log::info!("the process that writes does not tell whether it has the target open");
        Ok(())
    }
}

impl Write for PatchInput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()?;
        match self.opening.take() {
            Some(opening) => self.wait_for_target(&opening),
            None => Ok(()),
        }
    }
}

//! What takes the patch for the process that writes to the target.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::commands::target_state::{Door, Opening};
use crate::transport::Control;

/// A slice of a wait, which is not counted by the clock: this process may be stopped meanwhile, and the
/// other with it.
const WAIT_SLICE: Duration = Duration::from_millis(100);
/// How long a process that has read the beginning of its patch may take until its first word is here.
/// Who runs it there may keep its words to himself, or take long to begin.
const FIRST_WORD_SLICES: u32 = 300;
/// How long one may take to end whose output has.
const END_SLICES: u32 = 10;

/// Takes the patch; dropping it is the end of the patch. The first flush returns once the process has
/// read what was written, and has its target open if it tells.
pub struct PatchInput {
    writer: Box<dyn Write + Send>,
    control: Arc<Control>,
    /// Where that is told, until it was waited for.
    door: Option<Arc<Door>>,
}

impl PatchInput {
    /// Over `writer`; `door` tells how far the process is, if it does.
    pub fn new(
        writer: Box<dyn Write + Send>,
        control: Arc<Control>,
        door: Option<Arc<Door>>,
    ) -> Self {
        Self { writer, control, door }
    }

    fn wait_for_target(&self, door: &Door, slices: u32) -> io::Result<()> {
        let heard = || door.wait_beyond(Opening::Unheard, Some(WAIT_SLICE));
        let mut step = (0..slices).map(|_| heard()).find(|step| *step != Opening::Unheard);
        if step == Some(Opening::Begun) {
            // From now on it shows that it is alive.
            self.control.expect_answer();
            step = Some(door.wait_beyond(Opening::Begun, None));
            self.control.rest();
        }
        match step {
            Some(Opening::Done) => return Ok(()),
            // Its output may lead elsewhere. What is ended from here needs no word.
            Some(Opening::Over) if !self.control.is_closed() && !self.has_ended() => {}
            // Why, it or its connection says.
            Some(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            None => {}
        }
        door.pass();
        log::warn!(
            "the process that writes does not tell when it has DST open: what something else writes \
             there just now may not be seen"
        );
        Ok(())
    }

    /// Whether the process has ended, or does so soon.
    fn has_ended(&self) -> bool {
        (0..END_SLICES).any(|_| self.control.wait_for_process(WAIT_SLICE))
    }
}

impl Write for PatchInput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()?;
        match self.door.take() {
            Some(door) => self.wait_for_target(&door, FIRST_WORD_SLICES),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::target_state::{Listener, OPEN_LINE};

    /// Of a process that is silent for a slice of a wait.
    #[test]
    fn what_is_not_known_to_be_open_is_passed_and_may_be_opened_late() {
        let control = Control::new(None).unwrap();
        let input = PatchInput::new(Box::new(io::sink()), control, None);
        let mut listener = Listener::default();
        input.wait_for_target(listener.door(), 1).unwrap();
        assert!(!listener.door().is_opened_late());
        listener.write_all(OPEN_LINE.as_bytes()).unwrap();
        assert!(listener.door().is_opened_late());

        let mut listener = Listener::default();
        listener.write_all(OPEN_LINE.as_bytes()).unwrap();
        input.wait_for_target(listener.door(), 1).unwrap();
        assert!(!listener.door().is_opened_late());
    }
}

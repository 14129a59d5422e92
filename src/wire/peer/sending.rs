//! The writer thread of a connection.

use std::time::Instant;

use parking_lot::MutexGuard;

use super::{Phase, Shared, State};
use crate::error::Result;
use crate::wire::message::Message;
use crate::wire::opening::Writer;

impl Shared {
    /// The writer thread: sends, and calls the callbacks of what is never sent.
    pub(super) fn write_requests(&self, writer: Writer) {
        let mut writer = Some(writer);
        let mut state = self.state.lock();
        loop {
            if !state.settled.is_empty() {
                let settled = std::mem::take(&mut state.settled);
                MutexGuard::unlocked(&mut state, || {
                    for (done, answer) in settled {
                        done(answer);
                    }
                });
            } else if writer.is_some() && matches!(state.phase, Phase::Ended | Phase::Dead(_)) {
                writer = None;
                state.writer_closed = true;
                self.progress.notify_all();
            } else if let Some(writer) = writer.as_mut()
                && self.send_batch(&mut state, writer)
            {
                // There may be more by now.
            } else if state.dropped {
                return;
            } else {
                self.work.wait(&mut state);
            }
        }
    }

    /// Sends what may be sent now, one large write at most; whether there was anything. Nobody has
    /// to wait for the state while the remote takes nothing.
    fn send_batch(&self, state: &mut MutexGuard<'_, State>, writer: &mut Writer) -> bool {
        let sent = match self.next_batch(state, writer) {
            Ok(false) => return false,
            Ok(true) => MutexGuard::unlocked(state, || writer.flush()),
            Err(err) => Err(err),
        };
        if let Err(err) = sent {
            MutexGuard::unlocked(state, || self.fail(err));
        }
        true
    }

    /// Puts what may be sent now into the writer, in memory; whether there was anything.
    fn next_batch(&self, state: &mut State, writer: &mut Writer) -> Result<bool> {
        let (mut any, now) = (false, Instant::now());
        let was_due = state.inbox.is_due();
        while !writer.is_full()
            && let Some(message) = state.inbox.next_to_send(now)
        {
            self.link.count_request();
            any = true;
            writer.add(&message)?;
        }
        self.mind_silence(state, was_due);
        if matches!(state.phase, Phase::Closing | Phase::Finishing) && !state.inbox.has_queued() {
            state.phase = Phase::DoneSent;
            any = true;
            writer.add(&Message::Done)?;
        }
        Ok(any)
    }
}

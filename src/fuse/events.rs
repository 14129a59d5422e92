//! What is told to a mount.

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::signals;
use crate::error::Result;

/// Why the mount may have come to an end.
pub(super) enum Event {
    /// The kernel has let go of it.
    Ended,
    Signal(i32),
}

/// What is told to a mount. Made before it, so that no signal is missed meanwhile.
pub struct Events {
    pub(super) sender: Sender<Event>,
    pub(super) receiver: Receiver<Event>,
}

impl Events {
    /// SIGINT, SIGTERM, SIGHUP and SIGQUIT, of the process as a whole, are events of this one
    /// mount.
    ///
    /// # Errors
    /// `Kind::Open` when they cannot be watched for.
    pub fn with_signals() -> Result<Self> {
        let events = Self::without_signals();
        let sender = events.sender.clone();
        signals::watch(move |signal| {
            let _ = sender.send(Event::Signal(signal));
        })?;
        Ok(events)
    }

    /// Only what comes from the kernel.
    #[must_use]
    pub fn without_signals() -> Self {
        let (sender, receiver) = unbounded();
        Self { sender, receiver }
    }
}

//! What is told to a mount, and who it is.

use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::names::Names;

/// Why the mount may have come to an end.
pub(super) enum Event {
    /// The kernel has let go of it.
    Ended,
    Signal(i32),
    /// The other side of what it shows is gone, and it is to end because of that.
    LinkLost,
}

/// What is told to a mount. Made before it, so that no signal is missed meanwhile.
pub struct Events {
    pub(super) sender: Sender<Event>,
    pub(super) receiver: Receiver<Event>,
    /// Filled in once the mount can be read.
    pub(super) attached: Arc<OnceLock<Arc<Names>>>,
}

impl Events {
    /// What to call once the mount is to end because the other side of what it shows is gone.
    pub fn on_link_loss(&self) -> impl FnOnce() + Send + 'static {
        let sender = self.sender.clone();
        // A mount that is gone listens no more.
        move || drop(sender.send(Event::LinkLost))
    }

    /// Only what comes from the kernel, unless somebody tells more.
    #[must_use]
    pub fn without_signals() -> Self {
        let (sender, receiver) = unbounded();
        Self { sender, receiver, attached: Arc::default() }
    }
}

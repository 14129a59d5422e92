//! What the threads of a session have in common: what is owed, whose turn it is, why it ends.

use std::sync::Arc;

use parking_lot::Mutex;

use super::backlog::Backlog;
use super::task::Source;
use crate::error::{Error, Kind};
use crate::report::FailedReads;
use crate::transport::Control;
use crate::wire::Extensions;

/// What the threads of a session share.
pub(super) struct Shared {
    pub(super) source: Arc<Source>,
    pub(super) extensions: Extensions,
    pub(super) backlog: Backlog,
    pub(super) control: Arc<Control>,
    /// Requests that were read and not answered yet. While there are any the client may be
    /// silent; a client that owes us the next request for too long is given up on.
    unanswered: Mutex<usize>,
    /// Why the reader gave up.
    fault: Mutex<Option<Error>>,
    /// What the client was told cannot be read.
    pub(super) failed_reads: FailedReads,
}

impl Shared {
    pub(super) fn new(source: Arc<Source>, extensions: Extensions, control: Arc<Control>) -> Self {
        Self {
            source,
            extensions,
            backlog: Backlog::default(),
            control,
            unanswered: Mutex::new(0),
            fault: Mutex::default(),
            failed_reads: FailedReads::default(),
        }
    }

    /// Ends the session with `err`.
    pub(super) fn abort(&self, err: Error) {
        self.fault.lock().get_or_insert(err);
        self.end();
    }

    /// Why the reader gave up, if it did.
    pub(super) fn take_fault(&self) -> Option<Error> {
        self.fault.lock().take()
    }

    /// Whether the session goes on without an answer that failed by `err`: it is the disk's
    /// fault, and the client understands that.
    pub(super) fn may_tell(&self, err: &Error) -> bool {
        self.extensions.faults && err.kind() == Kind::Read
    }

    /// A request came in.
    pub(super) fn request_arrived(&self) {
        let mut unanswered = self.unanswered.lock();
        *unanswered += 1;
        self.control.rest();
    }

    /// An answer went out, or into the batch that goes out before anybody waits.
    pub(super) fn answer_written(&self) {
        let mut unanswered = self.unanswered.lock();
        *unanswered -= 1;
        if *unanswered == 0 {
            self.control.expect_answer();
        }
    }

    /// Ends all waiting and reading: nobody is interested any more.
    pub(super) fn end(&self) {
        self.source.device.end();
        self.control.close();
        self.backlog.close();
    }
}

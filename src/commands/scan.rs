//! Tells how far the scan of a mount is, which goes on by itself.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::background::Background;
use crate::error::{Error, Kind, Result};
use crate::progress::{Part, Progress};
use crate::view::LiveChange;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// A thread that looks until the scan is done, or until this is dropped.
pub struct ScanWatch {
    /// Held for its thread.
    _thread: Background<Sender<()>>,
}

impl ScanWatch {
    /// Watches `live`, whose scan has begun.
    ///
    /// # Errors
    /// `Kind::Usage` when threads run out.
    pub fn start(live: Arc<LiveChange>, progress: Box<dyn Progress>) -> Result<Self> {
        let (stop, stopped) = bounded(0);
        let watch = move || {
            progress.begin(Part::Comparing, Some(live.total_bytes()));
            // Not at once: what was compared by now would count as done in no time.
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                if !live.tell(&*progress) {
                    progress.finish();
                    return;
                }
            }
        };
        let thread = Background::start("scan progress", stop, watch);
        let failed = |err| Error::io(Kind::Usage, "cannot start a thread", err);
        Ok(Self { _thread: thread.map_err(failed)? })
    }
}

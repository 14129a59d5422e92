//! Tells how far the scan of a mount is, which goes on by itself.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::background::Background;
use crate::error::{Error, Kind, Result};
use crate::progress::{Part, Progress};
use crate::view::LiveChange;
use crate::view::status::ScanState;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// Watches `live`, whose scan has begun, until that has ended or what is returned is dropped.
///
/// # Errors
/// `Kind::Connection` when threads run out.
pub fn watch(live: Arc<LiveChange>, progress: Box<dyn Progress>) -> Result<Background<Sender<()>>> {
    let (stop, stopped) = bounded(0);
    let watch = move || {
        progress.begin(Part::Comparing, Some(live.total_bytes()));
        // Not at once: what was compared by now would count as done in no time.
        while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            match live.tell(&*progress) {
                ScanState::Running => {}
                ScanState::Done => return progress.finish(),
                // Nothing more comes by itself, and it is not finished.
                ScanState::Failed | ScanState::Idle => return,
            }
        }
    };
    Background::start("scan progress", stop, watch)
        .map_err(|err| Error::io(Kind::Connection, "cannot start a thread", err))
}

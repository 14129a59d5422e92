//! Tells how far the scan of a mount is, which goes on by itself.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::view::LiveChange;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// A thread that looks until the scan is done, or until this is dropped.
pub struct ScanWatch {
    /// Dropped to end the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ScanWatch {
    /// Watches `live`, whose scan has begun.
    ///
    /// # Errors
    /// `Kind::Usage` when threads run out.
    pub fn start(live: Arc<LiveChange>, progress: Box<dyn Progress>) -> Result<Self> {
        let (stop, stopped) = bounded(0);
        let watch = move || {
            progress.begin(live.total_bytes());
            while live.tell(&*progress) {
                if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
            progress.finish();
        };
        let thread = thread::Builder::new().name("scan progress".into()).spawn(watch);
        let thread = thread.map_err(|err| Error::io(Kind::Usage, "cannot start a thread", err))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for ScanWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to say about its end.
            let _ = thread.join();
        }
    }
}

//! Threads beside the work: how many have a core, how one is started, and one that ends with the
//! work.

use std::io;
use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::error::{Error, Kind, Result};

/// As what a stop counts at most that comes in the middle of a wait.
const WAIT_SLICE: Duration = Duration::from_secs(1);

/// How many cores the process may use, as first asked: a process that has given up the file
/// system cannot read its limits any more.
pub fn core_count() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| thread::available_parallelism().map_or(1, NonZeroUsize::get))
}

/// Runs `work` on a thread called `name`.
///
/// # Errors
/// `kind` with the words `what`, when threads run out.
pub fn spawn<T: Send + 'static>(
    name: &str,
    kind: Kind,
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let thread = thread::Builder::new().name(name.into()).spawn(work);
    thread.map_err(|err| Error::io(kind, what, err))
}

/// A thread that has ended when this is dropped.
#[derive(Debug)]
pub struct Background<S> {
    /// Dropped to end the thread, which watches the other end of it.
    stop: Option<S>,
    thread: Option<JoinHandle<()>>,
}

impl<S> Background<S> {
    /// Runs `work` on a thread called `name`; it ends soon after `stop` was dropped, or before.
    ///
    /// # Errors
    /// The system's, when threads run out.
    pub fn start(name: &str, stop: S, work: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let thread = thread::Builder::new().name(name.into()).spawn(work)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

/// Does `work` once `delay` is over, unless what is returned is dropped before. `None` without a
/// thread for it: it is not done then.
#[must_use]
pub fn later(
    name: &str,
    delay: Duration,
    work: impl FnOnce() + Send + 'static,
) -> Option<Background<Sender<()>>> {
    let (stop, stopped) = bounded(0);
    let wait = move || {
        if time_is_up(&stopped, delay) {
            work();
        }
    };
    Background::start(name, stop, wait).ok()
}

/// Waits until the other end of `stopped` is dropped, but no longer than `delay` of the time in
/// which this process runs; whether that is over. Where it is stopped, as by Ctrl-Z, what it waits
/// for mostly is stopped with it.
#[must_use]
pub fn time_is_up(stopped: &Receiver<()>, delay: Duration) -> bool {
    let mut left = delay;
    loop {
        let slice = left.min(WAIT_SLICE);
        if stopped.recv_timeout(slice) != Err(RecvTimeoutError::Timeout) {
            return false;
        }
        left -= slice;
        if left.is_zero() {
            return true;
        }
    }
}

impl<S> Drop for Background<S> {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to say about its end; a panic on it has ended the process.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn thread_has_ended_once_it_is_dropped() {
        let (stop, stopped) = bounded::<()>(0);
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        let background = Background::start("test", stop, move || {
            assert!(stopped.recv().is_err());
            flag.store(true, Ordering::SeqCst);
        });
        assert!(!ended.load(Ordering::SeqCst));
        drop(background.unwrap());
        assert!(ended.load(Ordering::SeqCst));
    }

    #[test]
    fn later_comes_or_is_called_off() {
        let (tell, told) = bounded(2);
        let too_late = tell.clone();
        drop(later("test", Duration::from_secs(3600), move || too_late.send(1).unwrap()));
        let _held = later("test", Duration::ZERO, move || tell.send(2).unwrap());
        assert_eq!(told.iter().collect::<Vec<_>>(), [2]);
    }
}

//! One thread of a session is always left for what needs no device.
//!
//! A read of a local device is made by the thread that takes the request, which costs least. But a
//! device may stall: NFS, iSCSI, a disk that fails. So the last free thread hands it on.

use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::background::spawn;
use crate::error::{Kind, Result};

/// Threads that take what is handed on. When all of them wait as well, readers wait for them,
/// parked and ready to be interrupted.
const THREADS: usize = 8;

type Work = Box<dyn FnOnce() + Send>;

/// Lets so many threads at once do work that may wait for a device.
pub(super) struct Gate {
    free: AtomicUsize,
    /// At most as many as requests may be parked.
    handed_on: Sender<Work>,
}

impl Gate {
    /// Lets `free` threads do it themselves.
    ///
    /// # Errors
    /// `Kind::Open` when no thread can be started.
    pub(super) fn start(free: usize) -> Result<Self> {
        let (handed_on, work) = unbounded();
        for _ in 0..THREADS {
            let work: Receiver<Work> = work.clone();
            let take = move || work.into_iter().for_each(|work| work());
            spawn("fuse device", Kind::Open, "cannot start a thread", take)?;
        }
        Ok(Self { free: AtomicUsize::new(free), handed_on })
    }

    /// Does `work` on this thread, unless all others do so already.
    pub(super) fn pass(&self, work: impl FnOnce() + Send + 'static) {
        let take = |free: usize| free.checked_sub(1);
        if self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            // The threads live as long as this does.
            let _ = self.handed_on.send(Box::new(work));
            return;
        }
        work();
        self.free.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn one_that_finds_all_others_waiting_does_not_wait() {
        let gate = Arc::new(Gate::start(1).unwrap());
        let (stalls, go_on) = crossbeam_channel::bounded::<()>(0);
        let (said, heard) = unbounded();
        let (inside, waiting) = (gate.clone(), said.clone());
        let stalled = thread::spawn(move || {
            inside.pass(move || {
                waiting.send(thread::current().id()).unwrap();
                let _ = go_on.recv();
            });
        });
        assert_eq!(heard.recv().unwrap(), stalled.thread().id());
        gate.pass(move || said.send(thread::current().id()).unwrap());
        let other = heard.recv().unwrap();
        assert!(other != thread::current().id() && other != stalled.thread().id());
        drop(stalls);
        stalled.join().unwrap();
        // There is room again.
        let (said, heard) = unbounded();
        gate.pass(move || said.send(thread::current().id()).unwrap());
        assert_eq!(heard.recv().unwrap(), thread::current().id());
    }
}

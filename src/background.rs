//! A thread beside the work, which ends with it.

use std::io;
use std::thread::{self, JoinHandle};

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
    use crossbeam_channel::bounded;
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
}

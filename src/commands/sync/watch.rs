//! Signals end what is under way, wherever it waits.

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::signals::{Signals, interrupted};

/// What to do when a signal comes.
type Stop = Box<dyn Fn(&Error) + Send>;

/// Everything that a signal has to end. What is added after the signal came ends at once.
#[derive(Default)]
pub struct Stops {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stops: Vec<Stop>,
    reason: Option<Error>,
}

impl Stops {
    /// `stop` ends something; it must not wait.
    pub fn add(&self, stop: impl Fn(&Error) + Send + 'static) {
        let mut state = self.state.lock();
        match &state.reason {
            Some(reason) => stop(reason),
            None => state.stops.push(Box::new(stop)),
        }
    }

    /// Ends everything, the latest first: a connection may be closed once its user knows why.
    fn stop(&self, reason: Error) {
        let mut state = self.state.lock();
        for stop in std::mem::take(&mut state.stops).iter().rev() {
            stop(&reason);
        }
        state.reason = Some(reason);
    }
}

/// Runs `work` while a thread waits for signals, which stop all that was added.
///
/// # Errors
/// `Kind::Open` when no pipe or no thread can be had.
pub fn watched<T>(signals: &Signals, work: impl FnOnce(&Stops) -> T) -> Result<T> {
    let stops = Stops::default();
    signals.watched(|signal| stops.stop(interrupted(signal, "the sync ended")), || work(&stops))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn work_without_a_signal_ends_the_watch() {
        let signals = Signals::catch().unwrap();
        assert_eq!(watched(&signals, |_| 7).unwrap(), 7);
    }

    #[test]
    fn latest_is_ended_first_and_what_comes_later_at_once() {
        let stops = Stops::default();
        let order = Arc::new(Mutex::new(vec![]));
        for name in ["first", "second"] {
            let order = Arc::clone(&order);
            stops.add(move |_| order.lock().push(name));
        }
        stops.stop(interrupted(2, "the sync ended"));
        assert_eq!(*order.lock(), ["second", "first"]);
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        stops.add(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }
}

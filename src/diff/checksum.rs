//! The digest of the whole source, made when somebody first asks for it and then kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::engine::{Engine, unexpected_answer};
use super::gathering::OnBytes;
use crate::background::spawn;
use crate::digest::{Algorithm, checksum};
use crate::error::{Error, Kind, Result};
use crate::units::{Direction, Priority};
use crate::wire::{Answer, Extensions, Request};

/// The digest of a session's source: the local device of a push, the remote one of a pull.
pub struct SourceChecksum {
    engine: Arc<Engine>,
    algorithm: Algorithm,
    state: Mutex<State>,
    cancelled: AtomicBool,
}

enum State {
    Unknown,
    Running(Vec<OnBytes>),
    Known(Vec<u8>),
}

impl SourceChecksum {
    /// Makes nothing yet. The remote side of a pull must have been told `algorithm`.
    ///
    /// # Errors
    /// `Kind::Usage` when the remote side of a pull is a classic server, which computes a
    /// checksum only while it is asked for every block in order.
    pub fn new(engine: &Arc<Engine>, algorithm: Algorithm) -> Result<Arc<Self>> {
        let classic = engine.peer().extensions() == Extensions::NONE;
        if classic && engine.plan().direction == Direction::Pull {
            let what = "the remote bdsync computes a checksum only while it is asked for every \
                        block in order, which a mount does not do; leave out --checksum, or use \
                        this bdsync there too";
            return Err(Error::new(Kind::Usage, what));
        }
        Ok(Arc::new(Self {
            engine: Arc::clone(engine),
            algorithm,
            state: Mutex::new(State::Unknown),
            cancelled: AtomicBool::new(false),
        }))
    }

    /// Length of the digest in bytes, which is known before it.
    #[must_use]
    pub fn digest_bytes(&self) -> usize {
        self.algorithm.len()
    }

    /// The digest, where it has been made.
    #[must_use]
    pub fn known(&self) -> Option<Vec<u8>> {
        match &*self.state.lock() {
            State::Known(digest) => Some(digest.clone()),
            State::Unknown | State::Running(_) => None,
        }
    }

    /// Gets the digest. Whoever asks first starts the work; a failure is told to all who wait,
    /// and the next one to ask tries again.
    pub fn get(self: &Arc<Self>, done: OnBytes) {
        let mut state = self.state.lock();
        match &mut *state {
            State::Known(digest) => {
                let digest = digest.clone();
                drop(state);
                return done(Ok(digest));
            }
            State::Running(waiting) => return waiting.push(done),
            State::Unknown => *state = State::Running(vec![done]),
        }
        drop(state);
        match self.engine.plan().direction {
            Direction::Pull => self.ask_remote(),
            Direction::Push => self.digest_local(),
        }
    }

    /// Ends work under way on this side, with an error for those who wait.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn ask_remote(self: &Arc<Self>) {
        let this = Arc::clone(self);
        let got = move |answer: Result<Answer>| {
            this.settle(answer.and_then(|answer| match answer {
                Answer::Checksum(digest) => Ok(digest),
                _ => Err(unexpected_answer()),
            }));
        };
        self.engine.peer().submit(Request::Checksum, Priority::Scan, Box::new(got));
    }

    /// On a thread of its own: it takes as long as reading the device.
    fn digest_local(self: &Arc<Self>) {
        let this = Arc::clone(self);
        let work = move || {
            let mut go_on = |_| match this.cancelled.load(Ordering::Relaxed) {
                true => Err(Error::new(Kind::Gone, "the session is at its end")),
                false => Ok(()),
            };
            let digest = checksum(&**this.engine.local(), this.algorithm, &mut go_on);
            let checked = digest.and_then(|digest| this.engine.check_local().map(|()| digest));
            this.settle(checked.map(|digest| digest.to_vec()));
        };
        let what = "cannot start a thread for the checksum";
        if let Err(err) = spawn("checksum", Kind::Checksum, what, work) {
            self.settle(Err(err));
        }
    }

    fn settle(&self, result: Result<Vec<u8>>) {
        let next = match &result {
            Ok(digest) => State::Known(digest.clone()),
            Err(_) => State::Unknown,
        };
        let before = std::mem::replace(&mut *self.state.lock(), next);
        let State::Running(waiting) = before else { return };
        for done in waiting {
            done(match &result {
                Ok(digest) => Ok(digest.clone()),
                Err(err) => Err(err.duplicate()),
            });
        }
    }
}

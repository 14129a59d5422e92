//! Answers that come before they are asked for, until somebody asks (extension `early`).
//!
//! ```text
//!   remote: early, answer, answer ...        somebody: submit(request)
//!             |      \--> kept, or straight to who has asked  <--/
//!             \--> in flight as if it had been asked
//! ```
//! What nobody ever asks for is dropped with the link.
//!
//! Which looks come first both ends have to know, the walk that asks and the server that is ahead of
//! it: what they share of that stands here. Should they ever differ, nothing breaks: what nobody asks
//! for is hashed in vain.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::fields::Look;
use super::pace::IN_FLIGHT_BYTES_MAX;
use super::request::{Answer, Done, Request, Session};
use crate::error::{Error, Kind, Result};
use crate::units::{KIB, MIB};

/// Smallest leaf of a tree of BLAKE3, in bytes: it hashes 16 KiB at twice the speed of 4 KiB.
pub const FIRST_LEAF_BYTES: u64 = 16 * KIB;
/// The top node of a tree covers at least this many bytes, so that hashes and headers for an
/// unchanged device stay under 34 bytes a MiB.
pub const FIRST_LOOK_BYTES: u64 = 4 * MIB;
/// One part in so many of a walk is looked at with the shortest ladder, and with the second
/// shortest, which costs hardly any bytes where something is found.
pub const HURRIED_SHARES: [u64; 2] = [32, 16];

/// What the remote answers before it is asked, and the salt that it does that with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Early {
    /// Of the whole session.
    pub(super) salt: Vec<u8>,
    pub(super) looks: Vec<Look>,
}

impl Early {
    /// The looks that are answered, each with its request and the bytes of its answer.
    ///
    /// # Errors
    /// `Kind::Protocol` when one makes no sense in `session`, or all answers together are more
    /// than may be in flight.
    pub(super) fn requests(&self, session: &Session) -> Result<Vec<(Look, Request, usize)>> {
        let mut requests = Vec::with_capacity(self.looks.len());
        let mut bytes_of_all = 0;
        for &look in &self.looks {
            let request = Request::Tree(look);
            let bytes = session.answer_bytes(&request).map_err(|err| {
                Error::new(Kind::Protocol, "the remote answers what nobody asks").with_source(err)
            })?;
            bytes_of_all += bytes;
            if bytes_of_all > IN_FLIGHT_BYTES_MAX {
                let what = format!(
                    "the remote announced {bytes_of_all} bytes of early answers, \
                     at most {IN_FLIGHT_BYTES_MAX} are allowed"
                );
                return Err(Error::new(Kind::Protocol, what));
            }
            requests.push((look, request, bytes));
        }
        Ok(requests)
    }
}

/// The early answers that nobody has asked for yet.
#[derive(Default)]
pub(super) struct EarlyAnswers {
    slots: Mutex<HashMap<Look, Slot>>,
}

enum Slot {
    /// The answer is on its way.
    Coming,
    /// And somebody waits for it.
    Wanted(Done),
    /// It came first.
    Here(Result<Answer>),
}

/// What becomes of a request.
pub(super) enum Claim {
    /// Its answer is there.
    Here(Done, Result<Answer>),
    /// Its answer is on its way, and `done` will be called.
    Coming,
    /// It has to be sent.
    NotEarly(Done),
}

impl EarlyAnswers {
    /// Expects the answer to `look`, which the returned callback takes.
    pub(super) fn expect(self: &Arc<Self>, look: Look) -> Done {
        self.slots.lock().insert(look, Slot::Coming);
        let this = Arc::clone(self);
        Box::new(move |answer| {
            let mut slots = this.slots.lock();
            match slots.remove(&look) {
                Some(Slot::Wanted(done)) => {
                    drop(slots);
                    done(answer);
                }
                _ => drop(slots.insert(look, Slot::Here(answer))),
            }
        })
    }

    /// Asks for the answer to `request`, which each can be had once.
    pub(super) fn claim(&self, request: &Request, done: Done) -> Claim {
        let &Request::Tree(look) = request else { return Claim::NotEarly(done) };
        let mut slots = self.slots.lock();
        match slots.remove(&look) {
            Some(Slot::Here(answer)) => Claim::Here(done, answer),
            Some(Slot::Coming) => {
                slots.insert(look, Slot::Wanted(done));
                Claim::Coming
            }
            Some(wanted @ Slot::Wanted(_)) => {
                slots.insert(look, wanted);
                Claim::NotEarly(done)
            }
            None => Claim::NotEarly(done),
        }
    }
}

//! The asking side's connection: requests go out as the bounds allow, answers come back to
//! callbacks, and the end of the link comes to all of them.
//!
//! ```text
//!   submit --> Inbox --> writer thread --> remote     (sending.rs)
//!                ^                           |
//!   done(..) <---+------ reader thread <-----+
//! ```
//! The reader thread reads always, so neither side can block the other on a full pipe. Nothing
//! here waits for ever: the timeout, [`Peer::abort`] and the drop end every wait.

mod sending;

use std::fmt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::early::{Claim, EarlyAnswers};
use super::handshake::Extensions;
use super::inbox::{Inbox, QUEUED_REQUESTS_MAX};
use super::link::{Counters, Link};
use super::message::Message;
use super::opening::{Digests, LinkGuard, Opening, Reader};
use super::other::Other;
use super::packed::unpacked;
use super::request::{Answer, Done, Request, Session};
use crate::background::spawn;
use crate::error::{Error, Kind, Result};
use crate::units::Priority;

/// Takes the news that the link is lost.
pub type OnLost = Box<dyn FnOnce() + Send>;

/// The remote, ready for requests. Dropping it without [`finish`](Self::finish) ends REMSHCMD.
pub struct Peer {
    shared: Arc<Shared>,
    session: Session,
    threads: Vec<JoinHandle<()>>,
    /// Ends REMSHCMD. `None` only while the peer is dropped.
    guard: Option<LinkGuard>,
}

struct Shared {
    link: Arc<Link>,
    early: Arc<EarlyAnswers>,
    state: Mutex<State>,
    /// Something for the writer thread to do.
    work: Condvar,
    /// The session came closer to its end.
    progress: Condvar,
    /// How much a checksum covered when the remote last told.
    digested_bytes: AtomicU64,
}

struct State {
    inbox: Inbox<Done>,
    /// Callbacks that wait for no message, for the writer thread to call: of requests that were
    /// never sent, and of those that were answered before.
    settled: Vec<(Done, Result<Answer>)>,
    phase: Phase,
    /// Whether the writer is dropped, which is the remote's end-of-file.
    writer_closed: bool,
    /// The peer is being dropped: the writer thread shall end.
    dropped: bool,
    /// To be called when the link is lost.
    told_of_loss: Option<OnLost>,
}

/// How far the session is.
enum Phase {
    /// Requests are taken.
    Open,
    /// No more of them; done goes out behind those that are queued.
    Closing,
    /// No more of them; done is to be sent when what is in flight allows.
    Finishing,
    /// Done is sent.
    DoneSent,
    /// Done is answered.
    Ended,
    /// The link is dead.
    Dead(Error),
}

impl Peer {
    /// Agrees with the remote on `digests` and starts the exchange of requests and answers.
    ///
    /// # Errors
    /// `Kind::Protocol` when `digests` cannot be sent or the remote answers early what makes no
    /// sense, `Kind::Digest` when they are not those that it answers with already (see
    /// [`Opening::salt`]), `Kind::Connection` without threads.
    pub fn start(mut opening: Opening, digests: &Digests) -> Result<Self> {
        let session = opening.agree(digests)?;
        let Opening { reader, writer, guard, early, .. } = opening;
        let early = early.map_or_else(|| Ok(Vec::new()), |early| early.requests(&session))?;
        let answers = Arc::new(EarlyAnswers::default());
        let mut inbox = Inbox::new(session.extensions);
        for (look, request, answer_bytes) in early {
            let done = answers.expect(look);
            inbox.expect(request, answer_bytes, done);
        }
        if !inbox.is_idle() {
            guard.0.control.expect_answer();
        }
        let state = State {
            inbox,
            settled: Vec::new(),
            phase: Phase::Open,
            writer_closed: false,
            dropped: false,
            told_of_loss: None,
        };
        let shared = Arc::new(Shared {
            link: guard.0.clone(),
            early: answers,
            state: Mutex::new(state),
            work: Condvar::new(),
            progress: Condvar::new(),
            digested_bytes: AtomicU64::new(0),
        });
        // From here on the drop of the peer cleans up.
        let mut peer = Self { shared, session, threads: vec![], guard: Some(guard) };
        let shared = peer.shared.clone();
        peer.spawn("wire reader", move || {
            let _last = FailAtEnd(&shared);
            shared.read_answers(reader, session.extensions);
        })?;
        let shared = peer.shared.clone();
        peer.spawn("wire writer", move || {
            let _last = FailAtEnd(&shared);
            shared.write_requests(writer);
        })?;
        Ok(peer)
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
        self.threads.push(spawn(name, Kind::Connection, "cannot start a thread", body)?);
        Ok(())
    }

    /// What was agreed on with the remote.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The extensions that both sides have.
    #[must_use]
    pub fn extensions(&self) -> Extensions {
        self.session.extensions
    }

    /// Bytes of its device that a checksum, which was asked for, covers as far as the remote has
    /// told; 0 of one that does not tell.
    #[must_use]
    pub fn digested_bytes(&self) -> u64 {
        self.shared.digested_bytes.load(Ordering::Relaxed)
    }

    /// Traffic so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.link.counters()
    }

    /// The error that ended the link, if it is dead.
    #[must_use]
    pub fn last_error(&self) -> Option<Error> {
        match &self.shared.state.lock().phase {
            Phase::Dead(err) => Some(err.duplicate()),
            _ => None,
        }
    }

    /// Calls `told`, on a thread of this connection or on this one, once the link is lost: never
    /// because of [`abort`](Self::abort), of an end in good order or of the drop. The last one to
    /// be given counts.
    pub fn when_lost(&self, told: OnLost) {
        let mut state = self.shared.state.lock();
        if !matches!(state.phase, Phase::Dead(_)) {
            state.told_of_loss = Some(told);
            return;
        }
        drop(state);
        told();
    }

    /// Whether new requests have a chance of being answered.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(self.shared.state.lock().phase, Phase::Open)
    }

    /// Asks. Never blocks. `done` is called exactly once, never on the calling thread, and without
    /// the extension `reorder` in the order of the requests of its priority: with the answer, or
    /// with the error that ended the link or kept the request from being sent (`Kind::Usage` for
    /// one that makes no sense, see [`Request`]; `Kind::Connection` when too many wait).
    pub fn submit(&self, request: Request, priority: Priority, done: Done) {
        let allowed = self.session.answer_bytes(&request);
        let mut state = self.shared.state.lock();
        let settled = match (&state.phase, allowed) {
            (Phase::Dead(err), _) => Some((done, Err(err.duplicate()))),
            (Phase::Open, Err(err)) => Some((done, Err(err))),
            (Phase::Open, Ok(answer_bytes)) => match self.shared.early.claim(&request, done) {
                Claim::Here(done, answer) => Some((done, answer)),
                Claim::Coming => None,
                Claim::NotEarly(done) => {
                    self.queue(&mut state, request, answer_bytes, priority, done)
                }
            },
            (Phase::Closing | Phase::Finishing | Phase::DoneSent | Phase::Ended, _) => {
                Some((done, Err(finished_error())))
            }
        };
        state.settled.extend(settled);
        drop(state);
        self.shared.work.notify_one();
    }

    /// Queues a request that has to be sent; gives `done` back with an error when too many wait.
    fn queue(
        &self,
        state: &mut State,
        request: Request,
        answer_bytes: usize,
        priority: Priority,
        done: Done,
    ) -> Option<(Done, Result<Answer>)> {
        let was_due = state.inbox.is_due();
        if let Err(done) = state.inbox.push(request, answer_bytes, priority, done) {
            return Some((done, Err(full_error())));
        }
        self.shared.mind_silence(state, was_due);
        None
    }

    /// Ends the link now: every request gets `err`, and a [`finish`](Self::finish) that waits
    /// returns it. For signals and the like. A dead link stays as it is. Never blocks:
    /// REMSHCMD is killed and reaped by `finish` or the drop.
    pub fn abort(&self, err: Error) {
        let left = self.shared.kill_link(err);
        let mut state = self.shared.state.lock();
        // Not here: the caller may hold what a callback needs.
        state.settled.extend(left);
        drop(state);
        self.shared.link.abort();
        self.shared.work.notify_one();
    }

    /// Has `request`, submitted as [`Priority::Bulk`], go as [`Priority::Interactive`] if it is not
    /// sent yet: somebody came to wait for it.
    pub fn hasten(&self, request: &Request) {
        self.shared.state.lock().inbox.hasten(request);
        self.shared.work.notify_one();
    }

    /// Lets so many requests of [`Priority::Ahead`] be in flight, at most
    /// [`IN_FLIGHT_AHEAD_MAX`](super::IN_FLIGHT_AHEAD_MAX). It counts with the extension
    /// `reorder` only.
    pub fn look_ahead(&self, requests: usize) {
        let may_send_more = self.shared.state.lock().inbox.set_ahead_max(requests);
        if may_send_more {
            self.shared.work.notify_one();
        }
    }

    /// No more requests will come: done is sent right behind the last one, so that the session's
    /// end takes no round trip of its own. What is queued and in flight is still answered, as long
    /// as [`Peer::finish`] is not called.
    pub fn close(&self) {
        let mut state = self.shared.state.lock();
        if let Phase::Open = state.phase {
            state.phase = Phase::Closing;
            self.shared.link.control.expect_answer();
            self.shared.work.notify_one();
        }
    }

    /// Ends the session in good order: what is in flight is answered, what is queued gets an
    /// error, done is sent and answered, the remote's stdin is closed (the classic does not, and
    /// waits for ever for a `tee`), and REMSHCMD waited for. Returns its exit status; success where
    /// there is no process.
    ///
    /// # Errors
    /// The error that ended the link, now or before. `Kind::Spawn` when a signal ended REMSHCMD,
    /// `Kind::Connection` when it does not end within the timeout.
    pub fn finish(&self) -> Result<ExitStatus> {
        let shared = &*self.shared;
        let mut state = shared.state.lock();
        if let Phase::Open | Phase::Closing = state.phase {
            state.phase = Phase::Finishing;
            let queued = state.inbox.take_queued();
            state.settled.extend(queued.into_iter().map(|done| (done, Err(finished_error()))));
            shared.link.control.expect_answer();
            shared.work.notify_one();
        }
        loop {
            match &state.phase {
                Phase::Dead(err) => {
                    let err = err.duplicate();
                    drop(state);
                    shared.link.kill();
                    return Err(err);
                }
                Phase::Ended if state.writer_closed => break,
                _ => shared.progress.wait(&mut state),
            }
        }
        drop(state);
        let status = shared.link.wait();
        shared.link.control.close();
        status
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let left = self.shared.kill_link(finished_error());
        self.shared.state.lock().settled.extend(left);
        // Closes the connection, which ends the reader's and the writer's waiting, and REMSHCMD.
        drop(self.guard.take());
        self.shared.state.lock().dropped = true;
        self.shared.work.notify_one();
        for thread in self.threads.drain(..) {
            // The last owner may have been a callback.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("session", &self.session).finish_non_exhaustive()
    }
}

/// What a message of the remote was.
enum Taken {
    /// The answer to this callback's request.
    Answer(Done, Result<Answer>),
    /// A word that answers nothing.
    Word,
    /// The session's end.
    End,
}

/// At the end of a thread, however it ended, nobody may be left waiting.
struct FailAtEnd<'a>(&'a Shared);

impl Drop for FailAtEnd<'_> {
    fn drop(&mut self) {
        self.0.fail(Other::Server.gone());
    }
}

impl Shared {
    /// The reader thread.
    fn read_answers(&self, mut reader: Reader, extensions: Extensions) {
        loop {
            let message = reader.expect_message().and_then(|found| unpacked(found, extensions));
            match message.and_then(|message| self.take_answer(message)) {
                Ok(Taken::Answer(done, answer)) => done(answer),
                Ok(Taken::Word) => {}
                Ok(Taken::End) => break,
                Err(err) => return self.fail(err),
            }
        }
        // A remote that talks on would block before it ends if nobody listened.
        reader.discard_rest();
    }

    fn take_answer(&self, message: Message) -> Result<Taken> {
        let mut state = self.state.lock();
        match message {
            Message::Turn { older } => return state.inbox.turn(older).map(|()| Taken::Word),
            Message::Alive { digested_bytes } if state.inbox.expects_alive() => {
                self.digested_bytes.store(digested_bytes, Ordering::Relaxed);
                return Ok(Taken::Word);
            }
            _ => {}
        }
        let was_due = state.inbox.is_due();
        let answered = state.inbox.answered(message, Instant::now())?;
        self.mind_silence(&state, was_due);
        self.work.notify_one();
        match (answered, &state.phase) {
            (Ok((done, answer)), _) => Ok(Taken::Answer(done, answer)),
            (Err(Message::Done), Phase::DoneSent) => {
                state.phase = Phase::Ended;
                self.link.control.rest();
                self.progress.notify_all();
                Ok(Taken::End)
            }
            (Err(message), Phase::DoneSent) => Err(Other::Server.unexpected("done", &message)),
            (Err(message), _) => Err(Other::Server.unexpected("nothing", &message)),
        }
    }

    /// Has the timeout run while something is due; `was_due` tells of the inbox before it changed.
    /// The session's end is due in any case.
    fn mind_silence(&self, state: &State, was_due: bool) {
        match (was_due, state.inbox.is_due()) {
            (false, true) => self.link.control.expect_answer(),
            (true, false) if matches!(state.phase, Phase::Open) => self.link.control.rest(),
            _ => {}
        }
    }

    /// The link is beyond repair: everybody who waits is told, and REMSHCMD is ended.
    fn fail(&self, err: Error) {
        if !self.is_open() {
            return;
        }
        let err = self.link.explain(err);
        let left = self.kill_link(err);
        self.link.control.close();
        for (done, answer) in left {
            done(answer);
        }
        self.work.notify_one();
        let told = self.state.lock().told_of_loss.take();
        if let Some(told) = told {
            told();
        }
        self.link.kill();
    }

    fn is_open(&self) -> bool {
        !matches!(self.state.lock().phase, Phase::Ended | Phase::Dead(_))
    }

    /// Marks the link as dead of `err`, if it is not at its end already; returns all callbacks
    /// that wait, each with the error for it.
    fn kill_link(&self, err: Error) -> Vec<(Done, Result<Answer>)> {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Ended | Phase::Dead(_)) {
            return vec![];
        }
        let left = state.inbox.take_all();
        let left = left.into_iter().map(|done| (done, Err(err.duplicate()))).collect();
        state.phase = Phase::Dead(err);
        self.progress.notify_all();
        left
    }
}

fn full_error() -> Error {
    let what = format!("more than {QUEUED_REQUESTS_MAX} requests wait for the remote");
    Error::new(Kind::Connection, what)
}

fn finished_error() -> Error {
    Error::new(Kind::Connection, "the session with the remote is at its end")
}

#[cfg(test)]
mod tests;

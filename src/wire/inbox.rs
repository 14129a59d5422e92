//! What is queued, what is in flight, and which answer belongs to what. Pure: no I/O, no clock,
//! no locks, generic in what a request carries along (a callback in the product).
//!
//! ```text
//!   push -> queued[Interactive] --+-- next_to_send --> in_flight -- answered -->
//!           queued[Scan] ---------+   (bounded)
//!           queued[Ahead] --------+
//!           queued[Bulk] ---------+
//! ```

use std::collections::VecDeque;
use std::time::Instant;

use super::fault::Fault;
use super::handshake::Extensions;
use super::layout::FRAME_HEAD_BYTES;
use super::message::Message;
use super::other::Other;
use super::pace::{IN_FLIGHT_BYTES_MAX, Pace};
use super::request::{Answer, Request};
use crate::error::{Error, Kind, Result};
use crate::units::Priority;

/// The most requests sent and not answered yet. Small ones must be many to fill a long link;
/// large ones are bounded by [`IN_FLIGHT_BYTES_MAX`] and by how quick answers are.
pub const IN_FLIGHT_REQUESTS_MAX: usize = 4096;

/// The most first looks sent and not answered yet, where the rest may overtake them: a server
/// reads 256 requests ahead, so that the rest always finds a place among those.
pub const IN_FLIGHT_AHEAD_MAX: usize = 192;

/// The most requests waiting to be sent.
pub const QUEUED_REQUESTS_MAX: usize = 65_536;

/// Bytes of an answer besides its hashes or data, at most: head, three numbers and a level.
const ANSWER_EXTRA_BYTES: usize = FRAME_HEAD_BYTES + 25;

/// What a request carried along and how it ended, or a message that answers nothing.
pub(super) type Answered<T> = Result<(T, Result<Answer>), Message>;

/// Requests on their way, each with a `T`.
#[derive(Debug)]
pub(super) struct Inbox<T> {
    /// One for each priority, in their order.
    queued: [VecDeque<Pending<T>>; Priority::ALL.len()],
    /// With the time when they were sent; none for those that the remote answers unasked.
    in_flight: VecDeque<(Option<Instant>, Pending<T>)>,
    in_flight_bytes: usize,
    /// Those of [`Priority::Ahead`].
    in_flight_ahead: usize,
    ahead_max: usize,
    pace: Pace,
    /// What the remote may say.
    extensions: Extensions,
    /// Which of those in flight the next answer is for, when the remote has said so.
    turn: Option<usize>,
}

#[derive(Debug)]
struct Pending<T> {
    request: Request,
    /// Bytes of hashes or data in the answer.
    answer_bytes: usize,
    priority: Priority,
    carried: T,
}

impl<T> Inbox<T> {
    /// `extensions` are in use.
    pub(super) fn new(extensions: Extensions) -> Self {
        Self {
            queued: Default::default(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            in_flight_ahead: 0,
            ahead_max: IN_FLIGHT_AHEAD_MAX,
            pace: Pace::new(),
            extensions,
            turn: None,
        }
    }

    /// Queues a request that [`Session::answer_bytes`](super::Session) allowed; gives `carried`
    /// back when the queue is full.
    pub(super) fn push(
        &mut self,
        request: Request,
        answer_bytes: usize,
        priority: Priority,
        carried: T,
    ) -> Result<(), T> {
        if self.queued.iter().map(VecDeque::len).sum::<usize>() >= QUEUED_REQUESTS_MAX {
            return Err(carried);
        }
        let pending = Pending { request, answer_bytes, priority, carried };
        self.queued[priority as usize].push_back(pending);
        Ok(())
    }

    /// Somebody waits by now for what `request` of [`Priority::Bulk`] brings: unless it is sent
    /// already, it goes as one of [`Priority::Interactive`].
    pub(super) fn hasten(&mut self, request: &Request) {
        let bulk = &mut self.queued[Priority::Bulk as usize];
        let index = bulk.iter().position(|queued| queued.request == *request);
        if let Some(mut hastened) = index.and_then(|index| bulk.remove(index)) {
            hastened.priority = Priority::Interactive;
            self.queued[Priority::Interactive as usize].push_back(hastened);
        }
    }

    /// Puts a first look in flight that the remote answers unasked, behind those that are.
    pub(super) fn expect(&mut self, request: Request, answer_bytes: usize, carried: T) {
        let pending = Pending { request, answer_bytes, priority: Priority::Ahead, carried };
        self.put_in_flight(None, pending);
    }

    fn put_in_flight(&mut self, sent: Option<Instant>, pending: Pending<T>) {
        self.in_flight_bytes += pending.wire_bytes();
        self.in_flight_ahead += usize::from(pending.priority == Priority::Ahead);
        self.in_flight.push_back((sent, pending));
    }

    /// Lets so many first looks be in flight, at most [`IN_FLIGHT_AHEAD_MAX`]; whether those are
    /// more than before.
    pub(super) fn set_ahead_max(&mut self, requests: usize) -> bool {
        let before = std::mem::replace(&mut self.ahead_max, requests.min(IN_FLIGHT_AHEAD_MAX));
        self.ahead_max > before
    }

    /// Whether the remote ought to say something soon: it owes an answer that neither is the
    /// checksum of its whole device, for which one that cannot say that it is alive may be silent
    /// for hours, nor waits for one.
    pub(super) fn is_due(&self) -> bool {
        let is_soon = |asked: &Pending<T>| self.extensions.alive || !asked.is_checksum();
        match self.in_flight.front() {
            Some((_, oldest)) if !self.extensions.reorder => is_soon(oldest),
            _ => {
                let in_flight = self.in_flight.iter().map(|(_, asked)| asked);
                in_flight.chain(self.queued.iter().flatten()).any(is_soon)
            }
        }
    }

    /// Whether nothing is queued or in flight: the remote owes nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && !self.has_queued()
    }

    /// Whether a request waits to be sent.
    pub(super) fn has_queued(&self) -> bool {
        self.queued.iter().any(|queue| !queue.is_empty())
    }

    /// The queue whose first request may be sent now.
    fn sendable(&self) -> Option<usize> {
        let ahead_may_go = !self.extensions.reorder || self.in_flight_ahead < self.ahead_max;
        let may_go = |next: &Pending<T>| ahead_may_go || next.priority != Priority::Ahead;
        let index = self.queued.iter().position(|queue| queue.front().is_some_and(may_go))?;
        let next = self.queued[index].front()?;
        let bytes_max = match next.priority {
            Priority::Bulk => self.pace.bulk_bytes(),
            _ => IN_FLIGHT_BYTES_MAX,
        };
        let has_room = self.in_flight.is_empty()
            || self.in_flight.len() < IN_FLIGHT_REQUESTS_MAX
                && self.in_flight_bytes + next.wire_bytes() <= bytes_max;
        has_room.then_some(index)
    }

    /// Moves the next request in flight, if the bounds allow one, and returns its message.
    pub(super) fn next_to_send(&mut self, now: Instant) -> Option<Message> {
        let next = self.queued[self.sendable()?].pop_front()?;
        let message = next.request.message();
        self.put_in_flight(Some(now), next);
        Some(message)
    }

    /// The remote says that its next answer is not to the oldest request in flight, but to the
    /// one that has `older` before it.
    ///
    /// # Errors
    /// `Kind::Protocol` when it may not say that, or there is no such request.
    pub(super) fn turn(&mut self, older: u32) -> Result<()> {
        if !self.extensions.reorder || self.turn.is_some() {
            return Err(Other::Server.unexpected("an answer", &Message::Turn { older }));
        }
        match usize::try_from(older) {
            Ok(index) if index < self.in_flight.len() => {
                self.turn = Some(index);
                Ok(())
            }
            _ => {
                let what = format!(
                    "the remote answers a request that has {older} before it, of {} in flight",
                    self.in_flight.len()
                );
                Err(Error::new(Kind::Protocol, what))
            }
        }
    }

    /// Whether the remote may say that it is alive: it makes a checksum.
    pub(super) fn expects_alive(&self) -> bool {
        let mut in_flight = self.in_flight.iter().map(|(_, asked)| asked);
        self.extensions.alive && self.turn.is_none() && in_flight.any(Pending::is_checksum)
    }

    /// The answer to the request whose turn it is (the oldest in flight, unless the remote has
    /// named another), or the remote's reason for having none. `None`: there is no such request;
    /// `message` is given back. On an error the request stays in flight: the link is beyond repair.
    pub(super) fn answered(&mut self, message: Message, now: Instant) -> Result<Answered<T>> {
        let index = self.turn.unwrap_or(0);
        let Some((sent, asked)) = self.in_flight.get(index) else { return Ok(Err(message)) };
        let answer = match message {
            Message::Fault { ranges, text } if self.extensions.faults && asked.reads() => {
                Err(Fault::error(ranges, &text))
            }
            message => Ok(asked.request.accept(message, asked.answer_bytes)?),
        };
        self.turn = None;
        self.in_flight_bytes -= asked.wire_bytes();
        self.in_flight_ahead -= usize::from(asked.priority == Priority::Ahead);
        if let Some(sent) = sent {
            let after = now.saturating_duration_since(*sent);
            self.pace.answered(asked.wire_bytes(), after, asked.priority == Priority::Bulk);
        }
        let carried = self.in_flight.remove(index).map(|(_, pending)| pending.carried);
        Ok(Ok((carried.expect("it was found there"), answer)))
    }

    /// Takes what is queued and not sent.
    pub(super) fn take_queued(&mut self) -> Vec<T> {
        let queued = self.queued.iter_mut().flat_map(|queue| queue.drain(..));
        queued.map(|pending| pending.carried).collect()
    }

    /// Takes everything, oldest first.
    pub(super) fn take_all(&mut self) -> Vec<T> {
        (self.in_flight_bytes, self.in_flight_ahead, self.turn) = (0, 0, None);
        let mut all: Vec<T> =
            self.in_flight.drain(..).map(|(_, pending)| pending.carried).collect();
        all.extend(self.take_queued());
        all
    }
}

impl<T> Pending<T> {
    fn is_checksum(&self) -> bool {
        matches!(self.request, Request::Checksum)
    }

    /// Whether the remote reads its device for the answer.
    fn reads(&self) -> bool {
        !matches!(self.request, Request::Hint { .. })
    }

    fn wire_bytes(&self) -> usize {
        self.answer_bytes + ANSWER_EXTRA_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::ByteRange;

    /// With all extensions but that one, or those, that answers come in order without.
    fn inbox_that<T>(reorder: bool) -> Inbox<T> {
        Inbox::new(Extensions { reorder, alive: false, ..Extensions::ALL })
    }

    fn hint(start: u64) -> Request {
        Request::Hint { start, step: 1 }
    }

    fn echo(start: u64) -> Message {
        Message::Hashes { start, step: 1, n: 0, hashes: vec![] }
    }

    fn answered<T>(inbox: &mut Inbox<T>, message: Message) -> Result<Answered<T>> {
        inbox.answered(message, Instant::now())
    }

    fn push(inbox: &mut Inbox<u64>, start: u64, priority: Priority) {
        inbox.push(hint(start), 0, priority, start).unwrap();
    }

    fn starts_sent(inbox: &mut Inbox<u64>) -> Vec<u64> {
        std::iter::from_fn(|| inbox.next_to_send(Instant::now()))
            .map(|message| match message {
                Message::GetHashes { start, .. } => start,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn interactive_overtakes_scan_and_each_keeps_its_order() {
        let mut inbox = inbox_that(false);
        for (start, priority) in [
            (30, Priority::Bulk),
            (20, Priority::Ahead),
            (1, Priority::Scan),
            (2, Priority::Scan),
            (10, Priority::Interactive),
            (3, Priority::Scan),
            (11, Priority::Interactive),
        ] {
            push(&mut inbox, start, priority);
        }
        assert_eq!(starts_sent(&mut inbox), [10, 11, 1, 2, 3, 20, 30]);
        for start in [10, 11, 1, 2, 3, 20, 30] {
            let (carried, answer) = answered(&mut inbox, echo(start)).unwrap().unwrap();
            assert_eq!((carried, answer.unwrap()), (start, Answer::Hint));
        }
        assert!(inbox.is_idle());
        assert_eq!(answered(&mut inbox, echo(1)).unwrap().unwrap_err(), echo(1));
    }

    #[test]
    fn bulk_that_somebody_waits_for_overtakes_all_but_what_others_wait_for() {
        let mut inbox = inbox_that(false);
        for (start, priority) in [
            (30, Priority::Bulk),
            (31, Priority::Bulk),
            (32, Priority::Bulk),
            (1, Priority::Scan),
            (10, Priority::Interactive),
        ] {
            push(&mut inbox, start, priority);
        }
        for start in [31, 1, 99] {
            inbox.hasten(&hint(start));
        }
        assert_eq!(starts_sent(&mut inbox), [10, 31, 1, 30, 32]);
        inbox.hasten(&hint(30));
        assert!(starts_sent(&mut inbox).is_empty(), "it was sent already");
    }

    #[test]
    fn a_fault_ends_its_request_alone() {
        let mut inbox = inbox_that(false);
        let hashes = Request::Hashes { start: 1, step: 1, n: 1 };
        inbox.push(hashes, 16, Priority::Scan, 1).unwrap();
        push(&mut inbox, 2, Priority::Scan);
        assert_eq!(starts_sent(&mut inbox), [1, 2]);
        let ranges = vec![ByteRange::new(5, 9)];
        let fault = Message::Fault { ranges: ranges.clone(), text: b"broken".to_vec() };
        let (carried, answer) = answered(&mut inbox, fault).unwrap().unwrap();
        let err = answer.unwrap_err();
        assert_eq!((carried, err.kind()), (1, Kind::Read));
        assert_eq!(Fault::of(&err).unwrap().ranges, ranges);
        assert_eq!(err.full_message(), "at the remote side: broken");
        assert_eq!(answered(&mut inbox, echo(2)).unwrap().unwrap().0, 2);
        assert!(inbox.is_idle());
    }

    #[test]
    fn a_turn_names_the_request_that_is_answered_next() {
        let mut inbox = inbox_that(true);
        for start in 1..=4 {
            push(&mut inbox, start, Priority::Scan);
        }
        assert_eq!(starts_sent(&mut inbox), [1, 2, 3, 4]);
        for (older, start) in [(2, 3), (0, 1), (1, 4)] {
            inbox.turn(older).unwrap();
            assert_eq!(answered(&mut inbox, echo(start)).unwrap().unwrap().0, start);
        }
        assert_eq!(inbox.turn(1).unwrap_err().kind(), Kind::Protocol, "one is in flight");
        inbox.turn(0).unwrap();
        assert_eq!(inbox.turn(0).unwrap_err().kind(), Kind::Protocol, "two turns in a row");
        assert_eq!(answered(&mut inbox, echo(2)).unwrap().unwrap().0, 2);
        assert_eq!(inbox.turn(0).unwrap_err().kind(), Kind::Protocol, "none is in flight");
        let mut in_order = inbox_that(false);
        push(&mut in_order, 1, Priority::Scan);
        assert_eq!(starts_sent(&mut in_order), [1]);
        assert_eq!(in_order.turn(0).unwrap_err().kind(), Kind::Protocol);
    }

    #[test]
    fn first_looks_leave_room_for_what_may_overtake_them() {
        for reorder in [false, true] {
            let mut inbox = inbox_that(reorder);
            for start in 0..300 {
                push(&mut inbox, start, Priority::Ahead);
            }
            let first = if reorder { IN_FLIGHT_AHEAD_MAX } else { 300 };
            assert_eq!(starts_sent(&mut inbox).len(), first);
            push(&mut inbox, 200, Priority::Scan);
            push(&mut inbox, 201, Priority::Bulk);
            assert_eq!(starts_sent(&mut inbox), [200, 201]);
            let _ = answered(&mut inbox, echo(0)).unwrap().unwrap();
            assert_eq!(starts_sent(&mut inbox).len(), usize::from(reorder));
        }
    }

    #[test]
    fn nothing_is_due_while_the_remote_makes_a_checksum() {
        for reorder in [false, true] {
            let mut inbox = inbox_that(reorder);
            assert!(!inbox.is_due());
            push(&mut inbox, 1, Priority::Scan);
            inbox.push(Request::Checksum, 16, Priority::Scan, 0).unwrap();
            assert!(inbox.is_due());
            while inbox.next_to_send(Instant::now()).is_some() {}
            assert!(inbox.is_due(), "what comes before it");
            let _ = answered(&mut inbox, echo(1)).unwrap().unwrap();
            assert!(!inbox.is_due());
            push(&mut inbox, 2, Priority::Interactive);
            assert_eq!(inbox.is_due(), reorder, "what comes behind it");
            assert_eq!(starts_sent(&mut inbox), [2]);
            assert_eq!(inbox.is_due(), reorder, "what comes behind it");
            let _ = answered(&mut inbox, Message::Checksum(vec![7; 16])).unwrap().unwrap();
            assert!(inbox.is_due());
        }
    }

    #[test]
    fn requests_in_flight_are_bounded() {
        let mut inbox = inbox_that(false);
        for start in 0..=IN_FLIGHT_REQUESTS_MAX as u64 {
            push(&mut inbox, start, Priority::Scan);
        }
        assert_eq!(starts_sent(&mut inbox).len(), IN_FLIGHT_REQUESTS_MAX);
        assert!(inbox.has_queued() && inbox.sendable().is_none());
        let _ = answered(&mut inbox, echo(0)).unwrap().unwrap();
        assert_eq!(starts_sent(&mut inbox), [IN_FLIGHT_REQUESTS_MAX as u64]);
    }

    #[test]
    fn bytes_in_flight_are_bounded() {
        let each = IN_FLIGHT_BYTES_MAX / 4 - ANSWER_EXTRA_BYTES;
        let mut inbox = inbox_that(false);
        for start in 0..4 {
            inbox.push(hint(start), each, Priority::Scan, ()).unwrap();
        }
        inbox.push(hint(4), 0, Priority::Scan, ()).unwrap();
        for _ in 0..4 {
            assert!(inbox.next_to_send(Instant::now()).is_some());
        }
        // Exactly full: not even the smallest goes.
        assert!(inbox.next_to_send(Instant::now()).is_none());
    }

    #[test]
    fn a_single_request_always_goes() {
        let mut inbox = inbox_that(false);
        inbox.push(hint(0), IN_FLIGHT_BYTES_MAX, Priority::Scan, ()).unwrap();
        assert!(inbox.next_to_send(Instant::now()).is_some());
    }

    #[test]
    fn queue_is_bounded() {
        let mut inbox = inbox_that(false);
        for start in 0..QUEUED_REQUESTS_MAX as u64 {
            push(&mut inbox, start, Priority::Scan);
        }
        assert_eq!(inbox.push(hint(0), 0, Priority::Interactive, 77), Err(77));
    }

    #[test]
    fn everything_is_taken_oldest_first() {
        let mut inbox = inbox_that(false);
        push(&mut inbox, 1, Priority::Scan);
        assert!(inbox.next_to_send(Instant::now()).is_some());
        push(&mut inbox, 2, Priority::Scan);
        push(&mut inbox, 3, Priority::Interactive);
        assert_eq!(inbox.take_all(), [1, 3, 2]);
        assert!(inbox.is_idle());
    }
}

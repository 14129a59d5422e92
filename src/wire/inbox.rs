//! What is queued, what is in flight, and which answer belongs to what. Pure: no I/O, no
//! locks, generic in what a request carries along (a callback in the product).
//!
//! ```text
//!   push -> queued[Interactive] --+-- next_to_send --> in_flight (FIFO) -- answered -->
//!           queued[Scan] ---------+   (bounded)
//! ```

use std::collections::VecDeque;

use super::fault::Fault;
use super::frame::FRAME_HEAD_BYTES;
use super::message::Message;
use super::request::{Answer, Request};
use crate::error::Result;
use crate::units::{MIB, Priority};

/// The most requests sent and not answered yet. Small ones must be many to fill a long link;
/// large ones are bounded by [`IN_FLIGHT_BYTES_MAX`].
pub const IN_FLIGHT_REQUESTS_MAX: usize = 1024;

/// The most bytes of answers to requests sent and not answered yet. One request may always go.
pub const IN_FLIGHT_BYTES_MAX: usize = (4 * MIB) as usize;

/// The most requests waiting to be sent.
pub const QUEUED_REQUESTS_MAX: usize = 65_536;

/// Bytes of an answer besides its hashes or data, at most: head, three numbers and a level.
const ANSWER_EXTRA_BYTES: usize = FRAME_HEAD_BYTES + 25;

/// What a request carried along and how it ended, or a message that answers nothing.
pub(super) type Answered<T> = Result<(T, Result<Answer>), Message>;

/// Requests on their way, each with a `T`.
#[derive(Debug)]
pub(super) struct Inbox<T> {
    interactive: VecDeque<Pending<T>>,
    scan: VecDeque<Pending<T>>,
    in_flight: VecDeque<Pending<T>>,
    in_flight_bytes: usize,
}

#[derive(Debug)]
struct Pending<T> {
    request: Request,
    /// Bytes of hashes or data in the answer.
    answer_bytes: usize,
    carried: T,
}

impl<T> Inbox<T> {
    pub(super) fn new() -> Self {
        Self {
            interactive: VecDeque::new(),
            scan: VecDeque::new(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
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
        if self.interactive.len() + self.scan.len() >= QUEUED_REQUESTS_MAX {
            return Err(carried);
        }
        let queue = match priority {
            Priority::Interactive => &mut self.interactive,
            Priority::Scan => &mut self.scan,
        };
        queue.push_back(Pending { request, answer_bytes, carried });
        Ok(())
    }

    /// Whether nothing is queued or in flight: the remote owes nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && !self.has_queued()
    }

    /// Whether a request waits to be sent.
    pub(super) fn has_queued(&self) -> bool {
        !self.interactive.is_empty() || !self.scan.is_empty()
    }

    /// Whether [`next_to_send`](Self::next_to_send) would give a request.
    pub(super) fn can_send(&self) -> bool {
        let Some(next) = self.interactive.front().or(self.scan.front()) else { return false };
        self.in_flight.is_empty()
            || self.in_flight.len() < IN_FLIGHT_REQUESTS_MAX
                && self.in_flight_bytes + next.wire_bytes() <= IN_FLIGHT_BYTES_MAX
    }

    /// Moves the next request in flight, if the bounds allow one, and returns its message.
    pub(super) fn next_to_send(&mut self) -> Option<Message> {
        if !self.can_send() {
            return None;
        }
        let next = self.interactive.pop_front().or_else(|| self.scan.pop_front())?;
        let message = next.request.message();
        self.in_flight_bytes += next.wire_bytes();
        self.in_flight.push_back(next);
        Some(message)
    }

    /// The answer to the oldest request in flight, or the remote's reason for having none.
    /// `None`: there is no such request; `message` is given back. On an error the request stays
    /// in flight: the link is beyond repair.
    pub(super) fn answered(&mut self, message: Message) -> Result<Answered<T>> {
        let Some(oldest) = self.in_flight.front() else { return Ok(Err(message)) };
        let answer = match message {
            Message::Fault { ranges, text } => Err(Fault::error(ranges, &text)),
            message => Ok(oldest.request.accept(message, oldest.answer_bytes)?),
        };
        self.in_flight_bytes -= oldest.wire_bytes();
        let carried = self.in_flight.pop_front().map(|pending| pending.carried);
        Ok(Ok((carried.expect("it was at the front"), answer)))
    }

    /// Takes what is queued and not sent.
    pub(super) fn take_queued(&mut self) -> Vec<T> {
        let queued = self.interactive.drain(..).chain(self.scan.drain(..));
        queued.map(|pending| pending.carried).collect()
    }

    /// Takes everything, oldest first.
    pub(super) fn take_all(&mut self) -> Vec<T> {
        self.in_flight_bytes = 0;
        let mut all: Vec<T> = self.in_flight.drain(..).map(|pending| pending.carried).collect();
        all.extend(self.take_queued());
        all
    }
}

impl<T> Pending<T> {
    fn wire_bytes(&self) -> usize {
        self.answer_bytes + ANSWER_EXTRA_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::units::ByteRange;

    fn hint(start: u64) -> Request {
        Request::Hint { start, step: 1 }
    }

    fn echo(start: u64) -> Message {
        Message::Hashes { start, step: 1, n: 0, hashes: vec![] }
    }

    fn push(inbox: &mut Inbox<u64>, start: u64, priority: Priority) {
        inbox.push(hint(start), 0, priority, start).unwrap();
    }

    fn starts_sent(inbox: &mut Inbox<u64>) -> Vec<u64> {
        std::iter::from_fn(|| inbox.next_to_send())
            .map(|message| match message {
                Message::GetHashes { start, .. } => start,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn interactive_overtakes_scan_and_each_keeps_its_order() {
        let mut inbox = Inbox::new();
        for (start, priority) in [
            (1, Priority::Scan),
            (2, Priority::Scan),
            (10, Priority::Interactive),
            (3, Priority::Scan),
            (11, Priority::Interactive),
        ] {
            push(&mut inbox, start, priority);
        }
        assert_eq!(starts_sent(&mut inbox), [10, 11, 1, 2, 3]);
        for start in [10, 11, 1, 2, 3] {
            let (carried, answer) = inbox.answered(echo(start)).unwrap().unwrap();
            assert_eq!((carried, answer.unwrap()), (start, Answer::Hint));
        }
        assert!(inbox.is_idle());
        assert_eq!(inbox.answered(echo(1)).unwrap().unwrap_err(), echo(1));
    }

    #[test]
    fn a_fault_ends_its_request_alone() {
        let mut inbox = Inbox::new();
        push(&mut inbox, 1, Priority::Scan);
        push(&mut inbox, 2, Priority::Scan);
        assert_eq!(starts_sent(&mut inbox), [1, 2]);
        let ranges = vec![ByteRange::new(5, 9)];
        let fault = Message::Fault { ranges: ranges.clone(), text: b"broken".to_vec() };
        let (carried, answer) = inbox.answered(fault).unwrap().unwrap();
        let err = answer.unwrap_err();
        assert_eq!((carried, err.kind()), (1, Kind::Read));
        assert_eq!(Fault::of(&err).unwrap().ranges, ranges);
        assert_eq!(err.full_message(), "read error of the remote: broken");
        assert_eq!(inbox.answered(echo(2)).unwrap().unwrap().0, 2);
        assert!(inbox.is_idle());
    }

    #[test]
    fn requests_in_flight_are_bounded() {
        let mut inbox = Inbox::new();
        for start in 0..=IN_FLIGHT_REQUESTS_MAX as u64 {
            push(&mut inbox, start, Priority::Scan);
        }
        assert_eq!(starts_sent(&mut inbox).len(), IN_FLIGHT_REQUESTS_MAX);
        assert!(inbox.has_queued() && !inbox.can_send());
        let _ = inbox.answered(echo(0)).unwrap().unwrap();
        assert_eq!(starts_sent(&mut inbox), [IN_FLIGHT_REQUESTS_MAX as u64]);
    }

    #[test]
    fn bytes_in_flight_are_bounded() {
        let each = IN_FLIGHT_BYTES_MAX / 4 - ANSWER_EXTRA_BYTES;
        let mut inbox = Inbox::new();
        for start in 0..4 {
            inbox.push(hint(start), each, Priority::Scan, ()).unwrap();
        }
        inbox.push(hint(4), 0, Priority::Scan, ()).unwrap();
        for _ in 0..4 {
            assert!(inbox.next_to_send().is_some());
        }
        // Exactly full: not even the smallest goes.
        assert!(inbox.next_to_send().is_none());
    }

    #[test]
    fn a_single_request_always_goes() {
        let mut inbox = Inbox::new();
        inbox.push(hint(0), IN_FLIGHT_BYTES_MAX, Priority::Scan, ()).unwrap();
        assert!(inbox.next_to_send().is_some());
    }

    #[test]
    fn queue_is_bounded() {
        let mut inbox = Inbox::new();
        for start in 0..QUEUED_REQUESTS_MAX as u64 {
            push(&mut inbox, start, Priority::Scan);
        }
        assert_eq!(inbox.push(hint(0), 0, Priority::Interactive, 77), Err(77));
    }

    #[test]
    fn everything_is_taken_oldest_first() {
        let mut inbox = Inbox::new();
        push(&mut inbox, 1, Priority::Scan);
        assert!(inbox.next_to_send().is_some());
        push(&mut inbox, 2, Priority::Scan);
        push(&mut inbox, 3, Priority::Interactive);
        assert_eq!(inbox.take_all(), [1, 3, 2]);
        assert!(inbox.is_idle());
    }
}

//! Bytes that arrive in parts, in any order and from any thread, for one who waits for all.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::units::ByteRange;

/// Called once with all bytes, or with the first error.
pub type OnBytes = Box<dyn FnOnce(Result<Vec<u8>>) + Send>;

/// The bytes of one range, some of them still to come.
pub struct Gathering {
    range: ByteRange,
    /// `None` once `done` was called.
    state: Mutex<Option<State>>,
}

struct State {
    bytes: Vec<u8>,
    missing: usize,
    done: OnBytes,
}

impl Gathering {
    /// `bytes` of `range`, as far as they are known, or none at all: then there is memory for
    /// them only once the first one comes. `missing` parts are to be [put](Self::put).
    #[must_use]
    pub fn new(range: ByteRange, bytes: Vec<u8>, missing: usize, done: OnBytes) -> Arc<Self> {
        Arc::new(Self { range, state: Mutex::new(Some(State { bytes, missing, done })) })
    }

    /// Takes one of the parts, which begins at `offset` and may reach past the range on both
    /// sides.
    pub fn put(&self, offset: u64, part: &[u8]) {
        if let Some(state) = &mut *self.state.lock() {
            state.bytes.resize(self.range.len() as usize, 0);
            copy_part(&mut state.bytes, self.range, offset, part);
            state.missing -= 1;
        }
        self.check();
    }

    /// One of the parts that are to come comes as so many, one at least.
    pub fn divide(&self, parts: usize) {
        if let Some(state) = &mut *self.state.lock() {
            state.missing += parts - 1;
        }
    }

    /// The bytes that somebody waits for.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        self.range
    }

    /// Gives up. Nothing happens where that was done before.
    pub fn fail(&self, err: Error) {
        let state = self.state.lock().take();
        if let Some(state) = state {
            (state.done)(Err(err));
        }
    }

    /// Calls back when nothing is missing; to be called by whoever may wait for no part at all.
    pub fn check(&self) {
        let mut guard = self.state.lock();
        let is_complete = guard.as_ref().is_some_and(|state| state.missing == 0);
        let state = if is_complete { guard.take() } else { None };
        // Not while locked: what is called may do anything.
        drop(guard);
        if let Some(State { mut bytes, done, .. }) = state {
            bytes.resize(self.range.len() as usize, 0);
            done(Ok(bytes));
        }
    }
}

/// Copies what of `part`, which begins at `offset`, lies in `range` to its place in `bytes`.
pub(super) fn copy_part(bytes: &mut [u8], range: ByteRange, offset: u64, part: &[u8]) {
    let common = ByteRange::new(offset, offset + part.len() as u64).intersect(&range);
    if !common.is_empty() {
        let from = &part[(common.start - offset) as usize..][..common.len() as usize];
        bytes[(common.start - range.start) as usize..][..from.len()].copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crossbeam_channel::{Receiver, unbounded};

    fn gathering(missing: usize) -> (Arc<Gathering>, Receiver<Result<Vec<u8>>>) {
        let (tell, told) = unbounded();
        let done = Box::new(move |result| tell.send(result).unwrap());
        (Gathering::new(ByteRange::new(10, 20), vec![0; 10], missing, done), told)
    }

    #[test]
    fn parts_in_any_order_make_the_whole_once() {
        let (gathering, told) = gathering(3);
        gathering.put(18, &[3; 5]);
        gathering.put(5, &[1; 7]);
        assert!(told.is_empty());
        gathering.put(12, &[2; 6]);
        assert_eq!(told.recv().unwrap().unwrap(), [1, 1, 2, 2, 2, 2, 2, 2, 3, 3]);
        gathering.put(12, &[9; 6]);
        gathering.fail(Error::new(Kind::Read, "late"));
        assert!(told.is_empty());
    }

    #[test]
    fn memory_is_taken_when_the_first_part_comes() {
        let (tell, told) = unbounded();
        let done = Box::new(move |result| tell.send(result).unwrap());
        let gathering = Gathering::new(ByteRange::new(10, 20), Vec::new(), 2, done);
        let held = || gathering.state.lock().as_ref().unwrap().bytes.capacity();
        assert_eq!(held(), 0);
        gathering.put(10, &[1; 5]);
        assert!(held() >= 10);
        gathering.put(15, &[2; 5]);
        assert_eq!(told.recv().unwrap().unwrap(), [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]);
    }

    #[test]
    fn a_part_may_come_as_several() {
        let (gathering, told) = gathering(2);
        gathering.put(10, &[1; 5]);
        gathering.divide(2);
        gathering.put(15, &[2; 2]);
        assert!(told.is_empty());
        gathering.put(17, &[3; 3]);
        assert_eq!(told.recv().unwrap().unwrap(), [1, 1, 1, 1, 1, 2, 2, 3, 3, 3]);
    }

    #[test]
    fn the_first_error_ends_it() {
        let (gathering, told) = gathering(2);
        gathering.fail(Error::new(Kind::Read, "first"));
        gathering.fail(Error::new(Kind::Read, "second"));
        gathering.put(10, &[1; 10]);
        assert_eq!(told.recv().unwrap().unwrap_err().to_string(), "first");
        assert!(told.is_empty());
    }

    #[test]
    fn nothing_to_wait_for_is_told_when_asked() {
        let (gathering, told) = gathering(0);
        assert!(told.is_empty());
        gathering.check();
        assert_eq!(told.recv().unwrap().unwrap(), [0; 10]);
    }
}

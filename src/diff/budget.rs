//! Memory for what is on its way, in bytes: whoever comes when it is used up waits, the most urgent
//! first, and holds none.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::units::Priority;

/// What goes on once there is room.
type Admitted = Box<dyn FnOnce(Permit) + Send>;

/// A number of bytes that is shared out. One that asks for more than all of it gets it once
/// nobody else has any.
#[derive(Clone)]
pub struct Budget(Arc<Inner>);

struct Inner {
    total_bytes: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used_bytes: u64,
    /// One for each priority, in their order.
    waiting: [VecDeque<(u64, Admitted)>; Priority::ALL.len()],
    /// Some thread admits whoever there is room for.
    admitting: bool,
}

/// The right to hold some bytes, until it is dropped.
pub struct Permit {
    budget: Budget,
    bytes: u64,
}

impl Budget {
    /// One of `total_bytes`, all of them free.
    #[must_use]
    pub fn new(total_bytes: u64) -> Self {
        Self(Arc::new(Inner { total_bytes, state: Mutex::default() }))
    }

    /// Bytes that are given away.
    #[cfg(test)]
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.0.state.lock().used_bytes
    }

    /// [`admit_as`](Self::admit_as), for one that somebody waits for.
    pub fn admit(&self, bytes: u64, admitted: impl FnOnce(Permit) + Send + 'static) {
        self.admit_as(Priority::Interactive, bytes, admitted);
    }

    /// Calls `admitted` when there is room for `bytes` and nobody as urgent came before: on this
    /// thread where that is so, else on that of one who makes room.
    pub fn admit_as(
        &self,
        priority: Priority,
        bytes: u64,
        admitted: impl FnOnce(Permit) + Send + 'static,
    ) {
        let mut state = self.0.state.lock();
        let may_go = state.waiting[..=priority as usize].iter().all(VecDeque::is_empty);
        if !may_go || !state.take(bytes, self.0.total_bytes) {
            state.waiting[priority as usize].push_back((bytes, Box::new(admitted)));
            return;
        }
        drop(state);
        admitted(Permit { budget: self.clone(), bytes });
    }

    /// Admits those who wait, as far as there is room. What they do may make room at once: that
    /// is found here as well, not by a call inside of the call.
    fn admit_waiting(&self) {
        let mut state = self.0.state.lock();
        if std::mem::replace(&mut state.admitting, true) {
            return;
        }
        while let Some((bytes, admitted)) = state.next(self.0.total_bytes) {
            drop(state);
            admitted(Permit { budget: self.clone(), bytes });
            state = self.0.state.lock();
        }
        state.admitting = false;
    }
}

impl State {
    /// Takes `bytes` for somebody, if there is room for them.
    fn take(&mut self, bytes: u64, total_bytes: u64) -> bool {
        let used_bytes = self.used_bytes.saturating_add(bytes);
        let has_room = self.used_bytes == 0 || used_bytes <= total_bytes;
        if has_room {
            self.used_bytes = used_bytes;
        }
        has_room
    }

    /// The first of the most urgent who wait, if there is room for it.
    fn next(&mut self, total_bytes: u64) -> Option<(u64, Admitted)> {
        let queue = self.waiting.iter().position(|queue| !queue.is_empty())?;
        let bytes = self.waiting[queue].front()?.0;
        if self.take(bytes, total_bytes) { self.waiting[queue].pop_front() } else { None }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.budget.0.state.lock();
        state.used_bytes -= self.bytes;
        let somebody_waits = state.waiting.iter().any(|queue| !queue.is_empty());
        drop(state);
        if somebody_waits {
            self.budget.admit_waiting();
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, unbounded};

    use super::*;

    /// Asks for each of `wants` in turn; what was admitted comes as (number, permit).
    fn ask(budget: &Budget, wants: &[u64]) -> Receiver<(usize, Permit)> {
        let (tell, told) = unbounded();
        for (number, &bytes) in wants.iter().enumerate() {
            let tell = tell.clone();
            budget.admit(bytes, move |permit| tell.send((number, permit)).unwrap());
        }
        told
    }

    #[test]
    fn those_for_whom_there_is_no_room_come_in_order_as_it_is_made() {
        let budget = Budget::new(10);
        let told = ask(&budget, &[4, 6, 5, 5, 1]);
        let (first, second) = (told.recv().unwrap(), told.recv().unwrap());
        assert_eq!((first.0, second.0), (0, 1));
        assert!(told.is_empty());
        drop(first);
        assert!(told.is_empty(), "the last one has room, and waits behind the others");
        drop(second);
        let rest: Vec<_> = told.try_iter().collect();
        assert_eq!(rest.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 3]);
        drop(rest);
        assert_eq!(told.try_recv().unwrap().0, 4);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn what_somebody_waits_for_goes_before_a_scan() {
        let budget = Budget::new(10);
        let (tell, told) = unbounded();
        for (number, priority) in
            [Priority::Scan, Priority::Scan, Priority::Interactive].into_iter().enumerate()
        {
            let tell = tell.clone();
            budget.admit_as(priority, 6, move |permit| tell.send((number, permit)).unwrap());
        }
        let order: Vec<_> = (0..3).map(|_| told.try_recv().unwrap().0).collect();
        assert_eq!(order, [0, 2, 1]);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn one_that_is_larger_than_all_of_it_comes_alone() {
        let budget = Budget::new(10);
        let told = ask(&budget, &[1, 100, 1]);
        drop(told.recv().unwrap());
        let (number, permit) = told.recv().unwrap();
        assert_eq!(number, 1);
        assert!(told.is_empty());
        drop(permit);
        assert_eq!(told.try_recv().unwrap().0, 2);
    }

    #[test]
    fn many_that_end_at_once_do_not_nest() {
        let budget = Budget::new(1);
        let (keep, kept) = unbounded();
        budget.admit(1, move |permit| keep.send(permit).unwrap());
        let (tell, told) = unbounded();
        for number in 0..100_000 {
            let tell = tell.clone();
            budget.admit(1, move |_| tell.send(number).unwrap());
        }
        assert!(told.is_empty());
        drop(kept.recv().unwrap());
        assert!(told.try_iter().eq(0..100_000));
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn threads_lose_nobody() {
        let budget = Budget::new(3);
        let (tell, told) = unbounded();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for bytes in (1..=3).cycle().take(3000) {
                        let tell = tell.clone();
                        budget.admit(bytes, move |_| tell.send(()).unwrap());
                    }
                });
            }
        });
        assert_eq!(told.try_iter().count(), 12_000);
        assert_eq!(budget.used_bytes(), 0);
    }
}

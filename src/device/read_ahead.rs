//! Has a device read what will be hashed soon, not all that waits to be hashed.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::Device;
use crate::units::{ByteRange, MIB};

/// Bytes that the device was told of and that are not hashed yet, at most (one range at least):
/// enough for any disk, and little of any machine's memory.
const AHEAD_BYTES_MAX: u64 = 64 * MIB;

/// What is going to be read, in that order.
pub struct ReadAhead {
    device: Arc<dyn Device>,
    plan: Mutex<Plan>,
}

#[derive(Default)]
struct Plan {
    waiting: VecDeque<ByteRange>,
    /// Bytes of ranges that the device was told of.
    told_bytes: u64,
}

impl ReadAhead {
    /// Nothing is planned yet.
    #[must_use]
    pub fn new(device: Arc<dyn Device>) -> Self {
        Self { device, plan: Mutex::default() }
    }

    /// `range` is going to be read, behind all that was planned before.
    pub fn add(&self, range: ByteRange) {
        let mut plan = self.plan.lock();
        plan.waiting.push_back(range);
        self.tell(plan);
    }

    /// `range`, which was added, was read or is not needed any more.
    pub fn done(&self, range: ByteRange) {
        let mut plan = self.plan.lock();
        // It may have overtaken others.
        match plan.waiting.iter().position(|waiting| *waiting == range) {
            Some(index) => drop(plan.waiting.remove(index)),
            None => plan.told_bytes = plan.told_bytes.saturating_sub(range.len()),
        }
        self.tell(plan);
    }

    fn tell(&self, mut plan: MutexGuard<'_, Plan>) {
        let mut due = Vec::new();
        while let Some(next) = plan.waiting.front() {
            if plan.told_bytes > 0 && plan.told_bytes + next.len() > AHEAD_BYTES_MAX {
                break;
            }
            plan.told_bytes += next.len();
            due.extend(plan.waiting.pop_front());
        }
        // Advice may wait for the disk, and those who hash come here.
        drop(plan);
        due.into_iter().for_each(|range| self.device.will_need(range.clip(self.device.size())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Result;
    use std::path::Path;

    /// Records what it is told.
    #[derive(Default)]
    struct Told(Mutex<Vec<ByteRange>>);

    impl Device for Told {
        fn path(&self) -> &Path {
            Path::new("told")
        }

        fn size(&self) -> u64 {
            250 * MIB
        }

        fn read_exact_at(&self, _: &mut [u8], _: u64) -> Result<()> {
            Ok(())
        }

        fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
            Ok((from < self.size()).then(|| ByteRange::new(from, self.size())))
        }

        fn will_need(&self, range: ByteRange) {
            self.0.lock().push(range);
        }
    }

    #[test]
    fn a_device_is_told_of_as_much_as_is_allowed_and_of_each_range_once() {
        let device = Arc::new(Told::default());
        let ahead = ReadAhead::new(Arc::clone(&device) as Arc<dyn Device>);
        let range = |i: u64| ByteRange::new(i * 20 * MIB, (i + 1) * 20 * MIB);
        (0..13).for_each(|i| ahead.add(range(i)));
        let told =
            || device.0.lock().iter().map(|range| range.start / (20 * MIB)).collect::<Vec<_>>();
        assert_eq!(told(), [0, 1, 2]);
        ahead.done(range(1));
        assert_eq!(told(), [0, 1, 2, 3]);
        ahead.done(range(5));
        [0, 2, 3].into_iter().for_each(|i| ahead.done(range(i)));
        assert_eq!(told(), [0, 1, 2, 3, 4, 6, 7], "not what overtook the others");
        (4..13).for_each(|i| ahead.done(range(i)));
        assert!(ahead.plan.lock().waiting.is_empty());
    }

    #[test]
    fn a_large_range_and_one_past_the_end_are_told_in_part_or_whole() {
        let device = Arc::new(Told::default());
        let ahead = ReadAhead::new(Arc::clone(&device) as Arc<dyn Device>);
        ahead.add(ByteRange::new(100 * MIB, 300 * MIB));
        assert_eq!(*device.0.lock(), [ByteRange::new(100 * MIB, 250 * MIB)]);
    }
}

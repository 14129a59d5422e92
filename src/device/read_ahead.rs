//! Has a device read what will be hashed soon, not all that waits to be hashed.

use std::collections::BTreeMap;
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

/// What tells a range that was added from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    number: u64,
    bytes: u64,
}

#[derive(Default)]
struct Plan {
    /// By number, in the order in which they were added.
    waiting: BTreeMap<u64, ByteRange>,
    /// Ranges that were added.
    added: u64,
    /// Bytes of ranges that the device was told of.
    told_bytes: u64,
}

impl ReadAhead {
    /// Nothing is planned yet.
    #[must_use]
    pub fn new(device: Arc<dyn Device>) -> Self {
        Self { device, plan: Mutex::default() }
    }

    /// `range` is going to be read, behind all that was planned before. To be given to
    /// [`ReadAhead::done`], once.
    #[must_use]
    pub fn add(&self, range: ByteRange) -> Planned {
        let mut plan = self.plan.lock();
        let number = plan.added;
        plan.added += 1;
        plan.waiting.insert(number, range);
        self.tell(plan);
        Planned { number, bytes: range.len() }
    }

    /// What was added was read, or is not needed any more.
    pub fn done(&self, planned: Planned) {
        let mut plan = self.plan.lock();
        // It may have overtaken others.
        if plan.waiting.remove(&planned.number).is_none() {
            plan.told_bytes -= planned.bytes;
        }
        self.tell(plan);
    }

    fn tell(&self, mut guard: MutexGuard<'_, Plan>) {
        let plan = &mut *guard;
        let mut due = Vec::new();
        while let Some(next) = plan.waiting.first_entry() {
            let bytes = next.get().len();
            if plan.told_bytes > 0 && plan.told_bytes + bytes > AHEAD_BYTES_MAX {
                break;
            }
            due.push(next.remove());
            plan.told_bytes += bytes;
        }
        // Advice may wait for the disk, and those who hash come here.
        drop(guard);
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
        let planned: Vec<_> = (0..13).map(|i| ahead.add(range(i))).collect();
        let told =
            || device.0.lock().iter().map(|range| range.start / (20 * MIB)).collect::<Vec<_>>();
        assert_eq!(told(), [0, 1, 2]);
        ahead.done(planned[1]);
        assert_eq!(told(), [0, 1, 2, 3]);
        ahead.done(planned[5]);
        [0, 2, 3].into_iter().for_each(|i| ahead.done(planned[i]));
        assert_eq!(told(), [0, 1, 2, 3, 4, 6, 7], "not what overtook the others");
        (4..13).filter(|&i| i != 5).for_each(|i| ahead.done(planned[i]));
        assert!(ahead.plan.lock().waiting.is_empty());
    }

    #[test]
    fn a_large_range_and_one_past_the_end_are_told_in_part_or_whole() {
        let device = Arc::new(Told::default());
        let ahead = ReadAhead::new(Arc::clone(&device) as Arc<dyn Device>);
        let _planned = ahead.add(ByteRange::new(100 * MIB, 300 * MIB));
        assert_eq!(*device.0.lock(), [ByteRange::new(100 * MIB, 250 * MIB)]);
    }
}

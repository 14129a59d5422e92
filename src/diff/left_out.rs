//! Bytes that one of the sides cannot read, where those are to be left out.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::device::{Device, TolerantDevice, UNREADABLE_RANGES_MAX};
use crate::error::Error;
use crate::units::{ByteRange, RangeSet};
use crate::wire::Fault;

/// How often one request is repeated. Each time the remote has found bytes that it did not know
/// to be unreadable, among those of one segment.
const ATTEMPTS_MAX: u32 = 4096;

/// What is left out of a comparison. Both sides take it for zeros, so that the blocks around it
/// can be compared; what is found there must not be used.
pub struct LeftOut {
    local: Arc<TolerantDevice>,
    remote: Mutex<RangeSet>,
    /// Why the source has no checksum.
    undigested: Mutex<Option<Error>>,
}

impl LeftOut {
    /// Of a local device that reads around unreadable places.
    #[must_use]
    pub fn new(local: Arc<TolerantDevice>) -> Self {
        Self { local, remote: Mutex::default(), undigested: Mutex::default() }
    }

    /// Whether any of `range` cannot be read on one of the sides, as far as is known.
    #[must_use]
    pub fn touches(&self, range: ByteRange) -> bool {
        self.local.is_unreadable(range) || self.remote.lock().intersects(range)
    }

    /// What the local side cannot read.
    #[must_use]
    pub fn local(&self) -> RangeSet {
        self.local.unreadable()
    }

    /// What the remote side cannot read.
    #[must_use]
    pub fn remote(&self) -> RangeSet {
        self.remote.lock().clone()
    }

    /// Takes note of why the whole source could not be digested.
    pub fn leave_out_checksum(&self, err: Error) {
        *self.undigested.lock() = Some(err);
    }

    /// Why the source has no checksum, if that was left out.
    #[must_use]
    pub fn undigested(&self) -> Option<Error> {
        self.undigested.lock().as_ref().map(Error::duplicate)
    }

    /// The local device, whose reads fail where it cannot be read.
    pub(super) fn strict_local(&self) -> &Arc<dyn Device> {
        self.local.inner()
    }

    /// Takes note of `err` if it is the remote's word on unreadable bytes. Whether the request is
    /// worth another attempt, of which there were `attempts`: not where the remote says nothing
    /// new.
    pub(super) fn take(&self, err: &Error, attempts: u32) -> bool {
        let Some(fault) = Fault::of(err) else { return false };
        let mut remote = self.remote.lock();
        let is_news = fault.ranges.iter().any(|range| !remote.contains(*range));
        if remote.len() + fault.ranges.len() > UNREADABLE_RANGES_MAX {
            return false;
        }
        fault.ranges.iter().for_each(|range| remote.insert(*range));
        is_news && attempts < ATTEMPTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::device::MemoryDevice;
    use crate::error::{Kind, Result};

    fn fault(ranges: Vec<ByteRange>) -> Error {
        Fault::error(ranges, b"broken")
    }

    /// A device whose second page cannot be read.
    struct Broken;

    impl Device for Broken {
        fn path(&self) -> &Path {
            Path::new("broken")
        }

        fn size(&self) -> u64 {
            4 * 4096
        }

        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
            let range = ByteRange::new(offset, offset + buf.len() as u64);
            if range.intersect(&ByteRange::new(4096, 8192)).is_empty() {
                buf.fill(1);
                return Ok(());
            }
            Err(Error::new(Kind::Read, "broken").with_range(range))
        }

        fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
            Ok((from < self.size()).then(|| ByteRange::new(from, self.size())))
        }
    }

    #[test]
    fn what_either_side_cannot_read_is_left_out() {
        let local = Arc::new(TolerantDevice::new(Box::new(Broken)));
        let left_out = LeftOut::new(Arc::clone(&local));
        local.read_exact_at(&mut [0; 4 * 4096], 0).unwrap();
        let page = |i: u64| ByteRange::new(4096 * i, 4096 * (i + 1));
        assert!(left_out.take(&fault(vec![page(2)]), 0));
        assert_eq!([0, 1, 2, 3].map(|i| left_out.touches(page(i))), [false, true, true, false]);
        assert_eq!(left_out.local().ranges(), [page(1)]);
        assert_eq!(left_out.remote().ranges(), [page(2)]);
    }

    #[test]
    fn only_news_are_worth_another_attempt_and_not_without_end() {
        let local = TolerantDevice::new(Box::new(MemoryDevice::new([0; 100])));
        let left_out = LeftOut::new(Arc::new(local));
        let page = |i: u64| ByteRange::new(4096 * i, 4096 * (i + 1));
        assert!(!left_out.take(&Error::new(Kind::Read, "another"), 0));
        assert!(left_out.take(&fault(vec![page(1), page(3)]), 0));
        assert!(!left_out.take(&fault(vec![page(3)]), 1), "that is known");
        assert!(left_out.take(&fault(vec![page(3), page(5)]), 1));
        assert!(!left_out.take(&fault(vec![page(7)]), ATTEMPTS_MAX));
        assert!(left_out.touches(page(5)) && !left_out.touches(page(4)));
    }

    #[test]
    fn more_ranges_than_can_be_left_out_are_not_kept() {
        let local = TolerantDevice::new(Box::new(MemoryDevice::new([0; 100])));
        let left_out = LeftOut::new(Arc::new(local));
        let pages = |from: usize, to: usize| {
            let page = |i: usize| ByteRange::new(8192 * i as u64, 8192 * i as u64 + 4096);
            fault((from..to).map(page).collect())
        };
        assert!(left_out.take(&pages(0, UNREADABLE_RANGES_MAX - 1), 0));
        assert!(!left_out.take(&pages(UNREADABLE_RANGES_MAX, UNREADABLE_RANGES_MAX + 2), 0));
        assert_eq!(left_out.remote().len(), UNREADABLE_RANGES_MAX - 1);
        assert!(left_out.take(&pages(UNREADABLE_RANGES_MAX, UNREADABLE_RANGES_MAX + 1), 0));
        assert_eq!(left_out.remote().len(), UNREADABLE_RANGES_MAX);
        assert!(!left_out.take(&pages(0, 1), 0));
        assert!(!left_out.take(&pages(UNREADABLE_RANGES_MAX + 1, UNREADABLE_RANGES_MAX + 2), 0));
        assert_eq!(left_out.remote().len(), UNREADABLE_RANGES_MAX);
    }
}

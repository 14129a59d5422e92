//! A disk with unreadable places, read around them.

use std::path::Path;

use parking_lot::Mutex;

use super::Device;
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, RangeSet};

/// How many bytes are tried at a time where a read failed: a page, below which the kernel's
/// cache knows no finer truth.
const PIECE_BYTES: u64 = 4096;

/// The most separate unreadable ranges that are remembered. A disk with more of them is not
/// failing but dead.
const RANGES_MAX: usize = 65_536;

/// A device whose unreadable bytes read as zeros once it is known where they are. Whoever uses
/// it must ask which they are, and not take those zeros for content.
pub struct TolerantDevice {
    inner: Box<dyn Device>,
    /// Whether a read that finds unreadable bytes for the first time fails.
    tells: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    unreadable: RangeSet,
    untold: Vec<ByteRange>,
}

impl TolerantDevice {
    /// Takes unreadable bytes for zeros at once.
    #[must_use]
    pub fn silent(inner: Box<dyn Device>) -> Self {
        Self { inner, tells: false, state: Mutex::default() }
    }

    /// Fails a read that finds unreadable bytes for the first time, and takes them for zeros from
    /// then on.
    #[must_use]
    pub fn telling(inner: Box<dyn Device>) -> Self {
        Self { inner, tells: true, state: Mutex::default() }
    }

    /// All that was found to be unreadable.
    #[must_use]
    pub fn unreadable(&self) -> RangeSet {
        self.state.lock().unreadable.clone()
    }

    /// Whether any of `range` was found to be unreadable.
    #[must_use]
    pub fn is_unreadable(&self, range: ByteRange) -> bool {
        self.state.lock().unreadable.intersects(range)
    }

    /// At most `max` ranges that were found and not given out by this yet.
    #[must_use]
    pub fn take_untold(&self, max: usize) -> Vec<ByteRange> {
        let mut state = self.state.lock();
        let count = state.untold.len().min(max);
        state.untold.drain(..count).collect()
    }

    /// Reads piece by piece, with zeros for what cannot be read. Returns what was found to be
    /// unreadable just now, and the first error.
    fn read_around(
        &self,
        buf: &mut [u8],
        offset: u64,
        known: &RangeSet,
    ) -> Result<Option<(Vec<ByteRange>, Error)>> {
        let whole = ByteRange::new(offset, offset + buf.len() as u64);
        let (mut found, mut first) = (Vec::new(), None);
        for piece in whole.align_out(PIECE_BYTES).pieces(PIECE_BYTES) {
            let wanted = piece.intersect(&whole);
            let bytes = &mut buf[(wanted.start - offset) as usize..][..wanted.len() as usize];
            if known.intersects(wanted) {
                bytes.fill(0);
                continue;
            }
            match self.inner.read_exact_at(bytes, wanted.start) {
                Ok(()) => {}
                Err(err) if err.kind() == Kind::Read => {
                    // An end of all interest in the device is no fault of the disk.
                    self.inner.check()?;
                    bytes.fill(0);
                    found.push(piece.clip(self.size()));
                    first.get_or_insert(err);
                }
                Err(err) => return Err(err),
            }
        }
        Ok(first.map(|err| (found, err)))
    }
}

impl Device for TolerantDevice {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let range = ByteRange::new(offset, offset.saturating_add(buf.len() as u64));
        let known = {
            let state = self.state.lock();
            if state.unreadable.intersects(range) {
                state.unreadable.clone()
            } else {
                RangeSet::new()
            }
        };
        if known.is_empty() {
            match self.inner.read_exact_at(buf, offset) {
                Err(err) if err.kind() == Kind::Read => {}
                other => return other,
            }
        }
        let Some((found, first)) = self.read_around(buf, offset, &known)? else { return Ok(()) };
        let mut state = self.state.lock();
        for range in found {
            if state.unreadable.len() >= RANGES_MAX {
                return Err(first);
            }
            state.unreadable.insert(range);
            state.untold.push(range);
        }
        if self.tells { Err(first) } else { Ok(()) }
    }

    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        self.inner.next_data(from)
    }

    fn check(&self) -> Result<()> {
        self.inner.check()
    }

    fn is_changed(&self) -> bool {
        self.inner.is_changed()
    }

    fn keep_cache(&self) {
        self.inner.keep_cache();
    }

    fn will_need(&self, range: ByteRange) {
        self.inner.will_need(range);
    }

    fn done_with(&self, range: ByteRange) {
        self.inner.done_with(range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;

    /// A device that cannot read these bytes.
    struct Broken(MemoryDevice, Vec<ByteRange>);

    impl Device for Broken {
        fn path(&self) -> &Path {
            self.0.path()
        }

        fn size(&self) -> u64 {
            self.0.size()
        }

        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
            let range = ByteRange::new(offset, offset + buf.len() as u64);
            match self.1.iter().any(|bad| !bad.intersect(&range).is_empty()) {
                true => Err(Error::new(Kind::Read, "broken").with_range(range)),
                false => self.0.read_exact_at(buf, offset),
            }
        }

        fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
            self.0.next_data(from)
        }
    }

    fn broken() -> Box<dyn Device> {
        let bad = vec![ByteRange::new(5000, 5001), ByteRange::new(20_000, 20_010)];
        Box::new(Broken(MemoryDevice::new(vec![7; 20_400]), bad))
    }

    const BAD: [ByteRange; 2] =
        [ByteRange { start: 4096, end: 8192 }, ByteRange { start: 16384, end: 20_400 }];

    fn expected() -> Vec<u8> {
        let mut bytes = vec![7; 20_400];
        BAD.iter().for_each(|bad| bytes[bad.start as usize..bad.end as usize].fill(0));
        bytes
    }

    #[test]
    fn unreadable_pages_read_as_zeros_and_are_known() {
        let device = TolerantDevice::silent(broken());
        let mut bytes = vec![1; 20_400];
        for _ in 0..2 {
            device.read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes == expected());
            assert_eq!(device.unreadable().ranges(), BAD);
        }
        assert!(device.is_unreadable(ByteRange::new(8191, 8192)));
        assert!(!device.is_unreadable(ByteRange::new(8192, 16_384)));
    }

    #[test]
    fn a_telling_device_fails_once_for_each_range() {
        let device = TolerantDevice::telling(broken());
        let mut bytes = vec![1; 20_400];
        device.read_exact_at(&mut bytes[..100], 4990).unwrap_err();
        assert_eq!(device.take_untold(10), BAD[..1]);
        device.read_exact_at(&mut bytes, 0).unwrap_err();
        assert_eq!(device.take_untold(0), []);
        assert_eq!(device.take_untold(10), BAD[1..]);
        device.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == expected());
        assert_eq!(device.take_untold(10), []);
    }
}

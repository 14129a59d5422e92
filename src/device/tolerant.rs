//! A disk with unreadable places, read around them.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Device;
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, FileId, RangeSet, push_joined};

/// How many bytes are tried at a time where a read failed: a page, below which the kernel's
/// cache knows no finer truth.
const PIECE_BYTES: u64 = 4096;

/// The most separate unreadable ranges that are remembered. A disk with more of them is not
/// failing but dead.
pub const UNREADABLE_RANGES_MAX: usize = 65_536;

/// A device whose unreadable bytes read as zeros. Whoever uses it must ask which they are, and
/// not take those zeros for content: by the time that a read returns, they are known.
pub struct TolerantDevice {
    inner: Arc<dyn Device>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    unreadable: RangeSet,
    untold: Vec<ByteRange>,
    /// Why something in `untold` cannot be read; `None` where there is nothing.
    cause: Option<Error>,
}

impl State {
    /// Takes note of a page that cannot be read, once.
    fn found(&mut self, page: ByteRange, cause: &Error) {
        if !self.unreadable.intersects(page) {
            self.unreadable.insert(page);
            push_joined(&mut self.untold, page);
            self.cause.get_or_insert_with(|| cause.duplicate());
        }
    }
}

impl TolerantDevice {
    /// Reads around the unreadable places of `inner`.
    #[must_use]
    pub fn new(inner: Box<dyn Device>) -> Self {
        Self { inner: Arc::from(inner), state: Mutex::default() }
    }

    /// The device itself, whose reads fail where it cannot be read.
    #[must_use]
    pub fn inner(&self) -> &Arc<dyn Device> {
        &self.inner
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

    /// The read error of what was found and not given out by [`Self::take_untold`] yet, if
    /// there is any.
    #[must_use]
    pub fn untold(&self) -> Option<Error> {
        self.state.lock().cause.as_ref().map(Error::duplicate)
    }

    /// At most `max` ranges that were found and not given out by this yet.
    #[must_use]
    pub fn take_untold(&self, max: usize) -> Vec<ByteRange> {
        let mut state = self.state.lock();
        let count = state.untold.len().min(max);
        let ranges = state.untold.drain(..count).collect();
        if state.untold.is_empty() {
            state.cause = None;
        }
        ranges
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
        for page in found {
            if state.unreadable.len() >= UNREADABLE_RANGES_MAX {
                let what = format!(
                    "more than {UNREADABLE_RANGES_MAX} separate ranges cannot be read, which is too \
                     much to leave out"
                );
                return Err(first.reworded(&what));
            }
            state.found(page, &first);
        }
        Ok(())
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

    fn id(&self) -> FileId {
        self.inner.id()
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
    use std::sync::Arc;

    use super::*;
    use crate::device::MemoryDevice;

    /// A device that cannot read these bytes, and notes when it was asked for them.
    struct Broken(MemoryDevice, Vec<ByteRange>, Arc<Mutex<Vec<ByteRange>>>);

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
                true => {
                    self.2.lock().push(range);
                    Err(Error::new(Kind::Read, "broken").with_range(range))
                }
                false => self.0.read_exact_at(buf, offset),
            }
        }

        fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
            self.0.next_data(from)
        }
    }

    fn broken() -> Box<dyn Device> {
        let bad = vec![ByteRange::new(5000, 5001), ByteRange::new(20_000, 20_010)];
        Box::new(Broken(MemoryDevice::new(vec![7; 20_400]), bad, Arc::default()))
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
        let device = TolerantDevice::new(broken());
        let mut bytes = vec![1; 20_400];
        for _ in 0..2 {
            device.read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes == expected());
            assert_eq!(device.unreadable().ranges(), BAD);
        }
        assert!(device.is_unreadable(ByteRange::new(8191, 8192)));
        assert!(!device.is_unreadable(ByteRange::new(8192, 16_384)));
    }

    /// Each attempt may keep a bad disk busy for a minute.
    #[test]
    fn what_is_known_to_be_unreadable_is_not_tried_again() {
        let tried = Arc::default();
        let bad = vec![ByteRange::new(5000, 5001), ByteRange::new(16_390, 16_400)];
        let inner = Broken(MemoryDevice::new(vec![7; 20_400]), bad, Arc::clone(&tried));
        let device = TolerantDevice::new(Box::new(inner));
        let mut bytes = vec![1; 20_400];
        device.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(tried.lock().len(), 3, "all of it, then each bad page");
        for range in [0..20_400, 4096..8192, 8191..8193, 16_384..16_385] {
            device.read_exact_at(&mut bytes[range.clone()], range.start as u64).unwrap();
        }
        assert!(bytes == expected());
        assert_eq!(tried.lock().len(), 3);
    }

    /// A device of which every other page cannot be read.
    struct Striped;

    impl Device for Striped {
        fn path(&self) -> &Path {
            Path::new("striped")
        }

        fn size(&self) -> u64 {
            1 << 40
        }

        fn read_exact_at(&self, _: &mut [u8], offset: u64) -> Result<()> {
            match offset / PIECE_BYTES % 2 {
                0 => Ok(()),
                _ => Err(Error::new(Kind::Read, "broken")),
            }
        }

        fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
            Ok(Some(ByteRange::new(from, self.size())))
        }
    }

    #[test]
    fn more_unreadable_ranges_than_can_be_left_out_are_an_error() {
        let device = TolerantDevice::new(Box::new(Striped));
        let page = |i: u64| device.read_exact_at(&mut [1; 10], i * PIECE_BYTES);
        (0..UNREADABLE_RANGES_MAX as u64).for_each(|i| page(2 * i + 1).unwrap());
        let one_more = 2 * UNREADABLE_RANGES_MAX as u64 + 1;
        let err = page(one_more).unwrap_err();
        assert_eq!(err.kind(), Kind::Read);
        assert!(err.to_string().contains("too much to leave out"), "{err}");
        page(1).unwrap();
        assert_eq!(device.unreadable().len(), UNREADABLE_RANGES_MAX);
    }

    #[test]
    fn each_unreadable_page_is_told_once() {
        let device = TolerantDevice::new(broken());
        let mut bytes = vec![1; 20_400];
        assert!(device.untold().is_none());
        device.read_exact_at(&mut bytes[..100], 4990).unwrap();
        assert_eq!(device.untold().unwrap().range(), Some(ByteRange::new(4990, 5090)));
        assert_eq!(device.take_untold(10), BAD[..1]);
        assert!(device.untold().is_none());
        device.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(device.take_untold(0), []);
        assert!(device.untold().is_some());
        assert_eq!(device.take_untold(10), BAD[1..]);
        device.read_exact_at(&mut bytes, 0).unwrap();
        assert!(device.untold().is_none());
    }

    #[test]
    fn neighbours_are_told_as_one() {
        let bad = vec![ByteRange::new(0, 12_288), ByteRange::new(16_384, 16_385)];
        let device = TolerantDevice::new(Box::new(Broken(
            MemoryDevice::new(vec![7; 20_400]),
            bad,
            Arc::default(),
        )));
        device.read_exact_at(&mut [0; 20_400], 0).unwrap();
        assert_eq!(device.take_untold(10), [ByteRange::new(0, 12_288), BAD[1]]);
    }
}

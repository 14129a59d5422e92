//! The device of a session, which fails every read once the session is over.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;

/// The device of a session. Once the session is over it fails every read, so that no thread
/// goes on with a long one. Its clones are over at once.
#[derive(Clone)]
pub(super) struct ServedDevice {
    inner: Arc<dyn Device>,
    over: Arc<AtomicBool>,
}

impl ServedDevice {
    pub(super) fn new(inner: Box<dyn Device>) -> Self {
        Self { inner: Arc::from(inner), over: Arc::default() }
    }

    /// Ends all reading.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    fn fail_if_over(&self) -> Result<()> {
        match self.over.load(Ordering::Acquire) {
            true => Err(Error::new(Kind::Gone, "the session is over")),
            false => Ok(()),
        }
    }
}

impl Device for ServedDevice {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.fail_if_over()?;
        self.inner.read_exact_at(buf, offset)
    }

    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        self.fail_if_over()?;
        self.inner.next_data(from)
    }

    fn check(&self) -> Result<()> {
        self.fail_if_over()?;
        self.inner.check()
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

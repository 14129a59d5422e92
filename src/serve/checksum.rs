//! The digest of a session's device, made beside everything else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::bell::Bell;
use super::task::Source;
use crate::background::spawn;
use crate::device::Device;
use crate::digest::{Algorithm, Digest, checksum};
use crate::error::{Error, Kind, Result};

/// The device's checksum, once it is known.
#[derive(Default)]
pub(super) struct ChecksumCell {
    value: Mutex<Option<Result<Digest>>>,
    /// Bytes of the device that it covers so far.
    digested_bytes: AtomicU64,
}

impl ChecksumCell {
    /// Computes it on a thread of its own, which rings the source's bell when it ends.
    pub(super) fn start(source: &Arc<Source>, algorithm: Algorithm) -> Result<Arc<Self>> {
        let cell = Arc::new(Self::default());
        let (source, result) = (Arc::clone(source), Arc::clone(&cell));
        spawn("checksum", Kind::Digest, "cannot start the checksum thread", move || {
            let _last = AtEnd { cell: &result, bell: &source.bell };
            let value = checksum(&source.device, algorithm, &mut |bytes| {
                result.digested_bytes.store(bytes, Ordering::Relaxed);
                source.device.check()
            });
            result.set(value);
        })?;
        Ok(cell)
    }

    /// How many bytes of the device it covers so far.
    pub(super) fn digested_bytes(&self) -> u64 {
        self.digested_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn is_known(&self) -> bool {
        self.value.lock().is_some()
    }

    /// The digest; to be called once it is known.
    pub(super) fn value(&self) -> Result<Digest> {
        match &*self.value.lock() {
            Some(Ok(digest)) => Ok(*digest),
            Some(Err(err)) => Err(err.duplicate()),
            None => Err(Error::new(Kind::Checksum, "the checksum is not known yet")),
        }
    }

    /// Sets the value, once.
    fn set(&self, value: Result<Digest>) {
        self.value.lock().get_or_insert(value);
    }
}

/// Where a panic does not end the process: who waits for the checksum must not be left alone.
struct AtEnd<'a> {
    cell: &'a ChecksumCell,
    bell: &'a Bell,
}

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.cell.set(Err(Error::new(Kind::Checksum, "the checksum's thread failed")));
        self.bell.ring();
    }
}

//! A wrapper for tests: records every call, and lets chosen ones fail.

use std::io;
use std::path::Path;

use parking_lot::Mutex;

use super::{Device, DeviceMut};
use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;

/// One call, as it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `read_exact_at` of these bytes.
    Read(ByteRange),
    /// `write_all_at` of these bytes, or one vectored write of all of them.
    Write(ByteRange),
    /// `next_data` from this offset.
    NextData(u64),
    /// `set_size` to this many bytes.
    SetSize(u64),
    /// `sync`.
    Sync,
}

/// The kind of call that a fault is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `read_exact_at`.
    Read,
    /// `write_all_at`.
    Write,
    /// `set_size`.
    SetSize,
    /// `sync`.
    Sync,
}

/// A call that shall fail.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Calls of this kind are counted.
    pub operation: Operation,
    /// This one fails, counted from 0, and, when `forever`, all after it.
    pub nth: usize,
    /// Whether the calls after it fail as well.
    pub forever: bool,
    /// The error number it fails with.
    pub errno: i32,
    /// A failing write first writes this many of its bytes.
    pub short_bytes: usize,
}

impl Fault {
    /// The `nth` (from 0) call of `operation` fails with EIO, once.
    pub fn once(operation: Operation, nth: usize) -> Self {
        Self { operation, nth, forever: false, errno: libc::EIO, short_bytes: 0 }
    }
}

/// A device that records its calls and has faults.
#[derive(Debug)]
pub struct FaultyDevice<D> {
    inner: D,
    faults: Vec<Fault>,
    calls: Mutex<Vec<Call>>,
}

impl<D> FaultyDevice<D> {
    /// `inner` with these faults; none: it only records.
    pub fn new(inner: D, faults: impl Into<Vec<Fault>>) -> Self {
        Self { inner, faults: faults.into(), calls: Mutex::new(Vec::new()) }
    }

    /// The wrapped device.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// Every call so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().clone()
    }

    /// Forgets the calls so far, for faults and [`FaultyDevice::calls`] alike.
    pub fn forget_calls(&self) {
        self.calls.lock().clear();
    }

    /// Bytes asked for by reads so far.
    pub fn read_bytes(&self) -> u64 {
        let calls = self.calls.lock();
        calls.iter().map(|call| if let Call::Read(range) = call { range.len() } else { 0 }).sum()
    }

    /// Bytes of writes so far.
    pub fn written_bytes(&self) -> u64 {
        let calls = self.calls.lock();
        calls.iter().map(|call| if let Call::Write(range) = call { range.len() } else { 0 }).sum()
    }

    /// Records `call` and says which fault meets it.
    fn record(&self, call: Call) -> Option<Fault> {
        let operation = |call: &Call| match call {
            Call::Read(_) => Some(Operation::Read),
            Call::Write(_) => Some(Operation::Write),
            Call::SetSize(_) => Some(Operation::SetSize),
            Call::Sync => Some(Operation::Sync),
            Call::NextData(_) => None,
        };
        let mut calls = self.calls.lock();
        let this = operation(&call);
        let count = calls.iter().filter(|before| operation(before) == this).count();
        calls.push(call);
        let meets = |fault: &&Fault| {
            Some(fault.operation) == this
                && (count == fault.nth || fault.forever && count > fault.nth)
        };
        self.faults.iter().find(meets).copied()
    }
}

fn failure(kind: Kind, fault: Fault, path: &Path) -> Error {
    Error::io(kind, "injected fault", io::Error::from_raw_os_error(fault.errno)).with_path(path)
}

fn range_of(buf: &[u8], offset: u64) -> ByteRange {
    ByteRange::new(offset, offset + buf.len() as u64)
}

impl<D: Device> Device for FaultyDevice<D> {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let range = range_of(buf, offset);
        match self.record(Call::Read(range)) {
            Some(fault) => Err(failure(Kind::Read, fault, self.path()).with_range(range)),
            None => self.inner.read_exact_at(buf, offset),
        }
    }

    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        self.record(Call::NextData(from));
        self.inner.next_data(from)
    }

    fn is_changed(&self) -> bool {
        self.inner.is_changed()
    }
}

impl<D: DeviceMut> DeviceMut for FaultyDevice<D> {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let range = range_of(buf, offset);
        match self.record(Call::Write(range)) {
            Some(fault) => {
                self.inner.write_all_at(&buf[..fault.short_bytes.min(buf.len())], offset)?;
                Err(failure(Kind::Write, fault, self.path()).with_range(range))
            }
            None => self.inner.write_all_at(buf, offset),
        }
    }

    fn write_all_vectored_at(&self, parts: &[&[u8]], offset: u64) -> Result<()> {
        self.write_all_at(&parts.concat(), offset)
    }

    fn sync(&self) -> Result<()> {
        match self.record(Call::Sync) {
            Some(fault) => Err(failure(Kind::Write, fault, self.path())),
            None => self.inner.sync(),
        }
    }

    fn can_set_size(&self) -> bool {
        self.inner.can_set_size()
    }

    fn set_size(&self, size_bytes: u64) -> Result<()> {
        match self.record(Call::SetSize(size_bytes)) {
            Some(fault) => Err(failure(Kind::Write, fault, self.path())),
            None => self.inner.set_size(size_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemoryDevice;
    use super::*;

    #[test]
    fn nth_call_fails_and_all_are_recorded() {
        let fault = Fault { short_bytes: 1, ..Fault::once(Operation::Write, 1) };
        let device = FaultyDevice::new(MemoryDevice::new([0; 8]), [fault]);
        device.write_all_at(&[1, 1], 0).unwrap();
        device.read_exact_at(&mut [0; 4], 0).unwrap();
        assert_eq!(device.write_all_at(&[2, 2], 2).unwrap_err().kind(), Kind::Write);
        device.write_all_at(&[3, 3], 4).unwrap();
        assert_eq!(device.inner().content(), [1, 1, 2, 0, 3, 3, 0, 0]);
        assert_eq!((device.read_bytes(), device.written_bytes()), (4, 6));
        assert_eq!(device.calls()[1], Call::Read(ByteRange::new(0, 4)));
    }
}

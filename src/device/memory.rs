//! A device in memory.

use std::path::{Path, PathBuf};

use parking_lot::RwLock;

use super::{Device, DeviceMut};
use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;

/// A vector of bytes as a device.
#[derive(Debug)]
pub struct MemoryDevice {
    path: PathBuf,
    bytes: RwLock<Vec<u8>>,
    /// Unit of holes in bytes: aligned runs of zeros of this length are holes. `None`: no holes.
    hole_bytes: Option<usize>,
}

impl MemoryDevice {
    /// A device with this content, all of it data.
    #[must_use]
    pub fn new(content: impl Into<Vec<u8>>) -> Self {
        Self { path: PathBuf::from("memory"), bytes: RwLock::new(content.into()), hole_bytes: None }
    }

    /// The same with another path in its messages.
    #[must_use]
    pub fn with_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = path.into();
        self
    }

    /// The same, telling zero bytes in aligned units of `unit_bytes` (not 0) as holes.
    #[must_use]
    pub fn with_holes(mut self, unit_bytes: usize) -> Self {
        self.hole_bytes = Some(unit_bytes.max(1));
        self
    }

    /// A copy of the whole content.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        self.bytes.read().clone()
    }
}

impl Device for MemoryDevice {
    fn path(&self) -> &Path {
        &self.path
    }

    fn size(&self) -> u64 {
        self.bytes.read().len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let bytes = self.bytes.read();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let rest = &bytes[start..];
        if rest.len() < buf.len() {
            let what = format!(
                "the device became shorter: expected {} bytes, found {}",
                buf.len(),
                rest.len()
            );
            return Err(Error::new(Kind::Read, what)
                .with_path(&self.path)
                .with_range(ByteRange::new(offset, offset.saturating_add(buf.len() as u64))));
        }
        buf.copy_from_slice(&rest[..buf.len()]);
        Ok(())
    }

    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        let bytes = self.bytes.read();
        let size = bytes.len();
        let Some(from) = usize::try_from(from).ok().filter(|&from| from < size) else {
            return Ok(None);
        };
        let Some(unit) = self.hole_bytes else {
            return Ok(Some(ByteRange::new(from as u64, size as u64)));
        };
        let is_data = |i: &usize| bytes[i * unit..size.min((i + 1) * unit)].iter().any(|&b| b != 0);
        let count = size.div_ceil(unit);
        let Some(first) = (from / unit..count).find(is_data) else { return Ok(None) };
        let end = (first..count).find(|i| !is_data(i)).map_or(size, |i| i * unit);
        Ok(Some(ByteRange::new((first * unit).max(from) as u64, end as u64)))
    }
}

impl DeviceMut for MemoryDevice {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let mut bytes = self.bytes.write();
        let range = ByteRange::new(offset, offset.saturating_add(buf.len() as u64));
        // As a block device: writing cannot make it longer.
        match usize::try_from(offset).ok().and_then(|start| {
            let end = start.checked_add(buf.len())?;
            bytes.get_mut(start..end)
        }) {
            Some(place) => place.copy_from_slice(buf),
            None => {
                return Err(Error::new(Kind::Write, "the range lies outside the device")
                    .with_path(&self.path)
                    .with_range(range));
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn set_size(&self, size_bytes: u64) -> Result<()> {
        let size = usize::try_from(size_bytes).map_err(|err| {
            Error::new(Kind::Write, "the size does not fit memory")
                .with_path(&self.path)
                .with_source(err)
        })?;
        self.bytes.write().resize(size, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_aligned_runs_of_zeros() {
        let mut content = vec![0; 22];
        content[9] = 1;
        content[21] = 1;
        let device = MemoryDevice::new(content).with_holes(4);
        assert_eq!(device.next_data(0).unwrap(), Some(ByteRange::new(8, 12)));
        assert_eq!(device.next_data(10).unwrap(), Some(ByteRange::new(10, 12)));
        assert_eq!(device.next_data(12).unwrap(), Some(ByteRange::new(20, 22)));
        assert_eq!(device.next_data(22).unwrap(), None);
        assert_eq!(MemoryDevice::new([0; 9]).with_holes(4).next_data(0).unwrap(), None);
        assert_eq!(
            MemoryDevice::new([0; 9]).next_data(3).unwrap(),
            Some(ByteRange::new(3, 9)),
            "without a unit all is data"
        );
    }

    #[test]
    fn reads_and_writes_outside_are_errors() {
        let device = MemoryDevice::new([1, 2, 3]);
        assert_eq!(device.read_exact_at(&mut [0; 2], 2).unwrap_err().kind(), Kind::Read);
        assert_eq!(device.write_all_at(&[0; 2], 2).unwrap_err().kind(), Kind::Write);
        device.write_all_at(&[9], 2).unwrap();
        assert_eq!(device.content(), [1, 2, 9]);
    }
}

//! Devices and zeros fed to a digest, in pieces between which it can be ended.

use super::hasher::Hasher;
use super::pool::READ_BYTES;
use crate::buffer::PageBuffer;
use crate::device::Device;
use crate::error::Result;
use crate::units::ByteRange;

/// Feeds the device's bytes `[0, end)`; holes, and what lies past its end, as zeros that are not
/// read. `progress` is told after every piece how many bytes are done; an error that it returns
/// ends the work.
///
/// # Errors
/// `Kind::Read` as the device's, and whatever `progress` returns.
pub fn feed(
    hasher: &mut Hasher,
    device: &dyn Device,
    end: u64,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    let mut buffer = PageBuffer::new(READ_BYTES);
    let mut pos = 0;
    while let Some(data) = next_data(device, pos, end)? {
        feed_zeros(hasher, ByteRange::new(pos, data.start), progress)?;
        for piece in data.pieces(READ_BYTES as u64) {
            let bytes = &mut buffer[..piece.len() as usize];
            device.read_exact_at(bytes, piece.start)?;
            hasher.update(bytes);
            progress(piece.end)?;
        }
        pos = data.end;
    }
    feed_zeros(hasher, ByteRange::new(pos, end), progress)
}

/// Feeds as many zeros as `hole` has bytes. `progress` is told after every piece up to where it is
/// done; an error that it returns ends the work.
///
/// # Errors
/// Whatever `progress` returns.
pub fn feed_zeros(
    hasher: &mut Hasher,
    hole: ByteRange,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    for piece in hole.pieces(READ_BYTES as u64) {
        hasher.update_zeros(piece.len());
        progress(piece.end)?;
    }
    Ok(())
}

/// The first range of data in `[from, limit)`, never empty; `None` when all of it is a hole.
pub(super) fn next_data(device: &dyn Device, from: u64, limit: u64) -> Result<Option<ByteRange>> {
    if from >= limit {
        return Ok(None);
    }
    let data = device.next_data(from)?.map(|data| match data.end > from {
        true => ByteRange::new(data.start.max(from), data.end).clip(limit),
        // Against its contract; to read everything is right whatever the holes are.
        false => ByteRange::new(from, limit),
    });
    Ok(data.filter(|data| !data.is_empty()))
}

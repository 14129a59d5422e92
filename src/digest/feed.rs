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
///
/// # Errors
/// What the device fails with.
pub fn next_data(device: &dyn Device, from: u64, limit: u64) -> Result<Option<ByteRange>> {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A device of zeros that says, wherever it is asked, that this is its data.
    struct Stubborn(Option<ByteRange>);

    impl Device for Stubborn {
        fn path(&self) -> &Path {
            Path::new("stubborn")
        }

        fn size(&self) -> u64 {
            100
        }

        fn read_exact_at(&self, buf: &mut [u8], _offset: u64) -> Result<()> {
            buf.fill(0);
            Ok(())
        }

        fn next_data(&self, _from: u64) -> Result<Option<ByteRange>> {
            Ok(self.0)
        }
    }

    #[test]
    fn data_is_inside_of_what_was_asked_for_and_missed_nowhere() {
        let range = |start, end| Some(ByteRange::new(start, end));
        for (said, expected) in [
            (None, None),
            (range(30, 40), range(30, 40)),
            (range(0, 40), range(20, 40)),
            (range(30, 90), range(30, 80)),
            (range(80, 90), None),
            // That is before it.
            (range(10, 20), range(20, 80)),
            (range(10, 15), range(20, 80)),
        ] {
            assert_eq!(next_data(&Stubborn(said), 20, 80).unwrap(), expected, "{said:?}");
        }
        assert_eq!(next_data(&Stubborn(range(0, 100)), 80, 80).unwrap(), None);
    }
}

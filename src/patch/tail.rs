//! Whether a target still ends where it did when a sealed patch was made for it.
//!
//! The seal knows what the overwritten blocks held, and the size. A target that has lost its end
//! holds other bytes than it did where the patch has no records; so does one with something behind
//! that end, where the patch is for a larger device and its source had zeros, or is cut off with it.

use std::io::{Read, Seek};

use super::base_state::BaseState;
use super::reader::PatchReader;
use super::sizes::SizePlan;
use crate::device::Device;
use crate::digest::{is_zero, next_data};
use crate::error::Result;
use crate::units::{ByteRange, MIB};

/// Bytes of the device that are read at a time.
const READ_BYTES: u64 = MIB;

/// The state of a target that does not end as one of `made_for_bytes` did, nor as the patch, which
/// an apply that was cut short may have come to; `None` of all others.
///
/// # Errors
/// What device, reader and `check` fail with.
pub(super) fn foreign_end<R: Read + Seek>(
    device: &dyn Device,
    made_for_bytes: u64,
    sizes: &SizePlan,
    reader: &mut PatchReader<R>,
    check: &dyn Fn() -> Result<()>,
) -> Result<Option<BaseState>> {
    let (found_bytes, patch_bytes) = (device.size(), reader.header().size_bytes);
    let needed_bytes = made_for_bytes.min(patch_bytes);
    if found_bytes < needed_bytes {
        let missing = ByteRange::new(found_bytes, needed_bytes);
        return Ok(Some(BaseState::Cut { made_for_bytes, missing }));
    }
    let end = found_bytes.min(patch_bytes);
    let mut at = made_for_bytes;
    while at < end {
        check()?;
        let place = reader.next_place()?.map(|place| place.range);
        let next = place.unwrap_or(ByteRange::new(end, end));
        if let Some(first) = first_data(device, at, next.start.min(end), check)? {
            return Ok(Some(BaseState::Extended { made_for_bytes, first }));
        }
        at = at.max(next.end);
    }
    let kept_bytes = sizes.resize_bytes.unwrap_or(found_bytes);
    let first = first_data(device, kept_bytes.max(made_for_bytes), found_bytes, check)?;
    Ok(first.map(|first| BaseState::Extended { made_for_bytes, first }))
}

/// The first piece of `[from, limit)` that holds something else than zeros.
fn first_data(
    device: &dyn Device,
    from: u64,
    limit: u64,
    check: &dyn Fn() -> Result<()>,
) -> Result<Option<ByteRange>> {
    let mut at = from;
    let mut buffer = Vec::new();
    while let Some(data) = next_data(device, at, limit)? {
        check()?;
        let piece = data.clip(data.start.saturating_add(READ_BYTES));
        buffer.resize(piece.len() as usize, 0);
        device.read_exact_at(&mut buffer, piece.start)?;
        if !is_zero(&buffer) {
            return Ok(Some(piece));
        }
        at = piece.end;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::{Header, PatchWriter};
    use super::*;
    use crate::device::MemoryDevice;

    /// Of a device of 100 bytes, with records for 30..40 and 60..70, which gets that size.
    fn end_of(content: &[u8], made_for_bytes: u64) -> Option<BaseState> {
        end_if(true, content, made_for_bytes)
    }

    /// The same, for a target that gets the size if it `is_resized`.
    fn end_if(is_resized: bool, content: &[u8], made_for_bytes: u64) -> Option<BaseState> {
        let header = Header { size_bytes: 100, name: b"d".to_vec() };
        let mut writer = PatchWriter::new(Vec::new(), &header).unwrap();
        for at in [30, 60] {
            writer.write_block(at, &[2; 10]).unwrap();
        }
        let patch = writer.finish(None).unwrap();
        let mut reader = PatchReader::new(Cursor::new(patch), "patch").unwrap();
        let device = MemoryDevice::new(content);
        let sizes = SizePlan {
            before_bytes: device.size(),
            limit_bytes: 100,
            resize_bytes: is_resized.then_some(100),
        };
        foreign_end(&device, made_for_bytes, &sizes, &mut reader, &|| Ok(())).unwrap()
    }

    #[test]
    fn target_that_has_lost_its_end_is_told() {
        for (made_for_bytes, needed_bytes) in [(50, 50), (100, 100), (150, 100)] {
            let missing = ByteRange::new(40, needed_bytes);
            let state = Some(BaseState::Cut { made_for_bytes, missing });
            assert_eq!(end_of(&[1; 40], made_for_bytes), state);
        }
        for bytes in [100, 120, 150] {
            assert_eq!(end_of(&vec![1; bytes], 150), None);
        }
    }

    #[test]
    fn what_would_be_cut_off_was_there_when_the_patch_was_made_or_is_zero() {
        for made_for_bytes in [50, 100, 150] {
            let mut content = vec![1; made_for_bytes as usize];
            content.resize(180, 0);
            assert_eq!(end_of(&content, made_for_bytes), None);
            content[170] = 1;
            let cut_from = made_for_bytes.max(100);
            let first = ByteRange::new(cut_from, 180);
            let extended = Some(BaseState::Extended { made_for_bytes, first });
            assert_eq!(end_of(&content, made_for_bytes), extended);
            assert_eq!(end_if(false, &content, made_for_bytes), None, "it stays");
        }
    }

    #[test]
    fn only_zeros_and_what_the_patch_writes_may_lie_behind_the_end() {
        let extended = |at: usize, bytes: usize| {
            let mut content = vec![1; 50];
            content.resize(bytes, 0);
            content[at] = 1;
            end_of(&content, 50)
        };
        for (at, bytes) in [(0, 50), (0, 55), (0, 100), (60, 100), (69, 100)] {
            assert_eq!(extended(at, bytes), None, "{at} of {bytes}");
        }
        for (at, bytes) in [(50, 51), (59, 100), (70, 100), (99, 100), (99, 120)] {
            let Some(BaseState::Extended { made_for_bytes: 50, first }) = extended(at, bytes)
            else {
                panic!("{at} of {bytes}")
            };
            assert!(first.start <= at as u64 && (at as u64) < first.end, "{first}");
        }
    }
}

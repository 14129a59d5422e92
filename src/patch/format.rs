//! The bytes of a `BDSYNC 0.3` patch: pure encoding and decoding of its parts.
//!
//! ```text
//!   "BDSYNC 0.3\n"  size u64  name length u16  name           header
//!   offset u64  length u16  data                              a record, any number of them
//!   0 u64  0 u16                                              end
//!   a u8 (0: no checksum) [ name[a]  b u8  digest[b] ]        trailer
//!   under 4 KiB of anything                                   invisible to classic readers
//! ```
//! Integers are little-endian (protocol).

use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;

/// The first line of every patch.
pub const MAGIC: &[u8; 11] = b"BDSYNC 0.3\n";
/// Bytes of a header without its name.
pub const HEADER_BYTES: usize = MAGIC.len() + 8 + 2;
/// The longest device name, in bytes.
pub const NAME_BYTES_MAX: usize = 16384;
/// Bytes of a record without its data, and of the end mark.
pub const RECORD_HEADER_BYTES: usize = 10;
/// The longest data that a record which we write has, in bytes.
pub const RECORD_WRITE_BYTES_MAX: usize = 32768;
/// The longest data that a record may have, in bytes.
pub const RECORD_READ_BYTES_MAX: usize = u16::MAX as usize;
/// The longest digest name, and the longest digest, in bytes.
pub const CHECKSUM_BYTES_MAX: usize = 127;
/// The end mark: a record without place and data.
pub const END: [u8; RECORD_HEADER_BYTES] = [0; RECORD_HEADER_BYTES];
/// Bytes behind the trailer stay below this, so that a pipe to a classic reader never blocks.
pub const TAIL_BYTES_LIMIT: usize = 4096;

/// What stands before the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Size in bytes of the device that the patch makes.
    pub size_bytes: u64,
    /// Path of the device to patch, as the client was given it; at most [`NAME_BYTES_MAX`].
    pub name: Vec<u8>,
}

/// Where a record's data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// First byte in the device.
    pub offset: u64,
    /// Length of the data in bytes; 0 only in the end mark.
    pub len: u16,
}

/// The digest of the whole device that the patch makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// The digest's name as the client was given it; 1 to [`CHECKSUM_BYTES_MAX`] bytes.
    pub name: Vec<u8>,
    /// Its value; at most [`CHECKSUM_BYTES_MAX`] bytes.
    pub digest: Vec<u8>,
}

impl Header {
    /// The bytes of the header.
    ///
    /// # Errors
    /// `Kind::Usage` when the name is longer than [`NAME_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>> {
        let name_len = u16::try_from(self.name.len()).ok();
        let Some(name_len) = name_len.filter(|len| usize::from(*len) <= NAME_BYTES_MAX) else {
            let what = format!(
                "the device's name is too long for a patch: expected at most {NAME_BYTES_MAX} \
                 bytes, found {}",
                self.name.len()
            );
            return Err(Error::new(Kind::Usage, what));
        };
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.name.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.size_bytes.to_le_bytes());
        bytes.extend_from_slice(&name_len.to_le_bytes());
        bytes.extend_from_slice(&self.name);
        Ok(bytes)
    }

    /// The size and the name's length from the bytes between magic and name.
    #[must_use]
    pub fn decode_numbers(bytes: &[u8; 10]) -> (u64, usize) {
        let (size, name_len) = split_u64_u16(bytes);
        (size, usize::from(name_len))
    }
}

impl RecordHeader {
    /// The bytes before the data.
    #[must_use]
    pub fn encode(self) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = END;
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    /// What [`RecordHeader::encode`] wrote; any bytes decode.
    #[must_use]
    pub fn decode(bytes: &[u8; RECORD_HEADER_BYTES]) -> Self {
        let (offset, len) = split_u64_u16(bytes);
        Self { offset, len }
    }

    /// Whether this is the end mark and no record.
    #[must_use]
    pub fn is_end(self) -> bool {
        self.offset == 0 && self.len == 0
    }

    /// The bytes of the device that the record covers; `None` when their end does not fit 64 bits.
    #[must_use]
    pub fn range(self) -> Option<ByteRange> {
        ByteRange::checked_at(self.offset, u64::from(self.len))
    }
}

/// The trailer's bytes; `None` when the checksum's name is empty or one of its parts too long.
#[must_use]
pub fn encode_trailer(checksum: Option<&Checksum>) -> Option<Vec<u8>> {
    let Some(Checksum { name, digest }) = checksum else { return Some(vec![0]) };
    if name.is_empty() || name.len() > CHECKSUM_BYTES_MAX || digest.len() > CHECKSUM_BYTES_MAX {
        return None;
    }
    let mut bytes = Vec::with_capacity(2 + name.len() + digest.len());
    bytes.push(u8::try_from(name.len()).ok()?);
    bytes.extend_from_slice(name);
    bytes.push(u8::try_from(digest.len()).ok()?);
    bytes.extend_from_slice(digest);
    Some(bytes)
}

fn split_u64_u16(bytes: &[u8; 10]) -> (u64, u16) {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[..8]);
    (u64::from_le_bytes(number), u16::from_le_bytes([bytes[8], bytes[9]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn record_header_decodes_to_what_was_encoded(offset: u64, len: u16) {
            let header = RecordHeader { offset, len };
            prop_assert_eq!(RecordHeader::decode(&header.encode()), header);
        }
    }

    #[test]
    fn header_is_magic_size_and_name() {
        let header = Header { size_bytes: 0x0102, name: b"ab".to_vec() };
        assert_eq!(header.encode().unwrap(), b"BDSYNC 0.3\n\x02\x01\0\0\0\0\0\0\x02\0ab");
    }

    #[test]
    fn names_at_the_limit_are_written_and_longer_ones_are_not() {
        let header = |n| Header { size_bytes: 0, name: vec![b'x'; n] };
        assert!(header(NAME_BYTES_MAX).encode().is_ok());
        assert!(header(NAME_BYTES_MAX + 1).encode().is_err());
        let trailer = |n| Checksum { name: vec![b'x'; n], digest: vec![0; n] };
        assert!(encode_trailer(Some(&trailer(CHECKSUM_BYTES_MAX))).is_some());
        assert!(encode_trailer(Some(&trailer(CHECKSUM_BYTES_MAX + 1))).is_none());
        let digest = |n| Checksum { name: b"x".to_vec(), digest: vec![0; n] };
        assert!(encode_trailer(Some(&digest(CHECKSUM_BYTES_MAX))).is_some());
        assert!(encode_trailer(Some(&digest(CHECKSUM_BYTES_MAX + 1))).is_none());
        assert!(encode_trailer(Some(&trailer(0))).is_none());
        assert_eq!(encode_trailer(None).unwrap(), [0]);
    }

    #[test]
    fn record_whose_end_overflows_has_no_range() {
        assert_eq!(RecordHeader { offset: u64::MAX, len: 1 }.range(), None);
        assert!(RecordHeader { offset: u64::MAX - 1, len: 1 }.range().is_some());
    }
}

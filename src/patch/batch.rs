//! Records of a patch that are in memory.

use crate::buffer::PageBuffer;
use crate::units::ByteRange;

/// A record, in its place in the patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where its data goes in the device.
    pub offset: u64,
    /// What goes there.
    pub data: &'a [u8],
    /// Where its data begins in the patch.
    pub position: u64,
}

impl Record<'_> {
    /// Without its data.
    #[must_use]
    pub fn place(&self) -> RecordPlace {
        let range = ByteRange::new(self.offset, self.offset + self.data.len() as u64);
        RecordPlace { range, position: self.position }
    }
}

/// Where a record goes, without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPlace {
    /// The bytes of the device.
    pub range: ByteRange,
    /// Where its data begins in the patch.
    pub position: u64,
}

/// Consecutive records that are in memory.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    pub(super) records: &'a [Entry],
    pub(super) buffer: &'a [u8],
    /// Position in the patch of the buffer's first byte.
    pub(super) buffer_position: u64,
}

/// Consecutive records in memory of their own, for another thread.
#[derive(Debug, Default)]
pub struct OwnedBatch {
    pub(super) records: Vec<Entry>,
    pub(super) buffer: PageBuffer,
    pub(super) buffer_position: u64,
}

impl OwnedBatch {
    /// The records.
    #[must_use]
    pub fn batch(&self) -> Batch<'_> {
        let Self { records, buffer, buffer_position } = self;
        Batch { records, buffer, buffer_position: *buffer_position }
    }
}

/// Where in a buffer a record is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) offset: u64,
    /// Index of the first byte of data in the buffer.
    pub(super) at: usize,
    pub(super) len: usize,
}

impl<'a> Batch<'a> {
    /// The records, in the patch's order.
    pub fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let Self { records, buffer, buffer_position } = *self;
        records.iter().map(move |entry| Record {
            offset: entry.offset,
            data: &buffer[entry.at..entry.at + entry.len],
            position: buffer_position + entry.at as u64,
        })
    }
}

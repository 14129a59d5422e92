//! Where in the patch file which block's records are. Pure.
//!
//! ```text
//!   header | k-th differing block's records, record_bytes each (the last may be shorter) | tail
//! ```
//! All blocks but a device's last one have the same length, so the place of a block is known
//! from how many differ below it; nothing is kept for a record.

use crate::error::{Error, Kind, Result};
use crate::patch::block_patch_bytes;
use crate::patch::format::{
    Checksum, END, Header, RECORD_HEADER_BYTES, RECORD_WRITE_BYTES_MAX, RecordHeader,
    encode_trailer,
};
use crate::units::ByteRange;

/// Bytes of a whole record.
const RECORD_BYTES: u64 = (RECORD_HEADER_BYTES + RECORD_WRITE_BYTES_MAX) as u64;

/// The shape of one patch.
pub struct Layout {
    header: Vec<u8>,
    size_bytes: u64,
    block_bytes: u64,
    /// Name of the checksum, and its length in bytes.
    checksum: Option<(Vec<u8>, usize)>,
}

impl Layout {
    /// The patch with this header, of blocks of `block_bytes` (not 0), which ends in the
    /// checksum of this name and length in bytes.
    ///
    /// # Errors
    /// `Kind::Usage` when a name is too long for a patch.
    pub fn new(
        header: &Header,
        block_bytes: u64,
        checksum: Option<(Vec<u8>, usize)>,
    ) -> Result<Self> {
        let layout =
            Self { header: header.encode()?, size_bytes: header.size_bytes, block_bytes, checksum };
        let digest_len = layout.checksum.as_ref().map_or(0, |(_, len)| *len);
        layout.tail(&vec![0; digest_len]).map(|_| layout)
    }

    /// The bytes before the first record.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// How many blocks a patch may carry: those that begin inside the patched device.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.size_bytes.div_ceil(self.block_bytes)
    }

    /// The bytes of a block below [`Layout::blocks`] that the patch carries.
    #[must_use]
    pub fn carried(&self, block: u64) -> ByteRange {
        let start = block * self.block_bytes;
        ByteRange::new(start, start.saturating_add(self.block_bytes)).clip(self.size_bytes)
    }

    /// Bytes that the records of a whole block take.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        block_patch_bytes(self.block_bytes)
    }

    /// Bytes that the records of `block` take.
    #[must_use]
    pub fn record_bytes_of(&self, block: u64) -> u64 {
        block_patch_bytes(self.carried(block).len())
    }

    /// Which differing block, counted from 0, has its records at `offset` of the file, and how
    /// far inside them that is; `None` inside the header. Behind the records it names a block
    /// that there is not, or a place behind the records of the last one.
    #[must_use]
    pub fn place(&self, offset: u64) -> Option<(u64, u64)> {
        let behind = offset.checked_sub(self.header.len() as u64)?;
        Some((behind / self.record_bytes(), behind % self.record_bytes()))
    }

    /// The blocks, counted as by [`Layout::place`], whose records begin in `range` of the file.
    #[must_use]
    pub fn records_in(&self, range: ByteRange) -> std::ops::Range<u64> {
        let before =
            |at: u64| at.saturating_sub(self.header.len() as u64).div_ceil(self.record_bytes());
        before(range.start)..before(range.end)
    }

    /// Bytes of the device that a patch carries of which `count` blocks differ, and whether the
    /// last of all [`Layout::blocks`] is among them.
    #[must_use]
    pub fn data_bytes(&self, count: u64, last_differs: bool) -> u64 {
        let whole = count * self.block_bytes;
        if last_differs {
            whole - (self.block_bytes - self.carried(self.blocks() - 1).len())
        } else {
            whole
        }
    }

    /// Where the records end when `count` blocks differ, and whether the last of all
    /// [`Layout::blocks`] is among them.
    #[must_use]
    pub fn records_end(&self, count: u64, last_differs: bool) -> u64 {
        let mut bytes = count * self.record_bytes();
        if last_differs {
            bytes -= self.record_bytes() - self.record_bytes_of(self.blocks() - 1);
        }
        self.header.len() as u64 + bytes
    }

    /// Which of the carried bytes of `block`, counted from its beginning, are in `part` of its
    /// records.
    #[must_use]
    pub fn data_of(&self, block: u64, part: ByteRange) -> ByteRange {
        let before = |at: u64| {
            let inside = (at % RECORD_BYTES).saturating_sub(RECORD_HEADER_BYTES as u64);
            at / RECORD_BYTES * RECORD_WRITE_BYTES_MAX as u64 + inside
        };
        ByteRange::new(before(part.start), before(part.end)).clip(self.carried(block).len())
    }

    /// Appends `part` of the records of `block`; `data` are the bytes that [`Layout::data_of`]
    /// names.
    pub fn encode_part(&self, block: u64, part: ByteRange, data: &[u8], out: &mut Vec<u8>) {
        let carried = self.carried(block);
        let mut rest = data;
        for index in part.start / RECORD_BYTES..part.end.div_ceil(RECORD_BYTES) {
            let start = index * RECORD_BYTES;
            let header_end = start + RECORD_HEADER_BYTES as u64;
            let offset = carried.start + index * RECORD_WRITE_BYTES_MAX as u64;
            let len = (carried.end - offset).min(RECORD_WRITE_BYTES_MAX as u64);
            let header = ByteRange::new(start, header_end).intersect(&part);
            if !header.is_empty() {
                let bytes = RecordHeader { offset, len: len as u16 }.encode();
                out.extend(&bytes[(header.start - start) as usize..(header.end - start) as usize]);
            }
            let body = ByteRange::new(header_end, header_end + len).intersect(&part);
            let (own, behind) = rest.split_at(body.len() as usize);
            out.extend_from_slice(own);
            rest = behind;
        }
    }

    /// The bytes behind the last record; `digest` is ignored where there is no checksum.
    ///
    /// # Errors
    /// `Kind::Usage` when name or digest are too long for a patch.
    pub fn tail(&self, digest: &[u8]) -> Result<Vec<u8>> {
        let checksum = self
            .checksum
            .as_ref()
            .map(|(name, _)| Checksum { name: name.clone(), digest: digest.to_vec() });
        let trailer = encode_trailer(checksum.as_ref()).ok_or_else(|| {
            Error::new(Kind::Usage, "the checksum's name or value is too long for a patch")
        })?;
        Ok([&END[..], &trailer].concat())
    }

    /// Length of [`Layout::tail`], which is known before the checksum.
    #[must_use]
    pub fn tail_bytes(&self) -> u64 {
        let trailer = match &self.checksum {
            Some((name, digest_len)) => 2 + name.len() + digest_len,
            None => 1,
        };
        (END.len() + trailer) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::PatchWriter;
    use proptest::prelude::*;

    proptest! {
        /// Every block is where a patch that was written from start to end has it.
        #[test]
        fn places_are_those_of_a_written_patch(
            size in 0u64..300_000,
            block_bytes in prop_oneof![Just(1000u64), Just(4096), Just(32769), Just(100_000)],
            picks in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
            checksum in any::<bool>(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 2),
        ) {
            let header = Header { size_bytes: size, name: b"/dev/x".to_vec() };
            let named = checksum.then(|| (b"md5".to_vec(), 16));
            let layout = Layout::new(&header, block_bytes, named).unwrap();
            let mut differs: Vec<u64> = match layout.blocks() {
                0 => vec![],
                n => picks.iter().map(|pick| pick.index(n as usize) as u64).collect(),
            };
            differs.sort_unstable();
            differs.dedup();
            let mut written = Vec::new();
            let mut writer = PatchWriter::new(Vec::new(), &header).unwrap();
            for (rank, &block) in (0u64..).zip(&differs) {
                let at = writer.patch_bytes();
                prop_assert_eq!(layout.place(at), Some((rank, 0)));
                prop_assert_eq!(layout.records_in(ByteRange::new(at, at + 1)), rank..rank + 1);
                prop_assert_eq!(layout.records_in(ByteRange::new(0, at)), 0..rank);
                let data: Vec<u8> =
                    (0..layout.carried(block).len()).map(|at| (at % 251) as u8).collect();
                let all = layout.record_bytes_of(block);
                let mut cuts: Vec<u64> = cuts.iter().map(|cut| cut.index(all as usize) as u64).collect();
                cuts.sort_unstable();
                let mut records = Vec::new();
                for bounds in [0, cuts[0], cuts[1], all].windows(2) {
                    let part = ByteRange::new(bounds[0], bounds[1]);
                    let own = layout.data_of(block, part);
                    let own = &data[own.start as usize..own.end as usize];
                    layout.encode_part(block, part, own, &mut records);
                    prop_assert_eq!(records.len() as u64, bounds[1]);
                }
                let start = writer.patch_bytes() as usize;
                writer.write_block(block * block_bytes, &data).unwrap();
                written.push((start, records));
            }
            let last_differs = differs.last().is_some_and(|&last| last + 1 == layout.blocks());
            let end = layout.records_end(differs.len() as u64, last_differs);
            prop_assert_eq!(end, writer.patch_bytes());
            let value = Checksum { name: b"md5".to_vec(), digest: vec![9; 16] };
            let file = writer.finish(checksum.then_some(&value)).unwrap();
            for (start, records) in written {
                prop_assert!(file[start..].starts_with(&records));
            }
            prop_assert_eq!(&file[end as usize..], layout.tail(&[9; 16]).unwrap());
            prop_assert_eq!(file.len() as u64 - end, layout.tail_bytes());
        }
    }

    #[test]
    fn names_that_no_patch_can_carry_are_refused() {
        let header = |n| Header { size_bytes: 0, name: vec![b'x'; n] };
        assert!(Layout::new(&header(16384), 1, None).is_ok());
        assert_eq!(Layout::new(&header(16385), 1, None).err().unwrap().kind(), Kind::Usage);
        let long = Some((vec![b'x'; 128], 16));
        assert_eq!(Layout::new(&header(1), 1, long).err().unwrap().kind(), Kind::Usage);
    }
}

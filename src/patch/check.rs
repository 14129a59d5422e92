//! Reads a whole patch before anything is written.

use std::io::{Read, Seek};

use super::batch::RecordPlace;
use super::format::Header;
use super::places::Places;
use super::reader::{PatchReader, Trailer};
use crate::error::Result;

/// What is known of a patch that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// What it begins with.
    pub header: Header,
    /// What it ends with.
    pub trailer: Trailer,
    /// Bytes of data in all of them.
    pub data_bytes: u64,
    /// The longest record's data, in bytes; 0 without records.
    pub record_bytes_max: u64,
    /// Whether every record begins at or behind the end of the one before.
    pub ascending: bool,
    /// How many records there are and where they go, to be told from those of another patch.
    pub places: Places,
}

/// Where only places are read, it is asked after so many records whether they are still wanted: at
/// most 8 MiB of data, which a decoder takes some milliseconds for.
pub(super) const RECORDS_PER_ASK: u64 = 128;

/// What is known of consecutive records.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tally {
    data_bytes: u64,
    record_bytes_max: u64,
    ascending: bool,
    places: Places,
    /// Where the first of them begins; `None` without records.
    start: Option<u64>,
    /// Where the last of them ends.
    end: u64,
}

impl Tally {
    /// Of no records.
    pub(super) const EMPTY: Self = Self {
        data_bytes: 0,
        record_bytes_max: 0,
        ascending: true,
        places: Places::NONE,
        start: None,
        end: 0,
    };

    fn of(place: RecordPlace) -> Self {
        let range = place.range;
        Self {
            data_bytes: range.len(),
            record_bytes_max: range.len(),
            places: Places::of(place),
            start: Some(range.start),
            end: range.end,
            ..Self::EMPTY
        }
    }

    /// Adds the records that come next.
    pub(super) fn append(&mut self, next: Self) {
        let Some(start) = next.start else { return };
        self.ascending &= next.ascending && start >= self.end;
        self.places.append(next.places);
        self.data_bytes += next.data_bytes;
        self.record_bytes_max = self.record_bytes_max.max(next.record_bytes_max);
        self.start = self.start.or(next.start);
        self.end = next.end;
    }

    /// Adds the records up to the first one that begins at or behind byte `until` of the patch.
    ///
    /// # Errors
    /// As [`check`].
    pub(super) fn read_until<R: Read + Seek>(
        &mut self,
        reader: &mut PatchReader<R>,
        until: u64,
        is_wanted: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        while reader.position() < until {
            if self.places.records().is_multiple_of(RECORDS_PER_ASK) {
                is_wanted()?;
            }
            let Some(place) = reader.next_place()? else { break };
            self.append(Self::of(place));
        }
        Ok(())
    }

    /// What is known of the patch, `reader` being behind its last record.
    ///
    /// # Errors
    /// `Kind::Patch` when it is not.
    pub(super) fn summary<R: Read>(self, reader: &PatchReader<R>) -> Result<Summary> {
        Ok(Summary {
            header: reader.header().clone(),
            trailer: reader.expect_trailer()?,
            data_bytes: self.data_bytes,
            record_bytes_max: self.record_bytes_max,
            ascending: self.ascending,
            places: self.places,
        })
    }
}

/// Reads all of the patch: its structure, the bounds of its records, end mark and trailer. The
/// data of the records is stepped over.
///
/// # Errors
/// `Kind::Patch` for a malformed or cut patch, `Kind::Read`, what `is_wanted` returns.
pub fn check<R: Read + Seek>(
    mut reader: PatchReader<R>,
    is_wanted: &dyn Fn() -> Result<()>,
) -> Result<Summary> {
    let mut tally = Tally::EMPTY;
    tally.read_until(&mut reader, u64::MAX, is_wanted)?;
    tally.summary(&reader)
}

#[cfg(test)]
mod tests {
    use super::super::PatchWriter;
    use super::*;
    use std::io::Cursor;

    fn summary_of(blocks: &[(u64, usize)]) -> Summary {
        let header = Header { size_bytes: 1000, name: b"d".to_vec() };
        let mut writer = PatchWriter::new(Vec::new(), &header).unwrap();
        for &(offset, len) in blocks {
            writer.write_block(offset, &vec![1; len]).unwrap();
        }
        let patch = writer.finish(None).unwrap();
        let reader = PatchReader::new(Cursor::new(patch), "patch").unwrap();
        check(reader, &|| Ok(())).unwrap()
    }

    #[test]
    fn order_and_totals_are_known() {
        let summary = summary_of(&[(0, 10), (10, 20), (500, 1)]);
        assert_eq!((summary.places.records(), summary.data_bytes), (3, 31));
        assert_eq!((summary.record_bytes_max, summary.ascending), (20, true));
        assert!(!summary_of(&[(0, 10), (9, 1)]).ascending);
        assert!(!summary_of(&[(500, 10), (0, 1)]).ascending);
        assert!(summary_of(&[]).ascending);
    }
}

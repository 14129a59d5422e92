//! What one reading of a patch tells.

use std::io::Read;
use std::path::PathBuf;

use super::blockmap::BlockMap;
use super::partitions::Partition;
use crate::error::{Error, Kind, Result};
use crate::patch::format::RECORD_HEADER_BYTES;
use crate::patch::{
    Checksum, Digested, Header, PatchReader, Record, Seal, Trailer, checksum_algorithm,
};
use crate::units::ByteRange;

/// Something wrong with a patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where in the patch, counted from its first byte (of plain data, if it is compressed).
    pub position: u64,
    /// What, on one line.
    pub text: String,
}

/// When so much is wrong, the rest is not worth a look.
pub const FAULTS_MAX: usize = 16;

/// What is known of a patch, as far as it can be read. All lengths are in bytes.
#[derive(Clone, Debug)]
pub struct Report {
    /// Device to patch, and size of the device that the patch makes.
    pub header: Header,
    /// How the patch is compressed, if it is.
    pub compression: Option<&'static str>,
    /// Length of the patch itself, decompressed; of what was read of it, where it was not
    /// [read to its end](Self::read_to_end).
    pub patch_bytes: u64,
    /// Whether reading came to the patch's end: no fault ended it before.
    pub read_to_end: bool,
    /// Number of records.
    pub records: u64,
    /// Number of runs: of records that each begin where the one before ends.
    pub runs: u64,
    /// Length of the data of all records; more than is changed where they overlap.
    pub data_bytes: u64,
    /// How many bytes of data are zeros.
    pub zero_bytes: u64,
    /// How many of those are in records that hold nothing else.
    pub zero_record_bytes: u64,
    /// The checksum that it carries.
    pub checksum: Option<Checksum>,
    /// The seal that it carries.
    pub seal: Option<Seal>,
    /// Where the first record begins that lies before the one before it, in the patch.
    pub first_out_of_order: Option<u64>,
    /// What is wrong with it, at most [`FAULTS_MAX`]. A record that goes where it must not is
    /// stepped over; where the records cannot be told apart any more, reading ends.
    pub faults: Vec<Fault>,
    /// Where its changes are.
    pub map: BlockMap,
    /// The partitions of the target, with the bytes that are changed in each.
    pub partitions: Vec<(Partition, u64)>,
}

/// Reads a patch once. Faults behind its header are in the report.
///
/// `compression` is what `input` was decompressed from; `disk` are the target's partitions.
///
/// # Errors
/// `Kind::Patch` when not even the header can be read. `Kind::Read` when `input` fails.
pub fn inspect<R: Read>(
    input: R,
    path: impl Into<PathBuf>,
    compression: Option<&'static str>,
    disk: Vec<Partition>,
) -> Result<Report> {
    let mut input = Digested::new(input);
    let mut reader = PatchReader::new(&mut input, path)?;
    let header = reader.header().clone();
    let mut report = Report {
        compression,
        patch_bytes: 0,
        read_to_end: false,
        records: 0,
        runs: 0,
        data_bytes: 0,
        zero_bytes: 0,
        zero_record_bytes: 0,
        first_out_of_order: None,
        checksum: None,
        seal: None,
        faults: vec![],
        map: BlockMap::new(header.size_bytes),
        partitions: disk.into_iter().map(|partition| (partition, 0)).collect(),
        header,
    };
    let mut end = None;
    loop {
        match reader.next_batch() {
            Ok(Some(batch)) => batch.records().for_each(|record| report.add(&record, &mut end)),
            Ok(None) => break,
            Err(err) if err.kind() == Kind::Patch => {
                if !report.goes_on_after(&err, &mut reader)? {
                    break;
                }
            }
            Err(err) => return Err(err),
        }
    }
    report.patch_bytes = reader.position();
    let trailer = reader.trailer().cloned();
    report.read_to_end = trailer.is_some();
    if let Some(trailer) = trailer {
        report.finish(&trailer, &input);
    }
    Ok(report)
}

impl Report {
    /// Changed bytes, or the most that they can be where records overlap.
    #[must_use]
    pub fn changed_bytes_max(&self) -> u64 {
        self.data_bytes.min(self.header.size_bytes)
    }

    fn add(&mut self, record: &Record<'_>, end: &mut Option<u64>) {
        // The reader has checked that it ends inside the device.
        let range = ByteRange::new(record.offset, record.offset + record.data.len() as u64);
        let zeros = record.data.iter().filter(|&&byte| byte == 0).count() as u64;
        self.records += 1;
        self.runs += u64::from(*end != Some(range.start));
        if end.is_some_and(|end| range.start < end) {
            self.first_out_of_order.get_or_insert(record.position - RECORD_HEADER_BYTES as u64);
        }
        *end = Some(range.end);
        self.data_bytes = self.data_bytes.saturating_add(range.len());
        self.zero_bytes = self.zero_bytes.saturating_add(zeros);
        if zeros == range.len() {
            self.zero_record_bytes = self.zero_record_bytes.saturating_add(zeros);
        }
        self.map.add(range);
        for (partition, changed) in &mut self.partitions {
            let part = partition.range.intersect(&range).len();
            *changed = changed.saturating_add(part).min(partition.range.len());
        }
    }

    /// Takes `err` down; whether the records behind it can be found.
    fn goes_on_after<R: Read>(&mut self, err: &Error, reader: &mut PatchReader<R>) -> Result<bool> {
        self.fault(err, reader.position());
        if self.faults.len() == FAULTS_MAX - 1 {
            let text =
                "too much is wrong with the patch: it is read no further, and may have more \
                        faults"
                    .into();
            self.faults.push(Fault { position: reader.position(), text });
            return Ok(false);
        }
        match reader.skip_misplaced() {
            Err(err) if err.kind() == Kind::Patch => {
                self.fault(&err, reader.position());
                Ok(false)
            }
            skipped => skipped,
        }
    }

    /// Whether every record begins at or behind the end of the one before.
    #[must_use]
    pub fn is_ascending(&self) -> bool {
        self.first_out_of_order.is_none()
    }

    fn fault(&mut self, err: &Error, position: u64) {
        let position = err.range().map_or(position, |range| range.start);
        // The position is told apart, the path is known: only the words and the cause are left.
        let text = err.words();
        self.faults.push(Fault { position, text });
    }

    /// What the patch ends with.
    fn finish<R>(&mut self, trailer: &Trailer, digested: &Digested<R>) {
        self.checksum.clone_from(&trailer.checksum);
        let checksum = self.checksum.as_ref().map(checksum_algorithm);
        if let Some(Err(err)) = checksum {
            self.fault(&err, trailer.tail_position);
        }
        match Seal::decode(&trailer.tail) {
            Ok(Some(found)) => {
                if let Err(err) = digested.verify(&found) {
                    self.fault(&err, trailer.tail_position);
                }
                self.seal = Some(found.seal);
            }
            Ok(None) => {}
            Err(err) => self.fault(&err, trailer.tail_position),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::PatchWriter;
    use crate::patch::format::TAIL_BYTES_LIMIT;

    fn patch(blocks: &[(u64, Vec<u8>)], seal: Option<&Seal>) -> Vec<u8> {
        let header = Header { size_bytes: 10_000, name: b"/dev/x".to_vec() };
        let mut writer = PatchWriter::new_sealed(Vec::new(), &header).unwrap();
        for (offset, data) in blocks {
            writer.write_block(*offset, data).unwrap();
        }
        match seal {
            Some(seal) => writer.finish_sealed(None, seal).unwrap(),
            None => writer.finish(None).unwrap(),
        }
    }

    fn blocks() -> Vec<(u64, Vec<u8>)> {
        vec![(0, vec![1; 100]), (100, vec![0; 50]), (500, vec![0, 7]), (400, vec![3; 10])]
    }

    fn report(patch: &[u8]) -> Report {
        inspect(patch, "p", None, vec![]).unwrap()
    }

    #[test]
    fn everything_is_counted() {
        let disk = Partition {
            number: 1,
            range: ByteRange::new(90, 120),
            kind: String::new(),
            name: String::new(),
        };
        let bytes = patch(&blocks(), None);
        let report = inspect(&bytes[..], "p", None, vec![disk]).unwrap();
        assert_eq!((report.records, report.runs, report.data_bytes), (4, 3, 162));
        assert_eq!((report.zero_bytes, report.zero_record_bytes), (51, 50));
        assert_eq!((report.patch_bytes, report.read_to_end), (bytes.len() as u64, true));
        assert_eq!(report.changed_bytes_max(), 162);
        assert!(!report.is_ascending() && report.faults.is_empty() && report.seal.is_none());
        assert_eq!(report.partitions[0].1, 30);
        assert_eq!(report.map.share(ByteRange::new(0, 512)), 162.0 / 512.0);
    }

    #[test]
    fn misplaced_records_are_told_one_by_one_and_the_rest_is_read() {
        let mut bytes = patch(&blocks(), None);
        let at = |i: usize| 21 + 6 + [0, 110, 170, 182][i];
        // The second is put behind the device's end.
        bytes[at(1)..at(1) + 8].copy_from_slice(&9_951_u64.to_le_bytes());
        bytes[at(3)..at(3) + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        let found = report(&bytes);
        let positions: Vec<_> = found.faults.iter().map(|fault| fault.position as usize).collect();
        assert_eq!(positions, [at(1), at(3)], "{:?}", found.faults);
        assert!(found.faults[0].text.contains("50 bytes for offset 9951"), "{:?}", found.faults);
        assert_eq!((found.records, found.data_bytes), (2, 102));
        assert_eq!(found.patch_bytes, bytes.len() as u64);
    }

    #[test]
    fn reading_ends_where_too_much_is_wrong() {
        for (records, faults) in [(14, 14), (15, 16), (100, 16)] {
            let blocks: Vec<_> = (0..records).map(|i| (i * 16, vec![1; 8])).collect();
            let mut bytes = patch(&blocks, None);
            for record in bytes[27..][..records as usize * 18].chunks_mut(18) {
                record[..8].copy_from_slice(&10_000_u64.to_le_bytes());
            }
            let found = report(&bytes);
            assert_eq!(found.faults.len(), faults, "{records}");
            assert_eq!(found.faults[faults - 1].text.contains("no further"), records > 14);
        }
    }

    #[test]
    fn first_record_out_of_order_is_named() {
        assert_eq!(report(&patch(&blocks(), None)).first_out_of_order, Some(27 + 182));
        let ascending = report(&patch(&blocks()[..3], None));
        assert_eq!(ascending.first_out_of_order, None);
        assert!(ascending.is_ascending());
    }

    #[test]
    fn no_more_is_changed_than_there_is_however_often_it_is_written() {
        let disk = Partition {
            number: 1,
            range: ByteRange::new(0, 5000),
            kind: String::new(),
            name: String::new(),
        };
        let bytes = patch(&vec![(0, vec![1; 4096]); 3], None);
        let report = inspect(&bytes[..], "p", None, vec![disk]).unwrap();
        assert_eq!((report.data_bytes, report.changed_bytes_max()), (3 * 4096, 10_000));
        assert_eq!(report.partitions[0].1, 5000);
    }

    #[test]
    fn cut_patch_gives_what_came_before_and_the_position_of_the_cut() {
        let whole = patch(&blocks(), None);
        let header = 21 + 6;
        for len in 0..whole.len() {
            let found = inspect(&whole[..len], "p", None, vec![]);
            if len < header {
                assert_eq!(found.unwrap_err().kind(), Kind::Patch, "{len}");
                continue;
            }
            let found = found.unwrap();
            let [fault] = &found.faults[..] else { panic!("{len}: {:?}", found.faults) };
            assert!(fault.position <= len as u64 && fault.text.contains("ends early"));
            assert!(!fault.text.contains("offset"), "{}", fault.text);
            let expected = [header + 110, header + 170, header + 182, header + 202];
            assert!(!found.read_to_end, "{len}");
            let records = expected.iter().filter(|&&end| end <= len).count();
            assert_eq!(found.records, records as u64, "{len}");
        }
    }

    #[test]
    fn seal_is_found_and_a_changed_byte_breaks_it() {
        let seal = Seal { target: b"path=/dev/x\nsize=10000\n".to_vec(), ..Seal::default() };
        let mut bytes = patch(&blocks(), Some(&seal));
        let found = report(&bytes);
        assert_eq!(found.faults, []);
        assert_eq!(found.seal, Some(seal));
        bytes[21 + 6 + 10] ^= 1;
        let found = report(&bytes);
        assert!(found.faults[0].text.contains("digest differs"), "{:?}", found.faults);
        assert_eq!(found.records, 4);
    }

    #[test]
    fn checksum_of_an_unknown_digest_and_rubbish_behind_the_patch_are_faults() {
        let header = Header { size_bytes: 10, name: vec![] };
        let writer = PatchWriter::new(Vec::new(), &header).unwrap();
        let checksum = Checksum { name: b"crc\x1b".to_vec(), digest: vec![1] };
        let mut bytes = writer.finish(Some(&checksum)).unwrap();
        let found = report(&bytes);
        assert_eq!((found.faults.len(), found.checksum), (1, Some(checksum)));
        bytes.extend([0; TAIL_BYTES_LIMIT]);
        assert_eq!(report(&bytes).faults.len(), 2);
    }
}

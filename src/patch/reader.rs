//! Reads a patch, in order and in pieces, and refuses every malformed one.
//!
//! Memory is bounded by [`BUFFER_BYTES`] whatever the patch says. Errors carry the position in
//! the patch, counted from its first byte.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::batch::{Batch, Entry, OwnedBatch, RecordPlace};
use super::format::{
    CHECKSUM_BYTES_MAX, Checksum, HEADER_BYTES, Header, MAGIC, NAME_BYTES_MAX, RECORD_HEADER_BYTES,
    RECORD_READ_BYTES_MAX, RecordHeader, TAIL_BYTES_LIMIT,
};
use crate::buffer::PageBuffer;
use crate::error::{Error, Kind, Result};

/// Bytes of the patch that are held at a time; any record fits several times. More would not stay
/// in a core's own cache until it is written, and fresh memory costs more than what it holds.
pub const BUFFER_BYTES: usize = 256 * 1024;
/// Records of at least this many bytes are stepped over, not read, when only places are wanted:
/// a system call for the next header takes the time of copying about 8 KiB.
pub(super) const STEP_OVER_BYTES_MIN: u16 = 12 * 1024;
/// Bytes read at once while places of smaller records are wanted.
const PLACES_READ_BYTES: usize = 128 * 1024;

/// What stands behind the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trailer {
    /// The digest of the device that the patch makes, if the patch has one.
    pub checksum: Option<Checksum>,
    /// The bytes behind the checksum field, at most [`TAIL_BYTES_LIMIT`] of them: a seal, or
    /// nothing that counts. Exactly the limit means that there may be more.
    pub tail: Vec<u8>,
    /// Where `tail` begins in the patch.
    pub tail_position: u64,
}

impl Trailer {
    /// Whether another patch begins behind this one's end.
    #[must_use]
    pub fn is_followed_by_another(&self) -> bool {
        self.tail.starts_with(MAGIC)
    }
}

/// Reads a patch from anything that gives bytes.
///
/// Either all records come out of [`PatchReader::next_batch`], or all their places out of
/// [`PatchReader::next_place`]; both end in `None`, and then [`PatchReader::trailer`] is known.
#[derive(Debug)]
pub struct PatchReader<R> {
    input: R,
    path: PathBuf,
    buffer: PageBuffer,
    /// The bytes `start..end` of the buffer are read and not yet used.
    start: usize,
    end: usize,
    /// Position in the patch of `buffer[start]`.
    position: u64,
    batch: Vec<Entry>,
    header: Header,
    /// Whether the end mark has been used.
    in_trailer: bool,
    trailer: Option<Trailer>,
    /// Set when all is read but what may stand behind the checksum; `None`: the input is no live
    /// one.
    is_at_end: Option<Arc<AtomicBool>>,
}

impl<R: Read> PatchReader<R> {
    /// Reads the header from the input; `path` is what messages call it.
    ///
    /// # Errors
    /// `Kind::Patch` when this is no patch or a malformed one, `Kind::Read`.
    pub fn new(input: R, path: impl Into<PathBuf>) -> Result<Self> {
        let header = Header { size_bytes: 0, name: Vec::new() };
        let mut reader = Self::at(input, path.into(), header, 0);
        reader.read_header()?;
        Ok(reader)
    }

    fn at(input: R, path: PathBuf, header: Header, position: u64) -> Self {
        Self {
            input,
            path,
            buffer: PageBuffer::new(BUFFER_BYTES),
            start: 0,
            end: 0,
            position,
            batch: Vec::new(),
            header,
            in_trailer: false,
            trailer: None,
            is_at_end: None,
        }
    }

    /// Gives out what is there instead of waiting for as much as the buffer holds, for an input
    /// that somebody is writing just now. `is_at_end` is set as soon as only the tail is left to
    /// wait for.
    #[must_use]
    pub fn as_it_comes(mut self, is_at_end: Arc<AtomicBool>) -> Self {
        self.is_at_end = Some(is_at_end);
        self
    }

    /// What the patch begins with.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What the patch ends with, once the records have all been read.
    #[must_use]
    pub fn trailer(&self) -> Option<&Trailer> {
        self.trailer.as_ref()
    }

    /// What the patch ends with.
    ///
    /// # Errors
    /// `Kind::Patch` when the records have not all been read.
    pub fn expect_trailer(&self) -> Result<Trailer> {
        self.trailer.clone().ok_or_else(|| {
            Error::new(Kind::Patch, "the patch ends without a trailer").with_path(&self.path)
        })
    }

    /// Position in the patch of the first byte that has not been used.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// What messages call the patch.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As many of the next records as the buffer holds, at least one; `None` behind the last.
    ///
    /// # Errors
    /// `Kind::Patch` for a malformed or cut patch and for a record outside the size in the
    /// header, `Kind::Read`.
    pub fn next_batch(&mut self) -> Result<Option<Batch<'_>>> {
        if self.trailer.is_some() {
            return Ok(None);
        }
        self.batch.clear();
        self.fill_batch()?;
        let buffer_position = self.position;
        while let Some(bytes) = self.buffer[self.start..self.end].first_chunk() {
            let record = RecordHeader::decode(bytes);
            if record.is_end() {
                break;
            }
            let place = match self.place(record) {
                // What comes before a fault is given out; the next call finds the fault again.
                Err(_) if !self.batch.is_empty() => break,
                place => place?,
            };
            let len = usize::from(record.len);
            if self.end - self.start - RECORD_HEADER_BYTES < len {
                break;
            }
            let at = self.start + RECORD_HEADER_BYTES;
            self.batch.push(Entry { offset: place.range.start, at, len });
            self.consume(RECORD_HEADER_BYTES + len);
        }
        if self.batch.is_empty() {
            let record = self.record_header()?;
            if !record.is_end() {
                let found = self.end - self.start - RECORD_HEADER_BYTES;
                let data_position = self.position + RECORD_HEADER_BYTES as u64;
                let cut = self.cut("a record's data", usize::from(record.len), found);
                return Err(cut.with_offset(data_position));
            }
            self.read_trailer()?;
            return Ok(None);
        }
        Ok(Some(Batch { records: &self.batch, buffer: &self.buffer, buffer_position }))
    }

    /// Reads what a batch is made of.
    fn fill_batch(&mut self) -> Result<()> {
        if self.is_at_end.is_none() {
            return self.fill(BUFFER_BYTES, BUFFER_BYTES);
        }
        self.fill(RECORD_HEADER_BYTES, BUFFER_BYTES)?;
        match self.buffer[self.start..self.end].first_chunk().map(RecordHeader::decode) {
            Some(record) if !record.is_end() => {
                self.fill(RECORD_HEADER_BYTES + usize::from(record.len), BUFFER_BYTES)
            }
            _ => Ok(()),
        }
    }

    /// Steps over the next record after [`PatchReader::next_batch`] has refused it for where it
    /// goes; `false` when it was refused for something else, behind which nothing can be found.
    ///
    /// # Errors
    /// `Kind::Patch` when the record is cut, `Kind::Read`.
    pub fn skip_misplaced(&mut self) -> Result<bool> {
        self.fill(RECORD_HEADER_BYTES, RECORD_HEADER_BYTES)?;
        let next = self.buffer[self.start..self.end].first_chunk().filter(|_| !self.in_trailer);
        let Some(record) = next.map(RecordHeader::decode) else { return Ok(false) };
        if record.is_end() || self.place(record).is_ok() {
            return Ok(false);
        }
        self.consume(RECORD_HEADER_BYTES);
        self.take("a record's data", usize::from(record.len)).map(|_| true)
    }

    /// As [`PatchReader::next_batch`], in memory of its own; that of `used` takes its place.
    ///
    /// # Errors
    /// As [`PatchReader::next_batch`].
    pub fn take_batch(&mut self, used: OwnedBatch) -> Result<Option<OwnedBatch>> {
        let Some(Batch { buffer_position, .. }) = self.next_batch()? else { return Ok(None) };
        let OwnedBatch { mut records, mut buffer, .. } = used;
        if buffer.is_empty() {
            buffer = PageBuffer::new(BUFFER_BYTES);
        }
        // The rest is less than a record, or what follows the last one.
        let rest = self.end - self.start;
        buffer[..rest].copy_from_slice(&self.buffer[self.start..self.end]);
        (self.start, self.end) = (0, rest);
        std::mem::swap(&mut self.buffer, &mut buffer);
        std::mem::swap(&mut self.batch, &mut records);
        Ok(Some(OwnedBatch { records, buffer, buffer_position }))
    }

    /// Reads on from byte `position` of the same patch, where a record or the end mark begins;
    /// `input` gives that byte next.
    pub(super) fn continued(&self, input: R, position: u64) -> Self {
        Self::at(input, self.path.clone(), self.header.clone(), position)
    }

    fn read_header(&mut self) -> Result<()> {
        self.fill(HEADER_BYTES, BUFFER_BYTES)?;
        if self.end == 0 {
            let what = "the patch ends early: it is empty (did the command that makes it fail?)";
            return Err(self.malformed(what.into()));
        }
        // As far as it goes: a wrong file is told apart from a cut patch.
        let found = &self.buffer[..self.end.min(MAGIC.len())];
        if found != &MAGIC[..found.len()] {
            let what = format!(
                "not a patch: expected it to begin with {:?}, found {:?}",
                String::from_utf8_lossy(MAGIC),
                String::from_utf8_lossy(found)
            );
            return Err(self.malformed(what));
        }
        self.take("what every patch begins with", MAGIC.len())?;
        let numbers = *self.take_array("the header")?;
        let (size_bytes, name_len) = Header::decode_numbers(&numbers);
        if name_len > NAME_BYTES_MAX {
            return Err(self.malformed(format!(
                "malformed patch: the device's name has {name_len} bytes, expected at most \
                 {NAME_BYTES_MAX}"
            )));
        }
        let name = self.take("the device's name", name_len)?.to_vec();
        self.header = Header { size_bytes, name };
        Ok(())
    }

    /// Reads what stands behind the last record, the end mark being next.
    fn read_trailer(&mut self) -> Result<()> {
        self.in_trailer = true;
        self.consume(RECORD_HEADER_BYTES);
        let checksum = match self.checksum_field("the length of the checksum's name")? {
            0 => None,
            name_len => {
                let name = self.take("the checksum's name", name_len)?.to_vec();
                let digest_len = self.checksum_field("the length of the checksum")?;
                let digest = self.take("the checksum", digest_len)?.to_vec();
                Some(Checksum { name, digest })
            }
        };
        let tail_position = self.position;
        if let Some(is_at_end) = &self.is_at_end {
            is_at_end.store(true, Ordering::Relaxed);
        }
        self.fill(TAIL_BYTES_LIMIT, TAIL_BYTES_LIMIT)?;
        let len = (self.end - self.start).min(TAIL_BYTES_LIMIT);
        let tail = self.buffer[self.start..self.start + len].to_vec();
        self.consume(len);
        self.trailer = Some(Trailer { checksum, tail, tail_position });
        Ok(())
    }

    fn checksum_field(&mut self, what: &str) -> Result<usize> {
        let at = self.position;
        let [len] = *self.take_array::<1>(what)?;
        if usize::from(len) > CHECKSUM_BYTES_MAX {
            return Err(Error::new(
                Kind::Patch,
                format!("malformed patch: {what} is {len}, expected at most {CHECKSUM_BYTES_MAX}"),
            )
            .with_path(&self.path)
            .with_offset(at));
        }
        Ok(usize::from(len))
    }

    /// The next record header, without using it up.
    pub(super) fn record_header(&mut self) -> Result<RecordHeader> {
        self.fill(RECORD_HEADER_BYTES, RECORD_HEADER_BYTES)?;
        match self.buffer[self.start..self.end].first_chunk() {
            Some(bytes) => Ok(RecordHeader::decode(bytes)),
            None => {
                let found = self.end - self.start;
                Err(self.cut("a record or the end mark", RECORD_HEADER_BYTES, found))
            }
        }
    }

    /// Where the record goes whose header is next, if it may go there.
    fn place(&self, record: RecordHeader) -> Result<RecordPlace> {
        let position = self.position + RECORD_HEADER_BYTES as u64;
        if record.len == 0 {
            let what = format!("malformed patch: a record without data, for {}", record.offset);
            return Err(self.malformed(what));
        }
        match record.range() {
            Some(range) if range.end <= self.header.size_bytes => {
                Ok(RecordPlace { range, position })
            }
            _ => Err(self.malformed(format!(
                "malformed patch: a record of {} bytes for offset {} ends past the device's {} \
                 bytes",
                record.len, record.offset, self.header.size_bytes
            ))),
        }
    }

    fn take(&mut self, what: &str, len: usize) -> Result<&[u8]> {
        self.fill(len, len)?;
        let found = self.end - self.start;
        if found < len {
            return Err(self.cut(what, len, found));
        }
        let at = self.start;
        self.consume(len);
        Ok(&self.buffer[at..at + len])
    }

    fn take_array<const N: usize>(&mut self, what: &str) -> Result<&[u8; N]> {
        let bytes = self.take(what, N)?;
        // `take` gave exactly N bytes.
        Ok(bytes.first_chunk().unwrap_or(&[0; N]))
    }

    fn consume(&mut self, len: usize) {
        self.start += len;
        self.position += len as u64;
    }

    /// Reads until `need` bytes (at most [`BUFFER_BYTES`]) are unused or the input ends, asking
    /// for up to `want` bytes.
    fn fill(&mut self, need: usize, want: usize) -> Result<()> {
        if self.end - self.start >= need {
            return Ok(());
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let limit = want.max(need).min(BUFFER_BYTES);
        while self.end < need {
            match self.input.read(&mut self.buffer[self.end..limit]) {
                Ok(0) => break,
                Ok(n) => self.end += n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(self.read_error(err)),
            }
        }
        Ok(())
    }

    fn read_error(&self, err: io::Error) -> Error {
        read_error(err)
            .with_path(&self.path)
            .with_offset(self.position + (self.end - self.start) as u64)
    }

    fn malformed(&self, what: String) -> Error {
        Error::new(Kind::Patch, what).with_path(&self.path).with_offset(self.position)
    }

    fn cut(&self, what: &str, expected: usize, found: usize) -> Error {
        self.malformed(format!(
            "the patch ends early: expected {expected} bytes of {what}, found {found}"
        ))
    }
}

/// What it means that a patch cannot be read: `Kind::Read`, or `Kind::Patch` when that is the
/// patch's own fault.
#[must_use]
pub fn read_error(err: io::Error) -> Error {
    // No file says that of itself: a decoder does, of damaged data, and a patch file that has
    // changed.
    let damaged = err.kind() == io::ErrorKind::InvalidData;
    let kind = if damaged { Kind::Patch } else { Kind::Read };
    Error::io(kind, "cannot read the patch", err)
}

impl<R: Read + Seek> PatchReader<R> {
    /// The place of the next record, whose data is stepped over; `None` behind the last.
    ///
    /// # Errors
    /// As [`PatchReader::next_batch`]. Data that is cut off is noticed at the next call.
    pub fn next_place(&mut self) -> Result<Option<RecordPlace>> {
        if self.trailer.is_some() {
            return Ok(None);
        }
        let record = self.record_header()?;
        if record.is_end() {
            self.read_trailer()?;
            return Ok(None);
        }
        let place = self.place(record)?;
        self.consume(RECORD_HEADER_BYTES);
        let len = usize::from(record.len);
        let buffered = self.end - self.start;
        if buffered >= len {
            self.consume(len);
        } else if record.len < STEP_OVER_BYTES_MIN {
            self.fill(len, PLACES_READ_BYTES)?;
            let found = self.end - self.start;
            if found < len {
                return Err(self.cut("a record's data", len, found));
            }
            self.consume(len);
        } else {
            let rest = (len - buffered) as i64;
            self.input.seek(SeekFrom::Current(rest)).map_err(|err| self.read_error(err))?;
            self.position += len as u64;
            self.start = 0;
            self.end = 0;
        }
        Ok(Some(place))
    }
}

const _: () = assert!(BUFFER_BYTES >= RECORD_HEADER_BYTES + RECORD_READ_BYTES_MAX);
const _: () = assert!(BUFFER_BYTES >= NAME_BYTES_MAX && BUFFER_BYTES >= TAIL_BYTES_LIMIT);

#[cfg(test)]
mod tests {
    use super::super::PatchWriter;
    use super::*;
    use crate::units::ByteRange;
    use proptest::prelude::*;
    use std::io::Cursor;

    type Owned = (u64, Vec<u8>);

    fn read_all(patch: &[u8]) -> Result<(Header, Vec<Owned>, Trailer)> {
        let mut reader = PatchReader::new(patch, "patch")?;
        let mut records = vec![];
        while let Some(batch) = reader.next_batch()? {
            for record in batch.records() {
                assert_eq!(&patch[record.position as usize..][..record.data.len()], record.data);
                records.push((record.offset, record.data.to_vec()));
            }
        }
        let trailer = reader.trailer().unwrap().clone();
        Ok((reader.header().clone(), records, trailer))
    }

    fn places(patch: &[u8]) -> Result<(Vec<RecordPlace>, Trailer)> {
        let mut reader = PatchReader::new(Cursor::new(patch), "patch")?;
        let mut places = vec![];
        while let Some(place) = reader.next_place()? {
            places.push(place);
        }
        Ok((places, reader.trailer().unwrap().clone()))
    }

    fn sample() -> Vec<u8> {
        let header = Header { size_bytes: 100, name: b"dev".to_vec() };
        let mut writer = PatchWriter::new(Vec::new(), &header).unwrap();
        writer.write_block(0, b"first").unwrap();
        writer.write_block(90, b"last").unwrap();
        let checksum = Checksum { name: b"md5".to_vec(), digest: vec![7; 16] };
        writer.finish_with_tail(Some(&checksum), b"tail").unwrap()
    }

    #[test]
    fn every_truncation_is_refused_with_its_position() {
        let patch = sample();
        let whole = patch.len() - 4;
        for len in 0..whole {
            for err in [read_all(&patch[..len]).unwrap_err(), places(&patch[..len]).unwrap_err()] {
                assert_eq!(err.kind(), Kind::Patch, "{err}");
                assert!(err.range().unwrap().start <= len as u64, "{err}");
            }
        }
        for len in whole..=patch.len() {
            assert_eq!(read_all(&patch[..len]).unwrap().2.tail, patch[whole..len]);
        }
    }

    #[test]
    fn records_outside_the_size_of_the_header_are_refused() {
        for (offset, len) in [(100, 1u16), (99, 2), (u64::MAX, 1), (u64::MAX - 1, 9), (1, 0)] {
            let header = Header { size_bytes: 100, name: vec![] };
            let mut patch = header.encode().unwrap();
            patch.extend(RecordHeader { offset, len }.encode());
            patch.extend(vec![0; usize::from(len) + 11]);
            for err in [read_all(&patch).unwrap_err(), places(&patch).unwrap_err()] {
                assert_eq!(err.kind(), Kind::Patch);
                assert_eq!(err.range(), Some(ByteRange::new(21, 21)), "{err}");
            }
        }
    }

    #[test]
    fn only_a_record_that_may_not_go_there_is_stepped_over() {
        let header = Header { size_bytes: 100, name: vec![] }.encode().unwrap();
        let record =
            |offset: u64| [&RecordHeader { offset, len: 5 }.encode()[..], b"hello"].concat();
        let end = [0; RECORD_HEADER_BYTES];
        // Bytes behind the end mark that would be a misplaced record before it.
        let no_checksum = [CHECKSUM_BYTES_MAX as u8 + 1; 2 * RECORD_HEADER_BYTES];
        let patch = [&header[..], &record(5), &record(98), &record(7), &end, &no_checksum].concat();
        let mut reader = PatchReader::new(&patch[..], "patch").unwrap();
        let offsets = |batch: Option<Batch>| -> Vec<_> {
            batch.unwrap().records().map(|record| record.offset).collect()
        };
        assert_eq!(offsets(reader.next_batch().unwrap()), [5]);
        assert_eq!(reader.next_batch().unwrap_err().kind(), Kind::Patch);
        assert!(reader.skip_misplaced().unwrap());
        assert_eq!(offsets(reader.next_batch().unwrap()), [7]);
        assert_eq!(reader.next_batch().unwrap_err().kind(), Kind::Patch);
        let position = reader.position();
        assert!(!reader.skip_misplaced().unwrap(), "nothing can be found behind that");
        assert_eq!(reader.position(), position);
    }

    #[test]
    fn what_is_no_patch_is_called_so() {
        for bytes in [&b"BDSYNC 0.2\n"[..], b"\x7fELF and so on", b"B\0"] {
            let err = read_all(bytes).unwrap_err();
            assert!(err.to_string().starts_with("not a patch"), "{err}");
        }
        assert!(read_all(b"").unwrap_err().to_string().contains("ends early"));
    }

    #[test]
    fn limits_of_names_and_checksums_hold() {
        let name = |n: u16| {
            let mut patch = MAGIC.to_vec();
            patch.extend([0; 8]);
            patch.extend(n.to_le_bytes());
            patch.extend(vec![b'n'; usize::from(n)]);
            patch.extend([0; 11]);
            read_all(&patch)
        };
        assert_eq!(name(NAME_BYTES_MAX as u16).unwrap().0.name.len(), NAME_BYTES_MAX);
        assert_eq!(name(NAME_BYTES_MAX as u16 + 1).unwrap_err().kind(), Kind::Patch);
        let checksum = |n: u8| {
            let mut patch = Header { size_bytes: 0, name: vec![] }.encode().unwrap();
            patch.extend([0; 10]);
            patch.push(n);
            patch.extend(vec![b'n'; usize::from(n)]);
            patch.push(n);
            patch.extend(vec![1; usize::from(n)]);
            read_all(&patch)
        };
        assert_eq!(checksum(127).unwrap().2.checksum.unwrap().digest, vec![1; 127]);
        assert_eq!(checksum(128).unwrap_err().kind(), Kind::Patch);
    }

    #[test]
    fn bytes_behind_the_trailer_are_kept_up_to_the_limit() {
        for len in [TAIL_BYTES_LIMIT - 1, TAIL_BYTES_LIMIT, TAIL_BYTES_LIMIT + 1] {
            let header = Header { size_bytes: 0, name: vec![] };
            let writer = PatchWriter::new(Vec::new(), &header).unwrap();
            let patch = writer.finish_with_tail(None, &vec![5; len]).unwrap();
            assert_eq!(read_all(&patch).unwrap().2.tail.len(), len.min(TAIL_BYTES_LIMIT));
        }
    }

    proptest! {
        #[test]
        fn reads_what_was_written(
            blocks in proptest::collection::vec((0u64..1 << 40, 1usize..100_000), 0..40),
            name in proptest::collection::vec(any::<u8>(), 0..40),
            checksum in proptest::option::of((1usize..128, 0usize..128)),
        ) {
            let header = Header { size_bytes: 1 << 41, name };
            let checksum = checksum.map(|(a, b)| Checksum { name: vec![b'a'; a], digest: vec![1; b] });
            let mut writer = PatchWriter::new(Vec::new(), &header).unwrap();
            let mut expected: Vec<Owned> = vec![];
            for (i, &(offset, len)) in blocks.iter().enumerate() {
                let data = vec![i as u8; len];
                writer.write_block(offset, &data).unwrap();
                let mut at = offset;
                for piece in data.chunks(32768) {
                    expected.push((at, piece.to_vec()));
                    at += piece.len() as u64;
                }
            }
            let patch = writer.finish(checksum.as_ref()).unwrap();
            let (got_header, records, trailer) = read_all(&patch).unwrap();
            prop_assert_eq!(got_header, header);
            prop_assert!(records == expected);
            prop_assert_eq!(&trailer.checksum, &checksum);
            let (places, same_trailer) = places(&patch).unwrap();
            prop_assert_eq!(same_trailer, trailer);
            let ranges: Vec<_> = places.iter().map(|p| (p.range.start, p.range.len())).collect();
            let wanted: Vec<_> = expected.iter().map(|r| (r.0, r.1.len() as u64)).collect();
            prop_assert_eq!(ranges, wanted);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_both_ways_of_reading_agree(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            small in any::<bool>(),
        ) {
            let mut patch = MAGIC.to_vec();
            if small {
                // Mostly small numbers, so that some of it parses.
                bytes.iter_mut().for_each(|b| *b = b.saturating_sub(240));
            }
            patch.append(&mut bytes);
            match (read_all(&patch), places(&patch)) {
                (Ok(a), Ok(b)) => prop_assert_eq!(a.2, b.1),
                (Err(a), Err(b)) => prop_assert_eq!((a.kind(), b.kind()), (Kind::Patch, Kind::Patch)),
                (a, b) => prop_assert!(false, "{a:?} but {b:?}"),
            }
        }
    }
}

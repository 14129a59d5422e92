//! Where in a stored patch the bytes of the device are: any record, in any order, the last of
//! overlapping ones winning.
//!
//! ```text
//!   reading once      validates all of it and counts entries; allocates nothing by a number read
//!   reading again     an entry is a run of neighbouring records of one length, so that a whole
//!                     device may take a few; sorted by offset, in place
//!   if any overlap    found before the list grows; read again with one entry a record of which
//!                     anything is seen (see `visible.rs`)
//! ```
//! At most [`ENTRY_BYTES`] a record at every moment, and no more than twice that for one that is
//! seen, beside a bounded rest (see `sweep.rs`) and the sixteenth of a byte that landmarks take.

use std::error::Error as _;
use std::io::{self, Read, Seek, SeekFrom};

use super::batch::RecordPlace;
use super::format::{Header, RECORD_HEADER_BYTES, RECORD_READ_BYTES_MAX};
use super::places::Places;
use super::reader::{PatchReader, Trailer};
use super::seal::{FoundSeal, Seal};
use super::sweep::{Stretch, Sweep};
use super::visible::{ENTRY_BYTES, make_room, visible_records};
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;

/// The most records in one entry; the bit above is [`Entry`]'s mark.
const RUN_RECORDS_MAX: u32 = u32::MAX >> 1;
/// Bit of [`Entry::count_and_mark`]: no changed byte lies right before this entry.
const BEGINS_EXTENT: u32 = 1 << 31;

/// Of every so many entries the whole extent is kept, so that nobody goes through all of a long
/// one.
const LANDMARK_ENTRIES: usize = 256;

/// What is at some place of the device: the record's data, or what was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The bytes of the device; never empty.
    pub range: ByteRange,
    /// Where they are in the patch; `None`: they are the base's.
    pub position: Option<u64>,
}

/// Records of one length whose data neighbour each other in the device, and which stand one
/// behind the other in the patch.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u64,
    /// Where the data of the first is in the patch.
    position: u64,
    /// Length of the data of each, in bytes.
    len: u32,
    count_and_mark: u32,
}

const _: () = assert!(size_of::<Entry>() <= ENTRY_BYTES);

impl Entry {
    fn new(record: Stretch) -> Self {
        // A record's length is 16 bits.
        let len = record.range.len() as u32;
        Self { start: record.range.start, position: record.position, len, count_and_mark: 1 }
    }

    fn count(&self) -> u32 {
        self.count_and_mark & !BEGINS_EXTENT
    }

    fn begins_extent(&self) -> bool {
        self.count_and_mark & BEGINS_EXTENT != 0
    }

    fn end(&self) -> u64 {
        // Every record's end was checked against the device's size.
        self.start + u64::from(self.len) * u64::from(self.count())
    }

    /// Bytes of a record in the patch.
    fn stride(&self) -> u64 {
        u64::from(self.len) + RECORD_HEADER_BYTES as u64
    }

    /// Takes the record in, if it goes on where the run ends.
    fn join(&mut self, place: RecordPlace) -> bool {
        let joins = place.range.start == self.end()
            && place.range.len() == u64::from(self.len)
            && place.position == self.position + self.stride() * u64::from(self.count())
            && self.count() < RUN_RECORDS_MAX;
        if joins {
            self.count_and_mark += 1;
        }
        joins
    }

    /// The record of the run that `at` lies in.
    fn record_at(&self, at: u64) -> Stretch {
        let index = (at - self.start) / u64::from(self.len);
        let start = self.start + index * u64::from(self.len);
        Stretch {
            range: ByteRange::new(start, start + u64::from(self.len)),
            position: self.position + index * self.stride(),
        }
    }
}

/// The index of a stored patch.
#[derive(Debug)]
pub struct PatchIndex {
    header: Header,
    trailer: Trailer,
    seal: Option<FoundSeal>,
    patch_bytes: u64,
    records: u64,
    /// Ascending by start.
    entries: Vec<Entry>,
    /// Whether entries overlap; then each is one record, cut to what is seen of it, and no
    /// two start at one offset.
    overlapping: bool,
    /// The extents that every [`LANDMARK_ENTRIES`]th entry lies in, beginning with the first.
    landmarks: Vec<ByteRange>,
}

/// What one reading of the patch found out.
struct Survey {
    header: Header,
    trailer: Trailer,
    places: Places,
    runs: u64,
}

impl PatchIndex {
    /// Reads and validates all of `patch`, whose data is stepped over, and builds its index.
    ///
    /// # Errors
    /// `Kind::Patch`, with the position, for a malformed or cut patch, or one with a record
    /// outside of the device that it makes; also for one that changes meanwhile, or whose index
    /// finds no memory. `Kind::Read`.
    pub fn open(patch: &dyn Device) -> Result<Self> {
        let Survey { header, trailer, places, runs } = survey(patch)?;
        let records = places.records();
        let disjoint = disjoint_runs(patch, runs)?;
        let overlapping = disjoint.is_none();
        let mut entries = match disjoint {
            Some(entries) => entries,
            None => {
                let visible = visible_records(&mut reader(patch)?, places, &|| Ok(()));
                let visible = visible.map_err(|err| err.with_path(patch.path()))?;
                // An entry is as large, so that this is done in place.
                visible.into_iter().map(Entry::new).collect()
            }
        };
        mark_extents(&mut entries);
        let landmarks = landmarks(&entries);
        // A seal that is damaged, or that too much stands in place of, is part of its structure.
        let seal = Seal::decode(&trailer.tail)
            .map_err(|err| err.with_path(patch.path()).with_offset(trailer.tail_position))?;
        let patch_bytes = trailer.tail_position + trailer.tail.len() as u64;
        if patch.is_changed() {
            return Err(changed(patch));
        }
        Ok(Self { header, trailer, seal, patch_bytes, records, entries, overlapping, landmarks })
    }

    /// What the patch begins with.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What the patch ends with.
    #[must_use]
    pub fn trailer(&self) -> &Trailer {
        &self.trailer
    }

    /// The seal that stands behind the patch. The patch was not held against it.
    #[must_use]
    pub fn seal(&self) -> Option<&FoundSeal> {
        self.seal.as_ref()
    }

    /// Size of the patch in bytes, with what stands behind its checksum field: a seal, or the few
    /// bytes that are told of and let be.
    #[must_use]
    pub fn patch_bytes(&self) -> u64 {
        self.patch_bytes
    }

    /// Number of records, hidden ones included.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Bytes of the device below `end` that are in any record. Goes through all of the index.
    #[must_use]
    pub fn changed_bytes(&self, end: u64) -> u64 {
        let (mut covered, mut total) = (0, 0);
        for entry in &self.entries {
            let range = ByteRange::new(entry.start.max(covered), entry.end()).clip(end);
            total += range.len();
            covered = covered.max(range.end);
        }
        total
    }

    /// How many contiguous changed ranges begin below `end`. Goes through all of the index.
    #[must_use]
    pub fn extents(&self, end: u64) -> u64 {
        let below = self.entries.partition_point(|entry| entry.start < end);
        self.entries[..below].iter().filter(|entry| entry.begins_extent()).count() as u64
    }

    /// What is in `range` of the device: pieces without gaps, in ascending order. None of them
    /// is longer than a record, but for the base's.
    pub fn pieces(&self, range: ByteRange) -> impl Iterator<Item = Piece> + '_ {
        let mut at = range.start;
        let mut stretches = self.stretches(range);
        let mut waiting = stretches.next();
        std::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let piece = match waiting {
                Some(Stretch { range: seen, position }) if seen.start <= at => {
                    waiting = stretches.next();
                    let position = Some(position + (at - seen.start));
                    Piece { range: ByteRange::new(at, seen.end.min(range.end)), position }
                }
                _ => {
                    let end = waiting.map_or(range.end, |next| next.range.start.min(range.end));
                    Piece { range: ByteRange::new(at, end), position: None }
                }
            };
            at = piece.range.end;
            Some(piece)
        })
    }

    /// The first contiguous changed range that ends behind `from`.
    #[must_use]
    pub fn next_extent(&self, from: u64) -> Option<ByteRange> {
        let below = self.entries.partition_point(|entry| entry.start <= from);
        let extent = self.extent_of(below.saturating_sub(1))?;
        if extent.end > from { Some(extent) } else { self.extent_of(below) }
    }

    /// The extent in which the entry of this index lies.
    fn extent_of(&self, index: usize) -> Option<ByteRange> {
        let landmark = |index: usize| self.landmarks.get(index / LANDMARK_ENTRIES);
        let is_landmark = |index: &usize| index.is_multiple_of(LANDMARK_ENTRIES);
        let before = self.entries.get(..=index)?;
        let first = (0..=index).rev().find(|i| is_landmark(i) || before[*i].begins_extent())?;
        if is_landmark(&first) {
            return landmark(first).copied();
        }
        let begin = &self.entries[first];
        let mut end = begin.end();
        for (i, entry) in (first + 1..).zip(&self.entries[first + 1..]) {
            if entry.begins_extent() {
                break;
            }
            end = end.max(entry.end());
            if is_landmark(&i) {
                end = landmark(i)?.end;
                break;
            }
        }
        Some(ByteRange::new(begin.start, end))
    }

    /// The visible stretches of records that reach into `range`, in ascending order.
    fn stretches(&self, range: ByteRange) -> Box<dyn Iterator<Item = Stretch> + '_> {
        let longest = RECORD_READ_BYTES_MAX as u64;
        if self.overlapping {
            // No two start at one offset, so that at most `longest` of them lie before.
            let reach = range.start.saturating_sub(longest);
            let first = self.entries.partition_point(|entry| entry.start < reach);
            let near = self.entries[first..].iter().take_while(move |e| e.start < range.end);
            return Box::new(Sweep::new(near.map(|e| e.record_at(e.start)), range.start));
        }
        let first = self.entries.partition_point(|entry| entry.end() <= range.start);
        let near = self.entries[first..].iter().take_while(move |e| e.start < range.end);
        Box::new(near.flat_map(move |entry| {
            let mut at = entry.start.max(range.start);
            std::iter::from_fn(move || {
                let stretch = (at < entry.end().min(range.end)).then(|| entry.record_at(at))?;
                at = stretch.range.end;
                Some(stretch)
            })
        }))
    }
}

/// Reads all of the patch once.
fn survey(patch: &dyn Device) -> Result<Survey> {
    let mut reader = reader(patch)?;
    let (mut places, mut runs) = (Places::NONE, 0);
    let mut run: Option<Entry> = None;
    while let Some(place) = reader.next_place()? {
        places.append(Places::of(place));
        if !run.as_mut().is_some_and(|run| run.join(place)) {
            runs += 1;
            run = Some(Entry::new(place.into()));
        }
    }
    let trailer = reader.trailer().cloned().ok_or_else(|| changed(patch))?;
    Ok(Survey { header: reader.header().clone(), trailer, places, runs })
}

/// Reads the patch again, into an entry for each of its `count` runs, ascending. `None` as soon as
/// it is clear that some overlap.
fn disjoint_runs(patch: &dyn Device, count: u64) -> Result<Option<Vec<Entry>>> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut reader = reader(patch)?;
    while let Some(place) = reader.next_place()? {
        if entries.last_mut().is_some_and(|last| last.join(place)) {
            continue;
        }
        if entries.len() == entries.capacity() {
            let left = count.saturating_sub(entries.len() as u64);
            if left == 0 {
                return Err(changed(patch));
            }
            if !sort_disjoint(&mut entries) {
                return Ok(None);
            }
            make_room(&mut entries, left).map_err(|err| err.with_path(patch.path()))?;
        }
        entries.push(Entry::new(place.into()));
    }
    if entries.len() as u64 != count {
        return Err(changed(patch));
    }
    Ok(sort_disjoint(&mut entries).then_some(entries))
}

/// Sorts entries by where they begin; `false` if some overlap.
fn sort_disjoint(entries: &mut [Entry]) -> bool {
    if !entries.is_sorted_by_key(|entry| entry.start) {
        entries.sort_unstable_by_key(|entry| entry.start);
    }
    entries.windows(2).all(|pair| pair[0].end() <= pair[1].start)
}

/// Marks the entries with which a contiguous changed range begins.
fn mark_extents(entries: &mut [Entry]) {
    let mut end = None;
    for entry in entries {
        if end.is_none_or(|end| end < entry.start) {
            entry.count_and_mark |= BEGINS_EXTENT;
        }
        end = end.max(Some(entry.end()));
    }
}

/// The extent of every [`LANDMARK_ENTRIES`]th entry.
fn landmarks(entries: &[Entry]) -> Vec<ByteRange> {
    let (mut landmarks, mut seen) = (Vec::new(), 0);
    for extent in entries.chunk_by(|_, next| !next.begins_extent()) {
        seen += extent.len();
        let end = extent.iter().map(Entry::end).max().unwrap_or(0);
        let extent = ByteRange::new(extent[0].start, end);
        while landmarks.len() * LANDMARK_ENTRIES < seen {
            landmarks.push(extent);
        }
    }
    landmarks
}

fn reader(patch: &dyn Device) -> Result<PatchReader<DeviceReader<'_>>> {
    PatchReader::new(DeviceReader { device: patch, at: 0 }, patch.path())
}

fn changed(patch: &dyn Device) -> Error {
    Error::new(Kind::Patch, "the patch changes while it is read").with_path(patch.path())
}

/// The bytes of a device as a stream.
pub(super) struct DeviceReader<'a> {
    pub(super) device: &'a dyn Device,
    pub(super) at: u64,
}

impl Read for DeviceReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let rest = self.device.size().saturating_sub(self.at);
        let len = usize::try_from(rest).unwrap_or(usize::MAX).min(buf.len());
        // Path and place are told by who reads the patch.
        let cause = |err: Error| match err.source() {
            Some(cause) => io::Error::other(cause.to_string()),
            None => io::Error::other(err.full_message()),
        };
        self.device.read_exact_at(&mut buf[..len], self.at).map_err(cause)?;
        self.at += len as u64;
        Ok(len)
    }
}

impl Seek for DeviceReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.device.size().checked_add_signed(by),
        };
        self.at = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PatchWriter, format, tests};
    use super::*;
    use crate::device::MemoryDevice;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const SIZE: u64 = 600;

    fn patch_of(size_bytes: u64, records: &[(u64, Vec<u8>)]) -> Vec<u8> {
        tests::patch_of(size_bytes, "d", records)
    }

    fn index_of(patch: &[u8]) -> Result<PatchIndex> {
        PatchIndex::open(&MemoryDevice::new(patch).with_path("p"))
    }

    /// What the index says of every byte: the patch's, or none.
    fn bytes_of(index: &PatchIndex, patch: &[u8], range: ByteRange) -> Vec<Option<u8>> {
        let mut out = vec![];
        let mut at = range.start;
        for Piece { range: piece, position } in index.pieces(range) {
            assert!(piece.start == at && !piece.is_empty() && piece.end <= range.end);
            at = piece.end;
            let len = piece.len() as usize;
            out.extend((0..len).map(|i| position.map(|position| patch[position as usize + i])));
        }
        assert_eq!(at, range.end);
        out
    }

    fn check(records: &[(u64, Vec<u8>)], ranges: &[(u64, u64)]) {
        let patch = patch_of(SIZE, records);
        let mut model = vec![None; SIZE as usize];
        for (offset, data) in records {
            for (i, &byte) in data.iter().enumerate() {
                model[*offset as usize + i] = Some(byte);
            }
        }
        let index = index_of(&patch).unwrap();
        assert_eq!(index.records(), records.len() as u64);
        assert!(index.entries.len() <= records.len());
        assert_eq!(index.patch_bytes(), patch.len() as u64);
        for &(a, b) in ranges.iter().chain(&[(0, SIZE)]) {
            let range = ByteRange::new(a.min(b), a.max(b));
            let expected = &model[range.start as usize..range.end as usize];
            assert_eq!(bytes_of(&index, &patch, range), expected, "{range}");
            let changed = model[..a as usize].iter().flatten().count();
            assert_eq!(index.changed_bytes(a), changed as u64);
        }
        let mut extents = vec![];
        for (i, _) in model.iter().enumerate().filter(|(_, byte)| byte.is_some()) {
            crate::units::push_joined(&mut extents, ByteRange::new(i as u64, i as u64 + 1));
        }
        for from in 0..=SIZE {
            let expected = extents.iter().copied().find(|extent| extent.end > from);
            assert_eq!(index.next_extent(from), expected, "from {from}");
        }
    }

    fn record(len_max: usize) -> impl Strategy<Value = (u64, Vec<u8>)> {
        (0..SIZE, 1..=len_max, any::<u8>()).prop_map(|(offset, len, seed)| {
            let len = len.min((SIZE - offset) as usize);
            (offset, (0..len).map(|i| seed.wrapping_add((i as u8).wrapping_mul(31))).collect())
        })
    }

    fn ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
        vec((0..=SIZE, 0..=SIZE), 8)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn overlapping_records_in_any_order_are_as_if_written_one_by_one(
            records in vec(prop_oneof![record(8), record(80), record(600)], 0..60),
            ranges in ranges(),
        ) {
            check(&records, &ranges);
        }

        #[test]
        fn records_of_one_length_in_any_order_of_runs_are_as_if_written_one_by_one(
            order in Just((0..12u64).collect::<Vec<_>>()).prop_shuffle(),
            keep in vec(any::<bool>(), 60),
            ranges in ranges(),
        ) {
            let places = order.iter().flat_map(|run| (0..5).map(move |i| run * 5 + i));
            let records: Vec<_> = places
                .filter(|&place| keep[place as usize])
                .map(|place| (place * 10, vec![place as u8; 10]))
                .collect();
            check(&records, &ranges);
        }

        #[test]
        fn any_damage_is_refused_or_stays_inside(
            records in vec(record(50), 0..10),
            at: prop::sample::Index,
            byte: u8,
        ) {
            let mut patch = patch_of(SIZE, &records);
            let at = at.index(patch.len());
            patch[at] = byte;
            match index_of(&patch) {
                Ok(index) => {
                    let size = index.header().size_bytes;
                    let end = index.pieces(ByteRange::new(0, size)).last().map_or(0, |p| p.range.end);
                    prop_assert_eq!(end, size);
                    for piece in index.pieces(ByteRange::new(0, size)) {
                        let end = piece.position.map_or(0, |at| at + piece.range.len());
                        prop_assert!(end <= patch.len() as u64);
                    }
                }
                Err(err) => {
                    prop_assert_eq!(err.kind(), Kind::Patch);
                    prop_assert!(err.range().is_some() && err.path().is_some());
                }
            }
        }
    }

    #[test]
    fn truncations_are_refused_with_their_position() {
        let patch = patch_of(SIZE, &[(5, vec![1; 20]), (100, vec![2; 100])]);
        for len in 0..patch.len() {
            let err = index_of(&patch[..len]).unwrap_err();
            assert_eq!(err.kind(), Kind::Patch, "{}", err.full_message());
            assert!(err.range().is_some(), "{}", err.full_message());
        }
    }

    #[test]
    fn record_past_the_device_that_the_patch_makes_is_refused() {
        let err = index_of(&patch_of(100, &[(90, vec![1; 11])])).unwrap_err();
        assert_eq!(err.exit_code(), 2);
        assert!(index_of(&patch_of(100, &[(90, vec![1; 10])])).is_ok());
    }

    #[test]
    fn seal_belongs_to_the_patch_and_longer_rests_are_refused() {
        let patch = patch_of(10, &[]);
        let with_rest = |len| {
            let rest: Vec<u8> = patch.iter().copied().chain(std::iter::repeat_n(7, len)).collect();
            index_of(&rest).map(|index| index.patch_bytes())
        };
        let own = patch.len() as u64;
        assert_eq!(with_rest(0).unwrap(), own);
        let limit = format::TAIL_BYTES_LIMIT;
        assert_eq!(with_rest(limit - 1).unwrap(), own + limit as u64 - 1);
        assert_eq!(with_rest(limit).unwrap_err().exit_code(), 2);
        assert_eq!(with_rest(limit * 3).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn blocks_in_order_take_one_entry() {
        let header = Header { size_bytes: 1 << 20, name: b"d".to_vec() };
        let mut writer = PatchWriter::new(Vec::new(), &header).unwrap();
        for block in 0..256u64 {
            writer.write_block(block * 4096, &[block as u8; 4096]).unwrap();
        }
        let patch = writer.finish(None).unwrap();
        let index = index_of(&patch).unwrap();
        assert_eq!(index.entries.len(), 1);
        let bytes = bytes_of(&index, &patch, ByteRange::new(4095, 8193));
        assert_eq!(bytes[0], Some(0));
        assert!(bytes[1..4097].iter().all(|&byte| byte == Some(1)));
        assert_eq!(bytes[4097], Some(2));
    }

    #[test]
    fn extents_of_many_entries_are_found_from_everywhere() {
        // Neighbours of different lengths do not join; behind some of them is a gap.
        let (mut records, mut extents, mut at) = (vec![], vec![], 5);
        for (i, joined) in [1, 700, 256, 1, 255, 3, 512, 900].into_iter().enumerate() {
            let start = at;
            for j in 0..joined {
                let len = 1 + j % 2;
                records.push((at, vec![7; len as usize]));
                at += len;
            }
            extents.push(ByteRange::new(start, at));
            at += 1 + i as u64;
        }
        let index = index_of(&patch_of(at, &records)).unwrap();
        assert_eq!(index.entries.len(), records.len());
        for from in 0..at {
            let expected = extents.iter().find(|extent| extent.end > from).copied();
            assert_eq!(index.next_extent(from), expected, "from {from}");
        }
    }

    #[test]
    fn millions_of_records_stay_within_their_memory() {
        const RECORDS: u64 = 3_000_000;
        // Every other byte, the later half of the device first: nothing joins, nothing sorted.
        let mut patch = Header { size_bytes: RECORDS * 2, name: vec![] }.encode().unwrap();
        for i in 0..RECORDS {
            let offset = (i + RECORDS / 2) % RECORDS * 2;
            patch.extend(format::RecordHeader { offset, len: 1 }.encode());
            patch.push(i as u8);
        }
        patch.extend(format::END);
        patch.push(0);
        let index = index_of(&patch).unwrap();
        assert_eq!(index.entries.capacity() as u64, RECORDS);
        assert!(size_of_val(&index.entries[0]) <= ENTRY_BYTES);
        assert_eq!(index.changed_bytes(u64::MAX), RECORDS);
        assert_eq!(
            index.next_extent(RECORDS * 2 - 2),
            Some(ByteRange::new(RECORDS * 2 - 2, RECORDS * 2 - 1))
        );
        let middle = ByteRange::new(RECORDS, RECORDS + 3);
        assert_eq!(bytes_of(&index, &patch, middle), [Some(0), None, Some(1)]);
    }

    #[test]
    fn the_most_hostile_overlaps_are_indexed_right() {
        const RECORDS: u64 = 60_000;
        // Each begins one byte behind the one before and ends earlier or where it does, so that
        // all of them are open at once; and again, from the end.
        let len = |i: u64| vec![i as u8; (RECORDS - i) as usize % 997 + 1];
        let mut records: Vec<_> = (0..RECORDS).map(|i| (i, len(i))).collect();
        records.extend((0..RECORDS).rev().map(|i| (i, vec![9; 1 + (i % 3) as usize])));
        let patch = patch_of(RECORDS + 1000, &records);
        let index = index_of(&patch).unwrap();
        let mut model = vec![None; RECORDS as usize + 1000];
        for (offset, data) in &records {
            for (i, &byte) in data.iter().enumerate() {
                model[*offset as usize + i] = Some(byte);
            }
        }
        let whole = ByteRange::new(0, RECORDS + 1000);
        assert!(bytes_of(&index, &patch, whole) == model);
    }
}

//! Checks a patch from several places at once.
//!
//! Records follow each other and only the first one's place is known. But most patches have records
//! of one length, so that where others begin can be guessed. Whether a guess was right shows when
//! the part before has been read: it ends there, or what was read from there on does not count.

use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};

use super::check::{Summary, Tally};
use super::format::RECORD_HEADER_BYTES;
use super::reader::{PatchReader, STEP_OVER_BYTES_MIN};
use super::source::PatchFile;
use crate::background::core_count;
use crate::error::{Error, Kind, Result};

/// A part is worth a thread when reading it takes milliseconds.
const PART_BYTES_MIN: u64 = 32 * 1024 * 1024;
/// More threads than that wait for the memory, not for a processor.
const PARTS_MAX: u64 = 4;

/// Bytes at the begin of each part that tell whether it is cached: to look at all of them takes a
/// tenth of the time that reading does.
const SAMPLE_BYTES: u64 = 64 * 1024;

/// [`check`](super::check()) of a patch that is not compressed and stands in `file`, which messages
/// call `path`: with several threads if the file is in the page cache. From a disk, one reads as
/// fast as many, and a rotating one is read in order.
///
/// # Errors
/// As [`check`](super::check()); `is_wanted` is asked by all threads.
pub fn check_file(
    file: &PatchFile,
    path: impl AsRef<Path>,
    is_wanted: &(dyn Fn() -> Result<()> + Sync),
) -> Result<Summary> {
    let processors = core_count() as u64;
    let bytes = file.size();
    let mut number = (bytes / PART_BYTES_MIN).min(processors).min(PARTS_MAX);
    let is_cached = |i| file.is_cached(bytes / number * i, SAMPLE_BYTES);
    if !(0..number).all(is_cached) {
        number = 1;
    }
    check_parts(file, path.as_ref(), Parts { number, bytes }, is_wanted)
}

/// What a patch is divided into.
#[derive(Clone, Copy)]
struct Parts {
    /// At most so many.
    number: u64,
    /// Of the patch, or a few more.
    bytes: u64,
}

fn check_parts(
    file: &PatchFile,
    path: &Path,
    parts: Parts,
    is_wanted: &(dyn Fn() -> Result<()> + Sync),
) -> Result<Summary> {
    let mut reader = PatchReader::new(file.rewound(), path)?;
    let starts = guess(&mut reader, parts);
    let given_up = AtomicBool::new(false);
    let is_part_wanted = &|| match given_up.load(Ordering::Relaxed) {
        // Nobody is told.
        true => Err(Error::new(Kind::Gone, "not a part of the patch")),
        false => is_wanted(),
    };
    thread::scope(|scope| {
        let mut others = Vec::new();
        for (i, &start) in starts.iter().enumerate() {
            let until = starts.get(i + 1).copied().unwrap_or(u64::MAX);
            let reader = reader.continued(file.from(start), start);
            let read = move || Part::read(reader, until, is_part_wanted);
            match thread::Builder::new().name("patch check".into()).spawn_scoped(scope, read) {
                Ok(other) => others.push(other),
                // The part before is read on to the end.
                Err(_) => break,
            }
        }
        let checked = join(reader, &starts, others, is_wanted);
        given_up.store(true, Ordering::Relaxed);
        checked
    })
}

/// A part of the patch that has been read.
struct Part {
    tally: Tally,
    /// Behind the part's last record.
    reader: PatchReader<PatchFile>,
}

impl Part {
    fn read(
        mut reader: PatchReader<PatchFile>,
        until: u64,
        is_wanted: &dyn Fn() -> Result<()>,
    ) -> Result<Self> {
        let mut tally = Tally::EMPTY;
        tally.read_until(&mut reader, until, is_wanted)?;
        Ok(Self { tally, reader })
    }
}

/// Reads the first part and takes the others for what they are: the next part, as long as the one
/// before ends where it begins.
fn join(
    reader: PatchReader<PatchFile>,
    starts: &[u64],
    others: Vec<ScopedJoinHandle<'_, Result<Part>>>,
    is_wanted: &dyn Fn() -> Result<()>,
) -> Result<Summary> {
    let first_end = if others.is_empty() { u64::MAX } else { starts[0] };
    let Part { mut tally, mut reader } = Part::read(reader, first_end, is_wanted)?;
    for (&start, other) in starts.iter().zip(others) {
        if reader.position() != start || reader.trailer().is_some() {
            break;
        }
        let part = other.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        tally.append(part.tally);
        reader = part.reader;
    }
    tally.read_until(&mut reader, u64::MAX, is_wanted)?;
    tally.summary(&reader)
}

/// Where the second part and those behind it begin if all records are as long as the first; none
/// where records are so long that they are stepped over. Ascending.
fn guess(reader: &mut PatchReader<PatchFile>, parts: Parts) -> Vec<u64> {
    let first = reader.position();
    // A fault in it is found again.
    let Some(record) = reader.record_header().ok().filter(|_| parts.number > 1) else {
        return Vec::new();
    };
    if record.is_end() || record.len >= STEP_OVER_BYTES_MIN {
        return Vec::new();
    }
    let stride = RECORD_HEADER_BYTES as u64 + u64::from(record.len);
    let part_records = parts.bytes.saturating_sub(first) / stride / parts.number;
    if part_records == 0 {
        return Vec::new();
    }
    (1..parts.number).map(|i| first + i * part_records * stride).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::tests::written_patch;
    use super::super::{Header, check};
    use super::*;
    use crate::signals::interrupted;

    fn in_file(patch: &[u8], before: usize) -> PatchFile {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; before]).unwrap();
        file.write_all(patch).unwrap();
        PatchFile::new(file, before as u64)
    }

    fn by_parts(patch: &[u8], number: u64) -> Result<Summary> {
        let parts = Parts { number, bytes: patch.len() as u64 };
        check_parts(&in_file(patch, 3), Path::new("patch"), parts, &|| Ok(()))
    }

    fn in_order(patch: &[u8]) -> Result<Summary> {
        check(PatchReader::new(Cursor::new(patch), "patch")?, &|| Ok(()))
    }

    fn guessed(patch: &[u8], number: u64) -> Vec<u64> {
        let mut reader = PatchReader::new(in_file(patch, 0), "patch").unwrap();
        guess(&mut reader, Parts { number, bytes: patch.len() as u64 })
    }

    #[test]
    fn records_of_one_length_are_where_they_are_guessed() {
        let blocks: Vec<_> = (0..100).map(|i| (i * 50, vec![1; 30])).collect();
        let patch = written_patch(5000, &blocks);
        let first = Header { size_bytes: 5000, name: b"d".to_vec() }.encode().unwrap().len() as u64;
        let starts = guessed(&patch, 4);
        assert_eq!(starts.len(), 3);
        for start in starts {
            let (before, rest) = ((start - first) / 40, (start - first) % 40);
            assert_eq!(rest, 0);
            let header = &patch[start as usize..][..8];
            assert_eq!(header, (before * 50).to_le_bytes(), "{start}");
        }
    }

    #[test]
    fn nothing_is_guessed_where_nothing_is_to_be_gained() {
        assert!(guessed(&written_patch(100, &[]), 4).is_empty());
        let long: Vec<_> = (0..9).map(|i| (i * 20_000, vec![1; 20_000])).collect();
        assert!(guessed(&written_patch(200_000, &long), 4).is_empty());
        let few = written_patch(100, &[(0, vec![1; 10]), (20, vec![1; 10])]);
        assert!(guessed(&few, 4).is_empty());
        assert_eq!(guessed(&few, 2).len(), 1);
    }

    #[test]
    fn signal_ends_a_check_by_parts() {
        let blocks: Vec<_> = (0..1000).map(|i| (i * 10, vec![1; 10])).collect();
        let patch = written_patch(10_000, &blocks);
        let parts = Parts { number: 3, bytes: patch.len() as u64 };
        let interrupted = || Err(interrupted(2, "ended"));
        let checked = check_parts(&in_file(&patch, 0), Path::new("patch"), parts, &interrupted);
        assert_eq!(checked.unwrap_err().kind(), Kind::Interrupted(2));
    }

    #[test]
    fn large_patch_in_the_cache_is_read_by_several_threads() {
        let block = vec![5; 8192];
        let blocks: Vec<_> = (0..9000).map(|i| (i * 8192, block.clone())).collect();
        let patch = written_patch(9000 * 8192, &blocks);
        let file = in_file(&patch, 0);
        if core_count() < 2 || !file.is_cached(0, 1) {
            eprintln!("skipping: one processor, or the kernel does not tell what is cached");
            return;
        }
        let threads = parking_lot::Mutex::new(std::collections::HashSet::new());
        let noted = || {
            threads.lock().insert(thread::current().id());
            thread::sleep(Duration::from_micros(10));
            Ok(())
        };
        let summary = check_file(&file, "patch", &noted).unwrap();
        assert_eq!((summary.places.records(), summary.ascending), (9000, true));
        assert_eq!(threads.lock().len(), 2, "of a patch of 70 MiB");
    }

    proptest! {
        #[test]
        fn any_patch_is_what_it_is_in_order(
            stride in 1usize..40,
            mut blocks in proptest::collection::vec((0u64..2000, any::<bool>()), 0..60),
            other in 1usize..40,
            ascending in any::<bool>(),
            number in 2u64..6,
            fault in proptest::option::of((any::<proptest::sample::Index>(), any::<u8>())),
            cut in proptest::option::of(any::<proptest::sample::Index>()),
        ) {
            if ascending {
                blocks.sort_unstable();
            }
            let blocks: Vec<_> = blocks
                .into_iter()
                .map(|(at, same)| (at, vec![0; if same || ascending { stride } else { other }]))
                .collect();
            let mut patch = written_patch(2040, &blocks);
            if let Some((at, value)) = fault {
                let at = at.index(patch.len());
                patch[at] = value;
            }
            if let Some(len) = cut {
                patch.truncate(len.index(patch.len()) + 1);
            }
            match (in_order(&patch), by_parts(&patch, number)) {
                (Ok(expected), Ok(found)) => prop_assert_eq!(expected, found),
                (Err(expected), Err(found)) => {
                    prop_assert_eq!(expected.to_string(), found.to_string());
                }
                (expected, found) => prop_assert!(false, "{expected:?} {found:?}"),
            }
        }
    }
}

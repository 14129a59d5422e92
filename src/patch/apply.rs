//! Writes the records of a patch to a device. One thread reads them, another writes.

use std::io::Read;
use std::panic::resume_unwind;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::batch::{Batch, OwnedBatch};
use super::places::Places;
use super::reader::PatchReader;
use super::sparse::{self, Piece};
use crate::device::DeviceMut;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::signals::interrupted;

/// Batches, of up to 256 KiB, that are read and wait to be written.
const BATCHES_AHEAD: usize = 2;

/// Where records go and who watches.
#[derive(Clone, Copy)]
pub struct Apply<'a> {
    /// The device.
    pub target: &'a dyn DeviceMut,
    /// Nothing is written at or behind this offset.
    pub limit_bytes: u64,
    /// What becomes of zeros.
    pub zeros: Zeros,
    /// Asked between writes for a signal that wants an end.
    pub signal: &'a (dyn Fn() -> Option<i32> + Sync),
    /// Told how far it is: end of the last record, bytes of the patch that were used.
    pub progress: &'a dyn Progress,
}

/// What becomes of zeros in a patch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Zeros {
    /// They are written as everything else.
    #[default]
    Written,
    /// Whole blocks of them become holes, or zeros that the device makes itself, where it can.
    Holes,
    /// They are written, except where there is a hole: what goes back to where it came from must
    /// not need room that it did not take there.
    WrittenOverData,
}

/// What has been written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Records that were applied, at least in part.
    pub records: u64,
    /// Bytes written.
    pub bytes: u64,
    /// The longest record's data, in bytes.
    pub record_bytes_max: u64,
    /// Where all records go, also those that were left out.
    pub places: Places,
}

impl Apply<'_> {
    /// Writes all records, in the patch's order, so that later ones win. Neighbours go out in
    /// one write. `written` counts what is on its way even when this fails. `wake` ends the
    /// reader's wait for more of the patch, which is called for when a write has failed.
    ///
    /// # Errors
    /// What the reader and the device fail with, `Kind::Transmission` when something else has cut
    /// that; `Kind::Write` without a thread to write;
    /// `Kind::Interrupted` at a record's boundary when a signal wants an end.
    pub fn write_records<R: Read>(
        &self,
        reader: &mut PatchReader<R>,
        written: &mut Written,
        wake: &(dyn Fn() + Sync),
    ) -> Result<()> {
        let (filled, to_write) = bounded(BATCHES_AHEAD);
        let (emptied, to_fill) = unbounded();
        thread::scope(|scope| {
            let write =
                move || self.write_batches(&to_write, &emptied, written).inspect_err(|_| wake());
            let writer = thread::Builder::new().name("patch writer".into());
            let writer = writer.spawn_scoped(scope, write).map_err(|err| {
                Error::io(Kind::Write, "cannot start a thread that writes", err)
                    .with_path(self.target.path())
            })?;
            let read = self.read_batches(reader, &to_fill, &filled);
            drop(filled);
            let wrote = writer.join().unwrap_or_else(|panic| resume_unwind(panic));
            // What failed to be written comes before what could not be read any more.
            wrote.and(read)
        })
    }

    /// Reads to the end, or until the writer gives up.
    fn read_batches<R: Read>(
        &self,
        reader: &mut PatchReader<R>,
        to_fill: &Receiver<OwnedBatch>,
        filled: &Sender<OwnedBatch>,
    ) -> Result<()> {
        loop {
            match reader.take_batch(to_fill.try_recv().unwrap_or_default()) {
                Ok(Some(batch)) => {
                    if filled.send(batch).is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => return Ok(()),
                // A wait for input that a signal ended is no fault of the input.
                Err(err) => return Err(self.check_signal().err().unwrap_or(err)),
            }
        }
    }

    fn write_batches(
        &self,
        to_write: &Receiver<OwnedBatch>,
        emptied: &Sender<OwnedBatch>,
        written: &mut Written,
    ) -> Result<()> {
        for batch in to_write {
            self.check_signal()?;
            self.target.expect_uncut(self.limit_bytes)?;
            self.write_batch(&batch.batch(), written)?;
            // The reader may have ended.
            let _ = emptied.send(batch);
        }
        Ok(())
    }

    fn check_signal(&self) -> Result<()> {
        (self.signal)()
            .map_or(Ok(()), |signal| Err(interrupted(signal, "applying the patch ended")))
    }

    fn write_batch(&self, batch: &Batch<'_>, written: &mut Written) -> Result<()> {
        let mut run = Run { start: 0, end: 0, parts: Vec::new() };
        // End in the patch of the last record that was not left out.
        let mut used = 0;
        for record in batch.records() {
            let len = record.data.len() as u64;
            written.record_bytes_max = written.record_bytes_max.max(len);
            written.places.append(Places::of(record.place()));
            // The reader has checked that offset + len does not overflow.
            let room = self.limit_bytes.saturating_sub(record.offset).min(len);
            if room == 0 {
                continue;
            }
            if record.offset != run.end {
                self.write_run(&mut run)?;
                run.start = record.offset;
            }
            run.end = record.offset + room;
            run.parts.push(&record.data[..room as usize]);
            written.records += 1;
            written.bytes += room;
            used = record.position + len;
        }
        self.write_run(&mut run)?;
        if used > 0 {
            self.progress.advance(run.end, used);
        }
        Ok(())
    }

    fn write_run(&self, run: &mut Run<'_>) -> Result<()> {
        let target = self.target;
        match self.zeros {
            _ if run.parts.is_empty() => {}
            Zeros::Written => target.write_all_vectored_at(&run.parts, run.start)?,
            Zeros::WrittenOverData => sparse::write_over_data(target, run.start, &run.parts)?,
            Zeros::Holes => {
                for piece in sparse::split(run.start, &run.parts) {
                    match piece {
                        Piece::Data(start, parts) => target.write_all_vectored_at(&parts, start)?,
                        Piece::Zeros(range) => target.write_zeros_at(range)?,
                    }
                }
            }
        }
        if !run.parts.is_empty() {
            run.parts.clear();
        }
        Ok(())
    }
}

/// Records that lie one behind the other in the device, not yet written.
struct Run<'a> {
    start: u64,
    end: u64,
    parts: Vec<&'a [u8]>,
}

#[cfg(test)]
mod tests {
    use super::super::sizes::SizePlan;
    use super::super::tests::written_patch as patch_of;
    use super::*;
    use crate::device::faulty::{Call, Fault, FaultyDevice, Operation};
    use crate::device::{Device, MemoryDevice};
    use crate::progress::{Recording, Silent};
    use crate::units::{ByteRange, SizeRule};
    use proptest::prelude::*;
    use std::io;
    use std::time::Duration;

    fn apply(target: &dyn DeviceMut, patch: &[u8], rule: SizeRule) -> Result<Written> {
        let mut reader = PatchReader::new(patch, "patch")?;
        let plan = SizePlan::new(rule, target, reader.header().size_bytes)?;
        plan.grow(target)?;
        let apply = Apply {
            target,
            limit_bytes: plan.limit_bytes,
            zeros: Zeros::Written,
            signal: &|| None,
            progress: &Silent,
        };
        let mut written = Written::default();
        apply.write_records(&mut reader, &mut written, &|| {})?;
        plan.shrink(target)?;
        Ok(written)
    }

    #[test]
    fn neighbours_go_out_in_one_write_and_gaps_do_not() {
        let target = FaultyDevice::new(MemoryDevice::new([0; 100]), []);
        let blocks = [(0, vec![1; 10]), (10, vec![2; 10]), (30, vec![3; 5])];
        let written = apply(&target, &patch_of(100, &blocks), SizeRule::Strict).unwrap();
        assert_eq!((written.records, written.bytes, written.record_bytes_max), (3, 25, 10));
        let expected = [Call::Write(ByteRange::new(0, 20)), Call::Write(ByteRange::new(30, 35))];
        assert_eq!(target.calls(), expected);
    }

    #[test]
    fn record_past_the_end_is_clipped_under_minsize() {
        let patch = patch_of(200, &[(90, vec![7; 20]), (100, vec![8; 5]), (150, vec![9; 5])]);
        let target = MemoryDevice::new([0; 100]);
        assert_eq!(apply(&target, &patch, SizeRule::MinSize).unwrap().bytes, 10);
        assert_eq!(target.content()[90..], [7; 10]);
        assert_eq!(target.size(), 100);
    }

    #[test]
    fn resize_to_nothing_truncates() {
        let target = MemoryDevice::new([1; 10]);
        apply(&target, &patch_of(0, &[]), SizeRule::Resize).unwrap();
        assert_eq!(target.size(), 0);
    }

    #[test]
    fn failed_write_is_told_and_what_was_written_before_counts() {
        let fault = Fault::once(Operation::Write, 1);
        let target = FaultyDevice::new(MemoryDevice::new([0; 100]), [fault]);
        let patch = patch_of(100, &[(0, vec![1; 4]), (10, vec![1; 4]), (20, vec![1; 4])]);
        assert_eq!(apply(&target, &patch, SizeRule::Strict).unwrap_err().kind(), Kind::Write);
        assert_eq!(target.calls().len(), 2, "nothing is written behind a failed write");
    }

    /// Some bytes, and no more of them; a wait for more ends once it is woken.
    struct UntilWoken<'a> {
        bytes: &'a [u8],
        woken: Receiver<()>,
    }

    impl Read for UntilWoken<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.bytes.is_empty() {
                self.woken.recv_timeout(Duration::from_secs(20)).expect("nobody wakes the reader");
                return Err(io::Error::other("woken"));
            }
            self.bytes.read(buf)
        }
    }

    #[test]
    fn failed_write_ends_a_wait_for_more_of_the_patch() {
        const SIZE: u64 = 12 * 32_768;
        let fault = Fault::once(Operation::Write, 0);
        let target = FaultyDevice::new(MemoryDevice::new([0; SIZE as usize]), [fault]);
        // More than is read before the first of it is written.
        let blocks: Vec<_> = (0..12).map(|i| (i * 32_768, vec![1; 32_768])).collect();
        let patch = patch_of(SIZE, &blocks);
        let (wake, woken) = unbounded();
        let input = UntilWoken { bytes: &patch[..patch.len() - 20_000], woken };
        let mut reader = PatchReader::new(input, "patch").unwrap();
        let apply = Apply {
            target: &target,
            limit_bytes: SIZE,
            zeros: Zeros::Written,
            signal: &|| None,
            progress: &Silent,
        };
        let wake = || wake.send(()).unwrap();
        let err = apply.write_records(&mut reader, &mut Written::default(), &wake);
        assert_eq!(err.unwrap_err().kind(), Kind::Write);
    }

    #[test]
    fn signal_ends_it_before_the_next_write() {
        let target = FaultyDevice::new(MemoryDevice::new([0; 100]), []);
        let patch = patch_of(100, &[(0, vec![1; 4])]);
        let progress = Recording::default();
        let apply = Apply {
            target: &target,
            limit_bytes: 100,
            zeros: Zeros::Written,
            signal: &|| Some(2),
            progress: &progress,
        };
        let mut reader = PatchReader::new(&patch[..], "patch").unwrap();
        let err = apply.write_records(&mut reader, &mut Written::default(), &|| {}).unwrap_err();
        assert_eq!(err.exit_code(), 130);
        assert!(target.calls().is_empty());
    }

    proptest! {
        #[test]
        fn any_patch_does_what_a_naive_copy_does(
            blocks in proptest::collection::vec((0u64..200, 1usize..60), 0..12),
            patch_size in 260u64..300,
            target_size in 0usize..400,
            rule in prop_oneof![
                Just(SizeRule::Strict), Just(SizeRule::Resize), Just(SizeRule::MinSize)
            ],
        ) {
            let blocks: Vec<_> = (1u8..)
                .zip(blocks)
                .map(|(i, (offset, len))| (offset, vec![i; len]))
                .collect();
            let before = vec![0xee; target_size];
            let target = MemoryDevice::new(before.clone());
            let done = apply(&target, &patch_of(patch_size, &blocks), rule);
            let patch_size = patch_size as usize;
            if rule == SizeRule::Strict && target_size != patch_size {
                prop_assert_eq!(done.unwrap_err().kind(), Kind::Size);
                prop_assert_eq!(target.content(), before);
                return Ok(());
            }
            done.unwrap();
            let mut expected = before;
            if rule == SizeRule::Resize {
                expected.resize(patch_size, 0);
            }
            for (offset, data) in blocks {
                for (i, byte) in data.into_iter().enumerate() {
                    if let Some(place) = expected.get_mut(offset as usize + i) {
                        *place = byte;
                    }
                }
            }
            prop_assert_eq!(target.content(), expected);
        }
    }
}

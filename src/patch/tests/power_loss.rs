//! Power loss: whatever part of an apply reached the disk, undo gives the old content, and
//! applying again the new.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::super::{
    Apply, Header, PatchReader, PatchWriter, SizePlan, Written, Zeros, check, write_undo,
};
use crate::device::{Device, DeviceMut, MemoryDevice};
use crate::error::Result;
use crate::progress::Silent;
use crate::units::{ByteRange, SizeRule};

/// What was asked of a disk.
#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    SetSize(u64),
    Sync,
}

/// A disk that notes everything.
struct Journal {
    disk: MemoryDevice,
    steps: Mutex<Vec<Step>>,
}

impl Device for Journal {
    fn path(&self) -> &Path {
        self.disk.path()
    }

    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.disk.read_exact_at(buf, offset)
    }

    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        self.disk.next_data(from)
    }
}

impl DeviceMut for Journal {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.steps.lock().push(Step::Write(offset, buf.to_vec()));
        self.disk.write_all_at(buf, offset)
    }

    fn sync(&self) -> Result<()> {
        self.steps.lock().push(Step::Sync);
        Ok(())
    }

    fn set_size(&self, size_bytes: u64) -> Result<()> {
        self.steps.lock().push(Step::SetSize(size_bytes));
        self.disk.set_size(size_bytes)
    }
}

/// What the disk holds when the power goes after some steps: all that was synced; of the rest
/// each step or not, in any order, writes perhaps in part. `chance` decides.
fn after_power_loss(old: &[u8], steps: &[Step], mut chance: impl FnMut(usize) -> usize) -> Vec<u8> {
    let synced = steps.iter().rposition(|step| matches!(step, Step::Sync)).unwrap_or(0);
    let (durable, pending) = steps.split_at(synced);
    let mut content = old.to_vec();
    durable.iter().for_each(|step| replay(&mut content, step));
    let mut pending: Vec<&Step> = pending.iter().collect();
    while !pending.is_empty() {
        let step = pending.swap_remove(chance(pending.len()));
        match (chance(3), step) {
            (0, _) => {}
            (1, Step::Write(offset, data)) => {
                let part = Step::Write(*offset, data[..chance(data.len() + 1)].to_vec());
                replay(&mut content, &part);
            }
            (_, step) => replay(&mut content, step),
        }
    }
    content
}

fn replay(content: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Sync => {}
        Step::SetSize(size) => content.resize(*size as usize, 0),
        Step::Write(offset, data) => {
            let (start, end) = (*offset as usize, *offset as usize + data.len());
            // A file grows with what is written behind its end.
            if content.len() < end {
                content.resize(end, 0);
            }
            content[start..end].copy_from_slice(data);
        }
    }
}

fn apply(target: &dyn DeviceMut, rule: SizeRule, patch: &[u8]) {
    let mut reader = PatchReader::new(patch, "patch").unwrap();
    let sizes = SizePlan::new(rule, target, reader.header().size_bytes).unwrap();
    let limit_bytes = sizes.limit_bytes;
    sizes.grow(target).unwrap();
    let apply =
        Apply { target, limit_bytes, zeros: Zeros::Holes, signal: &|| None, progress: &Silent };
    apply.write_records(&mut reader, &mut Written::default(), &|| {}).unwrap();
    sizes.shrink(target).unwrap();
    target.sync().unwrap();
}

fn applied_to(content: &[u8], patch: &[u8]) -> Vec<u8> {
    let target = MemoryDevice::new(content);
    apply(&target, SizeRule::Resize, patch);
    target.content()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn power_loss_at_any_moment_can_be_undone_and_redone(
        blocks in proptest::collection::vec((0u64..12_000, 1usize..6000, 0u8..3), 1..8),
        old_size in 0usize..30_000,
        new_size in 18_000u64..24_000,
        seed: u64,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let undo_path = folder.path().join("undo");
        let header = Header { size_bytes: new_size, name: b"d".to_vec() };
        let mut writer = PatchWriter::new(Vec::new(), &header).unwrap();
        for (offset, len, byte) in blocks {
            writer.write_block(offset, &vec![byte; len]).unwrap();
        }
        let patch = writer.finish(None).unwrap();
        let old: Vec<u8> = (0..old_size).map(|i| (i % 251) as u8 | 4).collect();
        let target = Journal { disk: MemoryDevice::new(old.clone()), steps: Mutex::default() };
        let sizes = SizePlan::new(SizeRule::Resize, &target, new_size).unwrap();
        let open = || PatchReader::new(Cursor::new(&patch), "patch").unwrap();
        let summary = check(open(), &|| Ok(())).unwrap();
        write_undo(&undo_path, &target, &sizes, &mut open(), &summary, &|| Ok(())).unwrap();
        prop_assert!(target.steps.lock().is_empty(), "the undo patch comes first");
        let undo = fs::read(&undo_path).unwrap();
        apply(&target, SizeRule::Resize, &patch);
        let new = target.disk.content();
        let steps = target.steps.into_inner();
        prop_assert!(matches!(steps.last(), Some(Step::Sync)), "synced at the end");
        let mut state = seed | 1;
        let mut chance = move |limit: usize| {
            // Xorshift: good enough to pick.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % limit as u64) as usize
        };
        for prefix in 0..=steps.len() {
            for _ in 0..4 {
                let left = after_power_loss(&old, &steps[..prefix], &mut chance);
                prop_assert!(applied_to(&left, &undo) == old, "undone after {prefix} steps");
                prop_assert!(applied_to(&left, &patch) == new, "redone after {prefix} steps");
            }
        }
        prop_assert!(after_power_loss(&old, &steps, chance) == new, "durable when it is done");
    }
}

//! The view against plain vectors of bytes: any operations, from several threads, over a stored
//! patch and over a change whose answers come late, or not, or are errors.

mod answers;
mod holes;
mod scripted;

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use self::scripted::{Mood, ScriptedChange};
use super::tree::extent_name;
use super::*;
use crate::device::MemoryDevice;
use crate::error::{Kind, Result};
use crate::patch::{Header, format};
use crate::units::{ByteRange, Readers, SizeRule, push_joined};

/// Holes of the test's images are aligned runs of zeros of this many bytes.
const HOLE_BYTES: usize = 4;

/// What a mount shows, worked out by hand.
#[derive(Clone, Debug)]
struct Model {
    old: Vec<u8>,
    new: Vec<u8>,
    extents: Vec<ByteRange>,
    patch: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Read { node: usize, offset: u16, len: u16 },
    ReadExtent { extent: usize, offset: u16, len: u16 },
    LookUp { extent: usize, add_bytes: u8 },
    List { skip: usize },
    Seek { node: usize, offset: u16, hole: bool },
    Inode { extent: usize, add: u8 },
}

fn part(bytes: &[u8], offset: u64, len: u64) -> &[u8] {
    let range = ByteRange::new(offset, offset.saturating_add(len)).clip(bytes.len() as u64);
    &bytes[range.start as usize..range.end as usize]
}

fn wait<T: Send + 'static>(ask: impl FnOnce(Done<T>)) -> Result<T> {
    let (sender, receiver) = mpsc::channel();
    ask(Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv_timeout(Duration::from_secs(20)).expect("every question is answered")
}

/// Asks until the answer is none of the script's errors.
fn insist<T: Send + 'static>(ask: impl Fn(Done<T>)) -> T {
    for _ in 0..10_000 {
        match wait(&ask) {
            Ok(value) => return value,
            Err(err) => assert_eq!(err.kind(), Kind::Connection, "{}", err.full_message()),
        }
    }
    panic!("only errors");
}

struct Checker<'a> {
    view: &'a View,
    model: &'a Model,
    changes: Vec<u8>,
    /// Whether `changes` may answer short.
    late: bool,
}

impl<'a> Checker<'a> {
    fn new(view: &'a View, model: &'a Model, late: bool) -> Self {
        let lines = model.extents.iter().map(|r| format!("{:>20} {:>20}\n", r.start, r.len()));
        Self { view, model, changes: lines.collect::<String>().into_bytes(), late }
    }

    fn file(&self, node: usize) -> (Node, &[u8]) {
        match node % 4 {
            0 => (Node::Merged, &self.model.new),
            1 => (Node::Original, &self.model.old),
            2 => (Node::Patch, &self.model.patch),
            _ => (Node::Changes, &self.changes),
        }
    }

    fn extent(&self, index: usize) -> Option<ByteRange> {
        self.model.extents.get(index % self.model.extents.len().max(1)).copied()
    }

    fn check(&self, op: Op) {
        match op {
            Op::Read { node, offset, len } => self.read(node, u64::from(offset), u32::from(len)),
            Op::ReadExtent { extent, offset, len } => {
                let Some(range) = self.extent(extent) else { return };
                let offset = u64::from(offset) % (range.len() + 2);
                let expected = part(&self.model.new, range.start, range.len());
                let expected = part(expected, offset, u64::from(len));
                let node = Node::Extent(range);
                let got = insist(|done| self.view.read(node, offset, u32::from(len), done));
                assert_eq!(got, expected);
                assert_eq!(self.view.attr(node).size_bytes, range.len());
            }
            Op::LookUp { extent, add_bytes } => {
                let Some(range) = self.extent(extent) else { return };
                let named = ByteRange::new(range.start, range.end + u64::from(add_bytes));
                let name = OsString::from(extent_name(named));
                let got = insist(|done| self.view.lookup(Node::Extents, &name, done));
                assert_eq!(got, (add_bytes == 0).then_some(Node::Extent(range)));
            }
            Op::List { skip } => self.list(skip),
            Op::Seek { node, offset, hole } => self.seek(node % 2, u64::from(offset), hole),
            Op::Inode { extent, add } => {
                let Some(range) = self.extent(extent) else { return };
                let inode = Node::Extent(range).inode() + u64::from(add);
                let start = range.start + u64::from(add);
                let found = self.model.extents.iter().find(|extent| extent.start == start);
                let got = insist(|done| self.view.node(inode, done));
                assert_eq!(got, found.copied().map(Node::Extent));
            }
        }
    }

    fn read(&self, node: usize, offset: u64, len: u32) {
        let (node, content) = self.file(node);
        let offset = offset % (content.len() as u64 + 10);
        let expected = part(content, offset, u64::from(len));
        let got = insist(|done| self.view.read(node, offset, len, done));
        if node == Node::Changes && self.late {
            assert!(expected.starts_with(&got), "{node:?} at {offset}");
            assert_eq!(got.is_empty(), expected.is_empty());
        } else {
            assert_eq!(got, expected, "{node:?} at {offset}");
        }
        let size = self.view.attr(node).size_bytes;
        assert!(size == content.len() as u64 || size == 0 && !self.view.is_cacheable(node));
    }

    fn list(&self, skip: usize) {
        let mut entries: Vec<Entry> = vec![];
        loop {
            let cookie = entries.last().map_or(0, |entry| entry.cookie);
            let batch = insist(|done| self.view.list(Node::Extents, cookie, done));
            assert!(batch.len() <= LIST_ENTRIES_MAX);
            if batch.is_empty() {
                break;
            }
            entries.extend(batch);
        }
        assert_eq!((&*entries[0].name, &*entries[1].name), (OsStr::new("."), OsStr::new("..")));
        let nodes: Vec<_> = entries[2..].iter().map(|entry| entry.node).collect();
        let expected: Vec<_> = self.model.extents.iter().copied().map(Node::Extent).collect();
        assert_eq!(nodes, expected);
        // From anywhere in the middle it goes on with the next one.
        let at = skip % entries.len();
        let cookie = entries[at].cookie;
        let batch = insist(|done| self.view.list(Node::Extents, cookie, done));
        assert_eq!(batch.first(), entries.get(at + 1));
    }

    fn seek(&self, node: usize, offset: u64, hole: bool) {
        let (node, content) = self.file(node);
        let offset = offset % (content.len() as u64 + 10);
        let is_zero = |range: ByteRange| {
            content[range.start as usize..range.end as usize].iter().all(|&byte| byte == 0)
        };
        let size = content.len() as u64;
        let whence = if hole { Whence::Hole } else { Whence::Data };
        match self.view.seek(node, offset, whence).unwrap() {
            None => assert!(offset >= size || !hole && is_zero(ByteRange::new(offset, size))),
            Some(at) if hole => {
                assert!(offset <= at && at <= size);
                let next = self.view.seek(node, at, Whence::Data).unwrap().unwrap_or(size);
                assert!(at == size || next > at && is_zero(ByteRange::new(at, next)));
            }
            Some(at) => assert!(at < size && is_zero(ByteRange::new(offset, at))),
        }
    }
}

fn check_all(view: &View, model: &Model, late: bool, ops: &[Op]) {
    let checker = Checker::new(view, model, late);
    thread::scope(|scope| {
        for share in ops.chunks(ops.len().div_ceil(3).max(1)) {
            let checker = &checker;
            scope.spawn(move || share.iter().for_each(|&op| checker.check(op)));
        }
    });
}

fn op() -> impl Strategy<Value = Op> {
    let read = || (any::<usize>(), any::<u16>(), any::<u16>());
    prop_oneof![
        6 => read().prop_map(|(node, offset, len)| Op::Read { node, offset, len: len % 700 }),
        2 => read().prop_map(|(extent, offset, len)| Op::ReadExtent { extent, offset, len }),
        2 => (any::<usize>(), 0..3u8).prop_map(|(extent, add_bytes)| Op::LookUp { extent, add_bytes }),
        1 => any::<usize>().prop_map(|skip| Op::List { skip }),
        3 => (any::<usize>(), any::<u16>(), any::<bool>())
            .prop_map(|(node, offset, hole)| Op::Seek { node, offset, hole }),
        1 => (any::<usize>(), 0..3u8).prop_map(|(extent, add)| Op::Inode { extent, add }),
    ]
}

/// Runs of equal and of changed bytes, and the size that the old image has beside the new one.
fn model() -> impl Strategy<Value = Model> {
    let runs = vec((0..12usize, 1..6usize, any::<u8>()), 0..500);
    (runs, -40..40isize, 1..9u64).prop_map(|(runs, longer, record_len)| {
        let (mut old, mut new, mut extents) = (vec![], vec![], vec![]);
        for (i, (same, changed, seed)) in runs.into_iter().enumerate() {
            let byte = if i % 3 == 0 { 0 } else { i as u8 };
            old.extend(std::iter::repeat_n(byte, same + changed));
            new.extend(std::iter::repeat_n(byte, same));
            let start = new.len() as u64;
            // Also zeros, and bytes that are as they were.
            new.extend(std::iter::repeat_n(seed & 3, changed));
            push_joined(&mut extents, ByteRange::new(start, new.len() as u64));
        }
        let len = old.len().saturating_add_signed(longer);
        for (at, byte) in new.iter_mut().enumerate().skip(len) {
            // What the patch leaves to the base is zeros where there is no base.
            let is_changed = extents.iter().any(|extent| extent.contains(at as u64));
            *byte = if is_changed { *byte } else { 0 };
        }
        old.resize(len, 5);
        let mut model = Model { old, new, extents, patch: vec![] };
        model.patch = patch_of(&model, record_len);
        model
    })
}

/// A patch with records of at most `len` bytes, every other one after the rest,
/// and over some that do not count.
fn patch_of(model: &Model, len: u64) -> Vec<u8> {
    let size_bytes = model.new.len() as u64;
    let mut patch = Header { size_bytes, name: b"x".to_vec() }.encode().unwrap();
    let pieces: VecDeque<_> = model.extents.iter().flat_map(|extent| extent.pieces(len)).collect();
    // What is written over later is none of the result.
    for stale in model.extents.iter().step_by(3) {
        let header = format::RecordHeader { offset: stale.start, len: stale.len() as u16 };
        patch.extend(header.encode());
        patch.extend(std::iter::repeat_n(42, stale.len() as usize));
    }
    let order = pieces.iter().step_by(2).chain(pieces.iter().skip(1).step_by(2));
    for piece in order {
        let header = format::RecordHeader { offset: piece.start, len: piece.len() as u16 };
        patch.extend(header.encode());
        patch.extend(part(&model.new, piece.start, piece.len()));
    }
    patch.extend(format::END);
    patch.push(0);
    patch
}

fn stored(model: &Model) -> View {
    let base = MemoryDevice::new(&*model.old).with_holes(HOLE_BYTES);
    let patch = Arc::new(MemoryDevice::new(&*model.patch));
    let change = StoredChange::open(patch, Arc::new(base), |_| SizeRule::Resize).unwrap();
    View::new(Arc::new(change), Readers::Owner).unwrap()
}

fn scripted(model: &Model, moods: &[Mood]) -> (View, Arc<ScriptedChange>) {
    let change = Arc::new(ScriptedChange::new(model, moods));
    (View::new(change.clone(), Readers::Owner).unwrap(), change)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn any_operations_over_a_stored_patch_agree_with_the_model(
        model in model(),
        ops in vec(op(), 1..40),
    ) {
        let view = stored(&model);
        let changes_bytes = model.extents.len() as u64 * LINE_BYTES;
        prop_assert_eq!(view.attr(Node::Changes).size_bytes, changes_bytes, "before it is read");
        check_all(&view, &model, false, &ops);
    }

    #[test]
    fn any_operations_over_late_and_failing_answers_are_exact_or_errors(
        model in model(),
        ops in vec(op(), 1..24),
        moods in vec(
            prop_oneof![
                6 => Just(Mood::Now),
                6 => Just(Mood::Later),
                1 => Just(Mood::Fail),
                1 => Just(Mood::FailLater),
            ],
            // A walk begins anew after every error, so there must be stretches without one.
            1..40,
        ),
    ) {
        // Enough good answers in a row for the longest batch, between the script's own.
        let calm = [Mood::Now; 1100].into_iter().chain([Mood::Later; 600]);
        let moods: Vec<_> = moods.into_iter().chain(calm).collect();
        let (view, change) = scripted(&model, &moods);
        check_all(&view, &model, true, &ops);
        drop(view);
        prop_assert_eq!(Arc::strong_count(&change), 1, "the view's thread has ended");
    }
}

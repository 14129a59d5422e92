//! The view against plain vectors of bytes: any operations, from several threads, over a stored
//! patch and over a change whose answers come late, or not, or are errors.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::collection::vec;
use proptest::prelude::*;

use super::tree::extent_name;
use super::*;
use crate::device::{Device, MemoryDevice};
use crate::error::{Error, Kind, Result};
use crate::patch::{Header, format};
use crate::units::{ByteRange, SizeRule, push_joined};

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

/// How a scripted change answers one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Now,
    Later,
    Fail,
    FailLater,
}

/// An answer on its way.
type Letter = Box<dyn FnOnce() + Send>;

/// A change with the answers of a model, in the moods of a script, again and again.
struct ScriptedChange {
    model: Model,
    images: [MemoryDevice; 2],
    moods: Vec<Mood>,
    questions: AtomicUsize,
    later: Mutex<Option<mpsc::Sender<Letter>>>,
    postman: Option<thread::JoinHandle<()>>,
}

impl ScriptedChange {
    fn new(model: &Model, moods: &[Mood]) -> Self {
        let image = |bytes: &[u8]| MemoryDevice::new(bytes).with_holes(HOLE_BYTES);
        let (later, letters) = mpsc::channel::<Letter>();
        let postman = thread::spawn(move || {
            for letter in letters {
                thread::yield_now();
                letter();
            }
        });
        Self {
            images: [image(&model.new), image(&model.old)],
            model: model.clone(),
            moods: moods.to_vec(),
            questions: AtomicUsize::new(0),
            later: Mutex::new(Some(later)),
            postman: Some(postman),
        }
    }

    fn image(&self, image: Image) -> &MemoryDevice {
        &self.images[usize::from(image == Image::Original)]
    }

    fn mood(&self) -> Mood {
        let question = self.questions.fetch_add(1, Ordering::Relaxed);
        self.moods[question % self.moods.len()]
    }

    fn answer<T: Send + 'static>(&self, value: T, done: Done<T>) {
        let mood = self.mood();
        let result = match mood {
            Mood::Now | Mood::Later => Ok(value),
            Mood::Fail | Mood::FailLater => Err(Error::new(Kind::Connection, "scripted")),
        };
        match mood {
            Mood::Now | Mood::Fail => done(result),
            Mood::Later | Mood::FailLater => {
                let letter = Box::new(move || done(result));
                self.later.lock().as_ref().unwrap().send(letter).unwrap();
            }
        }
    }
}

impl Drop for ScriptedChange {
    fn drop(&mut self) {
        *self.later.lock() = None;
        let postman = self.postman.take().unwrap();
        if postman.thread().id() != thread::current().id() {
            postman.join().unwrap();
        }
    }
}

impl Change for ScriptedChange {
    fn image_bytes(&self, image: Image) -> u64 {
        self.image(image).size()
    }

    fn read(&self, image: Image, range: ByteRange, done: Done<Vec<u8>>) {
        let mut bytes = vec![0; range.len() as usize];
        self.image(image).read_exact_at(&mut bytes, range.start).unwrap();
        self.answer(bytes, done);
    }

    fn next_data(&self, image: Image, from: u64) -> Result<Option<ByteRange>> {
        self.image(image).next_data(from)
    }

    fn next_extent(&self, from: u64, done: Done<Option<ByteRange>>) {
        let below = self.model.extents.partition_point(|extent| extent.end <= from);
        self.answer(self.model.extents.get(below).copied(), done);
    }

    fn read_patch(&self, offset: u64, len: u32, done: Done<Vec<u8>>) {
        self.answer(part(&self.model.patch, offset, u64::from(len)).to_vec(), done);
    }

    fn patch_bytes(&self) -> Option<u64> {
        None
    }

    fn status(&self) -> String {
        let questions = self.questions.load(Ordering::Relaxed);
        format!(r#"{{"questions":{questions},"rest":"{}"}}"#, "x".repeat(questions % 7))
    }
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
    let change = StoredChange::open(patch, Arc::new(base), SizeRule::Resize).unwrap();
    View::new(Arc::new(change), Access::Owner).unwrap()
}

fn scripted(model: &Model, moods: &[Mood]) -> (View, Arc<ScriptedChange>) {
    let change = Arc::new(ScriptedChange::new(model, moods));
    (View::new(change.clone(), Access::Owner).unwrap(), change)
}

/// A model of `count` changed ranges of one byte, at every other byte.
fn dotted(count: usize) -> Model {
    let extents = (0..count as u64).map(|i| ByteRange::new(i * 2, i * 2 + 1)).collect();
    Model { old: vec![1; count * 2], new: vec![2; count * 2], extents, patch: vec![9; 50] }
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

#[test]
fn root_lists_its_names_and_looks_them_up() {
    let (view, _) = scripted(&dotted(3), &[Mood::Now]);
    let entries = wait(|done| view.list(Node::Root, 0, done)).unwrap();
    let names: Vec<_> = entries.iter().map(|entry| entry.name.to_str().unwrap()).collect();
    let expected = [".", "..", "changes", "extents", "merged", "original", "patch", "status.json"];
    assert_eq!(names, expected);
    for entry in &entries[2..] {
        let found = wait(|done| view.lookup(Node::Root, &entry.name, done)).unwrap();
        assert_eq!(found, Some(entry.node));
        assert_eq!(wait(|done| view.node(entry.node.inode(), done)).unwrap(), Some(entry.node));
        let rest = wait(|done| view.list(Node::Root, entry.cookie, done)).unwrap();
        assert_eq!(rest, entries[entry.cookie as usize..]);
    }
    assert_eq!(wait(|done| view.lookup(Node::Root, OsStr::new("etc"), done)).unwrap(), None);
    assert_eq!(wait(|done| view.node(9, done)).unwrap(), None);
}

#[test]
fn modes_are_the_owners_unless_everybody_may_read() {
    let change = Arc::new(ScriptedChange::new(&dotted(1), &[Mood::Now]));
    let view = View::new(change.clone(), Access::Owner).unwrap();
    assert_eq!((view.attr(Node::Root).mode, view.attr(Node::Merged).mode), (0o500, 0o400));
    let view = View::new(change, Access::Everyone).unwrap();
    assert_eq!((view.attr(Node::Extents).mode, view.attr(Node::Patch).mode), (0o555, 0o444));
}

#[test]
fn blocks_leave_out_what_is_known_to_be_a_hole() {
    let mut model = dotted(8192);
    model.new[..8192].fill(0);
    let (view, change) = scripted(&model, &[Mood::Now]);
    assert_eq!(view.attr(Node::Merged).blocks, 8192 / STAT_BLOCK_BYTES);
    assert_eq!(view.attr(Node::Original).blocks, 16384 / STAT_BLOCK_BYTES);
    assert_eq!(view.attr(Node::Patch).blocks, 0);
    assert_eq!(change.questions.load(Ordering::Relaxed), 0, "stat asks nothing");
}

#[test]
fn reads_are_bounded_and_folders_are_not_read() {
    let (view, _) = scripted(&dotted(3), &[Mood::Now]);
    let errno = |node, len| wait(|done| view.read(node, 0, len, done)).unwrap_err().kind().errno();
    assert!(wait(|done| view.read(Node::Merged, 0, READ_BYTES_MAX, done)).is_ok());
    assert_eq!(errno(Node::Merged, READ_BYTES_MAX + 1), libc::EINVAL);
    assert_eq!(errno(Node::Extents, 1), libc::EINVAL);
    assert!(wait(|done| view.list(Node::Merged, 0, done)).is_err());
}

#[test]
fn an_answer_of_a_wrong_length_is_an_error() {
    struct Short(ScriptedChange);
    impl Change for Short {
        fn image_bytes(&self, _: Image) -> u64 {
            100
        }
        fn read(&self, _: Image, range: ByteRange, done: Done<Vec<u8>>) {
            done(Ok(vec![0; range.len() as usize - 1]));
        }
        fn next_data(&self, image: Image, from: u64) -> Result<Option<ByteRange>> {
            self.0.next_data(image, from)
        }
        fn next_extent(&self, from: u64, done: Done<Option<ByteRange>>) {
            self.0.next_extent(from, done);
        }
        fn read_patch(&self, offset: u64, len: u32, done: Done<Vec<u8>>) {
            self.0.read_patch(offset, len, done);
        }
        fn patch_bytes(&self) -> Option<u64> {
            None
        }
        fn status(&self) -> String {
            self.0.status()
        }
    }
    let change = Short(ScriptedChange::new(&dotted(50), &[Mood::Now]));
    let view = View::new(Arc::new(change), Access::Owner).unwrap();
    let err = wait(|done| view.read(Node::Merged, 0, 10, done)).unwrap_err();
    assert_eq!(err.kind().errno(), libc::EIO);
}

#[test]
fn lines_far_into_changes_are_found_from_the_nearest_checkpoint() {
    let count = 20_000;
    let (view, change) = scripted(&dotted(count), &[Mood::Now]);
    let read = |line: usize| {
        let before = change.questions.load(Ordering::Relaxed);
        let offset = line as u64 * LINE_BYTES;
        let bytes = wait(|done| view.read(Node::Changes, offset, 42, done)).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        if line < count {
            let numbers: Vec<_> = text.split_whitespace().collect();
            assert_eq!(numbers, [(line * 2).to_string(), "1".into()]);
        } else {
            assert_eq!(text, "");
        }
        change.questions.load(Ordering::Relaxed) - before
    };
    assert_eq!(read(0), 1);
    assert_eq!(read(count - 1), count);
    for line in [count - 1, count / 2, 1023, 1024, 1025] {
        assert!(read(line) <= 1024, "line {line}");
    }
    assert_eq!(view.attr(Node::Changes).size_bytes, 0);
    read(count);
    assert_eq!(view.attr(Node::Changes).size_bytes, count as u64 * LINE_BYTES);
    assert_eq!(read(count + 5), 0);
}

/// A change that knows some ranges, and keeps whoever asks for the next one waiting.
struct StuckChange {
    known: u64,
    waiting: Mutex<Vec<Done<Option<ByteRange>>>>,
}

impl Change for StuckChange {
    fn image_bytes(&self, _: Image) -> u64 {
        1 << 40
    }
    fn read(&self, _: Image, range: ByteRange, done: Done<Vec<u8>>) {
        done(Ok(vec![0; range.len() as usize]));
    }
    fn next_data(&self, _: Image, from: u64) -> Result<Option<ByteRange>> {
        Ok(Some(ByteRange::new(from, 1 << 40)))
    }
    fn next_extent(&self, from: u64, done: Done<Option<ByteRange>>) {
        match from < self.known * 10 {
            true => done(Ok(Some(ByteRange::new(from / 10 * 10, from / 10 * 10 + 10 - 1)))),
            false => self.waiting.lock().push(done),
        }
    }
    fn read_patch(&self, _: u64, _: u32, _: Done<Vec<u8>>) {}
    fn patch_bytes(&self) -> Option<u64> {
        None
    }
    fn status(&self) -> String {
        "{}".into()
    }
}

#[test]
fn what_is_known_is_given_out_while_the_scan_is_on_its_way() {
    let change = Arc::new(StuckChange { known: 0, waiting: Mutex::default() });
    let view = View::new(change.clone(), Access::Owner).unwrap();
    // Dots do not wait for anything, `stat` and reads neither.
    assert_eq!(wait(|done| view.list(Node::Extents, 0, done)).unwrap().len(), 2);
    assert_eq!(view.attr(Node::Changes).size_bytes, 0);
    let (sender, receiver) = mpsc::channel();
    let own = sender.clone();
    view.read(Node::Changes, 0, 1000, Box::new(move |result| own.send(result).unwrap()));
    assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err(), "nothing is known");
    assert!(wait(|done| view.read(Node::Merged, 1 << 30, 10, done)).is_ok());
    // The first one comes: it is given out, though a thousand bytes were asked for.
    let first = change.waiting.lock().pop().unwrap();
    first(Ok(Some(ByteRange::new(5, 7))));
    let bytes = receiver.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
    assert_eq!(bytes, format!("{:>20} {:>20}\n", 5, 2).into_bytes());
}

#[test]
fn readers_that_wait_when_the_view_ends_get_an_error() {
    let change = Arc::new(StuckChange { known: 0, waiting: Mutex::default() });
    let view = View::new(change.clone(), Access::Owner).unwrap();
    let (sender, receiver) = mpsc::channel();
    for _ in 0..3 {
        let sender = sender.clone();
        view.read(Node::Changes, 0, 10, Box::new(move |result| sender.send(result).unwrap()));
    }
    while change.waiting.lock().len() < 3 {
        thread::yield_now();
    }
    drop(view);
    for done in std::mem::take(&mut *change.waiting.lock()) {
        done(Ok(None));
    }
    for _ in 0..3 {
        let result = receiver.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(result.unwrap_err().kind().errno(), libc::EIO);
    }
}

#[test]
fn a_long_walk_lets_short_ones_pass() {
    let change = Arc::new(StuckChange { known: 3_000_000, waiting: Mutex::default() });
    let view = View::new(change, Access::Owner).unwrap();
    let (sender, receiver) = mpsc::channel();
    let far = 2_999_999 * LINE_BYTES;
    let own = sender.clone();
    view.read(Node::Changes, far, 42, Box::new(move |_| own.send("long").unwrap()));
    view.read(Node::Changes, 0, 42, Box::new(move |_| sender.send("short").unwrap()));
    let order: Vec<_> = (0..2).map(|_| receiver.recv().unwrap()).collect();
    assert_eq!(order, ["short", "long"]);
}

#[test]
fn status_is_one_object_for_every_reader_who_begins_at_the_start() {
    let (view, _) = scripted(&dotted(3), &[Mood::Now]);
    for round in 0..20 {
        let mut text = vec![];
        loop {
            // Other readers go on meanwhile, so that the status is another one.
            wait(|done| view.read(Node::Merged, 0, 1, done)).unwrap();
            let offset = text.len() as u64;
            let more = wait(|done| view.read(Node::Status, offset, 1 + round, done)).unwrap();
            if more.is_empty() {
                break;
            }
            text.extend(more);
        }
        assert_eq!(text.len() as u64, view.attr(Node::Status).size_bytes);
        assert_eq!(text.pop(), Some(b'\n'));
        assert!(serde_json::from_slice::<serde_json::Value>(&text).unwrap().is_object());
        assert_eq!(view.status().len(), text.len() + 1);
    }
}

#[test]
fn only_the_scan_and_the_remote_side_are_waited_for() {
    struct AtHand;

    impl Change for AtHand {
        fn image_bytes(&self, _: Image) -> u64 {
            4096
        }

        fn read(&self, _: Image, _: ByteRange, _: Done<Vec<u8>>) {}

        fn may_wait(&self, image: Image) -> bool {
            image == Image::Merged
        }

        fn next_data(&self, _: Image, _: u64) -> Result<Option<ByteRange>> {
            Ok(None)
        }

        fn next_extent(&self, _: u64, _: Done<Option<ByteRange>>) {}

        fn read_patch(&self, _: u64, _: u32, _: Done<Vec<u8>>) {}

        fn patch_bytes(&self) -> Option<u64> {
            None
        }

        fn status(&self) -> String {
            String::new()
        }
    }

    let view = View::new(Arc::new(AtHand), Access::Owner).unwrap();
    let waits = |node: Node, part| view.may_wait(node.inode(), part);
    for node in ROOT_NODES.into_iter().chain([Node::Root]) {
        assert!(!waits(node, Part::Attributes), "{node:?}");
        assert_eq!(waits(node, Part::Names), node == Node::Extents, "{node:?}");
        let slow = matches!(node, Node::Merged | Node::Patch | Node::Changes);
        assert_eq!(waits(node, Part::Content), slow, "{node:?}");
    }
    let extent = Node::Extent(ByteRange::new(0, 1));
    for part in [Part::Attributes, Part::Names, Part::Content] {
        assert!(waits(extent, part));
        assert!(!view.may_wait(0, part), "there is no such node");
    }
}

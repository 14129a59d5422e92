//! What single operations answer: names, attributes, bounds, and who waits for what.

use std::ffi::OsStr;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::scripted::{Mood, ScriptedChange};
use super::{Model, scripted, wait};
use crate::device::open_directly;
use crate::error::Result;
use crate::units::{ByteRange, Readers};
use crate::view::{
    Change, Done, Image, LINE_BYTES, Node, Part, READ_BYTES_MAX, ROOT_NODES, STAT_BLOCK_BYTES,
    Status, View,
};

/// A model of `count` changed ranges of one byte, at every other byte.
fn dotted(count: usize) -> Model {
    let extents = (0..count as u64).map(|i| ByteRange::new(i * 2, i * 2 + 1)).collect();
    Model { old: vec![1; count * 2], new: vec![2; count * 2], extents, patch: vec![9; 50] }
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
    let view = View::new(change.clone(), Readers::Owner).unwrap();
    assert_eq!((view.attr(Node::Root).mode, view.attr(Node::Merged).mode), (0o500, 0o400));
    let view = View::new(change, Readers::Everybody).unwrap();
    assert_eq!((view.attr(Node::Extents).mode, view.attr(Node::Patch).mode), (0o555, 0o444));
}

/// As `find` counts on: two for a folder, and one for each folder in it.
#[test]
fn links_tell_how_many_folders_a_folder_has() {
    let (view, _) = scripted(&dotted(1), &[Mood::Now]);
    let links = [Node::Root, Node::Extents, Node::Merged].map(|node| view.attr(node).links);
    assert_eq!(links, [3, 2, 1]);
}

#[test]
fn blocks_leave_out_what_is_known_to_be_a_hole() {
    let mut model = dotted(8192);
    model.new[..8192].fill(0);
    let (view, change) = scripted(&model, &[Mood::Now]);
    assert_eq!(view.attr(Node::Merged).blocks, 8192 / STAT_BLOCK_BYTES);
    // As long as holes may come to be known there is one, so that programs ask for them.
    assert_eq!(view.attr(Node::Original).blocks, (16384 - 4096) / STAT_BLOCK_BYTES);
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
    assert_eq!(errno(Node::Root, 0), libc::EINVAL);
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
        fn status(&self) -> Status {
            self.0.status()
        }
    }
    let change = Short(ScriptedChange::new(&dotted(50), &[Mood::Now]));
    let view = View::new(Arc::new(change), Readers::Owner).unwrap();
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
    // Whoever reads to the end asks once more, there.
    assert_eq!(read(count), 0);
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
        let start = (from + 1) / 10 * 10;
        match start < self.known * 10 {
            true => done(Ok(Some(ByteRange::new(start, start + 9)))),
            false => self.waiting.lock().push(done),
        }
    }
    fn read_patch(&self, _: u64, _: u32, _: Done<Vec<u8>>) {}
    fn patch_bytes(&self) -> Option<u64> {
        None
    }
    fn status(&self) -> Status {
        Status::example()
    }
}

#[test]
fn what_is_known_is_given_out_while_the_scan_is_on_its_way() {
    let change = Arc::new(StuckChange { known: 0, waiting: Mutex::default() });
    let view = View::new(change.clone(), Readers::Owner).unwrap();
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
fn a_folder_of_ranges_lists_those_that_are_known() {
    let change = Arc::new(StuckChange { known: 3, waiting: Mutex::default() });
    let view = View::new(change, Readers::Owner).unwrap();
    let entries = wait(|done| view.list(Node::Extents, 2, done)).unwrap();
    let nodes: Vec<_> = entries.into_iter().map(|entry| entry.node).collect();
    let range = |start| Node::Extent(ByteRange::new(start, start + 9));
    assert_eq!(nodes, [0, 10, 20].map(range));
}

#[test]
fn what_the_scan_cannot_change_does_not_wait_for_it() {
    let change = Arc::new(StuckChange { known: 0, waiting: Mutex::default() });
    let view = View::new(change, Readers::Owner).unwrap();
    for node in [Node::Changes, Node::Patch] {
        assert!(wait(|done| view.read(node, 5, 0, done)).unwrap().is_empty(), "{node:?}");
    }
    // Behind the end of the image nothing is changed.
    for start in [1 << 40, (1 << 40) + 1] {
        let node = Node::Extent(ByteRange::new(start, start + 1));
        let found = wait(|done| view.lookup(Node::Extents, &node.name(), done)).unwrap();
        assert_eq!(found, None);
        assert_eq!(wait(|done| view.node(node.inode(), done)).unwrap(), None);
    }
}

#[test]
fn readers_that_wait_when_the_view_ends_get_an_error() {
    let change = Arc::new(StuckChange { known: 0, waiting: Mutex::default() });
    let view = View::new(change.clone(), Readers::Owner).unwrap();
    let (sender, receiver) = mpsc::channel();
    for _ in 0..3 {
        let sender = sender.clone();
        view.read(Node::Changes, 0, 10, Box::new(move |result| sender.send(result).unwrap()));
    }
    let (listed, names) = mpsc::channel();
    view.list(Node::Extents, 2, Box::new(move |result| listed.send(result).unwrap()));
    while change.waiting.lock().len() < 4 {
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
    let result = names.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(result.unwrap_err().kind().errno(), libc::EIO);
}

#[test]
fn a_long_walk_lets_short_ones_pass() {
    let change = Arc::new(StuckChange { known: 3_000_000, waiting: Mutex::default() });
    let view = View::new(change, Readers::Owner).unwrap();
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

        fn status(&self) -> Status {
            Status::example()
        }
    }

    let view = View::new(Arc::new(AtHand), Readers::Owner).unwrap();
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

/// Somebody who reads past the page cache would get an error from the kernel.
#[test]
fn only_a_file_that_can_be_read_past_the_page_cache_is_given_to_the_kernel() {
    struct Backed(File);

    impl Change for Backed {
        fn image_bytes(&self, _: Image) -> u64 {
            4096
        }

        fn read(&self, _: Image, _: ByteRange, _: Done<Vec<u8>>) {}

        fn next_data(&self, _: Image, _: u64) -> Result<Option<ByteRange>> {
            Ok(None)
        }

        fn next_extent(&self, _: u64, _: Done<Option<ByteRange>>) {}

        fn read_patch(&self, _: u64, _: u32, _: Done<Vec<u8>>) {}

        fn patch_bytes(&self) -> Option<u64> {
            None
        }

        fn backing_file(&self, image: Image) -> Option<&File> {
            (image == Image::Merged).then_some(&self.0)
        }

        fn status(&self) -> Status {
            Status::example()
        }
    }

    let is_given = |file, node| {
        let view = View::new(Arc::new(Backed(file)), Readers::Owner).unwrap();
        view.backing_file(node).is_some()
    };
    // No file of procfs can be.
    assert!(!is_given(File::open("/proc/self/stat").unwrap(), Node::Merged));
    let file = || tempfile::tempfile_in(".").unwrap();
    if open_directly(&file()).is_err() {
        eprintln!("skipping: O_DIRECT is not supported here");
        return;
    }
    assert!(is_given(file(), Node::Merged));
    assert!(!is_given(file(), Node::Original) && !is_given(file(), Node::Patch));
}

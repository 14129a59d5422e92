//! Where data and holes are told to be, to the byte, and how many blocks that makes.

use std::sync::Arc;

use crate::error::Result;
use crate::units::{ByteRange, Readers};
use crate::view::files::HOLE_STEPS_MAX;
use crate::view::{Change, Done, Image, Node, STAT_BLOCK_BYTES, Status, View, Whence};

/// Images whose data come in pieces, some of which touch.
struct Pieces {
    bytes: u64,
    data: Vec<ByteRange>,
    /// Of `merged`: `original` is at hand.
    may_wait: bool,
}

impl Change for Pieces {
    fn image_bytes(&self, _: Image) -> u64 {
        self.bytes
    }

    fn read(&self, _: Image, _: ByteRange, _: Done<Vec<u8>>) {}

    fn may_wait(&self, image: Image) -> bool {
        self.may_wait && image == Image::Merged
    }

    fn next_data(&self, _: Image, from: u64) -> Result<Option<ByteRange>> {
        let next = self.data.partition_point(|piece| piece.end <= from);
        Ok(self.data.get(next).map(|piece| ByteRange::new(piece.start.max(from), piece.end)))
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

fn view(bytes: u64, data: &[(u64, u64)], may_wait: bool) -> View {
    let data = data.iter().map(|&(start, end)| ByteRange::new(start, end)).collect();
    View::new(Arc::new(Pieces { bytes, data, may_wait }), Readers::Owner).unwrap()
}

#[test]
fn data_and_holes_are_found_where_they_begin() {
    let view = view(100, &[(10, 20), (20, 30), (40, 50), (50, 100)], false);
    for (offset, data, hole) in [
        (0, Some(10), Some(0)),
        (10, Some(10), Some(30)),
        (25, Some(25), Some(30)),
        (30, Some(40), Some(30)),
        (39, Some(40), Some(39)),
        (40, Some(40), Some(100)),
        (99, Some(99), Some(100)),
        (100, None, None),
        (101, None, None),
    ] {
        let found = [Whence::Data, Whence::Hole]
            .map(|whence| view.seek(Node::Merged, offset, whence).unwrap());
        assert_eq!(found, [data, hole], "{offset}");
    }
}

#[test]
fn a_file_that_is_no_image_is_all_data() {
    let view = view(100, &[], false);
    let size = view.attr(Node::Status).size_bytes;
    let seek = |node, offset, whence| view.seek(node, offset, whence);
    assert_eq!(seek(Node::Status, 5, Whence::Data).unwrap(), Some(5));
    assert_eq!(seek(Node::Status, 5, Whence::Hole).unwrap(), Some(size));
    assert_eq!(seek(Node::Status, size, Whence::Hole).unwrap(), None);
    // It goes on for longer than anybody knows.
    assert_eq!(seek(Node::Patch, 1 << 40, Whence::Data).unwrap(), Some(1 << 40));
    assert!(seek(Node::Patch, 5, Whence::Hole).is_err(), "its end is not known yet");
}

#[test]
fn blocks_are_those_of_all_pieces_and_a_part_of_one_is_one() {
    let pieces = [(0, 512), (512, 1024), (2048, 2049), (8192, 10_000)];
    let blocks = |bytes, may_wait| view(bytes, &pieces, may_wait).attr(Node::Merged).blocks;
    // 1024 + 1 + 1808 bytes of it.
    assert_eq!(blocks(10_000, false), 6);
    assert_eq!(blocks(10_000, true), 6, "there is a hole that is large enough");
    let all = |bytes| view(bytes, &[(0, bytes)], true);
    // To some programs a file of no blocks is one of no data.
    assert_eq!(all(4096).attr(Node::Merged).blocks, 8);
    assert_eq!(all(4097).attr(Node::Merged).blocks, 1);
    assert_eq!(all(8192).attr(Node::Merged).blocks, 8);
    assert_eq!(all(8192).attr(Node::Original).blocks, 16, "no more is to be known of it");
}

#[test]
fn what_is_in_too_many_pieces_counts_as_data_behind_those_that_are_looked_at() {
    const PIECE: u64 = STAT_BLOCK_BYTES;
    for more in [0, 1, 10] {
        let count = HOLE_STEPS_MAX as u64 + more;
        let starts = (0..count).map(|i| 2 * i * PIECE);
        let data: Vec<_> = starts.map(|start| (start, start + PIECE)).collect();
        let view = view(2 * count * PIECE, &data, false);
        // With the holes behind the last piece that is looked at and behind each that is not.
        assert_eq!(view.attr(Node::Merged).blocks, count + 1 + more, "{more}");
    }
}

#[test]
fn a_hole_behind_too_many_pieces_is_told_at_the_end() {
    for (count, hole) in [(HOLE_STEPS_MAX as u64 - 1, false), (HOLE_STEPS_MAX as u64, true)] {
        let data: Vec<_> = (0..count).map(|i| (i, i + 1)).collect();
        let found = view(count + 10, &data, false).seek(Node::Merged, 0, Whence::Hole).unwrap();
        assert_eq!(found, Some(if hole { count + 10 } else { count }));
    }
}

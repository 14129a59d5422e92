//! The names in the mount: nodes, inode numbers, attributes. Pure.
//!
//! Inode numbers are computed, not kept in a table, so that millions of ranges cost nothing:
//! the fixed names have small ones, a changed range has its offset plus [`EXTENT_INODE_MIN`].

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::SystemTime;

use super::Image;
use crate::units::{ByteRange, Readers};

/// The inode number of the changed range at offset 0; those of the fixed names are smaller.
pub const EXTENT_INODE_MIN: u64 = 64;
/// Bytes of a unit of [`Attr::blocks`], as `stat` has it.
pub const STAT_BLOCK_BYTES: u64 = 512;
/// Hex digits of the offset, and of the length, in the name of a changed range.
const HEX_DIGITS: usize = 16;

/// A file or folder of the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// The mountpoint itself.
    Root,
    /// `patch`.
    Patch,
    /// `merged`.
    Merged,
    /// `original`.
    Original,
    /// `extents/`.
    Extents,
    /// A file in `extents/`: a contiguous changed range of `merged`, never empty.
    Extent(ByteRange),
    /// `changes`.
    Changes,
    /// `status.json`.
    Status,
}

/// What lies in the root, in the order of its listing.
pub const ROOT_NODES: [Node; 6] =
    [Node::Changes, Node::Extents, Node::Merged, Node::Original, Node::Patch, Node::Status];

/// What an inode number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inode {
    /// One of the fixed names.
    Fixed(Node),
    /// The changed range that begins at this offset.
    ExtentAt(u64),
}

/// What `stat` says, without the owner, which is the adapter's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub inode: u64,
    /// Whether it is a folder; a regular file if not.
    pub is_dir: bool,
    /// Exact size in bytes; 0 for what is not known yet and read to its end instead.
    pub size_bytes: u64,
    /// Units of [`STAT_BLOCK_BYTES`] that are not known to be holes.
    pub blocks: u64,
    /// Permission bits.
    pub mode: u16,
    /// Number of names.
    pub links: u32,
    /// When the view was made: nothing in it changes later.
    pub time: SystemTime,
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it names.
    pub node: Node,
    /// The name.
    pub name: OsString,
    /// Listing on from here gives the entries behind this one.
    pub cookie: u64,
}

/// What `lseek` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// SEEK_DATA: the next byte that may be data.
    Data,
    /// SEEK_HOLE: the next byte that is in a hole, or the end.
    Hole,
}

impl Node {
    /// Its inode number.
    #[must_use]
    pub const fn inode(self) -> u64 {
        match self {
            Node::Root => 1,
            Node::Patch => 2,
            Node::Merged => 3,
            Node::Original => 4,
            Node::Extents => 5,
            Node::Changes => 6,
            Node::Status => 7,
            Node::Extent(range) => EXTENT_INODE_MIN.saturating_add(range.start),
        }
    }

    /// What an inode number stands for; `None`: nothing.
    #[must_use]
    pub const fn from_inode(inode: u64) -> Option<Inode> {
        Some(Inode::Fixed(match inode {
            1 => Node::Root,
            2 => Node::Patch,
            3 => Node::Merged,
            4 => Node::Original,
            5 => Node::Extents,
            6 => Node::Changes,
            7 => Node::Status,
            EXTENT_INODE_MIN.. => return Some(Inode::ExtentAt(inode - EXTENT_INODE_MIN)),
            _ => return None,
        }))
    }

    /// Whether it is a folder.
    #[must_use]
    pub const fn is_dir(self) -> bool {
        matches!(self, Node::Root | Node::Extents)
    }

    /// The folder that it lies in; the root lies in itself.
    #[must_use]
    pub const fn parent(self) -> Node {
        match self {
            Node::Extent(_) => Node::Extents,
            _ => Node::Root,
        }
    }

    /// Its name in [`Node::parent`]; empty for the root.
    #[must_use]
    pub fn name(self) -> OsString {
        match self {
            Node::Root => OsString::new(),
            Node::Patch => "patch".into(),
            Node::Merged => "merged".into(),
            Node::Original => "original".into(),
            Node::Extents => "extents".into(),
            Node::Changes => "changes".into(),
            Node::Status => "status.json".into(),
            Node::Extent(range) => extent_name(range).into(),
        }
    }

    /// The image whose bytes it shows, if it is one.
    #[must_use]
    pub const fn image(self) -> Option<Image> {
        match self {
            Node::Merged => Some(Image::Merged),
            Node::Original => Some(Image::Original),
            _ => None,
        }
    }

    /// The node of this name in the root.
    #[must_use]
    pub fn in_root(name: &OsStr) -> Option<Node> {
        ROOT_NODES.into_iter().find(|node| node.name() == name)
    }

    /// The permission bits. Root, where it is let in, needs none.
    #[must_use]
    pub const fn mode(self, readers: Readers) -> u16 {
        match (readers, self.is_dir()) {
            (Readers::Owner | Readers::OwnerAndRoot, false) => 0o400,
            (Readers::Owner | Readers::OwnerAndRoot, true) => 0o500,
            (Readers::Everybody, false) => 0o444,
            (Readers::Everybody, true) => 0o555,
        }
    }
}

/// The name of a changed range: offset and length, in hex of fixed width.
#[must_use]
pub fn extent_name(range: ByteRange) -> String {
    format!("{:016x}-{:016x}", range.start, range.len())
}

/// The range that [`extent_name`] gave this name; `None` for every other name.
#[must_use]
pub fn parse_extent_name(name: &OsStr) -> Option<ByteRange> {
    let text = std::str::from_utf8(name.as_bytes()).ok()?;
    let (offset, len) = text.split_once('-')?;
    let number = |digits: &str| {
        let is_ours = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        (digits.len() == HEX_DIGITS && digits.bytes().all(is_ours))
            .then(|| u64::from_str_radix(digits, 16).ok())?
    };
    ByteRange::checked_at(number(offset)?, number(len)?).filter(|range| !range.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_of_ranges_are_read_back(start in 0..u64::MAX, len in 1u64..=u64::MAX) {
            let range = ByteRange::new(start, start.saturating_add(len));
            prop_assert_eq!(parse_extent_name(OsStr::new(&extent_name(range))), Some(range));
        }

        #[test]
        fn only_our_own_spelling_is_a_range(name in "[-0-9a-fA-F+x]{1,34}") {
            if let Some(range) = parse_extent_name(OsStr::new(&name)) {
                prop_assert_eq!(extent_name(range), name);
            }
        }
    }

    #[test]
    fn inode_numbers_lead_back_to_their_nodes() {
        for node in ROOT_NODES.into_iter().chain([Node::Root]) {
            assert!(node.inode() < EXTENT_INODE_MIN);
            assert_eq!(Node::from_inode(node.inode()), Some(Inode::Fixed(node)));
        }
        let extent = Node::Extent(ByteRange::new(0, 1));
        assert_eq!(Node::from_inode(extent.inode()), Some(Inode::ExtentAt(0)));
        assert_eq!(Node::from_inode(0), None);
        assert_eq!(Node::from_inode(EXTENT_INODE_MIN - 1), None);
    }

    #[test]
    fn names_in_the_root_are_found_and_others_are_not() {
        for node in ROOT_NODES {
            assert_eq!(Node::in_root(&node.name()), Some(node));
        }
        assert_eq!(Node::in_root(OsStr::new("")), None);
        assert_eq!(Node::in_root(OsStr::new("Merged")), None);
    }

    #[test]
    fn foreign_names_are_no_ranges() {
        for name in [
            "",
            "-",
            "0000000000000000-0000000000000000",
            "ffffffffffffffff-0000000000000001",
            "0000000000000000-000000000000000A",
            "000000000000000-00000000000000001",
            "+000000000000000-0000000000000001",
            "0000000000000000-0000000000000001-",
        ] {
            assert_eq!(parse_extent_name(OsStr::new(name)), None, "{name}");
        }
    }
}

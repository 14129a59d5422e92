//! What every operation on the mount's files answers, over any [`Change`].
//!
//! Whatever may have to wait for the remote side answers through a [`Done`]; the rest answers
//! at once. An answer is exact, or it is an error.

use std::ffi::OsStr;
use std::fs::File;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::change::{Change, Done, Image};
use super::changes::{Lines, ListExtents, ReadLines};
use super::status;
use super::tree::{
    Attr, Entry, Inode, Node, ROOT_NODES, STAT_BLOCK_BYTES, Whence, parse_extent_name,
};
use super::walk::Walker;
use crate::device::open_directly;
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, Readers};

/// The most bytes that one read may ask for; kernels ask for 1 MiB at most.
pub const READ_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// The most pieces of data that are looked at for one question about holes. Beyond, all
/// counts as data, which is always allowed to be said.
pub(super) const HOLE_STEPS_MAX: usize = 16 * 1024;
/// What the smallest hole of a file system takes, in bytes.
const SMALLEST_HOLE_BYTES: u64 = 4096;

/// What of a node an operation wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What it is, and where its data and holes are.
    Attributes,
    /// What lies in it.
    Names,
    /// Its bytes.
    Content,
}

/// The files of a mount.
///
/// Any number of threads may ask at once. Dropping it waits for its own thread, never for the
/// remote side.
pub struct View {
    change: Arc<dyn Change>,
    walker: Walker,
    lines: Arc<Lines>,
    readers: Readers,
    made: SystemTime,
    /// Bytes that are not known holes, of `merged` and of `original`.
    data_bytes: [u64; 2],
    /// The text that readers of `status.json` who came without a snapshot go on with.
    status: Mutex<Arc<[u8]>>,
}

impl View {
    /// The files for `change`. Starts a thread, so the process must not fork after it.
    ///
    /// # Errors
    /// `Kind::Open` when there can be no more threads, `Kind::Read` when the local device
    /// cannot tell its holes.
    pub fn new(change: Arc<dyn Change>, readers: Readers) -> Result<Self> {
        let data_bytes =
            [stored_bytes(&*change, Image::Merged)?, stored_bytes(&*change, Image::Original)?];
        Ok(Self {
            walker: Walker::start(change.clone())?,
            change,
            lines: Arc::new(Lines::new()),
            readers,
            made: SystemTime::now(),
            data_bytes,
            status: Mutex::new(Arc::from([])),
        })
    }

    /// The node called `name` in `parent`, `None` when there is none. The name of a changed
    /// range is looked up in the change, and may wait for the scan.
    pub fn lookup(&self, parent: Node, name: &OsStr, done: Done<Option<Node>>) {
        match parent {
            Node::Root => done(Ok(Node::in_root(name))),
            Node::Extents => match parse_extent_name(name) {
                Some(named) => self.extent_at(named.start, move |found| {
                    done(found.map(|found| found.filter(|&r| r == named).map(Node::Extent)));
                }),
                None => done(Ok(None)),
            },
            _ => done(Ok(None)),
        }
    }

    /// The node of an inode number, `None` when there is none. Fixed names answer at once, a
    /// changed range that has been looked up before as soon as the change knows it again.
    pub fn node(&self, inode: u64, done: Done<Option<Node>>) {
        match Node::from_inode(inode) {
            Some(Inode::Fixed(node)) => done(Ok(Some(node))),
            Some(Inode::ExtentAt(start)) => self.extent_at(start, move |found| {
                done(found.map(|found| found.filter(|r| r.start == start).map(Node::Extent)));
            }),
            None => done(Ok(None)),
        }
    }

    /// Whether it may take the scan or the remote side to answer for `part` of the node of an
    /// inode number; where not, the answer is there before the question returns.
    #[must_use]
    pub fn may_wait(&self, inode: u64, part: Part) -> bool {
        match (Node::from_inode(inode), part) {
            (Some(Inode::ExtentAt(_)), _) => true,
            (Some(Inode::Fixed(node)), Part::Names) => node == Node::Extents,
            (Some(Inode::Fixed(node)), Part::Content) => match node.image() {
                Some(image) => self.change.may_wait(image),
                None => matches!(node, Node::Patch | Node::Changes),
            },
            (Some(Inode::Fixed(_)), Part::Attributes) | (None, _) => false,
        }
    }

    /// What `stat` says. Never waits.
    #[must_use]
    pub fn attr(&self, node: Node) -> Attr {
        let size_bytes = self.size_bytes(node).unwrap_or(0);
        let stored_bytes = match node {
            Node::Merged => self.data_bytes[0],
            Node::Original => self.data_bytes[1],
            _ => size_bytes,
        };
        Attr {
            inode: node.inode(),
            is_dir: node.is_dir(),
            size_bytes,
            blocks: stored_bytes.div_ceil(STAT_BLOCK_BYTES),
            mode: node.mode(self.readers),
            links: match node {
                Node::Root => 3,
                Node::Extents => 2,
                _ => 1,
            },
            time: self.made,
        }
    }

    /// The local file that `node` is byte for byte, if there is one that can be read in every way.
    #[must_use]
    pub fn backing_file(&self, node: Node) -> Option<&File> {
        // The kernel tells EIO to a reader past the page cache where there is no such reading.
        self.change.backing_file(node.image()?).filter(|file| open_directly(file).is_ok())
    }

    /// Whether the size in [`View::attr`] is exact and the content never changes, so that the
    /// kernel may cache it. All others must be opened for direct I/O: they are read until
    /// nothing comes, and `changes` answers short while the scan is on its way.
    #[must_use]
    pub fn is_cacheable(&self, node: Node) -> bool {
        match node {
            Node::Merged | Node::Original | Node::Extent(_) => true,
            Node::Patch => self.change.patch_bytes().is_some(),
            Node::Root | Node::Extents | Node::Changes | Node::Status => false,
        }
    }

    /// Up to `len` bytes of a file at `offset`, at most [`READ_BYTES_MAX`].
    ///
    /// Fewer only at the end, of `changes` also where the next range is not known yet: then at
    /// least one byte. Reading a folder is a `Kind::Usage` error. For `status.json`, offset 0
    /// takes a new text, and other offsets go on in the newest one: who wants to keep readers
    /// apart keeps [`View::status`] from when the file was opened.
    pub fn read(&self, node: Node, offset: u64, len: u32, done: Done<Vec<u8>>) {
        if len > READ_BYTES_MAX {
            let what = format!("a read of {len} bytes, expected at most {READ_BYTES_MAX}");
            return done(Err(Error::new(Kind::Usage, what)));
        }
        if len == 0 && !node.is_dir() {
            return done(Ok(Vec::new()));
        }
        let wanted = ByteRange::new(offset, offset.saturating_add(u64::from(len)));
        match node {
            Node::Root | Node::Extents => {
                done(Err(Error::new(Kind::Usage, "a folder is listed, not read")));
            }
            Node::Merged => self.read_image(Image::Merged, wanted, done),
            Node::Original => self.read_image(Image::Original, wanted, done),
            Node::Extent(range) => {
                let start = range.start.saturating_add(wanted.start);
                let end = range.start.saturating_add(wanted.end).min(range.end);
                self.read_image(Image::Merged, ByteRange::new(start, end), done);
            }
            Node::Patch => match self.change.patch_bytes() {
                Some(size) if wanted.start >= size => done(Ok(Vec::new())),
                _ => self.change.read_patch(offset, len, done),
            },
            Node::Changes => match self.lines.file_bytes() {
                Some(size) if wanted.start >= size => done(Ok(Vec::new())),
                _ => {
                    let (walk, from) = ReadLines::new(self.lines.clone(), wanted, done);
                    self.walker.begin(walk, from);
                }
            },
            Node::Status => done(Ok(self.read_status(wanted))),
        }
    }

    /// A batch of a folder's entries behind `cookie`; 0 begins. An empty batch is the end.
    ///
    /// Every entry's cookie leads to the one behind it. `extents/` waits for the scan, gives
    /// what it has when the next range is not known yet, and is in ascending order.
    pub fn list(&self, node: Node, cookie: u64, done: Done<Vec<Entry>>) {
        let dots = [(node, "."), (node.parent(), "..")];
        let dots = dots.into_iter().map(|(node, name)| (node, name.into()));
        let number = |(index, (node, name))| Entry { node, name, cookie: index as u64 + 1 };
        let skip = usize::try_from(cookie).unwrap_or(usize::MAX);
        match node {
            Node::Root => {
                let names = ROOT_NODES.into_iter().map(|node| (node, node.name()));
                done(Ok(dots.chain(names).enumerate().map(number).skip(skip).collect()));
            }
            // These are known without a scan, so they do not wait for one.
            Node::Extents if skip < 2 => {
                done(Ok(dots.enumerate().map(number).skip(skip).collect()));
            }
            Node::Extents => {
                let (walk, from) = ListExtents::new(cookie, done);
                self.walker.begin(walk, from);
            }
            _ => done(Err(Error::new(Kind::Usage, "a file is read, not listed"))),
        }
    }

    /// The next data or hole at or behind `offset`, as far as is known without a scan; `None`
    /// (ENXIO) at and behind the end, and for data where only a hole is left. Never waits.
    ///
    /// # Errors
    /// `Kind::Read` when the local device cannot tell; `Kind::Usage` for folders, and for the
    /// end of a file whose size is not known yet.
    pub fn seek(&self, node: Node, offset: u64, whence: Whence) -> Result<Option<u64>> {
        if node.is_dir() {
            return Err(Error::new(Kind::Usage, "a folder has no data and no holes"));
        }
        let size = match self.size_bytes(node) {
            Some(size) => size,
            None if whence == Whence::Data => return Ok(Some(offset)),
            None => return Err(Error::new(Kind::Usage, "the file's size is not known yet")),
        };
        if offset >= size {
            return Ok(None);
        }
        match (node.image(), whence) {
            (None, Whence::Data) => Ok(Some(offset)),
            (None, Whence::Hole) => Ok(Some(size)),
            (Some(image), Whence::Data) => {
                let data = self.change.next_data(image, offset)?;
                Ok(data.map(|data| data.start.max(offset)).filter(|&at| at < size))
            }
            (Some(image), Whence::Hole) => {
                let mut at = offset;
                for _ in 0..HOLE_STEPS_MAX {
                    match self.change.next_data(image, at)? {
                        Some(data) if data.start <= at && data.end > at => at = data.end,
                        _ => return Ok(Some(at.min(size))),
                    }
                    if at >= size {
                        break;
                    }
                }
                Ok(Some(size))
            }
        }
    }

    /// The whole text of `status.json` as of now: one JSON object, blanks and a line break,
    /// [`TEXT_BYTES`](status::TEXT_BYTES) long.
    #[must_use]
    pub fn status(&self) -> Vec<u8> {
        self.change.status().to_text()
    }

    /// Exact size of a file whose size is known.
    fn size_bytes(&self, node: Node) -> Option<u64> {
        match node {
            Node::Merged => Some(self.change.image_bytes(Image::Merged)),
            Node::Original => Some(self.change.image_bytes(Image::Original)),
            Node::Extent(range) => Some(range.len()),
            Node::Patch => self.change.patch_bytes(),
            Node::Changes => self.changes_bytes(),
            Node::Status => Some(status::TEXT_BYTES as u64),
            Node::Root | Node::Extents => None,
        }
    }

    fn changes_bytes(&self) -> Option<u64> {
        if self.lines.file_bytes().is_none() {
            self.lines.ended(self.change.changed_ranges()?);
        }
        self.lines.file_bytes()
    }

    /// The changed range that `start` lies in.
    fn extent_at(&self, start: u64, done: impl FnOnce(Result<Option<ByteRange>>) + Send + 'static) {
        if start >= self.change.image_bytes(Image::Merged) {
            return done(Ok(None));
        }
        self.change.next_extent(start, Box::new(done));
    }

    fn read_image(&self, image: Image, wanted: ByteRange, done: Done<Vec<u8>>) {
        let range = wanted.clip(self.change.image_bytes(image));
        if range.is_empty() {
            return done(Ok(Vec::new()));
        }
        let expected = range.len();
        // Whatever the change does, no reader gets other bytes than it asked for.
        self.change.read(
            image,
            range,
            Box::new(move |result| {
                done(result.and_then(|bytes| {
                    if bytes.len() as u64 == expected {
                        return Ok(bytes);
                    }
                    let what = format!("expected {expected} bytes, found {}", bytes.len());
                    Err(Error::new(Kind::Read, what).with_range(range))
                }));
            }),
        );
    }

    fn read_status(&self, wanted: ByteRange) -> Vec<u8> {
        let mut newest = self.status.lock();
        if wanted.start == 0 {
            *newest = self.status().into();
        }
        let part = wanted.clip(newest.len() as u64);
        // Clipped to the length of something in memory.
        newest[part.start as usize..part.end as usize].to_vec()
    }
}

/// What of an image that may still show holes is at most counted as in use: less than all of it, or
/// `cp`, `tar` and the like never ask where its holes are. They do so when they read it, and by
/// then more may be known.
fn stored_bytes(change: &dyn Change, image: Image) -> Result<u64> {
    let (size, data) = (change.image_bytes(image), data_bytes(change, image)?);
    let may_shrink = change.may_wait(image) && size > SMALLEST_HOLE_BYTES;
    Ok(if may_shrink { data.min(size - SMALLEST_HOLE_BYTES) } else { data })
}

/// Bytes of an image that are not known holes.
fn data_bytes(change: &dyn Change, image: Image) -> Result<u64> {
    let size = change.image_bytes(image);
    let (mut at, mut total) = (0, 0);
    for _ in 0..HOLE_STEPS_MAX {
        match change.next_data(image, at)? {
            Some(data) if data.end > at && at < size => {
                let data = ByteRange::new(data.start.max(at), data.end).clip(size);
                total += data.len();
                at = data.end;
            }
            _ => return Ok(total),
        }
    }
    Ok(total + (size - at.min(size)))
}

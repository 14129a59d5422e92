//! A pending change to one device: what the mount shows, whatever it comes from.
//!
//! ```text
//!   tree.rs, files.rs  -->  trait Change  <-- live/      a session with a remote side
//!                                         <-- stored.rs  a patch file over its base device
//! ```
//! Nothing here waits for the remote side. What cannot be answered at once is answered later, from
//! another thread, through the [`Done`] that came with the question.

use std::fs::File;

use super::status::Status;
use crate::error::Result;
use crate::units::ByteRange;

/// Called exactly once with an answer, on any thread; it must be quick.
pub type Done<T> = Box<dyn FnOnce(Result<T>) + Send>;

/// The two images of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Image {
    /// As it will be once the patch is applied.
    Merged,
    /// As it is now.
    Original,
}

/// A pending change.
pub trait Change: Send + Sync {
    /// Exact size of an image, in bytes.
    fn image_bytes(&self, image: Image) -> u64;

    /// Reads `range` of an image, which lies inside it.
    ///
    /// `done` gets exactly `range.len()` bytes or an error; never zeros for what is unreadable.
    fn read(&self, image: Image, range: ByteRange, done: Done<Vec<u8>>);

    /// Whether a read of an image may have to wait; where not, `done` is called before
    /// [`Change::read`] returns.
    fn may_wait(&self, image: Image) -> bool {
        let _ = image;
        true
    }

    /// The first range at or behind `from` of an image that may hold data, as far as that is
    /// known without comparing or fetching anything; everything before it is a hole. `None`:
    /// only a hole is left.
    ///
    /// # Errors
    /// `Kind::Read` when the local device cannot say.
    fn next_data(&self, image: Image, from: u64) -> Result<Option<ByteRange>>;

    /// The first contiguous changed range that ends behind `from`, in offsets of the merged
    /// image; it may begin before `from`. `None`: nothing is changed behind `from`. Waits for
    /// the scan to get that far.
    fn next_extent(&self, from: u64, done: Done<Option<ByteRange>>);

    /// How many ranges [`Change::next_extent`] finds in all, once that is known. Never waits.
    fn changed_ranges(&self) -> Option<u64> {
        None
    }

    /// Up to `len` bytes of the patch file at `offset`; none only at and behind its end, but
    /// fewer also where no more is known yet. Waits for the scan to get that far.
    fn read_patch(&self, offset: u64, len: u32, done: Done<Vec<u8>>);

    /// Exact size of the patch file in bytes, once it is known.
    fn patch_bytes(&self) -> Option<u64>;

    /// The local file that an image is byte for byte, and of its exact size, if there is one:
    /// whoever wants the image may read that instead.
    fn backing_file(&self, image: Image) -> Option<&File> {
        let _ = image;
        None
    }

    /// What is known so far.
    fn status(&self) -> Status;
}

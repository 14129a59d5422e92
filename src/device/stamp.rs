//! What a regular file looks like that nobody writes to.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// Changes with nearly every write or cut; two writes in one tick of the file system's clock, or
/// stores into a mapped page that is dirty already, may not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    size_bytes: u64,
    /// Of the last change of the content, in seconds and nanoseconds.
    changed: (i64, i64),
}

impl Stamp {
    /// That of the file which `metadata` is of.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        let changed = (metadata.mtime(), metadata.mtime_nsec());
        Self { size_bytes: metadata.len(), changed }
    }
}

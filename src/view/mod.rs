//! What the mount shows, with no FUSE in it.
//!
//! ```text
//!   fuse -> files.rs View     every operation; answers at once, or through a Done
//!             |-- tree.rs     names, inode numbers, attributes
//!             |-- changes.rs  `changes` and the listing of `extents/`, range by range
//!             |     \-- walk.rs   the thread that goes from range to range
//!             |-- status.rs   the fields of `status.json`
//!             \-- change.rs   trait Change <- stored.rs  a patch file over its base device
//!                                          <- live/      a session with a remote side
//!                                 layout.rs  where in a patch file a block's records are (pure)
//! ```
//! Everything is computed when it is read. May be used by `fuse` and `commands`; uses `diff`,
//! `patch` and `device`.

mod change;
mod changes;
mod files;
mod layout;
mod live;
pub mod status;
mod stored;
mod tree;
mod walk;

#[cfg(test)]
mod tests;

pub use change::{Change, Done, Image};
pub use changes::{LINE_BYTES, LIST_ENTRIES_MAX};
pub use files::{Part, READ_BYTES_MAX, View};
pub use live::{LiveChange, LiveOptions};
pub use status::Status;
pub use stored::StoredChange;
pub use tree::{Attr, EXTENT_INODE_MIN, Entry, Inode, Node, ROOT_NODES, STAT_BLOCK_BYTES, Whence};

//! What the mount shows, with no FUSE in it.
//!
//! Everything is computed when it is read. May be used by `fuse` and `commands`; uses `diff`,
//! `patch` and `device`.

mod change;

pub use change::{Change, Done, Image};

//! Patch files, `BDSYNC 0.3`: written, read, checked and applied.
//!
//! ```text
//!   format.rs   pure: headers, records, trailer <-> bytes
//!   writer.rs   blocks -> patch            reader.rs   patch -> records, every fault refused
//!   check.rs    a whole patch, before anything is written
//! ```
//! Knows devices, and nothing of peers, hashes of blocks or command lines.

mod check;
pub mod format;
mod reader;
mod writer;

pub use check::{Summary, check};
pub use format::{Checksum, Header};
pub use reader::{Batch, PatchReader, Record, RecordPlace, Trailer};
pub use writer::{PatchWriter, block_patch_bytes};

//! Patch files, `BDSYNC 0.3`: written, read, checked and applied.
//!
//! ```text
//!   format.rs   pure: headers, records, trailer <-> bytes
//!   writer.rs   blocks -> patch
//!   source.rs   a file or a stream --> reader.rs   records, every fault refused
//!   check.rs    the whole patch, before anything is written
//!   sizes.rs --> apply.rs --> checksum.rs   to a device: its size, its bytes, what they should be
//!   sweep.rs --> index.rs      a stored patch at random: which of its bytes are where
//! ```
//! Knows devices and digests, and nothing of peers or command lines.

mod apply;
mod check;
mod checksum;
pub mod format;
mod index;
mod reader;
mod sizes;
mod source;
mod sweep;
mod writer;

pub use apply::{Apply, Written};
pub use check::{Summary, check};
pub use checksum::{Agreement, checksum_algorithm, verify_checksum};
pub use format::{Checksum, Header};
pub use index::{ENTRY_BYTES, PatchIndex, Piece};
pub use reader::{Batch, PatchReader, Record, RecordPlace, Trailer};
pub use sizes::SizePlan;
pub use source::{PatchFile, PatchStream};
pub use writer::{PatchWriter, block_patch_bytes};

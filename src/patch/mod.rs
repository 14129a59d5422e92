//! Patch files, `BDSYNC 0.3`: written, read, checked, applied and taken back.
//!
//! ```text
//!   format.rs   pure: headers, records, trailer <-> bytes
//!   seal.rs     pure: what a patch says of the device that it is for; fingerprint.rs sums it up
//!   writer.rs   blocks -> patch
//!   source.rs   a file or a stream (spool.rs: a stream made a file)
//!       |
//!   reader.rs   records, every fault refused; batch.rs: those that are in memory
//!       |
//!   check.rs    the whole patch, before anything is written; parts.rs: from several places at once
//!   places.rs   whether a later reading finds the same records
//!   sweep.rs --> visible.rs    records that overlap: what is seen of them
//!   index.rs    a stored patch at random: which of its bytes are where
//!      \--> squash.rs       several stored patches made one
//!   digested.rs the patch itself, base.rs the state of the target: both against the seal
//!      \--> base_state.rs   which these are; tail.rs: the target's end
//!   undo.rs     what will be overwritten, to a patch of its own
//!   sizes.rs --> apply.rs (sparse.rs: zeros as holes) --> verify.rs, checksum.rs
//! ```
//! Knows devices and digests, and nothing of peers or command lines.

mod apply;
mod base;
mod base_state;
mod batch;
mod check;
mod checksum;
mod digested;
mod fingerprint;
pub mod format;
mod index;
mod parts;
mod places;
mod reader;
mod seal;
mod sizes;
mod source;
mod sparse;
mod spool;
mod squash;
mod sweep;
mod tail;
mod undo;
mod verify;
mod visible;
mod writer;

pub use apply::{Apply, Written, Zeros};
pub use base::{target_state, verify_seal};
pub use base_state::BaseState;
pub use batch::{Batch, Record, RecordPlace};
pub use check::{Summary, check};
pub use checksum::{Agreement, checksum_algorithm, verify_checksum};
pub use digested::Digested;
use fingerprint::Fingerprint;
pub use format::{Checksum, Header};
pub use index::{PatchIndex, Piece};
pub use parts::check_file;
pub use reader::{PatchReader, Trailer, read_error};
pub use seal::{Base, BaseMaker, FoundSeal, IDENTITY_BYTES_MAX, Seal};
pub use sizes::SizePlan;
pub use source::{PatchFile, PatchStream};
pub use spool::{spool, spool_file};
pub use squash::{Layer, Squash};
pub use undo::{refuse_existing, write_undo};
pub use verify::verify_records;
pub use visible::ENTRY_BYTES;
pub use writer::{PatchWriter, block_patch_bytes};

#[cfg(test)]
mod tests;

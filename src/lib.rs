//! Synchronises block devices by their differing blocks.
//!
//! ```text
//!   main -> cli            what the user asked for
//!        -> commands       one file a mode; the only place where parts are wired together
//!             |  \
//!             |   fuse -> view        the mount: an adapter, and what it shows
//!             |             |
//!             +-> serve     +-> diff  the answering side; the asking side's engine
//!             |     \________/ |
//!             |       |        wire -> transport   messages; the connection under them
//!             |       |        wire -> compress    a block that comes compressed
//!             |       digest -> device             hashes of blocks; bytes of one disk
//!             +-> patch -> digest                  BDSYNC 0.3 files, read, written, applied
//!             +-> inspect -> patch                 a patch in words, numbers and pictures
//!             +-> compress                         gzip and zstd, streams and blocks
//!   all -> background, buffer, error, mountinfo, naming, patient, units, progress, report, signals
//! ```
//! Each may use what its arrows lead to, as far as they lead. A test (`tests/suite/layout.rs`) has
//! the list, and holds `use crate::` to it.

pub mod background;
pub mod buffer;
pub mod cli;
pub mod commands;
pub mod compress;
pub mod device;
pub mod diff;
pub mod digest;
pub mod error;
pub mod fuse;
pub mod inspect;
pub mod mountinfo;
pub mod naming;
pub mod patch;
mod patient;
pub mod progress;
pub mod report;
pub mod serve;
pub mod signals;
pub mod transport;
pub mod units;
pub mod view;
pub mod wire;

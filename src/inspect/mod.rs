//! A patch in words, numbers and pictures, for people and for programs.
//!
//! ```text
//!   partitions.rs   tables of the target (GPT, MBR) --\
//!   summary.rs      a stream, read once -------------- Report --> text.rs   a terminal
//!     blockmap.rs   where its changes are --> grid.rs           > svg.rs    a picture
//!                                             rows and columns  > json.rs   a program
//! ```
//! Everything that a patch or a disk names is escaped by the renderers. Memory is bounded
//! whatever a patch says. Prints nothing; for `commands`.

mod blockmap;
mod grid;
mod json;
mod partitions;
mod summary;
mod svg;
mod text;
mod words;

pub use blockmap::BlockMap;
pub use json::json;
pub use partitions::{Partition, partitions};
pub use summary::{FAULTS_MAX, Fault, Report, inspect};
pub use svg::svg;
pub use text::{Style, text};

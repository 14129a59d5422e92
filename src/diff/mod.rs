//! The asking side's engine: where two devices differ, and the bytes of what differs.
//!
//! ```text
//!   plan.rs     sizes, direction, block size: what is compared          (pure)
//!   digests.rs  what the remote hashes with                             (pure)
//!   ladder.rs   coarse-to-fine steps; density.rs chooses among them     (pure)
//!   compare.rs  hash lists against each other                           (pure)
//!   descent.rs  one comparison from coarse to fine, a state machine     (pure)
//!   question.rs what a comparison asks for next, in as few requests as can be (pure)
//!   engine.rs   drives descents with the peer's answers and the pool
//!   content.rs  bytes of differing blocks, checked against their hashes
//!   gathering.rs bytes that arrive in parts, for one who waits for all
//!   left_out.rs bytes that a side cannot read, if they are to be left out
//!   map.rs      what is known of every block                            (pure)
//!   resolver.rs what is known and who waits for more, for readers in any order
//!   jobs.rs     its state: what is known, what is under way, who waits
//!   budget.rs   how many bytes may be held for what is on its way
//!   prints.rs   short prints of the hashes of what differs              (pure)
//!   remote.rs   blocks of the remote device: fetched once, checked, kept in cache.rs
//!   checksum.rs the digest of the whole source, on demand
//!   walk.rs     all of it from start to end, in order, for a sink
//!   window.rs   how much of it is looked at at once                    (pure)
//! ```
//! What is found never depends on the ladder, the number of threads or the peer's extensions:
//! a block is reported exactly when its own hash differs.
//! May be used by `commands` and `view`. Uses `wire`, `digest` and `device`.

pub mod budget;
mod cache;
mod checksum;
mod compare;
mod content;
mod density;
mod descent;
mod digests;
mod engine;
mod gathering;
mod jobs;
mod ladder;
mod left_out;
mod map;
mod plan;
mod prints;
mod question;
mod remote;
mod resolver;
#[cfg(test)]
pub mod testing;
mod walk;
mod window;

pub use cache::Side;
pub use checksum::SourceChecksum;
pub use compare::Announced;
pub use content::Changed;
pub use density::Density;
pub use digests::digests;
pub use engine::{Engine, Found, changed_under_mount};
pub use gathering::{Gathering, OnBytes};
pub use jobs::{Blocks, OnKnown};
pub use ladder::{Ladder, Probe, has_usual_leaves};
pub use left_out::LeftOut;
pub use map::{BLOCKS_MAX, Map, State};
pub use plan::Plan;
pub use prints::{PRINTS_MAX, Print, print_of};
pub use remote::{RemoteBlocks, changed_error};
pub use resolver::{COMPARING_BYTES_MAX, Resolver};
pub use walk::{Afterwards, Sink, walk};

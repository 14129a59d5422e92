//! The answering side: what `bdsync --server` does with a client's messages.
//!
//! Opens the one device that the client names, read-only, and answers requests about it.
//! Announces extensions only to clients that announced them, and is a classic
//! server, byte for byte, to all others. Everything that a client sends is hostile: numbers are
//! bounded before they are used, and what is held for one session stays under 64 MiB.
//!
//! ```text
//!   client -> reader thread --- plan.rs: bounds, units of work (pure)
//!                 |   \
//!                 |    task.rs on the hash pool: hashes and blocks, several at once
//!             backlog.rs         |
//!                 |              digest::LeafCache: hashes that a tree descent asks for again
//!   client <- answers.rs: picks the next that is finished (bell.rs), writes
//! ```
//! `early.rs` says what is answered before it is asked, `digests.rs` looks up the client's digests.
//! `checksum.rs` digests the whole device meanwhile, for a client that wants that.
//! `served.rs` is the device, until the session is over.
//! `allow.rs` says which devices a client may name; `confine.rs` gives up the rest of the
//! system once one is open.

mod allow;
mod answers;
mod backlog;
mod bell;
mod checksum;
mod confine;
mod digests;
mod early;
mod plan;
mod served;
mod session;
mod shared;
mod task;
#[cfg(test)]
mod tests;

pub use allow::Allowed;
pub use backlog::REQUESTS_MAX;
pub use confine::confine;
pub use plan::STEP_BYTES_MAX;
pub use session::session;

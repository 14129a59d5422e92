//! Digests: names, salted hashes of a device's blocks and of trees over them, whole-device
//! checksums.
//!
//! Reads devices; knows nothing of peers, messages or patches.
//!
//! ```text
//!   algorithm.rs   names <-> algorithms, lengths
//!   hasher.rs      one digest, streaming (checksums)
//!   feed.rs        devices and zeros, fed to one in pieces
//!   block.rs       salted hashes of blocks; the hash of a zero block, computed once a step
//!   nh.rs          the faster hash of a tree's leaves
//!   span.rs        which blocks: neighbours of one length (pure)
//!   range.rs       blocks of a device: holes skipped, large reads, padding
//!   tree.rs        hashes over the hashes of 16 children, level by level
//!   leaf_cache.rs  leaves that a descent in the tree asks for again
//!   checksum.rs    the digest of exactly a device's bytes
//!   pool.rs        threads that hash, interactive work first
//! ```

mod algorithm;
mod block;
mod checksum;
mod feed;
mod hasher;
mod leaf_cache;
mod nh;
mod pool;
mod range;
mod span;
#[cfg(test)]
mod testing;
mod tree;

pub use algorithm::{Algorithm, Digest, HASH_BYTES_MAX};
pub use block::{BlockHasher, SALT_BYTES, SALT_BYTES_MAX, draw_salt, is_zero};
pub use checksum::checksum;
pub use feed::{feed, feed_zeros, next_data};
pub use hasher::Hasher;
pub use leaf_cache::{Kept, LeafCache};
pub use pool::{HashPool, READ_BYTES, Scratch, Submitter};
pub use range::{hash_range, hash_range_with};
pub use span::BlockSpan;
pub use tree::{FAN, LEVEL_MAX, fold, hash_node, node_leaves, zero_nodes};

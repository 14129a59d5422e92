//! What the remote is to hash with.

use crate::digest::{Algorithm, BlockHasher};
use crate::wire::Digests;

/// As `hasher` does, which has this `salt`; and with `checksum`, where that of the remote's device
/// is wanted.
#[must_use]
pub fn digests(salt: &[u8], hasher: &BlockHasher, checksum: Option<Algorithm>) -> Digests {
    Digests {
        salt: salt.to_vec(),
        hash: hasher.algorithm().name().to_owned(),
        hash_bytes: hasher.hash_len(),
        tree_hash_bytes: hasher.tree_hash_len(),
        checksum: checksum.map_or("", Algorithm::name).to_owned(),
        checksum_bytes: checksum.map_or(0, Algorithm::len),
    }
}

//! What a client's `digests` name.

use crate::digest::{self, Algorithm, BlockHasher};
use crate::error::{Error, Kind, Result};
use crate::wire::{self, Extensions};

// What a message can carry is what can be computed.
const _: () = assert!(digest::SALT_BYTES_MAX == wire::SALT_BYTES_MAX);
const _: () = assert!(digest::LEVEL_MAX == wire::TREE_LEVEL_MAX);

/// What a `digests` message names.
pub(super) struct Digests {
    pub(super) hasher: BlockHasher,
    pub(super) checksum: Option<Algorithm>,
}

impl Digests {
    /// Looks the names up; an empty checksum means none.
    ///
    /// # Errors
    /// `Kind::Usage` and `Kind::Checksum` for unknown ones, `Kind::Protocol` for a salt that the
    /// hash cannot have.
    pub(super) fn find(
        salt: &[u8],
        hash: &str,
        checksum: &str,
        extensions: Extensions,
    ) -> Result<Self> {
        let known = |name: &str| {
            Algorithm::from_name(name).filter(|a| *a != Algorithm::Blake3 || extensions.blake3)
        };
        let hash =
            known(hash).ok_or_else(|| Error::new(Kind::Usage, format!("unknown hash {hash:?}")))?;
        let checksum =
            match checksum {
                "" => None,
                name => Some(known(name).ok_or_else(|| {
                    Error::new(Kind::Checksum, format!("unknown checksum {name:?}"))
                })?),
            };
        let hasher = BlockHasher::new(hash, salt)?.with_universal_leaves(extensions.nh);
        log::debug!("hash {hash:?}, checksum {checksum:?}");
        Ok(Self { hasher, checksum })
    }
}

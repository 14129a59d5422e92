//! What a session answers before it is asked (extension `early`): what our client's walk asks for
//! first. A test of the whole says whether it does.

use super::digests::Digests;
use crate::digest::{Algorithm, SALT_BYTES, draw_salt, node_leaves};
use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;
use crate::wire::{Extensions, FIRST_LEAF_BYTES, FIRST_LOOK_BYTES, HURRIED_SHARES, Look, Message};

/// How many looks are answered unasked: as many as a walk has under way where bytes are fetched
/// too. They are not more than the backlog holds, and cover 256 MiB at most: what is hashed in vain
/// for a client that goes away.
const LOOKS_MAX: usize = 64;

/// The level at which one node covers a look. In a hurry a walk begins one level below.
const LEVEL: u8 = 2;
const _: () = assert!(FIRST_LEAF_BYTES * node_leaves(LEVEL) == FIRST_LOOK_BYTES);

/// The salt and the looks.
pub(super) struct Early {
    salt: [u8; SALT_BYTES],
    looks: Vec<Look>,
}

impl Early {
    /// Those for a device of `device_bytes`, and the digests that they are answered with. Nobody
    /// could foresee the salt.
    ///
    /// # Errors
    /// `Kind::Random` when the system has no random bytes.
    pub(super) fn draw(device_bytes: u64, extensions: Extensions) -> Result<(Self, Digests)> {
        let salt = draw_salt()?;
        let digests = Digests::find(&salt, Algorithm::Blake3.name(), "", extensions)?;
        Ok((Self { salt, looks: first_looks(device_bytes) }, digests))
    }

    /// The message that says so.
    pub(super) fn message(&self) -> Message {
        Message::Early { salt: self.salt.to_vec(), looks: self.looks.clone() }
    }

    /// The requests that the client has not sent.
    pub(super) fn requests(&self) -> impl Iterator<Item = Message> + use<> {
        self.looks.clone().into_iter().map(Message::GetTree)
    }

    /// The checksum that the client's digests name; the rest of them must be as announced.
    ///
    /// # Errors
    /// `Kind::Protocol` when they are not; others as [`Digests::find`].
    pub(super) fn confirm(
        &self,
        salt: &[u8],
        hash: &str,
        checksum: &str,
        extensions: Extensions,
    ) -> Result<Option<Algorithm>> {
        let digests = Digests::find(salt, hash, checksum, extensions)?;
        if salt == self.salt && digests.hasher.algorithm() == Algorithm::Blake3 {
            return Ok(digests.checksum);
        }
        let what = format!(
            "the client's hashes are not those of the early answers: expected blake3 and the salt that \
             was sent, found {hash}{}",
            if salt == self.salt { "" } else { " and another salt" }
        );
        Err(Error::new(Kind::Protocol, what))
    }
}

/// The looks with which a walk over a device of `bytes` begins, at most [`LOOKS_MAX`].
fn first_looks(bytes: u64) -> Vec<Look> {
    let hurried: u64 = HURRIED_SHARES.map(|share| bytes / share / FIRST_LOOK_BYTES).iter().sum();
    let look = |(index, range): (u64, ByteRange)| {
        let level = if index < hurried { LEVEL - 1 } else { LEVEL };
        let n = range.len().div_ceil(FIRST_LEAF_BYTES * node_leaves(level));
        Look { start: range.start, step: FIRST_LEAF_BYTES, n, level }
    };
    (0..).zip(ByteRange::new(0, bytes).pieces(FIRST_LOOK_BYTES)).take(LOOKS_MAX).map(look).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{KIB, MIB};

    #[test]
    fn the_first_looks_follow_each_other_and_begin_in_a_hurry() {
        let look = |start, n, level| Look { start, step: 16 * KIB, n, level };
        // One look in a hurry for each 64 MiB and 128 MiB of the device.
        let looks = first_looks(128 * MIB + 5);
        let starts: Vec<_> = looks.iter().map(|look| look.start).collect();
        assert_eq!(starts, (0..33).map(|i| i * 4 * MIB).collect::<Vec<_>>());
        let (hurried, coarse) = looks.split_at(3);
        assert!(hurried.iter().all(|&each| each == look(each.start, 16, 1)), "{hurried:?}");
        assert!(coarse.iter().all(|&each| each == look(each.start, 1, 2)), "{coarse:?}");
        assert_eq!(first_looks(u64::MAX).len(), LOOKS_MAX);
        assert_eq!(first_looks(0), []);
        assert_eq!(first_looks(1), [look(0, 1, 2)]);
    }
}

//! The digests that a user or a peer can name.

use std::fmt;
use std::ops::Deref;

/// Length in bytes of the longest hash.
pub const HASH_BYTES_MAX: usize = 64;

/// A digest algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is named after its algorithm")]
pub enum Algorithm {
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Sha512_224,
    Sha512_256,
    Sha3_224,
    Sha3_256,
    Sha3_384,
    Sha3_512,
    Blake2b512,
    Blake2s256,
    Ripemd160,
    Sm3,
    Blake3,
}

/// Algorithm, its name as OpenSSL spells it, hash length in bytes, other names that OpenSSL or
/// people use.
type Row = (Algorithm, &'static str, usize, &'static [&'static str]);

/// One row an algorithm, in the order of the enum.
const TABLE: [Row; 17] = [
    (Algorithm::Md5, "md5", 16, &["ssl3-md5", "rsa-md5"]),
    (Algorithm::Sha1, "sha1", 20, &["sha-1", "ssl3-sha1", "rsa-sha1"]),
    (Algorithm::Sha224, "sha224", 28, &["sha-224", "sha2-224", "rsa-sha224"]),
    (Algorithm::Sha256, "sha256", 32, &["sha-256", "sha2-256", "rsa-sha256"]),
    (Algorithm::Sha384, "sha384", 48, &["sha-384", "sha2-384", "rsa-sha384"]),
    (Algorithm::Sha512, "sha512", 64, &["sha-512", "sha2-512", "rsa-sha512"]),
    (Algorithm::Sha512_224, "sha512-224", 28, &["sha-512/224", "sha512/224", "sha2-512/224"]),
    (Algorithm::Sha512_256, "sha512-256", 32, &["sha-512/256", "sha512/256", "sha2-512/256"]),
    (Algorithm::Sha3_224, "sha3-224", 28, &[]),
    (Algorithm::Sha3_256, "sha3-256", 32, &[]),
    (Algorithm::Sha3_384, "sha3-384", 48, &[]),
    (Algorithm::Sha3_512, "sha3-512", 64, &[]),
    (Algorithm::Blake2b512, "blake2b512", 64, &["blake2b-512"]),
    (Algorithm::Blake2s256, "blake2s256", 32, &["blake2s-256"]),
    (Algorithm::Ripemd160, "ripemd160", 20, &["ripemd-160", "ripemd", "rmd160"]),
    (Algorithm::Sm3, "sm3", 32, &[]),
    (Algorithm::Blake3, "blake3", 32, &[]),
];

impl Algorithm {
    /// All algorithms, in the order in which help texts list them.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }

    /// The algorithm of that name, in OpenSSL's spelling or a usual other one; case does not
    /// matter.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let is = |known: &str| known.eq_ignore_ascii_case(name);
        TABLE.iter().find(|row| is(row.1) || row.3.iter().any(|alias| is(alias))).map(|row| row.0)
    }

    /// The name as OpenSSL spells it, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        TABLE[self as usize].1
    }

    /// Length of a hash in bytes, at most [`HASH_BYTES_MAX`].
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no hash is empty")]
    pub const fn len(self) -> usize {
        TABLE[self as usize].2
    }
}

/// One hash of any algorithm.
#[derive(Clone, Copy)]
pub struct Digest {
    bytes: [u8; HASH_BYTES_MAX],
    len: usize,
}

impl Digest {
    /// A digest of `len` bytes that `fill` writes.
    pub(super) fn filled(len: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        let mut bytes = [0; HASH_BYTES_MAX];
        fill(&mut bytes[..len]);
        Self { bytes, len }
    }
}

impl Deref for Digest {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Digest {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_the_order_of_the_enum() {
        for (i, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, i, "{}", row.1);
            assert!(row.2 <= HASH_BYTES_MAX);
        }
    }

    #[test]
    fn names_are_found_in_any_case_and_by_alias() {
        for algorithm in Algorithm::all() {
            assert_eq!(Algorithm::from_name(algorithm.name()), Some(algorithm));
            assert_eq!(Algorithm::from_name(&algorithm.name().to_uppercase()), Some(algorithm));
        }
        assert_eq!(Algorithm::from_name("RMD160"), Some(Algorithm::Ripemd160));
        assert_eq!(Algorithm::from_name("SHA2-256"), Some(Algorithm::Sha256));
        assert_eq!(Algorithm::from_name("nosuchhash"), None);
        assert_eq!(Algorithm::from_name(""), None);
    }

    #[test]
    fn no_name_means_two_algorithms() {
        let mut names: Vec<_> =
            TABLE.iter().flat_map(|row| row.3.iter().copied().chain([row.1])).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}

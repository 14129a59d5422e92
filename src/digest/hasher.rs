//! One digest, fed piece by piece.

use ::digest::Digest as _;

use super::algorithm::{Algorithm, Digest};
use super::nh::{HASH_BYTES, NhStream};
use crate::buffer::ZEROS;

/// One variant an algorithm: each loop over blocks is compiled for its digest, and
/// nothing is looked up or allocated for a block.
macro_rules! states {
    ($($name:ident($digest:ty)),+ $(,)?) => {
        #[derive(Clone)]
        pub(super) enum State {
            $($name($digest),)+
            /// The key is kept for hashing whole blocks at once, which is where BLAKE3 is fast.
            Blake3(Box<blake3::Hasher>),
            /// Leaves of trees only.
            Nh(Box<NhStream>),
        }

        impl State {
            fn new(algorithm: Algorithm) -> Self {
                match algorithm {
                    $(Algorithm::$name => Self::$name(<$digest>::new()),)+
                    Algorithm::Blake3 => Self::Blake3(Box::new(blake3::Hasher::new())),
                }
            }

            fn update(&mut self, data: &[u8]) {
                match self {
                    $(Self::$name(state) => state.update(data),)+
                    Self::Blake3(state) => { state.update(data); }
                    Self::Nh(state) => state.update(data),
                }
            }

            fn finish_into(self, out: &mut [u8]) {
                match self {
                    $(Self::$name(state) => out.copy_from_slice(&state.finalize()),)+
                    Self::Blake3(state) => out.copy_from_slice(state.finalize().as_bytes()),
                    Self::Nh(state) => state.finish_into(out),
                }
            }

            /// Hands `each` a function that digests one whole block behind what this state has
            /// seen; BLAKE3 uses `key` instead.
            pub(super) fn for_blocks(&self, key: &[u8; 32], each: impl BlockLoop) {
                match self {
                    $(Self::$name(prefix) => each.run(|block, out| {
                        let mut state = prefix.clone();
                        state.update(block);
                        out.copy_from_slice(&state.finalize());
                    }),)+
                    Self::Blake3(_) => each.run(|block, out| {
                        out.copy_from_slice(blake3::keyed_hash(key, block).as_bytes());
                    }),
                    Self::Nh(state) => each.run(|block, out| state.nh().hash(block, out)),
                }
            }
        }
    };
}

states!(
    Md5(md5::Md5),
    Sha1(sha1::Sha1),
    Sha224(sha2::Sha224),
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
    Sha512_224(sha2::Sha512_224),
    Sha512_256(sha2::Sha512_256),
    Sha3_224(sha3::Sha3_224),
    Sha3_256(sha3::Sha3_256),
    Sha3_384(sha3::Sha3_384),
    Sha3_512(sha3::Sha3_512),
    Blake2b512(blake2::Blake2b512),
    Blake2s256(blake2::Blake2s256),
    Ripemd160(ripemd::Ripemd160),
    Sm3(sm3::Sm3),
);

/// A loop over blocks, compiled once for each digest.
pub(super) trait BlockLoop {
    /// Runs it; `digest` writes the hash of a whole block to its second argument.
    fn run(self, digest: impl Fn(&[u8], &mut [u8]));
}

/// A digest that is fed piece by piece.
#[derive(Clone)]
pub struct Hasher {
    pub(super) algorithm: Algorithm,
    pub(super) state: State,
}

impl Hasher {
    /// A digest of nothing yet. BLAKE3 is unkeyed here.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self { algorithm, state: State::new(algorithm) }
    }

    /// A digest behind `salt`; for BLAKE3 with the salt as its key.
    pub(super) fn salted(algorithm: Algorithm, salt: &[u8], key: &[u8; 32]) -> Self {
        if algorithm == Algorithm::Blake3 {
            let state = State::Blake3(Box::new(blake3::Hasher::new_keyed(key)));
            return Self { algorithm, state };
        }
        let mut hasher = Self::new(algorithm);
        hasher.update(salt);
        hasher
    }

    /// A tree's leaf by NH, of which nothing was fed yet.
    pub(super) fn universal(stream: NhStream) -> Self {
        Self { algorithm: Algorithm::Blake3, state: State::Nh(Box::new(stream)) }
    }

    /// Length of what it ends in, in bytes.
    pub(super) fn hash_len(&self) -> usize {
        match self.state {
            State::Nh(_) => HASH_BYTES,
            _ => self.algorithm.len(),
        }
    }

    /// Feeds `data`.
    pub fn update(&mut self, data: &[u8]) {
        self.state.update(data);
    }

    /// Feeds `count` zero bytes.
    pub fn update_zeros(&mut self, mut count: u64) {
        while count > 0 {
            let piece = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
            self.update(&ZEROS[..piece]);
            count -= piece as u64;
        }
    }

    /// The digest of all that was fed.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest::filled(self.hash_len(), |out| self.state.finish_into(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Digests of "abc", from the standards and test vectors of the algorithms.
    const ABC: [(&str, &str); 17] = [
        ("md5", "900150983cd24fb0d6963f7d28e17f72"),
        ("sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
        ("sha224", "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
        ("sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            "sha384",
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
        ),
        (
            "sha512",
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        ),
        ("sha512-224", "4634270f707b6a54daae7530460842e20e37ed265ceee9a43e8924aa"),
        ("sha512-256", "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23"),
        ("sha3-224", "e642824c3f8cf24ad09234ee7d3c766fc9a3a5168d0c94ad73b46fdf"),
        ("sha3-256", "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
        (
            "sha3-384",
            "ec01498288516fc926459f58e2c6ad8df9b473cb0fc08c2596da7cf0e49be4b298d88cea927ac7f539f1edf228376d25",
        ),
        (
            "sha3-512",
            "b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e10e116e9192af3c91a7ec57647e3934057340b4cf408d5a56592f8274eec53f0",
        ),
        (
            "blake2b512",
            "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d17d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923",
        ),
        ("blake2s256", "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"),
        ("ripemd160", "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc"),
        ("sm3", "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"),
        ("blake3", "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"),
    ];

    #[test]
    fn every_digest_gives_the_known_answer_in_pieces_too() {
        assert_eq!(ABC.len(), Algorithm::all().count());
        for (name, expected) in ABC {
            let algorithm = Algorithm::from_name(name).expect("a known name");
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"a");
            hasher.update(b"");
            hasher.update(b"bc");
            assert_eq!(format!("{:?}", hasher.finish()), expected, "{name}");
        }
    }

    #[test]
    fn zeros_count_as_zero_bytes() {
        for count in [0, 1, 65535, 65536, 65537, 200_000] {
            let mut fed = Hasher::new(Algorithm::Sha1);
            fed.update_zeros(count as u64);
            let mut plain = Hasher::new(Algorithm::Sha1);
            plain.update(&vec![0; count]);
            assert_eq!(fed.finish(), plain.finish());
        }
    }
}

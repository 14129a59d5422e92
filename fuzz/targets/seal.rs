//! The bytes behind a patch's checksum field, as a seal.
#![no_main]

use bdsync::patch::Seal;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(Some(found)) = Seal::decode(input) {
        assert!(input.len() < 4096);
        assert!(found.seal.source.len() + found.seal.target.len() < input.len());
        if let Some(base) = found.seal.base {
            assert!(base.fingerprint.parts.len() <= 129 && base.block_bytes > 0);
        }
    }
});

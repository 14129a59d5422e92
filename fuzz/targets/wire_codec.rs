//! Whatever arrives is refused or understood, and what is understood encodes to what arrived.
#![no_main]

use bdsync::wire::{FrameReader, MESSAGE_BYTES_MAX};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut reader = FrameReader::new(input);
    let mut again = vec![];
    while let Ok(Some(message)) = reader.read_message() {
        let from = again.len();
        message.encode(&mut again).expect("a message that was decoded can be encoded");
        assert_eq!(again.len() - from, message.wire_bytes());
        assert!(message.wire_bytes() <= MESSAGE_BYTES_MAX + 4);
        assert_eq!(again[from..], input[from..again.len()]);
    }
});

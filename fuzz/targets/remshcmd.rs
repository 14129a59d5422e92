//! REMSHCMD into words: refused, or words whose quoted form splits to the same.
#![no_main]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use bdsync::transport::split_command;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(words) = split_command(OsStr::from_bytes(input)) else { return };
    assert!(!words[0].is_empty());
    let mut quoted = vec![];
    for word in &words {
        quoted.push(b'\'');
        for &byte in word.as_bytes() {
            quoted.push(byte);
            if byte == b'\'' {
                quoted.push(byte);
            }
        }
        quoted.extend(b"' ");
    }
    assert_eq!(split_command(&OsString::from_vec(quoted)).expect("quoted words"), words);
});

//! Any bytes as a patch: read record by record, and checked as a whole; both agree.
#![no_main]

use std::io::Cursor;

use bdsync::patch::{PatchReader, check};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(mut reader) = PatchReader::new(input, "input") else {
        assert!(PatchReader::new(Cursor::new(input), "input").is_err());
        return;
    };
    let mut bytes = 0;
    let outcome = loop {
        match reader.next_batch() {
            Ok(Some(batch)) => bytes += batch.records().map(|record| record.data.len()).sum::<usize>(),
            Ok(None) => break Ok(()),
            Err(err) => break Err(err),
        }
    };
    assert!(bytes <= input.len());
    assert!(reader.position() <= input.len() as u64);
    let reader = PatchReader::new(Cursor::new(input), "input");
    let checked = reader.and_then(|reader| check(reader, &|| Ok(())));
    assert_eq!(checked.is_ok(), outcome.is_ok(), "{checked:?} {outcome:?}");
});

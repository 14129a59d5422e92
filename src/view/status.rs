//! `status.json`: what is known so far, for people and scripts.
//!
//! One struct for live and stored changes. The fields are a promise: new ones may come with
//! the same [`FORMAT`], none is renamed or removed without raising it. Every field is always
//! there; what is unknown or does not apply is `null`. All sizes are in bytes. The text is padded
//! to [`TEXT_BYTES`], so that the file has a size before it is made.

use serde::Serialize;

use crate::units::Direction;

/// Value of [`Status::format`].
pub const FORMAT: u32 = 1;
/// Longest text in [`Status::last_error`], in bytes of JSON; longer ones are cut.
pub const ERROR_BYTES_MAX: usize = 1024;
/// Length of the file in bytes: the longest object has room, and so have fields to come.
pub const TEXT_BYTES: usize = 2048;

/// Where the change comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// A session with a remote side.
    Live,
    /// A patch file.
    Stored,
}

/// How far the comparison of the whole device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ScanState {
    /// Nobody needs it: only what is read is compared.
    Idle,
    /// It is going on.
    Running,
    /// Every difference is known.
    Done,
    /// It was ended by an error; `last_error` says which.
    Failed,
}

/// The connection to the remote side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// There is none: the change is a stored one.
    None,
    /// It works.
    Up,
    /// It is gone; what is known locally can still be read.
    Down,
}

/// The content of `status.json`; the names of the fields are those of the JSON object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// [`FORMAT`].
    pub format: u32,
    /// `"live"` or `"stored"`.
    pub form: Form,
    /// `"push"` or `"pull"`; `null` for a stored patch.
    pub direction: Option<Direction>,
    /// Size of `merged`.
    pub merged_bytes: u64,
    /// Size of `original`.
    pub original_bytes: u64,
    /// Size of `patch`; `null` while it is unknown.
    pub patch_bytes: Option<u64>,
    /// Size of a compared block; `null` for a stored patch.
    pub block_bytes: Option<u64>,
    /// Bytes that have to be compared to know every difference.
    pub total_bytes: u64,
    /// Bytes that have been compared so far.
    pub compared_bytes: u64,
    /// Bytes of `merged` known to differ, in whole blocks or records.
    pub differing_bytes: u64,
    /// Bytes sent to the remote side.
    pub sent_bytes: u64,
    /// Bytes received from the remote side.
    pub received_bytes: u64,
    /// Requests sent to the remote side.
    pub requests: u64,
    /// `"idle"`, `"running"`, `"done"` or `"failed"`.
    pub scan: ScanState,
    /// `"none"`, `"up"` or `"down"`.
    pub link: Link,
    /// Whether one of the inputs was seen to change under the mount, so that some reads fail.
    pub source_changed: bool,
    /// How many reads have failed.
    pub failed_reads: u64,
    /// What failed last, in words, or that the base is in another state than the patch is sealed
    /// for; `null`: there is nothing to tell.
    pub last_error: Option<String>,
}

impl Status {
    /// The object on one line, without a line break at its end.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut status = self.clone();
        if let Some(error) = &mut status.last_error {
            cut(error, ERROR_BYTES_MAX);
        }
        // A struct of numbers, words and strings always has a JSON form.
        serde_json::to_string(&status).unwrap_or_else(|_| "{}".into())
    }

    /// The content of the file: the object, blanks and a line break.
    #[must_use]
    pub fn to_text(&self) -> Vec<u8> {
        let mut text = self.to_json().into_bytes();
        text.resize(text.len().max(TEXT_BYTES - 1), b' ');
        text.push(b'\n');
        text
    }

    /// One for tests.
    #[cfg(test)]
    #[must_use]
    pub fn example() -> Self {
        Self {
            format: FORMAT,
            form: Form::Live,
            direction: Some(Direction::Pull),
            merged_bytes: u64::MAX,
            original_bytes: 2,
            patch_bytes: None,
            block_bytes: Some(4096),
            total_bytes: 5,
            compared_bytes: 6,
            differing_bytes: 7,
            sent_bytes: 8,
            received_bytes: 9,
            requests: 10,
            scan: ScanState::Running,
            link: Link::Up,
            source_changed: false,
            failed_reads: 11,
            last_error: None,
        }
    }
}

/// Cuts `text` at a character's end, so that it takes at most `limit_bytes` in JSON.
fn cut(text: &mut String, limit_bytes: usize) {
    let mut bytes = 0;
    let beyond = text.char_indices().find(|(_, c)| {
        bytes += json_bytes(*c);
        bytes > limit_bytes
    });
    if let Some((at, _)) = beyond {
        text.truncate(at);
    }
}

/// Bytes that a character takes in a string of JSON.
fn json_bytes(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        _ => c.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn status(last_error: Option<String>) -> Status {
        Status { last_error, ..Status::example() }
    }

    #[test]
    fn fields_keep_their_names_and_order() {
        assert_eq!(
            status(None).to_json(),
            r#"{"format":1,"form":"live","direction":"pull","merged_bytes":18446744073709551615,"original_bytes":2,"patch_bytes":null,"block_bytes":4096,"total_bytes":5,"compared_bytes":6,"differing_bytes":7,"sent_bytes":8,"received_bytes":9,"requests":10,"scan":"running","link":"up","source_changed":false,"failed_reads":11,"last_error":null}"#
        );
    }

    #[test]
    fn the_longest_object_has_room_in_the_file() {
        let most = u64::MAX;
        let longest = Status {
            format: u32::MAX,
            original_bytes: most,
            patch_bytes: Some(most),
            block_bytes: Some(most),
            total_bytes: most,
            compared_bytes: most,
            differing_bytes: most,
            sent_bytes: most,
            received_bytes: most,
            requests: most,
            failed_reads: most,
            ..status(Some("\u{1}".repeat(ERROR_BYTES_MAX)))
        };
        let text = longest.to_text();
        assert_eq!((text.len(), text.last()), (TEXT_BYTES, Some(&b'\n')));
        assert!(serde_json::from_slice::<serde_json::Value>(&text).unwrap().is_object());
    }

    proptest! {
        #[test]
        fn any_error_text_is_valid_json_on_one_line(text in "\\PC*|[\\x00-\\x7f]*|[é\u{1F600}]{500,900}") {
            let status = status(Some(text.clone()));
            let json = status.to_json();
            prop_assert!(!json.contains('\n'));
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            let read = value["last_error"].as_str().unwrap();
            let bytes = serde_json::to_string(read).unwrap().len() - 2;
            prop_assert!(text.starts_with(read) && bytes <= ERROR_BYTES_MAX);
            prop_assert!(read.len() == text.len() || bytes > ERROR_BYTES_MAX - 6);
            prop_assert_eq!(status.to_text().len(), TEXT_BYTES);
        }
    }
}

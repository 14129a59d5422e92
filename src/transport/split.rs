//! REMSHCMD into words, as the classic does it: no shell, no backslashes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::error::{Error, Kind, Result};

/// The program and arguments of `command`.
///
/// Spaces separate words. `'` and `"` group, also in the middle of a word; inside a quoted part
/// the same quote doubled stands for itself. So `''` is an empty word and `''''` a quote.
///
/// # Errors
/// `Kind::Usage` when a quote is not closed or there is no word.
pub fn split_command(command: &OsStr) -> Result<Vec<OsString>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = command.as_bytes().iter().copied().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b' ' => words.extend(word.take()),
            b'\'' | b'"' => {
                let word = word.get_or_insert_default();
                loop {
                    match bytes.next() {
                        None => return Err(unclosed(byte, at)),
                        Some((_, b)) if b != byte => word.push(b),
                        Some(_) if bytes.next_if(|&(_, b)| b == byte).is_some() => word.push(byte),
                        Some(_) => break,
                    }
                }
            }
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    match words.first() {
        None => Err(Error::new(Kind::Usage, "the remote command (REMSHCMD) is empty")),
        Some(program) if program.is_empty() => {
            Err(Error::new(Kind::Usage, "the remote command (REMSHCMD) names no program"))
        }
        Some(_) => Ok(words.into_iter().map(OsString::from_vec).collect()),
    }
}

fn unclosed(quote: u8, at: usize) -> Error {
    let what = format!(
        "the quote {} at position {} of the remote command (REMSHCMD) is not closed",
        char::from(quote),
        at + 1
    );
    Error::new(Kind::Usage, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn split(command: &str) -> Result<Vec<String>> {
        let words = split_command(OsStr::new(command))?;
        Ok(words.into_iter().map(|word| word.into_string().unwrap()).collect())
    }

    #[test]
    fn splits_as_the_classic_does() {
        for (command, words) in [
            ("bdsync --server", &["bdsync", "--server"][..]),
            ("  a   b  ", &["a", "b"]),
            ("ssh -o 'A B' host", &["ssh", "-o", "A B", "host"]),
            (r#"sh -c "a 'b' | c""#, &["sh", "-c", "a 'b' | c"]),
            ("a 'it''s' b", &["a", "it's", "b"]),
            (r#"a "say ""hi""" b"#, &["a", r#"say "hi""#, "b"]),
            ("a pre'x y'post", &["a", "prex ypost"]),
            ("a 'b'\"c\"", &["a", "bc"]),
            ("a ''", &["a", ""]),
            ("a '' b", &["a", "", "b"]),
            ("a ''''", &["a", "'"]),
            (r"a b\ c", &["a", r"b\", "c"]),
            (r"a '\'", &["a", r"\"]),
            ("a\tb $HOME * ~", &["a\tb", "$HOME", "*", "~"]),
            ("a 'x\ny'", &["a", "x\ny"]),
        ] {
            assert_eq!(split(command).unwrap(), words, "{command}");
        }
    }

    #[test]
    fn refuses_unclosed_quotes_and_empty_commands() {
        for command in ["'", "a 'b", "a \"b'", "a '''", "a 'b''", "", "   ", "''", "\"\" x"] {
            assert_eq!(split(command).unwrap_err().kind(), Kind::Usage, "{command:?}");
        }
        assert_eq!(
            split("ssh 'x").unwrap_err().to_string(),
            "the quote ' at position 5 of the remote command (REMSHCMD) is not closed"
        );
    }

    proptest! {
        #[test]
        fn quoted_words_come_back(words in vec(vec(any::<u8>(), 1..20), 1..6), double: bool) {
            let quote = if double { b'"' } else { b'\'' };
            let mut command = vec![];
            for word in &words {
                command.push(quote);
                for &byte in word {
                    command.push(byte);
                    if byte == quote {
                        command.push(quote);
                    }
                }
                command.extend_from_slice(&[quote, b' ']);
            }
            let got = split_command(OsStr::from_bytes(&command)).unwrap();
            let got: Vec<_> = got.into_iter().map(OsString::into_vec).collect();
            prop_assert_eq!(got, words);
        }

        #[test]
        fn arbitrary_commands_never_panic(bytes in vec(any::<u8>(), 0..60)) {
            let _ = split_command(OsStr::from_bytes(&bytes));
        }
    }
}

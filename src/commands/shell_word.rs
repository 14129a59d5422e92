//! Words for a shell. Pure.

/// `word` as a shell reads it as one word: as it is if nothing in it means anything to a shell,
/// else in single quotes.
#[must_use]
pub fn quoted(word: &[u8]) -> Vec<u8> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./=,:@%+".contains(byte);
    if !word.is_empty() && word.iter().all(plain) {
        return word.to_vec();
    }
    let mut text = vec![b'\''];
    for &byte in word {
        match byte {
            b'\'' => text.extend_from_slice(b"'\\''"),
            _ => text.push(byte),
        }
    }
    text.push(b'\'');
    text
}

/// `word` for somebody to type: as [`quoted`], or, where a terminal would not show it, as `$'...'`
/// with escapes, which newer shells understand.
#[must_use]
pub fn printable(word: &[u8]) -> String {
    match str::from_utf8(word) {
        Ok(text) if !text.contains(char::is_control) => {
            String::from_utf8_lossy(&quoted(word)).into_owned()
        }
        _ => {
            let escape = |byte: &u8| match byte {
                b'\'' | b'\\' => format!("\\{}", char::from(*byte)),
                b' '..=b'~' => char::from(*byte).to_string(),
                _ => format!("\\{byte:03o}"),
            };
            format!("$'{}'", word.iter().map(escape).collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn any_word_comes_through_a_real_shell() {
        for word in
            ["", " ", "-n", "~/x", "a b", "it's", "\"$HOME\"", "`id`;&|", "a\nb\\", "*", "\u{e9}"]
        {
            let script = [b"printf %s ", &quoted(word.as_bytes())[..]].concat();
            // `printf -n` would be an option.
            let script = String::from_utf8(script).unwrap().replace("%s ", "%s -- ");
            let out = Command::new("sh").arg("-c").arg(&script).output().unwrap();
            let expected = format!("--{word}");
            assert_eq!(String::from_utf8(out.stdout).unwrap(), expected, "{script}");
        }
    }

    #[test]
    fn what_a_terminal_would_not_show_is_printed_as_bash_reads_it() {
        for word in [&b"a b"[..], b"t\xff", b"a\nb\\'c", b"\x1b[2J7", "\u{e9}".as_bytes()] {
            let printed = printable(word);
            assert!(!printed.contains(char::is_control), "{printed}");
            let script = format!("printf %s {printed}");
            let out = Command::new("bash").arg("-c").arg(&script).output().unwrap();
            assert_eq!(out.stdout, word, "{script}");
        }
    }
}

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
}

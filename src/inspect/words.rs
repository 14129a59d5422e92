//! Numbers as people like to read them.

use crate::units::{KIB, human_bytes};

/// `1.5 GiB (1610612736 bytes)`; below a kibibyte the bytes only.
pub(super) fn exact_bytes(bytes: u64) -> String {
    let shown = human_bytes(bytes);
    if bytes < KIB { shown } else { format!("{shown} ({bytes} bytes)") }
}

/// `12.5 %`. Never 0 for something, and never 100 for less than all.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return "0 %".to_owned();
    }
    if part >= whole {
        return "100 %".to_owned();
    }
    let value = part as f64 * 100.0 / whole as f64;
    match value {
        ..0.001 => "under 0.001 %".to_owned(),
        ..0.1 => format!("{value:.3} %"),
        99.95.. => "over 99.9 %".to_owned(),
        _ => format!("{value:.1} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_said_twice_where_the_unit_hides_something() {
        assert_eq!(exact_bytes(5), "5 bytes");
        assert_eq!(exact_bytes(1023), "1023 bytes");
        assert_eq!(exact_bytes(1024), "1.0 KiB (1024 bytes)");
        assert_eq!(exact_bytes(2048), "2.0 KiB (2048 bytes)");
    }

    #[test]
    fn shares_are_nothing_or_all_only_when_they_are() {
        for (part, whole, text) in [
            (0, 0, "0 %"),
            (9, 0, "0 %"),
            (0, 9, "0 %"),
            (9, 9, "100 %"),
            (1, 2, "50.0 %"),
            (1, 1 << 40, "under 0.001 %"),
            ((1 << 40) - 1, 1 << 40, "over 99.9 %"),
            (1, 8, "12.5 %"),
            (1, 2000, "0.050 %"),
        ] {
            assert_eq!(percent(part, whole), text);
        }
    }
}

//! Numbers as people like to read them.

/// `1.5 GiB`; whole bytes below a kibibyte.
pub(super) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be rounded to 1024.0 is one of the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1.5 GiB (1610612736 bytes)`; below a kibibyte the bytes only.
pub(super) fn exact_bytes(bytes: u64) -> String {
    if bytes < 1024 {
        format!("{bytes} bytes")
    } else {
        format!("{} ({bytes} bytes)", human_bytes(bytes))
    }
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

/// `s` unless there is one.
pub(super) fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Bytes in lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (1 << 40, "1.0 TiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
        assert_eq!(exact_bytes(5), "5 bytes");
        assert_eq!(exact_bytes(2048), "2.0 KiB (2048 bytes)");
    }

    #[test]
    fn shares_are_nothing_or_all_only_when_they_are() {
        for (part, whole, text) in [
            (0, 0, "0 %"),
            (0, 9, "0 %"),
            (9, 9, "100 %"),
            (1, 1 << 40, "under 0.001 %"),
            ((1 << 40) - 1, 1 << 40, "over 99.9 %"),
            (1, 8, "12.5 %"),
            (1, 2000, "0.050 %"),
        ] {
            assert_eq!(percent(part, whole), text);
        }
    }
}

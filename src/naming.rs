//! Names of files, and of those in the making.

use std::path::Path;
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

/// What tells a file in the making from all others of the same name: what a killed run left behind
/// must not be in the way of one that has the same number, as each has in a container.
#[must_use]
pub fn suffix_of_a_run() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{:x}", process::id(), now.as_nanos())
}

/// The folder that a file is in, by its name alone.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_has_another_suffix_each_time() {
        let first = suffix_of_a_run();
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert_ne!(first, suffix_of_a_run());
        assert!(suffix_of_a_run().starts_with(&format!("{}-", process::id())));
    }
}

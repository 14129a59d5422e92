//! Names of files in the making.

use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

/// What tells a file in the making from all others of the same name: what a killed run left behind
/// must not be in the way of one that has the same number, as each has in a container.
#[must_use]
pub fn suffix_of_a_run() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{:x}", process::id(), now.as_nanos())
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

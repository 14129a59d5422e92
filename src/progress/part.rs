//! What a part of a run does.

use serde::Serialize;

use crate::units::human_bytes;

/// A part of a run, each of which counts from its own beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The devices are compared.
    Comparing,
    /// Patches are read, to be told of or to be put together.
    Reading,
    /// A patch that can be read once is copied.
    Keeping,
    /// A patch, or the target that it is for, is looked at before anything is written.
    Checking,
    /// What a patch will overwrite is saved.
    Saving,
    /// A patch is written to its target, or to a new patch.
    Writing,
    /// What was written is compared.
    Verifying,
    /// The checksum of a whole device is made.
    Digesting,
}

impl Part {
    /// Whether it is what the run is for: the others come before or behind such a one.
    #[must_use]
    pub fn is_main(self) -> bool {
        matches!(self, Self::Comparing | Self::Reading | Self::Writing)
    }

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Comparing => "comparing",
            Self::Reading => "reading",
            Self::Keeping => "keeping",
            Self::Checking => "checking",
            Self::Saving => "saving",
            Self::Writing => "writing",
            Self::Verifying => "verifying",
            Self::Digesting => "digesting",
        }
    }

    /// How large the patch is so far, to follow other words; empty where there is none.
    pub(super) fn amount(self, diff_bytes: u64) -> String {
        match self {
            Self::Comparing if diff_bytes == 0 => ", no differences yet".to_owned(),
            Self::Comparing => format!(", {} differ", human_bytes(diff_bytes)),
            Self::Writing if diff_bytes > 0 => format!(", {} written", human_bytes(diff_bytes)),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_people_read_the_same_word() {
        use Part::*;
        for part in [Comparing, Reading, Keeping, Checking, Saving, Writing, Verifying, Digesting] {
            assert_eq!(serde_json::to_value(part).unwrap(), part.word());
        }
    }
}

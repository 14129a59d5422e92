//! How far a sync that failed may have got with the target.

use std::fs;

use super::words::Heard;
use crate::cli::{Place, SyncOptions};
use crate::diff::Plan;
use crate::error::Kind;
use crate::units::SizeRule;

/// What is true of the target after a run that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetState {
    /// It is as it was.
    Untouched,
    /// Some of it may be changed.
    PartlyChanged,
    /// All of it is written, and whether it is equal was not shown.
    NotVerified,
    /// It was written to, and is not equal.
    Unequal,
    /// As `PartlyChanged` if the undo patch was made on the other host, else as `Untouched`.
    ChangedIfUndoIsThere,
    /// The process that writes to it cannot be heard any more, and may go on.
    OutOfSight,
    /// Another one has taken its name; that one is as it was.
    Renamed,
}

impl TargetState {
    /// Its word in a report.
    pub fn word(self) -> &'static str {
        match self {
            Self::Untouched => "untouched",
            Self::PartlyChanged => "partly_changed",
            Self::NotVerified => "not_verified",
            Self::Unequal => "unequal",
            Self::ChangedIfUndoIsThere | Self::OutOfSight => "unknown",
            Self::Renamed => "renamed",
        }
    }
}

/// What is known of a run that could not write all of the target.
pub struct FailedWrite<'a> {
    pub options: &'a SyncOptions,
    pub plan: &'a Plan,
    /// What differing sizes meant in it.
    pub rule: SizeRule,
    /// The error that the process ended with which writes to the target, if it was that.
    pub ended_with: Option<Kind>,
    /// Whether that process was given all of the patch, with its end.
    pub complete: bool,
    /// Whether the patch had a record by then.
    pub has_records: bool,
    /// What that process has said of it.
    pub heard: Heard,
}

impl FailedWrite<'_> {
    /// How far it may have got.
    pub fn target_state(&self) -> TargetState {
        // The status alone may be another program's, which leads there.
        let is_heard = self.heard.error || matches!(self.options.target, Place::Local(_));
        let is_refused = is_heard && self.ended_with.is_some_and(|kind| self.is_refusal(kind));
        let changes = self.has_records || self.may_be_resized();
        if is_refused || !changes || self.is_ungrown() {
            return TargetState::Untouched;
        }
        match self.ended_with {
            Some(Kind::Connection) if self.complete => return TargetState::OutOfSight,
            Some(Kind::Transmission) => return TargetState::Renamed,
            _ => {}
        }
        match (&self.options.undo, &self.options.target) {
            (None, _) => TargetState::PartlyChanged,
            // The other end holds the patch back until it has all of it.
            (Some(_), _) if !self.complete => TargetState::Untouched,
            // Before the first write the undo patch has its name.
            (Some(undo), Place::Local(_)) => match undo.try_exists() {
                Ok(false) => TargetState::Untouched,
                _ => TargetState::PartlyChanged,
            },
            (Some(_), Place::Remote { .. }) => match self.heard {
                Heard { changed: true, .. } => TargetState::PartlyChanged,
                // It would have said so before.
                Heard { error: true, .. } => TargetState::Untouched,
                _ => TargetState::ChangedIfUndoIsThere,
            },
        }
    }

    /// Whether the process that writes to the target ends with this before its first write.
    fn is_refusal(&self, kind: Kind) -> bool {
        match kind {
            // The last is a server's, which a login there is forced to.
            Kind::Open | Kind::Size | Kind::Seal | Kind::Protocol => true,
            // There is an undo patch already. Without one, many a shell script ends with 1.
            Kind::Usage => self.options.undo.is_some(),
            _ => false,
        }
    }

    /// Whether the target may have got its new size: a larger one comes with the beginning of
    /// the patch, a smaller one with its end.
    fn may_be_resized(&self) -> bool {
        let (source_bytes, target_bytes) = self.plan.source_and_target_bytes();
        let differs = match self.complete {
            true => target_bytes != source_bytes,
            false => target_bytes < source_bytes,
        };
        self.rule == SizeRule::Resize && differs
    }

    /// Whether the target is here and has not become larger, as it does before the first write.
    fn is_ungrown(&self) -> bool {
        let (source_bytes, target_bytes) = self.plan.source_and_target_bytes();
        let Place::Local(target) = &self.options.target else { return false };
        self.rule == SizeRule::Resize
            && target_bytes < source_bytes
            && fs::metadata(target).is_ok_and(|found| found.len() == target_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;

    use super::super::testing::options;
    use super::*;
    use crate::units::Direction;

    /// Sizes of the source and the target, in bytes.
    type Sizes = (u64, u64);

    const EQUAL: Sizes = (8192, 8192);
    const GROWS: Sizes = (8192, 4096);
    const SHRINKS: Sizes = (4096, 8192);

    /// Of a process that said what it ended with.
    fn state(
        options: &SyncOptions,
        sizes: Sizes,
        ended_with: Option<Kind>,
        complete: bool,
        has_records: bool,
    ) -> TargetState {
        let heard = Heard { error: ended_with.is_some(), ..Heard::default() };
        state_heard(options, sizes, ended_with, complete, has_records, heard)
    }

    fn state_heard(
        options: &SyncOptions,
        (source_bytes, target_bytes): Sizes,
        ended_with: Option<Kind>,
        complete: bool,
        has_records: bool,
        heard: Heard,
    ) -> TargetState {
        let rule = if source_bytes == target_bytes { SizeRule::Strict } else { SizeRule::Resize };
        let plan = Plan::new(Direction::Push, source_bytes, target_bytes, 4096, rule).unwrap();
        let failed =
            FailedWrite { options, plan: &plan, rule, ended_with, complete, has_records, heard };
        failed.target_state()
    }

    #[test]
    fn without_a_record_and_a_new_size_there_is_nothing_to_change() {
        let remote = options(&["a", "h:b"]);
        for complete in [false, true] {
            let state = |sizes, has| state(&remote, sizes, Some(Kind::Write), complete, has);
            assert_eq!(state(EQUAL, false), TargetState::Untouched);
            assert_eq!(state(EQUAL, true), TargetState::PartlyChanged);
            assert_eq!(state(GROWS, false), TargetState::PartlyChanged);
        }
        // It becomes smaller after the last record.
        let state = |complete| state(&remote, SHRINKS, Some(Kind::Write), complete, false);
        assert_eq!(state(false), TargetState::Untouched);
        assert_eq!(state(true), TargetState::PartlyChanged);
    }

    #[test]
    fn what_becomes_of_the_target_of_a_silent_host_is_not_known() {
        for words in [&["a", "h:b"][..], &["--undo=u", "a", "h:b"]] {
            let state = |kind, complete| state(&options(words), EQUAL, Some(kind), complete, true);
            assert_eq!(state(Kind::Connection, true), TargetState::OutOfSight);
            assert_ne!(state(Kind::Connection, false), TargetState::OutOfSight);
            assert_eq!(state(Kind::Transmission, true), TargetState::Renamed);
        }
    }

    #[test]
    fn what_is_refused_is_not_begun() {
        let (plain, undoable) = (options(&["a", "h:b"]), options(&["--undo=u", "a", "h:b"]));
        for kind in [Kind::Open, Kind::Size, Kind::Seal, Kind::Protocol] {
            assert_eq!(state(&plain, EQUAL, Some(kind), true, true), TargetState::Untouched);
        }
        for kind in [Some(Kind::Write), Some(Kind::Read), Some(Kind::Usage), None] {
            assert_eq!(state(&plain, EQUAL, kind, true, true), TargetState::PartlyChanged);
        }
        let refused = state(&undoable, EQUAL, Some(Kind::Usage), true, true);
        assert_eq!(refused, TargetState::Untouched);
    }

    #[test]
    fn of_another_host_a_status_without_a_word_says_nothing() {
        let (far, near) = (options(&["a", "h:b"]), options(&["a", "b"]));
        let kind = Some(Kind::Protocol);
        let state = |options| state_heard(options, EQUAL, kind, true, true, Heard::default());
        assert_eq!(state(&far), TargetState::PartlyChanged);
        assert_eq!(state(&near), TargetState::Untouched);
    }

    #[test]
    fn with_undo_who_writes_on_another_host_says_whether_it_has_begun() {
        let far = options(&["--undo=u", "a", "h:b"]);
        let heard = |changed, error| {
            let heard = Heard { changed, error, ..Heard::default() };
            state_heard(&far, EQUAL, Some(Kind::Write), true, true, heard)
        };
        assert_eq!(heard(true, true), TargetState::PartlyChanged);
        assert_eq!(heard(false, true), TargetState::Untouched);
        assert_eq!(heard(false, false), TargetState::ChangedIfUndoIsThere);
    }

    #[test]
    fn with_undo_the_target_is_changed_after_the_undo_patch_is_there() {
        let far = options(&["--undo=u", "a", "h:b"]);
        assert_eq!(state(&far, EQUAL, None, false, true), TargetState::Untouched);
        assert_eq!(state(&far, EQUAL, None, true, true), TargetState::ChangedIfUndoIsThere);

        let folder = tempfile::tempdir().unwrap();
        let undo = folder.path().join("u");
        let near = options(&[&format!("--undo={}", undo.display()), "a", "b"]);
        assert_eq!(state(&near, EQUAL, None, true, true), TargetState::Untouched);
        File::create(&undo).unwrap();
        assert_eq!(state(&near, EQUAL, None, true, true), TargetState::PartlyChanged);
    }

    #[test]
    fn a_file_here_that_did_not_grow_was_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("b");
        let file = File::create(&target).unwrap();
        let name = |path: &Path| path.to_str().unwrap().to_owned();
        let options = options(&["a", &name(&target)]);
        for (bytes, expected) in
            [(4096, TargetState::Untouched), (8192, TargetState::PartlyChanged)]
        {
            file.set_len(bytes).unwrap();
            assert_eq!(state(&options, GROWS, Some(Kind::Write), true, true), expected);
        }
    }
}

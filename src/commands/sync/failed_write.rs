//! How far a sync that failed may have got with the target.

use std::fs;

use super::words::Heard;
use crate::cli::{Place, SyncOptions};
use crate::commands::target_state::TargetState;
use crate::diff::Plan;
use crate::error::Kind;
use crate::units::SizeRule;

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
    /// Whether that process says what is true of the target, unless something ends it that it cannot
    /// help; the classic does not.
    pub speaks: bool,
    /// What it has said of it.
    pub said: Option<TargetState>,
    /// What its stderr was.
    pub heard: Heard,
    /// Whether it had to be killed, of what can be seen of it here.
    pub was_killed: bool,
    /// Whether something else has the name of a target on this host by now.
    pub is_renamed: bool,
    /// Whether there was an undo patch on this host before, which is of another run.
    pub had_undo: bool,
}

impl FailedWrite<'_> {
    /// How far it may have got.
    pub fn target_state(&self) -> TargetState {
        // The status alone may be another program's, which leads there.
        let is_heard = self.heard.error || matches!(self.options.target, Place::Local(_));
        let ended_with = self.ended_with.filter(|_| is_heard);
        match (self.said, ended_with) {
            (Some(state @ (TargetState::Untouched | TargetState::UnusedUndo)), _) => return state,
            _ if self.is_renamed => return TargetState::Renamed,
            (Some(state), _) => return state,
            (None, Some(kind)) if self.is_refusal(kind) => return TargetState::Untouched,
            _ => {}
        }
        let changes = self.has_records || self.may_be_resized();
        if !changes || self.is_ungrown() {
            return match self.has_made_undo() {
                Some(true) => TargetState::UnusedUndo,
                _ => TargetState::Untouched,
            };
        }
        // Who has not ended in words may go on with what it was given.
        if self.is_out_of_sight() {
            return TargetState::OutOfSight;
        }
        match (&self.options.undo, self.has_made_undo()) {
            (None, _) => TargetState::PartlyChanged,
            // The other end holds the patch back until it has all of it.
            (Some(_), _) if !self.complete => TargetState::Untouched,
            // Before the first write the undo patch has its name.
            (Some(_), Some(false)) => TargetState::Untouched,
            (Some(_), Some(true) | None) => TargetState::PartlyChanged,
        }
    }

    /// Whether the target could not be written to, as a full disk.
    pub fn is_full(&self) -> bool {
        self.heard.error && self.ended_with == Some(Kind::Write)
    }

    /// Whether the process that writes may still have something to write, on another host.
    fn is_out_of_sight(&self) -> bool {
        // Who speaks and did not was ended by something else.
        let is_silent =
            self.speaks || !self.heard.error || self.ended_with == Some(Kind::Connection);
        // What is kept back there until it is whole is thrown away.
        let has_some = self.complete || self.options.undo.is_none();
        let ended_by_itself = self.ended_with.is_none() && !self.was_killed;
        let is_remote = matches!(self.options.target, Place::Remote { .. });
        is_remote && is_silent && has_some && !ended_by_itself
    }

    /// Whether this run has made an undo patch here; `None` where that is not to be seen from here.
    fn has_made_undo(&self) -> Option<bool> {
        near_undo_exists(self.options).map(|exists| exists && !self.had_undo)
    }

    /// Whether the process that writes to the target ends with this before its first write.
    fn is_refusal(&self, kind: Kind) -> bool {
        match kind {
            // The last is a server's, which a login there is forced to.
            Kind::Open | Kind::Size | Kind::Seal | Kind::NoRoom | Kind::Protocol => true,
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

/// Whether there is an undo patch on this host; `None` where none is made here.
pub fn near_undo_exists(options: &SyncOptions) -> Option<bool> {
    match (&options.undo, &options.target) {
        (Some(undo), Place::Local(_)) => Some(undo.try_exists().unwrap_or(true)),
        _ => None,
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

    /// Of a whole patch with records, and what `change` makes of that.
    fn state_with(
        options: &SyncOptions,
        (source_bytes, target_bytes): Sizes,
        change: impl FnOnce(&mut FailedWrite),
    ) -> TargetState {
        let rule = if source_bytes == target_bytes { SizeRule::Strict } else { SizeRule::Resize };
        let plan = Plan::new(Direction::Push, source_bytes, target_bytes, 4096, rule).unwrap();
        let mut failed = FailedWrite {
            options,
            plan: &plan,
            rule,
            ended_with: None,
            complete: true,
            has_records: true,
            speaks: true,
            said: None,
            heard: Heard::default(),
            was_killed: false,
            is_renamed: false,
            had_undo: false,
        };
        change(&mut failed);
        failed.target_state()
    }

    /// Of a classic that said what it ended with.
    fn state(
        options: &SyncOptions,
        sizes: Sizes,
        ended_with: Option<Kind>,
        complete: bool,
        has_records: bool,
    ) -> TargetState {
        state_with(options, sizes, |failed| {
            failed.speaks = false;
            failed.heard.error = ended_with.is_some();
            (failed.ended_with, failed.complete, failed.has_records) =
                (ended_with, complete, has_records);
        })
    }

    #[test]
    fn without_a_record_and_a_new_size_there_is_nothing_to_change() {
        let remote = options(&["a", "h:b"]);
        for complete in [false, true] {
            let state = |sizes, has| state(&remote, sizes, Some(Kind::Write), complete, has);
            assert_eq!(state(EQUAL, false), TargetState::Untouched);
            let said = state_with(&remote, EQUAL, |failed| {
                (failed.has_records, failed.said) = (false, Some(TargetState::PartlyChanged));
            });
            assert_eq!(said, TargetState::PartlyChanged, "it met another size");
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
            // A line of another sort may have come last.
            for ended_with in [None, Some(Kind::Read), Some(Kind::Write)] {
                let silent = state_with(&options(words), EQUAL, |failed| {
                    (failed.heard.error, failed.was_killed) = (true, true);
                    failed.ended_with = ended_with;
                });
                assert_eq!(silent, TargetState::OutOfSight, "{words:?} {ended_with:?}");
            }
        }
    }

    #[test]
    fn what_is_refused_is_not_begun() {
        let (plain, undoable) = (options(&["a", "h:b"]), options(&["--undo=u", "a", "h:b"]));
        for kind in [Kind::Open, Kind::Size, Kind::Seal, Kind::Protocol] {
            assert_eq!(state(&plain, EQUAL, Some(kind), true, true), TargetState::Untouched);
        }
        for kind in [Kind::Write, Kind::Read, Kind::Usage] {
            assert_eq!(state(&plain, EQUAL, Some(kind), true, true), TargetState::PartlyChanged);
        }
        let refused = state(&undoable, EQUAL, Some(Kind::Usage), true, true);
        assert_eq!(refused, TargetState::Untouched);
    }

    #[test]
    fn of_another_host_a_status_without_a_word_says_nothing() {
        let (far, near) = (options(&["a", "h:b"]), options(&["a", "b"]));
        for (kind, near_state) in
            [(Kind::Protocol, TargetState::Untouched), (Kind::Write, TargetState::PartlyChanged)]
        {
            let state =
                |options| state_with(options, EQUAL, |failed| failed.ended_with = Some(kind));
            assert_eq!(state(&far), TargetState::OutOfSight, "{kind:?}");
            assert_eq!(state(&near), near_state, "{kind:?}");
        }
    }

    #[test]
    fn what_has_another_name_by_now_was_written_to_and_what_has_the_name_was_not() {
        let near = options(&["a", "b"]);
        let renamed = state_with(&near, EQUAL, |failed| failed.is_renamed = true);
        assert_eq!(renamed, TargetState::Renamed);
        let untouched = state_with(&near, EQUAL, |failed| {
            (failed.is_renamed, failed.said) = (true, Some(TargetState::Untouched));
        });
        assert_eq!(untouched, TargetState::Untouched);
    }

    #[test]
    fn who_was_killed_here_may_go_on_there() {
        let state = |words: &[&str]| {
            state_with(&options(words), EQUAL, |failed| {
                (failed.complete, failed.was_killed) = (false, true);
            })
        };
        assert_eq!(state(&["a", "h:b"]), TargetState::OutOfSight);
        assert_eq!(state(&["a", "b"]), TargetState::PartlyChanged);
        // The patch is kept there until it is whole.
        assert_eq!(state(&["--undo=u", "a", "h:b"]), TargetState::Untouched);
    }

    #[test]
    fn what_was_said_counts_whatever_is_seen_besides() {
        let said = [
            TargetState::Untouched,
            TargetState::UnusedUndo,
            TargetState::PartlyChanged,
            TargetState::NotVerified,
            TargetState::Unequal,
            TargetState::Resized,
            TargetState::Renamed,
        ];
        for words in [&["a", "h:b"][..], &["--undo=u", "a", "h:b"], &["a", "b"]] {
            for (said, kind) in said.into_iter().zip([Kind::Open, Kind::Write].into_iter().cycle())
            {
                let state = state_with(&options(words), EQUAL, |failed| {
                    (failed.said, failed.ended_with) = (Some(said), Some(kind));
                });
                assert_eq!(state, said, "{words:?}");
            }
        }
    }

    #[test]
    fn with_undo_the_target_is_changed_after_the_undo_patch_is_there() {
        let far = options(&["--undo=u", "a", "h:b"]);
        assert_eq!(state(&far, EQUAL, None, false, true), TargetState::Untouched);
        let lost = state_with(&far, EQUAL, |failed| failed.ended_with = Some(Kind::Read));
        assert_eq!(lost, TargetState::OutOfSight);

        let folder = tempfile::tempdir().unwrap();
        let (undo, target) = (folder.path().join("u"), folder.path().join("b"));
        let undo_option = format!("--undo={}", undo.display());
        let near = options(&[&undo_option, "a", target.to_str().unwrap()]);
        assert_eq!(state(&near, EQUAL, None, true, true), TargetState::Untouched);
        File::create(&undo).unwrap();
        assert_eq!(state(&near, EQUAL, None, true, true), TargetState::PartlyChanged);
        // It is there and leads nowhere.
        File::create(&target).unwrap().set_len(GROWS.1).unwrap();
        assert_eq!(state(&near, GROWS, None, true, true), TargetState::UnusedUndo);
        assert_eq!(state(&near, EQUAL, None, true, false), TargetState::UnusedUndo);
        let refused = state(&near, EQUAL, Some(Kind::Usage), true, true);
        assert_eq!(refused, TargetState::Untouched, "it is of another run");
        let ended = state_with(&near, EQUAL, |failed| failed.had_undo = true);
        assert_eq!(ended, TargetState::Untouched, "it is of another run");
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

    #[test]
    fn a_file_here_that_keeps_its_size_or_becomes_smaller_is_written_to_before_that() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("b");
        let options = options(&["a", target.to_str().unwrap()]);
        for (rule, sizes) in [
            (SizeRule::Strict, EQUAL),
            (SizeRule::Resize, EQUAL),
            (SizeRule::MinSize, GROWS),
            (SizeRule::MinSize, SHRINKS),
            (SizeRule::Resize, SHRINKS),
        ] {
            File::create(&target).unwrap().set_len(sizes.1).unwrap();
            let state = state_with(&options, sizes, |failed| {
                (failed.rule, failed.ended_with) = (rule, Some(Kind::Write));
            });
            assert_eq!(state, TargetState::PartlyChanged, "{rule:?} {sizes:?}");
        }
    }

    #[test]
    fn no_size_is_changed_under_minsize_nor_where_both_have_the_same() {
        let remote = options(&["a", "h:b"]);
        for (rule, sizes) in
            [(SizeRule::MinSize, GROWS), (SizeRule::MinSize, SHRINKS), (SizeRule::Resize, EQUAL)]
        {
            for complete in [false, true] {
                let state = state_with(&remote, sizes, |failed| {
                    (failed.rule, failed.ended_with) = (rule, Some(Kind::Write));
                    failed.heard.error = true;
                    (failed.complete, failed.has_records) = (complete, false);
                });
                assert_eq!(state, TargetState::Untouched, "{rule:?} {sizes:?} {complete}");
            }
        }
    }
}

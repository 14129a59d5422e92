//! What is true of the target as an apply goes on, and what is done and told when it fails there.

use super::words::tell_cut;
use super::{How, Job};
use crate::commands::target_state::TargetState;
use crate::device::{Device, FileDevice};
use crate::error::{Error, Kind, Result};
use crate::naming::expect_name;
use crate::patch::{SizePlan, Written};
use crate::units::{ByteRange, SizeRule};

impl Job<'_> {
    /// From now on `state` is true of the target, whatever fails.
    pub(super) fn reach(&self, state: TargetState) {
        *self.state.lock() = state;
    }

    /// Its records are in the target.
    pub(super) fn reach_written(&self, sizes: &SizePlan) {
        if !sizes.shrinks() {
            self.reach(TargetState::NotVerified);
        }
    }

    /// Fails when something else has taken what was written away.
    pub(super) fn expect_nothing_else(&self, target: &FileDevice, sizes: &SizePlan) -> Result<()> {
        self.expect_own_size(target, sizes)?;
        self.refuse_moved(target)
    }

    /// Nobody locks a file who only cuts it. What lies behind the common part is none of ours.
    pub(super) fn expect_own_size(&self, target: &FileDevice, sizes: &SizePlan) -> Result<()> {
        if self.options.sizes.rule == SizeRule::MinSize {
            return Ok(());
        }
        target.expect_own_size().inspect_err(|err| {
            if err.kind() == Kind::Transmission {
                self.reach(TargetState::Resized);
                self.record.tell(|facts| facts.verified = facts.verified.map(|_| false));
            }
            // What was lost is in no undo patch.
            self.tell_unproven(target, sizes, err);
        })
    }

    /// Whoever looks by the name afterwards would find another one, as it was.
    fn refuse_moved(&self, target: &FileDevice) -> Result<()> {
        expect_name(target.path(), target.id(), "all is written")
            .inspect_err(|_| self.reach(TargetState::Renamed))
    }

    /// `err` ended what changes the target.
    pub(super) fn tell_failed_write(
        &self,
        err: &Error,
        target: &FileDevice,
        sizes: &SizePlan,
        written: &Written,
        how: How,
    ) {
        if err.kind() == Kind::Write {
            forget_unwritten(target);
        }
        let is_cut = err.kind() == Kind::Transmission;
        match is_changed(target, sizes, written) {
            true if is_cut => tell_cut(target, written),
            true => self.tell_patched_in_part(target, written, how, err.kind()),
            false => self.leave_untouched(target),
        }
        if is_cut {
            self.reach(TargetState::Resized);
        }
    }

    /// `err` is what was found behind the last write.
    pub(super) fn tell_fault(
        &self,
        target: &FileDevice,
        sizes: &SizePlan,
        written: &Written,
        err: &Error,
    ) {
        if !is_changed(target, sizes, written) {
            return self.leave_untouched(target);
        }
        forget_unwritten(target);
        self.tell_unproven(target, sizes, err);
        self.tell_undo(target);
    }

    /// It is as it was, whatever failed.
    fn leave_untouched(&self, target: &FileDevice) {
        let has_undo = self.options.undo.is_some();
        self.reach(if has_undo { TargetState::UnusedUndo } else { TargetState::Untouched });
        self.tell_unused_undo(target);
    }
}

/// Whether anything of the target is another than before.
pub(super) fn is_changed(target: &FileDevice, sizes: &SizePlan, written: &Written) -> bool {
    written.records > 0 || target.size() != sizes.before_bytes
}

/// What could not be brought to the disk counts as clean from then on: who compares next would find
/// it in the cache, take it for written, and leave it out.
fn forget_unwritten(target: &FileDevice) {
    target.drop_cache(ByteRange::new(0, target.size()));
}

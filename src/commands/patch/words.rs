//! What an apply tells: of what nobody asked for, and of what it leaves behind when it fails.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{How, Job};
use crate::commands::shell_word::printable;
use crate::commands::target_state::TargetState;
use crate::device::{Device, FileDevice, identity};
use crate::error::{Error, Kind};
use crate::patch::{Seal, SizePlan, Summary, Trailer, Written};
use crate::report;
use crate::units::{counted, human_bytes};

// What a sync knows these lines by, one of another version on another host as well: they stay as
// they are. Each stands behind or before a path that may be anything.
/// The target may be changed in some places.
pub(in crate::commands) const IN_PART: &str = " is patched in part (";
/// How to undo that.
pub(in crate::commands) const WAY_BACK: &str = "to go back: ";
/// Everything was written.
pub(in crate::commands) const WRITTEN: &str = "all of the patch is written to ";
/// Nothing was written.
pub(in crate::commands) const UNTOUCHED: &str = " is changed; remove ";

impl Job<'_> {
    /// Tells what a run with `--dry-run` would have done, all of whose checks went well.
    pub(super) fn tell_dry_run(&self, target: &FileDevice, summary: &Summary, sizes: &SizePlan) {
        let records = summary.places.records();
        self.record.tell(|facts| facts.records = Some(records));
        let resized = sizes.resize_bytes.map_or(String::new(), |bytes| {
            format!(", which would be {} to {}", change_of(sizes), human_bytes(bytes))
        });
        // Of records behind the end of a smaller target nothing is written.
        let is_part = sizes.limit_bytes < summary.header.size_bytes;
        let at_most = if is_part { "at most " } else { "" };
        report::notice(&format!(
            "{at_most}{} in {} would be written to {}{resized}; nothing changed (--dry-run)",
            human_bytes(summary.data_bytes),
            counted(records, "record"),
            target.path().display(),
        ));
    }

    /// Tells of a size that nobody asked for.
    pub(super) fn tell_sealed_size(&self, target: &FileDevice, sizes: &SizePlan) {
        if let Some(bytes) = sizes.resize_bytes.filter(|_| !self.options.sizes.is_given) {
            let change = change_of(sizes);
            report::notice(&format!(
                "{} is {change} from {} to {bytes} bytes: the patch is sealed to set the size",
                target.path().display(),
                sizes.before_bytes
            ));
        }
    }

    /// Warns that some of the patch was `found` to be there, and what is done `then`.
    pub(super) fn warn_of_late_apply(&self, found: &str, then: &str) {
        // Nothing is done, nor made.
        if self.options.dry_run {
            return log::warn!("{found}");
        }
        log::warn!("{found}: {then}");
        if let Some(undo) = &self.options.undo {
            log::warn!(
                "{} will lead back to what the target holds now, not to what it held before the \
                 patch",
                undo.display()
            );
        }
    }

    /// Tells that a failed apply has changed the target, and what to do now; `kind` is what it failed
    /// with.
    pub(super) fn tell_patched_in_part(
        &self,
        target: &FileDevice,
        written: &Written,
        how: How,
        kind: Kind,
    ) {
        let shown = target.path().display();
        let again = self.again(how);
        let in_part = in_part(target, written);
        let on = match kind {
            Kind::Patch if self.is_piped => {
                format!("{again} to finish, or make a new patch if this one is damaged")
            }
            Kind::Patch => format!("make a new patch for {shown}, which finishes it"),
            // A full disk, say.
            Kind::Write => format!("once the cause below is gone, {again} to finish"),
            _ => format!("{again} to finish"),
        };
        log::warn!("{in_part}: {on}");
        self.tell_undo(target);
    }

    /// How to finish an apply that failed in between.
    fn again(&self, how: How) -> String {
        let again = if self.is_piped { "run the same command" } else { "apply the patch" };
        // Its file is there by now.
        let without = if self.options.undo.is_some() { " without --undo" } else { "" };
        // Torn in its first or last part, a device is not known as the patch's work.
        let forced = if how.is_sealed { " (with --force where it is refused)" } else { "" };
        format!("{again} again{without}{forced}")
    }

    /// Tells of the undo patch that an apply leaves which ended before its first write.
    pub(super) fn tell_unused_undo(&self, target: &FileDevice) {
        if let Some(undo) = &self.options.undo {
            log::warn!(
                "nothing of {}{UNTOUCHED}{} before the next try",
                target.path().display(),
                undo.display()
            );
        }
    }

    /// `err` kept the target from being compared: that does not mean that it was not written.
    pub(super) fn tell_unproven(&self, target: &FileDevice, sizes: &SizePlan, err: &Error) {
        let shown = target.path().display();
        match err.kind() {
            // There is an undo patch to tell of, or a sync that tells what to do.
            Kind::Interrupted(_) if self.options.undo.is_some() || self.life.is_some() => {}
            Kind::Interrupted(_) => {
                log::warn!("the same command again writes it once more, and shows if it is right");
            }
            Kind::Checksum => {
                self.reach(TargetState::Unequal);
                log::warn!(
                    "{WRITTEN}{shown}, which is NOT what it should be now: it held something else \
                     than the patch was made for, or does not keep what is written, or the patch \
                     is damaged; compare {shown} with its source again"
                );
                tell_uncut(target, sizes);
            }
            _ => tell_uncompared(target, sizes),
        }
    }

    pub(super) fn tell_undo(&self, target: &FileDevice) {
        if let Some(undo) = &self.options.undo {
            let undo = undo_command("bdsync", target.path(), undo, self.options.force);
            log::warn!("{WAY_BACK}{undo}");
        }
    }
}

/// What a target is that gets another size.
fn change_of(sizes: &SizePlan) -> &'static str {
    if sizes.shrinks() { "cut" } else { "extended" }
}

/// The words for a shell in which `program` takes a patch back, by `force` if it was applied so.
pub(in crate::commands) fn undo_command(
    program: &str,
    target: &Path,
    undo: &Path,
    force: bool,
) -> String {
    let word = |path: &Path| printable(path.as_os_str().as_bytes());
    let forced = if force { " --force" } else { "" };
    format!("{program} --patch={}{forced} <{}", word(target), word(undo))
}

/// Something else has cut the target while it was written: what is lost is not in the patch, nor in
/// one that takes it back.
pub(super) fn tell_cut(target: &FileDevice, written: &Written) {
    let in_part = in_part(target, written);
    log::warn!("{in_part} and was cut by something else: compare it with its source again");
}

/// That the target is patched in part, and how much of it at most.
fn in_part(target: &FileDevice, written: &Written) -> String {
    let (shown, records) = (target.path().display(), counted(written.records, "record"));
    format!("{shown}{IN_PART}up to {} bytes in {records})", written.bytes)
}

/// Nothing could be compared.
pub(super) fn tell_uncompared(target: &FileDevice, sizes: &SizePlan) {
    let shown = target.path().display();
    log::warn!("{WRITTEN}{shown}, but not shown to be right");
    tell_uncut(target, sizes);
}

/// The end that the patch cuts off is there still.
pub(super) fn tell_uncut(target: &FileDevice, sizes: &SizePlan) {
    if sizes.shrinks() && target.size() == sizes.before_bytes {
        let shown = target.path().display();
        log::warn!("{shown} keeps its {} bytes: its end is cut off last", sizes.before_bytes);
    }
}

/// Only what stands behind the end of the patch, which had been written by then, is at fault.
pub(super) fn tell_late_fault(target: &FileDevice, trailer: &Trailer) {
    let shown = target.path().display();
    if trailer.is_followed_by_another() {
        log::warn!("the first patch is applied to {shown}, and nothing of what follows it");
    } else {
        log::warn!(
            "{shown} was written to before the end of the patch showed that it is damaged: compare \
             {shown} with its source again (with --spool a patch is checked first)"
        );
    }
}

/// What a patch was made for, and what it meets.
pub(super) fn tell_foreign(target: &FileDevice, seal: &Seal) {
    log::warn!("the patch was made for {}", one_line(&seal.target));
    log::warn!("the target is {}", one_line(&identity(target)));
}

/// The lines of an identity, side by side.
fn one_line(identity: &[u8]) -> String {
    let text = String::from_utf8_lossy(identity);
    text.lines().collect::<Vec<_>>().join(", ")
}

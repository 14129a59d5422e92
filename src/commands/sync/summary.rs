//! The first line of a sync and the last. Pure.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::{Place, SyncOptions};
use crate::commands::patch::undo_command;
use crate::commands::record::{Facts, Record};
use crate::commands::target_state::TargetState;
use crate::units::{Direction, SizeRule, counted, human_bytes};

/// A place as the user gave it.
fn place(place: &Place) -> String {
    place.as_given().to_string_lossy().into_owned()
}

/// How to go on after a failure, which is told next; `is_full` if the target could not be written
/// to.
pub fn way_on(options: &SyncOptions, state: TargetState, is_full: bool) -> String {
    let (source, target) = (place(&options.source), place(&options.target));
    let nothing = format!("nothing was written to {target}");
    // A full disk, say: the same again would end in the same way.
    let first = if is_full { "once the cause below is gone, " } else { "" };
    let without = if options.undo.is_some() { " without --undo" } else { "" };
    let again = format!("{first}run the same command again{without}");
    let back = match &options.undo {
        Some(undo) => format!(", or go back{}", way_back(options, undo)),
        None => String::new(),
    };
    match state {
        TargetState::Untouched => nothing,
        TargetState::UnusedUndo => nothing + &of_undo(options, "; remove ", " before the next try"),
        TargetState::NotVerified => {
            format!("all is written to {target}, but not shown to be equal: {again}{back}")
        }
        TargetState::Unequal => {
            format!("{target} was written to, but is NOT equal to {source}: {again}{back}")
        }
        TargetState::OutOfSight => format!(
            "{target} may still be written to by the bdsync on that host: when that has ended, run \
             the same command again{}",
            of_undo(options, ", without --undo if there is a ", " on that host by then")
        ),
        TargetState::Resized => {
            let is_strict = options.sizes.rule == SizeRule::Strict;
            let rule = if is_strict { " with --diffsize=resize" } else { "" };
            // What was lost is in no undo patch.
            format!(
                "{target} was cut or extended by something else, and is NOT equal to {source}: \
                 {again}{rule}"
            )
        }
        TargetState::Renamed => format!(
            "whatever is at {target} now was not written to: run the same command again{}",
            of_undo(options, " with another --undo (", " is for what had the name before)")
        ),
        TargetState::PartlyChanged => {
            format!("{target} may be partly changed: {again}, which finishes it{back}")
        }
    }
}

/// The undo patch's name between these words, if there is to be one.
fn of_undo(options: &SyncOptions, before: &str, behind: &str) -> String {
    let words = |undo: &PathBuf| format!("{before}{}{behind}", undo.display());
    options.undo.as_ref().map(words).unwrap_or_default()
}

/// The command that takes a sync back, and where.
fn way_back(options: &SyncOptions, undo: &Path) -> String {
    let command = |program: &str, target: &Path| undo_command(program, target, undo, options.force);
    match &options.target {
        Place::Local(target) => format!(": {}", command("bdsync", target)),
        Place::Remote { host, path } => {
            let program = options.remote_program.to_string_lossy();
            format!(", on {}: {}", host.to_string_lossy(), command(&program, Path::new(path)))
        }
    }
}

/// Of a device of `bytes`, in words, of which only the first `common_bytes` count.
fn part_of(place: String, bytes: u64, common_bytes: u64) -> String {
    let size = human_bytes(bytes);
    match bytes > common_bytes {
        true => format!("the first {} of {place} ({size})", human_bytes(common_bytes)),
        false => format!("{place} ({size})"),
    }
}

/// What will become what; `sizes` are those of the near and the far device, in bytes.
pub fn first_line(
    options: &SyncOptions,
    direction: Direction,
    sizes: (u64, u64),
    rule: SizeRule,
    classic: bool,
) -> String {
    let (source_bytes, target_bytes) = direction.source_and_target(sizes.0, sizes.1);
    let doing = if options.dry_run { "would change" } else { "changing" };
    let way = match (&options.source, &options.target) {
        (Place::Local(_), Place::Local(_)) => "local",
        (Place::Local(_), Place::Remote { .. }) => "push",
        (Place::Remote { .. }, _) => "pull",
    };
    let classic = if classic { ", with the classic bdsync at the other end" } else { "" };
    let common_bytes = match rule {
        SizeRule::MinSize => source_bytes.min(target_bytes),
        SizeRule::Strict | SizeRule::Resize => u64::MAX,
    };
    let source = part_of(place(&options.source), source_bytes, common_bytes);
    let target = match rule {
        SizeRule::Resize if source_bytes != target_bytes => format!(
            "{} ({}, to be {} to {})",
            place(&options.target),
            human_bytes(target_bytes),
            if source_bytes < target_bytes { "cut" } else { "extended" },
            human_bytes(source_bytes),
        ),
        _ => part_of(place(&options.target), target_bytes, common_bytes),
    };
    format!("{doing} {target} to be equal to {source}: {way}{classic}")
}

/// What was done to a target that lost `cut_bytes` at its end; `is_whole` unless some was left out.
pub fn last_line(options: &SyncOptions, record: &Record, cut_bytes: u64, is_whole: bool) -> String {
    let facts = record.facts();
    let mut line = summary(&facts, record.elapsed());
    if cut_bytes > 0 {
        let would_be = if options.dry_run { "would be " } else { "" };
        line.push_str(&format!(", {} {would_be}cut off", human_bytes(cut_bytes)));
    }
    line.push_str(match (options.dry_run, facts.verified) {
        (true, _) => ", nothing changed (--dry-run)",
        (false, Some(true)) if is_whole => ", verified",
        (false, Some(true)) => ", verified but for what was left out",
        (false, _) => ", not verified",
    });
    if let Some(undo) = &options.undo {
        line.push_str(&format!("; to go back{}", way_back(options, undo)));
    }
    line
}

fn summary(facts: &Facts, elapsed: Duration) -> String {
    let compared_bytes = facts.compared_bytes.unwrap_or(0);
    let patch_bytes = facts.patch_sent_bytes.unwrap_or(0);
    let wire_bytes =
        facts.wire_sent_bytes.unwrap_or(0).saturating_add(facts.wire_received_bytes.unwrap_or(0));
    let seconds = elapsed.as_secs_f64();
    // A float that is out of range becomes the largest number.
    let rate_bytes = (compared_bytes as f64 / seconds.max(0.001)) as u64;
    let blocks = counted(facts.differing_blocks.unwrap_or(0), "block");
    format!(
        "{} compared, {} in {blocks} differ, {} transferred, {seconds:.1} s, {}/s",
        human_bytes(compared_bytes),
        human_bytes(facts.differing_bytes.unwrap_or(0)),
        human_bytes(patch_bytes.saturating_add(wire_bytes)),
        human_bytes(rate_bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::options;
    use super::*;

    #[test]
    fn first_line_says_what_becomes_what() {
        let push = options(&["a", "h:b"]);
        let line = |rule, sizes| first_line(&push, Direction::Push, sizes, rule, false);
        for (rule, sizes, expected) in [
            (SizeRule::Strict, (2048, 2048), "h:b (2.0 KiB) to be equal to a (2.0 KiB)"),
            (
                SizeRule::Resize,
                (1024, 2048),
                "h:b (2.0 KiB, to be cut to 1.0 KiB) to be equal to a (1.0 KiB)",
            ),
            (
                SizeRule::Resize,
                (2048, 1024),
                "h:b (1.0 KiB, to be extended to 2.0 KiB) to be equal to a (2.0 KiB)",
            ),
            (
                SizeRule::MinSize,
                (1024, 2048),
                "the first 1.0 KiB of h:b (2.0 KiB) to be equal to a (1.0 KiB)",
            ),
            (
                SizeRule::MinSize,
                (2048, 1024),
                "h:b (1.0 KiB) to be equal to the first 1.0 KiB of a (2.0 KiB)",
            ),
        ] {
            assert_eq!(line(rule, sizes), format!("changing {expected}: push"));
        }
        let pull = options(&["--dry-run", "me@h:b", "a"]);
        assert_eq!(
            first_line(&pull, Direction::Pull, (1024, 1024), SizeRule::Strict, true),
            "would change a (1.0 KiB) to be equal to me@h:b (1.0 KiB): pull, with the classic \
             bdsync at the other end"
        );
    }

    #[test]
    fn way_on_fits_what_was_given_and_what_was_done() {
        let (plain, undoable) = (options(&["a", "h:b"]), options(&["--undo=u", "a", "h:b"]));
        let nothing = "nothing was written to h:b";
        let again = "run the same command again";
        let back = "or go back, on h: bdsync --patch=b <u";
        let still = "h:b may still be written to by the bdsync on that host: when that has ended";
        for (options, state, expected) in [
            (&plain, TargetState::Untouched, nothing.to_owned()),
            (&undoable, TargetState::Untouched, nothing.to_owned()),
            (
                &plain,
                TargetState::PartlyChanged,
                format!("h:b may be partly changed: {again}, which finishes it"),
            ),
            (
                &undoable,
                TargetState::PartlyChanged,
                format!(
                    "h:b may be partly changed: {again} without --undo, which finishes it, {back}"
                ),
            ),
            (
                &plain,
                TargetState::NotVerified,
                format!("all is written to h:b, but not shown to be equal: {again}"),
            ),
            (
                &undoable,
                TargetState::NotVerified,
                format!(
                    "all is written to h:b, but not shown to be equal: {again} without --undo, \
                     {back}"
                ),
            ),
            (
                &undoable,
                TargetState::Unequal,
                format!(
                    "h:b was written to, but is NOT equal to a: {again} without --undo, {back}"
                ),
            ),
            (&plain, TargetState::OutOfSight, format!("{still}, {again}")),
            (
                &undoable,
                TargetState::OutOfSight,
                format!("{still}, {again}, without --undo if there is a u on that host by then"),
            ),
            (
                &plain,
                TargetState::Renamed,
                format!("whatever is at h:b now was not written to: {again}"),
            ),
            (
                &undoable,
                TargetState::Renamed,
                format!(
                    "whatever is at h:b now was not written to: {again} with another --undo (u is for \
                     what had the name before)"
                ),
            ),
            (
                &plain,
                TargetState::Resized,
                format!(
                    "h:b was cut or extended by something else, and is NOT equal to a: {again} with \
                     --diffsize=resize"
                ),
            ),
            (
                &undoable,
                TargetState::UnusedUndo,
                format!("{nothing}; remove u before the next try"),
            ),
        ] {
            assert_eq!(way_on(options, state, false), expected);
        }
        let words = ["--force", "--remote-path=sudo bdsync", "--undo=u", "a", "h:b"];
        let back = way_on(&options(&words), TargetState::PartlyChanged, false);
        assert!(back.ends_with("on h: sudo bdsync --patch=b --force <u"), "{back}");
        let full = way_on(&plain, TargetState::PartlyChanged, true);
        assert!(full.contains("once the cause below is gone, run the same"), "{full}");
    }

    #[test]
    fn last_line_has_all_numbers() {
        let facts = Facts {
            compared_bytes: Some(4 << 20),
            differing_blocks: Some(3),
            differing_bytes: Some(3 * 4096),
            patch_bytes: Some(130_000),
            patch_sent_bytes: Some(13_000),
            wire_sent_bytes: Some(1000),
            wire_received_bytes: Some(2000),
            verified: Some(true),
            ..Facts::default()
        };
        assert_eq!(
            summary(&facts, Duration::from_secs(2)),
            "4.0 MiB compared, 12.0 KiB in 3 blocks differ, 15.6 KiB transferred, 2.0 s, 2.0 MiB/s"
        );
        let kept = Facts { patch_sent_bytes: None, ..facts };
        assert!(summary(&kept, Duration::ZERO).contains("2.9 KiB transferred"));
    }

    #[test]
    fn last_line_says_what_is_true_of_the_target() {
        for (words, verified, cut_bytes, is_whole, expected) in [
            (&["a", "b"][..], Some(true), 0, true, "bytes/s, verified"),
            (&["a", "b"], Some(true), 2048, true, "bytes/s, 2.0 KiB cut off, verified"),
            (&["a", "b"], Some(true), 0, false, ", verified but for what was left out"),
            (&["a", "b"], None, 0, true, ", not verified"),
            (
                &["--undo=u", "a", "b"],
                Some(true),
                0,
                true,
                ", verified; to go back: bdsync --patch=b <u",
            ),
            (
                &["--undo=u", "a", "h:b"],
                Some(true),
                0,
                true,
                ", verified; to go back, on h: bdsync --patch=b <u",
            ),
            (
                &["--dry-run", "a", "b"],
                None,
                2048,
                true,
                ", 2.0 KiB would be cut off, nothing changed (--dry-run)",
            ),
        ] {
            let record = Record::new("sync");
            record.tell(|facts| facts.verified = verified);
            let line = last_line(&options(words), &record, cut_bytes, is_whole);
            assert!(line.ends_with(expected), "{line}");
        }
    }
}

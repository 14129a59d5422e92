//! The first line of a sync and the last. Pure.

use std::time::Duration;

use super::target_state::TargetState;
use crate::cli::{Place, SyncOptions};
use crate::commands::record::{Facts, Record};
use crate::units::{Direction, human_bytes};

/// A place as the user gave it.
fn place(place: &Place) -> String {
    place.as_given().to_string_lossy().into_owned()
}

/// How to go on after a failure.
pub fn way_on(options: &SyncOptions, state: TargetState) -> String {
    let shown = place(&options.target);
    let nothing = format!("nothing was written to {shown}");
    let everything = format!("all is written to {shown}, but not shown to be equal");
    let out_of_sight =
        format!("{shown} may still be written to by the bdsync on that host: when that has ended,");
    let renamed =
        format!("what is at {shown} by now was not written to: run the same command again");
    let Some(undo) = &options.undo else {
        return match state {
            TargetState::Untouched => nothing,
            TargetState::NotVerified => format!("{everything}: run the same command again"),
            TargetState::PartlyChanged | TargetState::ChangedIfUndoIsThere => format!(
                "{shown} may be partly changed: run the same command again, which finishes it"
            ),
            TargetState::OutOfSight => format!("{out_of_sight} run the same command again"),
            TargetState::Renamed => renamed,
        };
    };
    let undo = undo.display();
    let on = format!(
        "run the same command again without --undo, which finishes it, or take it back with the \
         patch {undo}"
    );
    match state {
        TargetState::Untouched => nothing,
        TargetState::PartlyChanged => format!("{shown} may be partly changed: {on}"),
        TargetState::NotVerified => format!(
            "{everything}: run the same command again without --undo, or take it back with the \
             patch {undo}"
        ),
        TargetState::OutOfSight => format!(
            "{out_of_sight} run the same command again, without --undo if there is a {undo} on \
             that host by then"
        ),
        TargetState::Renamed => renamed,
        TargetState::ChangedIfUndoIsThere => {
            format!("{nothing} if there is no {undo} on that host; if it is there, {on}")
        }
    }
}

/// What will become what; `sizes` are those of the near and the far device, in bytes.
pub fn first_line(
    options: &SyncOptions,
    direction: Direction,
    sizes: (u64, u64),
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
    format!(
        "{doing} {} ({}) to be equal to {} ({}): {way}{classic}",
        place(&options.target),
        human_bytes(target_bytes),
        place(&options.source),
        human_bytes(source_bytes),
    )
}

/// What was done.
pub fn last_line(options: &SyncOptions, record: &Record) -> String {
    summary(options, &record.facts(), record.elapsed())
}

fn summary(options: &SyncOptions, facts: &Facts, elapsed: Duration) -> String {
    let compared_bytes = facts.compared_bytes.unwrap_or(0);
    // In a pull the patch is made here of what came over the wire.
    let patch_stays = options.dry_run || matches!(options.source, Place::Remote { .. });
    let patch_bytes = if patch_stays { 0 } else { facts.patch_bytes.unwrap_or(0) };
    let wire_bytes =
        facts.wire_sent_bytes.unwrap_or(0).saturating_add(facts.wire_received_bytes.unwrap_or(0));
    let seconds = elapsed.as_secs_f64();
    // A float that is out of range becomes the largest number.
    let rate_bytes = (compared_bytes as f64 / seconds.max(0.001)) as u64;
    let verified = match (options.dry_run, facts.verified) {
        (true, _) => "nothing changed (--dry-run)",
        (false, Some(true)) => "verified",
        (false, _) => "not verified",
    };
    let undo = match &options.undo {
        Some(path) => format!("; the patch {} takes it back", path.display()),
        None => String::new(),
    };
    format!(
        "{} compared, {} in {} blocks differ, {} transferred, {seconds:.1} s, {}/s, \
         {verified}{undo}",
        human_bytes(compared_bytes),
        human_bytes(facts.differing_bytes.unwrap_or(0)),
        facts.differing_blocks.unwrap_or(0),
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
        assert_eq!(
            first_line(&push, Direction::Push, (1024, 2048), false),
            "changing h:b (2.0 KiB) to be equal to a (1.0 KiB): push"
        );
        let pull = options(&["--dry-run", "me@h:b", "a"]);
        assert_eq!(
            first_line(&pull, Direction::Pull, (1024, 2048), true),
            "would change a (1.0 KiB) to be equal to me@h:b (2.0 KiB): pull, with the classic \
             bdsync at the other end"
        );
    }

    #[test]
    fn way_on_fits_what_was_given_and_what_was_done() {
        let (plain, undoable) = (options(&["a", "h:b"]), options(&["--undo=u", "a", "h:b"]));
        let nothing = "nothing was written to h:b";
        let again = "run the same command again";
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
                    "h:b may be partly changed: {again} without --undo, which finishes it, or take \
                     it back with the patch u"
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
                    "all is written to h:b, but not shown to be equal: {again} without --undo, or \
                     take it back with the patch u"
                ),
            ),
            (
                &plain,
                TargetState::OutOfSight,
                format!(
                    "h:b may still be written to by the bdsync on that host: when that has ended, \
                     {again}"
                ),
            ),
            (
                &undoable,
                TargetState::OutOfSight,
                format!(
                    "h:b may still be written to by the bdsync on that host: when that has ended, \
                     {again}, without --undo if there is a u on that host by then"
                ),
            ),
            (
                &plain,
                TargetState::Renamed,
                format!("what is at h:b by now was not written to: {again}"),
            ),
            (
                &undoable,
                TargetState::ChangedIfUndoIsThere,
                format!(
                    "{nothing} if there is no u on that host; if it is there, {again} without \
                     --undo, which finishes it, or take it back with the patch u"
                ),
            ),
        ] {
            assert_eq!(way_on(options, state), expected);
        }
    }

    #[test]
    fn last_line_has_all_numbers() {
        let facts = Facts {
            compared_bytes: Some(4 << 20),
            differing_blocks: Some(3),
            differing_bytes: Some(3 * 4096),
            patch_bytes: Some(13_000),
            wire_sent_bytes: Some(1000),
            wire_received_bytes: Some(2000),
            verified: Some(true),
            ..Facts::default()
        };
        assert_eq!(
            summary(&options(&["a", "b"]), &facts, Duration::from_secs(2)),
            "4.0 MiB compared, 12.0 KiB in 3 blocks differ, 15.6 KiB transferred, 2.0 s, \
             2.0 MiB/s, verified"
        );
        let undoable = summary(&options(&["--undo=u", "a", "b"]), &facts, Duration::ZERO);
        assert!(undoable.ends_with("verified; the patch u takes it back"), "{undoable}");
        let dry = summary(&options(&["--dry-run", "a", "b"]), &facts, Duration::ZERO);
        assert!(dry.ends_with("nothing changed (--dry-run)"), "{dry}");
        assert!(dry.contains("2.9 KiB transferred"), "{dry}");
        let pull = summary(&options(&["h:a", "b"]), &facts, Duration::ZERO);
        assert!(pull.contains("2.9 KiB transferred"), "{pull}");
    }
}

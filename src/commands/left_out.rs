//! What `--on-read-error=skip` left out, told at the end of a run.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::diff::{Engine, Plan};
use crate::error::{Error, Kind};
use crate::report;
use crate::units::{ByteRange, RangeSet, counted};

/// Whether anything was left out.
pub(super) fn is_any(engine: &Engine) -> bool {
    let left_out = engine.left_out();
    left_out.is_some_and(|both| !both.local().is_empty() || !both.remote().is_empty())
}

/// Lists what was left out on stderr, by the words for the local side and the remote one and their
/// names; the error that the run ends with, if anything was, which says what became of it: "and are
/// not in the patch".
pub(super) fn tell(
    engine: &Engine,
    sides: [(&str, &OsStr); 2],
    what_became: &str,
) -> Option<Error> {
    let both = engine.left_out()?;
    let mut all = RangeSet::new();
    for ((side, path), unreadable) in sides.into_iter().zip([both.local(), both.remote()]) {
        for range in blocks_of(engine.plan(), &unreadable).ranges() {
            report::left_out(side, path.as_bytes(), *range);
            all.insert(*range);
        }
    }
    if all.is_empty() {
        return None;
    }
    let bytes: u64 = all.ranges().iter().map(ByteRange::len).sum();
    let ranges = counted(all.len() as u64, "range");
    let what = format!("{bytes} bytes in {ranges} could not be read {what_became}");
    Some(Error::new(Kind::Skipped, what))
}

/// The blocks that the patch lacks: whole ones, for any of the bytes that it would carry. In a last
/// block these may be the first only.
fn blocks_of(plan: &Plan, unreadable: &RangeSet) -> RangeSet {
    let mut blocks = RangeSet::new();
    for range in unreadable.ranges() {
        let missing = plan.writable(*range);
        if !missing.is_empty() {
            blocks.insert(plan.blocks_of(missing).intersect(&plan.compared));
        }
    }
    blocks
}

//! What `--on-read-error=skip` left out, told at the end of a run.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::diff::{Engine, Plan};
use crate::error::{Error, Kind};
use crate::report;
use crate::units::{ByteRange, RangeSet, counted};

/// Whether anything was left out that [`tell`] tells of.
pub(super) fn is_any(engine: &Engine) -> bool {
    let sets = blocks(engine);
    sets.is_some_and(|sets| sets.iter().any(|blocks| !blocks.is_empty()))
        || engine.left_out().is_some_and(|left_out| left_out.undigested().is_some())
}

/// Lists what was left out on stderr, by the words for the local side and the remote one and their
/// names; the error that the run ends with, if anything was, which says what became of it: "and are
/// not in the patch".
pub(super) fn tell(
    engine: &Engine,
    sides: [(&str, &OsStr); 2],
    what_became: &str,
) -> Option<Error> {
    let mut all = RangeSet::new();
    for ((side, path), blocks) in sides.into_iter().zip(blocks(engine)?) {
        for range in blocks.ranges() {
            report::left_out(side, path.as_bytes(), *range);
            all.insert(*range);
        }
    }
    if all.is_empty() {
        let why = engine.left_out()?.undigested()?;
        return Some(Error::new(Kind::Skipped, "no checksum of the source").with_source(why));
    }
    let bytes: u64 = all.ranges().iter().map(ByteRange::len).sum();
    let ranges = counted(all.len() as u64, "range");
    let what = format!("{bytes} bytes in {ranges} could not be read {what_became}");
    Some(Error::new(Kind::Skipped, what))
}

/// The blocks that the patch lacks because of the local side, and because of the remote one.
fn blocks(engine: &Engine) -> Option<[RangeSet; 2]> {
    let both = engine.left_out()?;
    Some([both.local(), both.remote()].map(|unreadable| blocks_of(engine.plan(), &unreadable)))
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

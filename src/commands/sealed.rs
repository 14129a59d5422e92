//! What the seal of a stored patch says when the patch is only looked at.

use crate::device::{Device, FileDevice};
use crate::error::{Error, Result};
use crate::patch::{
    BaseState, PatchFile, PatchReader, Seal, SizePlan, Trailer, base_state, read_error, verify_seal,
};

/// Holds the patch against its seal, and the base as well: a warning, to be kept for the status, when
/// the base is in another state than the patch was made for, so that applying would be refused.
///
/// # Errors
/// `Kind::Patch` when the patch is not as it was sealed, those of reading both.
pub(super) fn judge(
    patch: &FileDevice,
    trailer: &Trailer,
    base: &FileDevice,
    sizes: &SizePlan,
) -> Result<Option<String>> {
    let Some(found) = Seal::decode(&trailer.tail)? else { return Ok(None) };
    let file = patch.as_file().try_clone();
    let at = |err: Error| err.with_path(patch.path());
    let file = PatchFile::new(file.map_err(read_error).map_err(at)?, 0);
    verify_seal(file.rewound(), &found, &|| Ok(())).map_err(at)?;
    let Some(sealed) = &found.seal.base else { return Ok(None) };
    let open = || PatchReader::new(file.rewound(), patch.path());
    let state = base_state(base, sealed, sizes.limit_bytes, &open, &|| Ok(()))?;
    let BaseState::Foreign { first, differing, parts } = state else { return Ok(None) };
    Ok(Some(format!(
        "{} is not in the state that the patch is sealed for: {differing} of {parts} parts differ, \
         the first one at {first}; bdsync --patch would refuse it, and merged is not what the patch \
         was made to make",
        base.path().display()
    )))
}

//! What the seal of a patch says to who applies it or only looks at it.

use crate::cli::SizeOptions;
use crate::device::{Device, FileDevice};
use crate::error::{Error, Result};
use crate::patch::{
    BaseState, FoundSeal, PatchFile, PatchReader, Seal, SizePlan, read_error, target_state,
    verify_seal,
};
use crate::units::{ByteRange, SizeRule};

/// What differing sizes mean for a patch with such a seal: an undo patch takes back a resize
/// without being told to, unless it is told otherwise.
pub(super) fn size_rule(sizes: SizeOptions, seal: Option<&Seal>) -> SizeRule {
    match seal {
        Some(seal) if seal.resize && !sizes.is_given => SizeRule::Resize,
        _ => sizes.rule,
    }
}

/// Holds the patch against its seal, and the base as well: a warning, to be kept for the status,
/// when the base is in another state than the patch was made for, so that applying would be
/// refused.
///
/// # Errors
/// `Kind::Patch` when the patch is not as it was sealed, those of reading both.
pub(super) fn judge(
    patch: &FileDevice,
    seal: Option<&FoundSeal>,
    base: &FileDevice,
    sizes: &SizePlan,
) -> Result<Option<String>> {
    let Some(found) = seal else { return Ok(None) };
    let file = patch.as_file().try_clone();
    let at = |err: Error| err.with_path(patch.path());
    let file = PatchFile::new(file.map_err(read_error).map_err(at)?, 0);
    verify_seal(file.rewound(), found, &|| Ok(())).map_err(at)?;
    let open = || PatchReader::new(file.rewound(), patch.path());
    let state = target_state(base, &found.seal, sizes, &open, &|| Ok(()))?;
    let fault = state.as_ref().and_then(BaseState::fault);
    let warning = |(fault, range): (String, ByteRange)| {
        format!(
            "{} is not in the state that the patch is sealed for: {fault} {range}; bdsync --patch \
             would refuse it, and merged is not what the patch was made to make",
            base.path().display()
        )
    };
    Ok(fault.map(warning))
}

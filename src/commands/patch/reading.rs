//! The patch on stdin, read as often as it takes.

use std::io::Read;
use std::path::Path;

use crate::commands::counted::Counted;
use crate::commands::input::{STDIN_NAME, decoded};
use crate::compress::Decoder;
use crate::error::{Error, Result};
use crate::patch::format::MAGIC;
use crate::patch::{
    Digested, FoundSeal, PatchFile, PatchReader, Seal, Summary, Trailer, check, check_file,
    read_error, spool,
};
use crate::progress::{Part, Progress};

/// A copy of `input` in `folder`, if it begins as a patch does: of anything else a copy could fill
/// the disk before that shows. It is a part of the run that `progress` is told of. `is_wanted` is
/// asked every so often.
///
/// # Errors
/// `Kind::Patch` when it is no patch; those of [`spool`].
pub(super) fn kept(
    mut input: impl Read,
    folder: &Path,
    progress: &dyn Progress,
    is_wanted: &dyn Fn() -> Result<()>,
) -> Result<PatchFile> {
    let mut begin = Vec::new();
    if let Err(err) = input.by_ref().take(MAGIC.len() as u64).read_to_end(&mut begin) {
        is_wanted()?;
        return Err(read_error(err).with_path(STDIN_NAME));
    }
    if !MAGIC.starts_with(&begin) && decoded(&begin[..], STDIN_NAME)?.format().is_none() {
        PatchReader::new(&begin[..], STDIN_NAME)?;
    }
    progress.begin(Part::Keeping, None);
    let whole = (&begin[..]).chain(input);
    let whole = Counted::new(whole, |read_bytes| progress.advance(read_bytes, 0));
    spool(whole, folder, is_wanted)
}

/// Reads the whole patch; a compressed one in order.
pub(super) fn check_patch(
    file: &PatchFile,
    is_wanted: &(dyn Fn() -> Result<()> + Sync),
) -> Result<Summary> {
    let mut input = decoded(file.rewound(), STDIN_NAME)?;
    if input.format().is_none() {
        return check_file(file, STDIN_NAME, is_wanted);
    }
    let summary = check(PatchReader::new(&mut input, STDIN_NAME)?, is_wanted)?;
    tell_ignored(input.padding_bytes());
    Ok(summary)
}

/// The patch from its first byte. A compressed one is decompressed again each time: no copy of
/// it is made, in memory or elsewhere.
pub(super) fn open_patch(file: &PatchFile) -> Result<PatchReader<Decoder<PatchFile>>> {
    PatchReader::new(decoded(file.rewound(), STDIN_NAME)?, STDIN_NAME)
}

/// The seal behind a patch's checksum field, if there is one.
pub(super) fn decode_seal(trailer: &Trailer) -> Result<Option<FoundSeal>> {
    let at = |err: Error| err.with_path(STDIN_NAME).with_offset(trailer.tail_position);
    let seal = Seal::decode(&trailer.tail).map_err(at)?;
    if seal.is_none() {
        tell_ignored(trailer.tail.len() as u64);
    }
    Ok(seal)
}

/// Warns of what stands behind the patch and is no part of it.
fn tell_ignored(bytes: u64) {
    if bytes > 0 {
        log::warn!("{bytes} bytes behind the patch are ignored");
    }
}

/// What can be told of the seal of a patch when all of it was read, and applied, as it came.
pub(super) fn verify_late<R: Read>(patch: &Digested<Decoder<R>>, trailer: &Trailer) -> Result<()> {
    tell_ignored(patch.get_ref().padding_bytes());
    let Some(found) = decode_seal(trailer)? else { return Ok(()) };
    patch.verify(&found).map_err(|err| err.with_path(STDIN_NAME))?;
    if found.seal.base.is_some() {
        log::warn!(
            "the patch is sealed, but came through a pipe: whether the target was in the state \
             that it is for was not checked (--spool checks it before the first write)"
        );
    }
    Ok(())
}

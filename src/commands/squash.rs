//! `bdsync squash A B ...`: one patch of several that follow each other.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::counted::Counted;
use super::input;
use super::record::Record;
use crate::cli::SquashOptions;
use crate::device::Device;
use crate::error::Result;
use crate::patch::{Layer, Squash};
use crate::progress::{Part, Progress};
use crate::report;
use crate::units::human_bytes;

/// Writes the patch to `output`. All patches are checked to their ends before that.
///
/// # Errors
/// `Kind::Usage` when they name different devices, `Kind::Patch`, those of reading and writing.
pub fn run(options: &SquashOptions, record: &Record, output: impl Write) -> Result<u8> {
    report::log_to_stderr(options.reporting.verbosity);
    let progress = super::progress(options.reporting.progress)?;
    let layers = open(options, record, &*progress)?;
    // No byte of data is written twice, so that they add no more to the result.
    let patches_bytes: u64 = layers.iter().map(|layer| layer.index().patch_bytes()).sum();
    let squash = Squash::new(layers, options.base_bytes, options.force)?;
    let zeros_bytes_max = squash.zeros_bytes_max();
    if zeros_bytes_max > patches_bytes {
        log::warn!("up to {} of zeros will be written out", human_bytes(zeros_bytes_max));
    }
    progress.begin(Part::Writing, Some(patches_bytes.saturating_add(zeros_bytes_max)));
    let output = input::encoded(output, options.compression)?;
    let output = Counted::new(output, |bytes| progress.advance(bytes, bytes));
    let (output, done) = squash.write(output)?;
    let patch_bytes = output.count();
    input::finish(output.into_inner())?;
    progress.finish();
    if let Some(checksum) = squash.checksum() {
        record.tell_checksum(&checksum.name, &checksum.digest);
    }
    record.tell(|facts| {
        facts.patch_bytes = Some(patch_bytes);
        facts.differing_bytes = Some(done.data_bytes.saturating_add(done.zero_bytes));
    });
    log::info!(
        "{} bytes of data are written, of {} in all patches",
        done.data_bytes,
        done.read_bytes
    );
    if done.zero_bytes > 0 {
        log::warn!(
            "{} bytes of zeros are written out because the size of the device changes on the \
             way: what lies behind {} bytes and is in no later patch becomes zeros. Wrong for \
             patches made or applied with --diffsize=minsize, which take nothing away: apply \
             those one after the other{}",
            done.zero_bytes,
            squash.smallest_bytes(),
            match options.base_bytes {
                Some(_) => "",
                None => {
                    ". --basesize, the size of the device that the first patch is for, saves what can be \
                     saved"
                }
            }
        );
    }
    Ok(0)
}

/// Checks and indexes the patches.
fn open(options: &SquashOptions, record: &Record, progress: &dyn Progress) -> Result<Vec<Layer>> {
    let stored_bytes =
        |path: &Path| fs::metadata(path).ok().map(|meta| meta.len()).filter(|&bytes| bytes > 0);
    progress.begin(Part::Reading, options.patches.iter().map(|path| stored_bytes(path)).sum());
    let (mut layers, mut done_bytes, mut plain_bytes) = (vec![], 0, 0);
    for path in &options.patches {
        let patch: Arc<dyn Device> = Arc::new(input::stored(path)?);
        let layer = Layer::open(Arc::clone(&patch))?;
        let index = layer.index();
        record.tell_patch(patch.path(), patch.size(), index.header(), index.records());
        done_bytes += stored_bytes(path).unwrap_or(patch.size());
        plain_bytes += patch.size();
        progress.advance(done_bytes, plain_bytes);
        layers.push(layer);
    }
    Ok(layers)
}

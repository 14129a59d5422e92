//! `bdsync squash A B ...`: one patch of several that follow each other.

use std::io::Write;
use std::sync::Arc;

use super::input;
use crate::cli::SquashOptions;
use crate::device::Device;
use crate::error::Result;
use crate::patch::{Layer, Squash};
use crate::report;

/// Writes the patch to `output`. All patches are checked to their ends before that.
///
/// # Errors
/// `Kind::Usage` when they name different devices, `Kind::Patch`, those of reading and writing.
pub fn run(options: &SquashOptions, output: impl Write) -> Result<u8> {
    report::log_to_stderr(options.verbosity);
    let mut layers = vec![];
    for path in &options.patches {
        let patch: Arc<dyn Device> = Arc::new(input::stored(path)?);
        layers.push(Layer::open(patch)?);
    }
    let squash = Squash::new(layers, options.base_bytes, options.force)?;
    let output = input::encoded(output, options.compression)?;
    let (output, done) = squash.write(output)?;
    input::finish(output)?;
    log::info!(
        "{} bytes of data are written, of {} in all patches",
        done.data_bytes,
        done.read_bytes
    );
    if done.zero_bytes > 0 {
        log::warn!(
            "{} bytes of zeros are written out because the size of the device changes on the \
             way; give --basesize, the size of the device that the first patch is for, to save \
             what can be saved",
            done.zero_bytes
        );
    }
    Ok(0)
}

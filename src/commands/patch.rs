//! `bdsync --patch[=DEVICE]`: applies the patch on stdin.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::cli::PatchOptions;
use crate::device::{Device, DeviceMut, FileDevice, TargetOptions, open_target};
use crate::error::{Error, Kind, Result};
use crate::patch::{
    Agreement, Apply, Checksum, Header, PatchFile, PatchReader, PatchStream, SizePlan, Summary,
    Trailer, Written, check, checksum_algorithm, verify_checksum,
};
use crate::report;
use crate::signals::Signals;
use crate::units::{ByteRange, SizeRule};

/// What messages call the patch.
const STDIN_NAME: &str = "standard input";

/// Applies the patch on stdin. A patch that can be read twice is checked to its end before the
/// first write.
///
/// # Errors
/// The one error that ended it, of any kind but those of a remote side.
pub fn run(options: &PatchOptions) -> Result<u8> {
    report::log_to_stderr(options.verbosity);
    let signals = Signals::catch()?;
    let stdin = io::stdin();
    if let Some(file) = PatchFile::of_fd(stdin.as_fd())? {
        let summary = check(PatchReader::new(file.rewound(), STDIN_NAME)?)?;
        Job { options, signals: &signals }.run(file, Some(&summary))?;
    } else {
        let input = stdin.as_fd().try_clone_to_owned();
        let input = input.map_err(|err| Error::io(Kind::Read, "cannot read the patch", err))?;
        let input = PatchStream::new(input, &signals);
        Job { options, signals: &signals }.run(input, None)?;
    }
    Ok(0)
}

/// One apply.
struct Job<'a> {
    options: &'a PatchOptions,
    signals: &'a Signals,
}

impl Job<'_> {
    fn run<R: Read>(&self, input: R, summary: Option<&Summary>) -> Result<()> {
        let mut reader = PatchReader::new(input, STDIN_NAME)?;
        if let Some(checksum) = summary.and_then(|summary| summary.trailer.checksum.as_ref()) {
            // Said before anything is written, where that is possible.
            checksum_algorithm(checksum)?;
        }
        let path = self.target_path(reader.header())?;
        let target = open_target(&path, TargetOptions::default())?;
        let sizes = self.plan_sizes(&target, reader.header().size_bytes)?;
        let mut written = Written::default();
        if let Err(err) = self.write(&mut reader, &target, &sizes, &mut written) {
            tell_how_to_resume(&target, written);
            return Err(err);
        }
        if let Some(trailer) = reader.trailer() {
            self.finish(&target, trailer, &sizes, written)?;
        }
        Ok(())
    }

    /// The device to patch: from the command line, or as the patch names it.
    fn target_path(&self, header: &Header) -> Result<PathBuf> {
        let named = Path::new(OsStr::from_bytes(&header.name));
        let Some(given) = &self.options.target else {
            if header.name.is_empty() {
                let what = "the patch names no device to patch: give one with --patch=DEVICE";
                return Err(Error::new(Kind::Open, what));
            }
            return Ok(named.to_owned());
        };
        if self.options.warn_device && given != named {
            report::different_names(given.as_os_str().as_bytes(), &header.name);
        }
        Ok(given.clone())
    }

    fn plan_sizes(&self, target: &FileDevice, patch_bytes: u64) -> Result<SizePlan> {
        let sizes = self.options.sizes;
        if target.size() != patch_bytes && sizes.tells_difference() {
            report::different_target_sizes(target.size(), patch_bytes);
        }
        SizePlan::new(sizes.rule, target, patch_bytes)
    }

    /// Everything that changes the device, up to where it is durable.
    fn write<R: Read>(
        &self,
        reader: &mut PatchReader<R>,
        target: &FileDevice,
        sizes: &SizePlan,
        written: &mut Written,
    ) -> Result<()> {
        let progress = super::progress(self.options.progress);
        progress.begin(reader.header().size_bytes);
        sizes.grow(target)?;
        let apply = Apply {
            target,
            limit_bytes: sizes.limit_bytes,
            signal: &|| self.signals.pending(),
            progress: &*progress,
        };
        apply.write_records(reader, written)?;
        sizes.shrink(target)?;
        target.sync()?;
        progress.finish();
        if self.options.flush_cache {
            target.done_with(ByteRange::new(0, target.size()));
        }
        log::info!("{} bytes in {} records are written", written.bytes, written.records);
        Ok(())
    }

    /// What comes when all is written and durable.
    fn finish(
        &self,
        target: &FileDevice,
        trailer: &Trailer,
        sizes: &SizePlan,
        written: Written,
    ) -> Result<()> {
        if let Some(checksum) = &trailer.checksum {
            report::checksum(&checksum.name, &checksum.digest);
            self.verify(target, checksum, sizes, written)?;
        }
        Ok(())
    }

    fn verify(
        &self,
        target: &FileDevice,
        checksum: &Checksum,
        sizes: &SizePlan,
        written: Written,
    ) -> Result<()> {
        let check = || self.signals.check("comparing the checksum ended, all is written");
        match verify_checksum(target, checksum, sizes, written.record_bytes_max, &check) {
            Ok(Agreement::Exact) => {
                log::info!("the device has the patch's checksum");
                Ok(())
            }
            Ok(Agreement::Padded(bytes)) => {
                log::info!("the device, filled up to {bytes} bytes, has the patch's checksum");
                Ok(())
            }
            // The checksum is that of the whole source, of which a part may be missing here.
            Err(err)
                if err.kind() == Kind::Checksum && self.options.sizes.rule == SizeRule::MinSize =>
            {
                log::warn!(
                    "the checksum cannot confirm a part of the device: {}",
                    err.full_message()
                );
                Ok(())
            }
            Err(err) => Err(err),
        }
    }
}

fn tell_how_to_resume(target: &FileDevice, written: Written) {
    if written.records > 0 {
        log::warn!(
            "{} is partly patched ({} bytes in {} records): apply the same patch again to finish",
            target.path().display(),
            written.bytes,
            written.records
        );
    }
}

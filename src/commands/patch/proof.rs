//! What shows that an apply has done right: the target read back, and its checksum.

use std::cell::Cell;

use super::Job;
use super::reading::open_patch;
use crate::device::{Device, DirectDevice, FileDevice};
use crate::error::{Kind, Result};
use crate::patch::{
    Agreement, Checksum, PatchFile, Seal, SizePlan, Summary, Trailer, checksum_algorithm,
    verify_checksum, verify_records,
};
use crate::progress::Part;
use crate::report;
use crate::units::{ByteRange, MIB, SizeRule};

/// So many zeros behind a target are digested without a word.
const TOLD_BYTES: u64 = 1024 * MIB;

/// What is known of a patch once it was read to its end.
pub(super) struct Ending {
    pub(super) trailer: Trailer,
    /// Size of the device that it makes.
    pub(super) patch_bytes: u64,
    pub(super) record_bytes_max: u64,
}

impl Ending {
    /// Whether the patch has a seal, which one of the classic has not.
    fn is_sealed(&self) -> bool {
        Seal::decode(&self.trailer.tail).is_ok_and(|found| found.is_some())
    }

    fn of(summary: &Summary) -> Self {
        Self {
            trailer: summary.trailer.clone(),
            patch_bytes: summary.header.size_bytes,
            record_bytes_max: summary.record_bytes_max,
        }
    }
}

impl Job<'_> {
    /// What comes when all is written and durable.
    pub(super) fn read_back(
        &self,
        target: &FileDevice,
        summary: &Summary,
        sizes: &SizePlan,
        file: &PatchFile,
    ) -> Result<()> {
        let ending = Ending::of(summary);
        if !self.options.verify {
            return self.compare_checksum(target, &ending, sizes);
        }
        // All is synced, so that this drops it from the cache, from which some file systems answer
        // direct reads as well.
        target.drop_cache(ByteRange::new(0, target.size()));
        let direct = DirectDevice::of(target);
        let device: &dyn Device = direct.as_ref().map_or(target, |direct| direct);
        let open = || open_patch(&file.as_part(Part::Verifying, self.progress));
        let checking = || self.signals.check("reading back ended, all is written");
        let checked = verify_records(device, sizes.limit_bytes, summary, &open, &checking);
        self.record.tell_verified(&checked);
        checked?;
        log::info!("what was written reads back as it should");
        self.compare_checksum(device, &ending, sizes)
    }

    pub(super) fn compare_checksum(
        &self,
        device: &dyn Device,
        ending: &Ending,
        sizes: &SizePlan,
    ) -> Result<()> {
        let Some(checksum) = &ending.trailer.checksum else { return Ok(()) };
        let Checksum { name, digest } = checksum;
        report::checksum(name, digest);
        self.record.tell_checksum(name, digest);
        if sizes.limit_bytes < ending.patch_bytes {
            log::warn!(
                "the checksum is not compared: it is of {} bytes, {} of which the target has",
                ending.patch_bytes,
                sizes.limit_bytes
            );
            return Ok(());
        }
        if let Err(err) = checksum_algorithm(checksum)
            && self.options.force
        {
            log::warn!("the checksum is not compared: {err}");
            return Ok(());
        }
        self.progress.begin(Part::Digesting, Some(sizes.limit_bytes));
        let is_larger = Cell::new(false);
        let checking = |digested_bytes: u64| {
            if digested_bytes.saturating_sub(sizes.limit_bytes) > TOLD_BYTES
                && !is_larger.replace(true)
            {
                self.tell_padding(sizes);
            }
            self.progress.advance(digested_bytes, 0);
            self.signals.check("comparing the checksum ended, all is written")
        };
        let (longest, may_be_padded) = (ending.record_bytes_max, !ending.is_sealed());
        match verify_checksum(device, checksum, sizes, longest, may_be_padded, &checking) {
            Ok(Agreement::Exact) => log::info!("the device has the patch's checksum"),
            Ok(Agreement::Padded(bytes)) => {
                log::info!("the device, filled up to {bytes} bytes, has the patch's checksum");
            }
            Err(err) if err.kind() == Kind::Checksum && self.may_be_of_more() => {
                log::warn!("{}", err.full_message());
                log::warn!(
                    "only a warning, because of --diffsize=minsize: the checksum may be of a source \
                     that is larger than the patch (with --verify it is an error)"
                );
            }
            Err(err) => return Err(err),
        }
        Ok(())
    }

    /// Of a target that was cut by terabytes it takes as long as digesting those.
    fn tell_padding(&self, sizes: &SizePlan) {
        log::warn!(
            "the target has not the checksum of the patch, unless that is a classic bdsync's, which \
             covers zeros up to the {} bytes that the target had: these are being digested",
            sizes.before_bytes
        );
        self.progress.begin(Part::Digesting, Some(sizes.before_bytes));
    }

    /// Whether a checksum may be of a source of which the patch has, on purpose, only a part.
    /// A patch does not tell that; who asks for proof gets none then.
    fn may_be_of_more(&self) -> bool {
        self.options.sizes.rule == SizeRule::MinSize && !self.options.verify
    }
}

//! `bdsync --patch[=DEVICE]`: applies the patch on stdin.
//!
//! ```text
//!   stdin is a file, or --spool makes it one,         stdin is a pipe
//!   once the DEVICE is open                             |
//!     check all of it; its seal                         |
//!     open the target, plan its size                  open the target, plan its size
//!     the target's state, against the seal              |
//!     --dry-run: say what would be written              |
//!     --undo: save what will change                     |
//!     write, sync                                     write as it comes, sync
//!     --verify: read back                             its seal, which stands at its end
//!     compare the checksum                            compare the checksum
//! ```

mod for_sync;
mod proof;
mod reached;
mod reading;
mod words;

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use self::for_sync::{Awaited, Life, refuse_another, refuse_resized};
use self::proof::Ending;
use self::reached::is_changed;
use self::reading::{check_patch, decode_seal, kept, open_patch, verify_late};
pub(super) use self::words::{IN_PART, UNTOUCHED, WAY_BACK, WRITTEN, undo_command};
use self::words::{tell_foreign, tell_late_fault, tell_uncompared, tell_uncut};
use super::input::{STDIN_NAME, decoded, refuse_terminal, temp_folder};
use super::record::{DeviceFacts, Record};
use super::sealed;
use super::target_state::TargetState;
use crate::cli::{PatchOptions, Spool};
use crate::device::{Device, DeviceMut, FileDevice, TargetOptions, open_target};
use crate::error::{Error, Kind, Result};
use crate::patch::{
    Apply, BaseState, Digested, FoundSeal, Header, PatchFile, PatchReader, PatchStream, SizePlan,
    Written, Zeros, checksum_algorithm, refuse_existing, target_state, verify_seal, write_undo,
};
use crate::progress::{Part, Progress};
use crate::report;
use crate::signals::Signals;
use crate::units::{ByteRange, SizeRule};

/// Applies the patch on stdin. A patch that can be read twice is checked to its end before the
/// first write.
///
/// # Errors
/// The one error that ended it, of any kind but those of a remote side.
pub fn run(options: &PatchOptions, record: &Record) -> Result<u8> {
    report::log_to_stderr(options.reporting.verbosity);
    record.tell(|facts| facts.dry_run = options.dry_run.then_some(true));
    let signals = Signals::catch()?;
    let life = options.sync_disk.map(|_| Life::show()).transpose()?;
    let state = Mutex::new(TargetState::Untouched);
    apply(options, record, &signals, life.as_ref(), &state).inspect_err(|_| {
        let state = *state.lock();
        record.tell(|facts| facts.target_state = Some(state.word()));
        if let Some(life) = life {
            life.tell(state);
        }
    })?;
    Ok(0)
}

/// The same; `state` is what is true of the target, should it fail.
fn apply(
    options: &PatchOptions,
    record: &Record,
    signals: &Signals,
    life: Option<&Life>,
    state: &Mutex<TargetState>,
) -> Result<()> {
    if let Some(path) = &options.undo {
        refuse_existing(path)?;
    }
    refuse_terminal()?;
    let progress = &super::progress(options.reporting.progress)?;
    let stdin = io::stdin();
    let file = PatchFile::of_fd(stdin.as_fd()).map_err(|err| err.with_path(STDIN_NAME))?;
    let is_piped = file.is_none();
    let job = Job { options, signals, record, progress, is_piped, life, state };
    signals.watched(|_| signals.give_up_input(), || job.run(file, stdin.as_fd())).flatten()?;
    progress.finish();
    Ok(())
}

/// How a patch is written.
#[derive(Clone, Copy)]
struct How {
    zeros: Zeros,
    is_sealed: bool,
}

/// One apply.
struct Job<'a> {
    options: &'a PatchOptions,
    signals: &'a Signals,
    record: &'a Record,
    progress: &'a Arc<dyn Progress>,
    /// Whether the patch comes from another process, and may be nowhere else.
    is_piped: bool,
    /// Where somebody waits for signs of it.
    life: Option<&'a Life>,
    /// What is true of the target, should it fail now.
    state: &'a Mutex<TargetState>,
}

impl Job<'_> {
    fn run(&self, file: Option<PatchFile>, stdin: BorrowedFd<'_>) -> Result<()> {
        if let Some(file) = file {
            return self.run_checked(&file, None);
        }
        let unread =
            |err| Error::io(Kind::Read, "cannot read the patch", err).with_path(STDIN_NAME);
        let input = stdin.try_clone_to_owned().map_err(unread)?;
        let input = PatchStream::new(input, self.signals);
        let is_at_end = input.is_at_end();
        let input = Awaited::new(input, self.life.cloned());
        // Before the wait for the patch: nobody else is to write to it meanwhile.
        let is_first = self.options.spool.is_some() || self.life.is_some();
        let path = self.options.target.as_deref().filter(|_| is_first);
        let target = path.map(|path| self.open_device(path)).transpose()?;
        if let Some(spool) = &self.options.spool {
            let folder = match spool {
                Spool::Temporary => temp_folder(),
                Spool::Folder(folder) => folder.clone(),
            };
            let check = || self.signals.check("nothing is written");
            let file = kept(input, &folder, &**self.progress, &check)?;
            return self.run_checked(&file, target);
        }
        self.run_stream(input, is_at_end, target)
    }

    /// A patch that comes once: applied as it comes. `is_at_end` is set where it ends; `opened` is
    /// the target where it is open already.
    fn run_stream(
        &self,
        input: impl Read,
        is_at_end: Arc<AtomicBool>,
        opened: Option<FileDevice>,
    ) -> Result<()> {
        // A wait for input that a signal ended is no fault of the input.
        let ended = |err| self.signals.check("nothing was applied yet").err().unwrap_or(err);
        let mut input = Digested::new(decoded(input, STDIN_NAME).map_err(ended)?);
        let reader = PatchReader::new(&mut input, STDIN_NAME).map_err(ended)?;
        let mut reader = reader.as_it_comes(is_at_end);
        let target = self.target(reader.header(), opened)?;
        let patch_bytes = reader.header().size_bytes;
        let sizes = self.plan_sizes(&target, patch_bytes, self.options.sizes.rule)?;
        let how = self.how_as_it_comes();
        let written = self.write(&mut reader, &target, &sizes, how)?;
        let trailer = reader.expect_trailer()?;
        verify_late(&input, &trailer).inspect_err(|_| {
            if is_changed(&target, &sizes, &written) {
                tell_late_fault(&target, &trailer);
                tell_uncut(&target, &sizes);
            }
        })?;
        self.reach_written(&sizes);
        let record_bytes_max = written.record_bytes_max;
        let is_comparable =
            trailer.checksum.as_ref().is_none_or(|checksum| checksum_algorithm(checksum).is_ok());
        self.compare_checksum(&target, &Ending { trailer, patch_bytes, record_bytes_max }, &sizes)
            .inspect_err(|err| match is_comparable {
                true => self.tell_fault(&target, &sizes, &written, err),
                false => tell_uncompared(&target, &sizes),
            })?;
        self.cut(&target, &sizes, &written, how)?;
        self.expect_nothing_else(&target, &sizes)
    }

    /// A patch that can be read twice; `opened` is the target where it is open already.
    fn run_checked(&self, file: &PatchFile, opened: Option<FileDevice>) -> Result<()> {
        let checking = || self.signals.check("checking ended, nothing is written");
        let passed = || file.as_part(Part::Checking, self.progress);
        let summary = check_patch(&passed(), &checking)?;
        let trailer = &summary.trailer;
        if let Some(checksum) = trailer.checksum.as_ref().filter(|_| !self.options.force) {
            checksum_algorithm(checksum).map_err(|err| {
                let what = format!("{err} (--force applies the patch and does not compare)");
                Error::new(err.kind(), what)
            })?;
        }
        let seal = decode_seal(trailer)?;
        if let Some(found) = &seal {
            verify_seal(decoded(passed(), STDIN_NAME)?, found, &checking)
                .map_err(|err| err.with_path(STDIN_NAME))?;
        }
        let target = self.target(&summary.header, opened)?;
        let rule = sealed::size_rule(self.options.sizes, seal.as_ref().map(|found| &found.seal));
        let sizes = self.plan_sizes(&target, summary.header.size_bytes, rule)?;
        if let Some(found) = &seal {
            self.check_base(&target, found, &sizes, file)?;
        }
        if self.options.dry_run {
            self.tell_dry_run(&target, &summary, &sizes);
            return Ok(());
        }
        self.tell_sealed_size(&target, &sizes);
        if let Some(path) = &self.options.undo {
            let mut patch = open_patch(&file.as_part(Part::Saving, self.progress))?;
            write_undo(path, &target, &sizes, &mut patch, &summary, &checking)?;
            self.reach(TargetState::UnusedUndo);
            log::info!("{} takes the patch back", path.display());
        }
        let mut patch = open_patch(file).inspect_err(|_| self.tell_unused_undo(&target))?;
        let how = self.how(seal.as_ref());
        let written = self.write(&mut patch, &target, &sizes, how)?;
        self.reach_written(&sizes);
        summary.places.expect(written.places).map_err(|err| {
            let target = target.path().display();
            let unsaved = if self.options.undo.is_some() { " nor --undo" } else { "" };
            let what = format!(
                "the patch file was changed while it was applied: {target} has bytes that the \
                 check{unsaved} has not seen, compare it with its source again"
            );
            err.reworded(what).with_path(STDIN_NAME)
        })?;
        self.read_back(&target, &summary, &sizes, file)
            .inspect_err(|err| self.tell_fault(&target, &sizes, &written, err))?;
        self.cut(&target, &sizes, &written, how)?;
        self.expect_nothing_else(&target, &sizes)
    }

    /// The device to patch: from the command line, or as the patch names it; `opened` if it is.
    fn target(&self, header: &Header, opened: Option<FileDevice>) -> Result<FileDevice> {
        let named = Path::new(OsStr::from_bytes(&header.name));
        if let Some(given) = &self.options.target {
            if self.options.warn_device && given != named {
                report::different_names(given.as_os_str().as_bytes(), &header.name);
            }
            return opened.map_or_else(|| self.open_device(given), Ok);
        }
        if header.name.is_empty() {
            let what = "the patch names no device to patch: give one with --patch=DEVICE";
            return Err(Error::new(Kind::Open, what));
        }
        self.record.claims.changes("the target", named)?;
        self.open_device(named)
    }

    fn open_device(&self, path: &Path) -> Result<FileDevice> {
        let target = open_target(path, TargetOptions { force: self.options.force })?;
        if let Some(compared) = self.options.sync_disk {
            refuse_another(&target, compared)?;
        }
        if let Some(bytes) = self.options.sync_bytes {
            refuse_resized(&target, bytes)?;
        }
        if self.options.flush_cache {
            target.keep_cache();
        }
        if let Some(life) = self.life {
            life.tell_open();
        }
        Ok(target)
    }

    fn plan_sizes(
        &self,
        target: &FileDevice,
        patch_bytes: u64,
        rule: SizeRule,
    ) -> Result<SizePlan> {
        let tells = self.options.sizes.warn || rule == SizeRule::Strict;
        if target.size() != patch_bytes && tells {
            report::different_target_sizes(target.size(), patch_bytes);
        }
        self.record.tell(|facts| facts.target = Some(DeviceFacts::here(target)));
        SizePlan::new(rule, target, patch_bytes)
    }

    /// Fails when the target holds neither the blocks that the patch was made for nor those that
    /// it makes.
    ///
    /// What it holds already is written all the same: it may be in the cache alone, and lost
    /// there by a disk that failed to take it.
    fn check_base(
        &self,
        target: &FileDevice,
        found: &FoundSeal,
        sizes: &SizePlan,
        file: &PatchFile,
    ) -> Result<()> {
        if self.options.force {
            return Ok(());
        }
        let open = || open_patch(&file.as_part(Part::Checking, self.progress));
        let checking = || self.signals.check("checking the target ended, nothing is written");
        let state = target_state(target, &found.seal, sizes, &open, &checking)?;
        match state {
            Some(BaseState::Applied) => {
                let found = format!("{} holds the patch already", target.path().display());
                self.warn_of_late_apply(&found, "writing it again");
            }
            Some(BaseState::Interrupted) => {
                let found = "an earlier apply of this patch was cut short";
                self.warn_of_late_apply(found, "going on with it");
            }
            _ => {}
        }
        let Some((fault, range)) = state.as_ref().and_then(BaseState::fault) else {
            return Ok(());
        };
        tell_foreign(target, &found.seal);
        let forced = match state {
            Some(BaseState::Foreign { .. }) => {
                "finishes an apply of this patch that a power failure cut short"
            }
            _ => "applies it all the same",
        };
        let what = format!(
            "nothing is written, as the target is not in the state that the patch is sealed for \
             (is it the right device? --force {forced}): {fault}"
        );
        Err(Error::new(Kind::Seal, what).with_path(target.path()).with_range(range))
    }

    /// Of a patch that can be read once: it may be an undo patch, which is not to want room that
    /// its target never had.
    fn how_as_it_comes(&self) -> How {
        let zeros = if self.options.sparse { Zeros::Holes } else { Zeros::WrittenOverData };
        How { zeros, is_sealed: false }
    }

    fn how(&self, seal: Option<&FoundSeal>) -> How {
        let zeros = match seal {
            _ if self.options.sparse => Zeros::Holes,
            Some(found) if found.seal.resize => Zeros::WrittenOverData,
            _ => Zeros::Written,
        };
        How { zeros, is_sealed: seal.is_some() }
    }

    /// Everything that changes the device but for its end, up to where it is durable.
    fn write<R: Read>(
        &self,
        reader: &mut PatchReader<R>,
        target: &FileDevice,
        sizes: &SizePlan,
        how: How,
    ) -> Result<Written> {
        self.progress.begin(Part::Writing, Some(reader.header().size_bytes));
        let apply = Apply {
            target,
            limit_bytes: sizes.limit_bytes,
            zeros: how.zeros,
            signal: &|| self.signals.pending(),
            progress: &**self.progress,
        };
        self.reach(TargetState::PartlyChanged);
        let mut written = Written::default();
        let wake = || self.signals.give_up_input();
        let done = sizes
            .grow(target)
            .and_then(|()| apply.write_records(reader, &mut written, &wake))
            .and_then(|()| target.sync());
        self.record.tell(|facts| facts.written_bytes = Some(written.bytes));
        done.inspect_err(|err| self.tell_failed_write(err, target, sizes, &written, how))?;
        if self.options.flush_cache {
            target.done_with(ByteRange::new(0, target.size()));
        }
        log::info!("{} bytes in {} records are written", written.bytes, written.records);
        Ok(written)
    }

    /// Cuts the target's end off, if it loses one, now that nothing else speaks against the patch.
    fn cut(
        &self,
        target: &FileDevice,
        sizes: &SizePlan,
        written: &Written,
        how: How,
    ) -> Result<()> {
        if sizes.shrinks() {
            // What something else has cut off would come back as zeros, and in the right size.
            self.expect_own_size(target, sizes)?;
            let done = sizes.shrink(target).and_then(|()| target.sync());
            done.inspect_err(|err| self.tell_failed_write(err, target, sizes, written, how))?;
            self.reach(TargetState::NotVerified);
        }
        Ok(())
    }
}

//! `bdsync mount`: the pending patch as a file system.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use crossbeam_channel::Sender;

use super::client::{exit_status, hint, target_name};
use super::input;
use super::last_words;
use super::notify;
use super::record::{DeviceFacts, Record};
use super::scan;
use super::sealed;
use super::session::{Reading, Session};
use crate::background::Background;
use crate::cli::{MountOptions, MountSource, SessionOptions, SizeOptions};
use crate::device::{Device, open_source};
use crate::diff::SourceChecksum;
use crate::error::{Error, Kind, Result};
use crate::fuse::daemon::{Forked, StartingDaemon, split};
use crate::fuse::{Mount, Mountpoint, Start, take_away_dead};
use crate::progress::{Meter, Part, Progress as _, answer_requests};
use crate::report;
use crate::units::{MIB, human_bytes};
use crate::view::status::ScanState;
use crate::view::{Change, LiveChange, LiveOptions, Status, StoredChange, View};

/// Shows the change until the mount is gone; returns 0, or what REMSHCMD exited with. `report` is
/// where the record goes of a run that a signal ends before there is a mount.
///
/// # Errors
/// The one error that ended it: what is wrong with the mountpoint or the inputs before it is
/// mounted, or what went wrong since.
pub fn run(options: &MountOptions, record: &Arc<Record>, report: Option<&Path>) -> Result<u8> {
    // Cheap refusals first: before another process, and before the remote side is bothered.
    let mountpoint = Mountpoint::check(&options.mountpoint, &inputs(&options.source))?;
    let daemon = if options.daemon {
        // What a process that was killed leaves has nobody to take it away.
        match split().inspect_err(|_| take_away_dead(&mountpoint))? {
            Forked::Parent(status) => {
                record.hand_over();
                return Ok(status);
            }
            Forked::Child(daemon) => {
                report::log_as_daemon(options.reporting.verbosity);
                Some(daemon)
            }
        }
    } else {
        report::log_to_stderr(options.reporting.verbosity);
        None
    };
    let told = report.map(|path| (Arc::clone(record), path.to_owned()));
    let start = Start::watch(move |signal| {
        if let Some((record, path)) = &told {
            last_words::save(record, path, signal);
            // Where the process survives the signal.
            record.hand_over();
        }
    })?;
    let outcome = show(options, record, mountpoint, daemon, &start);
    start.settle(outcome, report.is_some_and(Record::may_wait))
}

/// From where the change is opened to where the mount is gone, and all of the session.
fn show(
    options: &MountOptions,
    record: &Record,
    mountpoint: Mountpoint,
    daemon: Option<StartingDaemon>,
    start: &Start,
) -> Result<u8> {
    let known: Arc<OnceLock<Known>> = Arc::default();
    let asked = Arc::clone(&known);
    let answers =
        answer_requests(move || asked.get().map(|(change, meter)| known_line(&**change, meter)))?;
    let (change, live) = open(&options.source, record)?;
    // Nobody else sets it.
    let _ = known.set((Arc::clone(&change), Meter::default()));
    let shown = Arc::clone(&change);
    let view = Arc::new(View::new(change, options.readers)?);
    let name = source_name(&options.source);
    let events = start.to_mount()?;
    let link_lost = events.on_link_loss();
    let mount = Mount::attach(view, mountpoint, options.readers, &options.name, events)?;
    match daemon {
        Some(daemon) => daemon.detach()?,
        None => report::notice(&format!(
            "{name} is mounted at {}; umount, Ctrl-C or SIGTERM end it",
            mount.path().display()
        )),
    }
    notify::ready(&format!("{name} can be read at {}", mount.path().display()));
    let watch = watch_scan(options, live.as_ref())?;
    if let (MountSource::Live { ends_with_link: true, .. }, Some(live)) = (&options.source, &live) {
        live.when_link_lost(link_lost);
    }
    let served = mount.serve();
    drop((watch, answers, known));
    let status = shown.status();
    tell_outcome(record, &status);
    // Whatever went wrong here: nothing of the session stays behind.
    let finished = live.as_ref().map(|live| match &served {
        Ok(_) => live.finish(),
        Err(err) => live.give_up(err.duplicate()),
    });
    if let Some(live) = live.filter(|_| drops_cache(&options.source)) {
        live.forget_local();
    }
    // One who ends the mount by a signal does not ask; reads may have failed because of it.
    if served?.is_some() {
        return Ok(0);
    }
    judge(&status, finished.map_or(Ok(0), |status| status.map(exit_status)))
}

/// What a mount ends with that was unmounted, where its session ended with `code`.
fn judge(status: &Status, code: Result<u8>) -> Result<u8> {
    if status.source_changed {
        let what = match status.failed_reads {
            // Whoever had a file open may have got bytes of another state, or fewer.
            0 => "an input was changed while it was mounted",
            // What failed last may have another cause.
            _ => "an input was changed; reads have failed, at last",
        };
        return Err(with_last_error(status, Kind::Transmission, what));
    }
    match code? {
        0 if status.failed_reads > 0 => {
            Err(with_last_error(status, Kind::Read, "reads have failed"))
        }
        code => Ok(code),
    }
}

/// What went wrong of a mount: `what`, and its last error if it has one.
fn with_last_error(status: &Status, kind: Kind, what: &str) -> Error {
    match &status.last_error {
        Some(told) => Error::new(kind, format!("{what}: {told}")),
        None => Error::new(kind, what),
    }
}

/// Puts on record what was compared by now, by the names of `status.json`.
fn tell_outcome(record: &Record, status: &Status) {
    record.tell(|facts| {
        facts.compared_bytes = Some(status.compared_bytes);
        facts.differing_bytes = Some(status.differing_bytes);
        facts.patch_bytes = status.patch_bytes;
        facts.wire_sent_bytes = Some(status.sent_bytes);
        facts.wire_received_bytes = Some(status.received_bytes);
    });
}

/// The change once there is one, and how far its comparison is.
type Known = (Arc<dyn Change>, Meter);

/// What is known of a change by now, in a line. Rates and times mean something only while it is
/// compared without anybody reading it.
fn known_line(change: &dyn Change, meter: &Meter) -> String {
    let Status { scan, total_bytes, compared_bytes, differing_bytes, .. } = change.status();
    if meter.snapshot().is_none() {
        meter.begin(Part::Comparing, Some(total_bytes));
    }
    meter.advance(compared_bytes, differing_bytes);
    match meter.snapshot() {
        Some(now) if scan == ScanState::Running => now.line(),
        _ => format!(
            "{} of {} compared, {} differ",
            human_bytes(compared_bytes),
            human_bytes(total_bytes),
            human_bytes(differing_bytes),
        ),
    }
}

/// Tells a user at the terminal how far the scan in the background is.
fn watch_scan(
    options: &MountOptions,
    live: Option<&Arc<LiveChange>>,
) -> Result<Option<Background<Sender<()>>>> {
    match (&options.source, live) {
        (MountSource::Live { scan_in_background: true, .. }, Some(live)) if !options.daemon => {
            scan::watch(Arc::clone(live), super::listener(options.reporting.progress)).map(Some)
        }
        _ => Ok(None),
    }
}

/// What the mount reads here.
fn inputs(source: &MountSource) -> Vec<&Path> {
    match source {
        MountSource::Live { session, .. } => vec![&session.local],
        MountSource::Stored { patch, base, .. } => vec![patch, base],
    }
}

/// Whether the page cache is to be as it was before, once the mount is gone.
fn drops_cache(source: &MountSource) -> bool {
    matches!(source, MountSource::Live { session, .. } if session.compare.flush_cache)
}

/// What messages call the change.
fn source_name(source: &MountSource) -> String {
    match source {
        MountSource::Live { session, .. } => {
            format!("the change between {} and its remote side", session.local.display())
        }
        MountSource::Stored { patch, .. } => patch.display().to_string(),
    }
}

/// A change, and the session to end in good order when it is a live one.
type Opened = (Arc<dyn Change>, Option<Arc<LiveChange>>);

fn open(source: &MountSource, record: &Record) -> Result<Opened> {
    match source {
        MountSource::Stored { patch, base, sizes } => {
            Ok((open_stored(patch, base, *sizes, record)?, None))
        }
        MountSource::Live { session, scan_in_background, cache_mib, .. } => {
            let live = open_live(session, *scan_in_background, *cache_mib, record)?;
            Ok((Arc::clone(&live) as Arc<dyn Change>, Some(live)))
        }
    }
}

fn open_live(
    session_options: &SessionOptions,
    background: bool,
    cache_mib: u32,
    record: &Record,
) -> Result<Arc<LiveChange>> {
    let SessionOptions { remote, compare, .. } = session_options;
    let session = Session::open(session_options, Reading::OnDemand)?;
    session.describe(remote, record);
    let engine = &session.engine;
    let checksum = match (session.checksum, compare.checksum.as_deref()) {
        (Some(algorithm), Some(name)) => {
            Some((name.as_bytes().to_vec(), SourceChecksum::new(engine, algorithm)?))
        }
        _ => None,
    };
    if compare.flush_cache {
        engine.local().keep_cache();
        hint(engine, 0, 0);
    }
    let options = LiveOptions {
        name: target_name(session_options).to_vec(),
        checksum,
        cache_bytes: u64::from(cache_mib) * MIB,
        background,
    };
    LiveChange::new(Arc::clone(engine), session.density(), options).map(Arc::new)
}

fn open_stored(
    patch: &Path,
    base: &Path,
    sizes: SizeOptions,
    record: &Record,
) -> Result<Arc<dyn Change>> {
    // Nothing is ever written to the base: it may be in use, and open for reading is enough.
    let base = Arc::new(open_source(base)?);
    let file = Arc::new(input::stored(patch)?);
    let rule = |seal: Option<&_>| sealed::size_rule(sizes, seal);
    let change = StoredChange::open(file.clone(), base.clone(), rule)?;
    let index = change.index();
    record.tell_patch(patch, index.patch_bytes(), index.header(), index.records());
    record.tell(|facts| facts.target = Some(DeviceFacts::here(&*base)));
    if let Some(checksum) = &index.trailer().checksum {
        record.tell_checksum(&checksum.name, &checksum.digest);
    }
    if let Some(warning) = sealed::judge(&file, index.seal(), &base, change.sizes())? {
        log::warn!("{warning}");
        change.note(warning);
    }
    let patch_bytes = index.header().size_bytes;
    if sizes.tells_difference() && patch_bytes != base.size() {
        report::different_target_sizes(base.size(), patch_bytes);
    }
    Ok(Arc::new(change))
}

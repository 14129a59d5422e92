//! A pending change that is computed from a session with a remote side, as it is read.
//!
//! ```text
//!   images.rs    merged, original: which bytes are local, which remote, which have to be compared
//!   patch.rs     the patch file at any offset; its checksum
//!   extents.rs   the changed ranges
//!   streams.rs   how far to look ahead for whom           (pure)
//!      \---> diff::Resolver (what differs), diff::RemoteBlocks (the remote's bytes)
//! ```
//! Nothing is computed or fetched before somebody reads it, and nobody is waited for: an answer
//! that takes the remote side comes from the peer's or the pool's threads.

mod extents;
mod images;
mod patch;
mod streams;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::streams::Streams;
use super::change::{Change, Done, Image};
use super::layout::Layout;
use super::status::{self, Form, Link, ScanState, Status};
use crate::background::later;
use crate::diff::budget::{self, Budget};
use crate::diff::{BLOCKS_MAX, Density, Engine, RemoteBlocks, Resolver, SourceChecksum};
use crate::error::{Error, Kind, Result};
use crate::patch::Header;
use crate::progress::Progress;
use crate::units::{ByteRange, MIB, Priority};

/// How often a scan that goes on is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How long the remote side may take to answer what is under way and to end, once the mount is
/// gone. Whoever unmounts is not kept waiting for a link that crawls or is dead.
const FINISH_LIMIT: Duration = Duration::from_secs(5);

/// Bytes that may be on their way from the remote side for readers, or held for answers that are
/// half made: enough for a quick link at a long distance, and far from what a mount may hold.
const UNDER_WAY_BYTES_MAX: u64 = 16 * MIB;

/// What a live change needs to know beside the engine.
pub struct LiveOptions {
    /// Name of the target in the patch's header.
    pub name: Vec<u8>,
    /// The checksum at the patch's end, and its name as the user gave it.
    pub checksum: Option<(Vec<u8>, Arc<SourceChecksum>)>,
    /// Bytes of fetched blocks that are kept.
    pub cache_bytes: u64,
    /// Whether everything is compared in the background, unasked.
    pub background: bool,
}

/// A live session as a [`Change`].
pub struct LiveChange(Arc<Live>);

/// What the answers that are on their way share.
struct Live {
    engine: Arc<Engine>,
    resolver: Arc<Resolver>,
    remote: Arc<RemoteBlocks>,
    layout: Layout,
    streams: [Mutex<Streams>; 2],
    patch_streams: Mutex<Streams>,
    /// Of answers that take the remote side, and of those that do not wait for it.
    fetching: Budget,
    encoding: Budget,
    checksum: Option<Arc<SourceChecksum>>,
    /// Whether the scan in the background is under way.
    scanning: AtomicBool,
    /// Set when the mount ends: long work of our own stops.
    closing: AtomicBool,
    /// Set once the local device was seen to be changed, whatever it looks like later.
    local_changed: AtomicBool,
    failures: Mutex<Failures>,
    scan_log: Mutex<Option<Instant>>,
}

/// What went wrong so far.
#[derive(Default)]
struct Failures {
    last: Option<String>,
    /// Whether the link was dead when the last one was noted.
    is_behind_link: bool,
    count: u64,
    source_changed: bool,
    scan_failed: bool,
}

impl LiveChange {
    /// A change over an open session; `density` as for the client's walk. Asks nothing yet,
    /// unless `options` want a scan in the background.
    ///
    /// # Errors
    /// `Kind::Usage` when the device's name or the checksum's does not fit a patch, or a device
    /// has more blocks than can be kept track of; `Kind::Size` when an image would be larger than
    /// a file can be.
    pub fn new(engine: Arc<Engine>, density: Density, options: LiveOptions) -> Result<Self> {
        let plan = engine.plan();
        let blocks = plan.compared.end.div_ceil(plan.block_bytes);
        if blocks > BLOCKS_MAX {
            let what = format!(
                "the devices are too large for a mount: expected at most {BLOCKS_MAX} blocks of \
                 {} bytes, found {blocks} (a larger --blocksize makes it fewer)",
                plan.block_bytes
            );
            return Err(Error::new(Kind::Usage, what));
        }
        for (name, image) in [("merged", Image::Merged), ("original", Image::Original)] {
            let bytes = images::image_bytes(plan, image);
            if i64::try_from(bytes).is_err() {
                let what = format!("`{name}` has {bytes} bytes, expected at most {}", i64::MAX);
                return Err(Error::new(Kind::Size, what));
            }
        }
        let header = Header { size_bytes: plan.header_bytes, name: options.name };
        let (name, checksum) = options.checksum.unzip();
        let digest_bytes = checksum.as_ref().map(|checksum| checksum.digest_bytes());
        let layout = Layout::new(&header, plan.block_bytes, name.zip(digest_bytes))?;
        let resolver = Resolver::new(Arc::clone(&engine), density);
        let live = Arc::new(Live {
            remote: RemoteBlocks::new(Arc::clone(&resolver), options.cache_bytes),
            resolver,
            layout,
            streams: Default::default(),
            patch_streams: Mutex::default(),
            fetching: Budget::new(UNDER_WAY_BYTES_MAX),
            encoding: Budget::new(UNDER_WAY_BYTES_MAX),
            checksum,
            scanning: AtomicBool::new(options.background),
            closing: AtomicBool::new(false),
            local_changed: AtomicBool::new(false),
            failures: Mutex::default(),
            scan_log: Mutex::default(),
            engine,
        });
        if options.background {
            live.scan_on();
        }
        Ok(Self(live))
    }

    /// Bytes that a whole scan compares.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.0.total_bytes()
    }

    /// Tells `progress` how much has been compared; how the scan stands.
    pub fn tell(&self, progress: &dyn Progress) -> ScanState {
        let status = self.0.status();
        progress.advance(status.compared_bytes, status.differing_bytes);
        status.scan
    }

    /// Calls `told` once the link to the remote side is lost, while the session is not ended by
    /// this side; see [`Peer::when_lost`](crate::wire::Peer::when_lost).
    pub fn when_link_lost(&self, told: impl FnOnce() + Send + 'static) {
        self.0.engine.peer().when_lost(Box::new(told));
    }

    /// Lets the local device's page cache go, of what is in it because of this.
    pub fn forget_local(&self) {
        let local = self.0.engine.local();
        local.done_with(ByteRange::new(0, local.size()));
    }

    /// Ends the session with the remote side in good order, or after [`FINISH_LIMIT`] in any
    /// way; returns REMSHCMD's exit status. Reads that need the remote side fail from here on.
    ///
    /// # Errors
    /// As [`Peer::finish`](crate::wire::Peer::finish); `Kind::Connection` for a remote side that
    /// was given up.
    pub fn finish(&self) -> Result<ExitStatus> {
        self.0.close();
        let engine = Arc::clone(&self.0.engine);
        let limit = later("finish limit", FINISH_LIMIT, move || {
            let what = format!(
                "the remote side did not end within {} s of the unmount and was given up",
                FINISH_LIMIT.as_secs()
            );
            engine.peer().abort(Error::new(Kind::Connection, what));
        });
        if limit.is_none() {
            log::warn!("the remote side may take as long as it likes to end: no thread");
        }
        self.0.engine.peer().finish()
    }

    /// Ends the session and REMSHCMD at once, because of `err`.
    ///
    /// # Errors
    /// That, or what ended the session before.
    pub fn give_up(&self, err: Error) -> Result<ExitStatus> {
        self.0.close();
        self.0.engine.peer().abort(err);
        self.0.engine.peer().finish()
    }
}

impl Drop for LiveChange {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Change for LiveChange {
    fn image_bytes(&self, image: Image) -> u64 {
        images::image_bytes(self.0.engine.plan(), image)
    }

    fn read(&self, image: Image, range: ByteRange, done: Done<Vec<u8>>) {
        self.0.read_image(image, range, self.0.watched(done));
    }

    fn may_wait(&self, image: Image) -> bool {
        !images::is_at_hand(self.0.engine.plan(), image)
    }

    fn next_data(&self, image: Image, from: u64) -> Result<Option<ByteRange>> {
        self.0.next_data(image, from).inspect_err(|err| self.0.note_failure(err))
    }

    fn next_extent(&self, from: u64, done: Done<Option<ByteRange>>) {
        self.0.next_extent(from, self.0.watched(done));
    }

    fn changed_ranges(&self) -> Option<u64> {
        self.0.patch_bytes()?;
        Some(self.0.resolver.with_map(|map| map.runs(self.0.layout.blocks())))
    }

    fn read_patch(&self, offset: u64, len: u32, done: Done<Vec<u8>>) {
        self.0.read_patch(offset, u64::from(len), self.0.watched(done));
    }

    fn patch_bytes(&self) -> Option<u64> {
        self.0.patch_bytes()
    }

    fn backing_file(&self, image: Image) -> Option<&File> {
        // The kernel would show what the file holds by now.
        (images::is_local(self.0.engine.plan(), image) && !self.0.is_local_changed())
            .then(|| self.0.engine.local().regular_file())
            .flatten()
    }

    fn status(&self) -> Status {
        self.0.status()
    }
}

impl Live {
    /// Long work of our own stops.
    fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        if let Some(checksum) = &self.checksum {
            checksum.cancel();
        }
    }

    /// `done`, with every error noted for the status on its way.
    fn watched<T: Send + 'static>(self: &Arc<Self>, done: Done<T>) -> Done<T> {
        let live = Arc::clone(self);
        Box::new(move |result| {
            if let Err(err) = &result {
                live.note_failure(err);
                live.failures.lock().count += 1;
            }
            done(result);
        })
    }

    fn is_local_changed(&self) -> bool {
        if self.engine.local().is_changed() {
            self.local_changed.store(true, Ordering::Relaxed);
        }
        self.local_changed.load(Ordering::Relaxed)
    }

    fn note_failure(&self, err: &Error) {
        let is_behind_link = self.engine.peer().last_error().is_some();
        let mut failures = self.failures.lock();
        failures.is_behind_link = is_behind_link;
        failures.source_changed |= err.kind() == Kind::Transmission;
        failures.last = Some(err.full_message());
    }

    /// Makes `block` known for a scan, see [`Resolver::scan`], and notes how that went.
    fn scan(self: &Arc<Self>, block: u64, ahead: bool, done: Done<()>) {
        let live = Arc::clone(self);
        let noted = move |result: Result<()>| {
            live.failures.lock().scan_failed = result.is_err();
            live.log_scan();
            done(result);
        };
        self.resolver.scan(block, ahead, Box::new(noted));
    }

    /// The background scan: from here to the end of the patch, unless an error ends it.
    fn scan_on(self: &Arc<Self>) {
        let blocks = self.layout.blocks();
        let next = self.resolver.frontier(blocks);
        if next == blocks || self.closing.load(Ordering::Relaxed) {
            self.scanning.store(false, Ordering::Release);
            return;
        }
        let live = Arc::clone(self);
        let go_on = move |result: Result<()>| match result {
            // On the pool: what is known already must not nest one call in another.
            Ok(()) => {
                let next = Arc::clone(&live);
                let pool = live.engine.pool();
                pool.submit(Priority::Scan, move |_| next.scan_on());
            }
            Err(err) => {
                live.note_failure(&err);
                live.scanning.store(false, Ordering::Release);
            }
        };
        self.scan(next, true, Box::new(go_on));
    }

    /// One line a minute, for people who wait.
    fn log_scan(&self) {
        let mut last = self.scan_log.lock();
        let now = Instant::now();
        if last.is_some_and(|last| now - last < LOG_INTERVAL) {
            return;
        }
        // The first minute says nothing: most scans are over by then.
        if last.replace(now).is_some() {
            let Status { compared_bytes, total_bytes, differing_bytes, .. } = self.status();
            log::info!(
                "scan: {compared_bytes} of {total_bytes} bytes compared, {differing_bytes} differ"
            );
        }
    }

    /// What has to be compared to know every difference, in bytes: nothing behind a smaller source.
    fn total_bytes(&self) -> u64 {
        self.engine.plan().walk_end()
    }

    fn status(&self) -> Status {
        let plan = self.engine.plan();
        // Before what is compared, of which it is a part.
        let differing_bytes = self.differing_bytes();
        let known_blocks = self.resolver.with_map(|map| map.known_below(self.layout.blocks()));
        let scanning_blocks = self.resolver.scanning_blocks();
        let counters = self.engine.peer().counters();
        // Before it is looked whether all is known: a scan that ended meanwhile is done.
        let is_scanning = self.scanning.load(Ordering::Acquire);
        let patch_bytes = self.patch_bytes();
        let local_changed = self.is_local_changed();
        let failures = self.failures.lock();
        let total_bytes = self.total_bytes();
        // The last block may be shorter.
        let compared_bytes = known_blocks.saturating_mul(plan.block_bytes).min(total_bytes);
        Status {
            format: status::FORMAT,
            form: Form::Live,
            direction: Some(plan.direction),
            merged_bytes: images::image_bytes(plan, Image::Merged),
            original_bytes: images::image_bytes(plan, Image::Original),
            patch_bytes,
            block_bytes: Some(plan.block_bytes),
            total_bytes,
            compared_bytes,
            differing_bytes,
            sent_bytes: counters.sent_bytes,
            received_bytes: counters.received_bytes,
            requests: counters.requests,
            scan: match patch_bytes {
                Some(_) => ScanState::Done,
                // Between two segments nothing is asked for, nor while readers do.
                None if is_scanning || scanning_blocks > 0 => ScanState::Running,
                None if failures.scan_failed => ScanState::Failed,
                None => ScanState::Idle,
            },
            link: if self.engine.peer().is_alive() { Link::Up } else { Link::Down },
            source_changed: local_changed || failures.source_changed,
            failed_reads: failures.count,
            last_error: self.last_error(&failures),
        }
    }

    /// What went wrong last: the end of the link is younger than what failed before it.
    fn last_error(&self, failures: &Failures) -> Option<String> {
        let link = self.engine.peer().last_error().filter(|_| !failures.is_behind_link);
        link.map(|err| err.full_message()).or_else(|| failures.last.clone())
    }
}

//! One session: hello, device, digests, requests, done. With the extension `early` the answers to
//! the client's first requests go out before its digests come in.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::answers::{write_answers, write_done};
use super::backlog::Answer;
use super::bell::Bell;
use super::checksum::ChecksumCell;
use super::digests::Digests;
use super::early::Early;
use super::plan::{HashPlan, HashWork, block_range};
use super::served::ServedDevice;
use super::shared::Shared;
use super::task::{Source, Task, Work};
use crate::background::spawn;
use crate::device::{Device, ReadAhead, TolerantDevice};
use crate::digest::{HashPool, LeafCache, Submitter};
use crate::error::{Error, Kind, Result};
use crate::transport::{Connection, Control};
use crate::units::Priority;
use crate::wire::{
    Extensions, FrameReader, FrameWriter, Message, Other, runs_print, server_handshake,
};

/// How many bytes the kept hashes may take: those of 4 GiB at 16 KiB a leaf and 32 bytes a hash.
const LEAF_CACHE_BYTES: usize = 8 << 20;

/// Serves one client, to its `done`. `open` opens the device that the client names.
///
/// The connection is closed when it returns, also where the client has not noticed yet.
///
/// # Errors
/// `Kind::Protocol` for messages that are malformed, out of order or out of bounds,
/// `Kind::Usage` and `Kind::Checksum` for unknown digests, `Kind::Gone` when the client goes
/// away before its `done` or the device cannot be read, and those of `open`.
pub fn session(
    connection: Connection,
    supported: Extensions,
    open: &dyn Fn(&Path) -> Result<Box<dyn Device>>,
) -> Result<()> {
    let control = Arc::clone(&connection.control);
    let mut reader = FrameReader::of_client(connection.reader);
    let mut writer = FrameWriter::for_client(connection.writer);
    // Until its requests are many at once, it is always the client's turn.
    control.expect_answer();
    let extensions = server_handshake(&mut reader, &mut writer, supported)?;

    let device = match reader.expect_message()? {
        Message::DevFile(path) => open(Path::new(OsStr::from_bytes(&path)))?,
        Message::Done => return write_done(&mut writer),
        other => return Err(Other::Client.unexpected("devfile", &other)),
    };
    log::info!("serving {}, {} bytes", device.path().display(), device.size());
    writer.write(&Message::Size(device.size()))?;
    if extensions.disk {
        writer.write(&Message::Disk(device.id()))?;
    }
    let early = extensions.early.then(|| Early::draw(device.size(), extensions)).transpose()?;
    if let Some((early, _)) = &early {
        writer.write(&early.message())?;
    }
    writer.flush()?;
    control.expect_answer();

    let (early, digests) = match early {
        Some((early, digests)) => (Some(early), digests),
        None => match reader.expect_message()? {
            Message::Digests { salt, hash, checksum } => {
                (None, Digests::find(&salt, &hash, &checksum, extensions)?)
            }
            Message::Done => return write_done(&mut writer),
            other => return Err(Other::Client.unexpected("digests", &other)),
        },
    };
    answer_requests(reader, writer, control, device, digests, early, extensions)
}

/// Reads requests ahead, computes them in parallel, and answers them, in their order where the
/// client knows no other.
fn answer_requests(
    reader: FrameReader<Box<dyn Read + Send>>,
    mut writer: FrameWriter<impl Write>,
    control: Arc<Control>,
    device: Box<dyn Device>,
    digests: Digests,
    early: Option<Early>,
    extensions: Extensions,
) -> Result<()> {
    let leaves =
        extensions.tree.then(|| LeafCache::new(digests.hasher.tree_hash_len(), LEAF_CACHE_BYTES));
    let device = ServedDevice::new(device);
    let skips = extensions.skip;
    let tolerant = skips.then(|| TolerantDevice::new(Box::new(device.clone())));
    let source = Arc::new(Source {
        read_ahead: ReadAhead::new(Arc::new(device.clone())),
        device,
        tolerant,
        hasher: digests.hasher,
        packs: extensions.zstd,
        leaves,
        flush: AtomicBool::new(false),
        bell: Bell::default(),
    });
    let pool = HashPool::new()?;
    let checksum =
        digests.checksum.map(|algorithm| ChecksumCell::start(&source, algorithm)).transpose()?;
    let shared = Arc::new(Shared::new(source, extensions, control));
    let requests = Requests {
        reader,
        shared: Arc::clone(&shared),
        pool: pool.submitter(),
        threads: pool.threads(),
        checksum,
    };
    spawn("requests", Kind::Digest, "cannot start the requests thread", move || {
        requests.run(early);
    })?;
    let watched = Arc::clone(&shared);
    spawn("hang-up", Kind::Digest, "cannot start the hang-up thread", move || {
        if watched.control.wait_for_hang_up() {
            watched.abort(Error::new(Kind::Gone, "the client went away"));
        }
    })?;

    let result = write_answers(&mut writer, &shared);
    shared.end();
    drop(pool);
    shared.source.release_all();
    result
}

/// The thread that reads requests and has them computed.
struct Requests {
    reader: FrameReader<Box<dyn Read + Send>>,
    shared: Arc<Shared>,
    pool: Submitter,
    threads: usize,
    /// Where the client has named one.
    checksum: Option<Arc<ChecksumCell>>,
}

/// However the thread that reads requests ends, the one that writes answers learns of it.
struct EndOfRequests<'a>(&'a Shared);

impl Drop for EndOfRequests<'_> {
    fn drop(&mut self) {
        self.0.backlog.complete();
        self.0.source.bell.ring();
    }
}

impl Requests {
    /// Reads to `done`, or to the first fault, which ends the session at once: nobody may be
    /// there any more to read what is being computed.
    fn run(mut self, early: Option<Early>) {
        let shared = Arc::clone(&self.shared);
        let _last = EndOfRequests(&shared);
        let begun = early.map_or(Ok(true), |early| self.begin_early(&early));
        let read = begun.and_then(|goes_on| if goes_on { self.read_requests() } else { Ok(()) });
        if let Err(err) = read {
            shared.abort(err);
        }
    }

    /// Answers what is not asked for, then reads the client's digests. Returns whether requests
    /// follow.
    fn begin_early(&mut self, early: &Early) -> Result<bool> {
        for request in early.requests() {
            if !self.take(request)? {
                return Ok(false);
            }
        }
        match self.reader.expect_message()? {
            Message::Digests { salt, hash, checksum } => {
                let checksum = early.confirm(&salt, &hash, &checksum, self.shared.extensions)?;
                let start = |algorithm| ChecksumCell::start(&self.shared.source, algorithm);
                self.checksum = checksum.map(start).transpose()?;
                Ok(true)
            }
            done @ Message::Done => self.take(done),
            other => Err(Other::Client.unexpected("digests", &other)),
        }
    }

    fn read_requests(&mut self) -> Result<()> {
        loop {
            let request = self.reader.expect_message()?;
            if !self.take(request)? {
                return Ok(());
            }
        }
    }

    /// Sees to the answer to `request`. Returns whether another may follow.
    fn take(&self, request: Message) -> Result<bool> {
        self.shared.request_arrived();
        let answer = self.answer(request)?;
        let is_last = matches!(answer, Answer::Done);
        let goes_on = self.shared.backlog.push(answer) && !is_last;
        self.shared.source.bell.ring();
        Ok(goes_on)
    }

    /// Checks a request and starts its work.
    fn answer(&self, request: Message) -> Result<Answer> {
        let source = &self.shared.source;
        let hasher = &source.hasher;
        let start_task = |work: Work| {
            let priority = self.priority(&work);
            Task::start(source, work, &self.pool, self.threads, priority)
        };
        Ok(match request {
            Message::GetHashes { start, step, n: 0 } => self.hint(start, step),
            Message::GetHashes { start, step, n } => {
                let plan = HashPlan::hashes(start, step, n, hasher.hash_len())?;
                Answer::Hashes { start, step, n, task: start_task(Work::Hashes(plan.into())) }
            }
            Message::GetTree(look) if self.shared.extensions.tree => {
                let plan = HashPlan::tree(look, hasher.tree_hash_len())?;
                Answer::Tree { look, task: start_task(Work::Hashes(plan.into())) }
            }
            Message::GetRuns { step, level, runs } if self.may_ask_runs(level) => {
                let hash_len =
                    if level.is_some() { hasher.tree_hash_len() } else { hasher.hash_len() };
                let work = HashWork::runs(step, level, &runs, hash_len)?;
                let print = runs_print(&runs);
                Answer::Runs { step, level, print, task: start_task(Work::Hashes(work)) }
            }
            Message::GetBlock { offset, len } => {
                let range = block_range(offset, len, source.device.size())?;
                Answer::Block { offset, task: start_task(Work::Read(range)) }
            }
            Message::GetChecksum => match &self.checksum {
                Some(cell) => Answer::Checksum(Arc::clone(cell)),
                None => {
                    let what = "the client asked for a checksum without having named one";
                    return Err(Error::new(Kind::Protocol, what));
                }
            },
            Message::Done => Answer::Done,
            other => return Err(Other::Client.unexpected("a request", &other)),
        })
    }

    /// Whether the client may ask for runs of nodes of `level`, or of blocks.
    fn may_ask_runs(&self, level: Option<u8>) -> bool {
        let extensions = &self.shared.extensions;
        extensions.runs && (level.is_none() || extensions.tree)
    }

    /// When to work on an answer. Bytes are what keeps a link busy, so they come first; hashes
    /// that nobody has looked at yet come last.
    fn priority(&self, work: &Work) -> Priority {
        if !self.shared.extensions.reorder {
            // Answers go out in the order of their requests, so that order is right.
            return Priority::Scan;
        }
        match work {
            Work::Read(_) => Priority::Interactive,
            Work::Hashes(hashes)
                if hashes.first().of_tree && !self.shared.source.has_hashes(work) =>
            {
                Priority::Ahead
            }
            Work::Hashes(_) => Priority::Scan,
        }
    }

    /// A request for no hashes says something about the cache (protocol).
    fn hint(&self, start: u64, step: u64) -> Answer {
        match step {
            0 => {
                self.shared.source.device.keep_cache();
                self.shared.source.flush.store(true, Ordering::Relaxed);
            }
            1 => return Answer::Release { below: start },
            _ => {}
        }
        Answer::Ready(Message::Hashes { start, step, n: 0, hashes: vec![] })
    }
}

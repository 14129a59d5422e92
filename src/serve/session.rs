//! One session: hello, device, digests, requests, done.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use parking_lot::{Condvar, Mutex};

use super::leaf_cache::{LEAF_CACHE_BYTES, LeafCache};
use super::plan::{HashPlan, block_range};
use super::task::{ServedDevice, Source, Task, Work};
use crate::device::{Device, TolerantDevice};
use crate::digest::{Algorithm, BlockHasher, Digest, HashPool, Submitter, checksum};
use crate::error::{Error, Kind, Result};
use crate::transport::{Connection, Control};
use crate::units::ByteRange;
use crate::wire::{Extensions, FrameReader, FrameWriter, Message, server_handshake, unexpected};

/// How many requests are read ahead. Each holds two answers' bytes at most, so all of them
/// stay under 16 MiB.
pub const REQUESTS_MAX: usize = 64;

/// Serves one client, to its `done`. `open` opens the device that the client names.
///
/// The connection is closed when it returns, also where the client has not noticed yet.
///
/// # Errors
/// `Kind::Protocol` for messages that are malformed, out of order or out of bounds,
/// `Kind::Usage` and `Kind::Checksum` for unknown digests, `Kind::Read` when the client goes
/// away before its `done` or the device cannot be read, and those of `open`.
pub fn session(
    connection: Connection,
    supported: Extensions,
    open: &dyn Fn(&Path) -> Result<Box<dyn Device>>,
) -> Result<()> {
    let control = Arc::clone(&connection.control);
    let mut reader = FrameReader::new(connection.reader);
    let mut writer = FrameWriter::new(connection.writer);
    // Until its requests are many at once, it is always the client's turn.
    control.expect_answer();
    let extensions = server_handshake(&mut reader, &mut writer, supported)?;

    let device = match reader.expect_message()? {
        Message::DevFile(path) => open(Path::new(OsStr::from_bytes(&path)))?,
        Message::Done => return write_done(&mut writer),
        other => return Err(unexpected("devfile", &other)),
    };
    log::info!("serving {}, {} bytes", device.path().display(), device.size());
    writer.write(&Message::Size(device.size()))?;
    writer.flush()?;
    control.expect_answer();

    let digests = match reader.expect_message()? {
        Message::Digests { salt, hash, checksum } => {
            Digests::find(&salt, &hash, &checksum, extensions)?
        }
        Message::Done => return write_done(&mut writer),
        other => return Err(unexpected("digests", &other)),
    };
    log::debug!("hash {:?}, checksum {:?}", digests.hasher.algorithm(), digests.checksum);
    answer_requests(reader, writer, control, device, digests, extensions)
}

/// What a `digests` message names.
struct Digests {
    hasher: BlockHasher,
    checksum: Option<Algorithm>,
}

impl Digests {
    fn find(salt: &[u8], hash: &str, checksum: &str, extensions: Extensions) -> Result<Self> {
        let known = |name: &str| {
            Algorithm::from_name(name).filter(|a| *a != Algorithm::Blake3 || extensions.blake3)
        };
        let hash =
            known(hash).ok_or_else(|| Error::new(Kind::Usage, format!("unknown hash {hash:?}")))?;
        let checksum =
            match checksum {
                "" => None,
                name => Some(known(name).ok_or_else(|| {
                    Error::new(Kind::Checksum, format!("unknown checksum {name:?}"))
                })?),
            };
        let hasher = BlockHasher::new(hash, salt)?.with_universal_leaves(extensions.nh);
        Ok(Self { hasher, checksum })
    }
}

/// What the threads of a session share.
struct Shared {
    source: Arc<Source>,
    extensions: Extensions,
    control: Arc<Control>,
    /// Requests that were read and not answered yet. While there are any the client may be
    /// silent; a client that owes us the next request for too long is given up on.
    unanswered: Mutex<usize>,
    /// Set when the client sent `digests` with a checksum.
    checksum: Option<Arc<ChecksumCell>>,
    /// Why the reader gave up.
    fault: Mutex<Option<Error>>,
}

impl Shared {
    /// Ends the session with `err`.
    fn abort(&self, err: Error) {
        self.fault.lock().get_or_insert(err);
        self.end();
    }

    /// Whether the session goes on without an answer that failed by `err`: it is the disk's
    /// fault, and the client understands that.
    fn may_tell(&self, err: &Error) -> bool {
        self.extensions.faults && err.kind() == Kind::Read && !self.source.device.is_over()
    }

    /// A request came in.
    fn request_arrived(&self) {
        let mut unanswered = self.unanswered.lock();
        *unanswered += 1;
        self.control.rest();
    }

    /// An answer went out, or into the batch that goes out before anybody waits.
    fn answer_written(&self) {
        let mut unanswered = self.unanswered.lock();
        *unanswered -= 1;
        if *unanswered == 0 {
            self.control.expect_answer();
        }
    }

    /// Ends all waiting and reading: nobody is interested any more.
    fn end(&self) {
        self.source.device.end();
        self.control.close();
    }
}

/// The device's checksum, once it is known.
#[derive(Default)]
struct ChecksumCell {
    value: Mutex<Option<Result<Digest>>>,
    changed: Condvar,
}

impl ChecksumCell {
    /// Computes it on a thread of its own.
    fn start(source: &Arc<Source>, algorithm: Algorithm) -> Result<Arc<Self>> {
        let cell = Arc::new(Self::default());
        let (source, result) = (Arc::clone(source), Arc::clone(&cell));
        spawn("checksum", move || {
            let unless_it_ends = Unless(&result);
            let value = checksum(&source.device, algorithm, &mut |_| source.device.check());
            unless_it_ends.0.set(value);
        })?;
        Ok(cell)
    }

    /// Sets the value, once.
    fn set(&self, value: Result<Digest>) {
        self.value.lock().get_or_insert(value);
        self.changed.notify_all();
    }

    fn wait(&self) -> Result<Digest> {
        let mut value = self.value.lock();
        loop {
            match &*value {
                Some(Ok(digest)) => return Ok(*digest),
                Some(Err(err)) => return Err(err.duplicate()),
                None => self.changed.wait(&mut value),
            }
        }
    }
}

/// A thread that panics must not leave those alone who wait for its checksum.
struct Unless<'a>(&'a ChecksumCell);

impl Drop for Unless<'_> {
    fn drop(&mut self) {
        self.0.set(Err(Error::new(Kind::Checksum, "the checksum's thread failed")));
    }
}

/// An answer in its place in the order.
enum Answer {
    Ready(Message),
    Hashes {
        start: u64,
        step: u64,
        n: u64,
        task: Arc<Task>,
    },
    Tree {
        start: u64,
        step: u64,
        n: u64,
        level: u8,
        task: Arc<Task>,
    },
    Block {
        offset: u64,
        task: Arc<Task>,
    },
    Checksum(Arc<ChecksumCell>),
    /// Everything below this was answered and is not asked for again.
    Release {
        below: u64,
    },
    Done,
}

impl Answer {
    fn is_finished(&self) -> bool {
        match self {
            Answer::Hashes { task, .. }
            | Answer::Tree { task, .. }
            | Answer::Block { task, .. } => task.is_finished(),
            Answer::Checksum(cell) => cell.value.lock().is_some(),
            Answer::Ready(_) | Answer::Release { .. } | Answer::Done => true,
        }
    }

    /// The message, when it is ready.
    fn wait(self, source: &Source) -> Result<Message> {
        Ok(match self {
            Answer::Ready(message) => message,
            Answer::Hashes { start, step, n, task } => {
                Message::Hashes { start, step, n, hashes: task.wait()? }
            }
            Answer::Tree { start, step, n, level, task } => {
                Message::Tree { start, step, n, level, hashes: task.wait()? }
            }
            Answer::Block { offset, task } => Message::Block { offset, data: task.wait()? },
            Answer::Checksum(cell) => Message::Checksum(cell.wait()?.to_vec()),
            Answer::Release { below } => {
                source.device.done_with(ByteRange::new(0, below.min(source.device.size())));
                Message::Hashes { start: below, step: 1, n: 0, hashes: vec![] }
            }
            Answer::Done => Message::Done,
        })
    }
}

/// Reads requests ahead, computes them in parallel, and answers them in their order.
fn answer_requests(
    reader: FrameReader<Box<dyn Read + Send>>,
    mut writer: FrameWriter<impl Write>,
    control: Arc<Control>,
    device: Box<dyn Device>,
    digests: Digests,
    extensions: Extensions,
) -> Result<()> {
    let leaves =
        extensions.tree.then(|| LeafCache::new(digests.hasher.hash_len(), LEAF_CACHE_BYTES));
    let device = ServedDevice::new(device);
    let skips = extensions.faults && extensions.skip;
    let tolerant = skips.then(|| TolerantDevice::new(Box::new(device.clone())));
    let source = Arc::new(Source {
        device,
        tolerant,
        hasher: digests.hasher,
        leaves,
        flush: AtomicBool::new(false),
    });
    let pool = HashPool::new()?;
    let checksum = match digests.checksum {
        Some(algorithm) => Some(ChecksumCell::start(&source, algorithm)?),
        None => None,
    };
    let shared = Arc::new(Shared {
        source,
        extensions,
        control,
        unanswered: Mutex::new(0),
        checksum,
        fault: Mutex::default(),
    });
    let (queue, answers) = bounded(REQUESTS_MAX);
    let requests = Requests {
        reader,
        shared: Arc::clone(&shared),
        pool: pool.submitter(),
        threads: pool.threads(),
        queue,
    };
    spawn("requests", move || requests.run())?;
    let watched = Arc::clone(&shared);
    spawn("hang-up", move || {
        if watched.control.wait_for_hang_up() {
            watched.abort(Error::new(Kind::Read, "the client went away"));
        }
    })?;

    let result = write_answers(&answers, &mut writer, &shared);
    shared.end();
    drop(answers);
    drop(pool);
    shared.source.release_all();
    result
}

/// Starts a named thread that is not waited for.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map(drop)
        .map_err(|err| Error::io(Kind::Digest, format!("cannot start the {name} thread"), err))
}

/// Writes the answers in their order, up to `done`.
fn write_answers(
    answers: &Receiver<Answer>,
    writer: &mut FrameWriter<impl Write>,
    shared: &Shared,
) -> Result<()> {
    // What the reader found is the cause of what the tasks then fail with.
    let cause = |err| shared.fault.lock().take().unwrap_or(err);
    loop {
        let answer = match answers.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) => {
                writer.flush().map_err(cause)?;
                answers.recv().ok()
            }
        };
        let Some(answer) = answer else {
            return Err(cause(Error::new(Kind::Read, "the requests end without a done")));
        };
        if matches!(answer, Answer::Done) {
            return write_done(writer);
        }
        if !answer.is_finished() {
            writer.flush().map_err(cause)?;
        }
        let message = match answer.wait(&shared.source) {
            Err(err) if shared.may_tell(&err) => {
                log::warn!("{}", err.full_message());
                shared.source.fault(&err)
            }
            other => other.map_err(cause)?,
        };
        writer.write(&message).map_err(cause)?;
        shared.answer_written();
    }
}

fn write_done(writer: &mut FrameWriter<impl Write>) -> Result<()> {
    writer.write(&Message::Done)?;
    writer.flush()
}

/// The thread that reads requests and has them computed.
struct Requests {
    reader: FrameReader<Box<dyn Read + Send>>,
    shared: Arc<Shared>,
    pool: Submitter,
    threads: usize,
    queue: Sender<Answer>,
}

impl Requests {
    /// Reads to `done`, or to the first fault, which ends the session at once: nobody may be
    /// there any more to read what is being computed.
    fn run(mut self) {
        loop {
            let message = self.reader.expect_message();
            self.shared.request_arrived();
            let answer = message.and_then(|message| self.answer(message));
            let answer = match answer {
                Ok(answer) => answer,
                Err(err) => return self.shared.abort(err),
            };
            let is_last = matches!(answer, Answer::Done);
            if self.queue.send(answer).is_err() || is_last {
                return;
            }
        }
    }

    /// Checks a request and starts its work.
    fn answer(&self, request: Message) -> Result<Answer> {
        let source = &self.shared.source;
        let hash_len = source.hasher.hash_len();
        let start_task = |work| Task::start(source, work, &self.pool, self.threads);
        Ok(match request {
            Message::GetHashes { start, step, n: 0 } => self.hint(start, step),
            Message::GetHashes { start, step, n } => {
                let plan = HashPlan::hashes(start, step, n, hash_len)?;
                Answer::Hashes { start, step, n, task: start_task(Work::Hashes(plan)) }
            }
            Message::GetTree { start, step, n, level } if self.shared.extensions.tree => {
                let plan = HashPlan::tree(start, step, n, level, hash_len)?;
                Answer::Tree { start, step, n, level, task: start_task(Work::Hashes(plan)) }
            }
            Message::GetBlock { offset, len } => {
                let range = block_range(offset, len, source.device.size())?;
                Answer::Block { offset, task: start_task(Work::Read(range)) }
            }
            Message::GetChecksum => match &self.shared.checksum {
                Some(cell) => Answer::Checksum(Arc::clone(cell)),
                None => {
                    let what = "the remote asked for a checksum without having named one";
                    return Err(Error::new(Kind::Protocol, what));
                }
            },
            Message::Done => Answer::Done,
            other => return Err(unexpected("a request", &other)),
        })
    }

    /// A request for no hashes says something about the cache (protocol, section 2).
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

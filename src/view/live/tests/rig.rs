//! Two devices, a server in a thread, and a live change between them that can be watched.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use parking_lot::{Mutex, RwLock};

use super::super::{LiveChange, LiveOptions};
use crate::device::Device;
use crate::diff::{Density, Engine, Plan, SourceChecksum, digests};
use crate::digest::{Algorithm, BlockHasher, HashPool};
use crate::error::{Error, Kind, Result};
use crate::transport::{self, Control};
use crate::units::{ByteRange, Direction, MIB, SizeRule};
use crate::view::change::{Change, Done, Image};
use crate::wire::{Extensions, FrameReader, Message, Opening, Peer};

pub const PAGE: u64 = 4096;
/// Longer than anything here may take; a hang becomes a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A sparse device in memory that counts and that can fail or stall.
pub struct TestDevice {
    size: u64,
    pages: RwLock<BTreeMap<u64, Vec<u8>>>,
    pub reads: Mutex<Vec<ByteRange>>,
    pub failing: AtomicBool,
    /// Bytes that cannot be read.
    pub unreadable: Mutex<ByteRange>,
    /// Whether it shows that somebody changed it.
    pub changed: AtomicBool,
    /// Reads wait while somebody holds it.
    pub gate: RwLock<()>,
    /// The file that it says it is.
    pub file: OnceLock<File>,
    /// What it was told that it will be read.
    pub announced: Mutex<Vec<ByteRange>>,
    /// Whether it was called on the thread that answers come from.
    pub holds_up_answers: AtomicBool,
}

impl TestDevice {
    pub fn sparse(size: u64) -> Arc<Self> {
        Arc::new(Self {
            size,
            pages: RwLock::default(),
            reads: Mutex::default(),
            failing: AtomicBool::new(false),
            unreadable: Mutex::new(ByteRange::new(0, 0)),
            changed: AtomicBool::new(false),
            gate: RwLock::new(()),
            file: OnceLock::new(),
            announced: Mutex::default(),
            holds_up_answers: AtomicBool::new(false),
        })
    }

    fn note_thread(&self) {
        if thread::current().name() == Some("wire reader") {
            self.holds_up_answers.store(true, Ordering::SeqCst);
        }
    }

    pub fn new(content: &[u8]) -> Arc<Self> {
        let device = Self::sparse(content.len() as u64);
        for (page, data) in (0..).zip(content.chunks(PAGE as usize)) {
            if data.iter().any(|&byte| byte != 0) {
                device.write(page * PAGE, data);
            }
        }
        device
    }

    pub fn write(&self, offset: u64, data: &[u8]) {
        let mut pages = self.pages.write();
        for (at, byte) in (offset..).zip(data) {
            let page = pages.entry(at / PAGE).or_insert_with(|| vec![0; PAGE as usize]);
            page[(at % PAGE) as usize] = *byte;
        }
    }

    pub fn take_reads(&self) -> Vec<ByteRange> {
        std::mem::take(&mut self.reads.lock())
    }
}

impl Device for TestDevice {
    fn path(&self) -> &Path {
        Path::new("test-device")
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.note_thread();
        let _open = self.gate.read();
        let range = ByteRange::new(offset, offset + buf.len() as u64);
        assert!(range.end <= self.size, "{range} of {}", self.size);
        self.reads.lock().push(range);
        if self.failing.load(Ordering::SeqCst)
            || !self.unreadable.lock().intersect(&range).is_empty()
        {
            let err = io::Error::from_raw_os_error(libc::EIO);
            return Err(Error::io(Kind::Read, "injected fault", err).with_range(range));
        }
        buf.fill(0);
        let pages = self.pages.read();
        for (&page, data) in pages.range(range.start / PAGE..range.end.div_ceil(PAGE)) {
            let part = ByteRange::new(page * PAGE, (page + 1) * PAGE).intersect(&range);
            buf[(part.start - offset) as usize..(part.end - offset) as usize].copy_from_slice(
                &data[(part.start - page * PAGE) as usize..][..part.len() as usize],
            );
        }
        Ok(())
    }

    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        self.note_thread();
        let pages = self.pages.read();
        let Some((&first, _)) = pages.range(from / PAGE..).next() else { return Ok(None) };
        let mut end = first;
        while pages.contains_key(&end) {
            end += 1;
        }
        let data = ByteRange::new((first * PAGE).max(from), (end * PAGE).min(self.size));
        Ok(Some(data).filter(|data| !data.is_empty()))
    }

    fn will_need(&self, range: ByteRange) {
        self.note_thread();
        self.announced.lock().push(range);
    }

    fn is_changed(&self) -> bool {
        self.note_thread();
        self.changed.load(Ordering::SeqCst)
    }

    fn regular_file(&self) -> Option<&File> {
        self.file.get()
    }
}

/// The same device on both ends of a box.
struct Shared(Arc<TestDevice>);

impl Device for Shared {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        self.0.next_data(from)
    }
}

/// Keeps a copy of all that a server reads, and ends the stream when its budget is used up.
struct Tap {
    inner: Box<dyn Read + Send>,
    log: Arc<Mutex<Vec<u8>>>,
    budget_bytes: Arc<AtomicU64>,
}

impl Read for Tap {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let budget = self.budget_bytes.load(Ordering::SeqCst);
        let room = buf.len().min(usize::try_from(budget).unwrap_or(usize::MAX));
        let n = self.inner.read(&mut buf[..room])?;
        self.budget_bytes.store(budget - n as u64, Ordering::SeqCst);
        self.log.lock().extend_from_slice(&buf[..n]);
        Ok(n)
    }
}

/// How a session is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub direction: Direction,
    pub rule: SizeRule,
    pub block_bytes: u64,
    pub algorithm: Algorithm,
    /// Whether the server is ours, with all extensions.
    pub own: bool,
    pub checksum: Option<Algorithm>,
    pub cache_bytes: u64,
    pub background: bool,
}

impl Setup {
    pub fn new(direction: Direction) -> Self {
        Self {
            direction,
            rule: SizeRule::Strict,
            block_bytes: 4096,
            algorithm: Algorithm::Md5,
            own: false,
            checksum: None,
            cache_bytes: 64 * MIB,
            background: false,
        }
    }

    pub fn own(direction: Direction) -> Self {
        Self { own: true, algorithm: Algorithm::Blake3, ..Self::new(direction) }
    }

    fn offer(&self) -> Extensions {
        // As a mount's.
        let own = Extensions { early: false, skip: false, ..Extensions::ALL };
        if self.own { own } else { Extensions::NONE }
    }
}

/// A session under way.
pub struct Rig {
    pub live: Option<LiveChange>,
    pub engine: Arc<Engine>,
    pub local: Arc<TestDevice>,
    pub remote: Arc<TestDevice>,
    log: Arc<Mutex<Vec<u8>>>,
    /// Bytes of requests that the server still reads before it goes away.
    pub budget_bytes: Arc<AtomicU64>,
    pub server: Arc<Control>,
    thread: Option<JoinHandle<()>>,
}

impl Rig {
    pub fn new(setup: Setup, local: Arc<TestDevice>, remote: Arc<TestDevice>) -> Self {
        Self::try_new(setup, local, remote).expect("a session")
    }

    pub fn of_bytes(setup: Setup, local: &[u8], remote: &[u8]) -> Self {
        Self::new(setup, TestDevice::new(local), TestDevice::new(remote))
    }

    pub fn try_new(setup: Setup, local: Arc<TestDevice>, remote: Arc<TestDevice>) -> Result<Self> {
        let (client, mut server) = transport::pair(None)?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let budget_bytes = Arc::new(AtomicU64::new(u64::MAX));
        let tap =
            Tap { inner: server.reader, log: log.clone(), budget_bytes: budget_bytes.clone() };
        server.reader = Box::new(tap);
        let control = Arc::clone(&server.control);
        let device = Arc::clone(&remote);
        let thread = thread::spawn(move || {
            let open = move |_: &Path| Ok(Box::new(Shared(device.clone())) as Box<dyn Device>);
            let _ = crate::serve::session(server, setup.offer(), &open);
        });
        let salt = [7; 32];
        let opening = Opening::connect(client, setup.offer(), b"/dev/remote")?;
        let remote_bytes = opening.size();
        let plan =
            Plan::new(setup.direction, local.size(), remote_bytes, setup.block_bytes, setup.rule)?;
        let hasher = BlockHasher::new(setup.algorithm, &salt)?.with_universal_leaves(setup.own);
        let remote_checksum = setup.checksum.filter(|_| setup.direction == Direction::Pull);
        let peer = Peer::start(opening, &digests(&salt, &hasher, remote_checksum))?;
        let pool = HashPool::with_threads(2)?;
        let engine = Engine::new(plan, local.clone(), peer, pool, hasher);
        let checksum = match setup.checksum {
            Some(algorithm) => {
                let checksum = SourceChecksum::new(&engine, algorithm)?;
                Some((algorithm.name().as_bytes().to_vec(), checksum))
            }
            None => None,
        };
        let options = LiveOptions {
            name: b"/dev/target".to_vec(),
            checksum,
            cache_bytes: setup.cache_bytes,
            background: setup.background,
        };
        let density = Density::for_peer(setup.block_bytes, engine.hasher(), setup.own, false);
        let live = Some(LiveChange::new(engine.clone(), density, options)?);
        let thread = Some(thread);
        Ok(Self { live, engine, local, remote, log, budget_bytes, server: control, thread })
    }

    pub fn live(&self) -> &LiveChange {
        self.live.as_ref().expect("not finished yet")
    }

    /// The requests that the server has read so far, hello and opening left out.
    pub fn requests(&self) -> Vec<Message> {
        let log = self.log.lock();
        let mut reader = FrameReader::new(&log[..]);
        let mut all = Vec::new();
        while let Ok(Some(message)) = reader.read_message() {
            all.push(message);
        }
        all.drain(..3.min(all.len()));
        all
    }

    pub fn wire_bytes(&self) -> u64 {
        let counters = self.engine.peer().counters();
        counters.sent_bytes + counters.received_bytes
    }

    pub fn read(&self, image: Image, start: u64, len: u64) -> Result<Vec<u8>> {
        let range = ByteRange::new(start, start + len);
        wait(|done| self.live().read(image, range, done))
    }

    pub fn extents(&self) -> Result<Vec<ByteRange>> {
        let mut all: Vec<ByteRange> = Vec::new();
        while let Some(next) = wait(|done| {
            self.live().next_extent(all.last().map_or(0, |last| last.end), done);
        })? {
            all.push(next);
        }
        Ok(all)
    }

    pub fn patch_at(&self, offset: u64, len: u32) -> Result<Vec<u8>> {
        wait(|done| self.live().read_patch(offset, len, done))
    }

    /// The patch as `cat` reads it, in requests of `len`.
    pub fn patch(&self, len: u32) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let more = self.patch_at(all.len() as u64, len)?;
            assert!(more.len() <= len as usize);
            if more.is_empty() {
                return Ok(all);
            }
            all.extend(more);
        }
    }

    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.live().status().to_json()).expect("JSON")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let finished = self.live.take().map(|live| live.finish());
        self.server.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        drop(finished);
    }
}

/// Asks and waits for the answer.
pub fn wait<T: Send + 'static>(ask: impl FnOnce(Done<T>)) -> Result<T> {
    later(ask).recv_timeout(PATIENCE).expect("an answer, once, in time")
}

/// Asks; the answer comes through the channel.
pub fn later<T: Send + 'static>(ask: impl FnOnce(Done<T>)) -> Receiver<Result<T>> {
    let (sender, receiver) = bounded(1);
    ask(Box::new(move |result| sender.send(result).expect("somebody waits")));
    receiver
}

/// Bytes that look random, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

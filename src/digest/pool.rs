//! Threads that hash, the most urgent jobs first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};

use crate::background::{core_count, spawn};
use crate::buffer::PageBuffer;
use crate::error::{Kind, Result};
use crate::units::Priority;

/// Bytes that one read of a device gets at most: large enough that the system call costs
/// nothing, small enough that the hash finds the bytes in the core's own cache.
pub const READ_BYTES: usize = 256 * 1024;

/// Most threads of a pool; beyond that the memory bus is the limit, and each has its buffers.
const THREADS_MAX: usize = 32;

/// The buffers of one hashing thread, kept from job to job.
#[derive(Default)]
pub struct Scratch {
    data: PageBuffer,
    pub(super) hashes: Vec<u8>,
}

impl Scratch {
    /// Buffers for a caller that hashes on its own thread.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The read buffer of [`READ_BYTES`], made on first use.
    pub fn data(&mut self) -> &mut [u8] {
        self.both().0
    }

    /// The read buffer, and the one for hashes.
    pub(super) fn both(&mut self) -> (&mut [u8], &mut Vec<u8>) {
        if self.data.is_empty() {
            self.data = PageBuffer::new(READ_BYTES);
        }
        (&mut self.data, &mut self.hashes)
    }
}

/// Work for one thread of a pool.
type Job = Box<dyn FnOnce(&mut Scratch) + Send>;

#[derive(Default)]
struct Queues {
    /// One for each priority, in their order.
    waiting: [VecDeque<Job>; Priority::ALL.len()],
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queues: Mutex<Queues>,
    changed: Condvar,
}

/// A handle to a pool's queues that jobs may hold to submit more work; it does not keep the pool
/// alive.
#[derive(Clone)]
pub struct Submitter(Arc<Shared>);

impl Submitter {
    /// Queues `job`. It is run behind all jobs of its priority that wait already, in the order of
    /// submission. Once the pool is being dropped, jobs are dropped unrun instead.
    pub fn submit(&self, priority: Priority, job: impl FnOnce(&mut Scratch) + Send + 'static) {
        let mut queues = self.0.queues.lock();
        if queues.closed {
            return;
        }
        queues.waiting[priority as usize].push_back(Box::new(job));
        drop(queues);
        self.0.changed.notify_one();
    }
}

/// A fixed number of hashing threads with one queue for each priority.
///
/// The queues are as long as the submitters make them: each of those bounds its own work.
/// Dropping the pool drops the jobs that wait and joins the threads.
pub struct HashPool {
    submitter: Submitter,
    threads: Vec<JoinHandle<()>>,
}

impl HashPool {
    /// A pool with one thread for each core, at most 32.
    ///
    /// # Errors
    /// As [`HashPool::with_threads`].
    pub fn new() -> Result<Self> {
        Self::with_threads(core_count())
    }

    /// A pool of `threads` threads, 1 to 32; other numbers are taken for the nearest of these.
    ///
    /// # Errors
    /// `Kind::Digest` when a thread cannot be started.
    pub fn with_threads(threads: usize) -> Result<Self> {
        let mut pool = Self { submitter: Submitter(Arc::default()), threads: Vec::new() };
        for i in 0..threads.clamp(1, THREADS_MAX) {
            let shared = Arc::clone(&pool.submitter.0);
            let (name, work) = (format!("hash-{i}"), move || work(&shared));
            pool.threads.push(spawn(&name, Kind::Digest, "cannot start a hashing thread", work)?);
        }
        Ok(pool)
    }

    /// How many threads there are.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Queues `job`, see [`Submitter::submit`].
    pub fn submit(&self, priority: Priority, job: impl FnOnce(&mut Scratch) + Send + 'static) {
        self.submitter.submit(priority, job);
    }

    /// Whether no job waits for a thread.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.submitter.0.queues.lock().waiting.iter().all(VecDeque::is_empty)
    }

    /// A handle for submitting that outlives a borrow of the pool.
    #[must_use]
    pub fn submitter(&self) -> Submitter {
        self.submitter.clone()
    }
}

impl Drop for HashPool {
    fn drop(&mut self) {
        let mut queues = self.submitter.0.queues.lock();
        queues.closed = true;
        let waiting = std::mem::take(&mut queues.waiting);
        drop(queues);
        // Outside the lock: what a job owns may submit more when it is dropped.
        drop(waiting);
        self.submitter.0.changed.notify_all();
        for thread in self.threads.drain(..) {
            // The last owner may be a job, on the very thread that it runs on.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// What each thread does until the pool closes.
fn work(shared: &Shared) {
    let mut scratch = Scratch::new();
    loop {
        let mut queues = shared.queues.lock();
        let job = loop {
            if queues.closed {
                return;
            }
            match queues.waiting.iter_mut().find_map(VecDeque::pop_front) {
                Some(job) => break job,
                None => shared.changed.wait(&mut queues),
            }
        };
        drop(queues);
        job(&mut scratch);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A pool of one thread that is kept busy until the sender is dropped or used.
    fn blocked_pool() -> (HashPool, mpsc::Sender<()>) {
        let pool = HashPool::with_threads(1).expect("a thread");
        let (go, gate) = mpsc::channel();
        let (started, has_started) = mpsc::channel();
        pool.submit(Priority::Interactive, move |_| {
            started.send(()).expect("a waiting test");
            let _ = gate.recv();
        });
        has_started.recv().expect("the job runs");
        (pool, go)
    }

    #[test]
    fn urgent_jobs_overtake_others_and_each_kind_keeps_its_order() {
        let (pool, go) = blocked_pool();
        let (done, order) = mpsc::channel();
        for (name, priority) in [
            ("bulk", Priority::Bulk),
            ("ahead", Priority::Ahead),
            ("scan 1", Priority::Scan),
            ("scan 2", Priority::Scan),
            ("reader 1", Priority::Interactive),
            ("reader 2", Priority::Interactive),
        ] {
            let done = done.clone();
            pool.submit(priority, move |_| done.send(name).expect("a waiting test"));
        }
        drop((go, done));
        let order: Vec<_> = order.iter().collect();
        assert_eq!(order, ["reader 1", "reader 2", "scan 1", "scan 2", "ahead", "bulk"]);
    }

    #[test]
    fn dropping_the_pool_drops_waiting_jobs_and_joins() {
        let (pool, go) = blocked_pool();
        let (done, results) = mpsc::channel::<()>();
        let submitter = pool.submitter();
        pool.submit(Priority::Scan, move |_| {
            let _ = done.send(());
        });
        let dropper = thread::spawn(move || drop(pool));
        // The waiting job is gone before the running one has ended.
        assert_eq!(results.recv(), Err(mpsc::RecvError));
        drop(go);
        dropper.join().expect("the drop ends");
        submitter.submit(Priority::Scan, |_| panic!("a closed pool runs nothing"));
    }

    #[test]
    fn the_number_of_threads_is_bounded() {
        assert_eq!(HashPool::with_threads(0).expect("threads").threads(), 1);
        assert_eq!(HashPool::with_threads(1000).expect("threads").threads(), THREADS_MAX);
    }
}

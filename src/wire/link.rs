//! The connection under a peer: its bytes counted, its process minded, its failures explained.

use std::io::{self, Read, Write};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use std::os::unix::process::ExitStatusExt;

use parking_lot::Mutex;

use crate::error::{Error, Kind, Result};
use crate::transport::{Control, Remote};

/// How long a remote command whose stdout has ended may take to end itself, before the error is
/// told without its exit status.
pub(super) const EXIT_GRACE: Duration = Duration::from_secs(2);

/// How often a wait for the remote command looks for other reasons to end.
const WAIT_SLICE: Duration = Duration::from_millis(100);

/// Traffic of a peer since it connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes sent to the remote.
    pub sent_bytes: u64,
    /// Bytes received from the remote.
    pub received_bytes: u64,
    /// Requests sent, hints included.
    pub requests: u64,
}

/// What reader, writer and owner of a connection share.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) control: Arc<Control>,
    remote: Mutex<Option<Remote>>,
    aborted: AtomicBool,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    requests: AtomicU64,
}

impl Link {
    pub(super) fn new(control: Arc<Control>, remote: Option<Remote>) -> Arc<Self> {
        Arc::new(Self {
            control,
            remote: Mutex::new(remote),
            aborted: AtomicBool::new(false),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        })
    }

    pub(super) fn counters(&self) -> Counters {
        Counters {
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
        }
    }

    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Closes the connection and makes every wait for the process end soon.
    pub(super) fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
        self.control.close();
    }

    /// Adds to the news that the remote went away how its command ended, if it does so soon.
    pub(super) fn explain(&self, err: Error) -> Error {
        if err.kind() != Kind::Gone {
            return err;
        }
        let mut remote = self.remote.lock();
        let Some(remote) = remote.as_mut() else { return err };
        let Ok(Some(status)) = remote.wait(EXIT_GRACE) else { return err };
        // A command that a signal ended is another fault than one that ended itself.
        let kind = if status.signal().is_some() { Kind::Spawn } else { err.kind() };
        Error::new(kind, err.full_message()).with_source(remote.end(status))
    }

    /// Waits for the process, whose stdin is closed, to end by itself: for as long as the
    /// timeout allows, or until [`abort`](Self::abort). Without a process it went well.
    pub(super) fn wait(&self) -> Result<ExitStatus> {
        let mut waited = Duration::ZERO;
        loop {
            let mut remote = self.remote.lock();
            let Some(remote) = remote.as_mut() else { return Ok(ExitStatus::default()) };
            if let Some(status) = remote.wait(WAIT_SLICE)? {
                return match status.signal() {
                    // Classic bug 7: never a success.
                    Some(_) => Err(Error::new(Kind::Spawn, remote.describe(status))),
                    None => Ok(status),
                };
            }
            waited += WAIT_SLICE;
            let limit = self.control.timeout();
            if limit.is_some_and(|limit| waited >= limit) {
                remote.kill()?;
                let seconds = limit.unwrap_or_default().as_secs_f64();
                let what = format!(
                    "the remote command did not end within {seconds} s of the session's end \
                     (--timeout) and was killed"
                );
                return Err(Error::new(Kind::Connection, what));
            }
            if self.aborted.load(Ordering::SeqCst) {
                remote.kill()?;
                return Err(Error::new(Kind::Connection, "the remote command was killed"));
            }
        }
    }

    /// Ends and reaps the process, if there is one and it still runs.
    pub(super) fn kill(&self) {
        if let Some(remote) = self.remote.lock().as_mut() {
            // It could not be waited for: nothing left to do about it.
            let _ = remote.kill();
        }
    }
}

/// A stream whose bytes the link counts.
pub(super) struct LinkStream<S> {
    pub(super) stream: S,
    pub(super) link: Arc<Link>,
}

impl<S: Read> Read for LinkStream<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.stream.read(buf)?;
        self.link.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

impl<S: Write> Write for LinkStream<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let bytes = self.stream.write(buf)?;
        self.link.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

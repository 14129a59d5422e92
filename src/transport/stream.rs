//! The reader and writer of a connection, over any descriptor that can be polled.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{MsgFlags, getsockopt, send, sockopt::SockType};

use super::control::{Control, Ready};

/// What a pipe takes without blocking once it polls as writable: a page.
const PIPE_BUF: usize = libc::PIPE_BUF;
/// The smallest pipe: the kernel makes one page of it.
const PIPE_BYTES_MIN: i32 = 1;
/// The kernel's own size of a pipe.
const PIPE_BYTES: i32 = 64 * 1024;

/// Reads until the other side or the owner closes, or silence lasts too long.
#[derive(Debug)]
pub(super) struct StreamReader {
    file: File,
    control: Arc<Control>,
}

impl StreamReader {
    pub(super) fn new(fd: OwnedFd, control: Arc<Control>) -> Self {
        Self { file: File::from(fd), control }
    }

    /// Reads past the owner's close, without waiting if the descriptor is non-blocking.
    pub(super) fn read_now(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read(buf)
    }
}

impl Read for StreamReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.control.wait_readable(self.file.as_fd())? == Ready::Closed {
                return Ok(0);
            }
            match self.file.read(buf) {
                // Somebody else who shares the descriptor was faster.
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) => return Err(e),
                Ok(bytes) => {
                    self.control.heard();
                    return Ok(bytes);
                }
            }
        }
    }
}

/// Writes until the other side or the owner closes.
#[derive(Debug)]
pub(super) struct StreamWriter {
    file: File,
    control: Arc<Control>,
    mode: WriteMode,
    /// Whether the next flush waits until all that was written has been read.
    confirms: bool,
}

/// How a write is kept from blocking, so that the owner can end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteMode {
    /// The descriptor does not block.
    NonBlocking,
    /// A socket that may block: each call says that it does not want to.
    Socket,
    /// Anything else that may block: no more at once than a pipe that polls as writable takes.
    SmallPieces,
}

impl StreamWriter {
    /// A writer over a descriptor that does not block.
    pub(super) fn new(fd: OwnedFd, control: Arc<Control>) -> Self {
        Self { file: File::from(fd), control, mode: WriteMode::NonBlocking, confirms: false }
    }

    /// A writer over a pipe that does not block, whose first flush returns once the other end
    /// has read what was written. `ssh`, for one, reads nothing before it is logged in.
    pub(super) fn confirming(fd: OwnedFd, control: Arc<Control>) -> Self {
        // A pipe of one page polls as writable when nothing is left in it. Where it cannot be
        // made so small, a flush is a flush.
        let confirms = fcntl(&fd, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES_MIN)).is_ok();
        Self { confirms, ..Self::new(fd, control) }
    }

    /// A writer over a descriptor that others may share, so that it must stay as it is.
    pub(super) fn over_shared(fd: OwnedFd, control: Arc<Control>) -> Self {
        let mode = match getsockopt(&fd, SockType) {
            Ok(_) => WriteMode::Socket,
            Err(_) => WriteMode::SmallPieces,
        };
        Self { file: File::from(fd), control, mode, confirms: false }
    }

    fn write_now(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self.mode {
            WriteMode::NonBlocking => self.file.write(buf),
            WriteMode::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                Ok(send(self.file.as_raw_fd(), buf, flags)?)
            }
            WriteMode::SmallPieces => self.file.write(&buf[..buf.len().min(PIPE_BUF)]),
        }
    }
}

impl Write for StreamWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            if self.control.wait_writable(self.file.as_fd())? == Ready::Closed {
                return Err(ErrorKind::BrokenPipe.into());
            }
            match self.write_now(buf) {
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.confirms) {
            if self.control.wait_writable(self.file.as_fd())? == Ready::Closed {
                return Err(ErrorKind::BrokenPipe.into());
            }
            // A pipe that stays small is slow, and works.
            let _ = fcntl(&self.file, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        }
        Ok(())
    }
}

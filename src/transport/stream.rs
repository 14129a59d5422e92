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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Nobody else's descriptor is made to fail where it would wait, and yet nothing waits for one
    /// who does not read.
    #[test]
    fn a_write_to_a_shared_descriptor_ends_with_the_connection() {
        let (pipe_end, pipe) = io::pipe().unwrap();
        let (socket_end, socket) = UnixStream::pair().unwrap();
        let ends: [(Box<dyn Read>, OwnedFd); 2] =
            [(Box::new(pipe_end), pipe.into()), (Box::new(socket_end), socket.into())];
        for (mut reader, fd) in ends {
            let control = Control::new(None).unwrap();
            let mut writer = StreamWriter::over_shared(fd, Arc::clone(&control));
            let (ended, end) = mpsc::channel();
            let writes = thread::spawn(move || ended.send(writer.write_all(&vec![7; 64 << 20])));
            let mut got = vec![0; 1 << 20];
            reader.read_exact(&mut got).unwrap();
            assert!(got.iter().all(|&byte| byte == 7));
            control.close();
            let result = end.recv_timeout(Duration::from_secs(60));
            // A writer that waits all the same is not waited for.
            drop(reader);
            let err = result.expect("it waits for a reader").unwrap_err();
            assert_eq!(err.kind(), ErrorKind::BrokenPipe);
            writes.join().unwrap().unwrap();
        }
    }
}

//! The reader and writer of a connection, over any descriptor that can be polled.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::control::{Control, Ready};

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
}

impl StreamWriter {
    /// The owner can end a waiting write only if `fd` is non-blocking.
    pub(super) fn new(fd: OwnedFd, control: Arc<Control>) -> Self {
        Self { file: File::from(fd), control }
    }
}

impl Write for StreamWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            if self.control.wait_writable(self.file.as_fd())? == Ready::Closed {
                return Err(ErrorKind::BrokenPipe.into());
            }
            match self.file.write(buf) {
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

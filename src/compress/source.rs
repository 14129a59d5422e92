//! An input whose first bytes are looked at before they are read.

use std::io::{self, Read, Seek, SeekFrom};

use super::MAGIC_BYTES;

/// An input, from its first byte on.
#[derive(Debug)]
pub(super) struct Source<R> {
    head: [u8; MAGIC_BYTES],
    /// The bytes `at..head_len` of the head have been read from the input only.
    at: usize,
    head_len: usize,
    input: R,
    /// Whether the last error came from the input, not from what was made of its bytes.
    failed: bool,
}

impl<R: Read> Source<R> {
    /// Looks at the first bytes; fewer only when the input has fewer.
    pub(super) fn new(mut input: R) -> io::Result<Self> {
        let mut head = [0; MAGIC_BYTES];
        let mut head_len = 0;
        while head_len < MAGIC_BYTES {
            match input.read(&mut head[head_len..]) {
                Ok(0) => break,
                Ok(n) => head_len += n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        Ok(Self { head, at: 0, head_len, input, failed: false })
    }

    pub(super) fn head(&self) -> &[u8] {
        &self.head[..self.head_len]
    }

    pub(super) fn failed(&self) -> bool {
        self.failed
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at < self.head_len {
            let n = (&self.head[self.at..self.head_len]).read(buf)?;
            self.at += n;
            return Ok(n);
        }
        let result = self.input.read(buf);
        self.failed = result.is_err();
        result
    }
}

impl<R: Seek> Source<R> {
    /// Steps over `bytes`.
    pub(super) fn step(&mut self, bytes: u64) -> io::Result<u64> {
        let in_head = (self.head_len - self.at).min(usize::try_from(bytes).unwrap_or(usize::MAX));
        self.at += in_head;
        let rest = i64::try_from(bytes - in_head as u64);
        self.input.seek(SeekFrom::Current(rest.map_err(|_| io::ErrorKind::InvalidInput)?))
    }
}

//! Memory for long reads, beginning at a page; and zeros.

use std::io::{self, BufRead, Read};
use std::ops::{Deref, DerefMut};

/// What the memory is aligned to, in bytes: a page of the common kind, and more than any
/// common sector, so that direct reads may go there as well.
pub const PAGE_BYTES: usize = 4096;

/// Zeros to write or to hash, as many as one call takes.
pub static ZEROS: [u8; 65536] = [0; 65536];

/// A fixed number of bytes, zeros at first, that begin at a page.
///
/// The kernel copies what it reads with `rep movsb`. On AMD's Zen 3 that is four times slower (2.5
/// against 10 GB/s) where the destination lies 1 to 31 bytes behind the source, counted within a
/// page. Pages of the cache begin at 0, and what `malloc` gives for a long buffer begins at 16:
/// just the wrong place. See <https://sourceware.org/bugzilla/show_bug.cgi?id=30994>.
#[derive(Debug, Default)]
pub struct PageBuffer {
    /// With room in front of the first page.
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl PageBuffer {
    /// A buffer of `len` bytes; of none, no memory is taken.
    #[must_use]
    pub fn new(len: usize) -> Self {
        if len == 0 {
            return Self::default();
        }
        let bytes = vec![0; len + PAGE_BYTES - 1];
        // Never larger, except where the compiler evaluates it.
        let start = bytes.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES - 1);
        Self { bytes, start, len }
    }
}

impl Deref for PageBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for PageBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// Reads ahead from a stream, as [`io::BufReader`] does, into a [`PageBuffer`].
#[derive(Debug)]
pub struct PageReader<R> {
    input: R,
    buffer: PageBuffer,
    /// The bytes `start..end` of the buffer are read and not yet used.
    start: usize,
    end: usize,
}

impl<R: Read> PageReader<R> {
    /// Reads up to `len` bytes of `input` at a time.
    pub fn new(len: usize, input: R) -> Self {
        Self { input, buffer: PageBuffer::new(len), start: 0, end: 0 }
    }

    /// What is read and not yet used.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }
}

impl<R: Read> BufRead for PageReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.end = self.input.read(&mut self.buffer)?;
        }
        Ok(self.buffered())
    }

    fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
    }
}

impl<R: Read> Read for PageReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_at_a_page_wherever_it_is_moved_to() {
        for len in [1, 4095, 4096, 256 * 1024] {
            let mut buffer = PageBuffer::new(len);
            buffer[len - 1] = 7;
            let moved = Box::new(buffer);
            assert_eq!(moved.as_ptr() as usize % PAGE_BYTES, 0);
            assert_eq!((moved.len(), moved[len - 1]), (len, 7));
        }
        assert!(PageBuffer::new(0).is_empty());
    }

    #[test]
    fn a_stream_comes_out_as_it_went_in() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * 7 / 3) as u8).collect();
        for len in [1, 7, 256, 2000] {
            let mut reader = PageReader::new(len, &bytes[..]);
            let mut found = vec![0; 10];
            reader.read_exact(&mut found).unwrap();
            reader.read_to_end(&mut found).unwrap();
            assert_eq!(found, bytes, "{len} at a time");
            assert!(reader.fill_buf().unwrap().is_empty());
        }
    }
}

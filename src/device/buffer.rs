//! Memory for long reads, beginning at a page.

use std::ops::{Deref, DerefMut};

/// What the memory is aligned to, in bytes: a page of the common kind, and more than any
/// common sector, so that direct reads may go there as well.
pub const PAGE_BYTES: usize = 4096;

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
}

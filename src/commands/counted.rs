//! A stream that tells, with every step, how many bytes have passed through it.

use std::io::{self, Read, Write};

/// Calls `tell` with the sum after every read or write that went well.
pub struct Counted<S, F> {
    stream: S,
    bytes: u64,
    tell: F,
}

impl<S, F: FnMut(u64)> Counted<S, F> {
    /// Nothing has passed yet.
    pub fn new(stream: S, tell: F) -> Self {
        Self { stream, bytes: 0, tell }
    }

    /// Bytes so far.
    pub fn count(&self) -> u64 {
        self.bytes
    }

    /// The stream itself.
    pub fn into_inner(self) -> S {
        self.stream
    }

    fn passed(&mut self, bytes: usize) -> usize {
        self.bytes += bytes as u64;
        (self.tell)(self.bytes);
        bytes
    }
}

impl<S: Read, F: FnMut(u64)> Read for Counted<S, F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.stream.read(buf)?;
        Ok(self.passed(bytes))
    }
}

impl<S: Write, F: FnMut(u64)> Write for Counted<S, F> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let bytes = self.stream.write(buf)?;
        Ok(self.passed(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_told_after_every_step() {
        let mut told = vec![];
        let mut input = Counted::new(&b"abcde"[..], |bytes| told.push(bytes));
        while input.read(&mut [0; 2]).unwrap() > 0 {}
        assert_eq!(input.count(), 5);
        assert_eq!(told, [2, 4, 5, 5]);

        let mut room = [0; 3];
        let mut output = Counted::new(&mut room[..], |_| {});
        output.write_all(b"abcd").unwrap_err();
        assert_eq!(output.count(), 3);
    }
}

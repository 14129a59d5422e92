//! Plain bytes to any output.

use std::io::{self, Write};

use flate2::write::GzEncoder;

use crate::units::Compression;

/// Writes to an output, compressed if so wished.
///
/// Only [`Encoder::finish`] makes a whole stream and tells that the output took all of it.
pub struct Encoder<W: Write>(Inner<W>);

enum Inner<W: Write> {
    Plain(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// Compresses as `compression` says; `None` passes everything on.
    ///
    /// # Errors
    /// When zstd finds no memory.
    pub fn new(output: W, compression: Option<Compression>) -> io::Result<Self> {
        Ok(Self(match compression {
            None => Inner::Plain(output),
            Some(Compression::Gzip(level)) => {
                let level = flate2::Compression::new(u32::from(level));
                Inner::Gzip(GzEncoder::new(output, level))
            }
            Some(Compression::Zstd(level)) => {
                let mut encoder = zstd::Encoder::new(output, i32::from(level))?;
                // gzip always has one.
                encoder.include_checksum(true)?;
                Inner::Zstd(encoder)
            }
        }))
    }

    /// Writes what is still held and how the stream ends, flushes, and gives the output back.
    ///
    /// # Errors
    /// What the output fails with.
    pub fn finish(self) -> io::Result<W> {
        let mut output = match self.0 {
            Inner::Plain(output) => output,
            Inner::Gzip(encoder) => encoder.finish()?,
            Inner::Zstd(encoder) => encoder.finish()?,
        };
        output.flush()?;
        Ok(output)
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Plain(output) => output.write(buf),
            Inner::Gzip(encoder) => encoder.write(buf),
            Inner::Zstd(encoder) => encoder.write(buf),
        }
    }

    /// What was written by now can be decoded then. In the middle it costs compression.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Inner::Plain(output) => output.flush(),
            Inner::Gzip(encoder) => encoder.flush(),
            Inner::Zstd(encoder) => encoder.flush(),
        }
    }
}

//! Any input as plain bytes.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use zstd::zstd_safe::get_error_name;
use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;

use super::Format;
use super::gzip::GzipReader;
use super::source::Source;

/// The largest zstd window that is accepted, in bits: 128 MiB, which is what `zstd` itself
/// accepts without being asked for more. Files of its usual levels need 8 MiB at most.
pub const WINDOW_LOG_MAX: u32 = 27;
/// Compressed bytes read at a time.
const BUFFER_BYTES: usize = 128 * 1024;
/// Bytes that are decoded at a time only to step over them.
const STEP_BYTES: u64 = 32 * 1024;

/// Reads an input, decompressed if it is compressed.
///
/// Errors of the input come out as they are. Data that are damaged or cut are
/// `InvalidData`.
pub struct Decoder<R: Read>(Inner<R>);

enum Inner<R: Read> {
    Plain(Source<R>),
    Gzip(Box<GzipReader<BufReader<Source<R>>>>),
    Zstd(zstd::Decoder<'static, BufReader<Source<R>>>),
}

impl<R: Read> Decoder<R> {
    /// Recognises the format by the first bytes of `input`.
    ///
    /// # Errors
    /// What `input` fails with.
    pub fn new(input: R) -> io::Result<Self> {
        let source = Source::new(input)?;
        let format = Format::of(source.head());
        let buffered = |source| BufReader::with_capacity(BUFFER_BYTES, source);
        Ok(Self(match format {
            None => Inner::Plain(source),
            Some(Format::Gzip) => Inner::Gzip(Box::new(GzipReader::new(buffered(source)))),
            Some(Format::Zstd) => {
                let mut decoder = zstd::Decoder::with_buffer(buffered(source))?;
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Inner::Zstd(decoder)
            }
        }))
    }

    /// How the input is compressed, if it is.
    #[must_use]
    pub fn format(&self) -> Option<Format> {
        match &self.0 {
            Inner::Plain(_) => None,
            Inner::Gzip(_) => Some(Format::Gzip),
            Inner::Zstd(_) => Some(Format::Zstd),
        }
    }

    /// How many zeros stand behind compressed data that have been read to their end. They are no
    /// part of what comes out.
    #[must_use]
    pub fn padding_bytes(&self) -> u64 {
        match &self.0 {
            Inner::Gzip(decoder) => decoder.padding_bytes(),
            Inner::Plain(_) | Inner::Zstd(_) => 0,
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Plain(source) => source.read(buf),
            Inner::Gzip(decoder) => decoder.read(buf).map_err(|err| {
                let input_failed = decoder.input().is_some_and(|input| input.get_ref().failed());
                judge(err, input_failed, Format::Gzip)
            }),
            Inner::Zstd(decoder) => decoder
                .read(buf)
                .map_err(|err| judge(err, decoder.get_ref().get_ref().failed(), Format::Zstd)),
        }
    }
}

/// Tells a fault of the data from one of the input.
fn judge(err: io::Error, input_failed: bool, format: Format) -> io::Error {
    if input_failed {
        return err;
    }
    let name = format.name();
    let says = |code: ZSTD_ErrorCode| {
        format == Format::Zstd && err.to_string() == get_error_name((code as usize).wrapping_neg())
    };
    if says(ZSTD_ErrorCode::ZSTD_error_memory_allocation) {
        return io::ErrorKind::OutOfMemory.into();
    }
    let text = if says(ZSTD_ErrorCode::ZSTD_error_frameParameter_windowTooLarge) {
        let log = WINDOW_LOG_MAX;
        format!(
            "the {name} window has more than 2^{log} bytes: decompress it first (zstd -d --long=31)"
        )
    } else {
        format!(
            "the {name} data are damaged or cut (at this offset of what they decompress to): {err}"
        )
    };
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Only steps forward; compressed data are decoded to step over them. The position that comes
/// back means nothing.
impl<R: Read + Seek> Seek for Decoder<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Current(by) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        let by = u64::try_from(by).map_err(|_| io::ErrorKind::Unsupported)?;
        if let Inner::Plain(source) = &mut self.0 {
            return source.step(by);
        }
        let mut left = by;
        let mut buffer = [0; STEP_BYTES as usize];
        while left > 0 {
            // Not more than `STEP_BYTES`.
            let len = left.min(STEP_BYTES) as usize;
            match self.read(&mut buffer[..len]) {
                // As with a file, to step past the end is no error.
                Ok(0) => break,
                Ok(n) => left -= n as u64,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        Ok(by - left)
    }
}

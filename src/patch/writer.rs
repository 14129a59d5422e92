//! Writes a patch.

use std::io::{self, Write};

use super::format::{
    Checksum, END, Header, RECORD_HEADER_BYTES, RECORD_WRITE_BYTES_MAX, RecordHeader,
    encode_trailer,
};
use super::seal::Seal;
use crate::error::{Error, Kind, Result};

/// Bytes that are gathered before they go out in one write.
const BUFFER_BYTES: usize = 256 * 1024;

/// Writes a patch to anything that takes bytes; small writes are gathered.
///
/// Only [`PatchWriter::finish`] makes a whole patch: what is dropped before has no end mark,
/// so that every reader refuses it.
#[derive(Debug)]
pub struct PatchWriter<W> {
    output: W,
    buffer: Vec<u8>,
    size_bytes: u64,
    /// Bytes given to `output` and gathered so far.
    patch_bytes: u64,
    /// Digest of all of it, where a seal will want it.
    digest: Option<Box<blake3::Hasher>>,
}

impl<W: Write> PatchWriter<W> {
    /// Starts a patch with this header.
    ///
    /// # Errors
    /// `Kind::Usage` when the name is too long; `Kind::Write`.
    pub fn new(output: W, header: &Header) -> Result<Self> {
        Self::start(output, header, None)
    }

    /// Starts a patch that [`PatchWriter::finish_sealed`] will end.
    ///
    /// # Errors
    /// As [`PatchWriter::new`].
    pub fn new_sealed(output: W, header: &Header) -> Result<Self> {
        Self::start(output, header, Some(Box::new(blake3::Hasher::new())))
    }

    fn start(output: W, header: &Header, digest: Option<Box<blake3::Hasher>>) -> Result<Self> {
        let bytes = header.encode()?;
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        let mut writer =
            Self { output, buffer, size_bytes: header.size_bytes, patch_bytes: 0, digest };
        writer.put(&bytes)?;
        Ok(writer)
    }

    /// Appends `data`, a differing block that begins at `offset`, as records of at most
    /// [`RECORD_WRITE_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// `Kind::Write`; `Kind::Patch` when the block ends past the header's size, which a reader
    /// would refuse.
    pub fn write_block(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset.checked_add(data.len() as u64);
        if end.is_none_or(|end| end > self.size_bytes) {
            let what = format!(
                "a block of {} bytes would end past the patched device's {} bytes",
                data.len(),
                self.size_bytes
            );
            return Err(Error::new(Kind::Patch, what).with_offset(offset));
        }
        let mut at = offset;
        for piece in data.chunks(RECORD_WRITE_BYTES_MAX) {
            let len = u16::try_from(piece.len()).unwrap_or(u16::MAX);
            self.put(&RecordHeader { offset: at, len }.encode())?;
            self.put(piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Bytes of the patch so far.
    #[must_use]
    pub fn patch_bytes(&self) -> u64 {
        self.patch_bytes
    }

    /// Hands on what was gathered.
    ///
    /// # Errors
    /// `Kind::Write`.
    pub fn flush(&mut self) -> Result<()> {
        self.flush_buffer()?;
        self.output.flush().map_err(write_error)
    }

    /// Writes end mark and checksum, flushes, and gives the output back.
    ///
    /// # Errors
    /// `Kind::Write`; `Kind::Usage` when the checksum's name is too long.
    pub fn finish(mut self, checksum: Option<&Checksum>) -> Result<W> {
        self.put_end(checksum)?;
        self.close()
    }

    /// As [`PatchWriter::finish`], with a seal behind the checksum field.
    ///
    /// # Errors
    /// As [`PatchWriter::finish`].
    ///
    /// # Panics
    /// When the patch was not begun by [`PatchWriter::new_sealed`].
    pub fn finish_sealed(mut self, checksum: Option<&Checksum>, seal: &Seal) -> Result<W> {
        self.put_end(checksum)?;
        self.put(&seal.encode_body())?;
        self.flush_buffer()?;
        let digest = self.digest.take().expect("a patch that was begun as a sealed one");
        self.put(&Seal::encode_end(digest.finalize().as_bytes()))?;
        self.close()
    }

    /// As [`PatchWriter::finish`], with other bytes behind the checksum field.
    #[cfg(test)]
    pub(super) fn finish_with_tail(
        mut self,
        checksum: Option<&Checksum>,
        tail: &[u8],
    ) -> Result<W> {
        self.put_end(checksum)?;
        self.put(tail)?;
        self.close()
    }

    fn put_end(&mut self, checksum: Option<&Checksum>) -> Result<()> {
        let trailer = encode_trailer(checksum).ok_or_else(|| {
            Error::new(Kind::Usage, "the checksum's name or value is too long for a patch")
        })?;
        self.put(&END)?;
        self.put(&trailer)
    }

    fn close(mut self) -> Result<W> {
        self.flush()?;
        Ok(self.output)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush_buffer()?;
        }
        self.buffer.extend_from_slice(bytes);
        self.patch_bytes += bytes.len() as u64;
        Ok(())
    }

    fn flush_buffer(&mut self) -> Result<()> {
        if let Some(digest) = &mut self.digest {
            digest.update(&self.buffer);
        }
        // `write_all` retries interrupted calls.
        self.output.write_all(&self.buffer).map_err(write_error)?;
        self.buffer.clear();
        Ok(())
    }
}

/// Bytes that a block of `len` bytes takes in a patch, its record headers included.
#[must_use]
pub fn block_patch_bytes(len: u64) -> u64 {
    let records = len.div_ceil(RECORD_WRITE_BYTES_MAX as u64);
    len.saturating_add(records.saturating_mul(RECORD_HEADER_BYTES as u64))
}

fn write_error(err: io::Error) -> Error {
    // Who reads it is at the other end of a connection.
    let kind = if err.kind() == io::ErrorKind::TimedOut { Kind::Connection } else { Kind::Write };
    Error::io(kind, "cannot write the patch", err)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes, then the disk is full.
    struct Full {
        room: usize,
    }

    impl Write for Full {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            let n = buf.len().min(self.room);
            self.room -= n;
            if n == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(n) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn header(size_bytes: u64) -> Header {
        Header { size_bytes, name: b"dev".to_vec() }
    }

    #[test]
    fn block_is_cut_into_records_from_its_own_start() {
        let mut writer = PatchWriter::new(Vec::new(), &header(100_000)).unwrap();
        let before = writer.patch_bytes();
        writer.write_block(32769, &[7; 32769]).unwrap();
        assert_eq!(writer.patch_bytes() - before, block_patch_bytes(32769));
        let bytes = writer.finish(None).unwrap();
        let records = &bytes[24..];
        assert_eq!(records[..10], [1, 128, 0, 0, 0, 0, 0, 0, 0, 128]);
        assert_eq!(records[10 + 32768..][..11], [1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 7]);
        assert_eq!(records[10 + 32768 + 11..], [0; 11]);
    }

    #[test]
    fn block_past_the_header_size_is_never_written() {
        let mut writer = PatchWriter::new(Vec::new(), &header(8)).unwrap();
        writer.write_block(4, &[1; 4]).unwrap();
        assert_eq!(writer.write_block(5, &[1; 4]).unwrap_err().kind(), Kind::Patch);
        assert_eq!(writer.write_block(u64::MAX, &[1]).unwrap_err().kind(), Kind::Patch);
    }

    #[test]
    fn no_more_than_a_buffer_is_held_back() {
        struct Counting(std::rc::Rc<std::cell::Cell<u64>>);

        impl Write for Counting {
            fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
                self.0.set(self.0.get() + buf.len() as u64);
                Ok(buf.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let written = std::rc::Rc::default();
        let output = Counting(std::rc::Rc::clone(&written));
        let mut writer = PatchWriter::new(output, &header(1 << 30)).unwrap();
        for i in 0..200 {
            writer.write_block(i * 5000, &[1; 5000]).unwrap();
            assert!(writer.patch_bytes() - written.get() <= BUFFER_BYTES as u64);
        }
    }

    #[test]
    fn full_disk_is_a_write_error_wherever_it_happens() {
        for room in 0..60 {
            let written = PatchWriter::new(Full { room }, &header(8)).and_then(|mut writer| {
                writer.write_block(0, &[1; 8])?;
                writer.finish(None)
            });
            match written {
                Ok(_) => assert!(room >= 24 + 18 + 11),
                Err(err) => assert_eq!((err.kind(), room < 24 + 18 + 11), (Kind::Write, true)),
            }
        }
    }
}

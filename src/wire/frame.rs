//! Frames: the length and token around every message, read from and written to byte streams.
//!
//! A frame is `length: u32, token: u8, payload`, little-endian, where `length` counts the token
//! and the payload: 1 to [`MESSAGE_BYTES_MAX`]. What the payload means is [`message`](super::message)'s.

use std::io::{self, Read, Write};

use super::message::Message;
use crate::buffer::PageReader;
use crate::error::{Error, Kind, Result};

/// The largest value of a frame's length field: token and payload, in bytes (protocol, section 2).
pub const MESSAGE_BYTES_MAX: usize = 131_072;

/// The longest payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 1;

/// Length and token, in bytes.
pub const FRAME_HEAD_BYTES: usize = 5;

/// Read buffer, in bytes: two of the largest messages.
const READ_BUFFER_BYTES: usize = 2 * MESSAGE_BYTES_MAX;

/// [`FrameWriter`] passes its frames on by itself once it holds so many bytes.
const BATCH_BYTES: usize = MESSAGE_BYTES_MAX;

/// Cuts a byte stream into frames. Holds at most one payload.
#[derive(Debug)]
pub struct FrameReader<R> {
    input: PageReader<R>,
    payload: Vec<u8>,
}

impl<R: Read> FrameReader<R> {
    /// Reads frames from `input`, which need not be buffered.
    pub fn new(input: R) -> Self {
        Self { input: PageReader::new(READ_BUFFER_BYTES, input), payload: Vec::new() }
    }

    /// The next frame's token and payload; `None` when the stream ends between two frames.
    ///
    /// # Errors
    /// `Kind::Read` when the stream ends inside a frame or fails, `Kind::Connection` when it
    /// stays silent for too long, `Kind::Protocol` when the length is out of bounds.
    pub fn read(&mut self) -> Result<Option<(u8, &[u8])>> {
        let mut head = [0; FRAME_HEAD_BYTES];
        let got = read_up_to(&mut self.input, &mut head).map_err(read_error)?;
        if got == 0 {
            return Ok(None);
        }
        if got < head.len() {
            return Err(cut_error());
        }
        let [l0, l1, l2, l3, token] = head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let payload_bytes = match length.checked_sub(1) {
            Some(n) if n as usize <= PAYLOAD_BYTES_MAX => u64::from(n),
            _ => return Err(length_error(head, length)),
        };
        // Grows with what arrives, not with what is announced.
        self.payload.clear();
        let mut body = (&mut self.input).take(payload_bytes);
        let got = body.read_to_end(&mut self.payload).map_err(read_error)?;
        if got as u64 != payload_bytes {
            return Err(cut_error());
        }
        Ok(Some((token, &self.payload)))
    }

    /// The next message; `None` when the stream ends between two messages.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), and `Kind::Protocol` for a malformed message.
    pub fn read_message(&mut self) -> Result<Option<Message>> {
        match self.read()? {
            Some((token, payload)) => Message::decode(token, payload).map(Some),
            None => Ok(None),
        }
    }

    /// The next message, where the stream must not end yet.
    ///
    /// # Errors
    /// Those of [`read_message`](Self::read_message), and `Kind::Read` when the stream ends.
    pub fn expect_message(&mut self) -> Result<Message> {
        self.read_message()?.ok_or_else(gone_error)
    }

    /// Reads on to the end of the stream and forgets what comes, for a peer that talks on
    /// after its last message; faults of the stream end it too.
    pub fn discard_rest(&mut self) {
        let _ = io::copy(&mut self.input, &mut io::sink());
    }
}

/// Collects frames and writes them in large pieces.
#[derive(Debug)]
pub struct FrameWriter<W> {
    output: W,
    batch: Vec<u8>,
}

impl<W: Write> FrameWriter<W> {
    /// Writes frames to `output`, which need not be buffered.
    pub fn new(output: W) -> Self {
        Self { output, batch: Vec::new() }
    }

    /// Adds a message; it may wait for [`flush`](Self::flush) to go out.
    ///
    /// # Errors
    /// `Kind::Protocol` when the message is longer than the protocol allows, and those of
    /// [`flush`](Self::flush).
    pub fn write(&mut self, message: &Message) -> Result<()> {
        message.encode(&mut self.batch)?;
        if self.batch.len() >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    /// Sends everything that was added.
    ///
    /// # Errors
    /// `Kind::Read` when the remote side went away, `Kind::Connection` when writing failed
    /// otherwise.
    pub fn flush(&mut self) -> Result<()> {
        let sent = self.output.write_all(&self.batch).and_then(|()| self.output.flush());
        self.batch.clear();
        sent.map_err(write_error)
    }
}

/// Appends the frame of `token` and `payload` to `out`, which a failure leaves as it was.
///
/// # Errors
/// `Kind::Protocol` when the payload is longer than [`PAYLOAD_BYTES_MAX`].
pub(super) fn encode_frame(token: u8, payload: &[&[u8]], out: &mut Vec<u8>) -> Result<()> {
    let payload_bytes: usize = payload.iter().map(|part| part.len()).sum();
    let length = match u32::try_from(payload_bytes + 1) {
        Ok(length) if payload_bytes <= PAYLOAD_BYTES_MAX => length,
        _ => {
            let what = format!(
                "a message to the remote is too long: at most {PAYLOAD_BYTES_MAX} bytes fit, \
                 {payload_bytes} given"
            );
            return Err(Error::new(Kind::Protocol, what));
        }
    };
    out.extend_from_slice(&length.to_le_bytes());
    out.push(token);
    for part in payload {
        out.extend_from_slice(part);
    }
    Ok(())
}

/// Fills `buf` as far as the stream goes.
fn read_up_to(input: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buf.len() {
        match input.read(&mut buf[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

/// The stream ended where a message was due.
pub(super) fn gone_error() -> Error {
    Error::new(Kind::Read, "the remote side went away")
}

fn cut_error() -> Error {
    Error::new(Kind::Read, "the remote side went away in the middle of a message")
}

fn read_error(source: io::Error) -> Error {
    match source.kind() {
        // The transport's own words, which name the time.
        io::ErrorKind::TimedOut => Error::new(Kind::Connection, source.to_string()),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => gone_error(),
        _ => Error::io(Kind::Read, "cannot read from the remote", source),
    }
}

fn write_error(source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted => gone_error(),
        _ => Error::io(Kind::Connection, "cannot write to the remote", source),
    }
}

/// What a length out of bounds most often means is a remote that prints words: show them.
fn length_error(head: [u8; FRAME_HEAD_BYTES], length: u32) -> Error {
    let mut what = format!(
        "the remote sent a message of impossible length: expected 1 to {MESSAGE_BYTES_MAX}, \
         found {length}"
    );
    if head.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) {
        what.push_str(&format!(
            " (the text \"{}\"; is --server missing, or does a login script print something?)",
            head.escape_ascii()
        ));
    }
    Error::new(Kind::Protocol, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame_of(length: u32, payload_bytes: usize) -> Vec<u8> {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.resize(FRAME_HEAD_BYTES + payload_bytes, 2);
        bytes
    }

    fn read_one(bytes: &[u8]) -> Result<Option<usize>> {
        let mut reader = FrameReader::new(bytes);
        reader.read().map(|frame| frame.map(|(_, payload)| payload.len()))
    }

    #[test]
    fn accepts_the_longest_message_and_refuses_one_byte_more() {
        let max = MESSAGE_BYTES_MAX;
        let longest = frame_of(max as u32, max - 1);
        assert_eq!(read_one(&longest).unwrap(), Some(PAYLOAD_BYTES_MAX));
        let longer = frame_of(max as u32 + 1, max);
        assert_eq!(read_one(&longer).unwrap_err().kind(), Kind::Protocol);
    }

    #[test]
    fn refuses_to_send_one_byte_more_than_the_limit() {
        let data = vec![0; PAYLOAD_BYTES_MAX + 1];
        let mut out = vec![9];
        assert!(encode_frame(9, &[&data[1..]], &mut out).is_ok());
        assert_eq!(out.len(), 1 + FRAME_HEAD_BYTES + PAYLOAD_BYTES_MAX);
        out.truncate(1);
        assert_eq!(encode_frame(9, &[&data], &mut out).unwrap_err().kind(), Kind::Protocol);
        assert_eq!(out, [9]);
    }

    #[test]
    fn refuses_a_length_of_zero() {
        assert_eq!(read_one(&frame_of(0, 0)).unwrap_err().kind(), Kind::Protocol);
    }

    #[test]
    fn announced_length_is_not_allocated() {
        let cut = frame_of(MESSAGE_BYTES_MAX as u32, 10);
        let mut reader = FrameReader::new(&cut[..]);
        assert_eq!(reader.read().unwrap_err().kind(), Kind::Read);
        assert!(reader.payload.capacity() < 4096, "{}", reader.payload.capacity());
    }

    #[test]
    fn end_between_frames_is_an_end_and_inside_a_fault() {
        let whole = frame_of(3, 2);
        assert_eq!(read_one(&[]).unwrap(), None);
        for cut in 1..whole.len() {
            let err = read_one(&whole[..cut]).unwrap_err();
            assert_eq!(err.kind(), Kind::Read, "cut at {cut}");
            assert!(err.to_string().contains("in the middle of a message"), "{err}");
        }
    }

    #[test]
    fn words_in_place_of_a_message_are_shown() {
        let err = read_one(b"Welcome to host\n").unwrap_err();
        assert_eq!(err.kind(), Kind::Protocol);
        assert!(err.to_string().contains("the text \"Welco\""), "{err}");
    }

    #[test]
    fn interrupted_and_short_reads_are_continued() {
        struct Dribble<'a>(&'a [u8], bool);
        impl Read for Dribble<'_> {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                self.1 = !self.1;
                if self.1 {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                self.0.read(&mut buf[..1])
            }
        }
        let mut bytes = vec![];
        Message::Size(77).encode(&mut bytes).unwrap();
        let mut reader = FrameReader::new(Dribble(&bytes, false));
        assert_eq!(reader.read_message().unwrap(), Some(Message::Size(77)));
        assert_eq!(reader.read_message().unwrap(), None);
    }

    #[test]
    fn broken_pipe_means_that_the_remote_went_away() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut writer = FrameWriter::new(Broken);
        writer.write(&Message::Done).unwrap();
        assert_eq!(writer.flush().unwrap_err().kind(), Kind::Read);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut reader = FrameReader::new(&bytes[..]);
            while let Ok(Some(_)) = reader.read_message() {}
        }
    }
}

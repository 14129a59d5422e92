//! Messages in their [frames](super::layout), read from and written to byte streams.

use std::io::{self, Read, Write};

use super::layout::{FRAME_HEAD_BYTES, MESSAGE_BYTES_MAX, PAYLOAD_BYTES_MAX};
use super::message::{HELLO, Message};
use super::other::Other;
use crate::buffer::PageReader;
use crate::error::Result;

/// The largest value of a hello's length field: one with all our extensions has 73 bytes.
pub const HELLO_BYTES_MAX: usize = 1024;

/// Read buffer, in bytes: two of the largest messages.
const READ_BUFFER_BYTES: usize = 2 * MESSAGE_BYTES_MAX;

/// [`FrameWriter`] passes its frames on by itself once it holds so many bytes.
const BATCH_BYTES: usize = MESSAGE_BYTES_MAX;

/// Cuts a byte stream into frames. Holds at most one payload.
#[derive(Debug)]
pub struct FrameReader<R> {
    input: PageReader<R>,
    payload: Vec<u8>,
    other: Other,
}

impl<R: Read> FrameReader<R> {
    /// Reads a server's frames from `input`, which need not be buffered.
    pub fn new(input: R) -> Self {
        let input = PageReader::new(READ_BUFFER_BYTES, input);
        Self { input, payload: Vec::new(), other: Other::Server }
    }

    /// Reads a client's frames.
    pub fn of_client(input: R) -> Self {
        Self { other: Other::Client, ..Self::new(input) }
    }

    /// Who sends them.
    pub(super) fn other(&self) -> Other {
        self.other
    }

    /// The next frame's token and payload; `None` when the stream ends between two frames.
    ///
    /// # Errors
    /// `Kind::Gone` when the stream ends inside a frame or fails, `Kind::Connection` when it
    /// stays silent for too long, `Kind::Protocol` when the length is out of bounds.
    pub fn read(&mut self) -> Result<Option<(u8, &[u8])>> {
        let mut length = [0; 4];
        let other = self.other;
        let failed = |err| other.unread(err);
        let got = read_up_to(&mut self.input, &mut length).map_err(failed)?;
        if got == 0 {
            return Ok(None);
        }
        if got < length.len() {
            return Err(other.cut());
        }
        // Before anything else is waited for: behind a wrong length it may never come.
        let payload_bytes = match u32::from_le_bytes(length).checked_sub(1) {
            Some(n) if n as usize <= PAYLOAD_BYTES_MAX => u64::from(n),
            _ => return Err(other.bad_length(length, self.input.buffered())),
        };
        let mut token = [0];
        if read_up_to(&mut self.input, &mut token).map_err(failed)? == 0 {
            return Err(other.cut());
        }
        // Grows with what arrives, not with what is announced.
        self.payload.clear();
        let mut body = (&mut self.input).take(payload_bytes);
        let got = body.read_to_end(&mut self.payload).map_err(failed)?;
        if got as u64 != payload_bytes {
            return Err(other.cut());
        }
        Ok(Some((token[0], &self.payload)))
    }

    /// The next message; `None` when the stream ends between two messages.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), and `Kind::Protocol` for a malformed message.
    pub fn read_message(&mut self) -> Result<Option<Message>> {
        let other = self.other;
        match self.read()? {
            Some((token, payload)) => {
                Message::decode(token, payload).map(Some).map_err(|err| other.sent(err))
            }
            None => Ok(None),
        }
    }

    /// The next message, where the stream must not end yet.
    ///
    /// # Errors
    /// Those of [`read_message`](Self::read_message), and `Kind::Gone` when the stream ends.
    pub fn expect_message(&mut self) -> Result<Message> {
        let other = self.other;
        self.read_message()?.ok_or_else(|| other.gone())
    }

    /// The text of the hello that the stream must begin with.
    ///
    /// Every byte is looked at as it comes: with a single stray one in front, by a login script
    /// perhaps, the hello's head is that of a long message, the rest of which never comes.
    ///
    /// # Errors
    /// `Kind::Protocol` as soon as no hello begins like that, `Kind::Gone` when the stream ends
    /// before the hello does or fails, `Kind::Connection` when it stays silent for too long.
    pub fn expect_hello(&mut self) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        while !is_whole(&frame) {
            let mut byte = [0];
            match read_up_to(&mut self.input, &mut byte) {
                Ok(0) if frame.is_empty() => return Err(self.other.gone()),
                Ok(0) => return Err(self.other.cut()),
                Ok(_) => frame.push(byte[0]),
                Err(err) => return Err(self.other.unread_behind(err, &frame)),
            }
            if !may_be_hello(&frame) {
                frame.extend_from_slice(self.input.buffered());
                return Err(self.other.no_hello(&frame));
            }
        }
        Ok(frame.split_off(FRAME_HEAD_BYTES))
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
    other: Other,
}

impl<W: Write> FrameWriter<W> {
    /// Writes frames for a server to `output`, which need not be buffered.
    pub fn new(output: W) -> Self {
        Self { output, batch: Vec::new(), other: Other::Server }
    }

    /// Writes frames for a client.
    pub fn for_client(output: W) -> Self {
        Self { other: Other::Client, ..Self::new(output) }
    }

    /// Adds a message; it may wait for [`flush`](Self::flush) to go out.
    ///
    /// # Errors
    /// `Kind::Protocol` when the message is longer than the protocol allows, and those of
    /// [`flush`](Self::flush).
    pub fn write(&mut self, message: &Message) -> Result<()> {
        self.add(message)?;
        if self.is_full() { self.flush() } else { Ok(()) }
    }

    /// Adds a message, which [`flush`](Self::flush) sends: for who must not wait for the remote.
    ///
    /// # Errors
    /// `Kind::Protocol` when the message is longer than the protocol allows.
    pub(super) fn add(&mut self, message: &Message) -> Result<()> {
        message.encode(&mut self.batch)
    }

    /// Whether there is enough for one large write.
    pub(super) fn is_full(&self) -> bool {
        self.batch.len() >= BATCH_BYTES
    }

    /// Sends everything that was added.
    ///
    /// # Errors
    /// `Kind::Gone` when the remote side went away, `Kind::Connection` when writing failed
    /// otherwise.
    pub fn flush(&mut self) -> Result<()> {
        let sent = self.output.write_all(&self.batch).and_then(|()| self.output.flush());
        self.batch.clear();
        sent.map_err(|err| self.other.unwritten(err))
    }
}

/// The length field of a frame that begins with `begun`; the bytes that are still missing would
/// only make it larger.
fn least_length(begun: &[u8]) -> usize {
    let bytes = begun.iter().take(4).enumerate();
    bytes.map(|(place, &byte)| usize::from(byte) << (8 * place)).sum()
}

/// Whether `frame` is a frame to its end.
fn is_whole(frame: &[u8]) -> bool {
    frame.len() >= FRAME_HEAD_BYTES && frame.len() >= 4 + least_length(frame)
}

/// Whether a hello's frame can begin with these bytes. Its text has no control characters; a
/// hello behind a stray head that looks like one has, in its own length.
fn may_be_hello(begun: &[u8]) -> bool {
    let length = least_length(begun);
    let text = begun.get(FRAME_HEAD_BYTES..).unwrap_or_default();
    length <= HELLO_BYTES_MAX
        && (length > 0 || begun.len() < 4)
        && begun.get(4).is_none_or(|&token| token == HELLO)
        && !text.iter().any(u8::is_ascii_control)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use proptest::prelude::*;

    fn frame_of(length: u32, payload_bytes: usize) -> Vec<u8> {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.resize(FRAME_HEAD_BYTES + payload_bytes, 2);
        bytes
    }

    #[test]
    fn a_server_speaks_of_its_client() {
        let said = |bytes: &[u8]| {
            let err = FrameReader::of_client(bytes).expect_hello().unwrap_err();
            err.full_message()
        };
        assert_eq!(said(b""), "the client went away");
        let noise = "the client does not begin with a hello but with \"GET / HTTP\"";
        assert_eq!(said(b"GET / HTTP"), noise);
        let err = FrameReader::of_client(&b"GET / HTTP"[..]).read().unwrap_err().full_message();
        assert!(err.starts_with("the client sent") && !err.contains("--server"), "{err}");
        let err = FrameReader::of_client(&b"\x01\0\0\0\x63"[..]).read_message().unwrap_err();
        assert_eq!(err.to_string(), "the client sent a message of unknown kind 99");
        let err = Other::Client.unexpected("size", &Message::Done);
        let expected = "the client sent a message out of order: expected size, found done";
        assert_eq!(err.to_string(), expected);
    }

    #[test]
    fn impossible_length_is_found_before_anything_else_is_waited_for() {
        for length in [0_u32, 131_073, u32::MAX] {
            let bytes = length.to_le_bytes();
            let err = FrameReader::new(Silent(&bytes)).read().unwrap_err();
            assert_eq!(err.kind(), Kind::Protocol);
            assert!(err.to_string().contains(&format!("found {length}")), "{err}");
        }
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
    fn refuses_a_length_of_zero() {
        assert_eq!(read_one(&frame_of(0, 0)).unwrap_err().kind(), Kind::Protocol);
    }

    #[test]
    fn announced_length_is_not_allocated() {
        let cut = frame_of(MESSAGE_BYTES_MAX as u32, 10);
        let mut reader = FrameReader::new(&cut[..]);
        assert_eq!(reader.read().unwrap_err().kind(), Kind::Gone);
        assert!(reader.payload.capacity() < 4096, "{}", reader.payload.capacity());
    }

    #[test]
    fn end_between_frames_is_an_end_and_inside_a_fault() {
        let whole = frame_of(3, 2);
        assert_eq!(read_one(&[]).unwrap(), None);
        for cut in 1..whole.len() {
            let err = read_one(&whole[..cut]).unwrap_err();
            assert_eq!(err.kind(), Kind::Gone, "cut at {cut}");
            assert!(err.to_string().contains("in the middle of a message"), "{err}");
        }
    }

    #[test]
    fn words_in_place_of_a_message_are_shown() {
        let err = read_one(b"Welcome to host\n").unwrap_err();
        assert_eq!(err.kind(), Kind::Protocol);
        assert!(err.to_string().contains("the text \"Welcome to host\\n\""), "{err}");
    }

    /// What begins a stream that a hello follows, and then nothing any more.
    struct Silent<'a>(&'a [u8]);

    impl Read for Silent<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buf)? {
                0 => Err(io::Error::new(io::ErrorKind::TimedOut, "it waits for more")),
                n => Ok(n),
            }
        }
    }

    fn hello(text: &str) -> Vec<u8> {
        let mut bytes = vec![];
        Message::Hello(text.into()).encode(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn hello_may_be_as_long_as_its_limit_and_no_longer() {
        let longest = "x".repeat(HELLO_BYTES_MAX - 1);
        for text in ["", "SERVER 0.5", &longest] {
            let bytes = hello(text);
            let mut reader = FrameReader::new(Silent(&bytes));
            assert_eq!(reader.expect_hello().unwrap(), text.as_bytes());
        }
        let bytes = hello(&"x".repeat(HELLO_BYTES_MAX));
        let err = FrameReader::new(Silent(&bytes[..2])).expect_hello().unwrap_err();
        assert_eq!(err.kind(), Kind::Protocol);
    }

    #[test]
    fn bytes_before_a_hello_are_shown_and_none_is_waited_for() {
        let noises: Vec<Vec<u8>> = (1..=20)
            .flat_map(|count| (0..=255).map(move |byte| vec![byte; count]))
            .chain((1..=20).map(|count| b"Last login: Thursday"[..count].to_vec()))
            .chain([b"\x20\0\0\0\x01CLIENT".to_vec(), b"\x20\0\0\0\x01".to_vec()])
            .collect();
        for text in ["SERVER 0.5", "SERVER+blake3,tree,faults,skip,nh,reorder,early,runs,alive 0.5"]
        {
            for noise in &noises {
                let bytes = [&noise[..], &hello(text)].concat();
                let err = FrameReader::new(Silent(&bytes)).expect_hello().unwrap_err();
                assert_eq!(err.kind(), Kind::Protocol, "{}: {err}", noise.escape_ascii());
                assert!(err.to_string().contains("login script"), "{err}");
                assert!(err.to_string().contains(&noise.escape_ascii().to_string()), "{err}");
            }
        }
    }

    #[test]
    fn silence_after_stray_bytes_is_told_with_them() {
        let err = FrameReader::new(Silent(b"\n")).expect_hello().unwrap_err();
        assert_eq!(err.kind(), Kind::Connection);
        assert_eq!(err.to_string(), r#"the remote side: it waits for more, only "\n""#);
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
        assert_eq!(writer.flush().unwrap_err().kind(), Kind::Gone);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut reader = FrameReader::new(&bytes[..]);
            while let Ok(Some(_)) = reader.read_message() {}
            let _ = FrameReader::new(&bytes[..]).expect_hello();
        }
    }
}

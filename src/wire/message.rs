//! Messages: what the payload of each token means. Pure: bytes to types and back.
//!
//! Decoding checks the form only. Whether a message is due, and whether its numbers make sense
//! for the device, is for the one who asked or answers.

use super::fields::{DIGEST_NAME_BYTES_MAX, Fields, Look, NO_LEVEL, SALT_BYTES_MAX};
use super::layout::{FRAME_HEAD_BYTES, MESSAGE_BYTES_MAX, encode_frame};
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, FileId};

pub(super) const HELLO: u8 = 1;
const DEVFILE: u8 = 2;
const SIZE: u8 = 3;
const DIGESTS: u8 = 4;
const GETHASHES: u8 = 5;
const HASHES: u8 = 6;
const DONE: u8 = 7;
const GETBLOCK: u8 = 8;
const BLOCK: u8 = 9;
const GETCHECKSUM: u8 = 10;
const CHECKSUM: u8 = 11;
// Extensions start at 64 (see the protocol in `wire`).
const GETTREE: u8 = 64;
const TREE: u8 = 65;
const FAULT: u8 = 66;
const TURN: u8 = 67;
const EARLY: u8 = 68;
const GETRUNS: u8 = 69;
const RUNS: u8 = 70;
const ALIVE: u8 = 71;
const DISK: u8 = 72;
const PACKED: u8 = 73;

/// The most bytes of hashes that one `hashes` message holds.
pub const HASHES_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 1 - 24;

/// The most bytes of hashes that one `tree` message holds.
pub const TREE_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 1 - 25;

/// The most ranges in a `fault`.
pub const FAULT_RANGES_MAX: usize = 4096;

/// The most bytes of text in a `fault`; longer ones are cut.
pub const FAULT_TEXT_BYTES_MAX: usize = 4096;

/// The most bytes of data that one `block` message holds.
pub const BLOCK_MESSAGE_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 1 - 8;

/// The most bytes of hashes that one `runs` message holds.
pub const RUNS_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 1 - RUNS_HEAD_BYTES;

/// The most runs in a `getruns`.
pub const RUNS_MAX: usize = 1024;

/// The most looks in an `early`: a server reads as many requests ahead.
pub const EARLY_LOOKS_MAX: usize = 256;

/// Bytes of a look on the wire, as of a `gettree`.
const LOOK_BYTES: usize = 25;

/// Bytes of a run on the wire.
const RUN_BYTES: usize = 12;

/// Bytes of a `runs` in front of the hashes.
const RUNS_HEAD_BYTES: usize = 17;

/// Neighbouring blocks or nodes, as a `getruns` asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashRun {
    /// Offset of the first, in bytes.
    pub start: u64,
    /// How many.
    pub n: u32,
}

/// What tells these runs from others, in their answer: the first 8 bytes of the BLAKE3 of the bytes
/// that they are in a `getruns`. So that a request which was damaged on its way shows, as that of one
/// run does by the numbers that its answer repeats.
#[must_use]
pub fn runs_print(runs: &[HashRun]) -> u64 {
    let digest = blake3::hash(&runs_bytes(runs));
    let (first, _) = digest.as_bytes().split_first_chunk().expect("a BLAKE3 has 32 bytes");
    u64::from_le_bytes(*first)
}

fn runs_bytes(runs: &[HashRun]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RUN_BYTES * runs.len());
    for HashRun { start, n } in runs {
        bytes.extend_from_slice(&start.to_le_bytes());
        bytes.extend_from_slice(&n.to_le_bytes());
    }
    bytes
}

/// A message of the protocol. Offsets, steps and lengths are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the protocol's, described in `wire`")]
pub enum Message {
    /// The greeting of either side: `CLIENT 0.5`, see [`handshake`](super::handshake).
    Hello(Vec<u8>),
    /// Path of the device to open.
    DevFile(Vec<u8>),
    /// Size of that device.
    Size(u64),
    /// Salt and digests to use; an empty checksum name means none.
    Digests { salt: Vec<u8>, hash: String, checksum: String },
    /// Asks for the hashes of `n` blocks; with `n` = 0 a hint.
    GetHashes { start: u64, step: u64, n: u64 },
    /// The answer: the same numbers, then `n` hashes.
    Hashes { start: u64, step: u64, n: u64, hashes: Vec<u8> },
    /// The end, from both.
    Done,
    /// Asks for bytes of the device.
    GetBlock { offset: u64, len: u64 },
    /// The answer.
    Block { offset: u64, data: Vec<u8> },
    /// Asks for the checksum of the whole device.
    GetChecksum,
    /// The answer: the digest's bytes.
    Checksum(Vec<u8>),
    /// Extension `tree`: asks for the hashes of `n` nodes of `level`.
    GetTree(Look),
    /// The answer: the same numbers, then `n` hashes.
    Tree { look: Look, hashes: Vec<u8> },
    /// Extension `faults`: in place of the answer to a request for bytes that cannot be read.
    Fault { ranges: Vec<ByteRange>, text: Vec<u8> },
    /// Extension `reorder`: the next answer is to the request with so many older ones before it
    /// that are not answered yet.
    Turn { older: u32 },
    /// Extension `early`: the session's salt, and what is answered next as if it had been asked.
    Early { salt: Vec<u8>, looks: Vec<Look> },
    /// Extension `runs`: asks for the hashes of several runs of nodes of `level`, or of blocks.
    GetRuns { step: u64, level: Option<u8>, runs: Vec<HashRun> },
    /// The answer: step and level, the [`runs_print`], then the hashes of all runs.
    Runs { step: u64, level: Option<u8>, print: u64, hashes: Vec<u8> },
    /// Extension `alive`: the checksum that is asked for covers so many bytes by now.
    Alive { digested_bytes: u64 },
    /// Extension `disk`: which one the server has open.
    Disk(FileId),
    /// Extension `zstd`: the answer to a `getblock`, its `len` bytes of data as one frame.
    Packed { offset: u64, len: u32, frame: Vec<u8> },
}

impl Message {
    /// The message's name in the protocol, for error messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Message::Hello(_) => "hello",
            Message::DevFile(_) => "devfile",
            Message::Size(_) => "size",
            Message::Digests { .. } => "digests",
            Message::GetHashes { .. } => "gethashes",
            Message::Hashes { .. } => "hashes",
            Message::Done => "done",
            Message::GetBlock { .. } => "getblock",
            Message::Block { .. } => "block",
            Message::GetChecksum => "getchecksum",
            Message::Checksum(_) => "checksum",
            Message::GetTree(_) => "gettree",
            Message::Tree { .. } => "tree",
            Message::Fault { .. } => "fault",
            Message::Turn { .. } => "turn",
            Message::Early { .. } => "early",
            Message::GetRuns { .. } => "getruns",
            Message::Runs { .. } => "runs",
            Message::Alive { .. } => "alive",
            Message::Disk(_) => "disk",
            Message::Packed { .. } => "packed",
        }
    }

    /// Appends the message's frame to `out`, which a failure leaves as it was.
    ///
    /// # Errors
    /// `Kind::Protocol` when a part is longer than the protocol allows, or a digest name
    /// contains a NUL.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Message::Hello(text) => encode_frame(HELLO, &[text], out),
            Message::DevFile(path) => encode_frame(DEVFILE, &[path], out),
            Message::Size(size) => encode_frame(SIZE, &[&size.to_le_bytes()], out),
            Message::Digests { salt, hash, checksum } => {
                encode_digests(salt, [hash, checksum], out)
            }
            Message::GetHashes { start, step, n } => {
                encode_frame(GETHASHES, &[&numbers([start, step, n])], out)
            }
            Message::Hashes { start, step, n, hashes } => {
                encode_frame(HASHES, &[&numbers([start, step, n]), hashes], out)
            }
            Message::Done => encode_frame(DONE, &[], out),
            Message::GetBlock { offset, len } => {
                encode_frame(GETBLOCK, &[&offset.to_le_bytes(), &len.to_le_bytes()], out)
            }
            Message::Block { offset, data } => {
                encode_frame(BLOCK, &[&offset.to_le_bytes(), data], out)
            }
            Message::GetChecksum => encode_frame(GETCHECKSUM, &[], out),
            Message::Checksum(digest) => encode_frame(CHECKSUM, &[digest], out),
            Message::GetTree(look) => encode_frame(GETTREE, &[&look_bytes(look)], out),
            Message::Tree { look, hashes } => encode_frame(TREE, &[&look_bytes(look), hashes], out),
            Message::Fault { ranges, text } => encode_fault(ranges, text, out),
            Message::Turn { older } => encode_frame(TURN, &[&older.to_le_bytes()], out),
            Message::Early { salt, looks } => encode_early(salt, looks, out),
            Message::Alive { digested_bytes } => {
                encode_frame(ALIVE, &[&digested_bytes.to_le_bytes()], out)
            }
            Message::Disk(FileId { device, inode }) => {
                encode_frame(DISK, &[&device.to_le_bytes(), &inode.to_le_bytes()], out)
            }
            Message::Packed { offset, len, frame } => {
                encode_frame(PACKED, &[&offset.to_le_bytes(), &len.to_le_bytes(), frame], out)
            }
            Message::GetRuns { step, level, runs } => encode_getruns(*step, *level, runs, out),
            Message::Runs { step, level, print, hashes } => {
                let level = level.unwrap_or(NO_LEVEL);
                let parts: [&[u8]; 4] =
                    [&step.to_le_bytes(), &[level], &print.to_le_bytes(), hashes];
                encode_frame(RUNS, &parts, out)
            }
        }
    }

    /// The message of a frame.
    ///
    /// # Errors
    /// `Kind::Protocol` when the token is unknown or the payload does not have its form.
    pub fn decode(token: u8, payload: &[u8]) -> Result<Message> {
        debug_assert!(payload.len() < MESSAGE_BYTES_MAX, "whoever reads frames bounds the payload");
        match token {
            HELLO => Ok(Message::Hello(payload.to_vec())),
            DEVFILE => Ok(Message::DevFile(payload.to_vec())),
            CHECKSUM => Ok(Message::Checksum(payload.to_vec())),
            SIZE => Fields::new("size", payload).exactly(|f| Ok(Message::Size(f.u64()?))),
            DIGESTS => Fields::new("digests", payload).exactly(decode_digests),
            DONE => Fields::new("done", payload).exactly(|_| Ok(Message::Done)),
            GETCHECKSUM => {
                Fields::new("getchecksum", payload).exactly(|_| Ok(Message::GetChecksum))
            }
            GETHASHES => Fields::new("gethashes", payload).exactly(|f| {
                Ok(Message::GetHashes { start: f.u64()?, step: f.u64()?, n: f.u64()? })
            }),
            HASHES => Fields::new("hashes", payload).exactly(|f| {
                let [start, step, n] = [f.u64()?, f.u64()?, f.u64()?];
                Ok(Message::Hashes { start, step, n, hashes: f.rest().to_vec() })
            }),
            GETBLOCK => Fields::new("getblock", payload)
                .exactly(|f| Ok(Message::GetBlock { offset: f.u64()?, len: f.u64()? })),
            BLOCK => Fields::new("block", payload)
                .exactly(|f| Ok(Message::Block { offset: f.u64()?, data: f.rest().to_vec() })),
            GETTREE => Fields::new("gettree", payload).exactly(|f| Ok(Message::GetTree(f.look()?))),
            TREE => Fields::new("tree", payload)
                .exactly(|f| Ok(Message::Tree { look: f.look()?, hashes: f.rest().to_vec() })),
            FAULT => Fields::new("fault", payload).exactly(decode_fault),
            TURN => Fields::new("turn", payload).exactly(|f| Ok(Message::Turn { older: f.u32()? })),
            EARLY => Fields::new("early", payload).exactly(decode_early),
            ALIVE => Fields::new("alive", payload)
                .exactly(|f| Ok(Message::Alive { digested_bytes: f.u64()? })),
            DISK => Fields::new("disk", payload)
                .exactly(|f| Ok(Message::Disk(FileId { device: f.u64()?, inode: f.u64()? }))),
            PACKED => Fields::new("packed", payload).exactly(|f| {
                let (offset, len) = (f.u64()?, f.u32()?);
                Ok(Message::Packed { offset, len, frame: f.rest().to_vec() })
            }),
            GETRUNS => Fields::new("getruns", payload).exactly(decode_getruns),
            RUNS => Fields::new("runs", payload).exactly(|f| {
                let (step, level, print) = (f.u64()?, f.level_or_none()?, f.u64()?);
                Ok(Message::Runs { step, level, print, hashes: f.rest().to_vec() })
            }),
            _ => Err(Error::new(Kind::Protocol, format!("a message of unknown kind {token}"))),
        }
    }

    /// Bytes of the message's frame on the wire, for messages that [`encode`](Self::encode)
    /// accepts.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        let payload_bytes = match self {
            Message::Hello(bytes) | Message::DevFile(bytes) | Message::Checksum(bytes) => {
                bytes.len()
            }
            Message::Size(_) | Message::Alive { .. } => 8,
            Message::Digests { salt, hash, checksum } => {
                1 + salt.len() + hash.len() + 1 + checksum.len() + 1
            }
            Message::GetHashes { .. } => 24,
            Message::Hashes { hashes, .. } => 24 + hashes.len(),
            Message::Done | Message::GetChecksum => 0,
            Message::GetBlock { .. } | Message::Disk(_) => 16,
            Message::Block { data, .. } => 8 + data.len(),
            Message::Packed { frame, .. } => 12 + frame.len(),
            Message::GetTree(_) => LOOK_BYTES,
            Message::Tree { hashes, .. } => LOOK_BYTES + hashes.len(),
            Message::Fault { ranges, text } => 2 + 16 * ranges.len() + text.len(),
            Message::Turn { .. } => 4,
            Message::Early { salt, looks } => 1 + salt.len() + LOOK_BYTES * looks.len(),
            Message::GetRuns { runs, .. } => 9 + RUN_BYTES * runs.len(),
            Message::Runs { hashes, .. } => RUNS_HEAD_BYTES + hashes.len(),
        };
        FRAME_HEAD_BYTES + payload_bytes
    }
}

fn numbers(values: [&u64; 3]) -> [u8; 24] {
    let mut bytes = [0; 24];
    for (place, value) in bytes.chunks_exact_mut(8).zip(values) {
        place.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// The numbers of a look, as [`Fields::look`] reads them.
fn look_bytes(look: &Look) -> [u8; LOOK_BYTES] {
    let mut bytes = [look.level; LOOK_BYTES];
    bytes[..24].copy_from_slice(&numbers([&look.start, &look.step, &look.n]));
    bytes
}

/// The byte that goes before a salt.
fn salt_bytes(salt: &[u8]) -> Result<u8> {
    match u8::try_from(salt.len()) {
        Ok(bytes) if salt.len() <= SALT_BYTES_MAX => Ok(bytes),
        _ => Err(Error::new(
            Kind::Protocol,
            format!("the salt is too long: at most {SALT_BYTES_MAX} bytes, {}", salt.len()),
        )),
    }
}

fn encode_digests(salt: &[u8], names: [&String; 2], out: &mut Vec<u8>) -> Result<()> {
    let salt_bytes = salt_bytes(salt)?;
    for name in names {
        if name.len() > DIGEST_NAME_BYTES_MAX || name.contains('\0') {
            let what = format!("digest name {name:?} cannot be sent to the remote");
            return Err(Error::new(Kind::Protocol, what));
        }
    }
    let [hash, checksum] = names.map(|name| name.as_bytes());
    encode_frame(DIGESTS, &[&[salt_bytes], salt, hash, b"\0", checksum, b"\0"], out)
}

fn decode_digests(f: &mut Fields<'_>) -> Result<Message> {
    Ok(Message::Digests { salt: f.salt()?, hash: f.name()?, checksum: f.name()? })
}

fn encode_early(salt: &[u8], looks: &[Look], out: &mut Vec<u8>) -> Result<()> {
    if looks.len() > EARLY_LOOKS_MAX {
        let what = format!("at most {EARLY_LOOKS_MAX} looks fit, found {}", looks.len());
        return Err(Error::new(Kind::Protocol, what));
    }
    let numbers: Vec<u8> = looks.iter().flat_map(look_bytes).collect();
    encode_frame(EARLY, &[&[salt_bytes(salt)?], salt, &numbers], out)
}

fn decode_early(f: &mut Fields<'_>) -> Result<Message> {
    let salt = f.salt()?;
    let mut looks = Vec::new();
    while !f.is_empty() {
        if looks.len() == EARLY_LOOKS_MAX {
            return Err(f.malformed(&format!("more than {EARLY_LOOKS_MAX} looks")));
        }
        looks.push(f.look()?);
    }
    Ok(Message::Early { salt, looks })
}

fn encode_fault(ranges: &[ByteRange], text: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let count = match u16::try_from(ranges.len()) {
        Ok(count) if ranges.len() <= FAULT_RANGES_MAX => count,
        _ => {
            let what = format!("at most {FAULT_RANGES_MAX} ranges fit, found {}", ranges.len());
            return Err(Error::new(Kind::Protocol, what));
        }
    };
    let numbers: Vec<u8> = ranges
        .iter()
        .flat_map(|range| [range.start.to_le_bytes(), range.len().to_le_bytes()].concat())
        .collect();
    encode_frame(FAULT, &[&count.to_le_bytes(), &numbers, text], out)
}

fn decode_fault(f: &mut Fields<'_>) -> Result<Message> {
    let count = usize::from(u16::from_le_bytes([f.u8()?, f.u8()?]));
    if count > FAULT_RANGES_MAX {
        return Err(
            f.malformed(&format!("at most {FAULT_RANGES_MAX} ranges expected, {count} announced"))
        );
    }
    let mut ranges = Vec::new();
    for _ in 0..count {
        let range = ByteRange::checked_at(f.u64()?, f.u64()?);
        ranges.push(range.ok_or_else(|| f.malformed("a range ends past 64 bits"))?);
    }
    Ok(Message::Fault { ranges, text: f.rest().to_vec() })
}

fn encode_getruns(step: u64, level: Option<u8>, runs: &[HashRun], out: &mut Vec<u8>) -> Result<()> {
    if runs.is_empty() || runs.len() > RUNS_MAX {
        let what = format!("1 to {RUNS_MAX} runs fit a message, found {}", runs.len());
        return Err(Error::new(Kind::Protocol, what));
    }
    let level = level.unwrap_or(NO_LEVEL);
    encode_frame(GETRUNS, &[&step.to_le_bytes(), &[level], &runs_bytes(runs)], out)
}

fn decode_getruns(f: &mut Fields<'_>) -> Result<Message> {
    let (step, level) = (f.u64()?, f.level_or_none()?);
    let mut runs = vec![];
    while !f.is_empty() || runs.is_empty() {
        if runs.len() == RUNS_MAX {
            return Err(f.malformed(&format!("more than {RUNS_MAX} runs")));
        }
        runs.push(HashRun { start: f.u64()?, n: f.u32()? });
    }
    Ok(Message::GetRuns { step, level, runs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FrameReader, TREE_LEVEL_MAX};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn encoded(message: &Message) -> Vec<u8> {
        let mut bytes = vec![];
        message.encode(&mut bytes).unwrap();
        bytes
    }

    fn any_look() -> impl Strategy<Value = Look> {
        (any::<(u64, u64, u64)>(), 0..=TREE_LEVEL_MAX).prop_map(|((start, step, n), level)| Look {
            start,
            step,
            n,
            level,
        })
    }

    fn any_level() -> impl Strategy<Value = Option<u8>> {
        proptest::option::of(0..=TREE_LEVEL_MAX)
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let bytes = || vec(any::<u8>(), 0..300);
        let three = || any::<(u64, u64, u64)>();
        prop_oneof![
            bytes().prop_map(Message::Hello),
            bytes().prop_map(Message::DevFile),
            any::<u64>().prop_map(Message::Size),
            (vec(any::<u8>(), 0..=127), "[a-z0-9-]{0,127}", "[A-Z0-9-]{0,127}")
                .prop_map(|(salt, hash, checksum)| Message::Digests { salt, hash, checksum }),
            three().prop_map(|(start, step, n)| Message::GetHashes { start, step, n }),
            (three(), bytes()).prop_map(|((start, step, n), hashes)| Message::Hashes {
                start,
                step,
                n,
                hashes
            }),
            Just(Message::Done),
            any::<(u64, u64)>().prop_map(|(offset, len)| Message::GetBlock { offset, len }),
            (any::<u64>(), bytes()).prop_map(|(offset, data)| Message::Block { offset, data }),
            Just(Message::GetChecksum),
            bytes().prop_map(Message::Checksum),
            any_look().prop_map(Message::GetTree),
            (any_look(), bytes()).prop_map(|(look, hashes)| Message::Tree { look, hashes }),
            any::<u32>().prop_map(|older| Message::Turn { older }),
            any::<u64>().prop_map(|digested_bytes| Message::Alive { digested_bytes }),
            any::<(u64, u64)>().prop_map(|(device, inode)| Message::Disk(FileId { device, inode })),
            (any::<(u64, u32)>(), bytes()).prop_map(|((offset, len), frame)| Message::Packed {
                offset,
                len,
                frame
            }),
            (any::<u64>(), any_level(), vec(any::<(u64, u32)>(), 1..20)).prop_map(
                |(step, level, runs)| {
                    let runs = runs.into_iter().map(|(start, n)| HashRun { start, n }).collect();
                    Message::GetRuns { step, level, runs }
                }
            ),
            (any::<u64>(), any_level(), any::<u64>(), bytes()).prop_map(
                |(step, level, print, hashes)| Message::Runs { step, level, print, hashes }
            ),
            (vec(any::<u8>(), 0..=127), vec(any_look(), 0..20))
                .prop_map(|(salt, looks)| Message::Early { salt, looks }),
            (vec(any::<(u32, u32)>(), 0..20), bytes()).prop_map(|(ranges, text)| {
                let range = |(start, len): (u32, u32)| {
                    ByteRange::new(start.into(), u64::from(start) + u64::from(len))
                };
                Message::Fault { ranges: ranges.into_iter().map(range).collect(), text }
            }),
        ]
    }

    proptest! {
        #[test]
        fn decoding_an_encoded_message_gives_it_back(messages in vec(any_message(), 0..8)) {
            let bytes: Vec<u8> = messages.iter().flat_map(encoded).collect();
            let sizes: usize = messages.iter().map(Message::wire_bytes).sum();
            prop_assert_eq!(bytes.len(), sizes);
            let mut reader = FrameReader::new(&bytes[..]);
            let mut got = vec![];
            while let Some(message) = reader.read_message().unwrap() {
                got.push(message);
            }
            prop_assert_eq!(got, messages);
        }

        #[test]
        fn arbitrary_payloads_never_panic_and_encode_to_themselves(
            token in prop_oneof![0u8..14, 63u8..74],
            payload in vec(any::<u8>(), 0..300),
        ) {
            if let Ok(message) = Message::decode(token, &payload) {
                let bytes = encoded(&message);
                prop_assert_eq!(&bytes[FRAME_HEAD_BYTES..], payload);
                prop_assert_eq!(bytes[4], token);
            }
        }
    }

    #[test]
    fn largest_answers_fit_and_one_byte_more_does_not() {
        let hashes = |n| Message::Hashes { start: 0, step: 1, n: 0, hashes: vec![0; n] };
        let tree = |n| Message::Tree {
            look: Look { start: 0, step: 1, n: 0, level: 1 },
            hashes: vec![0; n],
        };
        let runs = |n| Message::Runs { step: 1, level: None, print: 1, hashes: vec![0; n] };
        let block = |n| Message::Block { offset: 0, data: vec![0; n] };
        for (fits, not) in [
            (hashes(HASHES_BYTES_MAX), hashes(HASHES_BYTES_MAX + 1)),
            (tree(TREE_BYTES_MAX), tree(TREE_BYTES_MAX + 1)),
            (runs(RUNS_BYTES_MAX), runs(RUNS_BYTES_MAX + 1)),
            (block(BLOCK_MESSAGE_BYTES_MAX), block(BLOCK_MESSAGE_BYTES_MAX + 1)),
        ] {
            assert_eq!(encoded(&fits).len(), 4 + MESSAGE_BYTES_MAX);
            assert_eq!(not.encode(&mut vec![]).unwrap_err().kind(), Kind::Protocol);
        }
    }

    /// Classic bug 12: a salt longer than its message.
    #[test]
    fn refuses_salts_past_the_limit_or_the_message() {
        let digests = |salt| Message::Digests { salt, hash: "md5".into(), checksum: "".into() };
        assert!(digests(vec![1; 127]).encode(&mut vec![]).is_ok());
        assert!(digests(vec![1; 128]).encode(&mut vec![]).is_err());
        let mut payload = encoded(&digests(vec![1; 32])).split_off(FRAME_HEAD_BYTES);
        assert!(Message::decode(DIGESTS, &payload).is_ok());
        payload[0] = 37;
        assert!(Message::decode(DIGESTS, &payload).is_err());
        payload[0] = 127;
        assert!(Message::decode(DIGESTS, &payload).is_err());
        payload = vec![1; 300];
        payload[0] = 128;
        assert!(Message::decode(DIGESTS, &payload).is_err());
    }

    #[test]
    fn refuses_more_looks_than_a_server_reads_ahead() {
        let early = |n| Message::Early {
            salt: vec![1; 32],
            looks: vec![Look { start: 0, step: 1, n: 1, level: 0 }; n],
        };
        let mut payload = encoded(&early(EARLY_LOOKS_MAX)).split_off(FRAME_HEAD_BYTES);
        assert!(Message::decode(EARLY, &payload).is_ok());
        assert!(Message::decode(EARLY, &payload[..payload.len() - 1]).is_err());
        payload.extend_from_slice(&[0; LOOK_BYTES]);
        assert!(Message::decode(EARLY, &payload).is_err());
        assert!(early(EARLY_LOOKS_MAX + 1).encode(&mut vec![]).is_err());
    }

    #[test]
    fn refuses_no_run_and_too_many() {
        let run = HashRun { start: 0, n: 1 };
        let asked = |n| Message::GetRuns { step: 1, level: None, runs: vec![run; n] };
        let mut payload = encoded(&asked(RUNS_MAX)).split_off(FRAME_HEAD_BYTES);
        assert!(Message::decode(GETRUNS, &payload).is_ok());
        payload.extend_from_slice(&[0; 12]);
        assert!(Message::decode(GETRUNS, &payload).is_err());
        assert!(Message::decode(GETRUNS, &payload[..9]).is_err());
        assert!(asked(0).encode(&mut vec![]).is_err());
        assert!(asked(RUNS_MAX + 1).encode(&mut vec![]).is_err());
    }

    #[test]
    fn refuses_digest_names_past_the_limit() {
        let named = |n| Message::Digests { salt: vec![], hash: "x".repeat(n), checksum: "".into() };
        assert!(named(DIGEST_NAME_BYTES_MAX).encode(&mut vec![]).is_ok());
        assert!(named(DIGEST_NAME_BYTES_MAX + 1).encode(&mut vec![]).is_err());
        let mut payload = vec![0];
        payload.extend_from_slice("x".repeat(DIGEST_NAME_BYTES_MAX).as_bytes());
        payload.extend_from_slice(b"\0\0");
        assert!(Message::decode(DIGESTS, &payload).is_ok());
        payload.insert(1, b'x');
        assert!(Message::decode(DIGESTS, &payload).is_err());
    }

    #[test]
    fn refuses_missing_and_extra_bytes() {
        for (token, bytes) in [(SIZE, 8), (GETHASHES, 24), (GETBLOCK, 16), (DONE, 0), (GETTREE, 25)]
        {
            for wrong in [bytes + 1, bytes * 2 + 1] {
                let err = Message::decode(token, &vec![0; wrong]).unwrap_err();
                assert_eq!(err.kind(), Kind::Protocol, "token {token}, {wrong} bytes");
            }
            assert!(Message::decode(token, &vec![0; bytes]).is_ok(), "token {token}");
            if bytes > 0 {
                assert!(Message::decode(token, &vec![0; bytes - 1]).is_err(), "token {token}");
            }
        }
    }

    #[test]
    fn refuses_tree_levels_past_the_limit() {
        let mut payload = vec![0; 25];
        payload[24] = TREE_LEVEL_MAX;
        assert!(Message::decode(GETTREE, &payload).is_ok());
        payload[24] += 1;
        assert!(Message::decode(GETTREE, &payload).is_err());
    }

    #[test]
    fn errors_name_the_message() {
        let err = Message::decode(SIZE, &[0; 7]).unwrap_err();
        assert_eq!(err.to_string(), "a malformed size message of 7 bytes: it is cut short");
        let err = Message::decode(99, &[]).unwrap_err();
        assert_eq!(err.to_string(), "a message of unknown kind 99");
    }
}

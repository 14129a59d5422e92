//! Whole sessions over an in-process connection.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use proptest::prelude::*;

use super::session;
use crate::background::core_count;
use crate::compress::unpack;
use crate::device::faulty::{Fault, FaultyDevice, Operation};
use crate::device::{Device, MemoryDevice, open_source};
use crate::digest::{Algorithm, BlockHasher, Hasher, Scratch, fold, hash_range};
use crate::error::{Error, Kind, Result};
use crate::transport::{Connection, pair};
use crate::units::{ByteRange, FileId};
use crate::wire::{Extensions, FAULT_TEXT_BYTES_MAX, FrameReader, Look, Message};

mod alive;
mod early;
mod hostile;
mod runs;

/// A device that several sessions of a test share, and that records what is read and released.
struct Recorded {
    device: MemoryDevice,
    reads: parking_lot::Mutex<Vec<ByteRange>>,
    announced: parking_lot::Mutex<Vec<ByteRange>>,
    released: parking_lot::Mutex<Vec<ByteRange>>,
}

impl Recorded {
    fn new(content: impl Into<Vec<u8>>) -> Arc<Self> {
        let device = MemoryDevice::new(content);
        let [reads, announced, released] = Default::default();
        Arc::new(Self { device, reads, announced, released })
    }
}

struct Handle(Arc<Recorded>);

impl Device for Handle {
    fn path(&self) -> &Path {
        self.0.device.path()
    }

    fn size(&self) -> u64 {
        self.0.device.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.0.reads.lock().push(ByteRange::new(offset, offset + buf.len() as u64));
        self.0.device.read_exact_at(buf, offset)
    }

    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        self.0.device.next_data(from)
    }

    fn will_need(&self, range: ByteRange) {
        self.0.announced.lock().push(range);
    }

    fn done_with(&self, range: ByteRange) {
        self.0.released.lock().push(range);
    }
}

/// Feeds `input` to a session over `device`; returns what it answers and how it ends.
fn serve(
    input: &[u8],
    extensions: Extensions,
    open: impl Fn(&Path) -> Result<Box<dyn Device>> + Send + Sync,
) -> (Vec<u8>, Result<()>) {
    let (client, server) = pair(None).expect("pipes");
    let Connection { mut reader, mut writer, .. } = client;
    thread::scope(|scope| {
        let session = scope.spawn(move || session(server, extensions, &open));
        scope.spawn(move || writer.write_all(input).and_then(|()| writer.flush()));
        let mut answer = vec![];
        reader.read_to_end(&mut answer).expect("a readable pipe");
        (answer, session.join().expect("the session does not panic"))
    })
}

fn bytes_of(messages: &[Message]) -> Vec<u8> {
    let mut bytes = vec![];
    messages.iter().for_each(|message| message.encode(&mut bytes).expect("a sane message"));
    bytes
}

fn messages_of(bytes: &[u8]) -> Vec<Message> {
    let mut reader = FrameReader::new(bytes);
    let next = move || reader.read_message().expect("a well-formed answer");
    std::iter::from_fn(next).collect()
}

fn opening(hello: &str, hash: &str, checksum: &str) -> Vec<Message> {
    vec![
        Message::Hello(hello.into()),
        Message::DevFile(b"x".into()),
        Message::Digests { salt: vec![7; 32], hash: hash.into(), checksum: checksum.into() },
    ]
}

const EXTENDED: &str = "CLIENT+blake3,tree 0.5";

/// The answers to `requests` behind an opening, without hello and size.
fn ask(
    device: &Arc<Recorded>,
    opening: Vec<Message>,
    requests: &[Message],
) -> (Vec<Message>, Result<()>) {
    let input = bytes_of(&[opening, requests.to_vec()].concat());
    let (answer, end) =
        serve(&input, Extensions::ALL, |_| Ok(Box::new(Handle(Arc::clone(device)))));
    let mut messages = messages_of(&answer);
    messages.drain(..messages.len().min(2));
    (messages, end)
}

/// The kind of error that these requests end in.
fn fault(requests: &[Message]) -> Option<Kind> {
    let device = Recorded::new(vec![1; 10_000]);
    let (_, end) = ask(&device, opening("CLIENT 0.5", "md5", ""), requests);
    end.err().map(|err| err.kind())
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

#[test]
fn classic_clients_get_the_answers_of_the_classic_server() {
    let manifest = fs::read(vectors().join("manifest.json")).expect("the manifest");
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&manifest).expect("JSON");
    let mut checked = 0;
    for case in &cases {
        let (name, remote) = (case["name"].as_str().expect("a name"), &case["remote"]);
        let Ok(input) = fs::read(vectors().join(name).join("client-to-server.bin")) else {
            continue;
        };
        let expected =
            fs::read(vectors().join(name).join("server-to-client.bin")).expect("answers");
        let image = fs::read(vectors().join(remote.as_str().expect("a path"))).expect("an image");
        for extensions in [Extensions::NONE, Extensions::ALL] {
            let (answer, _) = serve(&input, extensions, |path| {
                assert_eq!(path, Path::new("remote.img"));
                Ok(Box::new(MemoryDevice::new(image.clone()).with_holes(4096)))
            });
            // Classic bug 4: padding in the checksum of a device of an odd or the lesser size.
            if !matches!(name, "checksum-unaligned-size" | "checksum-resize") {
                assert!(answer == expected, "{name}: other answers");
            } else {
                let without_checksum = |bytes: &[u8]| {
                    let mut messages = messages_of(bytes);
                    messages.retain(|message| !matches!(message, Message::Checksum(_)));
                    messages
                };
                assert_eq!(without_checksum(&answer), without_checksum(&expected), "{name}");
            }
        }
        checked += 1;
    }
    assert!(checked > 60, "only {checked} cases");
}

#[test]
fn a_checksum_is_that_of_exactly_the_devices_bytes() {
    let content: Vec<u8> = (0..5001_u32).map(|i| i as u8 | 1).collect();
    let requests = [Message::GetChecksum, Message::GetChecksum, Message::Done];
    let device = Recorded::new(content.clone());
    let (answers, end) = ask(&device, opening("CLIENT 0.5", "md5", "sha1"), &requests);
    end.expect("a good session");
    let mut hasher = Hasher::new(Algorithm::Sha1);
    hasher.update(&content);
    let checksum = Message::Checksum(hasher.finish().to_vec());
    assert_eq!(answers, [checksum.clone(), checksum, Message::Done]);
}

#[test]
fn extensions_are_used_only_when_the_client_announced_them() {
    let tree = Message::GetTree(Look { start: 0, step: 512, n: 1, level: 1 });
    assert_eq!(fault(&[tree]), Some(Kind::Protocol));
    let device = Recorded::new(vec![1; 100]);
    for (hello, expected) in [("CLIENT 0.5", Some(Kind::Usage)), (EXTENDED, None)] {
        let (_, end) = ask(&device, opening(hello, "blake3", ""), &[Message::Done]);
        assert_eq!(end.err().map(|err| err.kind()), expected, "{hello}");
    }
}

#[test]
fn a_tree_is_what_its_leaves_fold_to_and_going_down_reads_nothing_again() {
    let content: Vec<u8> = (0..3_000_000_u32).map(|i| (i / 999) as u8).collect();
    let memory = MemoryDevice::new(content.clone());
    let hasher = BlockHasher::new(Algorithm::Blake3, &[7; 32]).expect("a good salt");
    let leaves = |start, n| {
        hash_range(&memory, &hasher, start, 4096, n, &mut Scratch::new()).expect("hashes")
    };
    let device = Recorded::new(content);
    let requests = [
        Message::GetTree(Look { start: 0, step: 4096, n: 3, level: 2 }),
        Message::GetTree(Look { start: 1 << 20, step: 4096, n: 16, level: 1 }),
        Message::GetTree(Look { start: 1 << 20, step: 4096, n: 16, level: 0 }),
        Message::GetHashes { start: 1 << 20, step: 4096, n: 5 },
        Message::Done,
    ];
    let (answers, end) = ask(&device, opening(EXTENDED, "blake3", ""), &requests[..1]);
    assert_eq!(end.expect_err("no done").kind(), Kind::Gone);
    assert!(answers.len() <= 1);
    device.reads.lock().clear();
    let (answers, end) = descend(&device, &requests);
    end.expect("a good session");
    let expected = [
        fold(&hasher, leaves(0, 3 * 256), 2),
        fold(&hasher, leaves(1 << 20, 256), 1),
        leaves(1 << 20, 16),
        leaves(1 << 20, 5),
    ];
    for (answer, expected) in answers.iter().zip(&expected) {
        match answer {
            Message::Tree { hashes, .. } | Message::Hashes { hashes, .. } => {
                assert!(hashes == expected);
            }
            other => panic!("{} for an answer", other.name()),
        }
    }
    assert_eq!(answers.len(), 5);
    let bytes: u64 = device.reads.lock().iter().map(ByteRange::len).sum();
    assert_eq!(bytes, 3_000_000, "each byte is read once");
}

/// As [`ask`] with extensions, but waits for each answer before the next request.
fn descend(device: &Arc<Recorded>, requests: &[Message]) -> (Vec<Message>, Result<()>) {
    let (client, server) = pair(None).expect("pipes");
    let Connection { reader, mut writer, .. } = client;
    let open = |_: &Path| Ok(Box::new(Handle(Arc::clone(device))) as Box<dyn Device>);
    thread::scope(|scope| {
        let session = scope.spawn(move || session(server, Extensions::ALL, &open));
        let mut reader = FrameReader::new(reader);
        let mut answers = vec![];
        for (i, message) in opening(EXTENDED, "blake3", "").iter().chain(requests).enumerate() {
            writer.write_all(&bytes_of(std::slice::from_ref(message))).expect("a server");
            // Digests are not answered.
            if i != 2 {
                answers.push(reader.expect_message().expect("an answer"));
            }
        }
        answers.drain(..2);
        (answers, session.join().expect("the session does not panic"))
    })
}

#[test]
fn answers_keep_the_order_of_their_requests() {
    let device = Recorded::new(vec![3; 4_000_000]);
    let mut requests: Vec<_> = (0..300_u64)
        .map(|i| match i % 3 {
            0 => Message::GetHashes { start: i * 7, step: 100_000, n: 40 },
            1 => Message::GetBlock { offset: i, len: i },
            _ => Message::GetHashes { start: i, step: 1, n: 1 },
        })
        .collect();
    requests.push(Message::Done);
    let (answers, end) = ask(&device, opening("CLIENT 0.5", "sha1", ""), &requests);
    end.expect("a good session");
    assert_eq!(answers.len(), requests.len());
    for (request, answer) in requests.iter().zip(&answers) {
        match (request, answer) {
            (
                Message::GetHashes { start, step, n },
                Message::Hashes { start: a, step: b, n: c, hashes },
            ) => {
                assert_eq!((start, step, n), (a, b, c));
                assert_eq!(hashes.len() as u64, n * 20);
            }
            (Message::GetBlock { offset, len }, Message::Block { offset: a, data }) => {
                assert_eq!((offset, *len), (a, data.len() as u64));
            }
            (Message::Done, Message::Done) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn blocks_that_shrink_are_packed_for_clients_that_ask_for_it() {
    let noise = (0..50_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8 ^ (i >> 3) as u8);
    let content: Vec<u8> = std::iter::repeat_n(9, 50_000).chain(noise).collect();
    let device = Recorded::new(content.clone());
    let block = |offset, len| Message::GetBlock { offset, len };
    let requests = [block(5, 40_000), block(50_000, 10), block(99_999, 1), Message::Done];
    for (hello, packs) in [("CLIENT+zstd 0.5", true), ("CLIENT 0.5", false), (EXTENDED, false)] {
        let (answers, end) = ask(&device, opening(hello, "md5", ""), &requests);
        end.expect("a good session");
        let [first, rest @ ..] = &answers[..] else { panic!("no answer") };
        match first {
            Message::Packed { offset: 5, len: 40_000, frame } if packs => {
                assert!(frame.len() < 100, "{} bytes", frame.len());
                assert!(unpack(frame, 40_000).unwrap() == content[5..40_005]);
            }
            Message::Block { offset: 5, data } if !packs => assert!(data[..] == content[5..40_005]),
            other => panic!("{hello}: {}", other.name()),
        }
        // What does not shrink goes as it is.
        let [
            Message::Block { offset: 50_000, data },
            Message::Block { offset: 99_999, .. },
            Message::Done,
        ] = rest
        else {
            panic!("{rest:?}")
        };
        assert!(data[..] == content[50_000..50_010]);
    }
}

/// A device that can be read at and behind `CLOSED` once it is opened.
struct Gate {
    device: MemoryDevice,
    is_open: parking_lot::Mutex<bool>,
    opened: parking_lot::Condvar,
}

const CLOSED: u64 = 1 << 20;

struct Gated(Arc<Gate>);

impl Device for Gated {
    fn path(&self) -> &Path {
        self.0.device.path()
    }

    fn size(&self) -> u64 {
        self.0.device.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut is_open = self.0.is_open.lock();
        while offset >= CLOSED && !*is_open {
            self.0.opened.wait(&mut is_open);
        }
        drop(is_open);
        self.0.device.read_exact_at(buf, offset)
    }

    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        self.0.device.next_data(from)
    }
}

#[test]
fn what_is_finished_overtakes_what_is_not_where_the_client_knows_that() {
    if core_count() < 2 {
        eprintln!("skipped: one core has one thread, which waits in a read here");
        return;
    }
    let gate = Arc::new(Gate {
        device: MemoryDevice::new(vec![3; 2 << 20]),
        is_open: parking_lot::Mutex::new(false),
        opened: parking_lot::Condvar::new(),
    });
    let (client, server) = pair(None).expect("pipes");
    let Connection { reader, mut writer, .. } = client;
    let mut reader = FrameReader::new(reader);
    let mut next = move || reader.expect_message().expect("an answer");
    let mut send = move |messages: &[Message]| {
        writer.write_all(&bytes_of(messages)).and_then(|()| writer.flush()).expect("a pipe");
    };
    thread::scope(|scope| {
        let device = Arc::clone(&gate);
        let open = move |_: &Path| Ok(Box::new(Gated(Arc::clone(&device))) as Box<dyn Device>);
        let session = scope.spawn(move || session(server, Extensions::ALL, &open));
        send(&opening("CLIENT+tree,reorder 0.5", "md5", ""));
        assert_eq!(next(), Message::Hello("SERVER+tree,reorder 0.5".into()));
        assert_eq!(next(), Message::Size(2 << 20));
        send(&[
            Message::GetTree(Look { start: CLOSED, step: 4096, n: 1, level: 1 }),
            Message::GetHashes { start: 0, step: 1, n: 0 },
            Message::GetBlock { offset: 5, len: 10 },
        ]);
        assert_eq!(next(), Message::Turn { older: 2 });
        assert_eq!(next(), Message::Block { offset: 5, data: vec![3; 10] });
        // The hint's echo says that all before it is answered, so it waits with the tree.
        send(&[Message::GetHashes { start: 0, step: 4096, n: 1 }, Message::Done]);
        assert_eq!(next(), Message::Turn { older: 2 });
        assert!(matches!(next(), Message::Hashes { start: 0, n: 1, .. }));
        *gate.is_open.lock() = true;
        gate.opened.notify_all();
        assert!(matches!(next(), Message::Tree { look: Look { start: CLOSED, .. }, .. }));
        assert_eq!(next(), Message::Hashes { start: 0, step: 1, n: 0, hashes: vec![] });
        assert_eq!(next(), Message::Done);
        session.join().expect("the session does not panic").expect("a good session");
    });
}

#[test]
fn hints_are_echoed_and_free_the_cache() {
    let hint = |start, step| Message::GetHashes { start, step, n: 0 };
    let echo = |start, step| Message::Hashes { start, step, n: 0, hashes: vec![] };
    let device = Recorded::new(vec![3; 10_000]);
    let requests = [
        hint(0, 0),
        Message::GetBlock { offset: 100, len: 50 },
        hint(4096, 1),
        hint(1 << 60, 1),
        hint(5, 9),
        Message::Done,
    ];
    let (answers, end) = ask(&device, opening("CLIENT 0.5", "md5", ""), &requests);
    end.expect("a good session");
    assert_eq!(answers[0], echo(0, 0));
    assert_eq!(answers[2..5], [echo(4096, 1), echo(1 << 60, 1), echo(5, 9)]);
    let released = device.released.lock();
    let range = ByteRange::new;
    let everything = range(0, 10_000);
    // The last one is the end of the session, to which the first hint applies as well.
    assert_eq!(*released, [range(100, 150), range(0, 4096), everything, everything]);
}

#[test]
fn what_was_read_for_hashes_leaves_the_cache_where_that_is_asked_for() {
    let hint = Message::GetHashes { start: 0, step: 0, n: 0 };
    let hashes = Message::GetHashes { start: 4096, step: 1024, n: 1 };
    let (read, everything) = (ByteRange::new(4096, 5120), ByteRange::new(0, 10_000));
    for (requests, expected) in [
        (&[hint, hashes.clone(), Message::Done][..], &[read, everything][..]),
        (&[hashes, Message::Done], &[]),
    ] {
        let device = Recorded::new(vec![3; 10_000]);
        let (_, end) = ask(&device, opening("CLIENT 0.5", "md5", ""), requests);
        end.expect("a good session");
        assert_eq!(*device.released.lock(), expected);
    }
}

/// Else a client that has written to the disk meanwhile would compare what it has overwritten.
#[test]
fn what_a_hint_releases_is_read_and_hashed_anew() {
    let (step, bytes) = (4096, 16 * 4096);
    let tree = Message::GetTree(Look { start: 0, step, n: 1, level: 1 });
    let hint = |start| Message::GetHashes { start, step: 1, n: 0 };
    for (released, read_bytes) in [(0, bytes), (bytes, 2 * bytes), (1 << 60, 2 * bytes)] {
        let device = Recorded::new(vec![3; bytes as usize]);
        let requests = [tree.clone(), hint(released), tree.clone(), Message::Done];
        let (_, end) = descend(&device, &requests);
        end.expect("a good session");
        let found: u64 = device.reads.lock().iter().map(ByteRange::len).sum();
        assert_eq!(found, read_bytes, "up to {released} released");
    }
}

#[test]
fn the_reason_of_a_fault_is_cut_to_what_a_message_takes() {
    let path = format!("/{}", "x".repeat(2 * FAULT_TEXT_BYTES_MAX));
    let requests = [Message::GetBlock { offset: 0, len: 5 }, Message::Done];
    let input = bytes_of(&[opening("CLIENT+faults 0.5", "md5", ""), requests.to_vec()].concat());
    let (answer, end) = serve(&input, Extensions::ALL, |_| {
        let device = MemoryDevice::new([3; 100]);
        let fault = Fault::once(Operation::Read, 0);
        Ok(Box::new(FaultyDevice::new(device.with_path(&path), [fault])))
    });
    end.expect("a good session");
    match &messages_of(&answer)[2..] {
        [Message::Fault { text, .. }, Message::Done] => {
            assert_eq!(text.len(), FAULT_TEXT_BYTES_MAX);
        }
        other => panic!("{other:?}"),
    }
}

fn mib(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start << 20, end << 20)
}

/// `n` hashes of steps of so many MiB.
fn hashes(start: u64, step: u64, n: u64) -> Message {
    Message::GetHashes { start: start << 20, step: step << 20, n }
}

/// What a device of so many MiB is told to read ahead for `requests`.
fn announced(size: usize, requests: &[Message]) -> Vec<ByteRange> {
    let device = Recorded::new(vec![3; size << 20]);
    let requests = [requests, &[Message::Done]].concat();
    let (_, end) = ask(&device, opening(EXTENDED, "blake3", ""), &requests);
    end.expect("a good session");
    let mut announced = device.announced.lock().clone();
    announced.sort();
    announced
}

#[test]
fn disk_is_told_ahead_of_the_threads() {
    let expected = [mib(0, 16), mib(16, 17), mib(17, 18), mib(18, 19), mib(19, 20)];
    assert_eq!(announced(20, &[hashes(0, 1, 20)]), expected);
}

/// What is read too early on a small machine is read twice.
#[test]
fn disk_is_told_of_little_ahead_however_large_the_step() {
    assert_eq!(announced(100, &[hashes(0, 40, 3)]), [mib(0, 16), mib(40, 56), mib(80, 96)]);
}

#[test]
fn disk_is_told_of_more_as_what_it_was_told_of_is_read() {
    // More than it is told of at a time. One by one, so that none overtakes what is told first.
    let requests: Vec<_> = (0..6).map(|i| hashes(16 * i, 16, 1)).chain([Message::Done]).collect();
    let expected: Vec<_> = (0..6).map(|i| mib(16 * i, 16 * i + 16)).collect();
    let device = Recorded::new(vec![3; 96 << 20]);
    descend(&device, &requests).1.expect("a good session");
    assert_eq!(*device.announced.lock(), expected);
}

#[test]
fn a_client_that_wants_to_know_is_told_which_disk_is_open() {
    let image = tempfile::NamedTempFile::new().unwrap();
    let opened = |_: &Path| Ok(Box::new(open_source(image.path())?) as Box<dyn Device>);
    let id = FileId::of(&image.as_file().metadata().unwrap());
    assert_ne!(id, FileId::UNKNOWN);
    for (hello, expected) in [
        ("CLIENT+disk 0.5", &[Message::Size(0), Message::Disk(id)][..]),
        ("CLIENT 0.5", &[Message::Size(0)]),
    ] {
        let input = bytes_of(&[&opening(hello, "md5", "")[..], &[Message::Done]].concat());
        let (answer, end) = serve(&input, Extensions::ALL, opened);
        end.unwrap();
        let messages = messages_of(&answer);
        assert_eq!(messages[1..messages.len() - 1], *expected, "{hello}");
    }
}

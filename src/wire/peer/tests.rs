//! The peer against scripted servers, in this process and as commands.

use super::*;
use crate::compress::pack;
use crate::transport::{Connection, Manner, connect, pair, split_command};
use crate::units::ByteRange;
use crate::wire::opening::Digests;
use crate::wire::{
    FrameReader, FrameWriter, HashRun, IN_FLIGHT_REQUESTS_MAX, Look, RUNS_MAX, server_handshake,
};
use crossbeam_channel::{Receiver, unbounded};
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::time::Duration;

mod commands;
mod early;

type ServerReader = FrameReader<Box<dyn Read + Send>>;
type ServerWriter = FrameWriter<Box<dyn Write + Send>>;

const SIZE: u64 = 1 << 20;

/// Those of most tests: nothing is answered that nobody asked for.
const ALL_BUT_EARLY: Extensions = Extensions { early: false, disk: false, ..Extensions::ALL };

fn digests() -> Digests {
    Digests {
        salt: vec![0; 32],
        hash: "md5".into(),
        hash_bytes: 16,
        tree_hash_bytes: 16,
        checksum: "sha1".into(),
        checksum_bytes: 20,
    }
}

/// A server that has these extensions, shakes hands and then does as `script` says.
fn scripted<T: Send + 'static>(
    connection: Connection,
    extensions: Extensions,
    script: impl FnOnce(&mut ServerReader, &mut ServerWriter) -> T + Send + 'static,
) -> JoinHandle<T> {
    let Connection { reader, writer, .. } = connection;
    let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
    thread::spawn(move || {
        server_handshake(&mut reader, &mut writer, extensions).unwrap();
        assert_eq!(reader.expect_message().unwrap(), Message::DevFile(b"/dev/x".to_vec()));
        send(&mut writer, &Message::Size(SIZE));
        assert!(matches!(reader.expect_message().unwrap(), Message::Digests { .. }));
        script(&mut reader, &mut writer)
    })
}

fn send(writer: &mut ServerWriter, message: &Message) {
    writer.write(message).and_then(|()| writer.flush()).unwrap();
}

/// What a good server answers, with zeros for hashes and data.
fn answer(request: Message) -> Message {
    match request {
        Message::GetHashes { start, step, n } => {
            Message::Hashes { start, step, n, hashes: vec![0; n as usize * 16] }
        }
        Message::GetTree(look) => Message::Tree { look, hashes: vec![0; look.n as usize * 16] },
        Message::GetBlock { offset, len } => Message::Block { offset, data: vec![0; len as usize] },
        Message::GetChecksum => Message::Checksum(vec![0; 20]),
        Message::Done => Message::Done,
        other => panic!("not a request: {other:?}"),
    }
}

/// Answers everything up to done; returns the requests and whether the end-of-file followed.
fn good(reader: &mut ServerReader, writer: &mut ServerWriter) -> (Vec<Message>, bool) {
    let mut requests = vec![];
    loop {
        let request = reader.expect_message().unwrap();
        send(writer, &answer(request.clone()));
        if request == Message::Done {
            return (requests, reader.read_message().unwrap().is_none());
        }
        requests.push(request);
    }
}

fn open(connection: Connection) -> Result<Peer> {
    Peer::start(Opening::connect(connection, Extensions::ALL, b"/dev/x")?, &digests())
}

/// The remote has closed its stdin and lives on: it is not waited for.
#[test]
fn remote_that_takes_no_hello_is_given_up_on() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let (ours, _theirs) = pair(None).unwrap();
    let connection = Connection { writer: Box::new(Closed), ..ours };
    let err = Opening::connect(connection, Extensions::ALL, b"/dev/x").unwrap_err();
    assert_eq!(err.kind(), Kind::Gone);
}

/// A peer of the scripted server.
fn meet<T: Send + 'static>(
    timeout: Option<Duration>,
    script: impl FnOnce(&mut ServerReader, &mut ServerWriter) -> T + Send + 'static,
) -> (Peer, JoinHandle<T>) {
    meet_with(ALL_BUT_EARLY, timeout, script)
}

/// A peer of a scripted server that has these extensions.
fn meet_with<T: Send + 'static>(
    extensions: Extensions,
    timeout: Option<Duration>,
    script: impl FnOnce(&mut ServerReader, &mut ServerWriter) -> T + Send + 'static,
) -> (Peer, JoinHandle<T>) {
    let (ours, theirs) = pair(timeout).unwrap();
    let server = scripted(theirs, extensions, script);
    (open(ours).unwrap(), server)
}

fn hint(start: u64) -> Request {
    Request::Hint { start, step: 1 }
}

fn hashes(start: u64, n: u64) -> Request {
    Request::Hashes { start, step: 4096, n }
}

fn ask(peer: &Peer, request: Request, priority: Priority) -> Receiver<Result<Answer>> {
    let (tell, answer) = unbounded();
    peer.submit(request, priority, Box::new(move |result| tell.send(result).unwrap()));
    answer
}

fn scan(peer: &Peer, request: Request) -> Receiver<Result<Answer>> {
    ask(peer, request, Priority::Scan)
}

fn failed(answer: &Receiver<Result<Answer>>) -> Error {
    answer.recv().unwrap().unwrap_err()
}

#[test]
fn answers_reach_their_callbacks_and_finish_ends_in_order() {
    let (peer, server) = meet(None, good);
    assert_eq!(peer.extensions(), ALL_BUT_EARLY);
    assert_eq!(peer.session().size, SIZE);
    let block = Request::Block { range: ByteRange::new(5, 105) };
    let tree = Request::Tree(Look { start: 0, step: 4096, n: 3, level: 2 });
    let all = [
        scan(&peer, hashes(0, 4)),
        scan(&peer, block),
        scan(&peer, Request::Checksum),
        scan(&peer, tree),
        scan(&peer, hint(0)),
    ];
    let answers: Vec<Answer> = all.iter().map(|a| a.recv().unwrap().unwrap()).collect();
    assert_eq!(
        answers,
        [
            Answer::Hashes(vec![0; 64]),
            Answer::Block(vec![0; 100]),
            Answer::Checksum(vec![0; 20]),
            Answer::Tree(vec![0; 48]),
            Answer::Hint,
        ]
    );
    assert!(peer.finish().unwrap().success());
    assert!(peer.finish().unwrap().success(), "finishing twice is the same");
    let (requests, stdin_closed) = server.join().unwrap();
    assert_eq!(requests.len(), 5);
    assert!(stdin_closed);
    assert_eq!(failed(&scan(&peer, hint(0))).kind(), Kind::Connection);
}

/// A block of 100 sevens, packed to `frame`, as the answer to the first request.
fn packed_answer(extensions: Extensions, frame: Vec<u8>) -> Result<Answer> {
    let (peer, server) = meet_with(extensions, None, |reader, writer| {
        reader.expect_message().unwrap();
        send(writer, &Message::Packed { offset: 5, len: 100, frame });
        // Until the client has seen enough.
        let _ = reader.read_message();
    });
    let answer = scan(&peer, Request::Block { range: ByteRange::new(5, 105) }).recv().unwrap();
    drop(peer);
    server.join().unwrap();
    answer
}

#[test]
fn a_packed_block_is_the_answer_where_that_was_agreed_on_and_it_is_whole() {
    let frame = pack(&[7; 100]).unwrap();
    let answer = packed_answer(ALL_BUT_EARLY, frame.clone());
    assert_eq!(answer.unwrap(), Answer::Block(vec![7; 100]));
    let err = packed_answer(ALL_BUT_EARLY, pack(&[7; 99]).unwrap()).unwrap_err();
    assert_eq!(err.kind(), Kind::Protocol);
    assert!(err.to_string().contains("100 bytes that cannot be unpacked"), "{err}");
    let none = Extensions { zstd: false, ..ALL_BUT_EARLY };
    let err = packed_answer(none, frame).unwrap_err();
    assert!(err.to_string().contains("expected block, found packed"), "{err}");
}

#[test]
fn in_flight_is_bounded_and_interactive_overtakes_what_is_queued() {
    const URGENT: u64 = 1_000_000;
    let (go, wait) = unbounded::<()>();
    let max = IN_FLIGHT_REQUESTS_MAX as u64;
    let (peer, server) = meet(None, move |reader, writer| {
        // They are more than a pipe may hold.
        let mut requests: Vec<_> = (0..max).map(|_| reader.expect_message().unwrap()).collect();
        wait.recv().unwrap();
        requests.iter().for_each(|request| send(writer, &answer(request.clone())));
        requests.extend(good(reader, writer).0);
        requests
    });
    let scans: Vec<_> = (0..max + 3).map(|start| scan(&peer, hint(start))).collect();
    let urgent = ask(&peer, hint(URGENT), Priority::Interactive);
    while peer.counters().requests < max {
        thread::yield_now();
    }
    thread::sleep(Duration::from_millis(50));
    assert_eq!(peer.counters().requests, max);
    go.send(()).unwrap();
    for answer in scans.iter().chain([&urgent]) {
        answer.recv().unwrap().unwrap();
    }
    peer.finish().unwrap();
    let starts: Vec<u64> = server
        .join()
        .unwrap()
        .into_iter()
        .map(|request| match request {
            Message::GetHashes { start, .. } => start,
            other => panic!("{other:?}"),
        })
        .collect();
    let urgent_at = starts.iter().position(|&start| start == URGENT).unwrap();
    assert!(urgent_at <= max as usize, "{starts:?}");
    assert!(starts.iter().filter(|&&start| start != URGENT).is_sorted(), "{starts:?}");
}

#[test]
fn what_is_queued_at_the_end_is_told_so_and_what_is_in_flight_is_answered() {
    let (go, wait) = unbounded::<()>();
    let max = IN_FLIGHT_REQUESTS_MAX as u64;
    let (peer, server) = meet(None, move |reader, writer| {
        // Callbacks are the business of the thread that writes, which no full pipe may hold up.
        let requests: Vec<_> = (0..max).map(|_| reader.expect_message().unwrap()).collect();
        wait.recv().unwrap();
        requests.into_iter().for_each(|request| send(writer, &answer(request)));
        good(reader, writer).0.len()
    });
    let peer = Arc::new(peer);
    let all: Vec<_> = (0..max + 3).map(|start| scan(&peer, hint(start))).collect();
    while peer.counters().requests < max {
        thread::yield_now();
    }
    let finishing = Arc::clone(&peer);
    let finish = thread::spawn(move || finishing.finish());
    let (answered, queued) = all.split_at(max as usize);
    for answer in queued {
        let told = answer.recv_timeout(Duration::from_secs(60)).expect("nobody was told");
        assert_eq!(told.unwrap_err().kind(), Kind::Connection);
    }
    go.send(()).unwrap();
    answered.iter().for_each(|answer| drop(answer.recv().unwrap().unwrap()));
    assert!(finish.join().unwrap().unwrap().success());
    assert_eq!(server.join().unwrap(), 0, "none of those that were queued was sent");
}

/// It may go on to read its disk, and say nothing.
#[test]
fn a_remote_that_reads_no_more_requests_is_given_up_on() {
    let (quit, wait) = unbounded::<()>();
    let (deaf, is_deaf) = unbounded::<()>();
    let (peer, server) = meet(None, move |reader, _| {
        *reader = FrameReader::new(Box::new(io::empty()));
        deaf.send(()).unwrap();
        wait.recv().ok();
    });
    is_deaf.recv().unwrap();
    let answer = scan(&peer, hashes(0, 1));
    let told = answer.recv_timeout(Duration::from_secs(60));
    drop(quit);
    let err = told.expect("it waits for an answer").unwrap_err();
    assert_eq!(err.kind(), Kind::Gone, "{err}");
    server.join().unwrap();
}

#[test]
fn done_goes_out_behind_the_last_request_of_a_peer_that_closes() {
    let (peer, server) = meet(None, |reader, writer| {
        // Nothing is answered before done is there.
        let mut requests = vec![];
        while requests.last() != Some(&Message::Done) {
            requests.push(reader.expect_message().unwrap());
        }
        requests.into_iter().for_each(|request| send(writer, &answer(request)));
        reader.read_message().unwrap().is_none()
    });
    let all: Vec<_> = (0..3).map(|start| scan(&peer, hashes(start, 1))).collect();
    peer.close();
    assert_eq!(failed(&scan(&peer, hint(0))).kind(), Kind::Connection);
    all.iter().for_each(|answer| drop(answer.recv().unwrap().unwrap()));
    assert!(peer.finish().unwrap().success());
    assert!(server.join().unwrap(), "the end-of-file follows");
}

#[test]
fn answers_out_of_order_reach_their_callbacks() {
    let (peer, server) = meet(None, |reader, writer| {
        let mut requests: Vec<_> = (0..3).map(|_| reader.expect_message().unwrap()).collect();
        send(writer, &Message::Turn { older: 2 });
        send(writer, &answer(requests.remove(2)));
        send(writer, &Message::Turn { older: 1 });
        send(writer, &Message::Fault { ranges: vec![], text: b"broken".to_vec() });
        send(writer, &answer(requests.remove(0)));
        good(reader, writer)
    });
    let all: Vec<_> = (0..3).map(|start| scan(&peer, hashes(start, start + 1))).collect();
    assert_eq!(all[2].recv().unwrap().unwrap(), Answer::Hashes(vec![0; 48]));
    assert_eq!(failed(&all[1]).kind(), Kind::Read);
    assert_eq!(all[0].recv().unwrap().unwrap(), Answer::Hashes(vec![0; 16]));
    peer.finish().unwrap();
    server.join().unwrap();
}

#[test]
fn a_turn_of_no_request_ends_the_link() {
    let (peer, server) = meet(None, |reader, writer| {
        reader.expect_message().unwrap();
        send(writer, &Message::Turn { older: 1 });
    });
    assert_eq!(failed(&scan(&peer, hint(0))).kind(), Kind::Protocol);
    assert_eq!(peer.finish().unwrap_err().kind(), Kind::Protocol);
    server.join().unwrap();
}

#[test]
fn counters_are_those_of_the_stream() {
    let (ours, theirs) = pair(None).unwrap();
    struct Tap(Box<dyn Read + Send>, Arc<Mutex<u64>>);
    impl Read for Tap {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let bytes = self.0.read(buf)?;
            *self.1.lock() += bytes as u64;
            Ok(bytes)
        }
    }
    let seen = Arc::new(Mutex::new(0));
    let theirs = Connection { reader: Box::new(Tap(theirs.reader, seen.clone())), ..theirs };
    let server = scripted(theirs, ALL_BUT_EARLY, good);
    let peer = open(ours).unwrap();
    scan(&peer, hashes(0, 100)).recv().unwrap().unwrap();
    peer.finish().unwrap();
    server.join().unwrap();
    let Counters { sent_bytes, received_bytes, requests } = peer.counters();
    assert_eq!(sent_bytes, *seen.lock());
    // hello, size, hashes, done
    let hello_bytes = ALL_BUT_EARLY.hello("SERVER").len() as u64;
    assert_eq!(received_bytes, (5 + hello_bytes) + (5 + 8) + (5 + 24 + 1600) + 5);
    assert_eq!(requests, 1);
}

#[test]
fn answer_of_another_request_ends_the_link_for_all() {
    let (peer, server) = meet(None, |reader, writer| {
        reader.expect_message().unwrap();
        send(writer, &Message::Hashes { start: 7, step: 4096, n: 1, hashes: vec![0; 16] });
    });
    let all = [scan(&peer, hashes(0, 1)), scan(&peer, hashes(4096, 1))];
    for answer in &all {
        let err = failed(answer);
        assert_eq!(err.kind(), Kind::Protocol);
        assert!(err.to_string().contains("found [7, 4096, 1, 0]"), "{err}");
    }
    assert!(!peer.is_alive());
    assert_eq!(failed(&scan(&peer, hint(0))).kind(), Kind::Protocol);
    assert_eq!(peer.last_error().unwrap().kind(), Kind::Protocol);
    assert_eq!(peer.finish().unwrap_err().kind(), Kind::Protocol);
    server.join().unwrap();
}

#[test]
fn every_way_to_break_off_or_babble_has_its_kind() {
    type Script = fn(&mut ServerReader, &mut Box<dyn Write + Send>);
    let scripts: [(Script, Kind, &str); 5] = [
        (|_, _| {}, Kind::Gone, "the remote side went away"),
        (|_, out| out.write_all(b"\x29\0\0\0\x06abc").unwrap(), Kind::Gone, "middle of a message"),
        (
            |_, out| out.write_all(b"Segmentation fault\n").unwrap(),
            Kind::Protocol,
            "\"Segmentation fault\\n\"",
        ),
        (|_, out| out.write_all(b"\x01\0\0\0\xff").unwrap(), Kind::Protocol, "unknown kind 255"),
        (|_, out| out.write_all(b"\x01\0\0\0\x07").unwrap(), Kind::Protocol, "found done"),
    ];
    for (script, kind, words) in scripts {
        let (ours, theirs) = pair(None).unwrap();
        let server = thread::spawn(move || {
            let Connection { reader, mut writer, .. } = theirs;
            let mut reader = FrameReader::new(reader);
            let mut hello = FrameWriter::new(&mut writer);
            server_handshake(&mut reader, &mut hello, ALL_BUT_EARLY).unwrap();
            hello.write(&Message::Size(SIZE)).and_then(|()| hello.flush()).unwrap();
            for _ in 0..3 {
                reader.expect_message().unwrap();
            }
            script(&mut reader, &mut writer);
        });
        let peer = open(ours).unwrap();
        let err = failed(&scan(&peer, hashes(0, 1)));
        assert_eq!(err.kind(), kind, "{err}");
        assert!(err.to_string().contains(words), "{err}");
        server.join().unwrap();
    }
}

#[test]
fn message_that_nobody_asked_for_is_a_fault() {
    let (peer, server) = meet(None, |_, writer| send(writer, &Message::Size(1)));
    server.join().unwrap();
    while peer.is_alive() {
        thread::yield_now();
    }
    let err = peer.last_error().unwrap();
    assert!(err.to_string().ends_with("expected nothing, found size"), "{err}");
}

#[test]
fn silence_is_given_up_on() {
    let second = Some(Duration::from_secs(1));
    let (quit, wait) = unbounded::<()>();
    let (peer, server) = meet(second, move |_, _| wait.recv().ok());
    let err = failed(&scan(&peer, hashes(0, 1)));
    assert_eq!(err.kind(), Kind::Connection);
    assert_eq!(err.to_string(), "the remote side: nothing came for 1 s (--timeout)");
    drop(quit);
    server.join().unwrap();
}

const HALF_A_SECOND: Option<Duration> = Some(Duration::from_millis(500));

#[test]
fn silence_while_the_remote_makes_a_checksum_is_borne_with_if_it_can_say_nothing() {
    let (quit, wait) = unbounded::<()>();
    let mute = Extensions { alive: false, ..ALL_BUT_EARLY };
    let (peer, server) = meet_with(mute, HALF_A_SECOND, move |reader, writer| {
        assert_eq!(reader.expect_message().unwrap(), Message::GetChecksum);
        thread::sleep(Duration::from_millis(1200));
        send(writer, &answer(Message::GetChecksum));
        wait.recv().ok();
    });
    assert!(scan(&peer, Request::Checksum).recv().unwrap().is_ok());
    assert_eq!(failed(&scan(&peer, hashes(0, 1))).kind(), Kind::Connection, "and no other");
    drop(quit);
    server.join().unwrap();
}

#[test]
fn a_remote_that_makes_a_checksum_is_waited_for_as_long_as_it_says_so() {
    let (quit, wait) = unbounded::<()>();
    let (peer, server) = meet(Some(Duration::from_secs(2)), move |reader, writer| {
        assert_eq!(reader.expect_message().unwrap(), Message::GetChecksum);
        for digested_bytes in 1..=12 {
            thread::sleep(Duration::from_millis(250));
            send(writer, &Message::Alive { digested_bytes });
        }
        send(writer, &answer(Message::GetChecksum));
        assert_eq!(reader.expect_message().unwrap(), Message::GetChecksum);
        wait.recv().ok();
    });
    assert!(scan(&peer, Request::Checksum).recv().unwrap().is_ok());
    assert_eq!(peer.digested_bytes(), 12);
    assert_eq!(failed(&scan(&peer, Request::Checksum)).kind(), Kind::Connection);
    drop(quit);
    server.join().unwrap();
}

#[test]
fn words_of_extensions_that_are_not_in_use_or_mean_nothing_are_refused() {
    let alive = Message::Alive { digested_bytes: 1 };
    let fault = Message::Fault { ranges: vec![], text: b"broken".to_vec() };
    let none = Extensions { alive: false, faults: false, ..ALL_BUT_EARLY };
    for (extensions, request, word) in [
        (none, Request::Checksum, &alive),
        (none, Request::Checksum, &fault),
        (ALL_BUT_EARLY, hashes(0, 1), &alive),
        (ALL_BUT_EARLY, hint(0), &fault),
    ] {
        let word = word.clone();
        let (peer, server) = meet_with(extensions, None, move |reader, writer| {
            reader.expect_message().unwrap();
            send(writer, &word);
            while reader.read_message().is_ok_and(|message| message.is_some()) {}
        });
        let err = failed(&scan(&peer, request.clone()));
        assert_eq!(err.kind(), Kind::Protocol, "{request:?}: {err}");
        drop(peer);
        server.join().unwrap();
    }
}

#[test]
fn silence_before_the_hello_and_after_done_is_given_up_on() {
    let second = Some(Duration::from_secs(1));
    let (ours, _theirs) = pair(second).unwrap();
    let err = open(ours).unwrap_err();
    assert_eq!(err.kind(), Kind::Connection);
    assert!(err.to_string().contains("does the remote command start bdsync --server"), "{err}");
    let (quit, wait) = unbounded::<()>();
    let (peer, server) = meet(second, move |_, _| wait.recv().ok());
    assert_eq!(peer.finish().unwrap_err().kind(), Kind::Connection);
    drop(quit);
    server.join().unwrap();
}

#[test]
fn impossible_request_is_refused_and_the_link_lives_on() {
    let (peer, server) = meet(None, good);
    let outside = Request::Block { range: ByteRange::new(SIZE, SIZE + 1) };
    assert_eq!(failed(&scan(&peer, outside)).kind(), Kind::Usage);
    scan(&peer, hint(0)).recv().unwrap().unwrap();
    peer.finish().unwrap();
    assert_eq!(server.join().unwrap().0.len(), 1);
}

#[test]
fn drop_tells_who_waits_and_closes_the_remotes_stdin() {
    let (peer, server) = meet(None, |reader, _| while reader.read_message().unwrap().is_some() {});
    let answers: Vec<_> = (0..200).map(|start| scan(&peer, hint(start))).collect();
    drop(peer);
    for answer in &answers {
        assert_eq!(failed(answer).kind(), Kind::Connection);
    }
    server.join().unwrap();
}

#[test]
fn abort_tells_who_waits_and_ends_a_waiting_finish() {
    let (asked, arrived) = unbounded();
    let (peer, server) = meet(None, move |reader, _| {
        while reader.read_message().unwrap().is_some() {
            let _ = asked.send(());
        }
    });
    let peer = Arc::new(peer);
    let answer = scan(&peer, hint(0));
    // What is still queued would be refused by `finish`.
    arrived.recv().unwrap();
    let finishing = thread::spawn({
        let peer = peer.clone();
        move || peer.finish()
    });
    peer.abort(Error::new(Kind::Interrupted(15), "interrupted"));
    assert_eq!(failed(&answer).kind(), Kind::Interrupted(15));
    assert_eq!(finishing.join().unwrap().unwrap_err().kind(), Kind::Interrupted(15));
    drop(peer);
    server.join().unwrap();
}

#[test]
fn abort_waits_for_no_remote_that_takes_nothing() {
    let (end, ended) = unbounded::<()>();
    let (peer, server) = meet(None, move |_, _| {
        let _ = ended.recv();
    });
    // The writer thread is kept from its work until there is more than the pipe and one write take.
    let (go_on, held) = unbounded::<()>();
    let outside = Request::Block { range: ByteRange::new(SIZE, SIZE + 1) };
    let hold = move |_| {
        let _ = held.recv();
    };
    peer.submit(outside, Priority::Scan, Box::new(hold));
    let runs: Vec<_> = (0..RUNS_MAX as u64).map(|i| HashRun { start: 8192 * i, n: 1 }).collect();
    let many = || Request::Runs { step: 4096, level: None, runs: runs.clone() };
    let answers: Vec<_> = (0..40).map(|_| scan(&peer, many())).collect();
    drop(go_on);
    let (aborted, is_aborted) = unbounded();
    let aborting = thread::spawn(move || {
        // Until all is sent that can be.
        while peer.counters().sent_bytes < 60_000 {
            thread::yield_now();
        }
        peer.abort(Error::new(Kind::Interrupted(15), "interrupted"));
        aborted.send(peer).unwrap();
    });
    let peer = is_aborted.recv_timeout(Duration::from_secs(20));
    let peer = peer.expect("abort waits for the remote");
    for answer in &answers {
        assert_eq!(failed(answer).kind(), Kind::Interrupted(15));
    }
    assert_eq!(peer.finish().unwrap_err().kind(), Kind::Interrupted(15));
    aborting.join().unwrap();
    drop(end);
    server.join().unwrap();
}

#[test]
fn callbacks_may_submit_and_may_drop_the_last_peer() {
    let (peer, server) = meet(None, |reader, writer| {
        while let Some(request) = reader.read_message().unwrap() {
            send(writer, &answer(request));
        }
    });
    let peer = Arc::new(peer);
    let (tell, told) = unbounded();
    let owner = peer.clone();
    peer.submit(
        hint(0),
        Priority::Scan,
        Box::new(move |_| {
            let again = owner.clone();
            let last = move |_| {
                tell.send(()).unwrap();
                drop(owner);
            };
            again.submit(hint(1), Priority::Scan, Box::new(last));
        }),
    );
    drop(peer);
    told.recv().unwrap();
    server.join().unwrap();
}

#[test]
fn large_answers_and_many_requests_do_not_block_each_other() {
    let (peer, server) = meet(None, good);
    let n = peer.session().hashes_max();
    let all: Vec<_> = (0..500).map(|_| scan(&peer, hashes(0, n))).collect();
    for answer in &all {
        assert_eq!(answer.recv().unwrap().unwrap(), Answer::Hashes(vec![0; n as usize * 16]));
    }
    peer.finish().unwrap();
    server.join().unwrap();
}

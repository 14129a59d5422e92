//! Answers that nobody has asked for yet.

use super::*;

const STEP: u64 = 4096;
const OFFER: Extensions = Extensions { skip: false, disk: false, ..Extensions::ALL };

fn look(start: u64) -> Look {
    Look { start, step: STEP, n: 2, level: 1 }
}

/// An answer to `look` that can be told from others.
fn answer_to(look: Look) -> Message {
    Message::Tree { look, hashes: vec![look.start as u8; look.n as usize * 16] }
}

fn digests() -> Digests {
    Digests { hash: "blake3".into(), salt: vec![9; 32], ..super::digests() }
}

/// A server that announces `looks` and goes on as `script` says; and the connection to it.
fn early_server<T: Send + 'static>(
    first: Message,
    script: impl FnOnce(&mut ServerReader, &mut ServerWriter) -> T + Send + 'static,
) -> (Connection, JoinHandle<T>) {
    let (ours, theirs) = pair(None).unwrap();
    let Connection { reader, writer, .. } = theirs;
    let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
    let server = thread::spawn(move || {
        server_handshake(&mut reader, &mut writer, Extensions::ALL).unwrap();
        assert!(matches!(reader.expect_message().unwrap(), Message::DevFile(_)));
        send(&mut writer, &Message::Size(SIZE));
        send(&mut writer, &first);
        script(&mut reader, &mut writer)
    });
    (ours, server)
}

fn early(looks: &[Look]) -> Message {
    Message::Early { salt: vec![9; 32], looks: looks.to_vec() }
}

fn connect(connection: Connection) -> Result<Opening> {
    Opening::connect(connection, OFFER, b"/dev/x")
}

#[test]
fn answers_reach_who_asks_before_and_who_asks_after_them() {
    let looks = [look(1), look(2), look(3)];
    let (go, gate) = unbounded::<()>();
    let (connection, server) = early_server(early(&looks), move |reader, writer| {
        send(writer, &answer_to(looks[0]));
        let digests = reader.expect_message().unwrap();
        gate.recv().unwrap();
        send(writer, &answer_to(looks[1]));
        send(writer, &answer_to(looks[2]));
        (digests, good(reader, writer).0)
    });
    let opening = connect(connection).unwrap();
    assert_eq!(opening.salt(), Some(&[9; 32][..]));
    let peer = Peer::start(opening, &digests()).unwrap();
    // Behind an answer to what is sent, those before it are there.
    let before = scan(&peer, Request::Tree(look(2)));
    go.send(()).unwrap();
    let sent = scan(&peer, hashes(7, 1));
    assert_eq!(sent.recv().unwrap().unwrap(), Answer::Hashes(vec![0; 16]));
    let after = scan(&peer, Request::Tree(look(1)));
    for (answer, byte) in [(before, 2), (after, 1)] {
        assert_eq!(answer.recv().unwrap().unwrap(), Answer::Tree(vec![byte; 32]));
    }
    // Each can be had once: this one is sent.
    let again = scan(&peer, Request::Tree(look(1)));
    assert_eq!(again.recv().unwrap().unwrap(), Answer::Tree(vec![0; 32]));
    peer.finish().unwrap();
    let (told, requests) = server.join().unwrap();
    assert!(matches!(told, Message::Digests { salt, .. } if salt == [9; 32]));
    let again = Message::GetTree(look(1));
    assert_eq!(requests, [Message::GetHashes { start: 7, step: STEP, n: 1 }, again]);
}

#[test]
fn what_overtakes_early_answers_counts_them() {
    let looks = [look(1), look(2)];
    let (connection, server) = early_server(early(&looks), move |reader, writer| {
        for _ in 0..2 {
            reader.expect_message().unwrap();
        }
        send(writer, &Message::Turn { older: 2 });
        send(writer, &answer(Message::GetHashes { start: 7, step: STEP, n: 1 }));
        looks.iter().for_each(|&look| send(writer, &answer_to(look)));
        good(reader, writer)
    });
    let peer = Peer::start(connect(connection).unwrap(), &digests()).unwrap();
    let sent = scan(&peer, hashes(7, 1));
    assert_eq!(sent.recv().unwrap().unwrap(), Answer::Hashes(vec![0; 16]));
    let second = scan(&peer, Request::Tree(look(2)));
    assert_eq!(second.recv().unwrap().unwrap(), Answer::Tree(vec![2; 32]));
    peer.finish().unwrap();
    assert_eq!(server.join().unwrap().0, []);
}

#[test]
fn who_waits_for_an_early_answer_learns_of_the_links_end() {
    let (connection, server) = early_server(early(&[look(1)]), |reader, _| {
        for _ in 0..2 {
            reader.expect_message().unwrap();
        }
    });
    let peer = Peer::start(connect(connection).unwrap(), &digests()).unwrap();
    let waiting = scan(&peer, Request::Tree(look(1)));
    let sent = scan(&peer, hashes(7, 1));
    assert_eq!(failed(&waiting).kind(), Kind::Gone);
    assert_eq!(failed(&sent).kind(), Kind::Gone);
    server.join().unwrap();
}

#[test]
fn an_early_that_is_none_or_makes_no_sense_is_a_protocol_error() {
    let impossible = Look { step: 0, ..look(1) };
    let too_many = Look { n: u64::MAX, ..look(1) };
    let large = Look { n: 8000, ..look(1) };
    for (first, words) in [
        (Message::Size(1), "expected early, found size"),
        (early(&[impossible]), "answers what nobody asks"),
        (early(&[look(1), too_many]), "answers what nobody asks"),
        (early(&[large; 140]), "bytes of early answers"),
    ] {
        // It hears us out.
        let (connection, server) = early_server(first, |reader, _| drop(reader.expect_message()));
        let opened = connect(connection).and_then(|opening| Peer::start(opening, &digests()));
        let err = opened.map(drop).unwrap_err();
        assert_eq!(err.kind(), Kind::Protocol, "{err}");
        assert!(err.to_string().contains(words), "{err}");
        server.join().unwrap();
    }
}

#[test]
fn the_salt_that_the_remote_has_drawn_is_the_only_one() {
    let (connection, server) = early_server(early(&[]), |reader, _| drop(reader.expect_message()));
    let other = Digests { salt: vec![8; 32], ..digests() };
    let err = Peer::start(connect(connection).unwrap(), &other).unwrap_err();
    assert_eq!(err.kind(), Kind::Digest);
    server.join().unwrap();
}

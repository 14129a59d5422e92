//! Answers before anybody asks.

use super::*;

/// What a server that answers early says to a client that sends `digests` and then `requests`.
fn ask_early(
    device_bytes: usize,
    digests: impl FnOnce(Vec<u8>) -> Message + Send,
    requests: &[Message],
) -> (Vec<Message>, Result<()>) {
    let (client, server) = pair(None).expect("pipes");
    let Connection { reader, mut writer, .. } = client;
    let open = |_: &Path| Ok(Box::new(MemoryDevice::new(vec![3; device_bytes])) as Box<dyn Device>);
    thread::scope(|scope| {
        let session = scope.spawn(move || session(server, Extensions::ALL, &open));
        let mut reader = FrameReader::new(reader);
        let mut next = || reader.read_message().expect("a well-formed answer");
        let hello = Message::Hello("CLIENT+blake3,tree,nh,reorder,early 0.5".into());
        let mut send = |message: &Message| {
            // A server that has given up does not listen.
            let _ = writer.write_all(&bytes_of(std::slice::from_ref(message)));
        };
        send(&hello);
        send(&Message::DevFile(b"x".into()));
        let mut answers: Vec<_> = (0..3).filter_map(|_| next()).collect();
        let Some(Message::Early { salt, looks }) = answers.get(2).cloned() else {
            panic!("{answers:?} in place of hello, size, early");
        };
        // The answers come while the server waits for the digests.
        let trees =
            std::iter::from_fn(&mut next).filter(|answer| !matches!(answer, Message::Turn { .. }));
        answers.extend(trees.take(looks.len()));
        send(&digests(salt));
        requests.iter().for_each(&mut send);
        drop(writer);
        answers.extend(std::iter::from_fn(next));
        (answers, session.join().expect("the session does not panic"))
    })
}

fn blake3(salt: Vec<u8>) -> Message {
    Message::Digests { salt, hash: "blake3".into(), checksum: "md5".into() }
}

#[test]
fn first_looks_are_answered_before_anybody_asks() {
    let bytes = (9 << 20) + 5;
    let tree = |start: u64| Message::GetTree(Look { start, step: 16 << 10, n: 1, level: 2 });
    let requests = [tree(4 << 20), Message::GetChecksum, Message::Done];
    let (answers, end) = ask_early(bytes, blake3, &requests);
    end.expect("a good session");
    let [_, size, Message::Early { looks, .. }, early @ .., again, checksum, done] = &answers[..]
    else {
        panic!("{} answers", answers.len());
    };
    assert_eq!(*size, Message::Size(bytes as u64));
    let starts: Vec<u64> = looks.iter().map(|look| look.start).collect();
    assert_eq!(starts, [0, 4 << 20, 8 << 20]);
    let mut found: Vec<u64> = early
        .iter()
        .map(|answer| match answer {
            Message::Tree { look: Look { start, step: 16384, n: 1, level: 2 }, hashes }
                if hashes.len() == 16 =>
            {
                *start
            }
            other => panic!("{other:?}"),
        })
        .collect();
    found.sort_unstable();
    assert_eq!(found, starts);
    assert!(early.contains(again), "asked for again it is the same");
    let digest = crate::digest::checksum(
        &MemoryDevice::new(vec![3; bytes]),
        Algorithm::Md5,
        &mut |_| Ok(()),
    );
    assert_eq!(*checksum, Message::Checksum(digest.expect("memory").to_vec()));
    assert_eq!(*done, Message::Done);
}

#[test]
fn a_client_may_leave_before_it_has_sent_digests() {
    let (answers, end) = ask_early(100, |_| Message::Done, &[]);
    end.expect("a good end");
    assert_eq!(answers.last(), Some(&Message::Done));
}

#[test]
fn other_digests_than_those_of_the_early_answers_are_protocol_errors() {
    let digests = |salt: Vec<u8>, hash: &str| Message::Digests {
        salt,
        hash: hash.into(),
        checksum: String::new(),
    };
    for wrong in [
        Box::new(|_| digests(vec![7; 32], "blake3")) as Box<dyn FnOnce(Vec<u8>) -> Message + Send>,
        Box::new(|salt| digests(salt, "md5")),
        Box::new(|_| Message::GetChecksum),
    ] {
        let (_, end) = ask_early(100, wrong, &[Message::Done]);
        assert_eq!(end.expect_err("a wrong client").kind(), Kind::Protocol);
    }
}

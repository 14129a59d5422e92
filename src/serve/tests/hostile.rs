//! Clients that ask for nonsense, speak out of turn or vanish, and devices that fail.

use super::*;

/// Classic bug 12: huge numbers, overflowing positions.
#[test]
fn numbers_out_of_bounds_are_protocol_errors() {
    let hashes = |start, step, n| Message::GetHashes { start, step, n };
    let block = |offset, len| Message::GetBlock { offset, len };
    for request in [
        hashes(0, 4096, u64::MAX),
        hashes(0, 4096, 1 << 20),
        hashes(0, 0, 1),
        hashes(0, u64::MAX, 1),
        hashes(u64::MAX, 1, 1),
        hashes(u64::MAX - 100, 4096, 1),
        block(10_000, 1),
        block(u64::MAX, u64::MAX),
        block(0, 10_001),
        Message::GetChecksum,
    ] {
        assert_eq!(fault(std::slice::from_ref(&request)), Some(Kind::Protocol), "{request:?}");
    }
    assert_eq!(fault(&[hashes(1 << 62, 4096, 3), block(9_999, 1), Message::Done]), None);
}

#[test]
fn messages_out_of_order_are_protocol_errors() {
    let good = opening("CLIENT 0.5", "md5", "");
    let orders = [
        vec![good[1].clone()],
        vec![good[0].clone(), good[2].clone()],
        vec![good[0].clone(), good[1].clone(), Message::GetChecksum],
        vec![good[0].clone(), good[0].clone()],
        [good.clone(), vec![good[2].clone()]].concat(),
        [good.clone(), vec![Message::Size(1)]].concat(),
        vec![Message::Hello("CLIENT 0.4".into())],
    ];
    for order in orders {
        let (_, end) =
            serve(&bytes_of(&order), Extensions::ALL, |_| Ok(Box::new(MemoryDevice::new([0; 9]))));
        assert_eq!(end.expect_err("out of order").kind(), Kind::Protocol, "{order:?}");
    }
}

#[test]
fn malformed_bytes_end_the_session() {
    let device = || -> Result<Box<dyn Device>> { Ok(Box::new(MemoryDevice::new([0; 9]))) };
    let good = bytes_of(&opening("CLIENT 0.5", "md5", ""));
    for bad in
        [&b"\x01\0\0\0\x63"[..], b"\0\0\0\0\x05", b"\xff\xff\xff\xff\x05", b"\x02\0\0\0\x05\0"]
    {
        let (_, end) = serve(&[&good, bad].concat(), Extensions::ALL, |_| device());
        assert_eq!(end.expect_err("malformed").kind(), Kind::Protocol, "{bad:?}");
    }
    // A salt that is longer than its message.
    let cut = [&good[..good.len() - 43], &b"\x07\0\0\0\x04\x7fmd5\0\0"[..]].concat();
    let (_, end) = serve(&cut, Extensions::ALL, |_| device());
    assert_eq!(end.expect_err("a long salt").kind(), Kind::Protocol);
}

#[test]
fn unknown_digests_and_devices_have_their_exit_codes() {
    let device = Recorded::new(vec![1; 100]);
    for (hash, checksum, kind) in
        [("nosuchhash", "", Kind::Usage), ("md5", "nosuchhash", Kind::Checksum)]
    {
        let (_, end) = ask(&device, opening("CLIENT 0.5", hash, checksum), &[Message::Done]);
        assert_eq!(end.expect_err("unknown").kind(), kind);
    }
    let input = bytes_of(&opening("CLIENT 0.5", "md5", ""));
    let (_, end) =
        serve(&input, Extensions::ALL, |_| Err(Error::new(Kind::Open, "cannot open the device")));
    assert_eq!(end.expect_err("no device").exit_code(), 12);
}

#[test]
fn a_client_that_vanishes_ends_the_session_at_once() {
    // Much work is waiting when the client goes.
    let device = Recorded::new(vec![1; 30_000_000]);
    let mut messages = opening("CLIENT 0.5", "sha3-512", "sha3-512");
    messages.extend((0..60).map(|_| Message::GetHashes { start: 0, step: 20_000, n: 1500 }));
    let bytes = bytes_of(&messages);
    for cut in [bytes.len(), bytes.len() - 1, 40, 20, 3, 0] {
        let (_, end) =
            serve(&bytes[..cut], Extensions::ALL, |_| Ok(Box::new(Handle(Arc::clone(&device)))));
        assert_eq!(end.expect_err("no done").kind(), Kind::Gone, "cut at {cut}");
    }
    let bytes: u64 = device.reads.lock().iter().map(ByteRange::len).sum();
    assert!(bytes < 10 * 30_000_000, "{bytes} bytes read for nobody");
}

#[test]
fn a_read_error_of_the_device_is_reported_with_its_place() {
    /// Says that it is longer than it is.
    struct Shrunk(MemoryDevice);
    impl Device for Shrunk {
        fn path(&self) -> &Path {
            Path::new("shrunk")
        }
        fn size(&self) -> u64 {
            self.0.size() * 2
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
            self.0.read_exact_at(buf, offset)
        }
        fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
            Ok(Some(ByteRange::new(from, self.size())))
        }
    }
    let mut messages = opening("CLIENT 0.5", "md5", "");
    messages.push(Message::GetHashes { start: 0, step: 1000, n: 20 });
    messages.push(Message::GetBlock { offset: 0, len: 10 });
    let (client, server) = pair(None).expect("pipes");
    let Connection { mut reader, mut writer, .. } = client;
    writer.write_all(&bytes_of(&messages)).expect("room in the pipe");
    let open = |_: &Path| -> Result<Box<dyn Device>> {
        Ok(Box::new(Shrunk(MemoryDevice::new([1; 8000]))))
    };
    // The client is still there, so it is not its going away that ends the session.
    let end = session(server, Extensions::ALL, &open).expect_err("a short device");
    assert_eq!(end.kind(), Kind::Read);
    assert!(end.range().is_some(), "{end}");
    reader.read_to_end(&mut vec![]).expect("the server closes its side");
}

/// Messages that a hostile client may send, near the sane ones.
fn any_message() -> impl Strategy<Value = Message> {
    let number = || prop_oneof![0_u64..20, 0_u64..100_000, any::<u64>()];
    prop_oneof![
        4 => (number(), number(), number())
            .prop_map(|(start, step, n)| Message::GetHashes { start, step: step.min(1 << 20), n }),
        4 => (number(), number(), number(), 0_u8..=7)
            .prop_map(|(start, step, n, level)| Message::GetTree(Look { start, step: step % 5000, n, level })),
        4 => (number(), number()).prop_map(|(offset, len)| Message::GetBlock { offset, len }),
        1 => Just(Message::GetChecksum),
        1 => Just(Message::Done),
        1 => number().prop_map(Message::Size),
        1 => Just(Message::DevFile(b"y".into())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_messages_make_it_panic_or_hang(
        messages in proptest::collection::vec(any_message(), 0..12),
        tail in proptest::collection::vec(any::<u8>(), 0..30),
    ) {
        let mut input = bytes_of(&[opening(EXTENDED, "blake3", "md5"), messages].concat());
        input.extend(tail);
        let _ = serve(&input, Extensions::ALL, |_| Ok(Box::new(MemoryDevice::new([5; 9000]))));
    }

    #[test]
    fn no_bytes_make_it_panic_or_hang(
        keep in 0_usize..120,
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut input = bytes_of(&opening(EXTENDED, "md5", ""));
        input.truncate(keep);
        input.extend(bytes);
        let _ = serve(&input, Extensions::ALL, |_| Ok(Box::new(MemoryDevice::new([5; 9000]))));
    }
}

//! What a client is told while it waits for a checksum.

use std::time::Duration;

use super::*;

/// A device whose reading takes a while.
struct Slow(MemoryDevice);

impl Device for Slow {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        thread::sleep(Duration::from_millis(1200));
        self.0.read_exact_at(buf, offset)
    }

    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        self.0.next_data(from)
    }
}

#[test]
fn a_client_that_understands_it_is_told_that_a_checksum_is_on_its_way() {
    for (hello, is_told) in [("CLIENT+alive 0.5", true), ("CLIENT+tree 0.5", false)] {
        let requests = [Message::GetChecksum, Message::Done];
        let input = bytes_of(&[opening(hello, "md5", "md5"), requests.to_vec()].concat());
        let device = |_: &Path| Ok(Box::new(Slow(MemoryDevice::new([7; 100]))) as Box<dyn Device>);
        let (answer, end) = serve(&input, Extensions::ALL, device);
        end.unwrap();
        let messages = messages_of(&answer);
        let alive = |message: &&Message| matches!(message, Message::Alive { digested_bytes: 0 });
        // Once, as it gets no further.
        assert_eq!(messages.iter().filter(alive).count(), usize::from(is_told), "{hello}");
        let [.., Message::Checksum(_), Message::Done] = &messages[..] else {
            panic!("{messages:?}");
        };
    }
}

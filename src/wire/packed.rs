//! Blocks that come compressed (extension `zstd`).

use super::handshake::Extensions;
use super::message::{BLOCK_MESSAGE_BYTES_MAX, Message};
use crate::compress::{pack, unpack};
use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;

/// The `packed` of the data at `offset`, which fit a block; `None` where that is not shorter.
#[must_use]
pub fn packed(offset: u64, data: &[u8]) -> Option<Message> {
    let len = u32::try_from(data.len()).ok()?;
    pack(data).map(|frame| Message::Packed { offset, len, frame })
}

/// `message`, or the block that it holds packed, where `zstd` is one of the `extensions` in use.
///
/// # Errors
/// `Kind::Protocol` when it cannot be unpacked to the length that it names, or none of a block.
pub(super) fn unpacked(message: Message, extensions: Extensions) -> Result<Message> {
    let (offset, len, frame) = match message {
        Message::Packed { offset, len, frame } if extensions.zstd => (offset, len, frame),
        other => return Ok(other),
    };
    let bad = |what: String| Error::new(Kind::Protocol, format!("the remote sent {what}"));
    let len_bytes = match usize::try_from(len) {
        Ok(bytes) if bytes <= BLOCK_MESSAGE_BYTES_MAX => bytes,
        _ => {
            let what = format!(
                "a packed block of {len} bytes at offset {offset}, at most {BLOCK_MESSAGE_BYTES_MAX} \
                 expected"
            );
            return Err(bad(what));
        }
    };
    let data = unpack(&frame, len_bytes).map_err(|err| {
        let err = bad(format!("a packed block of {len} bytes that cannot be unpacked: {err}"));
        match ByteRange::checked_at(offset, len.into()) {
            Some(range) => err.with_range(range),
            None => err,
        }
    })?;
    Ok(Message::Block { offset, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_shrinks_is_packed_and_unpacked_again() {
        let packed = packed(8192, &[7; 4096]).unwrap();
        assert!(packed.wire_bytes() < 50);
        assert_eq!(
            unpacked(packed, Extensions::ALL).unwrap(),
            Message::Block { offset: 8192, data: vec![7; 4096] }
        );
        assert_eq!(super::packed(8192, b"short"), None);
    }

    #[test]
    fn only_what_unpacks_to_its_length_is_a_block() {
        let packed = |len, frame: &[u8]| {
            unpacked(Message::Packed { offset: 8192, len, frame: frame.to_vec() }, Extensions::ALL)
        };
        let frame = pack(&[7; 4096]).unwrap();
        let block = Message::Block { offset: 8192, data: vec![7; 4096] };
        assert_eq!(packed(4096, &frame).unwrap(), block);
        assert_eq!(unpacked(Message::Done, Extensions::ALL).unwrap(), Message::Done);
        for (len, frame) in [
            (4095, &frame[..]),
            (4097, &frame),
            (4096, &frame[1..]),
            (4096, b""),
            (0, &frame),
            (1 << 17, &frame),
            (u32::MAX, &frame),
        ] {
            let err = packed(len, frame).unwrap_err();
            assert_eq!(err.kind(), Kind::Protocol);
            assert!(err.full_message().contains(&format!("{len} bytes")), "{err}");
            assert!(err.full_message().contains("8192"), "{}", err.full_message());
        }
    }

    #[test]
    fn no_more_is_unpacked_than_a_block_may_hold() {
        for (bytes, is_block) in
            [(BLOCK_MESSAGE_BYTES_MAX, true), (BLOCK_MESSAGE_BYTES_MAX + 1, false)]
        {
            let data = vec![7; bytes];
            let result = unpacked(packed(0, &data).unwrap(), Extensions::ALL);
            match is_block {
                true => assert!(result.unwrap() == Message::Block { offset: 0, data }),
                false => {
                    let text = result.unwrap_err().full_message();
                    assert!(text.contains(&format!("at most {BLOCK_MESSAGE_BYTES_MAX}")), "{text}");
                }
            }
        }
    }

    #[test]
    fn a_frame_of_more_than_it_names_is_not_unpacked_further() {
        // 1 GiB of zeros takes about 33 KiB.
        let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(0), 1 << 30), 1).unwrap();
        let err = unpacked(Message::Packed { offset: 0, len: 4096, frame: bomb }, Extensions::ALL)
            .unwrap_err();
        assert!(err.to_string().contains("cannot be unpacked"), "{err}");
    }
}

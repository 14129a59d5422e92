//! Frames: the length and token around every message. Pure.
//!
//! A frame is `length: u32, token: u8, payload`, little-endian, where `length` counts the token
//! and the payload: 1 to [`MESSAGE_BYTES_MAX`]. What the payload means is
//! [`message`](super::message)'s.

use crate::error::{Error, Kind, Result};

/// The largest value of a frame's length field: token and payload, in bytes (protocol).
pub const MESSAGE_BYTES_MAX: usize = 131_072;

/// The longest payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 1;

/// Length and token, in bytes.
pub const FRAME_HEAD_BYTES: usize = 5;

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
                "a message is too long: at most {PAYLOAD_BYTES_MAX} bytes fit, \
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

#[cfg(test)]
mod tests {
    use super::*;

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
}

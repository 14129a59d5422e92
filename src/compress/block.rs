//! One block of bytes at a time, as zstd.

use std::io;

use zstd::bulk;
use zstd::zstd_safe::find_frame_compressed_size;

use super::LINK_LEVEL;

/// `data` as one zstd frame of [`LINK_LEVEL`]; `None` where that is not shorter.
#[must_use]
pub fn pack(data: &[u8]) -> Option<Vec<u8>> {
    // Without memory the bytes go as they are.
    bulk::compress(data, LINK_LEVEL.into()).ok().filter(|frame| frame.len() < data.len())
}

/// The `len` bytes that were packed, of which no more than that are ever made.
///
/// # Errors
/// `InvalidData` when `frame` is damaged, is not one frame, or holds another number of bytes.
pub fn unpack(frame: &[u8], len: usize) -> io::Result<Vec<u8>> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    // The decoder would take several, and frames that are to be skipped.
    if find_frame_compressed_size(frame) != Ok(frame.len()) {
        return Err(invalid("it is not one whole frame".to_owned()));
    }
    let data = bulk::decompress(frame, len).map_err(|err| invalid(err.to_string()))?;
    match data.len() == len {
        true => Ok(data),
        false => Err(invalid(format!("it holds {} bytes", data.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_packed_is_shorter_and_comes_out_again(
            data in proptest::collection::vec(0u8..3, 0..5000),
        ) {
            if let Some(frame) = pack(&data) {
                prop_assert!(frame.len() < data.len());
                prop_assert_eq!(unpack(&frame, data.len()).unwrap(), data);
            }
        }

        #[test]
        fn rubbish_never_panics(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack(&frame, 1000);
        }
    }

    #[test]
    fn only_what_shrinks_is_packed() {
        assert!(pack(&[7; 4096]).unwrap().len() < 40);
        let noise: Vec<u8> =
            (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let (noise, _) = noise.split_at(64);
        assert_eq!(pack(noise), None);
        assert_eq!(pack(&[]), None);
    }

    #[test]
    fn another_length_is_refused() {
        let frame = pack(&[7; 4096]).unwrap();
        for len in [0, 4095, 4097] {
            assert_eq!(unpack(&frame, len).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        assert!(unpack(&frame[..frame.len() - 1], 4096).is_err());
    }

    #[test]
    fn only_one_frame_is_unpacked() {
        let (frame, skipped) = (pack(&[7; 4096]).unwrap(), [0x5a, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]);
        for (frames, len) in [
            (frame.repeat(2), 8192),
            ([&skipped[..], &frame].concat(), 4096),
            ([&frame[..], &skipped].concat(), 4096),
            (skipped.to_vec(), 1),
            (vec![], 0),
        ] {
            let err = unpack(&frames, len).unwrap_err();
            assert_eq!(err.kind(), io::ErrorKind::InvalidData, "{err}");
        }
    }
}

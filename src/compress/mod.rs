//! Compressed streams: gzip and zstd, recognised by how they begin.
//!
//! ```text
//!   bytes --> source.rs     the first few are looked at, and come out again
//!                \--> decoder.rs    plain, gzip or zstd --> plain
//!                       gzip.rs     members, and zeros behind them
//!   plain --> encoder.rs --> bytes
//!   block <-> block.rs  <-> zstd frame
//! ```
//! Knows nothing of patches. Memory is bounded, however much comes out of a few bytes: of a stream
//! what is decoded is never held, and a zstd window has at most [`WINDOW_LOG_MAX`] bits; of a block
//! the length is known. Streams are for `commands`, blocks for `wire`.

mod block;
mod decoder;
mod encoder;
mod gzip;
mod source;

pub use block::{pack, unpack};
pub use decoder::{Decoder, WINDOW_LOG_MAX};
pub use encoder::Encoder;

/// zstd's level for what crosses a link, which is its own default: faster than most links, and
/// better than the levels below.
pub const LINK_LEVEL: u8 = 3;

/// Bytes that tell the formats apart.
pub const MAGIC_BYTES: usize = 4;

/// A compressed format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RFC 1952, with any number of members and zeros behind them.
    Gzip,
    /// RFC 8878, with any number of frames.
    Zstd,
}

impl Format {
    /// The format of a stream that begins with `start`; `None`: none that is known here.
    #[must_use]
    pub fn of(start: &[u8]) -> Option<Self> {
        match start {
            // The third byte is the method, of which there is only one: deflate.
            [0x1f, 0x8b, 0x08, ..] => Some(Format::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Format::Zstd),
            // A frame to be skipped, which pzstd begins with.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Format::Zstd),
            _ => None,
        }
    }

    /// Its name, in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Format::Gzip => "gzip",
            Format::Zstd => "zstd",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Compression;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
    use std::rc::Rc;

    const ALL: [Compression; 3] =
        [Compression::Zstd(1), Compression::Zstd(3), Compression::Gzip(6)];

    fn compressed(bytes: &[u8], compression: Compression) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), Some(compression)).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn plain(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = vec![];
        Decoder::new(bytes)?.read_to_end(&mut out).map(|_| out)
    }

    proptest! {
        // An encoder takes megabytes each time.
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn what_goes_in_comes_out(bytes in proptest::collection::vec(0u8..4, 0..5000)) {
            for compression in ALL {
                prop_assert_eq!(plain(&compressed(&bytes, compression)).unwrap(), &bytes[..]);
            }
            prop_assert_eq!(plain(&bytes).unwrap(), bytes);
        }

        #[test]
        fn damage_is_told_and_never_panics(at: prop::sample::Index, byte: u8) {
            let bytes: Vec<u8> = (0..9000u32).map(|i| ((i * i) >> 7) as u8).collect();
            for compression in ALL {
                let mut damaged = compressed(&bytes, compression);
                let at = at.index(damaged.len());
                damaged[at] = byte;
                // Some bytes mean nothing (a date, a system); but none gives other content.
                if at >= MAGIC_BYTES && let Ok(out) = plain(&damaged) {
                    prop_assert!(out == bytes);
                }
            }
        }
    }

    #[test]
    fn frames_to_be_skipped_are_skipped() {
        let frame = compressed(&[7; 3000], Compression::Zstd(3));
        let skipped = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"any"].concat();
        let whole = [&skipped[..], &frame, &skipped, &frame].concat();
        assert_eq!(plain(&whole).unwrap(), [7; 6000]);
    }

    #[test]
    fn every_truncation_is_invalid_data() {
        for compression in ALL {
            let whole = compressed(&[7; 3000], compression);
            for len in MAGIC_BYTES..whole.len() {
                let err = plain(&whole[..len]).unwrap_err();
                assert_eq!(err.kind(), io::ErrorKind::InvalidData, "{err}");
            }
        }
    }

    #[test]
    fn several_members_are_one_stream_and_rubbish_behind_them_is_told() {
        for compression in ALL {
            let mut twice = compressed(b"one, ", compression);
            twice.extend(compressed(b"two", compression));
            assert_eq!(plain(&twice).unwrap(), b"one, two");
            twice.extend(b"rubbish");
            assert!(plain(&twice).is_err());
        }
    }

    #[test]
    fn zeros_behind_gzip_members_are_padding_and_nothing_else_is() {
        for members in 1..3 {
            let gzip = compressed(b"text", Compression::Gzip(6)).repeat(members);
            // More than is read at once, too.
            for padding_bytes in [1, 512, 300_000] {
                let padded = [&gzip[..], &vec![0; padding_bytes]].concat();
                let mut decoder = Decoder::new(&padded[..]).unwrap();
                let mut out = vec![];
                decoder.read_to_end(&mut out).unwrap();
                assert_eq!(out, b"text".repeat(members));
                assert_eq!(decoder.padding_bytes(), padding_bytes as u64);
                assert_eq!(decoder.read(&mut [0; 10]).unwrap(), 0);
                for behind in [b"rubbish", &gzip[..]] {
                    let err = plain(&[&padded, behind].concat()).unwrap_err();
                    assert_eq!(err.kind(), io::ErrorKind::InvalidData, "{err}");
                }
            }
        }
    }

    #[test]
    fn inputs_shorter_than_any_magic_are_plain() {
        for bytes in [&b""[..], b"\x1f", b"\x1f\x8b", b"\x28\xb5\x2f", b"BDSYNC"] {
            assert_eq!(plain(bytes).unwrap(), bytes);
        }
    }

    #[test]
    fn step_forward_leads_to_the_same_byte_in_every_format() {
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i / 7) as u8).collect();
        let mut inputs: Vec<_> = ALL.map(|compression| compressed(&bytes, compression)).to_vec();
        inputs.push(bytes.clone());
        for input in inputs {
            let mut decoder = Decoder::new(io::Cursor::new(input)).unwrap();
            decoder.seek(SeekFrom::Current(2)).unwrap();
            decoder.seek(SeekFrom::Current(5)).unwrap();
            let mut byte = [0; 2];
            decoder.read_exact(&mut byte).unwrap();
            assert_eq!(byte, bytes[7..9]);
            decoder.seek(SeekFrom::Current(150_000)).unwrap();
            decoder.read_exact(&mut byte).unwrap();
            assert_eq!(byte, bytes[150_009..150_011]);
            assert!(decoder.seek(SeekFrom::Current(-1)).is_err());
        }
    }

    #[test]
    fn errors_of_the_input_keep_their_kind() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
        }
        for compression in ALL {
            let whole = compressed(&[7; 300_000], compression);
            let input = whole[..MAGIC_BYTES + 1].chain(Broken);
            let err = Decoder::new(input).unwrap().read_to_end(&mut vec![]).unwrap_err();
            assert_eq!(err.raw_os_error(), Some(libc::EIO), "{err}");
        }
    }

    #[test]
    fn windows_beyond_the_limit_are_refused() {
        // A frame header with a window of 2^31 bytes, as `zstd --long=31` writes it.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3, 0x01, 0x00, 0x00];
        let err = plain(&frame).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::InvalidData);
        assert!(err.to_string().contains("decompress it first"), "{err}");
    }

    /// What an encoder has handed on to where it stays.
    #[derive(Clone, Default)]
    struct Kept(Rc<RefCell<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Somebody waits at the other end of a pipe.
    #[test]
    fn what_is_flushed_can_be_decoded_before_the_stream_ends() {
        for compression in ALL.map(Some).into_iter().chain([None]) {
            let kept = Kept::default();
            // The output holds bytes back as well.
            let output = BufWriter::with_capacity(1 << 20, kept.clone());
            let mut encoder = Encoder::new(output, compression).unwrap();
            encoder.write_all(b"first").unwrap();
            encoder.flush().unwrap();
            let mut start = [0; 5];
            let so_far = kept.0.borrow().clone();
            Decoder::new(&so_far[..]).unwrap().read_exact(&mut start).unwrap();
            assert_eq!(&start, b"first", "{compression:?}");
            encoder.write_all(b", second").unwrap();
            // All is there while the output still is, whose end would flush it unheard.
            let output = encoder.finish().unwrap();
            assert_eq!(plain(&kept.0.borrow()).unwrap(), b"first, second", "{compression:?}");
            drop(output);
        }
    }

    #[test]
    fn output_that_fails_is_told_by_finish_at_the_latest() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for compression in ALL {
            let mut encoder = Encoder::new(Full, Some(compression)).unwrap();
            let result = encoder.write_all(b"text").and_then(|()| encoder.finish().map(drop));
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        }
    }
}

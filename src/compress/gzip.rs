//! A gzip stream: members one behind the other, and the zeros that may fill it up.

use std::io::{self, BufRead, ErrorKind, Read};

use flate2::bufread::GzDecoder;

/// Decodes the members of a gzip stream to its end.
///
/// Zeros behind the last one are no damage: a tape and `dd conv=sync` fill their last block up with
/// them, and `gzip -t` says nothing of it.
pub(super) struct GzipReader<R> {
    /// `None` only while the next one is begun.
    member: Option<GzDecoder<R>>,
    padding_bytes: u64,
}

impl<R: BufRead> GzipReader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { member: Some(GzDecoder::new(input)), padding_bytes: 0 }
    }

    pub(super) fn input(&self) -> Option<&R> {
        self.member.as_ref().map(GzDecoder::get_ref)
    }

    /// How many zeros stand behind the last member, all of it having been read.
    pub(super) fn padding_bytes(&self) -> u64 {
        self.padding_bytes
    }

    /// Goes on to the next member, if there is one.
    fn begin_next(&mut self) -> io::Result<bool> {
        let Some(member) = &mut self.member else { return Ok(false) };
        loop {
            let bytes = member.get_mut().fill_buf()?;
            if bytes.is_empty() {
                return Ok(false);
            }
            let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
            if zeros == 0 {
                break;
            }
            member.get_mut().consume(zeros);
            self.padding_bytes += zeros as u64;
        }
        if self.padding_bytes > 0 {
            let what = "more than zeros stands behind its end";
            return Err(io::Error::new(ErrorKind::InvalidInput, what));
        }
        self.member = self.member.take().map(|member| GzDecoder::new(member.into_inner()));
        Ok(true)
    }
}

impl<R: BufRead> Read for GzipReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            match member.read(buf)? {
                0 if !buf.is_empty() && self.begin_next()? => {}
                n => return Ok(n),
            }
        }
        Ok(0)
    }
}

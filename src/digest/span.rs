//! Which blocks of a device: neighbours of one length (pure).

use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;

/// `n` blocks of `step` bytes, one behind the other from `start` on; none ends past 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSpan {
    start: u64,
    step: u64,
    n: u64,
}

impl BlockSpan {
    /// The blocks `start + i * step`, `i < n`.
    ///
    /// # Errors
    /// `Kind::Protocol` when `step` is 0 or the last block ends past 64 bits.
    pub fn new(start: u64, step: u64, n: u64) -> Result<Self> {
        let end = step.checked_mul(n).and_then(|len| start.checked_add(len));
        let what = match end {
            _ if step == 0 => "blocks of 0 bytes were asked for".to_owned(),
            None => format!("{n} blocks of {step} bytes do not fit 64 bits"),
            Some(_) => return Ok(Self { start, step, n }),
        };
        Err(Error::new(Kind::Protocol, what).with_offset(start))
    }

    /// Offset of the first block.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// Length of a block in bytes, at least 1.
    #[must_use]
    pub const fn step(&self) -> u64 {
        self.step
    }

    /// How many blocks.
    #[must_use]
    pub const fn n(&self) -> u64 {
        self.n
    }

    /// The bytes that the blocks cover.
    #[must_use]
    pub const fn range(&self) -> ByteRange {
        ByteRange { start: self.start, end: self.offset(self.n) }
    }

    /// Where block `i` starts; `i` is at most `n`.
    #[must_use]
    pub const fn offset(&self, i: u64) -> u64 {
        self.start + i * self.step
    }

    /// The blocks `from..to` of these.
    #[must_use]
    pub const fn part(&self, from: u64, to: u64) -> Self {
        Self { start: self.offset(from), step: self.step, n: to - from }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_do_not_fit_are_refused() {
        for (start, step, n) in
            [(0, 0, 1), (0, 0, 0), (u64::MAX, 1, 1), (0, u64::MAX, 2), (1, 1 << 32, 1 << 32)]
        {
            let err = BlockSpan::new(start, step, n).expect_err("does not fit");
            assert_eq!(err.kind(), Kind::Protocol);
        }
        assert!(BlockSpan::new(u64::MAX - 1, 1, 1).is_ok());
    }
}

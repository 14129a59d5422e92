//! What is to be compared, decided before anything is read. Pure.

use crate::error::{Error, Kind, Result};
use crate::units::{BLOCK_BYTES_MAX, ByteRange, Direction, SizeRule};

/// Sizes, direction and block size of one comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Which side is the source.
    pub direction: Direction,
    /// Size of the local device, in bytes.
    pub local_bytes: u64,
    /// Size of the remote device, in bytes.
    pub remote_bytes: u64,
    /// Size that the patch's header carries: that of the target once patched, except that
    /// under `minsize` it is the common part's.
    pub header_bytes: u64,
    /// The bytes whose blocks are compared; starts at 0.
    pub compared: ByteRange,
    /// Block size, in bytes.
    pub block_bytes: u64,
}

impl Plan {
    /// Applies the size rule to the two sizes.
    ///
    /// # Errors
    /// `Kind::Size` when they differ under [`SizeRule::Strict`]; `Kind::Usage` when the block
    /// size is 0 or above [`BLOCK_BYTES_MAX`].
    pub fn new(
        direction: Direction,
        local_bytes: u64,
        remote_bytes: u64,
        block_bytes: u64,
        rule: SizeRule,
    ) -> Result<Self> {
        if block_bytes == 0 || block_bytes > BLOCK_BYTES_MAX {
            let what = format!(
                "block size must be between 1 and {BLOCK_BYTES_MAX} bytes, found {block_bytes}"
            );
            return Err(Error::new(Kind::Usage, what));
        }
        let (source_bytes, _) = direction.source_and_target(local_bytes, remote_bytes);
        let common = local_bytes.min(remote_bytes);
        let (header_bytes, end) = match rule {
            _ if local_bytes == remote_bytes => (common, common),
            SizeRule::Strict => {
                // Both sizes are told apart from this, in the classic's words.
                let what = "the devices differ in size; --diffsize=resize or minsize allows it";
                return Err(Error::new(Kind::Size, what));
            }
            SizeRule::Resize => (source_bytes, local_bytes.max(remote_bytes)),
            SizeRule::MinSize => (common, common),
        };
        let compared = ByteRange::new(0, end);
        Ok(Self { direction, local_bytes, remote_bytes, header_bytes, compared, block_bytes })
    }

    /// Sizes of the source and the target, in bytes.
    #[must_use]
    pub fn source_and_target_bytes(&self) -> (u64, u64) {
        self.direction.source_and_target(self.local_bytes, self.remote_bytes)
    }

    /// The part of `range` that the patch may carry: blocks wholly outside the source, or
    /// outside the size in the header, are not written.
    #[must_use]
    pub fn writable(&self, range: ByteRange) -> ByteRange {
        range.clip(self.header_bytes)
    }

    /// Where the comparison ends for who wants to know the patch: what lies behind the blocks that it
    /// may carry is cut off, however much a remote side says that it has there.
    #[must_use]
    pub fn walk_end(&self) -> u64 {
        let whole = self.header_bytes.checked_next_multiple_of(self.block_bytes);
        whole.map_or(self.compared.end, |end| end.min(self.compared.end))
    }

    /// Whole blocks that cover `range`, ending at the block that holds the last compared byte.
    #[must_use]
    pub fn blocks_of(&self, range: ByteRange) -> ByteRange {
        range.intersect(&self.compared).align_out(self.block_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(direction: Direction, local: u64, remote: u64, rule: SizeRule) -> Plan {
        Plan::new(direction, local, remote, 4096, rule).expect("valid")
    }

    #[test]
    fn strict_refuses_different_sizes_and_names_the_remedy() {
        let err = Plan::new(Direction::Push, 1, 2, 4096, SizeRule::Strict).unwrap_err();
        assert_eq!(err.kind(), Kind::Size);
        assert!(err.to_string().contains("--diffsize=resize"), "{err}");
    }

    #[test]
    fn resize_takes_the_sources_size_and_compares_over_the_larger() {
        let push = plan(Direction::Push, 100, 150, SizeRule::Resize);
        assert_eq!((push.header_bytes, push.compared.end), (100, 150));
        assert_eq!(plan(Direction::Push, 100, u64::MAX, SizeRule::Resize).walk_end(), 4096);
        assert_eq!(plan(Direction::Push, 0, u64::MAX, SizeRule::Resize).walk_end(), 0);
        assert_eq!(push.walk_end(), 150);
        let all = plan(Direction::Pull, 1, u64::MAX, SizeRule::Resize);
        assert_eq!(all.walk_end(), u64::MAX);
        let pull = plan(Direction::Pull, 100, 150, SizeRule::Resize);
        assert_eq!((pull.header_bytes, pull.compared.end, pull.walk_end()), (150, 150, 150));
    }

    #[test]
    fn minsize_stays_in_the_common_part() {
        let push = plan(Direction::Push, 100, 150, SizeRule::MinSize);
        assert_eq!((push.header_bytes, push.compared.end), (100, 100));
        assert_eq!(push.writable(ByteRange::new(96, 128)), ByteRange::new(96, 100));
    }

    #[test]
    fn block_size_zero_and_one_above_the_limit_are_usage_errors() {
        for size in [0, BLOCK_BYTES_MAX + 1] {
            let err = Plan::new(Direction::Push, 1, 1, size, SizeRule::Strict).unwrap_err();
            assert_eq!(err.kind(), Kind::Usage);
            assert!(err.to_string().starts_with("block size must be"), "{err}");
        }
        assert!(Plan::new(Direction::Push, 1, 1, BLOCK_BYTES_MAX, SizeRule::Strict).is_ok());
    }
}

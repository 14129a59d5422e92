//! The digest of a whole device.

use super::algorithm::{Algorithm, Digest};
use super::feed::feed;
use super::hasher::Hasher;
use crate::device::Device;
use crate::error::Result;

/// The digest of exactly the device's bytes, without padding, whatever block size is in use.
///
/// Holes are fed as zeros without being read. `progress` is told every so often how many bytes
/// are done; an error that it returns ends the work.
///
/// # Errors
/// `Kind::Read` as the device's, and whatever `progress` returns.
pub fn checksum(
    device: &dyn Device,
    algorithm: Algorithm,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Digest> {
    let mut hasher = Hasher::new(algorithm);
    feed(&mut hasher, device, device.size(), progress)?;
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::TestDevice;
    use super::*;
    use crate::error::{Error, Kind};
    use crate::units::ByteRange;

    fn naive(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(Algorithm::Sha1);
        hasher.update(bytes);
        hasher.finish()
    }

    #[test]
    fn a_checksum_covers_an_odd_size_without_padding_and_holes_unread() {
        let mut device = TestDevice::new(vec![7; 1_000_001]);
        device.punch(ByteRange::new(300_000, 900_000));
        let mut last = 0;
        let sum = checksum(&device, Algorithm::Sha1, &mut |done| {
            assert!(done > last);
            last = done;
            Ok(())
        });
        assert_eq!(sum.expect("a checksum"), naive(device.bytes()));
        assert_eq!(last, 1_000_001);
        assert_eq!(device.reads().iter().map(ByteRange::len).sum::<u64>(), 400_001);
    }

    #[test]
    fn an_error_of_the_progress_ends_it() {
        let mut device = TestDevice::new(vec![7; 1_000_001]);
        device.punch(ByteRange::new(0, 1_000_000));
        let sum = checksum(&device, Algorithm::Sha1, &mut |_| {
            Err(Error::new(Kind::Interrupted(2), "interrupted"))
        });
        assert_eq!(sum.expect_err("ended").kind(), Kind::Interrupted(2));
        assert!(device.reads().is_empty());
    }

    proptest! {
        #[test]
        fn any_device_has_the_digest_of_its_bytes(device in TestDevice::any(3000)) {
            let sum = checksum(&device, Algorithm::Sha1, &mut |_| Ok(()));
            prop_assert_eq!(sum.expect("a checksum"), naive(device.bytes()));
        }
    }
}

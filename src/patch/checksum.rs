//! Compares a patched device with the checksum that its patch carries.

use super::format::Checksum;
use super::sizes::SizePlan;
use crate::device::Device;
use crate::digest::{Algorithm, Hasher, feed, feed_zeros};
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, KIB, MIB, hex};

/// Block sizes that classic padding is looked for with: the powers of two between these, bytes.
const PADDING_BYTES_MIN: u64 = 2;
const PADDING_BYTES_MAX: u64 = 64 * MIB;
/// Block sizes that are no power of two may be anything: up to so many bytes of padding are all
/// tried, which takes a second at most.
const PADDING_TRIED_BYTES: u64 = MIB;
/// Of these after so many it is asked whether they are still wanted.
const TRIES_PER_ASK: u64 = 64 * KIB;
/// A two-pass comparison of the classic hashes this many blocks at once.
const TWO_PASS_BLOCKS: u64 = 64;

/// How a device agrees with its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// The digest of exactly the device's bytes.
    Exact,
    /// The digest of them and of zeros up to this many bytes, which is what the classic makes
    /// of a size that is no multiple of the block size (bug 4 of those that
    /// `tests/suite/classic_bugs.rs` counts).
    Padded(u64),
}

/// The algorithm that a patch's checksum names.
///
/// # Errors
/// `Kind::Checksum` when it is unknown, or its digests have another length.
pub fn checksum_algorithm(checksum: &Checksum) -> Result<Algorithm> {
    let name = String::from_utf8_lossy(&checksum.name);
    let Some(algorithm) = Algorithm::from_name(&name) else {
        let what = format!("the patch's checksum is of an unknown digest, '{name}'");
        return Err(Error::new(Kind::Checksum, what));
    };
    if checksum.digest.len() != algorithm.len() {
        let what = format!(
            "the patch's {name} checksum has a wrong length: expected {} bytes, found {}",
            algorithm.len(),
            checksum.digest.len()
        );
        return Err(Error::new(Kind::Checksum, what));
    }
    Ok(algorithm)
}

/// Digests the patched part of `device` and compares.
///
/// `patch_bytes` is the size in the patch's header; `record_bytes_max` the longest record,
/// which tells a block size that is no power of two. Where it `may_be_padded`, as by a classic, the
/// digests of the device and zeros behind it are tried as well; of a device that was cut that may be
/// zeros for all that was cut off. `check` is asked every so often, and told how many bytes are
/// digested.
///
/// # Errors
/// `Kind::Checksum` with both values when they differ, `Kind::Read`, what `check` returns.
pub fn verify_checksum(
    device: &dyn Device,
    checksum: &Checksum,
    sizes: &SizePlan,
    record_bytes_max: u64,
    may_be_padded: bool,
    check: &dyn Fn(u64) -> Result<()>,
) -> Result<Agreement> {
    let algorithm = checksum_algorithm(checksum)?;
    let size_bytes = sizes.limit_bytes;
    let mut hasher = Hasher::new(algorithm);
    feed(&mut hasher, device, size_bytes, &mut |bytes| check(bytes))?;
    let found = hasher.clone().finish();
    if *found == *checksum.digest {
        return Ok(Agreement::Exact);
    }
    let mut fed_bytes = size_bytes;
    // What is not resized was compared up to the smaller size (protocol, minsize) or has one.
    let compared_bytes =
        sizes.resize_bytes.map_or(size_bytes, |_| size_bytes.max(sizes.before_bytes));
    let padded = match may_be_padded {
        true => padded_sizes(size_bytes, compared_bytes, record_bytes_max),
        false => Vec::new(),
    };
    for tried in padded {
        for padded_bytes in tried.start.max(fed_bytes + 1)..tried.end {
            let hole = ByteRange::new(fed_bytes, padded_bytes);
            feed_zeros(&mut hasher, hole, &mut |bytes| {
                // Many are of one byte, and to ask takes longer than to hash that.
                match hole.len() > 1 || bytes.is_multiple_of(TRIES_PER_ASK) {
                    true => check(bytes),
                    false => Ok(()),
                }
            })?;
            fed_bytes = padded_bytes;
            if *hasher.clone().finish() == *checksum.digest {
                return Ok(Agreement::Padded(padded_bytes));
            }
        }
    }
    let what = format!(
        "the patched device is not what the patch promised: expected {} {}, found {}",
        algorithm.name(),
        hex(&checksum.digest),
        hex(&found)
    );
    Err(Error::new(Kind::Checksum, what).with_path(device.path()))
}

/// Ranges of sizes that the classic may have filled a device of `size_bytes` up to when it compared
/// `compared_bytes`, in the order of their begins.
fn padded_sizes(size_bytes: u64, compared_bytes: u64, record_bytes_max: u64) -> Vec<ByteRange> {
    let powers = (0..).map(|i| PADDING_BYTES_MIN << i).take_while(|&n| n <= PADDING_BYTES_MAX);
    let seen = [record_bytes_max, record_bytes_max.saturating_mul(TWO_PASS_BLOCKS)];
    let mut sizes = vec![];
    for unit in powers.chain(seen).filter(|&unit| unit > 0) {
        for compared in [size_bytes, compared_bytes] {
            sizes.extend(compared.checked_next_multiple_of(unit));
        }
    }
    // Where 64 bits end nothing is filled up.
    sizes.retain(|&padded| size_bytes < padded && padded < u64::MAX);
    let tried = |from: u64| ByteRange::new(from, from.saturating_add(PADDING_TRIED_BYTES));
    let mut ranges: Vec<_> =
        sizes.into_iter().map(|padded| ByteRange::new(padded, padded + 1)).collect();
    ranges.extend([tried(size_bytes), tried(compared_bytes)]);
    ranges.sort_unstable_by_key(|range| range.start);
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;

    fn checksum_of(bytes: &[u8]) -> Checksum {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        Checksum { name: b"sha256".to_vec(), digest: hasher.finish().to_vec() }
    }

    fn verify(content: &[u8], before_bytes: u64, sum: &Checksum) -> Result<Agreement> {
        let device = MemoryDevice::new(content).with_holes(64);
        let size = content.len() as u64;
        let resize_bytes = (before_bytes != size).then_some(size);
        let sizes = SizePlan { before_bytes, limit_bytes: size, resize_bytes };
        verify_checksum(&device, sum, &sizes, 1000, true, &|_| Ok(()))
    }

    #[test]
    fn what_is_never_padded_is_looked_at_once() {
        let device = MemoryDevice::new([7; 5000]);
        let sizes = SizePlan { before_bytes: 1 << 42, limit_bytes: 5000, resize_bytes: Some(5000) };
        let digested = std::cell::Cell::new(0);
        let check = |bytes| {
            digested.set(bytes);
            Ok(())
        };
        let sum = checksum_of(b"of something else");
        let err = verify_checksum(&device, &sum, &sizes, 4096, false, &check).unwrap_err();
        assert_eq!((err.kind(), digested.get()), (Kind::Checksum, 5000));
    }

    #[test]
    fn target_that_stays_larger_is_not_filled_up_to_its_size() {
        let device = MemoryDevice::new([7; 5000]);
        let sizes = SizePlan { before_bytes: 1 << 42, limit_bytes: 5000, resize_bytes: None };
        let sum = checksum_of(b"of more than the patch has");
        let asked = std::cell::Cell::new(0);
        let check = |_| {
            asked.set(asked.get() + 1);
            Ok(())
        };
        let err = verify_checksum(&device, &sum, &sizes, 4096, true, &check).unwrap_err();
        assert_eq!(err.kind(), Kind::Checksum);
        // Pieces of 256 KiB, up to the largest block size that padding is looked for with.
        assert!(asked.get() < 300, "{}", asked.get());
    }

    #[test]
    fn exact_and_classic_padded_digests_agree() {
        let content = [&[1; 5000][..], &[0; 800], &[2; 1]].concat();
        let padded = |len| {
            let mut bytes = content.clone();
            bytes.resize(len, 0);
            checksum_of(&bytes)
        };
        let size = content.len() as u64;
        assert_eq!(verify(&content, size, &padded(5801)).unwrap(), Agreement::Exact);
        // Of 100,001 bytes a block, and of one below the limit, the records tell nothing.
        let tried = content.len() + PADDING_TRIED_BYTES as usize - 1;
        for len in [5802, 5888, 6144, 8192, 6000, 64000, 100_001, tried] {
            let got = verify(&content, size, &padded(len)).unwrap();
            assert_eq!(got, Agreement::Padded(len as u64));
        }
        assert_eq!(verify(&content, 20_000, &padded(20_480)).unwrap(), Agreement::Padded(20_480));
        let err = verify(&content, size, &padded(tried + 1)).unwrap_err();
        assert_eq!(err.kind(), Kind::Checksum);
    }

    #[test]
    fn difference_tells_both_values() {
        let sum = checksum_of(b"other");
        let err = verify(b"content", 7, &sum).unwrap_err();
        assert_eq!(err.kind(), Kind::Checksum);
        assert!(err.to_string().contains(&hex(&sum.digest)), "{err}");
        assert!(err.to_string().contains(&hex(&checksum_of(b"content").digest)), "{err}");
    }

    #[test]
    fn unknown_digests_and_wrong_lengths_are_refused() {
        for (name, len) in [("sha256", 31), ("sha256", 0), ("nonsense", 32), ("\u{fffd}", 1)] {
            let sum = Checksum { name: name.into(), digest: vec![0; len] };
            assert_eq!(checksum_algorithm(&sum).unwrap_err().kind(), Kind::Checksum);
        }
    }

    #[test]
    fn an_end_that_is_asked_for_ends_it() {
        let device = MemoryDevice::new([0; 10]);
        let sizes = SizePlan { before_bytes: 10, limit_bytes: 10, resize_bytes: None };
        let stop = |_| Err(Error::new(Kind::Interrupted(2), "stop"));
        let err = verify_checksum(&device, &checksum_of(b""), &sizes, 0, true, &stop).unwrap_err();
        assert_eq!(err.kind(), Kind::Interrupted(2));
    }
}

//! What goes wrong: an error for that read, never zeros, never remembered.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::rig::{Rig, Setup, TestDevice, later, noise};
use crate::diff::{BLOCKS_MAX, PRINTS_MAX};
use crate::digest::Algorithm;
use crate::error::Kind;
use crate::units::{ByteRange, Direction, KIB, MIB, SizeRule};
use crate::view::change::{Change, Image};
use crate::wire::Message;

#[test]
fn remote_block_that_changed_after_it_was_compared_is_an_error_and_not_kept() {
    let (local, remote) = (noise(1, 1 << 20), noise(2, 1 << 20));
    let rig = Rig::of_bytes(Setup::new(Direction::Pull), &local, &remote);
    rig.read(Image::Merged, 0, 4096).unwrap();
    rig.remote.write(8192, b"moved");
    let err = rig.read(Image::Merged, 8000, 1000).unwrap_err();
    assert_eq!(err.kind(), Kind::Transmission);
    assert_eq!(err.range(), Some(ByteRange::new(8192, 12288)));
    let status = rig.status();
    assert_eq!(status["source_changed"], true);
    assert_eq!(status["link"], "up");
    assert!(status["last_error"].as_str().unwrap().contains("changed"), "{status}");
    // Its neighbours are as they were, and so is the block once it is back.
    assert_eq!(rig.read(Image::Merged, 4096, 4096).unwrap(), remote[4096..8192]);
    assert_eq!(rig.read(Image::Merged, 8192, 10).unwrap_err().kind(), Kind::Transmission);
    rig.remote.write(8192, &remote[8192..8197]);
    assert_eq!(rig.read(Image::Merged, 8000, 1000).unwrap(), remote[8000..9000]);
}

#[test]
fn bytes_that_cannot_be_read_fail_the_reads_of_their_block_and_no_others() {
    const SIZE: u64 = 8 << 20;
    let local = noise(1, SIZE as usize);
    let mut remote = local.clone();
    for at in (0..SIZE as usize).step_by(100_000) {
        remote[at] ^= 1;
    }
    let bad = ByteRange::new(5 << 20, (5 << 20) + 4096);
    let blocks: Vec<u64> = (0..SIZE / 4096).collect();
    let ascending = blocks.clone();
    let descending = blocks.iter().rev().copied().collect();
    let scattered: Vec<u64> = blocks.iter().map(|i| i * 1027 % (SIZE / 4096)).collect();
    let from_behind = (bad.end / 4096..SIZE / 4096).collect();
    for order in [ascending, descending, scattered, from_behind] {
        for at_remote in [false, true] {
            let rig = Rig::of_bytes(Setup::own(Direction::Pull), &local, &remote);
            let failing = if at_remote { &rig.remote } else { &rig.local };
            *failing.unreadable.lock() = bad;
            for &block in &order {
                let read = rig.read(Image::Merged, block * 4096, 4096);
                if block * 4096 == bad.start {
                    assert_eq!(read.unwrap_err().kind(), Kind::Read);
                } else {
                    let expected = &remote[block as usize * 4096..][..4096];
                    assert!(read.unwrap() == *expected, "block {block}");
                }
            }
            let wide = rig.read(Image::Merged, bad.start - 8192, 16_384);
            assert_eq!(wide.unwrap_err().kind(), Kind::Read);
            *failing.unreadable.lock() = ByteRange::new(0, 0);
            let again = rig.read(Image::Merged, bad.start - 8192, 16_384).unwrap();
            assert!(again == remote[bad.start as usize - 8192..][..16_384]);
        }
    }
}

/// A fault that passes costs a few small requests, and no scan any.
#[test]
fn a_place_that_can_be_read_again_is_compared_in_large_parts_again() {
    let bytes = noise(1, 4 << 20);
    let rig = Rig::of_bytes(Setup::own(Direction::Pull), &bytes, &bytes);
    *rig.remote.unreadable.lock() = ByteRange::new(0, 4 << 20);
    assert_eq!(rig.read(Image::Merged, 0, 131_072).unwrap_err().kind(), Kind::Read);
    assert_eq!(rig.patch(64 << 10).unwrap_err().kind(), Kind::Read);
    *rig.remote.unreadable.lock() = ByteRange::new(0, 0);
    let before = rig.requests().len();
    for at in (0..4 << 20).step_by(65_536) {
        assert!(rig.read(Image::Merged, at, 65_536).unwrap() == bytes[at as usize..][..65_536]);
    }
    let asked = rig.requests().len() - before;
    assert!((8..40).contains(&asked), "{asked} requests for 64 reads");

    let rig = Rig::of_bytes(Setup::own(Direction::Pull), &bytes, &bytes);
    *rig.remote.unreadable.lock() = ByteRange::new(0, 4096);
    assert_eq!(rig.patch(64 << 10).unwrap_err().kind(), Kind::Read);
    let failed = rig.remote.take_reads().len();
    assert!(failed < 20, "{failed} reads for a scan that fails");
    *rig.remote.unreadable.lock() = ByteRange::new(0, 0);
    let before = rig.requests().len();
    rig.patch(64 << 10).unwrap();
    let asked = rig.requests().len() - before;
    assert!(asked < 20, "{asked} requests for a scan");
}

#[test]
fn readers_of_one_job_that_cannot_be_read_each_get_what_can() {
    let bytes = noise(1, 1 << 20);
    let rig = Rig::of_bytes(Setup::own(Direction::Pull), &bytes, &bytes);
    *rig.remote.unreadable.lock() = ByteRange::new(10 * 4096, 11 * 4096);
    let held = rig.remote.gate.write();
    let readers: Vec<_> = (0..16)
        .map(|block| ByteRange::new(block * 4096, (block + 1) * 4096))
        .map(|range| later(|done| rig.live().read(Image::Merged, range, done)))
        .collect();
    drop(held);
    for (block, reader) in readers.into_iter().enumerate() {
        let read = reader.recv().unwrap();
        assert_eq!(read.is_err(), block == 10, "block {block}");
    }
}

#[test]
fn local_block_that_changed_after_it_was_compared_is_no_record() {
    for block_bytes in [4096, 100_000] {
        let (local, remote) = (noise(3, 1 << 20), noise(4, 1 << 20));
        let setup = Setup { block_bytes, ..Setup::own(Direction::Push) };
        let rig = Rig::of_bytes(setup, &local, &remote);
        rig.extents().unwrap();
        rig.local.write(500_000, b"moved");
        let err = rig.patch(64 << 10).unwrap_err();
        assert_eq!(err.kind(), Kind::Transmission);
        assert!(err.to_string().contains("test-device"), "{err}");
        assert_eq!(rig.status()["source_changed"], true);
        rig.local.write(500_000, &local[500_000..500_005]);
        rig.patch(64 << 10).unwrap();
    }
}

#[test]
fn local_device_that_shows_a_change_is_an_error_wherever_its_bytes_are_used() {
    let (local, mut remote) = (noise(3, 1 << 20), noise(3, 1 << 20));
    remote[500_000] ^= 1;
    for direction in [Direction::Push, Direction::Pull] {
        let rig = Rig::of_bytes(Setup::own(direction), &local, &remote);
        rig.extents().unwrap();
        assert_eq!(rig.status()["source_changed"], false);
        rig.local.changed.store(true, Ordering::SeqCst);
        assert_eq!(rig.status()["source_changed"], true, "before anybody reads");
        assert_eq!(rig.status()["last_error"], serde_json::Value::Null);
        for image in [Image::Merged, Image::Original] {
            let err = rig.read(image, 0, 4096).unwrap_err();
            assert_eq!(err.kind(), Kind::Transmission, "{image:?}");
            let text = err.full_message();
            assert_eq!(text.matches("test-device").count(), 1, "{text}");
            assert_eq!(rig.status()["last_error"], text);
            let hole = rig.live().next_data(image, 0).unwrap_err();
            assert_eq!(hole.kind(), Kind::Transmission, "{image:?}");
        }
        // What takes no local bytes is as it was.
        let block = 500_000 / 4096 * 4096;
        let all_remote = match direction {
            Direction::Push => rig.read(Image::Original, block, 4096),
            Direction::Pull => rig.read(Image::Merged, block, 4096),
        };
        assert_eq!(all_remote.unwrap(), remote[block as usize..][..4096]);
        assert_eq!(rig.patch(64 << 10).is_ok(), direction == Direction::Pull);
        rig.local.changed.store(false, Ordering::SeqCst);
        assert_eq!(rig.status()["source_changed"], true, "once is enough");
    }
}

/// The kernel would show the bytes that it has by now.
#[test]
fn a_local_file_is_not_read_past_us_any_more_once_it_was_seen_to_change() {
    for direction in [Direction::Push, Direction::Pull] {
        let (local, remote) = (TestDevice::new(&[1; 4096]), TestDevice::new(&[2; 4096]));
        local.file.set(tempfile::tempfile().unwrap()).unwrap();
        let rig = Rig::new(Setup::own(direction), local, remote);
        let is_backed = |image| rig.live().backing_file(image).is_some();
        assert_eq!(is_backed(Image::Merged), direction == Direction::Push);
        assert_eq!(is_backed(Image::Original), direction == Direction::Pull);
        for changed in [true, false] {
            rig.local.changed.store(changed, Ordering::SeqCst);
            assert!(!is_backed(Image::Merged) && !is_backed(Image::Original), "{direction:?}");
        }
    }
}

#[test]
fn an_image_that_is_shorter_than_the_local_file_is_not_read_past_us() {
    let (local, remote) = (TestDevice::new(&[1; 8192]), TestDevice::new(&[1; 4096]));
    local.file.set(tempfile::tempfile().unwrap()).unwrap();
    let setup = Setup { rule: SizeRule::MinSize, ..Setup::own(Direction::Push) };
    let rig = Rig::new(setup, local, remote);
    assert!(rig.live().backing_file(Image::Merged).is_none());
    assert!(!rig.live().may_wait(Image::Merged), "it takes nothing from elsewhere");
}

#[test]
fn nothing_is_learned_from_hashes_of_a_changed_local_device() {
    let content = noise(3, 1 << 20);
    for direction in [Direction::Push, Direction::Pull] {
        let setup = Setup { checksum: Some(Algorithm::Md5), ..Setup::own(direction) };
        let rig = Rig::of_bytes(setup, &content, &content);
        rig.local.changed.store(true, Ordering::SeqCst);
        assert_eq!(rig.extents().unwrap_err().kind(), Kind::Transmission);
        assert_eq!(rig.status()["compared_bytes"], 0);
        rig.local.changed.store(false, Ordering::SeqCst);
        rig.extents().unwrap();
        // Nothing differs, so that the checksum alone has to do with the devices.
        rig.local.changed.store(true, Ordering::SeqCst);
        let patch = rig.patch(64 << 10);
        assert_eq!(patch.is_ok(), direction == Direction::Pull, "{direction:?}");
    }
}

#[test]
fn failing_local_device_is_an_error_until_it_works_again() {
    let (local, remote) = (noise(5, 1 << 20), noise(5, 1 << 20));
    for direction in [Direction::Push, Direction::Pull] {
        let rig = Rig::of_bytes(Setup::own(direction), &local, &remote);
        rig.local.failing.store(true, Ordering::SeqCst);
        for image in [Image::Merged, Image::Original] {
            let err = rig.read(image, 0, 4096).unwrap_err();
            assert_eq!(err.kind(), Kind::Read);
            assert!(err.to_string().contains("injected fault"), "{image:?}: {err}");
        }
        assert_eq!(rig.patch_at(100, 10).unwrap_err().kind(), Kind::Read);
        assert_eq!(rig.status()["scan"], "failed");
        rig.local.failing.store(false, Ordering::SeqCst);
        for image in [Image::Merged, Image::Original] {
            assert_eq!(rig.read(image, 0, 4096).unwrap(), local[..4096]);
        }
        rig.patch(1 << 20).unwrap();
        assert_eq!(rig.status()["scan"], "done");
    }
}

#[test]
fn what_is_known_locally_reads_on_when_the_link_is_dead() {
    let (local, mut remote) = (noise(6, 1 << 20), noise(6, 1 << 20));
    remote[4096] ^= 1;
    let rig = Rig::of_bytes(Setup::new(Direction::Pull), &local, &remote);
    rig.read(Image::Merged, 0, 64 * KIB).unwrap();
    rig.server.close();
    for _ in 0..1000 {
        if rig.status()["link"] == "down" {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(rig.status()["link"], "down");
    assert_eq!(rig.read(Image::Merged, 0, 64 * KIB).unwrap(), remote[..64 << 10]);
    assert_eq!(rig.read(Image::Original, 512 * KIB, 4096).unwrap(), local[512 << 10..][..4096]);
    for _ in 0..2 {
        rig.read(Image::Merged, 512 * KIB, 4096).unwrap_err();
        rig.patch_at(9000, 10).unwrap_err();
        rig.extents().unwrap_err();
    }
    assert!(rig.status()["last_error"].is_string());
}

#[test]
fn whenever_the_remote_goes_away_reads_are_right_or_errors() {
    let (local, mut remote) = (noise(7, 512 << 10), noise(7, 512 << 10));
    for block in [0, 1, 17, 40, 41, 42, 100, 127] {
        remote[block * 4096 + 9] ^= 1;
    }
    for budget in (0..900).step_by(37) {
        for setup in [Setup::new(Direction::Pull), Setup::own(Direction::Push)] {
            let rig = Rig::of_bytes(setup, &local, &remote);
            rig.budget_bytes.store(budget, Ordering::SeqCst);
            let (merged, original) = match setup.direction {
                Direction::Push => (&local, &remote),
                Direction::Pull => (&remote, &local),
            };
            for at in (0..512 << 10).step_by(40_000) {
                let len = (512 << 10) - at;
                let len = len.min(5000);
                for (image, expected) in [(Image::Merged, merged), (Image::Original, original)] {
                    if let Ok(got) = rig.read(image, at as u64, len as u64) {
                        assert!(got == expected[at..][..len], "{image:?} at {at}");
                    }
                }
            }
            let _ = rig.patch(10_000);
        }
    }
}

#[test]
fn a_cache_too_small_for_one_block_slows_down_and_nothing_else() {
    let (local, remote) = (noise(8, 3 << 20), noise(9, 3 << 20));
    for (cache_bytes, block_bytes) in [(0, 4096), (MIB, 4096), (MIB, 2 << 20), (MIB, 100)] {
        let setup = Setup { cache_bytes, block_bytes, ..Setup::new(Direction::Pull) };
        let rig = Rig::of_bytes(setup, &local, &remote);
        for i in 0..20usize {
            let at = i * 7_919_993 % (2 << 20);
            let len = (i * 104_729) % 200_000 + 1;
            let got = rig.read(Image::Merged, at as u64, len as u64).unwrap();
            assert!(got == remote[at..][..len], "{len} bytes at {at}, {setup:?}");
        }
    }
}

#[test]
fn hashes_without_a_print_are_asked_for_again_with_the_block() {
    let block_bytes = 512;
    let blocks = PRINTS_MAX as u64 + 1;
    let far = (1 << 20) * block_bytes;
    let (local, remote) = (TestDevice::sparse(far + 4096), TestDevice::sparse(far + 4096));
    for at in 0..blocks {
        remote.write(at * block_bytes, &[1; 512]);
    }
    remote.write(far, &[2; 512]);
    let setup = Setup { block_bytes, algorithm: Algorithm::Sha1, ..Setup::new(Direction::Pull) };
    let setup = Setup { cache_bytes: 0, ..setup };
    let rig = Rig::new(setup, local, remote);
    assert_eq!(rig.read(Image::Merged, far, 512).unwrap(), [2; 512]);
    for at in 0..blocks {
        assert_eq!(rig.read(Image::Merged, at * block_bytes, 512).unwrap(), [1; 512]);
    }
    let asked = |at: u64| {
        let before = rig.requests().len();
        rig.read(Image::Merged, at, 512).unwrap();
        rig.requests()[before..].to_vec()
    };
    let kept = asked(far);
    assert!(matches!(kept[..], [Message::GetBlock { .. }]), "{kept:?}");
    let again = asked((blocks - 1) * block_bytes);
    assert!(
        matches!(again[..], [Message::GetHashes { n: 1, .. }, Message::GetBlock { .. }]),
        "{again:?}"
    );
}

/// Whatever the places of the blocks have in common.
#[test]
fn a_block_that_changed_after_it_was_compared_is_an_error_wherever_others_differ() {
    let far = (1 << 20) * 4096;
    let (local, remote) = (TestDevice::sparse(far + 4096), TestDevice::sparse(far + 4096));
    remote.write(0, &[1; 4096]);
    remote.write(far, &[2; 4096]);
    let rig =
        Rig::new(Setup { cache_bytes: 0, ..Setup::own(Direction::Pull) }, local, remote.clone());
    assert_eq!(rig.read(Image::Merged, 0, 4096).unwrap(), [1; 4096]);
    assert_eq!(rig.read(Image::Merged, far, 4096).unwrap(), [2; 4096]);
    remote.write(0, &[3; 4096]);
    let err = rig.read(Image::Merged, 0, 4096).unwrap_err();
    assert_eq!(err.kind(), Kind::Transmission);
}

#[test]
fn device_of_a_size_that_no_memory_is_enough_for_is_refused() {
    let near = TestDevice::sparse(4096);
    let setup = Setup { rule: SizeRule::Resize, ..Setup::own(Direction::Pull) };
    let most = TestDevice::sparse(4096 * BLOCKS_MAX);
    assert!(Rig::try_new(setup, near.clone(), most).is_ok());
    for size in [u64::MAX, 1 << 62, 4096 * BLOCKS_MAX + 1] {
        let err = Rig::try_new(setup, near.clone(), TestDevice::sparse(size)).err().unwrap();
        assert_eq!(err.kind(), Kind::Usage, "{size}");
        let common = Setup { rule: SizeRule::MinSize, ..setup };
        let rig = Rig::new(common, near.clone(), TestDevice::sparse(size));
        assert_eq!(rig.read(Image::Merged, 0, 4096).unwrap(), [0; 4096]);
    }
}

#[test]
fn image_that_is_larger_than_a_file_can_be_is_refused() {
    let setup = Setup { rule: SizeRule::MinSize, ..Setup::own(Direction::Push) };
    let open = |size| Rig::try_new(setup, TestDevice::sparse(4096), TestDevice::sparse(size));
    assert!(open(i64::MAX as u64).is_ok());
    for size in [i64::MAX as u64 + 1, u64::MAX] {
        let err = open(size).err().unwrap();
        assert_eq!(err.kind(), Kind::Size, "{size}");
        assert!(err.to_string().contains(&size.to_string()), "{err}");
    }
}

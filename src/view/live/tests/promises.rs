//! What is asked, read and sent for what is read: laziness, measured.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::rig::{Rig, Setup, TestDevice, later, noise};
use crate::device::Device as _;
use crate::units::{ByteRange, Direction, GIB, KIB, MIB, SizeRule};
use crate::view::change::{Change, Image};
use crate::wire::{Look, Message};

const TIB: u64 = 1024 * GIB;

fn hashes_and_blocks(requests: &[Message]) -> (usize, usize) {
    let hashes = requests.iter().filter(|m| matches!(m, Message::GetHashes { .. })).count();
    let blocks = requests.iter().filter(|m| matches!(m, Message::GetBlock { .. })).count();
    assert_eq!(hashes + blocks, requests.len(), "{requests:?}");
    (hashes, blocks)
}

#[test]
fn one_small_read_of_merged_in_pull_is_one_gethashes_and_one_getblock() {
    for size in [MIB, TIB] {
        for setup in [Setup::new(Direction::Pull), Setup::own(Direction::Pull)] {
            let (local, remote) = (TestDevice::sparse(size), TestDevice::sparse(size));
            let at = size / 2 + 8 * KIB;
            local.write(size / 2, &noise(1, 64 << 10));
            remote.write(size / 2, &noise(1, 64 << 10));
            remote.write(at, &noise(2, 4096));
            let rig = Rig::new(setup, local, remote);
            assert_eq!(rig.read(Image::Merged, at, 4096).unwrap(), noise(2, 4096));
            assert_eq!(hashes_and_blocks(&rig.requests()), (1, 1), "{setup:?}");
            let reads = rig.local.take_reads();
            assert_eq!(reads, [ByteRange::new(size / 2, size / 2 + 64 * KIB)]);
            // Its neighbours are known by now; only what differs is fetched.
            rig.read(Image::Merged, at + 4096, 4096).unwrap();
            rig.read(Image::Merged, at, 4096).unwrap();
            assert_eq!(hashes_and_blocks(&rig.requests()), (1, 1));
        }
    }
}

#[test]
fn one_small_read_never_makes_a_side_read_more_than_4_mib() {
    for block_bytes in [512, 1000, 4096, 65536, 1 << 20, 3_000_000] {
        let content = noise(9, 9 << 20);
        let setup = Setup { block_bytes, ..Setup::new(Direction::Pull) };
        let rig = Rig::of_bytes(setup, &content, &content);
        for at in [0, 5_000_000, (9 << 20) - 4096] {
            let expected = &content[at as usize..][..4096];
            assert_eq!(rig.read(Image::Merged, at, 4096).unwrap(), expected);
            for device in [&rig.local, &rig.remote] {
                let bytes: u64 = device.take_reads().iter().map(ByteRange::len).sum();
                assert!(bytes <= 4 * MIB, "{bytes} bytes for blocks of {block_bytes}");
            }
        }
    }
}

#[test]
fn merged_in_push_asks_nothing() {
    let content = noise(3, 1 << 20);
    let rig = Rig::of_bytes(Setup::new(Direction::Push), &content, &noise(4, 1 << 20));
    for at in (0..MIB).step_by(128 << 10) {
        let got = rig.read(Image::Merged, at, 128 * KIB).unwrap();
        assert_eq!(got, content[at as usize..][..128 << 10]);
    }
    assert_eq!(rig.live().next_data(Image::Merged, 0).unwrap(), Some(ByteRange::new(0, MIB)));
    thread::sleep(Duration::from_millis(20));
    assert_eq!(rig.requests(), []);
    assert!(!rig.live().may_wait(Image::Merged) && rig.live().may_wait(Image::Original));
}

#[test]
fn mounting_exchanges_under_4_kib_whatever_the_size() {
    let wire_bytes = [MIB, TIB].map(|size| {
        let rig = Rig::new(
            Setup::own(Direction::Pull),
            TestDevice::sparse(size),
            TestDevice::sparse(size),
        );
        rig.live().next_data(Image::Merged, 0).unwrap();
        assert_eq!(rig.status()["scan"], "idle");
        assert_eq!((rig.live().patch_bytes(), rig.live().changed_ranges()), (None, None));
        assert_eq!((rig.local.take_reads(), rig.remote.take_reads()), (vec![], vec![]));
        rig.wire_bytes()
    });
    assert_eq!(wire_bytes[0], wire_bytes[1]);
    assert!(wire_bytes[0] < 4 * KIB, "{wire_bytes:?}");
}

#[test]
fn jumping_readers_pay_one_small_window_a_read() {
    let rig =
        Rig::new(Setup::own(Direction::Pull), TestDevice::sparse(TIB), TestDevice::sparse(TIB));
    for i in 0..50u64 {
        let at = (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % TIB) / 4096 * 4096;
        assert_eq!(rig.read(Image::Merged, at, 4096).unwrap(), [0; 4096]);
    }
    let requests = rig.requests();
    assert_eq!(hashes_and_blocks(&requests), (50, 0));
    for request in requests {
        assert!(matches!(request, Message::GetHashes { n: 1..=16, .. }), "{request:?}");
    }
}

#[test]
fn reading_all_of_merged_sends_differing_blocks_hashes_and_one_percent() {
    let size = 48 << 20;
    let local = noise(5, size);
    let mut remote = local.clone();
    let mut differing = 0;
    for block in (0..size / 4096).filter(|block| block % 50 == 7 || (4000..5000).contains(block)) {
        remote[block * 4096 + 100] ^= 1;
        differing += 4096;
    }
    for setup in [Setup::new(Direction::Pull), Setup::own(Direction::Pull)] {
        let rig = Rig::of_bytes(setup, &local, &remote);
        for at in (0..size).step_by(128 << 10) {
            let got = rig.read(Image::Merged, at as u64, 128 * KIB).unwrap();
            assert!(got == remote[at..][..128 << 10], "at {at}");
        }
        let hash_len = setup.algorithm.len() as u64;
        let hashes: u64 = rig
            .requests()
            .iter()
            .map(|request| match request {
                Message::GetHashes { n, .. } | Message::GetTree(Look { n, .. }) => n * hash_len,
                _ => 0,
            })
            .sum();
        let bound = (differing + hashes) * 101 / 100;
        assert!(rig.wire_bytes() <= bound, "{} of {bound}", rig.wire_bytes());
        // One hash for every block is what comparing without ladders takes.
        let flat = size as u64 / 4096 * hash_len;
        assert!(hashes <= flat * 3 / 2, "{hashes} bytes of hashes, flat {flat}");
    }
}

#[test]
fn sequential_readers_of_what_is_the_same_ask_rarely() {
    let content = noise(6, 64 << 20);
    let rig = Rig::of_bytes(Setup::own(Direction::Pull), &content, &content);
    for at in (0..content.len()).step_by(128 << 10) {
        rig.read(Image::Merged, at as u64, 128 * KIB).unwrap();
    }
    let requests = rig.requests().len();
    assert!(requests < 60, "{requests} requests for 64 MiB");
}

#[test]
fn two_readers_of_one_place_share_its_requests() {
    let local = noise(7, 1 << 20);
    let remote = noise(8, 1 << 20);
    let rig = Rig::of_bytes(Setup::new(Direction::Pull), &local, &remote);
    let closed = rig.remote.gate.write();
    let range = ByteRange::new(64 * KIB, 68 * KIB);
    let answers: Vec<_> = (0..8)
        .map(|i| {
            let range = ByteRange::new(range.start + i % 2 * 512, range.end - i % 3 * 512);
            (range, later(|done| rig.live().read(Image::Merged, range, done)))
        })
        .collect();
    thread::sleep(Duration::from_millis(50));
    assert!(answers.iter().all(|(_, answer)| answer.is_empty()));
    drop(closed);
    for (range, answer) in answers {
        let got = answer.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
        assert_eq!(got, remote[range.start as usize..range.end as usize]);
    }
    assert_eq!(hashes_and_blocks(&rig.requests()), (1, 1));
}

#[test]
fn what_is_known_answers_while_another_waits() {
    let content = noise(10, 1 << 20);
    let rig = Rig::of_bytes(Setup::new(Direction::Pull), &content, &content);
    rig.read(Image::Merged, 0, 4096).unwrap();
    let closed = rig.remote.gate.write();
    let waiting = later(|done| rig.live().read_patch(1000, 10, done));
    assert_eq!(rig.read(Image::Merged, 8192, 4096).unwrap(), content[8192..12288]);
    assert_eq!(rig.read(Image::Original, 512 << 10, 4096).unwrap(), content[512 << 10..][..4096]);
    assert_eq!(rig.status()["scan"], "running");
    drop(closed);
    assert!(waiting.recv_timeout(Duration::from_secs(20)).unwrap().unwrap().is_empty());
    assert_eq!(rig.status()["scan"], "done");
}

#[test]
fn a_classic_server_hears_only_classic_messages_and_no_hints() {
    for direction in [Direction::Push, Direction::Pull] {
        let (local, mut remote) = (noise(11, 9 << 20), noise(11, 9 << 20));
        remote[5_000_000] ^= 1;
        let rig = Rig::of_bytes(Setup::new(direction), &local, &remote);
        rig.read(Image::Original, 4_999_000, 4096).unwrap();
        rig.read(Image::Merged, 4_999_000, 4096).unwrap();
        rig.patch(100_000).unwrap();
        assert_eq!(rig.extents().unwrap().len(), 1);
        let requests = rig.requests();
        hashes_and_blocks(&requests);
        let hint = |m: &Message| matches!(m, Message::GetHashes { n: 0, .. });
        assert!(!requests.iter().any(hint), "{requests:?}");
    }
}

#[test]
fn the_background_scan_makes_the_size_of_the_patch_known() {
    let (local, remote) = (noise(12, 20 << 20), noise(12, 20 << 20));
    let setup = Setup { background: true, ..Setup::own(Direction::Push) };
    let rig = Rig::of_bytes(setup, &local, &remote);
    let found = (0..1000).find_map(|_| {
        thread::sleep(Duration::from_millis(10));
        rig.live().patch_bytes()
    });
    assert_eq!(found, Some(rig.patch(1 << 20).unwrap().len() as u64));
    assert_eq!(rig.status()["compared_bytes"], 20 << 20);
}

#[test]
fn holes_are_told_only_where_that_is_known() {
    let (local, remote) = (TestDevice::sparse(8 * MIB), TestDevice::sparse(8 * MIB));
    local.write(MIB, &[1; 4096]);
    remote.write(MIB, &[1; 4096]);
    remote.write(4 * MIB, &[2; 4096]);
    let rig = Rig::new(Setup::own(Direction::Pull), local, remote);
    let next = |from| rig.live().next_data(Image::Merged, from).unwrap();
    assert_eq!(next(0), Some(ByteRange::new(0, MIB)), "unknown may be data");
    assert_eq!(next(MIB + 100), Some(ByteRange::new(MIB + 100, MIB + 4096)));
    assert_eq!(
        rig.live().next_data(Image::Original, 0).unwrap(),
        Some(ByteRange::new(MIB, MIB + 4096))
    );
    assert_eq!(rig.requests(), []);
    rig.extents().unwrap();
    assert_eq!(next(0), Some(ByteRange::new(MIB, MIB + 4096)));
    assert_eq!(next(MIB + 4096), Some(ByteRange::new(4 * MIB, 4 * MIB + 4096)));
    assert_eq!(next(4 * MIB + 4096), None);
    assert_eq!(rig.local.size(), 8 * MIB);
}

#[test]
fn a_hole_goes_on_behind_what_is_compared() {
    let (local, remote) = (TestDevice::sparse(8 * MIB), TestDevice::sparse(MIB));
    local.write(4 * MIB, &[1; 4096]);
    let setup = Setup { rule: SizeRule::MinSize, ..Setup::own(Direction::Pull) };
    let rig = Rig::new(setup, local, remote);
    rig.extents().unwrap();
    for image in [Image::Merged, Image::Original] {
        let next = |from| rig.live().next_data(image, from).unwrap();
        assert_eq!(next(0), Some(ByteRange::new(4 * MIB, 4 * MIB + 4096)), "{image:?}");
        assert_eq!(next(4 * MIB + 4096), None, "{image:?}");
    }
}

#[test]
fn local_device_is_told_once_of_what_is_compared_and_never_by_who_brings_answers() {
    let size = 40 << 20;
    let local = noise(1, size);
    let mut remote = local.clone();
    // A part where little differs, one where all does.
    remote[3 << 20] ^= 1;
    remote[20 << 20..30 << 20].fill(7);
    for setup in [Setup::own(Direction::Push), Setup::new(Direction::Pull)] {
        let rig = Rig::of_bytes(setup, &local, &remote);
        rig.extents().unwrap();
        let mut announced = rig.local.announced.lock().clone();
        announced.sort();
        assert!(announced.windows(2).all(|two| two[0].end == two[1].start), "{announced:?}");
        let covered = announced.iter().map(ByteRange::len).sum::<u64>();
        assert_eq!(covered, size as u64, "{announced:?}");
        for image in [Image::Merged, Image::Original] {
            rig.read(image, 19 * MIB, 2 * MIB).unwrap();
        }
        rig.patch(MIB as u32).unwrap();
        assert!(!rig.local.holds_up_answers.load(Ordering::SeqCst), "{setup:?}");
    }
}

//! What is fetched for readers who go on where they stopped, and for nobody else.

use std::thread;
use std::time::Duration;

use super::patches::printed;
use super::rig::{Rig, Setup, later, noise};
use crate::diff::{RemoteBlocks, Side};
use crate::error::Kind;
use crate::units::{ByteRange, Direction, KIB, MIB, Priority, SizeRule};
use crate::view::change::Image;
use crate::wire::{Look, Message};

const SIZE: usize = 12 << 20;
const BLOCK: u64 = 4096;

/// Two devices that differ everywhere, and all of that known.
fn compared(setup: Setup) -> (Rig, Vec<u8>, Vec<u8>) {
    let (local, remote) = (noise(1, SIZE), noise(2, SIZE));
    let rig = Rig::of_bytes(setup, &local, &remote);
    rig.extents().unwrap();
    (rig, local, remote)
}

fn remote_blocks(rig: &Rig) -> &std::sync::Arc<RemoteBlocks> {
    &rig.live().0.remote
}

/// The ranges that were asked for, in order.
fn fetched(rig: &Rig) -> Vec<ByteRange> {
    let range = |message: &Message| match *message {
        Message::GetBlock { offset, len } => Some(ByteRange::new(offset, offset + len)),
        _ => None,
    };
    rig.requests().iter().filter_map(range).collect()
}

fn fetched_bytes(rig: &Rig) -> u64 {
    fetched(rig).iter().map(ByteRange::len).sum()
}

fn await_block(rig: &Rig, block: u64) {
    for _ in 0..2000 {
        if remote_blocks(rig).cached(Side::Remote, block).is_some() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("block {block} was not fetched");
}

#[test]
fn who_goes_on_reading_finds_the_next_mebibytes_there() {
    for setup in [Setup::new(Direction::Pull), Setup::own(Direction::Pull)] {
        let (rig, local, remote) = compared(setup);
        let expected = printed(setup, &local, &remote);
        for at in (0..3 * MIB).step_by(128 << 10) {
            rig.patch_at(at, 128 << 10).unwrap();
            rig.read(Image::Merged, 6 * MIB + at, 128 * KIB).unwrap();
        }
        // Half of the window may wait. Each of them: the server's threads overtake one another.
        for mib in [3, 9] {
            (mib * MIB / BLOCK..=(mib + 1) * MIB / BLOCK)
                .for_each(|block| await_block(&rig, block));
        }
        let closed = rig.remote.gate.write();
        let (ahead, len) = (3 << 20, 1 << 20);
        let patch = rig.patch_at(ahead as u64, len as u32).unwrap();
        assert!(patch == expected[ahead..][..len]);
        let merged = rig.read(Image::Merged, 9 * MIB, MIB).unwrap();
        assert!(merged == remote[9 << 20..][..1 << 20]);
        drop(closed);
    }
}

#[test]
fn one_read_of_the_patch_fetches_the_blocks_that_it_covers() {
    let (rig, ..) = compared(Setup::own(Direction::Pull));
    for i in 0..10u64 {
        let at = i * 7 % 10 * MIB + i * 1000 + 100;
        let before = fetched_bytes(&rig);
        rig.patch_at(at, 100).unwrap();
        let bytes = fetched_bytes(&rig) - before;
        assert!(bytes <= 2 * BLOCK, "{bytes} bytes for 100 at {at}");
    }
}

#[test]
fn reading_all_of_the_patch_fetches_every_differing_block_once() {
    let size = 6 << 20;
    let local = noise(5, size);
    let mut remote = local.clone();
    let mut differing = 0;
    for block in (0..size / 4096).filter(|block| block % 7 == 3 || (500..1200).contains(block)) {
        remote[block * 4096 + 100] ^= 1;
        differing += BLOCK;
    }
    for setup in [Setup::new(Direction::Pull), Setup::own(Direction::Pull)] {
        let expected = printed(setup, &local, &remote);
        for len in [8 << 10, 32 << 10, 128 << 10] {
            let rig = Rig::of_bytes(setup, &local, &remote);
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| assert!(rig.patch(len).unwrap() == expected));
                }
            });
            assert_eq!(fetched_bytes(&rig), differing, "{setup:?}, reads of {len}");
            let hash_len = setup.algorithm.len() as u64;
            let hashes = |request: &Message| match request {
                Message::GetHashes { n, .. } | Message::GetTree(Look { n, .. }) => n * hash_len,
                _ => 0,
            };
            let hashes: u64 = rig.requests().iter().map(hashes).sum();
            let bound = (differing + hashes) * 101 / 100;
            // Every request of a block costs some more bytes where blocks are apart.
            let scattered = fetched(&rig).len() as u64 * 80;
            assert!(rig.wire_bytes() <= bound + scattered, "{} of {bound}", rig.wire_bytes());
        }
    }
}

#[test]
fn a_block_that_cannot_be_read_fails_the_reads_of_its_records_and_no_others() {
    let setup = Setup::own(Direction::Pull);
    let (rig, local, remote) = compared(setup);
    let expected = printed(setup, &local, &remote);
    let bad = 1000;
    *rig.remote.unreadable.lock() = ByteRange::new(bad * BLOCK, (bad + 1) * BLOCK);
    let layout = &rig.live().0.layout;
    let records =
        ByteRange::new(layout.records_end(bad, false), layout.records_end(bad + 1, false));
    let mut failed = 0;
    for at in (0..8 << 20).step_by(4096) {
        let range = ByteRange::new(at as u64, at as u64 + 4096);
        let read = rig.patch_at(range.start, 4096);
        if range.intersect(&records).is_empty() {
            assert!(read.unwrap() == expected[at..][..4096], "at {at}");
        } else {
            assert_eq!(read.unwrap_err().kind(), Kind::Read, "at {at}");
            failed += 1;
        }
    }
    assert_eq!(rig.status()["failed_reads"], failed);
    let unreadable = *rig.remote.unreadable.lock();
    let touches = |range: &&ByteRange| !range.intersect(&unreadable).is_empty();
    let tries = fetched(&rig).iter().filter(touches).count() as u64;
    assert!(tries <= failed + 1, "{tries} tries, {failed} reads");
    *rig.remote.unreadable.lock() = ByteRange::new(0, 0);
    assert!(rig.patch(128 << 10).unwrap() == expected);
}

#[test]
fn what_is_read_ahead_is_bounded_and_there_is_room_again_once_it_came() {
    let (rig, ..) = compared(Setup::own(Direction::Pull));
    let remote = remote_blocks(&rig);
    let most = remote.ahead_bytes_max() / BLOCK;
    assert!((1..=2048).contains(&most), "{most}");
    let closed = rig.remote.gate.write();
    let all: Vec<u64> = (0..=most).collect();
    assert_eq!(remote.fetch_ahead(&all) as u64, most);
    assert_eq!(remote.fetch_ahead(&all[most as usize..]), 0, "one more");
    assert_eq!(remote.fetch_ahead(&all[..10]), 10, "they are coming");
    drop(closed);
    await_block(&rig, most - 1);
    assert_eq!(remote.fetch_ahead(&all[most as usize..]), 1);
    for cache_bytes in [0, MIB] {
        let setup = Setup { cache_bytes, ..Setup::own(Direction::Pull) };
        let rig = Rig::of_bytes(setup, &[1; 4096], &[2; 4096]);
        assert!(remote_blocks(&rig).ahead_bytes_max() <= cache_bytes / 8);
    }
}

/// A local device that is longer than the image which is read.
fn longer(remote_bytes: usize) -> (Rig, Vec<u8>) {
    let setup = Setup { rule: SizeRule::Resize, ..Setup::own(Direction::Pull) };
    let remote = noise(2, remote_bytes);
    (Rig::of_bytes(setup, &noise(1, SIZE), &remote), remote)
}

#[test]
fn behind_the_end_of_an_image_nothing_is_looked_at_ahead() {
    let end = 5 * MIB + 1000;
    for step in [128 * KIB, end] {
        let (rig, remote) = longer(end as usize);
        for range in ByteRange::new(0, end).pieces(step) {
            let got = rig.read(Image::Merged, range.start, range.len()).unwrap();
            assert!(got == remote[range.start as usize..range.end as usize]);
        }
        let start = |message: &Message| match message {
            Message::GetHashes { start, .. } | Message::GetTree(Look { start, .. }) => *start,
            Message::GetRuns { runs, .. } => runs.iter().map(|run| run.start).max().unwrap(),
            Message::GetBlock { offset, .. } => *offset,
            _ => 0,
        };
        let last = rig.requests().iter().map(start).max();
        assert!(last < Some(end), "reads of {step}: {last:?} was asked for");
        let known = rig.live().0.resolver.with_map(|map| map.known_below(u64::MAX));
        assert_eq!(known, end.div_ceil(BLOCK), "reads of {step}");
    }
}

#[test]
fn blocks_behind_the_remote_end_take_no_room_from_those_that_come() {
    let (rig, _) = longer(10 * BLOCK as usize + 5);
    rig.extents().unwrap();
    let remote = remote_blocks(&rig);
    let most = remote.ahead_bytes_max() / BLOCK;
    let behind: Vec<u64> = (11..12 + most).collect();
    assert_eq!(remote.fetch_ahead(&behind), behind.len());
    assert_eq!(remote.fetch_ahead(&[10]), 1, "the last that there is something of");
    await_block(&rig, 10);
}

#[test]
fn a_block_that_somebody_waits_for_overtakes_what_is_read_ahead() {
    let (rig, ..) = compared(Setup::own(Direction::Pull));
    let remote = remote_blocks(&rig);
    let closed = rig.remote.gate.write();
    // Far more than is in flight at once.
    let ahead: Vec<u64> = (0..1500).collect();
    assert_eq!(remote.fetch_ahead(&ahead), ahead.len());
    let wanted = ByteRange::new(1499 * BLOCK, 1500 * BLOCK);
    let got = later(|done| remote.read(wanted, Priority::Interactive, done));
    drop(closed);
    got.recv().unwrap().unwrap();
    await_block(&rig, 1495);
    expect_overtaking(&rig, wanted);
}

/// Of the first 1500 blocks `wanted` was not among the last, and all of them were fetched once.
fn expect_overtaking(rig: &Rig, wanted: ByteRange) {
    let fetched = fetched(rig);
    let turn = fetched.iter().position(|range| !range.intersect(&wanted).is_empty()).unwrap();
    assert!(turn < fetched.len() / 2, "{turn} of {}", fetched.len());
    let bytes: u64 = fetched.iter().map(ByteRange::len).sum();
    assert_eq!(bytes, 1500 * BLOCK);
}

#[test]
fn who_comes_just_before_a_block_is_asked_for_need_not_wait_behind_the_others() {
    let (rig, ..) = compared(Setup::own(Direction::Pull));
    let remote = remote_blocks(&rig);
    let closed = rig.remote.gate.write();
    let ahead: Vec<u64> = (0..1492).collect();
    assert_eq!(remote.fetch_ahead(&ahead), ahead.len());
    let (units, taken) = remote.note_ahead(&(1492..1500).collect::<Vec<_>>());
    assert_eq!((units.len(), taken), (1, 8));
    let wanted = ByteRange::new(1499 * BLOCK, 1500 * BLOCK);
    let got = later(|done| remote.read(wanted, Priority::Interactive, done));
    units.into_iter().for_each(|unit| remote.fetch_noted(unit));
    drop(closed);
    got.recv().unwrap().unwrap();
    await_block(&rig, 1491);
    expect_overtaking(&rig, wanted);
}

#[test]
fn what_is_read_ahead_and_fails_fails_only_those_who_want_what_cannot_be_read() {
    let (rig, _, expected) = compared(Setup::own(Direction::Pull));
    let remote = remote_blocks(&rig);
    *rig.remote.unreadable.lock() = ByteRange::new(5 * BLOCK, 6 * BLOCK);
    let closed = rig.remote.gate.write();
    let unit: Vec<u64> = (0..8).collect();
    assert_eq!(remote.fetch_ahead(&unit), unit.len());
    let readers: Vec<_> = (2..7)
        .map(|block| ByteRange::new(block * BLOCK, (block + 1) * BLOCK))
        .map(|range| (range, later(|done| remote.read(range, Priority::Interactive, done))))
        .collect();
    drop(closed);
    for (range, reader) in readers {
        match reader.recv().unwrap() {
            Ok(bytes) => assert!(bytes == expected[range.start as usize..][..BLOCK as usize]),
            Err(err) => assert_eq!((range.start / BLOCK, err.kind()), (5, Kind::Read)),
        }
    }
    // Nothing of it is under way any more.
    *rig.remote.unreadable.lock() = ByteRange::new(0, 0);
    let most = remote.ahead_bytes_max() / BLOCK;
    let others: Vec<u64> = (8..8 + most).collect();
    assert_eq!(remote.fetch_ahead(&others) as u64, most);
}

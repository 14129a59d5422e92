//! What is held for readers who wait, counted: no more than there is room for, whatever the blocks.

use crossbeam_channel::Receiver;

use super::super::UNDER_WAY_BYTES_MAX;
use super::rig::{Rig, Setup, TestDevice, later, noise};
use crate::diff::COMPARING_BYTES_MAX;
use crate::diff::testing::held_bytes;
use crate::digest::Algorithm;
use crate::error::Result;
use crate::units::{BLOCK_BYTES_MAX, ByteRange, Direction, KIB, MIB};
use crate::view::change::{Change, Image};
use crate::wire::Message;

type Answer = (u64, Receiver<Result<Vec<u8>>>);

/// What a reader gets at most in one answer from us.
const READ_BYTES: u64 = MIB;

fn small_blocks(block_bytes: u64) -> Setup {
    Setup { block_bytes, algorithm: Algorithm::Sha512, ..Setup::new(Direction::Pull) }
}

/// A reader for each part of `merged`, none of whom has to be answered at once. They go backwards:
/// nothing is read ahead for them.
fn read_all(rig: &Rig, wanted: ByteRange) -> Vec<Answer> {
    let range = |at| ByteRange::new(at, at + READ_BYTES).clip(wanted.end);
    let read = |at| later(|done| rig.live().read(Image::Merged, range(at), done));
    let starts = wanted.pieces(READ_BYTES).map(|part| part.start).collect::<Vec<_>>();
    starts.into_iter().rev().map(|at| (at, read(at))).collect()
}

fn expect(answers: Vec<Answer>, image: &[u8]) {
    for (at, answer) in answers {
        let got = answer.recv_timeout(super::rig::PATIENCE).unwrap().unwrap();
        assert!(got == image[at as usize..][..got.len()], "at {at}");
    }
}

#[test]
fn hashes_under_way_have_a_limit() {
    let remote = noise(2, 6 << 20);
    let rig = Rig::of_bytes(small_blocks(64), &noise(1, 6 << 20), &remote);
    let live = &rig.live().0;
    let closed = rig.remote.gate.write();
    let answers = read_all(&rig, ByteRange::new(0, 6 * MIB));
    let held = live.resolver.comparing_bytes();
    assert!((COMPARING_BYTES_MAX / 2..=COMPARING_BYTES_MAX).contains(&held), "{held}");
    let hashes = |request: &Message| match request {
        Message::GetHashes { n, .. } => n * 64,
        _ => 0,
    };
    let asked: u64 = rig.requests().iter().map(hashes).sum();
    assert!(asked <= COMPARING_BYTES_MAX / 4, "{asked} bytes of hashes");
    drop(closed);
    expect(answers, &remote);
}

#[test]
fn blocks_under_way_have_a_limit_with_all_that_is_held_for_them() {
    // All of it differs, and every second block does.
    for stride in [64, 128] {
        let local = noise(1, 4 << 20);
        let mut remote = local.clone();
        remote.iter_mut().step_by(stride).for_each(|byte| *byte ^= 1);
        let rig = Rig::of_bytes(small_blocks(64), &local, &remote);
        rig.extents().unwrap();
        let live = &rig.live().0;
        let closed = rig.remote.gate.write();
        let before = held_bytes();
        let answers = read_all(&rig, ByteRange::new(0, 4 * MIB));
        let used = live.fetching.used_bytes();
        assert!(used > 0 && used <= UNDER_WAY_BYTES_MAX, "{used}");
        let held = held_bytes() - before;
        assert!(held <= used as i64, "{held} bytes, {used} counted");
        drop(closed);
        expect(answers, &remote);
    }
}

#[test]
fn what_a_block_on_its_way_counts_for_is_what_is_held_for_it() {
    for block_bytes in [1, 16, 64, 4096] {
        let len = 64 * KIB;
        let (local, remote) = (noise(1, len as usize), noise(2, len as usize));
        let rig = Rig::of_bytes(small_blocks(block_bytes), &local, &remote);
        // More of them than there are prints for, unless they are large.
        rig.extents().unwrap();
        let blocks = &rig.live().0.remote;
        let closed = rig.remote.gate.write();
        let before = held_bytes();
        let range = ByteRange::new(0, len);
        let answer = later(|done| blocks.read(range, crate::units::Priority::Interactive, done));
        let held = u64::try_from(held_bytes() - before).unwrap();
        // The bytes and their hashes are still to come. The reader is counted by whoever reads.
        let to_come = len + len / block_bytes * 64;
        let counted = blocks.held_bytes(range);
        assert!(held + to_come <= counted + KIB, "{held} and {to_come} bytes, {counted} counted");
        drop(closed);
        expect(vec![(0, answer)], &remote);
    }
}

#[test]
fn readers_who_wait_hold_next_to_nothing() {
    let size = 9 * MIB;
    let local = TestDevice::sparse(size);
    let remote = TestDevice::sparse(size);
    // Every second block of 64 bytes.
    let pattern: Vec<u8> = (0..size).map(|at| u8::from(at % 128 == 0)).collect();
    remote.write(0, &pattern);
    let rig = Rig::new(small_blocks(64), local, remote);
    rig.extents().unwrap();
    let closed = rig.remote.gate.write();
    let first = read_all(&rig, ByteRange::new(0, 2 * MIB));
    let before = held_bytes();
    let answers = read_all(&rig, ByteRange::new(3 * MIB, size));
    let held = held_bytes() - before;
    assert!(held <= 6 * 2048, "{held} bytes for 6 who wait");
    drop(closed);
    expect(first, &pattern);
    expect(answers, &pattern);
}

#[test]
fn large_blocks_that_the_patch_is_made_of_have_a_limit_too() {
    // Two do not fit; one that is larger than all there is room for comes alone.
    for block_bytes in [10 * MIB, BLOCK_BYTES_MAX] {
        let blocks = 3;
        let local = TestDevice::sparse(blocks * block_bytes);
        (0..blocks).for_each(|block| local.write(block * block_bytes, &[1; 4096]));
        let setup = Setup { block_bytes, ..Setup::own(Direction::Push) };
        let rig = Rig::new(setup, local, TestDevice::sparse(blocks * block_bytes));
        rig.extents().unwrap();
        let live = &rig.live().0;
        let closed = rig.local.gate.write();
        let len = 8192;
        let read = |block| {
            let at = live.layout.records_end(block, false);
            later(|done| rig.live().read_patch(at, len, done))
        };
        let answers: Vec<_> = (0..blocks).map(read).collect();
        let used = live.encoding.used_bytes();
        assert_eq!(used, block_bytes + u64::from(len), "one of {block_bytes} bytes at a time");
        drop(closed);
        for answer in answers {
            let records = answer.recv_timeout(super::rig::PATIENCE).unwrap().unwrap();
            assert!(records.ends_with(&[0; 4000]) && records.contains(&1));
        }
    }
}

#[test]
fn readers_of_the_patch_who_wait_for_a_scan_take_no_room_from_others() {
    for direction in [Direction::Push, Direction::Pull] {
        let (local, remote) = (noise(1, 2 << 20), noise(2, 2 << 20));
        let rig = Rig::of_bytes(Setup::own(direction), &local, &remote);
        let live = &rig.live().0;
        let closed = rig.remote.gate.write();
        let answer = later(|done| rig.live().read_patch(MIB, 1 << 20, done));
        let used = live.encoding.used_bytes() + live.fetching.used_bytes();
        assert_eq!(used, 0, "{direction:?}");
        drop(closed);
        answer.recv_timeout(super::rig::PATIENCE).unwrap().unwrap();
    }
}

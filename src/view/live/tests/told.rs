//! What the status tells: of errors, and of how far the comparison is.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use super::rig::{PATIENCE, Rig, Setup, TestDevice, later, noise, wait};
use crate::error::Kind;
use crate::progress::Recording;
use crate::units::{ByteRange, Direction, GIB, KIB, MIB, SizeRule};
use crate::view::change::{Change, Image};
use crate::view::status::ScanState;

fn await_status(rig: &Rig, field: &str, value: &str) {
    for _ in 0..1000 {
        if rig.status()[field] == value {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("expected {field} {value}, found {}", rig.status());
}

#[test]
fn why_the_link_is_down_is_told_whatever_failed_before_and_until_something_fails_later() {
    let (local, remote) = (noise(1, 1 << 20), noise(2, 1 << 20));
    let rig = Rig::of_bytes(Setup::own(Direction::Pull), &local, &remote);
    *rig.remote.unreadable.lock() = ByteRange::new(0, 4096);
    let before = rig.read(Image::Merged, 0, 4096).unwrap_err().full_message();
    assert_eq!(rig.status()["last_error"], before);
    rig.server.close();
    await_status(&rig, "link", "down");
    let end = rig.engine.peer().last_error().unwrap().full_message();
    assert_ne!(end, before);
    assert_eq!(rig.status()["last_error"], end);
    rig.local.failing.store(true, Ordering::SeqCst);
    let later = rig.read(Image::Original, 0, 4096).unwrap_err().full_message();
    assert_ne!(later, end);
    assert_eq!(rig.status()["last_error"], later);
}

#[test]
fn a_source_that_changed_is_told_of_whatever_fails_later() {
    let (local, remote) = (noise(1, 1 << 20), noise(2, 1 << 20));
    let rig =
        Rig::of_bytes(Setup { cache_bytes: 0, ..Setup::new(Direction::Pull) }, &local, &remote);
    rig.read(Image::Merged, 0, 4096).unwrap();
    rig.remote.write(0, b"moved");
    assert_eq!(rig.read(Image::Merged, 0, 4096).unwrap_err().kind(), Kind::Transmission);
    *rig.remote.unreadable.lock() = ByteRange::new(4096, 8192);
    let err = rig.read(Image::Merged, 4096, 4096).unwrap_err();
    assert_eq!(err.kind(), Kind::Gone);
    let status = rig.status();
    assert_eq!(status["last_error"], err.full_message(), "the last one");
    assert_eq!(status["source_changed"], true);
    assert_eq!(status["failed_reads"], 2);
}

#[test]
fn a_link_that_dies_is_told_of_before_anybody_reads() {
    let rig = Rig::of_bytes(Setup::own(Direction::Pull), &[1; 4096], &[2; 4096]);
    assert_eq!(rig.status()["last_error"], serde_json::Value::Null);
    rig.server.close();
    await_status(&rig, "link", "down");
    let status = rig.status();
    assert!(status["last_error"].is_string(), "{status}");
    assert_eq!(status["failed_reads"], 0);
}

#[test]
fn only_a_link_that_is_lost_is_told_of_as_such() {
    for loses in [true, false] {
        let rig = Rig::of_bytes(Setup::own(Direction::Pull), &[1; 4096], &[2; 4096]);
        let (told, lost) = bounded(2);
        let tell = |told: &Sender<()>| {
            let told = told.clone();
            move || told.send(()).unwrap()
        };
        rig.live().when_link_lost(tell(&told));
        if loses {
            rig.server.close();
            lost.recv_timeout(PATIENCE).unwrap();
            assert!(rig.live().finish().is_err());
            rig.live().when_link_lost(tell(&told));
            lost.try_recv().unwrap();
        } else {
            rig.live().finish().unwrap();
        }
        drop(rig);
        assert!(lost.try_recv().is_err());
    }
}

#[test]
fn a_background_scan_that_fails_is_told_of_and_is_no_failed_read() {
    let content = noise(3, 1 << 20);
    let local = TestDevice::new(&content);
    local.failing.store(true, Ordering::SeqCst);
    let setup = Setup { background: true, ..Setup::own(Direction::Pull) };
    let rig = Rig::new(setup, local, TestDevice::new(&content));
    await_status(&rig, "scan", "failed");
    for _ in 0..1000 {
        if rig.status()["last_error"].is_string() {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let status = rig.status();
    let said = status["last_error"].as_str().unwrap();
    assert!(said.contains("injected fault") && said.contains("os error 5"), "{said}");
    assert_eq!(status["failed_reads"], 0);
}

#[test]
fn a_question_about_holes_that_fails_is_told_of_and_is_no_failed_read() {
    let rig = Rig::of_bytes(Setup::own(Direction::Pull), &[1; 4096], &[2; 4096]);
    rig.local.changed.store(true, Ordering::SeqCst);
    let err = rig.live().next_data(Image::Original, 0).unwrap_err();
    let status = rig.status();
    assert_eq!(status["last_error"], err.full_message());
    assert_eq!(status["failed_reads"], 0);
}

#[test]
fn a_scan_that_failed_is_forgotten_once_another_one_goes_well() {
    let (local, remote) = (TestDevice::sparse(GIB), TestDevice::sparse(GIB));
    let last = ByteRange::new(GIB - 64 * KIB, GIB);
    remote.write(0, &[1; 4096]);
    remote.write(last.start, &noise(4, 64 << 10));
    let rig = Rig::new(Setup::own(Direction::Pull), local, remote);
    *rig.remote.unreadable.lock() = ByteRange::new(0, 4096);
    rig.patch(64 << 10).unwrap_err();
    await_status(&rig, "scan", "failed");
    *rig.remote.unreadable.lock() = ByteRange::new(0, 0);
    // All of the last range is known but where it begins, which takes a scan of that place alone.
    rig.read(Image::Merged, last.start, last.len()).unwrap();
    let found = wait(|done| rig.live().next_extent(last.start, done)).unwrap();
    assert_eq!(found, Some(last));
    await_status(&rig, "scan", "idle");
}

#[test]
fn a_scan_that_goes_on_after_one_that_failed_is_running() {
    let (local, remote) = (noise(10, 1 << 20), noise(11, 1 << 20));
    let rig = Rig::of_bytes(Setup::own(Direction::Pull), &local, &remote);
    *rig.remote.unreadable.lock() = ByteRange::new(0, MIB);
    rig.extents().unwrap_err();
    await_status(&rig, "scan", "failed");
    *rig.remote.unreadable.lock() = ByteRange::new(0, 0);
    let closed = rig.remote.gate.write();
    let extent = later(|done| rig.live().next_extent(0, done));
    assert_eq!(rig.status()["scan"], "running");
    drop(closed);
    assert_eq!(extent.recv().unwrap().unwrap(), Some(ByteRange::new(0, MIB)));
    assert_eq!(rig.status()["scan"], "done");
}

#[test]
fn what_is_compared_is_never_more_than_there_is_to_compare() {
    // Of a smaller source the last block is compared whole.
    for (direction, rule, total, differing) in [
        (Direction::Push, SizeRule::Resize, 100_000, 100_000),
        (Direction::Pull, SizeRule::Resize, 18 * 4096, 70_001),
        (Direction::Push, SizeRule::MinSize, 70_001, 70_001),
        (Direction::Pull, SizeRule::MinSize, 70_001, 70_001),
    ] {
        let setup = Setup { rule, ..Setup::own(direction) };
        let rig = Rig::of_bytes(setup, &noise(6, 100_000), &noise(7, 70_001));
        assert_eq!(rig.live().total_bytes(), total, "{setup:?}");
        // Also what is cut off.
        for image in [Image::Merged, Image::Original] {
            rig.read(image, 0, rig.live().image_bytes(image)).unwrap();
        }
        rig.extents().unwrap();
        let status = rig.status();
        let told = ["total_bytes", "compared_bytes", "differing_bytes"].map(|name| &status[name]);
        assert_eq!(told, [total, total, differing], "{setup:?}");
    }
}

#[test]
fn what_will_be_cut_off_does_not_count_as_compared() {
    let setup = Setup { rule: SizeRule::Resize, ..Setup::own(Direction::Push) };
    let rig = Rig::of_bytes(setup, &noise(6, 64 << 10), &noise(7, 1 << 20));
    rig.read(Image::Original, 512 * KIB, 128 * KIB).unwrap();
    let status = rig.status();
    assert_eq!((&status["total_bytes"], &status["compared_bytes"]), (&65_536.into(), &0.into()));
    rig.read(Image::Original, 0, 4096).unwrap();
    assert_eq!(rig.status()["compared_bytes"], 65_536);
}

#[test]
fn what_is_cut_off_is_no_changed_range() {
    let source = noise(8, 2 * 4096);
    let target = [&source[..], &noise(9, 1 << 20)].concat();
    for direction in [Direction::Push, Direction::Pull] {
        let setup = Setup { rule: SizeRule::Resize, ..Setup::own(direction) };
        let (local, remote) = match direction {
            Direction::Push => (&source, &target),
            Direction::Pull => (&target, &source),
        };
        let rig = Rig::of_bytes(setup, local, remote);
        assert_eq!(rig.extents().unwrap(), []);
        assert_eq!(rig.live().changed_ranges(), Some(0), "{direction:?}");
        assert_eq!(rig.status()["differing_bytes"], 0, "{direction:?}");
    }
}

#[test]
fn progress_is_told_as_the_status_has_it() {
    let (local, mut remote) = (noise(8, 1 << 20), noise(8, 1 << 20));
    remote[4096] ^= 1;
    let rig = Rig::of_bytes(Setup::own(Direction::Pull), &local, &remote);
    let told = Recording::default();
    assert_eq!(rig.live().tell(&told), ScanState::Idle);
    let closed = rig.remote.gate.write();
    let patch = later(|done| rig.live().read_patch(64 * KIB, 10, done));
    assert_eq!(rig.live().tell(&told), ScanState::Running);
    drop(closed);
    patch.recv().unwrap().unwrap();
    assert_eq!(rig.live().tell(&told), ScanState::Done);
    assert_eq!(*told.steps.lock(), [(0, 0), (0, 0), (MIB, 4096)]);
}

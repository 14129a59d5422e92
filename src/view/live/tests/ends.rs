//! What becomes of work under way when the mount ends.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::rig::{PAGE, PATIENCE, Rig, Setup, TestDevice, later, noise};
use crate::digest::Algorithm;
use crate::error::{Error, Kind};
use crate::units::{Direction, GIB};
use crate::view::change::Change;

#[test]
fn a_checksum_under_way_ends_with_the_session_however_that_ends() {
    let ends: [fn(&mut Rig); 3] = [
        |rig| drop(rig.live.take()),
        |rig| assert!(rig.live().finish().is_ok()),
        |rig| assert!(rig.live().give_up(Error::new(Kind::Connection, "enough")).is_err()),
    ];
    for (way, end) in ends.into_iter().enumerate() {
        let content = noise(1, 1 << 20);
        let setup = Setup { checksum: Some(Algorithm::Md5), ..Setup::own(Direction::Push) };
        let mut rig = Rig::of_bytes(setup, &content, &content);
        rig.extents().unwrap();
        let local = Arc::clone(&rig.local);
        let closed = local.gate.write();
        let patch = later(|done| rig.live().read_patch(0, 4096, done));
        end(&mut rig);
        drop(closed);
        let err = patch.recv_timeout(PATIENCE).unwrap().unwrap_err();
        assert_eq!(err.kind(), Kind::Gone, "way {way}");
        assert!(err.to_string().contains("at its end"), "way {way}: {err}");
    }
}

#[test]
fn a_background_scan_goes_no_further_once_the_change_is_gone() {
    let (local, remote) = (TestDevice::sparse(GIB), TestDevice::sparse(GIB));
    // Somewhere to wait.
    local.write(0, &[1; PAGE as usize]);
    remote.write(0, &[1; PAGE as usize]);
    let closed = remote.gate.write();
    let setup = Setup { background: true, ..Setup::own(Direction::Pull) };
    let mut rig = Rig::new(setup, local, Arc::clone(&remote));
    let resolver = Arc::clone(&rig.live().0.resolver);
    assert_eq!(rig.status()["scan"], "running");
    let live = Arc::downgrade(&rig.live().0);
    drop(rig.live.take());
    assert!(live.strong_count() > 0, "it waits for the first block");
    drop(closed);
    for _ in 0..1000 {
        if live.strong_count() == 0 {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(live.strong_count(), 0, "it has ended");
    assert!(resolver.frontier(u64::MAX) > 0, "what was under way came");
    let known = resolver.with_map(|map| map.known_below(u64::MAX));
    assert!(known < GIB / 4096 / 2, "{known} blocks compared");
}

#[test]
fn a_session_that_is_given_up_ends_for_the_reason_given() {
    let rig = Rig::of_bytes(Setup::own(Direction::Pull), &[1; 4096], &[2; 4096]);
    let err = rig.live().give_up(Error::new(Kind::Open, "the mount went wrong")).unwrap_err();
    assert_eq!((err.kind(), err.to_string()), (Kind::Open, "the mount went wrong".into()));
    let status = rig.status();
    assert_eq!((&status["link"], &status["last_error"]), (&"down".into(), &err.to_string().into()));
}

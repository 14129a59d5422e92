//! Applying with care: checked first, undoable, verified, and ended at any moment.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::images::{Random, changed, random_bytes};
use crate::support::loop_device::LoopDevice;
use crate::support::requirements::{loop_devices, require};
use crate::support::run::binary;
use crate::support::{Workdir, bdsync, patch_file};

/// How often an apply is killed.
const KILLS: u64 = 200;

#[test]
fn a_cut_patch_changes_nothing_when_it_can_be_read_twice() {
    let old = random_bytes(1, 200_000);
    let new = changed(&old, 2, 20);
    let work = Workdir::with_pair(&new, &old);
    let patch = work.patch(&["-csha256"]);
    for len in [patch.len() - 1, patch.len() - 40, patch.len() / 2, 30, 5] {
        let cut = work.write("cut", &patch[..len]);
        bdsync(["-p"]).in_folder(work.folder()).stdin_file(&cut).run().expect(2);
        for option in ["--spool", "--undo=undo", "--verify"] {
            work.apply(&[option], &patch[..len]).expect(2);
        }
        assert!(work.read("remote.img") == old, "{len} bytes of the patch");
        assert!(!work.path("undo").exists());
    }
    work.apply(&["--spool=."], &patch).expect(0);
    assert!(work.read("remote.img") == new);
    assert_eq!(fs::read_dir(work.folder()).unwrap().count(), 3, "the copy is gone");
    work.apply(&["--spool=missing"], &patch).expect(9).says("missing");
}

#[test]
fn undo_takes_a_patch_back_with_its_resize() {
    for (seed, old_len, new_len) in [(1, 300_000, 300_000), (2, 300_000, 1000), (3, 10, 100_000)] {
        let old = random_bytes(seed, old_len);
        let mut new = changed(&old, seed, 30);
        new.resize(new_len, 7);
        let work = Workdir::with_pair(&new, &old);
        let patch = work.patch(&["-d"]);
        work.apply(&["-d", "--undo=undo"], &patch).expect(0);
        assert!(work.read("remote.img") == new);
        work.apply(&["-d", "--undo=undo"], &patch).expect(1).says("must not exist");
        let undo = work.path("undo");
        // Neither the device nor --diffsize has to be named.
        bdsync(["--patch"]).in_folder(work.folder()).stdin_file(&undo).run().expect(0);
        assert!(work.read("remote.img") == old);
        assert_eq!(fs::metadata(&undo).unwrap().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_damaged_undo_patch_is_refused() {
    let old = random_bytes(1, 50_000);
    let new = changed(&old, 2, 5);
    let work = Workdir::with_pair(&new, &old);
    work.apply(&["--undo=undo"], &work.patch(&[])).expect(0);
    let undo = work.read("undo");
    let mut random = Random::new(3);
    for _ in 0..20 {
        let mut damaged = undo.clone();
        damaged[random.below(undo.len() as u64) as usize] ^= 1 << random.below(8);
        let damaged = work.write("damaged", &damaged);
        bdsync(["--patch"]).in_folder(work.folder()).stdin_file(&damaged).run().expect(2);
        assert!(work.read("remote.img") == new);
    }
}

#[test]
fn verify_and_sparse_give_the_same_content() {
    let old = random_bytes(1, 3_000_001);
    let mut new = changed(&old, 2, 50);
    new[500_000..2_000_000].fill(0);
    let work = Workdir::with_pair(&new, &old);
    let patch = work.patch(&["-csha1"]);
    work.apply(&["--sparse", "--verify", "-v"], &patch).expect(0).says("reads back");
    assert!(work.read("remote.img") == new);
    let blocks = fs::metadata(work.path("remote.img")).unwrap().blocks();
    if blocks * 512 > 2_000_000 {
        eprintln!("skipping: the file system of the test's folder makes no holes");
    }
}

#[test]
fn an_interrupted_apply_ends_at_a_record_and_goes_on_later() {
    let old = vec![0; 100_000];
    let new = random_bytes(1, 100_000);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let work = Workdir::with_pair(&new, &old);
        let patch = work.patch(&[]);
        let mut child = Command::new(binary())
            .arg("--patch")
            .current_dir(work.folder())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&patch[..50_000]).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(128 + signal as i32), "{text}");
        assert!(text.contains(signal.as_str()), "{text}");
        drop(stdin);
        work.apply(&[], &patch).expect(0);
        assert!(work.read("remote.img") == new);
    }
}

#[test]
fn a_sealed_patch_is_for_one_state_of_its_target_only() {
    let old = random_bytes(1, 1_000_000);
    let new = changed(&old, 2, 40);
    for (options, target) in
        [(&["-f", "--seal"][..], "remote.img"), (&["-fr", "--seal"], "local.img")]
    {
        let (local, remote) = if target == "remote.img" { (&new, &old) } else { (&old, &new) };
        let work = Workdir::with_pair(local, remote);
        let sealed = work.patch(options);
        let plain = work.patch(&options[..1]);
        assert!(sealed.starts_with(&plain), "the seal comes behind everything");
        assert!(sealed.len() - plain.len() < 4096);
        let patch = work.write("patch", &sealed);
        let apply = |options: &[&str]| {
            let call = bdsync(["-p"].iter().chain(options)).in_folder(work.folder());
            call.stdin_file(&patch).run()
        };
        let first = patch_file::parse(&plain).records[0].0 as usize;
        let mut other = old.clone();
        other[first] ^= 0x80;
        work.write(target, &other);
        apply(&[]).expect(14).says("not in the state").says("--force");
        assert!(work.read(target) == other);
        apply(&["--force"]).expect(0);
        assert!(work.read(target) == new);
        apply(&[]).expect(0).says("already");
        work.write(target, &old);
        apply(&["--undo=undo"]).expect(0);
        assert!(work.read(target) == new);
        // As an apply leaves it that was killed.
        work.write(target, &[&new[..500_000], &old[500_000..]].concat());
        apply(&[]).expect(0).says("cut short");
        assert!(work.read(target) == new);
        for at in (0..sealed.len()).step_by(sealed.len() / 50) {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            work.write("patch", &damaged);
            work.write(target, &old);
            apply(&[]).expect(2);
            assert!(work.read(target) == old, "byte {at}");
        }
    }
}

#[test]
fn a_mounted_or_held_device_is_named_with_its_user() {
    require!(loop_devices());
    let work = Workdir::new();
    File::create(work.path("image")).unwrap().set_len(16 << 20).unwrap();
    let device = LoopDevice::attach(&work.path("image"));
    let made = Command::new("mkfs.ext4").arg("-q").arg(device.path()).status();
    let point = work.path("point");
    fs::create_dir(&point).unwrap();
    let mounted = made.is_ok_and(|status| status.success())
        && Command::new("mount").arg(device.path()).arg(&point).status().is_ok_and(|s| s.success());
    if !mounted {
        eprintln!("skipping: mkfs.ext4 or mount does not work here");
        return;
    }
    let patch = patch_file::build(16 << 20, device.name(), &[(0, b"x")], &[0]);
    let refused = bdsync(["--patch"]).stdin(&patch).run();
    let unmounted = Command::new("umount").arg(&point).status().unwrap();
    refused.expect(12).says("is mounted on").says("point").says("--force");
    assert!(unmounted.success());
    bdsync(["--patch", "--force"]).stdin(&patch).run().expect(0);
}

/// Small scattered records take a moment to write, so that kills come at all stages of it.
#[test]
fn killed_at_any_moment_it_can_be_undone_and_redone() {
    let old = random_bytes(1, 1_000_000);
    let data = [0x55; 16];
    let records: Vec<(u64, &[u8])> = (0..20_000).map(|i| (i * 50, &data[..])).collect();
    let work = Workdir::new();
    let patch = patch_file::build(old.len() as u64, "target", &records, &[0]);
    let patch = work.write("patch", &patch);
    let mut new = old.clone();
    for i in 0..20_000 {
        new[i * 50..][..16].fill(0x55);
    }
    let apply = |options: &[&str], patch: &str| {
        let input = File::open(work.path(patch)).unwrap();
        let mut command = Command::new(binary());
        command.args(options).current_dir(work.folder()).stdin(input).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    work.write("target", &old);
    let started = Instant::now();
    assert!(apply(&["-p", "--undo=undo"], "patch").wait().unwrap().success());
    let whole = started.elapsed();
    assert!(patch.exists() && work.read("target") == new);
    let mut random = Random::new(2);
    let (mut untouched, mut torn, mut done) = (0, 0, 0);
    for _ in 0..KILLS {
        fs::remove_file(work.path("undo")).ok();
        work.write("target", &old);
        let mut child = apply(&["-p", "--undo=undo"], "patch");
        std::thread::sleep(whole.mul_f64(random.below(1100) as f64 / 1000.0));
        child.kill().unwrap();
        child.wait().unwrap();
        let left = work.read("target");
        if left == old {
            untouched += 1;
        } else if left == new {
            done += 1;
        } else {
            torn += 1;
        }
        if work.path("undo").exists() {
            assert!(apply(&["-p"], "undo").wait().unwrap().success());
        }
        assert!(work.read("target") == old, "undone");
        work.write("target", &left);
        assert!(apply(&["-p"], "patch").wait().unwrap().success());
        assert!(work.read("target") == new, "redone");
    }
    eprintln!("killed: {untouched} before the first write, {torn} in between, {done} behind");
    assert_eq!(untouched + torn + done, KILLS);
}

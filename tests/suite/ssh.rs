//! A real ssh to a real sshd, and real file systems.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::images::random_bytes;
use crate::support::requirements::{find_program, program, require, sshd};
use crate::support::run::binary;
use crate::support::sshd::Sshd;
use crate::support::{Workdir, bdsync};

/// Size of the file systems, in bytes.
const IMAGE_BYTES: u64 = 64 << 20;

/// An ext4 image with the files of `folder`.
fn make_ext4(image: &Path, folder: &Path) {
    let status = Command::new(find_program("mkfs.ext4").unwrap())
        .args(["-q", "-F", "-d"])
        .arg(folder)
        .arg(image)
        .arg(format!("{}k", IMAGE_BYTES / 1024))
        .status();
    assert!(status.unwrap().success());
}

/// Two file systems that share most of their files.
pub fn two_file_systems() -> Workdir {
    let work = Workdir::new();
    for name in ["old", "new"] {
        fs::create_dir_all(work.path(name).join("some/folder")).unwrap();
        for number in 0..40 {
            let file = work.path(name).join(format!("some/folder/file-{number}"));
            fs::write(file, random_bytes(number, 100_000)).unwrap();
        }
    }
    fs::write(work.path("new").join("added"), random_bytes(100, 3_000_000)).unwrap();
    fs::write(work.path("new").join("some/folder/file-7"), random_bytes(101, 50_000)).unwrap();
    make_ext4(&work.path("local.img"), &work.path("new"));
    make_ext4(&work.path("remote.img"), &work.path("old"));
    work
}

fn assert_clean(image: &Path) {
    let out = Command::new(find_program("e2fsck").unwrap()).arg("-fn").arg(image).output().unwrap();
    assert!(out.status.success(), "e2fsck: {}", String::from_utf8_lossy(&out.stdout));
}

#[test]
fn a_patch_made_over_ssh_makes_one_ext4_image_equal_to_another() {
    require!(sshd(), program("mkfs.ext4"), program("e2fsck"));
    let work = two_file_systems();
    let host = Sshd::start();
    let server = format!("{} {} --server", host.ssh_command(), binary());
    let local = work.path("local.img");
    let remote = work.path("remote.img");
    for (options, target, source) in
        [(&["--checksum=sha256"][..], &remote, &local), (&["-r", "--twopass"], &local, &remote)]
    {
        // Full paths: the far side starts in the home folder.
        let operands = [server.as_str(), local.to_str().unwrap(), remote.to_str().unwrap()];
        let out = bdsync(options.iter().chain(&operands)).run().expect(0);
        assert!(!out.stdout.is_empty() && out.stdout.len() < IMAGE_BYTES as usize / 2);
        let before = fs::read(target).unwrap();
        bdsync(["--patch"]).stdin(&out.stdout).run().expect(0);
        assert!(fs::read(target).unwrap() == fs::read(source).unwrap());
        assert_clean(target);
        fs::write(target, before).unwrap();
    }
}

#[test]
fn a_patch_piped_through_ssh_is_applied_at_the_far_side() {
    require!(sshd());
    let work = Workdir::with_pair(&random_bytes(1, 500_000), &random_bytes(2, 500_000));
    let host = Sshd::start();
    let ssh = host.ssh_command();
    let (local, remote) = (work.path("local.img"), work.path("remote.img"));
    let exe = binary();
    let script = format!(
        "'{exe}' '{ssh} {exe} --server' {} {} | {ssh} {exe} --patch",
        local.display(),
        remote.display(),
    );
    let out = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(work.read("local.img") == work.read("remote.img"));
}

#[test]
fn what_ssh_says_when_it_fails_reaches_the_user() {
    require!(sshd());
    let work = Workdir::with_pair(b"a", b"b");
    let host = Sshd::start();
    let missing = format!("{} /nonexistent/bdsync --server", host.ssh_command());
    let out = work.client_through(&[], &missing).run().expect(6);
    out.says("RMTERR: ").says("/nonexistent/bdsync");
    let command = host.ssh_command();
    drop(host);
    let refused = format!("{command} {} --server", binary());
    work.client_through(&[], &refused).run().expect(6).says("RMTERR: ");
}

//! A live session, mounted for real: what everyday tools read, what that costs, and what
//! becomes of it when the other side fails.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;

use crate::ssh::two_file_systems;
use crate::support::images::{changed, random_bytes, sparse_file, text};
use crate::support::mounted::{LoopMount, Mounted, is_mounted, live_mount, take_away, umount};
use crate::support::requirements::{fuse, loop_devices, program, require, sshd};
use crate::support::run::{binary, example, server_command, shell_command};
use crate::support::sshd::Sshd;
use crate::support::wait::{ended, ended_within, wait_until};
use crate::support::{Workdir, bdsync};

const SIZE: usize = 6 << 20;

fn status(mounted: &Mounted) -> Value {
    let text = fs::read_to_string(mounted.path("status.json")).expect("no status.json");
    serde_json::from_str(&text).unwrap_or_else(|err| panic!("{err}: {text:?}"))
}

fn number(status: &Value, name: &str) -> u64 {
    status[name].as_u64().unwrap_or_else(|| panic!("{name} in {status}"))
}

fn wire_bytes(mounted: &Mounted) -> u64 {
    let status = status(mounted);
    number(&status, "sent_bytes") + number(&status, "received_bytes")
}

fn read_at(path: &Path, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    fs::File::open(path)?.read_exact_at(&mut bytes, offset).map(|()| bytes)
}

fn pair(seed: u64) -> (Workdir, Vec<u8>, Vec<u8>) {
    let local = random_bytes(seed, SIZE + 1234);
    let remote = changed(&local, seed + 1, 40);
    (Workdir::with_pair(&local, &remote), local, remote)
}

#[test]
fn what_a_mount_fetches_is_compressed_if_asked_for() {
    require!(fuse());
    let text = text(100_000);
    let received = [&[][..], &["--compress"]].map(|options| {
        let work = Workdir::with_pair(&vec![0; text.len()], &text);
        let options = [&["--remdata"], options].concat();
        let mounted = live_mount(&work, &options, &server_command(&[]));
        assert!(fs::read(mounted.path("merged")).unwrap() == text);
        number(&status(&mounted), "received_bytes")
    });
    assert!(received[0] > text.len() as u64, "{received:?}");
    assert!(received[1] < text.len() as u64 / 3, "{received:?}");
}

/// Each block that differs is a request of its own, of which only so many may wait.
#[test]
fn tiny_blocks_are_read_as_any_others() {
    require!(fuse());
    let local = random_bytes(31, 1 << 20);
    let mut remote = local.clone();
    remote.iter_mut().step_by(8).for_each(|byte| *byte ^= 1);
    let work = Workdir::with_pair(&local, &remote);
    let mut mounted = live_mount(&work, &["--remdata", "--blocksize=4"], &server_command(&[]));
    // In one read, past the cache.
    let merged = mounted.path("merged").display().to_string();
    let words = [&format!("if={merged}"), "of=read", "bs=1M", "iflag=direct"];
    let dd = Command::new("dd").args(words).current_dir(work.folder()).output().unwrap();
    assert!(dd.status.success(), "{}", String::from_utf8_lossy(&dd.stderr));
    assert!(work.read("read") == remote);
    assert!(umount(&mounted.path("")));
    assert!(mounted.ended().success());
}

/// Its size is not known before all is compared.
#[test]
fn the_patch_of_a_mount_is_one_for_every_command() {
    require!(fuse());
    for squashes in [true, false] {
        let (work, local, _) = pair(21);
        let copy = work.write("copy", &work.read("remote.img"));
        let mounted = live_mount(&work, &[], &server_command(&[]));
        let patch = mounted.path("patch");
        assert_eq!(fs::metadata(&patch).unwrap().len(), 0);
        let apply = bdsync([format!("--patch={}", copy.display())]);
        let apply = match squashes {
            true => apply.stdin(&bdsync([Path::new("squash"), &patch]).run().expect(0).stdout),
            false => apply.stdin_file(&patch),
        };
        apply.run().expect(0);
        drop(mounted);
        assert!(fs::read(copy).unwrap() == local);
    }
}

#[test]
fn what_the_remote_image_lost_is_an_error_and_no_zeros() {
    require!(fuse());
    let image = vec![0; SIZE];
    let work = Workdir::with_pair(&image, &image);
    let mounted = live_mount(&work, &["--remdata"], &server_command(&[]));
    fs::File::options().write(true).open(work.path("remote.img")).unwrap().set_len(10).unwrap();
    for name in ["merged", "original"] {
        let read = read_at(&mounted.path(name), SIZE as u64 / 2, 4096);
        assert_eq!(read.is_ok(), name == "original", "{name}: {read:?}");
    }
}

#[test]
fn cp_makes_holes_of_what_has_become_known_to_be_some() {
    require!(fuse());
    let mut remote = vec![0; 64 << 20];
    remote[5 << 20..6 << 20].copy_from_slice(&random_bytes(22, 1 << 20));
    let work = Workdir::with_pair(&[], &remote);
    sparse_file(&work.path("local.img"), 64 << 20, &[]);
    let mounted = live_mount(&work, &["--remdata"], &server_command(&[]));
    fs::read(mounted.path("patch")).unwrap();
    let copy = work.path("copy");
    let mut cp = Command::new("cp");
    cp.arg("--sparse=auto").arg(mounted.path("merged")).arg(&copy);
    assert!(cp.status().unwrap().success());
    let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&copy).unwrap());
    assert!(blocks < (8 << 20) / 512, "{blocks} blocks of 512 bytes");
}

#[test]
fn push_and_pull_show_both_images_and_the_clients_patch() {
    require!(fuse());
    for (seed, options) in [(1, &["--fixedsalt"][..]), (3, &["--fixedsalt", "--remdata"])] {
        let (work, local, remote) = pair(seed);
        let mut mounted = live_mount(&work, options, &server_command(&[]));
        let (source, target) = if seed == 1 { (&local, &remote) } else { (&remote, &local) };
        assert!(fs::read(mounted.path("merged")).unwrap() == *source, "{options:?}");
        assert!(fs::read(mounted.path("original")).unwrap() == *target, "{options:?}");

        // The names in a patch are those of the command line.
        let client = crate::support::bdsync(
            options
                .iter()
                .map(OsString::from)
                .chain([server_command(&[]).into()])
                .chain([work.path("local.img").into(), work.path("remote.img").into()]),
        );
        let patch = client.run().expect(0).stdout;
        let read = fs::read(mounted.path("patch")).unwrap();
        assert!(read == patch, "{options:?}: {} bytes, {} expected", read.len(), patch.len());
        assert_eq!(fs::metadata(mounted.path("patch")).unwrap().len(), patch.len() as u64);
        // Again, now through the page cache, and from the end.
        assert!(fs::read(mounted.path("patch")).unwrap() == patch, "{options:?}");
        let tail = Command::new("tail").args(["-c", "777"]).arg(mounted.path("patch")).output();
        assert!(tail.unwrap().stdout == patch[patch.len() - 777..]);

        mounted.signal(Signal::SIGTERM);
        assert!(mounted.ended().success(), "{}", mounted.said());
        assert!(!is_mounted(&work.path("mnt")));
    }
}

#[test]
fn mounting_and_a_small_read_cost_no_more_for_a_tebibyte() {
    require!(fuse());
    for size in [1_u64 << 20, 1 << 40] {
        let work = Workdir::new();
        let (old, new) = (random_bytes(5, 8192), random_bytes(6, 8192));
        sparse_file(&work.path("local.img"), size, &[(size / 2, &old)]);
        sparse_file(&work.path("remote.img"), size, &[(size / 2, &new)]);
        let mounted = live_mount(&work, &["--remdata"], &server_command(&[]));
        assert!(wire_bytes(&mounted) < 4096, "{}", status(&mounted));
        assert_eq!(number(&status(&mounted), "requests"), 0);
        let merged = mounted.path("merged");
        assert!(read_at(&merged, size / 2, 4096).unwrap() == new[..4096]);
        let after = status(&mounted);
        assert!(number(&after, "compared_bytes") <= 4 << 20, "{after}");
        // One question for hashes, one for the blocks (or one more: the kernel may read ahead).
        assert!(number(&after, "requests") <= 4, "{after}");
        assert!(wire_bytes(&mounted) < 256 << 10, "{after}");
    }
}

#[test]
fn merged_of_a_push_asks_the_remote_side_nothing() {
    require!(fuse());
    let (work, local, _) = pair(7);
    let mounted = live_mount(&work, &[], &server_command(&[]));
    assert!(fs::read(mounted.path("merged")).unwrap() == local);
    assert_eq!(number(&status(&mounted), "requests"), 0);
}

#[test]
fn an_ext4_image_is_looked_into_over_ssh() {
    require!(fuse(), sshd(), loop_devices(), program("mkfs.ext4"), program("fsck.ext4"));
    let work = two_file_systems();
    let host = Sshd::start();
    let server = format!("{} {} --server", host.ssh_command(), binary());
    // The remote image becomes the local one: look at it as it will be.
    let mounted = live_mount(&work, &["--remdata"], &server);
    let fsck = Command::new("fsck.ext4").args(["-f", "-n"]).arg(mounted.path("merged")).output();
    assert!(fsck.unwrap().status.success());
    let look = LoopMount::new(&mounted.path("merged"), work.folder());
    let name = "some/folder/file-7";
    let expected = fs::read(work.path("old").join(name)).unwrap();
    assert!(fs::read(look.path(name)).unwrap() == expected);
    assert!(!look.path("added").exists());
    drop(look);
    let after = status(&mounted);
    assert!(number(&after, "received_bytes") < 16 << 20, "{after}");
}

#[test]
fn a_background_scan_makes_the_patchs_size_known() {
    require!(fuse());
    let (work, ..) = pair(9);
    let expected = work.patch(&[]).len() as u64;
    let mut mounted = live_mount(&work, &["--scan=background"], &server_command(&[]));
    let patch = mounted.path("patch");
    mounted.wait_until("the scan is done", |_| fs::metadata(&patch).unwrap().len() > 0);
    // The names in the two patches are of different lengths: paths, and names in a folder.
    let name_bytes = work.path("remote.img").as_os_str().len() as u64;
    let len = fs::metadata(&patch).unwrap().len();
    assert_eq!(len - name_bytes, expected - "remote.img".len() as u64);
    assert_eq!(status(&mounted)["scan"], "done");
}

#[test]
fn a_resize_shows_the_size_to_come() {
    require!(fuse());
    let local = random_bytes(11, 100_000);
    let remote = random_bytes(12, 70_001);
    for (options, source, target) in [
        (&["--diffsize=resize"][..], &local, &remote),
        (&["--diffsize=resize", "--remdata"], &remote, &local),
    ] {
        let work = Workdir::with_pair(&local, &remote);
        let mounted = live_mount(&work, options, &server_command(&[]));
        assert!(fs::read(mounted.path("merged")).unwrap() == *source, "{options:?}");
        assert!(fs::read(mounted.path("original")).unwrap() == *target, "{options:?}");
    }
}

#[test]
fn a_source_that_changes_is_an_error_and_never_other_bytes() {
    require!(fuse());
    let local = vec![1; SIZE];
    let remote = vec![2; SIZE];
    let work = Workdir::with_pair(&local, &remote);
    let mut mounted = live_mount(&work, &["--remdata"], &server_command(&[]));
    // Everything is compared; nothing is fetched yet.
    let changes = fs::read_to_string(mounted.path("changes")).unwrap();
    assert_eq!(changes.lines().count(), 1);
    let image = fs::OpenOptions::new().write(true).open(work.path("remote.img")).unwrap();
    image.write_all_at(&[3; 4096], 1 << 20).unwrap();
    let err = read_at(&mounted.path("merged"), 1 << 20, 4096).unwrap_err();
    assert_eq!(err.raw_os_error(), Some(Errno::EIO as i32));
    assert_eq!(status(&mounted)["source_changed"], true);
    mounted.wait_until("it says so", |mounted| mounted.said().contains("changed"));
    // Elsewhere it still reads.
    assert!(read_at(&mounted.path("merged"), 4 << 20, 4096).unwrap() == [2; 4096]);
}

#[test]
fn a_local_file_that_changes_is_an_error_and_never_its_new_bytes() {
    require!(fuse());
    let content = random_bytes(21, SIZE);
    for options in [&["--remdata"][..], &[]] {
        let work = Workdir::with_pair(&content, &content);
        let mut mounted = live_mount(&work, options, &server_command(&[]));
        let merged = mounted.path("merged");
        // Everything is compared, and the same.
        assert_eq!(fs::read_to_string(mounted.path("changes")).unwrap(), "");
        assert!(read_at(&merged, 0, 4096).unwrap() == content[..4096]);
        assert_eq!(status(&mounted)["source_changed"], false);
        // Of a push the kernel may read the file itself as long as this one is open.
        let held = fs::File::open(&merged).unwrap();
        let local = work.path("local.img");
        let image = fs::OpenOptions::new().write(true).open(&local).unwrap();
        image.write_all_at(b"ZZZZ", 4 << 20).unwrap();
        assert_eq!(status(&mounted)["source_changed"], true, "{options:?}");
        for name in ["merged", "original"] {
            let err = read_at(&mounted.path(name), 4 << 20, 4096).unwrap_err();
            assert_eq!(err.raw_os_error(), Some(Errno::EIO as i32), "{options:?} {name}");
        }
        drop(held);
        image.set_len(1_000_000).unwrap();
        let err = read_at(&merged, 5 << 20, 4096).unwrap_err();
        assert_eq!(err.raw_os_error(), Some(Errno::EIO as i32), "{options:?}");
        let said = status(&mounted)["last_error"].as_str().unwrap().to_owned();
        assert_eq!(said.matches(local.to_str().unwrap()).count(), 1, "{said}");
        mounted.wait_until("it says so", |mounted| mounted.said().contains("changed"));
    }
}

/// Who has `merged` of a push open reads the file itself, and gets what it holds by then, or less.
#[test]
fn a_local_file_that_changes_ends_a_mount_with_11_though_no_read_has_failed() {
    require!(fuse());
    for (changes, reads) in [(true, true), (true, false), (false, true)] {
        let (work, local, _) = pair(22);
        let mut mounted = live_mount(&work, &[], &server_command(&[]));
        let mut merged = fs::File::open(mounted.path("merged")).unwrap();
        if changes {
            let image = fs::OpenOptions::new().write(true).open(work.path("local.img"));
            image.unwrap().write_all_at(&local[..1], 4 << 20).unwrap();
        }
        if reads {
            // Without passthrough it is an error.
            let _ = merged.read_to_end(&mut vec![]);
        }
        drop(merged);
        mounted.wait_until("it can be unmounted", |_| umount(&work.path("mnt")));
        assert_eq!(mounted.ended().code(), Some(if changes { 11 } else { 0 }));
        let said = mounted.said();
        assert_eq!(said.contains("bdsync: an input was changed"), changes, "{said}");
    }
}

#[test]
fn when_the_remote_side_dies_the_rest_is_an_error() {
    require!(fuse());
    let (work, local, _) = pair(13);
    let script = format!("echo $$ >{}; exec $BDSYNC --server", work.path("pid").display());
    let mut mounted = live_mount(&work, &["--remdata"], &shell_command(&script));
    let known = read_at(&mounted.path("merged"), 0, 4096).unwrap();
    let pid: i32 = work_pid(&work);
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    mounted.wait_until("the link is down", |mounted| status(mounted)["link"] != "up");
    assert!(fs::read(mounted.path("original")).unwrap() == local, "known locally");
    assert!(read_at(&mounted.path("merged"), 0, 4096).unwrap() == known);
    let err = read_at(&mounted.path("merged"), 5 << 20, 4096).unwrap_err();
    assert_eq!(err.raw_os_error(), Some(Errno::EIO as i32));
    assert!(status(&mounted)["last_error"].is_string());
    assert!(umount(&work.path("mnt")));
    assert!(!mounted.ended().success(), "the exit code tells of the death");
}

#[test]
fn a_mount_that_is_to_end_with_its_link_does_so_and_says_why() {
    require!(fuse());
    for is_busy in [false, true] {
        let (work, local, _) = pair(14);
        let script = format!("echo $$ >{}; exec $BDSYNC --server", work.path("pid").display());
        let options = ["--remdata", "--end-with-link"];
        let mut mounted = live_mount(&work, &options, &shell_command(&script));
        let held = is_busy.then(|| fs::File::open(mounted.path("original")).unwrap());
        kill(Pid::from_raw(work_pid(&work)), Signal::SIGKILL).unwrap();
        mounted.wait_until("it is taken away", |_| !is_mounted(&work.path("mnt")));
        if let Some(mut held) = held {
            mounted.wait_until("it tells", |mounted| mounted.said().contains("still in use"));
            let mut bytes = vec![];
            held.read_to_end(&mut bytes).unwrap();
            assert!(bytes == local, "known locally");
        }
        // As a client whose remote command a signal has ended.
        assert_eq!(mounted.ended().code(), Some(8), "{}", mounted.said());
        let said = mounted.said();
        assert!(said.contains("the link to the remote side is lost: the mount ends"), "{said}");
        assert_eq!(said.matches("went away").count(), 1, "{said}");
    }
}

#[test]
fn a_mount_whose_reads_have_failed_does_not_end_as_if_all_were_well() {
    require!(fuse());
    // Who ends it by a signal does not ask.
    for (by_signal, code) in [(false, 6), (true, 0)] {
        let (work, ..) = pair(28);
        let mut mounted = live_mount(&work, &["--remdata"], &server_command(&[]));
        assert!(read_at(&mounted.path("merged"), 0, 4096).is_ok());
        let remote = fs::OpenOptions::new().write(true).open(work.path("remote.img"));
        remote.unwrap().set_len(7).unwrap();
        let err = read_at(&mounted.path("merged"), 5 << 20, 4096).unwrap_err();
        assert_eq!(err.raw_os_error(), Some(Errno::EIO as i32));
        assert!(status(&mounted)["failed_reads"].as_u64() > Some(0), "{}", status(&mounted));
        if by_signal {
            mounted.signal(Signal::SIGTERM);
        } else {
            assert!(umount(&work.path("mnt")));
        }
        assert_eq!(mounted.ended().code(), Some(code), "{}", mounted.said());
        assert_eq!(
            mounted.said().contains("bdsync: reads have failed"),
            !by_signal,
            "{}",
            mounted.said()
        );
    }
}

/// A read that the mount cannot answer yet is nothing that a signal could end well.
#[test]
fn a_second_signal_ends_an_apply_that_waits_for_a_mount() {
    require!(fuse());
    let (work, ..) = pair(24);
    let before = work.read("remote.img");
    let mut mounted = live_mount(&work, &["--hash=sha512", "--blocksize=512"], &crawling_server());
    let patch = std::fs::File::open(mounted.path("patch")).unwrap();
    let mut apply = Command::new(binary())
        .arg(format!("--patch={}", work.path("remote.img").display()))
        .stdin(patch)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    mounted.wait_until("the apply waits", |mounted| status(mounted)["scan"] == "running");
    let mut ended = None;
    wait_until("the apply goes away", || {
        kill(Pid::from_raw(apply.id().cast_signed()), Signal::SIGTERM).unwrap();
        ended = ended_within(Duration::from_millis(200), &mut apply);
        ended.is_some()
    });
    assert_eq!(ended.unwrap().signal(), Some(Signal::SIGTERM as i32), "{ended:?}");
    assert!(work.read("remote.img") == before);
    mounted.signal(Signal::SIGTERM);
    mounted.ended();
}

fn work_pid(work: &Workdir) -> i32 {
    String::from_utf8(work.read("pid")).unwrap().trim().parse().unwrap()
}

#[test]
fn no_remote_command_outlives_the_mount() {
    require!(fuse());
    for signal in [None, Some(Signal::SIGINT), Some(Signal::SIGTERM)] {
        let (work, ..) = pair(15);
        let script = format!("echo $$ >{}; exec $BDSYNC --server", work.path("pid").display());
        let mut mounted = live_mount(&work, &[], &shell_command(&script));
        match signal {
            Some(signal) => mounted.signal(signal),
            None => assert!(umount(&work.path("mnt"))),
        }
        mounted.ended();
        let pid = Pid::from_raw(work_pid(&work));
        assert_eq!(kill(pid, None), Err(Errno::ESRCH), "after {signal:?}");
        assert!(!is_mounted(&work.path("mnt")));
    }
}

/// A second signal ends a mount that is in use, whatever the remote command is about.
#[test]
fn no_stubborn_remote_command_outlives_a_mount_that_is_ended_at_once() {
    require!(fuse());
    let (work, ..) = pair(26);
    let script =
        format!("echo $$ >{}; $BDSYNC --server; exec sleep 30", work.path("pid").display());
    let mut mounted = live_mount(&work, &[], &shell_command(&script));
    let held = fs::File::open(mounted.path("merged")).unwrap();
    mounted.signal(Signal::SIGTERM);
    mounted.wait_until("it is detached", |_| !is_mounted(&work.path("mnt")));
    assert!(!mounted.ended_by_another(Signal::SIGTERM).success());
    drop(held);
    assert_eq!(kill(Pid::from_raw(work_pid(&work)), None), Err(Errno::ESRCH));
}

/// The link is as good as ever.
#[test]
fn a_local_file_that_changed_ends_the_session_in_good_order() {
    require!(fuse());
    let (work, ..) = pair(27);
    let script = format!("$BDSYNC --server; echo $? >{}", work.path("status").display());
    let mut mounted = live_mount(&work, &[], &shell_command(&script));
    fs::OpenOptions::new().write(true).open(work.path("local.img")).unwrap().set_len(7).unwrap();
    assert!(fs::read(mounted.path("original")).is_err());
    assert!(umount(&work.path("mnt")));
    assert_eq!(mounted.ended().code(), Some(11));
    assert_eq!(work.read("status"), b"0\n");
}

/// REMSHCMD over a link so slow that a scan takes for ever.
fn crawling_server() -> String {
    let relay = example("relay");
    assert!(relay.exists(), "{} is built with the tests", relay.display());
    format!("'{}' 300 0.01 {}", relay.display(), server_command(&[]))
}

#[test]
fn others_are_answered_while_a_reader_waits_and_ctrl_c_ends_it() {
    require!(fuse());
    let (work, local, _) = pair(17);
    let mut mounted = live_mount(&work, &["--hash=sha512", "--blocksize=512"], &crawling_server());
    for name in ["patch", "changes"] {
        // Jobs in the background ignore SIGINT, and so would this child.
        let mut cat = Command::new("env")
            .args(["--default-signal", "tail", "-c", "+1"])
            .arg(mounted.path(name))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        mounted.wait_until("the reader waits", |mounted| status(mounted)["scan"] == "running");
        assert!(fs::read(mounted.path("merged")).unwrap() == local);
        assert_eq!(fs::read_dir(work.path("mnt")).unwrap().count(), 6);
        assert!(cat.try_wait().unwrap().is_none(), "{name}: still waiting");
        kill(Pid::from_raw(cat.id().cast_signed()), Signal::SIGINT).unwrap();
        ended(&mut cat);
        let mut rest = Vec::new();
        cat.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
    }
    mounted.signal(Signal::SIGTERM);
    mounted.ended();
    assert!(!is_mounted(&work.path("mnt")));
}

/// As a script's Ctrl-C in a later command does, and the end of the terminal that it runs in.
#[test]
fn a_daemon_keeps_its_remote_side_when_the_terminal_ends_what_started_it() {
    require!(fuse());
    let remote = random_bytes(1, SIZE);
    let work = Workdir::with_pair(&changed(&remote, 2, 40), &remote);
    fs::create_dir(work.path("mnt")).unwrap();
    let script =
        "\"$0\" mount --daemon --remdata \"$1\" local.img remote.img mnt; echo $?; read -r line";
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        let mut shell = Command::new("sh")
            .args(["-c", script, binary(), &server_command(&[])])
            .current_dir(work.folder())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut told).unwrap();
        killpg(Pid::from_raw(shell.id().cast_signed()), signal).unwrap();
        let ended = shell.wait().unwrap();
        let merged = fs::read(work.path("mnt/merged"));
        take_away(&work.path("mnt"));
        assert_eq!(ended.signal(), Some(signal as i32));
        assert_eq!(told, "0\n");
        assert!(merged.unwrap() == remote, "{signal}");
    }
}

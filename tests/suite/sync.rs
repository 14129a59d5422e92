//! `bdsync sync`: both directions, over a real ssh and over a stand-in, with a classic bdsync at
//! the other end, interrupted and gone on with.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::time::Duration;

use bdsync::wire::{FrameReader, Message};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::flock;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::Pid;
use rustix::io::ioctl_fionread;
use serde_json::Value;

use crate::support::images::{changed, random_bytes, sparse_file, text};
use crate::support::loop_device::LoopDevice;
use crate::support::requirements::{has_traced, loop_devices, program, require, root, skip, sshd};
use crate::support::run::{Bdsync, binary, server_command};
use crate::support::sshd::Sshd;
use crate::support::wait::wait_until;
use crate::support::{Workdir, bdsync};

const BYTES: usize = 3_000_000;

/// What a process does that takes the patch of a sync, and writes nothing.
const TAKES: &str = "echo bdsync target: open; cat >/dev/null";

/// `local.img` and an older `remote.img`, and a remote shell that runs things right here.
fn pair() -> Workdir {
    let remote = random_bytes(1, BYTES);
    pair_of(&changed(&remote, 2, 60), &remote)
}

/// The same of images that differ everywhere, half of which is more than is written at once.
fn unlike_pair() -> Workdir {
    pair_of(&random_bytes(2, BYTES), &random_bytes(1, BYTES))
}

/// The same of these contents.
fn pair_of(local: &[u8], remote: &[u8]) -> Workdir {
    let work = Workdir::with_pair(local, remote);
    script(&work, "rsh", "shift; exec sh -c \"$*\"");
    work
}

/// An executable shell script in the folder.
fn script(work: &Workdir, name: &str, text: &str) {
    let path = work.write(name, format!("#!/bin/sh\n{text}\n").as_bytes());
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The remote bdsync `./bdsync`, but for the `cases` of its first argument, in a shell's words.
fn remote_with(work: &Workdir, cases: &str) {
    script(work, "bdsync", &format!("case $1 in {cases} esac; exec {} \"$@\"", binary()));
}

/// A bdsync that behaves as the classic: its server sees a hello without extensions, its patch
/// mode knows no new option. What the server was asked is in the file `requests`.
fn classic(work: &Workdir) {
    // The server takes the place of the shell, so that its end is the end of the connection.
    let text = "case $1 in\n\
        --server)\n\
            exec bash -c 'exec $BDSYNC --server < <(\n\
                len=$(dd bs=1 count=4 2>/dev/null | od -An -tu4)\n\
                dd bs=1 count=$(($len)) >/dev/null 2>&1\n\
                printf \"\\013\\000\\000\\000\\001CLIENT 0.5\"; exec tee requests)';;\n\
        --patch*)\n\
            for word; do case $word in\n\
                --undo*|--sparse|--force|--verify|--spool*) echo unknown $word >&2; exit 1;;\n\
            esac; done\n\
            exec $BDSYNC \"$@\";;\n\
        esac";
    script(work, "classic", &text.replace("$BDSYNC", binary()));
}

/// A sync in the folder through the stand-in for ssh.
fn sync(work: &Workdir, words: &[&str]) -> Bdsync {
    let program = format!("--remote-path={}", binary());
    let fixed = ["sync", "-e", "./rsh", &program];
    bdsync(fixed.iter().chain(words)).in_folder(work.folder())
}

fn sync_classic(work: &Workdir, words: &[&str]) -> Bdsync {
    sync(work, &[&["--remote-path=./classic"], words].concat())
}

#[test]
fn two_files_here_become_equal() {
    let work = pair();
    let out = sync(&work, &["local.img", "remote.img"]).run().expect(0);
    out.says("changing remote.img (2.9 MiB) to be equal to local.img (2.9 MiB): local")
        .says(" differ, ")
        .says(", verified");
    assert!(work.read("remote.img") == work.read("local.img"));
    sync(&work, &["local.img", "remote.img"]).run().expect(0).says("0 bytes in 0 blocks differ");
}

#[test]
fn either_side_may_be_remote_and_stdout_stays_empty() {
    for (source, target) in [("h:local.img", "remote.img"), ("local.img", "u@h:remote.img")] {
        let work = pair();
        let out = sync(&work, &["--checksum=sha256", source, target]).run().expect(0);
        assert!(out.stdout.is_empty());
        out.says("checksum[sha256]: ").says(", verified");
        assert!(work.read("remote.img") == work.read("local.img"), "{source} {target}");
    }
}

#[test]
fn a_real_ssh_carries_any_path() {
    require!(sshd());
    let host = Sshd::start();
    let names = ["it's a \"disk\" of $HOME `id`;&|*?.img", "-n", "\u{fc}ml\u{e4}ut:1\n2"];
    for name in names {
        let work = pair();
        let odd = work.path(name);
        fs::copy(work.path("remote.img"), &odd).unwrap();
        let there = format!("{}:{}", host.host(), odd.display());
        let program = format!("--remote-path={}", binary());
        let words = ["sync", "-e", &host.shell(), &program, "local.img", &there];
        bdsync(words).in_folder(work.folder()).run().expect(0).says("push").says("verified");
        assert!(fs::read(&odd).unwrap() == work.read("local.img"), "{name}");
        let words = ["sync", "-e", &host.shell(), &program, &there, "remote.img"];
        bdsync(words).in_folder(work.folder()).run().expect(0).says("pull").says("verified");
        assert!(work.read("remote.img") == work.read("local.img"), "{name}");
    }
}

#[test]
fn relative_remote_paths_may_begin_with_a_dash_or_be_odd() {
    for name in ["-dash.img", "a b'c", "=x", "a:b"] {
        let work = pair();
        fs::rename(work.path("remote.img"), work.path(name)).unwrap();
        sync(&work, &["local.img", &format!("h:{name}")]).run().expect(0);
        assert!(work.read(name) == work.read("local.img"), "{name}");
    }
}

#[test]
fn an_operand_with_a_slash_before_its_colon_is_here() {
    let work = pair();
    fs::rename(work.path("remote.img"), work.path("a:b")).unwrap();
    sync(&work, &["local.img", "./a:b"]).run().expect(0).says(": local");
    assert!(work.read("a:b") == work.read("local.img"));
}

#[test]
fn a_classic_bdsync_at_the_other_end_will_do() {
    for (source, target) in [("h:local.img", "remote.img"), ("local.img", "h:remote.img")] {
        let work = pair();
        classic(&work);
        let out = sync_classic(&work, &[source, target]).run().expect(0);
        out.says("with the classic bdsync at the other end").says(", verified");
        assert!(work.read("remote.img") == work.read("local.img"), "{source} {target}");
        assert_eq!(asked_again(&work.read("requests")), [0_u64; 0], "{source} {target}");
    }
}

/// Starts of what was asked for after the server was told that it would not be, of which a classic
/// one complains in its log.
fn asked_again(requests: &[u8]) -> Vec<u64> {
    let mut requests = FrameReader::new(requests);
    let (mut released, mut asked, mut again) = (0, 0, vec![]);
    while let Some(message) = requests.read_message().unwrap() {
        let start = match message {
            Message::GetHashes { start, step: 1, n: 0 } => {
                released = released.max(start);
                continue;
            }
            Message::GetHashes { start, n, .. } if n > 0 => start,
            Message::GetBlock { offset, .. } => offset,
            _ => continue,
        };
        asked += 1;
        again.extend((start < released).then_some(start));
    }
    assert!(asked > 0, "a server was asked nothing");
    again
}

#[test]
fn what_the_classic_lacks_is_refused_before_anything_is_written() {
    let work = pair();
    classic(&work);
    let before = work.read("remote.img");
    for option in ["--undo=u", "--sparse"] {
        let out = sync_classic(&work, &[option, "local.img", "h:remote.img"]).run().expect(1);
        out.says("the bdsync on h is the classic one, which has no --");
        assert!(work.read("remote.img") == before);
    }
    // Here it is this program that writes.
    sync_classic(&work, &["--undo=u", "--sparse", "h:local.img", "remote.img"]).run().expect(0);
    assert!(work.read("remote.img") == work.read("local.img"));
    // What it does unasked need not be asked for.
    work.write("remote.img", &before);
    sync_classic(&work, &["--force", "local.img", "h:remote.img"]).run().expect(0);
    assert!(work.read("remote.img") == work.read("local.img"));
}

#[test]
fn what_the_classic_cannot_skip_or_hash_is_told() {
    let work = pair();
    classic(&work);
    let skips = ["--dry-run", "--on-read-error=skip", "local.img", "h:remote.img"];
    sync_classic(&work, &skips).run().expect(0).says("cannot skip what it cannot read");
    // Whoever makes a patch is told as well.
    let client = ["--on-read-error=skip", "./classic --server", "local.img", "remote.img"];
    let out = bdsync(client).in_folder(work.folder()).run();
    out.expect(0).says("cannot skip what it cannot read");
    let out = sync(&work, &skips).run().expect(0);
    assert!(!out.stderr_text().contains("cannot skip"), "{out}");
    let out = sync_classic(&work, &["--hash=blake3", "local.img", "h:remote.img"]).run();
    out.expect(1).says("does not know the hash blake3").says("--hash");
}

/// The numbers of a report that tell what went between the hosts.
fn sent_and_received(work: &Workdir) -> (u64, u64) {
    let report: Value = serde_json::from_slice(&work.read("report")).unwrap();
    let number = |name: &str| report[name].as_u64().unwrap_or(0);
    (number("patch_sent_bytes") + number("wire_sent_bytes"), number("wire_received_bytes"))
}

#[test]
fn what_goes_between_hosts_is_compressed_if_asked_for() {
    let text = text(200_000);
    for (source, target) in [("local.img", "h:remote.img"), ("h:local.img", "remote.img")] {
        let mut most = [0; 2];
        for (compressed, most) in [false, true].into_iter().zip(&mut most) {
            let work = pair_of(&text, &vec![0; text.len()]);
            let compress = if compressed { &["--compress"][..] } else { &[] };
            let words = [compress, &["--report=report", "--undo=u", source, target]].concat();
            let out = sync(&work, &words).run().expect(0);
            assert!(!out.stderr_text().contains("cannot compress"), "{out}");
            out.says(", verified");
            assert!(work.read("remote.img") == text, "{source}");
            let (sent, received) = sent_and_received(&work);
            *most = sent.max(received);
            bdsync(["--patch=remote.img"])
                .in_folder(work.folder())
                .stdin_file(&work.path("u"))
                .run()
                .expect(0);
            assert!(work.read("remote.img").iter().all(|&byte| byte == 0), "{source}");
        }
        assert!(most[0] > text.len() as u64, "{source}: {most:?}");
        assert!(most[1] < text.len() as u64 / 3, "{source}: {most:?}");
    }
}

#[test]
fn a_classic_that_cannot_compress_is_told_of_and_will_do() {
    for (source, target) in [("local.img", "h:remote.img"), ("h:local.img", "remote.img")] {
        let work = pair();
        classic(&work);
        // In another size it is compared again through a second server.
        work.write("remote.img", b"short");
        let words = ["--compress", "-d", source, target];
        let said = sync_classic(&work, &words).run().expect(0).says(", verified").stderr_text();
        assert_eq!(said.matches("the remote bdsync cannot compress").count(), 1, "{said}");
        assert!(work.read("remote.img") == work.read("local.img"));
    }
}

#[test]
fn what_stays_on_one_host_is_not_compressed() {
    let text = text(200_000);
    let work = pair_of(&text, &vec![0; text.len()]);
    let words = ["--compress", "--report=report", "local.img", "remote.img"];
    let out = sync(&work, &words).run().expect(0);
    assert!(!out.stderr_text().contains("compress"), "{out}");
    assert!(work.read("remote.img") == text);
    let (sent, _) = sent_and_received(&work);
    assert!(sent > text.len() as u64, "{sent}");
}

#[test]
fn a_file_that_was_made_for_nothing_does_not_stay() {
    let work = pair();
    for name in ["new.img", "-new.img"] {
        let target = format!("h:{name}");
        let options = ["--create", "--remote-path=/no/bdsync", "local.img", &target];
        sync(&work, &options).run().expect(6);
        assert!(!work.path(name).exists());
    }
    // Nor where it is the process that writes which fails. What runs there, as behind a real ssh,
    // outlives a shell that is ended here.
    script(&work, "rsh", "shift; exec 3<&0; sh -c \"$*\" <&3 & wait $!");
    sync(&work, &["--create", "--undo=no/u", "local.img", "h:new.img"]).run().expect(9);
    wait_until("what was created is gone", || !work.path("new.img").exists());
    sync(&work, &["--create", "local.img", "h:new.img"]).run().expect(0);
    assert!(work.read("new.img") == work.read("local.img"));
    // In memory, and gone with the next boot.
    for target in ["/dev/bdsync-no-such", "h:/dev/bdsync-no-such"] {
        let out = sync(&work, &["--create", "local.img", target]).run().expect(12);
        out.says("there is no such device");
        assert!(fs::metadata("/dev/bdsync-no-such").is_err());
    }
    // A source of no bytes makes a file of none.
    work.write("local.img", b"");
    sync(&work, &["--create", "local.img", "h:empty.img"]).run().expect(0);
    assert_eq!(work.read("empty.img"), b"");
}

#[test]
fn undo_takes_everything_back_on_either_side() {
    for (source, target) in
        [("h:local.img", "remote.img"), ("local.img", "h:remote.img"), ("local.img", "remote.img")]
    {
        let work = pair();
        let before = work.read("remote.img");
        sync(&work, &["--undo=back", source, target]).run().expect(0);
        assert!(work.read("remote.img") == work.read("local.img"));
        let undo = bdsync(["--patch=remote.img"]).in_folder(work.folder());
        undo.stdin_file(&work.path("back")).run().expect(0);
        assert!(work.read("remote.img") == before, "{source} {target}");
    }
}

#[test]
fn a_dry_run_changes_nothing_and_creates_nothing() {
    let work = pair();
    let before = work.read("remote.img");
    for target in ["remote.img", "h:remote.img"] {
        let out = sync(&work, &["--dry-run", "local.img", target]).run().expect(0);
        out.says("would change").says("nothing changed (--dry-run)");
        assert!(work.read("remote.img") == before);
    }
    sync(&work, &["--dry-run", "--create", "local.img", "new"]).run().expect(0);
    assert!(!work.path("new").exists());
}

#[test]
fn a_dry_run_of_a_pull_counts_what_differs_and_fetches_none_of_it() {
    let work = pair();
    let run = |words: &[&str]| {
        let words = [&["--report=report.json", "h:local.img"], words].concat();
        sync(&work, &words).run().expect(0);
        let report: Value = serde_json::from_slice(&work.read("report.json")).unwrap();
        ["differing_blocks", "differing_bytes", "wire_received_bytes"]
            .map(|name| report[name].as_u64().unwrap())
    };
    for target in [&["new", "--create"][..], &["remote.img"]] {
        let [blocks, bytes, counted] = run(&[target, &["--dry-run"]].concat());
        let [found_blocks, found_bytes, fetched] = run(target);
        assert_eq!((blocks, bytes), (found_blocks, found_bytes));
        assert!(bytes > 200_000 && fetched > bytes && counted < bytes / 2, "{counted} of {bytes}");
    }
}

#[test]
fn a_target_that_is_not_there_needs_create() {
    for (source, target) in [("local.img", "new"), ("local.img", "h:new"), ("h:local.img", "new")] {
        let work = pair();
        sync(&work, &[source, target]).run().expect(12).says("--create makes a file of it");
        assert!(!work.path("new").exists());
        sync(&work, &["--create", source, target]).run().expect(0).says(", verified");
        assert!(work.read("new") == work.read("local.img"), "{source} {target}");
        assert_eq!(fs::metadata(work.path("new")).unwrap().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_new_target_is_filled_whatever_diffsize_is_for_the_nights_after() {
    for rule in ["strict", "resize", "minsize"] {
        for target in ["new", "h:new"] {
            let work = pair();
            let rule = format!("--diffsize={rule}");
            let out = sync(&work, &["--create", &rule, "local.img", target]).run();
            out.expect(0).says(", verified");
            assert!(work.read("new") == work.read("local.img"), "{rule} {target}");
        }
    }
}

/// The classic server tells its syslog only: what is left is how it ended.
#[test]
fn a_remote_target_that_is_not_there_needs_create_with_a_silent_classic_too() {
    let work = pair();
    classic(&work);
    script(&work, "silent", "exec ./classic \"$@\" 2>/dev/null");
    let silent = |options: &[&str]| {
        let words = [&["--remote-path=./silent"], options, &["local.img", "h:new"]].concat();
        sync(&work, &words).run()
    };
    silent(&[]).expect(12).says("if there is none, --create makes a file of it: h:new");
    silent(&["--dry-run", "--create"]).expect(12).says("all of SRC would be copied");
    assert!(!work.path("new").exists());
    silent(&["--create"]).expect(0).says(", verified");
    assert!(work.read("new") == work.read("local.img"));
    fs::create_dir(work.path("folder")).unwrap();
    let out = sync(&work, &["--create", "local.img", "h:folder"]).run().expect(12);
    out.says("it is a directory").says("DST cannot be opened or made: h:folder");
}

#[test]
fn a_source_that_is_not_there_leaves_no_new_target_behind() {
    let work = pair();
    sync(&work, &["--create", "h:missing", "new"])
        .run()
        .expect(12)
        .says("RMTERR: ")
        .says("SRC cannot be opened: h:missing");
    sync(&work, &["--create", "missing", "new"]).run().expect(12);
    assert!(!work.path("new").exists());
}

#[test]
fn sizes_follow_diffsize_and_are_verified_in_the_new_size() {
    for (longer, shorter) in [("local.img", "remote.img"), ("remote.img", "local.img")] {
        let work = pair();
        let mut bytes = work.read(longer);
        bytes.extend(random_bytes(9, 700_001));
        work.write(longer, &bytes);
        assert!(work.read(shorter).len() < bytes.len());
        let out = sync(&work, &["local.img", "h:remote.img"]).run().expect(3);
        out.says("nothing was changed: SRC has ").says("(--diffsize=resize ");
        let out = sync(&work, &["-d", "local.img", "h:remote.img"]).run().expect(0);
        let said = out.says(", verified").stderr_text();
        assert_eq!(said.contains("683.6 KiB cut off"), longer == "remote.img", "{said}");
        assert!(work.read("remote.img") == work.read("local.img"), "longer: {longer}");
    }
}

#[test]
fn what_was_written_is_compared_anew_with_any_hash() {
    for hash in ["md5", "sha256", "blake3"] {
        for (source, target) in [
            ("local.img", "remote.img"),
            ("local.img", "h:remote.img"),
            ("h:local.img", "remote.img"),
        ] {
            let work = pair();
            let hash = format!("--hash={hash}");
            sync(&work, &[&hash, source, target]).run().expect(0).says(", verified");
            assert!(work.read("remote.img") == work.read("local.img"), "{hash} {source} {target}");
        }
    }
}

#[test]
fn a_common_part_that_ends_within_a_block_is_verified_to_its_end() {
    for target in ["h:remote.img", "remote.img"] {
        for (source_bytes, target_bytes) in
            [(10_000, 6000), (6000, 10_000), (100, 5000), (8192, 9000)]
        {
            let work = pair();
            work.write("local.img", &random_bytes(3, source_bytes));
            let before = random_bytes(4, target_bytes);
            work.write("remote.img", &before);
            sync(&work, &["-dminsize", "local.img", target]).run().expect(0).says(", verified");
            let common = source_bytes.min(target_bytes);
            let expected = [&work.read("local.img")[..common], &before[common..]].concat();
            assert!(work.read("remote.img") == expected, "{source_bytes} {target_bytes} {target}");
        }
    }
}

/// Who applies the patch would take it for one that is wrong.
#[test]
fn the_checksum_of_a_larger_source_is_told_and_not_compared() {
    for target in ["remote.img", "h:remote.img"] {
        let work = pair();
        work.write("local.img", &random_bytes(3, 5000));
        work.write("remote.img", &random_bytes(4, 4000));
        let words = ["-dminsize", "--checksum=md5", "--report=r", "local.img", target];
        let out = sync(&work, &words).run().expect(0).says(", verified");
        let said = out.says("4000 of which are compared: it is not compared").stderr_text();
        assert_eq!(said.matches("warning").count(), 1, "{said}");
        assert_eq!(said.matches("checksum[md5]: ").count(), 1, "{said}");
        let report: Value = serde_json::from_slice(&work.read("r")).unwrap();
        assert!(said.contains(report["checksum"]["value"].as_str().unwrap()), "{report}");
    }
}

#[test]
fn a_target_that_does_not_keep_what_is_written_is_found_out() {
    let work = pair();
    let text = format!("case $1 in --server) exec {0} --server;; *) {TAKES};; esac", binary());
    script(&work, "forgetful", &text);
    let words = ["--remote-path=./forgetful", "local.img", "h:remote.img"];
    for hash in ["blake3", "md5"] {
        let words = [&["-h", hash, "--report=report"], &words[..]].concat();
        let out = sync(&work, &words).run().expect(5).says("still differ where DST was written");
        let said = out.says("is NOT equal to local.img: run the same").stderr_text();
        assert!(!said.contains("went away"), "{said}");
        let report: Value = serde_json::from_slice(&work.read("report")).unwrap();
        assert_eq!(report["verified"], false, "{report}");
        assert_eq!(report["target_state"], "unequal", "{report}");
    }
    sync(&work, &[&["--no-verify"], &words[..]].concat()).run().expect(0).says("not verified");
    // All that differs lies behind the last whole block of the common part.
    let mut short = work.read("local.img")[..5000].to_vec();
    short[4990] ^= 1;
    work.write("remote.img", &short);
    let words = [&["-dminsize"], &words[..]].concat();
    sync(&work, &words).run().expect(5).says("DST was written").says("[4096, 5000)");
}

#[test]
fn a_file_here_that_changes_its_size_meanwhile_is_not_said_to_be_verified() {
    let work = pair();
    // Once its size was agreed on.
    let grows = "--patch*) echo more >>local.img;;";
    remote_with(&work, grows);
    let words = ["--remote-path=./bdsync", "--report=report", "local.img", "h:remote.img"];
    let out = sync(&work, &words).run().expect(11);
    let out =
        out.says("its size was changed by something else: expected 3000000 bytes, found 3000005");
    let said = out.stderr_text();
    assert!(!said.contains(", verified") && !said.contains("--on-read-error"), "{said}");
    let report: Value = serde_json::from_slice(&work.read("report")).unwrap();
    assert_eq!(report["verified"], false);
}

#[test]
fn a_target_that_cannot_be_written_ends_the_comparison() {
    let work = pair();
    let text = format!(
        "case $1 in --server) exec {0} --server;; *) echo busy >&2; echo bdsync: no >&2; exit 12;; esac",
        binary()
    );
    script(&work, "busy", &text);
    for options in [&["--bwlimit=20K", "-b1"][..], &[]] {
        let words = [&["--remote-path=./busy"], options, &["local.img", "h:remote.img"]].concat();
        let out = sync(&work, &words).within(Duration::from_secs(30)).run().expect(12);
        let out = out
            .says("RMTERR: busy")
            .says("nothing was written to h:remote.img")
            .says("the target was not written to: no");
        assert!(!out.stderr_text().contains("went away"), "{out}");
    }
}

/// A sync in the folder by a process that may make no file longer than so many KiB.
fn limited_sync(work: &Workdir, kib: u32, words: &str) -> (i32, String) {
    let script = format!("ulimit -f {kib}; exec '{}' sync {words}", binary());
    let out = std::process::Command::new("bash")
        .args(["-c", &script])
        .current_dir(work.folder())
        .output()
        .unwrap();
    (out.status.code().unwrap(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn why_a_target_failed_is_told_once_and_put_on_record() {
    // What cannot become larger is left as it was.
    for (before, what) in
        [(vec![0; 300_000], "may be partly changed"), (vec![], "nothing was written")]
    {
        let work = Workdir::with_pair(&random_bytes(1, 300_000), &before);
        let (code, text) = limited_sync(&work, 100, "-d --report=r local.img remote.img");
        assert_eq!(code, 9, "{text}");
        assert_eq!(text.matches("File too large").count(), 1, "{text}");
        assert_eq!(text.matches("warning").count(), 1, "{text}");
        assert_eq!(text.matches(what).count(), 1, "{text}");
        assert!(!text.contains("in part") && !text.contains("went away"), "{text}");
        let record = String::from_utf8(work.read("r")).unwrap();
        assert!(record.contains("remote.img") && record.contains("File too large"), "{record}");
    }
}

#[test]
fn an_undo_patch_that_cannot_be_written_leaves_the_target_alone_and_says_so() {
    let work = pair();
    let before = work.read("remote.img");
    // A small patch, and a large one to take it back: what is cut off has to be kept.
    let mut source = before[..BYTES - 100_000].to_vec();
    source[0] ^= 1;
    work.write("local.img", &source);
    let (code, said) = limited_sync(&work, 50, "-d --undo=back local.img remote.img");
    assert_eq!(code, 9, "{said}");
    for part in ["cannot write the undo patch: back", "nothing was written to remote.img"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("again") && !said.contains("take it back"), "{said}");
    assert!(work.read("remote.img") == before && !work.path("back").exists());
    // Nobody can look on another host.
    let words =
        format!("-e ./rsh --remote-path={} -d --undo=back local.img h:remote.img", binary());
    let (code, said) = limited_sync(&work, 50, &words);
    assert_eq!(code, 9, "{said}");
    assert!(said.contains("nothing was written to h:remote.img\n"), "{said}");
    // An old one is none of this run.
    work.write("back", b"of another run");
    let out = sync(&work, &["-d", "--undo=back", "local.img", "remote.img"]).run().expect(1);
    let said = out.says("nothing was written to remote.img").stderr_text();
    assert!(!said.contains("take it back"), "{said}");
    assert!(work.read("remote.img") == before);
}

#[test]
fn a_target_that_is_written_in_part_is_finished_as_the_message_says() {
    let work = pair();
    let mut source = work.read("remote.img");
    source[0] ^= 1;
    source[BYTES - 1] ^= 1;
    work.write("local.img", &source);
    // The undo patch is small; the end of the target is out of reach.
    let (code, said) = limited_sync(&work, 1000, "--undo=back local.img remote.img");
    assert_eq!(code, 9, "{said}");
    assert!(said.contains("run the same command again without --undo"), "{said}");
    assert!(said.contains("or go back: bdsync --patch=remote.img <back"), "{said}");
    assert!(!said.contains("apply the patch") && !said.contains("nothing was written"), "{said}");
    sync(&work, &["local.img", "remote.img"]).run().expect(0).says(", verified");
    assert!(work.read("remote.img") == source);
}

#[test]
fn a_target_that_has_grown_is_not_said_to_be_untouched() {
    let work = pair();
    let before = work.read("remote.img");
    let mut source = before.clone();
    source.extend(random_bytes(9, 700_001));
    work.write("local.img", &source);
    // The opening passes, and nothing that is asked for.
    let text = format!(
        "case $1 in --server) exec bash -c 'exec {0} --server > >(dd bs=1 count=200 status=none)';;\n\
         *) exec {0} \"$@\";; esac",
        binary()
    );
    script(&work, "broken", &text);
    let words = ["--remote-path=./broken", "-d", "-h", "sha256", "local.img", "h:remote.img"];
    let out = sync(&work, &words).run();
    assert_ne!(out.code(), 0, "{out}");
    assert_eq!(work.read("remote.img").len(), source.len(), "{out}");
    let said = out.says("may be partly changed: run the same command again").stderr_text();
    assert!(!said.contains("nothing was written"), "{said}");
    sync(&work, &["-d", "local.img", "h:remote.img"]).run().expect(0);
    assert!(work.read("remote.img") == source);
}

#[test]
fn a_target_that_is_written_and_not_compared_is_said_to_be_that() {
    let work = pair();
    let (source, before) = (work.read("local.img"), work.read("remote.img"));
    // The server is gone as soon as the other process has written everything.
    let text = format!(
        "case $1 in --server) echo $$ >pid; exec {0} --server;;\n\
         *) {0} \"$@\"; code=$?; kill -KILL $(cat pid); exit $code;; esac",
        binary()
    );
    script(&work, "broken", &text);
    let undo = work.path("undo").display().to_string();
    let (undo_option, all) = (format!("--undo={undo}"), "all is written to h:remote.img");
    let words = ["--remote-path=./broken", "--report=report", "local.img", "h:remote.img"];
    for (option, on) in
        [(&undo_option[..], "or go back, on h: ./broken --patch="), ("-v", "run the same")]
    {
        let out = sync(&work, &[&[option], &words[..]].concat()).run();
        assert_ne!(out.code(), 0, "{out}");
        out.says(all).says(on);
        assert!(work.read("remote.img") == source);
        let report: Value = serde_json::from_slice(&work.read("report")).unwrap();
        assert!(report.get("verified").is_none(), "{report}");
        work.write("remote.img", &before);
    }
}

/// It takes away what it has made, which is then not there to be written to.
#[test]
fn a_server_that_is_killed_is_the_cause_and_not_that_its_new_target_is_gone() {
    let work = pair();
    let text = format!(
        "case $1 in --server) echo $$ >pid; exec {0} --server;;\n\
         *) kill -KILL $(cat pid); while [ -e new.img ]; do sleep 0.05; done\n\
            sleep 0.3; exec {0} \"$@\";; esac",
        binary()
    );
    script(&work, "broken", &text);
    let words = ["--remote-path=./broken", "--create", "--report=report", "local.img", "h:new.img"];
    let out = sync(&work, &words).run().expect(6);
    let report: Value = serde_json::from_slice(&work.read("report")).unwrap();
    assert!(report["error"].as_str().unwrap().contains("status 137"), "{out}");
    assert_eq!(report["target_state"], "untouched", "{out}");
    assert!(!work.path("new.img").exists());
}

/// Of the two parts of a run that verifies only the last one is the end.
#[test]
fn progress_is_finished_once_and_its_lines_are_of_one_part() {
    let work = pair();
    let before = work.read("remote.img");
    let out = sync(&work, &["-Pjson", "local.img", "remote.img"]).run().expect(0);
    let text = out.stderr_text();
    let lines: Vec<serde_json::Value> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let finished = lines.iter().filter(|line| line["finished"] == true).count();
    assert_eq!((finished, &lines.last().unwrap()["finished"]), (1, &true.into()), "{out}");
    work.write("remote.img", &before);
    let out = sync(&work, &["-P", "local.img", "remote.img"]).run().expect(0);
    let text = out.stderr_text();
    let numbers = |line: &str| -> Vec<u64> {
        line.split(',').skip(1).take(3).map(|number| number.parse().unwrap()).collect()
    };
    let lines: Vec<_> =
        text.lines().filter(|line| line.starts_with("PROGRESS:")).map(numbers).collect();
    assert!(!lines.is_empty());
    for line in lines {
        assert!(line[1] <= line[2], "{line:?}: {text}");
        assert_eq!(line[2], BYTES as u64, "of the comparison alone: {text}");
    }
}

/// A disk of which the last third is lost: the image under it was cut.
#[test]
fn what_cannot_be_read_is_left_out_of_a_sync_if_that_is_asked_for() {
    require!(loop_devices());
    let (whole, cut) = (BYTES.next_multiple_of(4096), 1_998_848);
    let work = pair();
    let (source, before) = (random_bytes(3, whole), random_bytes(4, whole));
    for (direction, place) in [("push", "remote.img"), ("local", "remote.img"), ("pull", "")] {
        let image = work.write("disk", &source);
        work.write("remote.img", &before);
        let disk = LoopDevice::attach(&image);
        fs::File::options().write(true).open(&image).unwrap().set_len(cut as u64).unwrap();
        let (from, to) = match direction {
            "push" => (disk.name().to_owned(), format!("h:{}", work.path(place).display())),
            "local" => (disk.name().to_owned(), place.to_owned()),
            _ => (format!("h:{}", disk.name()), "remote.img".to_owned()),
        };
        let out = sync(&work, &[&from, &to]).run().expect(6);
        out.says("--on-read-error=skip copies the rest of SRC");
        for options in [&["--dry-run"][..], &[]] {
            let words = [options, &["--on-read-error=skip", &from, &to]].concat();
            let out = sync(&work, &words).run().expect(15);
            let range = format!("bytes [{cut}, {whole})");
            let out = out.says(&format!("unreadable, left out: SRC {from}, {range}"));
            out.says("1003520 bytes in 1 range could not be read and were not copied");
        }
        let found = work.read("remote.img");
        assert!(found[..cut] == source[..cut], "{direction}: what can be read is there");
        assert!(found[cut..] == before[cut..], "{direction}: the rest is as it was");
    }
}

#[test]
fn what_was_left_out_is_listed_whatever_fails_behind_that() {
    require!(loop_devices());
    let (whole, cut) = (400_000_usize.next_multiple_of(4096), 204_800);
    let work = pair_of(b"", &random_bytes(4, 1000));
    let image = work.write("disk", &random_bytes(3, whole));
    let disk = LoopDevice::attach(&image);
    fs::File::options().write(true).open(&image).unwrap().set_len(cut).unwrap();
    // The comparison in the new size fails.
    let once = "case $1 in --server) test -e once && exit 1; : >once;; esac";
    script(&work, "bdsync", &format!("{once}; exec {} \"$@\"", binary()));
    let from = format!("h:{}", disk.name());
    let words = ["--remote-path=./bdsync", "--on-read-error=skip", "-d", &from, "remote.img"];
    let out = sync(&work, &words).run();
    assert!(![0, 15].contains(&out.code()), "{out}");
    out.says(&format!("unreadable, left out: SRC {from}, bytes [{cut}, {whole})"))
        .says("all is written to remote.img, but not shown to be equal");
}

/// So many ranges are written that their neighbours are compared again with them.
#[test]
fn what_was_left_out_between_what_was_written_is_not_compared_again() {
    require!(loop_devices());
    let (block, blocks) = (64, 1 << 18);
    let (whole, cut) = (block * blocks, block * (blocks - 64));
    let before = random_bytes(5, whole);
    let mut source = before.clone();
    source.iter_mut().step_by(2 * block).for_each(|byte| *byte ^= 1);
    let work = Workdir::with_pair(&before, &before);
    let image = work.write("disk", &source);
    let disk = LoopDevice::attach(&image);
    fs::File::options().write(true).open(&image).unwrap().set_len(cut as u64).unwrap();
    let words = ["-b64", "--on-read-error=skip", disk.name(), "remote.img"];
    let out = sync(&work, &words).run().expect(15);
    out.says(", verified").says(&format!("SRC {}, bytes [{cut}, {whole})", disk.name()));
    let found = work.read("remote.img");
    assert!(found[..cut] == source[..cut] && found[cut..] == before[cut..]);
}

#[test]
fn a_report_names_the_host_of_a_device() {
    let work = pair();
    for (source, target) in [("h:local.img", "remote.img"), ("local.img", "u@h:remote.img")] {
        sync(&work, &["--report=r", source, target]).run().expect(0);
        let report: Value = serde_json::from_slice(&work.read("r")).unwrap();
        assert_eq!(report["source"]["path"], source);
        assert_eq!(report["target"]["path"], target);
    }
}

#[test]
fn source_and_target_must_not_be_the_same() {
    let work = pair();
    std::os::unix::fs::symlink("local.img", work.path("link")).unwrap();
    for target in ["local.img", "./local.img", "link"] {
        sync(&work, &["local.img", target]).run().expect(1).says("the same device");
    }
    sync(&work, &["h:a", "g:b"]).run().expect(1).says("both remote");
}

#[test]
fn what_another_program_has_locked_is_written_to_by_force_only() {
    let work = pair();
    let (target, before) = (work.path("remote.img"), work.read("remote.img"));
    let locked = fs::File::options().write(true).open(&target).unwrap();
    let lock = flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&locked, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    for target in ["remote.img", "h:remote.img"] {
        sync(&work, &["local.img", target]).run().expect(12).says("locked");
        assert!(work.read("remote.img") == before);
        sync(&work, &["--force", "local.img", target]).run().expect(0);
        assert!(work.read("remote.img") == work.read("local.img"));
        work.write("remote.img", &before);
    }
}

#[test]
fn nodes_of_the_same_block_device_are_the_same_and_others_are_not() {
    require!(root());
    let work = pair();
    // There is no driver of that number, so neither is opened.
    for (name, minor) in [("a", 1), ("twin", 1), ("b", 2)] {
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        mknod(&work.path(name), SFlag::S_IFBLK, mode, makedev(4000, minor)).unwrap();
    }
    sync(&work, &["a", "twin"]).run().expect(1).says("the same device");
    let out = sync(&work, &["a", "b"]).run().expect(12);
    assert!(!out.stderr_text().contains("the same device"), "{out}");
}

/// There is something that cannot be opened: `--create` would not help.
#[test]
fn create_is_proposed_only_where_there_is_nothing_and_no_device() {
    let work = pair();
    fs::create_dir(work.path("folder")).unwrap();
    for target in ["folder", "remote.img/in-a-file"] {
        let out = sync(&work, &["local.img", target]).run().expect(12).says(target);
        assert!(!out.stderr_text().contains("--create"), "{out}");
    }
    for options in [&[][..], &["--create", "--dry-run"]] {
        let words = [options, &["local.img", "h:/dev/no-such-disk"]].concat();
        let out = sync(&work, &words).run().expect(12).says("DST cannot be opened");
        let said = out.stderr_text();
        assert!(!said.contains("--create") && !said.contains("would be copied"), "{said}");
    }
}

#[test]
fn bwlimit_slows_both_ways() {
    for (source, target) in [("h:local.img", "remote.img"), ("local.img", "h:remote.img")] {
        let work = Workdir::with_pair(&random_bytes(1, 300_000), &random_bytes(2, 300_000));
        script(&work, "rsh", "shift; exec sh -c \"$*\"");
        let out = sync(&work, &["--bwlimit=200K", source, target]).run().expect(0);
        assert!(out.elapsed >= Duration::from_millis(1300), "{out}");
        assert!(work.read("remote.img") == work.read("local.img"));
    }
}

#[test]
fn bwlimit_is_about_the_network_and_not_within_one_host() {
    let work = Workdir::with_pair(&random_bytes(1, 300_000), &random_bytes(2, 300_000));
    // At this rate the hashes alone would take minutes.
    let words = ["--bwlimit=1K", "-b64", "local.img", "remote.img"];
    sync(&work, &words).within(Duration::from_secs(30)).run().expect(0);
    assert!(work.read("remote.img") == work.read("local.img"));
}

/// What is left to do then is a checksum, which takes half an hour.
#[test]
fn a_signal_ends_the_checksum_of_a_source_too() {
    let work = Workdir::with_pair(b"", &random_bytes(1, 1_000_000));
    sparse_file(&work.path("local.img"), 1 << 40, &[]);
    let options = ["-dminsize", "--checksum=sha3-512", "local.img", "remote.img"];
    let out = sync(&work, &options).within(Duration::from_secs(60)).run_meanwhile(|child| {
        wait_until("it writes", || work.read("remote.img")[..50_000] == [0; 50_000]);
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    });
    out.expect(143).says("interrupted by SIGTERM");
}

/// Nobody would take it any more.
#[test]
fn a_process_elsewhere_that_goes_away_ends_the_checksum_of_a_source_too() {
    for which in ["--server", "--patch*"] {
        let work = Workdir::with_pair(b"", &random_bytes(1, 1_000_000));
        sparse_file(&work.path("local.img"), 1 << 40, &[]);
        script(&work, "rsh", "shift; exec sh -c \"$*\"");
        remote_with(&work, &format!("{which}) echo $$ >pid;;"));
        let words = ["-dminsize", "--checksum=sha3-512", "--remote-path=./bdsync", "--rsh=./rsh"];
        let words = [&["sync"], &words[..], &["local.img", "h:remote.img"]].concat();
        let sync = bdsync(words).in_folder(work.folder()).within(Duration::from_secs(60));
        let out = sync.run_meanwhile(|_| {
            wait_until("it writes", || work.read("remote.img")[..50_000] == [0; 50_000]);
            kill(work.written_pid(), Signal::SIGKILL).unwrap();
        });
        out.expect(6);
    }
}

/// A signal in the middle: a message, the signal's exit code, nobody left behind; and the same
/// command again finishes it.
#[test]
fn an_interrupted_sync_says_how_to_go_on_and_does() {
    for (source, target) in [("h:local.img", "remote.img"), ("local.img", "h:remote.img")] {
        let work = Workdir::with_pair(&random_bytes(1, 8_000_000), &random_bytes(2, 8_000_000));
        script(&work, "rsh", "shift; exec sh -c \"$*\"");
        let before = work.read("remote.img");
        let out = sync(&work, &["--bwlimit=1M", source, target]).run_meanwhile(|child| {
            wait_until("it writes", || work.read("remote.img") != before);
            // As timeout(1) sends it: to the process, and to its group.
            for _ in 0..2 {
                kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
            }
        });
        let out = out.expect(143);
        out.says("run the same command again").says("interrupted by SIGTERM");
        assert!(work.read("remote.img") != work.read("local.img"));
        sync(&work, &[source, target]).run().expect(0).says(", verified");
        assert!(work.read("remote.img") == work.read("local.img"));
    }
}

/// Between the two logins, which may take long, somebody else writes to the target.
#[test]
fn what_another_bdsync_has_written_meanwhile_is_seen() {
    let work = pair();
    let before = work.read("remote.img");
    let patch = Workdir::with_pair(&random_bytes(9, BYTES), &before).patch(&[]);
    work.write("other.patch", &patch);
    let other = format!("--patch*) {} --patch=remote.img <other.patch;;", binary());
    remote_with(&work, &other);
    for options in [&[][..], &["--undo=u"], &["--compress"], &["-d"]] {
        let words = [options, &["--remote-path=./bdsync", "local.img", "h:remote.img"]].concat();
        sync(&work, &words).run().expect(0).says(", verified");
        assert!(work.read("remote.img") == work.read("local.img"), "{options:?}");
        work.write("remote.img", &before);
    }
}

/// What is zero behind the end of the target is not sent: it is taken to come with the new size.
#[test]
fn a_target_whose_size_changes_before_it_is_opened_is_refused() {
    let source = [random_bytes(1, BYTES), vec![0; BYTES]].concat();
    let other = random_bytes(9, 2 * BYTES);
    for options in [&["--create"][..], &["-d"], &["-d", "--undo=u"]] {
        let work = pair_of(&source, &source[..BYTES]);
        work.write("other.img", &other);
        let target = if options[0] == "--create" { "h:new.img" } else { "h:remote.img" };
        let grows = format!("--patch*) cat other.img >{};;", &target[2..]);
        remote_with(&work, &grows);
        let words = [options, &["--remote-path=./bdsync", "local.img", target]].concat();
        sync(&work, &words).run().expect(12).says("its size was changed by something else");
        assert!(work.read(&target[2..]) == other, "{options:?}");
    }
}

#[test]
fn a_process_that_writes_and_cannot_be_heard_will_do() {
    let work = pair();
    let mute = format!("--patch*) exec {} \"$@\" >/dev/null;;", binary());
    remote_with(&work, &mute);
    let words = ["--remote-path=./bdsync", "local.img", "h:remote.img"];
    sync(&work, &words).run().expect(0).says("does not tell when it has DST open");
    assert!(work.read("remote.img") == work.read("local.img"));
}

#[test]
fn a_signal_ends_the_wait_for_a_target_to_be_opened() {
    for word in ["", "echo bdsync target: opening; "] {
        let work = pair();
        let hangs = format!("--patch*) {word}head -c 31 >head; : >hangs; exec sleep 600;;");
        remote_with(&work, &hangs);
        let words = ["--remote-path=./bdsync", "local.img", "h:remote.img"];
        let out = sync(&work, &words).run_meanwhile(|child| {
            wait_until("it hangs", || work.path("hangs").exists());
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
        });
        let out = out.expect(143).says("interrupted by SIGTERM");
        assert!(!out.stderr_text().contains("does not tell"), "{out}");
    }
}

#[test]
fn a_process_that_takes_no_patch_and_ends_well_is_told_of() {
    let work = pair();
    let ends = "--patch*) exit 0;;";
    remote_with(&work, ends);
    let words = ["--remote-path=./bdsync", "local.img", "h:remote.img"];
    sync(&work, &words).run().expect(13).says("has ended without taking all of the patch");
}

/// What a name leads to may become another between the two times that it is followed.
#[test]
fn what_took_the_place_of_the_compared_target_is_not_written_to() {
    let work = pair();
    let other = random_bytes(9, BYTES);
    work.write("other.img", &other);
    let replaces = "--patch*) mv other.img remote.img;;";
    remote_with(&work, replaces);
    let words = ["sync", "-e", "./rsh", "--remote-path=./bdsync", "local.img", "h:remote.img"];
    let out = bdsync(words).in_folder(work.folder()).run().expect(12);
    out.says("it was replaced by another file or disk since it was compared")
        .says("nothing was written to h:remote.img");
    assert!(work.read("remote.img") == other);
}

#[test]
fn what_took_the_place_of_the_written_target_is_not_said_to_be_written() {
    let work = pair();
    let source = [work.read("local.img"), random_bytes(9, 5000)].concat();
    work.write("local.img", &source);
    // In its new size it is compared through a second server.
    let replaces = "test -e once && mv remote.img elsewhere && echo other >remote.img; : >once";
    script(&work, "bdsync", &format!("{replaces}; exec {} \"$@\"", binary()));
    let undo = work.path("undo").display().to_string();
    let undo = format!("--undo={undo}");
    let words = ["--report=r", "--remote-path=./bdsync", &undo, "-d", "h:local.img", "remote.img"];
    let out = sync(&work, &words).run();
    assert_ne!(out.code(), 0, "{out}");
    let said = out.says("whatever is at remote.img now was not written to").stderr_text();
    assert!(!said.contains("go back"), "{said}");
    let report: Value = serde_json::from_slice(&work.read("r")).unwrap();
    assert_eq!(report["target_state"], "renamed", "{report}");
    assert!(work.read("elsewhere") == source && work.read("remote.img") == b"other\n");
}

#[test]
fn a_target_that_falls_silent_with_the_whole_patch_is_given_up_on() {
    let work = pair();
    let serves = format!("--server) exec {} \"$@\";;", binary());
    script(&work, "bdsync", &format!("case $1 in {serves} *) {TAKES}; exec sleep 600;; esac"));
    let words = ["--timeout=3", "--remote-path=./bdsync", "local.img", "h:remote.img"];
    let out = bdsync([&["sync", "-e", "./rsh"], &words[..]].concat()).in_folder(work.folder());
    let out = out.within(Duration::from_secs(60)).run().expect(13);
    out.says("writing to the target failed: nothing came for 3 s (--timeout)")
        .says("h:remote.img may still be written to by the bdsync on that host");
}

/// Writes that take longer, all of them or one, than anything may be silent.
#[test]
fn a_target_whose_disk_is_slow_is_waited_for() {
    require!(program("strace"));
    if !has_traced(&Command::new("strace").args(["-o", "/dev/null", "true"]).output().unwrap()) {
        return;
    }
    // All of them, or one, with more behind it than there is room for on the way.
    for (delay, timeout, blocks, step) in
        [("100000", "--timeout=5", 128, 8192), ("6000000:when=1", "--timeout=3", 8192, 4096)]
    {
        let remote = random_bytes(1, blocks * 4096);
        let mut local = remote.clone();
        local.iter_mut().step_by(step).for_each(|byte| *byte ^= 1);
        for undo in [&[][..], &["--undo=u"]] {
            let work = Workdir::with_pair(&local, &remote);
            script(&work, "rsh", "shift; exec sh -c \"$*\"");
            let writes = format!("pwrite64,pwritev,pwritev2:delay_enter={delay}");
            let slow = format!("strace -f -qq -o /dev/null -e inject={writes}");
            let patches = format!("--patch*) exec {slow} {} \"$@\";;", binary());
            let other = format!("exec {} \"$@\"", binary());
            script(&work, "bdsync", &format!("case $1 in {patches} esac; {other}"));
            let words = ["sync", "-e", "./rsh", "--remote-path=./bdsync", timeout];
            let words = [&words[..], undo, &["local.img", "h:remote.img"]].concat();
            bdsync(words).in_folder(work.folder()).run().expect(0).says(", verified");
            assert!(work.read("remote.img") == local);
        }
    }
}

/// A single call that takes longer than anything may be silent: nothing comes or goes meanwhile.
#[test]
fn a_disk_that_takes_long_for_what_it_was_given_is_waited_for() {
    require!(program("strace"));
    if !has_traced(&Command::new("strace").args(["-o", "/dev/null", "true"]).output().unwrap()) {
        return;
    }
    let work = pair();
    script(&work, "rsh", "shift; exec sh -c \"$*\"");
    let slow = "strace -f -qq -o /dev/null -e inject=fsync,fdatasync:delay_enter=5000000:when=1";
    let patches = format!("--patch*) exec {slow} {} \"$@\";;", binary());
    remote_with(&work, &patches);
    let words = ["sync", "-e", "./rsh", "--remote-path=./bdsync", "--timeout=3"];
    let words = [&words[..], &["local.img", "h:remote.img"]].concat();
    bdsync(words).in_folder(work.folder()).run().expect(0).says(", verified");
    assert!(work.read("remote.img") == work.read("local.img"));
}

/// There a file may become another one as soon as it is opened for writing.
#[test]
fn a_target_on_an_overlay_is_taken_for_what_it_is() {
    require!(root(), program("unshare"));
    let work = pair();
    fs::create_dir(work.path("layers")).unwrap();
    let script = "mount -t tmpfs none layers && cd layers && mkdir lower upper work merged &&
        cp ../remote.img lower && ln lower/remote.img lower/other &&
        mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work none merged || exit 77
        $0 sync ../local.img merged/remote.img
        cmp ../local.img upper/remote.img";
    let out = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script, binary()])
        .current_dir(work.folder())
        .output()
        .unwrap();
    if out.status.code() == Some(77) {
        return skip("to mount an overlay");
    }
    let words = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && !words.contains("was replaced"), "{words}");
}

#[test]
fn what_the_process_that_writes_has_said_of_the_target_is_not_contradicted() {
    let work = pair();
    let word = "nothing of remote.img is changed; remove u before the next try";
    script(
        &work,
        "bdsync",
        &format!(
            "case $1 in --server) exec {} \"$@\";; esac\n\
         {TAKES}; for said in \"warning: {word}\" 'no quota' 'no thread'; do\n\
         echo \"bdsync: $said\" >&2; done; exit 9",
            binary()
        ),
    );
    let words = ["sync", "-e", "./rsh", "--remote-path=./bdsync", "--undo=u", "local.img"];
    let out = bdsync(words.iter().chain(&["h:remote.img"])).in_folder(work.folder()).run();
    let out = out.expect(9).says(word).says("no quota").says("failed: no thread");
    assert!(!out.stderr_text().contains("run the same command"), "{}", out.stderr_text());
}

/// A line that could have been the cause of an error is one to show where there is none, or another.
#[test]
fn the_last_line_of_the_process_that_writes_is_shown_where_it_is_no_cause() {
    for (ends, code) in [("", 0), ("; exit 99", 6)] {
        let work = pair();
        let text =
            format!("{0} \"$@\"; case $1 in --patch*) echo bdsync: aha >&2{ends};; esac", binary());
        script(&work, "talks", &text);
        let words = ["--remote-path=./talks", "local.img", "h:remote.img"];
        let out = sync(&work, &words).run().expect(code).says("RMTERR: bdsync: aha");
        assert_eq!(out.stderr_text().matches("aha").count(), 1, "{out}");
    }
}

#[test]
fn a_process_that_writes_for_a_sync_shows_life_and_writes_to_no_other_disk() {
    let work = pair();
    let patch = bdsync([&server_command(&[]), "local.img", "remote.img"]);
    let patch = patch.in_folder(work.folder()).run().expect(0).stdout;
    let id = |path: &str| {
        let found = fs::metadata(work.path(path)).unwrap();
        format!("--sync-disk={}:{}", found.dev(), found.ino())
    };
    let apply = |disk: &str| {
        bdsync(["--patch=remote.img", disk]).in_folder(work.folder()).stdin(&patch).run()
    };
    let out = apply(&id("local.img")).expect(12);
    out.says("it was replaced by another file or disk since it was compared");
    let out = apply(&id("remote.img")).expect(0);
    let said = String::from_utf8(out.stdout).unwrap();
    let lines: Vec<_> = said.lines().filter(|line| !line.is_empty()).collect();
    assert!(said.starts_with('\n'), "{said:?}");
    assert_eq!(lines, ["bdsync target: opening", "bdsync target: open"]);
    assert!(work.read("remote.img") == work.read("local.img"));
}

/// Gives a `bdsync --patch` of the pair half of the patch, does `between` once it has opened its
/// target, and gives it the rest: its exit status and its words.
fn patch_with(work: &Workdir, options: &[&str], between: impl FnOnce()) -> (Option<i32>, String) {
    let patch = work.patch(&[]);
    let mut process = Command::new(binary())
        .arg("--patch=remote.img")
        .args(options)
        .current_dir(work.folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let (begin, rest) = patch.split_at(patch.len() / 2);
    let before = work.read("remote.img");
    stdin.write_all(begin).unwrap();
    let is_spooled = options.iter().any(|option| option.starts_with("--spool"));
    // What is spooled is taken once the target is open; all else is there, and measured, when
    // something is written to it.
    let is_open = || match is_spooled {
        true => ioctl_fionread(&stdin).unwrap() == 0,
        false => work.read("remote.img") != before,
    };
    wait_until("it opens its target", is_open);
    between();
    // It may have ended by then, because of that.
    let _ = stdin.write_all(rest);
    drop(stdin);
    let out = process.wait_with_output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// All is written, but the name leads to something else, which nobody has made equal.
#[test]
fn what_takes_the_place_of_the_target_while_it_is_written_to_is_told() {
    let work = unlike_pair();
    let found = fs::metadata(work.path("remote.img")).unwrap();
    let disk = format!("--sync-disk={}:{}", found.dev(), found.ino());
    let (code, said) = patch_with(&work, &[&disk], || {
        fs::rename(work.path("remote.img"), work.path("elsewhere")).unwrap();
        work.write("remote.img", b"another");
    });
    assert_eq!(code, Some(11), "{said}");
    assert!(said.contains("the name leads elsewhere by now"), "{said}");
    assert!(
        work.read("elsewhere") == work.read("local.img") && work.read("remote.img") == b"another"
    );
}

#[test]
fn a_target_whose_size_something_else_changes_is_told_of() {
    for options in [&[][..], &["--spool=.", "--verify", "--report=r"]] {
        let work = unlike_pair();
        let (code, said) = patch_with(&work, options, || {
            let file = fs::File::options().write(true).open(work.path("remote.img")).unwrap();
            file.set_len(BYTES as u64 + 7).unwrap();
        });
        assert_eq!(code, Some(11), "{said}");
        let size = format!("expected {BYTES} bytes, found {}: remote.img", BYTES + 7);
        for part in ["but not shown to be right", "its size was changed by something else", &size] {
            assert!(said.contains(part), "{part}: {said}");
        }
        if !options.is_empty() {
            let report: Value = serde_json::from_slice(&work.read("r")).unwrap();
            assert_eq!(report["verified"], false, "{report}");
        }
    }
}

#[test]
fn a_size_that_is_all_that_changes_counts_as_written() {
    let work = pair();
    work.write("local.img", &work.read("remote.img")[..1_000_000]);
    // The comparison in the new size fails.
    let once = "case $1 in --server) test -e once && exit 1; : >once;; esac";
    script(&work, "bdsync", &format!("{once}; exec {} \"$@\"", binary()));
    let words = ["--remote-path=./bdsync", "--report=r", "-d", "local.img", "h:remote.img"];
    let out = sync(&work, &words).run();
    assert_ne!(out.code(), 0, "{out}");
    out.says("all is written to h:remote.img, but not shown to be equal");
    let report: Value = serde_json::from_slice(&work.read("r")).unwrap();
    assert_eq!(report["target_state"], "not_verified", "{report}");
}

#[test]
fn another_target_in_the_new_size_on_another_host_is_told() {
    let work = pair();
    let source = [work.read("local.img"), random_bytes(9, 5000)].concat();
    work.write("local.img", &source);
    // When it is compared in its new size.
    let replaces = "mv remote.img elsewhere; cp elsewhere remote.img; echo x >>remote.img";
    let once = format!("case $1 in --server) test -e once && {{ {replaces}; }}; : >once;; esac");
    script(&work, "bdsync", &format!("{once}; exec {} \"$@\"", binary()));
    let words = ["--remote-path=./bdsync", "--undo=u", "-d", "local.img", "h:remote.img"];
    let out = sync(&work, &words).run().expect(11);
    let said = out.says("whatever is at h:remote.img now was not written to").stderr_text();
    assert!(said.contains("with another --undo") && !said.contains("go back"), "{said}");
    assert!(work.read("elsewhere") == source);
}

#[test]
fn a_target_on_another_host_that_has_not_the_new_size_is_told() {
    let work = pair();
    work.write("local.img", &work.read("remote.img")[..1_000_000]);
    // When it is compared in its new size.
    let extends = "truncate -s +4096 remote.img";
    let once = format!("case $1 in --server) test -e once && {extends}; : >once;; esac");
    script(&work, "bdsync", &format!("{once}; exec {} \"$@\"", binary()));
    let words = ["--remote-path=./bdsync", "--report=r", "-d", "local.img", "h:remote.img"];
    let out = sync(&work, &words).run().expect(11);
    out.says("expected 1000000 bytes, found 1004096: h:remote.img");
    let report: Value = serde_json::from_slice(&work.read("r")).unwrap();
    assert_eq!(report["target_state"], "resized", "{report}");
    assert!(report["wire_received_bytes"].as_u64() > Some(0), "{report}");
}

#[test]
fn an_undo_patch_of_another_run_is_not_said_to_be_of_no_use() {
    let work = pair();
    work.write("u", b"of another run");
    let out = sync(&work, &["--undo=u", "local.img", "remote.img"]).run().expect(1);
    let said = out.says("nothing was written to remote.img").stderr_text();
    assert!(!said.contains("remove"), "{said}");
}

#[test]
fn a_process_that_may_go_on_elsewhere_is_not_said_to_have_stopped() {
    let work = pair();
    let (source, before) = (work.read("local.img"), work.read("remote.img"));
    // Whatever leads there ends in some way, without a word of the bdsync behind it.
    for code in [4, 11, 255] {
        let patches = format!("--patch*) {} \"$@\"; exit {code};;", binary());
        remote_with(&work, &patches);
        let words = ["--remote-path=./bdsync", "--report=r", "local.img", "h:remote.img"];
        let out = sync(&work, &words).run();
        out.expect(if code == 255 { 6 } else { code })
            .says("h:remote.img may still be written to by the bdsync on that host");
        assert!(work.read("remote.img") == source);
        let report: Value = serde_json::from_slice(&work.read("r")).unwrap();
        assert_eq!(report["target_state"], "unknown", "{report}");
        work.write("remote.img", &before);
    }
}

/// What a user sends it SIGUSR1 for looks as the error that it ends with.
#[test]
fn how_far_a_process_elsewhere_was_is_not_taken_for_its_last_word() {
    let work = pair();
    let (source, before) = (work.read("local.img"), work.read("remote.img"));
    let writes = format!("echo bdsync target: open; {} \"$@\" >out 2>&1", binary());
    let patches = format!("--patch*) echo 'bdsync: keeping: 9 %' >&2; {writes}; exit 255;;");
    remote_with(&work, &patches);
    for options in [&[][..], &["--undo=undo"]] {
        let words = ["--remote-path=./bdsync", "--report=r", "local.img", "h:remote.img"];
        let out = sync(&work, &[options, &words].concat()).run().expect(6);
        out.says("may still be written to by the bdsync on that host")
            .says("RMTERR: bdsync: keeping: 9 %")
            .says("exited with status 255");
        let report: Value = serde_json::from_slice(&work.read("r")).unwrap();
        assert_eq!(report["target_state"], "unknown", "{report}");
        assert!(work.read("remote.img") == source);
        work.write("remote.img", &before);
    }
}

/// Its environment there may have it keep its warnings to itself.
#[test]
fn what_is_true_of_a_target_elsewhere_does_not_hang_on_what_is_logged_there() {
    let work = pair();
    let mut source = work.read("remote.img");
    source[0] ^= 1;
    source[BYTES - 1] ^= 1;
    work.write("local.img", &source);
    script(&work, "quiet", &format!("RUST_LOG=error exec {} \"$@\"", binary()));
    // The undo patch is small; the end of the target is out of reach.
    let words = "-e ./rsh --remote-path=./quiet --undo=back --report=r local.img h:remote.img";
    let (code, said) = limited_sync(&work, 1000, words);
    assert_eq!(code, 9, "{said}");
    assert!(
        said.contains("h:remote.img may be partly changed: once the cause below is gone"),
        "{said}"
    );
    let report: Value = serde_json::from_slice(&work.read("r")).unwrap();
    assert_eq!(report["target_state"], "partly_changed", "{report}");
    assert!(work.read("remote.img")[0] == source[0]);
}

/// Who takes no more of the patch knows why.
#[test]
fn a_process_that_ends_before_its_patch_is_told_of_by_its_status() {
    let work = pair();
    remote_with(&work, "--patch*) head -c 9; exit 2;;");
    let words = ["--remote-path=./bdsync", "local.img", "h:remote.img"];
    sync(&work, &words).run().expect(2).says("exited with status 2");
}

#[test]
fn whose_status_it_is_that_a_sync_ends_with_is_told() {
    let work = pair();
    let serves = format!("--server) {} \"$@\"; exit 15;;", binary());
    remote_with(&work, &serves);
    let words = ["--remote-path=./bdsync", "local.img", "h:remote.img"];
    let out = sync(&work, &words).run().expect(15);
    out.says("exited with status 15 in the end: so does bdsync").says(", verified");
}

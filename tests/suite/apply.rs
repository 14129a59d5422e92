//! Applying with care: checked first, undoable, verified, and ended at any moment.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Instant;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::images::{Random, changed, random_bytes};
use crate::support::loop_device::LoopDevice;
use crate::support::mounted::SmallDisk;
use crate::support::requirements::{has_traced, holes, loop_devices, program, require, root, skip};
use crate::support::run::{binary, bytes_in_pipe, is_held};
use crate::support::wait::{comes_true, wait_until};
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
fn a_dry_run_ends_as_the_apply_would_and_changes_nothing() {
    let old = random_bytes(1, 200_000);
    let new = changed(&old, 2, 20);
    let work = Workdir::with_pair(&new, &old);
    let before = fs::metadata(work.path("remote.img")).unwrap();
    let sealed = work.patch(&["--seal"]);
    let longer = [&new[..], &[7; 5000]].concat();
    let larger = Workdir::with_pair(&longer, &old).patch(&["-d"]);
    let other = Workdir::with_pair(&new, &changed(&old, 3, 90)).patch(&["--seal"]);
    for (options, patch, code, says) in [
        (&["--report=report"][..], &sealed, 0, " records would be written to remote.img; nothing"),
        (&["-d"], &larger, 0, "which would be extended to 200.2 KiB; nothing changed (--dry-run)"),
        (&["--diffsize=minsize"], &larger, 0, "at most "),
        (&[], &larger, 3, "sizes differ"),
        (&[], &other, 14, "nothing is written"),
        (&[], &sealed[..sealed.len() - 9].to_vec(), 2, "seal"),
        (&["--patch=missing"], &sealed, 12, "missing"),
    ] {
        // As the pipe's, and in a file.
        let words = [&["--dry-run"], options].concat();
        work.apply(&words, patch).expect(code).says(says);
        let target = ["--patch=remote.img"];
        let run = bdsync(target.iter().chain(&words)).in_folder(work.folder());
        run.stdin_file(&work.write("patch", patch)).run().expect(code).says(says);
        assert!(work.read("remote.img") == old, "{words:?}");
    }
    let after = fs::metadata(work.path("remote.img")).unwrap();
    assert_eq!(
        (after.mtime_nsec(), after.ctime_nsec()),
        (before.mtime_nsec(), before.ctime_nsec())
    );
    let report: Value = serde_json::from_slice(&work.read("report")).unwrap();
    assert_eq!((&report["dry_run"], &report["written_bytes"]), (&Value::Bool(true), &Value::Null));
    assert!(report["records"].as_u64() > Some(5), "{report}");
    work.apply(&[], &sealed).expect(0);
    work.apply(&["--dry-run"], &sealed).expect(0).says("remote.img holds the patch already\n");
    for option in ["--undo=u", "--verify"] {
        work.apply(&["--dry-run", option], &sealed).expect(1).says(option.trim_end_matches("=u"));
    }
}

#[test]
fn a_dry_run_says_how_much_would_be_written_and_what_becomes_of_the_size() {
    let old = random_bytes(1, 3 * 4096);
    let mut new = old[..2 * 4096].to_vec();
    new[5000] ^= 1;
    let smaller = Workdir::with_pair(&new, &old).patch(&["-d"]);
    let larger = Workdir::with_pair(&[&old[..], &[7; 4096]].concat(), &old).patch(&["-d"]);
    let work = Workdir::with_pair(&new, &old);
    let would = "4.0 KiB in 1 record would be written to remote.img";
    for (option, patch, says) in [
        ("-d", &smaller, format!("{would}, which would be cut to 8.0 KiB")),
        ("-d", &larger, format!("{would}, which would be extended to 16.0 KiB")),
        // All of it lies within the target, which is larger.
        ("--diffsize=minsize", &smaller, would.to_owned()),
        ("--diffsize=minsize", &larger, format!("at most {would}")),
    ] {
        let out = work.apply(&["--dry-run", option], patch).expect(0);
        let line = format!("bdsync: {says}; nothing changed (--dry-run)");
        assert!(out.stderr_text().lines().any(|said| said == line), "{line}\n{out}");
    }
    work.apply(&["-d", "--report=report"], &smaller).expect(0);
    let report: Value = serde_json::from_slice(&work.read("report")).unwrap();
    assert_eq!(report["dry_run"], Value::Null, "an apply is none");
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
        work.apply(&["-d", "--undo=undo"], &patch).expect(1).says("exists already");
        let undo = work.path("undo");
        // Neither the device nor --diffsize has to be named.
        bdsync(["--patch"]).in_folder(work.folder()).stdin_file(&undo).run().expect(0);
        assert!(work.read("remote.img") == old);
        assert_eq!(fs::metadata(&undo).unwrap().mode() & 0o777, 0o600);
    }
}

/// After a power failure the disk has what came before each fsync(2).
#[test]
fn the_undo_patch_is_on_the_disk_under_its_name_before_the_first_write() {
    require!(program("strace"));
    let before = random_bytes(1, 1 << 20);
    let work = Workdir::with_pair(&changed(&before, 2, 30), &before);
    let patch = work.client(&[]).run().expect(0).stdout;
    let calls = "trace=fsync,fdatasync,renameat2,pwrite64,pwritev,pwritev2";
    let traced = Command::new("strace")
        .args(["-f", "-q", "-y", "-o", "calls", "-e", calls, binary()])
        .args(["--patch=remote.img", "--undo=back"])
        .stdin(File::open(work.write("patch", &patch)).unwrap())
        .current_dir(work.folder())
        .output()
        .expect("cannot run strace");
    if !has_traced(&traced) {
        return;
    }
    let text = String::from_utf8(work.read("calls")).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    let folder = work.folder().canonicalize().unwrap();
    let synced = |path: &Path| {
        let file = format!("{}>)", path.display());
        lines.iter().position(|line| line.contains("sync(") && line.contains(&file))
    };
    let is_write = |line: &&str| line.contains("pwrite") && line.contains("remote.img>");
    let undo =
        lines.iter().position(|line| line.contains("sync(") && line.contains("back.partial-"));
    let named = lines.iter().position(|line| line.contains("renameat2("));
    let order = [
        undo,
        named,
        synced(&folder),
        lines.iter().position(is_write),
        lines.iter().rposition(is_write),
        synced(&folder.join("remote.img")),
    ];
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{order:?}\n{text}");
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
    let options = ["--sparse", "--verify", "-v", "--report=report"];
    work.apply(&options, &patch).expect(0).says("reads back");
    let report: serde_json::Value = serde_json::from_slice(&work.read("report")).unwrap();
    assert_eq!(report["verified"], true);
    assert!(work.read("remote.img") == new);
    require!(holes(work.folder()));
    let blocks = fs::metadata(work.path("remote.img")).unwrap().blocks();
    assert!(blocks * 512 < 2_000_000, "{blocks} blocks are stored");
}

/// A disk that says of every write that it went well, and does none.
#[test]
fn a_write_that_did_not_reach_the_disk_is_found_by_verify_and_can_be_undone() {
    require!(program("strace"));
    let old = random_bytes(1, 20_000);
    let mut new = old.clone();
    new[5000] ^= 1;
    let work = Workdir::with_pair(&new, &old);
    let patch = work.write("patch", &work.patch(&[]));
    let trace = |inject: &[&str]| {
        Command::new("strace")
            .args(["-f", "-q", "-o", "calls", "-e", "trace=pwrite64"])
            .args(inject)
            .args([binary(), "--patch=remote.img", "--verify", "--undo=back", "--report=report"])
            .stdin(File::open(&patch).unwrap())
            .current_dir(work.folder())
            .output()
            .expect("cannot run strace")
    };
    let honest = trace(&[]);
    if !honest.status.success() || work.read("remote.img") != new {
        let stderr = String::from_utf8_lossy(&honest.stderr);
        return skip(&format!("a strace that may trace: {stderr}"));
    }
    work.write("remote.img", &old);
    fs::remove_file(work.path("back")).unwrap();
    let out = trace(&["-e", "inject=pwrite64:retval=4096"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(work.read("remote.img") == old, "strace lets writes through");
    assert_eq!(out.status.code(), Some(5), "{said}");
    for part in [
        "remote.img, bytes [5000, 5001)",
        "all of the patch is written to remote.img, which is NOT what it should be now",
        "to go back: bdsync --patch=remote.img <back",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let report: serde_json::Value = serde_json::from_slice(&work.read("report")).unwrap();
    assert!(report["exit_code"] == 5 && report["verified"] == false, "{report}");
}

#[test]
fn an_apply_that_a_signal_ends_while_it_reads_back_says_what_to_do() {
    require!(program("strace"));
    let (old, new) = (random_bytes(1, 20_000), random_bytes(2, 20_000));
    let work = Workdir::with_pair(&new, &old);
    let patch = work.write("patch", &work.patch(&[]));
    // All is written, and nothing is read back, when it is brought to the disk.
    let apply = |inject: &[&str], options: &[&str]| {
        Command::new("strace")
            .args(["-f", "-q", "-o", "calls", "-e", "trace=fsync"])
            .args(inject)
            .args([binary(), "--patch=remote.img", "--verify"])
            .args(options)
            .stdin(File::open(&patch).unwrap())
            .current_dir(work.folder())
            .output()
            .expect("cannot run strace")
    };
    let honest = apply(&[], &[]);
    if !honest.status.success() {
        let stderr = String::from_utf8_lossy(&honest.stderr);
        return skip(&format!("a strace that may trace: {stderr}"));
    }
    let again = "the same command again writes it once more, and shows if it is right";
    // The undo patch is brought to the disk before, in a file and its folder.
    for (options, call, way) in
        [(&[][..], 1, again), (&["--undo=back"], 3, "to go back: bdsync --patch=remote.img <back")]
    {
        work.write("remote.img", &old);
        let inject = format!("inject=fsync:signal=SIGTERM:when={call}");
        let out = apply(&["-e", &inject], options);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(work.read("remote.img") == new, "{said}");
        assert!(said.contains("all is written: interrupted by SIGTERM"), "{said}");
        assert!(said.contains(way), "{way}: {said}");
    }
}

/// Has the record at `from`, the last one of the patch, go to `to`, at the time when the file was
/// last changed.
fn redirect_last_record(path: &Path, patch: &[u8], from: u64, to: u64) {
    let head = [&from.to_le_bytes()[..], &4096_u16.to_le_bytes()].concat();
    let at = patch.windows(head.len()).rposition(|found| found == head).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    let time = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(&to.to_le_bytes(), at as u64).unwrap();
    file.set_modified(time).unwrap();
}

/// Neither its size nor its time tells.
#[test]
fn a_patch_file_that_changes_unseen_behind_its_check_is_told() {
    const BYTES: usize = 64 << 20;
    let last = BYTES as u64 - 4096;
    let work = Workdir::with_pair(&random_bytes(1, BYTES), &vec![0; BYTES]);
    let patch = work.patch(&[]);
    let target = File::open(work.path("remote.img")).unwrap();
    for attempt in 0.. {
        work.write("remote.img", &vec![0; BYTES]);
        let path = work.write("patch", &patch);
        let apply = bdsync(["--patch", "--report=report"]).in_folder(work.folder());
        let out = apply.stdin_file(&path).run_meanwhile(|child| {
            let pid = Pid::from_raw(child.id().try_into().unwrap());
            let mut block = [0; 4096];
            while block == [0; 4096] {
                if child.try_wait().unwrap().is_some() {
                    return;
                }
                target.read_exact_at(&mut block, 0).unwrap();
            }
            // It writes by now, and shall not come to the end before the file has changed.
            kill(pid, Signal::SIGSTOP).unwrap();
            redirect_last_record(&path, &patch, last, 4096);
            kill(pid, Signal::SIGCONT).unwrap();
        });
        if out.code() == 0 && attempt < 20 {
            // It was at the last record already.
            continue;
        }
        out.expect(2).says("the patch file was changed while it was applied: remote.img has bytes");
        let mut untouched = [1; 4096];
        target.read_exact_at(&mut untouched, last).unwrap();
        assert_eq!(untouched, [0; 4096]);
        break;
    }
}

/// `--patch` of `remote.img`, and what it reads the patch from.
fn apply_from_pipe(work: &Workdir, options: &[&str]) -> (Child, ChildStdin) {
    let mut child = Command::new(binary())
        .arg("--patch")
        .args(options)
        .current_dir(work.folder())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    (child, stdin)
}

#[test]
fn an_interrupted_apply_ends_at_a_record_and_goes_on_later() {
    let old = vec![0; 100_000];
    let new = random_bytes(1, 100_000);
    let signals = [Signal::SIGINT, Signal::SIGTERM];
    // Nothing yet, a part of the header, a part of the records.
    for (signal, sent) in signals.iter().flat_map(|signal| [0, 15, 50_000].map(|n| (*signal, n))) {
        let work = Workdir::with_pair(&new, &old);
        let patch = work.patch(&[]);
        let (child, mut stdin) = apply_from_pipe(&work, &[]);
        stdin.write_all(&patch[..sent]).unwrap();
        wait_until("it reads", || is_held(child.id(), signal) && bytes_in_pipe(&stdin) == 0);
        // As a service manager may send two: they say the same, whichever is seen first.
        let both = [signal, Signal::SIGHUP];
        for signal in both {
            kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        }
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        let told = both.iter().find(|signal| text.contains(signal.as_str()));
        assert_eq!(out.status.code(), told.map(|signal| 128 + *signal as i32), "{text}");
        drop(stdin);
        work.apply(&[], &patch).expect(0);
        assert!(work.read("remote.img") == new);
    }
}

/// Nothing but the end of the patch tells when it is over.
#[test]
fn a_patch_from_a_pipe_that_stays_open_is_applied() {
    let (old, new) = (vec![0; 300_000], random_bytes(1, 300_000));
    let work = Workdir::with_pair(&new, &old);
    for option in ["--seal", "--checksum=sha1"] {
        let patch = work.patch(&[option]);
        let (mut child, mut stdin) = apply_from_pipe(&work, &[]);
        stdin.write_all(&patch).unwrap();
        let status = child.wait().unwrap();
        drop(stdin);
        assert_eq!(status.code(), Some(0), "{option}");
        assert!(work.read("remote.img") == new, "{option}");
        work.write("remote.img", &old);
    }
    // What is there is written although more is to come.
    let patch = work.patch(&[]);
    let (mut child, mut stdin) = apply_from_pipe(&work, &[]);
    stdin.write_all(&patch[..100_000]).unwrap();
    wait_until("it writes", || work.read("remote.img")[..90_000] == new[..90_000]);
    stdin.write_all(&patch[100_000..]).unwrap();
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(work.read("remote.img") == new);
}

#[test]
fn a_second_patch_behind_the_first_one_is_no_part_of_it() {
    let old = random_bytes(1, 100_000);
    let work = Workdir::with_pair(&changed(&old, 2, 3), &old);
    let patch = work.patch(&["--blocksize=512"]);
    let both = work.write("both", &[&patch[..], &patch[..]].concat());
    let call = bdsync(["--patch"]).in_folder(work.folder()).stdin_file(&both);
    call.run().expect(2).says("another patch follows");
    assert!(work.read("remote.img") == old);
    let out = work.apply(&[], &fs::read(both).unwrap()).expect(2).says("another patch follows");
    let said = out.says("the first patch is applied to remote.img").stderr_text();
    assert!(!said.contains("damaged"), "{said}");
    assert!(work.read("remote.img") == work.read("local.img"));
}

#[test]
fn a_new_size_alone_counts_as_written_when_the_end_of_the_patch_shows_that_it_is_damaged() {
    let old = random_bytes(1, 49_152);
    let work = Workdir::with_pair(&[&old[..], &[0; 50_000]].concat(), &old);
    let mut patch = work.patch(&["-d", "--seal"]);
    // A byte of the size.
    patch[12] ^= 1;
    work.apply(&["-d"], &patch).expect(2).says("remote.img was written to before the end");
    assert_ne!(work.read("remote.img").len(), old.len());
}

#[test]
fn one_apply_at_a_time_writes_to_an_image() {
    let (old, new) = (random_bytes(1, 600_000), random_bytes(2, 600_000));
    for options in [&[][..], &["--force"]] {
        let work = Workdir::with_pair(&new, &old);
        let patch = work.patch(&[]);
        let (mut child, mut stdin) = apply_from_pipe(&work, options);
        stdin.write_all(&patch[..500_000]).unwrap();
        let has_begun = comes_true(|| work.read("remote.img") != old);
        let second = bdsync(["--patch"]).in_folder(work.folder()).stdin(&patch).run();
        stdin.write_all(&patch[500_000..]).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success());
        assert!(has_begun);
        second.expect(12).says("remote.img").says("another program has locked it");
        assert!(work.read("remote.img") == new);
        work.apply(&[], &patch).expect(0);
    }
}

/// Whether somebody else has locked the file.
fn is_locked(path: &Path) -> bool {
    let mut lock = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let file = File::options().write(true).open(path).unwrap();
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
    lock.l_type != nix::libc::F_UNLCK as i16
}

/// What waits for a patch that it has to keep first is one, too.
#[test]
fn a_target_is_locked_before_the_patch_is_kept() {
    let work = Workdir::with_pair(&random_bytes(1, 5000), &[0; 5000]);
    let patch = work.patch(&[]);
    let mut command = Command::new(binary());
    command.args(["--patch=remote.img", "--undo=u"]).current_dir(work.folder());
    let mut waiting = command.stdin(Stdio::piped()).spawn().unwrap();
    let fds = format!("/proc/{}/fd", waiting.id());
    let target = work.path("remote.img").canonicalize().unwrap();
    let is_open = || {
        let fds = fs::read_dir(&fds).into_iter().flatten().flatten();
        fds.into_iter().any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == target))
    };
    wait_until("the target is opened", is_open);
    wait_until("the target is locked", || is_locked(&target));
    work.apply(&[], &patch).expect(12).says("locked");
    waiting.stdin.take().unwrap().write_all(&patch).unwrap();
    assert!(waiting.wait().unwrap().success());
    assert!(work.path("u").exists());
}

#[test]
fn what_is_no_patch_is_not_kept() {
    let work = Workdir::with_pair(&[1; 5000], &[0; 5000]);
    for (endless, words) in [("/dev/zero", "not a patch"), ("/dev/full", "not a patch")] {
        let mut command = Command::new("sh");
        let script = "ulimit -f 20000; exec \"$0\" --patch=remote.img --undo=u <\"$1\"";
        command.args(["-c", script]).arg(binary()).arg(endless).current_dir(work.folder());
        let out = command.output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{text}");
        assert!(text.contains(words), "{text}");
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
        let out = apply(&[]).expect(14).says("not in the state").says("--force");
        out.says("the patch was made for size=").says(&format!(", path={target}"));
        assert!(work.read(target) == other);
        apply(&["--force"]).expect(0);
        assert!(work.read(target) == new);
        // Its disk may have lost it: it is written, and what is asked for besides is done.
        let out = apply(&["--verify", "--undo=late", "-v"]).expect(0);
        let out = out
            .says("already: writing it again")
            .says("late will lead back to what the target holds now");
        out.says("are written").says("reads back as it should");
        fs::remove_file(work.path("late")).unwrap();
        work.write(target, &old);
        apply(&["--undo=undo"]).expect(0);
        assert!(work.read(target) == new);
        // As an apply leaves it that was killed.
        work.write(target, &[&new[..500_000], &old[500_000..]].concat());
        apply(&["--dry-run"]).expect(0).says("an earlier apply of this patch was cut short\n");
        let out = apply(&["--undo=later"]).expect(0).says("cut short: going on with it");
        out.says("later will lead back to what the target holds now");
        assert!(work.read(target) == new);
    }
}

#[test]
fn a_sealed_patch_cuts_off_nothing_that_it_does_not_know() {
    let old = random_bytes(1, 20_480);
    for new_bytes in [20_480, 12_288] {
        let new = changed(&old[..new_bytes], 2, 1);
        let work = Workdir::with_pair(&new, &old);
        let patch = work.patch(&["-d", "--seal"]);
        let longer = [&old[..], &[7; 9000]].concat();
        for how in [&["-d"][..], &["-d", "--undo=u"], &["-d", "--dry-run"]] {
            work.write("remote.img", &longer);
            let out = work.apply(&[how, &["--spool=."]].concat(), &patch).expect(14);
            out.says("it had 20480 bytes, and has got data behind them, first in: remote.img");
            assert!(work.read("remote.img") == longer);
        }
        work.apply(&["-dm", "--spool=."], &patch).expect(0);
        assert!(work.read("remote.img") == [&new[..], &longer[new_bytes..]].concat(), "it stays");
        work.write("remote.img", &longer);
        work.apply(&["-d", "--force", "--spool=."], &patch).expect(0);
        assert!(work.read("remote.img") == new);
    }
}

/// The patch has no records for what is missing, nor for what was not there.
#[test]
fn a_sealed_patch_is_refused_where_the_targets_end_is_another_one() {
    let old = random_bytes(1, 20_480);
    let mut new = changed(&old, 2, 1);
    for (new_bytes, bytes, fault) in [
        (20_480, 16_384, "it had 20480 bytes, and has lost: remote.img, bytes [16384, 20480)"),
        (24_576, 22_000, "it had 20480 bytes, and has got data behind them, first in: remote.img"),
    ] {
        new.resize(new_bytes, 0);
        let work = Workdir::with_pair(&new, &old);
        let patch = work.patch(&["-d", "--seal"]);
        let mut other = old.clone();
        other.resize(bytes, 7);
        for how in [&["-d"][..], &["-d", "--undo=u"], &["-d", "--dry-run"], &["-dm"]] {
            work.write("remote.img", &other);
            let out = work.apply(&[how, &["--spool=."]].concat(), &patch).expect(14).says(fault);
            assert!(out.stderr_text().contains("--force applies it all the same"), "{out}");
            assert!(work.read("remote.img") == other);
        }
        work.apply(&["-d", "--spool=.", "--force"], &patch).expect(0);
        // As an apply leaves it that was cut short, and as it was meant.
        other = old.clone();
        other.resize(new_bytes, 0);
        for before in [&other, &old] {
            work.write("remote.img", before);
            work.apply(&["-d", "--spool=."], &patch).expect(0);
            assert!(work.read("remote.img") == new);
        }
    }
}

/// What `src/patch` does with every byte, here with the whole program.
#[test]
fn a_damaged_sealed_patch_is_refused_before_the_first_write_or_told_of() {
    let old = random_bytes(1, 300_000);
    let new = changed(&old, 2, 20);
    let work = Workdir::with_pair(&new, &old);
    let (sealed, plain) = (work.patch(&["--seal", "-csha1"]), work.patch(&["-csha1"]));
    let mut random = Random::new(3);
    for i in 0..60 {
        let mut damaged = sealed.clone();
        // From the beginning, from the end, and from anywhere.
        let limit = if i % 3 == 2 { sealed.len() } else { 700 };
        let at = random.below(limit as u64) as usize;
        let at = if i % 3 == 1 { sealed.len() - 1 - at } else { at };
        damaged[at] ^= 1 << random.below(8);
        if i % 5 == 4 {
            damaged = sealed[..at].to_vec();
        }
        // Cut between its checksum and its seal it is an ordinary patch.
        let is_whole = damaged == plain;
        let damaged_file = work.write("damaged", &damaged);
        let from_file = bdsync(["-p"]).in_folder(work.folder()).stdin_file(&damaged_file).run();
        for out in [from_file, work.apply(&["--spool=."], &damaged)] {
            out.expect(if is_whole { 0 } else { 2 });
            assert!(work.read("remote.img") == if is_whole { &new[..] } else { &old }, "byte {at}");
            work.write("remote.img", &old);
        }
        let out = work.apply(&[], &damaged);
        assert!(if is_whole { out.code() == 0 } else { [2, 3, 12].contains(&out.code()) }, "{out}");
        work.write("remote.img", &old);
    }
}

#[test]
fn a_sealed_patch_from_a_pipe_is_held_against_its_seal_at_its_end() {
    let old = random_bytes(1, 300_000);
    let new = changed(&old, 2, 20);
    let work = Workdir::with_pair(&new, &old);
    let mut sealed = work.patch(&["--seal"]);
    work.apply(&[], &sealed).expect(0).says("warning").says("was not checked").says("--spool");
    assert!(work.read("remote.img") == new);
    let undo = {
        work.write("remote.img", &old);
        work.apply(&["--undo=undo"], &sealed).expect(0);
        work.read("undo")
    };
    let out = work.apply(&[], &undo).expect(0);
    assert!(out.stderr.is_empty(), "an undo patch is for any state: {out}");
    let first = patch_file::parse(&sealed).records[0].1.clone();
    let at = sealed.windows(first.len()).position(|bytes| bytes == first).unwrap();
    sealed[at] ^= 1;
    let out = work.apply(&[], &sealed).expect(2).says("its digest differs");
    out.says("was written to before").says("remote.img").says("--spool");
}

/// The classic applies what has a checksum of any digest.
#[test]
fn a_checksum_of_an_unknown_digest_is_applied_by_force_and_never_silently() {
    let (old, new) = (vec![0; 20_000], random_bytes(3, 20_000));
    let work = Workdir::with_pair(&new, &old);
    let mut patch = work.patch(&[]);
    patch.pop();
    patch.extend(b"\x03md9\x10");
    patch.extend([7; 16]);
    let unknown = "unknown digest, 'md9'";
    work.apply(&["--spool"], &patch).expect(5).says(unknown).says("--force");
    assert!(work.read("remote.img") == old);
    let out = work.apply(&["--spool", "--force"], &patch).expect(0);
    out.says("checksum[md9]: 0707").says(unknown);
    assert!(work.read("remote.img") == new);
    work.write("remote.img", &old);
    work.apply(&[], &patch).expect(5).says(unknown).says("remote.img, but not shown to be right");
    assert!(work.read("remote.img") == new);
}

#[test]
fn a_checksum_of_more_than_the_patch_has_is_no_error_unless_proof_is_asked_for() {
    let small = random_bytes(1, 50_000);
    let large = [&changed(&small, 2, 5)[..], &random_bytes(3, 50_000)].concat();
    // Made of a part of the source, then applied in part.
    let work = Workdir::with_pair(&large, &small);
    let made = work.client(&["-dmin", "-csha1"]).run().expect(0);
    let made = made.says("of all 100000 bytes of the source, 50000 of which are compared");
    let patch = made.stdout;
    let out = work.apply(&["-dmin"], &patch).expect(0);
    out.says("not what the patch promised").says("--verify");
    assert!(work.read("remote.img") == large[..50_000]);
    work.apply(&["-dmin", "--verify"], &patch).expect(5).says("expected sha1").says("found");
    work.apply(&[], &patch).expect(5);
    work.write("remote.img", &large[..20_000]);
    for options in [&["-dmin"][..], &["-dmin", "--verify"]] {
        let out = work.apply(options, &patch).expect(0);
        out.says("not compared: it is of 50000 bytes, 20000 of which the target has");
    }
    // The whole source: then it is compared as ever.
    let work = Workdir::with_pair(&small, &large);
    let patch = work.patch(&["-dmin", "-csha1"]);
    work.apply(&["-dmin", "--verify", "-v"], &patch).expect(0).says("has the patch's checksum");
}

/// What could not be compared at all is not of a larger source.
#[test]
fn a_target_that_cannot_be_read_for_its_checksum_is_an_error_under_minsize_too() {
    require!(program("strace"));
    let work = Workdir::with_pair(&random_bytes(1, 50_000), &random_bytes(2, 50_000));
    let patch = work.write("patch", &work.patch(&["-csha1"]));
    let target = work.path("remote.img").canonicalize().unwrap();
    let trace = |inject: &[&str]| {
        Command::new("strace")
            .args(["-f", "-q", "-o", "calls", "-e", "trace=pread64", "-P"])
            .arg(&target)
            .args(inject)
            .args([binary(), "--patch=remote.img", "-dmin"])
            .stdin(File::open(&patch).unwrap())
            .current_dir(work.folder())
            .output()
            .expect("cannot run strace")
    };
    let honest = trace(&[]);
    if !honest.status.success() || work.read("calls").is_empty() {
        let stderr = String::from_utf8_lossy(&honest.stderr);
        return skip(&format!("a strace that may trace: {stderr}"));
    }
    let out = trace(&["-e", "inject=pread64:error=EIO"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(6), "{said}");
    assert!(said.contains("Input/output error") && said.contains("remote.img"), "{said}");
}

#[test]
fn an_undo_patch_that_finds_no_room_is_told_before_the_first_write() {
    require!(root());
    let Some(small) = SmallDisk::new("256k") else {
        skip("to mount a tmpfs");
        return;
    };
    let full = small.path("undo");
    let old = random_bytes(1, 1_000_000);
    let new = random_bytes(2, 1_000_000);
    let work = Workdir::with_pair(&new, &old);
    let patch = work.patch(&[]);
    let undo = format!("--undo={}", full.display());
    let refused = work.apply(&[&undo], &patch);
    let left = fs::read_dir(small.path("")).unwrap().count();
    let spooled = work.apply(&[&format!("--spool={}", small.path("").display())], &patch);
    // A sparse target on a full disk: written in part, which the undo patch takes back.
    let target = small.path("target");
    File::create(&target).unwrap().set_len(1_000_000).unwrap();
    let target = format!("--patch={}", target.display());
    let apply = || bdsync([&target, "--undo=undo"]).in_folder(work.folder()).stdin(&patch).run();
    let torn = apply();
    // Without any room being made.
    let undo = work.path("undo");
    let undone = bdsync([&target]).stdin_file(&undo).run();
    let restored = fs::read(&target["--patch=".len()..]).unwrap();
    // Where it is not known before the end that it is an undo patch.
    let undo = fs::rename(&undo, work.path("first")).and_then(|()| fs::read(work.path("first")));
    let torn_again = apply();
    let undone_again = bdsync([&target]).stdin(&undo.unwrap()).run();
    let restored_again = fs::read(&target["--patch=".len()..]).unwrap();
    refused.expect(16).says("No space left").says("undo");
    assert_eq!(left, 0);
    spooled.expect(16).says("No space left");
    assert!(work.read("remote.img") == old);
    torn.expect(9)
        .says("No space left")
        .says("same command again without --undo")
        .says("to go back");
    undone.expect(0);
    torn_again.expect(9);
    undone_again.expect(0);
    assert!(restored == vec![0; 1_000_000] && restored_again == restored);
}

#[test]
fn that_many_zeros_behind_a_target_that_was_cut_are_digested_is_told() {
    let work = Workdir::new();
    require!(holes(work.folder()));
    let wrong = patch_file::checksum_field("md5", &[5; 16]);
    let patch = patch_file::build(100_000, "remote.img", &[(0, b"x")], &wrong);
    for (cut_from, is_told) in [((1 << 30) + (8 << 20), true), (1 << 20, false)] {
        File::create(work.path("remote.img")).unwrap().set_len(cut_from).unwrap();
        let out = work.apply(&["-d"], &patch).expect(5).says("not what the patch promised");
        let word = format!("covers zeros up to the {cut_from} bytes that the target had");
        assert_eq!(out.stderr_text().contains(&word), is_told, "{out}");
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
        return skip("an ext4 that can be made and mounted");
    }
    let patch = patch_file::build(16 << 20, device.name(), &[(0, b"x")], &[0]);
    let refused = bdsync(["--patch"]).stdin(&patch).run();
    let unmounted = Command::new("umount").arg(&point).status().unwrap();
    refused.expect(12).says("is mounted on").says("point").says("--force");
    assert!(unmounted.success());
    bdsync(["--patch", "--force"]).stdin(&patch).run().expect(0);
}

#[test]
fn a_write_past_the_largest_file_that_is_allowed_is_an_error_like_others() {
    let (old, new) = (random_bytes(1, 300_000), random_bytes(2, 300_000));
    let work = Workdir::with_pair(&new, &old);
    work.write("patch", &work.patch(&[]));
    let limited = |patch: &str, options: &str| {
        let script = format!("ulimit -f 200; exec {} --patch {options}", binary());
        let input = File::open(work.path(patch)).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", &script]).current_dir(work.folder()).stdin(input);
        let out = command.output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(9), "{text}");
        assert!(text.contains("File too large"), "{text}");
        text
    };
    // The undo patch is too large already.
    assert!(limited("patch", "--undo=undo").contains("undo"));
    assert!(work.read("remote.img") == old);
    let said = limited("patch", "--report=report.json");
    assert!(said.contains("patched in part"), "{said}");
    assert!(
        said.contains("records): once the cause below is gone, apply the patch again to finish"),
        "{said}"
    );
    assert!(work.read("report.json").starts_with(b"{"));
    // Cut off in between, its target may be in neither of the states that it knows.
    work.write("remote.img", &old);
    work.write("sealed", &work.patch(&["--seal"]));
    let said = limited("sealed", "");
    assert!(said.contains("apply the patch again (with --force where it is refused)"), "{said}");
}

#[test]
fn a_target_that_has_grown_without_a_record_is_said_to_be_patched_in_part_and_no_other() {
    let new = random_bytes(2, 20_000);
    for (old_bytes, is_changed) in [(10_000, true), (20_000, false)] {
        let work = Workdir::with_pair(&new, &random_bytes(1, old_bytes));
        let patch = work.patch(&["-d"]);
        // The header, and a part of the first record.
        let cut = &patch[..b"BDSYNC 0.3\n".len() + 8 + 2 + "remote.img".len() + 20];
        let out = work.apply(&["-d"], cut).expect(2);
        assert_eq!(work.read("remote.img").len(), 20_000);
        assert_eq!(out.stderr_text().contains("patched in part"), is_changed, "{out}");
    }
}

#[test]
fn a_few_bytes_behind_a_patch_are_told() {
    let work = Workdir::with_pair(&[1; 5000], &[0; 5000]);
    let mut patch = work.patch(&[]);
    patch.extend(b"a note");
    for options in [&[][..], &["--spool"]] {
        let out = work.apply(options, &patch).expect(0);
        out.says("6 bytes behind the patch are ignored");
    }
    assert!(work.read("remote.img") == [1; 5000]);
}

#[test]
fn a_write_that_fails_is_told_while_the_rest_of_the_patch_is_awaited() {
    let (old, new) = (random_bytes(1, 600_000), random_bytes(2, 600_000));
    let work = Workdir::with_pair(&new, &old);
    let patch = work.patch(&[]);
    let script = format!("ulimit -f 100; exec {} --patch", binary());
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .current_dir(work.folder())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // More than it reads before it writes. It may have failed before all of this is sent.
    let _ = stdin.write_all(&patch[..300_000]);
    let has_ended = comes_true(|| child.try_wait().unwrap().is_some());
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(has_ended, "it waits for more of the patch\n{text}");
    assert_eq!(out.status.code(), Some(9), "{text}");
    assert!(text.contains("File too large"), "{text}");
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

/// What was written is a beginning of the patch: the seal knows that state, and no --force is
/// needed. Only where it ends in the first or the last of the seal's parts it could be another one.
#[test]
fn a_sealed_patch_that_was_killed_is_finished_by_the_same_patch() {
    let old = random_bytes(1, 400_000);
    let mut new = old.clone();
    new.chunks_mut(32).for_each(|two_blocks| two_blocks[3] ^= 1);
    let work = Workdir::with_pair(&new, &old);
    let patch = work.write("patch", &work.patch(&["--seal", "--blocksize=16"]));
    let start = || {
        let input = File::open(&patch).unwrap();
        let mut command = Command::new(binary());
        command.arg("-p").current_dir(work.folder()).stdin(input).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let started = Instant::now();
    assert!(start().wait().unwrap().success());
    let whole = started.elapsed();
    let mut random = Random::new(2);
    let again = || bdsync(["-p"]).in_folder(work.folder()).stdin_file(&patch).run();
    let (mut torn, mut at_an_end) = (0, 0);
    for _ in 0..40 {
        work.write("remote.img", &old);
        let mut child = start();
        std::thread::sleep(whole.mul_f64(random.below(1100) as f64 / 1000.0));
        child.kill().unwrap();
        child.wait().unwrap();
        let left = work.read("remote.img");
        torn += u32::from(left != old && left != new);
        let first_old = left.chunks(32).zip(new.chunks(32)).position(|(a, b)| a != b);
        let out = again();
        if out.code() == 14 {
            // 12500 blocks, 128 to a part.
            let is_known = |block| (128..12_500 - 128).contains(&block);
            assert!(first_old.is_some_and(|block| !is_known(block)), "{out}");
            out.says("power failure").says("--force");
            bdsync(["-p", "--force"]).in_folder(work.folder()).stdin_file(&patch).run().expect(0);
            at_an_end += 1;
        } else {
            out.expect(0);
        }
        assert!(work.read("remote.img") == new);
    }
    eprintln!("killed: {torn} in between, {at_an_end} of them in the first or last part");
    // And for sure: at the first block, in the middle, and in the last part.
    for (end, code) in
        [(32, 14), (4128, 0), (200_000, 0), (200_048, 0), (399_968, 14), (400_000, 0)]
    {
        work.write("remote.img", &[&new[..end], &old[end..]].concat());
        again().expect(code);
    }
}

/// By its name there is one then to which nothing was written.
#[test]
fn a_target_that_lost_its_name_while_it_was_written_is_told_of() {
    let (old, new) = (vec![0; 600_000], random_bytes(1, 600_000));
    let work = Workdir::with_pair(&new, &old);
    let patch = work.patch(&[]);
    let (child, mut stdin) = apply_from_pipe(&work, &[]);
    stdin.write_all(&patch[..500_000]).unwrap();
    wait_until("it writes", || work.read("remote.img") != old);
    fs::rename(work.path("remote.img"), work.path("moved")).unwrap();
    work.write("remote.img", &old);
    stdin.write_all(&patch[500_000..]).unwrap();
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(11));
    assert!(String::from_utf8_lossy(&out.stderr).contains("the name leads elsewhere by now"));
    assert!(work.read("moved") == new);
}

/// Its end is in no patch, nor in one that takes it back: none was made.
#[test]
fn the_end_of_a_target_is_cut_off_only_by_a_patch_that_is_whole() {
    let size = 400_000;
    let old = random_bytes(1, size);
    for (option, code) in [("--seal", 2), ("--checksum=sha256", 5)] {
        let work = Workdir::with_pair(&changed(&old, 2, 3), &old);
        let mut patch = work.patch(&[option]);
        let records = patch_file::parse(&patch).records;
        let ends = records.iter().map(|(at, data)| at + data.len() as u64);
        // Behind all records, and before the end.
        let shorter = ends.max().unwrap() + 1;
        assert!(shorter < size as u64);
        patch["BDSYNC 0.3\n".len()..][..8].copy_from_slice(&shorter.to_le_bytes());
        let out = work.apply(&["--diffsize=resize"], &patch).expect(code);
        out.says(&format!("keeps its {size} bytes"));
        assert_eq!(work.read("remote.img").len(), size, "{option}");
        let sound = work.patch(&[option]);
        work.apply(&["--diffsize=resize"], &sound).expect(0);
    }
}

/// Applies `patch` to `remote.img` but for its last `held` bytes, cuts that to `bytes` once it begins
/// with what is `written`, and gives the rest: the exit status, and what was said.
fn cut_meanwhile(
    work: &Workdir,
    options: &[&str],
    patch: &[u8],
    held: usize,
    written: &[u8],
    bytes: u64,
) -> (Option<i32>, String) {
    let mut apply = Command::new(binary())
        .arg("--patch")
        .args(options)
        .current_dir(work.folder())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = apply.stdin.take().unwrap();
    let (begin, rest) = patch.split_at(patch.len() - held);
    stdin.write_all(begin).unwrap();
    wait_until("it writes", || work.read("remote.img").starts_with(written));
    File::options().write(true).open(work.path("remote.img")).unwrap().set_len(bytes).unwrap();
    // It may have ended by then.
    let _ = stdin.write_all(rest);
    drop(stdin);
    let out = apply.wait_with_output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// Cut to its new size it would have zeros there.
#[test]
fn a_target_that_something_else_has_cut_is_not_cut_to_its_new_size() {
    let new = vec![1; 500_000];
    let work = Workdir::with_pair(&new, &[2; 800_000]);
    let patch = work.patch(&["--diffsize=resize"]);
    let (code, said) = cut_meanwhile(&work, &["--diffsize=resize"], &patch, 11, &new, 9);
    assert_eq!(code, Some(11), "{said}");
    assert!(said.contains("expected 800000 bytes, found 9: remote.img"), "{said}");
    assert_eq!(work.read("remote.img").len(), 9);
}

/// Only its end would be cut off, which is the last of all.
#[test]
fn a_target_that_is_as_it_was_is_not_said_to_be_written() {
    let old = random_bytes(1, 100 * 4096);
    let work = Workdir::with_pair(&old[..50 * 4096], &old);
    let patch = work.patch(&["--diffsize=resize", "--checksum=sha256"]);
    let mut other = old.clone();
    other[7] ^= 1;
    work.write("remote.img", &other);
    let patch_file = work.write("p", &patch);
    let options = ["--patch", "--diffsize=resize", "--undo=u", "--report=r"];
    let out = bdsync(options).in_folder(work.folder()).stdin_file(&patch_file).run().expect(5);
    let said = out.says("nothing of remote.img is changed; remove u").stderr_text();
    assert!(!said.contains("is written") && !said.contains("go back"), "{said}");
    let report: Value = serde_json::from_slice(&work.read("r")).unwrap();
    assert_eq!(report["target_state"], "untouched", "{report}");
    assert!(work.read("remote.img") == other);
}

/// What is written behind gives it its size back, and zeros where something was.
#[test]
fn a_target_that_is_cut_while_it_is_written_is_told_of() {
    let size = 800_000;
    let work = Workdir::with_pair(&vec![1; size], &vec![2; size]);
    let patch = work.patch(&[]);
    let (code, said) = cut_meanwhile(&work, &["--report=r"], &patch, 600, &[1; 512], 1000);
    assert_eq!(code, Some(11), "{said}");
    assert!(said.contains("expected 800000 bytes, found 1000: remote.img"), "{said}");
    assert_eq!(work.read("remote.img").len(), 1000);
    assert!(String::from_utf8(work.read("r")).unwrap().contains("\"target_state\": \"resized\""));
}

//! What is told while a run goes on, and what is left on record of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::images::{changed, random_bytes};
use crate::support::mounted::{Mounted, take_away};
use crate::support::patch_file::build;
use crate::support::requirements::{fuse, program, require};
use crate::support::run::{binary, is_held, server_command, shell_command};
use crate::support::wait::wait_until;
use crate::support::{Workdir, bdsync};

fn pair() -> Workdir {
    let remote = random_bytes(1, 2_000_000);
    Workdir::with_pair(&changed(&remote, 2, 50), &remote)
}

fn json(work: &Workdir, name: &str) -> Value {
    serde_json::from_slice(&work.read(name)).expect("JSON")
}

#[test]
fn nothing_is_told_unasked_without_a_terminal() {
    let work = pair();
    let out = work.client(&[]).run().expect(0);
    assert!(out.stderr.is_empty(), "{out}");
    let patch = out.stdout;
    let out = work.apply(&[], &patch).expect(0);
    assert!(out.stderr.is_empty(), "{out}");
}

#[test]
fn json_progress_is_an_object_a_line() {
    let work = pair();
    let other = pair();
    let summed = other.patch(&["--checksum=sha256"]);
    let slow = shell_command("sleep 1.2; exec $BDSYNC --server");
    for out in [
        work.client_through(&["--progress=json"], &slow).run().expect(0),
        work.apply(&["--progress=json"], &work.patch(&[])).expect(0),
        // In the end it is told of what the run is for, not of what came behind it.
        other.client(&["--progress=json", "--checksum=sha256"]).run().expect(0),
        other.apply(&["--progress=json", "--verify"], &summed).expect(0),
    ] {
        let text = out.stderr_text();
        let lines = text.lines().filter(|line| !line.starts_with("checksum["));
        let lines: Vec<Value> =
            lines.map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let last = lines.last().expect("at least the last");
        assert_eq!((&last["percent"], &last["finished"]), (&100.into(), &true.into()), "{out}");
        assert_eq!(last["size_bytes"], 2_000_000);
        assert!(["comparing", "writing"].contains(&last["part"].as_str().unwrap()), "{out}");
        assert!(lines.iter().all(|line| line["part"].is_string()), "{out}");
        assert!(last["diff_bytes"].as_u64() > Some(0), "{out}");
    }
}

/// Whoever waits for `finished` must not take a run for a good one that fails behind its last byte.
#[test]
fn a_run_that_fails_in_the_end_is_never_finished() {
    let work = pair();
    let patch = work.patch(&["--checksum=sha256"]);
    let mut sealed = work.patch(&["--seal"]);
    let middle = sealed.len() / 2;
    sealed[middle] ^= 1;
    work.write("sealed", &sealed);
    let mut other = work.read("remote.img");
    other[1_999_000] ^= 1;
    work.write("remote.img", &other);
    let file = work.write("patch", &patch);
    let ends_with_3 = shell_command("$BDSYNC --server; exit 3");
    for (out, code) in [
        (work.client_through(&["--progress=json"], &ends_with_3).run(), 3),
        (work.apply(&["--progress=json"], &patch), 5),
        (work.apply(&["--progress=json", "--verify"], &patch), 5),
        (
            bdsync(["--patch", "--progress=json"]).in_folder(work.folder()).stdin_file(&file).run(),
            5,
        ),
        (bdsync(["info", "--progress=json", "sealed"]).in_folder(work.folder()).run(), 2),
    ] {
        let out = out.expect(code);
        let lines = out.stderr_text();
        let lines: Vec<Value> =
            lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert!(lines.iter().all(|line| line["finished"] == false), "{out}");
    }
}

#[test]
fn what_is_said_behind_the_progress_stands_on_a_line_of_its_own() {
    let work = pair();
    let ends_with_3 = shell_command("$BDSYNC --server; exit 3");
    let out = work.client_through(&["--progress=noscroll"], &ends_with_3).run().expect(3);
    let text = out.stderr_text();
    let said = text.lines().find(|line| line.contains("the patch is complete"));
    assert!(said.is_some_and(|line| line.starts_with("bdsync: warning: ")), "{out}");

    for progress in ["--progress", "--progress=noscroll"] {
        let sync = ["sync", progress, "local.img", "remote.img"];
        let out = bdsync(sync).in_folder(work.folder()).run().expect(0);
        let text = out.stderr_text();
        assert!(text.contains("PROGRESS:100%"), "{out}");
        let last = text.lines().last().expect("the result");
        assert!(last.starts_with("bdsync: ") && last.ends_with("verified"), "{out}");
    }
}

#[test]
fn sigusr1_is_answered_with_one_line_at_any_time() {
    let work = pair();
    let slow = shell_command("sleep 2; exec $BDSYNC --server");
    let out = work.client_through(&[], &slow).run_meanwhile(|child| {
        wait_until("it watches", || is_held(child.id(), Signal::SIGUSR1));
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGUSR1).unwrap();
    });
    let out = out.expect(0).says("bdsync: not begun yet");
    assert_eq!(out.stderr_text().lines().count(), 1, "{out}");
}

/// What a terminal shows of the script `run`, which ends well; `remote` is its variable REMOTE.
fn in_terminal(work: &Workdir, remote: &str) -> String {
    let out = Command::new("script")
        .args(["-qec", "sh run", "/dev/null"])
        .env("REMOTE", remote)
        .env("TERM", "xterm")
        .current_dir(work.folder())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{shown}");
    shown
}

#[test]
fn a_terminal_gets_a_bar_that_leaves_no_trace_in_stdout() {
    require!(program("script"));
    let work = pair();
    let slow = shell_command("$BDSYNC --server | { sleep 1; cat; }");
    work.write(
        "run",
        format!("exec {} \"$REMOTE\" local.img remote.img >patch", binary()).as_bytes(),
    );
    let shown = in_terminal(&work, &slow);
    assert!(shown.contains("of 1.91 MiB"), "{shown}");
    assert!(work.read("patch") == work.patch(&[]));
}

/// As the client's bar, of a scan that a mount does unasked.
#[test]
fn the_scan_of_a_mount_shows_a_bar_on_a_terminal() {
    require!(program("script"), fuse());
    let work = pair();
    fs::create_dir(work.path("mnt")).unwrap();
    // The opening passes, then the answers wait for a while.
    let slow =
        shell_command("$BDSYNC --server | { dd bs=1 count=200 status=none; sleep 1.5; cat; }");
    let text = format!(
        "{} mount --scan=background \"$REMOTE\" local.img remote.img mnt & mount=$!\n\
         until [ -e mnt/patch ]; do kill -0 $mount || exit 1; sleep 0.05; done\n\
         kill -USR1 $mount; cat mnt/patch >patch; kill $mount; wait $mount",
        binary()
    );
    work.write("run", text.as_bytes());
    let out = Command::new("timeout")
        .args(["60", "script", "-qec", "sh run", "/dev/null"])
        .env("REMOTE", slow)
        .env("TERM", "xterm")
        .current_dir(work.folder())
        .output();
    take_away(&work.path("mnt"));
    let out = out.unwrap();
    let shown = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{shown}");
    for part in ["is mounted at", "of 1.91 MiB", "% of 1.9 MiB done"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(work.read("patch") == work.patch(&[]));
}

/// The link is gone in the middle: nobody is told that all has been compared.
#[test]
fn a_scan_that_fails_is_never_finished() {
    require!(fuse());
    let work = pair();
    fs::create_dir(work.path("mnt")).unwrap();
    // The opening passes.
    let server = shell_command("$BDSYNC --server | dd bs=1 count=200 status=none");
    let (local, remote) = (work.path("local.img"), work.path("remote.img"));
    let args = ["--scan=background", "-Pjson", &server];
    let args = [&args[..], &[local.to_str().unwrap(), remote.to_str().unwrap()]].concat();
    let mut mounted = Mounted::start(&args, &work.path("mnt"));
    mounted.wait_until("the scan fails", |mounted| {
        let status = fs::read(mounted.path("status.json")).unwrap();
        serde_json::from_slice::<Value>(&status).unwrap()["scan"] == "failed"
    });
    // Then the last line is out.
    mounted.wait_until("nobody watches it any more", |mounted| {
        let threads = fs::read_dir(format!("/proc/{}/task", mounted.pid())).unwrap();
        let names = threads.flatten().flat_map(|thread| fs::read(thread.path().join("comm")));
        !names.into_iter().any(|name| name.starts_with(b"scan progress"))
    });
    mounted.signal(Signal::SIGTERM);
    mounted.ended();
    assert!(!mounted.said().contains("\"finished\":true"), "{}", mounted.said());
}

#[test]
fn an_idle_mount_says_what_it_knows() {
    require!(fuse());
    let stored = crate::support::mounted::Stored::new(5, 2_000_000);
    let mut mounted = stored.mount(&[]);
    mounted.signal(Signal::SIGUSR1);
    mounted.wait_until("it answers", |mounted| mounted.said().contains("1.9 MiB compared"));
    mounted.signal(Signal::SIGTERM);
    assert!(mounted.ended().success());

    let work = pair();
    fs::create_dir(work.path("mnt")).unwrap();
    let server = server_command(&[]);
    let (local, remote) = (work.path("local.img"), work.path("remote.img"));
    let args = [&server, local.to_str().unwrap(), remote.to_str().unwrap()];
    let mut mounted = Mounted::start(&args, &work.path("mnt"));
    mounted.signal(Signal::SIGUSR1);
    mounted.wait_until("it answers", |mounted| mounted.said().contains("of 1.9 MiB compared"));
    assert_eq!(mounted.said().matches("compared").count(), 1, "{}", mounted.said());
    mounted.signal(Signal::SIGTERM);
    assert!(mounted.ended().success());
}

#[test]
fn info_and_squash_tell_their_progress() {
    let work = pair();
    let patch = work.patch(&["--compress=zstd"]);
    work.write("p", &patch);
    for words in [&["info", "--progress=json", "p"][..], &["squash", "-Pjson", "p", "p"]] {
        let out = bdsync(words).in_folder(work.folder()).run().expect(0);
        let text = out.stderr_text();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).expect("JSON");
        assert_eq!((&last["percent"], &last["finished"]), (&100.into(), &true.into()), "{out}");
        assert!(last["diff_bytes"].as_u64() > Some(100_000), "{out}");
    }
    let out = bdsync(["info", "p"]).in_folder(work.folder()).run().expect(0);
    assert!(out.stderr.is_empty(), "{out}");
    // Of a pipe nobody knows the size.
    let out = bdsync(["info", "-Pjson"]).in_folder(work.folder()).stdin(&patch).run().expect(0);
    let last: Value = serde_json::from_str(out.stderr_text().lines().last().unwrap()).unwrap();
    assert_eq!((&last["percent"], &last["size_bytes"]), (&Value::Null, &Value::Null), "{out}");
    assert_eq!((&last["position_bytes"], &last["finished"]), (&patch.len().into(), &true.into()));
}

/// What is alike is not said to differ, though a patch of nothing has a header.
#[test]
fn differing_bytes_are_told_and_the_classics_lines_tell_those_of_the_patch() {
    let work = pair();
    work.write("remote.img", &work.read("local.img"));
    let client = |option: &str| {
        let words = [option, &server_command(&[]), "local.img", "remote.img"];
        let out = bdsync(words).in_folder(work.folder()).run().expect(0);
        out.stderr_text().lines().last().unwrap().to_owned()
    };
    let last: Value = serde_json::from_str(&client("-Pjson")).unwrap();
    assert_eq!(last["diff_bytes"], 0, "{last}");
    let line = client("--progress");
    let header_bytes = "BDSYNC 0.3\n".len() + 10 + "remote.img".len();
    assert!(line.starts_with(&format!("PROGRESS:100%,{header_bytes},")), "{line}");
}

#[test]
fn zeros_that_squash_writes_out_are_part_of_what_it_has_to_do() {
    let work = Workdir::new();
    work.write("a", &build(1000, "d", &[(0, b"a")], &[0]));
    work.write("b", &build(50_000_000, "d", &[], &[0]));
    let squash = bdsync(["squash", "-Pjson", "a", "b"]).in_folder(work.folder());
    let out = squash.run().expect(0).says("up to 47.7 MiB of zeros will be written out");
    let text = out.stderr_text();
    let line = text.lines().rfind(|line| line.contains("writing")).unwrap();
    let size_bytes = serde_json::from_str::<Value>(line).unwrap()["size_bytes"].as_u64().unwrap();
    assert!((out.stdout.len() as u64..51_000_000).contains(&size_bytes), "{size_bytes}");
}

/// But the bar, which draws no more than it was told to.
#[test]
fn a_patch_in_a_pipe_has_a_bar_of_its_own_form() {
    require!(program("script"));
    let work = pair();
    work.write("p", &work.patch(&[]));
    work.write("run", format!("cat p | {} squash - >q", binary()).as_bytes());
    let shown = in_terminal(&work, "");
    assert!(!shown.contains('\u{2591}'), "{shown}");
}

#[test]
fn a_report_of_stored_patches_tells_what_was_read_and_made() {
    let work = pair();
    work.patch(&["--report=client.json", "--checksum=sha256"]);
    let client = json(&work, "client.json");
    let patch = work.patch(&["--checksum=sha256"]);
    work.write("p", &patch);
    for words in [&["info", "--report=r", "p"][..], &["squash", "--report=r", "p", "p"]] {
        bdsync(words).in_folder(work.folder()).run().expect(0);
        let report = json(&work, "r");
        assert_eq!((&report["mode"], &report["exit_code"]), (&words[0].into(), &0.into()));
        assert_eq!(report["patches"].as_array().unwrap().len(), words.len() - 2);
        assert_eq!(report["patches"][0]["size_bytes"], patch.len());
        assert_eq!(report["patches"][0]["identity"]["kind"], "file");
        assert_eq!(report["target"]["path"], "remote.img");
        assert_eq!(report["target"]["size_bytes"], 2_000_000);
        for field in ["patch_bytes", "differing_bytes", "checksum"] {
            assert_eq!(report[field], client[field], "{field} of {}", words[0]);
        }
    }
    work.write("cut", &patch[..patch.len() / 2]);
    bdsync(["info", "--report=r", "cut"]).in_folder(work.folder()).run().expect(2);
    let report = json(&work, "r");
    assert_eq!((&report["exit_code"], &report["faults"]), (&2.into(), &1.into()));
}

#[test]
fn a_report_of_a_mount_tells_what_was_compared() {
    require!(fuse());
    let work = pair();
    fs::create_dir(work.path("mnt")).unwrap();
    let (local, remote) = (work.path("local.img"), work.path("remote.img"));
    let report = format!("--report={}", work.path("r").display());
    let args = [&report, &server_command(&[]), local.to_str().unwrap(), remote.to_str().unwrap()];
    let mut mounted = Mounted::start(&args, &work.path("mnt"));
    let patch = fs::read(mounted.path("patch")).unwrap();
    mounted.signal(Signal::SIGTERM);
    assert!(mounted.ended().success());
    let live = json(&work, "r");
    assert_eq!((&live["mode"], &live["compared_bytes"]), (&"mount".into(), &2_000_000.into()));
    assert_eq!(live["patch_bytes"], patch.len());
    assert_eq!((&live["direction"], &live["hash"]), (&"push".into(), &"blake3".into()));
    assert_eq!(live["source"]["path"], local.to_str().unwrap());
    assert!(live["differing_bytes"].as_u64() > Some(0), "{live}");
    assert!(live["wire_received_bytes"].as_u64() > Some(0), "{live}");

    let patch = work.patch(&["--checksum=sha256"]);
    work.write("p", &patch);
    let from = format!("--from={}", work.path("p").display());
    let args = [&report, &from, remote.to_str().unwrap()];
    let mut mounted = Mounted::start(&args, &work.path("mnt"));
    mounted.signal(Signal::SIGTERM);
    assert!(mounted.ended().success());
    let stored = json(&work, "r");
    assert_eq!(stored["patches"][0]["size_bytes"], patch.len());
    assert_eq!(stored["target"]["identity"]["kind"], "file");
    assert!(stored["records"].as_u64() > Some(0), "{stored}");
    assert_eq!(stored["differing_bytes"], live["differing_bytes"]);
    assert_eq!(stored["checksum"]["name"], "sha256");
}

#[test]
fn a_report_tells_what_a_client_and_an_apply_did() {
    let work = pair();
    let patch = work.patch(&["--report=client.json", "--checksum=sha256"]);
    let report = json(&work, "client.json");
    assert_eq!(report["mode"], "client");
    assert_eq!((&report["exit_code"], &report["error"]), (&0.into(), &Value::Null));
    assert_eq!(report["compared_bytes"], 2_000_000);
    assert_eq!(report["patch_bytes"], patch.len());
    assert_eq!(report["checksum"]["name"], "sha256");
    assert_eq!(report["source"]["identity"]["kind"], "file");
    assert!(report["wire_received_bytes"].as_u64() > Some(0));
    work.apply(&["--report=patch.json"], &patch).expect(0);
    let applied = json(&work, "patch.json");
    assert_eq!(applied["mode"], "patch");
    assert_eq!(applied["target"]["path"], "remote.img");
    assert_eq!(applied["written_bytes"], report["differing_bytes"]);
    assert_eq!(applied["checksum"], report["checksum"]);
}

#[test]
fn a_report_is_written_of_failures_and_by_servers_too() {
    let work = pair();
    let out = work.client_through(&["--report=r"], "sh -c 'exit 3'").run().expect(6);
    let report = json(&work, "r");
    assert_eq!(report["exit_code"], 6);
    assert!(out.stderr_text().contains(report["error"].as_str().unwrap()), "{out}");
    let server = server_command(&["--report=s"]);
    work.client_through(&[], &server).run().expect(0);
    let report = json(&work, "s");
    assert_eq!((&report["mode"], &report["exit_code"]), (&"server".into(), &0.into()));
    assert_eq!(report["source"]["path"], "remote.img");
    bdsync(["sync", "--report=y", "local.img", "remote.img"])
        .in_folder(work.folder())
        .run()
        .expect(0);
    let report = json(&work, "y");
    assert_eq!((&report["direction"], &report["verified"]), (&"local".into(), &true.into()));
}

#[test]
fn a_report_of_an_apply_that_failed_tells_what_is_true_of_the_target() {
    let work = pair();
    let patch = work.patch(&["--checksum=sha256"]);
    let half = &patch[..patch.len() / 2];
    let mut other = patch.clone();
    *other.last_mut().unwrap() ^= 1;
    for (options, patch, code, expected) in [
        (&[][..], half, 2, "partly_changed"),
        (&["--spool"], half, 2, "untouched"),
        (&["--undo=undo"], &patch, 1, "untouched"),
        (&[], &other, 5, "unequal"),
    ] {
        work.write("undo", b"of another run");
        work.apply(&[&["--report=r"], options].concat(), patch).expect(code);
        assert_eq!(json(&work, "r")["target_state"], expected, "{options:?}");
    }
}

#[test]
fn a_report_says_which_disks_were_compared_and_by_what() {
    let work = pair();
    let inode = |name: &str| Value::from(fs::metadata(work.path(name)).unwrap().ino());
    let words = ["sync", "--dry-run", "--report=y", "local.img", "remote.img"];
    bdsync(words).in_folder(work.folder()).run().expect(0);
    work.client(&["--report=c", "--hash=md5", "--blocksize=8192"]).run().expect(0);
    for (name, dry_run, direction, hash, block_bytes, target) in [
        ("y", true.into(), "local", "blake3", 4096, inode("remote.img")),
        // On another host nobody asked for it.
        ("c", Value::Null, "push", "md5", 8192, Value::Null),
    ] {
        let report = json(&work, name);
        assert_eq!(report["dry_run"], dry_run, "{report}");
        assert_eq!((&report["direction"], &report["hash"]), (&direction.into(), &hash.into()));
        assert_eq!(report["block_bytes"], block_bytes);
        assert_eq!(report["source"]["identity"]["inode"], inode("local.img"));
        assert_eq!(report["target"]["identity"]["inode"], target);
        for (side, file) in [("source", "local.img"), ("target", "remote.img")] {
            assert_eq!(report[side]["path"], file);
            assert_eq!(report[side]["size_bytes"], fs::metadata(work.path(file)).unwrap().len());
        }
    }
}

#[test]
fn a_report_that_cannot_be_written_is_exit_9() {
    let work = pair();
    work.client(&["--report=/no/such/folder/r"]).run().expect(9).says("cannot write the report");
}

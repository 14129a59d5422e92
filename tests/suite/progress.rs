//! What is told while a run goes on, and what is left on record of it.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::images::{changed, random_bytes};
use crate::support::requirements::{program, require};
use crate::support::run::{binary, server_command, shell_command};
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
    let slow = shell_command("sleep 1.2; exec $BDSYNC --server");
    for out in [
        work.client_through(&["--progress=json"], &slow).run().expect(0),
        work.apply(&["--progress=json"], &work.patch(&[])).expect(0),
    ] {
        let text = out.stderr_text();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let last = lines.last().expect("at least the last");
        assert_eq!((&last["percent"], &last["finished"]), (&100.into(), &true.into()), "{out}");
        assert_eq!(last["size_bytes"], 2_000_000);
        assert!(last["diff_bytes"].as_u64() > Some(0), "{out}");
    }
}

#[test]
fn sigusr1_is_answered_with_one_line_at_any_time() {
    let work = pair();
    let slow = shell_command("sleep 2; exec $BDSYNC --server");
    let out = work.client_through(&[], &slow).run_meanwhile(|child| {
        std::thread::sleep(Duration::from_millis(700));
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGUSR1).unwrap();
    });
    let out = out.expect(0).says("bdsync: not begun yet");
    assert_eq!(out.stderr_text().lines().count(), 1, "{out}");
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
    let out = Command::new("script")
        .args(["-qec", "sh run", "/dev/null"])
        .env("REMOTE", slow)
        .env("TERM", "xterm")
        .current_dir(work.folder())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{shown}");
    assert!(shown.contains("of 1.91 MiB"), "{shown}");
    assert!(work.read("patch") == work.patch(&[]));
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
fn a_report_that_cannot_be_written_is_exit_9() {
    let work = pair();
    work.client(&["--report=/no/such/folder/r"]).run().expect(9).says("cannot write the report");
}

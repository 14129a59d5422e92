//! Where a report may go: through links, into streams, never over what the run works on.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use serde_json::Value;

use bdsync::wire::Message;

use crate::support::images::{changed, random_bytes};
use crate::support::loop_device::LoopDevice;
use crate::support::patch_file;
use crate::support::raw_server::RawServer;
use crate::support::requirements::{loop_devices, require, root};
use crate::support::run::{binary, is_held, server_command};
use crate::support::wait::{ended_within, wait_until};
use crate::support::{Workdir, bdsync};

const SIZE: usize = 100_000;

fn pair() -> Workdir {
    let remote = random_bytes(1, SIZE);
    Workdir::with_pair(&changed(&remote, 2, 5), &remote)
}

fn parsed(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap_or_else(|err| panic!("{err}: {}", text.escape_ascii()))
}

/// A remote command that says nothing, and ends with its client.
const SILENT: &str = "sh -c 'cat >/dev/null'";

/// Nobody may ever come to read it.
#[test]
fn the_wait_for_a_reader_of_the_report_ends_by_a_signal() {
    for mode in ["--patch=remote.img", "sync", SILENT] {
        let work = pair();
        let patch = work.write("p", &work.patch(&[]));
        nix::unistd::mkfifo(&work.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut command = Command::new(binary());
        command.arg(mode).arg("--report=fifo").current_dir(work.folder()).stderr(Stdio::null());
        if !mode.starts_with("--") {
            command.args(["local.img", "remote.img"]).stdout(Stdio::null());
        }
        let mut child = command.stdin(File::open(&patch).unwrap()).spawn().unwrap();
        // It would else just die of the first one. The others are asked once they wait.
        if mode == SILENT {
            wait_until("it watches", || is_held(child.id(), Signal::SIGTERM));
        } else {
            wait_until("it is done", || work.read("remote.img") == work.read("local.img"));
        }
        let mut ended = None;
        wait_until(&format!("{mode} ends"), || {
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
            ended = ended_within(Duration::from_millis(100), &mut child);
            ended.is_some()
        });
        assert!(!ended.unwrap().success(), "{mode}: {ended:?}");
    }
}

#[test]
fn a_link_to_a_stream_is_written_through_and_stays() {
    let work = pair();
    let link = work.path("link");
    symlink("/proc/self/fd/2", &link).unwrap();
    let log = work.write("log", b"");
    let run = |words: &[&str]| {
        let mut command = Command::new(binary());
        command.args(words).current_dir(work.folder());
        command.stderr(File::create(&log).unwrap()).stdout(Stdio::null());
        command.status().unwrap()
    };
    assert!(run(&["sync", "--report=link", "local.img", "remote.img"]).success());
    let text = String::from_utf8(fs::read(&log).unwrap()).unwrap();
    let begin = text.find('{').expect("the report");
    assert!(text[..begin].contains("verified"), "{text}");
    assert_eq!(parsed(&text.as_bytes()[begin..])["mode"], "sync");
    assert!(link.is_symlink());
    // What fails is told behind the report, and not over it.
    assert_eq!(run(&["sync", "--report=link", "missing", "remote.img"]).code(), Some(12));
    let text = String::from_utf8(fs::read(&log).unwrap()).unwrap();
    let (begin, end) = (text.find('{').unwrap(), text.rfind("}\n").unwrap() + 2);
    assert_eq!(parsed(&text.as_bytes()[begin..end])["exit_code"], 12);
    assert!(text[end..].starts_with("bdsync: "), "{text}");
}

#[test]
fn a_patch_that_is_read_is_not_written_to_as_stdout() {
    let work = pair();
    let patch = work.patch(&[]);
    work.write("p", &patch);
    for words in [&["info", "p"][..], &["squash", "p", "p"]] {
        let stdout = File::options().append(true).open(work.path("p")).unwrap();
        let mut command = Command::new(binary());
        command.args(words).current_dir(work.folder()).stdin(Stdio::null()).stdout(stdout);
        let out = command.stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{words:?}: {said}");
        assert!(said.contains("the patch and standard output are the same file"), "{said}");
        assert!(work.read("p") == patch, "{words:?}");
    }
}

#[test]
fn stdout_is_a_place_for_a_report_but_not_behind_a_patch() {
    let work = pair();
    symlink("/proc/self/fd/1", work.path("out")).unwrap();
    let words = ["sync", "--report=out", "local.img", "remote.img"];
    let out = bdsync(words).in_folder(work.folder()).run().expect(0);
    assert_eq!(parsed(&out.stdout)["mode"], "sync");
    let out = work.client(&["--report=out"]).run().expect(1);
    out.says("standard output and --report are the same file");
    work.client(&["--report=-"]).run().expect(1).says("/dev/stdout");
    // What `info` says there are words.
    work.write("p", &work.patch(&[]));
    let out = bdsync(["info", "--report=out", "p"]).in_folder(work.folder()).run().expect(0);
    assert_eq!(
        parsed(&out.stdout[out.stdout.iter().position(|&byte| byte == b'{').unwrap()..])["mode"],
        "info"
    );
    assert!(work.path("out").is_symlink() && !work.path("-").exists());
}

#[test]
fn a_report_that_cannot_be_written_is_found_out_before_anything_is_done() {
    let work = pair();
    let before = work.read("remote.img");
    let runs: [&[&str]; 3] =
        [&["sync", "local.img", "remote.img"], &["info", "local.img"], &["--patch=remote.img"]];
    for words in runs {
        let words = [words, &["--report=missing/report"]].concat();
        let out = bdsync(words).in_folder(work.folder()).run().expect(9);
        out.says("missing/report").says("No such file");
    }
    assert!(work.read("remote.img") == before);
}

/// Until then `/dev/full` looks like any other stream.
#[test]
fn a_report_that_cannot_be_written_fails_a_run_that_went_well_and_hides_no_other_failure() {
    let work = pair();
    work.write("p", &work.patch(&[]));
    let run = |words: &[&str]| {
        bdsync(words.iter().chain(&["--report=/dev/full"])).in_folder(work.folder()).run()
    };
    let out = run(&["info", "p"]).expect(9).says("No space left");
    out.says("cannot write the report of a run that went well");
    let out = run(&["sync", "missing", "remote.img"]).expect(12).says("missing");
    out.says("No space left");
}

#[test]
fn a_run_that_a_signal_ends_leaves_a_record_and_ends_by_that_signal() {
    let work = pair();
    let runs: [(&str, &[&str]); 4] = [
        // Says nothing, and ends with its client.
        ("client", &["sh -c 'cat >/dev/null'", "local.img", "remote.img"]),
        ("server", &["--server"]),
        ("info", &["info"]),
        ("patch", &["--patch=remote.img"]),
    ];
    for (mode, words) in runs {
        for signal in [Signal::SIGTERM, Signal::SIGHUP] {
            let last_night = work.write("report", b"of last night");
            let mut run = Command::new(binary())
                .args(words)
                .arg("--report=report")
                .current_dir(work.folder())
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // Until it waits for the signal, which it would else just die of.
            let pid = run.id();
            wait_until("it watches", || is_held(pid, signal));
            kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
            // Waiting would close its stdin, which is an end of its own.
            let stdin = run.stdin.take();
            let status = run.wait().unwrap();
            drop(stdin);
            let number = signal as i32;
            let ended = status.signal() == Some(number) || status.code() == Some(128 + number);
            assert!(ended, "{mode}: {status}");
            let record = parsed(&fs::read(&last_night).unwrap());
            assert_eq!(
                (&record["mode"], &record["exit_code"]),
                (&mode.into(), &(128 + number).into())
            );
            assert!(record["error"].as_str().unwrap().contains(signal.as_str()), "{record}");
        }
    }
}

/// Every call is refused, and all files are what they were.
#[test]
fn what_a_run_works_on_is_never_written_over() {
    let work = pair();
    let before = (work.read("local.img"), work.read("remote.img"));
    let patch = work.patch(&[]);
    work.write("p", &patch);
    let own = patch_file::build(9, "self", &[(0, b"x")], &[0]);
    work.write("self", &own);
    let run = |words: &[&str], input: &str| {
        let call = bdsync(words).in_folder(work.folder()).stdin_file(&work.path(input));
        call.run().expect(1).says("are the same file");
        assert!(work.read("p") == patch && work.read("self") == own, "{words:?}");
        let after = (work.read("local.img"), work.read("remote.img"));
        assert!(after == before, "{words:?}");
    };
    run(&["sync", "--report=remote.img", "local.img", "remote.img"], "p");
    run(&["--patch=remote.img", "--report=./remote.img"], "p");
    run(&["--patch", "--report=remote.img"], "p");
    run(&["--patch=self"], "self");
    run(&["--patch"], "self");
    run(&["--patch", "--undo=new", "--report=new"], "p");
    run(&["info", "--svg=p", "p"], "p");
    run(&["info", "--svg=p"], "p");
    run(&["info", "--report=remote.img", "p", "remote.img"], "p");
    run(&["squash", "--report=p", "p", "p"], "p");
    assert!(!work.path("new").exists());
    // As it comes from a pipe, and names its target itself.
    work.apply(&["--report=remote.img"], &patch).expect(1).says("are the same file");
    assert!(work.read("remote.img") == before.1);
}

#[test]
fn a_server_does_not_put_its_report_over_the_device_that_it_is_asked_for() {
    let work = pair();
    let (path, before) = (work.path("remote.img"), work.read("remote.img"));
    let mut server = RawServer::start(&[&format!("--report={}", path.display())]);
    server.send(&Message::Hello("CLIENT 0.5".into()));
    assert!(matches!(server.receive(), Message::Hello(_)));
    server.send(&Message::DevFile(path.as_os_str().as_encoded_bytes().to_vec()));
    assert_eq!(server.ends_within(std::time::Duration::from_secs(10)), 1);
    assert!(work.read("remote.img") == before);
}

#[test]
fn a_block_device_is_no_place_for_a_report_or_a_picture() {
    require!(loop_devices());
    let work = pair();
    let image = work.write("disk", &random_bytes(3, 65536));
    let disk = LoopDevice::attach(&image);
    symlink(disk.path(), work.path("link")).unwrap();
    work.write("p", &work.patch(&[]));
    for words in [["info", "--report=link", "p"], ["info", "--svg=link", "p"]] {
        let out = bdsync(words).in_folder(work.folder()).run().expect(1);
        out.says("names a block device");
    }
    assert!(fs::read(disk.path()).unwrap() == random_bytes(3, 65536));
}

#[test]
fn a_report_that_cannot_be_written_is_told_before_anything_is_done() {
    let old = random_bytes(1, 100_000);
    let work = Workdir::with_pair(&changed(&old, 2, 3), &old);
    let patch = work.patch(&[]);
    let longest = "r".repeat(255);
    for path in [".", "new/", "missing/report", &"r".repeat(256)] {
        let option = format!("--report={path}");
        let out = work.apply(&[&option], &patch).expect(9);
        assert!(work.read("remote.img") == old, "{path}: {out}");
    }
    work.apply(&[&format!("--report={longest}")], &patch).expect(0);
    let report: serde_json::Value = serde_json::from_slice(&work.read(&longest)).unwrap();
    assert_eq!(report["exit_code"], 0);
}

/// As a file that is given into a container.
#[test]
fn a_report_to_a_file_that_is_a_mount_is_written_there() {
    require!(root());
    let work = pair();
    let longer = [b'o'; 10_000];
    let (report, outside) = (work.write("r", b"old"), work.write("outside", &longer));
    let mount = || Command::new("mount").arg("--bind").args([&outside, &report]).status();
    assert!(mount().unwrap().success());
    let out =
        bdsync(["sync", "--report=r", "local.img", "remote.img"]).in_folder(work.folder()).run();
    let written = work.read("r");
    assert!(Command::new("umount").arg(&report).status().unwrap().success());
    out.expect(0);
    let record: Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(record["mode"], "sync");
    assert!(work.read("outside") == written && work.read("r") == b"old");
}

/// Runs `words`, and sends SIGTERM once the file `name` is in the making, as far as that moment can be
/// met; what it ended with.
fn ended_while_in_the_making(work: &Workdir, words: &[&str], name: &str) -> ExitStatus {
    let hidden = format!(".{name}.");
    let mut command = Command::new(binary());
    command.args(words).current_dir(work.folder()).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !has_file(work, &hidden) && child.try_wait().unwrap().is_none() {}
    let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
    let status = child.wait().unwrap();
    assert!(!has_file(work, "."), "{words:?}: a hidden file is left, and {status}");
    status
}

/// Whether there is one whose name begins so.
fn has_file(work: &Workdir, begin: &str) -> bool {
    let names = fs::read_dir(work.folder()).unwrap().map(|entry| entry.unwrap().file_name());
    names.into_iter().any(|name| name.as_encoded_bytes().starts_with(begin.as_bytes()))
}

/// How often that moment is tried to be met.
const TRIES: usize = 20;

#[test]
fn a_signal_while_the_record_is_written_takes_nothing_from_it() {
    let work = pair();
    work.write("p", &work.patch(&[]));
    let server = server_command(&[]);
    let modes: [&[&str]; 3] =
        [&["info", "p"], &["squash", "p", "p"], &[&server, "local.img", "remote.img"]];
    for words in modes {
        for _ in 0..TRIES {
            let words = [words, &["--report=report"]].concat();
            let status = ended_while_in_the_making(&work, &words, "report");
            let record = parsed(&work.read("report"));
            let code = status.code().map(Value::from);
            assert_eq!(Some(&record["exit_code"]), code.as_ref(), "{words:?}: {status}");
            fs::remove_file(work.path("report")).unwrap();
        }
    }
}

#[test]
fn a_signal_while_a_picture_is_made_leaves_nothing_of_it_or_all() {
    let work = pair();
    work.write("p", &work.patch(&[]));
    for report in [&[][..], &["--report=report"]] {
        for _ in 0..TRIES {
            let words = [&["info", "--svg=picture", "p"], report].concat();
            let status = ended_while_in_the_making(&work, &words, "picture");
            assert!(status.success() || status.signal() == Some(15), "{status}");
            if work.path("picture").exists() {
                assert!(work.read("picture").ends_with(b"</svg>\n"), "{status}");
            }
        }
    }
}

/// The error is told last of all; who is to read it does not yet.
#[test]
fn what_is_on_record_is_what_the_run_ends_with_whatever_signal_comes() {
    for words in [&["--patch=missing"][..], &["sync", "missing", "remote.img"]] {
        let work = pair();
        let patch = work.write("p", &work.patch(&[]));
        let (mut said, full) = std::io::pipe().unwrap();
        fcntl(&full, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        while (&full).write(&[b' '; 4096]).is_ok() {}
        fcntl(&full, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        let mut command = Command::new(binary());
        command.args(words).arg("--report=report").current_dir(work.folder());
        command.stdin(File::open(&patch).unwrap()).stderr(full);
        let mut child = command.spawn().unwrap();
        drop(command);
        wait_until("there is a report", || work.path("report").exists());
        for _ in 0..10 {
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
            thread::sleep(Duration::from_millis(20));
        }
        let mut text = String::new();
        said.read_to_string(&mut text).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(12), "{words:?}: {status}, {}", text.trim());
        assert_eq!(parsed(&work.read("report"))["exit_code"], 12, "{words:?}");
    }
}

//! Remote sides that misbehave: always a clear message and the right exit code, never a hang, a
//! panic or exit 0.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::images::{changed, random_bytes};
use crate::support::requirements::{find_program, program, require, root};
use crate::support::run::{binary, server_command, shell_command};
use crate::support::wait::within;
use crate::support::{Output, Workdir, bdsync};

/// Far more than any of these runs needs, far less than a hang.
const LIMIT: Duration = Duration::from_secs(20);

fn pair() -> Workdir {
    let remote = random_bytes(1, 2_000_000);
    Workdir::with_pair(&changed(&remote, 2, 50), &remote)
}

/// A client against a shell script.
fn against(work: &Workdir, options: &[&str], script: &str) -> Output {
    work.client_through(options, &shell_command(script)).within(LIMIT).run()
}

/// Fails unless the one line of `bdsync` itself is there.
#[track_caller]
fn told(out: Output, codes: &[i32]) -> Output {
    assert!(codes.contains(&out.code()), "expected exit {codes:?}\n{out}");
    assert!(!out.stderr_text().contains("panicked"), "{out}");
    let own = out.stderr_text().lines().filter(|line| line.starts_with("bdsync: ")).count();
    assert_eq!(own, 1, "{out}");
    out
}

#[test]
fn a_remote_that_ends_at_once_is_exit_6() {
    for script in ["exit 0", "exit 1", "exec true", "cat >/dev/null & exec >&-; wait"] {
        told(against(&pair(), &["--timeout=10"], script), &[6]);
    }
}

/// A server of which only `bytes` bytes arrive, and then the end of the stream. `dd` passes every
/// byte on at once, and the shell must not keep the pipes open while it waits for the others.
fn cut_server(bytes: u32, then: &str) -> String {
    format!(
        "exec 3<&0; $BDSYNC --server <&3 2>/dev/null | dd bs=1 count={bytes} 2>/dev/null & exec <&- 3<&- >&-; {then}"
    )
}

#[test]
fn a_remote_that_closes_early_is_exit_6() {
    for bytes in [1, 20, 40, 5000] {
        let script = cut_server(bytes, "wait");
        told(against(&pair(), &[], &script), &[6]);
        told(against(&pair(), &["--remdata"], &script), &[6]);
    }
}

#[test]
fn a_remote_that_reads_little_and_ends_is_exit_6() {
    let script = "dd bs=1 count=100 2>/dev/null | $BDSYNC --server 2>/dev/null";
    told(against(&pair(), &[], script), &[6]);
}

#[test]
fn a_remote_that_is_killed_is_told() {
    told(against(&pair(), &[], &cut_server(3000, "sleep 0.2; kill -9 $$")), &[6, 8]);
}

#[test]
fn a_remote_that_talks_garbage_is_exit_4() {
    for script in [
        "echo Welcome to this host, dear user",
        "exec yes",
        "head -c 100000 /dev/zero",
        "printf '\\013\\000\\000\\000\\001SERVER 0.4'; exec sleep 5",
        "printf '\\012\\000\\000\\000\\001SERVER 0.'; exec sleep 5",
        "printf '\\002\\000\\000\\000\\006x'; exec sleep 5",
        "printf '\\001\\000\\000\\000\\007'; exec sleep 5",
        "echo Last login: today; exec $BDSYNC --server",
    ] {
        told(against(&pair(), &["--timeout=10"], script), &[4]);
    }
}

/// What comes before the hello makes it look like a long message, the rest of which never comes.
#[test]
fn a_few_bytes_before_the_hello_are_exit_4_and_shown() {
    let work = pair();
    for (noise, shown) in [
        ("echo", "with \"\\n"),
        ("printf x", "with \"x"),
        ("printf '\\000\\000'", "with \"\\x00\\x00"),
        ("printf '\\040\\000\\000\\000\\001'", "with \" \\x00\\x00\\x00\\x01"),
        ("for byte in H i; do printf $byte; sleep 0.1; done", "with \"Hi"),
    ] {
        let out = told(against(&work, &[], &format!("{noise}; exec $BDSYNC --server")), &[4]);
        out.says(shown).says("login script");
    }
    let input = b"\n\x0b\0\0\0\x01CLIENT 0.5";
    let call = bdsync(["--server"]).stdin(input).within(LIMIT);
    told(call.run(), &[4]).says("with \"\\n");
}

#[test]
fn silence_before_the_hello_leads_to_the_remote_command() {
    for (script, shown) in
        [("exec sleep 60", "1 s (--timeout); "), ("echo; exec sleep 60", "only \"\\n\"; ")]
    {
        let out = told(against(&pair(), &["--timeout=1"], script), &[13]);
        out.says(shown).says("does the remote command start bdsync --server");
    }
}

#[test]
fn a_remote_that_answers_what_was_not_asked_is_exit_4() {
    let hello = "printf '\\013\\000\\000\\000\\001SERVER 0.5'";
    let size = "printf '\\011\\000\\000\\000\\003\\200\\204\\036\\000\\000\\000\\000\\000'";
    for answer in [
        // A block, hashes, a checksum, done and a second size that nobody asked for.
        "'\\012\\000\\000\\000\\011\\000\\000\\000\\000\\000\\000\\000\\000x'",
        "'\\031\\000\\000\\000\\006\\001\\000\\000\\000\\000\\000\\000\\000\\001\\000\\000\\000\
         \\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000'",
        "'\\002\\000\\000\\000\\013x'",
        "'\\001\\000\\000\\000\\007'",
        "'\\011\\000\\000\\000\\003\\001\\000\\000\\000\\000\\000\\000\\000'",
    ] {
        let script = format!("{hello}; {size}; printf {answer}; cat >/dev/null");
        told(against(&pair(), &["--timeout=10"], &script), &[4]);
    }
}

#[test]
fn a_silent_remote_is_exit_13_after_the_timeout() {
    for script in ["exec sleep 60", "$BDSYNC --server | { head -c 40; cat >/dev/null; }"] {
        let out = told(against(&pair(), &["--timeout=1"], script), &[13]);
        assert!(out.elapsed >= Duration::from_millis(900), "{out}");
        out.says("1 s");
    }
}

#[test]
fn a_remote_that_was_given_up_is_ended() {
    let work = pair();
    let script = "echo $$ >pid; exec sleep 60";
    told(against(&work, &["--timeout=1"], script), &[13]);
    expect_gone(&work);
}

/// As sudo does that asks for a password: it runs as root, and no signal of ours reaches it.
#[test]
fn a_remote_that_cannot_be_ended_is_left_alone() {
    require!(root(), program("setpriv"));
    let work = pair();
    let setpriv = find_program("setpriv").unwrap();
    for (from, to) in [(Path::new(binary()), "bdsync"), (&setpriv, "as-root")] {
        // By a process of its own: see the mount that belongs to nobody.
        let copied = Command::new("cp").arg(from).arg(work.path(to)).status();
        assert!(copied.unwrap().success());
    }
    for (name, mode) in [("", 0o755), ("local.img", 0o644), ("as-root", 0o4755)] {
        fs::set_permissions(work.path(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    let waits = "i=0; until test -e end || test $i = 300; do i=$((i + 1)); sleep 0.1; done; >ended";
    let remote = format!("./as-root --reuid=0 --regid=0 --clear-groups sh -c \"{waits}\"");
    let mut client = Command::new("setpriv");
    client.args(["--reuid=65534", "--regid=65534", "--clear-groups", "./bdsync", "--timeout=1"]);
    client.args([&remote, "local.img", "remote.img"]).current_dir(work.folder());
    let out = client.output().unwrap();
    let was_left_alone = !work.path("ended").exists();
    work.write("end", b"");
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(13), "{said}");
    assert!(was_left_alone && said.contains("--timeout"), "{said}");
}

/// The process whose number is in the file `pid` comes to its end, reaped or not.
fn expect_gone(work: &Workdir) {
    let pid = String::from_utf8(work.read("pid")).unwrap();
    let stat = Path::new("/proc").join(pid.trim()).join("stat");
    let is_left = || fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
    // By itself it would end after a minute.
    assert!(within(Duration::from_secs(20), || !is_left()), "process {pid} is left behind");
}

#[test]
fn an_exit_status_that_is_the_remote_commands_own_is_told() {
    let out = against(&pair(), &[], "$BDSYNC --server; exit 7").expect(7);
    out.says("the patch is complete, but the remote command exited with status 7");
}

/// As `ssh` over a link that is dead: it does not see that its stdin was closed.
#[test]
fn a_client_that_a_signal_ends_takes_a_stuck_remote_with_it() {
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGKILL] {
        let work = pair();
        let script = shell_command("echo $$ >pid; exec sleep 60");
        work.client_through(&[], &script).run_meanwhile(|client| {
            work.written_pid();
            kill(Pid::from_raw(client.id().try_into().unwrap()), signal).unwrap();
        });
        expect_gone(&work);
    }
}

#[test]
fn a_remote_that_fills_stderr_for_ever_is_ended_too() {
    told(against(&pair(), &["--timeout=1"], "exec yes noise 3>&1 >&2"), &[13]);
}

#[test]
fn a_slow_but_living_remote_is_waited_for() {
    let work = pair();
    let expected = work.patch(&[]);
    let out = against(&work, &["--timeout=5"], "sleep 1; $BDSYNC --server; sleep 1").expect(0);
    assert!(out.stdout == expected);
}

#[test]
fn a_command_that_cannot_be_started_is_exit_8_and_named() {
    let work = pair();
    for command in ["/nonexistent/bdsync --server", "no-such-program-anywhere", "/etc/passwd"] {
        let name = command.split(' ').next().unwrap();
        told(work.client_through(&[], command).run(), &[8]).says(name);
    }
    told(work.client_through(&[], &work.folder().display().to_string()).run(), &[8]);
}

#[test]
fn a_remote_that_stops_reading_does_not_block_for_ever() {
    let script = "$BDSYNC --server </dev/null 2>/dev/null & exec sleep 60";
    told(against(&pair(), &["--timeout=1"], script), &[6, 13]);
}

#[test]
fn a_remote_device_that_cannot_be_read_is_told() {
    let work = pair();
    for (make, part) in [("missing", "No such file"), ("folder", "director")] {
        fs::remove_file(work.path("remote.img")).ok();
        if make == "folder" {
            fs::create_dir(work.path("remote.img")).unwrap();
        }
        let out = told(work.client(&[]).within(LIMIT).run(), &[6, 12]);
        out.says("RMTERR: ").says(part);
    }
}

#[test]
fn a_local_device_that_cannot_be_opened_is_exit_12_before_anything_is_started() {
    let work = pair();
    fs::remove_file(work.path("local.img")).unwrap();
    told(work.client_through(&[], "touch started").run(), &[12]).says("local.img");
    fs::create_dir(work.path("local.img")).unwrap();
    told(work.client_through(&[], "touch started").run(), &[12]).says("director");
    assert!(!work.path("started").exists());
}

#[test]
fn a_server_whose_client_goes_away_ends() {
    let hello = b"\x0b\0\0\0\x01CLIENT 0.5";
    for input in [&b""[..], &hello[..3], &hello[..7], hello] {
        let out = bdsync(["--server"]).stdin(input).within(LIMIT).run();
        told(out, &[6]);
    }
}

#[test]
fn a_server_whose_client_talks_garbage_is_exit_4() {
    for input in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], b"\x0b\0\0\0\x01CLIENT 0.6"] {
        told(bdsync(["--server"]).stdin(input).within(LIMIT).run(), &[4]);
    }
}

#[test]
fn a_server_with_a_silent_client_ends_after_the_timeout() {
    let call = bdsync(["--server", "--timeout=1"]).silent_stdin();
    told(call.within(LIMIT).run(), &[13]);
}

#[test]
fn a_target_that_cannot_be_opened_is_exit_12() {
    let work = pair();
    let patch = work.patch(&[]);
    for target in ["-pmissing.img", "-p.", "-pmissing/remote.img"] {
        let call = bdsync([target]).in_folder(work.folder()).stdin(&patch);
        told(call.run(), &[12]).says(&target[2..]);
    }
    assert!(!work.path("missing.img").exists(), "a target must not be created");
}

#[test]
fn a_patch_that_is_none_is_exit_2() {
    let work = pair();
    for input in [
        &b""[..],
        b"BDSYNC",
        b"BDSYNC 0.2\n",
        b"BDSYNC 0.3\n",
        b"BDSYNC 0.3\n\0\0\0\0\0\0\0\0\xff\xff",
        &[0; 100],
    ] {
        told(work.apply(&["-d"], input), &[2]);
    }
}

#[test]
fn a_target_on_a_full_disk_is_exit_9() {
    use crate::support::requirements::{require, root};
    require!(root());
    // A target of no size on a device that is always full.
    let patch = crate::support::patch_file::build(10, "/dev/full", &[(0, b"0123456789")], &[0]);
    let out = pair().apply(&["--diffsize=resize"], &patch);
    told(out, &[3, 9, 12]);
}

/// Daemons start what they start with SIGCHLD ignored, and the kernel then keeps no exit status.
#[test]
fn a_run_whose_caller_ignores_the_ends_of_children_ends_well() {
    let work = pair();
    let server = server_command(&[]);
    let mut call = Command::new("env");
    call.args(["--ignore-signal=CHLD", binary(), &server, "local.img", "remote.img"]);
    let out = call.current_dir(work.folder()).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    work.apply(&[], &out.stdout).expect(0);
    assert!(work.read("local.img") == work.read("remote.img"));
}

/// What is left behind has the client's pipes, and says nothing for as long as it lives.
#[test]
fn a_remote_that_ends_and_leaves_a_process_behind_is_exit_6() {
    for begin in ["", "$BDSYNC --server | head -c 40; "] {
        let work = pair();
        let pid = work.path("pid");
        let script = format!("{begin}sleep 1000 & echo $! >{}; exit 3", pid.display());
        // Which would take a minute by itself.
        let call = work.client_through(&["--timeout=3"], &shell_command(&script)).within(LIMIT);
        let out = catch_unwind(AssertUnwindSafe(|| call.run()));
        let pid = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        told(out.unwrap(), &[6]).says("status 3");
    }
}

/// As Ctrl-Z and fg do it: the clock runs on, and what leads to the remote is stopped as well.
#[test]
fn time_in_which_the_client_is_stopped_is_no_silence_of_the_remote() {
    let work = pair();
    let expected = work.patch(&[]);
    // Once the client waits, for longer than the timeout; and when it goes on there is nothing to
    // read yet.
    let script = "sleep 1; kill -STOP $PPID; sleep 7; kill -CONT $PPID; sleep 0.3; \
                  exec $BDSYNC --server";
    let out = against(&work, &["--timeout=6"], script).expect(0);
    assert!(out.stdout == expected);
}

//! How mounts begin and end: signals, umount, users who are in the way, refusals.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getsid};

use crate::support::images::random_bytes;
use crate::support::mounted::{Mounted, SmallDisk, Stored, is_mounted, take_away, umount};
use crate::support::requirements::{
    fuse, fuse_for_users, has_traced, program, require, root, skip,
};
use crate::support::run::{binary, server_command, shell_command};
use crate::support::wait::{comes_true, wait_until};
use crate::support::{Workdir, bdsync};

const SIZE: usize = 1 << 20;
/// Nobody's user and group.
const NOBODY: u32 = 65534;

#[test]
fn umount_ends_the_process_with_success() {
    require!(fuse());
    let stored = Stored::new(1, SIZE);
    let mut mounted = stored.mount(&[]);
    assert!(fs::read(mounted.path("merged")).unwrap() == stored.merged);
    assert!(umount(&stored.at()));
    assert!(mounted.ended().success());
    assert!(!is_mounted(&stored.at()));
}

#[test]
fn signals_unmount_and_that_is_success() {
    require!(fuse());
    let stored = Stored::new(2, SIZE);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        let mut mounted = stored.mount(&[]);
        mounted.signal(signal);
        assert!(mounted.ended().success(), "{signal}");
        assert!(!is_mounted(&stored.at()));
        assert_eq!(mounted.said().lines().count(), 1, "{}", mounted.said());
    }
}

#[test]
fn umount_of_a_busy_mount_is_refused_and_harmless() {
    require!(fuse());
    let stored = Stored::new(3, SIZE);
    let mut mounted = stored.mount(&[]);
    let mut file = File::open(mounted.path("merged")).unwrap();
    assert!(!umount(&stored.at()));
    let mut bytes = vec![];
    file.read_to_end(&mut bytes).unwrap();
    assert!(bytes == stored.merged);
    drop(file);
    // A child that another test has just started may have the file open for a moment.
    mounted.wait_until("it can be unmounted", |_| umount(&stored.at()));
    assert!(mounted.ended().success());
}

/// As timeout(1) sends it: to the process, and to its group.
#[test]
fn signal_to_a_busy_mount_detaches_and_its_users_may_finish() {
    require!(fuse());
    let stored = Stored::new(4, SIZE);
    let mut mounted = stored.mount(&[]);
    let mut file = File::open(mounted.path("merged")).unwrap();
    mounted.signal(Signal::SIGTERM);
    mounted.signal(Signal::SIGTERM);
    mounted.wait_until("it tells", |mounted| mounted.said().contains("still in use"));
    assert!(!is_mounted(&stored.at()), "detached, so that the place is free");
    assert!(mounted.is_running());
    let mut bytes = vec![];
    file.read_to_end(&mut bytes).unwrap();
    assert!(bytes == stored.merged);
    drop(file);
    assert!(mounted.ended().success());
}

/// The kernel reads `merged` of a push itself, from a file system that has no such reads.
#[test]
fn a_reader_past_the_page_cache_is_answered_whatever_lies_below() {
    require!(fuse(), root());
    let Some(disk) = SmallDisk::of("ramfs", "mode=700") else {
        return skip("a ramfs that can be mounted");
    };
    let local = random_bytes(3, SIZE);
    fs::write(disk.path("local"), &local).unwrap();
    fs::write(disk.path("remote"), vec![0; SIZE]).unwrap();
    let at = tempfile::tempdir().unwrap();
    let (server, names) = (server_command(&[]), ["local", "remote"].map(|name| disk.path(name)));
    let args = [&*server, names[0].to_str().unwrap(), names[1].to_str().unwrap()];
    let mut mounted = Mounted::start(&args, at.path());
    let direct = |name: &str| {
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_DIRECT).open(mounted.path(name))
    };
    for name in ["merged", "original"] {
        let mut bytes = vec![];
        direct(name).unwrap().read_to_end(&mut bytes).unwrap();
        assert!(bytes == if name == "merged" { &local[..] } else { &[0; SIZE] }, "{name}");
    }
    mounted.signal(Signal::SIGTERM);
    assert!(mounted.ended().success());
}

#[test]
fn second_signal_ends_a_busy_mount_at_once() {
    require!(fuse());
    let stored = Stored::new(5, SIZE);
    let mut mounted = stored.mount(&[]);
    let mut file = File::open(mounted.path("merged")).unwrap();
    mounted.signal(Signal::SIGINT);
    mounted.wait_until("it tells", |mounted| mounted.said().contains("still in use"));
    assert_eq!(mounted.ended_by_another(Signal::SIGTERM).code(), Some(143));
    mounted.wait_until("it says so", |mounted| {
        mounted.said().contains("ended while the mount was still in use")
    });
    assert!(file.read_to_end(&mut vec![]).is_err());
    assert!(!is_mounted(&stored.at()));
}

/// A tmpfs over the mountpoint. Owner-only, but we are the owner.
fn cover(at: &Path) {
    let over = Command::new("mount").args(["-t", "tmpfs", "over"]).arg(at).status();
    assert!(over.unwrap().success());
}

#[test]
fn another_mount_over_ours_is_not_ours_to_end() {
    require!(fuse(), root());
    let stored = Stored::new(6, SIZE);
    let mut mounted = stored.mount(&[]);
    cover(&stored.at());
    mounted.signal(Signal::SIGTERM);
    mounted.wait_until("it tells", |mounted| mounted.said().contains("another mount covers"));
    fs::write(stored.at().join("alive"), b"x").unwrap();
    assert!(umount(&stored.at()));
    assert!(umount(&stored.at()));
    assert!(mounted.ended().success());
}

#[test]
fn second_signal_under_another_mount_tells_what_it_leaves() {
    require!(fuse(), root());
    let stored = Stored::new(17, SIZE);
    let mut mounted = stored.mount(&[]);
    cover(&stored.at());
    mounted.signal(Signal::SIGTERM);
    mounted.wait_until("it tells", |mounted| mounted.said().contains("another mount covers"));
    assert_eq!(mounted.ended_by_another(Signal::SIGTERM).code(), Some(143));
    mounted.wait_until("it says so", |mounted| mounted.said().contains("unmounted too"));
}

#[test]
fn a_signal_takes_bind_mounts_away_too() {
    require!(fuse(), root());
    let stored = Stored::new(23, SIZE);
    let binds = ["first", "second"].map(|name| stored.work.path(name));
    for way in [Some(Signal::SIGTERM), None] {
        let mut mounted = stored.mount(&[]);
        binds.iter().for_each(|at| fs::create_dir_all(at).unwrap());
        // And twice onto itself.
        for at in binds.iter().chain([&stored.at(), &stored.at()]) {
            let bind = Command::new("mount").arg("--bind").arg(stored.at()).arg(at).status();
            assert!(bind.unwrap().success());
        }
        match way {
            Some(signal) => mounted.signal(signal),
            None => {
                let _ = umount2(&stored.at(), MntFlags::MNT_FORCE);
            }
        }
        let ended = mounted.ended();
        let left: Vec<_> = binds.iter().filter(|at| is_mounted(at)).collect();
        binds.iter().for_each(|at| take_away(at));
        assert!(ended.success(), "{way:?}: {}", mounted.said());
        assert!(left.is_empty() && !is_mounted(&stored.at()), "{way:?}: {left:?}");
    }
}

#[test]
fn second_signal_unmounts_what_is_covered_no_more() {
    require!(fuse(), root());
    let stored = Stored::new(18, SIZE);
    let mut mounted = stored.mount(&[]);
    cover(&stored.at());
    mounted.signal(Signal::SIGTERM);
    mounted.wait_until("it tells", |mounted| mounted.said().contains("another mount covers"));
    assert!(umount(&stored.at()));
    let ended = mounted.ended_by_another(Signal::SIGTERM);
    assert!(ended.success(), "{}", mounted.said());
    assert!(!is_mounted(&stored.at()));
}

#[test]
fn signal_unmounts_below_a_folder_that_was_renamed() {
    require!(fuse());
    let stored = Stored::new(19, SIZE);
    let (old, new) = (stored.work.path("old"), stored.work.path("new"));
    fs::create_dir_all(old.join("mnt")).unwrap();
    let mut mounted = Mounted::start(&stored.source(), &old.join("mnt"));
    fs::rename(&old, &new).unwrap();
    mounted.signal(Signal::SIGTERM);
    let status = mounted.ended();
    let left = is_mounted(&new.join("mnt"));
    take_away(&new.join("mnt"));
    assert!(status.success() && !left, "{}", mounted.said());
    assert_eq!(mounted.said().lines().count(), 1, "{}", mounted.said());
}

#[test]
fn forced_umount_of_a_busy_mount_leaves_no_corpse() {
    require!(fuse(), root());
    let stored = Stored::new(20, SIZE);
    let mut mounted = stored.mount(&[]);
    let file = File::open(mounted.path("merged")).unwrap();
    let umount = Command::new("umount").arg("-f").arg(stored.at()).output().unwrap();
    assert!(!umount.status.success(), "busy");
    assert!(mounted.ended().success(), "{}", mounted.said());
    assert!(!is_mounted(&stored.at()));
    drop(file);
}

/// As where the kernel has no memory left for them. Nobody answers then, and whoever asks would wait.
#[test]
fn requests_that_cannot_be_taken_leave_no_corpse() {
    require!(fuse(), program("strace"));
    let stored = Stored::new(26, SIZE);
    let inject = "inject=read:error=ENOMEM:when=10+";
    let options = ["-P", "/dev/fuse", "-e", "trace=read", "-e", inject];
    let Some(mut command) = traced(&options) else { return };
    command.arg("mount").args(stored.source()).arg(stored.at());
    let mut mounted = Mounted::run(command, &stored.at());
    let status_file = mounted.path("status.json");
    let reader = std::thread::spawn(move || while fs::read(&status_file).is_ok() {});
    assert_eq!(mounted.ended().code(), Some(6), "{}", mounted.said());
    assert!(!is_mounted(&stored.at()), "a dead mount is left");
    mounted.wait_until("it says so", |mounted| mounted.said().contains("the mount has failed"));
    reader.join().unwrap();
}

/// Here on a disk that takes its time.
#[test]
fn a_first_signal_leaves_a_mount_that_was_unmounted_the_time_for_its_report() {
    require!(fuse(), program("strace"));
    let stored = Stored::new(25, SIZE);
    let record = stored.work.path("record");
    let in_the_making = || {
        let names = fs::read_dir(stored.work.folder()).unwrap().map(|one| one.unwrap().file_name());
        names.filter(|name| name.as_encoded_bytes().starts_with(b".record")).count()
    };
    let inject = "inject=fsync,fdatasync:delay_enter=4000000";
    let Some(mut command) = traced(&["-e", "trace=fsync,fdatasync", "-e", inject]) else { return };
    command.arg("mount").arg("--report").arg(&record).args(stored.source()).arg(stored.at());
    let mut mounted = Mounted::run(command, &stored.at());
    assert!(umount(&stored.at()));
    mounted.wait_until("it is written", |_| in_the_making() > 0);
    // As much as would make it another one, had there been one before.
    std::thread::sleep(Duration::from_millis(700));
    mounted.signal(Signal::SIGTERM);
    let status = mounted.ended();
    assert!(status.success() && record.exists(), "{status}: {}", mounted.said());
    assert_eq!(in_the_making(), 0);
}

/// A call of the binary under strace(1), in which the child is bdsync itself; `None`, aloud, where
/// that may not trace.
fn traced(options: &[&str]) -> Option<Command> {
    let quiet = ["-qq", "-o", "/dev/null"];
    if !has_traced(&Command::new("strace").args(quiet).arg("true").output().unwrap()) {
        return None;
    }
    let mut command = Command::new("strace");
    command.args(quiet).args(["-D", "-f"]).args(options).arg(binary());
    Some(command)
}

#[test]
fn too_few_descriptors_are_an_error_that_leaves_no_mount() {
    require!(fuse());
    let stored = Stored::new(21, SIZE);
    let mut refused = 0;
    for (limit, options) in (7..14).flat_map(|limit| [(limit, &[][..]), (limit, &["--daemon"])]) {
        let script = format!("ulimit -n {limit}; exec timeout -s KILL 10 \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh", binary(), "mount"]).args(options);
        command.args(stored.source()).arg(stored.at()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Enough of them, and a mount in the foreground stays.
        let mut text = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut text).unwrap();
        let is_mounted_now = is_mounted(&stored.at());
        if text.contains("is mounted at") || text.is_empty() && is_mounted_now {
            assert!(umount(&stored.at()));
            assert!(child.wait().unwrap().success(), "{limit} {options:?}");
            continue;
        }
        let status = child.wait().unwrap();
        take_away(&stored.at());
        assert_eq!(status.code(), Some(12), "{limit} {options:?}: {text}");
        assert!(!is_mounted_now, "{limit} {options:?}: {text}");
        refused += 1;
    }
    assert!(refused >= 6, "only {refused} runs had too few descriptors");
}

#[test]
fn daemon_returns_when_the_mount_can_be_read() {
    require!(fuse());
    let stored = Stored::new(7, SIZE);
    let mut args = vec!["mount".into(), "--daemon".into()];
    args.extend(stored.source());
    args.push(stored.at().into());
    // Returns at all only when nobody holds the other ends of its pipes any more.
    let out = bdsync(&args).within(Duration::from_secs(20)).run().expect(0);
    assert_eq!(out.stderr_text(), "");
    assert!(fs::read(stored.at().join("merged")).unwrap() == stored.merged);
    let servers = || processes_with(&stored.at());
    let ids = servers();
    assert_eq!(ids.len(), 1);
    let folder = fs::read_link(format!("/proc/{}/cwd", ids[0])).unwrap();
    assert_eq!(folder, Path::new("/"), "no folder is kept busy");
    let daemon = Pid::from_raw(ids[0].cast_signed());
    assert_eq!(getsid(Some(daemon)), Ok(daemon), "no terminal's end is its own");
    assert!(umount(&stored.at()));
    wait_until("no process is left", || servers().is_empty());
}

/// Ids of our processes that have this path among their arguments.
fn processes_with(path: &Path) -> Vec<u32> {
    let ids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    let named = |id: &u32| {
        let words = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let words: Vec<_> = words.split(|byte| *byte == 0).collect();
        words.first() == Some(&binary().as_bytes())
            && words.contains(&path.as_os_str().as_encoded_bytes())
    };
    ids.filter(named).collect()
}

/// Whoever ended it takes it for failed.
#[test]
fn daemon_whose_start_is_ended_does_not_mount_later() {
    require!(fuse());
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let work = Workdir::with_pair(&[1; 5000], &[2; 5000]);
        fs::create_dir(work.path("mnt")).unwrap();
        let script = "echo $$ >pid; while [ ! -e go ]; do sleep 0.05; done; exec $BDSYNC --server";
        let mut start = Command::new(binary())
            .args(["mount", "--daemon", &shell_command(script)])
            .args(["local.img", "remote.img", "mnt"])
            .current_dir(work.folder())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let remote = work.written_pid();
        kill(Pid::from_raw(start.id().cast_signed()), signal).unwrap();
        start.wait().unwrap();
        work.write("go", b"");
        // The server ends without a client.
        wait_until("the remote command ends", || kill(remote, None).is_err());
        assert!(!is_mounted(&work.path("mnt")), "{signal}");
    }
}

/// As of an `ssh` that asks for the password of the host on the way: deaf to what the terminal sends,
/// and no child of ours.
#[test]
fn a_signal_at_the_password_prompt_ends_all_that_could_ask() {
    require!(fuse());
    let script = "trap '' INT; sh -c 'echo $$ >pid; exec sleep 1000'; true";
    for (signal, options) in [
        (Signal::SIGINT, &[][..]),
        (Signal::SIGQUIT, &[]),
        (Signal::SIGTERM, &["--report=record"]),
        (Signal::SIGINT, &["--daemon"]),
        (Signal::SIGINT, &["--daemon", "--report=record"]),
    ] {
        let work = Workdir::with_pair(&[1; 5000], &[2; 5000]);
        fs::create_dir(work.path("mnt")).unwrap();
        let mut mount = Command::new(binary())
            .arg("mount")
            .args(options)
            .args([&shell_command(script), "local.img", "remote.img", "mnt"])
            .current_dir(work.folder())
            .process_group(0)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let asking = work.written_pid();
        killpg(Pid::from_raw(mount.id().cast_signed()), signal).unwrap();
        assert_eq!(mount.wait().unwrap().signal(), Some(signal as i32));
        let is_left = || fs::read(format!("/proc/{asking}/cmdline")).is_ok_and(|c| !c.is_empty());
        if !comes_true(|| !is_left()) {
            let _ = kill(asking, Signal::SIGKILL);
            panic!("{signal} {options:?}: who asks is left behind");
        }
        // It is written before the process that asks is ended.
        let record = fs::read_to_string(work.path("record")).ok();
        assert_eq!(record.is_some(), options.contains(&"--report=record"), "{options:?}");
        let exit_code = format!("\"exit_code\": {}", 128 + signal as i32);
        assert!(record.is_none_or(|text| text.contains(&exit_code)), "{signal} {options:?}");
    }
}

#[test]
fn kill_at_the_first_read_leaves_no_process() {
    end_at_the_first_read(Signal::SIGKILL);
}

/// What has the kernel dump a core, which waits for threads.
#[test]
fn abort_at_the_first_read_leaves_no_process() {
    end_at_the_first_read(Signal::SIGABRT);
}

fn end_at_the_first_read(signal: Signal) {
    require!(fuse(), root());
    let stored = Stored::new(22, SIZE);
    for pause_us in (0..600).step_by(15) {
        let mut command = Command::new(binary());
        command.arg("mount").args(stored.source()).arg(stored.at()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // Without a pause, which would be longer than those that are to be tried.
        while !is_mounted(&stored.at()) {
            assert!(child.try_wait().unwrap().is_none(), "it is not mounted");
        }
        std::thread::sleep(Duration::from_micros(pause_us));
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        if !comes_true(|| child.try_wait().unwrap().is_some()) {
            // Ends the connection, which it waits for.
            let _ = umount2(&stored.at(), MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
            panic!("no signal ends it, {pause_us} us after it was mounted");
        }
        take_away(&stored.at());
    }
}

#[test]
fn daemon_that_cannot_mount_tells_why_and_fails() {
    require!(fuse());
    let stored = Stored::new(8, SIZE);
    stored.work.write("patch", b"no patch at all\n");
    let mut args = vec!["mount".into(), "--daemon".into()];
    args.extend(stored.source());
    args.push(stored.at().into());
    let out = bdsync(&args).run().expect(2);
    assert_eq!(out.stderr_text().lines().count(), 1, "{}", out.stderr_text());
    assert!(!is_mounted(&stored.at()));
}

#[test]
fn a_report_of_a_mount_in_the_background_is_its_own() {
    require!(fuse());
    let stored = Stored::new(4, SIZE);
    let report =
        || -> serde_json::Value { serde_json::from_slice(&stored.work.read("r")).expect("JSON") };
    let call = || {
        let words = ["mount", "--daemon", "--report=r", "--from=patch", "base", "mnt"];
        bdsync(words).in_folder(stored.work.folder()).run()
    };
    call().expect(0);
    let early = stored.work.path("r").exists();
    take_away(&stored.at());
    assert!(!early, "nothing is known of its end yet");
    wait_until("there is a report", || stored.work.path("r").exists());
    let found = report();
    assert_eq!((&found["exit_code"], &found["error"]), (&0.into(), &serde_json::Value::Null));
    assert_eq!(found["target"]["size_bytes"], SIZE);

    stored.work.write("patch", b"no patch at all\n");
    let out = call().expect(2);
    let found = report();
    assert_eq!(found["exit_code"], 2);
    assert!(out.stderr_text().contains(found["error"].as_str().unwrap()), "{out}");
    assert!(!is_mounted(&stored.at()));
}

#[test]
fn places_that_cannot_be_mounted_over_are_refused() {
    require!(fuse());
    let stored = Stored::new(9, SIZE);
    let call = |at: &Path| {
        let mut args = vec!["mount".into()];
        args.extend(stored.source());
        args.push(at.into());
        bdsync(&args).run()
    };
    call(&stored.work.path("missing")).expect(12).says("missing");
    call(&stored.work.path("base")).expect(12).says("no directory");
    // The folder in which the inputs lie, by its own name and through a link.
    call(stored.work.folder()).expect(1).says("would hide");
    std::os::unix::fs::symlink(stored.work.folder(), stored.work.path("link")).unwrap();
    call(&stored.work.path("link")).expect(1).says("would hide");
    assert!(!is_mounted(stored.work.folder()));
    fs::remove_file(stored.work.path("base")).unwrap();
    call(&stored.at()).expect(12).says("base");
}

#[test]
fn what_is_in_the_mountpoint_is_hidden_and_comes_back() {
    require!(fuse());
    let stored = Stored::new(10, SIZE);
    fs::write(stored.at().join("mine"), b"x").unwrap();
    let mut mounted = stored.mount(&[]);
    assert!(!mounted.path("mine").exists());
    mounted.signal(Signal::SIGTERM);
    assert!(mounted.ended().success());
    assert!(stored.at().join("mine").exists());
}

#[test]
fn corpse_of_an_old_mount_is_recognised() {
    require!(fuse(), root());
    let stored = Stored::new(11, SIZE);
    let mut mounted = stored.mount(&[]);
    mounted.signal(Signal::SIGKILL);
    mounted.ended();
    let mut args = vec!["mount".into()];
    args.extend(stored.source());
    args.push(stored.at().into());
    bdsync(&args).run().expect(12).says("umount");
    take_away(&stored.at());
    assert!(stored.mount(&[]).path("merged").exists());
}

#[test]
fn missing_dev_fuse_is_told_with_the_remedy() {
    require!(fuse(), root(), program("unshare"));
    let stored = Stored::new(12, SIZE);
    let script = "mount -t tmpfs none /dev && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh", binary(), "mount"]);
    let out = command.args(stored.source()).arg(stored.at()).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(12), "{text}");
    assert!(text.contains("modprobe fuse"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

/// A stored change that belongs to nobody, and calls of our binary as nobody.
struct AsNobody {
    stored: Stored,
}

impl AsNobody {
    fn new(seed: u64) -> Self {
        let stored = Stored::new(seed, SIZE);
        let folder = stored.work.folder();
        // The binary may lie where only its builder can go.
        // By a process of its own: a child that another test starts meanwhile would have the copy open
        // for writing for a moment, and a file like that is not executed.
        let copied = Command::new("cp").arg(binary()).arg(folder.join("bdsync")).status();
        assert!(copied.unwrap().success());
        for name in ["", "base", "patch", "mnt", "bdsync"] {
            let path = folder.join(name);
            chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        Self { stored }
    }

    fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        let id = format!("--reuid={NOBODY}");
        command.args([&id, &format!("--regid={NOBODY}"), "--clear-groups"]).arg(program);
        command
    }

    fn mount(&self, options: &[&str]) -> Command {
        let mut command = Self::command(self.stored.work.path("bdsync"));
        command.arg("mount").args(options).args(self.stored.source()).arg(self.stored.at());
        command
    }

    fn run(program: &str, path: &Path) -> Output {
        Self::command(program).arg(path).output().unwrap()
    }
}

/// It is found for the mount, and so for its end.
#[test]
fn the_helper_is_found_where_no_path_leads_to_it() {
    require!(fuse_for_users());
    let nobody = AsNobody::new(19);
    let at = nobody.stored.at();
    let mut command = AsNobody::command("env");
    command.arg("PATH=/nonexistent").arg(nobody.stored.work.path("bdsync")).arg("mount");
    command.args(nobody.stored.source()).arg(&at);
    let mut mounted = Mounted::run(command, &at);
    mounted.signal(Signal::SIGTERM);
    assert!(mounted.ended().success(), "{}", mounted.said());
    assert!(!is_mounted(&at));
}

#[test]
fn a_mount_that_cannot_be_taken_away_is_told_of() {
    require!(fuse_for_users());
    let nobody = AsNobody::new(20);
    let at = nobody.stored.at();
    let text = b"#!/bin/sh\nif [ \"$1\" = -u ]; then exit 1; fi\nexec fusermount3 \"$@\"\n";
    let helper = nobody.stored.work.write("helper", text);
    fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = nobody.mount(&[]);
    command.env("FUSERMOUNT_PATH", helper);
    let mut mounted = Mounted::run(command, &at);
    mounted.signal(Signal::SIGTERM);
    mounted.wait_until("it tells", |mounted| mounted.said().contains("cannot be unmounted"));
    assert!(is_mounted(&at));
    assert!(umount(&at));
    assert!(mounted.ended().success(), "{}", mounted.said());
}

#[test]
fn ordinary_user_mounts_reads_and_ends_through_the_helper() {
    require!(fuse_for_users());
    let nobody = AsNobody::new(13);
    let at = nobody.stored.at();
    for end in ["fusermount3 -u", "SIGTERM"] {
        let mut mounted = Mounted::run(nobody.mount(&[]), &at);
        let out = AsNobody::run("cat", &at.join("merged"));
        assert!(out.status.success() && out.stdout == nobody.stored.merged);
        // Not even root may look into it.
        let err = fs::read(at.join("merged")).unwrap_err();
        assert_eq!(err.raw_os_error(), Some(libc::EACCES));
        if end == "SIGTERM" {
            mounted.signal(Signal::SIGTERM);
        } else {
            let mut helper = AsNobody::command("fusermount3");
            assert!(helper.arg("-u").arg(&at).status().unwrap().success());
        }
        assert!(mounted.ended().success(), "{end}: {}", mounted.said());
        assert!(!is_mounted(&at), "{end}");
    }
}

#[test]
fn ordinary_user_detaches_a_busy_mount() {
    require!(fuse_for_users());
    let nobody = AsNobody::new(14);
    let at = nobody.stored.at();
    let mut mounted = Mounted::run(nobody.mount(&[]), &at);
    let script = format!("exec 3<'{}'; echo open; read x; cat <&3", at.join("merged").display());
    let mut holder = AsNobody::command("sh");
    holder.args(["-c", &script]).stdin(Stdio::piped());
    let mut holder = holder.stdout(Stdio::piped()).spawn().unwrap();
    let mut told = [0; 5];
    holder.stdout.as_mut().unwrap().read_exact(&mut told).unwrap();
    mounted.signal(Signal::SIGTERM);
    mounted.wait_until("it tells", |mounted| mounted.said().contains("still in use"));
    assert!(!is_mounted(&at));
    drop(holder.stdin.take());
    let mut bytes = vec![];
    holder.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    holder.wait().unwrap();
    assert!(bytes == nobody.stored.merged);
    assert!(mounted.ended().success());
}

#[test]
fn ordinary_user_without_the_helper_learns_what_is_missing() {
    require!(fuse_for_users());
    let nobody = AsNobody::new(15);
    let mut command = nobody.mount(&[]);
    let out = command.env("FUSERMOUNT_PATH", "/nowhere/fusermount3").output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(12), "{text}");
    assert!(text.contains("fuse3") && text.contains("root"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn other_users_come_in_only_with_allow_other() {
    require!(fuse(), root(), program("setpriv"));
    let nobody = AsNobody::new(16);
    let stored = &nobody.stored;
    for (options, allowed) in
        [(&[][..], false), (&["--allow-root"], false), (&["--allow-other"], true)]
    {
        let mut mounted = stored.mount(options);
        let out = AsNobody::run("cat", &mounted.path("merged"));
        assert_eq!(out.status.success(), allowed, "{options:?}");
        assert_eq!(out.stdout == stored.merged, allowed, "{options:?}");
        mounted.signal(Signal::SIGTERM);
        assert!(mounted.ended().success());
    }
}

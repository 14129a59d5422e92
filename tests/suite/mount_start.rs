//! What a signal makes of a mount that is only starting: nothing, and nothing dead above all.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::Workdir;
use crate::support::mounted::{Stored, is_mounted, take_away, umount};
use crate::support::requirements::{fuse, require};
use crate::support::run::{binary, shell_command, status_field};
use crate::support::wait::{ended, wait_until};

/// How long a mount has to appear that must not.
const TIME_TO_MOUNT: Duration = Duration::from_secs(2);

/// A mount whose remote command waits for the file `go`, and whose record for a reader: a FIFO.
struct Starting {
    work: Workdir,
    child: Child,
    remote: Pid,
    /// Who is to mount: a child of `child` with `--daemon`.
    mounting: u32,
}

impl Starting {
    /// With `then` as what the remote command does once it goes on.
    fn new(options: &[&str], then: &str) -> Self {
        let work = Workdir::with_pair(&[1; 5000], &[2; 5000]);
        fs::create_dir(work.path("mnt")).unwrap();
        nix::unistd::mkfifo(&work.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let script = format!("echo $$ >pid; while [ ! -e go ]; do sleep 0.05; done; {then}");
        let child = Command::new(binary())
            .args(["mount", "--report=fifo"])
            .args(options)
            .args([&shell_command(&script), "local.img", "remote.img", "mnt"])
            .current_dir(work.folder())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(work.path("said")).unwrap())
            .spawn()
            .unwrap();
        let remote = work.written_pid();
        let parent = status_field(remote.as_raw().cast_unsigned(), "PPid").unwrap();
        Self { work, child, remote, mounting: parent.try_into().unwrap() }
    }

    fn signal(&self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
    }

    /// Lets the remote command go on, and gives what waits for it the time to mount.
    #[track_caller]
    fn go_on(&self) {
        self.work.write("go", b"");
        let start = Instant::now();
        while start.elapsed() < TIME_TO_MOUNT {
            assert!(!is_mounted(&self.mountpoint()), "it is mounted all the same");
            // One that is taken away again is not there for long.
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// The record, once somebody reads it, and all that was said.
    fn read(&self) -> (String, String) {
        let record = fs::read_to_string(self.work.path("fifo")).unwrap();
        wait_until("the remote command ends", || kill(self.remote, None).is_err());
        // The other side may have seen the end coming.
        let said = fs::read_to_string(self.work.path("said")).unwrap();
        let own = said.lines().filter(|line| !line.starts_with("RMTERR: "));
        (record, own.collect())
    }

    fn mountpoint(&self) -> std::path::PathBuf {
        self.work.path("mnt")
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let _ = kill(Pid::from_raw(self.mounting.cast_signed()), Signal::SIGKILL);
        }
        take_away(&self.mountpoint());
    }
}

/// Somebody has to read the record before the signal can end the process; meanwhile the other side
/// is there, or has failed.
#[test]
fn nothing_is_mounted_or_told_once_a_signal_ends_the_process() {
    require!(fuse());
    for then in ["exec $BDSYNC --server", "exit 3"] {
        let mut starting = Starting::new(&[], then);
        starting.signal();
        // It has the record to write by then.
        wait_until("the last words", || has_thread(starting.mounting, "last words"));
        starting.go_on();
        let (record, said) = starting.read();
        assert_eq!(ended(&mut starting.child).signal(), Some(15), "{then}: {said}");
        let record: serde_json::Value = serde_json::from_str(&record).expect("one record");
        assert_eq!(record["exit_code"], 143, "{then}");
        assert_eq!(said, "", "{then}");
        assert!(!is_mounted(&starting.mountpoint()), "{then}");
    }
}

/// Of the two processes the user's passes the signal on, and ends behind the other one.
#[test]
fn daemon_with_last_words_to_say_does_not_mount() {
    require!(fuse());
    let mut starting = Starting::new(&["--daemon"], "exec $BDSYNC --server");
    starting.signal();
    wait_until("the last words", || has_thread(starting.mounting, "last words"));
    starting.go_on();
    assert!(starting.child.try_wait().unwrap().is_none());
    let (record, said) = starting.read();
    assert_eq!(ended(&mut starting.child).signal(), Some(15));
    let record: serde_json::Value = serde_json::from_str(&record).expect("one record");
    assert_eq!(record["exit_code"], 143);
    assert_eq!(said, "");
    assert!(!is_mounted(&starting.mountpoint()));
}

/// The user's process stands still from before there is a mount until after it was sent the signal.
#[test]
fn who_waits_for_a_daemon_takes_no_signal_for_the_end_once_there_is_a_mount() {
    require!(fuse());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        let mut starting = Starting::new(&["--daemon"], "exec $BDSYNC --server");
        let waiting = Pid::from_raw(starting.child.id().cast_signed());
        kill(waiting, Signal::SIGSTOP).unwrap();
        starting.work.write("go", b"");
        // What it lets go of last.
        let stderr = format!("/proc/{}/fd/2", starting.mounting);
        wait_until("it is in the background", || {
            fs::read_link(&stderr).is_ok_and(|at| at == Path::new("/dev/null"))
        });
        kill(waiting, signal).unwrap();
        kill(waiting, Signal::SIGCONT).unwrap();
        let status = ended(&mut starting.child);
        let is_there = is_mounted(&starting.mountpoint());
        // The daemon ends once its record is read.
        take_away(&starting.mountpoint());
        starting.read();
        assert!(status.success() && is_there, "{signal}: {status}, mounted: {is_there}");
    }
}

/// Nobody may ever come to read it: of a mount that has failed to start, or has ended.
#[test]
fn the_wait_for_a_reader_of_the_report_ends_by_a_signal() {
    require!(fuse());
    let stored = Stored::new(32, 10_000);
    let fifo = stored.work.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let report = format!("--report={}", fifo.display());
    let end = |pid: u32, is_running: &mut dyn FnMut() -> bool| {
        wait_until("it ends", || {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
            !is_running()
        });
    };
    let mut mounted = stored.mount(&[&report]);
    assert!(umount(&stored.at()));
    end(mounted.pid(), &mut || mounted.is_running());
    fs::write(stored.work.path("patch"), "no patch at all").unwrap();
    let mut child = start(&stored, &[&report]);
    end(child.id(), &mut || child.try_wait().unwrap().is_none());
    assert!(!is_mounted(&stored.at()));
}

/// By proc(5); names are cut after 15 bytes.
fn has_thread(pid: u32, name: &str) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let mut names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.any(|found| found.trim_end() == name)
}

/// Before it watches for signals, while it opens what it shows, while it mounts, and after.
#[test]
fn a_signal_at_any_moment_of_the_start_leaves_no_dead_mount() {
    require!(fuse());
    let stored = Stored::new(31, 100_000);
    for round in 0..60 {
        for options in [&[][..], &["--report=record"]] {
            let mut child = start(&stored, options);
            thread::sleep(Duration::from_micros(round * 150));
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
            let status = ended(&mut child);
            let is_left = is_mounted(&stored.at());
            take_away(&stored.at());
            assert!(!is_left, "round {round}: {status}, and a dead mount");
            assert_eq!(hidden_files(stored.work.folder()), 0, "round {round}: {status}");
        }
    }
}

fn start(stored: &Stored, options: &[&str]) -> Child {
    let mut command = Command::new(binary());
    command.arg("mount").args(options).args(stored.source()).arg(stored.at());
    command.current_dir(stored.work.folder()).stdin(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

fn hidden_files(folder: &Path) -> usize {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.as_encoded_bytes().starts_with(b".")).count()
}

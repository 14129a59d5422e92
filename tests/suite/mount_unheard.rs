//! A mount whose words nobody takes: a terminal after Ctrl-S, a pager, an ssh session that hangs.

use std::fs;
use std::io::{PipeReader, Write};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::Workdir;
use crate::support::mounted::{Mounted, Stored, is_mounted, take_away};
use crate::support::requirements::{fuse, require};
use crate::support::run::{binary, bytes_in_pipe, shell_command};
use crate::support::wait::{ended, ended_within, wait_until};

/// A mount in the folder `mnt` of what a remote command serves, with a pipe for its stderr.
struct Unheard {
    work: Workdir,
    child: Child,
    stderr: (PipeReader, std::io::PipeWriter),
}

impl Unheard {
    fn new(is_full_from_the_beginning: bool) -> Self {
        Self::with(&[], is_full_from_the_beginning)
    }

    fn with(options: &[&str], is_full_from_the_beginning: bool) -> Self {
        let work = Workdir::with_pair(&[1; 100_000], &[2; 100_000]);
        fs::create_dir(work.path("mnt")).unwrap();
        let stderr = std::io::pipe().unwrap();
        if is_full_from_the_beginning {
            fill(&stderr.1);
        }
        let child = Command::new(binary())
            .arg("mount")
            .args(options)
            .arg(shell_command("echo $$ >pid; exec $BDSYNC --server"))
            .args(["local.img", "remote.img", "mnt"])
            .current_dir(work.folder())
            .stdin(Stdio::null())
            .stderr(stderr.1.try_clone().unwrap())
            .spawn()
            .unwrap();
        let unheard = Self { work, child, stderr };
        wait_until("it is mounted", || is_mounted(&unheard.work.path("mnt")));
        unheard
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        take_away(&self.work.path("mnt"));
    }
}

/// Writes as much as fits.
fn fill(mut pipe: &std::io::PipeWriter) {
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    for len in [4096, 1] {
        while pipe.write(&vec![b' '; len]).is_ok() {}
    }
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
}

/// It may have said where it is mounted by then, or why it is not.
#[test]
fn a_second_signal_ends_it() {
    require!(fuse());
    let mut unheard = Unheard::new(true);
    assert_ends_by_signals(&mut unheard.child);
    assert!(!is_mounted(&unheard.work.path("mnt")), "a dead mount is left");
}

/// As of a service manager that is busy, or stopped.
#[test]
fn a_second_signal_ends_it_while_the_service_manager_takes_no_word() {
    require!(fuse());
    let stored = Stored::new(33, 10_000);
    let (manager, at) = (stored.work.path("manager"), stored.at());
    let _manager = UnixDatagram::bind(&manager).unwrap();
    let others = UnixDatagram::unbound().unwrap();
    others.set_nonblocking(true).unwrap();
    while others.send_to(b"x", &manager).is_ok() {}
    let mut command = Command::new(binary());
    command.arg("mount").args(stored.source()).arg(&at).env("NOTIFY_SOCKET", &manager);
    let mut mounted = Mounted::run(command, &at);
    let status = mounted.ended_by_another(Signal::SIGTERM);
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32), "{}", mounted.said());
    assert!(!is_mounted(&at), "a dead mount is left");
}

/// By itself, whoever takes what it says of that.
#[test]
fn a_lost_link_ends_it() {
    require!(fuse());
    let unheard = Unheard::with(&["--end-with-link"], false);
    wait_until("it says where", || bytes_in_pipe(&unheard.stderr.0) > 0);
    fill(&unheard.stderr.1);
    kill(unheard.work.written_pid(), Signal::SIGKILL).unwrap();
    wait_until("it is unmounted", || !is_mounted(&unheard.work.path("mnt")));
}

/// Of its error, which comes last.
#[test]
fn a_second_signal_ends_one_that_cannot_mount() {
    require!(fuse());
    let work = Workdir::with_pair(b"no patch at all", b"base");
    fs::create_dir(work.path("mnt")).unwrap();
    let (_reader, stderr) = std::io::pipe().unwrap();
    fill(&stderr);
    let mut child = Command::new(binary())
        .args(["mount", "--from=local.img", "remote.img", "mnt"])
        .current_dir(work.folder())
        .stdin(Stdio::null())
        .stderr(stderr)
        .spawn()
        .unwrap();
    let says = format!("{} 0x2 ", libc::SYS_write);
    wait_until("it says so", || {
        let call = fs::read_to_string(format!("/proc/{}/syscall", child.id()));
        call.is_ok_and(|call| call.starts_with(&says))
    });
    assert_ends_by_signals(&mut child);
}

#[track_caller]
fn assert_ends_by_signals(child: &mut Child) {
    let pid = Pid::from_raw(child.id().cast_signed());
    let mut look = || {
        kill(pid, Signal::SIGTERM).unwrap();
        ended_within(Duration::from_millis(300), child)
    };
    let status = (0..100).find_map(|_| look()).expect("it is deaf");
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
}

#[test]
fn reads_that_fail_fail_all_the_same() {
    require!(fuse());
    let mut unheard = Unheard::new(false);
    fs::read(unheard.work.path("mnt/status.json")).unwrap();
    fill(&unheard.stderr.1);
    kill(unheard.work.written_pid(), Signal::SIGKILL).unwrap();
    let read = |_| {
        let mut cat = Command::new("cat");
        cat.arg(unheard.work.path("mnt/original")).stdin(Stdio::null()).stdout(Stdio::null());
        cat.stderr(Stdio::null()).spawn().unwrap()
    };
    let mut readers: Vec<_> = (0..8).map(read).collect();
    for reader in &mut readers {
        assert!(!ended(reader).success());
    }
    // With what it has to say it waits for whoever reads it.
    let mut reader = unheard.stderr.0.try_clone().unwrap();
    let drain = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    kill(Pid::from_raw(unheard.child.id().cast_signed()), Signal::SIGTERM).unwrap();
    ended(&mut unheard.child);
    drop(unheard);
    drain.join().unwrap().unwrap();
}

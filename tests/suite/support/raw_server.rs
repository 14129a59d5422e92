//! A server process of ours that a test talks to message by message.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use bdsync::wire::{FrameReader, Message};

use super::run::binary;
use super::wait::ended_within;

/// A running `bdsync --server`. Killed on drop.
pub struct RawServer {
    child: Child,
    input: Option<ChildStdin>,
    output: Option<FrameReader<ChildStdout>>,
}

impl RawServer {
    pub fn start(options: &[&str]) -> Self {
        let mut child = Command::new(binary())
            .arg("--server")
            .args(options)
            .env_remove("RUST_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("cannot start a server");
        let input = child.stdin.take();
        let output = child.stdout.take().map(FrameReader::new);
        Self { child, input, output }
    }

    /// A server that serves `device` and has been told these digests.
    pub fn open(options: &[&str], hello: &str, device: &Path, hash: &str, checksum: &str) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let mut server = Self::start(options);
        server.send(&Message::Hello(hello.into()));
        assert!(matches!(server.receive(), Message::Hello(_)));
        server.send(&Message::DevFile(device.as_os_str().as_bytes().to_vec()));
        assert!(matches!(server.receive(), Message::Size(_)));
        let digests =
            Message::Digests { salt: vec![7; 32], hash: hash.into(), checksum: checksum.into() };
        server.send(&digests);
        server
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    #[track_caller]
    pub fn send(&mut self, message: &Message) {
        assert!(self.try_send(message), "the server does not listen");
    }

    /// Sends; whether the server took it.
    pub fn try_send(&mut self, message: &Message) -> bool {
        let mut bytes = vec![];
        message.encode(&mut bytes).expect("a message that can be sent");
        self.try_send_bytes(&bytes)
    }

    pub fn try_send_bytes(&mut self, bytes: &[u8]) -> bool {
        self.input.as_mut().expect("still open").write_all(bytes).is_ok()
    }

    /// Gives the server's stdin away, for a thread that floods it.
    pub fn take_input(&mut self) -> ChildStdin {
        self.input.take().expect("still open")
    }

    #[track_caller]
    pub fn receive(&mut self) -> Message {
        let output = self.output.as_mut().expect("still open");
        output.expect_message().expect("an answer")
    }

    /// The client vanishes: both pipes are closed.
    pub fn hang_up(&mut self) {
        self.input = None;
        self.output = None;
    }

    /// See [`status_field`](super::run::status_field).
    pub fn status_field(&self, name: &str) -> Option<u64> {
        super::run::status_field(self.pid(), name)
    }

    /// The numbers of a line in `/proc/PID/task/TID/status`, of every thread of the server.
    pub fn status_field_of_threads(&self, name: &str) -> Vec<u64> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("its threads");
        tasks
            .filter_map(|task| {
                // A thread may have ended meanwhile.
                let status = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
                super::run::field_of_status(&status, name)
            })
            .collect()
    }

    /// Waits for the process to end by itself; returns its exit code, 128 and more for a signal.
    #[track_caller]
    pub fn ends_within(&mut self, limit: Duration) -> i32 {
        let status = ended_within(limit, &mut self.child);
        let status = status.unwrap_or_else(|| panic!("the server still runs after {limit:?}"));
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }
}

impl Drop for RawServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

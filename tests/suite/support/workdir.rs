//! A temporary folder with a local and a remote image in it.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use tempfile::TempDir;

use super::run::{Bdsync, Output, bdsync, server_command};
use super::wait::wait_until;

/// A folder that goes away with the test.
pub struct Workdir {
    folder: TempDir,
}

impl Workdir {
    /// An empty folder.
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("no temporary folder") }
    }

    /// A folder with `local.img` and `remote.img`.
    pub fn with_pair(local: &[u8], remote: &[u8]) -> Self {
        let work = Self::new();
        work.write("local.img", local);
        work.write("remote.img", remote);
        work
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("cannot write");
        path
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("cannot read")
    }

    /// The id that a remote command writes into the file `pid`, as a line; waits for it.
    #[track_caller]
    pub fn written_pid(&self) -> Pid {
        let mut pid = None;
        wait_until("the remote command is started", || {
            let text = fs::read_to_string(self.path("pid")).unwrap_or_default();
            pid = text.strip_suffix('\n').map(|pid| Pid::from_raw(pid.parse().expect("an id")));
            pid.is_some()
        });
        pid.expect("it was waited for")
    }

    /// A client call in this folder, `local.img` against `remote.img` through `remote_command`.
    pub fn client_through(&self, options: &[&str], remote_command: &str) -> Bdsync {
        let operands = [remote_command, "local.img", "remote.img"];
        bdsync(options.iter().chain(&operands)).in_folder(self.folder())
    }

    /// A client call against a server of our own.
    pub fn client(&self, options: &[&str]) -> Bdsync {
        self.client_through(options, &server_command(&[]))
    }

    /// The patch that such a call makes.
    #[track_caller]
    pub fn patch(&self, options: &[&str]) -> Vec<u8> {
        self.client(options).run().expect(0).stdout
    }

    /// Applies `patch` to the device that it names, through a pipe.
    #[track_caller]
    pub fn apply(&self, options: &[&str], patch: &[u8]) -> Output {
        bdsync(["--patch"].iter().chain(options)).in_folder(self.folder()).stdin(patch).run()
    }
}

//! Runs the binary, never for longer than a limit, and shows everything when a test fails.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::wait::{comes_true, ended_within};

nix::ioctl_read_bad!(fionread, nix::libc::FIONREAD, i32);

/// No run may take longer: a hang is a failure, not a stuck test.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// The binary under test.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_bdsync")
}

/// A program of `tests/tools`.
pub fn example(name: &str) -> PathBuf {
    Path::new(binary()).with_file_name("examples").join(name)
}

/// A line of `/proc/PID/status`, in kB where it is memory; `None` once the process has ended.
pub fn status_field(pid: u32, name: &str) -> Option<u64> {
    field_of_status(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?, name)
}

/// The number in a line of `status`, a file of that name of proc(5).
pub fn field_of_status(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Whether the process's first thread has `signal` blocked.
pub fn is_held(pid: u32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() & (1 << (signal as i32 - 1)) != 0
}

/// Bytes that were written to a pipe and nobody has read yet.
pub fn bytes_in_pipe(pipe: &impl AsRawFd) -> i32 {
    let mut bytes = 0;
    // SAFETY: FIONREAD stores an int at the address.
    unsafe { fionread(pipe.as_raw_fd(), &mut bytes) }.expect("cannot ask the pipe");
    bytes
}

/// REMSHCMD for a server of our own.
pub fn server_command(options: &[&str]) -> String {
    format!("'{}' --server {}", binary(), options.join(" ")).trim_end().to_owned()
}

/// REMSHCMD for a shell script in which `$BDSYNC` is the binary.
pub fn shell_command(script: &str) -> String {
    let script = script.replace("$BDSYNC", binary());
    // Inside a quoted part the same quote doubled stands for itself (protocol).
    format!("sh -c \"{}\"", script.replace('"', "\"\""))
}

/// A call of the binary with these arguments.
pub fn bdsync<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Bdsync {
    Bdsync {
        program: binary().into(),
        args: args.into_iter().map(|arg| arg.as_ref().to_owned()).collect(),
        folder: None,
        stdin: Input::Null,
        stdout: None,
        limit: RUN_LIMIT,
    }
}

/// What stdin of a call is.
enum Input {
    Null,
    Bytes(Vec<u8>),
    File(PathBuf),
    /// A pipe on which nothing comes, and which is closed only when the process has ended.
    Silent,
}

/// A call that has not been run yet.
pub struct Bdsync {
    program: PathBuf,
    args: Vec<OsString>,
    folder: Option<PathBuf>,
    stdin: Input,
    stdout: Option<PathBuf>,
    limit: Duration,
}

impl Bdsync {
    /// Runs this program in place of the binary.
    pub fn of_program(mut self, path: &Path) -> Self {
        self.program = path.to_owned();
        self
    }

    /// Runs in this folder.
    pub fn in_folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Feeds these bytes through a pipe.
    pub fn stdin(mut self, bytes: &[u8]) -> Self {
        self.stdin = Input::Bytes(bytes.to_vec());
        self
    }

    /// Gives this file as stdin: it can be read twice.
    pub fn stdin_file(mut self, path: &Path) -> Self {
        self.stdin = Input::File(path.to_owned());
        self
    }

    /// Leaves stdin open and says nothing on it.
    pub fn silent_stdin(mut self) -> Self {
        self.stdin = Input::Silent;
        self
    }

    /// Writes stdout to this file or device.
    pub fn stdout_file(mut self, path: &Path) -> Self {
        self.stdout = Some(path.to_owned());
        self
    }

    /// Fails the test when the run takes longer than this.
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs to the end.
    pub fn run(self) -> Output {
        self.run_meanwhile(|_| ())
    }

    /// Runs to the end while `meanwhile` does something to the process.
    pub fn run_meanwhile(mut self, meanwhile: impl FnOnce(&mut Child)) -> Output {
        let shown = self.to_string();
        let started = Instant::now();
        let mut child = self.command().spawn().unwrap_or_else(|err| panic!("{shown}: {err}"));
        let stdin = child.stdin.take();
        let bytes = match &mut self.stdin {
            Input::Bytes(bytes) => Some(std::mem::take(bytes)),
            _ => None,
        };
        let silent = match (stdin, bytes) {
            (Some(mut pipe), Some(bytes)) => {
                // A process that ends early closes its end: that is for the test to judge.
                std::thread::spawn(move || drop(pipe.write_all(&bytes)));
                None
            }
            (pipe, _) => pipe,
        };
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        meanwhile(&mut child);
        let status = ended_within(self.limit, &mut child);
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        drop(silent);
        let mut out = Output {
            shown,
            status,
            stdout: received(&stdout),
            stderr: received(&stderr),
            elapsed: started.elapsed(),
        };
        if out.status.is_none() {
            out.stderr.extend_from_slice(b"\n[still running at the time limit: killed]");
            panic!("{out}");
        }
        out
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_remove("RUST_LOG").stderr(Stdio::piped());
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command.stdin(match &self.stdin {
            Input::Null => Stdio::null(),
            Input::Bytes(_) | Input::Silent => Stdio::piped(),
            Input::File(path) => File::open(path).expect("cannot open the input").into(),
        });
        command.stdout(match &self.stdout {
            None => Stdio::piped(),
            Some(path) => File::options().write(true).open(path).expect("cannot open").into(),
        });
        command
    }
}

impl fmt::Display for Bdsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bdsync")?;
        for arg in &self.args {
            write!(f, " {arg:?}")?;
        }
        match &self.folder {
            Some(folder) => write!(f, "  (in {})", folder.display()),
            None => Ok(()),
        }
    }
}

/// Reads a pipe to its end in the background.
fn collect(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = vec![];
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = sender.send(bytes);
    });
    receiver
}

/// What a pipe held. It must end: a process left behind would keep it open.
fn received(pipe: &Receiver<Vec<u8>>) -> Vec<u8> {
    let mut bytes = None;
    comes_true(|| {
        bytes = pipe.try_recv().ok();
        bytes.is_some()
    });
    bytes.unwrap_or_else(|| b"[the pipe is still open: a process was left behind]".to_vec())
}

/// What a run left.
pub struct Output {
    shown: String,
    status: Option<ExitStatus>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub elapsed: Duration,
}

impl Output {
    /// The exit code; 128 and the number for a signal.
    pub fn code(&self) -> i32 {
        let status = self.status.expect("checked by run");
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    /// Fails unless the run ended with `code`, and without a panic.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert!(!self.stderr_text().contains("panicked"), "{self}");
        assert_eq!(self.code(), code, "{self}");
        self
    }

    /// Fails unless stderr has `part` in it.
    #[track_caller]
    pub fn says(self, part: &str) -> Self {
        assert!(self.stderr_text().contains(part), "stderr lacks {part:?}\n{self}");
        self
    }

    /// stderr as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "command: {}", self.shown)?;
        writeln!(f, "status:  {:?} after {:?}", self.status, self.elapsed)?;
        let head = &self.stdout[..self.stdout.len().min(300)];
        writeln!(f, "stdout:  {} bytes: {}", self.stdout.len(), head.escape_ascii())?;
        write!(f, "stderr:  {}", self.stderr_text())
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

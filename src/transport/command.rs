//! REMSHCMD as a process: started, its stderr drained all the time, waited for, killed.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{self, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use super::Connection;
use super::control::{Control, set_nonblocking, setup_error};
use super::stream::{StreamReader, StreamWriter};
use crate::error::{Error, Kind, Result};
use crate::signals::{end_with_parent, leave_terminal_in, unblock_in};

/// A longer line of the remote's stderr is passed on in pieces of so many bytes.
pub const STDERR_LINE_BYTES_MAX: usize = 4096;

/// How long the remote command may take to end after SIGTERM, before SIGKILL.
const KILL_GRACE: Duration = Duration::from_secs(1);

/// The longest pause between two looks at whether the process has ended.
const WAIT_STEP_MAX: Duration = Duration::from_millis(20);

/// How many more reads of 4 KiB its stderr gets after the process has ended: what it left in
/// the pipe, but not what a process that it left behind prints for ever.
const LAST_READS_MAX: usize = 256;

/// Takes a line of the remote's stderr, without its line end and exactly as it was sent:
/// whoever shows it must escape it. At most [`STDERR_LINE_BYTES_MAX`] bytes. Runs on the
/// draining thread.
pub type StderrSink = Box<dyn FnMut(&[u8]) + Send>;

/// A running or ended REMSHCMD. Dropping it kills and reaps the process.
#[derive(Debug)]
pub struct Remote {
    child: Child,
    program: OsString,
    status: Option<ExitStatus>,
    drain: Option<Drain>,
    /// It did not end by SIGKILL.
    is_left_alone: bool,
}

/// How REMSHCMD ended: the cause of the news that the remote side went away.
#[derive(Clone, Debug)]
pub struct RemoteEnd {
    status: ExitStatus,
    words: String,
}

impl RemoteEnd {
    /// How the command ended whose end `err` tells of.
    #[must_use]
    pub fn of(err: &Error) -> Option<&Self> {
        err.cause()
    }

    /// What the remote bdsync says went wrong, if it was one that ended itself.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        self.status.code().and_then(Kind::of_exit_code)
    }
}

impl fmt::Display for RemoteEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for RemoteEnd {}

/// The thread that reads the process's stderr.
#[derive(Debug)]
struct Drain {
    control: Arc<Control>,
    thread: JoinHandle<()>,
}

/// How long the output of a process that has ended may be silent while an answer is due, before that
/// is its end too: a process that it has left behind may hold the pipe open for ever, and say
/// nothing. It may also be the one that answers, as `setsid` leaves it, and have a slow disk.
const LEFT_BEHIND_GRACE: Duration = Duration::from_secs(60);

/// What a process is started for. Whatever it is, none of its signals is held back, and it is ended
/// when the thread ends that has started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// To be asked and to answer. It stays in our process group, so that an `ssh` in it can ask for
    /// a password, and Ctrl-C reaches it as well as us.
    Session,
    /// The same, but it goes on when its terminal's Ctrl-C or end means another process: see
    /// [`leave_terminal_in`].
    Lasting,
    /// As for a session, but the writer's first flush returns once the process has read what was
    /// written: `ssh` has asked for its password by then.
    Consumer,
}

/// Starts the program and arguments `words` (of REMSHCMD: see
/// [`split_command`](super::split_command)) and connects to its stdin and stdout. Its stderr goes
/// line by line to `stderr_sink`. `timeout` as in [`Control::new`].
///
/// The calling thread has to live as long as the connection is wanted: see [`Manner`].
///
/// # Errors
/// `Kind::Usage` when `words` is empty, `Kind::Spawn` when it cannot be started,
/// `Kind::Connection` when descriptors or threads run out.
pub fn connect(
    words: &[OsString],
    manner: Manner,
    timeout: Option<Duration>,
    stderr_sink: StderrSink,
) -> Result<Connection> {
    connect_minding(LEFT_BEHIND_GRACE, words, manner, timeout, stderr_sink)
}

/// The same; what the process leaves behind may be silent for as long as `grace`.
fn connect_minding(
    grace: Duration,
    words: &[OsString],
    manner: Manner,
    timeout: Option<Duration>,
    stderr_sink: StderrSink,
) -> Result<Connection> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Error::new(Kind::Usage, "the remote command is empty"));
    };
    let control = Control::new(timeout)?;
    let mut command = Command::new(program);
    // std sets SIGPIPE to its default again in the child.
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    unblock_in(&mut command);
    end_with_parent(&mut command);
    if manner == Manner::Lasting {
        leave_terminal_in(&mut command);
    }
    let child = command.spawn().map_err(|e| {
        Error::io(Kind::Spawn, "cannot start the remote command", e).with_path(program)
    })?;
    let mut remote =
        Remote { child, program: program.clone(), status: None, drain: None, is_left_alone: false };
    let missing = || Error::new(Kind::Spawn, "the remote command has no pipes");
    let input = OwnedFd::from(remote.child.stdin.take().ok_or_else(missing)?);
    let output = OwnedFd::from(remote.child.stdout.take().ok_or_else(missing)?);
    let stderr = OwnedFd::from(remote.child.stderr.take().ok_or_else(missing)?);
    for fd in [&input, &stderr] {
        set_nonblocking(fd.as_fd()).map_err(setup_error)?;
    }
    mind_end(&remote.child, &control, grace);
    remote.drain = Some(Drain::start(stderr, stderr_sink)?);
    let writer = match manner {
        Manner::Session | Manner::Lasting => StreamWriter::new(input, control.clone()),
        Manner::Consumer => StreamWriter::confirming(input, control.clone()),
    };
    Ok(Connection {
        reader: Box::new(StreamReader::new(output, control.clone())),
        writer: Box::new(writer),
        control,
        remote: Some(remote),
    })
}

/// Has `control` notice the end of `child` also where a process that it leaves behind holds its
/// stdout open. Nothing is lost but that where descriptors or threads run out. It is only looked at:
/// reaping stays with [`Remote`].
fn mind_end(child: &Child, control: &Control, grace: Duration) {
    let pid = i32::try_from(child.id()).ok().and_then(process::Pid::from_raw);
    let end = pid.and_then(|pid| {
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok();
        pidfd.or_else(|| wait_for_end(pid).ok())
    });
    if let Some(end) = end {
        control.mind(end, grace);
    }
}

/// What stands in for a pidfd before Linux 5.3, or where a filter forbids them: a pipe that is at
/// its end once our child `pid` has ended. A thread waits for that, and leaves the child to be reaped.
fn wait_for_end(pid: process::Pid) -> io::Result<OwnedFd> {
    let (ended, end) = io::pipe()?;
    let wait = move || {
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        // Any other failure means that it is reaped already.
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), how) {}
        drop(end);
    };
    thread::Builder::new().name("remote end".into()).spawn(wait)?;
    Ok(ended.into())
}

impl Remote {
    /// Waits up to `limit` for the process to end by itself; `None`: it has not. Once it has
    /// ended, all that it printed to stderr has been passed on.
    ///
    /// # Errors
    /// `Kind::Spawn` when the system cannot tell.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        // Not by the clock: this process may be stopped meanwhile, and the other with it.
        let (mut left, mut pause) = (limit, Duration::from_millis(1));
        while self.status.is_none() {
            self.status = self.child.try_wait().map_err(|e| self.wait_error(e))?;
            if self.status.is_some() || left.is_zero() {
                break;
            }
            thread::sleep(pause.min(left));
            left = left.saturating_sub(pause);
            pause = (pause * 2).min(WAIT_STEP_MAX);
        }
        if self.status.is_some() {
            self.drain = self.drain.take().and_then(Drain::finish);
        }
        Ok(self.status)
    }

    /// Ends the process if it still runs, with SIGTERM and after a second with SIGKILL, and
    /// reaps it. Returns how it ended. Who runs as another user, as sudo does while it asks for a
    /// password, cannot be ended by us, and is left alone after a second more.
    ///
    /// # Errors
    /// `Kind::Spawn` when it still runs, or the system cannot tell.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.wait(Duration::ZERO)? {
            return Ok(status);
        }
        if self.is_left_alone {
            return Err(self.still_runs());
        }
        // Not reaped yet, so the number is still the child's. A failure shows in the wait.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if let Some(status) = self.wait(KILL_GRACE)? {
            return Ok(status);
        }
        let _ = self.child.kill();
        self.wait(KILL_GRACE)?.ok_or_else(|| {
            self.is_left_alone = true;
            self.still_runs()
        })
    }

    fn still_runs(&self) -> Error {
        let what = "the remote command cannot be ended and still runs, as another user perhaps";
        Error::new(Kind::Spawn, what).with_path(&self.program)
    }

    /// How the process ended, in words, with advice where there is some: "the remote command
    /// exited with status 127 (...)".
    #[must_use]
    pub fn describe(&self, status: ExitStatus) -> String {
        self.describe_as("the remote command", status)
    }

    /// As [`describe`](Self::describe), of what is called `who`.
    #[must_use]
    pub fn describe_as(&self, who: &str, status: ExitStatus) -> String {
        if let Some(number) = status.signal() {
            let name = Signal::try_from(number).map_or("unknown", Signal::as_str);
            return format!("{who} was ended by signal {number} ({name})");
        }
        let code = status.code().unwrap_or(-1);
        let program = Path::new(&self.program).file_name().unwrap_or(&self.program);
        let advice = match code {
            // socat, say, has no other way to put it.
            0 => " (if it leads to a server's socket, the log there says why)",
            127 => " (command not found: is bdsync installed there, and on the PATH?)",
            126 => " (a command in it cannot be executed)",
            255 if program == "ssh" => " (ssh could not connect or log in, or lost the connection)",
            _ => "",
        };
        format!("{who} exited with status {code}{advice}")
    }

    /// As [`describe`](Self::describe), for an error to carry.
    #[must_use]
    pub fn end(&self, status: ExitStatus) -> RemoteEnd {
        RemoteEnd { status, words: self.describe(status) }
    }

    fn wait_error(&self, source: io::Error) -> Error {
        Error::io(Kind::Spawn, "cannot wait for the remote command", source)
            .with_path(&self.program)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.kill();
        self.drain = self.drain.take().and_then(Drain::finish);
    }
}

impl Drain {
    fn start(stderr: OwnedFd, mut sink: StderrSink) -> Result<Self> {
        let control = Control::new(None)?;
        let mut input = StreamReader::new(stderr, control.clone());
        let thread = thread::Builder::new()
            .name("remote stderr".into())
            .spawn(move || {
                let mut lines = Lines::default();
                let mut buf = [0; 4096];
                // At its end when the pipe is, or when the process has ended.
                while let Ok(bytes @ 1..) = input.read(&mut buf) {
                    lines.feed(&buf[..bytes], &mut sink);
                }
                for _ in 0..LAST_READS_MAX {
                    let Ok(bytes @ 1..) = input.read_now(&mut buf) else { break };
                    lines.feed(&buf[..bytes], &mut sink);
                }
                lines.finish(&mut sink);
            })
            .map_err(setup_error)?;
        Ok(Self { control, thread })
    }

    /// Passes on what is left and ends the thread, also when a process left behind (ssh's
    /// ControlPersist, say) still holds the pipe.
    fn finish(self) -> Option<Self> {
        self.control.close();
        // A sink that panicked has said so itself.
        let _ = self.thread.join();
        None
    }
}

/// Cuts a stream of bytes into lines of bounded length.
#[derive(Debug, Default)]
struct Lines {
    /// The line so far, shorter than [`STDERR_LINE_BYTES_MAX`] between two calls.
    line: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, mut bytes: &[u8], sink: &mut dyn FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = STDERR_LINE_BYTES_MAX - self.line.len();
            let piece = &bytes[..bytes.len().min(room)];
            if let Some(end) = piece.iter().position(|&byte| byte == b'\n') {
                self.line.extend_from_slice(&piece[..end]);
                // ssh ends its lines as for a terminal in raw mode.
                sink(self.line.strip_suffix(b"\r").unwrap_or(&self.line));
                self.line.clear();
                bytes = &bytes[end + 1..];
            } else {
                self.line.extend_from_slice(piece);
                bytes = &bytes[piece.len()..];
                if self.line.len() == STDERR_LINE_BYTES_MAX {
                    sink(&self.line);
                    self.line.clear();
                }
            }
        }
    }

    /// The last line, if it has no end.
    fn finish(self, sink: &mut dyn FnMut(&[u8])) {
        if !self.line.is_empty() {
            sink(&self.line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::control::Ready;
    use super::super::split_command;
    use super::*;
    use parking_lot::Mutex;
    use std::ffi::OsStr;
    use std::fs::File;
    use std::io::Write;

    type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

    fn run(command: &str) -> (Connection, Heard) {
        run_minding(LEFT_BEHIND_GRACE, command)
    }

    fn run_minding(grace: Duration, command: &str) -> (Connection, Heard) {
        let heard = Heard::default();
        let sink = {
            let heard = heard.clone();
            Box::new(move |line: &[u8]| heard.lock().push(line.to_vec()))
        };
        let words = split_command(OsStr::new(command)).unwrap();
        (connect_minding(grace, &words, Manner::Session, None, sink).unwrap(), heard)
    }

    fn end(connection: Connection) -> (Remote, ExitStatus) {
        let Connection { reader, writer, remote, .. } = connection;
        drop((reader, writer));
        let mut remote = remote.unwrap();
        let status = remote.wait(Duration::from_secs(60)).unwrap().expect("it ends");
        (remote, status)
    }

    fn is_running(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn remote_command_starts_with_no_signal_held_back_that_ends_it() {
        let mut held = nix::sys::signal::SigSet::all();
        held.remove(Signal::SIGUSR1);
        let before = held.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK).unwrap();
        let (mut connection, _) = run("sed -n s/^SigBlk://p /proc/self/status");
        before.thread_set_mask().unwrap();
        let mut mask = String::new();
        connection.reader.read_to_string(&mut mask).unwrap();
        assert_eq!(
            u64::from_str_radix(mask.trim(), 16).unwrap(),
            1 << (Signal::SIGUSR1 as u32 - 1)
        );
        end(connection);
    }

    #[test]
    fn talks_to_stdin_and_stdout() {
        let (mut connection, _) = run("cat");
        connection.writer.write_all(b"hello").unwrap();
        let mut got = [0; 5];
        connection.reader.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
        assert!(end(connection).1.success());
    }

    #[test]
    fn consumer_is_waited_for_until_it_reads_and_only_once() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("reads");
        let script = format!("sleep 0.3; touch {}; head -c 5; exec sleep 100", mark.display());
        let words = ["sh", "-c", &script].map(OsString::from);
        let mut connection = connect(&words, Manner::Consumer, None, Box::new(|_| {})).unwrap();
        connection.writer.write_all(b"hello").unwrap();
        connection.writer.flush().unwrap();
        assert!(mark.exists());
        // Nobody reads this.
        connection.writer.write_all(&[0; 10_000]).unwrap();
        connection.writer.flush().unwrap();
    }

    #[test]
    fn program_that_does_not_exist_is_named() {
        let words = ["/no/such", "x"].map(OsString::from);
        let err = connect(&words, Manner::Session, None, Box::new(|_| {})).unwrap_err();
        assert_eq!(err.kind(), Kind::Spawn);
        assert_eq!(
            err.full_message(),
            "cannot start the remote command: /no/such: No such file or directory (os error 2)"
        );
    }

    /// Classic bug 8.
    #[test]
    fn megabytes_on_stderr_do_not_block_the_remote() {
        let (mut connection, heard) =
            run("sh -c 'yes 0123456789abcde | head -c 4194304 >&2; printf end'");
        let mut got = vec![];
        connection.reader.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"end");
        end(connection);
        assert_eq!(heard.lock().len(), 4_194_304 / 16);
    }

    #[test]
    fn stderr_is_passed_on_line_by_line_with_the_partial_last_one() {
        let (connection, heard) = run(r#"sh -c 'printf "one\r\n\n\033[1mtwo\377\nrest" >&2'"#);
        end(connection);
        assert_eq!(*heard.lock(), [&b"one"[..], b"", b"\x1b[1mtwo\xff", b"rest"]);
    }

    #[test]
    fn longer_lines_than_the_limit_come_in_pieces() {
        let max = STDERR_LINE_BYTES_MAX;
        for (bytes, pieces) in [(max - 1, vec![max - 1]), (max, vec![max]), (max + 1, vec![max, 1])]
        {
            let mut got = vec![];
            let mut lines = Lines::default();
            lines.feed(&vec![b'x'; bytes], &mut |line| got.push(line.len()));
            lines.finish(&mut |line| got.push(line.len()));
            assert_eq!(got, pieces);
        }
    }

    #[test]
    fn a_line_that_comes_in_parts_is_cut_at_the_limit_as_well() {
        let max = STDERR_LINE_BYTES_MAX;
        let mut got = vec![];
        let mut lines = Lines::default();
        for bytes in [max - 10, 9, 5, max - 4, 3] {
            lines.feed(&vec![b'x'; bytes], &mut |line| got.push(line.len()));
        }
        lines.finish(&mut |line| got.push(line.len()));
        assert_eq!(got, [max, max, 3]);
    }

    /// What it said last tells why it ended.
    #[test]
    fn what_is_still_in_the_pipe_when_the_remote_has_ended_is_passed_on() {
        let (stderr, mut remote) = std::io::pipe().unwrap();
        set_nonblocking(stderr.as_fd()).unwrap();
        let (hears, heard) = std::sync::mpsc::channel();
        let (goes_on, go_on) = std::sync::mpsc::channel::<()>();
        let sink = move |line: &[u8]| {
            hears.send(line.to_vec()).unwrap();
            // Busy until told otherwise, or until nobody tells any more.
            let _ = go_on.recv();
        };
        let drain = Drain::start(stderr.into(), Box::new(sink)).unwrap();
        remote.write_all(b"first\n").unwrap();
        assert_eq!(heard.recv().unwrap(), b"first");
        remote.write_all(b"last\nword").unwrap();
        drain.control.close();
        drop(goes_on);
        drain.finish();
        assert_eq!(heard.iter().collect::<Vec<_>>(), [&b"last"[..], b"word"]);
    }

    #[test]
    fn remote_ends_with_the_thread_that_started_it() {
        let (connection, _) = std::thread::spawn(|| run("sleep 1000")).join().unwrap();
        assert_eq!(end(connection).1.signal(), Some(Signal::SIGTERM as i32));
    }

    #[test]
    fn kill_lets_the_remote_end_itself_first() {
        let script = "sh -c \"trap 'exit 7' TERM; echo; while :; do sleep 0.01; done\"";
        let (mut connection, _) = run(script);
        connection.reader.read_exact(&mut [0]).unwrap();
        let status = connection.remote.as_mut().unwrap().kill().unwrap();
        assert_eq!(status.code(), Some(7), "{status}");
    }

    #[test]
    fn process_left_behind_with_our_stderr_does_not_hold_us_up() {
        let (connection, heard) = run("sh -c 'sleep 30 & echo $! >&2; exit 3'");
        let (_, status) = end(connection);
        assert_eq!(status.code(), Some(3));
        let pid = String::from_utf8(heard.lock()[0].clone()).unwrap();
        kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
    }

    /// The same of our stdout, while we wait for an answer on it.
    #[test]
    fn process_left_behind_with_our_stdout_is_heard_out_and_not_waited_for() {
        // What it says behind its parent's end comes, for longer than one silence may last.
        let script = "(for i in 1 2 3 4; do sleep 1; echo $i; done; exec sleep 1000) & echo $!";
        let grace = Duration::from_secs(3);
        let (mut connection, _) = run_minding(grace, &format!("sh -c '{script}'"));
        let control = connection.control.clone();
        control.expect_answer();
        let (ends, ended) = std::sync::mpsc::channel();
        let reads = thread::spawn(move || {
            let mut got = String::new();
            connection.reader.read_to_string(&mut got).unwrap();
            ends.send(()).unwrap();
            (connection, got)
        });
        let is_ended = ended.recv_timeout(Duration::from_secs(60)).is_ok();
        // What waits all the same is not waited for.
        control.close();
        let (connection, got) = reads.join().unwrap();
        let (pid, rest) = got.split_once('\n').unwrap();
        kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
        assert!(is_ended, "it waits for the process that was left behind");
        assert_eq!(rest, "1\n2\n3\n4\n");
        assert!(end(connection).1.success());
    }

    /// Also where the kernel has no pidfds.
    #[test]
    fn end_of_a_child_is_told_by_a_pipe_and_leaves_it_to_be_reaped() {
        let mut child = Command::new("sh");
        child.args(["-c", "read line; exit 3"]).stdin(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let pid = process::Pid::from_child(&child);
        let control = Control::new(None).unwrap();
        control.mind(wait_for_end(pid).unwrap(), Duration::ZERO);
        control.expect_answer();
        let (silent, _held) = io::pipe().unwrap();
        let mut ended = File::from(wait_for_end(pid).unwrap());
        set_nonblocking(ended.as_fd()).unwrap();
        assert_eq!(ended.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(child.stdin.take());
        // The pipe that says nothing is not waited for.
        assert!(matches!(control.wait_readable(silent.as_fd()).unwrap(), Ready::Closed));
        assert_eq!(child.wait().unwrap().code(), Some(3));
        let mut ended = File::from(wait_for_end(pid).unwrap());
        assert_eq!(ended.read(&mut [0]).unwrap(), 0, "it is reaped");
    }

    #[test]
    fn process_left_behind_may_be_silent_while_nothing_is_due() {
        let command = "sh -c '(sleep 3; echo late) & echo $!'";
        let (mut connection, _) = run_minding(Duration::from_secs(1), command);
        // That is longer than it might be if an answer were.
        let mut got = String::new();
        connection.reader.read_to_string(&mut got).unwrap();
        assert!(got.ends_with("late\n"), "{got}");
        assert!(end(connection).1.success());
    }

    #[test]
    fn drop_ends_and_reaps_even_what_ignores_sigterm() {
        for command in ["sleep 100", "sh -c \"trap '' TERM; echo; while :; do sleep 1; done\""] {
            let (mut connection, _) = run(command);
            if command.starts_with("sh") {
                connection.reader.read_exact(&mut [0]).unwrap();
            }
            let pid = connection.remote.as_ref().unwrap().child.id();
            assert!(is_running(pid));
            drop(connection);
            assert!(!is_running(pid), "{command}");
        }
    }

    #[test]
    fn sigpipe_has_its_default_action_in_the_remote() {
        let (mut connection, _) = run("sh -c 'yes | head -n 1; grep SigIgn /proc/self/status'");
        let mut got = String::new();
        connection.reader.read_to_string(&mut got).unwrap();
        let mask = got.rsplit('\t').next().unwrap().trim();
        let mask = u64::from_str_radix(mask, 16).unwrap();
        assert_eq!(mask & (1 << (Signal::SIGPIPE as u64 - 1)), 0, "{got}");
    }

    #[test]
    fn ends_are_described_with_advice() {
        for (command, words) in [
            (
                "true",
                "the remote command exited with status 0 \
                 (if it leads to a server's socket, the log there says why)",
            ),
            ("sh -c 'exit 4'", "the remote command exited with status 4"),
            ("sh -c 'kill -9 $$'", "the remote command was ended by signal 9 (SIGKILL)"),
            (
                "sh -c /no/such/program",
                "the remote command exited with status 127 \
                 (command not found: is bdsync installed there, and on the PATH?)",
            ),
        ] {
            let (connection, _) = run(command);
            let (remote, status) = end(connection);
            assert_eq!(remote.describe(status), words, "{command}");
        }
    }
}

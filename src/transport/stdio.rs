//! The server's end of a connection: its own stdin and stdout.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::stat::{FileStat, SFlag, fstat};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::Connection;
use super::control::{Control, setup_error};
use super::stream::{StreamReader, StreamWriter};
use crate::error::Result;

/// How long a TCP connection may be idle before the kernel asks whether the other host lives.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// How often it asks, and how long it waits for each answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// How often it asks in vain.
const KEEPALIVE_PROBES: u32 = 4;

/// The connection over the process's stdin and stdout, which it takes away: from now on
/// stdin is empty and whatever else prints to stdout goes to stderr, so that nothing can get
/// between the messages. Where stderr is the same socket, pipe or file, as inetd hands it over,
/// nothing that goes there is seen any more: a log has to say it. To be called once, before
/// anything is printed. `timeout` as in [`Control::new`].
///
/// [`Control::wait_for_hang_up`] notices when nobody is left to read stdout.
///
/// # Errors
/// `Kind::Connection` when a descriptor cannot be duplicated.
pub fn stdio(timeout: Option<Duration>) -> Result<Connection> {
    let taken = || -> io::Result<_> {
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        if would_mix(&output, &io::stderr()) {
            dup2_stderr(nowhere()?)?;
        }
        // A pipe that nobody writes to: a bare root directory has no /dev/null.
        let (empty, _) = io::pipe()?;
        dup2_stdin(empty)?;
        dup2_stdout(io::stderr())?;
        Ok((input, output))
    };
    let (input, output) = taken().map_err(setup_error)?;
    notice_lost_hosts(&output, timeout);
    let control = Control::new(timeout)?;
    control.watch(output.try_clone().map_err(setup_error)?);
    Ok(Connection {
        reader: Box::new(StreamReader::new(input, control.clone())),
        writer: Box::new(writer(output, &control)),
        control,
        remote: None,
    })
}

/// Whether what is printed to `words` would come between the messages on `output`: they are one
/// file. A terminal is left alone, for who looks there at what a server does, and so is what
/// drops everything anyway.
fn would_mix(output: &impl AsFd, words: &impl AsFd) -> bool {
    let (Ok(output), Ok(words)) = (fstat(output), fstat(words)) else { return false };
    let is_one = (output.st_dev, output.st_ino) == (words.st_dev, words.st_ino);
    is_one && file_type(&output) != SFlag::S_IFCHR
}

fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Takes whatever is written to it, or at least says at once that nobody reads it.
fn nowhere() -> io::Result<OwnedFd> {
    match File::options().write(true).open("/dev/null") {
        Ok(null) => Ok(null.into()),
        // A bare root directory has none. Nobody minds that stderr cannot be written to.
        Err(_) => io::pipe().map(|(_, unread)| unread.into()),
    }
}

/// A writer that never blocks for longer than the connection lives. The descriptor itself must
/// stay blocking, because whoever gave it to us may share it; but a pipe can be opened anew.
fn writer(output: OwnedFd, control: &Arc<Control>) -> StreamWriter {
    let path = format!("/proc/self/fd/{}", output.as_raw_fd());
    let is_pipe = fstat(&output).is_ok_and(|stat| file_type(&stat) == SFlag::S_IFIFO);
    let anew = || {
        let flags = OFlag::O_NONBLOCK.bits();
        File::options().write(true).custom_flags(flags).open(path).ok()
    };
    match is_pipe.then(anew).flatten() {
        Some(own) => StreamWriter::new(own.into(), control.clone()),
        None => StreamWriter::over_shared(output, control.clone()),
    }
}

/// Has the kernel find out when the host at the other end of a TCP connection is gone, if stdin
/// and stdout are one (inetd, a systemd socket). On anything else it does nothing. No
/// `TCP_USER_TIMEOUT`: it would end the connection to a host that lives and only takes no more
/// for a while, because nobody takes the patch there.
fn notice_lost_hosts(socket: &OwnedFd, timeout: Option<Duration>) {
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    let idle = seconds(KEEPALIVE_IDLE.min(timeout.unwrap_or(KEEPALIVE_IDLE)));
    // Each fails where it means nothing.
    let _ = setsockopt(socket, sockopt::KeepAlive, &true);
    let _ = setsockopt(socket, sockopt::TcpKeepIdle, &idle.max(1));
    let _ = setsockopt(socket, sockopt::TcpKeepInterval, &seconds(KEEPALIVE_INTERVAL));
    let _ = setsockopt(socket, sockopt::TcpKeepCount, &KEEPALIVE_PROBES);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};

    /// Not a test by itself: the process that the test below starts.
    #[test]
    #[ignore = "takes the stdin and stdout of its process"]
    fn echo_process() {
        let mut connection = stdio(None).unwrap();
        println!("words on stdout");
        let mut got = vec![];
        connection.reader.read_to_end(&mut got).unwrap();
        connection.writer.write_all(b"<<").unwrap();
        connection.writer.write_all(&got).unwrap();
        connection.writer.write_all(b">>").unwrap();
    }

    #[test]
    fn words_mix_with_messages_in_one_socket_pipe_or_file_and_not_on_a_terminal() {
        let (socket, other_socket) = UnixStream::pair().unwrap();
        let (_, pipe) = io::pipe().unwrap();
        let file = tempfile::tempfile().unwrap();
        let open = |path| File::options().read(true).write(true).open(path).unwrap();
        let (null, terminal) = (open("/dev/null"), open("/dev/ptmx"));
        for fd in [socket.as_fd(), pipe.as_fd(), file.as_fd()] {
            assert!(would_mix(&fd, &fd.try_clone_to_owned().unwrap()));
            assert!(!would_mix(&fd, &null));
            assert!(!would_mix(&fd, &other_socket));
        }
        for file in [null, terminal] {
            assert!(!would_mix(&file, &file));
        }
    }

    #[test]
    fn words_printed_by_others_stay_out_of_the_stream() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "transport::stdio::tests::echo_process"])
            .args(["--ignored", "--nocapture", "--test-threads=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"hello").unwrap();
        let output = child.wait_with_output().unwrap();
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(stdout.ends_with("<<hello>>"), "{stdout}");
        assert!(!stdout.contains("words on stdout"), "{stdout}");
        assert!(stderr.contains("words on stdout"), "{stderr}");
    }
}

//! The server's end of a connection: its own stdin and stdout.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::unistd::{dup2_stdin, dup2_stdout};

use super::Connection;
use super::control::{Control, setup_error};
use super::stream::{StreamReader, StreamWriter};
use crate::error::Result;

/// The connection over the process's stdin and stdout, which it takes away: from now on
/// stdin is empty and whatever else prints to stdout goes to stderr, so that nothing can get
/// between the messages. To be called once.
///
/// # Errors
/// `Kind::Connection` when a descriptor cannot be duplicated.
pub fn stdio() -> Result<Connection> {
    let taken = || -> io::Result<_> {
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        dup2_stdin(File::open("/dev/null")?)?;
        dup2_stdout(io::stderr())?;
        Ok((input, output))
    };
    let (input, output) = taken().map_err(setup_error)?;
    // No timeout: a client with a mount may be idle for hours. The descriptors stay blocking,
    // because whoever gave them to us may share them.
    let control = Control::new(None)?;
    Ok(Connection {
        reader: Box::new(StreamReader::new(input, control.clone())),
        writer: Box::new(StreamWriter::new(output, control.clone())),
        control,
        remote: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    /// Not a test by itself: the process that the test below starts.
    #[test]
    #[ignore = "takes the stdin and stdout of its process"]
    fn echo_process() {
        let mut connection = stdio().unwrap();
        println!("words on stdout");
        let mut got = vec![];
        connection.reader.read_to_end(&mut got).unwrap();
        connection.writer.write_all(b"<<").unwrap();
        connection.writer.write_all(&got).unwrap();
        connection.writer.write_all(b">>").unwrap();
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

//! Both ends of a connection in one process, over pipes: for tests of every layer above.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::Connection;
use super::control::{Control, set_nonblocking, setup_error};
use super::stream::{StreamReader, StreamWriter};
use crate::error::Result;

/// Two connections, each the other's other side. `timeout` is the first one's; the second
/// waits for ever.
///
/// # Errors
/// `Kind::Connection` when no pipe can be had.
pub fn pair(timeout: Option<Duration>) -> Result<(Connection, Connection)> {
    let pipe = || io::pipe().map_err(setup_error);
    let ((asked, ask), (answered, answer)) = (pipe()?, pipe()?);
    for end in [ask.as_fd(), answer.as_fd()] {
        set_nonblocking(end).map_err(setup_error)?;
    }
    let client = end(answered.into(), ask.into(), timeout)?;
    Ok((client, end(asked.into(), answer.into(), None)?))
}

fn end(input: OwnedFd, output: OwnedFd, timeout: Option<Duration>) -> Result<Connection> {
    let control = Control::new(timeout)?;
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
    use std::io::{ErrorKind, Read, Write};
    use std::thread;

    #[test]
    fn bytes_written_at_one_end_are_read_at_the_other() {
        let (mut a, mut b) = pair(None).unwrap();
        let text = vec![7; 1_000_000];
        let expected = text.clone();
        let writer = thread::spawn(move || a.writer.write_all(&text));
        let mut got = vec![];
        b.reader.read_to_end(&mut got).unwrap();
        assert!(got == expected);
        writer.join().unwrap().unwrap();
    }

    #[test]
    fn close_ends_a_waiting_reader_and_a_waiting_writer() {
        let (a, b) = pair(None).unwrap();
        let Connection { mut reader, mut writer, control, .. } = a;
        let reads = thread::spawn(move || reader.read(&mut [0; 10]));
        let writes = thread::spawn(move || writer.write_all(&vec![0; 1 << 20]));
        thread::sleep(Duration::from_millis(20));
        control.close();
        assert_eq!(reads.join().unwrap().unwrap(), 0);
        assert_eq!(writes.join().unwrap().unwrap_err().kind(), ErrorKind::BrokenPipe);
        drop(b);
    }

    #[test]
    fn silence_counts_only_while_an_answer_is_outstanding() {
        let (mut a, mut b) = pair(Some(Duration::from_millis(200))).unwrap();
        // Nothing is owed: twice the timeout of silence is fine.
        let late = thread::spawn(move || {
            thread::sleep(Duration::from_millis(400));
            b.writer.write_all(b"x").unwrap();
            b
        });
        assert_eq!(a.reader.read(&mut [0; 10]).unwrap(), 1);
        let b = late.join().unwrap();
        // An answer is asked for while the reader waits already.
        let Connection { mut reader, control, .. } = a;
        let reads = thread::spawn(move || reader.read(&mut [0; 10]));
        thread::sleep(Duration::from_millis(20));
        control.expect_answer();
        let err = reads.join().unwrap().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::TimedOut);
        assert_eq!(err.to_string(), "nothing came for 0.2 s (--timeout)");
        drop(b);
    }

    #[test]
    fn every_byte_that_arrives_restarts_the_timeout() {
        let (mut a, mut b) = pair(Some(Duration::from_secs(2))).unwrap();
        a.control.expect_answer();
        let slow = thread::spawn(move || {
            for _ in 0..6 {
                thread::sleep(Duration::from_millis(500));
                b.writer.write_all(b"x").unwrap();
            }
        });
        let mut got = vec![];
        a.reader.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"xxxxxx");
        slow.join().unwrap();
    }
}

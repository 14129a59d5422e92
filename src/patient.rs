//! Files that are waited for, also where whoever opened them, or shares them, has said not to.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Waits where reading and writing would fail because of `O_NONBLOCK`.
#[derive(Debug)]
pub struct Patient<F>(pub F);

impl<F: AsFd> Patient<F> {
    fn patiently<T>(
        &mut self,
        what: PollFlags,
        mut work: impl FnMut(&mut F) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match work(&mut self.0) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(self.0.as_fd(), what)];
                    // One that cannot be waited for by this is told by the next call.
                    let _ = poll(&mut fds, PollTimeout::NONE);
                }
                other => return other,
            }
        }
    }
}

impl<F: AsFd + Read> Read for Patient<F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.patiently(PollFlags::POLLIN, |file| file.read(buf))
    }
}

impl<F: AsFd + Write> Write for Patient<F> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.patiently(PollFlags::POLLOUT, |file| file.write(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    fn impatient(end: OwnedFd) -> Patient<File> {
        fcntl(&end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        Patient(File::from(end))
    }

    #[test]
    fn input_that_must_not_be_waited_for_is_waited_for() {
        let (end, mut other) = io::pipe().unwrap();
        let mut file = impatient(end.into());
        let writer = std::thread::spawn(move || {
            for part in ["one ", "two"] {
                std::thread::sleep(Duration::from_millis(50));
                other.write_all(part.as_bytes()).unwrap();
            }
        });
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two");
        writer.join().unwrap();
    }

    #[test]
    fn output_that_must_not_be_waited_for_is_waited_for() {
        let (mut other, end) = io::pipe().unwrap();
        let mut file = impatient(end.into());
        let reader = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            let mut all = vec![];
            other.read_to_end(&mut all).map(|_| all)
        });
        // More than a pipe holds.
        let bytes: Vec<u8> = (0..1_000_000u32).map(|i| i as u8).collect();
        file.write_all(&bytes).unwrap();
        drop(file);
        assert!(reader.join().unwrap().unwrap() == bytes);
    }
}

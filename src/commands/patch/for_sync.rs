//! What `bdsync sync` wants of a `bdsync --patch` that it started with `--sync-disk`: to write to
//! the disk that is compared and to no other, to show on stdout that it is alive, and to say there
//! when it has the target open, and what is true of that when it fails.
//!
//! The sync has opened what a name led to some time ago, perhaps on another host; this process
//! follows the same name once more, and before anything is compared: what another bdsync writes
//! there is seen, or refused. A sign of life is one byte, and there is a reader for it. It
//! comes all the time but while the patch is waited for: there is nothing else by which the other
//! host could tell a disk that takes long from a link that is dead.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;

use crate::background;
use crate::commands::target_state::{OPEN_LINE, OPENING_LINE, TargetState};
use crate::device::{Device, FileDevice};
use crate::error::{Error, Kind, Result};
use crate::report;
use crate::units::FileId;

/// Between two signs of life: well below the shortest `--timeout`, which is a second.
const SIGN_INTERVAL: Duration = Duration::from_millis(250);
/// One of them.
const SIGN: &[u8] = b"\n";
/// How long the last word waits for room. There is some, unless nobody has read for hours.
const ROOM_WAIT: Duration = Duration::from_secs(1);

/// Fails when `target` is another disk than `compared`, if that is known.
///
/// # Errors
/// `Kind::Open`.
pub(super) fn refuse_another(target: &FileDevice, compared: FileId) -> Result<()> {
    let found = target.id();
    if compared == FileId::UNKNOWN || found == compared {
        return Ok(());
    }
    let what = format!(
        "it was replaced by another file or disk since it was compared: expected number {compared}, \
         found {found} (run the same command again)"
    );
    Err(Error::new(Kind::Open, what).with_path(target.path()))
}

/// Fails when `target` has not the size that its sync has met, by which that takes zeros behind a
/// smaller end for granted.
///
/// # Errors
/// `Kind::Open`.
pub(super) fn refuse_resized(target: &FileDevice, expected_bytes: u64) -> Result<()> {
    let found_bytes = target.size();
    if found_bytes == expected_bytes {
        return Ok(());
    }
    let what = format!(
        "its size was changed by something else since the sync began: expected {expected_bytes} \
         bytes, found {found_bytes} (run the same command again)"
    );
    Err(Error::new(Kind::Open, what).with_path(target.path()))
}

/// Shows on stdout, to the end of the process, that it is alive.
#[derive(Clone)]
pub(super) struct Life {
    output: Arc<Mutex<File>>,
    is_waiting: Arc<AtomicBool>,
}

impl Life {
    /// # Errors
    /// `Kind::Write` when descriptors run out, or threads.
    pub(super) fn show() -> Result<Self> {
        let failed = |err| Error::io(Kind::Write, "cannot use stdout", err);
        Self::show_on(report::stdout_file().map_err(failed)?)
    }

    fn show_on(output: File) -> Result<Self> {
        let life = Self { output: Arc::new(output.into()), is_waiting: Arc::default() };
        let signs = life.clone();
        let is_heard = move || {
            signs.is_waiting.load(Ordering::Relaxed) || signs.output.lock().write_all(SIGN).is_ok()
        };
        // The first at once, behind what a login shell may have printed. Without a reader there is
        // nobody to tell.
        if is_heard() {
            life.say(OPENING_LINE);
            let signs = move || loop {
                thread::sleep(SIGN_INTERVAL);
                if !is_heard() {
                    break;
                }
            };
            background::spawn("life", Kind::Write, "cannot start a thread", signs)?;
        }
        Ok(life)
    }

    /// Says that the target is open.
    pub(super) fn tell_open(&self) {
        self.say(OPEN_LINE);
    }

    fn say(&self, line: &str) {
        // Who is gone needs no word.
        let _ = self.output.lock().write_all(line.as_bytes());
    }

    /// Says what is true of the target after a failure, as the last word. It is not waited for who
    /// does not take it.
    pub(super) fn tell(&self, state: TargetState) {
        let Some(mut output) = self.output.try_lock_for(ROOM_WAIT) else { return };
        let has_room = {
            let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLOUT)];
            let wait = PollTimeout::try_from(ROOM_WAIT).unwrap_or(PollTimeout::ZERO);
            poll(&mut fds, wait).is_ok() && fds[0].any().unwrap_or(false)
        };
        if has_room {
            // Who is gone needs no word.
            let _ = output.write_all(state.line().as_bytes());
        }
    }
}

/// The patch, during whose waits nobody is told of life.
pub(super) struct Awaited<R> {
    input: R,
    life: Option<Life>,
}

impl<R> Awaited<R> {
    pub(super) fn new(input: R, life: Option<Life>) -> Self {
        Self { input, life }
    }

    fn waits(&self, is_waiting: bool) {
        if let Some(life) = &self.life {
            life.is_waiting.store(is_waiting, Ordering::Relaxed);
        }
    }
}

impl<R: Read> Read for Awaited<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.waits(true);
        let read = self.input.read(buf);
        self.waits(false);
        read
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::OwnedFd;

    use crossbeam_channel::bounded;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;
    use crate::device::{TargetOptions, open_target};

    /// A disk may take minutes for what it was given, and so may who makes the patch.
    #[test]
    fn signs_of_life_come_time_and_again_but_while_the_patch_is_waited_for() {
        let (signs, output) = io::pipe().unwrap();
        let life = Life::show_on(OwnedFd::from(output).into()).unwrap();
        let (sender, receiver) = bounded(0);
        let reader = thread::spawn(move || {
            // Each is taken when it is asked for.
            let signs = io::BufReader::new(signs).bytes();
            signs.take_while(|sign| sender.send(*sign.as_ref().unwrap()).is_ok()).count()
        });
        let sign = || receiver.recv_timeout(Duration::from_secs(30)).expect("a sign of life");
        for expected in [&b"\n"[..], OPENING_LINE.as_bytes(), b"\n\n"].concat() {
            assert_eq!(sign(), expected);
        }
        let (patch, mut source) = io::pipe().unwrap();
        let mut input = Awaited::new(patch, Some(life.clone()));
        assert!(!life.is_waiting.load(Ordering::Relaxed));
        let waits = thread::spawn(move || input.read(&mut [0; 9]).unwrap());
        while !life.is_waiting.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        source.write_all(b"patch").unwrap();
        assert_eq!(waits.join().unwrap(), 5);
        assert!(!life.is_waiting.load(Ordering::Relaxed));
        sign();
        drop(receiver);
        reader.join().unwrap();
    }

    #[test]
    fn the_last_word_does_not_wait_for_who_takes_nothing() {
        let (mut taken, output) = io::pipe().unwrap();
        let full = vec![0; 1 << 20];
        fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let held = (&output).write(&full).unwrap();
        fcntl(&output, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        let output = OwnedFd::from(output);
        let life = Life { output: Arc::new(Mutex::new(output.into())), is_waiting: Arc::default() };
        life.tell(TargetState::Untouched);
        taken.read_exact(&mut vec![0; held]).unwrap();
        life.tell(TargetState::PartlyChanged);
        drop(life);
        let mut said = String::new();
        taken.read_to_string(&mut said).unwrap();
        assert_eq!(said, TargetState::PartlyChanged.line());
    }

    #[test]
    fn what_was_put_in_the_place_of_the_compared_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        fs::write(&a, "before").unwrap();
        fs::write(&b, "behind").unwrap();
        let compared = FileId::of(&fs::metadata(&a).unwrap());
        let target = open_target(&a, TargetOptions::default()).unwrap();
        refuse_another(&target, compared).unwrap();

        fs::rename(&b, &a).unwrap();
        let other = open_target(&a, TargetOptions::default()).unwrap();
        let err = refuse_another(&other, compared).unwrap_err();
        assert_eq!(err.kind(), Kind::Open);
        let [expected, found] = [compared, other.id()].map(|id| id.to_string());
        refuse_another(&other, FileId::UNKNOWN).unwrap();
        let words = format!("expected number {expected}, found {found}");
        assert!(err.full_message().contains(&words), "{err}");
    }
}

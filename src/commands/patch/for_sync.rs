//! What `bdsync sync` wants of a `bdsync --patch` that it started with `--sync-disk`: to write to
//! the disk that was compared and to no other, and to show on stdout that it is alive.
//!
//! The sync has compared what a name led to some time ago, perhaps on another host; this process
//! follows the same name once more. A sign of life is one byte, and there is a reader for it. It
//! comes when some of the patch has arrived or was written and, once all of it has been read, all
//! the time: then there is nothing else by which the other host could tell a disk that takes long
//! from a link that is dead.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::device::{Device, FileDevice};
use crate::error::{Error, Kind, Result};
use crate::report;
use crate::units::FileId;

/// Between two signs of life: well below the shortest `--timeout`, which is a second.
const SIGN_INTERVAL: Duration = Duration::from_millis(250);

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

/// Shows on stdout that this process is alive.
pub(super) struct Life {
    output: File,
    last_sign: Mutex<Option<Instant>>,
}

impl Life {
    /// # Errors
    /// `Kind::Write` when descriptors run out.
    pub(super) fn new() -> Result<Arc<Self>> {
        let output = report::stdout_file()
            .map_err(|err| Error::io(Kind::Write, "cannot use stdout", err))?;
        Ok(Arc::new(Self { output, last_sign: Mutex::default() }))
    }

    /// Shows a sign if the last was some time ago. Whether somebody may have seen it.
    pub(super) fn sign(&self) -> bool {
        let mut last_sign = self.last_sign.lock();
        if last_sign.is_some_and(|last| last.elapsed() < SIGN_INTERVAL) {
            return true;
        }
        *last_sign = Some(Instant::now());
        (&self.output).write_all(b"\n").is_ok()
    }

    /// Shows a sign time and again once `is_read` is set, to the end of the process.
    pub(super) fn keep(self: &Arc<Self>, is_read: Arc<AtomicBool>) {
        let life = Arc::clone(self);
        let show = move || {
            while !is_read.load(Ordering::Relaxed) || life.sign() {
                thread::sleep(SIGN_INTERVAL);
            }
        };
        if let Err(err) = thread::Builder::new().name("life".into()).spawn(show) {
            log::warn!("cannot start a thread that shows signs of life: {err}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use crossbeam_channel::bounded;

    use super::*;
    use crate::device::{TargetOptions, open_target};

    /// A disk may take minutes for what it was given.
    #[test]
    fn signs_of_life_come_time_and_again_once_they_are_kept() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let output = OwnedFd::from(writer).into();
        let life = Arc::new(Life { output, last_sign: Mutex::default() });
        assert!(life.sign() && life.sign(), "one is enough for a while");
        life.keep(Arc::new(AtomicBool::new(true)));
        let (sender, receiver) = bounded(1);
        thread::spawn(move || {
            let mut signs = [0; 3];
            let read = reader.read_exact(&mut signs).map(|()| signs);
            // Without a reader the other thread comes to its end.
            drop((reader, sender.send(read)));
        });
        let signs = receiver.recv_timeout(Duration::from_secs(30)).expect("signs of life");
        assert_eq!(signs.unwrap(), *b"\n\n\n");
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

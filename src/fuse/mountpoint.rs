//! The place of a mount: what is refused before anything is opened, and whether the mount is
//! still there.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossbeam_channel::bounded;
use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};

use crate::background::spawn;
use crate::error::{Error, Kind, Result};
use crate::mountinfo::{Mount, OWN_KIND, mounts};
use crate::units::{FileId, major_minor};

/// How soon the kernel tells of a mount that is dead, at the latest.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// A directory that may be mounted over.
#[derive(Debug)]
pub struct Mountpoint {
    /// Without symbolic links, as the kernel names it.
    path: PathBuf,
    /// The directory itself.
    beneath: FileId,
    /// What was looked at, until it is mounted over: who owns a folder above may put a link in its
    /// place while the remote side is waited for.
    directory: Option<File>,
}

impl Mountpoint {
    /// Looks at `path`, over which none of `inputs` (devices and files that the mount reads,
    /// as the user gave them) may lie. A directory that is not empty is allowed: what is in it
    /// is hidden while the mount lasts.
    ///
    /// # Errors
    /// `Kind::Open` when `path` is no directory, or what is left of a mount that died;
    /// `Kind::Usage` when an input would be hidden by the mount.
    pub fn check(path: &Path, inputs: &[&Path]) -> Result<Self> {
        let cannot = |err: io::Error| {
            let what = match err.raw_os_error() {
                Some(libc::ENOTCONN) => {
                    "an old mount that has lost its process is in the way: \
                     run `umount` (or `fusermount3 -u`) on the mountpoint first"
                }
                _ => "cannot use the mountpoint",
            };
            Error::io(Kind::Open, what, err).with_path(path)
        };
        let about = fs::metadata(path).map_err(cannot)?;
        if !about.is_dir() {
            return Err(Error::new(Kind::Open, "the mountpoint is no directory").with_path(path));
        }
        // Attributes of a dead mount may still be cached; opening asks its process.
        fs::read_dir(path).map_err(cannot)?;
        let real = path.canonicalize().map_err(cannot)?;
        for input in inputs {
            if hides(&about, input) {
                let what = format!(
                    "the mountpoint would hide {}, which the mount itself needs",
                    input.display()
                );
                return Err(Error::new(Kind::Usage, what).with_path(path));
            }
        }
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY);
        let directory = options.open(&real).map_err(cannot)?;
        if FileId::of(&directory.metadata().map_err(cannot)?) != FileId::of(&about) {
            return Err(replaced(path));
        }
        Ok(Self { path: real, beneath: FileId::of(&about), directory: Some(directory) })
    }

    /// Finds out where the directory is by now, to be mounted over, and lets go of it.
    ///
    /// # Errors
    /// `Kind::Open` when it is gone, or another one is in its place.
    pub(super) fn find_again(&mut self) -> Result<()> {
        let Some(directory) = self.directory.take() else { return Ok(()) };
        // Without /proc it can only be where it was.
        if let Ok(path) = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())) {
            self.path = path;
        }
        let same = |found: &Metadata| {
            directory.metadata().is_ok_and(|own| FileId::of(&own) == FileId::of(found))
        };
        match self.path.symlink_metadata() {
            Ok(found) if same(&found) => Ok(()),
            _ => Err(replaced(&self.path)),
        }
    }

    /// The directory, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where our file system `device` (as in `st_dev`), which was mounted here, is now.
    pub(super) fn find(&self, device: u64) -> Place {
        match fs::read("/proc/self/mountinfo") {
            Ok(table) => place_of(&table, major_minor(device).as_bytes(), &self.path),
            Err(_) => self.find_without_table(device),
        }
    }

    /// The same where there is no table of mounts: it is most likely where it was, unless something
    /// else is there, which must not be taken for ours.
    fn find_without_table(&self, device: u64) -> Place {
        match file_at(&self.path) {
            Ok(found) if found == self.beneath => Place::Nowhere,
            Ok(found) if found.device != device => Place::Covered(self.path.clone()),
            // A mount that has lost its process may not tell its number.
            _ => Place::Seen(self.path.clone()),
        }
    }
}

/// What is at `path`, without a question to whoever serves it, who may not answer.
fn file_at(path: &Path) -> rustix::io::Result<FileId> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    let found = statx(CWD, path, flags, StatxFlags::INO)?;
    let device = makedev(found.stx_dev_major, found.stx_dev_minor);
    Ok(FileId { device, inode: found.stx_ino })
}

fn replaced(path: &Path) -> Error {
    Error::new(Kind::Open, "the mountpoint is gone, or another directory took its place")
        .with_path(path)
}

/// Where a mounted file system is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// No path leads to it: it was unmounted, or only its users have it still.
    Nowhere,
    /// It is seen at this path, which is another one when a folder above was renamed.
    Seen(PathBuf),
    /// It is at this path, and hidden by another mount.
    Covered(PathBuf),
}

/// Whether a mount at `path` has lost its process. Attributes may still be cached, but opening
/// asks; where there is no descriptor for that left, they have to do.
pub(super) fn is_dead(path: &Path) -> bool {
    let is_lost = |err: &io::Error| err.raw_os_error() == Some(libc::ENOTCONN);
    match fs::read_dir(path) {
        Err(err) if err.raw_os_error() == Some(libc::EMFILE) => {
            fs::metadata(path).is_err_and(|err| is_lost(&err))
        }
        opened => opened.is_err_and(|err| is_lost(&err)),
    }
}

/// As [`is_dead`], of what may be the mount of another process, which may be stopped: one that does
/// not answer soon is not dead.
pub(super) fn is_surely_dead(path: &Path) -> bool {
    let (sender, answer) = bounded(1);
    let path = path.to_owned();
    let ask = move || {
        // Nobody may wait for it any more.
        let _ = sender.send(is_dead(&path));
    };
    let asked = spawn("dead mount", Kind::Open, "cannot start a thread", ask);
    asked.is_ok() && answer.recv_timeout(ANSWER_WAIT) == Ok(true)
}

/// Whether `input` lies in the directory, by whatever path (links, bind mounts) it is reached.
fn hides(directory: &Metadata, input: &Path) -> bool {
    // An input that does not exist is reported when it is opened.
    let Ok(input) = input.canonicalize() else { return false };
    let directory = FileId::of(directory);
    input.ancestors().any(|part| fs::metadata(part).is_ok_and(|of| FileId::of(&of) == directory))
}

/// Where in a table of mounts our file system `id` (`major:minor`) is, which was mounted at
/// `path`: there, unless it has moved.
fn place_of(table: &[u8], id: &[u8], path: &Path) -> Place {
    let found: Vec<_> = mounts(table).collect();
    // Numbers are given again: nobody else's file system may be taken for ours.
    let is_ours = |one: &Mount| one.device == id && one.root == b"/" && one.kind == OWN_KIND;
    let there = found.iter().rposition(|one| is_ours(one) && one.point == path);
    let Some(index) = there.or_else(|| found.iter().position(is_ours)) else {
        return Place::Nowhere;
    };
    let at = found[index].point.clone();
    // Later ones lie over earlier ones, here or further up.
    if found[index + 1..].iter().any(|one| at.starts_with(&one.point)) {
        Place::Covered(at)
    } else {
        Place::Seen(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_directory_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        fs::write(&file, b"x").unwrap();
        for path in [&file, &place.path().join("missing")] {
            let err = Mountpoint::check(path, &[]).unwrap_err();
            assert_eq!(err.kind(), Kind::Open);
            assert!(err.to_string().contains(path.to_str().unwrap()));
        }
    }

    #[test]
    fn inputs_below_the_mountpoint_are_refused_by_whatever_name() {
        let place = tempfile::tempdir().unwrap();
        let at = place.path().join("at");
        fs::create_dir_all(at.join("deep")).unwrap();
        let input = at.join("deep/image");
        fs::write(&input, b"x").unwrap();
        let link = place.path().join("link");
        std::os::unix::fs::symlink(&input, &link).unwrap();
        let other = place.path().join("other");
        fs::write(&other, b"x").unwrap();

        for named in [&input, &link, &at.join("deep/../deep/image")] {
            let err = Mountpoint::check(&at, &[&other, named]).unwrap_err();
            assert_eq!(err.kind(), Kind::Usage, "{named:?}");
        }
        let good = Mountpoint::check(&at, &[&other, Path::new("/dev/null")]).unwrap();
        assert_eq!(good.path(), at.canonicalize().unwrap());
        assert!(Mountpoint::check(Path::new("/dev"), &[Path::new("/dev/null")]).is_err());
    }

    #[test]
    fn the_directory_counts_and_not_what_has_its_name_by_now() {
        let place = tempfile::tempdir().unwrap();
        let (folder, moved) = (place.path().join("folder"), place.path().join("moved"));
        let victim = place.path().join("victim");
        fs::create_dir_all(folder.join("at")).unwrap();
        fs::create_dir_all(victim.join("at")).unwrap();
        let check = || Mountpoint::check(&folder.join("at"), &[]).unwrap();
        let mut found = check();
        found.find_again().unwrap();
        assert_eq!(found.path(), folder.canonicalize().unwrap().join("at"));
        let mut found = check();
        fs::rename(&folder, &moved).unwrap();
        std::os::unix::fs::symlink(&victim, &folder).unwrap();
        found.find_again().unwrap();
        assert_eq!(found.path(), moved.canonicalize().unwrap().join("at"));
        let mut found = check();
        fs::remove_dir(victim.join("at")).unwrap();
        fs::create_dir(victim.join("at")).unwrap();
        let err = found.find_again().unwrap_err();
        assert_eq!(err.kind(), Kind::Open, "{err}");
    }

    #[test]
    fn without_a_table_what_is_at_the_path_tells() {
        let place = tempfile::tempdir().unwrap();
        let at = place.path().canonicalize().unwrap().join("at");
        fs::create_dir(&at).unwrap();
        let found = Mountpoint::check(&at, &[]).unwrap();
        let device = found.beneath.device;
        assert_eq!(found.find_without_table(device), Place::Nowhere);
        assert_eq!(found.find_without_table(device + 1), Place::Nowhere);
        // Something else is there, as a mount would be.
        fs::rename(&at, place.path().join("old")).unwrap();
        fs::create_dir(&at).unwrap();
        assert_eq!(found.find_without_table(device), Place::Seen(at.clone()));
        assert_eq!(found.find_without_table(device + 1), Place::Covered(at.clone()));
        fs::remove_dir(&at).unwrap();
        assert_eq!(found.find_without_table(device), Place::Seen(at));
    }

    #[test]
    fn mounts_are_found_where_they_are_by_now() {
        let table = |lines: &[&str]| {
            let first = "22 1 0:21 / / rw - ext4 disk rw\nbroken\n".to_owned();
            (first + &lines.join("\n") + "\n").into_bytes()
        };
        let ours = "40 1 0:50 / /mnt/a\\040b rw shared:1 - fuse.bdsync bdsync rw";
        let path = Path::new("/mnt/a b");
        let place = |lines: &[&str]| place_of(&table(lines), b"0:50", path);
        let at = |path: &str| PathBuf::from(path);
        assert_eq!(place(&[]), Place::Nowhere);
        assert_eq!(place(&[ours]), Place::Seen(at("/mnt/a b")));
        let renamed = "40 1 0:50 / /new rw - fuse.bdsync bdsync rw";
        assert_eq!(place(&[renamed]), Place::Seen(at("/new")));
        assert_eq!(place(&[renamed, ours]), Place::Seen(at("/mnt/a b")), "a bind mount of it");
        for over in ["/mnt/a\\040b", "/mnt", "/"] {
            let over = format!("42 1 0:52 / {over} rw - tmpfs z rw");
            assert_eq!(place(&[ours, &over]), Place::Covered(at("/mnt/a b")), "{over}");
            assert_eq!(place(&[&over, ours]), Place::Seen(at("/mnt/a b")), "{over}");
        }
        let beside = "42 1 0:52 / /mnt/a rw - tmpfs z rw";
        assert_eq!(place(&[ours, beside]), Place::Seen(at("/mnt/a b")));
        let stranger = "40 1 0:50 / /mnt/a\\040b rw - tmpfs z rw";
        let part = "40 1 0:50 /merged /image rw - fuse.bdsync bdsync rw";
        assert_eq!(place(&[stranger, part]), Place::Nowhere);
    }
}

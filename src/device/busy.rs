//! Who uses a block device: mounts, swap, devices made of it, and programs that lock it. And who
//! uses an image: loop devices in use, and programs that lock it.
//!
//! The kernel refuses an exclusive open of a device in use without saying why; here is why.
//! What is asked is proc(5) and sysfs; where they are missing nothing is found, and the
//! kernel's refusal remains. It refuses nothing for a file. Where they are there and cannot be
//! looked at, as without descriptors, nobody may say that nothing uses it.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{self, flock};

use super::stack::{Relative, Sharing, Stack};
use crate::mountinfo::{Mount, OWN_KIND, mounts, unescape};
use crate::units::{FileId, device_number};

/// Where the kernel tells about itself; other folders in tests.
#[derive(Debug)]
pub(super) struct Kernel {
    proc: PathBuf,
    stack: Stack,
    /// The `st_rdev` of the block device at a path.
    number_of: fn(&Path) -> Option<u64>,
}

/// The table of mounts, among those of the kernel.
const MOUNTS: &str = "self/mountinfo";

/// What the kernel mounts from an image without a loop device.
const IMAGE_KIND: &[u8] = b"erofs";

/// How often it is looked whether a device is claimed, and the time between two looks.
const CLAIM_LOOKS: u32 = 4;
const CLAIM_PAUSE: Duration = Duration::from_millis(30);

/// More than are open at once while it is looked: two folders that are listed, what is in them, a
/// loop device.
const DESCRIPTORS: usize = 8;

/// QEMU locks the disks of a running machine, images and devices, and we do what we write to, with
/// locks that have no process of their own.
const LOCKED: &str =
    "another program has locked it, as QEMU does while a machine runs, and bdsync while it writes";

impl Default for Kernel {
    fn default() -> Self {
        Self { proc: "/proc".into(), stack: Stack::default(), number_of: number_at }
    }
}

impl Kernel {
    /// What uses the block device with this `st_rdev`, the disk that it is a partition of, or what
    /// else shares bytes with it; a few words for each.
    ///
    /// # Errors
    /// The system's, where that cannot be told.
    pub(super) fn users(&self, rdev: u64) -> io::Result<Vec<String>> {
        self.users_of(FileId::of_device(rdev))
    }

    fn users_of(&self, carrier: FileId) -> io::Result<Vec<String>> {
        have_descriptors()?;
        let Sharing { devices: relatives, mut images } = self.stack.sharing(carrier)?;
        let mut users = self.mounts(&relatives)?;
        images.retain(|(_, image)| *image != carrier);
        users.extend(self.users_of_all(&images)?);
        users.extend(self.swaps(&relatives)?);
        users.extend(relatives.iter().flat_map(holders));
        let locked =
            relatives.iter().filter(|one| node_of(one).is_some_and(|node| is_locked(&node)));
        users.extend(locked.map(|one| format!("{}: {LOCKED}", one.name)));
        if users.is_empty() {
            // Of what another mount namespace has mounted only the kernel tells, and no more than
            // that there is something.
            let telling = relatives.iter().filter(|one| one.is_telling);
            users.extend(telling.filter_map(|one| match is_claimed(one) {
                Some(true) => {
                    Some(format!("{} is in use, by a container or another program", one.name))
                }
                // Of a device the kernel tells who claims it to be written to.
                None if carrier.device_number().is_none() => {
                    Some(format!("{} lies over it, of which we may not ask who uses it", one.name))
                }
                _ => None,
            }));
        }
        Ok(users)
    }

    /// What uses the regular file `file` at `path`, which is open for writing, `found` being its
    /// metadata; a few words for each. Where no other program has locked it, it is locked as long as it is
    /// open.
    ///
    /// # Errors
    /// The system's, where that cannot be told.
    pub(super) fn users_of_image(
        &self,
        path: &Path,
        file: &File,
        found: &Metadata,
    ) -> io::Result<Vec<String>> {
        // First: who writes to a loop device over it claims that, and looks here behind it.
        let by_lock = users_by_lock(file);
        let mut users = self.users_of(FileId::of(found))?;
        let mounted = self.mounts_of_image(path, FileId::of(found))?;
        users.extend(mounted.into_iter().map(|how| format!("it is {how}")));
        users.extend(self.is_swap_file(found)?.then(|| "it is used for swapping".to_owned()));
        users.extend(by_lock);
        Ok(users)
    }

    /// What uses the images that the block device with this `st_rdev` lies over, a few words for each:
    /// for who has claimed the device by now, and has looked before.
    ///
    /// # Errors
    /// The system's, where that cannot be told.
    pub(super) fn users_below(&self, rdev: u64) -> io::Result<Vec<String>> {
        let Sharing { images, .. } = self.stack.sharing(FileId::of_device(rdev))?;
        self.users_of_all(&images)
    }

    fn users_of_all(&self, images: &[(PathBuf, FileId)]) -> io::Result<Vec<String>> {
        let users = images.iter().map(|(path, image)| self.user_below(path, *image));
        users.filter_map(io::Result::transpose).collect()
    }

    /// A table of the kernel's; an empty one where there is none.
    fn table(&self, name: &str) -> io::Result<Vec<u8>> {
        match fs::read(self.proc.join(name)) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(vec![]),
            read => read,
        }
    }

    /// Where `image`, which is at `path`, is mounted without a loop device, as the kernel's erofs and
    /// what FUSE has can.
    fn mounts_of_image(&self, path: &Path, image: FileId) -> io::Result<Vec<String>> {
        let table = self.table(MOUNTS)?;
        // Our own mounts tell by themselves that what they show was changed.
        let foreign = mounts(&table).filter(|mount| mount.kind != OWN_KIND);
        let how = foreign.filter_map(|mount| {
            let found = fs::metadata(&mount.source).ok().filter(|_| mount.source.is_absolute());
            let is = match found {
                Some(found) => (FileId::of(&found) == image).then_some("mounted"),
                // By a path that was another folder's, or has moved.
                None if mount.kind == IMAGE_KIND => {
                    (mount.source.file_name() == path.file_name()).then_some("perhaps mounted")
                }
                None => None,
            };
            Some(format!("{} on {}", is?, mount.point.display()))
        });
        Ok(how.collect())
    }

    /// What uses the image that a loop device lies over, as far as it still has the path that it
    /// was attached by.
    fn user_below(&self, path: &Path, image: FileId) -> io::Result<Option<String>> {
        let found = fs::metadata(path).ok().filter(|found| FileId::of(found) == image);
        let Some(found) = found.filter(Metadata::is_file) else { return Ok(None) };
        let is_locked = || File::open(path).is_ok_and(|file| is_locked(&file));
        let how = match self.mounts_of_image(path, image)?.pop() {
            Some(mounted) => mounted,
            None if self.is_swap_file(&found)? => "used for swapping".to_owned(),
            None if is_locked() => "locked by another program".to_owned(),
            None => return Ok(None),
        };
        Ok(Some(format!("{} below it is {how}", path.display())))
    }

    fn is_swap_file(&self, found: &Metadata) -> io::Result<bool> {
        let file = FileId::of(found);
        let is_it = |path: &PathBuf| fs::metadata(path).is_ok_and(|swap| FileId::of(&swap) == file);
        Ok(self.swap_paths()?.iter().any(is_it))
    }

    /// Whether the block device with this `st_rdev` takes no writes.
    pub(super) fn is_read_only(&self, rdev: u64) -> bool {
        let folder = self.stack.folder(rdev);
        folder.and_then(|folder| fs::read(folder.join("ro")).ok()).is_some_and(|ro| ro == b"1\n")
    }

    fn mounts(&self, relatives: &[Relative]) -> io::Result<Vec<String>> {
        // A mount point need not be UTF-8.
        let table = self.table(MOUNTS)?;
        if table.is_empty() {
            log::warn!(
                "there is no {}: whether the target is mounted is not known for sure",
                self.proc.join(MOUNTS).display()
            );
        }
        Ok(mounts(&table).filter_map(|mount| self.use_by_mount(&mount, relatives)).collect())
    }

    fn use_by_mount(&self, mount: &Mount, relatives: &[Relative]) -> Option<String> {
        let shown = device_number(&String::from_utf8_lossy(mount.device));
        // File systems over several devices have a number of their own; their source is one.
        let numbers = [shown, (self.number_of)(&mount.source)];
        let found = relatives.iter().find(|one| numbers.contains(&Some(one.number)))?;
        Some(format!("{} is mounted on {}", found.name, mount.point.display()))
    }

    fn swap_paths(&self) -> io::Result<Vec<PathBuf>> {
        let bytes = self.table("swaps")?;
        let lines = bytes.split(|byte| *byte == b'\n').skip(1);
        let paths = lines.filter_map(|line| line.split(u8::is_ascii_whitespace).next());
        let paths = paths.filter(|path| !path.is_empty());
        Ok(paths.map(unescape).collect())
    }

    fn swaps(&self, relatives: &[Relative]) -> io::Result<Vec<String>> {
        let paths = self.swap_paths()?;
        let numbers = paths.iter().filter_map(|path| (self.number_of)(path));
        let found = numbers.filter_map(|number| relatives.iter().find(|one| one.number == number));
        Ok(found.map(|one| format!("{} is used for swapping", one.name)).collect())
    }
}

/// Fails where descriptors run out: of what cannot be opened for that it would be said that it is
/// not there.
fn have_descriptors() -> io::Result<()> {
    (0..DESCRIPTORS).map(|_| File::open("/")).collect::<io::Result<Vec<_>>>().map(drop)
}

/// The device's node, open for reading.
fn node_of(device: &Relative) -> Option<File> {
    let path = Path::new("/dev").join(&device.name);
    (number_at(&path) == Some(device.number)).then(|| File::open(path).ok()).flatten()
}

/// Whether the kernel has given the block device to somebody alone: a file system, say. Not to
/// somebody who asks just this. `None` where we may not ask.
fn is_claimed(device: &Relative) -> Option<bool> {
    let path = Path::new("/dev").join(&device.name);
    let is_busy = || match OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&path) {
        Ok(_) => Some(false),
        Err(err) => (err.raw_os_error() == Some(libc::EBUSY)).then_some(true),
    };
    let still_busy = |_| {
        thread::sleep(CLAIM_PAUSE);
        is_busy() == Some(true)
    };
    (number_at(&path) == Some(device.number)).then_some(())?;
    Some(is_busy()? && (1..CLAIM_LOOKS).all(still_busy))
}

/// What has locked `file`, an image or the node of a device, if anything has; else it is locked as
/// long as it is open, which it is for writing.
pub(super) fn users_by_lock(file: &File) -> Option<String> {
    (!lock(file)).then(|| LOCKED.to_owned())
}

/// Locks all of `file` for as long as it is open; false when others have locks. Where there are no
/// locks, as on some network file systems, nobody has any, which is told.
fn lock(file: &File) -> bool {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&lock_of_all())) {
        Err(Errno::EAGAIN | Errno::EACCES) => return false,
        Err(err) => {
            log::warn!("cannot lock the target: others may write to it at the same time: {err}");
        }
        Ok(_) => {}
    }
    true
}

/// Whether somebody else has locks on `file`.
fn is_locked(file: &File) -> bool {
    let mut all = lock_of_all();
    let asked = fcntl(file, FcntlArg::F_OFD_GETLK(&mut all));
    asked.is_ok() && i32::from(all.l_type) != libc::F_UNLCK
}

fn lock_of_all() -> flock {
    flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        // To the end, wherever that will be.
        l_len: 0,
        l_pid: 0,
    }
}

fn holders(relative: &Relative) -> Vec<String> {
    let entries = fs::read_dir(relative.folder.join("holders")).into_iter().flatten().flatten();
    let shown = |entry: fs::DirEntry| {
        let holder = entry.file_name().to_string_lossy().into_owned();
        // What an administrator calls it, where it is one of the device mapper's.
        let name = fs::read_to_string(entry.path().join("dm/name")).unwrap_or_default();
        let name = Some(name.trim()).filter(|name| !name.is_empty()).unwrap_or(&holder);
        format!("{} is held by {name}", relative.name)
    };
    entries.map(shown).collect()
}

fn number_at(path: &Path) -> Option<u64> {
    let found = path.is_absolute().then(|| fs::metadata(path).ok()).flatten()?;
    found.file_type().is_block_device().then(|| found.rdev())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::makedev;
    use std::os::unix::fs::symlink;

    /// A disk `sda` (8:0) with partitions `sda1` (8:1), `sda2` (8:2), and `dm-0` on the latter.
    fn kernel() -> (tempfile::TempDir, Kernel) {
        let folder = tempfile::tempdir().unwrap();
        let sys = folder.path().join("sys");
        let disk = sys.join("devices/sda");
        fs::create_dir_all(sys.join("dev/block")).unwrap();
        for (path, number, start) in [("", "8:0", "0"), ("sda1", "8:1", "8"), ("sda2", "8:2", "16")]
        {
            let path = disk.join(path);
            fs::create_dir_all(path.join("holders")).unwrap();
            fs::write(path.join("dev"), format!("{number}\n")).unwrap();
            if number != "8:0" {
                fs::write(path.join("partition"), "1\n").unwrap();
                fs::write(path.join("start"), format!("{start}\n")).unwrap();
                fs::write(path.join("size"), "8\n").unwrap();
            }
            symlink(&path, sys.join("dev/block").join(number)).unwrap();
        }
        fs::create_dir_all(disk.join("sda2/holders/dm-0/dm")).unwrap();
        fs::write(disk.join("sda2/holders/dm-0/dm/name"), "vg-root\n").unwrap();
        let proc = folder.path().join("proc");
        fs::create_dir_all(proc.join("self")).unwrap();
        fs::write(proc.join("self/mountinfo"), "25 1 0:22 / /proc rw - proc proc rw\n").unwrap();
        fs::write(proc.join("swaps"), "Filename\tType\tSize\n").unwrap();
        let number_of = |path: &Path| (path == Path::new("/dev/sda1")).then(|| makedev(8, 1));
        (folder, Kernel { proc, stack: Stack { sys, backing_of: |_, _| None }, number_of })
    }

    #[test]
    fn a_file_that_is_used_for_swapping_is_known() {
        let (folder, kernel) = kernel();
        let (swap, other) = (folder.path().join("swap"), folder.path().join("other"));
        for path in [&swap, &other] {
            fs::write(path, "x").unwrap();
        }
        let table = format!("Filename\tType\tSize\n{}\tfile\t8\n", swap.display());
        fs::write(folder.path().join("proc/swaps"), table).unwrap();
        let users = |path| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            kernel.users_of_image(path, &file, &file.metadata().unwrap()).unwrap()
        };
        assert_eq!(users(&swap), ["it is used for swapping"]);
        assert!(users(&other).is_empty());
    }

    #[test]
    fn an_image_that_is_mounted_without_a_loop_device_is_known() {
        let (folder, kernel) = kernel();
        let image = folder.path().join("image");
        let file = File::create(&image).unwrap();
        let users_if = |kind: &str, source: &Path| {
            let line = format!("30 1 0:50 / /m rw - {kind} {} ro\n", source.display());
            fs::write(kernel.proc.join("self/mountinfo"), line).unwrap();
            kernel.users_of_image(&image, &file, &file.metadata().unwrap()).unwrap()
        };
        assert_eq!(users_if("erofs", &image), ["it is mounted on /m"]);
        assert!(users_if("fuse.bdsync", &image).is_empty());
        for elsewhere in ["image", "../image", "/gone/image"] {
            let users = users_if("erofs", Path::new(elsewhere));
            assert_eq!(users, ["it is perhaps mounted on /m"], "{elsewhere}");
        }
        for (kind, source) in [("erofs", "other"), ("tmpfs", "image")] {
            assert!(users_if(kind, Path::new(source)).is_empty());
        }

        // Below a loop device as well.
        let disk = kernel.stack.sys.join("block/sda");
        fs::create_dir(kernel.stack.sys.join("block")).unwrap();
        symlink(kernel.stack.sys.join("devices/sda"), &disk).unwrap();
        fs::create_dir(disk.join("loop")).unwrap();
        fs::write(disk.join("loop/backing_file"), format!("{}\n", image.display())).unwrap();
        users_if("erofs", &image);
        let below = kernel.users_below(makedev(8, 0)).unwrap();
        assert_eq!(below, [format!("{} below it is mounted on /m", image.display())]);
    }

    #[test]
    fn disk_and_partition_share_their_users_but_siblings_do_not() {
        let (_folder, kernel) = kernel();
        let held = ["sda2 is held by vg-root"];
        assert_eq!(kernel.users(makedev(8, 0)).unwrap(), held);
        assert_eq!(kernel.users(makedev(8, 2)).unwrap(), held);
        assert!(kernel.users(makedev(8, 1)).unwrap().is_empty());
        assert!(kernel.users(makedev(9, 9)).unwrap().is_empty());
    }

    #[test]
    fn mounts_are_found_by_number_and_by_source() {
        let (_folder, kernel) = kernel();
        let lines = "30 1 8:1 / /mnt/a\\040b rw - ext4 /dev/x rw\n\
                     31 1 0:50 / /pool rw shared:1 - btrfs /dev/sda1 rw\n\
                     short line\n";
        fs::write(kernel.proc.join("self/mountinfo"), lines).unwrap();
        let expected = ["sda1 is mounted on /mnt/a b", "sda1 is mounted on /pool"];
        assert_eq!(kernel.users(makedev(8, 1)).unwrap(), expected);
    }

    #[test]
    fn tables_that_are_there_and_cannot_be_read_hide_nothing() {
        let (folder, kernel) = kernel();
        let image = folder.path().join("image");
        let file = File::create(&image).unwrap();
        let users = || kernel.users_of_image(&image, &file, &file.metadata().unwrap());
        assert!(users().unwrap().is_empty());
        for table in ["swaps", MOUNTS] {
            let path = kernel.proc.join(table);
            let _ = fs::remove_file(&path);
            assert!(users().unwrap().is_empty(), "{table}");
            fs::create_dir(&path).unwrap();
            users().unwrap_err();
            fs::remove_dir(&path).unwrap();
        }
    }

    #[test]
    fn an_image_is_in_use_as_its_loop_devices_are() {
        let (folder, kernel) = kernel();
        let image = folder.path().join("image");
        let file = File::create(&image).unwrap();
        let users = || kernel.users_of_image(&image, &file, &file.metadata().unwrap()).unwrap();
        fs::create_dir(kernel.stack.sys.join("block")).unwrap();
        let disk = kernel.stack.sys.join("block/sda");
        symlink(kernel.stack.sys.join("devices/sda"), &disk).unwrap();
        assert!(users().is_empty());
        fs::create_dir(disk.join("loop")).unwrap();
        fs::write(disk.join("loop/backing_file"), "/another/image\n").unwrap();
        assert!(users().is_empty());
        fs::write(disk.join("loop/backing_file"), format!("{}\n", image.display())).unwrap();
        assert_eq!(users(), ["sda2 is held by vg-root"]);
    }

    #[test]
    fn an_image_that_somebody_locks_is_in_use() {
        let (folder, kernel) = kernel();
        let image = folder.path().join("image");
        fs::write(&image, b"bytes").unwrap();
        let open = || File::options().read(true).write(true).open(&image).unwrap();
        let theirs = open();
        let users_of =
            |file: &File| kernel.users_of_image(&image, file, &file.metadata().unwrap()).unwrap();
        // Closed again, and with it our own lock gone.
        let users = || users_of(&open());
        // As QEMU does it: shared, on single bytes.
        let lock = |kind: i32| {
            let lock = flock {
                l_type: kind as libc::c_short,
                l_whence: libc::SEEK_SET as libc::c_short,
                l_start: 100,
                l_len: 1,
                l_pid: 0,
            };
            fcntl(&theirs, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
        };
        assert!(users().is_empty());
        lock(libc::F_RDLCK);
        assert_eq!(users(), [LOCKED]);
        lock(libc::F_UNLCK);
        let ours = open();
        assert!(users_of(&ours).is_empty());
        assert_eq!(users(), [LOCKED], "one of us at a time");
        drop(ours);
        assert!(users().is_empty());
    }

    #[test]
    fn a_device_that_takes_no_writes_is_known() {
        let (_folder, kernel) = kernel();
        let folder = kernel.stack.folder(makedev(8, 0)).unwrap();
        assert!(!kernel.is_read_only(makedev(8, 0)));
        for (text, read_only) in [("0\n", false), ("1\n", true)] {
            fs::write(folder.join("ro"), text).unwrap();
            assert_eq!(kernel.is_read_only(makedev(8, 0)), read_only);
        }
    }

    #[test]
    fn swap_is_found() {
        let (_folder, kernel) = kernel();
        fs::write(kernel.proc.join("swaps"), "Filename\tType\n/dev/sda1\tpartition\t1\n").unwrap();
        assert_eq!(kernel.users(makedev(8, 1)).unwrap(), ["sda1 is used for swapping"]);
    }
}

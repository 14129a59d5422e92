//! Which block devices share bytes with a device or an image: the partitions and loop devices over
//! it, those over these, and what it lies over itself.
//!
//! ```text
//!   image ---- loop0 ---- loop0p1 ---- loop1       each at some bytes of the one before it
//!        \---- loop2
//! ```
//! Of `loop2` the image below it and all that lies over the same bytes of that is found. Devices
//! that are made of others in any other way, as by LVM, hold them; that is for `busy.rs` to tell.
//! What is asked is sysfs; where it is missing nothing is found, which is told.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crossbeam_channel::unbounded;

use super::backing::backing_of;
use crate::units::{ByteRange, FileId, device_number, major_minor};

/// Sizes and offsets in sysfs count these, whatever a device's sectors are.
const SYSFS_SECTOR_BYTES: u64 = 512;
/// How long a loop device may take to say what it lies over.
const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// So much of what lies over each other is looked at.
const PARTS_MAX: usize = 4096;
/// All bytes there can be.
const ALL: ByteRange = ByteRange { start: 0, end: u64::MAX };

/// A block device that shares bytes with the one in question.
#[derive(Debug)]
pub(super) struct Relative {
    /// Its `st_rdev`.
    pub(super) number: u64,
    /// What the kernel calls it.
    pub(super) name: String,
    /// Its folder in sysfs.
    pub(super) folder: PathBuf,
    /// Whether whoever has it for itself alone uses the bytes in question, and does not keep others
    /// from what they are asked by.
    pub(super) is_telling: bool,
}

/// Where sysfs is; in tests elsewhere.
#[derive(Debug)]
pub(super) struct Stack {
    /// Its folder.
    pub(super) sys: PathBuf,
    /// What the loop device at a path lies over.
    pub(super) backing_of: fn(&Path, u64) -> Option<FileId>,
}

/// What shares bytes with a carrier.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// The block devices, itself among them if it is one.
    pub(super) devices: Vec<Relative>,
    /// The files that it lies over, by the paths that they were attached by.
    pub(super) images: Vec<(PathBuf, FileId)>,
}

/// Bytes of a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    carrier: FileId,
    range: ByteRange,
    is_telling: bool,
}

/// A loop device.
struct LoopDevice {
    number: u64,
    over: FileId,
    /// Which bytes of that.
    range: ByteRange,
    /// What it was attached by.
    path: PathBuf,
}

impl Default for Stack {
    fn default() -> Self {
        Self { sys: "/sys".into(), backing_of }
    }
}

impl Stack {
    /// What shares bytes with the carrier.
    ///
    /// # Errors
    /// The system's, where that cannot be told.
    pub(super) fn sharing(&self, carrier: FileId) -> io::Result<Sharing> {
        let loops = self.loops()?;
        let mut parts = vec![Part { carrier, range: ALL, is_telling: false }];
        follow(&mut parts, |part| self.below(part, &loops));
        let below = loops.iter().filter(|device| {
            device.over != carrier && parts.iter().any(|part| part.carrier == device.over)
        });
        let mut images: Vec<(PathBuf, FileId)> = vec![];
        for device in below {
            // Several may lie over one image, under one name.
            let image = (device.path.clone(), device.over);
            if !images.contains(&image) {
                images.push(image);
            }
        }
        follow(&mut parts, |part| self.above(part, &loops));
        Ok(Sharing { devices: self.devices(&parts), images })
    }

    /// The block devices among the parts.
    fn devices(&self, parts: &[Part]) -> Vec<Relative> {
        let mut relatives: Vec<Relative> = vec![];
        for part in parts {
            if let Some(number) = part.carrier.device_number()
                && relatives.iter().all(|known| known.number != number)
                && let Some(folder) = self.folder(number)
                && let Some(found) = relative_at(&folder)
            {
                relatives.push(Relative { is_telling: part.is_telling, ..found });
            }
        }
        relatives
    }

    /// The device's folder in sysfs.
    pub(super) fn folder(&self, number: u64) -> Option<PathBuf> {
        fs::canonicalize(self.sys.join("dev/block").join(major_minor(number))).ok()
    }

    /// What the part lies over.
    fn below(&self, part: &Part, loops: &[LoopDevice]) -> Vec<Part> {
        let Some(number) = part.carrier.device_number() else { return vec![] };
        let within = |place: ByteRange| {
            let at = |offset: u64| place.start.saturating_add(offset).min(place.end);
            ByteRange::new(at(part.range.start), at(part.range.end))
        };
        let over = loops.iter().filter(|device| device.number == number);
        let over = over.map(|device| {
            let is_telling = !self.has_partitions(device.over);
            (device.over, within(device.range), is_telling)
        });
        let disk = self.folder(number).filter(|folder| is_partition(folder)).and_then(|folder| {
            let disk = number_in(folder.parent()?)?;
            Some((FileId::of_device(disk), within(place_of(&folder)), false))
        });
        let parts = over.chain(disk);
        parts.map(|(carrier, range, is_telling)| Part { carrier, range, is_telling }).collect()
    }

    /// What lies over bytes of the part.
    fn above(&self, part: &Part, loops: &[LoopDevice]) -> Vec<Part> {
        let over = loops.iter().filter(|device| device.over == part.carrier);
        let over = over.map(|device| {
            let is_telling = part.range.covers(&device.range)
                || !self.has_partitions(FileId::of_device(device.number));
            (device.number, device.range, is_telling)
        });
        let partitions =
            self.partitions(part.carrier).into_iter().map(|(number, place)| (number, place, true));
        let found = over.chain(partitions).filter_map(|(number, place, is_telling)| {
            let shared = place.intersect(&part.range);
            let range = ByteRange::new(shared.start - place.start, shared.end - place.start);
            let carrier = FileId::of_device(number);
            (!shared.is_empty()).then_some(Part { carrier, range, is_telling })
        });
        found.collect()
    }

    /// An exclusive open of a disk fails for what uses any of its partitions.
    fn has_partitions(&self, carrier: FileId) -> bool {
        !self.partitions(carrier).is_empty()
    }

    /// The partitions of a disk, and which bytes of it they are.
    fn partitions(&self, carrier: FileId) -> Vec<(u64, ByteRange)> {
        let Some(disk) = carrier.device_number() else { return vec![] };
        let Some(folder) = self.folder(disk) else { return vec![] };
        let inside = entries(&folder).filter(|path| is_partition(path));
        inside.filter_map(|path| Some((number_in(&path)?, place_of(&path)))).collect()
    }

    /// All loop devices that lie over something. Each is asked by a thread of its own: one over a file
    /// system that does not answer is told of, and hides no other.
    fn loops(&self) -> io::Result<Vec<LoopDevice>> {
        let mut loops = vec![];
        let folder = self.sys.join("block");
        let folders = match fs::read_dir(&folder) {
            Err(err) if is_out_of_sight(&err) => {
                log::warn!(
                    "cannot look at {}: whether the target is in use by a loop device is not known: \
                     {err}",
                    folder.display()
                );
                return Ok(loops);
            }
            listed => listed?.map(|entry| entry.map(|entry| entry.path())),
        };
        let attached = folders
            .filter_map(|folder| folder.map(|at| Some((backing_path(&at)?, at))).transpose())
            .collect::<io::Result<Vec<_>>>()?;
        if attached.is_empty() {
            return Ok(loops);
        }
        let mut asked: Vec<_> = attached.iter().map(|(_, folder)| name_of(folder)).collect();
        let ((found, answers), backing_of) = (unbounded(), self.backing_of);
        for (path, folder) in attached {
            let found = found.clone();
            // Nobody may listen any more.
            let ask = move || {
                drop(found.send((name_of(&folder), loop_at(&folder, &path, backing_of))));
            };
            thread::Builder::new().name("loop device".into()).spawn(ask)?;
        }
        drop(found);
        while let Ok((name, device)) = answers.recv_timeout(ANSWER_WAIT) {
            asked.retain(|one| *one != name);
            loops.extend(device);
        }
        for name in asked {
            log::warn!(
                "{name} does not answer: whether the target is in use by a loop device is not known \
                 for sure"
            );
        }
        loops.sort_by_key(|device| device.number);
        Ok(loops)
    }
}

/// Whether two devices or files have bytes that are the same ones on the disk, as far as can be told:
/// one lies over the other, or both over a third.
#[must_use]
pub fn share_bytes(a: FileId, b: FileId) -> bool {
    let is_device = |one: FileId| one.device_number().is_some();
    if a == b || !(is_device(a) || is_device(b)) {
        return a == b;
    }
    let Ok(Sharing { devices, images }) = Stack::default().sharing(b) else { return false };
    devices.iter().any(|one| FileId::of_device(one.number) == a)
        || images.iter().any(|(_, image)| *image == a)
}

/// Whether there is no sysfs for us, as in some containers.
fn is_out_of_sight(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
}

/// Adds what `next` finds for each of the parts, and for what is added.
fn follow(parts: &mut Vec<Part>, next: impl Fn(&Part) -> Vec<Part>) {
    let mut i = 0;
    while i < parts.len() && parts.len() < PARTS_MAX {
        for found in next(&parts[i]) {
            let is_known =
                |known: &Part| known.carrier == found.carrier && known.range.covers(&found.range);
            if !parts.iter().any(is_known) {
                parts.push(found);
            }
        }
        i += 1;
    }
}

/// The path that the loop device in this folder was attached by, if it is one that was.
fn backing_path(folder: &Path) -> Option<PathBuf> {
    let path = fs::read(folder.join("loop/backing_file")).ok()?;
    Some(PathBuf::from(OsStr::from_bytes(path.strip_suffix(b"\n")?)))
}

fn loop_at(
    folder: &Path,
    path: &Path,
    backing_of: fn(&Path, u64) -> Option<FileId>,
) -> Option<LoopDevice> {
    let Relative { number, name, .. } = relative_at(folder)?;
    let over = backing_of(&Path::new("/dev").join(name), number)
        .or_else(|| Some(FileId::of(&fs::metadata(path).ok()?)))?;
    let start = decimal_at(&folder.join("loop/offset")).unwrap_or(0);
    Some(LoopDevice { number, over, range: range_from(start, folder), path: path.to_owned() })
}

/// Which bytes of its disk a partition is.
fn place_of(folder: &Path) -> ByteRange {
    let sectors = decimal_at(&folder.join("start")).unwrap_or(0);
    range_from(sectors.saturating_mul(SYSFS_SECTOR_BYTES), folder)
}

/// As many bytes as the device in this folder has; all where that is not told.
fn range_from(start: u64, folder: &Path) -> ByteRange {
    let sectors = decimal_at(&folder.join("size")).unwrap_or(u64::MAX);
    let len = sectors.saturating_mul(SYSFS_SECTOR_BYTES);
    ByteRange::new(start, start.saturating_add(len))
}

fn is_partition(folder: &Path) -> bool {
    folder.join("partition").exists()
}

fn name_of(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn relative_at(folder: &Path) -> Option<Relative> {
    let name = name_of(folder);
    Some(Relative {
        number: number_in(folder)?,
        name,
        folder: folder.to_owned(),
        is_telling: false,
    })
}

fn number_in(folder: &Path) -> Option<u64> {
    device_number(fs::read_to_string(folder.join("dev")).ok()?.trim())
}

fn decimal_at(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::makedev;

    use super::*;

    const SECTORS: u64 = 100;

    fn device(major: u64, minor: u64) -> FileId {
        FileId::of_device(makedev(major, minor))
    }

    /// A sysfs with what a test adds.
    struct Sys(tempfile::TempDir);

    impl Sys {
        fn new() -> Self {
            let sys = Self(tempfile::tempdir().unwrap());
            for folder in ["dev/block", "block"] {
                fs::create_dir_all(sys.0.path().join(folder)).unwrap();
            }
            sys
        }

        fn stack(&self) -> Stack {
            Stack { sys: self.0.path().to_owned(), backing_of: |_, _| None }
        }

        /// A device in a folder, of `sectors` sectors.
        fn device(&self, folder: &str, number: &str, sectors: u64) -> PathBuf {
            let folder = self.0.path().join("devices").join(folder);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("dev"), format!("{number}\n")).unwrap();
            fs::write(folder.join("size"), format!("{sectors}\n")).unwrap();
            symlink(&folder, self.0.path().join("dev/block").join(number)).unwrap();
            folder
        }

        fn partition(&self, folder: &str, number: &str, start: u64, sectors: u64) {
            let folder = self.device(folder, number, sectors);
            fs::write(folder.join("partition"), "1\n").unwrap();
            fs::write(folder.join("start"), format!("{start}\n")).unwrap();
        }

        fn loop_device(&self, name: &str, number: &str, over: &Path, offset: u64, sectors: u64) {
            let folder = self.device(name, number, sectors);
            fs::create_dir(folder.join("loop")).unwrap();
            fs::write(folder.join("loop/backing_file"), format!("{}\n", over.display())).unwrap();
            fs::write(folder.join("loop/offset"), format!("{offset}\n")).unwrap();
            symlink(&folder, self.0.path().join("block").join(name)).unwrap();
        }
    }

    fn names(sharing: Sharing) -> Vec<String> {
        let mut relatives = sharing.devices;
        relatives.sort_by(|a, b| a.name.cmp(&b.name));
        relatives.into_iter().map(|one| one.name).collect()
    }

    fn of_file(stack: &Stack, path: &Path) -> Vec<String> {
        names(stack.sharing(FileId::of(&fs::metadata(path).unwrap())).unwrap())
    }

    #[test]
    fn what_lies_over_each_other_is_followed_up_and_down() {
        let sys = Sys::new();
        let image = sys.0.path().join("image");
        fs::write(&image, "x").unwrap();
        sys.loop_device("loop0", "7:0", &image, 0, SECTORS);
        sys.partition("loop0/loop0p1", "259:0", 10, 20);
        sys.partition("loop0/loop0p2", "259:1", 30, 20);
        let mut stack = sys.stack();
        assert_eq!(of_file(&stack, &image), ["loop0", "loop0p1", "loop0p2"]);
        assert_eq!(names(stack.sharing(device(259, 0)).unwrap()), ["loop0", "loop0p1"]);
        // A second one over the bytes of the first partition, and one over that.
        sys.loop_device("loop1", "7:1", &image, 10 * SYSFS_SECTOR_BYTES, 20);
        sys.loop_device("loop2", "7:2", Path::new("/nothing/here"), 0, 20);
        stack.backing_of = |path, number| {
            (path == Path::new("/dev/loop2") && number == makedev(7, 2)).then_some(device(7, 1))
        };
        let all = ["loop0", "loop0p1", "loop0p2", "loop1", "loop2"];
        assert_eq!(of_file(&stack, &image), all);
        assert_eq!(names(stack.sharing(device(7, 0)).unwrap()), all);
        for number in [(7, 1), (7, 2)] {
            let found = stack.sharing(device(number.0, number.1)).unwrap();
            assert_eq!(found.images[0].0, image, "{number:?}");
            assert_eq!(names(found), ["loop0", "loop0p1", "loop1", "loop2"], "{number:?}");
        }
        let found = names(stack.sharing(device(259, 0)).unwrap());
        assert_eq!(found, ["loop0", "loop0p1", "loop1", "loop2"]);
        // Not the images of others, nor one's own.
        let other = sys.0.path().join("other");
        fs::write(&other, "x").unwrap();
        sys.loop_device("loop3", "7:3", &other, 0, SECTORS);
        let images = |carrier| -> Vec<_> {
            stack.sharing(carrier).unwrap().images.into_iter().map(|(path, _)| path).collect()
        };
        let carrier_of = |path: &Path| FileId::of(&fs::metadata(path).unwrap());
        assert_eq!(images(device(7, 3)), std::slice::from_ref(&other));
        let below = images(device(7, 0));
        assert_eq!(below, std::slice::from_ref(&image), "once, by whatever lies over it");
        assert!(images(carrier_of(&image)).is_empty());
        assert!(images(carrier_of(&other)).is_empty());
        assert_eq!(names(stack.sharing(device(259, 1)).unwrap()), ["loop0", "loop0p2"]);
    }

    #[test]
    fn a_loop_device_that_does_not_answer_hides_no_other() {
        let sys = Sys::new();
        let image = sys.0.path().join("image");
        fs::write(&image, "x").unwrap();
        for (name, number) in [("loop0", "7:0"), ("loop1", "7:1"), ("loop2", "7:2")] {
            sys.loop_device(name, number, &image, 0, SECTORS);
        }
        let backing_of = |path: &Path, _| match path == Path::new("/dev/loop1") {
            true => loop {
                thread::park();
            },
            false => None,
        };
        let stack = Stack { backing_of, ..sys.stack() };
        assert_eq!(of_file(&stack, &image), ["loop0", "loop2"]);
    }

    #[test]
    fn what_the_driver_tells_counts_and_not_the_path() {
        let sys = Sys::new();
        let image = sys.0.path().join("image");
        fs::write(&image, "x").unwrap();
        sys.loop_device("loop0", "7:0", &image, 0, SECTORS);
        let mut stack = sys.stack();
        stack.backing_of = |_, _| Some(FileId { device: 0, inode: 1 });
        assert!(of_file(&stack, &image).is_empty());
    }

    #[test]
    fn exclusive_use_tells_something_of_loop_devices_and_what_they_lie_over() {
        let sys = Sys::new();
        sys.device("sda", "8:0", SECTORS);
        sys.partition("sda/sda1", "8:1", 0, 50);
        sys.loop_device("loop0", "7:0", Path::new("/nothing/here"), 0, 50);
        let stack = Stack { backing_of: |_, _| Some(device(8, 1)), ..sys.stack() };
        let telling_of = |carrier| {
            let mut found = stack.sharing(carrier).unwrap();
            found.devices.retain(|one| one.is_telling);
            names(found)
        };
        let telling = |(major, minor)| telling_of(device(major, minor));
        assert_eq!(telling((7, 0)), ["sda1"], "not the disk, whose other partitions may be in use");
        assert_eq!(telling((8, 1)), ["loop0"]);
        assert_eq!(telling((8, 0)), ["loop0", "sda1"]);
        // Other partitions of it may be what is in use.
        sys.partition("loop0/loop0p1", "259:0", 0, 10);
        sys.partition("sda/sda1/sda1p1", "259:1", 0, 10);
        assert_eq!(telling((7, 0)), ["loop0p1", "sda1p1"]);
        assert_eq!(telling((8, 1)), ["loop0", "loop0p1", "sda1p1"]);
    }
}

//! Real mounts of a scripted change: how the adapter behaves while answers do not come.

use std::fs;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Sender;
use nix::mount::MntFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::statvfs::statvfs;
use nix::unistd::Pid;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::events::Event;
use super::parked::PARKED_REQUESTS_MAX;
use super::session::{THREADS_MAX, threads};
use super::{Events, Mount, Mountpoint, unmount};
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, Readers};
use crate::view::{Change, Done, Image, Status, View};

const IMAGE_BYTES: u64 = 1 << 20;
const PATCH: &[u8] = b"the whole patch\n";
/// How soon a reader has to be gone, promised to users.
const GONE_WITHIN: Duration = Duration::from_secs(2);
/// More than anything takes that does come.
const LIMIT: Duration = Duration::from_secs(60);

/// Images of one repeated byte, and a patch that comes when the test lets it.
#[derive(Default)]
struct Scripted {
    state: Mutex<State>,
    /// What `merged` is instead.
    backing: Option<fs::File>,
    /// Held to have the local device say nothing.
    stall: Mutex<()>,
    /// How many wait for it.
    stalled: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// Answers come at once.
    released: bool,
    /// Reads of an image that fail before one works.
    failures: u32,
    /// Reads of an image do not come back at all.
    lost: bool,
    waiting: Vec<(u64, u32, Done<Vec<u8>>)>,
    reads: u32,
}

impl Scripted {
    fn release(&self) {
        let waiting = {
            let mut state = self.state.lock();
            state.released = true;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(|(offset, len, done)| done(Ok(part(offset, len))));
    }

    fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }
}

fn part(offset: u64, len: u32) -> Vec<u8> {
    let start = PATCH.len().min(offset as usize);
    let end = PATCH.len().min(start + len as usize);
    PATCH[start..end].to_vec()
}

impl Change for Scripted {
    fn image_bytes(&self, _: Image) -> u64 {
        IMAGE_BYTES
    }

    fn read(&self, image: Image, range: ByteRange, done: Done<Vec<u8>>) {
        let mut state = self.state.lock();
        state.reads += 1;
        if state.lost {
            return state.waiting.push((0, 0, done));
        }
        let fails = state.failures > 0;
        state.failures = state.failures.saturating_sub(1);
        drop(state);
        if fails {
            return done(Err(Error::new(Kind::Connection, "scripted failure").with_range(range)));
        }
        let byte = if image == Image::Merged { b'm' } else { b'o' };
        done(Ok(vec![byte; range.len() as usize]));
    }

    fn next_data(&self, _: Image, from: u64) -> Result<Option<ByteRange>> {
        // The second half is a hole.
        let half = IMAGE_BYTES / 2;
        Ok((from < half).then(|| ByteRange::new(from, half)))
    }

    fn next_extent(&self, from: u64, done: Done<Option<ByteRange>>) {
        let range = ByteRange::new(4096, 8192);
        done(Ok((from < range.end).then_some(range)));
    }

    fn read_patch(&self, offset: u64, len: u32, done: Done<Vec<u8>>) {
        let mut state = self.state.lock();
        if !state.released {
            return state.waiting.push((offset, len, done));
        }
        drop(state);
        done(Ok(part(offset, len)));
    }

    fn patch_bytes(&self) -> Option<u64> {
        self.state.lock().released.then_some(PATCH.len() as u64)
    }

    fn backing_file(&self, image: Image) -> Option<&fs::File> {
        self.backing.as_ref().filter(|_| image == Image::Merged)
    }

    fn status(&self) -> Status {
        self.stalled.fetch_add(1, Ordering::SeqCst);
        drop(self.stall.lock());
        self.stalled.fetch_sub(1, Ordering::SeqCst);
        Status::example()
    }
}

/// A mount in a folder of its own, gone with it.
struct Fixture {
    change: Arc<Scripted>,
    mount: Option<Mount>,
    events: Sender<Event>,
    place: TempDir,
}

impl Fixture {
    /// `None`, aloud: there is no FUSE here.
    fn new() -> Option<Self> {
        Self::of(Scripted::default())
    }

    fn of(change: Scripted) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() {
            let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
            assert!(!ci, "this test needs /dev/fuse");
            let _ = writeln!(std::io::stderr(), "skipping: needs /dev/fuse");
            return None;
        }
        let place = tempfile::tempdir().unwrap();
        let change = Arc::new(change);
        let view = Arc::new(View::new(change.clone(), Readers::Owner).unwrap());
        let at = Mountpoint::check(place.path(), &[]).unwrap();
        let events = Events::without_signals();
        let sender = events.sender.clone();
        let mount = Mount::attach(view, at, Readers::Owner, "bdsync".as_ref(), events).unwrap();
        Some(Self { change, mount: Some(mount), events: sender, place })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// What becomes of the mount from now on.
    fn serve(&mut self) -> JoinHandle<Result<Option<i32>>> {
        let mount = self.mount.take().unwrap();
        std::thread::spawn(move || mount.serve())
    }

    fn is_mounted(&self) -> bool {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().any(|line| line.split(' ').nth(4) == self.place.path().to_str())
    }

    /// A process that has come to wait for something that it reads.
    fn waiting_reader(&self, program: &Command) -> Reader {
        let before = self.change.waiting();
        // Jobs in the background, as these tests may be, ignore SIGINT, and so do their children.
        let mut reader = Command::new("env");
        reader.arg("--default-signal").arg(program.get_program()).args(program.get_args());
        reader.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut reader = Reader(reader.spawn().unwrap());
        wait_until("the reader reads", || {
            let ended = reader.0.try_wait().unwrap();
            let waits = self.change.waiting() > before;
            assert!(waits || ended.is_none(), "it has ended before: {ended:?}");
            waits
        });
        reader
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.change.release();
        drop(self.mount.take());
    }
}

/// Killed with the test; the mount then lets it go.
struct Reader(Child);

impl Reader {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }

    /// Whether it comes to its end before `limit`.
    fn is_gone_within(&mut self, limit: Duration) -> bool {
        within(limit, || self.0.try_wait().unwrap().is_some())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn wait_until(what: &str, is_true: impl FnMut() -> bool) {
    assert!(within(LIMIT, is_true), "waited for: {what}");
}

/// Whether it becomes true before `limit`, which is counted by the pauses between two looks: a
/// machine that stands still meanwhile takes no time from those that are waited for.
fn within(limit: Duration, mut is_true: impl FnMut() -> bool) -> bool {
    let pause = Duration::from_millis(10);
    for _ in 0..limit.div_duration_f64(pause) as u32 {
        if is_true() {
            return true;
        }
        std::thread::sleep(pause);
    }
    is_true()
}

#[test]
fn everything_else_answers_while_a_reader_waits() {
    let Some(fixture) = Fixture::new() else { return };
    let mut cat = fixture.waiting_reader(Command::new("cat").arg(fixture.path("patch")));
    let names = fs::read_dir(fixture.place.path()).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["changes", "extents", "merged", "original", "patch", "status.json"]);
    assert_eq!(fs::metadata(fixture.path("patch")).unwrap().len(), 0);
    assert_eq!(fs::metadata(fixture.path("merged")).unwrap().len(), IMAGE_BYTES);
    assert_eq!(fs::read(fixture.path("merged")).unwrap(), vec![b'm'; IMAGE_BYTES as usize]);
    assert_eq!(fs::read(fixture.path("original")).unwrap(), vec![b'o'; IMAGE_BYTES as usize]);
    let status = fs::read_to_string(fixture.path("status.json")).unwrap();
    assert_eq!(status.trim_end(), Status::example().to_json());

    fixture.change.release();
    assert!(cat.0.wait().unwrap().success());
    let mut text = Vec::new();
    cat.0.stdout.take().unwrap().read_to_end(&mut text).unwrap();
    assert_eq!(text, PATCH);
}

#[test]
fn as_many_waiting_readers_as_may_be_are_in_nobody_elses_way() {
    let Some(fixture) = Fixture::new() else { return };
    let patch = Arc::new(fs::File::open(fixture.path("patch")).unwrap());
    let read = |_| {
        let patch = Arc::clone(&patch);
        let read = move || patch.read_at(&mut [0], 0).unwrap();
        std::thread::Builder::new().stack_size(64 * 1024).spawn(read).unwrap()
    };
    let readers: Vec<_> = (0..PARKED_REQUESTS_MAX).map(read).collect();
    wait_until("all wait", || fixture.change.waiting() == PARKED_REQUESTS_MAX);
    let err = patch.read_at(&mut [0], 0).unwrap_err();
    assert_eq!(err.raw_os_error(), Some(libc::EBUSY));
    assert_eq!(fs::read_dir(fixture.place.path()).unwrap().count(), 6);
    assert!(fs::metadata(fixture.path("extents")).unwrap().is_dir());
    let status = fs::read_to_string(fixture.path("status.json")).unwrap();
    assert_eq!(status.trim_end(), Status::example().to_json());
    // Its content may have to wait, but not for where its holes are.
    let mut merged = fs::File::open(fixture.path("merged")).unwrap();
    assert_eq!(merged.seek(std::io::SeekFrom::End(0)).unwrap(), IMAGE_BYTES);
    fixture.change.release();
    readers.into_iter().for_each(|reader| assert_eq!(reader.join().unwrap(), 1));
}

#[test]
fn a_local_device_that_stalls_when_a_file_is_opened_holds_up_nothing_else() {
    let Some(fixture) = Fixture::new() else { return };
    let status = fixture.path("status.json");
    // Dropped behind the stall, which holds them up.
    let mut openers = Vec::new();
    let stall = fixture.change.stall.lock();
    let open = |_| {
        let mut cat = Command::new("cat");
        cat.arg(&status).stdin(Stdio::null()).stdout(Stdio::null());
        Reader(cat.spawn().unwrap())
    };
    // More than the session has threads.
    openers.extend((0..=THREADS_MAX).map(open));
    wait_until("enough of them wait", || {
        fixture.change.stalled.load(Ordering::SeqCst) >= threads()
    });
    let (path, (told, answers)) = (fixture.path("."), crossbeam_channel::bounded(1));
    let asker = std::thread::spawn(move || {
        let _ = told.send(statvfs(&path).map(|found| found.blocks() * found.fragment_size()));
    });
    assert_eq!(answers.recv_timeout(Duration::from_secs(20)), Ok(Ok(IMAGE_BYTES)));
    asker.join().unwrap();
    openers.iter().for_each(|opener| opener.signal(Signal::SIGKILL));
    for opener in &mut openers {
        assert!(opener.is_gone_within(LIMIT));
    }
    drop(stall);
    assert_eq!(fs::read_to_string(&status).unwrap().trim_end(), Status::example().to_json());
}

#[test]
fn ctrl_c_ends_a_waiting_reader_within_two_seconds() {
    let Some(fixture) = Fixture::new() else { return };
    // cat dies of SIGINT, dd catches it, and nothing can catch SIGKILL.
    let input = format!("if={}", fixture.path("patch").display());
    for (mut program, signal) in [
        (Command::new("cat"), Signal::SIGINT),
        (Command::new("dd"), Signal::SIGINT),
        (Command::new("cat"), Signal::SIGTERM),
        (Command::new("dd"), Signal::SIGKILL),
    ] {
        if program.get_program() == "dd" {
            program.arg(&input);
        } else {
            program.arg(fixture.path("patch"));
        }
        let mut reader = fixture.waiting_reader(&program);
        reader.signal(signal);
        assert!(reader.is_gone_within(GONE_WITHIN), "{program:?} after {signal}");
    }
    // Late answers to readers that are gone hurt nobody.
    fixture.change.release();
    assert_eq!(fs::read(fixture.path("patch")).unwrap(), PATCH);
}

#[test]
fn signals_that_do_not_ask_for_an_end_leave_a_reader_waiting() {
    let Some(fixture) = Fixture::new() else { return };
    let mut cat = fixture.waiting_reader(Command::new("cat").arg(fixture.path("patch")));
    cat.signal(Signal::SIGWINCH);
    std::thread::sleep(GONE_WITHIN);
    assert!(cat.0.try_wait().unwrap().is_none());
    fixture.change.release();
    assert!(cat.0.wait().unwrap().success());
}

#[test]
fn size_of_the_patch_is_zero_while_unknown_and_exact_after() {
    let Some(fixture) = Fixture::new() else { return };
    let patch = fixture.path("patch");
    let held = fs::File::open(&patch).unwrap();
    assert_eq!(held.metadata().unwrap().len(), 0);
    fixture.change.release();
    assert_eq!(held.metadata().unwrap().len(), PATCH.len() as u64);
    // A file that was opened before and one opened now read the same.
    for mut file in [held, fs::File::open(&patch).unwrap()] {
        let mut text = Vec::new();
        file.read_to_end(&mut text).unwrap();
        assert_eq!(text, PATCH);
    }
    let tail = Command::new("tail").args(["-c", "6"]).arg(&patch).output().unwrap();
    assert_eq!(tail.stdout, b"patch\n");
}

/// What sendfile(2) gets of a file, which `io::copy` to a socket uses where there is a size.
fn sent(path: &Path) -> Vec<u8> {
    let (mut near, mut far) = UnixStream::pair().unwrap();
    std::io::copy(&mut fs::File::open(path).unwrap(), &mut near).unwrap();
    drop(near);
    let mut bytes = Vec::new();
    far.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn readers_who_trust_the_size_get_the_whole_status_and_all_that_is_known() {
    let Some(fixture) = Fixture::new() else { return };
    let status = fixture.path("status.json");
    for round in 0..3 {
        let text = fs::read(&status).unwrap();
        assert_eq!(fs::metadata(&status).unwrap().len(), text.len() as u64, "round {round}");
        assert_eq!(sent(&status), text, "round {round}");
    }
    // What was looked up before its size was known is not taken for empty later.
    let patch = fixture.path("patch");
    assert_eq!(fs::metadata(&patch).unwrap().len(), 0);
    fixture.change.release();
    assert_eq!(sent(&patch), PATCH);
}

#[test]
fn failed_read_is_eio_and_the_next_one_tries_again() {
    let Some(fixture) = Fixture::new() else { return };
    // More than the kernel tries by itself when a read-ahead has failed.
    fixture.change.state.lock().failures = 1000;
    let err = fs::read(fixture.path("merged")).unwrap_err();
    assert_eq!(err.raw_os_error(), Some(libc::EIO));
    fixture.change.state.lock().failures = 0;
    assert_eq!(fs::read(fixture.path("merged")).unwrap(), vec![b'm'; IMAGE_BYTES as usize]);
}

#[test]
fn content_is_read_once_and_then_kept_by_the_kernel() {
    let Some(fixture) = Fixture::new() else { return };
    fs::read(fixture.path("merged")).unwrap();
    let reads = fixture.change.state.lock().reads;
    fs::read(fixture.path("merged")).unwrap();
    assert_eq!(fixture.change.state.lock().reads, reads);
    assert!(reads <= 16, "{reads} requests for 1 MiB");
}

#[test]
fn holes_extents_and_missing_names_are_what_the_view_says() {
    let Some(fixture) = Fixture::new() else { return };
    let extents = fixture.path("extents");
    let names: Vec<_> = fs::read_dir(&extents).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["0000000000001000-0000000000001000"]);
    assert_eq!(fs::read(extents.join(&names[0])).unwrap(), vec![b'm'; 4096]);
    let changes = fs::read_to_string(fixture.path("changes")).unwrap();
    assert_eq!(changes.split_whitespace().collect::<Vec<_>>(), ["4096", "4096"]);
    for missing in ["extents/0000000000002000-0000000000001000", "extents/x", "no"] {
        let err = fs::read(fixture.path(missing)).unwrap_err();
        assert_eq!(err.kind(), std::io::ErrorKind::NotFound, "{missing}");
    }
    let copy = fixture.place.path().with_extension("copy");
    let mut cp = Command::new("cp");
    let done = cp.arg("--sparse=auto").arg(fixture.path("merged")).arg(&copy).status();
    let size = fs::metadata(&copy).map(|about| about.len());
    let _ = fs::remove_file(&copy);
    assert!(done.unwrap().success());
    assert_eq!(size.unwrap(), IMAGE_BYTES);
}

#[test]
fn nothing_in_the_mount_can_be_changed() {
    let Some(fixture) = Fixture::new() else { return };
    for result in [
        fs::write(fixture.path("merged"), b"x"),
        fs::write(fixture.path("new"), b"x"),
        fs::remove_file(fixture.path("patch")),
        fs::create_dir(fixture.path("dir")),
        fs::rename(fixture.path("patch"), fixture.path("other")),
    ] {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS));
    }
}

#[test]
fn signals_end_readers_of_an_image_whose_answer_is_lost() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.change.state.lock().lost = true;
    let merged = fixture.path("merged");
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", merged.display())).arg("iflag=direct");
    // A watchdog's signal, which would leave a core file.
    let mut aborted = Command::new("sh");
    aborted.args(["-c", "ulimit -c 0; exec cat \"$1\"", "sh"]).arg(&merged);
    for (program, signal) in [
        (Command::new("cat").arg(&merged), Signal::SIGINT),
        (&mut dd, Signal::SIGINT),
        (&mut aborted, Signal::SIGABRT),
    ] {
        let mut reader = fixture.waiting_reader(program);
        reader.signal(signal);
        assert!(reader.is_gone_within(GONE_WITHIN), "{program:?}");
    }
    // What was asked for on their behalf does not stay locked for others.
    fixture.change.state.lock().lost = false;
    assert_eq!(fs::read(merged).unwrap(), vec![b'm'; IMAGE_BYTES as usize]);
}

/// Version of the kernel: major and minor.
fn kernel() -> (u32, u32) {
    let name = nix::sys::utsname::uname().unwrap();
    let mut numbers = name.release().to_str().unwrap().split(|ch: char| !ch.is_ascii_digit());
    let mut next = || numbers.next().unwrap().parse().unwrap();
    (next(), next())
}

/// What `umount`, or a user's `fusermount3 -u`, does.
fn umount(path: &Path) -> bool {
    nix::mount::umount(path).is_ok()
        || Command::new("fusermount3")
            .arg("-u")
            .arg(path)
            .output()
            .is_ok_and(|o| o.status.success())
}

#[test]
fn unmount_from_outside_ends_the_mount() {
    let Some(mut fixture) = Fixture::new() else { return };
    let serving = fixture.serve();
    assert!(umount(fixture.place.path()));
    assert_eq!(serving.join().unwrap().unwrap(), None);
    assert_eq!(fs::read_dir(fixture.place.path()).unwrap().count(), 0);
}

#[test]
fn mount_with_a_waiting_reader_is_busy_and_signals_detach_and_then_end_it() {
    for signals in [1, 2] {
        let Some(mut fixture) = Fixture::new() else { return };
        let mut cat = fixture.waiting_reader(Command::new("cat").arg(fixture.path("patch")));
        let serving = fixture.serve();
        assert!(!umount(fixture.place.path()));
        fixture.events.send(Event::Signal(libc::SIGTERM)).unwrap();
        wait_until("it is detached", || !fixture.is_mounted());
        assert!(cat.0.try_wait().unwrap().is_none(), "the reader may finish");
        if signals == 2 {
            fixture.events.send(Event::Signal(libc::SIGINT)).unwrap();
            let err = serving.join().unwrap().unwrap_err();
            assert_eq!(err.kind(), Kind::Interrupted(libc::SIGINT));
            continue;
        }
        fixture.change.release();
        assert!(cat.0.wait().unwrap().success());
        serving.join().unwrap().unwrap();
    }
}

/// The kernel gives the numbers of a mount that is gone to the next one.
#[test]
fn a_mount_that_is_gone_takes_no_other_one_away() {
    let Some(mut gone) = Fixture::new() else { return };
    let device = |fixture: &Fixture| fs::metadata(fixture.place.path()).unwrap().dev();
    let number = device(&gone);
    assert!(umount(gone.place.path()));
    // Other tests mount as well.
    let mut others = vec![];
    let other = loop {
        let other = Fixture::new().unwrap();
        if device(&other) == number {
            break other;
        }
        others.push(other);
        assert!(others.len() < 100, "nobody is given its number");
    };
    // Nobody has waited for its end.
    drop(gone.mount.take());
    assert!(other.is_mounted());
    assert_eq!(fs::read(other.path("merged")).unwrap(), vec![b'm'; IMAGE_BYTES as usize]);
}

#[test]
fn file_that_is_a_local_one_is_read_by_the_kernel_itself() {
    let mut file = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..IMAGE_BYTES).map(|i| (i / 7) as u8).collect();
    file.write_all(&bytes).unwrap();
    let change = Scripted { backing: Some(file), ..Scripted::default() };
    let Some(fixture) = Fixture::of(change) else { return };
    if !nix::unistd::geteuid().is_root() {
        let _ = writeln!(std::io::stderr(), "skipping: FUSE passthrough needs root");
        return;
    }
    let held = fs::File::open(fixture.path("merged")).unwrap();
    let read = fs::read(fixture.path("merged")).unwrap();
    drop(held);
    let reads = fixture.change.state.lock().reads;
    if reads > 0 && read != bytes && kernel() < (6, 9) {
        let _ = writeln!(std::io::stderr(), "skipping: this kernel has no FUSE passthrough");
        return;
    }
    assert!(read == bytes);
    assert_eq!(fs::read(fixture.path("merged")).unwrap(), bytes, "opened again");
    assert_eq!(fs::metadata(fixture.path("merged")).unwrap().len(), IMAGE_BYTES);
    assert_eq!(fs::read(fixture.path("original")).unwrap(), vec![b'o'; IMAGE_BYTES as usize]);
    let copy = Command::new("dd")
        .arg(format!("if={}", fixture.path("merged").display()))
        .args(["bs=4k", "skip=3"])
        .output()
        .unwrap();
    assert!(copy.stdout == bytes[3 * 4096..]);
}

#[test]
fn a_link_that_took_the_place_of_a_folder_leads_to_no_mount_of_another() {
    let Some(fixture) = Fixture::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = fixture.place.path();
    let [above, itself] = ["above", "itself"].map(|name| folder.path().join(name));
    symlink(at.parent().unwrap(), &above).unwrap();
    symlink(at, &itself).unwrap();
    for at in [above.join(at.file_name().unwrap()), itself] {
        unmount::umount(&at, MntFlags::MNT_DETACH).unwrap_err();
        assert!(fixture.is_mounted(), "{}", at.display());
    }
}

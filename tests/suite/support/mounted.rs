//! A running `bdsync mount`, taken away with the test whatever becomes of it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::Workdir;
use super::images::{changed, random_bytes};
use super::patch_file;
use super::requirements::root;
use super::run::binary;
use super::wait::{comes_true, within};

/// A mount in the foreground.
pub struct Mounted {
    child: Child,
    at: PathBuf,
    stderr: Arc<Mutex<String>>,
    collecting: JoinHandle<()>,
}

/// How long what it said last may be on its way once it has ended. Who it has left behind may hold its
/// stderr open.
const LAST_WORD_WAIT: Duration = Duration::from_secs(2);

impl Mounted {
    /// Runs `bdsync mount` with these arguments and the mountpoint `at`, and waits for it.
    #[track_caller]
    pub fn start<S: AsRef<OsStr>>(args: &[S], at: &Path) -> Self {
        let mut command = Command::new(binary());
        command.arg("mount").args(args).arg(at);
        Self::run(command, at)
    }

    /// Runs a command that mounts at `at`, and waits for it.
    #[track_caller]
    pub fn run(mut command: Command, at: &Path) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("cannot run");
        let stderr = Arc::new(Mutex::new(String::new()));
        let (pipe, text) = (child.stderr.take().expect("a pipe"), Arc::clone(&stderr));
        let collecting = thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let mut text = text.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
            }
        });
        let mut mounted = Self { child, at: at.to_owned(), stderr, collecting };
        mounted.wait_until("it is mounted", |mounted| mounted.said().contains("is mounted at"));
        mounted
    }

    /// A name in the mount.
    pub fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it wrote to stderr.
    pub fn said(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("cannot signal");
    }

    /// Its exit status after a signal that it takes for another one than the first, which it does
    /// not at once.
    #[track_caller]
    pub fn ended_by_another(&mut self, signal: Signal) -> ExitStatus {
        self.wait_until("it ends", |mounted| {
            mounted.signal(signal);
            !mounted.is_running()
        });
        self.ended()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("cannot wait").is_none()
    }

    /// Its exit status, soon; what it said is there then.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        self.wait_until("it ends", |mounted| !mounted.is_running());
        within(LAST_WORD_WAIT, || self.collecting.is_finished());
        self.child.wait().expect("cannot wait")
    }

    /// Waits for something to become true.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut is_true: impl FnMut(&mut Self) -> bool) {
        let came = comes_true(|| {
            let ended = what == "it is mounted" && !self.is_running();
            let is_true = is_true(self);
            assert!(is_true || !ended, "it ended before it was mounted; stderr:\n{}", self.said());
            is_true
        });
        assert!(came, "waited for: {what}; stderr:\n{}", self.said());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        take_away(&self.at);
    }
}

/// Unmounts what is there, as a user would; whether that worked.
pub fn umount(at: &Path) -> bool {
    if root().is_ok() {
        return Command::new("umount").arg(at).output().expect("cannot run").status.success();
    }
    fusermount(&["-u"], at)
}

fn fusermount(options: &[&str], at: &Path) -> bool {
    let run = Command::new("fusermount3").args(options).arg(at).output();
    run.is_ok_and(|out| out.status.success())
}

/// Unmounts whatever is left there.
pub fn take_away(at: &Path) {
    while umount2(at, MntFlags::MNT_DETACH).is_ok()
        || root().is_err() && is_mounted(at) && fusermount(&["-u", "-z"], at)
    {}
}

/// Whether something is mounted there, or the corpse of it.
pub fn is_mounted(at: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("no /proc");
    table.lines().any(|line| line.split(' ').nth(4) == at.to_str())
}

/// A file system that is mounted, until it is dropped.
pub struct LoopMount(PathBuf);

impl LoopMount {
    /// Mounts `image` at a new folder in `place`, to be read.
    #[track_caller]
    pub fn new(image: &Path, place: &Path) -> Self {
        Self::with("ro,loop", image, place)
    }

    /// Mounts `device` at a new folder in `place`, to be written to.
    #[track_caller]
    pub fn of_device(device: &Path, place: &Path) -> Self {
        Self::with("rw", device, place)
    }

    fn with(options: &str, image: &Path, place: &Path) -> Self {
        let at = place.join("look");
        fs::create_dir(&at).expect("cannot create");
        let mount = Command::new("mount").args(["-o", options]).arg(image).arg(&at).output();
        let mount = mount.expect("cannot run mount");
        assert!(mount.status.success(), "{}", String::from_utf8_lossy(&mount.stderr));
        Self(at)
    }

    /// A name in the file system.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        // Not by umount(8): the kernel lets go of the loop device by itself, and whoever detaches
        // it by its name a moment later may meet the next user of that name.
        take_away(&self.0);
    }
}

/// A disk of limited room, unmounted on drop.
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// With room as tmpfs's option `size` says; `None` where that cannot be mounted.
    pub fn new(size: &str) -> Option<Self> {
        Self::of("tmpfs", &format!("size={size}"))
    }

    /// One of another sort, without limits.
    pub fn of(file_system: &str, options: &str) -> Option<Self> {
        let disk = Self(TempDir::with_prefix("bdsync-small").expect("cannot create"));
        disk.mount(file_system, options).then_some(disk)
    }

    /// Makes other room.
    #[track_caller]
    pub fn resize(&self, size: &str) {
        assert!(self.mount("tmpfs", &format!("remount,size={size}")), "cannot resize");
    }

    fn mount(&self, file_system: &str, options: &str) -> bool {
        let mut command = Command::new("mount");
        command.args(["-t", file_system, "-o", options, "none"]).arg(self.0.path());
        command.status().is_ok_and(|status| status.success())
    }

    /// A name on the disk.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        take_away(self.0.path());
    }
}

/// `local.img` and `remote.img` of a folder, compared over `remote_command` and mounted at `mnt`.
#[track_caller]
pub fn live_mount(work: &Workdir, options: &[&str], remote_command: &str) -> Mounted {
    fs::create_dir(work.path("mnt")).expect("cannot create");
    let mut args: Vec<OsString> = options.iter().map(Into::into).collect();
    args.push(remote_command.into());
    args.extend([work.path("local.img").into(), work.path("remote.img").into()]);
    Mounted::start(&args, &work.path("mnt"))
}

/// A base, a patch for it, and what it makes of it; the mountpoint is the folder `mnt`.
pub struct Stored {
    pub work: Workdir,
    pub base: Vec<u8>,
    pub merged: Vec<u8>,
    pub patch: Vec<u8>,
}

impl Stored {
    /// Random images of `size` bytes that differ in places.
    pub fn new(seed: u64, size: usize) -> Self {
        let base = random_bytes(seed, size);
        let merged = changed(&base, seed + 1, 40);
        Self::of(base, merged)
    }

    /// A patch, in blocks of 4 KiB, between two images.
    pub fn of(base: Vec<u8>, merged: Vec<u8>) -> Self {
        let blocks = merged.chunks(4096).enumerate().map(|(i, block)| (i * 4096, block));
        let records: Vec<(u64, &[u8])> = blocks
            .filter(|(at, block)| base.get(*at..at + block.len()) != Some(block))
            .map(|(at, block)| (at as u64, block))
            .collect();
        let patch = patch_file::build(merged.len() as u64, "base", &records, &[0]);
        let work = Workdir::new();
        work.write("base", &base);
        work.write("patch", &patch);
        fs::create_dir(work.path("mnt")).expect("cannot create");
        Self { work, base, merged, patch }
    }

    pub fn at(&self) -> PathBuf {
        self.work.path("mnt")
    }

    /// Mounted, with these options.
    #[track_caller]
    pub fn mount(&self, options: &[&str]) -> Mounted {
        let mut args: Vec<_> = options.iter().map(Into::into).collect();
        args.extend(self.source());
        Mounted::start(&args, &self.at())
    }

    /// The arguments but the mountpoint.
    pub fn source(&self) -> Vec<std::ffi::OsString> {
        vec!["--from".into(), self.work.path("patch").into(), self.work.path("base").into()]
    }
}

//! What a test needs from the machine. Where it is missing the test says so and returns; under
//! `CI=true` that is a failure, so that nothing is skipped unseen.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Output;

use nix::fcntl::{FallocateFlags, fallocate};

use super::run::example;

/// Returns from the test, aloud, unless all of these are there.
macro_rules! require {
    ($($probe:expr),+ $(,)?) => {
        $(if let Err(reason) = $probe {
            $crate::support::requirements::skip(&reason);
            return;
        })+
    };
}
pub(crate) use require;

/// Says why a test is not run; under `CI=true` fails instead.
pub fn skip(reason: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{name} needs {reason}");
    // Past the test harness, which keeps what eprintln! says of a test that passes.
    let _ = writeln!(std::io::stderr(), "skipping {name}: needs {reason}");
}

/// Whether strace(1), which has ended like this, could trace; if not, says so.
pub fn has_traced(strace: &Output) -> bool {
    if !strace.status.success() {
        skip(&format!("a strace that may trace: {}", String::from_utf8_lossy(&strace.stderr)));
    }
    strace.status.success()
}

/// Whether we are root.
pub fn root() -> Result<(), String> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err("root".into()) }
}

/// Whether a program is installed.
pub fn program(name: &str) -> Result<(), String> {
    find_program(name).map(|_| ()).ok_or_else(|| format!("the program {name}"))
}

/// Whether a program of `tests/tools` is there: they are built with all tests, but not with
/// `cargo test --test suite`.
pub fn built_example(name: &str) -> Result<(), String> {
    if example(name).exists() { Ok(()) } else { Err(format!("the example {name} to be built")) }
}

/// Where a program is, looking also where an ordinary user's PATH does not.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Whether loop devices can be attached.
pub fn loop_devices() -> Result<(), String> {
    root()?;
    program("losetup")?;
    let control = Path::new("/dev/loop-control").exists();
    if control { Ok(()) } else { Err("loop devices (/dev/loop-control)".into()) }
}

/// Whether the file system of the folder makes holes in files.
pub fn holes(folder: &Path) -> Result<(), String> {
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let made = std::fs::File::create(folder.join("probe")).is_ok_and(|file| {
        file.set_len(1 << 20).is_ok() && fallocate(&file, punch, 0, 1 << 20).is_ok()
    });
    let _ = std::fs::remove_file(folder.join("probe"));
    if made { Ok(()) } else { Err("a file system that makes holes".into()) }
}

/// Whether a real sshd can be started.
pub fn sshd() -> Result<(), String> {
    ["sshd", "ssh", "ssh-keygen"].into_iter().try_for_each(program)
}

/// Whether a FUSE file system can be mounted.
pub fn fuse() -> Result<(), String> {
    if !Path::new("/dev/fuse").exists() {
        return Err("/dev/fuse".into());
    }
    root().or_else(|_| program("fusermount3"))
}

/// Whether an ordinary user can mount one, and we can act as one.
pub fn fuse_for_users() -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;

    fuse()?;
    root()?;
    ["setpriv", "fusermount3"].into_iter().try_for_each(program)?;
    let about = std::fs::metadata("/dev/fuse").map_err(|err| err.to_string())?;
    let open_to_all = about.permissions().mode() & 0o006 == 0o006;
    if open_to_all { Ok(()) } else { Err("/dev/fuse with mode 0666".into()) }
}

//! Faults of our own: whatever thread they happen on, and whoever waits for it, the process ends.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::support::mounted::{Mounted, Stored};
use crate::support::requirements::{built_example, fuse, require};
use crate::support::run::{example, shell_command};
use crate::support::{Workdir, bdsync};

/// Far more than any of these runs needs, far less than a hang.
const LIMIT: Duration = Duration::from_secs(20);
/// What is told of the fault, on one line.
const WORDS: &str = "bdsync: internal fault, please report it: thread faulty panicked at \
                     tests/tools/faulty.rs:";

/// bdsync that panics once a file exists, see `tests/tools/faulty.rs`.
fn faulty() -> PathBuf {
    example("faulty")
}

#[test]
fn a_client_that_panics_while_it_waits_ends_with_101() {
    require!(built_example("faulty"));
    let work = Workdir::with_pair(&[1; 9000], &[2; 9000]);
    // Nothing ever comes from the remote side, and there is no timeout.
    let remote = shell_command("touch now; cat >/dev/null");
    let client = bdsync(["now", &remote, "local.img", "remote.img"]).in_folder(work.folder());
    let out = client.of_program(&faulty()).within(LIMIT).run().says(WORDS);
    assert_eq!((out.code(), out.stderr_text().lines().count()), (101, 1), "{out}");
    let out = out.says(": on purpose\\x0ain a test\n");
    assert!(out.stdout.is_empty(), "no patch was begun");
}

#[test]
fn a_server_that_panics_while_it_waits_ends() {
    require!(built_example("faulty"));
    let work = Workdir::with_pair(&[1; 9000], &[2; 9000]);
    // The server has greeted, and waits for a client that waits for it.
    let script = format!(
        "{} now --server | {{ head -c 1 >/dev/null; touch now; cat >/dev/null; }}",
        faulty().display()
    );
    let out = work.client_through(&[], &shell_command(&script)).within(LIMIT).run();
    assert_eq!(out.code(), 6, "{out}");
    out.says(&format!("RMTERR: {WORDS}"));
}

#[test]
fn a_mount_that_panics_ends_and_is_read_by_nobody() {
    require!(built_example("faulty"), fuse());
    let stored = Stored::new(9, 1 << 20);
    let now = stored.work.path("now");
    let mut mount = Command::new(faulty());
    let mut words: Vec<OsString> = vec![now.clone().into(), "mount".into()];
    words.extend(stored.source());
    mount.args(words).arg(stored.at());
    let mut mounted = Mounted::run(mount, &stored.at());
    assert!(fs::read(mounted.path("merged")).unwrap() == stored.merged);
    fs::write(now, b"").unwrap();
    assert_eq!(mounted.ended().code(), Some(101), "{}", mounted.said());
    mounted.wait_until("it says why", |mounted| mounted.said().contains(WORDS));
    // Not the empty directory below.
    let err = fs::read_dir(stored.at()).map(drop).unwrap_err();
    assert_eq!(err.raw_os_error(), Some(nix::errno::Errno::ENOTCONN as i32));
}

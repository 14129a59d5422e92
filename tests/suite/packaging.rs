//! What `contrib/install` puts into place, and what the packages do beyond that.

use std::fs;
use std::process::Command;

use crate::support::Workdir;

#[test]
fn names_that_are_relative_are_those_of_the_caller() {
    let work = Workdir::new();
    work.write("binary", b"the binary");
    let out = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/install"))
        .args(["binary", "root"])
        .current_dir(work.folder())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(work.read("root/usr/bin/bdsync"), b"the binary");
    assert!(fs::exists(work.path("root/usr/lib/systemd/system/bdsync.socket")).unwrap());
}

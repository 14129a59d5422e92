//! A loop device over an image file.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::requirements::find_program;

/// Detached on drop.
pub struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    /// Attaches the next free device to `image`.
    pub fn attach(image: &Path) -> Self {
        Self::attach_with(&[], image)
    }

    /// A device over `image` that takes no writes.
    pub fn attach_read_only(image: &Path) -> Self {
        Self::attach_with(&["--read-only"], image)
    }

    /// A device over `image`, or part of it, by more options of losetup.
    pub fn attach_with(options: &[&str], image: &Path) -> Self {
        let show = ["--find", "--show"];
        let out = losetup().args(show).args(options).arg(image).output().expect("losetup");
        assert!(out.status.success(), "losetup: {}", String::from_utf8_lossy(&out.stderr));
        let path = String::from_utf8(out.stdout).expect("a path");
        Self { path: PathBuf::from(path.trim()) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn name(&self) -> &str {
        self.path.to_str().expect("losetup names are ASCII")
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = losetup().arg("--detach").arg(&self.path).status();
    }
}

fn losetup() -> Command {
    Command::new(find_program("losetup").unwrap_or_else(|| "losetup".into()))
}

//! `--report=FILE`: what a run did, as one JSON object, also when it failed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::Serialize;

use super::claims::Claims;
use super::destination::Destination;
use crate::device::Device;
use crate::diff::Plan;
use crate::error::{Error, Kind, Result};
use crate::patch::Header;
use crate::report;
use crate::units::{Direction, hex, major_minor};
use crate::wire::Counters;

/// The form of the object; raised when a field changes its meaning.
const FORMAT: u32 = 1;

/// What is filled in while a mode runs. What a mode does not know is left out of the file.
pub struct Record {
    mode: &'static str,
    started: Instant,
    started_at: SystemTime,
    facts: Mutex<Facts>,
    /// What the record goes to, where it had to be opened in advance.
    output: Mutex<Option<File>>,
    /// What the run uses, none of which a record may be written over.
    pub claims: Claims,
    /// Held while another file of the run is put in its place, which a signal waits for.
    pub replacing: Mutex<()>,
    /// Whether another process keeps the record.
    handed_over: AtomicBool,
}

/// One device of the run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DeviceFacts {
    /// As the user gave it; in a sync a device of another host with that: `host:path`.
    path: String,
    size_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<Identity>,
}

/// What a path stood for, as far as it can be asked here.
#[derive(Clone, Debug, Serialize)]
struct Identity {
    /// `file`, `block` or `other`.
    kind: &'static str,
    /// Major and minor number: of a block device itself, else of the file system.
    device: String,
    /// In that file system.
    inode: u64,
}

/// A digest of the whole source device.
#[derive(Clone, Debug, Serialize)]
pub struct ChecksumFacts {
    /// The digest's name.
    pub name: String,
    /// Its value, in hexadecimal.
    pub value: String,
}

/// What modes tell.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Facts {
    /// True where nothing was to be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
    /// `push`, `pull` or `local`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<&'static str>,
    /// LOCDEV; of a sync the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<DeviceFacts>,
    /// What the patch is for, or what was patched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<DeviceFacts>,
    /// The stored patches that were read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub patches: Vec<DeviceFacts>,
    /// Digest of the block hashes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<&'static str>,
    /// Bytes that one hash covers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_bytes: Option<u64>,
    /// Bytes of the range that was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared_bytes: Option<u64>,
    /// Blocks that differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differing_blocks: Option<u64>,
    /// Bytes in them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differing_bytes: Option<u64>,
    /// Records of the patch that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    /// Faults of the patch that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub faults: Option<usize>,
    /// Length of the patch, decompressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch_bytes: Option<u64>,
    /// Of a sync that sends it: bytes of the patch as they were sent, compressed if so wished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch_sent_bytes: Option<u64>,
    /// Bytes written to the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written_bytes: Option<u64>,
    /// Protocol bytes to the remote side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wire_sent_bytes: Option<u64>,
    /// Protocol bytes from the remote side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wire_received_bytes: Option<u64>,
    /// Digest of the whole source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<ChecksumFacts>,
    /// Whether what was written was found to be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<bool>,
    /// Of a sync that failed once it could write: what is true of the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_state: Option<&'static str>,
}

/// The whole file.
#[derive(Serialize)]
struct Whole<'a> {
    format: u32,
    mode: &'static str,
    version: &'static str,
    /// Seconds since 1970.
    started: u64,
    seconds: f64,
    exit_code: i32,
    /// Null when all went well.
    error: Option<String>,
    #[serde(flatten)]
    facts: &'a Facts,
}

impl DeviceFacts {
    /// A device that is open here.
    pub fn here(device: &dyn Device) -> Self {
        Self {
            path: device.path().to_string_lossy().into_owned(),
            size_bytes: device.size(),
            identity: identity(device.path()).ok(),
        }
    }

    /// A device of `size_bytes` here that another process has open.
    pub fn at(path: &Path, size_bytes: u64) -> Self {
        Self { identity: identity(path).ok(), ..Self::named(path, size_bytes) }
    }

    /// A device of `size_bytes` of which only the name is known.
    pub fn named(path: &Path, size_bytes: u64) -> Self {
        Self { path: path.to_string_lossy().into_owned(), size_bytes, identity: None }
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    let meta = fs::metadata(path)?;
    let (kind, number) = match meta.file_type() {
        kind if kind.is_block_device() => ("block", meta.rdev()),
        kind if kind.is_file() => ("file", meta.dev()),
        _ => ("other", meta.dev()),
    };
    Ok(Identity { kind, device: major_minor(number), inode: meta.ino() })
}

impl Record {
    /// Begins the record, and its clock.
    #[must_use]
    pub fn new(mode: &'static str) -> Self {
        let (started, started_at) = (Instant::now(), SystemTime::now());
        let (facts, output, claims) = (Mutex::default(), Mutex::default(), Claims::default());
        let handed_over = AtomicBool::new(false);
        let replacing = Mutex::default();
        Self { mode, started, started_at, facts, output, claims, replacing, handed_over }
    }

    /// Another process will save it, or has done so.
    pub fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Relaxed);
    }

    /// Fails where it is clear already that nothing can be written at `path`.
    ///
    /// # Errors
    /// `Kind::Write`.
    pub fn check_path(path: &Path) -> Result<()> {
        Destination::of(path)
            .and_then(|found| found.refuse_unwritable(path))
            .map_err(|err| cannot_write(err, path))
    }

    /// Whether saving it at `path` may wait for who reads it there.
    #[must_use]
    pub fn may_wait(path: &Path) -> bool {
        Destination::of(path).is_ok_and(|found| found.may_wait())
    }

    /// Puts an empty file at `path`, which [`Record::save`] will write to: for a run that will
    /// not be able to open files in the end.
    ///
    /// # Errors
    /// `Kind::Write`.
    pub fn open_early(&self, path: &Path) -> Result<()> {
        let opened = open_output(path, |_| Ok(()));
        *self.output.lock() = Some(opened.map_err(|err| cannot_write(err, path))?);
        Ok(())
    }

    /// Fills in what is known by now.
    pub fn tell(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts.lock());
    }

    /// Fills in what is compared.
    pub fn tell_plan(&self, plan: &Plan, hash: &'static str, local: &dyn Device, remote: &Path) {
        let here = DeviceFacts::here(local);
        let there = DeviceFacts::named(remote, plan.remote_bytes);
        self.tell(|facts| {
            let (direction, source, target) = match plan.direction {
                Direction::Push => ("push", here, there),
                Direction::Pull => ("pull", there, here),
            };
            facts.direction = Some(direction);
            (facts.source, facts.target) = (Some(source), Some(target));
            facts.hash = Some(hash);
            facts.block_bytes = Some(plan.block_bytes);
        });
    }

    /// Adds the traffic of one session of several.
    pub fn add_traffic(&self, counters: Counters) {
        self.tell(|facts| {
            *facts.wire_sent_bytes.get_or_insert(0) += counters.sent_bytes;
            *facts.wire_received_bytes.get_or_insert(0) += counters.received_bytes;
        });
    }

    /// Fills in a stored patch, of `patch_bytes` when it is decompressed, and whom it is for.
    pub fn tell_patch(&self, path: &Path, patch_bytes: u64, header: &Header, records: u64) {
        let stored_bytes = fs::metadata(path).ok().filter(fs::Metadata::is_file);
        let patch = DeviceFacts::at(path, stored_bytes.map_or(patch_bytes, |meta| meta.len()));
        let target = Path::new(OsStr::from_bytes(&header.name));
        self.tell(|facts| {
            facts.patches.push(patch);
            facts.target = Some(DeviceFacts::named(target, header.size_bytes));
            *facts.records.get_or_insert(0) += records;
        });
    }

    /// Fills in whether what was written reads back as it should, as `checked` says it.
    pub fn tell_verified(&self, checked: &Result<()>) {
        let verified = match checked {
            Ok(()) => Some(true),
            Err(err) if err.kind() == Kind::Checksum => Some(false),
            // It did not come to that.
            Err(_) => None,
        };
        self.tell(|facts| facts.verified = verified);
    }

    /// Fills in the digest of the whole source.
    pub fn tell_checksum(&self, name: &[u8], digest: &[u8]) {
        let name = String::from_utf8_lossy(name).into_owned();
        let value = hex(digest);
        self.tell(|facts| facts.checksum = Some(ChecksumFacts { name, value }));
    }

    /// A copy of what is known.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.facts.lock().clone()
    }

    /// Time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Writes the record to `path`, whole or not at all, unless that was opened in advance. Does
    /// nothing when another process does it, or when `path` may be what the run was refused for.
    ///
    /// # Errors
    /// `Kind::Write`.
    pub fn save(&self, path: &Path, outcome: &Result<u8>) -> Result<()> {
        if self.handed_over.load(Ordering::Relaxed) || self.claims.were_refused() {
            return Ok(());
        }
        let facts = self.facts();
        let file = Whole {
            format: FORMAT,
            mode: self.mode,
            version: env!("CARGO_PKG_VERSION"),
            started: self.started_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            seconds: self.elapsed().as_secs_f64(),
            exit_code: outcome.as_ref().map_or_else(Error::exit_code, |status| (*status).into()),
            error: outcome.as_ref().err().map(Error::full_message),
            facts: &facts,
        };
        let written =
            serde_json::to_string_pretty(&file).map_err(io::Error::from).and_then(|text| {
                let text = report::escape_json(&text) + "\n";
                match &mut *self.output.lock() {
                    Some(output) => output.write_all(text.as_bytes()),
                    None => open_output(path, |file| file.write_all(text.as_bytes())).map(drop),
                }
            });
        written.map_err(|err| cannot_write(err, path))
    }
}

fn cannot_write(err: io::Error, path: &Path) -> Error {
    Error::io(Kind::Write, "cannot write the report", err).with_path(path)
}

fn open_output(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<File> {
    Destination::of(path)?.write(fill)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(record: &Record, outcome: &Result<u8>) -> serde_json::Value {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        fs::write(&path, "old").unwrap();
        record.save(&path, outcome).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap()
    }

    #[test]
    fn failure_has_its_exit_code_and_words_and_the_unknown_is_left_out() {
        let record = Record::new("patch");
        record.tell(|facts| facts.written_bytes = Some(12));
        let err = Error::new(Kind::Write, "cannot write").with_path("/dev/x");
        let json = saved(&record, &Err(err));
        assert_eq!(json["exit_code"], 9);
        assert_eq!(json["error"], "cannot write: /dev/x");
        assert_eq!((&json["mode"], &json["written_bytes"]), (&"patch".into(), &12.into()));
        assert!(json.get("compared_bytes").is_none());
    }

    #[test]
    fn success_has_no_error_and_files_have_an_identity() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let device = crate::device::open_source(file.path()).unwrap();
        let record = Record::new("client");
        record.tell(|facts| facts.source = Some(DeviceFacts::here(&device)));
        let json = saved(&record, &Ok(0));
        assert!(json["error"].is_null());
        assert_eq!(json["exit_code"], 0);
        assert_eq!(json["source"]["identity"]["kind"], "file");
        let inode = fs::metadata(file.path()).unwrap().ino();
        assert_eq!(json["source"]["identity"]["inode"], inode);
    }

    #[test]
    fn file_that_was_opened_early_is_written_to_even_when_its_folder_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        fs::write(&path, "old").unwrap();
        let record = Record::new("server");
        record.open_early(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"", "until it is known what to write");
        let other_folder = tempfile::tempdir().unwrap();
        let moved = other_folder.path().join("report");
        fs::rename(&path, &moved).unwrap();
        drop(folder);
        record.save(&path, &Ok(0)).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&fs::read(moved).unwrap()).unwrap();
        assert_eq!(json["mode"], "server");
    }

    #[test]
    fn folder_that_does_not_exist_is_a_write_error() {
        let path = Path::new("/no/such/report");
        let record = Record::new("client");
        for err in [record.save(path, &Ok(0)), record.open_early(path)].map(Result::unwrap_err) {
            assert_eq!((err.kind(), err.path()), (Kind::Write, Some(path)));
        }
    }
}

//! The golden vectors: everything that the classic sent, answered, wrote and made of it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::run::{server_command, shell_command};
use crate::support::{Output, Workdir, bdsync};

/// Here the classic's checksum covers zero padding (bug 4 in `classic_bugs.rs`): all but its value
/// agrees.
const WRONG_CHECKSUM: [&str; 2] = ["checksum-unaligned-size", "checksum-resize"];
/// Length in bytes of the checksum in those.
const WRONG_CHECKSUM_LEN: usize = 32;

struct Vector {
    fields: Value,
    folder: PathBuf,
}

fn vectors() -> Vec<Vector> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let text = fs::read_to_string(root.join("manifest.json")).expect("no manifest");
    let Value::Array(all) = serde_json::from_str(&text).expect("no JSON") else { panic!() };
    assert!(all.len() >= 80, "only {} vectors", all.len());
    let make =
        |fields: Value| Vector { folder: root.join(fields["name"].as_str().unwrap()), fields };
    all.into_iter().map(make).collect()
}

impl Vector {
    fn name(&self) -> &str {
        self.text("name")
    }

    fn text(&self, field: &str) -> &str {
        self.fields[field].as_str().unwrap_or_default()
    }

    fn words(&self, field: &str) -> Vec<&str> {
        let list = self.fields[field].as_array().expect("a list");
        list.iter().map(|word| word.as_str().unwrap()).collect()
    }

    fn recorded(&self, file: &str) -> Vec<u8> {
        fs::read(self.folder.join(file)).unwrap_or_default()
    }

    fn image(&self, side: &str) -> Vec<u8> {
        let path = self.folder.parent().unwrap().join(self.text(side));
        fs::read(path).expect("no image")
    }

    /// A folder with the two images as they were called when recorded.
    fn workdir(&self) -> Workdir {
        Workdir::with_pair(&self.image("local"), &self.image("remote"))
    }

    fn has_wrong_checksum(&self) -> bool {
        WRONG_CHECKSUM.contains(&self.name())
    }

    fn check_client(&self, remote_command: &str) -> Result<(), String> {
        let work = self.workdir();
        let out = work.client_through(&self.words("client_options"), remote_command).run();
        self.check_exit(&out, "client_exit", "client_stderr")?;
        let mut expected = self.recorded("patch.bdsync");
        let mut patch = out.stdout.clone();
        if self.has_wrong_checksum() {
            for bytes in [&mut expected, &mut patch] {
                let rest = bytes.len().saturating_sub(WRONG_CHECKSUM_LEN);
                bytes[rest..].fill(0);
            }
        }
        same(&patch, &expected).map_err(|text| format!("{text}\n{out}"))
    }

    fn check_server(&self) -> Result<(), String> {
        let work = self.workdir();
        let call = bdsync(self.words("server_options")).in_folder(work.folder());
        let out = call.stdin(&self.recorded("client-to-server.bin")).run();
        same(&out.stdout, &self.recorded("server-to-client.bin"))
            .map_err(|text| format!("{text}\n{out}"))
    }

    fn check_patch(&self) -> Result<(), String> {
        let Some(target) = self.fields["patch_target"].as_str() else { return Ok(()) };
        let work = self.workdir();
        let patch = self.recorded("patch.bdsync");
        let call = bdsync(self.words("patch_options")).in_folder(work.folder());
        let out = call.stdin(&patch).run();
        self.check_exit(&out, "patch_exit", "patch_stderr")?;
        let result = work.read(target);
        let size = self.fields["result_size"].as_u64().unwrap();
        if result.len() as u64 != size {
            return Err(format!("the result has {} bytes, not {size}\n{out}", result.len()));
        }
        let sum: String = Sha256::digest(&result).iter().map(|b| format!("{b:02x}")).collect();
        if sum == self.text("result_sha256") {
            Ok(())
        } else {
            Err(format!("the result is not the recorded one\n{out}"))
        }
    }

    fn check_exit(&self, out: &Output, code: &str, stderr: &str) -> Result<(), String> {
        if i64::from(out.code()) != self.fields[code].as_i64().unwrap() {
            return Err(format!("not the recorded exit code\n{out}"));
        }
        let (said, recorded) = (out.stderr_text(), self.text(stderr));
        if said.contains(recorded) {
            Ok(())
        } else {
            Err(format!("stderr lacks {recorded:?}\n{out}"))
        }
    }
}

fn same(found: &[u8], expected: &[u8]) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let at = found.iter().zip(expected).position(|(a, b)| a != b);
    let at = at.unwrap_or(found.len().min(expected.len()));
    let (found, expected) = (found.len(), expected.len());
    Err(format!("{found} bytes where {expected} are recorded; they part at byte {at}"))
}

#[track_caller]
fn check_all(check: impl Fn(&Vector) -> Result<(), String>) {
    let all = vectors();
    let faults: Vec<String> = all
        .iter()
        .filter_map(|vector| {
            check(vector).err().map(|text| format!("--- {}: {text}", vector.name()))
        })
        .collect();
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), all.len(), faults.join("\n"));
}

#[test]
fn client_makes_every_recorded_patch() {
    check_all(|vector| {
        let options = vector.words("server_options");
        vector.check_client(&server_command(&options[1..]))
    });
}

#[test]
fn client_makes_every_recorded_patch_against_a_classic_server() {
    // Puts a classic client's hello in the place of ours, so that the server is a classic one.
    let script = "n=$(dd bs=1 count=1 2>/dev/null | od -An -tu1); \
                  dd bs=1 count=$((n + 3)) of=/dev/null 2>/dev/null; \
                  { printf '\\013\\000\\000\\000\\001CLIENT 0.5'; exec cat; } | $BDSYNC OPTIONS";
    check_all(|vector| {
        let options = vector.words("server_options").join(" ");
        vector.check_client(&shell_command(&script.replace("OPTIONS", &options)))
    });
}

#[test]
fn server_gives_every_recorded_answer() {
    check_all(Vector::check_server);
}

#[test]
fn every_recorded_patch_applies() {
    check_all(Vector::check_patch);
}

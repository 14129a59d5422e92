//! The classic's bugs, numbered, as far as they can be seen
//! from outside. 14 (fsync before success) and parts of 12 are unit tests of their modules.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};

use crate::support::images::{changed, random_bytes, sparse_file};
use crate::support::patch_file::{build, checksum_field, parse};
use crate::support::run::{server_command, shell_command};
use crate::support::{Workdir, bdsync};

fn pair(size: usize) -> Workdir {
    let remote = random_bytes(10, size);
    Workdir::with_pair(&changed(&remote, 11, 5), &remote)
}

#[test]
fn bug_01_minsize_never_writes_past_the_end_of_the_target() {
    let old = random_bytes(1, 5000);
    let new = random_bytes(2, 8000);
    for at in [0, 4096, 4999, 5000, 6000] {
        let work = Workdir::new();
        work.write("target.img", &old);
        let patch = build(70_000, "target.img", &[(at, &new)], &[0]);
        work.apply(&["--diffsize=minsize"], &patch).expect(0);
        let mut expected = old.clone();
        let at = (at as usize).min(expected.len());
        let len = expected.len() - at;
        expected[at..].copy_from_slice(&new[..len]);
        assert!(work.read("target.img") == expected, "record at {at}");
    }
}

#[test]
fn bug_02_block_sizes_of_zero_or_less_are_refused() {
    for size in ["0", "-4096"] {
        let out = pair(5000).client(&[&format!("--blocksize={size}")]).run().expect(1);
        out.says("block size must be between 1 and 16777216 bytes");
    }
}

#[test]
fn bug_03_device_paths_of_one_byte_work() {
    let work = pair(5000);
    fs::rename(work.path("local.img"), work.path("l")).unwrap();
    fs::rename(work.path("remote.img"), work.path("r")).unwrap();
    let server = server_command(&[]);
    let out = bdsync([&server, "l", "r"]).in_folder(work.folder()).run().expect(0);
    assert_eq!(parse(&out.stdout).name, b"r");
    work.apply(&[], &out.stdout).expect(0);
    assert!(work.read("l") == work.read("r"));
}

#[test]
fn bug_04_checksum_is_of_exactly_the_source_devices_bytes() {
    let remote = random_bytes(3, 10_001);
    for (local, options) in [
        (changed(&remote, 4, 3), &[][..]),
        (changed(&remote[..7777], 5, 3), &["--diffsize"]),
        (changed(&random_bytes(3, 12_345), 6, 3), &["--diffsize"]),
        (changed(&random_bytes(3, 12_345), 6, 3), &["--diffsize=minsize"]),
        (remote.clone(), &[]),
    ] {
        let work = Workdir::with_pair(&local, &remote);
        for (direction, source) in [(None, &local), (Some("--remdata"), &remote)] {
            let mut words = vec!["--checksum=sha256"];
            words.extend(options);
            words.extend(direction);
            let (_, value) = parse(&work.patch(&words)).checksum.expect("a checksum");
            assert_eq!(value, Sha256::digest(source).to_vec(), "{words:?}");
        }
    }
}

#[test]
fn bug_05_checksum_of_a_patch_is_checked_when_applied() {
    let work = pair(8192);
    let patch = work.patch(&["--checksum=sha256"]);
    let source = work.read("local.img");
    let before = work.read("remote.img");
    let sum = Sha256::digest(&source);
    let cut = patch.len() - checksum_field("sha256", &sum).len();
    let wrong = [&patch[..cut], &checksum_field("sha256", &[7; 32])].concat();
    work.apply(&[], &wrong).expect(5).says("checksum");
    work.write("remote.img", &before);
    work.apply(&[], &patch).expect(0);
    assert!(work.read("remote.img") == source);
}

#[test]
fn bug_06_a_full_disk_under_the_patch_is_told() {
    for size in [5000, 3_000_000] {
        let remote = random_bytes(7, size);
        let work = Workdir::with_pair(&random_bytes(8, size), &remote);
        work.client(&[]).stdout_file("/dev/full".as_ref()).run().expect(9).says("No space left");
    }
}

#[test]
fn bug_06_a_reader_that_goes_away_is_told() {
    let size = 3_000_000;
    let work = Workdir::with_pair(&random_bytes(7, size), &random_bytes(8, size));
    assert!(work.patch(&[]).len() > size);
    let fifo = work.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // A reader that takes a little and leaves: EPIPE, not a death by SIGPIPE.
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || {
            use std::io::Read;
            fs::File::open(fifo).unwrap().read_exact(&mut [0; 100]).unwrap();
        }
    });
    work.client(&[]).stdout_file(&fifo).run().expect(9);
    reader.join().unwrap();
}

#[test]
fn bug_07_a_remote_command_killed_by_a_signal_is_exit_8() {
    let work = pair(5000);
    let command = shell_command("$BDSYNC --server; kill -9 $$");
    work.client_through(&[], &command).run().expect(8).says("signal");
}

#[test]
fn bug_08_a_chatty_remote_never_blocks_the_run() {
    let work = pair(300_000);
    let chatter = "i=0; while [ $i -lt 4000 ]; do \
                   echo 'this line is here to fill the pipe of the remote side, again and again'; \
                   i=$((i + 1)); done >&2";
    for script in
        [format!("{chatter}; exec $BDSYNC --server"), format!("$BDSYNC --server; {chatter}")]
    {
        let call = work.client_through(&[], &shell_command(&script));
        let out = call.within(Duration::from_secs(60)).run().expect(0);
        assert_eq!(out.stderr_text().matches("RMTERR: this line").count(), 4000);
    }
}

#[test]
fn bug_09_the_reason_of_a_failing_server_reaches_the_user() {
    let work = pair(5000);
    fs::remove_file(work.path("remote.img")).unwrap();
    let out = work.client(&[]).run();
    let text = out.stderr_text();
    let line = text.lines().find(|line| line.starts_with("RMTERR: ")).unwrap_or_default();
    assert!(line.contains("remote.img") && line.contains("No such file"), "{out}");
    assert_ne!(out.code(), 0, "{out}");
}

#[test]
fn bug_10_the_servers_stdin_is_closed_before_it_is_waited_for() {
    let work = pair(5000);
    let command = shell_command("tee sent.bin | $BDSYNC --server");
    let call = work.client_through(&["--fixedsalt"], &command);
    call.within(Duration::from_secs(30)).run().expect(0);
    assert!(!work.read("sent.bin").is_empty());
}

#[test]
fn bug_11_resize_keeps_a_target_sparse() {
    let work = Workdir::new();
    let size = 1 << 30;
    sparse_file(&work.path("target.img"), 1 << 20, &[]);
    let data = random_bytes(1, 4096);
    let patch = build(size, "target.img", &[(size - 4096, &data)], &[0]);
    work.apply(&["--diffsize=resize"], &patch).expect(0);
    let meta = fs::metadata(work.path("target.img")).unwrap();
    assert_eq!(meta.len(), size);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks are used", meta.blocks());
}

#[test]
fn bug_12_hostile_offsets_in_a_patch_are_exit_2_and_change_nothing() {
    let before = random_bytes(1, 5000);
    for offset in [u64::MAX, u64::MAX - 3, 1 << 63, 4998, 5000] {
        let work = Workdir::new();
        work.write("target.img", &before);
        let patch = build(5000, "target.img", &[(offset, b"abcd")], &[0]);
        let file = work.write("patch.bdsync", &patch);
        let call = bdsync(["--patch"]).in_folder(work.folder()).stdin_file(&file);
        call.run().expect(2);
        assert!(work.read("target.img") == before, "offset {offset}");
    }
}

/// One message of the wire.
fn message(token: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len() + 1).unwrap();
    [&length.to_le_bytes()[..], &[token], payload].concat()
}

fn numbers(all: &[u64]) -> Vec<u8> {
    all.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[test]
fn bug_12_hostile_numbers_on_the_wire_are_exit_4() {
    let work = pair(5000);
    let salted = [&[32][..], &[0; 32], b"md5\0\0"].concat();
    let opening = [message(1, b"CLIENT 0.5"), message(2, b"remote.img")].concat();
    let ready = [opening.clone(), message(4, &salted)].concat();
    for (what, start, hostile) in [
        ("a salt longer than its message", &opening, message(4, &[100, 0, 0])),
        ("a salt of more than 127 bytes", &opening, message(4, &[[200; 250], [0; 250]].concat())),
        ("a hash name without end", &opening, message(4, b"\0md5")),
        ("more hashes than fit an answer", &ready, message(5, &numbers(&[0, 4096, 1 << 60]))),
        ("a range that wraps", &ready, message(5, &numbers(&[u64::MAX - 5, 4096, 2]))),
        ("steps that wrap", &ready, message(5, &numbers(&[0, u64::MAX / 2, 5]))),
        ("a huge step", &ready, message(5, &numbers(&[0, 1 << 62, 1]))),
        ("a short gethashes", &ready, message(5, &numbers(&[0, 4096]))),
        ("a block past the end", &ready, message(8, &numbers(&[4999, 2]))),
        ("a block that wraps", &ready, message(8, &numbers(&[u64::MAX, 2]))),
        ("a block larger than a message", &ready, message(8, &numbers(&[0, 1 << 40]))),
        ("a message longer than allowed", &ready, [&[1, 0, 2, 0][..], &[7; 100]].concat()),
        ("a message without a token", &ready, vec![0; 16]),
        ("an unknown token", &ready, message(99, b"")),
        ("a message of the other side", &ready, message(3, &numbers(&[1]))),
        ("a second devfile", &ready, message(2, b"remote.img")),
    ] {
        let input = [&start[..], &hostile].concat();
        let out = bdsync(["--server"]).in_folder(work.folder()).stdin(&input).run();
        assert_eq!(out.code(), 4, "{what}\n{out}");
        assert!(!out.stderr_text().contains("panicked") && !out.stderr.is_empty(), "{what}\n{out}");
    }
}

#[test]
fn bug_13_a_truncated_patch_in_a_file_changes_nothing() {
    let work = pair(300_000);
    let patch = work.patch(&["--checksum=md5"]);
    let before = work.read("remote.img");
    for cut in [5, 15, 25, 40, 5000, patch.len() - 30, patch.len() - 1] {
        let file = work.write("cut.bdsync", &patch[..cut]);
        let call = bdsync(["--patch"]).in_folder(work.folder()).stdin_file(&file);
        call.run().expect(2);
        assert!(work.read("remote.img") == before, "cut at {cut}");
        work.apply(&[], &patch[..cut]).expect(2);
        work.write("remote.img", &before);
    }
}

#[test]
fn bug_15_a_run_that_is_stopped_and_continued_goes_on() {
    let remote = random_bytes(1, 20_000_000);
    let work = Workdir::with_pair(&changed(&remote, 2, 300), &remote);
    let expected = work.patch(&["--blocksize=512"]);
    let out = work.client(&["--blocksize=512"]).run_meanwhile(|child| {
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        for _ in 0..20 {
            for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
                kill(pid, signal).expect("it has not been waited for");
                std::thread::sleep(Duration::from_millis(4));
            }
        }
    });
    assert!(out.expect(0).stdout == expected);
}

#[test]
fn bug_16_patches_of_unequal_sizes_and_large_blocks_can_be_applied() {
    let long = random_bytes(5, 500_000);
    let short = changed(&long[..333_333], 6, 4);
    for (local, remote) in [(&long, &short), (&short, &long)] {
        for block_size in ["32769", "65536", "100000", "262144"] {
            for rule in ["--diffsize=resize", "--diffsize=minsize"] {
                let work = Workdir::with_pair(local, remote);
                let patch = work.patch(&["-b", block_size, rule]);
                let parsed = parse(&patch);
                for (offset, data) in &parsed.records {
                    let end = offset + data.len() as u64;
                    assert!(end <= parsed.size && data.len() <= 32768, "{block_size} {rule}");
                }
                work.apply(&[rule], &patch).expect(0);
                let result = work.read("remote.img");
                let common = local.len().min(remote.len());
                assert!(result[..common] == local[..common], "{block_size} {rule}");
                let resized = rule == "--diffsize=resize";
                assert_eq!(result.len(), if resized { local.len() } else { remote.len() });
                assert!(!resized || &result == local);
            }
        }
    }
}

#[test]
fn bug_17_one_byte_anywhere_in_a_block_of_zeros_is_seen() {
    for block_size in [1, 7, 64, 512] {
        // As many blocks as a block has bytes: block i has its one byte at position i.
        let mut local = vec![0; block_size * block_size];
        for (position, block) in local.chunks_mut(block_size).enumerate() {
            block[position] = 1;
        }
        let work = Workdir::with_pair(&local, &vec![0; local.len()]);
        let remote = server_command(&["--zeroblocks"]);
        let size = block_size.to_string();
        for options in [&["--zeroblocks"][..], &["--zeroblocks", "--remdata"]] {
            let options = [options, &["-b", &size]].concat();
            let out = work.client_through(&options, &remote).run().expect(0);
            assert_eq!(parse(&out.stdout).records.len(), block_size, "{options:?}");
        }
    }
}

#[test]
fn bug_18_resize_to_zero_bytes_truncates() {
    let work = Workdir::with_pair(b"", &random_bytes(1, 5000));
    let patch = work.patch(&["--diffsize=resize"]);
    work.apply(&["--diffsize=resize"], &patch).expect(0);
    assert!(work.read("remote.img").is_empty());
}

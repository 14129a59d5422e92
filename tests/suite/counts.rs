//! Speed, as far as it can be counted: bytes on the wire, system calls, memory. Times are for
//! `contrib/bench`.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::PosixFadviseAdvice;
use nix::sys::signal::Signal;

use crate::support::images::{Random, random_bytes, sparse_file};
use crate::support::mounted::live_mount;
use crate::support::requirements::{fuse, has_traced, program, require, skip};
use crate::support::run::{Bdsync, binary, server_command, shell_command, status_field};
use crate::support::{Workdir, bdsync};

const MIB: usize = 1 << 20;
const BLOCK: usize = 4096;
/// Most memory of a process, in KiB.
const MEMORY_KIB_MAX: u64 = 64 * 1024;
/// The same for a mount.
const MOUNT_KIB_MAX: u64 = 128 * 1024;

/// `image` with that many different blocks changed.
fn with_changed_blocks(image: &[u8], count: usize) -> Vec<u8> {
    let mut random = Random::new(5);
    let mut changed = image.to_vec();
    let mut blocks = std::collections::HashSet::new();
    while blocks.len() < count {
        let block = random.below((image.len() / BLOCK) as u64) as usize;
        if blocks.insert(block) {
            changed[block * BLOCK + 17] ^= 1;
        }
    }
    changed
}

/// Bytes that cross the wire, both ways, and the patch.
#[track_caller]
fn wire_bytes(work: &Workdir, options: &[&str]) -> (usize, Vec<u8>) {
    let remote = shell_command("tee up | $BDSYNC --server | tee down");
    let patch = work.client_through(options, &remote).run().expect(0).stdout;
    let count = |name| fs::metadata(work.path(name)).expect("counted").len() as usize;
    (count("up") + count("down"), patch)
}

#[test]
fn unchanged_device_costs_less_than_34_bytes_a_mebibyte() {
    let size = 64 * MIB;
    let image = random_bytes(1, size);
    let work = Workdir::with_pair(&image, &image);
    let (bytes, _) = wire_bytes(&work, &[]);
    assert!(bytes <= 34 * (size / MIB), "{bytes} bytes for {size}");
}

#[test]
fn few_changed_blocks_are_all_that_a_pull_fetches() {
    let count = 60;
    let image = random_bytes(2, 64 * MIB);
    let work = Workdir::with_pair(&image, &with_changed_blocks(&image, count));
    // A push asks for the same hashes, and for nothing else.
    let (hashes, pushed) = wire_bytes(&work, &[]);
    let (total, pulled) = wire_bytes(&work, &["--remdata"]);
    assert!([pushed, pulled].iter().all(|patch| patch.len() > count * BLOCK));
    let needed = count * BLOCK + hashes;
    assert!(total * 10 <= needed * 11, "{total} bytes for {count} blocks and {hashes} of hashes");
}

#[test]
fn identical_devices_cost_few_system_calls() {
    require!(program("strace"));
    let size = 64 * MIB;
    let image = random_bytes(3, size);
    let work = Workdir::with_pair(&image, &image);
    let traced = Command::new("strace")
        .args(["-f", "-q", "-c", "-S", "calls", "-U", "calls,name", "-o", "calls", binary()])
        .args([server_command(&[]).as_str(), "local.img", "remote.img"])
        .current_dir(work.folder())
        .stdout(Stdio::null())
        .output()
        .expect("cannot run strace");
    if !has_traced(&traced) {
        return;
    }
    let text = String::from_utf8(work.read("calls")).expect("text");
    let calls: HashMap<&str, usize> = text
        .lines()
        .filter_map(|line| line.trim().split_once(' '))
        .filter_map(|(count, name)| Some((name.trim(), count.parse().ok()?)))
        .collect();
    // Either side: four reads of a mebibyte, and as many words about reading ahead.
    let reads = calls["pread64"];
    assert!((8 * 64..9 * 64 + 50).contains(&reads), "{reads} reads\n{text}");
    // Waiting and waking depends on how busy the machine is: it gets plenty.
    let total = calls["total"];
    assert!(total < 40 * 64 + 2000, "{total} calls\n{text}");
}

/// The most memory, in KiB, that a process that is still there ever had.
fn peak_of(pid: u32) -> Option<u64> {
    status_field(pid, "VmHWM:")
}

/// The most memory, in KiB, that a client and its server each ever had.
fn peak_memory(work: &Workdir, options: &[&str]) -> Vec<u64> {
    peak_memory_of(work.client(options).stdout_file(Path::new("/dev/null")))
}

/// The most memory, in KiB, that a process and those that it starts each ever had.
fn peak_memory_of(process: Bdsync) -> Vec<u64> {
    let mut peaks = HashMap::new();
    let watched = process.run_meanwhile(|child| {
        let pid = child.id();
        // One that has ended and was not waited for has no memory to tell of.
        while let Some(peak) = peak_of(pid) {
            peaks.insert(pid, peak);
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            for server in children.unwrap_or_default().split_whitespace() {
                let server = server.parse().expect("a process id");
                if let Some(peak) = peak_of(server) {
                    peaks.insert(server, peak);
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    watched.expect(0);
    peaks.into_values().collect()
}

#[track_caller]
fn assert_modest(peaks: &[u64]) {
    assert!(!peaks.is_empty());
    assert!(peaks.iter().all(|peak| *peak < MEMORY_KIB_MAX), "{peaks:?} KiB");
}

#[test]
fn memory_does_not_grow_with_the_devices() {
    let work = Workdir::new();
    for (name, at) in [("local.img", 1 << 39), ("remote.img", 1 << 38)] {
        sparse_file(&work.path(name), 1 << 40, &[(at, b"something")]);
    }
    assert_modest(&peak_memory(&work, &[]));
}

#[test]
fn memory_does_not_grow_with_the_differences() {
    let work = Workdir::new();
    work.write("local.img", &random_bytes(4, 192 * MIB));
    sparse_file(&work.path("remote.img"), 192 * MIB as u64, &[]);
    assert_modest(&peak_memory(&work, &[]));
    fs::rename(work.path("local.img"), work.path("other")).expect("renamed");
    fs::rename(work.path("remote.img"), work.path("local.img")).expect("renamed");
    fs::rename(work.path("other"), work.path("remote.img")).expect("renamed");
    assert_modest(&peak_memory(&work, &["--remdata"]));
}

#[test]
fn memory_does_not_grow_with_small_or_large_blocks() {
    for (options, mib) in [
        (&["--blocksize=4", "--remdata"][..], 8),
        (&["--blocksize=16", "--remdata"], 24),
        (&["--blocksize=16777216"], 64),
    ] {
        let (local, remote) = (random_bytes(7, mib * MIB), random_bytes(8, mib * MIB));
        assert_modest(&peak_memory(&Workdir::with_pair(&local, &remote), options));
    }
}

/// What is compared again has hashes of its own.
#[test]
fn memory_of_a_sync_does_not_grow_with_small_blocks() {
    // Wherever it is looked, so that it is compared in pieces as large as can be.
    let local = random_bytes(7, 4 * MIB);
    let remote: Vec<_> = local.iter().map(|byte| !byte).collect();
    let work = Workdir::with_pair(&local, &remote);
    let words = ["sync", "--blocksize=1", "local.img", "remote.img"];
    assert_modest(&peak_memory_of(bdsync(words).in_folder(work.folder())));
    assert!(work.read("remote.img") == work.read("local.img"));
}

/// Each of so many threads reads a mebibyte of `file` at once, in one call; all of it is there.
fn read_at_once(file: &Path, readers: usize, places: u64) {
    std::thread::scope(|scope| {
        for reader in 0..readers as u64 {
            scope.spawn(move || {
                let mut bytes = vec![0; MIB];
                let at = (reader % places) * MIB as u64;
                fs::File::open(file).unwrap().read_exact_at(&mut bytes, at).unwrap();
                assert!(bytes.iter().any(|byte| *byte != 0));
            });
        }
    });
}

#[test]
fn memory_of_a_mount_does_not_grow_with_its_readers() {
    require!(fuse());
    let (full, empty) = (random_bytes(9, 64 * MIB), vec![0; 64 * MIB]);
    // Every fourth block: the bytes of one answer come in many parts.
    let mut scattered = empty.clone();
    for (old, new) in scattered.chunks_mut(BLOCK).zip(full.chunks(BLOCK)).step_by(4) {
        old.copy_from_slice(new);
    }
    for (local, remote, name, options) in [
        (&empty, &full, "patch", &["--remdata"][..]),
        (&empty, &full, "merged", &["--remdata", "--blocksize=16777216"]),
        (&empty, &scattered, "merged", &["--remdata"]),
        (&full, &empty, "patch", &[]),
        (&empty, &scattered, "original", &[]),
    ] {
        let work = Workdir::with_pair(local, remote);
        let mounted = live_mount(&work, options, &server_command(&[]));
        read_at_once(&mounted.path(name), 500, 63);
        let peak = peak_of(mounted.pid()).unwrap();
        assert!(peak < MOUNT_KIB_MAX, "{name} {options:?}: {peak} KiB");
    }
}

/// Bytes of the files that are in the page cache.
fn resident(work: &Workdir) -> [u64; 2] {
    PAIR.map(|name| {
        let mut fincore = Command::new("fincore");
        fincore.args(["--bytes", "--noheadings", "--output", "RES"]).arg(work.path(name));
        let out = fincore.output().expect("cannot run fincore");
        String::from_utf8_lossy(&out.stdout).trim().parse::<u64>().expect("a number")
    })
}

const PAIR: [&str; 2] = ["local.img", "remote.img"];

/// How often it is tried to find the cache undisturbed: now and then, under load, the kernel takes
/// single pages out of it by itself.
const TRIES: usize = 8;

/// Two files of which a mebibyte each is in the page cache; `None` where files do not leave it.
fn hardly_cached() -> Option<Workdir> {
    let found = (0..TRIES).find_map(|_| Some(just_read()).filter(|work| resident(work) == CACHED));
    if found.is_none() {
        skip("a folder for temporary files whose files leave the cache");
    }
    found
}

/// Has `run` use two such files, and expects them to be cached as before.
#[track_caller]
fn leaves_the_cache(what: &str, run: impl Fn(&Workdir)) {
    let mut found = vec![];
    for _ in 0..TRIES {
        let Some(work) = hardly_cached() else { return };
        run(&work);
        found.push(resident(&work));
        if found.last() == Some(&CACHED) {
            return;
        }
    }
    panic!("{what}: {found:?}");
}

fn just_read() -> Workdir {
    let image = random_bytes(6, 8 * MIB);
    let work = Workdir::with_pair(&image, &with_changed_blocks(&image, 9));
    for name in PAIR {
        let file = fs::File::open(work.path(name)).expect("opened");
        file.sync_all().expect("synced");
        let advise = |advice| nix::fcntl::posix_fadvise(&file, 0, 0, advice).expect("advised");
        advise(PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        // Without read-ahead: a mebibyte in the middle and nothing else.
        advise(PosixFadviseAdvice::POSIX_FADV_RANDOM);
        file.read_exact_at(&mut vec![0; MIB], 3 * MIB as u64).expect("read");
    }
    work
}

const CACHED: [u64; 2] = [MIB as u64; 2];

#[test]
fn flushcache_leaves_the_page_cache_as_it_was() {
    require!(program("fincore"));
    for options in [&["--flushcache"][..], &["--flushcache", "--remdata", "--hash=md5"]] {
        leaves_the_cache(&options.join(" "), |work| {
            assert!(work.patch(options).len() > 9 * BLOCK);
        });
    }
    let Some(work) = hardly_cached() else { return };
    // A pull goes on to the local device.
    let patch = work.patch(&["--remdata", "--flushcache"]);
    bdsync(["--patch", "--flushcache"]).in_folder(work.folder()).stdin(&patch).run().expect(0);
    assert!(work.read("local.img") == work.read("remote.img"));
}

#[test]
fn flushcache_of_a_sync_holds_for_what_is_compared_again() {
    require!(program("fincore"));
    let Some(work) = hardly_cached() else { return };
    bdsync(["sync", "--flushcache", "local.img", "remote.img"])
        .in_folder(work.folder())
        .run()
        .expect(0)
        .says("verified");
    let cached = resident(&work);
    assert!(cached.iter().all(|bytes| *bytes <= MIB as u64), "{cached:?}");
}

#[test]
fn flushcache_of_a_mount_holds_once_it_is_gone() {
    require!(program("fincore"), fuse());
    for options in [&[][..], &["--remdata"]] {
        let options = [&["--flushcache"], options].concat();
        leaves_the_cache(&options.join(" "), |work| {
            let mut mounted = live_mount(work, &options, &server_command(&[]));
            assert!(!fs::read(mounted.path("patch")).unwrap().is_empty());
            mounted.signal(Signal::SIGTERM);
            assert!(mounted.ended().success());
        });
    }
}

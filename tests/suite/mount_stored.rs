//! A stored patch, mounted for real and read by everyday tools.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use crate::support::images::{changed, random_bytes, sparse_file};
use crate::support::mounted::{LoopMount, Mounted, Stored, take_away};
use crate::support::requirements::{fuse, loop_devices, program, require};
use crate::support::{Workdir, bdsync};

const SIZE: usize = 4 << 20;

#[track_caller]
fn run(command: &mut Command) -> Output {
    let out = command.output().expect("cannot run");
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {}\n{text}", out.status);
    out
}

#[test]
fn dd_cp_md5sum_and_tail_see_the_images() {
    require!(fuse());
    let stored = Stored::new(1, SIZE + 777);
    let mounted = stored.mount(&[]);
    for (name, expected) in
        [("merged", &stored.merged), ("original", &stored.base), ("patch", &stored.patch)]
    {
        let path = mounted.path(name);
        assert_eq!(fs::metadata(&path).unwrap().len(), expected.len() as u64);
        let out = run(Command::new("dd").arg(format!("if={}", path.display())).arg("bs=1M"));
        assert!(out.stdout == *expected, "dd of {name}");
        let copy = stored.work.path("copy");
        run(Command::new("cp").arg(&path).arg(&copy));
        assert!(stored.work.read("copy") == *expected, "cp of {name}");
        fs::remove_file(&copy).unwrap();
        let tail = run(Command::new("tail").args(["-c", "5001"]).arg(&path));
        assert!(tail.stdout == expected[expected.len() - 5001..], "tail of {name}");
    }
    let sum = |path| run(Command::new("md5sum").stdin(fs::File::open(path).unwrap())).stdout;
    stored.work.write("expected", &stored.merged);
    assert_eq!(sum(mounted.path("merged")), sum(stored.work.path("expected")));
}

#[test]
fn many_readers_at_many_offsets_see_the_same_image() {
    require!(fuse());
    let stored = Stored::new(2, SIZE);
    let mounted = stored.mount(&[]);
    std::thread::scope(|scope| {
        for first in 0..8_usize {
            let (path, merged) = (mounted.path("merged"), &stored.merged);
            scope.spawn(move || {
                let input = format!("if={}", path.display());
                for skip in (first..SIZE / 61_440).step_by(8) {
                    let skip_word = format!("skip={skip}");
                    let words = [input.as_str(), "bs=61440", "count=1", &skip_word];
                    let out = run(Command::new("dd").args(words));
                    let start = skip * 61_440;
                    assert!(out.stdout == merged[start..start + 61_440], "block {skip}");
                }
            });
        }
    });
}

#[test]
fn changes_and_extents_name_what_differs() {
    require!(fuse());
    let stored = Stored::new(3, SIZE);
    let mounted = stored.mount(&[]);
    let changes = fs::read_to_string(mounted.path("changes")).unwrap();
    let mut rebuilt = stored.base.clone();
    let mut names = vec![];
    for line in changes.lines() {
        let numbers: Vec<usize> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
        let [offset, len] = numbers[..] else { panic!("{line:?}") };
        let name = format!("{offset:016x}-{len:016x}");
        let bytes = fs::read(mounted.path("extents").join(&name)).unwrap();
        assert_eq!(bytes.len(), len);
        rebuilt[offset..offset + len].copy_from_slice(&bytes);
        names.push(name);
    }
    assert!(rebuilt == stored.merged);
    let listed = fs::read_dir(mounted.path("extents")).unwrap();
    let mut listed: Vec<_> =
        listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    listed.sort();
    assert_eq!(listed, names);
    let status = fs::read(mounted.path("status.json")).unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["form"], "stored");
    assert_eq!(status["merged_bytes"], SIZE as u64);
}

#[test]
fn a_sparse_terabyte_is_copied_as_its_data_only() {
    require!(fuse());
    let piece = random_bytes(4, 8192);
    let stored = Stored::of(vec![0; 4096], vec![1; 4096]);
    // The same patch for a much larger base.
    let size = 1_u64 << 40;
    sparse_file(&stored.work.path("base"), size, &[(1 << 30, &piece)]);
    let patch = crate::support::patch_file::build(size, "base", &[(1 << 39, &piece)], &[0]);
    stored.work.write("patch", &patch);
    let mounted = stored.mount(&[]);
    let merged = mounted.path("merged");
    assert_eq!(fs::metadata(&merged).unwrap().len(), size);
    let copy = stored.work.path("copy");
    run(Command::new("cp").arg("--sparse=auto").arg(&merged).arg(&copy));
    let about = fs::metadata(&copy).unwrap();
    assert_eq!(about.len(), size);
    assert!(about.blocks() * 512 < 4 << 20, "{} blocks", about.blocks());
    let copy = fs::File::open(&copy).unwrap();
    for offset in [1 << 30, 1 << 39] {
        let mut bytes = vec![0; piece.len()];
        copy.read_exact_at(&mut bytes, offset).unwrap();
        assert!(bytes == piece, "at {offset}");
    }
}

#[test]
fn a_file_system_is_checked_and_mounted_from_merged() {
    require!(fuse(), loop_devices(), program("mkfs.ext4"), program("fsck.ext4"));
    let place = tempfile::tempdir().unwrap();
    let (files, image) = (place.path().join("files"), place.path().join("image"));
    fs::create_dir(&files).unwrap();
    let content = random_bytes(5, 300_000);
    fs::write(files.join("kept"), &content).unwrap();
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    run(Command::new("mkfs.ext4").arg("-q").arg("-d").arg(&files).arg(&image));
    let stored = Stored::of(vec![0; 16 << 20], fs::read(&image).unwrap());
    let mounted = stored.mount(&[]);

    run(Command::new("fsck.ext4").args(["-f", "-n"]).arg(mounted.path("merged")));
    let look = LoopMount::new(&mounted.path("merged"), place.path());
    assert!(fs::read(look.path("kept")).unwrap() == content);
}

#[test]
fn merged_has_the_size_that_the_target_will_have() {
    require!(fuse());
    let base = random_bytes(6, 20_000);
    let mut merged = base.clone();
    merged.extend(random_bytes(7, 12_345));
    let stored = Stored::of(base, merged);
    let mut mounted = stored.mount(&["--diffsize=resize,warn"]);
    assert!(fs::read(mounted.path("merged")).unwrap() == stored.merged);
    assert!(fs::read(mounted.path("original")).unwrap() == stored.base);
    mounted.wait_until("it says so", |mounted| {
        mounted.said().contains("Different sizes current=20000 patch=32345")
    });
}

/// As `--patch` finds out, which would refuse both.
#[test]
fn a_sealed_patch_is_held_against_its_seal_and_the_base() {
    require!(fuse());
    let old = random_bytes(12, 300_000);
    let work = Workdir::with_pair(&changed(&old, 13, 9), &old);
    let sealed = work.patch(&["--seal"]);
    fs::create_dir(work.path("mnt")).unwrap();
    let path = |name: &str| work.path(name).display().to_string();
    let args = [format!("--from={}", path("patch")), path("remote.img"), path("mnt")];
    let [from, base, at] = &args;
    // In the middle of a block's data.
    let mut damaged = sealed.clone();
    damaged[2000] ^= 1;
    work.write("patch", &damaged);
    bdsync(["mount"].into_iter().chain(args.iter().map(String::as_str))).run().expect(2);

    let text = |mounted: &Mounted| fs::read_to_string(mounted.path("status.json")).unwrap();
    work.write("patch", &sealed);
    let mounted = Mounted::start(&[from, base], Path::new(at));
    assert!(fs::read(mounted.path("merged")).unwrap() == work.read("local.img"));
    assert!(text(&mounted).contains("\"last_error\":null"), "{}", text(&mounted));
    drop(mounted);

    // A block that the patch changes.
    let mut other = old.clone();
    let first = old.iter().zip(work.read("local.img")).position(|(a, b)| *a != b).unwrap();
    other[first] ^= 0x55;
    work.write("remote.img", &other);
    let mut mounted = Mounted::start(&[from, base], Path::new(at));
    mounted.wait_until("it warns", |mounted| mounted.said().contains("sealed for"));
    assert!(text(&mounted).contains("sealed for"), "{}", text(&mounted));
    drop(mounted);
    // Who starts a daemon is told as well.
    let daemon = bdsync(["mount", "--daemon", from, base, at]).run();
    take_away(Path::new(at));
    daemon.expect(0).says("sealed for");
}

#[test]
fn modes_tell_who_may_read() {
    require!(fuse());
    let stored = Stored::new(8, 10_000);
    for (options, file, folder) in [
        (&[][..], 0o400, 0o500),
        (&["--allow-root"], 0o400, 0o500),
        (&["--allow-other"], 0o444, 0o555),
    ] {
        let mut mounted = stored.mount(options);
        for (name, mode) in [("merged", file), ("patch", file), ("extents", folder), (".", folder)]
        {
            let about = fs::metadata(mounted.path(name)).unwrap();
            assert_eq!(about.permissions().mode() & 0o7777, mode, "{options:?} {name}");
            assert_eq!(about.uid(), nix::unistd::getuid().as_raw());
        }
        mounted.signal(nix::sys::signal::Signal::SIGTERM);
        assert!(mounted.ended().success());
    }
}

#[test]
fn an_undo_patch_shows_the_size_that_it_sets() {
    require!(fuse());
    let (old, new) = (random_bytes(1, 50_000), random_bytes(2, 70_000));
    let work = Workdir::with_pair(&new, &old);
    work.apply(&["--diffsize=resize", "--undo=u"], &work.patch(&["-d"])).expect(0);
    let at = work.path("mnt");
    fs::create_dir(&at).unwrap();
    let args = [
        format!("--from={}", work.path("u").display()),
        work.path("remote.img").display().to_string(),
    ];
    let mounted = Mounted::start(&args, &at);
    assert!(fs::read(mounted.path("merged")).unwrap() == old);
    drop(mounted);
    let strict = ["--from=u", "--diffsize=strict", "remote.img", "mnt"];
    bdsync(["mount"].iter().chain(&strict)).in_folder(work.folder()).run().expect(3);
    let apply = |options: &[&str]| {
        let words = ["--patch"].iter().chain(options);
        bdsync(words).in_folder(work.folder()).stdin_file(&work.path("u")).run()
    };
    apply(&["--diffsize=strict"]).expect(3);
    apply(&[]).expect(0).says("is cut from 70000 to 50000 bytes");
    assert!(work.read("remote.img") == old);
}

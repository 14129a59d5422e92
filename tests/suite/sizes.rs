//! Devices of every size, from nothing to a sparse tebibyte.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use crate::support::images::{changed, random_bytes, read_at, sparse_file};
use crate::support::run::server_command;
use crate::support::{Workdir, bdsync, patch_file};

const GIB: u64 = 1 << 30;

#[test]
fn small_and_odd_sizes_work_both_ways() {
    for size in [0, 1, 511, 512, 513, 4095, 4096, 4097, 65_537, 131_071, 1_000_003] {
        let remote = random_bytes(size as u64, size);
        let work = Workdir::with_pair(&changed(&remote, 9, 3), &remote);
        let local = work.read("local.img");
        for (options, target, expected) in
            [(&[][..], "remote.img", &local), (&["--remdata"], "local.img", &remote)]
        {
            let before = work.read(target);
            let patch = work.patch(options);
            assert_eq!(patch_file::parse(&patch).size, size as u64);
            work.apply(&[], &patch).expect(0);
            assert!(work.read(target) == *expected, "{size} {options:?}");
            work.write(target, &before);
        }
    }
}

#[test]
fn a_first_full_copy_starts_from_dev_null() {
    let source = random_bytes(1, 300_001);
    let work = Workdir::with_pair(&source, b"");
    let server = server_command(&[]);
    let pushed = bdsync(["--diffsize=resize", &server, "local.img", "/dev/null"]);
    let pulled = bdsync(["-r", "--diffsize=resize", &server, "/dev/null", "local.img"]);
    for call in [pushed, pulled] {
        let patch = call.in_folder(work.folder()).run().expect(0).stdout;
        assert_eq!(patch_file::parse(&patch).name, b"/dev/null");
        work.write("copy.img", b"");
        let call = bdsync(["--patch=copy.img", "--diffsize=resize"]).in_folder(work.folder());
        call.stdin(&patch).run().expect(0);
        assert!(work.read("copy.img") == source);
    }
}

/// Two sparse images that differ at `offsets`, compared and patched both ways within `limit`.
fn check_sparse(size: u64, offsets: &[u64], limit: Duration) {
    let data: Vec<Vec<u8>> =
        offsets.iter().enumerate().map(|(i, _)| random_bytes(i as u64, 5000)).collect();
    let len = |offset: u64| usize::try_from((size - offset).min(5000)).unwrap();
    let pieces: Vec<(u64, &[u8])> =
        offsets.iter().zip(&data).map(|(at, bytes)| (*at, &bytes[..len(*at)])).collect();
    let work = Workdir::new();
    sparse_file(&work.path("local.img"), size, &pieces);
    sparse_file(&work.path("remote.img"), size, &pieces[..1]);
    for options in [&[][..], &["--remdata"]] {
        let out = work.client(options).within(limit).run().expect(0);
        let parsed = patch_file::parse(&out.stdout);
        assert_eq!(parsed.size, size);
        let starts: Vec<u64> = pieces[1..].iter().map(|(at, _)| at / 4096 * 4096).collect();
        for start in starts {
            assert!(parsed.records.iter().any(|(at, _)| *at == start), "no record at {start}");
        }
        assert!(parsed.records.len() <= pieces.len() * 3, "{} records", parsed.records.len());
        if options.is_empty() {
            sparse_file(&work.path("copy.img"), size, &pieces[..1]);
            let call = bdsync(["--patch=copy.img"]).in_folder(work.folder());
            call.stdin(&out.stdout).within(limit).run().expect(0);
        }
    }
    for (at, bytes) in &pieces {
        assert!(read_at(&work.path("copy.img"), *at, bytes.len()) == *bytes, "at {at}");
    }
    let meta = fs::metadata(work.path("copy.img")).unwrap();
    assert_eq!(meta.len(), size);
    assert!(meta.blocks() * 512 < 16 << 20, "the copy is not sparse");
}

#[test]
fn offsets_beyond_4_gib_work() {
    let size = 5 * GIB + 777;
    check_sparse(
        size,
        &[0, 4 * GIB - 2500, 4 * GIB + 123_456, size - 5000],
        Duration::from_secs(60),
    );
}

#[test]
fn a_sparse_tebibyte_takes_moments() {
    let size = 1024 * GIB;
    let offsets = [12_345, 100 * GIB + 1, 512 * GIB - 2500, size - 4096];
    check_sparse(size, &offsets, Duration::from_secs(60));
}

//! Stored patches: looked at, made one, compressed.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use flate2::write::GzEncoder;

use crate::support::images::{changed, random_bytes};
use crate::support::mounted::{Mounted, Stored};
use crate::support::patch_file::{build, checksum_field};
use crate::support::requirements::{fuse, program, require};
use crate::support::run::{bdsync, binary, server_command};
use crate::support::{Output, Workdir};

const SIZE: usize = 1 << 20;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// With a checksum, as the program has it.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(vec![], 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn info(work: &Workdir, args: &[&str]) -> Output {
    bdsync(["info"].iter().chain(args)).in_folder(work.folder()).run()
}

fn text(out: &Output) -> String {
    String::from_utf8(out.stdout.clone()).unwrap()
}

/// A pair of images that differ, and the patch between them.
fn pair(seed: u64) -> (Workdir, Vec<u8>, Vec<u8>, Vec<u8>) {
    let remote = random_bytes(seed, SIZE);
    let local = changed(&remote, seed + 1, 20);
    let work = Workdir::with_pair(&local, &remote);
    let patch = work.patch(&["--checksum=sha256"]);
    (work, local, remote, patch)
}

#[test]
fn info_tells_the_same_of_a_file_a_pipe_and_compressed_ones() {
    let (work, _, _, patch) = pair(1);
    work.write("p", &patch);
    let plain = text(&info(&work, &["p"]).expect(0));
    for part in ["target      remote.img", "size        1.0 MiB (1048576 bytes)", "sha256 ", "░"]
    {
        assert!(plain.contains(part), "{part}: {plain}");
    }
    assert!(!plain.contains('\x1b'), "colour without a terminal: {plain}");
    let below_first = |text: String| text.split_once('\n').unwrap().1.to_owned();
    let from = |out: Output| below_first(text(&out.expect(0)));
    let expected = below_first(plain);
    assert_eq!(from(bdsync(["info"]).stdin(&patch).run()), expected);
    assert_eq!(from(bdsync(["info", "-"]).stdin(&zstd(&patch)).run()), expected);
    work.write("p.gz", &gzip(&patch));
    let compressed = text(&info(&work, &["p.gz"]).expect(0));
    assert!(compressed.lines().next().unwrap().ends_with(", decompressed from gzip"));
    assert_eq!(below_first(compressed), expected);
}

#[test]
fn info_of_a_cut_patch_tells_what_can_be_read_and_where_it_ends() {
    let (work, _, _, patch) = pair(2);
    work.write("p", &patch[..patch.len() / 2]);
    let out = info(&work, &["p"]).expect(2).says("the patch ends early");
    let shown = text(&out);
    assert!(shown.contains("FAULT") && shown.contains("at offset "), "{shown}");
    assert!(shown.contains("records in"), "{shown}");
    let json = info(&work, &["--json", "p"]).expect(2);
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(value["records"].as_u64().unwrap() > 0);
    assert_eq!(value["faults"].as_array().unwrap().len(), 1);
    work.write("p", b"no patch at all");
    let out = info(&work, &["p"]).expect(2).says("not a patch");
    assert!(out.stdout.is_empty());
}

#[test]
fn info_tells_every_fault_with_its_position() {
    let work = Workdir::new();
    let data = [1; 8];
    let records = [(0, &data[..]), (93, &data), (8, &data), (u64::MAX, &data), (16, &data)];
    let mut bytes = build(100, "t", &records, &checksum_field("nosuch", b"xyz"));
    work.write("p", &bytes);
    let out = info(&work, &["p"]).expect(2).says("3 faults, the first: ").says("p, offset 40");
    let shown = text(&out);
    for part in
        ["at offset 40: ", "offset 93 ends past", "at offset 76: ", "digest", "3 records in 1 "]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // Behind what is no record nothing can be found.
    bytes.truncate(100);
    work.write("p", &bytes);
    let shown = text(&info(&work, &["p"]).expect(2));
    assert!(shown.contains("at offset 94: ") && shown.contains("ends early"), "{shown}");
}

#[test]
fn info_writes_json_and_a_picture() {
    let patch = build(1 << 30, "/dev/\x1b[2J<&", &[(4096, &[1; 4096]), (8192, &[0; 100])], &[0]);
    let work = Workdir::new();
    work.write("p", &patch);
    let out = info(&work, &["p", "--json", "--svg=p.svg"]).expect(0);
    let value: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    for (key, expected) in [
        ("size_bytes", 1 << 30),
        ("records", 2),
        ("runs", 1),
        ("data_bytes", 4196),
        ("zero_bytes", 100),
    ] {
        assert_eq!(value[key].as_u64(), Some(expected), "{key}");
    }
    let picture = String::from_utf8(work.read("p.svg")).unwrap();
    assert!(
        picture.contains("&lt;&amp;") && picture.ends_with("</svg>\n") && !picture.contains('\x1b')
    );
    bdsync(["info", "p", "--svg=/nonexistent/x"]).in_folder(work.folder()).run().expect(9);
    require!(program("xmllint"));
    let xml = Command::new("xmllint").arg("--noout").arg(work.path("p.svg")).status();
    assert!(xml.unwrap().success());
}

#[test]
fn info_marks_the_partitions_of_the_disk_and_never_opens_the_target() {
    let mut disk = vec![0; SIZE];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[446 + 4] = 0x83;
    disk[446 + 8..446 + 16].copy_from_slice(&[0, 1, 0, 0, 0, 2, 0, 0]);
    let work = Workdir::new();
    work.write("disk", &disk);
    work.write("p", &build(SIZE as u64, "/nonexistent", &[(256 * 512, &[1; 512])], &[0]));
    for args in [&["p", "disk"][..], &["p", "--base=disk"]] {
        let shown = text(&info(&work, args).expect(0));
        assert!(shown.contains("1  256.0 KiB at 128.0 KiB  Linux: 512 bytes changed"), "{shown}");
        assert!(shown.contains("└1──"), "{shown}");
    }
    work.write("disk", &[0; 4096]);
    info(&work, &["p", "disk"]).expect(0).says("no partition table");
    info(&work, &["p", "nothing"]).expect(12);
}

#[test]
fn info_tells_what_a_seal_says() {
    let work = Workdir::with_pair(&random_bytes(1, 20_000), &random_bytes(2, 10_000));
    work.write("p", &work.patch(&["-d", "--seal"]));
    let out = info(&work, &["p"]).expect(0);
    let said = text(&out);
    for part in [
        "knows what the target held when the patch was made: 5 blocks of 4.0 KiB, by ",
        "made from",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(said.contains("size=10000, path=remote.img"), "{said}");
    work.apply(&["-d", "--undo=back"], &work.read("p")).expect(0);
    let said = text(&info(&work, &["back"]).expect(0));
    assert!(said.contains("sets the target's size (an undo patch)"), "{said}");
    work.write("p", &work.patch(&[]));
    let said = text(&info(&work, &["p"]).expect(0));
    assert!(said.lines().any(|line| line.starts_with("seal") && line.ends_with("none")), "{said}");
}

#[test]
fn compressed_output_is_the_plain_patch_for_every_other_tool() {
    require!(program("gzip"));
    let (work, local, remote, patch) = pair(3);
    for (option, magic) in
        [("--compress=gzip", &[0x1f, 0x8b][..]), ("--compress=zstd:7", &[0x28, 0xb5, 0x2f, 0xfd])]
    {
        let made = work.patch(&["--checksum=sha256", option]);
        assert!(made.starts_with(magic), "{option}");
        let path = work.write("made", &made);
        if option.contains("gzip") {
            let out =
                Command::new("gzip").arg("-dc").stdin(fs::File::open(&path).unwrap()).output();
            assert!(out.unwrap().stdout == patch);
        }
        // From a file, a pipe, and a pipe that is copied first.
        bdsync(["--patch"]).in_folder(work.folder()).stdin_file(&path).run().expect(0);
        assert!(work.read("remote.img") == local, "{option} from a file");
        for options in [&[][..], &["--spool"], &["--undo=undo", "--verify"]] {
            work.write("remote.img", &remote);
            work.apply(options, &made).expect(0);
            assert!(work.read("remote.img") == local, "{option} from a pipe, {options:?}");
        }
        work.apply(&[], &work.read("undo")).expect(0);
        assert!(work.read("remote.img") == remote);
        fs::remove_file(work.path("undo")).unwrap();
    }
}

#[test]
fn compressed_patch_that_is_cut_or_damaged_is_refused_before_the_first_write() {
    let (work, _, remote, patch) = pair(4);
    for whole in [gzip(&patch), zstd(&patch)] {
        let mut damaged = whole.clone();
        let last = damaged.len() - 6;
        damaged[last] ^= 1;
        for bad in [&whole[..whole.len() - 1], &whole[..whole.len() / 2], &damaged] {
            let path = work.write("bad", bad);
            let out = bdsync(["--patch"]).in_folder(work.folder()).stdin_file(&path).run();
            out.expect(2).says("damaged or cut");
            assert!(work.read("remote.img") == remote);
            work.apply(&["--spool"], bad).expect(2);
            assert!(work.read("remote.img") == remote);
        }
    }
}

/// A tape fills its last block up with zeros, and so does `dd conv=sync`.
#[test]
fn zeros_behind_a_gzip_patch_are_told_and_are_no_damage() {
    let (work, local, remote, patch) = pair(40);
    let sealed = work.patch(&["--seal"]);
    for (patch, padding_bytes) in [(&patch, 100), (&patch, 10_240), (&sealed, 10_240)] {
        let padded = [gzip(patch), vec![0; padding_bytes]].concat();
        let path = work.write("p.gz", &padded);
        info(&work, &["p.gz"]).expect(0);
        let told = format!("{padding_bytes} bytes behind the patch are ignored");
        let from_file = bdsync(["--patch"]).in_folder(work.folder()).stdin_file(&path);
        let from_pipe = bdsync(["--patch"]).in_folder(work.folder()).stdin(&padded);
        for call in [from_file, from_pipe] {
            work.write("remote.img", &remote);
            let out = call.run().expect(0);
            assert_eq!(out.stderr_text().matches(&told).count(), 1, "{out}");
            assert!(work.read("remote.img") == local);
        }
        work.write("remote.img", &remote);
        work.write("p.gz", &[&padded, &b"x"[..]].concat());
        let out = bdsync(["--patch"]).in_folder(work.folder()).stdin_file(&path).run();
        out.expect(2).says("damaged or cut");
        assert!(work.read("remote.img") == remote);
    }
}

#[test]
fn full_disk_under_a_compressed_patch_is_told() {
    let (work, ..) = pair(5);
    for option in ["--compress=gzip", "--compress=zstd"] {
        let client = work.client(&[option]).stdout_file(Path::new("/dev/full"));
        client.run().expect(9).says("No space left");
    }
}

#[test]
fn compress_is_for_those_who_write_patches() {
    for args in [&["--compress=gzip", "--server"][..], &["--compress=gzip", "--patch"]] {
        bdsync(args).run().expect(1).says("--compress means nothing");
    }
    bdsync(["--compress=lz4", "c", "l", "r"]).run().expect(1).says("--compress must be");
}

#[test]
fn memory_stays_bounded_whatever_comes_out_of_a_few_bytes() {
    require!(program("bash"));
    let work = Workdir::new();
    // Half a gibibyte of records of zeros, one over the other.
    let data = [0; 32768];
    let records = vec![(0, &data[..]); 64];
    let one = build(32768, "remote.img", &records, &[0]);
    let (start, end) = (11 + 8 + 2 + 10, one.len() - 11);
    let mut encoder = GzEncoder::new(vec![], flate2::Compression::best());
    encoder.write_all(&one[..start]).unwrap();
    for _ in 0..256 {
        encoder.write_all(&one[start..end]).unwrap();
    }
    encoder.write_all(&one[end..]).unwrap();
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < 2 << 20);
    work.write("bomb", &bomb);
    work.write("remote.img", &[1; 32768]);
    for command in ["info bomb", "--patch <bomb"] {
        let script = format!("ulimit -v 262144; '{}' {command}", binary());
        let out = Command::new("bash").args(["-c", &script]).current_dir(work.folder()).output();
        let out = out.unwrap();
        let words = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{command}: {} {words}", out.status);
    }
    assert_eq!(work.read("remote.img"), data);
}

#[test]
fn squashed_patch_does_what_its_parts_do_in_turn() {
    let images: Vec<_> = (0..4)
        .scan(random_bytes(6, SIZE), |image, i| {
            let this = image.clone();
            *image = changed(image, 60 + i, 15);
            // Grows, shrinks, grows.
            image.resize([SIZE + 5000, SIZE - 70_000, SIZE + 100, 0][i as usize], 0);
            Some(this)
        })
        .collect();
    let work = Workdir::new();
    for (i, pair) in images.windows(2).enumerate() {
        work.write("remote.img", &pair[0]);
        work.write("local.img", &pair[1]);
        let patch = work.patch(&["--diffsize=resize", "--checksum=md5"]);
        let stored = [patch.clone(), gzip(&patch), zstd(&patch)];
        work.write(&format!("p{i}"), &stored[i]);
    }
    let squash = ["squash", "p0", "p1", "p2"];
    let one = bdsync(squash).in_folder(work.folder()).run().expect(0).says("bytes of zeros");
    let smallest = (SIZE - 70_000).to_string();
    let one = one.says(&format!("behind {smallest} bytes and is in no later patch becomes zeros"));
    let one = one.says("--diffsize=minsize");
    let sized = bdsync(squash.iter().chain(&["--basesize=1048576", "--compress=zstd"]));
    let sized = sized.in_folder(work.folder()).run().expect(0);
    assert!(sized.stdout.len() < one.stdout.len());
    for patch in [&one.stdout, &sized.stdout] {
        work.write("remote.img", &images[0]);
        work.apply(&["--diffsize=resize"], patch).expect(0).says("checksum[md5]");
        assert!(work.read("remote.img") == images[3]);
    }
}

#[test]
fn copy_without_room_is_told_of_the_option_only_where_there_is_one() {
    let work = Workdir::new();
    let patch = build(10, "base", &[(0, b"aaaa")], &[0]);
    work.write("packed", &gzip(&patch));
    work.write("base", &[0; 10]);
    fs::create_dir(work.path("at")).unwrap();
    let failed = |args: &[&str]| {
        let mut command = Command::new(binary());
        command.args(args).current_dir(work.folder()).env("TMPDIR", "/nonexistent");
        let out = command.stdin(fs::File::open(work.path("packed")).unwrap()).output().unwrap();
        let words = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(9), "{args:?}: {words}");
        words
    };
    for args in [&["squash", "packed"][..], &["mount", "--from=packed", "base", "at"]] {
        let words = failed(args);
        assert!(words.contains("(another folder: TMPDIR): /nonexistent"), "{words}");
    }
    let words = failed(&["squash", "-"]);
    assert!(!words.contains("--spool"), "{words}");
}

#[test]
fn squash_takes_pipes_and_refuses_what_is_faulty_or_for_another_device() {
    let work = Workdir::new();
    let sum = checksum_field("md5", &[7; 16]);
    let a = build(10, "d", &[(0, b"aaaa"), (6, b"aa")], &[0]);
    let b = build(10, "d", &[(2, b"bb")], &sum);
    work.write("a", &a);
    work.write("b", &b);
    work.write("other", &build(10, "e", &[], &[0]));
    work.write("cut", &b[..b.len() - 1]);
    let squash = |args: &[&str]| bdsync(["squash"].iter().chain(args)).in_folder(work.folder());
    let expected = build(10, "d", &[(0, b"aa"), (2, b"bb"), (6, b"aa")], &sum);
    assert_eq!(squash(&["a", "b"]).run().expect(0).stdout, expected);
    assert_eq!(squash(&["-"]).stdin(&gzip(&a)).run().expect(0).stdout, a);
    assert_eq!(squash(&["a", "-"]).stdin(&b).run().expect(0).stdout, expected);
    assert_eq!(squash(&["/dev/stdin", "b"]).stdin(&gzip(&a)).run().expect(0).stdout, expected);
    let out = squash(&["a", "other"]).run().expect(1).says("different devices");
    assert!(out.stdout.is_empty());
    squash(&["a", "other", "--force"]).run().expect(0);
    let out = squash(&["a", "cut"]).run().expect(2).says("ends early");
    assert!(out.stdout.is_empty());
    squash(&["a", "-"]).stdin(b"no patch").run().expect(2).says("not a patch");
    squash(&["a", "none"]).run().expect(12);
    squash(&["a", "b"]).stdout_file(Path::new("/dev/full")).run().expect(9);
}

#[test]
fn mount_of_a_compressed_patch_shows_the_same() {
    require!(fuse());
    let stored = Stored::new(9, SIZE);
    let at = stored.work.path("mnt");
    fs::create_dir_all(&at).unwrap();
    for (name, bytes) in [("p.gz", gzip(&stored.patch)), ("p.zst", zstd(&stored.patch))] {
        let path = stored.work.write(name, &bytes);
        let base = stored.work.write("the-base", &stored.base);
        let from = format!("--from={}", path.display());
        let mounted = Mounted::start(&[from.as_str(), base.to_str().unwrap()], &at);
        assert!(fs::read(mounted.path("merged")).unwrap() == stored.merged, "{name}");
        assert!(fs::read(mounted.path("patch")).unwrap() == stored.patch, "{name}");
    }
}

#[test]
fn subcommand_words_after_an_option_stay_a_remote_command() {
    // The first word decides; `--` or any option before it keeps the classic's meaning.
    let (work, _, _, patch) = pair(10);
    let command = server_command(&[]);
    let args = ["--", &command, "local.img", "remote.img"];
    assert!(
        bdsync(["-cSHA256"].iter().chain(&args))
            .in_folder(work.folder())
            .run()
            .expect(0)
            .stdout
            .len()
            == patch.len()
    );
    bdsync(["--", "info", "local.img", "remote.img"]).in_folder(work.folder()).run().expect(8);
}

/// Names as they are in other people's patches.
#[test]
fn json_has_no_character_that_a_terminal_would_obey() {
    let work = Workdir::new();
    let name = "\u{9b}31m\u{7f}\u{202e}gpj.\u{2066}\u{200e}\u{61c}\u{2028}\u{1b}x";
    work.write("p", &build(9, name, &[(0, b"x")], &[0]));
    let out = bdsync(["info", "--json", "--report=r", "p"]).in_folder(work.folder()).run();
    let out = out.expect(0);
    for (text, at) in [(out.stdout, "/target"), (work.read("r"), "/target/path")] {
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&text).unwrap().pointer(at).unwrap(),
            name
        );
        let text = String::from_utf8(text).unwrap();
        assert_eq!(
            bdsync::report::escape(text.replace('\n', "").as_bytes()),
            text.replace('\n', "")
        );
    }
}

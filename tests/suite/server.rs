//! The server as somebody who does not trust its clients needs it.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bdsync::wire::{FrameReader, FrameWriter, Look, Message};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::images::{changed, random_bytes, sparse_file};
use crate::support::raw_server::RawServer;
use crate::support::run::{binary, server_command, shell_command};
use crate::support::wait::ended_within;
use crate::support::{Workdir, bdsync};

/// How soon a server must have noticed that it is alone.
const SOON: Duration = Duration::from_secs(5);
/// What a client can make a server hold, in kB.
const MEMORY_KB_MAX: u64 = 64 << 10;
const CLASSIC: &str = "CLIENT 0.5";
const OURS: &str = "CLIENT+blake3,tree 0.5";

/// A file of 1 TiB that is nearly all hole.
fn huge_file(work: &Workdir) -> PathBuf {
    let path = work.path("huge.img");
    sparse_file(&path, 1 << 40, &[(0, b"start"), ((1 << 40) - 3, b"end")]);
    path
}

/// A file of random bytes.
fn full_file(work: &Workdir, len: usize) -> PathBuf {
    work.write("full.img", &random_bytes(3, len))
}

#[test]
fn only_allowed_devices_are_served() {
    let remote = random_bytes(1, 100_000);
    let work = Workdir::with_pair(&changed(&remote, 2, 10), &remote);
    let expected = work.patch(&[]);
    symlink(work.path("remote.img"), work.path("link.img")).unwrap();
    fs::create_dir(work.path("sub")).unwrap();
    fs::rename(work.path("remote.img"), work.path("sub/remote.img")).unwrap();
    symlink("sub/remote.img", work.path("remote.img")).unwrap();
    let root = work.folder().canonicalize().unwrap();
    for (allow, is_allowed) in [
        ("sub/*.img", true),
        ("**", true),
        ("sub/remote.im?", true),
        ("*.img", false),
        ("remote.img", false),
        ("sub/*.raw", false),
    ] {
        let option = format!("'--allow={}/{allow}' --allow=/nowhere/*", root.display());
        let out = work.client_through(&[], &server_command(&[&option])).run();
        if is_allowed {
            assert!(out.expect(0).stdout == expected, "{allow}");
        } else {
            assert!(out.stdout.is_empty(), "{allow}");
            out.expect(6).says("does not allow this device").says("status 12");
        }
    }
}

#[test]
fn a_glob_that_can_match_nothing_is_exit_1() {
    for glob in ["images/*", "/a/["] {
        bdsync(["--server", "--allow", glob]).run().expect(1).says(glob);
    }
}

#[test]
fn a_device_that_is_not_allowed_is_exit_12_for_the_server() {
    let work = Workdir::new();
    let path = full_file(&work, 10);
    let mut server = RawServer::start(&["--allow=/nowhere/*"]);
    server.send(&Message::Hello(CLASSIC.into()));
    assert!(matches!(server.receive(), Message::Hello(_)));
    server.send(&Message::DevFile(path.to_str().unwrap().into()));
    assert_eq!(server.ends_within(SOON), 12);
}

#[test]
fn a_server_with_an_open_device_has_given_up_privileges() {
    let work = Workdir::new();
    let path = full_file(&work, 10_000);
    let mut server = RawServer::open(&[], CLASSIC, &path, "md5", "");
    server.send(&Message::GetBlock { offset: 0, len: 10 });
    assert!(matches!(server.receive(), Message::Block { .. }));
    let threads = server.status_field_of_threads("NoNewPrivs:");
    assert!(!threads.is_empty() && threads.iter().all(|&gone| gone == 1), "{threads:?}");
    server.send(&Message::Done);
    assert_eq!(server.receive(), Message::Done);
    assert_eq!(server.ends_within(SOON), 0);
}

#[test]
fn a_server_that_leaves_a_report_gives_up_privileges_as_well() {
    let work = Workdir::new();
    let path = full_file(&work, 10_000);
    let report = work.write("report", b"of an earlier run");
    let option = format!("--report={}", report.display());
    for expected in [0, 6, 128 + Signal::SIGTERM as i32] {
        let mut server = RawServer::open(&[&option], CLASSIC, &path, "md5", "");
        server.send(&Message::GetBlock { offset: 0, len: 10 });
        assert!(matches!(server.receive(), Message::Block { .. }));
        let threads = server.status_field_of_threads("NoNewPrivs:");
        assert!(!threads.is_empty() && threads.iter().all(|&gone| gone == 1), "{threads:?}");
        assert_eq!(fs::read(&report).unwrap(), b"", "until the session is over");
        match expected {
            0 => {
                server.send(&Message::Done);
                assert_eq!(server.receive(), Message::Done);
                server.hang_up();
            }
            6 => server.hang_up(),
            _ => kill(Pid::from_raw(server.pid().cast_signed()), Signal::SIGTERM).unwrap(),
        }
        let code = server.ends_within(SOON);
        assert_eq!(code, expected);
        let json: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        assert_eq!((&json["mode"], &json["exit_code"]), (&"server".into(), &code.into()));
        assert_eq!(json["source"]["size_bytes"], 10_000);
    }
    let mut server = RawServer::start(&["--report=/nonexistent/report"]);
    assert_eq!(server.ends_within(SOON), 9);
}

#[test]
fn a_server_that_is_asked_how_far_it_is_goes_on() {
    let work = Workdir::new();
    let path = full_file(&work, 10_000);
    let mut server = RawServer::start(&[]);
    server.send(&Message::Hello(CLASSIC.into()));
    assert!(matches!(server.receive(), Message::Hello(_)));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(server.pid()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).unwrap();
    server.send(&Message::DevFile(path.as_os_str().as_encoded_bytes().to_vec()));
    assert!(matches!(server.receive(), Message::Size(_)));
    server.send(&Message::Done);
    assert_eq!(server.receive(), Message::Done);
    assert_eq!(server.ends_within(SOON), 0);
}

/// Work that would take minutes to years, and a client that goes away meanwhile.
#[test]
fn a_server_does_not_outlive_its_client() {
    let work = Workdir::new();
    let huge = huge_file(&work);
    let zeros = Message::GetHashes { start: 1 << 30, step: 4 << 30, n: 200 };
    let other_zeros = Message::GetHashes { start: 1 << 30, step: (4 << 30) - 1, n: 1 };
    let tree = Message::GetTree(Look { start: 0, step: 4 << 30, n: 1, level: 2 });
    for (hello, checksum, requests) in [
        (CLASSIC, "sha3-512", vec![Message::GetChecksum]),
        (CLASSIC, "", vec![zeros.clone()]),
        (CLASSIC, "", vec![zeros; 200]),
        (CLASSIC, "", vec![other_zeros.clone(), Message::GetHashes { start: 0, step: 1, n: 0 }]),
        (OURS, "", vec![tree]),
    ] {
        let mut server = RawServer::open(&[], hello, &huge, "sha3-512", checksum);
        requests.iter().for_each(|request| server.send(request));
        std::thread::sleep(Duration::from_millis(300));
        server.hang_up();
        assert_eq!(server.ends_within(SOON), 6, "{requests:?}");
    }
}

#[test]
fn a_server_that_cannot_write_does_not_outlive_its_client() {
    let work = Workdir::new();
    let path = full_file(&work, 1 << 20);
    let mut server = RawServer::open(&[], CLASSIC, &path, "md5", "");
    let request = Message::GetBlock { offset: 0, len: 100_000 };
    (0..100).for_each(|_| server.send(&request));
    std::thread::sleep(Duration::from_millis(300));
    server.hang_up();
    assert_eq!(server.ends_within(SOON), 6);
}

#[test]
fn the_timeout_ends_a_client_that_says_nothing_or_takes_nothing() {
    let work = Workdir::new();
    let path = full_file(&work, 1 << 20);
    let mut server = RawServer::open(&["--timeout=1"], CLASSIC, &path, "md5", "");
    server.send(&Message::GetBlock { offset: 0, len: 10 });
    assert!(matches!(server.receive(), Message::Block { .. }));
    assert_eq!(server.ends_within(SOON), 13);
    let mut server = RawServer::open(&["--timeout=1"], CLASSIC, &path, "md5", "");
    let request = Message::GetBlock { offset: 0, len: 100_000 };
    (0..100).for_each(|_| server.send(&request));
    assert_eq!(server.ends_within(SOON), 13);
}

#[test]
fn the_timeout_does_not_count_while_the_server_works() {
    let work = Workdir::new();
    let path = work.path("hole.img");
    // As much as this machine needs longer for than the timeout.
    for doubled in 0.. {
        sparse_file(&path, (512 << 20) << doubled, &[]);
        let mut server = RawServer::open(&["--timeout=1"], CLASSIC, &path, "md5", "sha3-512");
        let started = Instant::now();
        server.send(&Message::GetChecksum);
        assert!(matches!(server.receive(), Message::Checksum(_)));
        let works_longer = started.elapsed() > Duration::from_millis(1500);
        server.send(&Message::Done);
        assert_eq!(server.receive(), Message::Done);
        assert_eq!(server.ends_within(SOON), 0);
        if works_longer {
            return;
        }
    }
}

#[test]
fn no_server_waits_while_the_client_makes_its_checksum() {
    let work = Workdir::with_pair(b"", &random_bytes(1, 1 << 20));
    let common = ["--diffsize=minsize", "--hash=md5", "--checksum=sha3-512"];
    // As much as this machine needs longer for than the timeout.
    for doubled in 0.. {
        sparse_file(&work.path("local.img"), (512 << 20) << doubled, &[]);
        let started = Instant::now();
        for more in ["--flushcache", "--on-read-error=skip"] {
            let options = [&common[..], &[more]].concat();
            work.client_through(&options, &server_command(&["--timeout=1"])).run().expect(0);
        }
        if started.elapsed() > Duration::from_millis(3500) {
            return;
        }
    }
}

/// Floods of every kind of request from a client that reads no answer.
#[test]
fn hostile_clients_cannot_make_a_server_hold_much_memory() {
    let work = Workdir::new();
    let path = full_file(&work, 20 << 20);
    let most_hashes = (131_072 - 25) / 64;
    let floods: Vec<(&str, Vec<Message>)> = vec![
        ("blocks", vec![Message::GetBlock { offset: 0, len: 131_063 }]),
        ("tiny blocks", vec![Message::GetBlock { offset: 0, len: 1 }]),
        ("hashes", vec![Message::GetHashes { start: 0, step: 1, n: most_hashes }]),
        ("large steps", vec![Message::GetHashes { start: 0, step: 1 << 20, n: most_hashes }]),
        ("hints", vec![Message::GetHashes { start: 0, step: 1, n: 0 }]),
        (
            "trees",
            (0..400)
                .map(|i| Message::GetTree(Look { start: i * 4096, step: 16, n: 1, level: 5 }))
                .collect(),
        ),
        ("large trees", vec![Message::GetTree(Look { start: 0, step: 1, n: 2047, level: 3 })]),
        ("checksums", vec![Message::GetChecksum]),
    ];
    for (name, requests) in floods {
        let mut server = RawServer::open(&[], OURS, &path, "sha512", "sha512");
        let mut bytes = vec![];
        requests.iter().for_each(|request| request.encode(&mut bytes).unwrap());
        let mut input = server.take_input();
        std::thread::spawn(move || while input.write_all(&bytes).is_ok() {});
        let mut most = 0;
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(50));
            most = server.status_field("VmHWM:").unwrap_or(0).max(most);
        }
        assert!(most > 1000, "{name}: {most} kB");
        assert!(most < MEMORY_KB_MAX, "{name}: {most} kB");
        println!("{name}: {most} kB");
        server.hang_up();
        server.ends_within(SOON);
    }
}

#[test]
fn announced_lengths_allocate_nothing() {
    for head in [&b"\xff\xff\xff\xff\x01"[..], b"\x00\x00\x02\x00\x01", b"\x00\x00\x00\x00\x01"] {
        let mut server = RawServer::start(&["--timeout=2"]);
        assert!(server.try_send_bytes(head));
        std::thread::sleep(Duration::from_millis(100));
        assert!(server.status_field("VmHWM:").unwrap_or(0) < MEMORY_KB_MAX / 4);
        server.hang_up();
        assert!([4, 6].contains(&server.ends_within(SOON)));
    }
}

/// As inetd and systemd start one: a socket is its stdin and stdout.
#[test]
fn a_server_on_a_socket_answers_and_ends_with_its_client() {
    let work = Workdir::new();
    let path = full_file(&work, 1 << 20);
    for floods in [false, true] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut child = Command::new(binary())
            .arg("--server")
            .stdin(OwnedFd::from(theirs.try_clone().unwrap()))
            .stdout(OwnedFd::from(theirs))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut writer = FrameWriter::new(ours.try_clone().unwrap());
        let mut reader = FrameReader::new(ours);
        let mut send = |message: &Message| {
            writer.write(message).and_then(|()| writer.flush()).unwrap();
        };
        send(&Message::Hello(CLASSIC.into()));
        send(&Message::DevFile(path.to_str().unwrap().into()));
        let (hash, checksum) = ("md5".into(), String::new());
        send(&Message::Digests { salt: vec![7; 32], hash, checksum });
        let most = if floods { 100 } else { 1 };
        (0..most).for_each(|_| send(&Message::GetBlock { offset: 0, len: 100_000 }));
        assert!(matches!(reader.expect_message().unwrap(), Message::Hello(_)));
        assert_eq!(reader.expect_message().unwrap(), Message::Size(1 << 20));
        assert!(matches!(reader.expect_message().unwrap(), Message::Block { .. }));
        if !floods {
            send(&Message::Done);
            assert_eq!(reader.expect_message().unwrap(), Message::Done);
            assert!(child.wait().unwrap().success());
            continue;
        }
        std::thread::sleep(Duration::from_millis(300));
        assert!(child.try_wait().unwrap().is_none(), "it waits to write");
        drop((reader, writer));
        assert!(ended_within(SOON, &mut child).is_some(), "the server outlives its client");
    }
}

/// inetd makes one socket all three of stdin, stdout and stderr.
#[test]
fn no_words_come_between_the_messages_where_stderr_is_the_client_too() {
    let work = Workdir::new();
    let missing = work.path("missing.img");
    let device = Message::DevFile(missing.to_str().unwrap().into());
    let client = [Message::Hello(CLASSIC.into()), device];
    let server = [Message::Hello("SERVER 0.5".into())];
    for (option, said, heard, code) in
        [("--allow=/**", &client[..], &server[..], 12), ("--allow=relative", &[], &[], 1)]
    {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let end = || Stdio::from(OwnedFd::from(theirs.try_clone().unwrap()));
        let mut command = Command::new(binary());
        command.args(["--server", option]).stdin(end()).stdout(end()).stderr(end());
        let mut child = command.spawn().unwrap();
        drop((command, theirs));
        ours.write_all(&encoded(said)).unwrap();
        let mut bytes = vec![];
        ours.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.escape_ascii().to_string(), encoded(heard).escape_ascii().to_string());
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
}

fn encoded(messages: &[Message]) -> Vec<u8> {
    let mut bytes = vec![];
    messages.iter().for_each(|message| message.encode(&mut bytes).unwrap());
    bytes
}

#[test]
fn a_client_whose_server_has_its_stdout_for_stderr_is_told_that_it_went_away() {
    let work = Workdir::with_pair(&[1; 5000], &[0; 5000]);
    fs::remove_file(work.path("remote.img")).unwrap();
    let command = shell_command("exec $BDSYNC --server 2>&1");
    work.client_through(&[], &command).run().expect(6).says("status 12");
}

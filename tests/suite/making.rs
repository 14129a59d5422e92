//! Patches in the making: whole or not at all, and made of nothing but what was compared.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bdsync::device::{Device, MemoryDevice, TolerantDevice};
use bdsync::diff::{Afterwards, Density, Engine, LeftOut, Plan, Sink, digests, walk};
use bdsync::digest::{Algorithm, BlockHasher, HashPool};
use bdsync::error::{Error, Kind, Result};
use bdsync::serve;
use bdsync::transport::pair;
use bdsync::units::{ByteRange, Direction, SizeRule};
use bdsync::wire::{Extensions, Opening, Peer};
use parking_lot::Mutex;

use crate::support::full_at_close::FullAtClose;
use crate::support::images::{Random, changed, random_bytes};
use crate::support::requirements::{built_example, fuse, program, require, root};
use crate::support::run::{binary, example, server_command, shell_command};
use crate::support::{Workdir, bdsync};

fn images() -> Workdir {
    let remote = random_bytes(1, 3_000_000);
    Workdir::with_pair(&changed(&remote, 2, 200), &remote)
}

/// REMSHCMD for a server whose answers are changed, see `tests/tools/liar.rs`.
fn liar(mode: &str) -> String {
    format!("'{}' {mode} '{}' --server", example("liar").display(), binary())
}

#[test]
fn a_patch_that_does_not_fit_is_exit_9() {
    let work = images();
    for options in [&[][..], &["--remdata"], &["--checksum=md5"]] {
        let out = work.client(options).stdout_file(Path::new("/dev/full")).run();
        out.expect(9).says("No space left");
    }
    // Even the few bytes of a patch without records.
    work.write("local.img", &work.read("remote.img"));
    work.client(&[]).stdout_file(Path::new("/dev/full")).run().expect(9);
}

/// A client in a shell, where its stdout can be anything.
fn in_shell(work: &Workdir, script: &str) -> std::process::Output {
    let client = format!("'{0}' \"'{0}' --server\" local.img remote.img", binary());
    Command::new("sh")
        .args(["-c", &script.replace("CLIENT", &client)])
        .current_dir(work.folder())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn a_patch_that_nobody_takes_is_exit_9() {
    let work = images();
    for (script, words) in [
        ("CLIENT >&-", "stdout is closed"),
        ("CLIENT 1</dev/null", "Bad file descriptor"),
        ("{ CLIENT; echo exit $? >&2; } | head -c 1000 >/dev/null", "exit 9"),
        ("{ CLIENT; echo exit $? >&2; } | exec true", "exit 9"),
    ] {
        let out = in_shell(&work, script);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(stderr.contains(words) && !stderr.contains("panicked"), "{script}: {stderr}");
        assert!(script.contains("echo") || out.status.code() == Some(9), "{script}: {stderr}");
    }
    assert!(in_shell(&work, "CLIENT >/dev/null").status.success());
    assert!(in_shell(&work, "CLIENT 1<>/dev/null").status.success());
}

#[test]
fn a_terminal_gets_no_patch() {
    require!(program("script"));
    let work = images();
    work.write("patch", &work.patch(&[]));
    let squash = format!("'{}' squash patch", binary());
    for command in ["CLIENT", "CLIENT --compress=zstd", &squash] {
        // Only stdout is a terminal; what it got is the output of `script`.
        let call = format!("cat >call <<'END'\n{command} </dev/null 2>words\nEND\n");
        let out = in_shell(&work, &format!("{call}script -qec 'sh call' /dev/null"));
        let words = String::from_utf8_lossy(&work.read("words")).into_owned();
        assert_eq!(out.status.code(), Some(1), "{command}: {words}");
        assert!(words.contains("write it to a file or a pipe"), "{command}: {words}");
        assert!(out.stdout.is_empty(), "{command}: {:?}", String::from_utf8_lossy(&out.stdout));
    }
}

#[test]
fn nobody_types_a_patch() {
    require!(program("script"));
    let work = images();
    for command in ["--patch=remote.img", "info", "squash -", "--patch=remote.img --spool"] {
        let call = format!("cat >call <<'END'\n'{}' {command} >out 2>words\nEND\n", binary());
        let out = in_shell(&work, &format!("{call}script -qec 'sh call' /dev/null"));
        let words = String::from_utf8_lossy(&work.read("words")).into_owned();
        assert_eq!(out.status.code(), Some(1), "{command}: {words}");
        assert!(words.contains("standard input is a terminal"), "{command}: {words}");
    }
}

#[test]
fn a_server_that_sends_other_blocks_than_it_announced_is_noticed() {
    require!(built_example("liar"));
    let work = images();
    for (mode, code) in [("block", 11), ("hash", 11), ("short", 4), ("offset", 4), ("fault", 6)] {
        for options in [&["--remdata"][..], &["--remdata", "--hash=md5", "--blocksize=50000"]] {
            let out = work.client_through(options, &liar(mode)).run().expect(code);
            let whole = work.patch(&["--remdata"]).len();
            assert!(out.stdout.len() < whole, "{mode}: the patch must not look complete");
        }
    }
    let out = work.client_through(&["--remdata"], &liar("fault")).run();
    out.expect(6).says("at the remote side: so it \\x1b[31m says");
    for mode in ["count", "step"] {
        work.client_through(&[], &liar(mode)).run().expect(4);
    }
    // Of a target only what the patch may carry.
    let cut = ["-d", "--hash=md5", "--blocksize=50000"];
    for options in [&["-dmin"][..], &["-dmin", "--remdata"], &["-d"], &cut] {
        let out = work.client_through(options, &liar("huge")).run().expect(0);
        assert!(out.stdout == work.patch(options), "only the common part counts");
    }
    // Not that of 4 KiB, for which the server would answer early, from a tree.
    for options in [&["--blocksize=3000"][..], &["--blocksize=3000", "--remdata"]] {
        let out = work.client_through(options, &liar("treeless")).run().expect(0);
        assert!(out.stdout == work.patch(options), "what a server lacks is not used");
    }
    let out = work.client_through(&["--remdata"], &liar("truth")).run().expect(0);
    assert!(out.stdout == work.patch(&["--remdata"]));
}

#[test]
fn a_local_read_error_names_device_and_offset() {
    require!(program("truncate"));
    for direction in [&[][..], &["--remdata"]] {
        let work = images();
        // The client has opened its device before it starts the server.
        let script = "truncate -s 2000000 local.img; exec $BDSYNC --server";
        let out = work.client_through(direction, &shell_command(script)).run().expect(6);
        let end = out.stderr_text();
        assert!(end.contains("local.img, bytes [") && end.contains("shorter"), "{out}");
    }
}

#[test]
fn what_cannot_be_read_here_is_left_out_listed_and_exit_15() {
    require!(program("truncate"));
    let work = images();
    let whole = work.patch(&[]);
    let script = "truncate -s 2000000 local.img; exec $BDSYNC --server";
    for server in [script.to_owned(), format!("{script} 2>/dev/null | cat")] {
        work.write("local.img", &changed(&work.read("remote.img"), 2, 200));
        let options = ["--on-read-error=skip", "--checksum=md5", "--hash=md5"];
        let out = work.client_through(&options, &shell_command(&server)).run().expect(15);
        // A page is the unit of reading: from the block of byte 2000000 on.
        let out = out.says("unreadable, left out: local local.img, bytes [1998848, 3000000)");
        let out = out.says("1001152 bytes in 1 range could not be read");
        let end = out.stdout.len();
        assert_eq!(out.stdout[end - 11..], [0; 11], "end mark, and no checksum");
        assert!(whole.starts_with(&out.stdout[..end - 11]));
        assert!(end > whole.len() / 2);
    }
}

#[test]
fn a_source_that_cannot_be_read_behind_what_is_compared_has_no_checksum_and_exit_15() {
    require!(program("truncate"));
    let local = random_bytes(1, 3_000_000);
    let work = Workdir::with_pair(&local, &changed(&local[..1_000_000], 2, 50));
    let options = ["--diffsize=minsize", "--on-read-error=skip", "--hash=md5"];
    let whole = work.patch(&options);
    let script = "truncate -s 2000000 local.img; exec $BDSYNC --server";
    let with = [&options[..], &["--checksum=md5"]].concat();
    let out = work.client_through(&with, &shell_command(script)).run().expect(15);
    let out = out.says("no checksum of the source: the device became shorter");
    assert!(!out.stderr_text().contains("left out: "), "{out}");
    assert!(out.stdout == whole, "all that was compared, and no checksum");
}

#[test]
fn a_block_whose_unreadable_bytes_no_patch_carries_is_not_left_out() {
    require!(program("truncate"));
    // The target is longer than the source, and unreadable behind it in the source's last block.
    let local = random_bytes(1, 3_000_000);
    let mut remote = local[..1_990_000].to_vec();
    remote[1_980_000] ^= 1;
    let work = Workdir::with_pair(&local, &remote);
    let script = "truncate -s 2000000 local.img; exec $BDSYNC --server";
    let options = ["--remdata", "--diffsize=resize", "--on-read-error=skip", "--blocksize=65536"];
    let out = work.client_through(&options, &shell_command(script)).run().expect(0);
    assert!(!out.stderr_text().contains("left out"), "{out}");
    work.apply(&["--diffsize=resize"], &out.stdout).expect(0);
    assert!(work.read("local.img") == remote);
}

#[test]
fn skipping_costs_nothing_where_all_can_be_read() {
    let work = images();
    for options in [&["--checksum=sha1"][..], &["--checksum=sha1", "--remdata"]] {
        let with = [options, &["--on-read-error=skip"]].concat();
        assert!(work.patch(&with) == work.patch(options));
    }
}

/// A device with bytes that cannot be read.
struct Broken(MemoryDevice, Vec<ByteRange>);

impl Device for Broken {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let range = ByteRange::new(offset, offset + buf.len() as u64);
        match self.1.iter().find(|bad| !bad.intersect(&range).is_empty()) {
            Some(bad) => Err(Error::new(Kind::Read, "broken").with_range(*bad)),
            None => self.0.read_exact_at(buf, offset),
        }
    }

    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        self.0.next_data(from)
    }
}

/// Collects blocks, but those that were left out, as the client does.
struct Collected<'a>(Vec<(u64, Vec<u8>)>, Option<&'a LeftOut>);

impl Sink for Collected<'_> {
    fn block(&mut self, offset: u64, data: &[u8], _: &[u8]) -> Result<()> {
        let range = ByteRange::new(offset, offset + data.len() as u64);
        if self.1.is_none_or(|left_out| !left_out.touches(range)) {
            self.0.push((offset, data.to_vec()));
        }
        Ok(())
    }

    fn reached(&mut self, _: u64) -> Result<()> {
        Ok(())
    }
}

/// An engine over two devices in this process, and its server's thread.
fn engine(
    direction: Direction,
    local: Box<dyn Device>,
    remote: Box<dyn Device>,
    skips: bool,
) -> (Arc<Engine>, thread::JoinHandle<Result<()>>) {
    let (ours, theirs) = pair(None).unwrap();
    let remote = Mutex::new(Some(remote));
    let server = thread::spawn(move || {
        serve::session(theirs, Extensions::ALL, &|_| Ok(remote.lock().take().unwrap()))
    });
    let offer = Extensions { skip: skips, ..Extensions::ALL };
    let opening = Opening::connect(ours, offer, b"remote.img").unwrap();
    let remote_bytes = opening.size();
    let plan = Plan::new(direction, local.size(), remote_bytes, 4096, SizeRule::Strict).unwrap();
    let salt = opening.salt().unwrap_or(&[7; 32]).to_vec();
    let hasher = BlockHasher::new(Algorithm::Blake3, &salt).unwrap().with_universal_leaves(true);
    let peer = Peer::start(opening, &digests(&salt, &hasher, None)).unwrap();
    let pool = HashPool::with_threads(3).unwrap();
    let engine = match skips {
        true => {
            let local = Arc::new(TolerantDevice::new(local));
            Engine::leaving_out(plan, local, peer, pool, hasher)
        }
        false => Engine::new(plan, Arc::from(local), peer, pool, hasher),
    };
    (engine, server)
}

fn density(engine: &Engine) -> Density {
    Density::for_peer(4096, engine.hasher(), true, false)
}

#[test]
fn unreadable_blocks_of_both_sides_are_left_out_and_nothing_else() {
    const SIZE: usize = 9_000_001;
    let remote = random_bytes(5, SIZE);
    let local = changed(&remote, 6, 700);
    let mut random = Random::new(7);
    let mut bad = |count| -> Vec<ByteRange> {
        let mut one = || {
            let start = random.below(SIZE as u64 - 60_000);
            ByteRange::new(start, start + 1 + random.below(50_000) * random.below(2))
        };
        (0..count).map(|_| one()).collect()
    };
    for (local_bad, remote_bad) in
        [(bad(0), bad(40)), (bad(40), bad(0)), (bad(20), bad(20)), (bad(1), bad(1))]
    {
        for direction in [Direction::Push, Direction::Pull] {
            let ours = Box::new(Broken(MemoryDevice::new(&local[..]), local_bad.clone()));
            let theirs = Box::new(Broken(MemoryDevice::new(&remote[..]), remote_bad.clone()));
            let (engine, server) = engine(direction, ours, theirs, true);
            let mut sink = Collected(vec![], engine.left_out());
            walk(&engine, density(&engine), Afterwards::Nothing, &mut sink).unwrap();
            engine.peer().finish().unwrap();
            server.join().unwrap().unwrap();

            let touches = |bad: &[ByteRange], block: ByteRange| {
                bad.iter().any(|bad| !bad.intersect(&block).is_empty())
            };
            let source = if direction == Direction::Push { &local } else { &remote };
            let mut found = sink.0.into_iter().peekable();
            for block in ByteRange::new(0, SIZE as u64).pieces(4096) {
                let bytes = block.start as usize..block.end as usize;
                let differs = local[bytes.clone()] != remote[bytes.clone()];
                let got = found.next_if(|(offset, _)| *offset == block.start);
                let is_bad = touches(&local_bad, block) || touches(&remote_bad, block);
                match got {
                    Some((_, data)) => {
                        assert!(differs && !is_bad, "{direction:?} {block}");
                        assert!(data == source[bytes], "{direction:?} {block}");
                    }
                    None => assert!(!differs || is_bad, "{direction:?} {block} is missing"),
                }
            }
            assert!(found.next().is_none());
            let left_out = engine.left_out().unwrap();
            for (bad, known) in [(&local_bad, left_out.local()), (&remote_bad, left_out.remote())] {
                for range in known.ranges() {
                    let pages = range.align_out(4096).pieces(4096);
                    assert!(pages.into_iter().all(|page| touches(bad, page)), "{range} is fine");
                }
                assert!(bad.iter().all(|bad| known.intersects(*bad)), "{bad:?}");
            }
        }
    }
}

#[test]
fn without_skipping_a_remote_read_error_ends_the_walk_and_not_the_link() {
    let bytes = random_bytes(5, 1_000_000);
    let bad = vec![ByteRange::new(500_000, 500_010)];
    for direction in [Direction::Push, Direction::Pull] {
        let theirs = Box::new(Broken(MemoryDevice::new(&bytes[..]), bad.clone()));
        let ours = Box::new(MemoryDevice::new(&bytes[..]));
        let (engine, server) = engine(direction, ours, theirs, false);
        let err =
            walk(&engine, density(&engine), Afterwards::Nothing, &mut Collected(vec![], None))
                .unwrap_err();
        assert_eq!(err.kind(), Kind::Read);
        let text = err.full_message();
        assert_eq!(text, "at the remote side: broken, bytes [500000, 500010)");
        assert!(engine.peer().is_alive());
        engine.peer().finish().unwrap();
        server.join().unwrap().unwrap();
    }
}

/// Offsets and bytes of all reads.
type Given = Vec<(u64, Vec<u8>)>;

/// A device that never gives the same bytes twice, and remembers what it gave.
struct Restless {
    path: PathBuf,
    size: u64,
    reads: AtomicU64,
    given: Arc<Mutex<Given>>,
}

impl Device for Restless {
    fn path(&self) -> &Path {
        &self.path
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let bytes = random_bytes(self.reads.fetch_add(1, Ordering::Relaxed), buf.len());
        buf.copy_from_slice(&bytes);
        self.given.lock().push((offset, bytes));
        Ok(())
    }

    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        Ok(Some(ByteRange::new(from, self.size)))
    }
}

#[test]
fn a_push_writes_the_very_bytes_that_it_hashed() {
    const SIZE: u64 = 2_000_000;
    let given = Arc::<Mutex<Given>>::default();
    let ours = Restless {
        path: "restless".into(),
        size: SIZE,
        reads: AtomicU64::new(0),
        given: Arc::clone(&given),
    };
    let theirs = Box::new(MemoryDevice::new(vec![0; SIZE as usize]));
    let (engine, server) = engine(Direction::Push, Box::new(ours), theirs, false);
    let mut sink = Collected(vec![], None);
    walk(&engine, density(&engine), Afterwards::Nothing, &mut sink).unwrap();
    engine.peer().finish().unwrap();
    server.join().unwrap().unwrap();
    let given = given.lock();
    assert_eq!(sink.0.len() as u64, SIZE.div_ceil(4096));
    for (offset, data) in sink.0 {
        let from_one_read = given.iter().any(|(start, bytes)| {
            let at = offset.checked_sub(*start).map(|at| at as usize);
            at.and_then(|at| bytes.get(at..at + data.len())).is_some_and(|part| part == data)
        });
        assert!(from_one_read, "block {offset} is of no single read");
    }
}

#[test]
fn a_pull_of_a_device_that_changes_is_exit_11() {
    let theirs = Restless {
        path: "restless".into(),
        size: 500_000,
        reads: AtomicU64::new(0),
        given: Arc::default(),
    };
    let ours = Box::new(MemoryDevice::new(vec![0; 500_000]));
    let (engine, _server) = engine(Direction::Pull, ours, Box::new(theirs), false);
    let err = walk(&engine, density(&engine), Afterwards::Nothing, &mut Collected(vec![], None))
        .unwrap_err();
    assert_eq!(err.kind(), Kind::Transmission);
}

/// As on a network file system: every write goes well, and the close does not.
#[test]
fn a_patch_that_is_refused_when_it_is_closed_is_no_success() {
    require!(fuse(), root());
    let work = Workdir::with_pair(&random_bytes(1, 100_000), &random_bytes(2, 100_000));
    let patch = bdsync([&server_command(&[]), "local.img", "remote.img"]);
    let patch = patch.in_folder(work.folder()).run().expect(0).stdout;
    work.write("patch", &patch);
    std::fs::create_dir(work.path("full")).unwrap();
    let full = FullAtClose::on(&work.path("full"));
    for words in [&[&server_command(&[])[..], "local.img", "remote.img"][..], &["squash", "patch"]]
    {
        for options in [&[][..], &["--compress=zstd"]] {
            let run = bdsync([words, options].concat()).in_folder(work.folder());
            let out = run.stdout_file(full.file()).run().expect(9);
            out.says("cannot write the patch").says("quota");
        }
    }
}

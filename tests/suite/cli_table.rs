//! The classic's command line, option by option, through the binary.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::support::images::{changed, random_bytes};
use crate::support::patch_file;
use crate::support::run::{binary, server_command, shell_command};
use crate::support::{Workdir, bdsync};

fn pair() -> Workdir {
    let remote = random_bytes(1, 300_000);
    Workdir::with_pair(&changed(&remote, 2, 9), &remote)
}

#[test]
fn usage_goes_to_stdout_with_exit_0() {
    for args in [&[][..], &["-H"], &["--help"], &["--hel"], &["help"]] {
        let out = bdsync(args).run().expect(0);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(text.contains("REMSHCMD LOCDEV REMDEV"), "{out}");
        assert!(text.contains("--server") && text.contains("--patch"), "{out}");
        assert!(!text.contains("fixedsalt"), "a hidden option is shown\n{out}");
        assert!(out.stderr.is_empty(), "{out}");
    }
}

#[test]
fn an_answer_that_nobody_can_read_is_exit_9() {
    let work = pair();
    work.write("patch", &work.patch(&[]));
    for words in ["--help", "--version", "help sync", "", "info patch", "info --json patch"] {
        let script = format!("exec {} {words} >&-", binary());
        let mut command = std::process::Command::new("sh");
        let out = command.args(["-c", &script]).current_dir(work.folder()).output().unwrap();
        let told = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(9), "{words}: {told}");
        assert_eq!(told, "bdsync: cannot write the answer: stdout is closed\n", "{words}");
    }
}

#[test]
fn contradictions_end_with_exit_1_and_a_message() {
    for args in [
        &["--server", "--patch"][..],
        &["-sp"],
        &["--warndev", "cmd", "a", "b"],
        &["--warndev", "--server"],
        &["--zeroblocks", "--patch"],
        &["--hash=md5", "--server"],
        &["--hash=md5", "--patch"],
        &["--digest=md5", "--patch"],
        &["--checksum=md5", "--server"],
        &["--checksum=md5", "--patch"],
        &["--compress=gzip", "--server"],
        &["--compress=gzip", "--patch"],
        &["--dry-run", "--server"],
        &["--dry-run", "cmd", "a", "b"],
        &["--server", "operand"],
        &["--patch", "operand"],
        &["-p", "operand"],
        &["one"],
        &["one", "two"],
        &["one", "two", "three", "four"],
        &["--verbose"],
        &["--diffsize", "--diffsize", "cmd", "a", "b"],
        &["--diffsize=strict,resize", "cmd", "a", "b"],
        &["--diffsize=other", "cmd", "a", "b"],
        &["--nosuchoption", "cmd", "a", "b"],
        &["-x", "cmd", "a", "b"],
        &["--p", "cmd", "a", "b"],
        &["--h", "cmd", "a", "b"],
        &["--server=x"],
        &["--blocksize"],
        &["--timeout=soon", "--server"],
    ] {
        let out = bdsync(args).run().expect(1).says("bdsync: ");
        assert!(out.stdout.is_empty(), "{out}");
        assert_eq!(out.stderr_text().lines().count(), 1, "{out}");
    }
}

#[test]
fn block_sizes_outside_1_to_16_mib_are_refused() {
    for size in ["0", "-1", "16777217", "4k", "99999999999999999999"] {
        let expected = format!("block size must be between 1 and 16777216 bytes, found {size}");
        pair().client(&["-b", size]).run().expect(1).says(&expected);
    }
    pair().client(&["-b", "16777216"]).run().expect(0);
}

#[test]
fn every_spelling_of_an_option_means_the_same() {
    let work = pair();
    for (spellings, minimum) in [
        (&[&["--blocksize=512"][..], &["--block", "512"], &["-b512"], &["-b", "512"]][..], 1),
        (&[&["--remdata"], &["--r"], &["-r"], &["-rr"]], 1),
        (&[&["--hash=sha1"], &["--has=SHA1"], &["-h", "sha1"], &["-hsha1"], &["--digest=sha1"]], 1),
        (&[&["--checksum=md5"], &["--c=md5"], &["-c", "md5"], &["-cmd5"]], 1),
        (&[&["--twopass"], &["--two"], &["--t"], &["-t"]], 1),
        (&[&["--zeroblocks"], &["--z"], &["-z"]], 1),
        (&[&["--flushcache"], &["--fl"], &["-F"]], 1),
        (&[&["--fixedsalt"], &["-f"]], 1),
        (&[&["-rtc", "md5"], &["-r", "-t", "-cmd5"], &["--remdata", "--twopass", "-c", "md5"]], 1),
    ] {
        let expected = work.patch(spellings[0]);
        assert!(patch_file::parse(&expected).records.len() >= minimum);
        for spelling in &spellings[1..] {
            assert!(work.patch(spelling) == expected, "{spelling:?}");
        }
    }
}

#[test]
fn options_and_operands_may_be_mixed_and_dashes_end_options() {
    let work = pair();
    let server = server_command(&[]);
    let expected = work.patch(&["-r"]);
    for args in [
        &[server.as_str(), "-r", "local.img", "remote.img"][..],
        &[&server, "local.img", "remote.img", "-r"],
        &["-r", "--", &server, "local.img", "remote.img"],
    ] {
        let out = bdsync(args).in_folder(work.folder()).run().expect(0);
        assert_eq!(out.stdout, expected, "{args:?}");
    }
    std::fs::copy(work.path("local.img"), work.path("-r")).unwrap();
    let out = bdsync(["--", &server, "-r", "remote.img"]).in_folder(work.folder()).run().expect(0);
    assert_eq!(out.stdout, work.patch(&[]));
}

#[test]
fn options_that_only_change_how_do_not_change_the_patch() {
    let work = pair();
    let expected = work.patch(&[]);
    for options in [
        &["--fixedsalt"][..],
        &["--twopass"],
        &["--zeroblocks"],
        &["--flushcache"],
        &["--hash=sha256"],
        &["--hash=md5"],
        &["--progress"],
        &["--progress=noscroll"],
        &["-vvv"],
        &["--timeout=60"],
        &["--diffsize"],
        &["--diffsize=minsize,warn"],
    ] {
        assert_eq!(work.patch(options), expected, "{options:?}");
    }
    let through = work.client_through(&[], &server_command(&["--zeroblocks", "-v"]));
    assert_eq!(through.run().expect(0).stdout, expected);
}

#[test]
fn diffsize_words_may_be_cut() {
    let long = random_bytes(3, 9000);
    let work = Workdir::with_pair(&long[..5000], &long);
    work.client(&[]).run().expect(3).says("Different sizes local=5000 remote=9000\n");
    work.client(&["-ds"]).run().expect(3).says("Different sizes local=5000 remote=9000\n");
    for (options, size, told) in [
        (&["-d"][..], 5000, false),
        (&["--diffsize"], 5000, false),
        (&["-dr"], 5000, false),
        (&["--diffs=res"], 5000, false),
        (&["-dwarn"], 5000, true),
        (&["-dres,w"], 5000, true),
        (&["--diffsize=m"], 5000, false),
        (&["-rd"], 9000, false),
        (&["-rdmin,warn"], 5000, true),
    ] {
        let out = work.client(options).run().expect(0);
        assert_eq!(patch_file::parse(&out.stdout).size, size, "{options:?}");
        let says = out.stderr_text().contains("Different sizes local=5000 remote=9000\n");
        assert_eq!(says, told, "{options:?}\n{out}");
    }
}

#[test]
fn the_value_of_patch_is_attached_only() {
    let work = pair();
    let patch = work.patch(&[]);
    let source = work.read("local.img");
    let target = work.read("remote.img");
    for option in ["-pother.img", "--patch=other.img", "--pat=other.img"] {
        work.write("other.img", &target);
        bdsync([option]).in_folder(work.folder()).stdin(&patch).run().expect(0);
        assert_eq!(work.read("other.img"), source, "{option}");
        assert_eq!(work.read("remote.img"), target, "{option}");
    }
    bdsync(["-p", "other.img"]).in_folder(work.folder()).stdin(&patch).run().expect(1);
    bdsync(["--patch="]).in_folder(work.folder()).stdin(&patch).run().expect(1);
    work.apply(&[], &patch).expect(0);
    assert_eq!(work.read("remote.img"), source);
}

#[test]
fn warndev_names_both_devices() {
    let work = pair();
    let patch = work.patch(&[]);
    work.write("other.img", &work.read("remote.img"));
    let call = |options: &[&str]| bdsync(options).in_folder(work.folder()).stdin(&patch).run();
    let message = "Warning: different device names parameter=other.img data=remote.img\n";
    call(&["-pother.img", "-w"]).expect(0).says(message);
    assert!(call(&["-pother.img"]).expect(0).stderr.is_empty());
    assert!(call(&["-premote.img", "--warndev"]).expect(0).stderr.is_empty());
}

#[test]
fn checksum_is_shown_when_a_patch_is_applied() {
    let remote = random_bytes(4, 8192);
    let work = Workdir::with_pair(&changed(&remote, 5, 3), &remote);
    let patch = work.patch(&["--checksum=sha256"]);
    let (name, value) = patch_file::parse(&patch).checksum.expect("a checksum");
    assert_eq!(name, b"sha256");
    let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    work.apply(&[], &patch).expect(0).says(&format!("checksum[sha256]: {hex}\n"));
}

#[test]
fn sizes_that_differ_are_told_when_applying() {
    let long = random_bytes(3, 9000);
    let work = Workdir::with_pair(&long[..5000], &long);
    let patch = work.patch(&["-d"]);
    let message = "Different sizes current=9000 patch=5000\n";
    work.apply(&[], &patch).expect(3).says(message);
    assert_eq!(work.read("remote.img").len(), 9000);
    let out = work.apply(&["--diffsize=minsize"], &patch).expect(0);
    assert!(!out.stderr_text().contains("Different sizes"), "{out}");
    work.apply(&["-dwarn"], &patch).expect(0).says(message);
    assert_eq!(work.read("remote.img"), work.read("local.img"));
}

#[test]
fn progress_has_the_classic_form() {
    let work = pair();
    for (option, end) in [("--progress", '\n'), ("-Pnoscroll", '\r')] {
        let out = work.client(&[option]).run().expect(0);
        let text = out.stderr_text();
        let lines: Vec<&str> = text.split(end).filter(|line| line.contains("PROGRESS:")).collect();
        assert!(!lines.is_empty() && lines.len() <= 110, "{out}");
        for line in &lines {
            let fields = line.strip_prefix("PROGRESS:").expect("prefix");
            let fields: Vec<&str> =
                fields.strip_suffix("        ").expect("spaces").split(',').collect();
            assert_eq!(fields.len(), 6, "{line}");
            let percent = fields[0].strip_suffix('%').expect("percent");
            assert!(percent.len() == 3 && percent.parse::<u8>().unwrap() <= 100, "{line}");
            assert_eq!(fields[3], "300000", "{line}");
        }
        assert!(lines.last().unwrap().starts_with("PROGRESS:100%,"), "{out}");
    }
    work.client(&["--progress=fast"]).run().expect(1);
}

#[test]
fn each_exit_code_is_the_classics() {
    let work = pair();
    let small = Workdir::with_pair(b"abc", b"abcd");
    let through = |command: &str| work.client_through(&["--timeout=20"], command).run();
    work.client(&[]).run().expect(0);
    work.client(&["--hash=nosuch"]).run().expect(1).says("Bad hash nosuch");
    work.apply(&[], b"not a patch").expect(2);
    small.client(&[]).run().expect(3);
    through("echo this is not the protocol at all").expect(4);
    work.client(&["--checksum=nosuch"]).run().expect(5).says("nosuch");
    through("true").expect(6);
    through("/nonexistent/program").expect(8).says("/nonexistent/program");
    work.client(&[]).stdout_file("/dev/full".as_ref()).run().expect(9);
    bdsync([&server_command(&[]), "missing.img", "remote.img"])
        .in_folder(work.folder())
        .run()
        .expect(12)
        .says("missing.img");
    work.client_through(&["--timeout=1"], "sleep 30").run().expect(13);
}

#[test]
fn unknown_digests_are_refused_before_anything_is_started() {
    let work = pair();
    for (option, code) in [("--hash=nosuch", 1), ("--checksum=nosuch", 5)] {
        let out = work.client_through(&[option], "touch started").run().expect(code);
        assert!(out.stdout.is_empty() && !work.path("started").exists(), "{out}");
    }
}

#[test]
fn the_client_exits_with_the_status_of_the_remote_command() {
    let work = pair();
    let expected = work.patch(&[]);
    for status in [0, 7, 255] {
        let command = shell_command(&format!("$BDSYNC --server; exit {status}"));
        let out = work.client_through(&[], &command).run().expect(status);
        assert_eq!(out.stdout, expected);
    }
}

#[test]
fn the_remote_command_is_split_at_spaces_and_quotes_group() {
    let work = pair();
    let expected = work.patch(&[]);
    let exe = binary();
    for command in [
        format!("{exe}  --server "),
        format!("  '{exe}' \"--server\""),
        format!("sh -c 'exec \"{exe}\" --server'"),
        format!("sh -c \"exec \"\"{exe}\"\" --server\""),
        format!("sh -c '[ ${{#1}} = 4 ] && exec {exe} --server' x \"it's\""),
        format!("sh -c '[ ${{#1}} = 4 ] && exec {exe} --server' x 'it''s'"),
    ] {
        let out = work.client_through(&[], &command).run().expect(0);
        assert_eq!(out.stdout, expected, "{command}");
    }
    for command in ["", "   ", "'unclosed", "echo \"x"] {
        work.client_through(&[], command).run().expect(1);
    }
}

#[test]
fn only_a_client_is_told_that_the_program_it_lacks_is_no_command_either() {
    let work = pair();
    std::fs::create_dir(work.path("at")).unwrap();
    let no_command = "which is no command of bdsync either: nosuchprogram: No such file";
    work.client_through(&[], "nosuchprogram").run().expect(8).says(no_command);
    for words in [
        &["./nosuchprogram", "local.img", "remote.img"][..],
        &["mount", "nosuchprogram", "local.img", "remote.img", "at"],
        &["sync", "-e", "nosuchprogram", "local.img", "host:remote.img"],
    ] {
        let out = bdsync(words).in_folder(work.folder()).run().expect(8);
        let out = out.says("cannot start the remote command: ").says("nosuchprogram: No such file");
        assert!(!out.stderr_text().contains("no command"), "{out}");
    }
}

#[test]
fn a_command_behind_an_option_is_no_command_which_is_told() {
    let work = pair();
    let said = "'mount' was taken for REMSHCMD: a command of bdsync comes first";
    let call = bdsync(["-v", "mount", "local.img", "remote.img"]);
    call.in_folder(work.folder()).run().expect(4).says(said);
    let out = work.client_through(&[], "./mount").run().expect(8);
    assert!(!out.stderr_text().contains("was taken for"), "{out}");
    let said = "found 5; 'mount' is a command, which comes first";
    bdsync(["-v", "mount", "cmd", "local.img", "remote.img", "at"]).run().expect(1).says(said);
}

#[test]
fn lines_of_the_remote_side_are_relayed() {
    let work = pair();
    let script = "printf 'hello\\n\\033[31mred\\nlast' >&2; exec $BDSYNC --server";
    let out = work.client_through(&[], &shell_command(script)).run().expect(0);
    let text = out.stderr_text();
    for line in ["RMTERR: hello\n", "RMTERR: \\x1b[31mred\n", "RMTERR: last\n"] {
        assert!(text.contains(line), "{out}");
    }
}

/// As whoever shares it may have set it up; an ssh does so.
#[test]
fn no_line_is_lost_on_a_stderr_that_must_not_be_waited_for() {
    const LINES: usize = 3000;
    let work = pair();
    let (mut reader, writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let line = "x".repeat(100);
    let script = format!("yes {line} | head -{LINES} >&2; exec {} --server", binary());
    let mut process = Command::new(binary())
        .args([&shell_command(&script), "local.img", "remote.img"])
        .current_dir(work.folder())
        .stdout(Stdio::null())
        .stderr(Stdio::from(OwnedFd::from(writer)))
        .spawn()
        .unwrap();
    // More than is on its way by then goes to a pipe that is full.
    std::thread::sleep(Duration::from_millis(300));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(process.wait().unwrap().success(), "{text}");
    assert_eq!(text.matches(&line).count(), LINES);
}

#[test]
fn a_quiet_run_says_nothing() {
    let work = pair();
    let out = work.client(&["--checksum=md5"]).within(Duration::from_secs(30)).run().expect(0);
    assert!(out.stderr.is_empty(), "{out}");
    let patch = work.patch(&[]);
    assert!(work.apply(&[], &patch).expect(0).stderr.is_empty());
}

#[test]
fn verbose_tells_on_stderr() {
    let work = pair();
    let out = work.client(&["-v"]).run().expect(0);
    assert!(!out.stderr.is_empty(), "{out}");
}

#[test]
fn paths_need_not_be_utf8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let name = OsStr::from_bytes(b"disk-\xff.img");
    let work = pair();
    std::fs::copy(work.path("remote.img"), work.folder().join(name)).unwrap();
    let server = server_command(&[]);
    let args = [OsStr::new(&server), OsStr::new("local.img"), name];
    let out = bdsync(args).in_folder(work.folder()).run().expect(0);
    assert_eq!(patch_file::parse(&out.stdout).name, name.as_bytes());
    work.apply(&[], &out.stdout).expect(0);
    assert_eq!(std::fs::read(work.folder().join(name)).unwrap(), work.read("local.img"));
}

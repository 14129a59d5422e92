//! What `contrib/install` puts into place, and what the packages do beyond that.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::support::Workdir;
use crate::support::requirements::{program, require};
use crate::support::wait::ended_within;

/// A script that takes the place of a program in what runs `in_repository`.
fn stub(work: &Workdir, name: &str, commands: &str) {
    fs::create_dir_all(work.path("bin")).unwrap();
    let path = work.write(&format!("bin/{name}"), format!("#!/bin/sh\n{commands}\n").as_bytes());
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Commands for sh in the repository, where `$WORK` is the folder `work`. Builds go there, too.
fn in_repository(work: &Workdir, commands: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("sh");
    command.args(["-euc", commands]).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.env("PATH", format!("{}:{path}", work.path("bin").display()));
    command.env("WORK", work.folder()).env("CARGO_TARGET_DIR", work.path("target"));
    // Of binaries that are none.
    command.env("KEEP_SYMBOLS", "1");
    command
}

/// What they print, once they have succeeded.
#[track_caller]
fn printed(mut command: Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn names_that_are_relative_are_those_of_the_caller() {
    let work = Workdir::new();
    work.write("binary", b"the binary");
    let out = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/install"))
        .args(["binary", "root"])
        .current_dir(work.folder())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(work.read("root/usr/bin/bdsync"), b"the binary");
    assert!(fs::exists(work.path("root/usr/lib/systemd/system/bdsync.socket")).unwrap());
}

#[test]
fn what_is_installed_is_for_all_users_whatever_the_umask() {
    let work = Workdir::new();
    work.write("binary", b"the binary");
    let commands =
        "umask 077; contrib/install $WORK/binary $WORK/root; find $WORK/root -printf '%m\\n'";
    for mode in printed(in_repository(&work, commands)).lines() {
        assert!(["755", "644", "777"].contains(&mode), "{mode}");
    }
}

#[test]
fn the_debian_package_is_built_whatever_the_umask() {
    require!(program("dpkg-deb"), program("python3"));
    let work = Workdir::new();
    work.write("binary", b"the binary");
    let commands = "umask 077; dpkg-deb -c \"$(contrib/debian/build $WORK/binary)\"";
    for line in printed(in_repository(&work, commands)).lines() {
        let mode = line.split(' ').next().unwrap();
        assert!(["drwxr-xr-x", "-rwxr-xr-x", "-rw-r--r--", "lrwxrwxrwx"].contains(&mode), "{line}");
    }
}

/// Of a cargo that builds, and cannot fetch crates.
const OFFLINE: &str = "[ $1 = build ]";

#[test]
fn what_is_installed_where_crates_cannot_be_fetched_lacks_their_licences_alone() {
    let work = Workdir::new();
    work.write("binary", b"the binary");
    stub(&work, "cargo", OFFLINE);
    let out = in_repository(&work, "contrib/install $WORK/binary $WORK/root").output().unwrap();
    assert!(out.status.success(), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("are left out"), "{out:?}");
    let doc = work.path("root/usr/share/doc/bdsync");
    assert!(fs::exists(doc.join("examples/sync.conf")).unwrap());
    let names = fs::read_dir(doc).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.starts_with("THIRD-PARTY")), "{names:?}");
}

#[test]
fn what_is_given_away_is_not_built_without_licences() {
    require!(program("dpkg-deb"), program("rpmbuild"));
    for build in ["debian/build $WORK/binary", "rpm/build $WORK/binary", "static/build"] {
        let work = Workdir::new();
        work.write("binary", b"the binary");
        let folder = work.path("target/any/release");
        fs::create_dir_all(&folder).unwrap();
        stub(&work, "cargo", OFFLINE);
        let out = in_repository(&work, &format!("TARGET=any contrib/{build}")).output().unwrap();
        assert!(!out.status.success() && out.stdout.is_empty(), "{build}: {out:?}");
        let words = String::from_utf8_lossy(&out.stderr);
        assert!(words.contains("licences"), "{build}: {words}");
        assert!(!fs::exists(folder.join("THIRD-PARTY-LICENSES")).unwrap(), "{build}");
    }
}

#[test]
fn builds_cope_with_blanks_and_a_relative_target_folder() {
    require!(program("dpkg-deb"), program("rpmbuild"), program("python3"));
    let work = Workdir::new();
    work.write("the binary", b"the binary");
    fs::create_dir_all(work.path("a target/any/release")).unwrap();
    stub(&work, "cargo", &format!("[ $1 = build ] || exec '{}' \"$@\"", env!("CARGO")));
    let commands = "ln -s $PWD \"$WORK/a repository\"
        export CARGO_TARGET_DIR=\"$(realpath --relative-to=. \"$WORK/a target\")\" TARGET=any
        cd $WORK
        './a repository/contrib/debian/build' 'the binary'
        './a repository/contrib/rpm/build' 'the binary'
        './a repository/contrib/static/build'";
    let names = printed(in_repository(&work, commands));
    assert_eq!(names.lines().count(), 3, "{names}");
    for name in names.lines() {
        assert!(Path::new(name).starts_with(work.path("a target")), "{name}");
        assert!(name.ends_with("/any/release/bdsync") || fs::exists(name).unwrap(), "{name}");
    }
}

#[test]
fn what_is_given_away_names_no_folders_of_its_builder_and_keeps_his_flags() {
    let work = Workdir::new();
    stub(&work, "cargo", "echo $*; echo \"$CARGO_ENCODED_RUSTFLAGS\" | tr '\\037' '\\n'");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().unwrap();
    for (given, flags) in [
        ("", ""),
        ("RUSTFLAGS='-C  opt-level=2 --cfg a=\"b\"'", "-C\nopt-level=2\n--cfg\na=\"b\"\n"),
        ("RUSTFLAGS=-g CARGO_ENCODED_RUSTFLAGS='-C a b'", "-C a b\n"),
    ] {
        let commands = format!(
            "export CARGO_HOME='/a home' RUSTFLAGS= CARGO_ENCODED_RUSTFLAGS=
            {given} contrib/release-build --release"
        );
        let expected = format!(
            "build --locked --quiet --release\n{flags}--remap-path-prefix=/a home=/cargo\n\
             --remap-path-prefix={}=/bdsync\n",
            folder.display()
        );
        assert_eq!(printed(in_repository(&work, &commands)), expected);
    }
    for script in ["debian/build", "rpm/bdsync.spec", "static/build"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib");
        let text = fs::read_to_string(root.join(script)).unwrap();
        assert!(text.contains("contrib/release-build --"), "{script}");
        assert!(!text.contains("cargo build"), "{script}");
    }
}

#[test]
fn both_packages_stop_and_disable_every_unit_when_they_are_removed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib");
    let units: Vec<_> = fs::read_dir(root.join("systemd")).unwrap().map(Result::unwrap).collect();
    assert!(units.len() > 3, "{units:?}");
    for package in ["debian/build", "rpm/bdsync.spec"] {
        let script = fs::read_to_string(root.join(package)).unwrap().replace("\\\n", " ");
        let words = |command: &str| {
            let line = script.lines().find(|line| line.trim_start().starts_with(command));
            let line = line.unwrap_or_else(|| panic!("{package} has no {command}"));
            line.split_whitespace().map(|word| word.trim_matches('\'').to_owned()).collect()
        };
        let (stopped, disabled): (Vec<_>, Vec<_>) =
            (words("systemctl stop"), words("systemctl --no-reload disable"));
        for unit in &units {
            let name = unit.file_name().into_string().unwrap();
            let is_stopped = stopped.contains(&name.replace('@', "@*"));
            assert!(is_stopped, "{package} leaves {name} running");
            let can_be_enabled = fs::read_to_string(unit.path()).unwrap().contains("[Install]");
            assert_eq!(disabled.contains(&name), can_be_enabled, "{package}: {name}");
        }
    }
}

#[test]
fn tests_run_also_where_nothing_can_be_installed() {
    let work = Workdir::new();
    stub(&work, "apt-get", "exit 100");
    stub(&work, "cargo", "echo run: $*");
    stub(&work, "id", "echo 0");
    // Nothing else is installed.
    let commands = "for name in dirname nproc env; do
            ln -s $(command -v $name) $WORK/bin
        done
        PATH=$WORK/bin exec contrib/test --lib";
    let words = printed(in_repository(&work, commands));
    assert!(words.ends_with("run: test --locked --lib\n"), "{words}");
}

/// As a terminal and a service manager send them, to all processes.
#[test]
fn scripts_that_a_signal_ends_leave_nothing_behind() {
    for (script, waits_in) in [
        ("demo", "../target/release/bdsync"),
        ("debian/test inside no.deb", "dpkg"),
        ("rpm/build binary", "rpmbuild"),
        ("rpm/test no.rpm", "rpm"),
        ("static/test /dev/null", "chroot"),
    ] {
        for (signal, code) in [(Signal::SIGHUP, 129), (Signal::SIGINT, 130), (Signal::SIGTERM, 143)]
        {
            let work = Workdir::new();
            for folder in ["tmp", "target/release"] {
                fs::create_dir_all(work.path(folder)).unwrap();
            }
            stub(&work, "cargo", "");
            stub(&work, "id", "echo 0");
            // Once: what tidies up may call it again.
            stub(
                &work,
                waits_in,
                "[ ! -e $WORK/pid ] || exit 0; echo $$ >$WORK/pid; exec sleep 1000",
            );
            let commands = format!(
                ">$WORK/binary
                export CARGO_TARGET_DIR=$(realpath --relative-to=. $WORK/target)
                cd $WORK; exec $OLDPWD/contrib/{script}"
            );
            let mut command = in_repository(&work, &commands);
            command.env("TMPDIR", work.path("tmp")).process_group(0).stdout(Stdio::null());
            let mut child = command.stderr(Stdio::null()).spawn().unwrap();
            work.written_pid();
            let group = Pid::from_raw(child.id().try_into().unwrap());
            killpg(group, signal).unwrap();
            let status = ended_within(Duration::from_secs(60), &mut child);
            if status.is_none() {
                let _ = killpg(group, Signal::SIGKILL);
            }
            assert_eq!(status.and_then(|status| status.code()), Some(code), "{script}");
            let left: Vec<_> = fs::read_dir(work.path("tmp")).unwrap().collect();
            assert!(left.is_empty(), "{script}: {signal} left {left:?}");
        }
    }
}

/// nightly waits for bdsync, which must be told as well then, but a mount still needs its remote.
#[test]
fn a_stop_tells_all_processes_of_a_unit_but_for_the_remote_command_of_a_mount() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd");
    for (name, mode) in [
        ("bdsync-mount@.service", Some("KillMode=mixed")),
        ("bdsync-sync@.service", None),
        ("bdsync@.service", None),
    ] {
        let unit = fs::read_to_string(units.join(name)).unwrap();
        assert_eq!(unit.lines().find(|line| line.starts_with("KillMode=")), mode, "{name}");
    }
}

/// systemd ignores settings that stand in no section.
#[test]
fn what_units_say_of_systemctl_edit_begins_with_a_section() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd");
    let mut count = 0;
    for unit in fs::read_dir(units).unwrap() {
        let text = fs::read_to_string(unit.unwrap().path()).unwrap();
        for (_, rest) in text.match_indices("`systemctl edit ").map(|(at, _)| text.split_at(at)) {
            let shown = rest.lines().find(|line| line.starts_with("#   ")).unwrap();
            assert!(shown.starts_with("#   ["), "{shown}");
            count += 1;
        }
    }
    assert_eq!(count, 2);
}

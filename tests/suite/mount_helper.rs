//! Mounting by mount(8), fstab and systemd: the helper script, and sd_notify.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use bdsync::cli::MountSource;

use crate::support::Workdir;
use crate::support::mounted::{Mounted, Stored, is_mounted, take_away};
use crate::support::requirements::{fuse, require};
use crate::support::run::binary;

/// Runs contrib/mount.bdsync as mount(8) does.
fn helper(work: &Workdir, args: &[&str]) -> Output {
    let bin = work.path("bin");
    if !bin.exists() {
        fs::create_dir(&bin).unwrap();
        symlink(binary(), bin.join("bdsync")).unwrap();
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let out = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/mount.bdsync"))
        .args(args)
        .current_dir(work.folder())
        .env("PATH", format!("{}:{path}", bin.display()))
        .output();
    out.expect("sh")
}

/// What it would run.
#[track_caller]
fn shown(args: &[&str]) -> String {
    let work = Workdir::new();
    let out = helper(&work, &[args, &["-f", "-v"]].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn both_forms_of_fstab_lines_are_understood() {
    assert_eq!(
        shown(&["/srv/day.bdsync", "/mnt", "-o", "rw,noauto,nofail,local=/dev/vg/copy"]),
        "bdsync mount --daemon --fsname=/srv/day.bdsync --from=/srv/day.bdsync -- /dev/vg/copy /mnt"
    );
    assert_eq!(
        shown(&["root@prod:/dev/vg/snap", "/mnt", "-o", "remdata,cache_mib=8,local=/dev/l,ro"]),
        "bdsync mount --daemon --fsname=root@prod:/dev/vg/snap --remdata --cache-mib=8 -- ssh \
         root@prod bdsync --server /dev/l /dev/vg/snap /mnt"
    );
    assert_eq!(
        shown(&["h:x", "/m", "-n", "-o", "local=l,rsh=ssh -p 22,remote-path=/opt/b,allow_other"]),
        "bdsync mount --daemon --fsname=h:x --allow-other -- ssh -p 22 h /opt/b --server l x /m"
    );
    assert_eq!(
        shown(&["any:x", "/m", "-o", "local=l,remshcmd=nc -U /run/bdsync.sock"]),
        "bdsync mount --daemon --fsname=any:x -- nc -U /run/bdsync.sock l x /m"
    );
}

#[test]
fn addresses_in_brackets_are_hosts_and_paths_with_a_slash_before_the_colon_are_files() {
    for (source, expected) in [
        ("[::1]:/dev/x", "ssh ::1 bdsync --server l /dev/x /m"),
        ("u@[fe80::1%eth0]:/dev/x:[1]:2", "ssh u@fe80::1%eth0 bdsync --server l /dev/x:[1]:2 /m"),
        ("h:/dev/a,b:c", "ssh h bdsync --server l /dev/a,b:c /m"),
        ("h:/dev/x@[1]:2", "ssh h bdsync --server l /dev/x@[1]:2 /m"),
    ] {
        let found = shown(&[source, "/m", "-o", "local=l"]);
        assert_eq!(found, format!("bdsync mount --daemon --fsname={source} -- {expected}"));
    }
    for file in ["/srv/a:b", "./a:b", "srv/a:b", "/srv/u@[::1]:b", "a", "./a:"] {
        let found = shown(&[file, "/m", "-o", "local=l"]);
        assert_eq!(found, format!("bdsync mount --daemon --fsname={file} --from={file} -- l /m"));
    }
}

#[test]
fn a_path_in_the_home_folder_there_is_where_the_command_starts() {
    let found = shown(&["h:~/a b", "/m", "-o", "local=l"]);
    assert!(found.ends_with(" -- ssh h bdsync --server l a b /m"), "{found}");
    let found = shown(&["h:~user/a", "/m", "-o", "local=l"]);
    assert!(found.ends_with(" l ~user/a /m"), "{found}");
}

#[test]
fn options_of_every_file_system_are_not_passed_on() {
    let all = "local=l,defaults,nosymfollow,symfollow,lazytime,nolazytime,dirsync,silent,loud,\
               strictatime,nostrictatime,mand,nomand,iversion,noiversion,nodev,nosuid,noexec,\
               default_permissions,nonempty,auto_unmount";
    let words = "bdsync mount --daemon --fsname=p --from=p -- l /m";
    assert_eq!(shown(&["p", "/m", "-o", all]), words);
}

#[test]
fn flags_may_stand_in_one_word() {
    let out = helper(&Workdir::new(), &["p", "/m", "-nfv", "-o", "local=l"]);
    assert!(out.status.success() && !out.stdout.is_empty(), "{out:?}");
    for flag in ["-fx", "-", "--", "f"] {
        let out = helper(&Workdir::new(), &["p", "/m", "-o", "local=l", flag]);
        assert!(!out.status.success(), "{flag}: {out:?}");
        let reason = format!("unknown option {flag}\n");
        assert!(String::from_utf8_lossy(&out.stderr).contains(&reason), "{flag}: {out:?}");
    }
}

#[test]
fn a_sloppy_mount_does_without_the_options_that_are_unknown() {
    let options = "local=l,big_writes,max_read=4096,cache_mib=8,scan=lazy,block=512,allow_root";
    assert_eq!(
        shown(&["p", "/m", "-s", "-o", options]),
        "bdsync mount --daemon --fsname=p --cache-mib=8 --scan=lazy --block=512 --allow-root \
         --from=p -- l /m"
    );
    let found = shown(&["p", "/m", "-o", options]);
    assert!(found.contains(" --big-writes --max-read=4096 "), "{found}");
}

#[test]
fn commas_between_double_quotes_are_parts_of_a_value() {
    for (options, expected) in [
        (r#"local="/path, with comma",ro"#, "--from=p -- /path, with comma /m"),
        (r#"diffsize="resize,warn",local=l"#, "--diffsize=resize,warn --from=p -- l /m"),
        (r#"local="a",local="b,ro"#, "a double quote is not closed: local=\"b,ro"),
        (r#"local=a"b,c"d"#, r#"--from=p -- a"b,c"d /m"#),
        (r#"local="l",fsname="#, "--fsname= --from=p -- l /m"),
    ] {
        let out = helper(&Workdir::new(), &["p", "/m", "-fv", "-o", options]);
        let words = [out.stdout, out.stderr].concat();
        let words = String::from_utf8_lossy(&words);
        assert!(words.trim_end().ends_with(expected), "{options}: {words}");
    }
    assert_eq!(
        shown(&["h:x", "/m", "-o", r#"local=l,remshcmd="/opt/a b" -o "C=d,e",remdata"#]),
        r#"bdsync mount --daemon --fsname=h:x --remdata -- "/opt/a b" -o "C=d,e" l x /m"#
    );
    assert_eq!(
        shown(&["h:x", "/m", "-o", r#"local=l,rsh="ssh -o A='b,c'""#]),
        "bdsync mount --daemon --fsname=h:x -- ssh -o A='b,c' h bdsync --server l x /m"
    );
}

#[test]
fn a_missing_local_device_is_told() {
    let out = helper(&Workdir::new(), &["/srv/day.bdsync", "/mnt", "-o", "ro"]);
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("local=DEVICE"), "{out:?}");
}

#[test]
fn a_remote_source_without_a_path_or_with_an_odd_host_is_refused() {
    for (source, reason) in [
        ("-oProxyCommand=x:/dev/a", "begin with a dash"),
        ("root@-oProxyCommand=x:/dev/a", "begin with a dash"),
        (":/dev/a", "needs a host"),
        ("host::/dev/a", "host::module"),
        ("root@:/dev/a", "needs a host"),
        ("@host:/dev/a", "needs a host"),
        ("host:", "needs a path"),
        ("host:~/", "needs a path"),
        ("[::1]:", "needs a path"),
    ] {
        let out = helper(&Workdir::new(), &[source, "/mnt", "-o", "local=/dev/b", "-f"]);
        assert!(!out.status.success(), "{source}: {out:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains(reason), "{source}: {out:?}");
    }
}

#[test]
fn a_stored_and_a_live_mount_are_made() {
    require!(fuse());
    let stored = Stored::new(1, 200_000);
    let at = stored.at();
    let mount = at.to_str().unwrap();
    stored.work.write("newer", &stored.merged);
    stored.work.write("pa,tch", &stored.patch);
    let live = format!("local=newer,remshcmd='{}' --server", binary());
    for args in [["./pa,tch", mount, "-o", "local=base"], ["host:base", mount, "-o", &live]] {
        let out = helper(&stored.work, &args);
        let merged = fs::read(at.join("merged"));
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        take_away(&at);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert!(merged.unwrap() == stored.merged, "{args:?}");
        // As in fstab, so that `mount -a` knows it for mounted.
        let line = table.lines().find(|line| line.split(' ').nth(4) == Some(mount)).unwrap();
        assert!(line.contains(&format!(" - fuse.bdsync {} ", args[0])), "{line}");
    }
    assert!(!is_mounted(&at));
}

/// The call that the unit makes of a config, word by word.
fn unit_call(config: &str) -> Vec<String> {
    // The shell reads these lines as systemd does.
    let script = format!("{config}\neval \"set -- $OPTIONS $SOURCE\"");
    let script = format!("{script}\nprintf '%s\\n' bdsync mount \"$@\" \"$MOUNTPOINT\"");
    let out = Command::new("sh").args(["-euc", &script]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn both_sources_of_the_example_config_are_understood() {
    let live = include_str!("../../contrib/examples/mount.conf");
    let stored = live.replace("\n#SOURCE=", "\nSOURCE=").replace("\n#OPTIONS=", "\nOPTIONS=");
    assert_ne!(live, stored);
    for (config, is_live) in [(live, true), (&stored, false)] {
        let words = unit_call(config);
        let parsed = bdsync::cli::parse(words.iter().map(Into::into));
        let Ok(bdsync::cli::Command::Mount(options)) = parsed else {
            panic!("{words:?}: {parsed:?}")
        };
        let remote_command = match options.source {
            MountSource::Live { session, .. } => Some(session.remote_command),
            MountSource::Stored { .. } => None,
        };
        assert_eq!(remote_command.is_some(), is_live, "{words:?}");
        // Else readers wait for hours on a link that is dead.
        let is_watched = |command: &OsString| {
            command.to_str().unwrap().starts_with("ssh -o BatchMode=yes -o ServerAliveInterval=30 ")
        };
        assert!(remote_command.as_ref().is_none_or(is_watched), "{remote_command:?}");
        assert_eq!(options.mountpoint, std::path::Path::new("/mnt/preview"));
    }
}

#[test]
fn the_service_manager_is_told_when_the_mount_is_readable() {
    require!(fuse());
    let stored = Stored::new(2, 100_000);
    let path = stored.work.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut command = Command::new(binary());
    command.arg("mount").args(stored.source()).arg(stored.at()).env("NOTIFY_SOCKET", &path);
    let mounted = Mounted::run(command, &stored.at());
    let mut bytes = [0; 1024];
    let len = manager.recv(&mut bytes).expect("told");
    let text = String::from_utf8_lossy(&bytes[..len]);
    assert!(text.starts_with("READY=1\nSTATUS="), "{text}");
    assert!(fs::read(mounted.path("merged")).unwrap() == stored.merged);
}

/// A condition that is not met is no failure: what nobody notices does nothing, night after night.
#[test]
fn no_unit_is_a_success_without_its_configuration() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd");
    for unit in fs::read_dir(units).unwrap() {
        let path = unit.unwrap().path();
        assert!(!fs::read_to_string(&path).unwrap().contains("Condition"), "{}", path.display());
    }
}

#[test]
fn a_host_in_fstab_that_would_be_more_than_one_word_is_refused() {
    let source = |host: &str| {
        Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/mount.bdsync"))
            .arg(format!("{host}:/dev/snap"))
            .args(["/mnt", "-o", "local=/dev/base", "-f", "-v"])
            .output()
            .unwrap()
    };
    for host in [
        "[h -oProxyCommand=id]",
        "h -oProxyCommand=id",
        "u -p22@h",
        "[h\t-v]",
        "h\n-v",
        "'h'",
        "\"h -v\"",
        "u'@h",
        "h\u{1b}[2J",
    ] {
        let out = source(host);
        let words = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{host:?}: {words}");
        assert!(words.contains("must not have blanks, quotes or control"), "{host:?}: {words}");
        assert!(out.stdout.is_empty() && !words.trim_end().contains(char::is_control), "{words:?}");
    }
    for (host, dash) in [("-oProxyCommand=id", "-o"), ("[-v]", "-v"), ("u@[-v]", "u@-v")] {
        let words = String::from_utf8(source(host).stderr).unwrap();
        assert!(words.contains("begin with a dash") && words.contains(dash), "{words}");
    }
    let out = source("u_1@[fe80::1%eth0]");
    assert!(out.status.success(), "{out:?}");
}

//! contrib/nightly: a sync with undo patches that are kept for some days, its lock, its `before` and
//! `after`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::images::random_bytes;
use crate::support::mounted::SmallDisk;
use crate::support::requirements::{require, root, skip};
use crate::support::run::binary;
use crate::support::wait::wait_until;
use crate::support::{Workdir, bdsync};

/// What lies in a folder of undo patches, but for what nightly keeps there.
pub fn kept_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).filter(|name| !name.starts_with('.')).collect()
}

/// The bits of a file or folder that say who may open it.
fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Makes a file look as if made 8 days ago.
fn expire(path: &Path) {
    file_of(path).set_modified(SystemTime::now() - Duration::from_hours(8 * 24)).unwrap();
}

fn file_of(path: &Path) -> fs::File {
    fs::File::options().write(true).open(path).unwrap()
}

/// Makes a folder that no other user can look into.
fn own_folder(path: &Path) {
    fs::create_dir(path).unwrap();
    set_mode(path, 0o700);
}

/// A night between two files, as a config says that begins with `SRC=new` and `DST=copy`.
struct Night {
    work: Workdir,
}

impl Night {
    fn new(config: &str) -> Self {
        let work = Workdir::new();
        fs::create_dir(work.path("bin")).unwrap();
        symlink(binary(), work.path("bin/bdsync")).unwrap();
        work.write("new", &random_bytes(1, 100_000));
        work.write("copy", &random_bytes(2, 100_000));
        work.write("night.conf", format!("SRC=new\nDST=copy\n{config}").as_bytes());
        Self { work }
    }

    fn command(&self) -> Command {
        self.command_of("night.conf")
    }

    fn command_of(&self, config: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/nightly"));
        command
            .arg(config)
            .current_dir(self.work.folder())
            .env("XDG_RUNTIME_DIR", self.work.folder())
            .env("PATH", format!("{}:{path}", self.work.path("bin").display()));
        command
    }

    /// Where the lock of a config without `UNDO_DIR` lies: below this folder.
    fn locks(&self) -> PathBuf {
        let runtime = if root().is_ok() { Path::new("/run") } else { self.work.folder() };
        let folder = fs::canonicalize(self.work.folder()).unwrap();
        runtime.join("bdsync-nightly").join(folder.strip_prefix("/").unwrap())
    }

    #[track_caller]
    fn run(&self, code: i32) -> String {
        let out = self.command().output().unwrap();
        let words = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{words}");
        words
    }

    fn is_done(&self) -> bool {
        self.work.read("copy") == self.work.read("new")
    }

    /// Runs `second` while a night is in its `before`; returns what it ended with and said.
    fn second_run(&self, second: &mut Command) -> (Option<i32>, String) {
        let mut first = self.command().stderr(Stdio::null()).spawn().unwrap();
        wait_until("it has begun", || self.work.path("snapshot").exists());
        let second = second.output().unwrap();
        let is_kept = self.work.path("snapshot").exists();
        self.work.write("go", b"");
        let first = first.wait().unwrap();
        assert!(is_kept, "the second run took the snapshot away");
        assert!(first.success() && self.is_done());
        assert!(!self.work.path("snapshot").exists(), "the first run did not");
        (second.status.code(), String::from_utf8_lossy(&second.stderr).into_owned())
    }
}

impl Drop for Night {
    /// Root's locks lie outside of the test's folder.
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.locks());
    }
}

/// Waits in `before` for the file `go`.
const WAITING: &str = "
before() {
    mkdir snapshot
    while [ ! -e go ]; do sleep 0.02; done
}
after() { rmdir snapshot; }
";

#[test]
fn days_that_are_no_number_end_the_night_before_it_begins() {
    for days in ["7d", "-1", "", "08", "1.5", "99999999999999999999"] {
        let night = Night::new(&format!("UNDO_DIR=undo\nUNDO_DAYS={days}\n"));
        let words = night.run(1);
        assert!(words.contains("UNDO_DAYS") && words.contains(&format!("'{days}'")), "{words}");
        assert!(!night.is_done() && !night.work.path("undo").exists());
    }
    let night = Night::new("UNDO_DIR=undo\nUNDO_DAYS=99999\n");
    night.run(0);
    assert!(night.is_done());
    assert_eq!(kept_in(&night.work.path("undo")).len(), 1);
}

/// As in the night in which an hour comes twice.
#[test]
fn undo_patches_are_in_the_order_of_the_nights_whatever_the_clock_says() {
    let night = Night::new("UNDO_DIR=undo\n");
    let undo = night.work.path("undo");
    let mut states = vec![];
    for (day, clock) in ["T025000", "T021000", "T021000", "T030000"].into_iter().enumerate() {
        let clock = format!("#!/bin/sh\necho 2025-10-26{clock}\n");
        set_mode(&night.work.write("bin/date", clock.as_bytes()), 0o755);
        states.push(night.work.read("copy"));
        night.work.write("new", &random_bytes(10 + day as u64, 100_000));
        night.run(0);
    }
    // Eight and nine, nine and ten: no number of another base.
    let rename = |from: &str, to: &str| fs::rename(undo.join(from), undo.join(to)).unwrap();
    rename("000004.2025-10-26T030000.undo", "000009.2025-10-26T030000.undo");
    states.push(night.work.read("copy"));
    night.work.write("new", &random_bytes(20, 100_000));
    night.run(0);
    let mut kept = kept_in(&undo);
    kept.sort();
    assert_eq!(kept.len(), states.len());
    assert!(kept[4].starts_with("000010."), "{kept:?}");
    for (name, before) in kept.iter().zip(&states).rev() {
        let patch = night.work.read(&format!("undo/{name}"));
        let back = bdsync(["--patch=copy"]).in_folder(night.work.folder()).stdin(&patch);
        back.run().expect(0);
        assert!(night.work.read("copy") == *before, "{name}");
    }
}

/// In the order of their names they go back night by night, and of one copy only.
#[test]
fn undo_patches_are_of_one_copy_and_without_a_gap() {
    let night = Night::new("UNDO_DIR=undo\n");
    night.run(0);
    night.work.write("new", &random_bytes(3, 100_000));
    night.work.write("night.conf", b"SRC=new\nDST=copy\nUNDO_DIR=undo\nUNDO_DAYS=0\n");
    let words = night.run(1);
    assert!(words.contains("lead back no more after a night without one"), "{words}");
    night.work.write("other", &night.work.read("copy"));
    night.work.write("night.conf", b"SRC=new\nDST=other\nUNDO_DIR=undo\n");
    assert!(night.run(1).contains("undo are of copy, not of other: name another folder"));
    assert!(!night.is_done() && night.work.read("other") == night.work.read("copy"));
    // Of a night that was cut short as it said so.
    night.work.write("undo/.of", b"");
    night.work.write("night.conf", b"SRC=new\nDST=copy\nUNDO_DIR=undo\n");
    night.run(0);
    assert_eq!(night.work.read("undo/.of"), b"copy\n");
    night.work.write("copy", &night.work.read("other"));
    night.work.write("night.conf", b"SRC=new\nDST=other\nUNDO_DIR=undo\n");

    for undo in kept_in(&night.work.path("undo")) {
        fs::remove_file(night.work.path("undo").join(undo)).unwrap();
    }
    night.run(0);
    assert!(night.work.read("other") == night.work.read("new"));
}

#[test]
fn the_order_of_undo_patches_does_not_hang_on_the_name_of_their_folder() {
    let night = Night::new("UNDO_DIR=$(printf 'stra\\337e.000007')\n");
    let nights: Vec<_> =
        (0..3).map(|_| night.command().env("LC_ALL", "C.UTF-8").output()).collect();
    assert!(nights.iter().all(|night| night.as_ref().unwrap().status.success()));
    let undo = night.work.folder().join(OsStr::from_bytes(b"stra\xdfe.000007"));
    let mut kept = kept_in(&undo);
    kept.sort();
    let numbers: Vec<_> = kept.iter().map(|name| &name[..7]).collect();
    assert_eq!(numbers, ["000001.", "000002.", "000003."]);
}

#[test]
fn a_folder_of_others_is_not_closed_to_them() {
    let night = Night::new("UNDO_DIR=undo\n");
    let undo = night.work.path("undo");
    fs::create_dir(&undo).unwrap();
    set_mode(&undo, 0o755);
    fs::write(undo.join("index.html"), "").unwrap();
    assert!(night.run(1).contains("undo is not empty, and other users can look into it"));
    assert!(mode(&undo) == 0o755 && !night.is_done());
    set_mode(&undo, 0o700);
    night.run(0);
}

/// As of a night that came before the clock was set at boot, or after it was far ahead.
#[test]
fn nights_with_a_wrong_clock_leave_no_gap_among_the_undo_patches() {
    let night = Night::new("UNDO_DIR=undo\n");
    own_folder(&night.work.path("undo"));
    let made = |number: u32| night.work.write(&format!("undo/00000{number}.a.undo"), b"");
    let [oldest, ahead, next, behind] = [1, 2, 3, 4].map(made);
    expire(&oldest);
    expire(&behind);
    let to_come = SystemTime::now() + Duration::from_hours(9000);
    file_of(&ahead).set_modified(to_come).unwrap();
    night.run(0);
    assert!(!oldest.exists() && ahead.exists() && next.exists() && behind.exists());
    // It is older than the next one.
    expire(&next);
    night.run(0);
    assert!(!ahead.exists() && !next.exists() && !behind.exists());
}

/// Its times come true again.
#[test]
fn a_night_with_a_clock_that_is_behind_leaves_the_times_of_all_undo_patches() {
    let night = Night::new("UNDO_DIR=undo\n");
    own_folder(&night.work.path("undo"));
    let to_come = SystemTime::now() + Duration::from_hours(9000);
    let made = [1, 2].map(|number| night.work.write(&format!("undo/00000{number}.a.undo"), b""));
    for undo in &made {
        file_of(undo).set_modified(to_come).unwrap();
    }
    night.run(0);
    let times = made.map(|undo| fs::metadata(undo).unwrap().modified().unwrap());
    assert_eq!(times, [to_come; 2]);
}

/// Nothing is written to the copy then, and no undo patch made: older ones are in nobody's way.
#[test]
fn a_night_that_fails_before_it_makes_its_undo_patch_leaves_all_the_ways_back() {
    let night = Night::new("UNDO_DIR=undo\nOPTIONS=--report=/nonexistent/report\n");
    own_folder(&night.work.path("undo"));
    let old = night.work.write("undo/000001.long.ago.undo", b"");
    expire(&old);
    let words = night.run(9);
    assert!(!words.contains("once more"), "{words}");
    assert!(old.exists() && !night.is_done());
}

#[test]
fn what_cannot_be_read_night_after_night_lets_no_undo_patches_pile_up() {
    let night = Night::new("UNDO_DIR=undo\n");
    let program = night.work.path("bin/bdsync");
    fs::remove_file(&program).unwrap();
    let leaves_out = format!("#!/bin/sh\n{} \"$@\" && exit ${{code-15}}\n", binary());
    set_mode(&night.work.write("bin/bdsync", leaves_out.as_bytes()), 0o755);
    own_folder(&night.work.path("undo"));
    let old = night.work.write("undo/000001.long.ago.undo", b"");
    expire(&old);
    // Any other failure leaves all the ways back.
    let failed = night.command().env("code", "5").status().unwrap();
    assert_eq!((failed.code(), old.exists()), (Some(5), true));
    night.work.write("new", b"of another size");
    night.run(3);
    assert!(old.exists());
    night.work.write("new", &night.work.read("copy"));
    night.run(15);
    assert!(!old.exists());
}

#[test]
fn expired_undo_patches_make_room_for_the_nights_own_and_others_do_not() {
    require!(root());
    let Some(small) = SmallDisk::new("256k") else {
        skip("to mount a tmpfs");
        return;
    };
    let undo = small.path("undo");
    let config = "before() { echo before >>calls; }\nafter() { echo after >>calls; }\n";
    let night = Night::new(&format!("UNDO_DIR={}\n{config}", undo.display()));
    own_folder(&undo);
    let [old, recent] = ["000001.old.undo", "000002.recent.undo"].map(|name| undo.join(name));
    fs::write(&old, vec![1; 200_000]).unwrap();
    fs::write(&recent, "").unwrap();

    let words = night.run(16);
    assert!(words.contains("No space left") && !words.contains("once more"), "{words}");
    assert!(old.exists() && !night.is_done());
    assert_eq!(kept_in(&undo).len(), 2);

    expire(&old);
    fs::remove_file(night.work.path("calls")).unwrap();
    let words = night.run(0);
    assert!(words.contains("once more, without what was expired:"), "{words}");
    assert!(words.contains(old.to_str().unwrap()), "{words}");
    assert!(night.is_done() && !old.exists() && recent.exists());
    assert_eq!(kept_in(&undo).len(), 2);
    assert_eq!(night.work.read("calls"), b"before\nafter\n");

    // Once only: there is not room enough without what is expired either.
    fs::write(&old, "").unwrap();
    expire(&old);
    for (name, seed) in [("new", 3), ("copy", 4)] {
        night.work.write(name, &random_bytes(seed, 300_000));
    }
    let words = night.run(16);
    assert_eq!(words.matches("once more").count(), 1, "{words}");
    assert!(!night.is_done() && !old.exists() && recent.exists());
}

#[test]
fn a_night_that_could_not_write_to_the_copy_itself_leaves_all_the_ways_back() {
    let night = Night::new("UNDO_DIR=undo\n");
    fs::remove_file(night.work.path("bin/bdsync")).unwrap();
    let fails =
        "#!/bin/sh\nfor word; do case $word in --undo=*) : >\"${word#*=}\" ;; esac; done\nexit 9\n";
    set_mode(&night.work.write("bin/bdsync", fails.as_bytes()), 0o755);
    own_folder(&night.work.path("undo"));
    let old = night.work.write("undo/000001.old.undo", b"");
    expire(&old);
    let words = night.run(9);
    assert!(old.exists() && words.is_empty(), "{words}");
    assert_eq!(kept_in(&night.work.path("undo")).len(), 2);
}

#[test]
fn undo_patches_of_another_host_are_refused_whatever_its_paths_hold() {
    for copy in ["h:/srv/copy", "u@h:/dev/disk/by-path/pci-0000:00:1f.2", "[::1]:/srv/copy"] {
        let night = Night::new(&format!("DST={copy}\nUNDO_DIR=undo\n"));
        let words = night.run(1);
        assert!(words.contains("is remote: set UNDO_DAYS=0") && words.contains(copy), "{words}");
        assert!(!night.work.path("undo").exists());
    }
    for missing in ["SRC=", "DST="] {
        assert!(Night::new(missing).run(1).contains("not both set in night.conf"));
    }
    let night = Night::new("DST=./a:b\nUNDO_DIR=undo\n");
    night.work.write("a:b", &night.work.read("copy"));
    night.run(0);
    assert!(night.work.read("a:b") == night.work.read("new"));
}

#[test]
fn what_before_made_is_taken_away_whatever_signal_ends_the_night() {
    for (signal, code) in [(Signal::SIGHUP, 129), (Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let night =
            Night::new("before() { mkdir snapshot; sleep 1; }\nafter() { rmdir snapshot; }\n");
        let mut run = night.command().spawn().unwrap();
        wait_until("it has begun", || night.work.path("snapshot").exists());
        kill(Pid::from_raw(run.id().try_into().unwrap()), signal).unwrap();
        assert_eq!(run.wait().unwrap().code(), Some(code));
        assert!(!night.work.path("snapshot").exists());
        assert!(!night.is_done());
    }
}

/// As where a service that is stopped is told of it once more, or somebody is impatient.
#[test]
fn what_before_made_is_taken_away_whatever_comes_meanwhile() {
    let config = "before() { mkdir snapshot; sleep 1; }
after() { : >ending; while [ ! -e go ]; do sleep 0.02; done; rmdir snapshot; }
";
    let night = Night::new(config);
    let mut run = night.command().spawn().unwrap();
    for begun in ["snapshot", "ending"] {
        wait_until("it has begun", || night.work.path(begun).exists());
        kill(Pid::from_raw(run.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    }
    night.work.write("go", b"");
    assert_eq!(run.wait().unwrap().code(), Some(143));
    assert!(!night.work.path("snapshot").exists());
}

#[test]
fn a_config_that_fails_is_told_of() {
    for line in ["[ -e /nonexistent ] && OPTIONS=--sparse\n", "false\nOPTIONS=\n", "exit 1\n"] {
        let night = Night::new(line);
        assert!(night.run(1).contains("a command in night.conf failed"), "{line}");
        assert!(!night.is_done());
    }
}

#[test]
fn a_second_run_leaves_the_first_ones_snapshot_alone() {
    for undo in ["", "UNDO_DIR=undo", "UNDO_DIR=undo\nUNDO_DAYS=0"] {
        let night = Night::new(&format!("{undo}{WAITING}"));
        let (code, words) = night.second_run(&mut night.command());
        assert_eq!(code, Some(75), "{words}");
        assert!(words.contains("another run of night.conf is under way"), "{words}");
    }
}

#[test]
fn a_second_run_is_refused_whatever_name_or_file_its_config_has() {
    for undo in ["", "UNDO_DIR=undo"] {
        // An editor puts a new file in the place of the old one.
        let night = Night::new(&format!("{undo}{WAITING}"));
        let edit = "cp night.conf night.new; mv night.new night.conf; exec \"$0\" ./night.conf";
        let second = night.command();
        let mut edited = Command::new("sh");
        edited.args(["-euc", edit]).arg(second.get_program()).current_dir(night.work.folder());
        edited.envs(second.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let (code, words) = night.second_run(&mut edited);
        assert_eq!(code, Some(75), "{words}");

        let night = Night::new(&format!("{undo}{WAITING}"));
        symlink("night.conf", night.work.path("link.conf")).unwrap();
        let (code, words) = night.second_run(&mut night.command_of("link.conf"));
        assert_eq!(code, Some(75), "{words}");
    }
}

#[test]
fn two_configs_exclude_each_other_by_their_undo_folder_only() {
    let night = Night::new(&format!("UNDO_DIR=undo{WAITING}"));
    night.work.write("other", &night.work.read("copy"));
    night.work.write("other.conf", b"SRC=new\nDST=other\nUNDO_DIR=$PWD/link\n");
    symlink("undo", night.work.path("link")).unwrap();
    let (code, words) = night.second_run(&mut night.command_of("other.conf"));
    assert_eq!(code, Some(75), "{words}");
    assert!(words.contains("or of a file with the same UNDO_DIR"), "{words}");

    for undo in ["", "UNDO_DIR=undo"] {
        let night = Night::new(&format!("{undo}{WAITING}"));
        night.work.write("other", &night.work.read("copy"));
        night.work.write("other.conf", b"SRC=new\nDST=other\n");
        let (code, words) = night.second_run(&mut night.command_of("other.conf"));
        assert_eq!(code, Some(0), "{words}");
    }
}

#[test]
fn who_may_read_a_config_cannot_hold_its_night_up() {
    for undo in ["", "UNDO_DIR=undo\n"] {
        let night = Night::new(undo);
        let config = fs::File::open(night.work.path("night.conf")).unwrap();
        config.try_lock().unwrap();
        night.run(0);
        assert!(night.is_done());

        let own = night.locks().join("night.conf");
        let folder = if undo.is_empty() { own } else { night.work.path("undo") };
        assert_eq!((mode(&folder), mode(&folder.join(".lock"))), (0o700, 0o600));
    }
}

/// A night that fails for what `plant` did to its undo folder, and what it said.
#[track_caller]
fn refused_night(plant: &dyn Fn(&Path)) -> (Night, String) {
    let night = Night::new("UNDO_DIR=undo\n");
    let folder = night.work.path("undo");
    own_folder(&folder);
    plant(&folder);
    let words = night.run(1);
    assert!(!night.is_done() && kept_in(&folder).is_empty());
    (night, words)
}

#[test]
fn a_lock_that_others_may_have_planted_is_refused() {
    let what = "undo/.lock must be a file that only the user";
    let (night, words) =
        refused_night(&|folder| symlink("../elsewhere", folder.join(".lock")).unwrap());
    assert!(words.contains(what), "{words}");
    assert!(!night.work.path("elsewhere").exists());
    let (_, words) = refused_night(&|folder| {
        fs::write(folder.join(".lock"), "").unwrap();
        set_mode(&folder.join(".lock"), 0o644);
    });
    assert!(words.contains(what), "{words}");

    // Not closed either: it may be /tmp.
    let what = "undo must belong to the user";
    let (night, words) = refused_night(&|folder| set_mode(folder, 0o1777));
    assert!(words.contains(what), "{words}");
    assert_eq!(mode(&night.work.path("undo")), 0o1777);
    assert!(!night.work.path("undo/.lock").exists());
    require!(root());
    let (_, words) = refused_night(&|folder| chown(folder, Some(65534), None).unwrap());
    assert!(words.contains(what), "{words}");
}

#[test]
fn old_undo_patches_go_whatever_path_leads_to_them() {
    let folder = |night: &Night| night.work.path("undo");
    for undo in ["undo", "link", "-link", "undo/"] {
        // A relative folder is that of the beginning.
        let config = format!("SRC=$PWD/new\nDST=$PWD/copy\nUNDO_DIR={undo}\n");
        let night = Night::new(&format!("{config}before() {{ cd below; }}\n"));
        for made in [folder(&night), night.work.path("below")] {
            own_folder(&made);
        }
        for link in ["link", "-link"] {
            symlink("undo", night.work.path(link)).unwrap();
        }
        for name in ["000001.old.undo", "000002.killed.undo.partial-1", "kept.txt", ".lock"] {
            let file = folder(&night).join(name);
            fs::write(&file, "").unwrap();
            set_mode(&file, 0o600);
            expire(&file);
        }
        night.run(0);
        assert!(night.is_done());
        let left = kept_in(&folder(&night));
        assert!(left.len() == 2 && left.contains(&"kept.txt".to_owned()), "{undo}: {left:?}");
        assert!(folder(&night).join(".lock").exists());
    }
}

#[test]
fn what_before_leaves_running_does_not_keep_the_next_night_from_beginning() {
    let night = Night::new("before() { sh -c '[ ! -e /proc/self/fd/9 ]'; }\n");
    night.run(0);
    night.run(0);
}

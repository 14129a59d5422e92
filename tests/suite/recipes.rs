//! The README's recipes, word for word but for the folders: over a real ssh, on loop devices that
//! stand in for the volumes of LVM and ZFS, whose own commands are played by small scripts.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use crate::nightly::kept_in;
use crate::support::Workdir;
use crate::support::images::random_bytes;
use crate::support::mounted::take_away;
use crate::support::requirements::{find_program, fuse, loop_devices, program, require, sshd};
use crate::support::run::binary;
use crate::support::sshd::Sshd;

const README: &str = include_str!("../../README.md");
/// Size of the volumes, in KiB.
const VOLUME_KIB: usize = 16 * 1024;
/// What the recipes say, and where it lies below the test's folder.
const MOVED: [&str; 6] =
    ["/dev/vg/", "/dev/zvol/", "/mnt/", "/srv/", "/etc/bdsync/", "/var/lib/bdsync/"];

/// Plays `lvcreate --snapshot ... ORIGIN`; `@` is the test's folder.
const LVCREATE: &str = r#"#!/bin/sh -eu
while [ $# -gt 1 ]; do
    case $1 in --name) name=$2; shift ;; --size) shift ;; --snapshot) ;; *) exit 9 ;; esac
    shift
done
dd if="$1" of="@/$name.img" bs=1M conv=sparse status=none
ln -s "$(losetup --find --show "@/$name.img")" "@/dev/vg/$name"
"#;
const LVREMOVE: &str = r#"#!/bin/sh -eu
[ "$1" = --yes ]
losetup --detach "$(readlink -f "$2")"
rm "$2"
"#;
/// Plays `zfs set snapdev=visible`, `zfs snapshot` and `zfs destroy`.
const ZFS: &str = r#"#!/bin/sh -eu
case $1 in
    set) [ "$2 $3" = "snapdev=visible tank/disk" ] ;;
    snapshot)
        dd if="@/dev/zvol/${2%@*}" of="@/zsnap.img" bs=1M conv=sparse status=none
        ln -s "$(losetup --find --show "@/zsnap.img")" "@/dev/zvol/$2" ;;
    destroy)
        losetup --detach "$(readlink -f "@/dev/zvol/$2")"
        rm "@/dev/zvol/$2" ;;
    *) exit 9 ;;
esac
"#;

/// The code block behind the mark of that name.
fn block(name: &str) -> &'static str {
    let mark = format!("<!-- recipe: {name} -->\n```sh\n");
    let (_, rest) = README.split_once(&mark).unwrap_or_else(|| panic!("no recipe {name}"));
    rest.split_once("\n```").expect("the end of the block").0
}

/// Two hosts, which are both this one: `disk` holds a newer file system than `copy`.
struct World {
    work: Workdir,
    newer: Vec<u8>,
    older: Vec<u8>,
    _host: Sshd,
}

impl World {
    fn new() -> Self {
        let work = Workdir::new();
        let host = Sshd::start();
        for folder in MOVED.map(|path| &path[1..]).into_iter().chain(["bin", "dev/zvol/tank"]) {
            fs::create_dir_all(work.path(folder)).unwrap();
        }
        for name in ["preview", "look", "later"] {
            fs::create_dir(work.path("mnt").join(name)).unwrap();
        }
        let folder = work.folder().to_str().unwrap().to_owned();
        let script = |name: &str, text: &str| {
            let path = work.write(&format!("bin/{name}"), text.replace('@', &folder).as_bytes());
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        script("lvcreate", LVCREATE);
        script("lvremove", LVREMOVE);
        let zfs = ZFS.replace("@/", &format!("{folder}/"));
        fs::write(work.path("bin/zfs"), zfs).unwrap();
        fs::set_permissions(work.path("bin/zfs"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink(binary(), work.path("bin/bdsync")).unwrap();
        let (real, rest) = (find_program("ssh").unwrap(), host.ssh_command());
        let ssh = format!(
            "#!/bin/sh\nshift\nexec {}{} \"PATH={folder}/bin:\\$PATH; $*\"\n",
            real.display(),
            rest.strip_prefix("ssh").unwrap(),
        );
        fs::write(work.path("bin/ssh"), ssh).unwrap();
        fs::set_permissions(work.path("bin/ssh"), fs::Permissions::from_mode(0o755)).unwrap();

        let (newer, older) = file_systems(&work);
        let world = Self { work, newer, older, _host: host };
        world.attach("disk", &world.newer);
        world.attach("copy", &world.older);
        world
    }

    /// A volume of LVM with this content.
    fn attach(&self, name: &str, bytes: &[u8]) {
        let image = self.work.write(&format!("{name}.img"), bytes);
        let losetup = find_program("losetup").unwrap();
        let out = Command::new(losetup).args(["--find", "--show"]).arg(image).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let device = String::from_utf8(out.stdout).unwrap();
        symlink(device.trim(), self.volume(name)).unwrap();
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.work.path("dev/vg").join(name)
    }

    fn content(&self, name: &str) -> Vec<u8> {
        fs::read(self.volume(name)).unwrap()
    }

    /// Runs a recipe; returns what it printed.
    #[track_caller]
    fn run(&self, name: &str) -> String {
        self.run_script(block(name))
    }

    #[track_caller]
    fn run_script(&self, script: &str) -> String {
        let folder = self.work.folder().to_str().unwrap();
        let mut script = script.to_owned();
        for path in MOVED {
            script = script.replace(path, &format!("{folder}{path}"));
        }
        let nightly = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/nightly");
        let script = script.replace("/usr/lib/bdsync/nightly", nightly);
        let path = std::env::var("PATH").unwrap_or_default();
        let out = Command::new("sh")
            .args(["-euc", &script])
            .current_dir(self.work.folder())
            .env("PATH", format!("{folder}/bin:{path}:/usr/sbin:/sbin"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let words = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{script}\n{:?}\n{text}{words}", out.status);
        text
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in ["look", "preview", "later"] {
            take_away(&self.work.path("mnt").join(name));
        }
        for folder in ["dev/vg", "dev/zvol/tank"] {
            for entry in fs::read_dir(self.work.path(folder)).into_iter().flatten().flatten() {
                let losetup = find_program("losetup").unwrap_or_else(|| "losetup".into());
                let device = fs::canonicalize(entry.path()).unwrap_or_default();
                let _ = Command::new(losetup).arg("--detach").arg(device).output();
            }
        }
    }
}

/// Two states of one file system.
fn file_systems(work: &Workdir) -> (Vec<u8>, Vec<u8>) {
    let make = |name: &str, files: u64| {
        let folder = work.path(name);
        fs::create_dir(&folder).unwrap();
        for number in 0..files {
            fs::write(folder.join(format!("file-{number}")), random_bytes(number, 200_000))
                .unwrap();
        }
        let image = work.path(&format!("{name}.fs"));
        let out = Command::new(find_program("mkfs.ext4").unwrap())
            .args(["-q", "-F", "-U", "01234567-89ab-cdef-0123-456789abcdef", "-d"])
            .args([&folder, &image])
            .arg(format!("{VOLUME_KIB}k"))
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        fs::read(image).unwrap()
    };
    (make("newer", 12), make("older", 10))
}

macro_rules! require_hosts {
    () => {
        require!(sshd(), loop_devices(), program("mkfs.ext4"));
        eprintln!("loop devices and scripts stand in for LVM and ZFS");
    };
}

#[test]
fn every_recipe_has_a_test() {
    let source = include_str!("recipes.rs");
    for rest in README.split("<!-- recipe: ").skip(1) {
        let name = rest.split(" -->").next().unwrap();
        assert!(source.contains(&format!("run(\"{name}\")")), "{name}");
    }
}

#[test]
fn lvm_snapshot_goes_to_a_remote_volume() {
    require_hosts!();
    let world = World::new();
    world.run("lvm");
    assert!(world.content("copy") == world.newer);
    assert!(!world.volume("snap").exists());
}

#[test]
fn zvol_snapshot_goes_to_a_remote_volume() {
    require_hosts!();
    let world = World::new();
    symlink(fs::canonicalize(world.volume("disk")).unwrap(), world.work.path("dev/zvol/tank/disk"))
        .unwrap();
    world.run("zfs");
    assert!(world.content("copy") == world.newer);
}

#[test]
fn qcow2_images_are_compared_as_raw_ones() {
    require_hosts!();
    require!(program("qemu-img"));
    let world = World::new();
    world.run_script("qemu-img convert -O qcow2 newer.fs disk.qcow2");
    world.run("qcow2");
    assert!(world.work.read("srv/disk.raw") == world.newer);
    world.run_script("qemu-img compare -f qcow2 -F raw /srv/disk.qcow2 newer.fs");
}

#[test]
fn first_copies_are_whole_and_have_holes() {
    use std::os::unix::fs::MetadataExt;

    require_hosts!();
    let world = World::new();
    world.attach("snap", &world.newer);
    world.run("first copy");
    world.run("first copy, carried");
    for name in ["srv/disk.img", "srv/carried.img"] {
        assert!(world.work.read(name) == world.newer, "{name}");
        let about = fs::metadata(world.work.path(name)).unwrap();
        assert!(about.blocks() * 512 < about.len() / 2, "{name} has {} blocks", about.blocks());
    }
}

#[test]
fn nights_can_be_taken_back() {
    require_hosts!();
    let world = World::new();
    world.run("nightly");
    assert!(world.content("copy") == world.newer);
    assert!(!world.volume("snap").exists(), "the snapshot is removed");
    let undo = world.work.path("var/lib/bdsync/disk");
    assert_eq!(kept_in(&undo).len(), 1);

    // An undo patch of last week goes with the next night.
    let old = undo.join("000000.2000-01-01T000000.undo");
    fs::write(&old, "").unwrap();
    world.run_script("touch -d '8 days ago' /var/lib/bdsync/disk/000000.*.undo");
    world.run("nightly");
    assert!(!old.exists());
    assert_eq!(kept_in(&undo).len(), 2);

    // The second night changed nothing, so the first is the last that counts. Applied once more
    // behind other nights, it would go back to nothing that ever was.
    world.run("undo");
    assert!(world.content("copy") == world.newer);
    assert_eq!(kept_in(&undo).len(), 1);

    // Three nights back, of which the newest fails: nothing older is applied then.
    let damaged = undo.join("000009.damaged.undo");
    fs::write(&damaged, "no patch").unwrap();
    let three = block("undo").replace("head -n 1", "head -n 3");
    world.run_script(&format!("status=0\n{three} || status=$?\n[ \"$status\" = 2 ]"));
    assert!(world.content("copy") == world.newer);
    fs::remove_file(damaged).unwrap();
    world.run_script("bdsync --patch=/dev/vg/copy <$(ls /var/lib/bdsync/disk/*.undo | head -n 1)");
    assert!(world.content("copy") == world.older);
}

#[test]
fn a_patch_is_looked_at_then_applied() {
    require_hosts!();
    require!(fuse());
    let world = World::new();
    world.attach("snap", &world.newer);
    let seen = world.run("preview");
    assert!(seen.contains("file-11"), "{seen}");
    assert!(world.content("copy") == world.older, "nothing was changed yet");
    let seen = world.run("apply");
    assert!(seen.contains("file-11"), "{seen}");
    assert!(world.content("copy") == world.newer);
    world.run_script("bdsync --patch=/dev/vg/copy </srv/today.undo");
    assert!(world.content("copy") == world.older);
}

#[test]
fn a_copy_is_brought_back() {
    require_hosts!();
    let world = World::new();
    world.run("restore");
    assert!(world.content("disk") == world.older);
}

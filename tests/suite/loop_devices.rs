//! Block devices, as loop devices, and images in use.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::support::images::{changed, random_bytes};
use crate::support::loop_device::LoopDevice;
use crate::support::mounted::{LoopMount, SmallDisk};
use crate::support::requirements::{loop_devices, program, require, root, skip};
use crate::support::run::{binary, bytes_in_pipe, server_command};
use crate::support::wait::wait_until;
use crate::support::{Workdir, bdsync, patch_file};

/// Block devices come in whole sectors.
const SIZE: usize = 3 << 20;

#[test]
fn block_devices_are_compared_and_patched_both_ways() {
    require!(loop_devices());
    let remote = random_bytes(1, SIZE);
    let local = changed(&remote, 2, 60);
    for (options, target, expected) in [(&[][..], 1, &local), (&["--remdata"], 0, &remote)] {
        let work = Workdir::with_pair(&local, &remote);
        let names = ["local.img", "remote.img"];
        let devices = names.map(|name| LoopDevice::attach(&work.path(name)));
        let server = server_command(&[]);
        let operands = [server.as_str(), devices[0].name(), devices[1].name()];
        let out = bdsync(options.iter().chain(&operands)).run().expect(0);
        let parsed = patch_file::parse(&out.stdout);
        assert_eq!(parsed.size, SIZE as u64);
        assert_eq!(parsed.name, devices[target].name().as_bytes());
        bdsync(["--patch"]).stdin(&out.stdout).run().expect(0);
        assert!(std::fs::read(devices[target].path()).unwrap() == *expected);
        drop(devices);
        assert!(work.read(names[target]) == *expected, "not written through");
    }
}

#[test]
fn a_block_device_never_changes_its_size() {
    require!(loop_devices());
    let work = Workdir::with_pair(&random_bytes(1, SIZE / 2), &random_bytes(2, SIZE));
    let device = LoopDevice::attach(&work.path("remote.img"));
    let server = server_command(&[]);
    let call = |rule| bdsync([rule, server.as_str(), "local.img", device.name()]);
    call("--diffsize=strict").in_folder(work.folder()).run().expect(3);
    let patch = call("--diffsize=resize").in_folder(work.folder()).run().expect(0).stdout;
    bdsync(["--patch", "--diffsize=resize"]).stdin(&patch).run().expect(3).says(device.name());
    assert!(std::fs::read(device.path()).unwrap() == random_bytes(2, SIZE));
    bdsync(["--patch", "--diffsize=minsize"]).stdin(&patch).run().expect(0);
    let result = std::fs::read(device.path()).unwrap();
    assert!(result[..SIZE / 2] == work.read("local.img"));
    assert!(result[SIZE / 2..] == random_bytes(2, SIZE)[SIZE / 2..]);
}

#[test]
fn a_read_only_block_device_is_refused_before_anything_is_made() {
    require!(loop_devices());
    let work = Workdir::with_pair(&random_bytes(1, SIZE), &random_bytes(2, SIZE));
    let device = LoopDevice::attach_read_only(&work.path("remote.img"));
    let undo = format!("--undo={}", work.path("undo").display());
    let patch = work.patch(&[]);
    for options in [&[undo.as_str()][..], &[undo.as_str(), "--force"]] {
        let target = format!("--patch={}", device.name());
        let words = [&[target.as_str()], options].concat();
        bdsync(words).stdin(&patch).run().expect(12).says("it is read-only");
        assert!(!work.path("undo").exists());
    }
}

#[test]
fn a_file_and_a_block_device_may_be_compared() {
    require!(loop_devices());
    let remote = random_bytes(1, SIZE);
    let work = Workdir::with_pair(&changed(&remote, 2, 5), &remote);
    let device = LoopDevice::attach(&work.path("remote.img"));
    let server = server_command(&[]);
    let out =
        bdsync([&server, "local.img", device.name()]).in_folder(work.folder()).run().expect(0);
    let option = format!("--patch={}", device.name());
    bdsync([option]).stdin(&out.stdout).run().expect(0);
    assert!(std::fs::read(device.path()).unwrap() == work.read("local.img"));
}

#[test]
fn a_block_device_in_use_is_not_patched() {
    require!(loop_devices());
    let work = Workdir::with_pair(&[1; 512], &[0; 512]);
    let device = LoopDevice::attach(&work.path("remote.img"));
    // Claimed as a file system or another bdsync would claim it.
    use std::os::unix::fs::OpenOptionsExt;
    let claim = std::fs::File::options()
        .write(true)
        .custom_flags(nix::libc::O_EXCL)
        .open(device.path())
        .unwrap();
    let patch = patch_file::build(512, device.name(), &[(0, &[1; 512])], &[0]);
    bdsync(["--patch"]).stdin(&patch).run().expect(12).says(device.name());
    drop(claim);
    bdsync(["--patch"]).stdin(&patch).run().expect(0);
    assert!(std::fs::read(device.path()).unwrap() == [1; 512]);
}

/// A report would take its place, and the disk be gone with the loop device.
#[test]
fn the_image_below_a_loop_device_is_not_written_over() {
    require!(loop_devices());
    let work = Workdir::with_pair(&[1; 512], &[0; 512]);
    let device = LoopDevice::attach(&work.path("remote.img"));
    let patch = patch_file::build(512, device.name(), &[(0, &[1; 512])], &[0]);
    work.write("patch", &patch);
    let run = |words: &[&str]| bdsync(words).in_folder(work.folder()).stdin(&patch).run();
    run(&["--patch", "--report=remote.img"]).expect(1).says("are the same file");
    run(&["info", "--svg=remote.img", "patch", device.name()]).expect(1);
    run(&["sync", "--report=remote.img", "local.img", device.name()]).expect(1);
    assert_eq!(work.read("remote.img"), [0; 512]);
    run(&["--patch", "--report=r"]).expect(0);
}

/// Nobody mounts it meanwhile.
#[test]
fn a_block_device_is_claimed_while_it_is_written_to() {
    require!(loop_devices());
    let work = Workdir::with_pair(&[1; 512], &[0; 512]);
    let device = LoopDevice::attach(&work.path("remote.img"));
    let patch = patch_file::build(512, device.name(), &[(0, &[1; 512])], &[0]);
    let mut apply = Command::new(binary())
        .args([&format!("--patch={}", device.name()), "--spool"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = apply.stdin.take().unwrap();
    // It opens the device before it reads.
    stdin.write_all(&patch[..5]).unwrap();
    wait_until("it reads", || bytes_in_pipe(&stdin) == 0);
    use std::os::unix::fs::OpenOptionsExt;
    let claim = || {
        let mut options = std::fs::File::options();
        options.write(true).custom_flags(nix::libc::O_EXCL).open(device.path())
    };
    assert_eq!(claim().unwrap_err().raw_os_error(), Some(nix::libc::EBUSY));
    stdin.write_all(&patch[5..]).unwrap();
    drop(stdin);
    assert!(apply.wait().unwrap().success());
    assert!(std::fs::read(device.path()).unwrap() == [1; 512]);
    claim().unwrap();
}

/// A folder with a `remote.img` that has a file system in it.
fn ext4() -> (Workdir, PathBuf) {
    let work = Workdir::with_pair(&[0; SIZE], &[0; SIZE]);
    let image = work.path("remote.img");
    let made = Command::new("mkfs.ext4").arg("-q").arg(&image).status().expect("cannot run");
    assert!(made.success());
    (work, image)
}

#[test]
fn an_image_that_is_mounted_is_not_patched() {
    require!(loop_devices());
    require!(program("mkfs.ext4"));
    let (work, image) = ext4();
    let before = work.read("remote.img");
    let patch = patch_file::build(SIZE as u64, "remote.img", &[(0, &[1; 512])], &[0]);
    let apply = |options: &[&str]| {
        let args = ["--patch"].iter().chain(options);
        bdsync(args).in_folder(work.folder()).stdin(&patch).run()
    };
    let mounted = LoopMount::new(&image, work.folder());
    let place = mounted.path("");
    apply(&[]).expect(12).says("is mounted on").says(place.to_str().unwrap().trim_end_matches('/'));
    assert!(work.read("remote.img") == before);
    apply(&["--force"]).expect(0);
    drop(mounted);
    assert!(work.read("remote.img")[..512] == [1; 512]);
    apply(&[]).expect(0);
}

/// The kernel punches no hole into a block device that has a file system mounted.
#[test]
fn force_and_sparse_go_together_on_a_device_that_is_mounted() {
    require!(loop_devices());
    require!(program("mkfs.ext4"));
    let (work, image) = ext4();
    // The file system never writes there.
    let boot_block = File::options().write(true).open(&image).unwrap();
    boot_block.write_all_at(&[1; 1024], 0).unwrap();
    let device = LoopDevice::attach(&image);
    let mounted = LoopMount::of_device(device.path(), work.folder());
    fs::write(mounted.path("file"), random_bytes(1, 100_000)).expect("cannot write");
    let zeros = [(0, &[0; 4096][..])];
    let patch = patch_file::build(SIZE as u64, device.name(), &zeros, &[0]);
    bdsync(["--patch", "--force", "--sparse"]).stdin(&patch).run().expect(0);
    drop(mounted);
    drop(device);
    assert!(work.read("remote.img")[..1024] == [0; 1024]);
}

/// What a disk failed to take counts as clean in the page cache, where it can still be read.
#[test]
fn what_a_disk_failed_to_take_is_not_taken_for_written_by_the_next_sync() {
    require!(loop_devices());
    let Some(small) = SmallDisk::new("1m") else {
        skip("to mount a tmpfs");
        return;
    };
    let image = small.path("disk.img");
    File::create(&image).unwrap().set_len(SIZE as u64).unwrap();
    let new = random_bytes(1, SIZE);
    let work = Workdir::with_pair(&new, &[]);
    let device = LoopDevice::attach(&image);
    // As long as somebody has it open its cache stays.
    let open = File::open(device.path()).unwrap();
    let sync = || bdsync(["sync", "local.img", device.name()]).in_folder(work.folder()).run();
    sync().expect(9).says("same command again").says("Input/output error");
    small.resize("8m");
    sync().expect(0).says("verified");
    assert!(fs::read(&image).unwrap() == new);
    drop(open);
}

/// A device that is mounted in another mount namespace.
struct MountedElsewhere(Child);

impl MountedElsewhere {
    fn start(device: &Path, work: &Workdir) -> Self {
        fs::create_dir(work.path("there")).unwrap();
        let script = "mount \"$0\" there && echo mounted && read -r line; umount there";
        let mut child = Command::new("unshare")
            .args(["-m", "sh", "-c", script])
            .arg(device)
            .current_dir(work.folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut told).unwrap();
        assert_eq!(told, "mounted\n");
        Self(child)
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for MountedElsewhere {
    fn drop(&mut self) {
        // It ends with its input, also where the test has failed.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// As in a container: no table of ours tells of it.
#[test]
fn an_image_that_is_mounted_elsewhere_is_not_patched() {
    require!(loop_devices());
    require!(program("mkfs.ext4"));
    require!(program("unshare"));
    let (work, image) = ext4();
    let patch = patch_file::build(SIZE as u64, "remote.img", &[(0, &[1; 512])], &[0]);
    let apply = || bdsync(["--patch"]).in_folder(work.folder()).stdin(&patch).run();
    let device = LoopDevice::attach(&image);
    let other = MountedElsewhere::start(device.path(), &work);
    apply().expect(12).says("is in use");
    other.end();
    apply().expect(0);
}

/// As a guest's disk on a volume of the host, looked into by a loop device over it.
#[test]
fn what_lies_under_a_mounted_loop_device_is_not_patched() {
    require!(loop_devices());
    require!(program("mkfs.ext4"));
    let (work, image) = ext4();
    // Nobody finds it by the name that it was attached by.
    fs::hard_link(&image, work.path("other name")).unwrap();
    let lower = LoopDevice::attach(&work.path("other name"));
    fs::remove_file(work.path("other name")).unwrap();
    let upper = LoopDevice::attach(lower.path());
    let twin = LoopDevice::attach(&image);
    let patch = patch_file::build(SIZE as u64, "x", &[(0, &[0; 512])], &[0]);
    let apply = |target: &str| {
        let out = bdsync([format!("--patch={target}")]).in_folder(work.folder()).stdin(&patch);
        out.run()
    };
    let targets = ["remote.img", lower.name(), upper.name(), twin.name()];
    let mounted = LoopMount::of_device(upper.path(), work.folder());
    for target in targets {
        apply(target).expect(12).says("is mounted on");
    }
    drop(mounted);
    for target in targets {
        apply(target).expect(0);
    }
}

/// Whoever cannot look does not know.
#[test]
fn an_image_that_is_mounted_is_not_patched_for_want_of_descriptors() {
    require!(loop_devices());
    require!(program("mkfs.ext4"));
    let (work, image) = ext4();
    let before = work.read("remote.img");
    let _mounted = LoopMount::new(&image, work.folder());
    let patch = patch_file::build(SIZE as u64, "x", &[(0, &[7; 512])], &[0]);
    let patch = work.write("patch", &patch);
    let mut refused = 0;
    for descriptors in 3..32 {
        let script = format!("ulimit -n {descriptors}; exec {} --patch=remote.img", binary());
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).stdin(File::open(&patch).unwrap()).stdout(Stdio::null());
        let out = shell.current_dir(work.folder()).output().unwrap();
        assert!(!out.status.success(), "{descriptors}");
        let words = String::from_utf8_lossy(&out.stderr).into_owned();
        refused += i32::from(words.contains("is mounted on") || words.contains("cannot be told"));
    }
    assert!(refused > 0);
    assert!(work.read("remote.img") == before);
}

#[test]
fn that_there_is_no_sysfs_to_look_at_is_told() {
    require!(root(), program("unshare"));
    let work = Workdir::with_pair(&[1; 4096], &[0; 4096]);
    let patch = patch_file::build(4096, "x", &[(0, &[1; 512])], &[0]);
    let patch = work.write("patch", &patch);
    let script = format!("mount -t tmpfs none /sys && exec {} --patch=remote.img", binary());
    let mut hidden = Command::new("unshare");
    hidden.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    hidden.stdin(File::open(&patch).unwrap()).current_dir(work.folder());
    let out = hidden.output().unwrap();
    let words = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{words}");
    assert!(words.contains("cannot look at /sys/block: whether the target is in use"), "{words}");
}

/// Loop devices over other bytes of an image are as other partitions of a disk.
#[test]
fn another_part_of_an_image_may_be_mounted() {
    require!(loop_devices());
    require!(program("mkfs.ext4"));
    let (work, image) = ext4();
    let whole = [work.read("remote.img"), vec![1; SIZE]].concat();
    fs::write(&image, whole).unwrap();
    let offset = SIZE.to_string();
    let first = LoopDevice::attach_with(&["--sizelimit", &offset], &image);
    let second = LoopDevice::attach_with(&["--offset", &offset], &image);
    let patch = patch_file::build(SIZE as u64, "x", &[(0, &[7; 512])], &[0]);
    let apply =
        |device: &LoopDevice| bdsync([format!("--patch={}", device.name())]).stdin(&patch).run();
    let mounted = LoopMount::of_device(first.path(), work.folder());
    apply(&second).expect(0);
    apply(&first).expect(12);
    drop(mounted);
    assert!(work.read("remote.img")[SIZE..][..512] == [7; 512]);
}

/// As QEMU locks the image of a machine that runs.
#[test]
fn a_loop_device_over_an_image_that_is_locked_is_not_patched() {
    require!(loop_devices());
    let work = Workdir::with_pair(&[1; 4096], &[0; 4096]);
    let image = File::options().write(true).open(work.path("remote.img")).unwrap();
    let device = LoopDevice::attach(&work.path("remote.img"));
    let patch = patch_file::build(4096, "x", &[(0, &[1; 512])], &[0]);
    let apply = || bdsync([format!("--patch={}", device.name())]).stdin(&patch).run();
    let lock = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 100,
        l_len: 1,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&image, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    apply().expect(12).says("remote.img below it is locked by another program");
    drop(image);
    apply().expect(0);
}

/// The same bytes by a partition of the image and by a loop device at its place.
#[test]
fn a_twin_of_a_partition_that_is_mounted_elsewhere_is_not_patched() {
    require!(loop_devices());
    require!(program("mkfs.ext4"), program("unshare"), program("partx"));
    let (work, image) = ext4();
    let offset = 1 << 20;
    let mut whole = [vec![0; offset], work.read("remote.img")].concat();
    // An MBR with one partition: its sort, its first sector and how many it has.
    whole[446 + 4] = 0x83;
    whole[446 + 8..][..4].copy_from_slice(&2048u32.to_le_bytes());
    whole[446 + 12..][..4].copy_from_slice(&(SIZE as u32 / 512).to_le_bytes());
    whole[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&image, whole).unwrap();
    let disk = LoopDevice::attach(&image);
    let partition = PathBuf::from(format!("{}p1", disk.name()));
    let added = Command::new("partx").arg("--add").arg(disk.path()).status().unwrap();
    if !added.success() || !partition.exists() {
        return skip("partitions of loop devices");
    }
    let twin = LoopDevice::attach_with(&["--offset", &offset.to_string()], &image);
    let patch = patch_file::build(SIZE as u64, "x", &[(0, &[0; 512])], &[0]);
    let apply = || bdsync([format!("--patch={}", twin.name())]).stdin(&patch).run();
    let other = MountedElsewhere::start(&partition, &work);
    apply().expect(12).says("is in use");
    other.end();
    let removed = Command::new("partx").arg("--delete").arg(disk.path()).status().unwrap();
    assert!(removed.success());
    apply().expect(0);
}

/// A QEMU that has a disk open, of what `format` says.
struct Machine {
    qemu: Child,
    commands: ChildStdin,
}

impl Machine {
    fn start(format: &str, disk: &Path) -> Self {
        let mut qemu = Command::new("qemu-io")
            .args(["-f", format])
            .arg(disk)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cannot run");
        let mut commands = qemu.stdin.take().unwrap();
        commands.write_all(b"read 0 512\n").unwrap();
        let mut said = String::new();
        BufReader::new(qemu.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.contains("512"), "{said}");
        Self { qemu, commands }
    }

    fn end(mut self) {
        // It ends with its input.
        drop(self.commands);
        self.qemu.wait().unwrap();
    }
}

#[test]
fn an_image_that_qemu_uses_is_not_patched() {
    require!(program("qemu-io"));
    let work = Workdir::with_pair(&[1; 512], &[0; 512]);
    let patch = patch_file::build(512, "remote.img", &[(0, &[1; 512])], &[0]);
    let apply = || bdsync(["--patch"]).in_folder(work.folder()).stdin(&patch).run();
    let machine = Machine::start("raw", &work.path("remote.img"));
    apply().expect(12).says("locked").says("remote.img");
    machine.end();
    assert!(work.read("remote.img") == [0; 512]);
    apply().expect(0);
    assert!(work.read("remote.img") == [1; 512]);
}

/// It opens disks as anybody may at the same time.
#[test]
fn a_device_that_qemu_uses_is_patched_by_force_only_and_so_is_what_shares_its_bytes() {
    require!(loop_devices());
    require!(program("qemu-io"));
    let work = Workdir::with_pair(&[1; 4096], &[0; 4096]);
    let device = LoopDevice::attach(&work.path("remote.img"));
    let twin = LoopDevice::attach(&work.path("remote.img"));
    let patch = patch_file::build(4096, "x", &[(0, &[1; 512])], &[0]);
    let apply = |target: &str, options: &[&str]| {
        let target = format!("--patch={target}");
        let words = [&target].into_iter().map(String::as_str).chain(options.iter().copied());
        bdsync(words).in_folder(work.folder()).stdin(&patch).run()
    };
    let machine = Machine::start("host_device", device.path());
    let name = device.name().trim_start_matches("/dev/").to_owned();
    for target in [device.name(), twin.name(), "remote.img"] {
        let why = format!("in use: {name}: another program has locked it, as QEMU does");
        apply(target, &[]).expect(12).says(&why);
    }
    assert!(work.read("remote.img") == [0; 4096]);
    apply(device.name(), &["--force"]).expect(0).says("because of --force");
    machine.end();
    assert!(work.read("remote.img")[..512] == [1; 512]);
    apply(device.name(), &[]).expect(0);
}

/// What one reads is what the other changes, through caches of their own.
#[test]
fn a_device_is_not_synced_onto_one_with_which_it_shares_bytes() {
    require!(loop_devices());
    let work = Workdir::with_pair(&[1; SIZE], &random_bytes(2, SIZE));
    let before = work.read("remote.img");
    let offset = (SIZE / 3).to_string();
    let part = LoopDevice::attach_with(&["--offset", &offset], &work.path("remote.img"));
    let whole = LoopDevice::attach(&work.path("remote.img"));
    let other = LoopDevice::attach(&work.path("local.img"));
    let image = work.path("remote.img").display().to_string();
    let sync = |source: &str, target: &str| {
        bdsync(["sync", "-dm", source, target]).in_folder(work.folder()).run()
    };
    for (source, target) in [
        (part.name(), &image[..]),
        (&image, part.name()),
        (part.name(), whole.name()),
        (whole.name(), part.name()),
    ] {
        sync(source, target).expect(1).says("DST shares bytes with SRC");
    }
    drop((part, whole));
    assert!(work.read("remote.img") == before);
    sync(other.name(), &image).expect(0);
}

/// A table counts by the sectors of its disk, as the kernel does.
#[test]
fn partitions_are_where_the_sectors_of_their_disk_say() {
    require!(loop_devices());
    let work = Workdir::new();
    let mut disk = vec![0; 4 << 20];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[446 + 4] = 0x83;
    disk[446 + 8..446 + 16].copy_from_slice(&[0, 1, 0, 0, 0, 2, 0, 0]);
    let image = work.write("disk", &disk);
    work.write("p", &patch_file::build(4 << 20, "/nonexistent", &[(1 << 20, &[1; 512])], &[0]));
    for (sector_bytes, says) in [
        ("512", "1  256.0 KiB at 128.0 KiB  Linux: unchanged"),
        ("4096", "1  2.0 MiB at 1.0 MiB  Linux: 512 bytes changed"),
    ] {
        let device = LoopDevice::attach_with(&["--sector-size", sector_bytes], &image);
        let out = bdsync(["info", "p", device.name()]).in_folder(work.folder()).run().expect(0);
        let shown = String::from_utf8(out.stdout).unwrap();
        assert!(shown.contains(says), "{sector_bytes}: {shown}");
    }
}

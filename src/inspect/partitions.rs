//! The partitions of a disk: GPT and MBR, logical partitions included.
//!
//! Read by hand, not by the crates for it: a virtual machine's disk holds what its guest likes,
//! and those crates assert on sizes that a table names and follow chains that bite their own
//! tails. Every number is checked here, and the amount that is read is bounded. (The tests read
//! tables that those crates wrote.)

use crate::device::Device;
use crate::error::Result;
use crate::units::{ByteRange, hex};

/// The most partitions that are looked at; more would not fit a picture.
pub const PARTITIONS_MAX: usize = 256;
/// Sectors of an image are of one of these sizes, in bytes. An MBR does not say; it takes the first.
const SECTOR_BYTES: [u64; 2] = [512, 4096];
/// The largest table of a GPT that is read, in bytes: 16 KiB are usual.
const TABLE_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes of a GPT header that are looked at.
const GPT_HEADER_BYTES: usize = 92;
/// Bytes of an entry as far as it is looked at; entries may be longer.
const GPT_ENTRY_BYTES_MIN: usize = 128;
/// Types of the MBR: an extended partition (CHS, LBA, Linux), and the one that guards a GPT.
const MBR_EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
const MBR_PROTECTIVE: u8 = 0xee;

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, as in the names of the system's devices.
    pub number: u32,
    /// Its bytes of the disk; never empty, and inside the disk.
    pub range: ByteRange,
    /// What it is for, as far as that is known: "Linux", "EFI System", "MBR type 0x17".
    pub kind: String,
    /// The name that the table gives it; any text at all. Empty in an MBR.
    pub name: String,
}

/// The partitions of `disk`, in the order of their numbers; none when it has no table, or one
/// that is damaged.
///
/// # Errors
/// `Kind::Read`.
pub fn partitions(disk: &dyn Device) -> Result<Vec<Partition>> {
    let known = disk.sector_bytes();
    for sector_bytes in known.into_iter().chain(SECTOR_BYTES) {
        let last = (disk.size() / sector_bytes).saturating_sub(1);
        // The second header is at the end, for when the first is damaged.
        for at in [1, last] {
            if let Some(found) = gpt(disk, sector_bytes, at)? {
                return Ok(found);
            }
        }
    }
    mbr(disk, known.unwrap_or(SECTOR_BYTES[0]))
}

/// `len` bytes at `at`; `None` where the disk has none.
fn read(disk: &dyn Device, at: Option<u64>, len: u64) -> Result<Option<Vec<u8>>> {
    let inside = at.and_then(|at| ByteRange::checked_at(at, len));
    let Some(range) = inside.filter(|range| range.end <= disk.size()) else { return Ok(None) };
    // All callers bound it.
    let mut bytes = vec![0; len as usize];
    disk.read_exact_at(&mut bytes, range.start)?;
    Ok(Some(bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// The GPT whose header is in sector `at`, if there is a sound one (UEFI specification, 5.3).
fn gpt(disk: &dyn Device, sector_bytes: u64, at: u64) -> Result<Option<Vec<Partition>>> {
    let Some(sector) = read(disk, at.checked_mul(sector_bytes), sector_bytes)? else {
        return Ok(None);
    };
    let header_bytes = u32_at(&sector, 12) as usize;
    if !sector.starts_with(b"EFI PART")
        || !(GPT_HEADER_BYTES..=sector.len()).contains(&header_bytes)
    {
        return Ok(None);
    }
    let mut header = sector[..header_bytes].to_vec();
    let (expected, itself) = (u32_at(&header, 16), u64_at(&header, 24));
    header[16..20].fill(0);
    if crc32fast::hash(&header) != expected || itself != at {
        return Ok(None);
    }
    let table_at = u64_at(&header, 72).checked_mul(sector_bytes);
    let (count, entry_bytes) = (u32_at(&header, 80), u32_at(&header, 84));
    let table_bytes = u64::from(count).saturating_mul(u64::from(entry_bytes));
    if (entry_bytes as usize) < GPT_ENTRY_BYTES_MIN || table_bytes > TABLE_BYTES_MAX {
        return Ok(None);
    }
    let Some(table) = read(disk, table_at, table_bytes)? else { return Ok(None) };
    if crc32fast::hash(&table) != u32_at(&header, 88) {
        return Ok(None);
    }
    let entries = (1..).zip(table.chunks_exact(entry_bytes as usize));
    let used = entries.filter_map(|(number, entry)| gpt_entry(disk, sector_bytes, number, entry));
    Ok(Some(used.take(PARTITIONS_MAX).collect()))
}

fn gpt_entry(disk: &dyn Device, sector_bytes: u64, number: u32, entry: &[u8]) -> Option<Partition> {
    let kind: &[u8; 16] = entry.first_chunk()?;
    if *kind == [0; 16] {
        return None;
    }
    let start = u64_at(entry, 32).checked_mul(sector_bytes)?;
    // The last sector is part of it.
    let end = u64_at(entry, 40).checked_add(1)?.checked_mul(sector_bytes)?;
    let units = entry[56..GPT_ENTRY_BYTES_MIN].chunks_exact(2);
    let units = units.map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let name = char::decode_utf16(units.take_while(|&unit| unit != 0))
        .map(|ch| ch.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    inside(
        disk,
        Partition { number, range: ByteRange::new(start, end), kind: gpt_kind(kind), name },
    )
}

fn inside(disk: &dyn Device, mut partition: Partition) -> Option<Partition> {
    partition.range = partition.range.clip(disk.size());
    (!partition.range.is_empty()).then_some(partition)
}

/// The GUID as it is written: its first three fields are little-endian.
fn guid(bytes: &[u8; 16]) -> String {
    let order: [&[usize]; 5] =
        [&[3, 2, 1, 0], &[5, 4], &[7, 6], &[8, 9], &[10, 11, 12, 13, 14, 15]];
    order.map(|field| hex(&field.iter().map(|&i| bytes[i]).collect::<Vec<_>>())).join("-")
}

fn gpt_kind(kind: &[u8; 16]) -> String {
    let guid = guid(kind);
    let known = match &guid[..] {
        "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" => "EFI System",
        "21686148-6449-6e6f-744e-656564454649" => "BIOS boot",
        "0fc63daf-8483-4772-8e79-3d69d8477de4" => "Linux",
        "4f68bce3-e8cd-4db1-96e7-fbcaf984b709" => "Linux root (x86-64)",
        "b921b045-1df0-41c3-af44-4c6f280d3fae" => "Linux root (arm64)",
        "bc13c2ff-59e6-4262-a352-b275fd6f7172" => "Linux boot",
        "933ac7e1-2eb4-4f13-b844-0e14e2aef915" => "Linux home",
        "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f" => "Linux swap",
        "e6d6d379-f507-44c2-a23c-238f2a3df928" => "Linux LVM",
        "a19d880f-05fc-4d3b-a006-743f0f84911e" => "Linux RAID",
        "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7" => "Microsoft basic data",
        "e3c9e316-0b5c-4db8-817d-f92df00215ae" => "Microsoft reserved",
        "de94bba4-06d1-4d40-a16a-bfd50179d6ac" => "Windows recovery",
        "6a898cc3-1dd2-11b2-99a6-080020736631" => "ZFS",
        "516e7cb4-6ecf-11d6-8ff8-00022d09712b" => "FreeBSD",
        _ => return guid,
    };
    known.to_owned()
}

/// An entry of an MBR or of an extended partition's table, sectors counted from the table's base.
struct MbrEntry {
    kind: u8,
    first: u64,
    count: u64,
}

/// The four entries of a table in `sector`; `None` without its mark.
fn mbr_entries(sector: &[u8]) -> Option<Vec<MbrEntry>> {
    let entries = sector.get(446..510)?.chunks_exact(16).map(|entry| MbrEntry {
        kind: entry[4],
        first: u64::from(u32_at(entry, 8)),
        count: u64::from(u32_at(entry, 12)),
    });
    // A boot sector of a file system has the mark too; there, these bytes are code or text.
    let flags_fit = (0..4).all(|i| matches!(sector[446 + i * 16], 0 | 0x80));
    (sector.get(510..512)? == [0x55, 0xaa] && flags_fit).then(|| entries.collect())
}

fn mbr(disk: &dyn Device, sector_bytes: u64) -> Result<Vec<Partition>> {
    let Some(entries) = read(disk, Some(0), sector_bytes)?.and_then(|s| mbr_entries(&s)) else {
        return Ok(vec![]);
    };
    let mut found = vec![];
    for (number, entry) in (1..).zip(entries) {
        found.extend(mbr_partition(disk, sector_bytes, number, 0, &entry));
        if MBR_EXTENDED.contains(&entry.kind) {
            logical_partitions(disk, sector_bytes, entry.first, &mut found)?;
        }
    }
    found.sort_by_key(|partition| partition.number);
    Ok(found)
}

fn mbr_partition(
    disk: &dyn Device,
    sector_bytes: u64,
    number: u32,
    base: u64,
    entry: &MbrEntry,
) -> Option<Partition> {
    if entry.kind == 0 || entry.kind == MBR_PROTECTIVE {
        return None;
    }
    // 32-bit numbers of sectors, of which four are added at most.
    let first = base + entry.first;
    let range = ByteRange::new(first * sector_bytes, (first + entry.count) * sector_bytes);
    inside(disk, Partition { number, range, kind: mbr_kind(entry.kind), name: String::new() })
}

/// Follows the chain of tables in the extended partition at sector `base`: each names a logical
/// partition, and where the next table is.
fn logical_partitions(
    disk: &dyn Device,
    sector_bytes: u64,
    base: u64,
    found: &mut Vec<Partition>,
) -> Result<()> {
    let mut table = base;
    // The length of the chain is bounded: it may well end in itself.
    for number in (5..).take(PARTITIONS_MAX) {
        let sector = read(disk, Some(table * sector_bytes), sector_bytes)?;
        let Some(entries) = sector.and_then(|sector| mbr_entries(&sector)) else { return Ok(()) };
        found.extend(mbr_partition(disk, sector_bytes, number, table, &entries[0]));
        let next = &entries[1];
        if !MBR_EXTENDED.contains(&next.kind) || next.first == 0 {
            return Ok(());
        }
        table = base + next.first;
    }
    Ok(())
}

fn mbr_kind(kind: u8) -> String {
    let known = match kind {
        0x05 | 0x0f | 0x85 => "extended",
        0x01 | 0x04 | 0x06 | 0x0b | 0x0c | 0x0e => "FAT",
        0x07 => "NTFS or exFAT",
        0x82 => "Linux swap",
        0x83 => "Linux",
        0x8e => "Linux LVM",
        0xef => "EFI System",
        0xfd => "Linux RAID",
        _ => return format!("MBR type 0x{kind:02x}"),
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;
    use crate::units::MIB;
    use gpt::disk::LogicalBlockSize;
    use proptest::prelude::*;
    use std::io::Cursor;

    const DISK_BYTES: usize = 8 * MIB as usize;

    fn gpt_disk(sectors: LogicalBlockSize) -> Vec<u8> {
        let memory = Box::new(Cursor::new(vec![0; DISK_BYTES]));
        let config = gpt::GptConfig::new().writable(true).logical_block_size(sectors);
        let mut disk = config.create_from_device(memory, None).unwrap();
        disk.add_partition("boot", MIB, gpt::partition_types::EFI, 0, None).unwrap();
        disk.add_partition("D\u{e4}ten", 2 * MIB, gpt::partition_types::LINUX_FS, 0, None).unwrap();
        disk.write().unwrap().into_inner()
    }

    fn found(disk: &[u8]) -> Vec<Partition> {
        partitions(&MemoryDevice::new(disk)).unwrap()
    }

    fn check_gpt(found: &[Partition]) {
        let [boot, data] = found else { panic!("{found:?}") };
        assert_eq!((boot.number, &boot.kind[..], &boot.name[..]), (1, "EFI System", "boot"));
        assert_eq!((data.number, &data.kind[..], &data.name[..]), (2, "Linux", "D\u{e4}ten"));
        assert_eq!((boot.range.len(), data.range.len()), (MIB, 2 * MIB));
        assert!(boot.range.end <= data.range.start);
    }

    #[test]
    fn tables_of_the_gpt_crate_are_read_with_both_sizes_of_sectors() {
        for sectors in [LogicalBlockSize::Lb512, LogicalBlockSize::Lb4096] {
            check_gpt(&found(&gpt_disk(sectors)));
        }
    }

    #[test]
    fn second_table_serves_when_the_first_is_damaged() {
        let mut disk = gpt_disk(LogicalBlockSize::Lb512);
        disk[512..1024].fill(0xff);
        check_gpt(&found(&disk));
        let mut disk = gpt_disk(LogicalBlockSize::Lb512);
        disk[1024 + 56] ^= 1;
        check_gpt(&found(&disk));
    }

    #[test]
    fn first_table_serves_when_the_second_is_damaged() {
        let mut disk = gpt_disk(LogicalBlockSize::Lb512);
        disk[DISK_BYTES - 512..].fill(0xff);
        check_gpt(&found(&disk));
    }

    /// Whether there is a table whose header is in sector `at` of `disk` after `change`; `sealed`
    /// with the checksums that then belong there.
    fn is_sound(disk: &[u8], at: usize, sealed: bool, change: impl FnOnce(&mut [u8])) -> bool {
        let mut disk = disk.to_vec();
        change(&mut disk);
        let header = at * 512..at * 512 + GPT_HEADER_BYTES;
        let at_table = u64_at(&disk[header.clone()], 72) as usize * 512;
        let len = u32_at(&disk[header.clone()], 80) * u32_at(&disk[header.clone()], 84);
        let table = crc32fast::hash(&disk[at_table..][..len as usize]);
        if sealed {
            let header = &mut disk[header];
            header[88..92].copy_from_slice(&table.to_le_bytes());
            header[16..20].fill(0);
            let checksum = crc32fast::hash(header);
            header[16..20].copy_from_slice(&checksum.to_le_bytes());
        }
        gpt(&MemoryDevice::new(disk), 512, at as u64).unwrap().is_some()
    }

    #[test]
    fn table_is_believed_only_whole_and_where_it_says_that_it_is() {
        let disk = &gpt_disk(LogicalBlockSize::Lb512);
        let set = |at: usize, value: u32| {
            move |disk: &mut [u8]| disk[at..at + 4].copy_from_slice(&value.to_le_bytes())
        };
        let (identity, count, entry_bytes, table) = (512 + 56, 512 + 80, 512 + 84, 1024);
        assert!(is_sound(disk, 1, false, |_| {}));
        assert!(!is_sound(disk, 1, false, set(identity, 0)), "its checksum");
        assert!(is_sound(disk, 1, true, set(identity, 0)));
        assert!(!is_sound(disk, 1, false, set(table, 0)), "the table's checksum");
        assert!(is_sound(disk, 1, true, set(table, 0)));
        assert!(!is_sound(disk, 1, true, set(512, 0)), "its mark");
        let elsewhere = |disk: &mut [u8]| disk.copy_within(512..1024, 100 * 512);
        assert!(!is_sound(disk, 100, false, elsewhere), "its own place");
        let of_entries = |entries: u32, bytes: u32| {
            is_sound(disk, 1, true, |disk| {
                set(count, entries)(disk);
                set(entry_bytes, bytes)(disk);
            })
        };
        assert!(of_entries(64, 256), "longer entries");
        assert!(!of_entries(256, 64), "entries that lack their end");
        assert!(of_entries(8192, 128), "at the limit");
        assert!(!of_entries(8193, 128), "behind the limit");
    }

    #[test]
    fn tables_of_the_mbrman_crate_are_read_with_logical_partitions() {
        let mut disk = Cursor::new(vec![0; DISK_BYTES]);
        let mut mbr = mbrman::MBR::new_from(&mut disk, 512, [1; 4]).unwrap();
        let entry = |sys, starting_lba, sectors| mbrman::MBRPartitionEntry {
            boot: mbrman::BOOT_INACTIVE,
            first_chs: mbrman::CHS::empty(),
            sys,
            last_chs: mbrman::CHS::empty(),
            starting_lba,
            sectors,
        };
        mbr[1] = entry(0x83, 2048, 2048);
        mbr[2] = entry(0x0f, 4096, 8192);
        mbr.align = 1;
        mbr.push(0x82, 4096, 1000).unwrap();
        mbr.push(0x17, 6000, 2000).unwrap();
        mbr.write_into(&mut disk).unwrap();
        let found = found(disk.get_ref());
        let expected = [
            (1, "Linux", 2048, 2048),
            (2, "extended", 4096, 8192),
            (5, "Linux swap", 4097, 999),
            (6, "MBR type 0x17", 6001, 1999),
        ];
        assert_eq!(in_sectors(&found), expected);
    }

    /// Number, kind, first sector and count of sectors of each.
    fn in_sectors(found: &[Partition]) -> Vec<(u32, &str, u64, u64)> {
        let sectors = |p: &Partition| (p.range.start / 512, p.range.len() / 512);
        found.iter().map(|p| (p.number, &p.kind[..], sectors(p).0, sectors(p).1)).collect()
    }

    /// A disk with an MBR: kind, first sector and count of sectors of its first entries.
    fn mbr_disk(entries: &[(u8, u32, u32)]) -> Vec<u8> {
        let mut disk = vec![0; DISK_BYTES];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        for (entry, (kind, first, count)) in disk[446..510].chunks_mut(16).zip(entries) {
            entry[4] = *kind;
            entry[8..12].copy_from_slice(&first.to_le_bytes());
            entry[12..16].copy_from_slice(&count.to_le_bytes());
        }
        disk
    }

    #[test]
    fn partitions_of_an_mbr_are_in_order_and_end_with_the_disk() {
        let mut disk = mbr_disk(&[(0x05, 100, 200), (0x83, 1000, u32::MAX)]);
        put_table(&mut disk, 100, 50);
        // What follows is no table, though there would be one.
        disk[100 * 512 + 462 + 4] = 0x83;
        put_table(&mut disk, 150, 0);
        let rest = DISK_BYTES as u64 / 512 - 1000;
        let expected = [(1, "extended", 100, 200), (2, "Linux", 1000, rest), (5, "Linux", 101, 1)];
        assert_eq!(in_sectors(&found(&disk)), expected);
    }

    #[test]
    fn unused_entries_of_an_mbr_and_the_one_that_guards_a_gpt_are_no_partitions() {
        let disk = mbr_disk(&[(0, 1, 9), (MBR_PROTECTIVE, 1, 9), (0x83, 0, 0), (0x01, 10, 9)]);
        assert_eq!(in_sectors(&found(&disk)), [(4, "FAT", 10, 9)]);
    }

    #[test]
    fn boot_sector_of_a_file_system_is_no_table() {
        let disk = mbr_disk(&[(0x83, 1, 9); 4]);
        assert_eq!(found(&disk).len(), 4);
        for i in 0..4 {
            let mut disk = disk.clone();
            disk[446 + 16 * i] = 0x80;
            assert_eq!(found(&disk).len(), 4, "bootable");
            disk[446 + 16 * i] = b'B';
            assert_eq!(found(&disk), [], "code in entry {i}");
        }
        let mut disk = disk;
        disk[511] = 0;
        assert_eq!(found(&disk), [], "without the mark");
    }

    /// A table at this sector, with a logical partition of one sector, and the next table so many
    /// sectors behind the begin of the extended partition at 100.
    fn put_table(disk: &mut [u8], sector: usize, next: u32) {
        let at = sector * 512;
        disk[at + 510..at + 512].copy_from_slice(&[0x55, 0xaa]);
        for (entry, kind, first) in [(446, 0x83, 1), (462, 0x05, next)] {
            disk[at + entry + 4] = kind;
            disk[at + entry + 8..at + entry + 12].copy_from_slice(&first.to_le_bytes());
            disk[at + entry + 12] = 1;
        }
    }

    #[test]
    fn chain_of_tables_that_ends_in_itself_ends() {
        let mut disk = mbr_disk(&[(0x05, 100, 200)]);
        let count = |disk: &[u8]| found(disk).len();
        put_table(&mut disk, 100, 50);
        put_table(&mut disk, 150, 0);
        assert_eq!(count(&disk), 1 + 2);
        put_table(&mut disk, 150, u32::MAX);
        assert_eq!(count(&disk), 1 + 2, "the next one is outside the disk");
        put_table(&mut disk, 150, 50);
        assert_eq!(count(&disk), 1 + PARTITIONS_MAX, "the next one is the same");
    }

    #[test]
    fn disks_without_a_table_have_no_partitions() {
        for len in [0, 1, 511, 512, 1024, 4096, 100_000] {
            assert_eq!(found(&vec![0; len]), []);
            assert_eq!(found(&vec![0x55; len]), []);
        }
    }

    proptest! {
        #[test]
        fn damaged_tables_are_read_without_harm(
            changes in proptest::collection::vec((0usize..2048, any::<u8>()), 1..20),
        ) {
            let mut disk = gpt_disk(LogicalBlockSize::Lb512);
            for (at, byte) in changes {
                disk[at] = byte;
            }
            for partition in found(&disk) {
                prop_assert!(!partition.range.is_empty() && partition.range.end <= DISK_BYTES as u64);
            }
        }
    }
}

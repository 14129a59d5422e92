//! What tells one device from another: for the reader of a seal, and for its refusals.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::Device;
use super::stack::Stack;
use crate::units::major_minor;

/// Properties of udev that tell a device, a file system on it, or a volume.
const UDEV_KEYS: [&str; 8] = [
    "ID_SERIAL",
    "ID_SERIAL_SHORT",
    "ID_WWN",
    "ID_FS_UUID",
    "ID_PART_ENTRY_UUID",
    "DM_NAME",
    "DM_UUID",
    "MD_UUID",
];
/// Files of sysfs that do, below the device's folder.
const SYSFS_FILES: [&str; 6] =
    ["device/serial", "serial", "wwid", "device/wwid", "dm/uuid", "loop/backing_file"];

/// What is known of a device of which that is all, as `key=value` lines: its size in bytes and its
/// path. A seal keeps the beginning of what is too long for it, and needs the size.
#[must_use]
pub fn identity_of(path: &[u8], size_bytes: u64) -> Vec<u8> {
    let mut text = format!("size={size_bytes}\npath=").into_bytes();
    // A line end in a path must not look like another key.
    text.extend(path.iter().filter(|byte| **byte != b'\n'));
    text.push(b'\n');
    text
}

/// What is known of a device here, as `key=value` lines: size and path, and for a block device what
/// sysfs and udev tell.
#[must_use]
pub fn identity(device: &dyn Device) -> Vec<u8> {
    let mut text = identity_of(device.path().as_os_str().as_bytes(), device.size());
    // Only told, never decided by: it does not matter that the path is looked up again.
    let Ok(found) = fs::metadata(device.path()) else { return text };
    if !found.file_type().is_block_device() {
        return text;
    }
    if let Some(folder) = Stack::default().folder(found.rdev()) {
        for name in SYSFS_FILES {
            let value = fs::read_to_string(folder.join(name)).unwrap_or_default();
            push(&mut text, &name.replace('/', "."), &value);
        }
    }
    let entry = format!("b{}", major_minor(found.rdev()));
    let udev = fs::read_to_string(Path::new("/run/udev/data").join(entry));
    for (key, value) in udev.unwrap_or_default().lines().filter_map(udev_property) {
        push(&mut text, key, value);
    }
    text
}

/// The wanted properties among the lines `E:KEY=VALUE` of udev's database.
fn udev_property(line: &str) -> Option<(&str, &str)> {
    let property = line.strip_prefix("E:")?.split_once('=')?;
    UDEV_KEYS.contains(&property.0).then_some(property)
}

fn push(text: &mut Vec<u8>, key: &str, value: &str) {
    let value = value.trim();
    if !value.is_empty() && !value.contains('\n') {
        text.extend(format!("{key}={value}\n").bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::open_source;
    use super::*;

    #[test]
    fn file_is_told_by_path_and_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image\nsize=1");
        fs::write(&path, [0; 10]).unwrap();
        let text = String::from_utf8(identity(&open_source(&path).unwrap())).unwrap();
        let expected = format!("size=10\npath={}/imagesize=1\n", folder.path().display());
        assert_eq!(text, expected);
    }

    #[test]
    fn only_wanted_properties_are_taken() {
        assert_eq!(udev_property("E:ID_WWN=0x5"), Some(("ID_WWN", "0x5")));
        assert_eq!(udev_property("E:ID_PATH=x"), None);
        assert_eq!(udev_property("S:disk/by-id/x"), None);
    }
}

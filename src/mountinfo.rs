//! The table of mounts, as proc_pid_mountinfo(5) has it.
//!
//! ```text
//!   36 35 98:0 /root /mnt/point rw,noatime shared:1 - ext4 /dev/sda1 rw
//!         |    |     |                     |          |    |
//!         device root point                optional   kind source
//! ```

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// What the kernel's table calls our own file systems.
pub const OWN_KIND: &[u8] = b"fuse.bdsync";

/// One mount.
pub struct Mount<'a> {
    /// `major:minor` of the file system.
    pub device: &'a [u8],
    /// Which of its folders is mounted; escaped.
    pub root: &'a [u8],
    /// Where.
    pub point: PathBuf,
    /// The file system's type, with its subtype.
    pub kind: &'a [u8],
    /// What it is made of, in the file system's own words.
    pub source: PathBuf,
}

/// The mounts of a table, those below others first. Lines that are none are left out.
pub fn mounts(table: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    table.split(|byte| *byte == b'\n').filter_map(mount)
}

fn mount(line: &[u8]) -> Option<Mount<'_>> {
    let mut fields = line.split(|byte| *byte == b' ').skip(2);
    let (device, root, point) = (fields.next()?, fields.next()?, fields.next()?);
    // Any number of optional fields ends with a hyphen.
    let mut behind = fields.skip_while(|field| *field != b"-").skip(1);
    let (kind, source) = (behind.next()?, behind.next()?);
    Some(Mount { device, root, point: unescape(point), kind, source: unescape(source) })
}

/// A path as the kernel writes it: blanks and backslashes as `\` and three octal digits.
#[must_use]
pub fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, behind @ ..] = rest {
        let digits = behind.get(..3).filter(|_| *first == b'\\');
        let octal = digits.and_then(|digits| str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                path.push(byte);
                rest = &behind[3..];
            }
            None => {
                path.push(*first);
                rest = behind;
            }
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn escaped_paths_are_read_as_the_kernel_means_them() {
        for (field, path) in [
            ("/a\\040b\\134c", "/a b\\c"),
            ("/a\\", "/a\\"),
            ("/\\999", "/\\999"),
            ("a\\134b\\04", "a\\b\\04"),
        ] {
            assert_eq!(unescape(field.as_bytes()), Path::new(path));
        }
    }

    #[test]
    fn optional_fields_are_passed_over_and_broken_lines_left_out() {
        let table = b"22 1 0:21 / / rw - ext4 /dev/a rw\nbroken\n\n\
            23 22 8:1 /x /b\\040c rw shared:1 master:2 - fuse.bdsync b rw\n24 22 8:2 / /d rw - ext4";
        let found: Vec<_> = mounts(table).collect();
        assert_eq!(found.len(), 2);
        let Mount { device, root, point, kind, source } = &found[1];
        assert_eq!((*device, *root, *kind), (&b"8:1"[..], &b"/x"[..], &b"fuse.bdsync"[..]));
        assert_eq!((point.as_path(), source.as_path()), (Path::new("/b c"), Path::new("b")));
    }
}

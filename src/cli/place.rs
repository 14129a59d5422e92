//! `[user@]host:path`, or a path here: as scp and rsync read it. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::options::Place;
use crate::error::{Error, Kind, Result};
use crate::report::escape;

/// Reads one operand of `sync`.
///
/// A colon makes it remote when no slash stands before it, so `./a:b` and `/a:b` are paths
/// here. An IPv6 address goes in brackets: `[::1]:path`. A leading `~/` of a remote path is
/// dropped, because a remote command starts in the home folder.
///
/// # Errors
/// `Kind::Usage` for an empty operand, host or path, a host that could pass for an option,
/// and rsync's `host::module`.
pub(super) fn place(operand: &OsStr) -> Result<Place> {
    let bytes = operand.as_bytes();
    let refused = |what: &str| {
        Err(Error::new(Kind::Usage, format!("{what}, found '{}'", escape(operand.as_bytes()))))
    };
    if bytes.is_empty() {
        return refused("SRC and DST must not be empty");
    }
    let Some((host, path)) = split(bytes) else { return Ok(Place::Local(PathBuf::from(operand))) };
    let address = host.rsplit(|&byte| byte == b'@').next().unwrap_or_default();
    if address.is_empty() || host.starts_with(b"@") {
        return refused("a remote operand needs a host: [user@]host:path");
    }
    // ssh would read these as options, and some of those start programs.
    if host.starts_with(b"-") || address.starts_with(b"-") {
        return refused("a host must not begin with a dash");
    }
    if path.starts_with(b":") {
        return refused("host::module is rsync's; a remote operand is [user@]host:path");
    }
    let path = path.strip_prefix(b"~/").unwrap_or(path);
    if path.is_empty() {
        return refused("a remote operand needs a path: [user@]host:path");
    }
    let owned = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    Ok(Place::Remote { host: owned(&without_brackets(host)), path: owned(path) })
}

/// Host and path of a remote operand; `None` for a path here.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let user_end = bytes.iter().position(|&byte| byte == b'@').map_or(0, |at| at + 1);
    let bracketed = bytes.get(user_end) == Some(&b'[') && !bytes[..user_end].contains(&b'/');
    let search_from = match bytes.iter().position(|&byte| byte == b']') {
        Some(end) if bracketed && !bytes[..end].contains(&b'/') => end,
        _ => 0,
    };
    let colon = search_from + bytes[search_from..].iter().position(|&byte| byte == b':')?;
    let (host, path) = (&bytes[..colon], &bytes[colon + 1..]);
    (!host.contains(&b'/')).then_some((host, path))
}

/// `user@[::1]` as ssh wants it: `user@::1`.
fn without_brackets(host: &[u8]) -> Vec<u8> {
    let (user, address) = match host.iter().rposition(|&byte| byte == b'@') {
        Some(at) => host.split_at(at + 1),
        None => (&host[..0], host),
    };
    let bare = address.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    [user, bare.unwrap_or(address)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(operand: &str) -> Result<Place> {
        place(OsStr::new(operand))
    }

    #[test]
    fn a_colon_before_the_first_slash_makes_it_remote() {
        for (operand, host, path) in [
            ("host:/dev/vg/x", "host", "/dev/vg/x"),
            ("me@host:disk.img", "me@host", "disk.img"),
            ("host:a:b", "host", "a:b"),
            ("host:it's \"here\"", "host", "it's \"here\""),
            ("host:-v", "host", "-v"),
            ("host:~/disk.img", "host", "disk.img"),
            ("[::1]:/x", "::1", "/x"),
            ("me@[fe80::1%eth0]:x", "me@fe80::1%eth0", "x"),
        ] {
            let expected = Place::Remote { host: host.into(), path: path.into() };
            assert_eq!(read(operand).unwrap(), expected, "{operand}");
        }
    }

    #[test]
    fn everything_else_is_a_path_here() {
        for operand in ["disk.img", "/dev/disk/by-path/pci-0000:00", "./a:b", "a/b:c", "-x", "a@b"]
        {
            assert_eq!(read(operand).unwrap(), Place::Local(operand.into()), "{operand}");
        }
    }

    #[test]
    fn hosts_that_are_missing_or_could_be_options_are_refused() {
        for operand in [
            "",
            ":x",
            "host:",
            "host:~/",
            "me@:x",
            "@host:x",
            "-oProxyCommand=x:y",
            "me@-x:y",
            "host::module",
        ] {
            let err = read(operand).unwrap_err();
            assert_eq!(err.kind(), Kind::Usage, "{operand}");
        }
    }
}

//! `--compress`: of every command that writes a patch, in which format; of those that only have a
//! link, whether.

use clap::{Arg, ArgMatches};

use super::table::{long_flag, long_valued};
use super::values::{decimal, usage};
use crate::error::Result;
use crate::units::Compression;

/// zstd's own default, fast enough for any disk.
const ZSTD_LEVEL_DEFAULT: u8 = 3;
/// Higher ones take more memory than they are worth.
const ZSTD_LEVEL_MAX: u8 = 19;
const GZIP_LEVEL_DEFAULT: u8 = 6;
const GZIP_LEVEL_MAX: u8 = 9;

pub(super) fn option() -> Arg {
    long_valued("compress", "FORMAT").help(
        "Compress the patch: zstd, zstd:1 to zstd:19, gzip, gzip:1 to gzip:9. --patch, info, \
         squash and mount read it; a classic bdsync needs it decompressed [default: not compressed]",
    )
}

/// Of a link.
pub(super) fn link_flag() -> Arg {
    long_flag(
        "compress",
        "Compress what is fetched or sent, with zstd; a classic bdsync at the other end cannot",
    )
}

/// `--compress=zstd[:N]|gzip[:N]`.
pub(super) fn resolve(found: &ArgMatches) -> Result<Option<Compression>> {
    let Some(text) = found.get_one::<String>("compress") else { return Ok(None) };
    let (name, level) = match text.split_once(':') {
        Some((name, level)) => (name, Some(level)),
        None => (&text[..], None),
    };
    let level = |default, max| match level.map(decimal) {
        None => Some(default),
        Some(level) => level.and_then(|n| u8::try_from(n).ok()).filter(|n| (1..=max).contains(n)),
    };
    let chosen = match name {
        "zstd" => level(ZSTD_LEVEL_DEFAULT, ZSTD_LEVEL_MAX).map(Compression::Zstd),
        "gzip" => level(GZIP_LEVEL_DEFAULT, GZIP_LEVEL_MAX).map(Compression::Gzip),
        _ => None,
    };
    match chosen {
        Some(_) => Ok(chosen),
        None => Err(usage(format!(
            "--compress must be zstd, zstd:1 to zstd:{ZSTD_LEVEL_MAX}, gzip or gzip:1 to \
             gzip:{GZIP_LEVEL_MAX}, found '{text}'"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Command;
    use super::super::testing::parse;
    use super::*;

    #[test]
    fn levels_have_limits() {
        for (text, expected) in [
            ("zstd", Some(Compression::Zstd(3))),
            ("zstd:1", Some(Compression::Zstd(1))),
            ("zstd:19", Some(Compression::Zstd(19))),
            ("gzip", Some(Compression::Gzip(6))),
            ("gzip:9", Some(Compression::Gzip(9))),
            ("zstd:0", None),
            ("zstd:20", None),
            ("zstd:", None),
            ("zstd:+1", None),
            ("gzip:10", None),
            ("xz", None),
            ("", None),
        ] {
            let option = format!("--compress={text}");
            let found = match parse(&[&option, "cmd", "l", "r"]) {
                Ok(Command::Client(options)) => options.compression,
                Ok(other) => panic!("{other:?}"),
                Err(_) => None,
            };
            assert_eq!(found, expected, "{text}");
        }
    }
}

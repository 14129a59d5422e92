//! Whether bytes of a file are in the page cache already, so that nobody needs to ask for them.
//!
//! `cachestat` (Linux 6.5) counts pages folio by folio. Advice to read ahead looks for them one by
//! one, which costs cached files a third of what copying the bytes does.

use std::fs::File;
use std::os::fd::AsRawFd;

use linux_raw_sys::general::{__NR_cachestat, cachestat, cachestat_range};
use nix::unistd::{SysconfVar, sysconf};

use crate::units::ByteRange;

/// Whether all of `range` is in the cache. False also where the kernel does not say: an old one, or
/// a file that the caller neither owns nor may write to.
pub fn is_cached(file: &File, range: ByteRange) -> bool {
    let Some(page_bytes) = page_bytes() else { return false };
    let pages = range.align_out(page_bytes);
    let asked = cachestat_range { off: pages.start, len: pages.len() };
    let mut told = cachestat {
        nr_cache: 0,
        nr_dirty: 0,
        nr_writeback: 0,
        nr_evicted: 0,
        nr_recently_evicted: 0,
    };
    // SAFETY: the descriptor is open, and both structures have the layout that the kernel knows and
    // outlive the call, which keeps no reference to them.
    let failed = unsafe {
        libc::syscall(
            __NR_cachestat as libc::c_long,
            file.as_raw_fd(),
            &raw const asked,
            &raw mut told,
            0_u32,
        ) != 0
    };
    !failed && told.nr_cache >= pages.len() / page_bytes
}

/// Bytes of a page of memory; a power of two.
pub(super) fn page_bytes() -> Option<u64> {
    let told = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    told.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| bytes.is_power_of_two())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use rustix::fs::{Advice, fadvise};

    use super::*;

    #[test]
    fn what_was_written_is_cached_and_what_was_dropped_is_not() {
        let page = page_bytes().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 64 * page as usize + 100]).unwrap();
        file.sync_all().unwrap();
        let everything = ByteRange::new(0, 64 * page + 100);
        if !is_cached(&file, everything) {
            eprintln!("skipping: the kernel does not tell what is cached");
            return;
        }
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        if is_cached(&file, ByteRange::new(0, page)) {
            eprintln!("skipping: the file system of the test's folder keeps its files in memory");
            return;
        }
        fadvise(&file, 0, None, Advice::Random).unwrap();
        file.read_exact_at(&mut [0; 10], 8 * page - 5).unwrap();
        for (range, cached) in [
            (ByteRange::new(7 * page, 9 * page), true),
            (ByteRange::new(7 * page + 1, 8 * page + 1), true),
            (ByteRange::new(7 * page - 1, 8 * page), false),
            (ByteRange::new(8 * page, 9 * page + 1), false),
            (everything, false),
        ] {
            assert_eq!(is_cached(&file, range), cached, "{range:?}");
        }
    }
}

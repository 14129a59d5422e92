//! Which pages of a file are in the page cache only because of us, so that they, and no
//! others, can go again.
//!
//! Pages are looked at before they are first read or written: `mincore` over a mapping that
//! nobody touches tells which are there. It costs one system call for each range, works on files
//! and block devices, and changes nothing (reads with `RWF_NOWAIT` would start read-ahead).

use std::ffi::c_void;
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::ptr;

use nix::unistd::geteuid;
use parking_lot::Mutex;

use super::cached::page_bytes;
use crate::units::{ByteRange, RangeSet};

/// Most ranges of pages that are remembered, 1 MiB; pages beyond that stay in the cache.
const RANGES_MAX: usize = 64 * 1024;
/// Pages asked about in one system call.
const PAGES_PER_CALL: usize = 1024;

/// What is in the page cache of one file because of us.
#[derive(Debug)]
pub(super) struct Residency {
    mapping: Mapping,
    ours: Mutex<RangeSet>,
}

impl Residency {
    /// For a file of `size_bytes`; `None` where its pages cannot be asked about.
    pub(super) fn of(file: &File, size_bytes: u64) -> Option<Self> {
        Some(Self { mapping: Mapping::of(file, size_bytes)?, ours: Mutex::default() })
    }

    /// Says that `range` is about to be read or written: of its pages, those that are not in
    /// the cache yet are ours from now on.
    pub(super) fn note(&self, range: ByteRange) {
        let pages = range.align_out(self.mapping.page_bytes);
        let mut ours = self.ours.lock();
        for gap in ours.gaps(pages) {
            self.mapping.absent(gap, &mut |absent| {
                if ours.len() < RANGES_MAX {
                    ours.insert(absent);
                }
            });
        }
    }

    /// The pages inside `range` that are ours, ascending; they are not ours any more. The
    /// file's last page counts as inside when `range` reaches `size_bytes`.
    pub(super) fn take(&self, range: ByteRange, size_bytes: u64) -> Vec<ByteRange> {
        let page = self.mapping.page_bytes;
        let start = range.start.checked_next_multiple_of(page).unwrap_or(u64::MAX);
        let end = match range.end >= size_bytes {
            true => u64::MAX,
            false => range.end - range.end % page,
        };
        self.ours.lock().take(ByteRange::new(start, end))
    }
}

/// How many users there are, as the map of the first namespace has it.
const ALL_USERS: &str = "4294967295";

/// Whether we are root, and not only in a user namespace, where others' files stay others'.
pub(super) fn is_almighty() -> bool {
    let is_mapped = || {
        let map = fs::read_to_string("/proc/self/uid_map");
        map.is_ok_and(|map| !map.split_whitespace().eq(["0", "0", ALL_USERS]))
    };
    geteuid().is_root() && !is_mapped()
}

/// Address space, in bytes, that a mapping may take: on a 32-bit machine it leaves most of it.
const ADDRESSES_MAX: usize = usize::MAX / 4;

/// A file mapped without any right to touch its bytes, which costs address space only.
#[derive(Debug)]
struct Mapping {
    address: *mut c_void,
    len: NonZeroUsize,
    page_bytes: u64,
}

// SAFETY: the address is only given to `mincore`, which may be called from any thread at once,
// and to `munmap` by the drop.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn of(file: &File, size_bytes: u64) -> Option<Self> {
        let page_bytes = page_bytes()?;
        let len = NonZeroUsize::new(usize::try_from(size_bytes).ok()?)?;
        if len.get() > ADDRESSES_MAX {
            return None;
        }
        let (protection, flags) = (libc::PROT_NONE, libc::MAP_SHARED | libc::MAP_NORESERVE);
        // SAFETY: a new mapping at an address of the kernel's choice, which nothing else uses;
        // without PROT_READ no reference into it can ever be made.
        let address = unsafe {
            libc::mmap(ptr::null_mut(), len.get(), protection, flags, file.as_raw_fd(), 0)
        };
        let mapping = (address != libc::MAP_FAILED).then_some(Self { address, len, page_bytes })?;
        mapping.is_told().then_some(mapping)
    }

    /// Whether the kernel answers at all, which a filter of system calls may keep it from.
    fn is_told(&self) -> bool {
        let mut resident = 0_u8;
        // SAFETY: the mapping has one page at least.
        unsafe { libc::mincore(self.address, 1, &raw mut resident) == 0 }
    }

    /// Calls `found` with the runs of pages in `pages` that are not in the cache, ascending.
    /// What lies behind the mapping, as in a file that has grown, is not. Where the kernel gives
    /// no answer everything counts as being there already.
    fn absent(&self, pages: ByteRange, found: &mut impl FnMut(ByteRange)) {
        let mapped = (self.len.get() as u64).next_multiple_of(self.page_bytes);
        for piece in pages.clip(mapped).pieces(PAGES_PER_CALL as u64 * self.page_bytes) {
            let mut resident = [0_u8; PAGES_PER_CALL];
            // SAFETY: the piece lies inside the mapping and starts at a page, and `resident` has
            // a byte for each of its pages.
            let failed = unsafe {
                let at = self.address.byte_add(piece.start as usize);
                libc::mincore(at, piece.len() as usize, resident.as_mut_ptr()) != 0
            };
            if failed {
                continue;
            }
            let mut at = piece.start;
            let count = (piece.len() / self.page_bytes) as usize;
            for run in resident[..count].chunk_by(|a, b| (a ^ b) & 1 == 0) {
                let end = at + run.len() as u64 * self.page_bytes;
                if run[0] & 1 == 0 {
                    found(ByteRange::new(at, end));
                }
                at = end;
            }
        }
        if pages.end > mapped {
            found(ByteRange::new(pages.start.max(mapped), pages.end));
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing refers to it any more.
        unsafe { libc::munmap(self.address, self.len.get()) };
    }
}

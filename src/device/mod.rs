//! The bytes of one disk: a block device, an image file, `/dev/null`, or memory in tests.
//!
//! Positional I/O only: nothing here has a current position, so any number of threads
//! may use one device at once. Knows nothing of blocks, hashes, peers or patches.
//!
//! ```text
//!   trait Device ---- file.rs    regular files and block devices (holes, cache hints)
//!                |              (open.rs: which are opened, and how; busy.rs: who else uses one;
//!                |               stack.rs, carrier.rs, backing.rs: what shares bytes with one;
//!                |               identity.rs: which one it is; stamp.rs: whether it changes;
//!                |               cached.rs: what is in the page cache; residency.rs: what of it
//!                |               because of us; read_ahead.rs: asking for it in advance)
//!                \--- direct.rs  the same past the page cache, read-only
//!                \--- memory.rs  a vector of bytes
//!                \--- tolerant.rs a wrapper that reads around unreadable places
//!                \--- faulty.rs  a wrapper that fails, shortens or records calls (tests)
//! ```

mod backing;
mod busy;
mod cached;
mod direct;
#[cfg(test)]
pub mod faulty;
mod file;
mod identity;
mod memory;
mod open;
mod read_ahead;
mod residency;
mod stack;
mod stamp;
mod tolerant;

pub(crate) use cached::is_cached;
pub use direct::DirectDevice;
pub(crate) use direct::open_directly;
pub use file::{FileDevice, FileKind, SIZE_CHANGED, size_error};
pub use identity::{identity, identity_of};
pub use memory::MemoryDevice;
pub use open::{TargetOptions, open_source, open_target};
pub use read_ahead::{Planned, ReadAhead};
pub use stack::share_bytes;
pub(crate) use stamp::Stamp;
pub use tolerant::{TolerantDevice, UNREADABLE_RANGES_MAX};

use std::fs::File;
use std::path::Path;

use crate::buffer::ZEROS;
use crate::error::Result;
use crate::units::{ByteRange, FileId};

/// The bytes of one disk. Offsets and sizes are in bytes.
///
/// Implementations retry interrupted and short system calls themselves.
pub trait Device: Send + Sync {
    /// The path as the user gave it, for messages.
    fn path(&self) -> &Path;

    /// Size when it was opened, or as set by [`DeviceMut::set_size`] since.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `Kind::Read`, naming path and bytes, when fewer bytes can be read than asked for:
    /// an I/O error, or a device that became shorter than [`Device::size`].
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// The first range at or behind `from` that may hold data; everything between `from` and
    /// its start is a hole (reads as zeros without being stored). `None`: only holes are left.
    /// A device that knows no holes answers the rest of itself.
    ///
    /// # Errors
    /// `Kind::Read` when the question fails; devices that cannot answer say "all data" instead.
    fn next_data(&self, from: u64) -> Result<Option<ByteRange>>;

    /// Whether work on the device is still wanted. To be asked now and then by work that takes
    /// long without reading: hashing zeros.
    ///
    /// # Errors
    /// Whatever ended the interest in it.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Whether it was noticed, without reading it, that somebody else changed the device since
    /// it was opened for reading. Cheap. `false` where that cannot be told, as for disks.
    fn is_changed(&self) -> bool {
        false
    }

    /// Which disk it is, for the kernel of this host, if there is one behind it.
    fn id(&self) -> FileId {
        FileId::UNKNOWN
    }

    /// Bytes of the sectors by which a table of partitions counts; `None` of what is no disk.
    fn sector_bytes(&self) -> Option<u64> {
        None
    }

    /// The regular file that holds exactly the device's bytes, if that is what it is.
    fn regular_file(&self) -> Option<&File> {
        None
    }

    /// From now on, has [`Device::done_with`] leave alone what was in the cache before this
    /// device was used, where that can be told. To be called before the first use.
    fn keep_cache(&self) {}

    /// Says that `range` will be read soon, so that the disk can start. May do nothing.
    fn will_need(&self, range: ByteRange) {
        let _ = range;
    }

    /// Says that `range` will not be read again, so that its cache can go. May do nothing.
    fn done_with(&self, range: ByteRange) {
        let _ = range;
    }
}

/// Writes zeros as any other bytes.
fn write_zeros<D: DeviceMut + ?Sized>(device: &D, range: ByteRange) -> Result<()> {
    range
        .pieces(ZEROS.len() as u64)
        .try_for_each(|piece| device.write_all_at(&ZEROS[..piece.len() as usize], piece.start))
}

/// A device that can be changed.
pub trait DeviceMut: Device {
    /// Writes all of `buf` at `offset`.
    ///
    /// # Errors
    /// `Kind::Write`, naming path and bytes.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()>;

    /// Writes all `parts`, one behind the other, from `offset`.
    ///
    /// # Errors
    /// `Kind::Write`, naming path and bytes.
    fn write_all_vectored_at(&self, parts: &[&[u8]], offset: u64) -> Result<()> {
        let mut at = offset;
        for part in parts {
            self.write_all_at(part, at)?;
            at = at.saturating_add(part.len() as u64);
        }
        Ok(())
    }

    /// Makes `range` read as zeros, which need not be stored where the device knows holes or can
    /// make zeros itself.
    ///
    /// # Errors
    /// `Kind::Write`, naming path and bytes.
    fn write_zeros_at(&self, range: ByteRange) -> Result<()> {
        write_zeros(self, range)
    }

    /// Fails when something else has cut it to less than `bytes`: a write behind its end would put
    /// zeros where something was, and give it its size back.
    ///
    /// # Errors
    /// `Kind::Transmission`; `Kind::Read` when it cannot be told.
    fn expect_uncut(&self, _bytes: u64) -> Result<()> {
        Ok(())
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// `Kind::Write`, naming the path.
    fn sync(&self) -> Result<()>;

    /// Whether [`DeviceMut::set_size`] can change the size at all.
    fn can_set_size(&self) -> bool {
        true
    }

    /// Sets the size in bytes; new bytes read as zeros and are a hole.
    ///
    /// # Errors
    /// `Kind::Size` when the device cannot change its size, `Kind::Write` when it fails to.
    fn set_size(&self, size_bytes: u64) -> Result<()>;
}

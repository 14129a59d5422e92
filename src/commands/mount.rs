//! `bdsync mount`: the pending patch as a file system.

use std::path::Path;
use std::sync::Arc;

use crate::cli::{MountOptions, MountSource, Readers, SizeOptions};
use crate::device::{Device, open_source};
use crate::error::{Error, Kind, Result};
use crate::fuse::daemon::{Forked, split};
use crate::fuse::{Access, Events, Mount, Mountpoint};
use crate::report;
use crate::view::{self, Change, StoredChange, View};

/// Shows the change until the mount is gone.
///
/// # Errors
/// The one error that ended it: what is wrong with the mountpoint or the inputs before it is
/// mounted, or what went wrong since.
pub fn run(options: &MountOptions) -> Result<u8> {
    // Cheap refusals first: before another process, and before the remote side is bothered.
    let mountpoint = Mountpoint::check(&options.mountpoint, &inputs(&options.source))?;
    let background = if options.daemon {
        match split()? {
            Forked::Parent(status) => return Ok(status),
            Forked::Child(background) => {
                report::log_as_server(options.verbosity);
                Some(background)
            }
        }
    } else {
        report::log_to_stderr(options.verbosity);
        None
    };
    let change = open(&options.source)?;
    let (access, mode) = access(options.readers);
    let view = Arc::new(View::new(change, mode)?);
    let name = source_name(&options.source);
    let mount = Mount::attach(view, mountpoint, access, Events::with_signals()?)?;
    match background {
        Some(background) => background.enter()?,
        None => report::notice(&format!(
            "{name} is mounted at {}; umount, Ctrl-C or SIGTERM end it",
            mount.path().display()
        )),
    }
    mount.serve()?;
    Ok(0)
}

/// What the mount reads here.
fn inputs(source: &MountSource) -> Vec<&Path> {
    match source {
        MountSource::Live { client, .. } => vec![&client.local],
        MountSource::Stored { patch, base, .. } => vec![patch, base],
    }
}

/// What messages call the change.
fn source_name(source: &MountSource) -> String {
    match source {
        MountSource::Live { client, .. } => {
            format!("{} and its remote side", client.local.display())
        }
        MountSource::Stored { patch, .. } => patch.display().to_string(),
    }
}

fn open(source: &MountSource) -> Result<Arc<dyn Change>> {
    match source {
        MountSource::Stored { patch, base, sizes } => open_stored(patch, base, *sizes),
        MountSource::Live { .. } => {
            Err(Error::new(Kind::Usage, "the live mount is not built in yet"))
        }
    }
}

fn open_stored(patch: &Path, base: &Path, sizes: SizeOptions) -> Result<Arc<dyn Change>> {
    // Nothing is ever written to the base: it may be in use, and open for reading is enough.
    let base = Arc::new(open_source(base)?);
    let change = StoredChange::open(Arc::new(open_source(patch)?), base.clone(), sizes.rule)?;
    let patch_bytes = change.index().header().size_bytes;
    if sizes.tells_difference() && patch_bytes != base.size() {
        report::different_target_sizes(base.size(), patch_bytes);
    }
    Ok(Arc::new(change))
}

/// Who the kernel lets in, and the modes that they see.
fn access(readers: Readers) -> (Access, view::Access) {
    match readers {
        Readers::Owner => (Access::Owner, view::Access::Owner),
        Readers::OwnerAndRoot => (Access::Root, view::Access::Owner),
        Readers::Everybody => (Access::Everybody, view::Access::Everyone),
    }
}

//! Files whose content is that of a local file, byte for byte: the kernel reads them itself.
//!
//! Needs Linux 6.9 and root. Where it cannot be had, reads go through the view as all others.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{BackingId, InitFlags, KernelConfig, ReplyOpen};
use parking_lot::Mutex;

use crate::view::{Node, View};

/// The backing files that the kernel knows, and how it is told.
#[derive(Default)]
pub(super) struct Passthrough {
    offered: AtomicBool,
    /// `None`: the kernel refused it. Kept as long as the mount, because all handles of one
    /// file must be of one sort, and share one backing.
    backings: Mutex<HashMap<u64, Option<Arc<BackingId>>>>,
}

impl Passthrough {
    /// Asks the kernel whether it can.
    pub(super) fn negotiate(&self, config: &mut KernelConfig) {
        let can = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok();
        self.offered.store(can, Ordering::Relaxed);
    }

    /// The file behind `node`, if the kernel might read it instead of us. Asks the local device.
    pub(super) fn file<'a>(&self, view: &'a View, node: Node) -> Option<&'a File> {
        self.offered.load(Ordering::Relaxed).then(|| view.backing_file(node)).flatten()
    }

    /// What the kernel calls `file`, the one behind `node`, if it can and may read that.
    pub(super) fn backing(
        &self,
        node: Node,
        file: &File,
        reply: &ReplyOpen,
    ) -> Option<Arc<BackingId>> {
        let mut backings = self.backings.lock();
        let known = backings.entry(node.inode());
        known
            .or_insert_with(|| match reply.open_backing(file) {
                Ok(backing) => Some(Arc::new(backing)),
                Err(err) => {
                    log::debug!("no direct reading by the kernel: {err}");
                    None
                }
            })
            .clone()
    }
}

//! Sessions with disks that cannot be read everywhere, for the tests of this folder.

use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::session::Session;
use crate::device::{Device, MemoryDevice, TolerantDevice};
use crate::diff::{Engine, Plan, digests};
use crate::digest::{Algorithm, BlockHasher, HashPool};
use crate::error::{Error, Kind, Result};
use crate::serve;
use crate::transport;
use crate::units::{ByteRange, Direction, SizeRule};
use crate::wire::{Extensions, Opening, Peer};

/// Bytes of a block of [`skipping`].
pub(super) const BLOCK_BYTES: u64 = 4096;

/// A disk with a range that cannot be read.
#[derive(Clone)]
pub(super) struct Disk {
    bytes: Arc<MemoryDevice>,
    unreadable: ByteRange,
}

impl Disk {
    pub(super) fn new(bytes: Vec<u8>, unreadable: ByteRange) -> Self {
        Self { bytes: Arc::new(MemoryDevice::new(bytes)), unreadable }
    }
}

impl Device for Disk {
    fn path(&self) -> &Path {
        self.bytes.path()
    }

    fn size(&self) -> u64 {
        self.bytes.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let range = ByteRange::new(offset, offset + buf.len() as u64);
        match range.intersect(&self.unreadable).is_empty() {
            true => self.bytes.read_exact_at(buf, offset),
            false => Err(Error::new(Kind::Read, "broken").with_range(range)),
        }
    }

    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        self.bytes.next_data(from)
    }
}

/// A session about the common part that leaves out what cannot be read, and its server.
pub(super) fn skipping(
    direction: Direction,
    local: Disk,
    remote: Disk,
) -> (Session, JoinHandle<()>) {
    let (client, server) = transport::pair(None).unwrap();
    let remote_bytes = remote.size();
    let server = thread::spawn(move || {
        let open = move |_: &Path| Ok(Box::new(remote.clone()) as Box<dyn Device>);
        serve::session(server, Extensions::ALL, &open).unwrap();
    });
    let offer = Extensions { early: false, ..Extensions::ALL };
    let opening = Opening::connect(client, offer, b"remote").unwrap();
    let (extensions, salt, rule) = (opening.extensions(), [7; 32], SizeRule::MinSize);
    let plan = Plan::new(direction, local.size(), remote_bytes, BLOCK_BYTES, rule).unwrap();
    let hasher = BlockHasher::new(Algorithm::Blake3, &salt).unwrap();
    let peer = Peer::start(opening, &digests(&salt, &hasher, None)).unwrap();
    let local = Arc::new(TolerantDevice::new(Box::new(local)));
    let engine = Engine::leaving_out(plan, local, peer, HashPool::new().unwrap(), hasher);
    let (checksum, remote_disk) = (None, None);
    let given_up = Arc::default();
    let session = Session { engine, extensions, salt, checksum, remote_disk, given_up };
    (session, server)
}

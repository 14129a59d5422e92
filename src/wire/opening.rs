//! The first part of a session, step by step: hello, devfile, size (and disk, early), digests. No
//! threads.

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::early::Early;
use super::frame::{FrameReader, FrameWriter};
use super::handshake::{Extensions, await_server_hello, send_client_hello};
use super::link::{EXIT_GRACE, Link, LinkStream};
use super::message::Message;
use super::other::Other;
use super::request::Session;
use crate::background::{Background, later};
use crate::error::{Error, Kind, Result};
use crate::transport::Connection;
use crate::units::FileId;

/// A server says hello at once; the rest is time for a login, or for a password.
const HELLO_NOTICE: Duration = Duration::from_secs(20);
/// What is told then.
const NO_HELLO: &str = "nothing has come from the remote command yet: does it start bdsync --server, \
                        and can it log in without a password? (--timeout gives up on it)";

pub(super) type Reader = FrameReader<LinkStream<Box<dyn Read + Send>>>;
pub(super) type Writer = FrameWriter<LinkStream<Box<dyn Write + Send>>>;

/// Salt and digests of a session, as the remote is told them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Goes before every block that is hashed; 32 bytes.
    pub salt: Vec<u8>,
    /// Name of the block hash, in the protocol's spelling.
    pub hash: String,
    /// Its length in bytes; not 0.
    pub hash_bytes: usize,
    /// Bytes of a tree's hash; not 0.
    pub tree_hash_bytes: usize,
    /// Name of the checksum; empty for none.
    pub checksum: String,
    /// Its length in bytes; 0 for none.
    pub checksum_bytes: usize,
}

/// A connection on its way to becoming a [`Peer`](super::Peer). Dropping it ends REMSHCMD.
pub struct Opening {
    /// First, to be dropped first: a remote that is given up on has no time to complain.
    pub(super) guard: LinkGuard,
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    extensions: Extensions,
    size: u64,
    disk: Option<FileId>,
    pub(super) early: Option<Early>,
}

/// Ends REMSHCMD when it is dropped.
#[derive(Debug)]
pub(super) struct LinkGuard(pub(super) Arc<Link>);

impl Drop for LinkGuard {
    fn drop(&mut self) {
        self.0.control.close();
        self.0.kill();
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").field("guard", &self.guard).finish_non_exhaustive()
    }
}

impl Opening {
    /// Sends hello at once, announcing `offer`, together with the path of the device to open, and
    /// reads the remote's hello and the device's size.
    ///
    /// # Errors
    /// `Kind::Protocol` when the remote speaks another protocol, `Kind::Gone` when it went away,
    /// as one does that cannot open the device, and `Kind::Spawn` when a signal ended it, both
    /// with the end of its command, `Kind::Connection` when it stays silent for longer than the
    /// timeout.
    pub fn connect(connection: Connection, offer: Extensions, remote_path: &[u8]) -> Result<Self> {
        let Connection { reader, writer, control, remote } = connection;
        let link = Link::new(control, remote);
        let guard = LinkGuard(link.clone());
        let mut reader = FrameReader::new(LinkStream { stream: reader, link: link.clone() });
        let mut writer = FrameWriter::new(LinkStream { stream: writer, link: link.clone() });
        link.control.expect_answer();
        let device = Message::DevFile(remote_path.to_vec());
        let sent = send_client_hello(&mut writer, offer, &device);
        let watch = watch_for_hello(&link, sent.is_ok());
        let extensions = await_server_hello(&mut reader, offer, sent);
        drop(watch);
        let opening = extensions.and_then(|extensions| {
            let size = read_size(&mut reader)?;
            let disk = extensions.disk.then(|| read_disk(&mut reader)).transpose()?;
            let early = extensions.early.then(|| read_early(&mut reader)).transpose()?;
            Ok((extensions, size, disk, early))
        });
        match opening {
            Ok((extensions, size, disk, early)) => {
                link.control.rest();
                Ok(Self { guard, reader, writer, extensions, size, disk, early })
            }
            Err(err) => {
                // A command may read to its end before it ends itself.
                drop(writer);
                Err(link.explain(err))
            }
        }
    }

    /// The extensions that both sides have.
    #[must_use]
    pub fn extensions(&self) -> Extensions {
        self.extensions
    }

    /// Size of the remote device in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Which disk of its host the remote has open; `None` from one that knows of no such question.
    #[must_use]
    pub fn disk(&self) -> Option<FileId> {
        self.disk
    }

    /// The salt that the remote has drawn and answers with already: none other will do. `None`
    /// where it waits for ours.
    #[must_use]
    pub fn salt(&self) -> Option<&[u8]> {
        self.early.as_ref().map(|early| &early.salt[..])
    }

    /// Agrees on `digests`: what follows are requests and answers.
    ///
    /// # Errors
    /// `Kind::Protocol` when `digests` cannot be sent, `Kind::Digest` when they are not those that
    /// the remote answers with already (see [`Opening::salt`]).
    pub(super) fn agree(&mut self, digests: &Digests) -> Result<Session> {
        let Digests { salt, hash, hash_bytes, tree_hash_bytes, checksum, checksum_bytes } = digests;
        if *hash_bytes == 0 || *tree_hash_bytes == 0 {
            return Err(Error::new(Kind::Digest, format!("digest {hash} has no length")));
        }
        if self.salt().is_some_and(|drawn| drawn != &salt[..]) {
            return Err(Error::new(Kind::Digest, "the remote has drawn another salt"));
        }
        let message =
            Message::Digests { salt: salt.clone(), hash: hash.clone(), checksum: checksum.clone() };
        let sent = self.writer.write(&message).and_then(|()| self.writer.flush());
        sent.map_err(|err| self.guard.0.explain(err))?;
        Ok(Session {
            size: self.size,
            hash_bytes: *hash_bytes,
            tree_hash_bytes: *tree_hash_bytes,
            checksum_bytes: *checksum_bytes,
            extensions: self.extensions,
        })
    }
}

/// Tells when the remote keeps silent, which no server does, so that nobody looks at nothing for
/// hours. One that took no hello is not waited for: what it has said, the reason perhaps, is there
/// by then.
fn watch_for_hello(link: &Arc<Link>, is_sent: bool) -> Option<Background<Sender<()>>> {
    if is_sent {
        return later("hello watch", HELLO_NOTICE, || log::warn!("{NO_HELLO}"));
    }
    let link = Arc::clone(link);
    later("hello watch", EXIT_GRACE, move || link.control.close())
}

fn read_early(reader: &mut Reader) -> Result<Early> {
    match reader.expect_message()? {
        Message::Early { salt, looks } => Ok(Early { salt, looks }),
        other => Err(Other::Server.unexpected("early", &other)),
    }
}

fn read_disk(reader: &mut Reader) -> Result<FileId> {
    match reader.expect_message()? {
        Message::Disk(id) => Ok(id),
        other => Err(Other::Server.unexpected("disk", &other)),
    }
}

fn read_size(reader: &mut Reader) -> Result<u64> {
    match reader.expect_message()? {
        Message::Size(size) => Ok(size),
        other => Err(Other::Server.unexpected("size", &other)),
    }
}

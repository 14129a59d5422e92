//! From `fuser`'s calls to the view's questions, and from its answers to replies.
//!
//! No policy, and no waiting: every request whose answer may take time is parked, and the
//! view's answer is sent from whatever thread has it. Inode numbers are the view's, computed,
//! so there is nothing to look up or to forget.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents,
    PollFlags, PollNotifier, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyXattr, Request,
};
use nix::unistd::{getgid, getuid};

use super::gate::Gate;
use super::parked::{PARKED_REQUESTS_MAX, Parking, Refuse, Ticket};
use super::passthrough::Passthrough;
use super::snapshots::{NO_SNAPSHOT, Snapshots};
use crate::error::{Error, Kind, Result};
use crate::report::FailedReads;
use crate::view::{Attr, Done, Entry, Node, Part, View, Whence};

/// How long the kernel may believe a name: names stay what they are. Not that of a file whose size
/// is not known: with every `open` it then asks for the size, at which sendfile(2) and the like
/// stop.
const NAME_TTL: Duration = Duration::from_secs(24 * 3600);
/// How long it may believe attributes with an exact size.
const ATTR_TTL: Duration = Duration::from_secs(1);
/// What a read costs least with, for `stat` and buffered readers, in bytes.
const IO_BYTES: u32 = 128 * 1024;
/// Unit of `statfs`, in bytes.
const STATFS_BYTES: u32 = 4096;
/// Requests that may be under way for nobody's system call alone: those of read-ahead and of direct
/// reads. What is more waits in the kernel, where no signal reaches it, behind readers that may
/// wait for the remote side. Half of what may be parked, which leaves room for all others.
const BACKGROUND_REQUESTS: u16 = (PARKED_REQUESTS_MAX / 2) as u16;
/// One file or name never becomes another one.
const GENERATION: Generation = Generation(0);

/// The file system as `fuser` calls it.
pub(super) struct Adapter {
    shared: Arc<Shared>,
    parking: Parking,
    ended: Box<dyn Fn() + Send + Sync>,
}

/// What an answer needs, on whatever thread it comes.
struct Shared {
    view: Arc<View>,
    passthrough: Passthrough,
    snapshots: Snapshots,
    gate: Gate,
    uid: u32,
    gid: u32,
    failed_reads: FailedReads,
}

impl Adapter {
    /// For a session of so many threads, at least two. Calls `ended` once the kernel has let go of
    /// the mount.
    ///
    /// # Errors
    /// `Kind::Open` when no thread can be started.
    pub(super) fn new(
        view: Arc<View>,
        session_threads: usize,
        ended: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self> {
        let shared = Shared {
            view,
            passthrough: Passthrough::default(),
            snapshots: Snapshots::default(),
            gate: Gate::start(session_threads - 1)?,
            uid: getuid().as_raw(),
            gid: getgid().as_raw(),
            failed_reads: FailedReads::default(),
        };
        Ok(Self { shared: Arc::new(shared), parking: Parking::start()?, ended: Box::new(ended) })
    }

    /// Parks the request, which wants `part` of `inode`, and goes on once it is known which node
    /// that is.
    fn with_node<R: Refuse>(
        &self,
        request: &Request,
        inode: INodeNo,
        part: Part,
        reply: R,
        go_on: impl FnOnce(&Arc<Shared>, Node, Ticket<R>) + Send + 'static,
    ) {
        let may_wait = self.shared.view.may_wait(inode.0, part);
        let Some(ticket) = self.parking.park(request.pid(), may_wait, reply) else { return };
        let number = ticket.number();
        let shared = Arc::clone(&self.shared);
        let found = move |node: Result<Option<Node>>| match node {
            Ok(Some(node)) => go_on(&shared, node, ticket),
            Ok(None) => refuse(ticket, Errno::ENOENT),
            Err(err) => shared.fail(ticket, &err),
        };
        let ask = move |shared: &Arc<Shared>| shared.view.node(inode.0, Box::new(found));
        // To find out what differs, the local device is looked at. Content is guarded where it is
        // read.
        if may_wait && part != Part::Content {
            self.shared.with_gate(ask);
        } else {
            ask(&self.shared);
        }
        self.parking.note_process(number);
    }
}

impl Shared {
    /// Answers with the view's answer, once it comes.
    fn answer<R: Refuse, T: 'static>(
        self: &Arc<Self>,
        ticket: Ticket<R>,
        send: impl FnOnce(&Self, R, T) + Send + 'static,
    ) -> Done<T> {
        let shared = Arc::clone(self);
        Box::new(move |answer| match answer {
            Ok(answer) => {
                if let Some(reply) = ticket.take() {
                    send(&shared, reply, answer);
                }
            }
            Err(err) => shared.fail(ticket, &err),
        })
    }

    /// Does what may read the local device, which may be a while in coming.
    fn with_gate(self: &Arc<Self>, work: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let shared = Arc::clone(self);
        self.gate.pass(move || work(&shared));
    }

    /// The one place where an error becomes an errno and a line of the log.
    fn fail<R: Refuse>(&self, ticket: Ticket<R>, err: &Error) {
        let Some(reply) = ticket.take() else { return };
        reply.refuse(Errno::from_i32(err.kind().errno()));
        // Only now: who reads what we say may be a while in coming.
        if !matches!(err.kind(), Kind::Interrupted(_)) {
            self.failed_reads.tell(err);
        }
    }

    /// Content never changes, so the kernel may keep it. A file whose size is not known is read
    /// past the kernel's cache, which would stop at the size; so is the one that does change.
    /// sendfile(2) and the like go through the cache all the same, which an opening empties.
    ///
    /// The reply is taken after the local device was asked, so that nobody waits for that who wants
    /// to end.
    fn open(&self, node: Node, ticket: Ticket<ReplyOpen>) {
        let file = self.passthrough.file(&self.view, node);
        let text = (node == Node::Status).then(|| self.view.status());
        let Some(reply) = ticket.take() else { return };
        if let Some(text) = text {
            reply.opened(self.snapshots.keep(text), FopenFlags::FOPEN_DIRECT_IO);
        } else if let Some(file) = file
            && let Some(backing) = self.passthrough.backing(node, file, &reply)
        {
            reply.opened_passthrough(NO_SNAPSHOT, FopenFlags::empty(), &backing);
        } else if self.view.is_cacheable(node) {
            reply.opened(NO_SNAPSHOT, FopenFlags::FOPEN_KEEP_CACHE);
        } else {
            reply.opened(NO_SNAPSHOT, FopenFlags::FOPEN_DIRECT_IO);
        }
    }

    fn file_attr(&self, attr: &Attr) -> FileAttr {
        FileAttr {
            ino: INodeNo(attr.inode),
            size: attr.size_bytes,
            blocks: attr.blocks,
            atime: attr.time,
            mtime: attr.time,
            ctime: attr.time,
            crtime: attr.time,
            kind: if attr.is_dir { FileType::Directory } else { FileType::RegularFile },
            perm: attr.mode,
            nlink: attr.links,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: IO_BYTES,
            flags: 0,
        }
    }
}

/// A size of 0 stands for one that is not known yet: the next `stat` asks again.
fn ttl(attr: &Attr) -> Duration {
    if is_size_known(attr) { ATTR_TTL } else { Duration::ZERO }
}

fn name_ttl(attr: &Attr) -> Duration {
    if is_size_known(attr) { NAME_TTL } else { Duration::ZERO }
}

fn is_size_known(attr: &Attr) -> bool {
    attr.is_dir || attr.size_bytes != 0
}

fn refuse<R: Refuse>(ticket: Ticket<R>, errno: Errno) {
    if let Some(reply) = ticket.take() {
        reply.refuse(errno);
    }
}

fn fill(mut reply: ReplyDirectory, entries: &[Entry]) {
    for Entry { node, name, cookie } in entries {
        let kind = if node.is_dir() { FileType::Directory } else { FileType::RegularFile };
        if reply.add(INodeNo(node.inode()), *cookie, kind, name) {
            break;
        }
    }
    reply.ok();
}

fn fill_plus(shared: &Shared, mut reply: ReplyDirectoryPlus, entries: &[Entry]) {
    for Entry { node, name, cookie } in entries {
        let attr = shared.view.attr(*node);
        let (inode, ttl) = (INodeNo(attr.inode), ttl(&attr));
        if reply.add(inode, *cookie, name, &ttl, &shared.file_attr(&attr), GENERATION) {
            break;
        }
    }
    reply.ok();
}

macro_rules! refusals {
    ($($reply:ty),*) => { $(
        impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        }
    )* };
}

refusals!(
    ReplyAttr,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEntry,
    ReplyLseek,
    ReplyOpen
);

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What the kernel lacks of these is done without.
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        let _ = config.add_capabilities(InitFlags::FUSE_DO_READDIRPLUS);
        let _ = config.add_capabilities(InitFlags::FUSE_READDIRPLUS_AUTO);
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        let _ = config.set_max_background(BACKGROUND_REQUESTS);
        self.shared.passthrough.negotiate(config);
        Ok(())
    }

    fn destroy(&mut self) {
        (self.ended)();
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.with_node(request, parent, Part::Names, reply, move |shared, parent, ticket| {
            let send = |shared: &Shared, reply: ReplyEntry, found: Option<Node>| match found {
                Some(node) => {
                    let attr = shared.view.attr(node);
                    let full = shared.file_attr(&attr);
                    reply.entry_with_ttls(&ttl(&attr), &name_ttl(&attr), &full, GENERATION);
                }
                None => reply.error(Errno::ENOENT),
            };
            shared.view.lookup(parent, &name, shared.answer(ticket, send));
        });
    }

    fn getattr(&self, request: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.with_node(request, inode, Part::Attributes, reply, |shared, node, ticket| {
            let attr = shared.view.attr(node);
            if let Some(reply) = ticket.take() {
                reply.attr(&ttl(&attr), &shared.file_attr(&attr));
            }
        });
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        self.with_node(request, inode, Part::Attributes, reply, |shared, node, ticket| {
            shared.with_gate(move |shared| shared.open(node, ticket));
        });
    }

    fn read(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if let Some(text) = self.shared.snapshots.read(handle, offset, len) {
            return reply.data(&text);
        }
        self.with_node(request, inode, Part::Content, reply, move |shared, node, ticket| {
            let send = |_: &Shared, reply: ReplyData, data: Vec<u8>| reply.data(&data);
            shared.with_gate(move |shared| {
                shared.view.read(node, offset, len, shared.answer(ticket, send));
            });
        });
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.shared.snapshots.forget(handle);
        reply.ok();
    }

    fn lseek(
        &self,
        request: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let whence = match whence {
            libc::SEEK_DATA => Whence::Data,
            libc::SEEK_HOLE => Whence::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        self.with_node(request, inode, Part::Attributes, reply, move |shared, node, ticket| {
            shared.with_gate(move |shared| {
                let found = shared.view.seek(node, offset, whence);
                match found.map(|found| found.and_then(|at| i64::try_from(at).ok())) {
                    Ok(Some(at)) => ticket.take().into_iter().for_each(|reply| reply.offset(at)),
                    Ok(None) => refuse(ticket, Errno::ENXIO),
                    Err(err) => shared.fail(ticket, &err),
                }
            });
        });
    }

    fn readdir(
        &self,
        request: &Request,
        inode: INodeNo,
        _: FileHandle,
        cookie: u64,
        reply: ReplyDirectory,
    ) {
        self.with_node(request, inode, Part::Names, reply, move |shared, node, ticket| {
            let send = |_: &Shared, reply, entries: Vec<Entry>| fill(reply, &entries);
            shared.view.list(node, cookie, shared.answer(ticket, send));
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        inode: INodeNo,
        _: FileHandle,
        cookie: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.with_node(request, inode, Part::Names, reply, move |shared, node, ticket| {
            let send = |shared: &Shared, reply, found: Vec<Entry>| fill_plus(shared, reply, &found);
            shared.view.list(node, cookie, shared.answer(ticket, send));
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let size_bytes = self.shared.view.attr(Node::Merged).size_bytes;
        let blocks = size_bytes.div_ceil(u64::from(STATFS_BYTES));
        reply.statfs(blocks, 0, 0, 0, 0, STATFS_BYTES, 255, STATFS_BYTES);
    }

    // What follows the kernel asks once, and then never again. `fuser` would log each.

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }
}

//! The client: compares with the remote side and writes the patch to stdout.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::bounded;

use super::input;
use super::session::{Ends, Session};
use crate::cli::ClientOptions;
use crate::device::identity;
use crate::diff::{Engine, Sink, walk};
use crate::digest::{Algorithm, Digest, Scratch, checksum, hash_range};
use crate::error::{Error, Kind, Result};
use crate::patch::{BaseMaker, Checksum, Header, PatchWriter, Seal};
use crate::progress::Progress;
use crate::report;
use crate::units::{ByteRange, Direction, MIB, Priority};
use crate::wire::{Answer, Extensions, Request};

/// A classic server is told every so many bytes that what lies below is done.
const RELEASE_BYTES: u64 = 64 * MIB;

/// Runs the client with `output` for the patch; returns REMSHCMD's own exit status.
///
/// # Errors
/// The first failure of either side or of `output`; the patch is then incomplete, without its
/// end mark.
pub fn run(options: &ClientOptions, output: impl Write) -> Result<u8> {
    report::log_to_stderr(options.verbosity);
    let session = Session::open(&Ends::of(options), &options.compare, options.sizes)?;
    let outcome = make_patch(&session, options, output);
    let peer = session.engine.peer();
    match outcome {
        Ok(()) => {
            let status = exit_status(peer.finish()?);
            super::left_out::tell(&session.engine, options).map_or(Ok(status), Err)
        }
        Err(err) => {
            peer.abort(err.duplicate());
            Err(err)
        }
    }
}

/// REMSHCMD's exit status, which becomes ours; one that a signal ended is an error before.
pub(super) fn exit_status(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// The target's name as it stands in a patch: the path as it was given.
pub(super) fn target_name(options: &ClientOptions) -> &[u8] {
    match options.direction {
        Direction::Push => options.remote.as_bytes(),
        Direction::Pull => options.local.as_os_str().as_bytes(),
    }
}

fn make_patch(session: &Session, options: &ClientOptions, output: impl Write) -> Result<()> {
    let engine = &session.engine;
    let plan = engine.plan();
    let header = Header { size_bytes: plan.header_bytes, name: target_name(options).to_vec() };
    if options.compare.flush_cache {
        engine.local().keep_cache();
    }
    let checksum = session.checksum.map(|algorithm| SourceChecksum::start(engine, algorithm));
    let progress = super::progress(options.progress);
    progress.begin(plan.compared.end);
    if options.compare.flush_cache {
        hint(engine, 0, 0);
    }
    let algorithm = engine.hasher().algorithm();
    let base = || BaseMaker::new(plan.block_bytes, algorithm, &session.salt);
    let output = input::encoded(output, options.compression)?;
    let mut sink = PatchSink {
        engine,
        writer: if options.seal {
            PatchWriter::new_sealed(output, &header)?
        } else {
            PatchWriter::new(output, &header)?
        },
        base: options.seal.then(base),
        scratch: Scratch::new(),
        progress: &*progress,
        flush_cache: options.compare.flush_cache,
        releases: session.extensions == Extensions::NONE && !options.compare.flush_cache,
        reached: 0,
        released: 0,
    };
    walk(engine, session.density(), &mut sink)?;
    let PatchSink { writer, base, .. } = sink;
    let checksum = match (checksum, options.compare.checksum.as_deref()) {
        // Of bytes that were left out nobody knows what the target holds afterwards.
        (Some(_), _) if super::left_out::is_any(engine) => {
            log::warn!("the patch carries no checksum: some of the source was left out");
            None
        }
        (Some(checksum), Some(name)) => {
            let digest = checksum.finish(engine)?;
            Some(Checksum { name: name.as_bytes().to_vec(), digest })
        }
        _ => None,
    };
    let output = match base {
        None => writer.finish(checksum.as_ref())?,
        Some(base) => {
            let seal = seal_of(engine, options, base);
            writer.finish_sealed(checksum.as_ref(), &seal)?
        }
    };
    input::finish(output)?;
    if options.compare.flush_cache {
        let local = engine.local();
        local.done_with(ByteRange::new(0, local.size()));
    }
    progress.finish();
    Ok(())
}

/// What the patch says of the two devices. Of the remote one path and size are all that is known.
fn seal_of(engine: &Engine, options: &ClientOptions, base: BaseMaker) -> Seal {
    let local = identity(&**engine.local());
    let mut remote = [b"path=", options.remote.as_bytes()].concat();
    remote.extend(format!("\nsize={}\n", engine.plan().remote_bytes).bytes());
    let (source, target) = match engine.plan().direction {
        Direction::Push => (local, remote),
        Direction::Pull => (remote, local),
    };
    Seal { resize: false, base: Some(base.finish()), source, target }
}

/// Sends a hint; its echo says nothing, and a link that failed shows elsewhere.
pub(super) fn hint(engine: &Engine, start: u64, step: u64) {
    engine.peer().submit(Request::Hint { start, step }, Priority::Scan, Box::new(drop));
}

/// Writes what the walk finds, and lets go of what lies behind it.
struct PatchSink<'a, W> {
    engine: &'a Engine,
    writer: PatchWriter<W>,
    /// What the target held, for a seal.
    base: Option<BaseMaker>,
    scratch: Scratch,
    progress: &'a dyn Progress,
    flush_cache: bool,
    /// Whether the server is to be told what is done; ours needs no telling.
    releases: bool,
    reached: u64,
    released: u64,
}

impl<W: Write> Sink for PatchSink<'_, W> {
    fn block(&mut self, offset: u64, data: &[u8], target_hash: &[u8]) -> Result<()> {
        let range = ByteRange::new(offset, offset + data.len() as u64);
        if self.engine.left_out().is_some_and(|left_out| left_out.touches(range)) {
            return Ok(());
        }
        if let Some(base) = &mut self.base {
            if target_hash.is_empty() {
                base.add(offset, &local_hash(self.engine, offset, &mut self.scratch)?);
            } else {
                base.add(offset, target_hash);
            }
        }
        self.writer.write_block(offset, data)
    }

    fn reached(&mut self, position: u64) -> Result<()> {
        if self.flush_cache {
            self.engine.local().done_with(ByteRange::new(self.reached, position));
        }
        let end = self.engine.plan().compared.end;
        if self.releases && (position - self.released >= RELEASE_BYTES || position == end) {
            hint(self.engine, position, 1);
            self.released = position;
        }
        self.reached = position;
        self.progress.advance(position, self.writer.patch_bytes());
        Ok(())
    }
}

/// The hash of the local block at `offset`. Of a pull the local hashes are compared and let go;
/// the few blocks that differ are still in the page cache.
fn local_hash(engine: &Engine, offset: u64, scratch: &mut Scratch) -> Result<Vec<u8>> {
    let block_bytes = engine.plan().block_bytes;
    hash_range(&**engine.local(), engine.hasher(), offset, block_bytes, 1, scratch)
}

/// The digest of the whole source, made beside the walk.
enum SourceChecksum {
    /// Push: of the local device, on a thread of its own.
    Local(JoinHandle<Result<Digest>>),
    /// Pull: the server makes it; it is asked for at the end.
    Remote,
}

impl SourceChecksum {
    fn start(engine: &Arc<Engine>, algorithm: Algorithm) -> Self {
        match engine.plan().direction {
            Direction::Pull => Self::Remote,
            Direction::Push => {
                let local = Arc::clone(engine.local());
                let work = move || checksum(&*local, algorithm, &mut |_| Ok(()));
                Self::Local(std::thread::spawn(work))
            }
        }
    }

    fn finish(self, engine: &Engine) -> Result<Vec<u8>> {
        match self {
            Self::Local(thread) => match thread.join() {
                Ok(digest) => Ok(digest?.to_vec()),
                Err(panic) => std::panic::resume_unwind(panic),
            },
            Self::Remote => {
                let (sender, receiver) = bounded(1);
                let done = Box::new(move |answer| drop(sender.send(answer)));
                engine.peer().submit(Request::Checksum, Priority::Scan, done);
                match receiver.recv() {
                    Ok(Ok(Answer::Checksum(value))) => Ok(value),
                    Ok(Err(err)) => Err(err),
                    Ok(Ok(_)) | Err(_) => {
                        Err(Error::new(Kind::Checksum, "the remote sent no checksum"))
                    }
                }
            }
        }
    }
}

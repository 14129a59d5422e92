//! The client: compares with the remote side and writes the patch to stdout.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitStatus;
use std::sync::Arc;

use super::counted::Counted;
use super::input;
use super::record::Record;
use super::session::{Reading, Session};
use super::touched::Touched;
use super::trailer_checksum::TrailerChecksum;
use crate::cli::{ClientOptions, CompareOptions, SessionOptions, is_command};
use crate::device::{identity, identity_of};
use crate::diff::{Afterwards, Engine, Sink, walk};
use crate::digest::{Scratch, hash_range};
use crate::error::{Error, Kind, Result};
use crate::patch::{BaseMaker, Checksum, Header, PatchWriter, Seal};
use crate::progress::{Part, Progress};
use crate::report;
use crate::units::{ByteRange, Direction, MIB, Priority};
use crate::wire::{Extensions, Request};

/// A classic server is told every so many bytes that what lies below is done.
const RELEASE_BYTES: u64 = 64 * MIB;

/// Runs the client with `output` for the patch; returns REMSHCMD's own exit status.
///
/// # Errors
/// The first failure of either side or of `output`; the patch is then incomplete, without its
/// end mark.
pub fn run(options: &ClientOptions, record: &Record, output: impl Write) -> Result<u8> {
    report::log_to_stderr(options.reporting.verbosity);
    let progress = super::progress(options.reporting.progress)?;
    let SessionOptions { remote_command, local, remote, compare, .. } = &options.session;
    let session = Session::open(&options.session, Reading::Whole)
        .map_err(unstarted)
        .inspect_err(|_| warn_of_command(remote_command))?;
    session.describe(remote, record);
    let name = target_name(&options.session);
    let sealed_for = options.seal.then_some(remote.as_os_str());
    let job = Job {
        session: &session,
        name,
        compare,
        sealed_for,
        closes: true,
        only_counts: false,
        is_applied: false,
        record,
    };
    let outcome = input::encoded(output, options.compression)
        .and_then(|output| job.make_patch(&progress, output, None))
        .and_then(input::finish);
    let peer = session.engine.peer();
    let outcome = match outcome {
        Ok(()) => peer.finish().map(exit_status).and_then(|status| {
            if status != 0 {
                log::warn!(
                    "the patch is complete, but the remote command exited with status {status}: \
                     so does bdsync"
                );
            }
            let what_became = "and are not in the patch";
            let sides = [("local", local.as_os_str()), ("remote", remote.as_os_str())];
            super::left_out::tell(&session.engine, sides, what_became).map_or(Ok(status), Err)
        }),
        Err(err) => {
            session.give_up(err.duplicate());
            Err(err)
        }
    };
    record.add_traffic(peer.counters());
    if let Ok(0) = outcome {
        progress.finish();
    }
    outcome
}

/// Of a REMSHCMD that is called like a command of ours and answered nothing that a server says.
fn warn_of_command(remote_command: &OsStr) {
    if is_command(remote_command) {
        let name = remote_command.to_string_lossy();
        log::warn!(
            "'{name}' was taken for REMSHCMD: a command of bdsync comes first, before all options \
             and with all its operands (see bdsync help {name})"
        );
    }
}

/// `err`, or what more there is to say of a REMSHCMD that is not found: somebody may have meant
/// one of our commands.
fn unstarted(err: Error) -> Error {
    let is_missing =
        err.cause::<io::Error>().is_some_and(|cause| cause.kind() == io::ErrorKind::NotFound);
    match err.path().map(|program| program.as_os_str().as_bytes()) {
        Some(program) if err.kind() == Kind::Spawn && is_missing && !program.contains(&b'/') => {
            let what = "cannot start the remote command, which is no command of bdsync either";
            Error::io(Kind::Spawn, what, io::Error::from_raw_os_error(libc::ENOENT))
                .with_path(OsStr::from_bytes(program))
        }
        _ => err,
    }
}

/// REMSHCMD's exit status, which becomes ours; one that a signal ended is an error before.
pub(super) fn exit_status(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// The target's name as it stands in a patch: the path as it was given.
pub(super) fn target_name(options: &SessionOptions) -> &[u8] {
    match options.direction {
        Direction::Push => options.remote.as_bytes(),
        Direction::Pull => options.local.as_os_str().as_bytes(),
    }
}

/// A patch to be made from an open session.
pub struct Job<'a> {
    /// Both sides.
    pub session: &'a Session,
    /// The device that the patch is for, as it is named in there.
    pub name: &'a [u8],
    /// How to compare.
    pub compare: &'a CompareOptions,
    /// For a sealed patch: what the remote device is called.
    pub sealed_for: Option<&'a OsStr>,
    /// Whether nothing is asked of the remote once the patch is made.
    pub closes: bool,
    /// Whether the patch is only counted: a pull then fetches nothing that it would carry.
    pub only_counts: bool,
    /// Whether the patch goes to a process that applies it for us: what becomes of it is told here.
    pub is_applied: bool,
    /// Where the result is kept.
    pub record: &'a Record,
}

impl Job<'_> {
    /// Compares everything and writes the patch to `output`; the ranges that it changes are
    /// added to `touched`. Returns `output`.
    ///
    /// # Errors
    /// The first failure of either side or of `output`; the patch is then without its end mark.
    pub fn make_patch<W: Write>(
        &self,
        progress: &Arc<dyn Progress>,
        output: W,
        touched: Option<&mut Touched>,
    ) -> Result<W> {
        let engine = &self.session.engine;
        if self.compare.flush_cache {
            engine.local().keep_cache();
        }
        let start = |algorithm| TrailerChecksum::start(self.session, algorithm, progress);
        let checksum = self.session.checksum.map(start).transpose()?;
        if checksum.is_some() && self.is_of_more() {
            self.warn_of_larger_source();
        }
        // First, because whoever takes the patch may have to ask the user for something.
        let mut sink = self.sink(&**progress, Counted::new(output, |_| {}), touched)?;
        progress.begin(Part::Comparing, Some(engine.plan().compared.end));
        if self.compare.flush_cache {
            hint(engine, 0, 0);
        }
        let walked = walk(engine, self.session.density(), self.afterwards(), &mut sink);
        let PatchSink { writer, base, differing: (blocks, bytes), reached, .. } = sink;
        self.record.tell(|facts| {
            // Behind the end of the patch nothing is compared, only cut off.
            facts.compared_bytes = Some(reached.min(engine.plan().header_bytes));
            facts.differing_blocks = Some(blocks);
            facts.differing_bytes = Some(bytes);
            facts.patch_bytes = Some(writer.patch_bytes());
        });
        walked?;
        let checksum = match (checksum, self.compare.checksum.as_deref()) {
            (Some(checksum), Some(name)) => {
                self.finish_checksum(checksum, name.as_bytes(), &**progress)?
            }
            _ => None,
        };
        let output = match base.zip(self.sealed_for) {
            None => writer.finish(checksum.as_ref())?,
            Some((base, remote)) => {
                writer.finish_sealed(checksum.as_ref(), &seal_of(engine, remote, base))?
            }
        };
        self.record.tell(|facts| facts.patch_bytes = Some(output.count()));
        if self.compare.flush_cache {
            let local = engine.local();
            local.done_with(ByteRange::new(0, local.size()));
        }
        Ok(output.into_inner())
    }

    /// The checksum for the patch, by its `name`; none where that would not be the target's.
    fn finish_checksum(
        &self,
        checksum: TrailerChecksum,
        name: &[u8],
        progress: &dyn Progress,
    ) -> Result<Option<Checksum>> {
        let engine = &self.session.engine;
        // Of bytes that were left out nobody knows what the target holds afterwards.
        if super::left_out::is_any(engine) {
            log::warn!("the patch carries no checksum: some of the source was left out");
            return Ok(None);
        }
        let digest = match (checksum.finish(engine, progress), engine.left_out()) {
            (Err(err), Some(left_out)) if err.kind() == Kind::Read => {
                log::warn!("the patch carries no checksum: some of the source cannot be read");
                left_out.leave_out_checksum(err);
                return Ok(None);
            }
            (digest, _) => digest?,
        };
        self.record.tell_checksum(name, &digest);
        if self.is_applied && self.is_of_more() {
            report::checksum(name, &digest);
            return Ok(None);
        }
        Ok(Some(Checksum { name: name.to_vec(), digest }))
    }

    /// Whether the source is larger than what is compared. Its checksum is of all of it, as the
    /// classic's is.
    fn is_of_more(&self) -> bool {
        let plan = self.session.engine.plan();
        plan.header_bytes < plan.source_and_target_bytes().0
    }

    /// Who applies the patch is told by nothing in it that there was more.
    fn warn_of_larger_source(&self) {
        let plan = self.session.engine.plan();
        let (source_bytes, _) = plan.source_and_target_bytes();
        let then = match self.is_applied {
            true => "it is not compared with the target",
            false => {
                "--patch will end with exit status 5 because of it, or only warn with \
                 --diffsize=minsize"
            }
        };
        log::warn!(
            "the checksum is of all {source_bytes} bytes of the source, {} of which are compared: \
             {then}",
            plan.header_bytes
        );
    }

    /// What the remote is asked for behind the walk: its checksum.
    fn afterwards(&self) -> Afterwards {
        let asks_checksum = self.session.checksum.is_some()
            && self.session.engine.plan().direction == Direction::Pull;
        match self.closes && !asks_checksum {
            true if self.session.extensions != Extensions::NONE => Afterwards::Nothing,
            _ => Afterwards::Requests,
        }
    }

    /// Begins the patch.
    fn sink<'s, W: Write>(
        &'s self,
        progress: &'s dyn Progress,
        output: W,
        touched: Option<&'s mut Touched>,
    ) -> Result<PatchSink<'s, W>> {
        let Session { engine, salt, extensions, .. } = self.session;
        let plan = engine.plan();
        let header = Header { size_bytes: plan.header_bytes, name: self.name.to_vec() };
        let base = self
            .sealed_for
            .map(|_| BaseMaker::new(plan.block_bytes, engine.hasher().algorithm(), salt));
        let mut writer = match &base {
            Some(_) => PatchWriter::new_sealed(output, &header)?,
            None => PatchWriter::new(output, &header)?,
        };
        // Whoever applies the patch as it comes shall find out at once if the device is in use.
        writer.flush()?;
        Ok(PatchSink {
            engine,
            writer,
            base,
            scratch: Scratch::new(),
            progress,
            touched,
            differing: (0, 0),
            only_counts: self.only_counts,
            flush_cache: self.compare.flush_cache,
            releases: self.closes && *extensions == Extensions::NONE && !self.compare.flush_cache,
            reached: 0,
            released: 0,
        })
    }
}

/// What the patch says of the two devices. Of the remote one path and size are all that is known.
fn seal_of(engine: &Engine, remote: &OsStr, base: BaseMaker) -> Seal {
    let local = identity(&**engine.local());
    let remote = identity_of(remote.as_bytes(), engine.plan().remote_bytes);
    let (source, target) = engine.plan().direction.source_and_target(local, remote);
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
    touched: Option<&'a mut Touched>,
    /// Blocks that differ, and bytes in them.
    differing: (u64, u64),
    only_counts: bool,
    flush_cache: bool,
    /// Whether the server is to be told what is done; ours needs no telling.
    releases: bool,
    reached: u64,
    released: u64,
}

impl<W: Write> PatchSink<'_, W> {
    fn tell(&self, position_bytes: u64) {
        self.progress.patch_grows(self.writer.patch_bytes());
        self.progress.advance(position_bytes, self.differing.1);
    }
}

impl<W: Write> Sink for PatchSink<'_, W> {
    fn block(&mut self, offset: u64, data: &[u8], target_hash: &[u8]) -> Result<()> {
        let range = ByteRange::new(offset, offset + data.len() as u64);
        let own_hash = match self.base.is_some() && target_hash.is_empty() {
            true => Some(local_hash(self.engine, offset, &mut self.scratch)?),
            false => None,
        };
        // Behind all reading of it, by which that becomes known.
        if self.engine.left_out().is_some_and(|left_out| left_out.touches(range)) {
            return Ok(());
        }
        if let Some(base) = &mut self.base {
            base.add(offset, own_hash.as_deref().unwrap_or(target_hash));
        }
        let bytes = data.len() as u64;
        self.differing.0 += 1;
        self.differing.1 += bytes;
        if let Some(touched) = &mut self.touched {
            touched.add(ByteRange::new(offset, offset + bytes));
        }
        self.writer.write_block(offset, data)?;
        self.tell(range.end);
        Ok(())
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
        self.tell(position);
        Ok(())
    }

    fn wants_bytes(&self) -> bool {
        !self.only_counts
    }
}

/// The hash of the local block at `offset`. Of a pull the local hashes are compared and let go;
/// the few blocks that differ are still in the page cache.
fn local_hash(engine: &Engine, offset: u64, scratch: &mut Scratch) -> Result<Vec<u8>> {
    let block_bytes = engine.plan().block_bytes;
    hash_range(&**engine.local(), engine.hasher(), offset, block_bytes, 1, scratch)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BLOCK_BYTES, Disk, skipping};
    use super::*;
    use crate::digest::Algorithm;
    use crate::progress::Silent;

    #[test]
    fn a_block_that_cannot_be_read_again_for_the_seal_is_left_out() {
        let (block, bytes) = (ByteRange::new(0, BLOCK_BYTES), vec![1; BLOCK_BYTES as usize]);
        for (unreadable, blocks) in [(block, 0), (ByteRange::new(0, 0), 1)] {
            // It was compared before.
            let local = Disk::new(bytes.clone(), unreadable);
            let remote = Disk::new(bytes.clone(), ByteRange::new(0, 0));
            let (session, server) = skipping(Direction::Pull, local, remote);
            let header = Header { size_bytes: BLOCK_BYTES, name: b"target".to_vec() };
            let output = Counted::new(Vec::new(), |_| {});
            let mut sink = PatchSink {
                engine: &session.engine,
                writer: PatchWriter::new_sealed(output, &header).unwrap(),
                base: Some(BaseMaker::new(BLOCK_BYTES, Algorithm::Blake3, &[7; 32])),
                scratch: Scratch::new(),
                progress: &Silent,
                touched: None,
                differing: (0, 0),
                only_counts: false,
                flush_cache: false,
                releases: false,
                reached: 0,
                released: 0,
            };
            sink.block(0, &[2; BLOCK_BYTES as usize], &[]).unwrap();
            assert_eq!(sink.differing, (blocks, blocks * BLOCK_BYTES));
            drop(sink);
            assert_eq!(super::super::left_out::is_any(&session.engine), blocks == 0);
            session.engine.peer().finish().unwrap();
            server.join().unwrap();
        }
    }
}

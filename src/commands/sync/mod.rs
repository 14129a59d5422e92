//! `bdsync sync`: compares two devices and applies the differences, in one go.
//!
//! ```text
//!   sides.rs         which device is where
//!   meet.rs          opens both
//!   call.rs          the words that start a bdsync here or on the other host (pure)
//!   watch.rs         signals end what is under way
//!   target.rs        the process that writes: bdsync --patch=DST, here or there
//!   patch_input.rs   what it is given, once it has DST open
//!   failed_write.rs  what is true of the target after that failed
//!   words.rs         what both processes say
//!   finish.rs        compares again what was written
//!   check.rs         by its hashes
//!   summary.rs       the first line and the last (pure)
//!
//!   SRC --compare--> patch --pipe--> bdsync --patch=DST      push, and within one host
//!   DST --compare--> patch --pipe--> bdsync --patch=DST      pull
//! ```
//! The far side is always served by a `bdsync --server`, and the patch always goes through a
//! `bdsync --patch`: through the remote shell, or a process of this very program. So there is
//! one way to write, with all its checks, and a classic bdsync on the other host will do.

mod call;
mod check;
mod failed_write;
mod finish;
mod meet;
mod patch_input;
mod sides;
mod summary;
mod target;
#[cfg(test)]
mod testing;
mod watch;
mod words;

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::client::Job;
use super::counted::Counted;
use super::input::{self, encoded};
use super::record::{DeviceFacts, Record};
use super::session::Session;
use super::target_state::{Listener, TargetState};
use super::touched::Touched;
use crate::cli::{Place, SizeOptions, SyncOptions};
use crate::compress::LINK_LEVEL;
use crate::device::{Device, TargetOptions, open_target};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::report;
use crate::signals::{Signals, interrupted};
use crate::transport::{Manner, RemoteEnd, Throttle, ThrottledWriter};
use crate::units::{Compression, Direction, FileId, SizeRule};
use crate::wire::{Extensions, Fault};

use call::Caller;
use failed_write::{FailedWrite, near_undo_exists};
use patch_input::PatchInput;
use sides::Sides;
use target::{Finished, Sent, Target};
use watch::Stops;
use words::LastWord;

/// Makes the target equal to the source; returns the server's exit status.
///
/// # Errors
/// The one error that ended it. A target that may be partly changed has been told of.
pub fn run(options: &SyncOptions, record: &Record) -> Result<u8> {
    report::log_to_stderr(options.reporting.verbosity);
    record.tell(|facts| facts.dry_run = options.dry_run.then_some(true));
    let signals = Signals::catch()?;
    let progress = super::progress(options.reporting.progress)?;
    let sides = Sides::of(options)?;
    // It is the network that is spared, and there is none within one host.
    let rate_bytes_max = options.rate_bytes_max.filter(|_| !sides.caller.is_local());
    let throttles = rate_bytes_max.map(|rate| (Throttle::new(rate), Throttle::new(rate)));
    let outcome = watch::watched(&signals, |stops| {
        let (progress, is_ending) = (&progress, Arc::default());
        Sync { options, record, sides, throttles, progress, stops, is_ending }.run()
    })?;
    match signals.pending() {
        // What fails because of the signal is not the news.
        Some(signal) if outcome.is_err() => Err(interrupted(signal, "the sync ended")),
        _ => outcome,
    }
}

/// How writing to the target has come out; `made` is how making the patch has.
fn written(
    ended: Result<Finished>,
    made: Result<()>,
    sent: Sent,
    listener: &Listener,
) -> Result<()> {
    let what = match (&ended, &made) {
        (Ok(Finished::Itself), Err(_)) if sent == Sent::Taken => {
            "the process that writes to DST has ended without taking all of the patch"
        }
        (Ok(_), Ok(())) if listener.door().is_opened_late() => {
            "DST was opened to be written to once it was being compared, so late that what something \
             else has written there may not have been seen: run the same command again"
        }
        // Why the other end went away says more than that it did.
        _ => return ended.and(made),
    };
    Err(Error::new(Kind::Connection, what))
}

/// One run.
struct Sync<'a> {
    options: &'a SyncOptions,
    record: &'a Record,
    sides: Sides,
    /// Up and down.
    throttles: Option<(Arc<Throttle>, Arc<Throttle>)>,
    progress: &'a Arc<dyn Progress>,
    stops: &'a Stops,
    /// Whether the session is ended from here: that it has, as the server tells then, is no news.
    is_ending: Arc<AtomicBool>,
}

impl Sync<'_> {
    fn run(&self) -> Result<u8> {
        let outcome = self.compare_and_write();
        if let (Err(_), Some(created)) = (&outcome, &self.sides.created)
            // Not while somebody else is about to write to it.
            && let Ok(unused) = open_target(created, TargetOptions::default())
            && unused.size() == 0
        {
            // Nothing of it is worth keeping, nor is a word about it.
            let _ = fs::remove_file(created);
        }
        outcome
    }

    fn compare_and_write(&self) -> Result<u8> {
        let meeting = self.meet(self.create_words())?;
        self.refuse_what_the_classic_lacks(meeting.extensions())?;
        let sizes = self.sizes(&meeting);
        let both_bytes = (meeting.local_bytes(), meeting.remote_bytes());
        self.refuse_other_size(both_bytes, sizes.rule)?;
        report::notice(&summary::first_line(
            self.options,
            self.sides.direction,
            both_bytes,
            sizes.rule,
            meeting.extensions() == Extensions::NONE,
        ));
        meeting.warn_of_what_it_lacks(&self.options.compare);
        let session = meeting.agree(&self.options.compare, sizes)?;
        let engine = &session.engine;
        self.add_stop(&session);
        session.describe(&self.far_place(), self.record);
        if self.sides.caller.is_local() {
            let target = DeviceFacts::at(Path::new(&self.sides.far), engine.plan().remote_bytes);
            self.record.tell(|facts| {
                facts.direction = Some("local");
                facts.target = Some(target);
            });
        }
        let mut touched = Touched::default();
        let outcome = match self.options.dry_run {
            true => {
                let counted = self.job(&session).make_patch(self.progress, io::sink(), None);
                counted.map(drop).inspect_err(|err| self.give_up(&session, err.duplicate()))
            }
            false => self.write(&session, sizes, &mut touched),
        };
        outcome.and_then(|()| self.finish(session, sizes, &touched)).map_err(|err| self.named(err))
    }

    /// Before it is said that anything changes.
    fn refuse_other_size(&self, (near, far): (u64, u64), rule: SizeRule) -> Result<()> {
        let (source_bytes, target_bytes) = self.sides.direction.source_and_target(near, far);
        if rule != SizeRule::Strict || source_bytes == target_bytes {
            return Ok(());
        }
        let does = if source_bytes < target_bytes { "cuts" } else { "extends" };
        let what = format!(
            "nothing was changed: SRC has {source_bytes} bytes, DST {target_bytes} \
             (--diffsize=resize {does} DST, minsize changes only what both have)"
        );
        Err(Error::new(Kind::Size, what).with_path(self.options.target.as_given()))
    }

    /// Ends the session at once, because of `err`, and adds its traffic to the record.
    fn give_up(&self, session: &Session, err: Error) {
        session.give_up(err);
        self.record.add_traffic(session.engine.peer().counters());
    }

    /// How to go on after a failure; `is_full` if the target could not be written to.
    fn tell_way_on(&self, state: TargetState, is_full: bool) {
        self.record.tell(|facts| facts.target_state = Some(state.word()));
        log::warn!("{}", summary::way_on(self.options, state, is_full));
    }

    /// `err`, or of a sync within one host, which has no remote side, what DST could not be read
    /// by. Of bytes that cannot be read it is told how to go on without them.
    fn named(&self, err: Error) -> Error {
        // A device that became shorter has no such cause.
        let is_of_bytes = err.range().is_some() && err.cause::<io::Error>().is_some();
        let is_far = Fault::of(&err).is_some();
        let is_unreadable = err.kind() == Kind::Read && (is_of_bytes || is_far);
        let is_source = is_far == (self.sides.direction == Direction::Pull);
        if is_unreadable && is_source && !self.options.compare.skip_unreadable {
            report::notice("--on-read-error=skip copies the rest of SRC, and ends with status 15");
        }
        match self.sides.caller.is_local() {
            true if is_far => err.reworded("DST"),
            true if RemoteEnd::of(&err).is_some() => {
                err.reworded("the bdsync that reads DST went away")
            }
            _ => err,
        }
    }

    /// The far device as the user gave it.
    fn far_place(&self) -> OsString {
        let is_far = |place: &&Place| matches!(place, Place::Remote { .. });
        let far = [&self.options.source, &self.options.target].into_iter().find(is_far);
        far.map_or_else(|| self.sides.far.clone(), Place::as_given)
    }

    fn job<'s>(&'s self, session: &'s Session) -> Job<'s> {
        let name = match &self.options.target {
            Place::Local(path) => path.as_os_str(),
            Place::Remote { path, .. } => path,
        };
        let Self { options, record, .. } = self;
        let (name, compare) = (name.as_bytes(), &options.compare);
        let only_counts = options.dry_run;
        let closes = only_counts || !options.verify;
        let (sealed_for, is_applied) = (None, true);
        Job { session, name, compare, sealed_for, closes, only_counts, is_applied, record }
    }

    /// Makes the patch, and has `output` take it, compressed if so wished.
    fn send_patch(
        &self,
        job: &Job<'_>,
        output: impl Write,
        packs: bool,
        touched: &mut Touched,
    ) -> Result<()> {
        let sent_bytes = Cell::new(0);
        let output = Counted::new(output, |bytes| sent_bytes.set(bytes));
        let made = encoded(output, packs.then_some(Compression::Zstd(LINK_LEVEL)))
            .and_then(|output| job.make_patch(self.progress, output, Some(touched)))
            .and_then(input::finish);
        // In a pull the patch is made, and stays, on the target's host.
        if self.sides.direction == Direction::Push {
            self.record.tell(|facts| facts.patch_sent_bytes = Some(sent_bytes.get()));
        }
        made
    }

    /// Which disk the target was when it was compared; `None` where a server does not tell, of which
    /// the process that writes knows no `--sync-disk` either.
    fn compared_disk(&self, session: &Session) -> Option<FileId> {
        match session.engine.plan().direction {
            Direction::Pull => Some(session.engine.local().id()),
            Direction::Push => session.remote_disk,
        }
    }

    /// Compares, and has the differences written as they are found.
    fn write(&self, session: &Session, sizes: SizeOptions, touched: &mut Touched) -> Result<()> {
        let job = self.job(session);
        let compared = self.compared_disk(session);
        let had_undo = near_undo_exists(self.options) == Some(true);
        let (word, listener) = (LastWord::default(), Listener::default());
        let (target, mut input) = self.start(&job, sizes, compared, &word, &listener)?;
        let is_remote = matches!(self.options.target, Place::Remote { .. });
        let up = self.throttles.as_ref().filter(|_| is_remote).map(|(up, _)| Arc::clone(up));
        let output = ThrottledWriter::new(&mut input, up);
        // Between hosts only, and where the bdsync there knows that format.
        let packs = is_remote && session.extensions.zstd;
        let made = self.send_patch(&job, output, packs, touched);
        let sent = match &made {
            Ok(()) => Sent::Whole,
            Err(err) if err.kind() == Kind::Write => Sent::Taken,
            Err(_) => Sent::Part,
        };
        let ended = target.finish(input, sent);
        let ended_with = ended.as_ref().err().map(Error::kind);
        let was_killed = matches!(ended, Ok(Finished::Killed));
        let outcome = match self.taken_away_with(session, ended_with) {
            Some(end) => Err(end),
            None => written(ended, made, sent, &listener),
        };
        if let Err(err) = &outcome {
            // What the server ended with is told by it, and the cause.
            self.is_ending.fetch_or(RemoteEnd::of(err).is_none(), Ordering::SeqCst);
            self.tell_failed(&FailedWrite {
                options: self.options,
                plan: session.engine.plan(),
                rule: sizes.rule,
                ended_with,
                complete: sent == Sent::Whole,
                has_records: !touched.is_empty(),
                speaks: compared.is_some(),
                said: listener.heard(),
                heard: word.heard(),
                was_killed,
                is_renamed: self.check_name(compared).is_err(),
                had_undo,
            });
            self.give_up(session, Error::new(Kind::Write, "the target could not be written"));
        }
        outcome
    }

    /// The end of a server that had made DST on its host, and has taken it away as it failed: who is
    /// to write there finds nothing to open then, which is no cause.
    fn taken_away_with(&self, session: &Session, ended_with: Option<Kind>) -> Option<Error> {
        let (_, target_bytes) = session.engine.plan().source_and_target_bytes();
        let is_remote = matches!(self.options.target, Place::Remote { .. });
        let is_made = self.options.create && is_remote && target_bytes == 0;
        let end = session.engine.peer().last_error().filter(|err| RemoteEnd::of(err).is_some());
        end.filter(|_| is_made && ended_with == Some(Kind::Open))
    }

    /// Starts the process that writes to the target, to the disk that is `compared`, where it is told.
    fn start(
        &self,
        job: &Job<'_>,
        sizes: SizeOptions,
        compared: Option<FileId>,
        word: &LastWord,
        listener: &Listener,
    ) -> Result<(Target, PatchInput)> {
        let session = job.session;
        // The patch leaves through the remote shell only where the target is there.
        let (caller, is_classic) = match &self.options.target {
            Place::Local(_) => (&Caller::here()?, false),
            Place::Remote { .. } => (&self.sides.caller, session.extensions == Extensions::NONE),
        };
        let name = OsStr::from_bytes(job.name);
        let (_, target_bytes) = session.engine.plan().source_and_target_bytes();
        let met = compared.map(|disk| (disk, target_bytes));
        let arguments = call::patch_arguments(self.options, sizes.rule, name, is_classic, met);
        // The first bytes of the patch are waited for to be read: a bar over the prompt
        // of ssh would hide it.
        let sink = word.sink(caller.is_local());
        let connection = self.connect(&caller.patch(&arguments), sink, Manner::Consumer)?;
        let (is_ending, engine) = (Arc::clone(&self.is_ending), Arc::clone(&session.engine));
        let given_up = Arc::clone(&session.given_up);
        let is_remote = !caller.is_local();
        let on_end = move |err: Error| {
            is_ending.store(true, Ordering::SeqCst);
            let _ = given_up.set(err.duplicate());
            engine.peer().abort(err);
        };
        let (word, listener) = (word.clone(), listener.clone());
        Target::new(connection, is_remote, compared.is_some(), word, listener, on_end)
    }

    /// Tells what is true of the target, unless who writes to it has told that nothing is changed.
    fn tell_failed(&self, failed: &FailedWrite<'_>) {
        let state = failed.target_state();
        match failed.heard.told_untouched {
            true => self.record.tell(|facts| facts.target_state = Some(state.word())),
            false => self.tell_way_on(state, failed.is_full()),
        }
    }
}

//! The end of a sync: what was written is compared again, and what was left out is told.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Sync, check, summary};
use crate::cli::{Place, SizeOptions};
use crate::commands::record::Record;
use crate::commands::session::Session;
use crate::commands::target_state::TargetState;
use crate::commands::touched::Touched;
use crate::commands::{client, left_out};
use crate::device::size_error;
use crate::diff::{Engine, Plan};
use crate::error::{Error, Kind, Result};
use crate::naming::{expect_name, name_error};
use crate::report;
use crate::units::{FileId, SizeRule};

/// What the end of a run wants to know of what was before.
struct End<'a> {
    plan: &'a Plan,
    /// Which disk the target was when it was compared.
    compared: Option<FileId>,
    /// Whether the target got another size.
    resized: bool,
    /// What is true of it, once that was found on another host.
    found: Cell<Option<TargetState>>,
}

impl Sync<'_> {
    /// Lists the blocks of both sides that could not be read, in which the two may differ.
    fn tell_left_out(&self, engine: &Engine) -> Option<Error> {
        let (source, target) = (self.options.source.as_given(), self.options.target.as_given());
        let (source, target) = (("SRC", source.as_os_str()), ("DST", target.as_os_str()));
        // The near one comes first.
        let (near, far) = self.sides.direction.source_and_target(source, target);
        left_out::tell(engine, [near, far], "and were not copied")
    }

    /// Compares again what was written, ends the session and tells the result.
    pub(super) fn finish(
        &self,
        session: Session,
        sizes: SizeOptions,
        touched: &Touched,
    ) -> Result<u8> {
        let engine = Arc::clone(&session.engine);
        let (source_bytes, target_bytes) = engine.plan().source_and_target_bytes();
        let end = End {
            plan: engine.plan(),
            compared: self.compared_disk(&session),
            resized: source_bytes != target_bytes && sizes.rule == SizeRule::Resize,
            found: Cell::new(None),
        };
        let status = self.verify(session, sizes, &end, touched).inspect_err(|err| {
            // The list is news, whatever failed behind it.
            self.tell_left_out(&engine);
            let is_changed = !touched.is_empty() || end.resized;
            if self.record.facts().verified == Some(true) {
                let target = self.options.target.as_given();
                log::warn!("all is written to {}, and verified all the same", target.display());
            } else if is_changed && !self.options.dry_run {
                self.tell_way_on(self.state_unproven_by(err, &end), false);
            }
        })?;
        let cut_bytes = if end.resized { target_bytes.saturating_sub(source_bytes) } else { 0 };
        let is_whole = !left_out::is_any(&engine);
        if is_whole && status == 0 {
            self.progress.finish();
        }
        report::notice(&summary::last_line(self.options, self.record, cut_bytes, is_whole));
        self.tell_left_out(&engine).map_or(Ok(status), Err)
    }

    /// Compares again what was written, and ends the session.
    fn verify(
        &self,
        session: Session,
        sizes: SizeOptions,
        end: &End,
        touched: &Touched,
    ) -> Result<u8> {
        let verifies = self.options.verify && !self.options.dry_run;
        if verifies && !end.resized {
            self.check(&session, touched)?;
        }
        let status = end_session(&session, self.record)?;
        if verifies && end.resized {
            // The server knows the target in its old size only.
            drop(session);
            self.progress.pause();
            let meeting = self.meet(self.sides.caller.server())?;
            let again = meeting.agree(&self.options.compare, sizes)?;
            self.add_stop(&again);
            self.expect_same_disk(&again, end)?;
            self.expect_one_size(&again, end)?;
            self.check(&again, touched)?;
            end_session(&again, self.record)?;
        }
        if verifies {
            self.check_files(end).inspect_err(|_| {
                self.record.tell(|facts| facts.verified = Some(false));
            })?;
        }
        Ok(status)
    }

    /// Fails when the target that was opened anew is another one.
    fn expect_same_disk(&self, again: &Session, end: &End) -> Result<()> {
        match (end.compared, self.compared_disk(again)) {
            (Some(before), Some(now)) if before != now && before != FileId::UNKNOWN => {
                end.found.set(Some(TargetState::Renamed));
                self.give_up_quietly(
                    again,
                    Error::new(Kind::Transmission, "the target is another one by now"),
                );
                Err(name_error(Path::new(&self.options.target.as_given()), "all is written"))
            }
            _ => Ok(()),
        }
    }

    /// Ends the session at once: what its server says of that is no news.
    fn give_up_quietly(&self, session: &Session, err: Error) {
        self.is_ending.store(true, Ordering::SeqCst);
        self.give_up(session, err);
    }

    /// Fails when the target that was opened anew has not got the size of the source.
    fn expect_one_size(&self, again: &Session, end: &End) -> Result<()> {
        let (source_bytes, target_bytes) = again.engine.plan().source_and_target_bytes();
        if source_bytes == target_bytes {
            return Ok(());
        }
        let err =
            size_error(Path::new(&self.options.target.as_given()), source_bytes, target_bytes);
        end.found.set(Some(TargetState::Resized));
        self.give_up_quietly(again, err.duplicate());
        Err(err)
    }

    /// What is true of a target that was written as a whole, and then not shown to be right.
    fn state_unproven_by(&self, err: &Error, end: &End) -> TargetState {
        if let Some(found) = end.found.get() {
            return found;
        }
        match err.kind() {
            _ if self.check_name(end.compared).is_err() => TargetState::Renamed,
            _ if self.check_target_size(end).is_err() => TargetState::Resized,
            Kind::Checksum => TargetState::Unequal,
            _ => TargetState::NotVerified,
        }
    }

    /// Of the files on this host: whether they still have their sizes, and the target its name.
    fn check_files(&self, end: &End) -> Result<()> {
        let (source_bytes, _) = end.plan.source_and_target_bytes();
        if let Place::Local(path) = &self.options.source {
            check::size_holds(path, source_bytes)?;
        }
        self.check_target_size(end)?;
        self.check_name(end.compared)
    }

    /// Whether a target on this host still has the size that it was given.
    fn check_target_size(&self, end: &End) -> Result<()> {
        let (source_bytes, target_bytes) = end.plan.source_and_target_bytes();
        match &self.options.target {
            // What lies behind the common part is none of ours.
            _ if end.plan.header_bytes < source_bytes.max(target_bytes) && !end.resized => Ok(()),
            Place::Local(path) if end.resized => check::size_holds(path, source_bytes),
            Place::Local(path) => check::size_holds(path, target_bytes),
            Place::Remote { .. } => Ok(()),
        }
    }

    /// Whether a target on this host still is what its name leads to.
    pub(super) fn check_name(&self, compared: Option<FileId>) -> Result<()> {
        match (&self.options.target, compared) {
            (Place::Local(path), Some(disk)) => expect_name(path, disk, "all is written and equal"),
            _ => Ok(()),
        }
    }

    fn check(&self, session: &Session, touched: &Touched) -> Result<()> {
        let checked = check::compare_again(
            session,
            touched,
            self.options.compare.flush_cache,
            &**self.progress,
        );
        self.record.tell_verified(&checked);
        checked.map_err(|err| {
            self.give_up_quietly(session, Error::new(Kind::Checksum, "the verification failed"));
            match err.kind() {
                Kind::Checksum => err.with_path(self.options.target.as_given()),
                _ => err,
            }
        })
    }
}

/// Ends the session in good order and adds its traffic to the record.
fn end_session(session: &Session, record: &Record) -> Result<u8> {
    let peer = session.engine.peer();
    let status = peer.finish();
    record.add_traffic(peer.counters());
    let status = client::exit_status(status?);
    if status != 0 {
        log::warn!(
            "the command that leads to the other side exited with status {status} in the end: so \
             does bdsync"
        );
    }
    Ok(status)
}

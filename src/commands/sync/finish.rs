//! The end of a sync: what was written is compared again, and what was left out is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::target_state::TargetState;
use super::{Sync, check, summary};
use crate::cli::{Place, SizeOptions};
use crate::commands::record::Record;
use crate::commands::session::Session;
use crate::commands::touched::Touched;
use crate::commands::{client, left_out};
use crate::diff::{Engine, Plan};
use crate::error::{Error, Kind, Result};
use crate::naming::expect_name;
use crate::report;
use crate::units::{FileId, SizeRule};

/// What the end of a run wants to know of what was before.
struct End<'a> {
    plan: &'a Plan,
    /// Which disk the target was when it was compared.
    compared: Option<FileId>,
    /// Whether the target got another size.
    resized: bool,
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
        };
        let status = self.verify(session, sizes, &end, touched).inspect_err(|err| {
            // The list is news, whatever failed behind it.
            self.tell_left_out(&engine);
            let is_changed = !touched.is_empty() || end.resized;
            if is_changed && !self.options.dry_run {
                self.tell_way_on(self.state_unproven_by(err, &end), false);
            }
        })?;
        let cut_bytes = if end.resized { target_bytes.saturating_sub(source_bytes) } else { 0 };
        let is_whole = !left_out::is_any(&engine);
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
            self.add_stop(&again.engine);
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

    /// What is true of a target that was written as a whole, and then not shown to be right.
    fn state_unproven_by(&self, err: &Error, end: &End) -> TargetState {
        match err.kind() {
            _ if self.check_name(end).is_err() => TargetState::Renamed,
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
        self.check_name(end)
    }

    /// Whether a target on this host still has the size that it was given.
    fn check_target_size(&self, end: &End) -> Result<()> {
        let (source_bytes, target_bytes) = end.plan.source_and_target_bytes();
        match &self.options.target {
            Place::Local(path) if end.resized => check::size_holds(path, source_bytes),
            Place::Local(path) => check::size_holds(path, target_bytes),
            Place::Remote { .. } => Ok(()),
        }
    }

    /// Whether a target on this host still is what its name leads to.
    fn check_name(&self, end: &End) -> Result<()> {
        match (&self.options.target, end.compared) {
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
            self.is_ending.store(true, Ordering::SeqCst);
            session.give_up(Error::new(Kind::Checksum, "the verification failed"));
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

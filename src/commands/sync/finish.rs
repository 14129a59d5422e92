//! The end of a sync: what was written is compared again, and what was left out is told.

use std::sync::atomic::Ordering;

use super::{Sync, check};
use crate::cli::{Place, SizeOptions};
use crate::commands::record::Record;
use crate::commands::session::Session;
use crate::commands::touched::Touched;
use crate::commands::{client, left_out};
use crate::diff::{Engine, Plan};
use crate::error::{Error, Kind, Result};
use crate::naming::expect_name;
use crate::units::FileId;

impl Sync<'_> {
    /// Lists the blocks of both sides that could not be read, in which the two may differ.
    pub(super) fn tell_left_out(&self, engine: &Engine) -> Option<Error> {
        let (source, target) = (self.options.source.as_given(), self.options.target.as_given());
        let (source, target) = (("SRC", source.as_os_str()), ("DST", target.as_os_str()));
        // The near one comes first.
        let (near, far) = self.sides.direction.source_and_target(source, target);
        left_out::tell(engine, [near, far], "and were not copied")
    }

    /// Compares again what was written, and ends the session. The target was `resized` if the sizes
    /// were others.
    pub(super) fn finish(
        &self,
        session: Session,
        sizes: SizeOptions,
        resized: bool,
        touched: &Touched,
    ) -> Result<u8> {
        let (plan, compared) = (session.engine.plan().clone(), self.compared_disk(&session));
        let verifies = self.options.verify && !self.options.dry_run;
        if verifies && !resized {
            self.check(&session, touched)?;
        }
        let status = end(&session, self.record)?;
        if verifies && resized {
            // The server knows the target in its old size only.
            drop(session);
            self.progress.pause();
            let meeting = self.meet(self.sides.caller.server())?;
            let again = meeting.agree(&self.options.compare, sizes)?;
            self.add_stop(&again.engine);
            self.check(&again, touched)?;
            end(&again, self.record)?;
        }
        if verifies {
            self.check_files(&plan, resized, compared).inspect_err(|_| {
                self.record.tell(|facts| facts.verified = Some(false));
            })?;
        }
        Ok(status)
    }

    /// Of the files on this host: whether they still have their sizes, and the target its name.
    fn check_files(&self, plan: &Plan, resized: bool, compared: Option<FileId>) -> Result<()> {
        let (source_bytes, _) = plan.source_and_target_bytes();
        if let Place::Local(path) = &self.options.source {
            check::size_holds(path, source_bytes)?;
        }
        self.check_target_size(plan, resized)?;
        self.check_name(compared)
    }

    /// Whether a target on this host still has the size that it was given.
    pub(super) fn check_target_size(&self, plan: &Plan, resized: bool) -> Result<()> {
        let (source_bytes, target_bytes) = plan.source_and_target_bytes();
        match &self.options.target {
            Place::Local(path) if resized => check::size_holds(path, source_bytes),
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
fn end(session: &Session, record: &Record) -> Result<u8> {
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

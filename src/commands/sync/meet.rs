//! The beginning of a sync: both devices open, and what is agreed on.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::sides::Sides;
use super::{Sync, words};
use crate::cli::{Place, SizeOptions, SyncOptions};
use crate::commands::destination::is_named_as_device;
use crate::commands::session::{Meeting, Reading, Session};
use crate::error::{Error, Kind, Result};
use crate::transport::{self, Connection, Manner, RemoteEnd, StderrSink};
use crate::units::{Direction, SizeRule};
use crate::wire::Extensions;

impl Sync<'_> {
    /// Opens both devices.
    pub(super) fn meet(&self, words: Vec<OsString>) -> Result<Meeting> {
        let Sides { near, far, direction, .. } = &self.sides;
        let reading = match direction {
            // It is not compared before who writes to it keeps others from it.
            Direction::Push if !self.options.dry_run => Reading::WholeWhenAsked,
            _ => Reading::Whole,
        };
        let meeting = Meeting::open(near, far, *direction, reading, &self.options.compare, || {
            let connection = self.connect_server(&words)?;
            Ok(match &self.throttles {
                Some((up, down)) => connection.throttled(Arc::clone(up), Arc::clone(down)),
                None => connection,
            })
        });
        meeting.map_err(|err| self.unopened(err))
    }

    /// `err`, or what there is to say of a far device that the server could not open: the
    /// classic one, too, ends with a code of its own then.
    fn unopened(&self, err: Error) -> Error {
        if RemoteEnd::of(&err).and_then(RemoteEnd::kind) != Some(Kind::Open) {
            return err;
        }
        let SyncOptions { source, target, create, dry_run, .. } = self.options;
        let is_device = is_named_as_device(Path::new(&self.sides.far));
        let (what, place) = match (self.sides.direction, create) {
            (Direction::Pull, _) => ("SRC cannot be opened", source),
            (Direction::Push, _) if is_device => ("DST cannot be opened", target),
            (Direction::Push, true) if *dry_run => {
                ("DST cannot be opened; if there is none, all of SRC would be copied", target)
            }
            (Direction::Push, true) => ("DST cannot be opened or made", target),
            (Direction::Push, false) if self.sides.caller.is_local() => {
                ("DST cannot be opened", target)
            }
            (Direction::Push, false) => {
                ("DST cannot be opened; if there is none, --create makes a file of it", target)
            }
        };
        Error::new(Kind::Open, what).with_path(place.as_given())
    }

    /// Has the stops end a session, too.
    pub(super) fn add_stop(&self, session: &Session) {
        let (engine, is_ending) = (Arc::clone(&session.engine), Arc::clone(&self.is_ending));
        let given_up = Arc::clone(&session.given_up);
        self.stops.add(move |err| {
            is_ending.store(true, Ordering::SeqCst);
            // For the first reason.
            let _ = given_up.set(err.duplicate());
            engine.peer().abort(err.duplicate());
        });
    }

    fn connect_server(&self, words: &[OsString]) -> Result<Connection> {
        let sink = words::of_server(self.sides.caller.is_local(), Arc::clone(&self.is_ending));
        self.connect(words, sink, Manner::Session)
    }

    /// Starts a bdsync, on this host or another, which the stops will reach.
    pub(super) fn connect(
        &self,
        words: &[OsString],
        sink: StderrSink,
        manner: Manner,
    ) -> Result<Connection> {
        let connection = transport::connect(words, manner, self.options.timeout, sink)?;
        let (control, is_ending) = (Arc::clone(&connection.control), Arc::clone(&self.is_ending));
        self.stops.add(move |_| {
            is_ending.store(true, Ordering::SeqCst);
            control.close();
        });
        Ok(connection)
    }

    /// What starts the server, after creating the target there if that is wanted.
    pub(super) fn create_words(&self) -> Vec<OsString> {
        let Sides { caller, far, direction, .. } = &self.sides;
        let remote_target = !caller.is_local() && *direction == Direction::Push;
        if self.options.create && !self.options.dry_run && remote_target {
            return caller.creating_server(far);
        }
        caller.server()
    }

    pub(super) fn refuse_what_the_classic_lacks(&self, extensions: Extensions) -> Result<()> {
        let Place::Remote { host, .. } = &self.options.target else { return Ok(()) };
        if extensions != Extensions::NONE {
            return Ok(());
        }
        let given = [("--undo", self.options.undo.is_some()), ("--sparse", self.options.sparse)];
        match given.into_iter().find(|(_, given)| *given) {
            Some((name, _)) => {
                let what = format!(
                    "the bdsync on {} is the classic one, which has no {name}: leave it out, or \
                     install this bdsync there",
                    host.to_string_lossy()
                );
                Err(Error::new(Kind::Usage, what))
            }
            None => Ok(()),
        }
    }

    /// What differing sizes mean: a file that was made just now becomes as long as SRC, whatever
    /// rule is for the nights after.
    pub(super) fn sizes(&self, meeting: &Meeting) -> SizeOptions {
        let (local_bytes, remote_bytes) = (meeting.local_bytes(), meeting.remote_bytes());
        let (_, target_bytes) = self.sides.direction.source_and_target(local_bytes, remote_bytes);
        let is_new = self.options.create && target_bytes == 0;
        let sizes = self.options.sizes;
        let rule = if is_new { SizeRule::Resize } else { sizes.rule };
        SizeOptions { rule, ..sizes }
    }
}

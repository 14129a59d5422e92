//! The checksum of the whole source that a patch carries in its trailer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::session::Session;
use crate::background::spawn;
use crate::diff::Engine;
use crate::digest::{Algorithm, Digest, checksum};
use crate::error::{Error, Kind, Result};
use crate::progress::{Part, Progress};
use crate::units::Direction;
use crate::wire::{Answer, Request};

/// How often it is told how far the remote is.
const TOLD_INTERVAL: Duration = Duration::from_millis(500);

/// The digest of the whole source, made beside the walk.
pub(super) enum TrailerChecksum {
    /// Push: of the local device, on a thread of its own.
    Local {
        thread: JoinHandle<Result<Digest>>,
        /// Whether the walk has ended, so that how far this is becomes what is told.
        is_told: Arc<AtomicBool>,
    },
    /// Pull: the server makes it; it is asked for at the end.
    Remote,
}

impl TrailerChecksum {
    /// Begins to make it, where that is done here.
    ///
    /// # Errors
    /// `Kind::Digest` without a thread for it.
    pub(super) fn start(
        session: &Session,
        algorithm: Algorithm,
        progress: &Arc<dyn Progress>,
    ) -> Result<Self> {
        let (engine, given_up) = (&session.engine, Arc::clone(&session.given_up));
        if engine.plan().direction == Direction::Pull {
            return Ok(Self::Remote);
        }
        // Nobody waits for the thread of a run that fails: it must not keep a bar on the terminal.
        // What would carry it goes nowhere then. The engine is not to live on in this.
        let (lost, told) = (Arc::downgrade(engine), Arc::clone(&given_up));
        engine.peer().when_lost(Box::new(move || {
            let err = lost.upgrade().and_then(|engine| engine.peer().last_error());
            let _ = err.map(|err| told.set(err));
        }));
        let (local, progress) = (Arc::clone(engine.strict_local()), Arc::downgrade(progress));
        let is_told = Arc::new(AtomicBool::new(false));
        let tells = Arc::clone(&is_told);
        let mut digested = move |bytes| {
            if tells.load(Ordering::Relaxed)
                && let Some(progress) = progress.upgrade()
            {
                progress.advance(bytes, 0);
            }
            given_up.get().map_or(Ok(()), |reason| Err(reason.duplicate()))
        };
        let work = move || checksum(&*local, algorithm, &mut digested);
        let what = "cannot start a thread for the checksum";
        Ok(Self::Local { thread: spawn("checksum", Kind::Digest, what, work)?, is_told })
    }

    /// Waits for it, which is a part of the run of its own.
    ///
    /// # Errors
    /// Those of reading the device, of the remote side and of the link: `Kind::Read` also where
    /// what cannot be read is left out, since nobody knows what a target holds that lacks it.
    pub(super) fn finish(self, engine: &Engine, progress: &dyn Progress) -> Result<Vec<u8>> {
        let (source_bytes, _) = engine.plan().source_and_target_bytes();
        progress.begin(Part::Digesting, Some(source_bytes));
        match self {
            Self::Local { thread, is_told } => {
                is_told.store(true, Ordering::Relaxed);
                match thread.join() {
                    Ok(digest) => Ok(digest?.to_vec()),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Self::Remote => {
                let tell = || progress.advance(engine.peer().digested_bytes(), 0);
                match engine.ask_watched(Request::Checksum, TOLD_INTERVAL, &tell)? {
                    Answer::Checksum(value) => Ok(value),
                    _ => Err(Error::new(Kind::Checksum, "the remote sent no checksum")),
                }
            }
        }
    }
}

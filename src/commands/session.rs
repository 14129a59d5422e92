//! A connection to a remote side, up to the point where an engine can compare.
//!
//! Shared by every mode that asks: the client, the mount and sync.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::record::Record;
use crate::cli::{CompareOptions, SessionOptions, SizeOptions};
use crate::device::{Device, FileDevice, TolerantDevice, open_source};
use crate::diff::{Density, Engine, Plan, digests, has_usual_leaves};
use crate::digest::{Algorithm, BlockHasher, HashPool, SALT_BYTES, draw_salt};
use crate::error::{Error, Kind, Result};
use crate::report;
use crate::transport::{self, Connection, Manner, split_command};
use crate::units::{Direction, FileId};
use crate::wire::{Extensions, Opening, Peer};

/// How a session reads its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Whole, from the beginning.
    Whole,
    /// The same, but nothing before it is asked for: somebody else may write there until then.
    WholeWhenAsked,
    /// Where somebody wants to see something, for as long as they do.
    OnDemand,
}

/// An open session.
pub struct Session {
    /// The engine, ready to compare.
    pub engine: Arc<Engine>,
    /// What the remote side can do beyond the classic.
    pub extensions: Extensions,
    /// What both sides hash before each block.
    pub salt: [u8; SALT_BYTES],
    /// The digest of the whole source that was asked for.
    pub checksum: Option<Algorithm>,
    /// Which disk of its host the remote side has open; `None` from one that does not tell.
    pub remote_disk: Option<FileId>,
    /// Why it is given up, once it is; for what takes long on this side.
    pub given_up: Arc<OnceLock<Error>>,
}

/// Both devices open and their sizes known; nothing else is agreed on yet.
pub struct Meeting {
    local: FileDevice,
    opening: Opening,
    /// Its path, for messages.
    remote: OsString,
    direction: Direction,
    named_hash: Option<Algorithm>,
    checksum: Option<Algorithm>,
}

impl Meeting {
    /// Opens both devices, the local one first; `connect` connects to the remote side.
    /// `reading` says what will be asked for.
    ///
    /// # Errors
    /// As [`Session::open`], without those about sizes.
    pub fn open(
        local: &Path,
        remote: &OsStr,
        direction: Direction,
        reading: Reading,
        compare: &CompareOptions,
        connect: impl FnOnce() -> Result<Connection>,
    ) -> Result<Self> {
        let named_hash = compare.hash.as_deref().map(block_hash).transpose()?;
        let checksum = compare.checksum.as_deref().map(checksum_digest).transpose()?;
        let local = open_source(local)?;
        let offer = Extensions {
            skip: compare.skip_unreadable,
            zstd: compare.compress_link,
            // A hash that was asked for is the only one. NH needs keys that nobody could foresee.
            nh: named_hash.is_none() && !compare.fixed_salt,
            // The hint about the page cache has to come before the first look. It is not in
            // use with `skip`, and a hello need not be longer than what is.
            early: reading == Reading::Whole
                && !compare.flush_cache
                && !compare.skip_unreadable
                && has_usual_leaves(compare.block_size_bytes),
            ..Extensions::ALL
        };
        let opening = Opening::connect(connect()?, offer, &path_on_the_wire(remote))?;
        let remote = remote.to_owned();
        Ok(Self { local, opening, remote, direction, named_hash, checksum })
    }

    /// What the remote side can do beyond the classic.
    pub fn extensions(&self) -> Extensions {
        self.opening.extensions()
    }

    /// Tells what was asked for that the remote side lacks, and that is done without it.
    pub fn warn_of_what_it_lacks(&self, compare: &CompareOptions) {
        let extensions = self.extensions();
        if compare.skip_unreadable && !extensions.skip {
            log::warn!("the remote bdsync cannot skip what it cannot read; this side can");
        }
        if compare.compress_link && !extensions.zstd {
            log::warn!(
                "the remote bdsync cannot compress: what goes between the two goes as it is"
            );
        }
    }

    /// Size of the local device.
    pub fn local_bytes(&self) -> u64 {
        self.local.size()
    }

    /// Size of the remote device.
    pub fn remote_bytes(&self) -> u64 {
        self.opening.size()
    }

    /// Agrees on sizes, digests and salt.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn agree(self, compare: &CompareOptions, sizes: SizeOptions) -> Result<Session> {
        let Self { local, opening, remote, direction, named_hash, checksum } = self;
        let (extensions, remote_bytes) = (opening.extensions(), opening.size());
        let remote_disk = opening.disk();
        if local.size() != remote_bytes && sizes.tells_difference() {
            report::different_sizes(local.size(), remote_bytes);
        }
        let plan =
            Plan::new(direction, local.size(), remote_bytes, compare.block_size_bytes, sizes.rule)?;
        let algorithm = agree_on_hash(named_hash, extensions)?;
        log::info!(
            "comparing {} of {} bytes with {} of {remote_bytes} bytes at the remote side, hash {}",
            local.path().display(),
            local.size(),
            remote.display(),
            algorithm.name(),
        );
        let salt = agree_on_salt(opening.salt(), compare.fixed_salt)?;
        let hasher = BlockHasher::new(algorithm, &salt)?.with_universal_leaves(extensions.nh);
        let remote_checksum = match direction {
            Direction::Pull => checksum,
            Direction::Push => None,
        };
        let peer = Peer::start(opening, &digests(&salt, &hasher, remote_checksum))?;
        let pool = HashPool::new()?;
        let engine = if compare.skip_unreadable {
            let local = Arc::new(TolerantDevice::new(Box::new(local)));
            Engine::leaving_out(plan, local, peer, pool, hasher)
        } else {
            Engine::new(plan, Arc::new(local), peer, pool, hasher)
        };
        let given_up = Arc::default();
        Ok(Session { engine, extensions, salt, checksum, remote_disk, given_up })
    }
}

impl Session {
    /// Opens both devices and agrees on sizes, digests and salt.
    ///
    /// # Errors
    /// As the exit codes say: `Kind::Open` for the local device, `Kind::Spawn` for REMSHCMD,
    /// `Kind::Usage` and `Kind::Checksum` for unknown digests, `Kind::Size`, and those of the
    /// connection.
    pub fn open(options: &SessionOptions, reading: Reading) -> Result<Self> {
        let SessionOptions { remote_command, local, remote, direction, compare, sizes, timeout } =
            options;
        let connect = || {
            let manner = match reading {
                Reading::Whole | Reading::WholeWhenAsked => Manner::Session,
                Reading::OnDemand => Manner::Lasting,
            };
            let words = split_command(remote_command)?;
            transport::connect(&words, manner, *timeout, Box::new(report::remote_line))
        };
        let meeting = Meeting::open(local, remote, *direction, reading, compare, connect)?;
        meeting.warn_of_what_it_lacks(compare);
        meeting.agree(compare, *sizes)
    }

    /// Ends the session and REMSHCMD at once, because of `err`, and returns when that is gone: the
    /// process may come to its end sooner than one of its threads would see to it.
    pub fn give_up(&self, err: Error) {
        let peer = self.engine.peer();
        peer.abort(err);
        // It was given up for a reason that says more.
        let _ = peer.finish();
    }

    /// Puts on record what is compared.
    pub fn describe(&self, remote: &OsStr, record: &Record) {
        let hash = self.engine.hasher().algorithm().name();
        record.tell_plan(self.engine.plan(), hash, &**self.engine.local(), Path::new(remote));
    }

    /// How densely to look. A classic server computes the checksum of its device from the
    /// blocks that it hashes, so it must be asked for each of them once and in order.
    #[must_use]
    pub fn density(&self) -> Density {
        let plan = self.engine.plan();
        let classic = self.extensions == Extensions::NONE;
        let in_order = classic && self.checksum.is_some() && plan.direction == Direction::Pull;
        let trees = self.extensions.goes_down_trees();
        Density::for_peer(plan.block_bytes, self.engine.hasher(), trees, in_order)
    }
}

/// What the remote side is asked to open. A classic server refuses a path of one byte.
fn path_on_the_wire(path: &OsStr) -> Vec<u8> {
    match path.as_bytes() {
        &[byte] => vec![b'.', b'/', byte],
        bytes => bytes.to_vec(),
    }
}

fn block_hash(name: &str) -> Result<Algorithm> {
    Algorithm::from_name(name).ok_or_else(|| {
        report::bad_hash(name.as_bytes());
        unknown(Kind::Usage, "hash", name)
    })
}

fn checksum_digest(name: &str) -> Result<Algorithm> {
    Algorithm::from_name(name).ok_or_else(|| unknown(Kind::Checksum, "checksum", name))
}

fn unknown(kind: Kind, what: &str, name: &str) -> Error {
    let known: Vec<_> = Algorithm::all().map(Algorithm::name).collect();
    Error::new(kind, format!("unknown {what} {name}: expected one of {}", known.join(", ")))
}

/// A user's choice always wins; without one, the fastest that both sides have.
fn agree_on_hash(named: Option<Algorithm>, extensions: Extensions) -> Result<Algorithm> {
    match named {
        Some(Algorithm::Blake3) if !extensions.blake3 => {
            let what =
                "the remote bdsync does not know the hash blake3; choose another with --hash";
            Err(Error::new(Kind::Usage, what))
        }
        Some(named) => Ok(named),
        None if extensions.blake3 => Ok(Algorithm::Blake3),
        None => Ok(Algorithm::Md5),
    }
}

/// The salt that the remote has `drawn`, or one of ours.
fn agree_on_salt(drawn: Option<&[u8]>, fixed: bool) -> Result<[u8; SALT_BYTES]> {
    match drawn {
        Some(drawn) => drawn.try_into().map_err(|_| {
            let what = format!(
                "the remote has drawn a salt of {} bytes, expected {SALT_BYTES}",
                drawn.len()
            );
            Error::new(Kind::Protocol, what)
        }),
        None if fixed => Ok([0; SALT_BYTES]),
        None => draw_salt(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classic_server_is_sent_no_path_of_one_byte() {
        for (path, sent) in [("r", &b"./r"[..]), ("rr", b"rr"), ("/dev/r", b"/dev/r"), ("", b"")] {
            assert_eq!(path_on_the_wire(OsStr::new(path)), sent);
        }
    }

    #[test]
    fn salt_is_what_the_remote_has_drawn_or_another_every_time() {
        let drawn = [7; SALT_BYTES];
        assert_eq!(agree_on_salt(Some(&drawn), false).unwrap(), drawn);
        let err = agree_on_salt(Some(&drawn[1..]), false).unwrap_err();
        assert_eq!(err.kind(), Kind::Protocol);
        assert_eq!(agree_on_salt(None, true).unwrap(), [0; SALT_BYTES]);
        let salt = || agree_on_salt(None, false).unwrap();
        assert_ne!(salt(), salt());
    }
}

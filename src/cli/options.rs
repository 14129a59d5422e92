//! What each mode was asked to do, as plain data: no file is open, no digest is looked up yet.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::units::{Compression, Direction, FileId, Readers, SizeRule};

/// The classic's block size, in bytes.
pub const BLOCK_SIZE_BYTES_DEFAULT: u64 = 4096;

/// What the process is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Compare with the remote side and write a patch to stdout.
    Client(ClientOptions),
    /// Answer a client on stdin and stdout.
    Server(ServerOptions),
    /// Apply the patch on stdin.
    Patch(PatchOptions),
    /// Make one device equal to another, in one go.
    Sync(SyncOptions),
    /// Show a pending patch as a file system.
    Mount(MountOptions),
    /// Tell what a patch changes.
    Info(InfoOptions),
    /// Make one patch of several.
    Squash(SquashOptions),
    /// Print this text (usage or version) on stdout.
    Help(String),
}

impl Command {
    /// Where to put a record of the result, if one is wanted.
    #[must_use]
    pub fn report(&self) -> Option<&Path> {
        let reporting = match self {
            Self::Client(ClientOptions { reporting, .. })
            | Self::Server(ServerOptions { reporting, .. })
            | Self::Patch(PatchOptions { reporting, .. })
            | Self::Mount(MountOptions { reporting, .. })
            | Self::Sync(SyncOptions { reporting, .. })
            | Self::Info(InfoOptions { reporting, .. })
            | Self::Squash(SquashOptions { reporting, .. }) => reporting,
            Self::Help(_) => return None,
        };
        reporting.report.as_deref()
    }

    /// What the mode is called.
    #[must_use]
    pub fn mode(&self) -> &'static str {
        match self {
            Self::Client(_) => "client",
            Self::Server(_) => "server",
            Self::Patch(_) => "patch",
            Self::Mount(_) => "mount",
            Self::Sync(_) => "sync",
            Self::Info(_) => "info",
            Self::Squash(_) => "squash",
            Self::Help(_) => "help",
        }
    }
}

/// What a run tells beside its result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reporting {
    /// How to tell progress; `None`: a bar where stderr is a terminal. A server tells none.
    pub progress: Option<ProgressStyle>,
    /// Where to put a record of the result.
    pub report: Option<PathBuf>,
    /// How often `--verbose` was given.
    pub verbosity: u8,
}

/// `--diffsize`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SizeOptions {
    /// What to do when the sizes differ.
    pub rule: SizeRule,
    /// Whether `warn` was given: say both sizes. Under [`SizeRule::Strict`] they are said anyway.
    pub warn: bool,
    /// Whether the option was given at all: then it counts for patches that would know better, too.
    pub is_given: bool,
}

impl SizeOptions {
    /// Whether differing sizes are to be told.
    #[must_use]
    pub fn tells_difference(self) -> bool {
        self.warn || self.rule == SizeRule::Strict
    }
}

/// How `--progress` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressStyle {
    /// The classic's lines.
    Lines,
    /// The same lines, each over the one before.
    NoScroll,
    /// A JSON object a second.
    Json,
    /// Nothing, even on a terminal.
    Nothing,
}

/// How the two sides are compared: shared by every mode that asks a remote side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompareOptions {
    /// Bytes that one hash covers, `1..=BLOCK_BYTES_MAX` (see `units`).
    pub block_size_bytes: u64,
    /// Digest of the block hashes as named by the user; `None`: our choice.
    pub hash: Option<String>,
    /// Digest of the whole source device as named by the user; `None`: no checksum.
    pub checksum: Option<String>,
    /// A salt of zero bytes: reproducible hashes, for tests.
    pub fixed_salt: bool,
    /// Drop what was read from the page cache.
    pub flush_cache: bool,
    /// Leave out what cannot be read, and end with exit code 15, instead of failing.
    pub skip_unreadable: bool,
    /// Compress blocks, and a patch, that cross the link, where the remote side can.
    pub compress_link: bool,
}

/// What is compared with what over which connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// REMSHCMD, not yet split into words.
    pub remote_command: OsString,
    /// LOCDEV as given: its bytes go into the patch under `--remdata`.
    pub local: PathBuf,
    /// REMDEV as given: its bytes go over the wire and into the patch.
    pub remote: OsString,
    /// Which side the patch is for.
    pub direction: Direction,
    /// How to compare.
    pub compare: CompareOptions,
    /// What differing sizes mean.
    pub sizes: SizeOptions,
    /// How long a silent remote side is waited for; `None`: as long as the connection lives.
    pub timeout: Option<Duration>,
}

/// Options of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// What is compared, and how.
    pub session: SessionOptions,
    /// How the patch is compressed; `None`: not at all, as the classic's.
    pub compression: Option<Compression>,
    /// Put a seal behind the patch: what the target held, and what the patch must be.
    pub seal: bool,
    /// What to tell beside the result.
    pub reporting: Reporting,
}

/// Options of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// Globs of the devices that a client may name; none: all.
    pub allow: Vec<String>,
    /// How long a client may neither ask nor take answers; `None`: as long as the connection lives.
    pub timeout: Option<Duration>,
    /// What to tell beside the result.
    pub reporting: Reporting,
}

/// Where the copy of a patch from a pipe goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spool {
    /// The folder for temporary files.
    Temporary,
    /// This folder.
    Folder(PathBuf),
}

/// Options of applying a patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchOptions {
    /// The device to patch; `None`: the one that the patch names.
    pub target: Option<PathBuf>,
    /// Warn when the patch names another device than `target`.
    pub warn_device: bool,
    /// What differing sizes mean.
    pub sizes: SizeOptions,
    /// Drop what was written from the page cache.
    pub flush_cache: bool,
    /// Where a patch from a pipe is copied to first, for `--spool` and for what implies it; `None`:
    /// it is applied as it comes.
    pub spool: Option<Spool>,
    /// Where to put a patch that takes this one back.
    pub undo: Option<PathBuf>,
    /// Read back what was written and compare.
    pub verify: bool,
    /// Only check, and change nothing.
    pub dry_run: bool,
    /// Make holes of zeros.
    pub sparse: bool,
    /// Patch a device that is in use or not in the expected state.
    pub force: bool,
    /// Of a process that a sync started: which disk it has compared.
    pub sync_disk: Option<FileId>,
    /// Of the same: how many bytes that had when its sync began.
    pub sync_bytes: Option<u64>,
    /// What to tell beside the result.
    pub reporting: Reporting,
}

/// One side of a `sync`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A path here.
    Local(PathBuf),
    /// A path on another host.
    Remote {
        /// `[user@]host`, for the remote shell; never begins with a dash.
        host: OsString,
        /// The path there; not empty.
        path: OsString,
    },
}

impl Place {
    /// As the user gave it: the path here, or `[user@]host:path`.
    #[must_use]
    pub fn as_given(&self) -> OsString {
        match self {
            Self::Local(path) => path.clone().into_os_string(),
            Self::Remote { host, path } => {
                let mut place = host.clone();
                place.push(":");
                place.push(path);
                place
            }
        }
    }
}

/// Options of `sync`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncOptions {
    /// What to copy from. At most one of the two places is remote.
    pub source: Place,
    /// What to change.
    pub target: Place,
    /// The remote shell's command (`--rsh`), not yet split into words.
    pub remote_shell: OsString,
    /// How bdsync is called on the other host: goes to its shell as it is.
    pub remote_program: OsString,
    /// How to compare.
    pub compare: CompareOptions,
    /// What differing sizes mean. A file that was just created becomes as long as needed.
    pub sizes: SizeOptions,
    /// Create a target file that does not exist.
    pub create: bool,
    /// Only find out what would change.
    pub dry_run: bool,
    /// Compare again what was written.
    pub verify: bool,
    /// Where, next to the target, to put a patch that takes everything back.
    pub undo: Option<PathBuf>,
    /// Make holes of zeros.
    pub sparse: bool,
    /// Change a device that is in use.
    pub force: bool,
    /// Most bytes a second each way over the network.
    pub rate_bytes_max: Option<u64>,
    /// How long a silent remote side is waited for; `None`: as long as the connection lives.
    pub timeout: Option<Duration>,
    /// What to tell beside the result.
    pub reporting: Reporting,
}

/// The cache of fetched blocks of a mount, in MiB, unless the user chose another size.
pub const CACHE_MIB_DEFAULT: u32 = 64;
/// The largest cache accepted, in MiB.
pub const CACHE_MIB_MAX: u32 = 65536;

/// Options of the mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Where the change comes from.
    pub source: MountSource,
    /// MOUNTPOINT as given.
    pub mountpoint: PathBuf,
    /// Return once the mount is readable.
    pub daemon: bool,
    /// Who may read it.
    pub readers: Readers,
    /// What the table of mounts calls its source.
    pub name: OsString,
    /// What to tell beside the result.
    pub reporting: Reporting,
}

/// Where the change that a mount shows comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// A session with a remote side.
    Live {
        /// What is compared, and how.
        session: SessionOptions,
        /// Compare also what nobody reads.
        scan_in_background: bool,
        /// Memory for fetched blocks, in MiB, `1..=CACHE_MIB_MAX`.
        cache_mib: u32,
        /// End the mount once the link is lost.
        ends_with_link: bool,
    },
    /// A patch file over the device that it is meant for.
    Stored {
        /// PATCHFILE as given.
        patch: PathBuf,
        /// BASEDEV as given.
        base: PathBuf,
        /// What differing sizes mean.
        sizes: SizeOptions,
    },
}

/// Options of telling what a patch changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoOptions {
    /// The patch; `None`: standard input.
    pub patch: Option<PathBuf>,
    /// The disk whose partitions are marked.
    pub base: Option<PathBuf>,
    /// Tell it as JSON.
    pub json: bool,
    /// Where to draw it.
    pub svg: Option<PathBuf>,
    /// What to tell beside the result.
    pub reporting: Reporting,
}

/// Options of making one patch of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SquashOptions {
    /// The patches, in the order in which they were made; at least one.
    pub patches: Vec<PathBuf>,
    /// Squash patches for different devices.
    pub force: bool,
    /// Size in bytes of the device that the first patch is for; `None`: unknown.
    pub base_bytes: Option<u64>,
    /// How the result is compressed.
    pub compression: Option<Compression>,
    /// What to tell beside the result.
    pub reporting: Reporting,
}

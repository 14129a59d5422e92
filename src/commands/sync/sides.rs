//! Which device is where, and which of them is opened by whom.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::call::Caller;
use crate::cli::{Place, SyncOptions};
use crate::commands::destination::is_among_devices;
use crate::device::share_bytes;
use crate::error::{Error, Kind, Result};
use crate::naming::folder_of;
use crate::units::{Direction, FileId};

/// Stands for a target that does not exist, in a dry run.
const NOTHING: &str = "/dev/null";

/// Who is who.
pub struct Sides {
    /// `Push` means that the near device is the source.
    pub direction: Direction,
    /// The device that this process opens.
    pub near: PathBuf,
    /// The device that a server opens.
    pub far: OsString,
    pub caller: Caller,
    /// The target, if it was made just now.
    pub created: Option<PathBuf>,
}

impl Sides {
    /// As SRC and DST say; makes the target where that was asked for.
    ///
    /// # Errors
    /// `Kind::Usage` for two remote sides and for a device onto itself, `Kind::Open` for a target
    /// that does not exist or cannot be made.
    pub fn of(options: &SyncOptions) -> Result<Self> {
        let caller = |host: Option<&OsStr>| {
            Caller::new(host, &options.remote_shell, &options.remote_program)
        };
        let mut created = None;
        Ok(match (&options.source, &options.target) {
            (Place::Local(near), Place::Remote { host, path }) => Self {
                direction: Direction::Push,
                near: near.clone(),
                far: path.clone(),
                caller: caller(Some(host))?,
                created,
            },
            (Place::Remote { host, path }, Place::Local(target)) => {
                let caller = caller(Some(host))?;
                let near = existing(target, options, &mut created)?;
                let far = path.clone();
                Self { direction: Direction::Pull, near, far, caller, created }
            }
            (Place::Local(near), Place::Local(target)) => {
                refuse_same(near, target)?;
                let caller = caller(None)?;
                let far = existing(target, options, &mut created)?.into_os_string();
                let near = near.clone();
                Self { direction: Direction::Push, near, far, caller, created }
            }
            (Place::Remote { .. }, Place::Remote { .. }) => {
                return Err(Error::new(Kind::Usage, "SRC and DST are both remote"));
            }
        })
    }
}

/// The local target, created where that was asked for; in a dry run what stands for it.
fn existing(
    target: &Path,
    options: &SyncOptions,
    created: &mut Option<PathBuf>,
) -> Result<PathBuf> {
    match fs::metadata(target) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        // Whoever opens it says what is wrong with it, if anything is.
        _ => return Ok(target.to_owned()),
    }
    if !options.create {
        let what = "the target does not exist; --create makes a file of it";
        return Err(Error::new(Kind::Open, what).with_path(target));
    }
    let folder = folder_of(target);
    if is_among_devices(&folder.canonicalize().unwrap_or_else(|_| folder.to_owned())) {
        let what = "there is no such device; --create makes no file among the devices";
        return Err(Error::new(Kind::Open, what).with_path(target));
    }
    if options.dry_run {
        return Ok(PathBuf::from(NOTHING));
    }
    // Disks hold everybody's secrets: for the owner only, until he says otherwise.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target);
    match file {
        Ok(_) => *created = Some(target.to_owned()),
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
        Err(err) => {
            return Err(Error::io(Kind::Open, "cannot create the target", err).with_path(target));
        }
    }
    Ok(target.to_owned())
}

/// A device onto itself would at best do nothing; onto one that lies over it, or under it, it would
/// change what it is being read from.
fn refuse_same(source: &Path, target: &Path) -> Result<()> {
    let (Ok(a), Ok(b)) = (fs::metadata(source), fs::metadata(target)) else { return Ok(()) };
    let (a, b) = (FileId::of(&a), FileId::of(&b));
    if !share_bytes(a, b) {
        return Ok(());
    }
    let what = match a == b {
        true => "SRC and DST are the same device".to_owned(),
        false => format!("DST shares bytes with SRC, which is {}", source.display()),
    };
    Err(Error::new(Kind::Usage, what).with_path(target))
}

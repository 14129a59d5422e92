//! What a run reads, changes and makes. No file may be two of these: a report would take the
//! place of the disk that was just written.
//!
//! Most is known from the options; what a patch or a client names is added when it is known,
//! before anything is written.

use std::ffi::OsString;
use std::fs::{self, File, FileType, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::destination::Destination;
use super::input::{STDIN_NAME, STDIN_OPERAND};
use crate::cli::{Command, MountSource, Place, SessionOptions};
use crate::device::share_bytes;
use crate::error::{Error, Kind, Result};
use crate::naming::folder_of;
use crate::units::FileId;

/// All that is known by now.
#[derive(Default)]
pub struct Claims(Mutex<State>);

#[derive(Default)]
struct State {
    claims: Vec<Claim>,
    /// Whether stdout carries more than words.
    data_on_stdout: bool,
    refused: bool,
}

/// A file in a role.
struct Claim {
    /// What messages call it.
    name: &'static str,
    /// Where it is; `None` of a stream.
    path: Option<PathBuf>,
    id: Id,
    /// Whether nobody else may use it.
    exclusive: bool,
}

/// What makes two paths the same file.
#[derive(PartialEq, Eq)]
enum Id {
    There(FileId),
    /// Where there is no file yet.
    Missing {
        folder: FileId,
        name: OsString,
    },
}

impl Id {
    fn of(found: &Metadata) -> Self {
        Self::There(FileId::of(found))
    }

    /// Whether who writes to one of them changes the other: also the image of a loop device.
    fn is_same_data(&self, other: &Self) -> bool {
        match (self, other) {
            (&Self::There(one), &Self::There(other)) => {
                let is_file = |id: FileId| id.device_number().is_none();
                // Two devices on one disk are no contradiction.
                one == other || (is_file(one) || is_file(other)) && share_bytes(one, other)
            }
            _ => self == other,
        }
    }

    /// Of what is read or changed; `None` when nobody can say.
    fn at(path: &Path) -> Option<Self> {
        match fs::metadata(path) {
            Ok(found) => holds_data(found.file_type()).then(|| Self::of(&found)),
            Err(_) => Self::of_destination(&Destination::of(path).ok()?),
        }
    }

    /// Of what is written to; `None` for what many may write to, as `/dev/null`.
    fn of_destination(destination: &Destination) -> Option<Self> {
        match destination.metadata() {
            Ok(found) => (!found.file_type().is_char_device()).then(|| Self::of(&found)),
            Err(_) => match destination {
                Destination::File(at) => {
                    let folder = FileId::of(&fs::metadata(folder_of(at)).ok()?);
                    Some(Self::Missing { folder, name: at.file_name()?.to_owned() })
                }
                _ => None,
            },
        }
    }
}

/// Whether what is written there can be read there.
fn holds_data(file_type: FileType) -> bool {
    file_type.is_file() || file_type.is_block_device()
}

impl Claims {
    /// Adds all that `command` names.
    ///
    /// # Errors
    /// `Kind::Usage` when two of them are the same file, or a disk is to be written over.
    pub fn add_all(&self, command: &Command) -> Result<()> {
        self.0.lock().data_on_stdout =
            matches!(command, Command::Client(_) | Command::Server(_) | Command::Squash(_));
        match command {
            Command::Help(_) => {}
            Command::Client(options) => {
                self.session(&options.session)?;
                self.stdout()?;
            }
            Command::Server(_) => self.stdout()?,
            Command::Patch(options) => {
                self.stdin()?;
                if let Some(target) = &options.target {
                    self.changes("the target", target)?;
                }
                self.makes("--undo", options.undo.as_deref())?;
            }
            Command::Sync(options) => {
                // That they are not the same is looked after elsewhere.
                for (name, place) in [("SRC", &options.source), ("DST", &options.target)] {
                    if let Place::Local(path) = place {
                        self.reads(name, path)?;
                    }
                }
                // The undo patch is made where the target is.
                let is_here = matches!(options.target, Place::Local(_));
                self.makes("--undo", options.undo.as_deref().filter(|_| is_here))?;
            }
            Command::Mount(options) => match &options.source {
                MountSource::Live { session, .. } => self.session(session)?,
                MountSource::Stored { patch, base, .. } => {
                    self.patch(Some(patch))?;
                    self.reads("BASEDEV", base)?;
                }
            },
            Command::Info(options) => {
                self.patch(options.patch.as_ref())?;
                if let Some(base) = &options.base {
                    self.reads("BASEDEV", base)?;
                }
                self.stdout()?;
                self.makes("--svg", options.svg.as_deref())?;
            }
            Command::Squash(options) => {
                for patch in &options.patches {
                    self.patch(Some(patch))?;
                }
                self.stdout()?;
            }
        }
        self.makes("--report", command.report())
    }

    /// The remote side may well be here.
    fn session(&self, options: &SessionOptions) -> Result<()> {
        self.reads("LOCDEV", &options.local)?;
        self.reads("REMDEV", Path::new(&options.remote))
    }

    fn patch(&self, path: Option<&PathBuf>) -> Result<()> {
        match path.filter(|path| path.as_os_str() != STDIN_OPERAND) {
            Some(path) => self.reads("the patch", path),
            None => self.stdin(),
        }
    }

    /// The run reads `path`, which messages call `name`.
    ///
    /// # Errors
    /// `Kind::Usage` when it is also to be written.
    pub fn reads(&self, name: &'static str, path: &Path) -> Result<()> {
        self.add(Id::at(path), name, false, Some(path))
    }

    /// The run changes `path`.
    ///
    /// # Errors
    /// `Kind::Usage` when it is anything else as well.
    pub fn changes(&self, name: &'static str, path: &Path) -> Result<()> {
        self.add(Id::at(path), name, true, Some(path))
    }

    /// The run puts a file of its own at `path`.
    fn makes(&self, name: &'static str, path: Option<&Path>) -> Result<()> {
        let Some(path) = path else { return Ok(()) };
        // Where it leads nowhere, writing will say so.
        let Ok(destination) = Destination::of(path) else { return Ok(()) };
        if destination.metadata().is_ok_and(|found| found.file_type().is_block_device()) {
            let what = format!("{name} names a block device, which it would overwrite");
            return Err(self.refuse(what, path));
        }
        if destination.is_own_stream() && !self.0.lock().data_on_stdout {
            return Ok(());
        }
        self.add(Id::of_destination(&destination), name, true, Some(path))
    }

    fn stdin(&self) -> Result<()> {
        // Of a socket, stdin and stdout may be the same one.
        let id = open_file(io::stdin().as_fd()).filter(|found| holds_data(found.file_type()));
        self.add(id.as_ref().map(Id::of), STDIN_NAME, false, None)
    }

    fn stdout(&self) -> Result<()> {
        let id = open_file(io::stdout().as_fd()).filter(|at| !at.file_type().is_char_device());
        self.add(id.as_ref().map(Id::of), "standard output", true, None)
    }

    /// `path`, which a stream has not, is for messages.
    fn add(
        &self,
        id: Option<Id>,
        name: &'static str,
        exclusive: bool,
        path: Option<&Path>,
    ) -> Result<()> {
        let Some(id) = id else { return Ok(()) };
        let other = {
            let mut state = self.0.lock();
            let clash =
                |other: &&Claim| (other.exclusive || exclusive) && other.id.is_same_data(&id);
            let other = state.claims.iter().find(clash);
            let other = other.map(|other| (other.name, other.path.clone()));
            state.claims.push(Claim { name, path: path.map(Path::to_owned), id, exclusive });
            other
        };
        match other {
            None => Ok(()),
            Some((other, other_path)) => {
                let path = path.or(other_path.as_deref()).unwrap_or(Path::new(name));
                Err(self.refuse(format!("{other} and {name} are the same file"), path))
            }
        }
    }

    fn refuse(&self, what: String, path: &Path) -> Error {
        self.0.lock().refused = true;
        Error::new(Kind::Usage, what).with_path(path)
    }

    /// Whether anything was refused: the report then is what must not be written.
    #[must_use]
    pub fn were_refused(&self) -> bool {
        self.0.lock().refused
    }
}

fn open_file(fd: BorrowedFd<'_>) -> Option<Metadata> {
    fd.try_clone_to_owned().and_then(|fd| File::from(fd).metadata()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse;
    use std::os::unix::fs::symlink;

    /// What `words` are refused for, in a folder with the files a, b and p, a hard link h and a
    /// symbolic link s to b; `@` in a word is the folder.
    fn refusal(words: &[&str]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["a", "b", "p"] {
            fs::write(at(name), name).unwrap();
        }
        fs::hard_link(at("b"), at("h")).unwrap();
        symlink("b", at("s")).unwrap();
        let shown = folder.path().display().to_string();
        let words = words.iter().map(|word| OsString::from(word.replace('@', &shown)));
        let command = parse(std::iter::once("bdsync".into()).chain(words)).unwrap();
        let claims = Claims::default();
        let refusal = claims.add_all(&command).err();
        assert_eq!(claims.were_refused(), refusal.is_some());
        refusal.map(|err| {
            assert_eq!(err.kind(), Kind::Usage);
            err.words()
        })
    }

    #[test]
    fn no_file_is_read_and_written_or_written_twice() {
        for (words, names) in [
            (&["sync", "--report=@/b", "@/a", "@/b"][..], "DST and --report"),
            (&["sync", "--report=@/s", "@/a", "@/b"], "DST and --report"),
            (&["sync", "--report=@/h", "@/a", "@/b"], "DST and --report"),
            (&["sync", "--report=@/a", "@/a", "host:b"], "SRC and --report"),
            (&["sync", "--create", "--report=@/new", "@/a", "@/new"], "DST and --report"),
            (&["sync", "--undo=@/u", "--report=@/./u", "@/a", "@/b"], "--undo and --report"),
            (&["--patch=@/b", "--report=@/b"], "the target and --report"),
            (&["--patch=@/b", "--undo=@/u", "--report=@/u"], "--undo and --report"),
            (&["--report=@/a", "cmd", "@/a", "r"], "LOCDEV and --report"),
            (&["--report=@/b", "cmd", "@/a", "@/b"], "REMDEV and --report"),
            (&["info", "--svg=@/p", "@/p"], "the patch and --svg"),
            (&["info", "--svg=@/b", "@/p", "@/b"], "BASEDEV and --svg"),
            (&["info", "--svg=@/x", "--report=@/x", "@/p"], "--svg and --report"),
            (&["squash", "--report=@/p", "@/a", "@/p"], "the patch and --report"),
            (&["mount", "--from=@/p", "--report=@/b", "@/b", "@"], "BASEDEV and --report"),
            (&["mount", "--from=@/p", "--report=@/p", "@/b", "@"], "the patch and --report"),
            (&["mount", "--report=@/a", "cmd", "@/a", "r", "@"], "LOCDEV and --report"),
        ] {
            let expected = format!("{names} are the same file");
            assert_eq!(refusal(words).as_deref(), Some(&expected[..]), "{words:?}");
        }
    }

    #[test]
    fn what_does_no_harm_is_let_be() {
        for words in [
            &["sync", "--undo=@/u", "--report=@/r", "@/a", "@/b"][..],
            &["sync", "--undo=@/r", "--report=@/r", "@/a", "host:b"],
            &["sync", "--report=@/b", "@/a", "host:@/b"],
            &["sync", "--report=/dev/null", "@/a", "/dev/null"],
            &["squash", "@/p", "@/p"],
            &["cmd", "@/a", "@/a"],
            &["--patch=@/b", "--report=/no/such/folder/r"],
        ] {
            assert_eq!(refusal(words), None, "{words:?}");
        }
    }

    #[test]
    fn what_is_changed_is_not_read_whichever_is_known_first() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (at, claims) = (file.path(), [Claims::default(), Claims::default()]);
        claims[0].changes("the target", at).unwrap();
        claims[1].reads("the patch", at).unwrap();
        let refused = [claims[0].reads("the patch", at), claims[1].changes("the target", at)];
        for (err, names) in
            refused.into_iter().zip(["the target and the patch", "the patch and the target"])
        {
            let err = err.unwrap_err();
            assert_eq!(err.words(), format!("{names} are the same file"));
            assert_eq!(err.path(), Some(at));
        }
        assert!(claims.iter().all(Claims::were_refused));
    }

    #[test]
    fn what_holds_no_data_may_be_read_and_changed() {
        let (claims, null) = (Claims::default(), Path::new("/dev/null"));
        claims.reads("the patch", null).unwrap();
        claims.changes("the target", null).unwrap();
    }
}

//! The words that start a bdsync, here or through the remote shell. Opens nothing.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::cli::SyncOptions;
use crate::commands::shell_word::quoted;
use crate::error::{Error, Kind, Result};
use crate::naming::folder_of;
use crate::transport::split_command;
use crate::units::{FileId, SizeRule};

/// How to start a bdsync on one of the hosts.
#[derive(Debug)]
pub struct Caller {
    /// The program and its arguments up to the host; or this very program.
    words: Vec<OsString>,
    /// For a shell on the other host: how bdsync is called there.
    remote_program: Option<OsString>,
}

impl Caller {
    /// For `host`, or without one for this one.
    ///
    /// # Errors
    /// `Kind::Usage` when the remote shell's command cannot be split, `Kind::Spawn` when this
    /// program cannot find itself.
    pub fn new(host: Option<&OsStr>, shell: &OsStr, program: &OsStr) -> Result<Self> {
        let Some(host) = host else { return Self::here() };
        let mut words = split_command(shell)?;
        words.push(host.to_owned());
        Ok(Self { words, remote_program: Some(program.to_owned()) })
    }

    /// For this host.
    ///
    /// # Errors
    /// `Kind::Spawn` when this program cannot find itself.
    pub fn here() -> Result<Self> {
        let own = std::env::current_exe()
            .map_err(|err| Error::io(Kind::Spawn, "cannot find this program", err))?;
        // It may have been replaced meanwhile; the kernel still has it.
        let own = if own.exists() { own.into() } else { OsString::from("/proc/self/exe") };
        Ok(Self { words: vec![own], remote_program: None })
    }

    /// Whether no other host is involved.
    pub fn is_local(&self) -> bool {
        self.remote_program.is_none()
    }

    /// A server.
    pub fn server(&self) -> Vec<OsString> {
        self.call(&["--server".into()])
    }

    /// A server, after a file at `path` was created if there is nothing, which is taken away again
    /// if the server fails and it is still empty. For another host. Whoever may be about to write to
    /// it then is told that it has lost its name.
    pub fn creating_server(&self, path: &OsStr) -> Vec<OsString> {
        let path = &quoted(path.as_bytes())[..];
        let server = &self.remote_line(&["--server".into()])[..];
        // Nothing that comes meanwhile is emptied, nor is anything made through a link: by that the
        // path would not be what was made.
        let create = [
            // Of a device that is not there a file would be in memory, and gone with the next boot.
            b"case $(cd -- \"$(dirname -- ",
            path,
            b")\" && pwd -P)/ in /dev/shm/*) ;; /dev/*) echo 'bdsync: there is no such device; \
              --create makes no file among the devices' >&2; exit 12; esac; (umask 077; set -C; : >",
            path,
            b") || exit 12; made=1",
        ];
        let take_away = [b"[ -z \"$made\" ] || [ -s ", path, b" ] || rm -f -- ", path];
        let script = [
            &[b"made=; [ -e ", path, b" ] || { "].concat()[..],
            &create.concat(),
            b"; }; ",
            server,
            b"; status=$?; [ $status -eq 0 ] || ",
            &take_away.concat(),
            b"; exit $status",
        ];
        let script = script.concat();
        let mut words = self.words.clone();
        // Whatever the login shell is: these are words for sh.
        words.push(OsString::from_vec([b"sh -c ", &quoted(&script)[..]].concat()));
        words
    }

    /// A process that applies a patch.
    pub fn patch(&self, arguments: &[OsString]) -> Vec<OsString> {
        self.call(arguments)
    }

    fn call(&self, arguments: &[OsString]) -> Vec<OsString> {
        let mut words = self.words.clone();
        if self.is_local() {
            words.extend_from_slice(arguments);
        } else {
            words.push(OsString::from_vec(self.remote_line(arguments)));
        }
        words
    }

    /// One line for the other host's shell. The program is the user's own words.
    fn remote_line(&self, arguments: &[OsString]) -> Vec<u8> {
        let mut line = self.remote_program.clone().unwrap_or_default().into_vec();
        for argument in arguments {
            line.push(b' ');
            line.extend_from_slice(&quoted(argument.as_bytes()));
        }
        line
    }
}

/// What a `bdsync --patch` is told. Options that the classic lacks only where they were asked
/// for; `--force` not by `is_classic`, as it does all by force. `compared` is which disk the target
/// was found to be, and its size in bytes, where that is known and may be told.
pub fn patch_arguments(
    options: &SyncOptions,
    rule: SizeRule,
    target: &OsStr,
    is_classic: bool,
    compared: Option<(FileId, u64)>,
) -> Vec<OsString> {
    let attached = |name: &str, value: &OsStr| {
        let mut word = OsString::from(name);
        word.push(value);
        word
    };
    let mut words = vec![attached("--patch=", target)];
    match rule {
        SizeRule::Strict => {}
        SizeRule::Resize => words.push("--diffsize=resize".into()),
        SizeRule::MinSize => words.push("--diffsize=minsize".into()),
    }
    if let Some((disk, bytes)) = compared {
        words.push(attached("--sync-disk=", disk.to_string().as_ref()));
        words.push(attached("--sync-size=", bytes.to_string().as_ref()));
    }
    if let Some(path) = &options.undo {
        words.push(attached("--undo=", path.as_os_str()));
        // The patch is kept first, next to what takes as much room.
        words.push(attached("--spool=", folder_of(path).as_os_str()));
    }
    for (name, given) in [
        ("--sparse", options.sparse),
        ("--force", options.force && !is_classic),
        ("--flushcache", options.compare.flush_cache),
    ] {
        if given {
            words.push(name.into());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::testing::options;
    use super::*;
    use std::process::Command;

    fn remote() -> Caller {
        Caller::new(Some("me@host".as_ref()), "ssh -p 22".as_ref(), "sudo bdsync".as_ref()).unwrap()
    }

    #[test]
    fn remote_call_is_one_word_for_the_shell_there() {
        assert_eq!(remote().server(), ["ssh", "-p", "22", "me@host", "sudo bdsync --server"]);
        let words = remote().patch(&["--patch=/dev/it's here".into(), "--sparse".into()]);
        assert_eq!(words[4], r"sudo bdsync '--patch=/dev/it'\''s here' --sparse");
        assert!(!remote().is_local());
    }

    #[test]
    fn local_call_is_words_without_a_shell() {
        let caller = Caller::new(None, "ssh".as_ref(), "x".as_ref()).unwrap();
        assert!(caller.is_local());
        let words = caller.patch(&["--patch=a b".into()]);
        assert_eq!(words[1..], [OsString::from("--patch=a b")]);
    }

    #[test]
    fn who_writes_is_told_what_was_asked_for_and_the_classic_nothing_of_force() {
        let told = |words: &[&str], is_classic, compared| {
            let words = [words, &["a", "h:b"]].concat();
            let rule = SizeRule::Strict;
            patch_arguments(&options(&words), rule, "b".as_ref(), is_classic, compared)
        };
        assert_eq!(told(&[], false, None), ["--patch=b"]);
        assert_eq!(told(&["--force"], false, None), ["--patch=b", "--force"]);
        assert_eq!(told(&["--force"], true, None), ["--patch=b"]);
        let disk = Some((FileId { device: 7, inode: 8 }, 9));
        assert_eq!(told(&[], false, disk), ["--patch=b", "--sync-disk=7:8", "--sync-size=9"]);
        assert_eq!(
            told(&["--undo=/x/u", "--sparse", "--flushcache"], false, None),
            ["--patch=b", "--undo=/x/u", "--spool=/x", "--sparse", "--flushcache"]
        );
        for (rule, word) in
            [(SizeRule::Resize, "--diffsize=resize"), (SizeRule::MinSize, "--diffsize=minsize")]
        {
            let told = patch_arguments(&options(&["a", "b"]), rule, "b".as_ref(), true, None);
            assert_eq!(told, ["--patch=b", word]);
        }
    }

    #[test]
    fn creating_script_makes_the_file_once_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("it's \"new\" $HOME");
        let run = |program: &str| {
            let caller = Caller::new(Some("host".as_ref()), "ssh".as_ref(), program.as_ref());
            let words = caller.unwrap().creating_server(path.as_os_str());
            Command::new("sh").arg("-c").arg(&words[2]).output().unwrap()
        };
        assert_eq!(run("/no/bdsync").status.code(), Some(127));
        assert!(!path.exists(), "nothing came of it");
        for content in ["", "kept"] {
            assert_eq!(run("echo ran").stdout, b"ran --server\n");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
            assert_eq!(run("false").status.code(), Some(1));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content, "it was there before");
            std::fs::write(&path, "kept").unwrap();
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(run("false").status.code(), Some(1));
        assert!(!path.exists(), "the server has failed");
        // As here: what it leads to is another name.
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert_eq!(run("echo ran").status.code(), Some(12));
        assert!(path.is_symlink() && !folder.path().join("elsewhere").exists());
    }
}

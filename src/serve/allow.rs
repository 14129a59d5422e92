//! `--allow`: which devices a client may name.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::device::{FileDevice, FileKind, open_source};
use crate::error::{Error, Kind, Result};

/// Where the names of block devices are links that the system makes.
const DEVICES: &str = "/dev";

/// The paths that clients may name; all of them where no glob was given.
///
/// What counts is where the opened file really lies, once all links and `..` are resolved. The
/// one exception are names like `/dev/vg/disk`, which are links to `/dev/dm-3` whose number
/// says nothing: such a name counts itself, when nobody but root can have made it.
#[derive(Clone, Debug)]
pub struct Allowed {
    globs: Option<GlobSet>,
}

impl Allowed {
    /// Allows what one of `globs` matches: `*`, `?` and `[...]` stop at a `/`, `**` does not;
    /// `{a,b}` as in a shell. Without any everything is allowed.
    ///
    /// # Errors
    /// `Kind::Usage` for a glob that is malformed, has a `/` in a `[...]`, or does not begin
    /// with `/` and so could match nothing.
    pub fn new<S: AsRef<str>>(globs: &[S]) -> Result<Self> {
        if globs.is_empty() {
            return Ok(Self { globs: None });
        }
        let bad = |glob: &str, why: String| {
            Error::new(Kind::Usage, format!("--allow={glob} is no glob of absolute paths: {why}"))
        };
        let mut set = GlobSetBuilder::new();
        for glob in globs.iter().map(AsRef::as_ref) {
            if !glob.starts_with('/') {
                return Err(bad(glob, "it does not begin with /".into()));
            }
            let stopping = classes_without_slash(glob)
                .map_err(|class| bad(glob, format!("{class} stands for a / too")))?;
            let built = GlobBuilder::new(&stopping).literal_separator(true).build();
            set.add(built.map_err(|err| bad(glob, err.kind().to_string()))?);
        }
        let globs = set.build().map_err(|err| bad("", err.to_string()))?;
        Ok(Self { globs: Some(globs) })
    }

    /// Opens the device at `path` for reading, if it may be.
    ///
    /// # Errors
    /// `Kind::Open` when it is not allowed, which does not tell whether it exists; and as
    /// [`open_source`].
    pub fn open(&self, path: &Path) -> Result<FileDevice> {
        let Some(globs) = &self.globs else { return open_source(path) };
        let refused = || {
            let what = "the server does not allow this device (see its --allow)";
            Error::new(Kind::Open, what).with_path(path)
        };
        // Before it is opened, since to open some devices has effects of its own.
        let before = fs::canonicalize(path).map_err(|_| refused())?;
        if !globs.is_match(&before) && !names_device(globs, path) {
            return Err(refused());
        }
        let device = open_source(path)?;
        // And again, of the very file that is open now: the path may lead elsewhere since.
        let real = real_path(&device);
        let by_name = || device.kind() == FileKind::Block && names_device(globs, path);
        match real {
            Some(real) if globs.is_match(&real) => Ok(device),
            Some(real) if real.starts_with(DEVICES) && by_name() => Ok(device),
            _ => Err(refused()),
        }
    }
}

/// `glob` with a `/` among what its negated classes do not stand for: `globset` has `*` and `?`
/// alone stop there.
///
/// # Errors
/// The class that stands for a `/`, by itself or in a range.
fn classes_without_slash(glob: &str) -> Result<String, &str> {
    let mut stopping = String::with_capacity(glob.len());
    let mut rest = glob;
    while let Some(at) = rest.find(['[', '\\']) {
        let (before, special) = rest.split_at(at);
        stopping.push_str(before);
        let len = if special.starts_with('[') {
            let class = Class::begins(special);
            if class.has_slash && !class.is_negated {
                return Err(&special[..class.len]);
            }
            let (head, end) = special[..class.len].split_at(class.end);
            let slash = if class.is_negated { "/" } else { "" };
            stopping.extend([head, slash, end]);
            class.len
        } else {
            let len = special.chars().take(2).map(char::len_utf8).sum();
            stopping.push_str(&special[..len]);
            len
        };
        rest = &special[len..];
    }
    stopping.push_str(rest);
    Ok(stopping)
}

/// A `[...]`, read as `globset` reads it.
struct Class {
    is_negated: bool,
    /// Whether a `/` is named or lies in a range.
    has_slash: bool,
    /// Where one more character may be named, in bytes from the `[`: before the `]`, and before
    /// a `-` there that stands for itself.
    end: usize,
    /// Its bytes, with both brackets. One without an end, which `globset` refuses, takes the rest.
    len: usize,
}

impl Class {
    /// The class that `text` begins with.
    fn begins(text: &str) -> Self {
        let is_negated = text[1..].starts_with(['!', '^']);
        let first = if is_negated { 2 } else { 1 };
        let mut class = Self { is_negated, has_slash: false, end: text.len(), len: text.len() };
        // The first character of the latest range, and where a `-` behind it is.
        let (mut low, mut dash) = (None, None);
        for (at, c) in text.char_indices().skip(first) {
            match (c, low, dash) {
                (']', Some(_), _) => {
                    (class.end, class.len) = (dash.unwrap_or(at), at + 1);
                    break;
                }
                ('-', Some(_), None) => dash = Some(at),
                (high, Some(from), Some(_)) => {
                    class.has_slash |= (from..=high).contains(&'/');
                    dash = None;
                }
                (single, ..) => {
                    class.has_slash |= single == '/';
                    low = Some(single);
                }
            }
        }
        class
    }
}

/// Where the open file lies.
fn real_path(device: &FileDevice) -> Option<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", device.as_file().as_raw_fd())).ok()
}

/// Whether `path` matches, and is a name for a block device below `/dev` that only root can
/// have made.
fn names_device(globs: &GlobSet, path: &Path) -> bool {
    let is_plain =
        path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !is_plain || !path.starts_with(DEVICES) || !globs.is_match(path) {
        return false;
    }
    let folders = path.ancestors().skip(1).take_while(|folder| folder.starts_with(DEVICES));
    let made_by_root = |folder: &Path| {
        fs::symlink_metadata(folder)
            .is_ok_and(|meta| meta.is_dir() && meta.uid() == 0 && meta.mode() & 0o022 == 0)
    };
    let is_block = fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device());
    is_block && folders.into_iter().all(made_by_root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn refused(allowed: &Allowed, path: &Path) -> bool {
        match allowed.open(path) {
            Ok(_) => false,
            Err(err) => {
                assert_eq!(err.kind(), Kind::Open);
                assert!(err.to_string().contains("does not allow"), "{err}");
                true
            }
        }
    }

    #[test]
    fn what_lies_outside_is_refused_whatever_leads_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for folder in ["in", "in/deep", "out"] {
            fs::create_dir(root.join(folder)).unwrap();
        }
        for file in ["in/a.img", "in/a.txt", "in/deep/b.img", "out/c.img"] {
            fs::write(root.join(file), b"x").unwrap();
        }
        symlink(root.join("out/c.img"), root.join("in/link.img")).unwrap();
        symlink(root.join("in/a.img"), root.join("out/back.img")).unwrap();
        symlink(root.join("out"), root.join("in/folder")).unwrap();
        let allowed = Allowed::new(&[format!("{}/in/*.img", root.display())]).unwrap();
        for (path, is_refused) in [
            ("in/a.img", false),
            ("out/../in/a.img", false),
            ("out/back.img", false),
            ("in/a.txt", true),
            ("in/deep/b.img", true),
            ("in/link.img", true),
            ("in/../out/c.img", true),
            ("in/folder/c.img", true),
            ("in/missing.img", true),
            ("out/missing.img", true),
            ("in", true),
        ] {
            assert_eq!(refused(&allowed, &root.join(path)), is_refused, "{path}");
        }
        let all = Allowed::new(&[format!("{}/in/**", root.display()), "/nowhere".into()]).unwrap();
        assert!(!refused(&all, &root.join("in/deep/b.img")));
        assert!(refused(&all, &root.join("in/link.img")));
        assert!(refused(&all, Path::new("/dev/null")));
    }

    /// What `glob` matches of these.
    fn matched<'a>(glob: &str, paths: &[&'a str]) -> Vec<&'a str> {
        let globs = Allowed::new(&[glob]).unwrap().globs.unwrap();
        paths.iter().copied().filter(|path| globs.is_match(path)).collect()
    }

    #[test]
    fn classes_match_as_in_a_shell_and_no_slash() {
        let paths = ["/a/b", "/aab", "/a.b", "/a-b", "/a]b", "/a,b", "/a0b", "/a!b", "/a b", "/ab"];
        for (class, expected) in [
            ("[!a]", &["/a.b", "/a-b", "/a]b", "/a,b", "/a0b", "/a!b", "/a b"][..]),
            ("[^!-~]", &["/a b"]),
            ("[!]]", &["/aab", "/a.b", "/a-b", "/a,b", "/a0b", "/a!b", "/a b"]),
            ("[!]-a]", &["/a.b", "/a-b", "/a,b", "/a0b", "/a!b", "/a b"]),
            ("[!]-]", &["/aab", "/a.b", "/a,b", "/a0b", "/a!b", "/a b"]),
            ("[!-]", &["/aab", "/a.b", "/a]b", "/a,b", "/a0b", "/a!b", "/a b"]),
            ("[!a-]", &["/a.b", "/a]b", "/a,b", "/a0b", "/a!b", "/a b"]),
            ("[!+--]", &["/aab", "/a.b", "/a]b", "/a0b", "/a!b", "/a b"]),
            ("[!,-.-a]", &["/a!b", "/a b"]),
            ("[!/]", &["/aab", "/a.b", "/a-b", "/a]b", "/a,b", "/a0b", "/a!b", "/a b"]),
            ("[a-z,]", &["/aab", "/a,b"]),
            ("[]!]", &["/a]b", "/a!b"]),
            ("[,-.]", &["/a.b", "/a-b", "/a,b"]),
            ("[+--]", &["/a-b", "/a,b"]),
            ("{[!a-z],[a]}", &["/aab", "/a.b", "/a-b", "/a]b", "/a,b", "/a0b", "/a!b", "/a b"]),
        ] {
            assert_eq!(matched(&format!("/a{class}b"), &paths), expected, "{class}");
        }
        assert_eq!(matched("/srv/**/ok[!a]x", &["/srv/y/ok/x", "/srv/ok.x"]), ["/srv/ok.x"]);
        assert_eq!(matched("/a\\[[!]]b", &["/a[.b", "/a[/b", "/a.b"]), ["/a[.b"]);
    }

    #[test]
    fn classes_with_a_slash_are_usage_errors() {
        for class in ["[/]", "[a/]", "[+-9]", "[ -~]", "[]/]", "[--0]", "[+-.-a]", "[^]"] {
            let made = Allowed::new(&[format!("/srv/**/a{class}b")]);
            assert_eq!(made.map(drop).unwrap_err().kind(), Kind::Usage, "{class}");
        }
        let err = Allowed::new(&["/a\\[b[+-9]c"]).map(drop).unwrap_err();
        assert!(err.to_string().ends_with(": [+-9] stands for a / too"), "{err}");
    }

    #[test]
    fn names_below_dev_are_no_way_around() {
        let dir = tempfile::Builder::new().prefix("bdsync-allow").tempdir_in("/dev/shm");
        let Ok(dir) = dir else { return };
        let link = dir.path().join("disk");
        symlink("/etc/passwd", &link).unwrap();
        let allowed = Allowed::new(&["/dev/**"]).unwrap();
        assert!(refused(&allowed, &link));
        assert!(!refused(&allowed, Path::new("/dev/null")));
    }

    #[test]
    fn names_below_dev_count_for_block_devices_in_folders_of_root_only() {
        use std::os::unix::fs::{PermissionsExt, chown};

        let nodes = fs::read_dir("/dev").into_iter().flatten().flatten().map(|node| node.path());
        let is_block = |path: &PathBuf| {
            fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
        };
        let folder = tempfile::Builder::new().prefix("bdsync-allow").tempdir_in(DEVICES);
        let (Some(disk), Ok(dir)) = (nodes.into_iter().find(is_block), folder) else {
            eprintln!("skipped: no block device, or we may not name it in /dev");
            return;
        };
        let name = |name: &str, target: &Path| {
            let path = dir.path().join(name);
            symlink(target, &path).unwrap();
            path
        };
        let (named, null) = (name("disk", &disk), name("null", Path::new("/dev/null")));
        let counts = |glob: &str, path: &Path| {
            let allowed = Allowed::new(&[glob]).unwrap();
            names_device(allowed.globs.as_ref().unwrap(), path)
        };
        let glob = format!("{}/*", dir.path().display());
        assert!(counts(&glob, &named));
        assert!(!counts(&glob, &null), "no block device");
        assert!(!counts("/dev/other/*", &named), "another name");
        let roundabout = dir.path().join("..").join(dir.path().file_name().unwrap()).join("disk");
        assert!(is_block(&roundabout));
        assert!(!counts("/dev/**", &roundabout), "a way back may lead through a link");
        let elsewhere = tempfile::tempdir().unwrap();
        let outside = elsewhere.path().join("disk");
        symlink(&disk, &outside).unwrap();
        assert!(!counts("/**", &outside), "not below /dev");
        for mode in [0o775, 0o757, 0o755] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(counts(&glob, &named), mode == 0o755, "{mode:o}");
        }
        chown(dir.path(), Some(1), None).unwrap();
        assert!(!counts(&glob, &named), "another user's folder");
    }

    #[test]
    fn globs_that_can_match_nothing_are_usage_errors() {
        for glob in ["", "images/*", "/a/[", "/a/{b", "*"] {
            assert_eq!(Allowed::new(&[glob]).unwrap_err().kind(), Kind::Usage, "{glob}");
        }
        let none: [&str; 0] = [];
        assert!(Allowed::new(&none).unwrap().open(Path::new("/dev/null")).is_ok());
    }
}

//! A real sshd on 127.0.0.1 with its own configuration and keys in a temporary folder.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::requirements::find_program;
use super::wait::comes_true;

/// How often another port is tried when somebody else took the one found free.
const PORT_TRIES: usize = 5;

/// Killed on drop.
pub struct Sshd {
    folder: TempDir,
    child: Child,
    port: u16,
}

impl Sshd {
    /// Starts one, and waits until it listens.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("no temporary folder");
        for name in ["host_key", "client_key"] {
            make_key(&folder.path().join(name));
        }
        fs::copy(folder.path().join("client_key.pub"), folder.path().join("authorized_keys"))
            .expect("cannot copy the key");
        // Debian's sshd wants this folder, which its service unit would have made.
        let _ = fs::create_dir_all("/run/sshd");
        for _ in 0..PORT_TRIES {
            if let Some((child, port)) = try_start(folder.path()) {
                return Self { folder, child, port };
            }
        }
        let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        panic!("sshd does not start: {log}");
    }

    /// The ssh command line up to and including the host: append what to run there.
    pub fn ssh_command(&self) -> String {
        format!("{} {}", self.shell(), self.host())
    }

    /// The ssh command line up to the host, as a remote shell.
    pub fn shell(&self) -> String {
        let folder = self.folder.path().display();
        format!(
            "ssh -F none -p {port} -i {folder}/client_key -o IdentitiesOnly=yes -o BatchMode=yes \
             -o StrictHostKeyChecking=no -o UserKnownHostsFile={folder}/known_hosts \
             -o LogLevel=ERROR",
            port = self.port,
        )
    }

    /// `user@host`.
    pub fn host(&self) -> String {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
        let user = user.expect("no user table").expect("no such user").name;
        format!("{user}@127.0.0.1")
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn make_key(path: &Path) {
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .stdin(Stdio::null())
        .status();
    assert!(status.expect("ssh-keygen").success());
}

fn try_start(folder: &Path) -> Option<(Child, u16)> {
    let free = TcpListener::bind("127.0.0.1:0").expect("no free port");
    let port = free.local_addr().expect("no address").port();
    drop(free);
    let config = folder.join("sshd_config");
    fs::write(&config, config_text(folder, port)).expect("cannot write");
    let log = fs::File::create(folder.join("log")).expect("cannot create");
    // sshd starts itself again for every connection, and so must be named by its full path.
    let mut child = Command::new(find_program("sshd").expect("checked by require!"))
        .args(["-D", "-e", "-f"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("cannot start sshd");
    let mut has_ended = false;
    let answers = comes_true(|| {
        has_ended = child.try_wait().expect("cannot wait").is_some();
        has_ended || TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    if answers && !has_ended {
        return Some((child, port));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

fn config_text(folder: &Path, port: u16) -> String {
    let folder = folder.display();
    format!(
        "Port {port}\n\
         ListenAddress 127.0.0.1\n\
         HostKey {folder}/host_key\n\
         AuthorizedKeysFile {folder}/authorized_keys\n\
         PidFile none\n\
         StrictModes no\n\
         UsePAM no\n\
         PasswordAuthentication no\n\
         KbdInteractiveAuthentication no\n\
         PermitRootLogin prohibit-password\n"
    )
}

//! What systemd is told of a service of `Type=notify` (sd_notify(3), without the library).

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where it wants to be told: a path, or an abstract name behind an `@`.
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// Says that the service is ready, with a line for `systemctl status`. Does nothing where no
/// service manager asked for it, and its failure is nobody's: the manager then gives up waiting.
pub fn ready(status: &str) {
    let Some(name) = env::var_os(SOCKET_VARIABLE) else { return };
    // One line a variable: a line break in a path must not make another.
    let status = status.replace('\n', " ");
    if let Err(err) = send(name.as_bytes(), &format!("READY=1\nSTATUS={status}")) {
        log::debug!("cannot tell the service manager that the mount is readable: {err}");
    }
}

fn send(name: &[u8], text: &str) -> io::Result<()> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let len = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }

    #[test]
    fn both_kinds_of_sockets_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let by_path = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str().as_bytes(), "READY=1").unwrap();
        assert_eq!(received(&by_path), "READY=1");

        let name = format!("bdsync-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let abstract_one = UnixDatagram::bind_addr(&address).unwrap();
        send(format!("@{name}").as_bytes(), "READY=1").unwrap();
        assert_eq!(received(&abstract_one), "READY=1");
    }

    #[test]
    fn a_manager_that_is_gone_is_an_error_and_no_more() {
        assert!(send(b"/nonexistent/socket", "READY=1").is_err());
    }
}

//! Remotes that are commands, and how they end.

use super::*;

fn command(text: &str, timeout: Option<Duration>) -> Connection {
    let words = split_command(OsStr::new(text)).unwrap();
    connect(&words, Manner::Session, timeout, Box::new(|_| {})).unwrap()
}

fn open_error(text: &str) -> Error {
    open(command(text, None)).unwrap_err()
}

#[test]
fn remote_that_ends_early_is_told_with_its_exit() {
    for (text, kind, words) in [
        (
            "sh -c 'exit 4'",
            Kind::Gone,
            "the remote side went away: the remote command exited with status 4",
        ),
        // It ends when its stdin does.
        (
            "sh -c 'exec >/dev/null; cat; exit 37'",
            Kind::Gone,
            "the remote side went away: the remote command exited with status 37",
        ),
        (
            "sh -c 'exit 127'",
            Kind::Gone,
            "the remote side went away: the remote command exited with status 127 \
             (command not found: is bdsync installed there, and on the PATH?)",
        ),
        // Classic bug 7.
        (
            "sh -c 'kill -9 $$'",
            Kind::Spawn,
            "the remote side went away: the remote command was ended by signal 9 (SIGKILL)",
        ),
    ] {
        let err = open_error(text);
        assert_eq!(err.kind(), kind, "{text}");
        assert_eq!(err.full_message(), words, "{text}");
    }
    assert_eq!(open_error("echo Welcome to the jungle").kind(), Kind::Protocol);
}

#[test]
fn silent_command_is_given_up_on_and_reaped() {
    let connection = command("sleep 1000", Some(Duration::from_secs(1)));
    assert_eq!(open(connection).unwrap_err().kind(), Kind::Connection);
}

/// A server of shell commands: it answers hello, size, and done when it has read as many bytes
/// as our messages have, and then does `last`.
fn shell_server(last: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, messages: &[Message]| {
        let mut bytes = vec![];
        for message in messages {
            message.encode(&mut bytes).unwrap();
        }
        std::fs::write(dir.path().join(name), bytes).unwrap();
    };
    write("open", &[Message::Hello(b"SERVER 0.5".to_vec()), Message::Size(SIZE)]);
    write("done", &[Message::Done]);
    let Digests { salt, hash, checksum, .. } = digests();
    let sent = [
        Message::Hello(Extensions::ALL.hello("CLIENT")),
        Message::DevFile(b"/dev/x".to_vec()),
        Message::Digests { salt, hash, checksum },
        Message::Done,
    ];
    let bytes: usize = sent.iter().map(Message::wire_bytes).sum();
    let d = dir.path().display().to_string();
    let script =
        format!("tee {d}/sent | {{ cat {d}/open; head -c {bytes} >&2; cat {d}/done; {last}; }}");
    (dir, format!("sh -c '{script}'"))
}

/// Classic bug 10: `tee` ends when its stdin does.
#[test]
fn stdin_is_closed_before_the_command_is_waited_for() {
    let (dir, text) = shell_server("cat >&2; exit 9");
    let peer = open(command(&text, None)).unwrap();
    assert_eq!(peer.finish().unwrap().code(), Some(9));
    let sent = std::fs::metadata(dir.path().join("sent")).unwrap().len();
    assert_eq!(sent, peer.counters().sent_bytes);
}

#[test]
fn command_that_talks_on_after_done_can_end() {
    let (_dir, text) = shell_server("yes | head -c 1000000");
    let peer = open(command(&text, None)).unwrap();
    assert!(peer.finish().unwrap().success());
}

#[test]
fn command_ended_by_a_signal_after_done_is_no_success() {
    let (_dir, text) = shell_server("cat >&2");
    let text = text.replacen("sh -c '", "sh -c 'trap \"kill -9 $$\" EXIT; ", 1);
    let err = open(command(&text, None)).unwrap().finish().unwrap_err();
    assert_eq!(err.kind(), Kind::Spawn);
    assert_eq!(err.to_string(), "the remote command was ended by signal 9 (SIGKILL)");
}

#[test]
fn command_that_does_not_end_is_killed_after_the_timeout() {
    let (_dir, text) = shell_server("exec sleep 60");
    let peer = open(command(&text, Some(Duration::from_secs(1)))).unwrap();
    let err = peer.finish().unwrap_err();
    assert_eq!(err.kind(), Kind::Connection);
    assert!(err.to_string().contains("did not end within 1 s"), "{err}");
}

//! A server that lies: `liar MODE COMMAND...` starts a real one and changes its answers.
//!
//! block: a byte of every block; hash: a bit of every hash; short: blocks lack their last byte;
//! offset: blocks are said to be from elsewhere; fault: every block is said to be unreadable;
//! huge: the device is said to be as large as 64 bits can say; count: more hashes are said to
//! follow than do; step: hashes are said to be of other blocks; treeless: it has all extensions but
//! trees.

use std::io::{self, Write};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use bdsync::units::ByteRange;
use bdsync::wire::{FrameReader, FrameWriter, Look, Message};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mode = args.next().expect("a mode");
    let mut child = Command::new(args.next().expect("a command"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut to_server = child.stdin.take().expect("a pipe");
    thread::spawn(move || drop(io::copy(&mut io::stdin(), &mut to_server)));
    let mut answers = FrameReader::new(child.stdout.take().expect("a pipe"));
    let mut output = FrameWriter::new(io::stdout());
    while let Ok(Some(message)) = answers.read_message() {
        let sent = output.write(&lie(&mode, message)).and_then(|()| output.flush());
        if sent.is_err() || io::stdout().flush().is_err() {
            break;
        }
    }
    drop(answers);
    let status = child.wait().expect("the server ends");
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn lie(mode: &str, message: Message) -> Message {
    match (mode, message) {
        ("block", Message::Block { offset, mut data }) => {
            data[0] ^= 1;
            Message::Block { offset, data }
        }
        ("short", Message::Block { offset, mut data }) => {
            data.pop();
            Message::Block { offset, data }
        }
        ("offset", Message::Block { offset, data }) => Message::Block { offset: offset + 1, data },
        ("fault", Message::Block { offset, data }) => Message::Fault {
            ranges: vec![ByteRange::new(offset, offset + data.len() as u64)],
            text: b"so it \x1b[31m says".to_vec(),
        },
        ("hash", Message::Hashes { start, step, n, mut hashes }) => {
            hashes.iter_mut().step_by(16).for_each(|byte| *byte ^= 1);
            Message::Hashes { start, step, n, hashes }
        }
        ("hash", Message::Tree { look, mut hashes }) => {
            hashes.iter_mut().step_by(16).for_each(|byte| *byte ^= 1);
            Message::Tree { look, hashes }
        }
        ("hash", Message::Runs { step, level, print, mut hashes }) => {
            hashes.iter_mut().step_by(16).for_each(|byte| *byte ^= 1);
            Message::Runs { step, level, print, hashes }
        }
        ("treeless", Message::Hello(text)) => {
            let text = String::from_utf8(text).expect("words");
            Message::Hello(text.replace(",tree", "").into_bytes())
        }
        ("huge", Message::Size(_)) => Message::Size(u64::MAX),
        ("count", Message::Hashes { start, step, hashes, .. }) => {
            Message::Hashes { start, step, n: u64::MAX, hashes }
        }
        ("count", Message::Tree { look, hashes }) => {
            Message::Tree { look: Look { n: u64::MAX, ..look }, hashes }
        }
        ("count", Message::Runs { step, level, hashes, .. }) => {
            Message::Runs { step, level, print: u64::MAX, hashes }
        }
        ("step", Message::Runs { level, print, hashes, .. }) => {
            Message::Runs { step: u64::MAX, level, print, hashes }
        }
        ("step", Message::Tree { look, hashes }) => {
            Message::Tree { look: Look { step: u64::MAX, ..look }, hashes }
        }
        ("step", Message::Hashes { start, n, hashes, .. }) => {
            Message::Hashes { start, step: u64::MAX, n, hashes }
        }
        (_, other) => other,
    }
}

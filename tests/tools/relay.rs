//! A slow link, for REMSHCMD: `relay DELAY_MS MBIT_PER_S COMMAND [ARG ...]` runs COMMAND and
//! passes stdin to it and its stdout back. Every byte arrives DELAY_MS later than it was sent,
//! and each direction carries at most MBIT_PER_S megabits (10^6) a second (0: no limit).
//!
//! The kernel's own tool for that needs a network and a module; this needs neither, and what
//! it measures is the same: round trips and bytes. On stderr, at the end: the bytes of both
//! directions.

use std::env;
use std::io::{self, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes taken from the sender at once: a few packets.
const CHUNK_BYTES: usize = 8 * 1024;
/// Chunks that may be on the link; beyond that the sender waits, as with a full socket buffer.
const CHUNKS_ON_LINK_MAX: usize = 1024;

/// Bytes that were passed on, from the client and to it.
static UP_BYTES: AtomicU64 = AtomicU64::new(0);
static DOWN_BYTES: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy)]
struct Link {
    delay: Duration,
    bytes_per_second: f64,
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let parsed = match args.as_slice() {
        [delay, mbit, command @ ..] if !command.is_empty() => {
            delay.parse().ok().zip(mbit.parse::<f64>().ok()).map(|numbers| (numbers, command))
        }
        _ => None,
    };
    let Some(((delay_ms, mbit), command)) = parsed else {
        eprintln!("usage: relay DELAY_MS MBIT_PER_S COMMAND [ARG ...]");
        return ExitCode::from(2);
    };
    let link = Link { delay: Duration::from_millis(delay_ms), bytes_per_second: mbit * 1e6 / 8.0 };
    match run(link, command) {
        Ok(code) => ExitCode::from(code),
        Err(err) => {
            eprintln!("relay: {}: {err}", command[0]);
            ExitCode::from(127)
        }
    }
}

fn run(link: Link, command: &[String]) -> io::Result<u8> {
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("the command has no pipes"));
    };
    // What still comes from the client at the end has nobody to go to: that thread ends with
    // the process.
    thread::spawn(move || carry(link, io::stdin(), to, &UP_BYTES));
    let down = thread::spawn(move || carry(link, from, io::stdout(), &DOWN_BYTES));
    let _ = down.join();
    let status = child.wait()?;
    let [up, down] = [&UP_BYTES, &DOWN_BYTES].map(|bytes| bytes.load(Ordering::SeqCst));
    eprintln!("relay: {up} bytes up, {down} bytes down");
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Carries one direction to its end and counts its bytes.
fn carry(link: Link, from: impl Read + Send + 'static, to: impl Write, bytes: &AtomicU64) {
    let (sender, receiver) = sync_channel(CHUNKS_ON_LINK_MAX);
    thread::spawn(move || send(link, from, &sender));
    deliver(&receiver, to, bytes);
}

fn send(link: Link, mut from: impl Read, on_link: &SyncSender<(Instant, Vec<u8>)>) {
    let mut line_free = Instant::now();
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let Ok(len @ 1..) = from.read(&mut chunk) else { return };
        chunk.truncate(len);
        line_free = line_free.max(Instant::now());
        if link.bytes_per_second > 0.0 {
            line_free += Duration::from_secs_f64(len as f64 / link.bytes_per_second);
        }
        if on_link.send((line_free + link.delay, chunk)).is_err() {
            return;
        }
    }
}

fn deliver(on_link: &Receiver<(Instant, Vec<u8>)>, mut to: impl Write, bytes: &AtomicU64) {
    while let Ok((arrives, chunk)) = on_link.recv() {
        thread::sleep(arrives.saturating_duration_since(Instant::now()));
        // Before the other side can have read them and ended.
        bytes.fetch_add(chunk.len() as u64, Ordering::SeqCst);
        if to.write_all(&chunk).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

//! A whole session of the server, fed with anything.
#![no_main]

use std::io::{Cursor, sink};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use bdsync::device::{Device, MemoryDevice};
use bdsync::error::{Error, Kind, Result};
use bdsync::serve::session;
use bdsync::transport::{Connection, Control};
use bdsync::units::ByteRange;
use bdsync::wire::Extensions;
use libfuzzer_sys::fuzz_target;

/// How often the device may be asked for anything: gigabytes of zeros find no fault.
const BUDGET: u32 = 5000;

/// A small device that loses patience.
struct Impatient {
    inner: MemoryDevice,
    left: AtomicU32,
}

impl Device for Impatient {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.spend(1)?;
        self.inner.read_exact_at(buf, offset)
    }

    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        self.spend(1)?;
        self.inner.next_data(from)
    }

    fn check(&self) -> Result<()> {
        self.spend(BUDGET / 20)
    }
}

impl Impatient {
    fn spend(&self, cost: u32) -> Result<()> {
        let left = self.left.load(Ordering::Relaxed).saturating_sub(cost);
        self.left.store(left, Ordering::Relaxed);
        if left > 0 { Ok(()) } else { Err(Error::new(Kind::Read, "enough")) }
    }
}

fuzz_target!(|input: &[u8]| {
    let (size, input) = match input {
        [a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        _ => return,
    };
    let connection = Connection {
        reader: Box::new(Cursor::new(input.to_vec())),
        writer: Box::new(sink()),
        control: Control::new(None).expect("pipes"),
        remote: None,
    };
    let open = |_: &Path| {
        let bytes = (0..size).map(|i| (i / 100 % 3) as u8).collect::<Vec<_>>();
        let inner = MemoryDevice::new(bytes);
        Ok(Box::new(Impatient { inner, left: AtomicU32::new(BUDGET) }) as Box<dyn Device>)
    };
    let _ = session(connection, Extensions::ALL, &open);
});

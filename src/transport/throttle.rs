//! `--bwlimit`: readers and writers that carry no more than so many bytes a second.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Connection;
use crate::units::RATE_BYTES_MIN;

/// What may be carried at once is what the rate allows in so long. So much time in which nothing
/// was carried is made up for as well: a sleep ends late on a busy machine.
const BURST: Duration = Duration::from_millis(50);

/// The shortest sleep: bytes that cost less are paid for together with later ones.
const SLEEP_MIN: Duration = Duration::from_millis(5);

/// One direction's allowance; everything that goes that way shares it.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_second: u64,
    /// When the bytes that were let through so far are paid for.
    free_at: Mutex<Instant>,
}

impl Throttle {
    /// At most `bytes_per_second`, at least [`RATE_BYTES_MIN`].
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Arc<Self> {
        let bytes_per_second = bytes_per_second.max(RATE_BYTES_MIN);
        Arc::new(Self { bytes_per_second, free_at: Mutex::new(Instant::now()) })
    }

    /// The most bytes to carry in one go.
    fn piece_bytes(&self) -> usize {
        let bytes = u128::from(self.bytes_per_second) * BURST.as_millis() / 1000;
        usize::try_from(bytes).unwrap_or(usize::MAX).max(1)
    }

    /// How long to wait before the next bytes, if at all, now that `bytes` were carried at `now`.
    fn charge(&self, bytes: usize, now: Instant) -> Option<Duration> {
        let mut free_at = self.free_at.lock();
        let start = now.checked_sub(BURST).map_or(*free_at, |earliest| earliest.max(*free_at));
        *free_at = start + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        Some(free_at.saturating_duration_since(now)).filter(|&wait| wait >= SLEEP_MIN)
    }

    fn pay(&self, bytes: usize) {
        if let Some(wait) = self.charge(bytes, Instant::now()) {
            std::thread::sleep(wait);
        }
    }
}

/// Carries bytes into another writer no faster than allowed.
#[derive(Debug)]
pub struct ThrottledWriter<W> {
    writer: W,
    throttle: Option<Arc<Throttle>>,
}

impl<W> ThrottledWriter<W> {
    /// Without a throttle it is the writer itself.
    #[must_use]
    pub fn new(writer: W, throttle: Option<Arc<Throttle>>) -> Self {
        Self { writer, throttle }
    }
}

impl<W: Write> Write for ThrottledWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let Some(throttle) = &self.throttle else { return self.writer.write(buf) };
        let piece = &buf[..buf.len().min(throttle.piece_bytes())];
        // Before: who has got all there is must not find the writer asleep.
        throttle.pay(piece.len());
        self.writer.write_all(piece)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Takes bytes from another reader no faster than allowed; the sender feels it by pipes and
/// sockets that fill up.
#[derive(Debug)]
struct ThrottledReader<R> {
    reader: R,
    throttle: Arc<Throttle>,
}

impl<R: Read> Read for ThrottledReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let piece = buf.len().min(self.throttle.piece_bytes());
        let read = self.reader.read(&mut buf[..piece])?;
        self.throttle.pay(read);
        Ok(read)
    }
}

impl Connection {
    /// The same connection, each direction under its throttle.
    #[must_use]
    pub fn throttled(self, up: Arc<Throttle>, down: Arc<Throttle>) -> Self {
        let Self { reader, writer, control, remote } = self;
        Self {
            reader: Box::new(ThrottledReader { reader, throttle: down }),
            writer: Box::new(ThrottledWriter::new(writer, Some(up))),
            control,
            remote,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn bytes_cost_their_time_and_idle_time_saves_one_burst() {
        let throttle = Throttle::new(10_000);
        let start = Instant::now() + ms(100_000);
        assert_eq!(throttle.charge(1000, start), Some(ms(50)), "it was idle for long");
        assert_eq!(throttle.charge(500, start), Some(ms(100)), "debts add up");
        assert_eq!(throttle.charge(1000, start + ms(5000)), Some(ms(50)));
        assert_eq!(throttle.piece_bytes(), 500);
    }

    #[test]
    fn small_pieces_are_paid_for_together() {
        let throttle = Throttle::new(10_000);
        let start = Instant::now() + ms(100_000);
        assert_eq!(throttle.charge(500, start), None, "the burst");
        assert_eq!(throttle.charge(49, start), None);
        assert_eq!(throttle.charge(1, start), Some(ms(5)));
    }

    /// However late every sleep ends, in seconds enough for 1000 pieces 1000 pieces are carried.
    #[test]
    fn sleeps_that_end_late_do_not_lower_the_rate() {
        for late in [ms(0), ms(3), ms(20), ms(49)] {
            let throttle = Throttle::new(100_000);
            let start = Instant::now() + ms(100_000);
            let mut now = start;
            for _ in 0..1000 {
                if let Some(wait) = throttle.charge(1000, now) {
                    now += wait + late;
                }
            }
            let took = now - start;
            assert!(took <= ms(10_000) + late, "{took:?} with sleeps {late:?} too long");
            assert!(took >= ms(10_000) - BURST - SLEEP_MIN, "{took:?}");
        }
    }

    #[test]
    fn rates_below_the_least_are_raised_and_the_largest_does_not_overflow() {
        assert_eq!(Throttle::new(0).bytes_per_second, RATE_BYTES_MIN);
        assert!(Throttle::new(u64::MAX).piece_bytes() > 0);
        assert!(Throttle::new(RATE_BYTES_MIN).piece_bytes() > 0);
    }

    #[test]
    fn both_directions_of_a_connection_are_slowed() {
        let (client, server) = super::super::pair(None).unwrap();
        let mut client = client.throttled(Throttle::new(100_000), Throttle::new(100_000));
        let echo = std::thread::spawn(move || {
            let Connection { mut reader, mut writer, .. } = server;
            let mut got = vec![0; 20_000];
            reader.read_exact(&mut got).unwrap();
            writer.write_all(&got).unwrap();
        });
        let started = Instant::now();
        client.writer.write_all(&[7; 20_000]).unwrap();
        let up = started.elapsed();
        let mut got = vec![0; 20_000];
        client.reader.read_exact(&mut got).unwrap();
        assert!(got.iter().all(|&byte| byte == 7));
        // 200 ms each, less a burst and what is not worth a sleep.
        let least = ms(200) - BURST - SLEEP_MIN;
        assert!(up >= least, "{up:?}");
        assert!(started.elapsed() - up >= least);
        echo.join().unwrap();
    }
}

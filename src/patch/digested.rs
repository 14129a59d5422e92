//! The digest that a seal holds, made while a patch is read for something else.

use std::io::{self, Read};

use super::seal::{BEHIND_BYTES, FoundSeal};
use crate::error::{Error, Kind, Result};

/// Digests what is read through it, but for the last bytes, which a seal does not cover.
pub struct Digested<R> {
    input: R,
    hasher: blake3::Hasher,
    /// What was read last, and may be the last of all.
    held: Vec<u8>,
}

impl<R> Digested<R> {
    /// Reads from `input`.
    #[must_use]
    pub fn new(input: R) -> Self {
        Self { input, hasher: blake3::Hasher::new(), held: vec![] }
    }

    /// What it reads from.
    #[must_use]
    pub fn get_ref(&self) -> &R {
        &self.input
    }

    /// Compares what was read, which is all of a patch, with its seal.
    ///
    /// # Errors
    /// `Kind::Patch` when it is not what was sealed.
    pub fn verify(&self, seal: &FoundSeal) -> Result<()> {
        if self.hasher.finalize() == seal.digest {
            return Ok(());
        }
        Err(Error::new(Kind::Patch, "the patch is not as it was sealed: its digest differs"))
    }
}

impl<R: Read> Read for Digested<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        let new = &buf[..n];
        let ready = (self.held.len() + n).saturating_sub(BEHIND_BYTES);
        let from_held = ready.min(self.held.len());
        self.hasher.update(&self.held[..from_held]);
        self.held.drain(..from_held);
        self.hasher.update(&new[..ready - from_held]);
        self.held.extend_from_slice(&new[ready - from_held..]);
        Ok(n)
    }
}

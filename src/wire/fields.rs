//! The fields of a payload: numbers, names and salts, each taken only if it is there. Pure.

use crate::error::{Error, Kind, Result};

/// The longest salt, in bytes.
pub const SALT_BYTES_MAX: usize = 127;

/// The longest digest name, in bytes.
pub const DIGEST_NAME_BYTES_MAX: usize = 127;

/// The largest level of a `gettree`: 16^7 leaves a node.
pub const TREE_LEVEL_MAX: u8 = 7;

/// What stands in place of a level for the hashes of blocks.
pub(super) const NO_LEVEL: u8 = 255;

/// The numbers of a `gettree`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Look {
    /// Offset of the first node, in bytes.
    pub start: u64,
    /// Bytes of a leaf.
    pub step: u64,
    /// Number of nodes.
    pub n: u64,
    /// Their level, at most [`TREE_LEVEL_MAX`]: a node covers step * 16^level bytes.
    pub level: u8,
}

/// The fields of one payload, taken off its front.
pub(super) struct Fields<'a> {
    message: &'static str,
    payload_bytes: usize,
    left: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'static str, payload: &'a [u8]) -> Self {
        Self { message, payload_bytes: payload.len(), left: payload }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// What `decode` makes of the fields, if it leaves none over.
    pub(super) fn exactly<T>(mut self, decode: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let message = decode(&mut self)?;
        match self.left.len() {
            0 => Ok(message),
            extra => Err(self.malformed(&format!("{extra} bytes too many"))),
        }
    }

    /// The next `bytes` bytes.
    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8]> {
        let (head, tail) =
            self.left.split_at_checked(bytes).ok_or_else(|| self.malformed("it is cut short"))?;
        self.left = tail;
        Ok(head)
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.left)
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4)?);
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(bytes))
    }

    pub(super) fn look(&mut self) -> Result<Look> {
        Ok(Look { start: self.u64()?, step: self.u64()?, n: self.u64()?, level: self.level()? })
    }

    pub(super) fn salt(&mut self) -> Result<Vec<u8>> {
        let bytes = usize::from(self.u8()?);
        if bytes > SALT_BYTES_MAX {
            return Err(self.malformed(&format!(
                "a salt of at most {SALT_BYTES_MAX} bytes expected, {bytes} announced"
            )));
        }
        Ok(self.take(bytes)?.to_vec())
    }

    pub(super) fn level(&mut self) -> Result<u8> {
        match self.u8()? {
            level if level <= TREE_LEVEL_MAX => Ok(level),
            level => Err(self.malformed(&format!(
                "a level of at most {TREE_LEVEL_MAX} expected, found {level}"
            ))),
        }
    }

    /// A level, or what says that blocks are meant.
    pub(super) fn level_or_none(&mut self) -> Result<Option<u8>> {
        match self.left.first() {
            Some(&NO_LEVEL) => self.take(1).map(|_| None),
            _ => self.level().map(Some),
        }
    }

    /// A digest name, up to its NUL.
    pub(super) fn name(&mut self) -> Result<String> {
        let end = self.left.iter().position(|&byte| byte == 0);
        let end = end.ok_or_else(|| self.malformed("a digest name does not end"))?;
        let name = self.take(end)?;
        self.take(1)?;
        match std::str::from_utf8(name) {
            Ok(name) if name.len() <= DIGEST_NAME_BYTES_MAX => Ok(name.to_owned()),
            _ => Err(self.malformed("a digest name is too long or no text")),
        }
    }

    pub(super) fn malformed(&self, why: &str) -> Error {
        let Self { message, payload_bytes, .. } = self;
        let what = format!("a malformed {message} message of {payload_bytes} bytes: {why}");
        Error::new(Kind::Protocol, what)
    }
}

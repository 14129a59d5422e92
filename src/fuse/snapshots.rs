//! Texts that are another at every reading, kept as they were when they were opened, so that a
//! reader who takes them in pieces gets one of them whole.

use std::collections::HashMap;
use std::sync::Arc;

use fuser::FileHandle;
use parking_lot::Mutex;

/// Texts that are kept at once. Further openings get none, and read whatever is newest.
const SNAPSHOTS_MAX: usize = 1024;

/// The handle of a file that was opened without a snapshot.
pub(super) const NO_SNAPSHOT: FileHandle = FileHandle(0);

/// The texts by their file handles, which count from 1.
#[derive(Default)]
pub(super) struct Snapshots(Mutex<State>);

#[derive(Default)]
struct State {
    last_handle: u64,
    texts: HashMap<u64, Arc<[u8]>>,
}

impl Snapshots {
    /// Keeps `text` until [`Snapshots::forget`].
    pub(super) fn keep(&self, text: Vec<u8>) -> FileHandle {
        let mut state = self.0.lock();
        if state.texts.len() >= SNAPSHOTS_MAX {
            return NO_SNAPSHOT;
        }
        state.last_handle += 1;
        let handle = state.last_handle;
        state.texts.insert(handle, text.into());
        FileHandle(handle)
    }

    /// The bytes `[offset, offset + len)` of the text, as far as it has them; `None`: there is
    /// no snapshot of that handle.
    pub(super) fn read(&self, handle: FileHandle, offset: u64, len: u32) -> Option<Vec<u8>> {
        let text = Arc::clone(self.0.lock().texts.get(&handle.0)?);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = text.get(offset..).unwrap_or_default();
        Some(rest[..rest.len().min(len as usize)].to_vec())
    }

    /// The file was closed.
    pub(super) fn forget(&self, handle: FileHandle) {
        self.0.lock().texts.remove(&handle.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_handle_has_its_own_text_until_it_is_closed() {
        let texts = Snapshots::default();
        let (a, b) = (texts.keep(b"first".to_vec()), texts.keep(b"2".to_vec()));
        assert_eq!(texts.read(a, 1, 3).unwrap(), b"irs");
        assert_eq!(texts.read(a, 5, 9).unwrap(), b"");
        assert_eq!(texts.read(b, u64::MAX, u32::MAX).unwrap(), b"");
        texts.forget(a);
        assert!(texts.read(a, 0, 1).is_none());
        assert_eq!(texts.read(b, 0, 9).unwrap(), b"2");
    }

    #[test]
    fn one_text_too_many_is_not_kept_and_room_counts_again() {
        let texts = Snapshots::default();
        let handles: Vec<_> = (0..SNAPSHOTS_MAX).map(|_| texts.keep(vec![])).collect();
        assert_eq!(texts.keep(vec![]), NO_SNAPSHOT);
        texts.forget(handles[0]);
        assert_ne!(texts.keep(vec![]), NO_SNAPSHOT);
    }
}

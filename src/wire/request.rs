//! What one can ask for, what one gets, and whether an answer is that of its request. Pure.

use super::fields::{Look, TREE_LEVEL_MAX};
use super::handshake::Extensions;
use super::message::{
    BLOCK_MESSAGE_BYTES_MAX, HASHES_BYTES_MAX, HashRun, Message, RUNS_BYTES_MAX, RUNS_MAX,
    TREE_BYTES_MAX, runs_print,
};
use super::other::Other;
use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;

/// A question to the remote. Offsets and steps are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The hashes of `n` blocks of `step` bytes from `start` on.
    Hashes {
        /// Offset of the first block.
        start: u64,
        /// Bytes of a block.
        step: u64,
        /// Number of blocks; their hashes must fit one answer, see [`Session::hashes_max`].
        n: u64,
    },
    /// The hashes of tree nodes, which must fit one answer, see [`Session::tree_max`]; extension
    /// `tree` only.
    Tree(Look),
    /// The hashes of several runs of tree nodes of `level`, or of blocks; extension `runs` only.
    Runs {
        /// Bytes of a block, level 0.
        step: u64,
        /// `None` for blocks.
        level: Option<u8>,
        /// One to [`RUNS_MAX`]; all their hashes must fit one answer, see [`Session::runs_max`].
        runs: Vec<HashRun>,
    },
    /// The bytes of `range`, which lies inside the device; at most [`BLOCK_MESSAGE_BYTES_MAX`].
    Block {
        /// The bytes to get.
        range: ByteRange,
    },
    /// The checksum of the whole device.
    Checksum,
    /// A hint: with step 0 "flush the cache after reading", with step 1 "everything below
    /// start is done with".
    Hint {
        /// Where the hint applies.
        start: u64,
        /// Which hint.
        step: u64,
    },
}

/// The answer to the [`Request`] of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `n` hashes in a row.
    Hashes(Vec<u8>),
    /// `n` hashes in a row.
    Tree(Vec<u8>),
    /// Those of all runs, one behind the other.
    Runs(Vec<u8>),
    /// The bytes of the range.
    Block(Vec<u8>),
    /// The digest's bytes.
    Checksum(Vec<u8>),
    /// Heard.
    Hint,
}

/// Takes the answer to a request, or the error that took its place. Runs on one of the peer's
/// threads, where it holds up all other answers: it must be quick. It may submit.
pub type Done = Box<dyn FnOnce(Result<Answer>) + Send>;

/// What both sides agreed on: it decides which requests make sense, and how long answers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Size of the remote device, in bytes.
    pub size: u64,
    /// Bytes of a block hash; not 0.
    pub hash_bytes: usize,
    /// Bytes of a tree's hash; not 0.
    pub tree_hash_bytes: usize,
    /// Bytes of the checksum; 0 where none was agreed on.
    pub checksum_bytes: usize,
    /// The extensions in use.
    pub extensions: Extensions,
}

impl Session {
    /// How many hashes one `hashes` answer holds.
    #[must_use]
    pub fn hashes_max(&self) -> u64 {
        (HASHES_BYTES_MAX / self.hash_bytes) as u64
    }

    /// How many hashes one `tree` answer holds.
    #[must_use]
    pub fn tree_max(&self) -> u64 {
        (TREE_BYTES_MAX / self.tree_hash_bytes) as u64
    }

    /// How many hashes of nodes (with `level`) or blocks one `runs` answer holds.
    #[must_use]
    pub fn runs_max(&self, level: Option<u8>) -> u64 {
        (RUNS_BYTES_MAX / self.hash_len(level)) as u64
    }

    fn hash_len(&self, level: Option<u8>) -> usize {
        if level.is_some() { self.tree_hash_bytes } else { self.hash_bytes }
    }

    /// Whether `request` may be sent, and how many bytes of hashes or data will answer it.
    ///
    /// # Errors
    /// `Kind::Usage`: a fault of the caller, which the remote could only answer with its end.
    pub(super) fn answer_bytes(&self, request: &Request) -> Result<usize> {
        let hashes = |n: u64, max: u64, each: usize| match usize::try_from(n) {
            Ok(count @ 1..) if n <= max => Ok(count * each),
            _ => Err(refused(format!("{n} hashes asked for, 1 to {max} fit one answer"))),
        };
        match *request {
            Request::Hashes { step: 0, .. }
            | Request::Tree(Look { step: 0, .. })
            | Request::Runs { step: 0, .. } => {
                Err(refused("hashes of blocks of 0 bytes asked for".into()))
            }
            Request::Hashes { n, .. } => hashes(n, self.hashes_max(), self.hash_bytes),
            Request::Tree(_) if !self.extensions.tree => {
                Err(refused("the remote does not have the extension tree".into()))
            }
            Request::Tree(Look { level, .. }) if level > TREE_LEVEL_MAX => {
                Err(refused(format!("tree level {level} asked for, at most {TREE_LEVEL_MAX}")))
            }
            Request::Tree(Look { n, .. }) => hashes(n, self.tree_max(), self.tree_hash_bytes),
            Request::Runs { level, ref runs, .. } => self.runs_bytes(level, runs),
            Request::Block { range } => match usize::try_from(range.len()) {
                Ok(bytes @ 1..=BLOCK_MESSAGE_BYTES_MAX) if range.end <= self.size => Ok(bytes),
                _ => Err(refused(format!(
                    "1 to {BLOCK_MESSAGE_BYTES_MAX} bytes inside the remote device of {} bytes \
                     expected",
                    self.size
                ))
                .with_range(range)),
            },
            Request::Checksum if self.checksum_bytes == 0 => {
                Err(refused("no checksum was agreed on".into()))
            }
            Request::Checksum => Ok(self.checksum_bytes),
            Request::Hint { .. } => Ok(0),
        }
    }

    /// The same for a [`Request::Runs`].
    fn runs_bytes(&self, level: Option<u8>, runs: &[HashRun]) -> Result<usize> {
        let extensions = &self.extensions;
        if !extensions.runs || (level.is_some() && !extensions.tree) {
            return Err(refused("the remote does not have the extension runs, or tree".into()));
        }
        if level.is_some_and(|level| level > TREE_LEVEL_MAX) {
            return Err(refused(format!("a tree level above {TREE_LEVEL_MAX} asked for")));
        }
        let n: u64 = runs.iter().map(|run| u64::from(run.n)).sum();
        let most = self.runs_max(level);
        if !(1..=RUNS_MAX).contains(&runs.len()) || runs.iter().any(|run| run.n == 0) || n > most {
            let what = format!(
                "{n} hashes in {} runs asked for, {most} in {RUNS_MAX} fit one answer",
                runs.len()
            );
            return Err(refused(what));
        }
        // At most `most`, which fits a message.
        Ok(n as usize * self.hash_len(level))
    }
}

impl Request {
    /// The message that asks for it.
    pub(super) fn message(&self) -> Message {
        match *self {
            Request::Hashes { start, step, n } => Message::GetHashes { start, step, n },
            Request::Tree(look) => Message::GetTree(look),
            Request::Runs { step, level, ref runs } => {
                Message::GetRuns { step, level, runs: runs.clone() }
            }
            Request::Block { range } => Message::GetBlock { offset: range.start, len: range.len() },
            Request::Checksum => Message::GetChecksum,
            Request::Hint { start, step } => Message::GetHashes { start, step, n: 0 },
        }
    }

    /// What `message` answers, if it is the answer to this request: same kind, same numbers,
    /// and exactly `bytes` bytes long.
    ///
    /// # Errors
    /// `Kind::Protocol`, with expected and found.
    pub(super) fn accept(&self, message: Message, bytes: usize) -> Result<Answer> {
        let found_bytes = match &message {
            Message::Hashes { hashes, .. }
            | Message::Tree { hashes, .. }
            | Message::Runs { hashes, .. } => hashes.len(),
            Message::Block { data, .. } => data.len(),
            Message::Checksum(digest) => digest.len(),
            _ => 0,
        };
        let (expected, found) = match (self.echo(), echo(&message)) {
            ((expected, _), (found, _)) if expected != found => {
                return Err(Other::Server.unexpected(expected, &message));
            }
            ((_, expected), (_, found)) => (expected, found),
        };
        if expected != found {
            let name = message.name();
            let what = format!(
                "the remote sent the {name} of another request: expected {expected:?}, \
                 found {found:?}"
            );
            return Err(Error::new(Kind::Protocol, what));
        }
        if found_bytes != bytes {
            let name = message.name();
            let what = format!(
                "the remote sent a {name} message of the wrong length: expected {bytes} bytes, \
                 found {found_bytes}"
            );
            return Err(Error::new(Kind::Protocol, what));
        }
        Ok(match (self, message) {
            (Request::Hint { .. }, _) => Answer::Hint,
            (_, Message::Tree { hashes, .. }) => Answer::Tree(hashes),
            (_, Message::Runs { hashes, .. }) => Answer::Runs(hashes),
            (_, Message::Block { data, .. }) => Answer::Block(data),
            (_, Message::Checksum(digest)) => Answer::Checksum(digest),
            (_, Message::Hashes { hashes, .. }) => Answer::Hashes(hashes),
            (_, other) => return Err(Other::Server.unexpected("an answer", &other)),
        })
    }

    /// Name of the answer and the numbers that it must repeat.
    fn echo(&self) -> (&'static str, [u64; 4]) {
        match *self {
            Request::Hashes { start, step, n } => ("hashes", [start, step, n, 0]),
            Request::Hint { start, step } => ("hashes", [start, step, 0, 0]),
            Request::Tree(Look { start, step, n, level }) => {
                ("tree", [start, step, n, level.into()])
            }
            Request::Runs { step, level, ref runs } => {
                ("runs", [step, level_echo(level), runs_print(runs), 0])
            }
            Request::Block { range } => ("block", [range.start, 0, 0, 0]),
            Request::Checksum => ("checksum", [0; 4]),
        }
    }
}

/// Name of an answer and the numbers that it repeats.
fn echo(message: &Message) -> (&'static str, [u64; 4]) {
    let numbers = match *message {
        Message::Hashes { start, step, n, .. } => [start, step, n, 0],
        Message::Tree { look: Look { start, step, n, level }, .. } => {
            [start, step, n, level.into()]
        }
        Message::Runs { step, level, print, .. } => [step, level_echo(level), print, 0],
        Message::Block { offset, .. } => [offset, 0, 0, 0],
        _ => [0; 4],
    };
    (message.name(), numbers)
}

/// A level as one number, 0 for none.
fn level_echo(level: Option<u8>) -> u64 {
    level.map_or(0, |level| 1 + u64::from(level))
}

fn refused(why: String) -> Error {
    Error::new(Kind::Usage, format!("impossible request to the remote: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Session = Session {
        size: 1000,
        hash_bytes: 16,
        tree_hash_bytes: 16,
        checksum_bytes: 20,
        extensions: Extensions::ALL,
    };

    fn hashes(n: u64) -> Request {
        Request::Hashes { start: 0, step: 4096, n }
    }

    fn block(start: u64, end: u64) -> Request {
        Request::Block { range: ByteRange::new(start, end) }
    }

    #[test]
    fn requests_are_bounded_by_one_answer_and_the_device() {
        let max = SESSION.hashes_max();
        let tree = |n, level| Request::Tree(Look { start: 0, step: 1, n, level });
        for (request, bytes) in [
            (hashes(max), Some(max as usize * 16)),
            (hashes(max + 1), None),
            (hashes(0), None),
            (hashes(u64::MAX), None),
            (Request::Hashes { start: 0, step: 0, n: 1 }, None),
            (tree(SESSION.tree_max(), 7), Some(SESSION.tree_max() as usize * 16)),
            (tree(SESSION.tree_max() + 1, 7), None),
            (tree(1, 8), None),
            (block(0, 1000), Some(1000)),
            (block(0, 1001), None),
            (block(5, 5), None),
            (Request::Checksum, Some(20)),
            (Request::Hint { start: u64::MAX, step: 1 }, Some(0)),
        ] {
            assert_eq!(SESSION.answer_bytes(&request).ok(), bytes, "{request:?}");
        }
        let large = Session { size: u64::MAX, ..SESSION };
        let max = BLOCK_MESSAGE_BYTES_MAX as u64;
        assert!(large.answer_bytes(&block(7, 7 + max)).is_ok());
        assert!(large.answer_bytes(&block(7, 8 + max)).is_err());
    }

    #[test]
    fn extension_and_checksum_need_agreement() {
        let plain = Session { checksum_bytes: 0, extensions: Extensions::NONE, ..SESSION };
        let tree = Request::Tree(Look { start: 0, step: 1, n: 1, level: 0 });
        assert!(plain.answer_bytes(&tree).is_err());
        assert!(plain.answer_bytes(&Request::Checksum).is_err());
    }

    #[test]
    fn runs_are_bounded_by_one_answer_and_need_agreement() {
        let run = |n| HashRun { start: 5, n };
        let asked = |level, runs: Vec<HashRun>| Request::Runs { step: 512, level, runs };
        let session = Session { hash_bytes: 32, ..SESSION };
        let (blocks, nodes) = (session.runs_max(None) as u32, session.runs_max(Some(1)) as u32);
        for (request, bytes) in [
            (asked(None, vec![run(3), run(2)]), Some(5 * 32)),
            (asked(Some(1), vec![run(3), run(2)]), Some(5 * 16)),
            (asked(None, vec![run(blocks - 1), run(1)]), Some(blocks as usize * 32)),
            (asked(None, vec![run(blocks), run(1)]), None),
            (asked(Some(0), vec![run(nodes)]), Some(nodes as usize * 16)),
            (asked(Some(0), vec![run(nodes + 1)]), None),
            (asked(Some(8), vec![run(1)]), None),
            (asked(None, vec![]), None),
            (asked(None, vec![run(1), run(0)]), None),
            (asked(None, vec![run(1); RUNS_MAX + 1]), None),
            (Request::Runs { step: 0, level: None, runs: vec![run(1)] }, None),
        ] {
            assert_eq!(session.answer_bytes(&request).ok(), bytes, "{request:?}");
        }
        let (flat, deep) = (asked(None, vec![run(1)]), asked(Some(1), vec![run(1)]));
        let with = |extensions| Session { extensions, ..SESSION };
        let no_tree = with(Extensions { tree: false, ..Extensions::ALL });
        assert!(no_tree.answer_bytes(&flat).is_ok() && no_tree.answer_bytes(&deep).is_err());
        let no_runs = with(Extensions { runs: false, ..Extensions::ALL });
        assert!(no_runs.answer_bytes(&flat).is_err() && no_runs.answer_bytes(&deep).is_err());
    }

    #[test]
    fn an_answer_to_runs_is_that_of_its_step_level_and_runs() {
        let runs = vec![HashRun { start: 0, n: 1 }, HashRun { start: 4096, n: 3 }];
        let request = Request::Runs { step: 512, level: Some(0), runs: runs.clone() };
        let answer = |step, level, runs: &[HashRun], bytes| {
            let (print, hashes) = (runs_print(runs), vec![1; bytes]);
            request.accept(Message::Runs { step, level, print, hashes }, 32).ok()
        };
        assert_eq!(answer(512, Some(0), &runs, 32), Some(Answer::Runs(vec![1; 32])));
        assert_eq!(answer(511, Some(0), &runs, 32), None);
        assert_eq!(answer(512, None, &runs, 32), None);
        assert_eq!(answer(512, Some(1), &runs, 32), None);
        assert_eq!(answer(512, Some(0), &runs, 31), None);
        assert_eq!(answer(512, Some(0), &runs[..1], 32), None);
        // Any bit of any of them.
        for (run, bit) in (0..2).flat_map(|run| (0..96).map(move |bit| (run, bit))) {
            let mut others = runs.clone();
            match bit {
                0..64 => others[run].start ^= 1 << bit,
                _ => others[run].n ^= 1 << (bit - 64),
            }
            assert_eq!(answer(512, Some(0), &others, 32), None, "run {run}, bit {bit}");
        }
    }

    #[test]
    fn largest_answers_to_allowed_requests_fit_a_message() {
        for hash_bytes in [16, 20, 28, 32, 48, 64] {
            let session = Session { hash_bytes, tree_hash_bytes: hash_bytes, ..SESSION };
            let bytes = session.answer_bytes(&hashes(session.hashes_max())).unwrap();
            let answer = Message::Hashes { start: 0, step: 1, n: 1, hashes: vec![0; bytes] };
            assert!(answer.encode(&mut vec![]).is_ok());
        }
    }

    #[test]
    fn only_the_answer_to_the_request_is_accepted() {
        let answer =
            |start, step, n, bytes| Message::Hashes { start, step, n, hashes: vec![1; bytes] };
        let request = hashes(2);
        assert_eq!(
            request.accept(answer(0, 4096, 2, 32), 32).unwrap(),
            Answer::Hashes(vec![1; 32])
        );
        for wrong in [
            answer(1, 4096, 2, 32),
            answer(0, 4095, 2, 32),
            answer(0, 4096, 3, 32),
            answer(0, 4096, 2, 31),
            answer(0, 4096, 2, 33),
            Message::Tree {
                look: Look { start: 0, step: 4096, n: 2, level: 0 },
                hashes: vec![1; 32],
            },
            Message::Block { offset: 0, data: vec![1; 32] },
            Message::Done,
            Message::GetHashes { start: 0, step: 4096, n: 2 },
        ] {
            let err = request.accept(wrong.clone(), 32).unwrap_err();
            assert_eq!(err.kind(), Kind::Protocol, "{wrong:?}");
        }
        let data = |offset, bytes| Message::Block { offset, data: vec![0; bytes] };
        assert!(block(8, 18).accept(data(8, 10), 10).is_ok());
        assert!(block(8, 18).accept(data(9, 10), 10).is_err());
        assert!(block(8, 18).accept(data(8, 9), 10).is_err());
        assert!(Request::Checksum.accept(Message::Checksum(vec![0; 20]), 20).is_ok());
        assert!(Request::Checksum.accept(Message::Checksum(vec![]), 20).is_err());
        let hint = Request::Hint { start: 5, step: 1 };
        assert_eq!(hint.accept(answer(5, 1, 0, 0), 0).unwrap(), Answer::Hint);
        assert!(hint.accept(answer(5, 1, 0, 16), 0).is_err());
    }

    #[test]
    fn mismatch_says_expected_and_found() {
        let wrong = Message::Hashes { start: 9, step: 4096, n: 1, hashes: vec![0; 16] };
        assert_eq!(
            hashes(1).accept(wrong, 16).unwrap_err().to_string(),
            "the remote sent the hashes of another request: expected [0, 4096, 1, 0], \
             found [9, 4096, 1, 0]"
        );
    }
}

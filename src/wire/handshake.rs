//! The hello of both sides: protocol version and extensions.
//!
//! A hello is text: anything up to the first space, then exactly the version. Our extensions
//! hide in the free part, `CLIENT+blake3,tree 0.5`, where a classic peer does not look.

use std::io::{Read, Write};

use super::frame::{FrameReader, FrameWriter};
use super::message::Message;
use super::other::SHOWN_BYTES_MAX;
use crate::error::{Error, Kind, Result};

/// The version of the protocol, as both sides must announce it.
const VERSION: &str = "0.5";

/// Leads to the extension that a word of a hello announces.
type Field = fn(&mut Extensions) -> &mut bool;

/// One list for the fields, for all of them at once, and for the words of a hello in their order.
macro_rules! extensions {
    ($($(#[$doc:meta])+ $word:ident,)+) => {
        /// Extensions of the protocol: announced by one side, or in use between both.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Extensions {
            $($(#[$doc])+ pub $word: bool,)+
        }

        impl Extensions {
            /// None, as a classic peer.
            pub const NONE: Self = Self { $($word: false,)+ };
            /// All that this program knows: what a server offers.
            pub const ALL: Self = Self { $($word: true,)+ };
            const WORDS: &[(&str, Field)] = &[$((stringify!($word), |set| &mut set.$word),)+];
        }
    };
}

extensions! {
    /// The block hash `blake3`, keyed with the salt.
    blake3,
    /// The messages `gettree` and `tree`.
    tree,
    /// The answer `fault` to a request for bytes that cannot be read.
    faults,
    /// After a `fault` the bytes count as zeros. In use only with `faults`.
    skip,
    /// Leaves of trees are hashed by NH. In use only with `blake3` and `tree`.
    nh,
    /// Answers may come in another order than their requests.
    reorder,
    /// The server draws the salt and answers the first looks of a walk before it is asked. In use
    /// only with `blake3`, `tree` and `nh`, and without `skip`.
    early,
    /// The messages `getruns` and `runs`.
    runs,
    /// The message `alive`.
    alive,
    /// The message `disk`.
    disk,
    /// The message `packed`.
    zstd,
}

impl Extensions {
    /// Those that are in use between one that has these and one that has `other`: what both have,
    /// without those that need another which is not.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        let blake3 = self.blake3 && other.blake3;
        let tree = self.tree && other.tree;
        // Of leaves alone, which only trees have, of the hash that replaces theirs.
        let nh = self.nh && other.nh && blake3 && tree;
        let faults = self.faults && other.faults;
        let skip = self.skip && other.skip && faults;
        Self {
            blake3,
            tree,
            faults,
            skip,
            nh,
            reorder: self.reorder && other.reorder,
            // Unreadable bytes are told once: not in an answer that nobody may ask for.
            early: self.early && other.early && nh && !skip,
            runs: self.runs && other.runs,
            alive: self.alive && other.alive,
            disk: self.disk && other.disk,
            zstd: self.zstd && other.zstd,
        }
    }

    /// Whether comparisons go down trees: of one many hashes are asked for, each by itself but for
    /// `runs`.
    #[must_use]
    pub const fn goes_down_trees(self) -> bool {
        self.tree && self.runs
    }

    /// The hello of `role` (`CLIENT`, `SERVER`) that announces these.
    pub(super) fn hello(mut self, role: &str) -> Vec<u8> {
        let announced = Self::WORDS.iter().filter(|(_, field)| *field(&mut self));
        let words: Vec<&str> = announced.map(|(word, _)| *word).collect();
        match words.is_empty() {
            true => format!("{role} {VERSION}").into_bytes(),
            false => format!("{role}+{} {VERSION}", words.join(",")).into_bytes(),
        }
    }

    /// The extensions that a hello announces. Unknown words are skipped: they belong to a
    /// later version of this program, which will do without.
    ///
    /// # Errors
    /// `Kind::Protocol` when the hello does not end in the version.
    pub fn from_hello(hello: &[u8]) -> Result<Self> {
        let mut parts = hello.splitn(2, |&byte| byte == b' ');
        let who = parts.next().unwrap_or_default();
        if parts.next() != Some(VERSION.as_bytes()) {
            let shown = &hello[..hello.len().min(SHOWN_BYTES_MAX)];
            let what = format!(
                "expected a hello of version {VERSION}, found \"{}\"",
                shown.escape_ascii()
            );
            return Err(Error::new(Kind::Protocol, what));
        }
        let mut found = Self::NONE;
        if let Some(plus) = who.iter().position(|&byte| byte == b'+') {
            for word in who[plus + 1..].split(|&byte| byte == b',') {
                let known = Self::WORDS.iter().find(|(known, _)| known.as_bytes() == word);
                if let Some((_, field)) = known {
                    *field(&mut found) = true;
                }
            }
        }
        Ok(found)
    }
}

/// The asking side's begin: greets at once, announcing `offer`, and sends `first` with that, which
/// saves a round trip.
///
/// # Errors
/// `Kind::Gone` or `Kind::Connection` when the link fails.
pub fn send_client_hello(
    writer: &mut FrameWriter<impl Write>,
    offer: Extensions,
    first: &Message,
) -> Result<()> {
    writer.write(&Message::Hello(offer.hello("CLIENT")))?;
    writer.write(first)?;
    writer.flush()
}

/// Then waits for the other's hello; `sent` is what became of ours, which announced `offer`.
/// Returns the extensions that both have.
///
/// # Errors
/// `Kind::Gone` or `Kind::Connection` when the link fails, `Kind::Protocol` when the answer is
/// no hello of our version.
pub fn await_server_hello(
    reader: &mut FrameReader<impl Read>,
    offer: Extensions,
    sent: Result<()>,
) -> Result<Extensions> {
    match (sent, read_hello(reader).map_err(with_silence_hint)) {
        (Ok(()), theirs) => Ok(theirs?.and(offer)),
        // A remote that went away before it read may have said something of another kind
        // first, a shell's greeting perhaps: that tells more than its absence.
        (Err(_), Err(said)) if said.kind() == Kind::Protocol => Err(said),
        (Err(err), _) => Err(err),
    }
}

/// The answering side: waits for the client's hello, then answers with those of `supported`
/// that the client announced, so that a classic client is shown a classic hello.
/// Returns these.
///
/// # Errors
/// As [`await_server_hello`].
pub fn server_handshake(
    reader: &mut FrameReader<impl Read>,
    writer: &mut FrameWriter<impl Write>,
    supported: Extensions,
) -> Result<Extensions> {
    let both = read_hello(reader)?.and(supported);
    writer.write(&Message::Hello(both.hello("SERVER")))?;
    writer.flush()?;
    Ok(both)
}

fn read_hello(reader: &mut FrameReader<impl Read>) -> Result<Extensions> {
    Extensions::from_hello(&reader.expect_hello()?).map_err(|err| {
        let what = format!("{} speaks another protocol: {err}", reader.other());
        err.reworded(what)
    })
}

/// Adds to the news that the remote was silent for too long what it is that was silent.
fn with_silence_hint(err: Error) -> Error {
    if err.kind() != Kind::Connection {
        return err;
    }
    let what = format!(
        "{err}; nothing came that a bdsync says: does the remote command start bdsync --server, and \
         can it log in without a password?"
    );
    Error::new(err.kind(), what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(hello: &str) -> Option<(bool, bool)> {
        Extensions::from_hello(hello.as_bytes()).ok().map(|e| (e.blake3, e.tree))
    }

    #[test]
    fn hello_is_free_up_to_the_first_space_and_exact_behind_it() {
        for (hello, expected) in [
            ("CLIENT 0.5", Some((false, false))),
            (" 0.5", Some((false, false))),
            ("anything-at-all 0.5", Some((false, false))),
            ("CLIENT+blake3,tree 0.5", Some((true, true))),
            ("SERVER+tree 0.5", Some((false, true))),
            ("X+,,later,blake3, 0.5", Some((true, false))),
            ("X+blake33 0.5", Some((false, false))),
            ("X+BLAKE3 0.5", Some((false, false))),
            ("blake3,tree 0.5", Some((false, false))),
            ("CLIENT", None),
            ("", None),
            ("CLIENT  0.5", None),
            ("CLIENT 0.5 ", None),
            ("CLIENT 0.5\0", None),
            ("CLIENT 0.50", None),
            ("CLIENT 0.4", None),
            ("CLIENT tree 0.5", None),
        ] {
            assert_eq!(parse(hello), expected, "{hello:?}");
        }
    }

    fn meet(client_bytes: &[u8], supported: Extensions) -> (Extensions, Vec<u8>) {
        let mut answer = vec![];
        let both = server_handshake(
            &mut FrameReader::new(client_bytes),
            &mut FrameWriter::new(&mut answer),
            supported,
        );
        (both.unwrap(), answer)
    }

    #[test]
    fn classic_client_gets_the_classic_hello() {
        let (both, answer) = meet(b"\x0b\0\0\0\x01CLIENT 0.5", Extensions::ALL);
        assert_eq!(both, Extensions::NONE);
        assert_eq!(answer, b"\x0b\0\0\0\x01SERVER 0.5");
    }

    #[test]
    fn server_answers_only_words_that_the_client_announced() {
        let (both, answer) = meet(b"\x10\0\0\0\x01CLIENT+tree 0.5", Extensions::ALL);
        assert_eq!(both, Extensions { tree: true, ..Extensions::NONE });
        assert_eq!(&answer[5..], b"SERVER+tree 0.5");
    }

    #[test]
    fn words_have_their_order() {
        let words = "blake3,tree,faults,skip,nh,reorder,early,runs,alive,disk,zstd";
        assert_eq!(Extensions::ALL.hello("X"), format!("X+{words} 0.5").as_bytes());
        assert_eq!(Extensions::NONE.hello("X"), b"X 0.5");
    }

    #[test]
    fn early_is_in_use_only_with_what_it_needs_and_without_skip() {
        let all = Extensions { skip: false, ..Extensions::ALL };
        assert_eq!(all.and(Extensions::ALL), all);
        for missing in [
            Extensions { blake3: false, ..all },
            Extensions { tree: false, ..all },
            Extensions { nh: false, ..all },
            Extensions::ALL,
        ] {
            let both = missing.and(Extensions::ALL);
            let nh = missing.nh && missing.blake3 && missing.tree;
            assert_eq!(both, Extensions { early: false, nh, ..missing });
        }
    }

    #[test]
    fn extensions_of_others_are_in_use_only_with_these() {
        let nh = Extensions { nh: true, ..Extensions::NONE };
        for without in [nh, Extensions { blake3: true, ..nh }, Extensions { tree: true, ..nh }] {
            assert!(!without.and(Extensions::ALL).nh, "{without:?}");
            assert!(!Extensions::ALL.and(without).nh, "{without:?}");
        }
        let both = Extensions { blake3: true, tree: true, ..nh };
        assert_eq!(both.and(Extensions::ALL), both);
        let skip = Extensions { skip: true, ..Extensions::NONE };
        assert_eq!(skip.and(Extensions::ALL), Extensions::NONE);
    }

    #[test]
    fn client_uses_only_words_that_it_announced() {
        let mut sent = vec![];
        let offer = Extensions { blake3: true, ..Extensions::NONE };
        let done = send_client_hello(&mut FrameWriter::new(&mut sent), offer, &Message::Done);
        let answer = &b"\x17\0\0\0\x01SERVER+tree,blake3 0.5"[..];
        let both = await_server_hello(&mut FrameReader::new(answer), offer, done);
        assert_eq!(both.unwrap(), Extensions { blake3: true, ..Extensions::NONE });
        assert_eq!(sent, b"\x12\0\0\0\x01CLIENT+blake3 0.5\x01\0\0\0\x07");
    }

    #[test]
    fn other_messages_in_place_of_a_hello_are_shown() {
        let mut answer = vec![];
        let err = server_handshake(
            &mut FrameReader::new(&b"\x01\0\0\0\x07"[..]),
            &mut FrameWriter::new(&mut answer),
            Extensions::ALL,
        )
        .unwrap_err();
        assert_eq!(err.kind(), Kind::Protocol);
        assert!(err.to_string().contains(r#"but with "\x01\x00\x00\x00\x07""#), "{err}");
        assert!(answer.is_empty());
    }

    #[test]
    fn hello_of_another_program_is_shown_escaped_and_cut() {
        let err = Extensions::from_hello(&[b'\x1b'; 500]).unwrap_err();
        assert!(err.to_string().contains(r"\x1b"), "{err}");
        assert!(err.to_string().len() < 300, "{err}");
    }

    proptest! {
        #[test]
        fn announced_extensions_are_understood(
            blake3: bool,
            tree: bool,
            faults: bool,
            skip: bool,
            nh: bool,
            reorder: bool,
            early: bool,
            runs: bool,
            alive: bool,
            disk: bool,
            zstd: bool,
        ) {
            let mine = Extensions {
                blake3, tree, faults, skip, nh, reorder, early, runs, alive, disk, zstd,
            };
            prop_assert_eq!(Extensions::from_hello(&mine.hello("CLIENT")).unwrap(), mine);
        }

        #[test]
        fn arbitrary_hellos_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Extensions::from_hello(&bytes);
        }
    }
}

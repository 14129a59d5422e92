//! The protocol between the two sides: messages as types, and the asking side's connection.
//!
//! Knows nothing of devices, digests or what the answers are for; the bytes travel through
//! [`transport`](crate::transport). Everything that arrives is hostile: lengths are bounded
//! before anything is allocated, forms are checked here, and the numbers in an answer must be
//! those of its request.
//!
//! ```text
//!   opening.rs    hello, devfile, size, disk, digests: then it becomes a peer
//!   early.rs      answers that come before somebody asks
//!   peer.rs       requests with callbacks; the reader and the writer thread
//!   inbox.rs      what is queued and in flight, and which answer belongs to what (pure)
//!   pace.rs       how many bytes to ask for at once (pure)
//!   request.rs    Request, Answer; which is possible, which belongs to which (pure)
//!   link.rs       traffic counters; REMSHCMD's end and how it explains a failure
//!   handshake.rs  hello, version, extensions
//!   fault.rs      a remote's read error as the cause of ours
//!   packed.rs     a block that comes compressed (pure)
//!   message.rs    Message <-> payload (pure)
//!   fields.rs     the fields of a payload, one by one (pure)
//!   layout.rs     payload -> length, token, payload: a frame (pure)
//!   frame.rs      frames <-> a byte stream
//!   other.rs      who is at the other end of it, and the errors that speak of it
//! ```
//!
//! # The protocol
//! All integers are little-endian and unsigned. The client starts the server and talks to its
//! stdin and stdout. A message is `length: u32, token: u8, payload` with length = 1 + payload
//! bytes, at most 131072.
//!
//! | token | message | from | payload |
//! |---|---|---|---|
//! | 1 | hello | both | `CLIENT 0.5`, `SERVER 0.5`: text up to the first space is free, the rest is exactly `0.5` |
//! | 2 | devfile | client | path of the device to open |
//! | 3 | size | server | u64 size of that device |
//! | 4 | digests | client | u8 salt length (32; at most 127), salt, hash name NUL, checksum name NUL (empty: none) |
//! | 5 | gethashes | client | u64 start, u64 step, u64 n |
//! | 6 | hashes | server | the same three numbers, then n hashes of the digest's length |
//! | 7 | done | both | empty |
//! | 8 | getblock | client | u64 offset, u64 length |
//! | 9 | block | server | u64 offset, then the data |
//! | 10 | getchecksum | client | empty |
//! | 11 | checksum | server | the digest's bytes |
//! | 64 | gettree | client | u64 start, u64 step, u64 n, u8 level |
//! | 65 | tree | server | the same four numbers, then n hashes of the digest's length |
//! | 66 | fault | server | u16 count (at most 4096), as many times u64 start and u64 length, then text |
//! | 67 | turn | server | u32 older |
//! | 68 | early | server | u8 salt length, salt, then up to 256 times the four numbers of a gettree |
//! | 69 | getruns | client | u64 step, u8 level (255: of blocks), then 1 to 1024 times u64 start and u32 n |
//! | 70 | runs | server | the same step and level, u64 print of the runs, then the hashes of all of them |
//! | 71 | alive | server | u64 bytes digested |
//! | 72 | disk | server | u64 device, u64 inode |
//! | 73 | packed | server | u64 offset, u32 length, then the data as a zstd frame |
//!
//! Order: both sides greet, the client without waiting, nor with its devfile. Then size, digests,
//! then any mix of requests, which are answered in order (but see `reorder`), then done from the
//! client, answered by the server, which exits.
//!
//! A block's hash is `digest(salt || block)`; a block that reaches past the device's end is
//! filled up with zero bytes to `step`, one that lies wholly behind it hashes as zeros. Any
//! start, step and n are allowed whose answer fits one message, and of our server steps of up to 4
//! GiB whose blocks end where 64 bits do or before. A hello has at most 1024 bytes and no control
//! characters. A server reads up to 256 requests ahead. A gethashes with n = 0 is a hint: step 0
//! says "flush the cache after reading", step 1 "everything below start is done with"; it is echoed
//! as hashes with n = 0. A getblock must lie inside the device. Digest names are OpenSSL's, in any
//! case. The salt is 32 random bytes a run.
//!
//! ## Extensions
//! The free word of the hello carries them: a client says `CLIENT+word,word 0.5`. A server
//! answers `SERVER 0.5` to a client that announced nothing and is then, byte for byte, a classic
//! server; to others it answers with those of their words that it has, in the same form. Words
//! that one does not know are ignored. Neither side uses an extension that the other did not
//! announce. Tokens of extensions start at 64.
//!
//! - `blake3`: the hash name in `digests` may be `blake3`: a block's hash is BLAKE3 keyed with the
//!   salt, which must be 32 bytes long, over the block filled up to `step`, without the salt in front.
//! - `tree`: `gettree` and `tree`. Level 0 hashes are those of blocks. The hash of a node of
//!   level k (1 to 7) is `digest(salt || its 16 children's hashes of level k - 1)`, with `blake3` the
//!   keyed hash of the children's hashes alone. A node of level k covers step * 16^k bytes;
//!   node i of a request starts at start + i * step * 16^k. Blocks past the device's end
//!   count as blocks of zeros, so a node always has 16 children.
//! - `faults`: a request that needs bytes which the server cannot read is answered by a `fault` in
//!   place of its answer, and the session goes on. It names ranges that cannot be read, and the
//!   reason in words.
//! - `skip`: with `faults`: once a server has told that bytes cannot be read they count as zeros,
//!   so that a request that is repeated gets its answer. Each range is told once, before any answer
//!   that takes those zeros for its bytes.
//! - `nh`: with `tree` and the hash `blake3`: the hash of level 0 of a tree is not a block's but
//!   the faster one that `digest/nh.rs` defines, and all hashes of a tree have 16 bytes: of a
//!   node's the first 16. Those of `hashes` stay what they are. A client that was told which hash
//!   to use, or has a fixed salt, does not announce it.
//! - `reorder`: answers may come in another order than their requests. A `turn` stands right before
//!   an answer that overtakes others: it says how many older requests are not answered yet. Only
//!   the answers to `gethashes` with n > 0, `gettree`, `getblock` and `getchecksum` overtake, and
//!   so does a `fault` in the place of one of them.
//! - `early`: the server draws the salt, and answers before it is asked: right after its size it
//!   sends an `early`, and goes on as if the client had sent its `digests` with that salt and the
//!   hash `blake3`, and a `gettree` with each of these numbers. The client sends its `digests` all
//!   the same, with that salt and hash. So the first hashes come a round trip earlier. It is in use
//!   only where `blake3`, `tree` and `nh` are, and `skip` is not. A client that does not look at a
//!   whole device from its beginning, or sends hints, does not announce it.
//! - `runs`: `getruns` asks at once for what several `gettree` of that step and level would, or
//!   several `gethashes`; level 0 to 7 needs `tree`. Its answer, which is one message, may overtake
//!   as theirs may. The print is the first 8 bytes of the BLAKE3 of the runs as they stand in the
//!   request: what was damaged on its way is not answered in silence.
//! - `alive`: while a `getchecksum` is not answered and nothing else is to be said, the server says
//!   every half second, by an `alive`, how many bytes of its device the checksum covers by now, if
//!   those have become more. It never stands between a `turn` and its answer. So a client can tell a
//!   long checksum from a link that is dead, or a disk.
//! - `disk`: right after its size, and before an `early`, the server tells which disk of its host it
//!   has open: the number of the block device and 0, or of a file those of its file system and of
//!   itself, or 0 and 0 where there is none or it may change. So a second bdsync there can make sure
//!   that the same name leads it to the same disk.
//! - `zstd`: the answer to a `getblock` may be a `packed` in place of a `block`, where that is
//!   shorter: one frame (RFC 8878) for each, which decodes to exactly the length that it names. Only a
//!   client that was asked for it announces it.

mod early;
mod fault;
mod fields;
mod frame;
mod handshake;
mod inbox;
mod layout;
mod link;
mod message;
mod opening;
mod other;
mod pace;
mod packed;
mod peer;
mod request;

pub use early::{FIRST_LEAF_BYTES, FIRST_LOOK_BYTES, HURRIED_SHARES};
pub use fault::Fault;
pub use fields::{DIGEST_NAME_BYTES_MAX, Look, SALT_BYTES_MAX, TREE_LEVEL_MAX};
pub use frame::{FrameReader, FrameWriter};
pub use handshake::{Extensions, await_server_hello, send_client_hello, server_handshake};
pub use inbox::{IN_FLIGHT_AHEAD_MAX, IN_FLIGHT_REQUESTS_MAX, QUEUED_REQUESTS_MAX};
pub use layout::MESSAGE_BYTES_MAX;
pub use link::Counters;
pub use message::{
    BLOCK_MESSAGE_BYTES_MAX, EARLY_LOOKS_MAX, FAULT_RANGES_MAX, FAULT_TEXT_BYTES_MAX,
    HASHES_BYTES_MAX, HashRun, Message, RUNS_BYTES_MAX, RUNS_MAX, TREE_BYTES_MAX, runs_print,
};
pub use opening::{Digests, Opening};
pub use other::Other;
pub use pace::{BULK_BYTES_MIN, IN_FLIGHT_BYTES_MAX};
pub use packed::packed;
pub use peer::{OnLost, Peer};
pub use request::{Answer, Done, Request, Session};

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Every stream of the golden vectors is understood, and written again as it was.
    #[test]
    fn streams_of_the_vectors_encode_to_themselves() {
        let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
        let mut streams = 0;
        for case in std::fs::read_dir(&vectors).unwrap() {
            for name in ["client-to-server.bin", "server-to-client.bin"] {
                let path = case.as_ref().unwrap().path().join(name);
                let Ok(bytes) = std::fs::read(&path) else { continue };
                let mut reader = FrameReader::new(&bytes[..]);
                let mut again = vec![];
                while let Some(message) = reader.read_message().unwrap() {
                    message.encode(&mut again).unwrap();
                }
                assert!(again == bytes, "{}", path.display());
                streams += 1;
            }
        }
        assert!(streams > 100, "only {streams} streams found in {}", vectors.display());
    }
}

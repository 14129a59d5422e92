//! The byte streams under the protocol: REMSHCMD's pipes, the server's stdio, pipes for tests.
//!
//! Moves bytes and minds the process at the other end; knows nothing of messages. Used by
//! `wire` and `serve`, and by the commands that open a connection.
//!
//! ```text
//!   Connection { reader, writer, control, remote }
//!        |  command.rs  a REMSHCMD: started, its stderr drained, waited for, killed
//!        |  stdio.rs    the server's own stdin and stdout
//!        |  pair.rs     both ends in one process
//!        +- stream.rs   the reader and writer of all three
//!        +- control.rs  what ends their waiting: --timeout, or the owner
//!        +- silence.rs  how long nothing was heard (pure)
//!   throttle.rs --bwlimit, around either end's reader and writer
//!   split.rs    REMSHCMD -> words (pure)
//! ```

mod command;
mod control;
mod pair;
mod silence;
mod split;
mod stdio;
mod stream;
mod throttle;

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;

pub use command::{Manner, Remote, RemoteEnd, STDERR_LINE_BYTES_MAX, StderrSink, connect};
pub use control::Control;
pub use pair::pair;
pub use split::split_command;
pub use stdio::stdio;
pub use throttle::{Throttle, ThrottledWriter};

/// Both directions of a link to the other side.
pub struct Connection {
    /// What the other side sends. Ends when it goes away or [`Control::close`] was called.
    pub reader: Box<dyn Read + Send>,
    /// What it is sent. Dropping it is the other side's end-of-file.
    pub writer: Box<dyn Write + Send>,
    /// Ends the waiting of both.
    pub control: Arc<Control>,
    /// The process at the other end, where we started it.
    pub remote: Option<Remote>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("remote", &self.remote).finish_non_exhaustive()
    }
}

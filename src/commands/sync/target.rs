//! The process that writes to the target: a `bdsync --patch` that is fed through a pipe.

use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use super::patch_input::PatchInput;
use super::words::LastWord;
use crate::background::{spawn, time_is_up};
use crate::commands::target_state::Listener;
use crate::error::{Error, Kind, Result};
use crate::transport::{Connection, Control, Remote};

/// How long a process that was told to end early may take, with what it still has to say.
const END_GRACE: Duration = Duration::from_secs(5);
/// How long the whole patch may be with the process before that is known here: it may end at once.
const KNOWN_WAIT: Duration = Duration::from_secs(5);
/// How often a wait for the process looks for other reasons to end.
const WAIT_SLICE: Duration = Duration::from_millis(100);

/// How long it is listened to what a process has said before it ended, and how often it is looked
/// whether that is all.
const LAST_WORD_WAIT: Duration = Duration::from_secs(2);
const LAST_WORD_PAUSE: Duration = Duration::from_millis(2);

/// How a process came to its end that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// By itself.
    Itself,
    /// It had to be killed, as far as it is here.
    Killed,
}

/// How much of its patch a process was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// All of it.
    Whole,
    /// What there was until something else failed.
    Part,
    /// What it took: it ended before the patch did.
    Taken,
}

/// A running `bdsync --patch`. Dropping it kills the process.
pub struct Target {
    control: Arc<Control>,
    process: Remote,
    word: LastWord,
    is_remote: bool,
    /// Whether it shows that it is alive for as long as it has something to do.
    shows_life: bool,
    /// Ends with the process, or when that was silent for too long.
    listening: Option<JoinHandle<io::Result<()>>>,
    /// Dropped when its end is no news any more.
    going_on: Option<Sender<()>>,
}

impl Target {
    /// Takes the process over, of whose stderr `word` keeps the last and whose stdout goes to
    /// `listener`, and gives what takes its patch; `on_end` is called when it ends before its patch
    /// does, so that nobody goes on comparing for hours. One that `speaks` writes to its stdout
    /// when it has the target open, and while it is busy.
    ///
    /// # Errors
    /// `Kind::Spawn` when the connection has no process or threads run out.
    pub fn new(
        connection: Connection,
        is_remote: bool,
        speaks: bool,
        word: LastWord,
        mut listener: Listener,
        on_end: impl FnOnce(Error) + Send + 'static,
    ) -> Result<(Self, PatchInput)> {
        let Connection { mut reader, writer, control, remote } = connection;
        let process =
            remote.ok_or_else(|| Error::new(Kind::Spawn, "nothing writes to the target"))?;
        let door = speaks.then(|| Arc::clone(listener.door()));
        let input = PatchInput::new(writer, Arc::clone(&control), door);
        let (going_on, is_going_on) = bounded(0);
        let listening = spawn("target", Kind::Spawn, "cannot start a thread", move || {
            // That it is alive, what is true of the target, and its end.
            let end = io::copy(&mut reader, &mut listener).map(drop);
            listener.end(end.is_err());
            if time_is_up(&is_going_on, KNOWN_WAIT) {
                on_end(Error::new(Kind::Write, "the process that writes to the target has ended"));
            }
            end
        })?;
        let (listening, going_on) = (Some(listening), Some(going_on));
        let shows_life = is_remote && speaks;
        let target = Self { control, process, word, is_remote, shows_life, listening, going_on };
        Ok((target, input))
    }

    /// Ends the patch and waits for the process. One that has the whole patch is given all the
    /// time that it needs to write it, as long as it shows that it is alive if it can: for those
    /// that cannot, silence is no sign of anything then.
    ///
    /// # Errors
    /// What the process ended with, as an error of the same kind; `Kind::Connection` when it was
    /// silent for too long.
    pub fn finish(mut self, input: PatchInput, sent: Sent) -> Result<Finished> {
        let complete = sent == Sent::Whole;
        self.going_on = None;
        drop(input);
        if complete && self.shows_life {
            self.control.expect_answer();
        }
        let mut waited = Duration::ZERO;
        let status = loop {
            if let Some(status) = self.process.wait(WAIT_SLICE)? {
                break Some(status);
            }
            if sent != Sent::Part
                && let Some(silence) = self.silence()
            {
                self.process.kill()?;
                self.word.show(!self.is_remote);
                return Err(silence);
            }
            waited += WAIT_SLICE;
            let wanted = complete && !self.control.is_closed();
            if !wanted && waited >= END_GRACE {
                break None;
            }
        };
        // Whoever had to be killed after that has nothing to say about why the patch was cut short.
        let is_killed = !complete && status.is_none();
        let status = match status {
            Some(status) => status,
            None => self.process.kill()?,
        };
        self.hear_out(status.success());
        // Of another host the status may be that of what leads there.
        let is_own = match self.is_remote {
            true => status.code().and_then(Kind::of_exit_code).is_some(),
            false => status.code().is_some(),
        };
        if status.success() || !is_own {
            // Not an error that it ended with.
            self.word.show(!self.is_remote);
        }
        // A patch that was cut short is refused there, which is no news.
        let is_refusal = sent == Sent::Part && status.code() == Some(Kind::Patch.exit_code());
        match status.success() || is_refusal {
            _ if is_killed => Ok(Finished::Killed),
            true => Ok(Finished::Itself),
            false => Err(self.failure(status)),
        }
    }

    /// Ends the listening to a process that has ended; what one has said that failed is listened to.
    fn hear_out(&mut self, went_well: bool) {
        let Some(listening) = self.listening.take() else { return };
        // What it has started may be there still, and hold its stdout open.
        let mut left = LAST_WORD_WAIT;
        while !went_well && !listening.is_finished() && !left.is_zero() {
            thread::sleep(LAST_WORD_PAUSE);
            left = left.saturating_sub(LAST_WORD_PAUSE);
        }
        self.control.close();
        // It has nothing to say about its end.
        let _ = listening.join();
    }

    /// What ended the listening, other than the process.
    fn silence(&mut self) -> Option<Error> {
        let listening = self.listening.take_if(|listening| listening.is_finished())?;
        let err = listening.join().ok()?.err()?;
        Some(Error::io(Kind::Connection, "writing to the target failed", err))
    }

    fn failure(&self, status: ExitStatus) -> Error {
        let kind = status.code().and_then(Kind::of_exit_code);
        let mut failed = "writing to the target failed";
        let how = match self.word.take() {
            Some(word) => {
                if matches!(kind, Some(Kind::Open | Kind::Size | Kind::Seal)) {
                    failed = "the target was not written to";
                }
                word
            }
            None if self.is_remote => self.process.describe(status),
            None => self.process.describe_as("the bdsync that writes to it", status),
        };
        let kind = kind.unwrap_or(match status.code() {
            // Of ssh, or whatever leads there.
            Some(_) if self.is_remote => Kind::Gone,
            _ => Kind::Spawn,
        });
        Error::new(kind, format!("{failed}: {how}"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::transport::{Manner, connect};

    fn running(
        connection: Connection,
        is_remote: bool,
        speaks: bool,
        on_end: impl FnOnce(Error) + Send + 'static,
    ) -> Result<(Target, PatchInput)> {
        let (word, listener) = (LastWord::default(), Listener::default());
        Target::new(connection, is_remote, speaks, word, listener, on_end)
    }

    /// As the classic does, behind the checksum field.
    #[test]
    fn that_one_which_ends_with_the_last_byte_of_the_patch_is_no_news() {
        let words = ["head", "-c", "6"].map(Into::into);
        let connection = connect(&words, Manner::Consumer, None, Box::new(|_| {})).unwrap();
        let (told, ended) = bounded(1);
        let on_end = move |err| drop(told.send(err));
        let (mut target, mut input) = running(connection, false, false, on_end).unwrap();
        input.write_all(b"patch\n").unwrap();
        while target.process.wait(WAIT_SLICE).unwrap().is_none() {}
        target.finish(input, Sent::Whole).unwrap();
        assert!(ended.recv().is_err());
    }

    #[test]
    fn that_one_which_does_not_end_had_to_be_killed_hides_no_reason_for_a_cut_patch() {
        let words = ["sh", "-c", "read line; exec sleep 600"].map(Into::into);
        let connection = connect(&words, Manner::Consumer, None, Box::new(|_| {})).unwrap();
        let (target, mut input) = running(connection, false, false, |_| {}).unwrap();
        input.write_all(b"cut short\n").unwrap();
        assert_eq!(target.finish(input, Sent::Part).unwrap(), Finished::Killed);
    }

    /// A process elsewhere that reads the whole patch and then does `what`, with so many seconds of
    /// patience.
    fn target_of(what: &str, patience_s: u64, speaks: bool) -> (Target, PatchInput) {
        let script = format!("cat >/dev/null; {what}");
        let words = ["sh", "-c", &script].map(Into::into);
        let patience = Some(Duration::from_secs(patience_s));
        let connection = connect(&words, Manner::Consumer, patience, Box::new(|_| {})).unwrap();
        let (target, mut input) = running(connection, true, speaks, |_| {}).unwrap();
        input.write_all(b"patch\n").unwrap();
        (target, input)
    }

    /// The end of one that shows life, with 5 s of patience.
    fn end_of(what: &str) -> Result<Finished> {
        let (target, input) = target_of(what, 5, true);
        target.finish(input, Sent::Whole)
    }

    /// What the first flush to one that does `what` comes to, and its end then.
    fn flush_to(what: &str) -> (io::Result<()>, Result<Finished>) {
        let words = ["sh", "-c", &format!("read line; {what}")].map(Into::into);
        let patience = Some(Duration::from_secs(3));
        let connection = connect(&words, Manner::Consumer, patience, Box::new(|_| {})).unwrap();
        let (target, mut input) = running(connection, true, true, |_| {}).unwrap();
        input.write_all(b"patch\n").unwrap();
        let flushed = input.flush();
        let sent = if flushed.is_ok() { Sent::Part } else { Sent::Taken };
        (flushed, target.finish(input, sent))
    }

    #[test]
    fn that_one_has_its_target_open_once_the_first_flush_returns() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("is open");
        let life = "for i in $(seq 20); do echo; sleep 0.25; done";
        let opens = format!("echo bdsync target: opening; {life}; >'{}'", mark.display());
        let (flushed, _) = flush_to(&format!("{opens}; echo bdsync target: open"));
        flushed.unwrap();
        assert!(mark.exists());
    }

    #[test]
    fn that_one_which_opens_nothing_is_not_waited_for() {
        for (what, kind) in [
            ("exit 12", Kind::Open),
            ("echo bdsync target: opening; exit 12", Kind::Open),
            // It is silent for longer than it may be.
            ("echo bdsync target: opening; exec sleep 600", Kind::Connection),
        ] {
            let (flushed, ended) = flush_to(what);
            assert_eq!(flushed.unwrap_err().kind(), io::ErrorKind::BrokenPipe, "{what}");
            assert_eq!(ended.unwrap_err().kind(), kind, "{what}");
        }
        // As one whose stdout somebody else takes.
        flush_to("exec >&-; cat >&2").0.unwrap();
    }

    #[test]
    fn that_one_which_cannot_show_life_has_all_the_time_it_needs() {
        let (target, input) = target_of("exec sleep 3", 1, false);
        assert_eq!(target.finish(input, Sent::Whole).unwrap(), Finished::Itself);
    }

    #[test]
    fn that_one_refuses_a_patch_is_no_news_where_it_was_cut_short_only() {
        let end = |sent| {
            let (target, input) = target_of("exit 2", 60, false);
            target.finish(input, sent)
        };
        assert_eq!(end(Sent::Part).unwrap(), Finished::Itself);
        for sent in [Sent::Whole, Sent::Taken] {
            assert_eq!(end(sent).unwrap_err().kind(), Kind::Patch, "{sent:?}");
        }
    }

    #[test]
    fn that_one_has_failed_is_told_with_its_word_or_how_it_ended() {
        let failure = |script: &str, is_remote: bool| {
            let words = ["sh", "-c", script].map(Into::into);
            let word = LastWord::default();
            let sink = word.sink(!is_remote);
            let connection = connect(&words, Manner::Consumer, None, sink).unwrap();
            let (target, input) =
                Target::new(connection, is_remote, false, word, Listener::default(), |_| {})
                    .unwrap();
            target.finish(input, Sent::Whole).unwrap_err().full_message()
        };
        for (end, says) in [
            ("exit 12", "the target was not written to: it broke"),
            ("exit 3", "the target was not written to: it broke"),
            ("exit 14", "the target was not written to: it broke"),
            ("exit 9", "writing to the target failed: it broke"),
            // Its last line may be any other.
            (
                "kill -9 $$",
                "writing to the target failed: the bdsync that writes to it was ended by signal 9 \
                 (SIGKILL)",
            ),
        ] {
            assert_eq!(failure(&format!("echo 'bdsync: it broke' >&2; {end}"), false), says);
        }
        // Of another host it is not known which program it was.
        let own = [true, false]
            .map(|is_remote| failure("exit 9", is_remote).contains("the bdsync that writes to it"));
        assert_eq!(own, [false, true]);
    }

    #[test]
    fn that_one_whose_patch_is_cut_short_may_still_say_why() {
        let (target, input) = target_of("sleep 1; exit 12", 60, false);
        let err = target.finish(input, Sent::Part).unwrap_err();
        assert_eq!(err.kind(), Kind::Open);
    }

    #[test]
    fn that_one_which_has_the_whole_patch_is_not_waited_for_when_all_is_over() {
        let (target, input) = target_of("exec sleep 30", 60, false);
        target.control.close();
        let err = target.finish(input, Sent::Whole).unwrap_err();
        assert!(err.full_message().contains("signal"), "{}", err.full_message());
    }

    #[test]
    fn that_one_which_shows_life_has_all_the_time_it_needs() {
        end_of("for i in $(seq 24); do echo; sleep 0.25; done").unwrap();
    }

    #[test]
    fn that_one_which_falls_silent_with_the_whole_patch_is_given_up_on() {
        let err = end_of("exec sleep 600").unwrap_err();
        assert_eq!(err.kind(), Kind::Connection);
        assert!(err.full_message().ends_with("nothing came for 5 s (--timeout)"), "{err}");
    }
}

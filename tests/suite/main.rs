//! The integration tests, one binary: it links once and runs fast on small machines.

mod support;

mod apply; // applying with care: undo, verify, interruptions, kills
mod broken_sessions; // any read of either side fails, either stream ends after any byte
mod classic_bugs; // what the classic gets wrong
mod cli_table; // every option, abbreviation, contradiction and exit code
mod counts; // speed as far as it can be counted: bytes, system calls, memory
mod docs; // man page, completions, help and README against the option table
mod engine; // the engine against a naive comparison, whatever the way
mod faults; // remote sides that die, lie, chatter or say nothing
mod layout; // what may use what; lengths of files and functions; who may print
mod loop_devices; // block devices
mod making; // patches in the making: whole or not at all, unreadable places, liars
mod mount_helper; // mount(8), fstab and systemd
mod mount_life; // beginnings and ends of a mount: signals, umount, --daemon, users, refusals
mod mount_live; // a live session, mounted: what is read, and what that costs
mod mount_start; // signals before there is a mount
mod mount_stored; // a stored patch, mounted and read by everyday tools
mod mount_unheard; // mounts whose words nobody takes
mod nightly; // contrib/nightly: undo patches, locks, signals
mod packaging; // contrib/install, and what the packages do beyond it
mod panics; // faults of our own on any thread
mod progress; // --progress, SIGUSR1, the bar, --report
mod recipes; // the README's recipes, run as they stand there
mod reports; // where --report may go, and what it may not be written over
mod roundtrip; // random pairs and options against a naive model
mod server; // what its clients may not do
mod sizes; // from nothing to a sparse tebibyte
mod ssh; // a real ssh to a real sshd, real file systems
mod stored_patches; // looked at, made one, compressed
mod sync; // one command, both directions, over ssh, with classic ends, interrupted
mod vectors; // the classic's recorded bytes

//! The integration tests, one binary: it links once and runs fast on small machines.

#[allow(dead_code, unused_imports, reason = "some of its users are not listed yet")]
mod support;

mod apply; // applying with care: undo, verify, interruptions, kills
mod engine; // the engine against a naive comparison, whatever the way
mod layout; // what may use what; lengths of files and functions; who may print
mod mount_life; // beginnings and ends of a mount: signals, umount, --daemon, users, refusals
mod mount_stored; // a stored patch, mounted and read by everyday tools
mod server; // what its clients may not do

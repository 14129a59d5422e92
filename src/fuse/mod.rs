//! The mount: an adapter from `fuser` to the view, and the life of one mount.
//!
//! ```text
//!   commands/mount --> mountpoint.rs  what is refused before anything is opened
//!                  --> start.rs       who decides what a signal does: signals.rs
//!                  --> daemon.rs      --daemon: two processes, before any thread
//!                  --> session.rs     attach, first_read.rs, serve
//!                        |-- names.rs          where it is, and how it is taken away
//!                        |                     connection.rs, unmount.rs
//!                        |-- events.rs
//!                        \-- adapter.rs --> view
//!                              |-- gate.rs         a thread for what reads no device
//!                              |-- parked.rs       requests that wait
//!                              |-- snapshots.rs    texts as they were when opened
//!                              \-- passthrough.rs  files that the kernel reads itself
//! ```
//! What is in the files and how it is computed is the view's business. For `commands` only.

mod adapter;
mod connection;
pub mod daemon;
mod events;
mod first_read;
mod gate;
mod mountpoint;
mod names;
mod parked;
mod passthrough;
mod session;
mod signals;
mod snapshots;
mod start;
#[cfg(test)]
mod tests;
mod unmount;

pub use events::Events;
pub use mountpoint::Mountpoint;
pub use session::Mount;
pub use start::Start;
pub use unmount::take_away_dead;

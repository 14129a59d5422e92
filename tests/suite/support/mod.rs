//! What the tests share: running the binary, images, and things of the machine.

pub mod full_at_close;
pub mod images;
pub mod loop_device;
pub mod mounted;
pub mod patch_file;
pub mod raw_server;
pub mod requirements;
pub mod run;
pub mod sshd;
pub mod wait;
pub mod workdir;

pub use run::{Output, bdsync};
pub use workdir::Workdir;

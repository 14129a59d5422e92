//! A live change against a real serving side in a thread, over pipes.

mod ahead;
mod ends;
mod faults;
mod memory;
mod model;
mod patches;
mod promises;
mod rig;
mod told;

//! The integration tests, one binary: it links once and runs fast on small machines.

mod layout; // what may use what; lengths of files and functions; who may print

//! One heap for all threads.

/// Has all threads allocate from one heap, instead of up to eight for each processor. Where many
/// threads hold large buffers for a short time each, what they leave free in heaps of their own
/// adds up to more than what is in use; they allocate far too seldom to be in each other's way.
///
/// Only the C library of GNU has several.
pub(super) fn share() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number of the allocator, under its own lock.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

//! How much of the heap a test's own thread holds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD_BYTES: Cell<i64> = const { Cell::new(0) };
}

/// The system's heap, which notes for each thread what that took more than it gave back.
struct CountingHeap;

#[global_allocator]
static HEAP: CountingHeap = CountingHeap;

/// Bytes that this thread allocated and did not free since the program's start, as the heap of GNU
/// counts them: in pieces of 16 with 8 bytes before each. Negative where it frees what others made.
pub fn held_bytes() -> i64 {
    HELD_BYTES.get()
}

fn note(layout: Layout, sign: i64) {
    let piece = (layout.size() + 8).next_multiple_of(16).max(32);
    HELD_BYTES.set(HELD_BYTES.get() + sign * piece as i64);
}

// SAFETY: the system's heap does all of it; the number beside it has no destructor, so that it is
// there as long as its thread.
unsafe impl GlobalAlloc for CountingHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout, 1);
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        note(layout, -1);
        // SAFETY: as the caller's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

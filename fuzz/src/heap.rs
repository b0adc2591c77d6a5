//! Memory that a thread takes while it does something.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count(bytes: isize) {
    let now = NOW.get() + bytes;
    NOW.set(now);
    PEAK.set(PEAK.get().max(now));
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).expect("no allocation is larger than that")
}

#[expect(unsafe_code, reason = "an allocator is unsafe to write; this one hands everything on to the system's")]
// SAFETY: what the system's allocator promises holds for what it answers; nothing of it is changed.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller keeps the system allocator's rules.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Both may be there for a moment.
        count(signed(new_size));
        count(-signed(layout.size()));
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// What `act` answers, and how many bytes it had at most at once.
///
/// # Panics
/// Never: a peak is not below what it began with.
pub fn peak<T>(act: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.get();
    PEAK.set(before);
    let answer = act();
    (answer, usize::try_from(PEAK.get() - before).expect("a peak is not below what it began with"))
}

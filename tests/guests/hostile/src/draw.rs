//! What a guest could draw chance from without asking its host: the seeds of hash maps, addresses, memory that was never written.
//! In a sandbox that replays, all of it is the same in each instance.

use std::alloc::{Layout, alloc, dealloc};
use std::hash::{BuildHasher as _, RandomState};

use sluicegate_plugin_sdk::{Answer, Frame, Plan};

/// Each stands for four bits.
pub(crate) const REASONS: [&str; 17] = [
    "because", "drew 0", "drew 1", "drew 2", "drew 3", "drew 4", "drew 5", "drew 6", "drew 7", "drew 8", "drew 9",
    "drew a", "drew b", "drew c", "drew d", "drew e", "drew f",
];
const BLOCK_BYTES: usize = 4_096;

/// A digest of it.
pub(crate) fn all_that_differs() -> u64 {
    let seeded = RandomState::new().hash_one(7);
    let on_the_heap = std::ptr::from_ref(Box::new(seeded).as_ref()).addr() as u64;
    let on_the_stack = std::ptr::from_ref(&seeded).addr() as u64;
    let parts = [seeded, on_the_heap, on_the_stack, never_written()];
    parts.into_iter().fold(0xcbf2_9ce4_8422_2325, |sum, part| (sum ^ part).wrapping_mul(0x0100_0000_01b3))
}

fn never_written() -> u64 {
    let layout = Layout::from_size_align(BLOCK_BYTES, 8).expect("a small block");
    // SAFETY: the block is as large as the layout says, and whatever Wasm memory holds are bytes.
    unsafe {
        let block = alloc(layout);
        let bytes = (0..BLOCK_BYTES).map(|at| block.add(at).read_volatile());
        let sum = bytes.fold(1, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        dealloc(block, layout);
        sum
    }
}

/// Row for row the next four bits, as reasons.
pub(crate) fn shown(drawn: u64, frame: &Frame) -> Plan {
    let reason = |lite: u64| 1 + (drawn >> (4 * (lite % 16)) & 0xf) as u32;
    frame.lites.iter().map(|row| Answer::serve().messages(1).because(reason(row.head_cost))).collect()
}

//! What any call can do to its host.

use std::hint::black_box;

use sluicegate_plugin_sdk::{Level, log};

use crate::{Call, Misbehaviour};

/// Bytes that a churning policy holds at most.
const HELD_BYTES_MAX: usize = 8 << 20;
/// Bytes that a leaking policy loses in each call.
const LEAK_BYTES: usize = 256 << 10;
/// Words that a policy with slow memory runs through: more than a processor keeps near.
const FAR_WORDS: usize = 3 << 20;

/// What it takes to do harm again and again.
pub(crate) struct Harm {
    turns: u32,
    random: u64,
    held: Vec<Vec<u8>>,
    held_bytes: usize,
    far: Vec<u32>,
}

impl Harm {
    pub(crate) fn new(how: Misbehaviour, turns: u32) -> Self {
        let far = vec![0; if how == Misbehaviour::SlowMemory { FAR_WORDS } else { 0 }];
        Self { turns, random: 1, held: Vec::new(), held_bytes: 0, far }
    }

    /// Does it if this is the call for it.
    pub(crate) fn during(&mut self, how: Misbehaviour, wanted: Call, call: Call) {
        if wanted == call || wanted == Call::Any {
            self.do_it(how);
        }
    }

    fn do_it(&mut self, how: Misbehaviour) {
        match how {
            Misbehaviour::Spin => spin(),
            Misbehaviour::Panic => panic!("deliberate"),
            // Compiled to `unreachable`, without a word.
            Misbehaviour::Trap => std::process::abort(),
            Misbehaviour::AllocateAll => allocate_all(),
            Misbehaviour::Recurse => drop(black_box(recurse(u64::from(u32::MAX)))),
            Misbehaviour::FloodLog => flood_log(),
            Misbehaviour::Churn => self.churn(),
            Misbehaviour::Leak => std::mem::forget(black_box(Vec::<u8>::with_capacity(LEAK_BYTES))),
            Misbehaviour::Slow => drop(black_box((0..self.turns).fold(0_u32, |sum, turn| black_box(sum ^ turn)))),
            Misbehaviour::SlowMemory => self.run_through_memory(),
            _ => {}
        }
    }

    /// Takes and frees blocks of all sizes, and holds every other one for a while: the worst for an allocator.
    fn churn(&mut self) {
        for _ in 0..self.turns {
            let bytes = 16 << (self.next_random() % 13);
            let mut block = Vec::with_capacity(bytes);
            block.push(1);
            if self.next_random().is_multiple_of(2) {
                self.held_bytes += bytes;
                self.held.push(black_box(block));
            }
            while self.held_bytes > HELD_BYTES_MAX {
                let one = self.next_random() as usize % self.held.len();
                self.held_bytes -= self.held.swap_remove(one).capacity();
            }
        }
    }

    /// Each step waits for the memory, which fuel does not count.
    fn run_through_memory(&mut self) {
        let mut at = 0_usize;
        for turn in 0..self.turns {
            at = (at.wrapping_mul(0x0001_9660_d).wrapping_add(turn as usize + 0x3c6e_f35f)) % FAR_WORDS;
            at = (at + self.far[at] as usize) % FAR_WORDS;
        }
        self.far[0] = black_box(at as u32) & 1;
    }

    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

pub(crate) fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

fn allocate_all() -> ! {
    loop {
        std::mem::forget(black_box(Vec::<u8>::with_capacity(1 << 20)));
    }
}

fn recurse(depth: u64) -> u64 {
    if depth == 0 { 0 } else { recurse(depth - 1).wrapping_add(black_box(depth)) }
}

/// Long lines, with what a terminal or a reader of lines would take for its own.
fn flood_log() {
    for line in 0..50 {
        log(Level::Warn, &format!("{line} \x1b[2J\u{9b}31m\r\n2038-01-19 ERROR forged\0 {}", "é\n".repeat(1_000)));
    }
}

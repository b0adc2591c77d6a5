//! Instructions of the scheduler's hot paths and bytes that it asks of the allocator: both within a permille
//! in every run, on a noisy machine too (hash maps draw their seeds). `cargo xtask bench-instructions` runs this under valgrind; alone it measures nothing.

mod hot;

use hot::{Bench, CASES, Case};

/// Lite topics whose memory is counted.
const LITES: u64 = 100_000;

fn main() {
    let name = std::env::args().skip(1).find(|argument| argument != "--bench");
    match name.as_deref() {
        Some("cases") => CASES.iter().for_each(|case| println!("{} {}", case.name, case.operations)),
        // What is alive at the end of the process is what DHAT counts.
        Some("heap-ready") => keep(Bench::ready(LITES)),
        Some("heap-held") => keep(Bench::suspended(LITES)),
        Some("lite-topics") => println!("{LITES}"),
        Some(name) => match CASES.iter().find(|case| case.name == name) {
            Some(case) => measured(case, &mut (case.prepare)()),
            None => panic!("there is no case `{name}`"),
        },
        None => println!("run by: cargo xtask bench-instructions"),
    }
}

/// Callgrind counts while this function runs, by its name.
#[inline(never)]
fn measured(case: &Case, bench: &mut Bench) {
    (case.run)(bench);
    std::hint::black_box(bench);
}

fn keep(bench: Bench) {
    std::mem::forget(std::hint::black_box(bench));
}

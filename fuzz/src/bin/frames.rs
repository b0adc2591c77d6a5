//! Fuzzes the decoding of frames: `cargo xtask fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sluicegate_fuzz::frames::check(bytes));

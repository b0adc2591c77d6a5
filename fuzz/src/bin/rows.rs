//! Fuzzes the decoding of stored rows: `cargo xtask fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sluicegate_fuzz::rows::check(bytes));

//! How guests' code is compiled and run: the same settings in the broker and in its [worker](super::worker).

use std::hash::Hash;

use sha2::{Digest, Sha256};
use wasmtime::{Config, Engine, OptLevel};

use super::limits::{MEMORY_BYTES_MAX, STACK_BYTES_MAX};

/// An engine. Everything that could make two runs differ is off or pinned; what interrupts a guest is on.
///
/// # Errors
/// The machine cannot run compiled Wasm.
pub(super) fn engine() -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .max_wasm_stack(STACK_BYTES_MAX)
        // Address space, not memory. Thousands of instances must fit.
        .memory_reservation(2 * MEMORY_BYTES_MAX as u64)
        .memory_guard_size(64 << 10)
        .memory_may_move(false)
        .generate_address_map(true)
        .concurrency_support(false);
    Engine::new(&config)
}

/// What code depends on beside the component: compiler, settings, processor. 16 hexadecimal digits, the same in another process where,
/// and only where, code from here runs.
pub(super) fn compatibility(engine: &Engine) -> String {
    /// The standard hasher's result is promised for one version of the standard library only, and code outlives it.
    struct Bytes(Sha256);
    impl std::hash::Hasher for Bytes {
        fn finish(&self) -> u64 {
            let digest = self.0.clone().finalize();
            u64::from_be_bytes(*digest.first_chunk().expect("it has 32 bytes"))
        }

        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    let mut hasher = Bytes(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", std::hash::Hasher::finish(&hasher))
}

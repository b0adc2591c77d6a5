//! What must hold for any bytes that a peer sends or a disk gives back: nothing panics, what decodes survives its own
//! encoding, and decoding takes no more memory than so much for each byte.
//!
//! `cargo xtask fuzz` looks for bytes that break it; as tests, the checks run over the bytes in `corpus/` that were worth
//! keeping.

pub mod frames;
pub mod heap;
pub mod rows;
mod store;

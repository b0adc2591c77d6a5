//! What the compiler cannot check: code of our own that is made runnable again.

use wasmtime::Engine;
use wasmtime::component::Component;

/// Makes compiled code runnable.
///
/// The bytes must be what this broker's own compiler wrote, for this engine's settings: whoever else chooses them runs what they like.
/// They come from a [worker](super::worker) that this process started, or from the [cache](super::cache), which knows its own.
///
/// # Errors
/// They are for other settings, or damaged in a place that is looked at.
#[expect(unsafe_code, reason = "code that runs is trusted; where it may come from is said above")]
pub(super) fn runnable(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: what the bytes must be is said above, and kept by the only caller.
    unsafe { Component::deserialize(engine, code) }
}

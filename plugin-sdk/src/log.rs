//! The one thing that a policy can reach: the broker's log.

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Level {
    /// Something is wrong.
    Error = 1,
    /// Something looks wrong.
    Warn = 2,
    /// Worth a line in normal operation.
    Info = 3,
    /// For the policy's author.
    Debug = 4,
}

/// Writes a line to the broker's log, rate-limited there and cut at 1 KiB; to standard error when built natively.
pub fn log(level: Level, text: &str) {
    #[cfg(target_family = "wasm")]
    crate::bindings::sluicegate::policy::host::log(level as u32, text);
    #[cfg(not(target_family = "wasm"))]
    eprintln!("{level:?}: {text}");
}

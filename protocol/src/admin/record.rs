//! Recording a group's traffic.

use serde::{Deserialize, Serialize};

/// Asks for a recording of a group: the answer is the recording itself, line by line ([`recording`](crate::recording)), until it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordGroup {
    /// Seconds after which it ends; default 60, at most a day.
    pub seconds: u32,
    /// One in so many lite topics is recorded; default 1: all.
    pub one_in: u32,
    /// Bytes after which it ends, up to 256 lines later; default 1 GiB.
    pub bytes_max: u64,
}

impl RecordGroup {
    /// Most seconds of one recording.
    pub const SECONDS_MAX: u32 = 24 * 3_600;

    /// What is wrong with it, if anything.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=Self::SECONDS_MAX).contains(&self.seconds) {
            return Err(format!("seconds: {}, allowed are 1 to {}", self.seconds, Self::SECONDS_MAX));
        }
        if self.one_in == 0 {
            return Err("one_in: at least 1 is needed".into());
        }
        Ok(())
    }
}

impl Default for RecordGroup {
    fn default() -> Self {
        Self { seconds: 60, one_in: 1, bytes_max: 1 << 30 }
    }
}

//! How long lite topics live.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::{RECLAIM_MAX, RECLAIM_MIN};
use crate::{LiteId, LiteName, Timestamp};

/// When a lite topic's life ends by itself. The next message to its name begins a new life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReclaimSettings {
    /// What is waited for; default `empty`.
    pub mode: ReclaimMode,
    /// How long, in milliseconds; default 1 h, from 1 s to 10 years.
    pub after_ms: u64,
}

/// What a lite topic's end waits for.
///
/// `idle` and `empty` also wait while a consumer is subscribed to it by name, while a lease is open, and while it is suspended or
/// its head is held until a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReclaimMode {
    /// Nothing was published or settled for so long. Messages that wait go with it.
    Idle,
    /// The same, and every group that follows it has settled all. What no group follows is kept.
    #[default]
    Empty,
    /// So long after its first message, whatever is in work: open leases are taken away, uncounted.
    Absolute,
    /// It lives until an operator deletes it.
    Never,
}

impl Default for ReclaimSettings {
    fn default() -> Self {
        Self { mode: ReclaimMode::default(), after_ms: 3_600_000 }
    }
}

impl ReclaimSettings {
    /// Lite topics live until an operator deletes them.
    pub const NEVER: Self = Self { mode: ReclaimMode::Never, after_ms: 3_600_000 };

    /// How long is waited.
    pub const fn after(&self) -> Duration {
        Duration::from_millis(self.after_ms)
    }

    /// What is wrong with it, if anything.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn check(&self) -> Result<(), String> {
        let allowed = RECLAIM_MIN..=RECLAIM_MAX;
        if allowed.contains(&self.after()) {
            return Ok(());
        }
        let (min, max) = (RECLAIM_MIN.as_millis(), RECLAIM_MAX.as_millis());
        Err(format!("reclaim.after_ms: {}, allowed are {min} (1 s) to {max} (10 years)", self.after_ms))
    }
}

/// Gives a lite topic a reclaim of its own, for this life; none for its topic's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SetReclaim {
    /// Its own.
    pub reclaim: Option<ReclaimSettings>,
}

/// When a lite topic's life ends, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiteReclaim {
    /// Its name.
    pub name: LiteName,
    /// Its present life.
    pub lite_id: LiteId,
    /// What it goes by.
    pub reclaim: ReclaimSettings,
    /// It has that of its own, not from its topic.
    pub is_own: bool,
    /// When it is looked at next; absent for `never`. It lives on if there is something to wait for then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reclaim_is_between_a_second_and_ten_years() {
        let checked = |after_ms| ReclaimSettings { mode: ReclaimMode::Idle, after_ms }.check();
        assert_eq!((checked(1_000), checked(315_360_000_000)), (Ok(()), Ok(())));
        let refused = checked(999).unwrap_err();
        assert_eq!(refused, "reclaim.after_ms: 999, allowed are 1000 (1 s) to 315360000000 (10 years)");
        assert!(checked(315_360_000_001).is_err());
    }
}

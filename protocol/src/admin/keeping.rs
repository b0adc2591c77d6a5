//! How long lite topics live, how long their messages are kept, and how many there may be.

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

/// When messages are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retention {
    /// When every group that follows their lite topic has settled them. What no group follows is kept.
    #[default]
    WorkQueue,
    /// When they are too old or too many, whether they are settled or not.
    Log(LogRetention),
}

/// How much of a lite topic is kept. At least one of the two is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogRetention {
    /// Messages that were published longer ago are deleted, in milliseconds, from 1 s to 10 years.
    pub age_ms: Option<u64>,
    /// The first messages are deleted while bodies and properties of all together have more bytes. The last one is kept.
    pub bytes: Option<u64>,
}

impl LogRetention {
    /// How old a message may be.
    pub fn age(&self) -> Option<Duration> {
        self.age_ms.map(Duration::from_millis)
    }
}

impl Retention {
    /// What is wrong with it, if anything.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn check(&self) -> Result<(), String> {
        let Self::Log(log) = self else { return Ok(()) };
        if log.age_ms.is_none() && log.bytes.is_none() {
            return Err("retention.log: age_ms or bytes is needed".into());
        }
        if log.bytes == Some(0) {
            return Err("retention.log.bytes: at least 1 is needed".into());
        }
        let allowed = RECLAIM_MIN..=RECLAIM_MAX;
        match log.age() {
            Some(age) if !allowed.contains(&age) => {
                let (min, max) = (RECLAIM_MIN.as_millis(), RECLAIM_MAX.as_millis());
                Err(format!("retention.log.age_ms: {}, allowed are {min} (1 s) to {max} (10 years)", age.as_millis()))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// How much there may be in a topic. A publish beyond is refused with `limit_reached`; settling, deleting and purging is always
/// allowed, and so are dead letters and their way back. 0 is no limit.
///
/// What counts are messages that are kept, and the bytes of their bodies and properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicLimits {
    /// Lite topics; default 10 million.
    pub lite_topics: u64,
    /// Messages of all lite topics; default none.
    pub messages: u64,
    /// Bytes of all lite topics; default none.
    pub bytes: u64,
    /// Messages of one lite topic; default 1 million.
    pub lite_messages: u64,
    /// Bytes of one lite topic; default 1 GiB.
    pub lite_bytes: u64,
    /// Messages of one tenant; default none.
    pub tenant_messages: u64,
    /// Bytes of one tenant; default none.
    pub tenant_bytes: u64,
}

impl Default for TopicLimits {
    fn default() -> Self {
        Self {
            lite_topics: 10_000_000,
            messages: 0,
            bytes: 0,
            lite_messages: 1_000_000,
            lite_bytes: 1 << 30,
            tenant_messages: 0,
            tenant_bytes: 0,
        }
    }
}

impl TopicLimits {
    /// None at all.
    pub const NONE: Self = Self {
        lite_topics: 0,
        messages: 0,
        bytes: 0,
        lite_messages: 0,
        lite_bytes: 0,
        tenant_messages: 0,
        tenant_bytes: 0,
    };
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

    #[test]
    fn a_log_needs_a_bound_that_can_be_kept() {
        let checked = |age_ms, bytes| Retention::Log(LogRetention { age_ms, bytes }).check();
        assert_eq!((checked(Some(1_000), None), checked(None, Some(1))), (Ok(()), Ok(())));
        for bad in [checked(None, None), checked(Some(999), Some(1)), checked(Some(1_000), Some(0))] {
            assert!(bad.unwrap_err().starts_with("retention.log"));
        }
    }
}

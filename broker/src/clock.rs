//! The one place that reads the time.
//!
//! `Timestamp` is the wall clock at start plus monotonic time since, and never before the last
//! timestamp that an earlier process committed: broker time cannot run backwards.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sluicegate_protocol::Timestamp;

/// The duration in whole microseconds, as all that leaves the broker says it.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Reads broker time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started: Instant,
    base: Timestamp,
}

impl Clock {
    /// Starts at the wall clock, or just after `committed` where the wall clock is behind it.
    #[expect(clippy::disallowed_methods, reason = "this is the file that reads the clock")]
    pub(crate) fn start(committed: Timestamp) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = Timestamp(micros(wall));
        Self { started: Instant::now(), base: wall.max(Timestamp(committed.0 + 1)) }
    }

    /// Broker time now.
    pub(crate) fn now(&self) -> Timestamp {
        self.base.plus(self.started.elapsed())
    }
}

//! The one place of the command line that reads the time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use sluicegate_client::Timestamp;

/// Wall clock at start plus monotonic time since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started: Instant,
    base: Timestamp,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this is the file that reads the clock")]
    pub(crate) fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), base: Timestamp(u64::try_from(wall.as_micros()).unwrap_or(u64::MAX)) }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.base.plus(self.started.elapsed())
    }
}

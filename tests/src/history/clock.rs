//! The broker's clock, read from outside without asking it each time.

use anyhow::{Context as _, Result};
use sluicegate_client::admin::Admin;
use sluicegate_client::{GroupName, LiteName, Timestamp};
use tokio::time::Instant;

use super::Span;

const TICK: std::time::Duration = std::time::Duration::from_millis(1);

/// How one broker process's time follows the test's own monotonic clock. Both run alike on one machine, so what is unknown is
/// only the distance, which every reading narrows.
#[derive(Debug, Clone, Copy)]
pub struct BrokerClock {
    origin: Instant,
    /// Broker time at the origin: the earliest and the latest that it may have been.
    base: (u64, u64),
}

impl BrokerClock {
    /// Reads the broker's clock so many times: the end of the shortest suspension says when that began.
    ///
    /// # Errors
    /// The broker does not answer as it should.
    pub async fn read(admin: &Admin, group: &GroupName, idle: &LiteName, readings: u32) -> Result<Self> {
        let mut clock = Self { origin: Instant::now(), base: (0, u64::MAX) };
        for _ in 0..readings {
            let asked = clock.micros_at(Instant::now());
            let change = admin.suspend_lite(group, idle, TICK).await?;
            let answered = clock.micros_at(Instant::now());
            let until = change.lite_topic.suspensions.iter().map(|suspension| suspension.until).max();
            let now = until.context("the suspension that reads the clock is over already")?.0 - 1_000;
            // Both clocks are cut to microseconds.
            clock.base.0 = clock.base.0.max(now - answered - 1);
            clock.base.1 = clock.base.1.min(now - asked + 1);
        }
        Ok(clock)
    }

    fn micros_at(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_micros()).unwrap_or(u64::MAX)
    }

    /// The earliest broker time that this may have been.
    pub fn earliest(&self, at: Instant) -> Timestamp {
        Timestamp(self.base.0 + self.micros_at(at))
    }

    /// The latest.
    pub fn latest(&self, at: Instant) -> Timestamp {
        Timestamp(self.base.1 + self.micros_at(at))
    }

    /// What was asked and answered then took effect in between.
    pub fn span(&self, asked: Instant, answered: Instant) -> Span {
        Span { after: self.earliest(asked), before: self.latest(answered) }
    }
}

//! A quota, measured beside the scheduler's own buckets: exact, in whole numbers.

use std::time::Duration;

use sluicegate_protocol::{Rate, Timestamp};

/// What a run took of one quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaUse {
    /// The setting.
    pub rate: Rate,
    /// Units that deliveries took, corrected by what was measured.
    pub used: u64,
    /// Units that it would have given: the burst, and the rate for as long as the run was.
    pub allowed: u64,
    /// The most by which deliveries of any window were above burst and rate, beyond what one message dearer than the burst and
    /// measured costs above their estimates make of it: 0 if the quota was kept.
    pub excess: u64,
}

/// How full a quota's bucket would be, if it leaked at exactly the rate.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    rate: Rate,
    /// Units owed, times the nanoseconds of the rate's period.
    owed: u128,
    at: Timestamp,
    used: u64,
    excess: u64,
}

impl Meter {
    pub(super) fn new(rate: Rate, now: Timestamp) -> Self {
        Self { rate, owed: 0, at: now, used: 0, excess: 0 }
    }

    /// A delivery reserved so many units.
    pub(super) fn reserve(&mut self, units: u64, now: Timestamp) {
        self.leak(now);
        self.owed += self.scaled(units);
        self.used = self.used.saturating_add(units);
        let allowed = self.scaled(units.max(self.rate.burst().into()));
        let above = self.owed.saturating_sub(allowed).div_ceil(self.rate.period().as_nanos());
        self.excess = self.excess.max(u64::try_from(above).unwrap_or(u64::MAX));
    }

    /// What was reserved turned out to be this.
    pub(super) fn correct(&mut self, reserved: u64, measured: u64, now: Timestamp) {
        self.leak(now);
        self.owed = (self.owed + self.scaled(measured)).saturating_sub(self.scaled(reserved));
        self.used = self.used.saturating_add(measured).saturating_sub(reserved);
    }

    pub(super) fn total(&self, span: Duration) -> QuotaUse {
        let gained = u128::from(self.rate.units()) * span.as_nanos() / self.rate.period().as_nanos();
        let allowed = u64::try_from(gained).unwrap_or(u64::MAX).saturating_add(self.rate.burst().into());
        QuotaUse { rate: self.rate, used: self.used, allowed, excess: self.excess }
    }

    fn leak(&mut self, now: Timestamp) {
        let leaked = u128::from(self.rate.units()) * now.since(self.at).as_nanos();
        self.owed = self.owed.saturating_sub(leaked);
        self.at = now;
    }

    fn scaled(&self, units: u64) -> u128 {
        u128::from(units) * self.rate.period().as_nanos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_above_burst_and_rate_is_found() {
        let at = Timestamp::from_millis;
        let mut meter = Meter::new("10/s burst 5".parse().unwrap(), at(0));
        meter.reserve(5, at(0));
        meter.reserve(1, at(100));
        assert_eq!(meter.total(Duration::from_secs(1)).excess, 0);
        meter.reserve(3, at(150));
        let total = meter.total(Duration::from_secs(1));
        assert_eq!((total.used, total.allowed, total.excess), (9, 15, 3));
    }

    #[test]
    fn a_dear_message_runs_from_a_full_bucket_and_what_it_did_not_use_is_given_back() {
        let at = Timestamp::from_millis;
        let mut meter = Meter::new("10/s burst 5".parse().unwrap(), at(0));
        meter.reserve(20, at(0));
        meter.correct(20, 2, at(0));
        meter.reserve(3, at(0));
        assert_eq!(
            meter.total(Duration::ZERO),
            QuotaUse { used: 5, allowed: 5, excess: 0, ..meter.total(Duration::ZERO) }
        );
        meter.reserve(1, at(0));
        assert_eq!(meter.total(Duration::ZERO).excess, 1);
    }
}

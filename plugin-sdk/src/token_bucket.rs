//! An exact token bucket in integers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Levels are kept in trillionths, so that micro-units per second times microseconds need no division.
const PER_UNIT: u64 = 1_000_000_000_000;

/// A token bucket: fills at a rate up to its burst, and may go into debt.
///
/// Exact: no floats, nothing lost to rounding. It serialises, so a policy's state may hold it.
///
/// ```
/// use std::time::Duration;
/// use sluicegate_plugin_sdk::TokenBucket;
///
/// let mut bucket = TokenBucket::full(2_000_000, 10, 0); // 2 units per second, at most 10
/// assert!(bucket.take(9, 0));
/// assert!(!bucket.take(4, 0));
/// assert_eq!(bucket.time_until(4, 0), Duration::from_millis(1_500));
/// assert!(bucket.take(4, 1_500_000));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBucket {
    rate_micros: u64,
    burst: u64,
    #[serde(with = "halves")]
    level: i128,
    at_us: u64,
}

impl TokenBucket {
    /// A full bucket. The rate is in millionths of a unit per second, the burst in units.
    #[must_use]
    pub fn full(rate_micros: u64, burst: u64, now_us: u64) -> Self {
        Self { rate_micros, burst, level: of_units(burst), at_us: now_us }
    }

    /// Another rate and burst from now on. A level above the new burst is lost; a debt stays.
    pub fn set_rate(&mut self, rate_micros: u64, burst: u64, now_us: u64) {
        self.refill(now_us);
        self.rate_micros = rate_micros;
        self.burst = burst;
        self.level = self.level.min(of_units(burst));
    }

    /// The most that it can hold, in units.
    #[must_use]
    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// Units in it, rounded down; negative is debt.
    #[must_use]
    pub fn level(&self, now_us: u64) -> i64 {
        let units = self.level_at(now_us).div_euclid(i128::from(PER_UNIT));
        i64::try_from(units).unwrap_or(if units < 0 { i64::MIN } else { i64::MAX })
    }

    /// As full as it gets: forgetting it changes nothing.
    #[must_use]
    pub fn is_full(&self, now_us: u64) -> bool {
        self.level_at(now_us) >= of_units(self.burst)
    }

    /// Pays `amount` units if they are there. An amount above the burst is paid from a full bucket, the rest as debt.
    #[must_use]
    pub fn take(&mut self, amount: u64, now_us: u64) -> bool {
        self.refill(now_us);
        let payable = self.level >= of_units(amount.min(self.burst));
        if payable {
            self.level -= of_units(amount);
        }
        payable
    }

    /// Takes `amount` units, into debt if need be.
    pub fn charge(&mut self, amount: u64, now_us: u64) {
        self.refill(now_us);
        self.level = self.level.saturating_sub(of_units(amount));
    }

    /// Puts `amount` units back, up to the burst.
    pub fn give_back(&mut self, amount: u64, now_us: u64) {
        self.refill(now_us);
        self.level = (self.level + of_units(amount)).min(of_units(self.burst));
    }

    /// Until it would have gained `amount` units, its burst aside; rounded up. [`Duration::MAX`] at rate 0.
    #[must_use]
    pub fn time_until(&self, amount: u64, now_us: u64) -> Duration {
        let missing = of_units(amount).saturating_sub(self.level_at(now_us));
        if missing <= 0 {
            return Duration::ZERO;
        }
        if self.rate_micros == 0 {
            return Duration::MAX;
        }
        if let Ok(missing) = u64::try_from(missing) {
            return Duration::from_micros(missing.div_ceil(self.rate_micros));
        }
        let rate = i128::from(self.rate_micros);
        let micros = missing / rate + i128::from(missing % rate != 0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn refill(&mut self, now_us: u64) {
        self.level = self.level_at(now_us);
        self.at_us = self.at_us.max(now_us);
    }

    fn level_at(&self, now_us: u64) -> i128 {
        let passed = now_us.saturating_sub(self.at_us);
        if passed == 0 {
            return self.level;
        }
        let gained = product(passed, self.rate_micros);
        self.level.saturating_add(gained).min(of_units(self.burst))
    }
}

/// So many units, as levels are kept. A guest has no instruction for 128 bits, so what fits into 64 is multiplied as such.
fn of_units(units: u64) -> i128 {
    match units <= u64::MAX / PER_UNIT {
        true => i128::from(units * PER_UNIT),
        false => i128::from(units) * i128::from(PER_UNIT),
    }
}

/// At most the highest there is.
fn product(a: u64, b: u64) -> i128 {
    const HALF: u64 = 1 << 32;
    match a < HALF && b < HALF {
        true => i128::from(a * b),
        false => i128::try_from(u128::from(a) * u128::from(b)).unwrap_or(i128::MAX),
    }
}

/// A level as two numbers of 64 bits: a guest takes several times as long to encode one of 128.
mod halves {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the other half is beside it")]
    pub(super) fn serialize<S: Serializer>(level: &i128, serializer: S) -> Result<S::Ok, S::Error> {
        ((level >> 64) as i64, *level as u64).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i128, D::Error> {
        let (high, low) = <(i64, u64)>::deserialize(deserializer)?;
        Ok(i128::from(high) << 64 | i128::from(low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_fraction_of_a_unit_per_second_adds_up_exactly() {
        let mut bucket = TokenBucket::full(300_000, 1, 0);
        assert!(bucket.take(1, 0));
        let mut now = 0;
        for _ in 0..1_000 {
            now += 3_333;
            bucket.charge(0, now);
        }
        assert_eq!(bucket.time_until(1, now), Duration::from_micros(3_333_334 - 3_333_000));
        assert!(!bucket.take(1, 3_333_333));
        assert!(bucket.take(1, 3_333_334));
    }

    #[test]
    fn an_amount_above_the_burst_leaves_a_debt() {
        let mut bucket = TokenBucket::full(SECOND, 10, 0);
        assert!(bucket.take(25, 0));
        assert_eq!(bucket.level(0), -15);
        assert!(!bucket.take(1, 15 * SECOND));
        assert!(bucket.take(1, 16 * SECOND));
        assert!(!bucket.take(25, 17 * SECOND));
    }

    #[test]
    fn what_is_given_back_stops_at_the_burst() {
        let mut bucket = TokenBucket::full(SECOND, 10, 0);
        assert!(bucket.take(4, 0));
        bucket.give_back(9, 0);
        assert_eq!(bucket.level(0), 10);
        assert!(bucket.is_full(0));
    }

    #[test]
    fn a_new_rate_keeps_the_debt() {
        let mut bucket = TokenBucket::full(SECOND, 10, 0);
        bucket.charge(30, 0);
        bucket.set_rate(10 * SECOND, 5, 0);
        assert_eq!(bucket.time_until(0, 0), Duration::from_secs(2));
        assert_eq!(bucket.level(60 * SECOND), 5);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut bucket = TokenBucket::full(u64::MAX, u64::MAX, 0);
        assert!(bucket.take(u64::MAX, u64::MAX));
        bucket.charge(u64::MAX, u64::MAX);
        assert_eq!(bucket.level(0), i64::MIN);
        bucket.give_back(u64::MAX, u64::MAX);
        assert_eq!(bucket.level(u64::MAX), 0);
        let empty = TokenBucket::full(0, 0, 0);
        assert_eq!(empty.time_until(1, u64::MAX), Duration::MAX);
    }

    #[test]
    fn every_level_is_encoded() {
        for level in [0, 1, -1, i128::MIN, i128::MAX, 1 << 64, -(1 << 64), of_units(7), -of_units(u64::MAX)] {
            let bucket = TokenBucket { level, ..TokenBucket::full(SECOND, 10, 5) };
            let bytes = postcard::to_allocvec(&bucket).unwrap();
            assert_eq!(postcard::from_bytes::<TokenBucket>(&bytes).unwrap(), bucket, "{level}");
        }
    }

    #[test]
    fn time_that_goes_back_changes_nothing() {
        let mut bucket = TokenBucket::full(SECOND, 10, 10 * SECOND);
        assert!(bucket.take(10, 10 * SECOND));
        bucket.charge(0, 5 * SECOND);
        assert_eq!(bucket.level(11 * SECOND), 1);
    }
}

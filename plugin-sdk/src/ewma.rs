//! What was lately, on average, in integers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What one sample weighs at first.
const ONE: u64 = 1 << 32;
/// Weight beyond which all of it is halved, so that any number of samples fits.
const WEIGHT_MAX: u64 = 1 << 62;
/// Weight below which the average is kept at that weight: after a long silence it is old, but known.
const WEIGHT_MIN: u64 = 1 << 8;
/// Bits of a fraction of a half-life.
const FRACTION_BITS: u32 = 16;
/// `2^(-1/2)`, `2^(-1/4)`, and so on for each bit of a fraction, with 32 bits after the point.
const ROOTS: [u64; FRACTION_BITS as usize] = [
    3_037_000_500,
    3_611_622_603,
    3_938_502_376,
    4_112_874_773,
    4_202_935_003,
    4_248_701_965,
    4_271_771_996,
    4_283_353_945,
    4_289_156_690,
    4_292_061_010,
    4_293_513_907,
    4_294_240_540,
    4_294_603_903,
    4_294_785_595,
    4_294_876_445,
    4_294_921_870,
];

/// An exponential moving average over time: a sample counts half after one half-life, a quarter after two.
///
/// Integers only, so that a policy decides the same on every machine. Samples at the same moment count alike. It serialises, so a
/// policy's state may hold it.
///
/// ```
/// use std::time::Duration;
/// use sluicegate_plugin_sdk::Ewma;
///
/// let mut service_us = Ewma::new(Duration::from_secs(10));
/// assert_eq!(service_us.average(), None);
/// service_us.add(900, 0);
/// service_us.add(300, 10_000_000); // the first counts half by now
/// assert_eq!(service_us.average(), Some(500));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ewma {
    half_life_us: u64,
    at_us: u64,
    /// Of the samples, each times its weight.
    sum: u128,
    weight: u64,
}

impl Ewma {
    /// Without samples. A half-life is at least a microsecond.
    #[must_use]
    pub fn new(half_life: Duration) -> Self {
        let half_life_us = u64::try_from(half_life.as_micros()).unwrap_or(u64::MAX).max(1);
        Self { half_life_us, at_us: 0, sum: 0, weight: 0 }
    }

    /// One more sample. Time that goes back counts as the latest that was seen.
    pub fn add(&mut self, sample: u64, now_us: u64) {
        self.age(now_us);
        self.sum += u128::from(sample) * u128::from(ONE);
        self.weight += ONE;
        if self.weight > WEIGHT_MAX {
            (self.sum, self.weight) = (self.sum / 2, self.weight / 2);
        }
    }

    /// The average, rounded to the nearest, if there was a sample.
    #[must_use]
    pub fn average(&self) -> Option<u64> {
        let weight = u128::from(self.weight);
        let rounded = (self.sum + weight / 2).checked_div(weight)?;
        Some(u64::try_from(rounded).unwrap_or(u64::MAX))
    }

    /// What the samples weigh by now, rounded down: 1 for one of just now.
    #[must_use]
    pub fn samples(&self, now_us: u64) -> u64 {
        let mut aged = *self;
        aged.age(now_us);
        aged.weight / ONE
    }

    fn age(&mut self, now_us: u64) {
        let passed = u128::from(now_us.saturating_sub(self.at_us));
        // A state that was decoded may have none.
        let half_life = u128::from(self.half_life_us.max(1));
        let halvings = (passed << FRACTION_BITS) / half_life;
        // What is too short to count yet counts with what follows.
        let counted = (halvings * half_life) >> FRACTION_BITS;
        self.at_us += u64::try_from(counted).expect("no more than passed");
        if self.weight == 0 || halvings == 0 {
            return;
        }
        let average = self.sum / u128::from(self.weight);
        let whole = u32::try_from(halvings >> FRACTION_BITS).unwrap_or(u32::MAX);
        if whole < u64::BITS {
            let factor = part(halvings);
            let (high, low) = (self.sum >> 32, self.sum & u128::from(u32::MAX));
            self.sum = (high * factor + ((low * factor) >> 32)) >> whole;
            let weight = ((u128::from(self.weight) * factor) >> 32) >> whole;
            self.weight = u64::try_from(weight).expect("it got less");
        }
        if whole >= u64::BITS || self.weight < WEIGHT_MIN {
            (self.sum, self.weight) = (average * u128::from(WEIGHT_MIN), WEIGHT_MIN);
        }
    }
}

/// Two to the power of minus the fraction of these halvings, with 32 bits after the point.
fn part(halvings: u128) -> u128 {
    let bits = (1..=FRACTION_BITS).zip(ROOTS).filter(|(bit, _)| halvings >> (FRACTION_BITS - bit) & 1 == 1);
    bits.fold(1 << 32, |factor, (_, root)| (factor * u128::from(root)) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn ewma() -> Ewma {
        Ewma::new(Duration::from_secs(10))
    }

    #[test]
    fn roots_are_roots() {
        for (bit, root) in (1..).zip(ROOTS) {
            let expected = (-(0.5f64.powi(bit))).exp2() * (1u64 << 32) as f64;
            assert!((root as f64 - expected).abs() < 1.0, "{root} instead of {expected}");
        }
    }

    #[test]
    fn a_sample_counts_half_after_each_half_life() {
        for (age, expected) in [(0, 500), (10, 333), (20, 200), (30, 111), (5, 414)] {
            let mut ewma = ewma();
            ewma.add(1_000, 7 * SECOND);
            ewma.add(0, (7 + age) * SECOND);
            assert_eq!(ewma.average(), Some(expected), "{age} seconds later");
        }
    }

    #[test]
    fn silence_keeps_the_average_and_makes_it_light() {
        let mut ewma = ewma();
        for _ in 0..100 {
            ewma.add(700, SECOND);
        }
        assert_eq!((ewma.samples(SECOND), ewma.samples(11 * SECOND), ewma.samples(u64::MAX)), (100, 50, 0));
        ewma.add(700, 3_600 * SECOND);
        assert_eq!(ewma.average(), Some(700));
        ewma.add(10, u64::MAX);
        assert_eq!(ewma.average(), Some(10));
    }

    #[test]
    fn many_short_gaps_are_as_long_as_one() {
        let mut ewma = ewma();
        ewma.add(1_000, 0);
        let weight = ewma.weight;
        for step in 0..100_000 {
            ewma.age(step * 100);
        }
        assert!(ewma.weight.abs_diff(weight / 2) < weight / 100, "{} of {weight}", ewma.weight);
        assert_eq!(ewma.average(), Some(1_000));
    }

    #[test]
    fn a_decoded_half_life_of_nothing_is_the_shortest() {
        let bytes = postcard::to_allocvec(&Ewma { half_life_us: 0, ..ewma() }).unwrap();
        let mut decoded: Ewma = postcard::from_bytes(&bytes).unwrap();
        decoded.add(5, 0);
        decoded.add(9, 1);
        assert_eq!((decoded.average(), decoded.samples(1)), (Some(8), 1));
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut ewma = Ewma::new(Duration::MAX);
        ewma.weight = WEIGHT_MAX;
        ewma.sum = u128::from(WEIGHT_MAX) * u128::from(u64::MAX);
        ewma.add(u64::MAX, u64::MAX);
        assert_eq!(ewma.average(), Some(u64::MAX));
        ewma.add(u64::MAX, 0);
        assert_eq!(ewma.average(), Some(u64::MAX));
        let mut quick = Ewma::new(Duration::ZERO);
        quick.add(5, 0);
        quick.add(9, 1);
        assert_eq!(quick.average(), Some(8));
    }
}

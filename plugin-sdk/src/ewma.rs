//! What was lately, on average, in integers.

use serde::{Deserialize, Serialize};

/// Parts of a unit that an average is kept in, so that small samples do not make it jump.
const PARTS: u64 = 1 << 8;
/// The highest sample that is told apart from higher ones.
const SAMPLE_MAX: u64 = u64::MAX / PARTS;

/// An exponentially weighted moving average: each new sample makes up one part in so many, the older the less.
///
/// Integers only, so that a policy decides the same on every machine; a step is rounded away from the average, so that it gets to what
/// is measured from both sides. It serialises as one number, so a policy's state may hold many. Samples above 2^56 count as that.
///
/// ```
/// use sluicegate_plugin_sdk::Ewma;
///
/// let mut service_us = Ewma::of(800);
/// service_us.add(1_600, 8);
/// assert_eq!(service_us.average(), 900); // an eighth of the way
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ewma(u64);

impl Ewma {
    /// Of the first sample alone.
    #[must_use]
    pub const fn of(sample: u64) -> Self {
        Self(if sample < SAMPLE_MAX { sample * PARTS } else { SAMPLE_MAX * PARTS })
    }

    /// One more sample, which makes up one part in `one_in`, at least 1.
    pub fn add(&mut self, sample: u64, one_in: u64) {
        let (sample, one_in) = (Self::of(sample).0, one_in.max(1));
        self.0 = match sample >= self.0 {
            true => self.0 + (sample - self.0).div_ceil(one_in),
            false => self.0 - (self.0 - sample).div_ceil(one_in),
        };
    }

    /// The average, rounded down.
    #[must_use]
    pub const fn average(self) -> u64 {
        self.0 / PARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_comes_to_what_is_measured_from_both_sides() {
        let mut average = Ewma::of(800);
        average.add(1_600, 8);
        assert_eq!(average.average(), 900);
        average.add(100, 8);
        assert_eq!(average.average(), 800);
        (0..200).for_each(|_| average.add(0, 8));
        assert_eq!(average.average(), 0);
        (0..200).for_each(|_| average.add(50, 8));
        assert_eq!(average.average(), 50);
    }

    #[test]
    fn small_samples_do_not_make_it_jump() {
        let mut average = Ewma::of(10);
        (0..100).for_each(|n| average.add(10 + n % 2, 8));
        assert_eq!(average.average(), 10);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut average = Ewma::of(u64::MAX);
        average.add(u64::MAX, 1);
        average.add(0, u64::MAX);
        average.add(u64::MAX, 0);
        assert_eq!(average.average(), SAMPLE_MAX);
        let bytes = postcard::to_allocvec(&average).unwrap();
        assert_eq!(postcard::from_bytes::<Ewma>(&bytes).unwrap(), average);
    }

    #[test]
    fn a_decoded_average_of_any_value_goes_on() {
        let bytes = postcard::to_allocvec(&u64::MAX).unwrap();
        let mut decoded: Ewma = postcard::from_bytes(&bytes).unwrap();
        decoded.add(u64::MAX, 8);
        decoded.add(0, 8);
        assert!(decoded.average() < SAMPLE_MAX);
    }
}

//! Seeded draws in whole numbers: the same on every machine, which a logarithm in floats is not.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng, SeedableRng};

/// Bits after the point of a logarithm.
const LOG_BITS: u32 = 32;
/// The natural logarithm of 2, with [`LOG_BITS`].
const LN_2: u128 = 2_977_044_472;

/// A seeded source of numbers.
///
/// ```
/// use sluicegate_scheduler::simulation::Draws;
/// let (mut one, mut other) = (Draws::new(7), Draws::new(7));
/// assert_eq!(one.up_to(9), other.up_to(9));
/// assert!(one.up_to(9) <= 9);
/// ```
#[derive(Debug, Clone)]
pub struct Draws(Pcg64Mcg);

impl Draws {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(Pcg64Mcg::seed_from_u64(seed))
    }

    /// From 0 to `max`, each as likely as the others.
    ///
    /// # Panics
    /// Never: what is drawn is at most `max`.
    pub fn up_to(&mut self, max: u64) -> u64 {
        let scaled = u128::from(self.0.next_u64()) * (u128::from(max) + 1);
        u64::try_from(scaled >> 64).expect("it is at most max")
    }

    /// Exponentially distributed with this mean: the gap between two arrivals of a Poisson process.
    pub fn exponential(&mut self, mean: u64) -> u64 {
        let missing_bits = (u128::from(u64::BITS) << LOG_BITS) - log2(self.0.next_u64().max(1));
        let drawn = (((u128::from(mean) * missing_bits) >> LOG_BITS) * LN_2) >> LOG_BITS;
        u64::try_from(drawn).unwrap_or(u64::MAX)
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.up_to(high.checked_sub(low).expect("a spread goes from low to high"))
    }
}

/// The binary logarithm with [`LOG_BITS`]: squaring doubles it, so each square yields one more bit.
fn log2(number: u64) -> u128 {
    let whole = number.ilog2();
    // Between 1 and 2, with 63 bits after the point.
    let mut rest = u128::from(number << (63 - whole));
    let mut log = u128::from(whole);
    for _ in 0..LOG_BITS {
        rest = (rest * rest) >> 63;
        let bit = rest >> 64;
        log = (log << 1) | bit;
        rest >>= bit;
    }
    log
}

/// A number or a [`Duration`] that is drawn for each message.
///
/// ```
/// use sluicegate_scheduler::simulation::Spread;
/// assert_eq!(Spread::from(5), Spread::Fixed(5));
/// assert_eq!(Spread::from(1..=6), Spread::Between(1, 6));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread<T> {
    /// Always this.
    Fixed(T),
    /// From the first to the second, each as likely as the others.
    Between(T, T),
    /// Exponentially distributed with this mean: most below it, few far above.
    Exponential(T),
}

impl<T> From<T> for Spread<T> {
    fn from(value: T) -> Self {
        Self::Fixed(value)
    }
}

impl<T> From<RangeInclusive<T>> for Spread<T> {
    fn from(range: RangeInclusive<T>) -> Self {
        let (low, high) = range.into_inner();
        Self::Between(low, high)
    }
}

impl Spread<u64> {
    /// The next number.
    ///
    /// # Panics
    /// If it goes from high to low.
    pub fn draw(self, draws: &mut Draws) -> u64 {
        match self {
            Self::Fixed(value) => value,
            Self::Between(low, high) => draws.between(low, high),
            Self::Exponential(mean) => draws.exponential(mean),
        }
    }
}

impl Spread<Duration> {
    /// The next duration, in whole microseconds.
    ///
    /// # Panics
    /// If it goes from long to short.
    pub fn draw(self, draws: &mut Draws) -> Duration {
        let micros = match self {
            Self::Fixed(value) => Spread::Fixed(micros(value)),
            Self::Between(low, high) => Spread::Between(micros(low), micros(high)),
            Self::Exponential(mean) => Spread::Exponential(micros(mean)),
        };
        Duration::from_micros(micros.draw(draws))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean_of(count: u64, mut draw: impl FnMut() -> u64) -> u64 {
        (0..count).map(|_| draw()).sum::<u64>() / count
    }

    #[test]
    fn draws_have_the_mean_that_they_should() {
        let mut draws = Draws::new(1);
        let exponential = mean_of(100_000, || draws.exponential(10_000));
        let uniform = mean_of(100_000, || Spread::Between(5_000, 15_000).draw(&mut draws));
        assert!(exponential.abs_diff(10_000) < 100 && uniform.abs_diff(10_000) < 100, "{exponential}, {uniform}");
    }

    #[test]
    fn as_many_gaps_are_above_their_mean_as_an_exponential_distribution_has() {
        let mut draws = Draws::new(2);
        let above = (0..100_000).filter(|_| draws.exponential(1_000) > 1_000).count();
        assert!(above.abs_diff(36_788) < 500, "{above}");
    }

    #[test]
    fn the_logarithm_is_exact_to_its_last_bits() {
        for number in [1, 2, 3, 1_000, u64::MAX / 3, u64::MAX] {
            let expected = (number as f64).log2() * f64::from(2u32.pow(16));
            let log = (log2(number) >> 16) as f64;
            assert!((log - expected).abs() <= 1.0, "{log} instead of {expected} for {number}");
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut draws = Draws::new(3);
        for _ in 0..1_000 {
            draws.exponential(u64::MAX);
            draws.up_to(u64::MAX);
        }
        assert_eq!((draws.up_to(0), draws.exponential(0)), (0, 0));
    }
}

//! Who used how much lately, in bounded memory.

use std::f64::consts::SQRT_2;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ById, Ewma};

/// Counters kept; their encoded state stays below 1 MiB.
const COUNTERS_MAX: usize = 16_384;
/// Counters looked at per frame for one that makes no difference any more.
const SWEEP: usize = 32;
/// Who is without work for longer comes as a newcomer.
const AWAY_US: u64 = 60_000_000;
/// Who neither works nor ends anything for longer has no open lease: that it ended was not heard.
const LEASES_LOST_US: u64 = 3_600_000_000;
/// Most that can be on the books: sums stay finite.
const BOOKED_MAX: f64 = f64::MAX / 1e20;
/// Highest cost of one delivery that is counted: the sums stay finite whatever a consumer reports.
const COST_MAX: u64 = 1 << 40;
/// A delivery's cost makes up one part in so many of the average.
const ONE_IN: u64 = 8;

/// Steps of the fading in a half-life.
const STEPS: u64 = 16;
/// 2^(i/16). The standard library's powers differ between machines, multiplication does not.
const POWERS: [f64; 16] = [
    1.0,
    1.044_273_782_427_413_8,
    1.090_507_732_665_257_7,
    1.138_788_634_756_691_6,
    1.189_207_115_002_721,
    1.241_857_812_073_484,
    1.296_839_554_651_009_6,
    1.354_255_546_936_892_7,
    SQRT_2,
    1.476_826_145_939_499_3,
    1.542_210_825_407_940_7,
    1.610_490_331_949_254_3,
    1.681_792_830_507_429,
    1.756_252_160_373_299_5,
    1.834_008_086_409_342_4,
    1.915_206_561_397_147_2,
];
/// Half-lives after which the books are written anew: far from the largest exponent.
const HALF_LIVES_MAX: u64 = 512;

/// One counter.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Counter {
    /// What was used, in the books' worth.
    booked: f64,
    /// Open leases, as far as is known.
    leases: u32,
    /// What each of them is likely to cost.
    each: f64,
    /// What a delivery costs on average, after the first.
    average: Option<Ewma>,
    weight: u32,
    worked_us: u64,
}

impl Counter {
    /// What its open leases are likely to cost.
    fn open(&self) -> f64 {
        f64::from(self.leases) * self.each
    }

    /// Without work for long, whether or not its leases were heard to end.
    fn is_away(&self, now_us: u64) -> bool {
        let since_us = now_us.saturating_sub(self.worked_us);
        since_us > if self.leases == 0 { AWAY_US } else { LEASES_LOST_US }
    }

    fn is_sound(&self) -> bool {
        (0.0..=BOOKED_MAX).contains(&self.booked) && (0.0..=cost(COST_MAX)).contains(&self.each)
    }
}

/// Where somebody stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// Its weight.
    pub weight: u32,
    /// What it used lately, its open leases included, in cost units.
    pub used: f64,
}

/// A counter for each tenant, or for whatever a policy shares among: what its deliveries cost, as measured, faded by half in each half-life;
/// and, until that is known, its open leases at what its deliveries cost on average.
///
/// The [fair level](Self::fair_level) is what all used by the sum of their weights: who has used its weight times that had its share. Being
/// away earns nothing: who comes, or comes back after a minute without work, starts at a part of the fair level.
///
/// Floats, but of operations only that are the same on every machine. At most 16,384 counters are kept; beyond it one with little on it is
/// forgotten, and is a newcomer's when it comes back.
///
/// ```
/// use std::time::Duration;
/// use sluicegate_plugin_sdk::FairCounters;
///
/// let mut counters = FairCounters::new(Duration::from_secs(1_800), 50, 0);
/// let weight_of = |key| if key == 1 { 3 } else { 1 };
/// for key in [1, 2] {
///     counters.working(key, 0, 10, weight_of); // no open leases, a head that costs 10
/// }
/// counters.done(1, 300, 0, weight_of);
/// counters.done(2, 500, 0, weight_of);
/// assert_eq!(counters.fair_level(), 200.0); // 800 by weights of 4
/// let standing = counters.working(2, 0, 10, weight_of);
/// assert!(standing.used > counters.fair_level() * f64::from(standing.weight)); // it had more than its share
/// ```
///
/// What was used fades because what is used later is booked at a higher worth: no counter has to be touched for it.
///
/// They serialise, so a policy's state may hold them; a new instance [takes them over](Self::take_over).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FairCounters {
    by_key: ById<Counter>,
    /// Sums over the counters.
    booked: f64,
    open: f64,
    weight: f64,
    /// The part of the fair level at which who comes starts.
    newcomer_part: f64,
    /// That level at the beginning of the frame: all of a frame start at the same.
    newcomer: f64,
    step_us: u64,
    /// When the worth was 1.
    since_us: u64,
    now_us: u64,
    /// What a unit that is used now is worth in the books.
    worth: f64,
}

impl FairCounters {
    /// Without counters. A half-life is at least 16 microseconds. Who comes starts at so many percent of the fair level.
    #[must_use]
    pub fn new(half_life: Duration, newcomer_percent: u32, now_us: u64) -> Self {
        let half_life_us = u64::try_from(half_life.as_micros()).unwrap_or(u64::MAX);
        Self {
            by_key: ById::new(),
            booked: 0.0,
            open: 0.0,
            weight: 0.0,
            newcomer_part: f64::from(newcomer_percent) / 100.0,
            newcomer: 0.0,
            step_us: (half_life_us / STEPS).max(1),
            since_us: now_us,
            now_us,
            worth: 1.0,
        }
    }

    /// Lets time pass, and forgets some of the counters that make no difference any more; in turn all. To be called once for each frame.
    pub fn advance(&mut self, now_us: u64) {
        self.now_us = self.now_us.max(now_us);
        let mut steps = self.now_us.saturating_sub(self.since_us) / self.step_us;
        if steps >= HALF_LIVES_MAX * STEPS {
            self.write_anew(steps / STEPS);
            steps %= STEPS;
        }
        self.worth = worth_after(steps);
        self.sweep();
        self.newcomer = self.fair_level() * self.newcomer_part;
    }

    /// Somebody has work, and so many open leases: where it stands. The head's cost is what a lease is taken to cost until one was measured.
    pub fn working(&mut self, key: u64, leases: u32, head_cost: u64, weight_of: impl Fn(u64) -> u32) -> Standing {
        let place = self.counter(key, weight_of);
        let counter = self.by_key.at(place);
        // Who works is not away, however long a delivery takes.
        if leases == 0 && self.now_us.saturating_sub(counter.worked_us) > AWAY_US {
            let lift = (self.newcomer * f64::from(counter.weight) * self.worth - counter.booked).max(0.0);
            counter.booked += lift;
            self.booked += lift;
        }
        counter.worked_us = self.now_us;
        let before = counter.open();
        counter.leases = leases;
        counter.each = counter.average.map_or(cost(head_cost), |average| cost(average.average()));
        let open = counter.open();
        self.open += open - before;
        Standing { weight: counter.weight, used: counter.booked / self.worth + open }
    }

    /// A delivery ended and came to so much. Who was forgotten while it worked has a counter again.
    pub fn done(&mut self, key: u64, cost_measured: u64, at_us: u64, weight_of: impl Fn(u64) -> u32) {
        let place = self.counter(key, weight_of);
        let counter = self.by_key.at(place);
        self.open -= ended(counter, at_us);
        match &mut counter.average {
            Some(average) => average.add(cost_measured.clamp(1, COST_MAX), ONE_IN),
            None => counter.average = Some(Ewma::of(cost_measured.clamp(1, COST_MAX))),
        }
        let booked = cost(cost_measured) * self.worth;
        counter.booked += booked;
        self.booked += booked;
    }

    /// A delivery came back unused: it costs nothing.
    pub fn returned(&mut self, key: u64, at_us: u64) {
        if let Some(counter) = self.by_key.get_mut(key) {
            self.open -= ended(counter, at_us);
        }
    }

    /// Another weight from now on.
    pub fn set_weight(&mut self, key: u64, weight: u32) {
        if let Some(counter) = self.by_key.get_mut(key) {
            self.weight += f64::from(weight) - f64::from(counter.weight);
            counter.weight = weight;
        }
    }

    /// Counters that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// What somebody used lately, its open leases aside, in cost units.
    #[must_use]
    pub fn used(&self, key: u64) -> f64 {
        self.by_key.get(key).map_or(0.0, |counter| counter.booked / self.worth)
    }

    /// Goes on from the counters of an earlier instance, whose half-life and newcomers' part may have been others. A counter has the weight
    /// that it had until it is given [another](Self::set_weight).
    ///
    /// # Errors
    /// Numbers that no counters can have.
    pub fn take_over(&mut self, mut earlier: Self) -> Result<(), String> {
        let is_sound = earlier.by_key.len() <= COUNTERS_MAX
            && earlier.by_key.iter().all(|(_, counter)| counter.is_sound())
            && [earlier.booked, earlier.weight, earlier.newcomer].iter().all(|sum| (0.0..f64::MAX).contains(sum))
            && earlier.open.is_finite()
            && (1.0..f64::MAX).contains(&earlier.worth);
        if !is_sound {
            return Err("the counters have numbers that none can have".into());
        }
        if earlier.step_us != self.step_us {
            earlier.write_anew_at(1.0 / earlier.worth, earlier.now_us);
            (earlier.worth, earlier.step_us) = (1.0, self.step_us);
        }
        *self = Self { newcomer_part: self.newcomer_part, ..earlier };
        Ok(())
    }

    /// What all used, their open leases included, by the sum of their weights.
    #[must_use]
    pub fn fair_level(&self) -> f64 {
        match self.weight > 0.0 {
            true => ((self.booked / self.worth + self.open) / self.weight).max(0.0),
            false => 0.0,
        }
    }

    /// The books again, at a worth of 1, after so many half-lives.
    fn write_anew(&mut self, half_lives: u64) {
        // What is that old is nothing.
        let keep = if half_lives > 1_000 { 0.0 } else { 1.0 / power_of_two(half_lives) };
        self.write_anew_at(keep, self.since_us + half_lives * STEPS * self.step_us);
    }

    /// The books again, at a worth of 1 at this time: so much of what is in them.
    fn write_anew_at(&mut self, keep: f64, since_us: u64) {
        self.by_key.values_mut().for_each(|counter| counter.booked *= keep);
        self.booked *= keep;
        self.since_us = since_us;
    }

    /// The place of a counter, which starts at the newcomers' level.
    fn counter(&mut self, key: u64, weight_of: impl Fn(u64) -> u32) -> usize {
        if self.by_key.len() >= COUNTERS_MAX && !self.by_key.has(key) {
            self.forget_one();
        }
        let (newcomer, worth, now_us) = (self.newcomer, self.worth, self.now_us);
        let sums = (&mut self.booked, &mut self.weight);
        self.by_key.place(key, || {
            let weight = weight_of(key);
            let booked = newcomer * f64::from(weight) * worth;
            *sums.0 += booked;
            *sums.1 += f64::from(weight);
            Counter { booked, leases: 0, each: 0.0, average: None, weight, worked_us: now_us }
        })
    }

    /// Who is away and would come back as a newcomer need not be remembered.
    fn sweep(&mut self) {
        let newcomer = self.fair_level() * self.newcomer_part;
        let makes_none = |counter: &Counter| {
            counter.is_away(self.now_us)
                && counter.booked / self.worth <= (newcomer * f64::from(counter.weight)).max(1.0)
        };
        let mut gone = Vec::new();
        self.by_key.sweep(SWEEP, |counter| {
            let is_gone = makes_none(counter);
            gone.extend(is_gone.then_some(*counter));
            is_gone
        });
        for counter in &gone {
            self.forgotten(counter);
        }
    }

    /// Makes room: of a few the one with the least on it goes.
    fn forget_one(&mut self) {
        // What is not negative is in the order of its bits.
        let level = |counter: &Counter| (counter.booked / self.worth + counter.open()).to_bits();
        if let Some((_, counter)) = self.by_key.forget_one(SWEEP, level) {
            self.forgotten(&counter);
        }
    }

    /// It is in no sum any more.
    fn forgotten(&mut self, counter: &Counter) {
        self.booked = (self.booked - counter.booked).max(0.0);
        self.open -= counter.open();
        self.weight -= f64::from(counter.weight);
        if self.by_key.is_empty() {
            (self.booked, self.open, self.weight) = (0.0, 0.0, 0.0);
        }
    }
}

/// A lease less is open: what it was taken to cost.
fn ended(counter: &mut Counter, at_us: u64) -> f64 {
    counter.worked_us = counter.worked_us.max(at_us);
    if counter.leases == 0 {
        return 0.0;
    }
    counter.leases -= 1;
    counter.each
}

/// What a unit is worth so many steps later.
fn worth_after(steps: u64) -> f64 {
    power_of_two(steps / STEPS) * POWERS[usize::try_from(steps % STEPS).expect("it is below 16")]
}

/// A message takes something, whatever its cost says: as the scheduler sees it.
fn cost(units: u64) -> f64 {
    units.clamp(1, COST_MAX) as f64
}

/// Of an exponent up to 1,023.
fn power_of_two(exponent: u64) -> f64 {
    f64::from_bits((1_023 + exponent) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_powers_are_those_of_two() {
        for (index, power) in POWERS.iter().enumerate() {
            assert!((power - 2_f64.powf(index as f64 / 16.0)).abs() < 1e-15, "{index}");
        }
        assert_eq!((power_of_two(0), power_of_two(10), power_of_two(1_000)), (1.0, 1_024.0, 2_f64.powi(1_000)));
    }

    #[test]
    fn what_was_used_fades_by_half_in_a_half_life_also_over_a_new_writing_of_the_books() {
        let mut counters = FairCounters::new(Duration::from_secs(160), 50, 0);
        counters.working(1, 0, 1, |_| 1);
        counters.done(1, 1 << 30, 0, |_| 1);
        counters.advance(160_000_000);
        assert_eq!(counters.used(1).to_string(), (1 << 29).to_string());
        counters.advance(170_000_000);
        assert!((counters.used(1) * POWERS[1] - f64::from(1 << 29)).abs() < 1e-3);
        let mut counters =
            FairCounters { by_key: counters.by_key, ..FairCounters::new(Duration::from_secs(160), 50, 0) };
        counters.write_anew(10);
        assert_eq!(counters.used(1).to_string(), (1 << 20).to_string());
    }

    #[test]
    fn there_are_never_more_counters_than_allowed_and_sums_stay_those_of_what_is_kept() {
        let mut counters = FairCounters::new(Duration::from_mins(1), 50, 0);
        for key in 0..20_000 {
            counters.working(key, 1, 3, |_| 2);
            counters.done(key, key % 7, 0, |_| 2);
        }
        assert_eq!(counters.len(), COUNTERS_MAX);
        let booked: f64 = counters.by_key.iter().map(|(_, counter)| counter.booked).sum();
        assert!(
            (counters.booked - booked).abs() < 1e-3 && counters.weight.to_string() == (2 * COUNTERS_MAX).to_string()
        );
    }

    /// As a state keeps them.
    fn encoded(counters: &FairCounters) -> FairCounters {
        postcard::from_bytes(&postcard::to_allocvec(counters).unwrap()).unwrap()
    }

    #[test]
    fn a_state_goes_on_exactly_where_it_was() {
        let mut counters = FairCounters::new(Duration::from_mins(1), 50, 0);
        for key in 0..50 {
            counters.working(key, 2, key, |key| 1 + u32::try_from(key).unwrap() % 3);
            counters.done(key, 3 * key, key, |_| 1);
        }
        counters.advance(77_000_000);
        let mut next = FairCounters::new(Duration::from_mins(1), 50, 99_000_000);
        next.take_over(encoded(&counters)).unwrap();
        for counters in [&mut counters, &mut next] {
            counters.done(60, 7, 78_000_000, |_| 2);
            counters.advance(140_000_000);
        }
        assert_eq!(next.fair_level().to_bits(), counters.fair_level().to_bits());
        let [one, other] = [counters, next].map(|mut counters| counters.working(5, 1, 9, |_| 1));
        assert_eq!(one, other);
    }

    #[test]
    fn with_another_half_life_as_much_is_used_when_it_begins() {
        let mut counters = FairCounters::new(Duration::from_secs(160), 50, 0);
        counters.done(1, 1 << 30, 0, |_| 1);
        counters.advance(160_000_000);
        let mut next = FairCounters::new(Duration::from_secs(320), 50, 160_000_000);
        next.take_over(encoded(&counters)).unwrap();
        assert_eq!(next.used(1).to_string(), (1 << 29).to_string());
        next.advance(480_000_000);
        assert_eq!(next.used(1).to_string(), (1 << 28).to_string());
    }

    #[test]
    fn nonsense_is_not_taken_over() {
        let counters = FairCounters::new(Duration::from_mins(1), 50, 0);
        let forged: [fn(&mut FairCounters); 4] = [
            |counters| counters.booked = f64::NAN,
            |counters| counters.worth = 0.0,
            |counters| counters.by_key.at(0).booked = -1.0,
            |counters| counters.by_key.at(0).each = f64::INFINITY,
        ];
        for forge in forged {
            let mut next = counters.clone();
            let mut earlier = counters.clone();
            earlier.done(1, 500, 0, |_| 1);
            assert!(next.take_over(encoded(&earlier)).is_ok());
            forge(&mut earlier);
            assert!(next.take_over(encoded(&earlier)).is_err());
            assert_eq!(next.used(1).to_string(), "500", "what was there stays");
        }
    }

    #[test]
    fn a_lease_whose_end_was_not_heard_is_none_after_an_hour() {
        let mut counters = FairCounters::new(Duration::from_mins(1), 50, 0);
        counters.working(1, 1, 3, |_| 1);
        counters.advance(LEASES_LOST_US);
        counters.advance(LEASES_LOST_US);
        assert_eq!(counters.len(), 1);
        (1..4).for_each(|after| counters.advance(LEASES_LOST_US + after));
        assert!(counters.is_empty());
    }
}

//! A group's token buckets: governor's GCRA over our own cell and clock.
//!
//! A bucket is one number, the theoretical arrival time (TAT, in nanoseconds): what is owed is the time from now to it.
//! A debt moves it later, a refund earlier but never before now, so never above the burst.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};
use sluicegate_protocol::{Rate, Timestamp};

use crate::Quotas;

/// Latest theoretical arrival time, in the year 2262: governor adds at most two bursts, each a year at most, to it.
const TAT_NANOS_MAX: u64 = u64::MAX / 2;

/// The cells of a group's buckets, as its shard stores them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QuotaState {
    /// Theoretical arrival time of the message bucket, in nanoseconds since the Unix epoch; 0 without a quota.
    pub messages_tat_nanos: u64,
    /// Theoretical arrival time of the cost bucket, in nanoseconds since the Unix epoch; 0 without a quota.
    pub cost_tat_nanos: u64,
}

impl QuotaState {
    /// Empty buckets: what a group starts with whose state was lost.
    pub fn empty(now: Timestamp, quotas: Quotas) -> Self {
        let empty = |rate: Option<Rate>| rate.map_or(0, |rate| Bucket::empty(now, rate).tat.get());
        Self { messages_tat_nanos: empty(quotas.messages), cost_tat_nanos: empty(quotas.cost) }
    }
}

/// Both buckets: a delivery is paid from both or from none.
#[derive(Debug)]
pub(crate) struct Buckets {
    messages: Option<Bucket>,
    cost: Option<Bucket>,
    /// Settles that gave something back.
    pub(crate) refunds: u64,
    /// Deliveries above the burst and settles above the estimate.
    pub(crate) debts: u64,
}

impl Buckets {
    pub(crate) fn new(quotas: Quotas, state: QuotaState) -> Self {
        Self {
            messages: quotas.messages.map(|rate| Bucket::new(rate, state.messages_tat_nanos)),
            cost: quotas.cost.map(|rate| Bucket::new(rate, state.cost_tat_nanos)),
            refunds: 0,
            debts: 0,
        }
    }

    pub(crate) fn state(&self) -> QuotaState {
        let tat = |bucket: &Option<Bucket>| bucket.as_ref().map_or(0, |bucket| bucket.tat.get());
        QuotaState { messages_tat_nanos: tat(&self.messages), cost_tat_nanos: tat(&self.cost) }
    }

    /// Takes one message and its cost; or takes nothing and says when both can be had.
    pub(crate) fn reserve(&mut self, now: Timestamp, cost: u64) -> Result<(), Timestamp> {
        let before = self.state();
        let messages = self.messages.as_ref().map_or(Ok(false), |bucket| bucket.take(now, 1));
        let cost = self.cost.as_ref().map_or(Ok(false), |bucket| bucket.take(now, cost));
        let refused = match (messages, cost) {
            (Ok(_), Ok(indebted)) => {
                self.debts += u64::from(indebted);
                return Ok(());
            }
            (Err(until), Ok(_)) | (Ok(_), Err(until)) => until,
            (Err(messages), Err(cost)) => messages.max(cost),
        };
        self.restore(before);
        Err(refused)
    }

    /// Corrects the reserved cost by the measured one.
    pub(crate) fn correct(&mut self, now: Timestamp, reserved: u64, measured: u64) {
        let Some(bucket) = &self.cost else { return };
        if measured > reserved {
            bucket.owe(now, measured - reserved);
            self.debts += 1;
        } else if measured < reserved {
            bucket.refund(now, reserved - measured);
            self.refunds += 1;
        }
    }

    /// Gives back one message and its reserved cost.
    pub(crate) fn refund(&mut self, now: Timestamp, reserved: u64) {
        for (bucket, units) in [(&self.messages, 1), (&self.cost, reserved)] {
            if let Some(bucket) = bucket {
                bucket.refund(now, units);
            }
        }
        self.refunds += u64::from(self.messages.is_some() || self.cost.is_some());
    }

    /// Changes the rates: the units owed stay the same. A quota where none was starts with an empty bucket.
    pub(crate) fn change(&mut self, now: Timestamp, quotas: Quotas) {
        let change = |bucket: &Option<Bucket>, rate: Option<Rate>| {
            rate.map(|rate| match bucket {
                Some(bucket) => bucket.rescaled(now, rate),
                None => Bucket::empty(now, rate),
            })
        };
        self.messages = change(&self.messages, quotas.messages);
        self.cost = change(&self.cost, quotas.cost);
    }

    /// The bucket that cannot pay for a message of this cost longest: how many units it is short of.
    pub(crate) fn short_of(&self, now: Timestamp, cost: u64) -> Option<(crate::Bucket, u64)> {
        let short = |bucket: &Option<Bucket>, units: u64| {
            let bucket = bucket.as_ref()?;
            let burst = u64::from(bucket.rate.burst());
            let short = bucket.owed(now).saturating_add(units.min(burst)).saturating_sub(burst);
            (short > 0).then(|| (bucket.time_of(short), short))
        };
        let messages = short(&self.messages, 1).map(|(time, units)| (time, crate::Bucket::Messages, units));
        let cost = short(&self.cost, cost).map(|(time, units)| (time, crate::Bucket::Cost, units));
        messages.into_iter().chain(cost).max_by_key(|&(time, ..)| time).map(|(_, bucket, units)| (bucket, units))
    }

    /// What could be delivered at once: messages and cost, `u64::MAX` without a quota.
    pub(crate) fn left(&self, now: Timestamp) -> (u64, u64) {
        let left = |bucket: &Option<Bucket>| bucket.as_ref().map_or(u64::MAX, |bucket| bucket.left(now));
        (left(&self.messages), left(&self.cost))
    }

    fn restore(&self, state: QuotaState) {
        for (bucket, tat) in [(&self.messages, state.messages_tat_nanos), (&self.cost, state.cost_tat_nanos)] {
            if let Some(bucket) = bucket {
                bucket.tat.set(tat);
            }
        }
    }
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    tat: Tat,
    limiter: RateLimiter<NotKeyed, Tat, Now, NoOpMiddleware<Nanos>>,
}

impl Bucket {
    fn new(rate: Rate, tat_nanos: u64) -> Self {
        let burst = NonZeroU32::new(rate.burst()).expect("a rate's burst is at least 1");
        let quota = Quota::with_period(rate.unit_time()).expect("a unit takes at least a nanosecond");
        let tat = Tat::default();
        tat.set(tat_nanos);
        // The limiter counts from its clock's first reading, which is 0: its times are ours.
        let limiter = RateLimiter::new(quota.allow_burst(burst), tat.clone(), Now::default());
        Self { rate, tat, limiter }
    }

    fn empty(now: Timestamp, rate: Rate) -> Self {
        let bucket = Self::new(rate, 0);
        bucket.owe(now, u64::from(rate.burst()));
        bucket
    }

    /// The bucket with another rate and the same units owed, rounded up.
    fn rescaled(&self, now: Timestamp, rate: Rate) -> Self {
        let owed = u128::from(self.tat.get().saturating_sub(nanos(now)));
        let owed = (owed * rate.unit_time().as_nanos()).div_ceil(self.rate.unit_time().as_nanos());
        Self::new(rate, nanos(now).saturating_add(u64::try_from(owed).unwrap_or(u64::MAX)))
    }

    /// Takes the units if they are there; those above the burst become a debt (`true`).
    fn take(&self, now: Timestamp, units: u64) -> Result<bool, Timestamp> {
        let at_once = u32::try_from(units).unwrap_or(u32::MAX).min(self.rate.burst());
        let Some(at_once) = NonZeroU32::new(at_once) else {
            // Nothing to take; but while the bucket owes more than its burst, nothing may start.
            let opens = self.tat.get().saturating_sub(self.time_of(u64::from(self.rate.burst())));
            return if opens > nanos(now) { Err(Timestamp(opens.div_ceil(1_000))) } else { Ok(false) };
        };
        self.limiter.clock().set(now);
        let outcome = self.limiter.check_n(at_once).expect("at most a burst is asked for");
        outcome.map_err(|not_until| rounded_up(not_until.earliest_possible()))?;
        let rest = units - u64::from(at_once.get());
        if rest > 0 {
            self.owe(now, rest);
        }
        Ok(rest > 0)
    }

    fn owe(&self, now: Timestamp, units: u64) {
        self.tat.set(self.tat.get().max(nanos(now)).saturating_add(self.time_of(units)));
    }

    fn refund(&self, now: Timestamp, units: u64) {
        let (tat, now) = (self.tat.get(), nanos(now));
        if tat > now {
            self.tat.set(tat.saturating_sub(self.time_of(units)).max(now));
        }
    }

    fn left(&self, now: Timestamp) -> u64 {
        u64::from(self.rate.burst()).saturating_sub(self.owed(now))
    }

    /// Units that are not paid back yet, rounded up.
    fn owed(&self, now: Timestamp) -> u64 {
        let owed = Duration::from_nanos(self.tat.get().saturating_sub(nanos(now)));
        let owed = owed.as_nanos().div_ceil(self.rate.unit_time().as_nanos());
        u64::try_from(owed).unwrap_or(u64::MAX)
    }

    fn time_of(&self, units: u64) -> u64 {
        u64::try_from(self.rate.unit_time().as_nanos() * u128::from(units)).unwrap_or(u64::MAX)
    }
}

/// The state cell, shared with the limiter, which shows it to nobody. Atomic only so that a scheduler may change threads.
#[derive(Debug, Clone, Default)]
struct Tat(Arc<AtomicU64>);

impl Tat {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, tat_nanos: u64) {
        self.0.store(tat_nanos.min(TAT_NANOS_MAX), Ordering::Relaxed);
    }
}

impl StateStore for Tat {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (outcome, tat) = decide(Some(Nanos::from(self.get())))?;
        self.set(tat.into());
        Ok(outcome)
    }
}

/// The limiter's clock: reads what it was last set to.
#[derive(Debug, Default)]
struct Now(AtomicU64);

impl Now {
    fn set(&self, now: Timestamp) {
        self.0.store(nanos(now), Ordering::Relaxed);
    }
}

impl Clock for Now {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.0.load(Ordering::Relaxed))
    }
}

fn nanos(at: Timestamp) -> u64 {
    at.as_micros().saturating_mul(1_000).min(TAT_NANOS_MAX)
}

fn rounded_up(at: Nanos) -> Timestamp {
    Timestamp(at.as_u64().div_ceil(1_000))
}

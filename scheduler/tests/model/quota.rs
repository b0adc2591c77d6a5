//! Token buckets as their definition says, in whole nanoseconds of 128 bits.

use sluicegate_protocol::{Rate, Timestamp};
use sluicegate_scheduler::{QuotaState, Quotas};

/// The latest time up to which a bucket can owe.
const OWED_UNTIL_MAX: u128 = (u64::MAX / 2) as u128;

/// Both buckets. A bucket is the time at which nothing is owed any more.
#[derive(Debug)]
pub(crate) struct Buckets {
    pub(crate) rates: Quotas,
    messages: u128,
    cost: u128,
    pub(crate) refunds: u64,
    pub(crate) debts: u64,
}

impl Buckets {
    pub(crate) fn new(rates: Quotas, saved: Option<QuotaState>) -> Self {
        let saved = saved.unwrap_or_default();
        let owed_until = |rate: Option<Rate>, nanos: u64| rate.map_or(0, |_| u128::from(nanos).min(OWED_UNTIL_MAX));
        Self {
            rates,
            messages: owed_until(rates.messages, saved.messages_tat_nanos),
            cost: owed_until(rates.cost, saved.cost_tat_nanos),
            refunds: 0,
            debts: 0,
        }
    }

    pub(crate) fn state(&self) -> QuotaState {
        let nanos = |owed_until: u128| u64::try_from(owed_until).expect("at most the latest time");
        QuotaState { messages_tat_nanos: nanos(self.messages), cost_tat_nanos: nanos(self.cost) }
    }

    pub(crate) fn reserve(&mut self, now: Timestamp, cost: u64) -> Result<(), Timestamp> {
        let opens = [
            self.rates.messages.map(|rate| opens_at(rate, self.messages, 1)),
            self.rates.cost.map(|rate| opens_at(rate, self.cost, cost)),
        ];
        let opens = opens.into_iter().flatten().max().unwrap_or(0);
        if opens > nanos(now) {
            return Err(Timestamp(u64::try_from(opens.div_ceil(1_000)).expect("below the latest time")));
        }
        if let Some(rate) = self.rates.messages {
            self.messages = later(rate, self.messages, now, 1);
        }
        if let Some(rate) = self.rates.cost
            && cost > 0
        {
            self.cost = later(rate, self.cost, now, cost);
            self.debts += u64::from(cost > u64::from(rate.burst()));
        }
        Ok(())
    }

    pub(crate) fn correct(&mut self, now: Timestamp, reserved: u64, measured: u64) {
        let Some(rate) = self.rates.cost else { return };
        if measured > reserved {
            self.cost = later(rate, self.cost, now, measured - reserved);
            self.debts += 1;
        } else if measured < reserved {
            self.cost = earlier(rate, self.cost, now, reserved - measured);
            self.refunds += 1;
        }
    }

    pub(crate) fn refund(&mut self, now: Timestamp, reserved: u64) {
        if let Some(rate) = self.rates.messages {
            self.messages = earlier(rate, self.messages, now, 1);
        }
        if let Some(rate) = self.rates.cost {
            self.cost = earlier(rate, self.cost, now, reserved);
        }
        self.refunds += u64::from(self.rates.messages.is_some() || self.rates.cost.is_some());
    }

    pub(crate) fn change(&mut self, now: Timestamp, rates: Quotas) {
        self.messages = rescaled(self.rates.messages, rates.messages, self.messages, now);
        self.cost = rescaled(self.rates.cost, rates.cost, self.cost, now);
        self.rates = rates;
    }

    /// Messages and cost that could be had at once.
    pub(crate) fn left(&self, now: Timestamp) -> (u64, u64) {
        let left = |rate: Option<Rate>, owed_until: u128| {
            let Some(rate) = rate else { return u64::MAX };
            let owed = owed_until.saturating_sub(nanos(now)).div_ceil(unit(rate));
            u64::try_from(u128::from(rate.burst()).saturating_sub(owed)).expect("at most the burst")
        };
        (left(self.rates.messages, self.messages), left(self.rates.cost, self.cost))
    }
}

/// What a bucket owes that is empty now.
pub(crate) fn empty(now: Timestamp, rates: Quotas) -> QuotaState {
    let owed_until = |rate: Option<Rate>| {
        rate.map_or(0, |rate| {
            u64::try_from(nanos(now) + unit(rate) * u128::from(rate.burst())).expect("a year at most")
        })
    };
    QuotaState { messages_tat_nanos: owed_until(rates.messages), cost_tat_nanos: owed_until(rates.cost) }
}

/// Nanoseconds of one unit.
fn unit(rate: Rate) -> u128 {
    rate.period().as_nanos().div_ceil(u128::from(rate.units()))
}

fn nanos(at: Timestamp) -> u128 {
    (u128::from(at.as_micros()) * 1_000).min(OWED_UNTIL_MAX)
}

/// When the units fit into the burst, or a whole burst is there.
fn opens_at(rate: Rate, owed_until: u128, units: u64) -> u128 {
    let burst = u128::from(rate.burst());
    let at_once = u128::from(units).min(burst);
    (owed_until + unit(rate) * at_once).saturating_sub(unit(rate) * burst)
}

fn later(rate: Rate, owed_until: u128, now: Timestamp, units: u64) -> u128 {
    (owed_until.max(nanos(now)) + unit(rate) * u128::from(units)).min(OWED_UNTIL_MAX)
}

fn earlier(rate: Rate, owed_until: u128, now: Timestamp, units: u64) -> u128 {
    if owed_until <= nanos(now) {
        return owed_until;
    }
    owed_until.saturating_sub(unit(rate) * u128::from(units)).max(nanos(now))
}

/// The same units owed at another rate, rounded up; a bucket where none was is empty.
fn rescaled(before: Option<Rate>, after: Option<Rate>, owed_until: u128, now: Timestamp) -> u128 {
    let Some(after) = after else { return 0 };
    let owed = match before {
        Some(before) => (owed_until.saturating_sub(nanos(now)) * unit(after)).div_ceil(unit(before)),
        None => unit(after) * u128::from(after.burst()),
    };
    (nanos(now) + owed).min(OWED_UNTIL_MAX)
}

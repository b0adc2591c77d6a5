//! What tenants used lately, in bounded memory.

use std::collections::BTreeMap;
use std::f64::consts::SQRT_2;

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{Feedback, TenantView};

/// Accounts kept; their encoded state stays below 1 MiB.
const ACCOUNTS_MAX: usize = 16_384;
/// Accounts looked at per frame for one that makes no difference any more.
const SWEEP: usize = 32;
/// A tenant without work for longer comes as a newcomer.
const AWAY_US: u64 = 60_000_000;
/// Highest cost of one delivery that is counted: the sums stay finite whatever a consumer reports.
const COST_MAX: u64 = 1 << 40;
/// Of a delivery's cost, what the average takes over.
const AVERAGE_STEP: f64 = 0.125;

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

/// One tenant's counter.
#[derive(Debug, Clone, Copy)]
struct Account {
    /// What it used, in the books' worth.
    booked: f64,
    /// Its open leases, as far as is known.
    leases: u32,
    /// What each of them is likely to cost.
    each: f64,
    /// What a delivery costs on average; 0 before the first.
    average: f64,
    weight: u32,
    worked_us: u64,
}

impl Account {
    /// What its open leases are likely to cost.
    fn open(&self) -> f64 {
        f64::from(self.leases) * self.each
    }
}

/// What a snapshot keeps of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    used: f64,
    average: f64,
    worked_us: u64,
}

/// The counters.
///
/// What was used fades because what is used later is booked at a higher worth: no account has to be touched for it.
#[derive(Debug)]
pub(crate) struct Usage {
    by_tenant: BTreeMap<u64, Account>,
    /// Sums over the accounts.
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
    swept_to: u64,
}

impl Usage {
    pub(crate) fn new(half_life_seconds: u64, newcomer_percent: u32, now_us: u64) -> Self {
        Self {
            by_tenant: BTreeMap::new(),
            booked: 0.0,
            open: 0.0,
            weight: 0.0,
            newcomer_part: f64::from(newcomer_percent) / 100.0,
            newcomer: 0.0,
            step_us: half_life_seconds * 1_000_000 / STEPS,
            since_us: now_us,
            now_us,
            worth: 1.0,
            swept_to: 0,
        }
    }

    /// Lets time pass, and forgets some of the accounts that make no difference any more; in turn all.
    pub(crate) fn advance(&mut self, now_us: u64) {
        self.now_us = self.now_us.max(now_us);
        let mut steps = self.now_us.saturating_sub(self.since_us) / self.step_us;
        if steps >= HALF_LIVES_MAX * STEPS {
            self.write_anew(steps / STEPS);
            steps %= STEPS;
        }
        self.worth = power_of_two(steps / STEPS) * POWERS[usize::try_from(steps % STEPS).expect("it is below 16")];
        self.sweep();
        self.newcomer = self.fair_level() * self.newcomer_part;
    }

    /// The tenant's weight, and what it used, its open leases included. Opens its account if it has none.
    pub(crate) fn of(&mut self, view: &TenantView, head_cost: u64, weight_of: impl Fn(u64) -> u32) -> (u32, f64) {
        self.open_account(view.tenant, weight_of);
        let account = self.by_tenant.get_mut(&view.tenant).expect("it was opened");
        // Who works is not away, however long a delivery takes.
        if view.in_flight == 0 && self.now_us.saturating_sub(account.worked_us) > AWAY_US {
            let lift = (self.newcomer * f64::from(account.weight) * self.worth - account.booked).max(0.0);
            account.booked += lift;
            self.booked += lift;
        }
        account.worked_us = self.now_us;
        let before = account.open();
        account.leases = view.in_flight;
        account.each = if account.average > 0.0 { account.average } else { cost(head_cost) };
        let open = account.open();
        self.open += open - before;
        (account.weight, account.booked / self.worth + open)
    }

    /// A delivery ended. What came back unused costs nothing. Who was forgotten while it worked has an account again.
    pub(crate) fn settle(&mut self, feedback: &Feedback, weight_of: impl Fn(u64) -> u32) {
        if !feedback.returned() {
            self.open_account(feedback.tenant, weight_of);
        }
        let Some(account) = self.by_tenant.get_mut(&feedback.tenant) else { return };
        account.worked_us = account.worked_us.max(feedback.at_us);
        if account.leases > 0 {
            account.leases -= 1;
            self.open -= account.each;
        }
        if feedback.returned() {
            return;
        }
        let cost = cost(feedback.cost_measured);
        account.average = match account.average > 0.0 {
            true => account.average + (cost - account.average) * AVERAGE_STEP,
            false => cost,
        };
        account.booked += cost * self.worth;
        self.booked += cost * self.worth;
    }

    /// A tenant has another weight.
    pub(crate) fn set_weight(&mut self, tenant: u64, weight: u32) {
        if let Some(account) = self.by_tenant.get_mut(&tenant) {
            self.weight += f64::from(weight) - f64::from(account.weight);
            account.weight = weight;
        }
    }

    /// What there is to snapshot.
    pub(crate) fn kept(&self, now_us: u64) -> BTreeMap<u64, Kept> {
        let used = |account: &Account| account.booked / self.worth;
        let worked_us = |account: &Account| account.worked_us.min(now_us);
        let kept =
            |account: &Account| Kept { used: used(account), average: account.average, worked_us: worked_us(account) };
        self.by_tenant.iter().map(|(tenant, account)| (*tenant, kept(account))).collect()
    }

    /// Takes over the counters of a snapshot; their weights are learnt after.
    pub(crate) fn restore(&mut self, counters: BTreeMap<u64, Kept>, weight: u32, now_us: u64) {
        let account = |kept: Kept| Account {
            booked: kept.used.clamp(0.0, f64::MAX / 1e20),
            leases: 0,
            each: 0.0,
            average: kept.average.max(0.0),
            weight,
            worked_us: kept.worked_us,
        };
        let counters = counters.into_iter().filter(|(_, kept)| kept.used.is_finite() && kept.average.is_finite());
        self.by_tenant = counters.take(ACCOUNTS_MAX).map(|(tenant, kept)| (tenant, account(kept))).collect();
        self.booked = self.by_tenant.values().map(|account| account.booked).sum();
        self.weight = self.by_tenant.values().map(|account| f64::from(account.weight)).sum();
        (self.open, self.worth, self.since_us, self.now_us) = (0.0, 1.0, now_us, now_us);
    }

    /// What all used, their open leases included, by the sum of their weights.
    pub(crate) fn fair_level(&self) -> f64 {
        match self.weight > 0.0 {
            true => ((self.booked / self.worth + self.open) / self.weight).max(0.0),
            false => 0.0,
        }
    }

    /// The books again, at a worth of 1, after so many half-lives.
    fn write_anew(&mut self, half_lives: u64) {
        // What is that old is nothing.
        let keep = if half_lives > 1_000 { 0.0 } else { 1.0 / power_of_two(half_lives) };
        self.by_tenant.values_mut().for_each(|account| account.booked *= keep);
        self.booked *= keep;
        self.since_us += half_lives * STEPS * self.step_us;
    }

    /// An account at the newcomers' level, if the tenant has none.
    fn open_account(&mut self, tenant: u64, weight_of: impl Fn(u64) -> u32) {
        if self.by_tenant.contains_key(&tenant) {
            return;
        }
        if self.by_tenant.len() >= ACCOUNTS_MAX {
            self.close_one();
        }
        let weight = weight_of(tenant);
        let booked = self.newcomer * f64::from(weight) * self.worth;
        self.weight += f64::from(weight);
        self.booked += booked;
        let account = Account { booked, leases: 0, each: 0.0, average: 0.0, weight, worked_us: self.now_us };
        self.by_tenant.insert(tenant, account);
    }

    /// A tenant that is away and would come back as a newcomer need not be remembered.
    fn sweep(&mut self) {
        let newcomer = self.fair_level() * self.newcomer_part;
        let makes_none = |account: &Account| {
            let level = account.booked / self.worth;
            let is_away = account.leases == 0 && self.now_us.saturating_sub(account.worked_us) > AWAY_US;
            is_away && level <= (newcomer * f64::from(account.weight)).max(1.0)
        };
        let next = self.next_in_turn().filter(|(_, account)| makes_none(account));
        let gone: Vec<u64> = next.map(|(tenant, _)| *tenant).collect();
        let last = self.next_in_turn().last().map(|(tenant, _)| *tenant);
        self.swept_to = last.map_or(0, |tenant| tenant.saturating_add(1));
        for tenant in gone {
            self.close(tenant);
        }
    }

    /// Makes room: of a few accounts the one with the least on it.
    fn close_one(&mut self) {
        let level = |account: &Account| account.booked / self.worth + account.open();
        let least = self.next_in_turn().min_by(|(_, a), (_, b)| level(a).total_cmp(&level(b)));
        if let Some(tenant) = least.map(|(tenant, _)| *tenant).or_else(|| self.by_tenant.keys().next().copied()) {
            self.swept_to = tenant.saturating_add(1);
            self.close(tenant);
        }
    }

    fn close(&mut self, tenant: u64) {
        let Some(account) = self.by_tenant.remove(&tenant) else { return };
        self.booked = (self.booked - account.booked).max(0.0);
        self.open -= account.open();
        self.weight -= f64::from(account.weight);
        if self.by_tenant.is_empty() {
            (self.booked, self.open, self.weight) = (0.0, 0.0, 0.0);
        }
    }

    fn next_in_turn(&self) -> impl Iterator<Item = (&u64, &Account)> {
        self.by_tenant.range(self.swept_to..).take(SWEEP)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_tenant.len()
    }

    #[cfg(test)]
    pub(crate) fn used(&self, tenant: u64) -> f64 {
        self.by_tenant[&tenant].booked / self.worth
    }
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
        let mut usage = Usage::new(160, 50, 0);
        usage.of(&TenantView { tenant: 1, ..TenantView::default() }, 1, |_| 1);
        usage.settle(&Feedback { tenant: 1, cost_measured: 1 << 30, ..Feedback::default() }, |_| 1);
        usage.advance(160_000_000);
        assert_eq!(usage.used(1).to_string(), (1 << 29).to_string());
        usage.advance(170_000_000);
        assert!((usage.used(1) * POWERS[1] - f64::from(1 << 29)).abs() < 1e-3);
        let mut usage = Usage { by_tenant: usage.by_tenant, ..Usage::new(160, 50, 0) };
        usage.write_anew(10);
        assert_eq!(usage.used(1).to_string(), (1 << 20).to_string());
    }
}

//! The tenants' buckets, in bounded memory.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{ById, Feedback, TokenBucket};

use crate::config::{Limit, Unit};

/// Accounts kept; their encoded state stays below 1 MiB.
const ACCOUNTS_MAX: usize = 16_384;
/// Accounts looked at per frame for one that is full again.
const SWEEP: usize = 32;
/// Accounts looked at for the one that is nearest to full when there is no room.
const LOOKED_AT: usize = 8;
/// How long a claim outlives the moment at which its head was to ask again.
const CLAIM_GRACE_US: u64 = 1_000_000;

/// What is counted for a tenant, and how much of it is left.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Balance {
    unit: Unit,
    bucket: TokenBucket,
}

impl Balance {
    fn full(limit: Limit, now_us: u64) -> Self {
        Self { unit: limit.unit, bucket: TokenBucket::full(limit.rate_micros, limit.burst, now_us) }
    }
}

/// A tenant's bucket, and the head that is next in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Account {
    balance: Balance,
    claim: Option<Claim>,
}

/// A head that had to wait. What it needs is left for it: cheaper heads of its tenant would else starve it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Claim {
    lite: u64,
    units: u64,
    until_us: u64,
}

impl Account {
    fn of(balance: Balance) -> Self {
        Self { balance, claim: None }
    }

    /// Another limit from now on. What is owed stays, unless something else is counted now.
    pub(crate) fn set_limit(&mut self, limit: Limit, now_us: u64) {
        match self.balance.unit == limit.unit {
            true => self.balance.bucket.set_rate(limit.rate_micros, limit.burst, now_us),
            false => *self = Self::of(Balance::full(limit, now_us)),
        }
    }

    /// A delivery ended: what was paid for it is corrected.
    pub(crate) fn settle(&mut self, feedback: &Feedback) {
        let (paid, used) = self.balance.unit.paid_and_used(feedback);
        match used > paid {
            true => self.balance.bucket.charge(used - paid, feedback.at_us),
            false => self.balance.bucket.give_back(paid - used, feedback.at_us),
        }
    }

    /// Pays for the head of a lite topic, or says how long it has to wait, if all goes as planned.
    ///
    /// `promised` counts what heads earlier in the same frame wait for.
    pub(crate) fn pay(&mut self, lite: u64, price: u64, promised: &mut u64, now_us: u64) -> Result<(), Duration> {
        self.claim = self.claim.filter(|claim| now_us <= claim.until_us);
        let need = price.min(self.balance.bucket.burst());
        let is_own = self.claim.is_some_and(|claim| claim.lite == lite);
        // Whoever holds the claim is before all that this frame promised.
        let (claimed, before) = match self.claim {
            Some(claim) if !is_own => (claim.units, *promised),
            Some(_) => (0, 0),
            None => (0, *promised),
        };
        let wait = self.balance.bucket.time_until(need.saturating_add(claimed).saturating_add(before), now_us);
        if wait.is_zero() {
            self.balance.bucket.charge(price, now_us);
            self.claim = self.claim.filter(|_| !is_own);
            return Ok(());
        }
        if self.claim.is_some() && !is_own {
            *promised = promised.saturating_add(need);
        } else {
            let wait_us = u64::try_from(wait.min(crate::SUSPEND_MAX).as_micros()).unwrap_or(u64::MAX);
            let until_us = now_us.saturating_add(wait_us).saturating_add(CLAIM_GRACE_US);
            self.claim = Some(Claim { lite, units: need, until_us });
        }
        Err(wait)
    }

    fn is_idle(&self, now_us: u64) -> bool {
        self.balance.bucket.is_full(now_us)
    }
}

/// The accounts of tenants that used something lately. A full bucket is no different from none, so it is forgotten.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Accounts {
    by_tenant: ById<Account>,
}

impl Accounts {
    /// The place of a tenant's account, opened full if there is none.
    pub(crate) fn open(&mut self, tenant: u64, limit: Limit, now_us: u64) -> usize {
        if self.by_tenant.len() >= ACCOUNTS_MAX && !self.by_tenant.has(tenant) {
            // Of a few accounts, the one that would be full soonest has least to lose.
            self.by_tenant.forget_one(LOOKED_AT, |account| {
                account.balance.bucket.time_until(account.balance.bucket.burst(), now_us)
            });
        }
        self.by_tenant.place(tenant, || Account::of(Balance::full(limit, now_us)))
    }

    /// The account of a tenant is still in this place.
    pub(crate) fn is_at(&self, place: usize, tenant: u64) -> bool {
        self.by_tenant.is_at(place, tenant)
    }

    /// The account in this place.
    pub(crate) fn at(&mut self, place: usize) -> &mut Account {
        self.by_tenant.at(place)
    }

    /// The account of a tenant, if it is open.
    pub(crate) fn get(&mut self, tenant: u64) -> Option<&mut Account> {
        self.by_tenant.get_mut(tenant)
    }

    /// Forgets some of the accounts that are full again; in turn all.
    pub(crate) fn sweep(&mut self, now_us: u64) {
        self.by_tenant.sweep(SWEEP, |account| account.is_idle(now_us));
    }

    /// Whether there are more than one instance keeps.
    pub(crate) fn are_too_many(&self) -> bool {
        self.by_tenant.len() > ACCOUNTS_MAX
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_tenant.len()
    }
}

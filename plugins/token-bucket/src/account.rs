//! The tenants' buckets, in bounded memory.

use std::collections::BTreeMap;
use std::time::Duration;

use sluicegate_plugin_sdk::TokenBucket;

use crate::config::Limit;

/// Accounts kept; their encoded state stays below 1 MiB.
const ACCOUNTS_MAX: usize = 16_384;
/// Accounts looked at per frame for one that is full again.
const SWEEP: usize = 32;
/// How long a claim outlives the moment at which its head was to ask again.
const CLAIM_GRACE_US: u64 = 1_000_000;

/// A tenant's bucket, and the head that is next in it.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) bucket: TokenBucket,
    claim: Option<Claim>,
}

/// A head that had to wait. What it needs is left for it: cheaper heads of its tenant would else starve it.
#[derive(Debug, Clone, Copy)]
struct Claim {
    lite: u64,
    units: u64,
    until_us: u64,
}

impl Account {
    pub(crate) fn of(bucket: TokenBucket) -> Self {
        Self { bucket, claim: None }
    }

    /// Pays for the head of a lite topic, or says how long it has to wait, if all goes as planned.
    ///
    /// `promised` counts what heads earlier in the same frame wait for.
    pub(crate) fn pay(&mut self, lite: u64, price: u64, promised: &mut u64, now_us: u64) -> Result<(), Duration> {
        self.claim = self.claim.filter(|claim| now_us <= claim.until_us);
        let need = price.min(self.bucket.burst());
        let claimed = self.claim.filter(|claim| claim.lite != lite).map_or(0, |claim| claim.units);
        // Whoever holds the claim is before all that this frame promised.
        let before = if self.claim.is_some_and(|claim| claim.lite == lite) { 0 } else { *promised };
        let wait = self.bucket.time_until(need.saturating_add(claimed).saturating_add(before), now_us);
        if wait.is_zero() {
            self.bucket.charge(price, now_us);
            self.claim = self.claim.filter(|claim| claim.lite != lite);
            return Ok(());
        }
        if self.claim.is_some_and(|claim| claim.lite != lite) {
            *promised = promised.saturating_add(need);
        } else {
            let wait_us = u64::try_from(wait.min(crate::THROTTLE_MAX).as_micros()).unwrap_or(u64::MAX);
            let until_us = now_us.saturating_add(wait_us).saturating_add(CLAIM_GRACE_US);
            self.claim = Some(Claim { lite, units: need, until_us });
        }
        Err(wait)
    }

    fn is_idle(&self, now_us: u64) -> bool {
        self.bucket.is_full(now_us)
    }
}

/// The accounts of tenants that used something lately. A full bucket is no different from none, so it is forgotten.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    by_tenant: BTreeMap<u64, Account>,
    swept_to: u64,
}

impl Accounts {
    /// The account of a tenant, opened full if there is none.
    pub(crate) fn open(&mut self, tenant: u64, limit: Limit, now_us: u64) -> &mut Account {
        if self.by_tenant.len() >= ACCOUNTS_MAX && !self.by_tenant.contains_key(&tenant) {
            self.close_one(now_us);
        }
        let fresh = || Account::of(TokenBucket::full(limit.rate_micros, limit.burst, now_us));
        self.by_tenant.entry(tenant).or_insert_with(fresh)
    }

    /// The account of a tenant, if it is open.
    pub(crate) fn get(&mut self, tenant: u64) -> Option<&mut Account> {
        self.by_tenant.get_mut(&tenant)
    }

    /// Forgets some of the accounts that are full again; in turn all.
    pub(crate) fn sweep(&mut self, now_us: u64) {
        let next = self.next_in_turn();
        let idle: Vec<u64> = next.filter(|(_, account)| account.is_idle(now_us)).map(|(tenant, _)| *tenant).collect();
        let last = self.next_in_turn().last().map(|(tenant, _)| *tenant);
        self.swept_to = last.map_or(0, |tenant| tenant.saturating_add(1));
        for tenant in idle {
            self.by_tenant.remove(&tenant);
        }
    }

    /// Buckets that are not full, for a snapshot.
    pub(crate) fn buckets(&self, now_us: u64) -> BTreeMap<u64, TokenBucket> {
        let open = self.by_tenant.iter().filter(|(_, account)| !account.is_idle(now_us));
        open.map(|(tenant, account)| (*tenant, account.bucket)).collect()
    }

    /// Takes over the buckets of a snapshot.
    pub(crate) fn restore(&mut self, buckets: BTreeMap<u64, TokenBucket>) {
        let buckets = buckets.into_iter().take(ACCOUNTS_MAX);
        self.by_tenant = buckets.map(|(tenant, bucket)| (tenant, Account::of(bucket))).collect();
    }

    /// Makes room: of a few accounts, the one that would be full soonest has least to lose.
    fn close_one(&mut self, now_us: u64) {
        let full_in = |account: &Account| account.bucket.time_until(account.bucket.burst(), now_us);
        let soonest = self.next_in_turn().min_by_key(|(_, account)| full_in(account)).map(|(tenant, _)| *tenant);
        let tenant = soonest.or_else(|| self.by_tenant.keys().next().copied());
        if let Some(tenant) = tenant {
            self.swept_to = tenant.saturating_add(1);
            self.by_tenant.remove(&tenant);
        }
    }

    fn next_in_turn(&self) -> impl Iterator<Item = (&u64, &Account)> {
        self.by_tenant.range(self.swept_to..).take(SWEEP)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_tenant.len()
    }
}

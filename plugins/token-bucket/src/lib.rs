//! A token bucket per tenant: who is above the configured rate waits, who is below it does not notice.
//!
//! For plans and contracts: so many tokens a second for an organisation's teams, so many calls for a trial.
//!
//! ```json
//! { "unit": "cost", "rate_per_second": 1000, "burst": 20000,
//!   "overrides": [ { "tenant": "org/*", "rate_per_second": 5000 }, { "tenant": "org/team/*", "rate_per_second": 500 },
//!                  { "tenant": "org/batch", "rate_per_second": 2, "unit": "messages" } ] }
//! ```
//!
//! | field | unit | default | range |
//! |---|---|---|---|
//! | `unit` | what is counted: `cost` or `messages` | `cost` | |
//! | `rate_per_second` | units per second, for each tenant | 100 | 0.000001 to 1,000,000,000 |
//! | `burst` | units that a rested tenant may use at once | the rate, rounded up | 1 and more |
//! | `overrides` | limits of some tenants | none | up to 4,096 |
//! | `overrides[].tenant` | a name, or the start of names and `*`; `*` alone is for all | required | a `*` at the end only |
//! | `overrides[].rate_per_second`, `.burst`, `.unit` | as above | required, the rate, the unit above | as above |
//!
//! The most specific override wins: an exact name before any prefix, a longer prefix before a shorter one. Each tenant has a bucket
//! of its own, also those that share an override.
//!
//! The estimate of a head is paid when the policy lets it run, once per delivery, and corrected when the delivery ends: by what was
//! measured, or in full if the message came back unused. A head that is dearer than the burst runs from a full bucket;
//! the rest is a debt. A head that was paid for and then expired, or was reclaimed, is not refunded.
//!
//! A tenant that can pay for nothing in the next 20 s is suspended, up to a minute at a time: a stated will, which no watchdog overrules.
//!
//! Promise: what a tenant's deliveries cost in any time t is at most burst + rate × t, plus the estimate errors of its
//! own messages in flight.
//!
//! Bound: 16,384 buckets that are not full. Beyond it the one that is nearest to full is forgotten, and its tenant starts with a burst.

mod account;
mod config;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{
    Answer, ById, Descriptor, Entity, Feedback, Frame, Init, LiteView, Plan, Policy, TenantView, export_policy,
};

use crate::account::Accounts;
pub use crate::config::{Config, Override, Unit};
use crate::config::{Limit, Limits, OverrideId};

/// How long a paid head may wait for capacity before it is asked about again.
const PAID_VALID: Duration = Duration::from_secs(10);
/// A throttled head is asked about again this soon: a refund or a new configuration may have made it payable.
const THROTTLE_MAX: Duration = Duration::from_secs(10);
/// A tenant that can pay for nothing for so long is suspended, not throttled: less than the watchdog's default.
const IN_DEBT_FOR: Duration = Duration::from_secs(20);
/// A suspended head is asked about again this soon, for the same reasons as a throttled one.
const SUSPEND_MAX: Duration = Duration::from_mins(1);
/// The shortest hold that the broker takes.
const THROTTLE_MIN: Duration = Duration::from_millis(1);
/// Lite topics remembered whose paid delivery came back unused.
const RETURNED_MAX: usize = 4_096;

/// Index of "within rate" in the reasons.
const WITHIN_RATE: u32 = 0;
/// Index of "over rate" in the reasons.
const OVER_RATE: u32 = 1;

/// The policy.
pub struct PerTenantTokenBucket {
    limits: Limits,
    /// Learnt tenants that have an override.
    overrides: ById<OverrideId>,
    accounts: Accounts,
    /// Lite topics whose paid delivery came back unused: what `memo` says of their head is no longer true.
    returned: ById<()>,
    now_us: u64,
}

/// What a new version goes on from.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    accounts: Accounts,
    returned: ById<()>,
}

impl Policy for PerTenantTokenBucket {
    type Config = Config;
    type State = State;

    fn describe() -> Descriptor {
        Descriptor::new("token-bucket", env!("CARGO_PKG_VERSION"))
            .reasons(["within rate", "over rate"])
            .config_schema(config::SCHEMA)
            .state_schema(3)
    }

    fn new(init: &Init, config: Config) -> Result<Self, String> {
        let limits = Limits::parse(&config)?;
        Ok(Self {
            overrides: if limits.are_one() { ById::new() } else { ById::with_room(Entity::TOLD_MAX) },
            limits,
            accounts: Accounts::default(),
            returned: ById::new(),
            now_us: init.now_us,
        })
    }

    fn learn(&mut self, tenant: &Entity) {
        match self.limits.of(&tenant.name) {
            Some(id) => self.overrides.set(tenant.id, id),
            None => self.overrides.forget(tenant.id),
        };
        // A restored bucket still has the rate of the configuration before.
        let limit = self.limit(tenant.id);
        if let Some(account) = self.accounts.get(tenant.id) {
            account.set_limit(limit, self.now_us);
        }
    }

    fn forget(&mut self, tenant: u64) {
        self.overrides.forget(tenant);
    }

    fn observe(&mut self, feedback: &Feedback) {
        if feedback.returned() {
            self.returned.set(feedback.lite, ());
            if self.returned.len() > RETURNED_MAX {
                self.returned.forget_one(1, |()| ());
            }
        }
        if let Some(account) = self.accounts.get(feedback.tenant) {
            return account.settle(feedback);
        }
        let limit = self.limit(feedback.tenant);
        let (paid, used) = limit.unit.paid_and_used(feedback);
        if used > paid {
            let place = self.accounts.open(feedback.tenant, limit, feedback.at_us);
            self.accounts.at(place).settle(feedback);
        }
    }

    fn decide(&mut self, frame: &Frame) -> Plan {
        self.now_us = frame.now_us;
        self.accounts.sweep(frame.now_us);
        let purse = |tenant: &TenantView| Purse {
            tenant: tenant.tenant,
            limit: self.limit(tenant.tenant),
            account: None,
            promised: 0,
            is_deep_in_debt: false,
        };
        let mut purses: Vec<Purse> = frame.tenants.iter().map(purse).collect();
        frame.lites.iter().map(|lite| self.answer(lite, &mut purses[lite.tenant as usize], frame.now_us)).collect()
    }

    fn snapshot(&self) -> Option<State> {
        Some(State { accounts: self.accounts.clone(), returned: self.returned.clone() })
    }

    fn restore(&mut self, state: State) -> Result<(), String> {
        if state.accounts.are_too_many() || state.returned.len() > RETURNED_MAX {
            return Err("it has more tenants or lite topics than this version keeps".into());
        }
        State { accounts: self.accounts, returned: self.returned } = state;
        Ok(())
    }
}

/// A tenant, as far as one frame needs it.
struct Purse {
    tenant: u64,
    limit: Limit,
    /// The place of its account, once a head of it had to be paid for.
    account: Option<usize>,
    /// What its heads earlier in the frame wait for.
    promised: u64,
    /// The first of its heads waits for long.
    is_deep_in_debt: bool,
}

impl PerTenantTokenBucket {
    fn answer(&mut self, lite: &LiteView, purse: &mut Purse, now_us: u64) -> Answer {
        let paid = paid_memo(lite);
        let served = Answer::serve().messages(1).valid_for(PAID_VALID).because(WITHIN_RATE).remember(paid);
        let came_back = !self.returned.is_empty() && self.returned.forget(lite.lite).is_some();
        if lite.memo == paid && !came_back {
            return served;
        }
        let price = purse.limit.unit.price(lite);
        let known = purse.account.filter(|&place| self.accounts.is_at(place, purse.tenant));
        let place = known.unwrap_or_else(|| self.accounts.open(purse.tenant, purse.limit, now_us));
        purse.account = Some(place);
        let is_first = purse.promised == 0;
        match self.accounts.at(place).pay(lite.lite, price, &mut purse.promised, now_us) {
            Ok(()) => served,
            Err(wait) => {
                purse.is_deep_in_debt |= is_first && wait > IN_DEBT_FOR;
                let held = if purse.is_deep_in_debt {
                    Answer::suspend(wait.min(SUSPEND_MAX))
                } else {
                    Answer::throttle(wait.clamp(THROTTLE_MIN, THROTTLE_MAX))
                };
                held.because(OVER_RATE)
            }
        }
    }

    fn limit(&self, tenant: u64) -> Limit {
        self.overrides.get(tenant).map_or(self.limits.default, |id| self.limits.at(*id))
    }
}

/// Says of which delivery the memo speaks: the head's offset + 1, and its attempt. Never 0.
fn paid_memo(lite: &LiteView) -> u64 {
    (lite.head_offset.wrapping_add(1) << 16) | u64::from(lite.attempts & 0xffff)
}

export_policy!(PerTenantTokenBucket);

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

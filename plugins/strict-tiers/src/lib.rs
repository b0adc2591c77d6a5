//! The first tier first, the second after it, and so on; each lower tier has a floor, so that it is slow and not dead.
//!
//! For plans with a promise of precedence: who pays for it never waits behind who does not, except for the share that was promised to them.
//!
//! ```json
//! { "tiers": [ { "name": "vip", "tenants": ["org/vip/*", "ada"] },
//!              { "name": "standard", "floor_percent": 10 },
//!              { "name": "free", "floor_percent": 2, "tenants": ["trial/*"] } ],
//!   "default_tier": "standard" }
//! ```
//!
//! | field | unit | default | range |
//! |---|---|---|---|
//! | `tiers` | the tiers, the first one first | `vip`, and `standard` with a floor of 10 | 2 to 9 |
//! | `tiers[].name` | value of the label | required | 1 to 128 bytes, each once |
//! | `tiers[].tenants` | names, or starts of names with `*` | none | 4,096 in all |
//! | `tiers[].floor_percent` | percent of deliveries that the tier has while it has work | 0 | 0 to 90, 90 in all; 0 for the first |
//! | `label` | key of the tenants' label that names their tier | `tier` | 1 to 128 bytes |
//! | `default_tier` | tier of a tenant that nothing says anything of | the last | a tier's name |
//! | `window_deliveries` | deliveries over which floors are kept | 200 | 100 to 100,000 |
//!
//! A tenant's tier is the one that its label names, else the one that lists its name: an exact name before a prefix, a longer prefix
//! before a shorter one. Inside a tier tenants share as the scheduler has it. Priorities of messages do not count: the tier is the band.
//!
//! **Bands.** The first tier is in band 8, the second in 7, and so on. Band 9 is for promotions: a head of a tier that is below its floor
//! is served next, once. Were it promoted into the band of the first tier, it would wait there for a turn among all of that tier's tenants,
//! and with a thousand of them no floor would be kept.
//!
//! **Floors.** Of each delivery that ends, a tier is credited its floor, and what it has itself is taken off; 100 percent are a promotion. A
//! tier saves or owes no more than its floor of `window_deliveries`, so an idle hour earns no burst beyond that. While no promotion
//! waits, nothing is before the first tier.
//!
//! **With the scheduler's own guarantee.** Every 20th dispatch goes to the lower bands in turn, with or without a policy: a lone lower tier
//! has 5 percent by that, three of them 1.7 each. That counts towards the floor, so a floor of 20 is made of these 5 and of 15 by promotions,
//! and a floor that is below it changes nothing. A tier that waits is asked about when its turn comes, with up to 256 of its lite
//! topics near the front; in between up to 2,560 in a second, of all that wait, are asked about in turn. So a floor is kept over some
//! twenty dispatches for each lower tier, not over each ten.
//!
//! Bound: 9 counters; tenants of another tier than the default, as many as the broker has taught (100,000).

mod config;
mod floors;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{
    Answer, ById, Descriptor, Entity, Feedback, Frame, Init, LiteView, Plan, Policy, export_policy,
};

use crate::config::Ranks;
pub use crate::config::{Config, Tier};
use crate::floors::Floors;

/// Where promotions go.
const PROMOTION_BAND: u8 = 9;
/// How soon a tier with a floor is asked about again once it is near the front.
const BELOW_VALID: Duration = Duration::from_millis(100);
/// Lite topics that are asked about in turn when a tier has a promotion to give and none to give it to.
const REFRESH: u32 = 256;
/// How often.
const REFRESH_EVERY_US: u64 = 100_000;

/// Index of "the first tier" in the reasons.
const FIRST: u32 = 0;
/// Index of "a lower tier" in the reasons.
const LOWER: u32 = 1;
/// Index of "promoted" in the reasons.
const PROMOTED: u32 = 2;

/// The policy.
pub struct StrictTiers {
    ranks: Ranks,
    /// Learnt tenants of another tier than the default.
    by_tenant: ById<u8>,
    floors: Floors,
    refreshed_us: u64,
}

/// What a new version goes on from.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    credits: BTreeMap<String, i64>,
}

impl Policy for StrictTiers {
    type Config = Config;
    type State = State;

    fn describe() -> Descriptor {
        Descriptor::new("strict-tiers", env!("CARGO_PKG_VERSION"))
            .reasons(["first tier", "lower tier: after those above it", "lower tier: promoted, to keep its floor"])
            .config_schema(config::SCHEMA)
            .state_schema(1)
    }

    fn new(init: &Init, config: Config) -> Result<Self, String> {
        let ranks = Ranks::parse(&config)?;
        let floors = Floors::new(config.tiers.iter().map(|tier| tier.floor_percent), config.window_deliveries);
        Ok(Self { ranks, by_tenant: ById::with_room(Entity::TOLD_MAX), floors, refreshed_us: init.now_us })
    }

    fn learn(&mut self, tenant: &Entity) {
        let tier = self.ranks.of(tenant);
        match tier == self.ranks.default {
            true => self.by_tenant.forget(tenant.id),
            false => self.by_tenant.set(tenant.id, tier),
        };
    }

    fn forget(&mut self, tenant: u64) {
        self.by_tenant.forget(tenant);
    }

    fn observe(&mut self, feedback: &Feedback) {
        let tier = self.tier(feedback.tenant);
        match feedback.returned() {
            true => self.floors.came_back(tier),
            false => self.floors.delivered(tier),
        }
    }

    fn decide(&mut self, frame: &Frame) -> Plan {
        self.floors.advance(frame.now_us);
        let tiers: Vec<u8> = frame.tenants.iter().map(|tenant| self.tier(tenant.tenant)).collect();
        let promoted = self.promote(frame, &tiers);
        let rows = frame.lites.iter().zip(&promoted);
        let answers = rows.map(|(lite, is_promoted)| self.answer(lite, tiers[lite.tenant as usize], *is_promoted));
        let plan: Plan = answers.collect();
        let refresh = self.refresh(frame.now_us);
        plan.refresh(refresh)
    }

    fn snapshot(&self) -> Option<State> {
        let names = self.ranks.names.iter().cloned();
        Some(State { credits: names.zip(self.floors.credits()).collect() })
    }

    fn restore(&mut self, state: State) -> Result<(), String> {
        let credit = |name| state.credits.get(name).copied().unwrap_or_default();
        self.floors.restore(self.ranks.names.iter().map(credit));
        Ok(())
    }
}

impl StrictTiers {
    fn tier(&self, tenant: u64) -> u8 {
        self.by_tenant.get(tenant).copied().unwrap_or(self.ranks.default)
    }

    /// Which rows are promoted. Each tenant has one before any has two.
    fn promote(&mut self, frame: &Frame, tiers: &[u8]) -> Vec<bool> {
        let mut promoted = vec![false; frame.lites.len()];
        let mut has_one = vec![false; frame.tenants.len()];
        let mut was_passed_over = false;
        for (lite, promoted) in frame.lites.iter().zip(&mut promoted) {
            let tenant = lite.tenant as usize;
            if tiers[tenant] == 0 {
                continue;
            }
            if has_one[tenant] {
                was_passed_over = true;
                continue;
            }
            *promoted = self.is_promoted(lite, tiers[tenant]);
            has_one[tenant] = *promoted;
        }
        // Who got none in the first round gets none now: nobody is owed more than before.
        if was_passed_over {
            for (lite, promoted) in frame.lites.iter().zip(&mut promoted) {
                let tenant = lite.tenant as usize;
                *promoted = *promoted || has_one[tenant] && self.is_promoted(lite, tiers[tenant]);
            }
        }
        promoted
    }

    /// A head that has its promotion keeps it.
    fn is_promoted(&mut self, lite: &LiteView, tier: u8) -> bool {
        lite.memo == promotion_memo(lite) || self.floors.promote(tier)
    }

    fn answer(&mut self, lite: &LiteView, tier: u8, is_promoted: bool) -> Answer {
        if is_promoted {
            let promoted = Answer::serve().in_band(PROMOTION_BAND).messages(1);
            return promoted.because(PROMOTED).remember(promotion_memo(lite));
        }
        let served = Answer::serve().in_band(PROMOTION_BAND - 1 - tier);
        if tier == 0 {
            return served.because(FIRST);
        }
        let valid = if self.floors.waits(tier) { BELOW_VALID } else { Answer::VALID_DEFAULT };
        served.valid_for(valid).because(LOWER)
    }

    /// A tier below its floor waits further back: some of those are asked about.
    fn refresh(&mut self, now_us: u64) -> u32 {
        if !self.floors.any_due() || now_us.saturating_sub(self.refreshed_us) < REFRESH_EVERY_US {
            return 0;
        }
        self.refreshed_us = now_us;
        REFRESH
    }
}

/// Says of which delivery the promotion is: the head's offset + 1, and its attempt. Never 0.
fn promotion_memo(lite: &LiteView) -> u64 {
    (lite.head_offset.wrapping_add(1) << 8) | u64::from(lite.attempts & 0xff)
}

export_policy!(StrictTiers);

#[cfg(test)]
mod tests;

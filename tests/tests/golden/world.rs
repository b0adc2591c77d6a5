//! Frames as a broker might ask them, drawn from numbers that never change: not from a crate, whose next version may draw otherwise.

use std::collections::{BTreeMap, BTreeSet};

use sluicegate_plugin_sdk::{
    Column, Descriptor, Entity, Feedback, Frame, GroupView, Label, LiteView, Plan, TenantView,
};

const TENANTS: u64 = 30;
const LITES: u64 = 120;
const ROWS_MAX: u64 = 48;
/// 2026-01-01T20:00:00Z.
const START_US: u64 = 1_767_297_600_000_000;

/// What a policy is told before and with a frame.
pub(crate) struct Ask {
    pub(crate) tenants: Vec<Entity>,
    pub(crate) lites: Vec<Entity>,
    pub(crate) feedback: Vec<Feedback>,
    pub(crate) frame: Frame,
}

/// Lite topics, and what is known of them.
pub(crate) struct World {
    random: u64,
    now_us: u64,
    sequence: u64,
    memos: BTreeMap<u64, u64>,
    last_service_us: BTreeMap<u64, u64>,
    learns_lites: bool,
    wants: usize,
    learnt_tenants: BTreeSet<u64>,
    learnt_lites: BTreeSet<u64>,
}

impl World {
    pub(crate) fn new(descriptor: &Descriptor) -> Self {
        Self {
            random: 7,
            now_us: START_US,
            sequence: 0,
            memos: BTreeMap::new(),
            last_service_us: BTreeMap::new(),
            learns_lites: descriptor.learns.contains(&Entity::LITE),
            wants: descriptor.wants.len(),
            learnt_tenants: BTreeSet::new(),
            learnt_lites: BTreeSet::new(),
        }
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.now_us
    }

    pub(crate) fn tell_names_again(&mut self) {
        self.learnt_tenants.clear();
        self.learnt_lites.clear();
    }

    /// What the plan has the broker keep.
    pub(crate) fn take(&mut self, frame: &Frame, plan: &Plan) {
        for (row, answer) in frame.lites.iter().zip(&plan.answers) {
            self.memos.insert(row.lite, answer.memo);
        }
    }

    pub(crate) fn next_ask(&mut self) -> Ask {
        self.sequence += 1;
        // Now and then an hour passes.
        self.now_us += if self.sequence.is_multiple_of(100) { 3_600_000_000 } else { self.below(40_000) };
        let feedback: Vec<_> = (0..self.below(20)).map(|_| self.feedback()).collect();
        let first = self.below(LITES);
        let rows = self.below(ROWS_MAX + 1);
        let mut tenants = Vec::new();
        let lites: Vec<_> = (first..first + rows).map(|lite| self.lite(lite % LITES, &mut tenants)).collect();
        let columns =
            (0..).take(self.wants).map(|key| Column { key, values: lites.iter().map(|_| self.number()).collect() });
        let columns = columns.collect::<Vec<_>>();
        let group = GroupView {
            backlog: self.below(10_000),
            messages_left: u64::MAX,
            cost_left: self.below(100_000),
            in_flight: self.below_u32(20),
            capacity: 64,
            load_ppm: self.below_u32(1_000_001),
        };
        let mentioned =
            tenants.iter().map(|view: &TenantView| view.tenant).chain(feedback.iter().map(|row| row.tenant));
        let mentioned: Vec<_> = mentioned.collect();
        let mut unknown_tenants = mentioned.into_iter();
        let tenants_told =
            unknown_tenants.by_ref().filter(|tenant| self.learnt_tenants.insert(*tenant)).map(tenant_entity);
        let tenants_told = tenants_told.collect();
        let unknown = lites
            .iter()
            .map(|row| row.lite)
            .filter(|lite| self.learns_lites && lite.is_multiple_of(3) && self.learnt_lites.insert(*lite));
        let lites_told = unknown.map(lite_entity).collect();
        let frame =
            Frame { now_us: self.now_us, sequence: self.sequence, seed: self.next(), group, tenants, lites, columns };
        Ask { tenants: tenants_told, lites: lites_told, feedback, frame }
    }

    fn lite(&mut self, lite: u64, tenants: &mut Vec<TenantView>) -> LiteView {
        let tenant = lite % TENANTS;
        let known = tenants.iter().position(|view| view.tenant == tenant);
        let index = known.unwrap_or_else(|| {
            let waiting = 1 + self.below_u32(4);
            tenants.push(TenantView { tenant, weight: 1, in_flight: self.below_u32(8), waiting });
            tenants.len() - 1
        });
        LiteView {
            lite,
            head_offset: self.sequence,
            head_age_us: self.below(5_000_000),
            head_cost: 1 + self.below(500),
            expires_in_us: if self.below(3) == 0 { u64::MAX } else { self.below(20_000_000) },
            backlog: 1 + self.below(50),
            last_service_us: self.last_service_us.get(&lite).copied().unwrap_or(u64::MAX),
            memo: self.memos.get(&lite).copied().unwrap_or(0),
            tenant: u32::try_from(index).expect("few tenants"),
            in_flight: 0,
            attempts: self.below_u32(3),
            priority: self.below_u32(10),
        }
    }

    fn feedback(&mut self) -> Feedback {
        let lite = self.below(LITES);
        let outcome = if self.below(5) == 0 { self.below_u32(5) } else { Feedback::DONE };
        let service_us = self.below(400_000);
        self.last_service_us.insert(lite, service_us);
        let cost_estimate = 1 + self.below(500);
        Feedback {
            at_us: self.now_us - self.below(1_000),
            tenant: lite % TENANTS,
            lite,
            wait_us: self.number(),
            service_us,
            retry_after_us: if self.below(1_000) == 0 { self.below(2_000_000) } else { u64::MAX },
            cost_estimate,
            cost_measured: if outcome == Feedback::RETURNED { 0 } else { cost_estimate + self.below(100) },
            outcome,
        }
    }

    /// Or none.
    fn number(&mut self) -> u64 {
        if self.below(10) == 0 { u64::MAX } else { self.below(1_000_000) }
    }

    fn below_u32(&mut self, end: u32) -> u32 {
        u32::try_from(self.below(end.into())).expect("below a u32")
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn tenant_entity(id: u64) -> Entity {
    let tier = match id % 3 {
        0 => "gold",
        1 => "silver",
        _ => "free",
    };
    Entity { kind: Entity::TENANT, id, name: format!("org/{tier}/{id}"), labels: vec![label("tier", tier)] }
}

fn lite_entity(id: u64) -> Entity {
    Entity { kind: Entity::LITE, id, name: format!("lite-{id}"), labels: vec![label("class", "batch")] }
}

fn label(key: &str, value: &str) -> Label {
    Label { key: key.into(), value: value.into() }
}

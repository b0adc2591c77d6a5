//! Ten bands of start-time fair queueing over tenants.
//!
//! After Goyal, Vin and Cheng, "Start-Time Fair Queuing" (SIGCOMM 1996). A tenant in a band is a flow. Its start tag is
//! the later of the band's clock V (the start tag that was served last) when the flow became eligible and the flow's
//! own finish tag; a delivery moves the finish tag by cost / weight. The lowest start tag is served next.

use std::collections::BTreeSet;

use sluicegate_protocol::limits::{COST_MAX, PRIORITY_MAX};

use crate::Charge;
use crate::lite::{Chain, LiteKey, Lites};
use crate::slab::{Key, Slab};
use crate::tenant::{TenantKey, Tenants};

/// Number of bands; the highest is served first.
pub(crate) const BANDS: usize = PRIORITY_MAX as usize + 1;

/// Every so many dispatches of a band one goes to a lower band that is ready too.
const TURN_EVERY: u32 = 20;

/// Bits after the point of virtual time. Costs have 40 bits, so 2^48 of the costliest deliveries fit in 128.
const FRACTION_BITS: u32 = 40;

/// Finish tags ahead of the clock that one band keeps; beyond it the lowest are forgotten first.
const FINISHES_KEPT_MAX: usize = 131_072;

/// Finish tags dropped in one go, so that a jump of the clock has no spike. Each dispatch adds one at most.
const FINISHES_DROPPED_AT_ONCE: usize = 8;

/// Names a flow while it exists.
pub(crate) type FlowKey = Key<Flow>;

/// A point in a band's virtual time.
type Tag = u128;

/// A tenant in one band.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) tenant: TenantKey,
    band: u8,
    /// Its lite topics in FIFO rotation.
    lites: Chain,
    /// The band's clock when the flow last became eligible.
    floor: Tag,
    finish: Tag,
    /// Open leases that were charged here and may still be corrected.
    open: u32,
    state: FlowState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FlowState {
    /// Between two of the others.
    Moving,
    /// Has lite topics and may be served, under this tag; ties go to the earlier sequence.
    Queued(Tag, u64),
    /// Has lite topics, but its tenant's concurrency is reached.
    Blocked,
    /// Nothing to serve; its finish tag is ahead of the clock and still counts.
    Resting,
    /// Nothing to serve, the clock passed its finish tag; kept for its open leases.
    Passed,
}

#[derive(Debug, Default)]
struct Band {
    clock: Tag,
    queued: BTreeSet<(Tag, u64, FlowKey)>,
    resting: BTreeSet<(Tag, FlowKey)>,
}

/// Which band is served next, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// It is the highest one that is ready.
    Highest(u8),
    /// A higher one is ready, but it is the turn of the lower ones.
    Turn(u8),
}

impl Choice {
    pub(crate) fn band(self) -> u8 {
        match self {
            Self::Highest(band) | Self::Turn(band) => band,
        }
    }
}

/// All bands, and whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Bands {
    all: [Band; BANDS],
    flows: Slab<Flow>,
    sequence: u64,
    /// Dispatches past a lower band that was ready, since the last turn.
    passed_over: u32,
    /// The lower band that had the last turn.
    last_turn: Option<u8>,
}

impl Bands {
    pub(crate) fn choose(&self) -> Option<Choice> {
        let highest = (0..BANDS).rev().find(|&band| self.is_ready(band))?;
        let below = |limit: usize| (0..limit.min(highest)).rev().find(|&band| self.is_ready(band));
        if self.passed_over + 1 < TURN_EVERY {
            return Some(Choice::Highest(band_u8(highest)));
        }
        let after_last = self.last_turn.and_then(|last| below(usize::from(last)));
        Some(match after_last.or_else(|| below(highest)) {
            Some(lower) => Choice::Turn(band_u8(lower)),
            None => Choice::Highest(band_u8(highest)),
        })
    }

    /// The flow with the lowest start tag.
    pub(crate) fn first(&self, band: u8) -> Option<FlowKey> {
        self.all[usize::from(band)].queued.first().map(|&(.., flow)| flow)
    }

    /// The lite topic that the flow serves next.
    pub(crate) fn front(&self, flow: FlowKey) -> LiteKey {
        self.flows[flow].lites.first().expect("a queued flow has a lite topic")
    }

    pub(crate) fn tenant(&self, flow: FlowKey) -> TenantKey {
        self.flows[flow].tenant
    }

    /// The tenant's flow in this band, if it may be served.
    pub(crate) fn queued(&self, tenants: &Tenants, tenant: TenantKey, band: u8) -> Option<FlowKey> {
        let flow = tenants[tenant].flows[usize::from(band)]?;
        matches!(self.flows[flow].state, FlowState::Queued(..)).then_some(flow)
    }

    /// Up to `count` lite topics near the front of the band: the first of each flow if there are many, more of each if
    /// there are few.
    pub(crate) fn near_front(&self, lites: &Lites, band: u8, count: usize) -> Vec<LiteKey> {
        let queued = &self.all[usize::from(band)].queued;
        let flows = queued.len().min(count);
        let of_each = count / flows.max(1);
        let first_flows = queued.iter().take(flows).map(|&(.., flow)| flow);
        first_flows.flat_map(|flow| self.flows[flow].lites.iter(lites).take(of_each)).collect()
    }

    /// Puts a lite topic at the end of its tenant's rotation.
    pub(crate) fn push(&mut self, tenants: &mut Tenants, lites: &mut Lites, lite: LiteKey, band: u8) {
        let tenant = lites[lite].tenant;
        let flow = self.flow(tenants, tenant, band);
        tenants[tenant].ready += 1;
        if !self.flows[flow].lites.is_empty() {
            self.flows[flow].lites.push(lites, lite);
            return;
        }
        self.unfile(flow);
        self.flows[flow].lites.push(lites, lite);
        self.flows[flow].floor = self.all[usize::from(band)].clock;
        self.file(tenants, flow);
    }

    /// Takes a lite topic out of its tenant's rotation, without service.
    pub(crate) fn remove(&mut self, tenants: &mut Tenants, lites: &mut Lites, lite: LiteKey, band: u8) {
        let tenant = lites[lite].tenant;
        let flow = tenants[tenant].flows[usize::from(band)].expect("a ready lite topic is in a flow");
        tenants[tenant].ready -= 1;
        self.flows[flow].lites.remove(lites, lite);
        if self.flows[flow].lites.is_empty() {
            self.unfile(flow);
            self.file(tenants, flow);
        }
    }

    /// Takes the lite topic out of rotation for a delivery and charges the flow; its tenant's counts are up to date.
    pub(crate) fn dispatch(
        &mut self,
        tenants: &mut Tenants,
        lites: &mut Lites,
        lite: LiteKey,
        choice: Choice,
        cost: u64,
    ) {
        let band = choice.band();
        let tenant = lites[lite].tenant;
        let flow = tenants[tenant].flows[usize::from(band)].expect("a ready lite topic is in a flow");
        let FlowState::Queued(start, _) = self.flows[flow].state else { unreachable!("only queued flows are served") };
        self.unfile(flow);
        tenants[tenant].ready -= 1;
        let row = &mut self.flows[flow];
        row.lites.remove(lites, lite);
        row.finish = start + charge(cost, tenants.weight(tenant));
        row.open += 1;
        let clock = &mut self.all[usize::from(band)].clock;
        *clock = start.max(*clock);
        self.file(tenants, flow);
        self.drop_passed(tenants, band);
        self.count_turn(choice);
    }

    /// Charges a lease that was open before a restart.
    pub(crate) fn adopt(&mut self, tenants: &mut Tenants, tenant: TenantKey, lease: Charge) {
        let band = lease.band.min(PRIORITY_MAX);
        let flow = self.flow(tenants, tenant, band);
        self.unfile(flow);
        let clock = self.all[usize::from(band)].clock;
        let row = &mut self.flows[flow];
        row.finish = row.finish.max(clock) + charge(lease.cost, lease.weight);
        row.open += 1;
        self.file(tenants, flow);
    }

    /// Ends an open lease: the flow pays for `used` instead of what was reserved; `None` is nothing at all.
    pub(crate) fn settle(&mut self, tenants: &mut Tenants, tenant: TenantKey, lease: Charge, used: Option<u64>) {
        let band = lease.band.min(PRIORITY_MAX);
        let Some(flow) = tenants[tenant].flows[usize::from(band)] else { return };
        self.unfile(flow);
        let row = &mut self.flows[flow];
        row.open = row.open.saturating_sub(1);
        let reserved = charge(lease.cost, lease.weight);
        let used = used.map_or(0, |cost| charge(cost, lease.weight));
        row.finish = (row.finish + used).saturating_sub(reserved);
        self.file(tenants, flow);
        self.drop_passed(tenants, band);
    }

    /// The tenant's concurrency is reached: its flows leave their queues. Queued -> Blocked
    pub(crate) fn block(&mut self, tenants: &mut Tenants, tenant: TenantKey) {
        tenants[tenant].blocked = true;
        tenants.blocked.insert(tenant);
        self.refile(tenants, tenant);
    }

    /// The tenant has a slot again. Blocked -> Queued
    pub(crate) fn unblock(&mut self, tenants: &mut Tenants, tenant: TenantKey) {
        tenants[tenant].blocked = false;
        tenants.blocked.remove(&tenant);
        self.refile(tenants, tenant);
    }

    fn refile(&mut self, tenants: &mut Tenants, tenant: TenantKey) {
        for band in 0..BANDS {
            let Some(flow) = tenants[tenant].flows[band] else { continue };
            if self.flows[flow].lites.is_empty() {
                continue;
            }
            self.unfile(flow);
            self.flows[flow].floor = self.all[band].clock;
            self.file(tenants, flow);
        }
    }

    fn is_ready(&self, band: usize) -> bool {
        !self.all[band].queued.is_empty()
    }

    fn flow(&mut self, tenants: &mut Tenants, tenant: TenantKey, band: u8) -> FlowKey {
        if let Some(flow) = tenants[tenant].flows[usize::from(band)] {
            return flow;
        }
        let flow = self.flows.insert(Flow {
            tenant,
            band,
            lites: Chain::default(),
            floor: 0,
            finish: 0,
            open: 0,
            state: FlowState::Moving,
        });
        tenants[tenant].flows[usize::from(band)] = Some(flow);
        flow
    }

    /// Takes the flow out of the structure of its state. Any -> Moving
    fn unfile(&mut self, key: FlowKey) {
        let flow = &mut self.flows[key];
        let band = &mut self.all[usize::from(flow.band)];
        let was_there = match flow.state {
            FlowState::Queued(start, sequence) => band.queued.remove(&(start, sequence, key)),
            FlowState::Resting => band.resting.remove(&(flow.finish, key)),
            FlowState::Moving | FlowState::Blocked | FlowState::Passed => true,
        };
        assert!(was_there, "a flow is in the structure of its state");
        flow.state = FlowState::Moving;
    }

    /// Puts the flow where it belongs, or forgets it. Moving -> any
    fn file(&mut self, tenants: &mut Tenants, key: FlowKey) {
        let flow = &mut self.flows[key];
        let band = &mut self.all[usize::from(flow.band)];
        if !flow.lites.is_empty() {
            flow.state = FlowState::Blocked;
            if !tenants[flow.tenant].blocked {
                let start = flow.floor.max(flow.finish);
                self.sequence += 1;
                flow.state = FlowState::Queued(start, self.sequence);
                band.queued.insert((start, self.sequence, key));
            }
        } else if flow.finish > band.clock {
            flow.state = FlowState::Resting;
            band.resting.insert((flow.finish, key));
        } else {
            flow.state = FlowState::Passed;
            self.forget_if_unused(tenants, key);
        }
    }

    /// Forgets finish tags that the clock passed, and those above the limit.
    fn drop_passed(&mut self, tenants: &mut Tenants, band: u8) {
        for _ in 0..FINISHES_DROPPED_AT_ONCE {
            let row = &mut self.all[usize::from(band)];
            let Some(&(finish, key)) = row.resting.first() else { return };
            if finish > row.clock && row.resting.len() <= FINISHES_KEPT_MAX {
                return;
            }
            row.resting.pop_first();
            self.flows[key].state = FlowState::Passed;
            self.forget_if_unused(tenants, key);
        }
    }

    fn forget_if_unused(&mut self, tenants: &mut Tenants, key: FlowKey) {
        let Flow { tenant, band, open, .. } = self.flows[key];
        if open == 0 {
            self.flows.remove(key);
            tenants[tenant].flows[usize::from(band)] = None;
            tenants.release(tenant);
        }
    }

    fn count_turn(&mut self, choice: Choice) {
        match choice {
            Choice::Turn(band) => {
                self.passed_over = 0;
                self.last_turn = Some(band);
            }
            Choice::Highest(band) if (0..usize::from(band)).any(|lower| self.is_ready(lower)) => {
                self.passed_over = (self.passed_over + 1).min(TURN_EVERY - 1);
            }
            Choice::Highest(_) => {}
        }
    }
}

fn band_u8(band: usize) -> u8 {
    u8::try_from(band).expect("there are ten bands")
}

/// Virtual time of a delivery, rounded up: cost / weight. A message without cost counts as one unit.
fn charge(cost: u64, weight: u32) -> Tag {
    (Tag::from(cost.clamp(1, COST_MAX)) << FRACTION_BITS).div_ceil(Tag::from(weight.max(1)))
}

#[cfg(test)]
impl Bands {
    pub(crate) fn check_invariants(&self, tenants: &Tenants, lites: &Lites) {
        let mut queued = 0;
        let mut resting = 0;
        for (key, flow) in self.flows.iter() {
            let band = &self.all[usize::from(flow.band)];
            let tenant = &tenants[flow.tenant];
            assert_eq!(tenant.flows[usize::from(flow.band)], Some(key));
            for lite in flow.lites.iter(lites) {
                assert_eq!(lites[lite].place, crate::lite::Place::Ready(flow.band));
                assert_eq!(lites[lite].tenant, flow.tenant);
            }
            match flow.state {
                FlowState::Moving => panic!("a flow is in between"),
                FlowState::Queued(start, sequence) => {
                    assert!(!flow.lites.is_empty() && !tenant.blocked);
                    assert_eq!(start, flow.floor.max(flow.finish));
                    assert!(band.queued.contains(&(start, sequence, key)));
                    queued += 1;
                }
                FlowState::Blocked => assert!(!flow.lites.is_empty() && tenant.blocked),
                FlowState::Resting => {
                    assert!(flow.lites.is_empty() && band.resting.contains(&(flow.finish, key)));
                    resting += 1;
                }
                FlowState::Passed => assert!(flow.lites.is_empty() && flow.open > 0),
            }
        }
        assert_eq!(queued, self.all.iter().map(|band| band.queued.len()).sum::<usize>());
        assert_eq!(resting, self.all.iter().map(|band| band.resting.len()).sum::<usize>());
        for (key, tenant) in tenants.iter() {
            let ready: usize = tenant.flows.iter().flatten().map(|&flow| self.flows[flow].lites.len()).sum();
            assert_eq!(ready, tenant.ready as usize, "ready lite topics of {}", tenant.id);
            assert_eq!(tenant.blocked, tenants.blocked.contains(&key));
        }
    }
}

//! Priority bands: start-time fair queueing over tenants, and turns for the lower bands.
//!
//! A tenant that is served in a band has a **flow** there. Where the flow has lite topics to serve it has a **lane**, one
//! for each route that they have. A lane is queued under its start tag, its finish tag or the clock at which it became
//! eligible, the later; a delivery moves the finish tag by cost / weight. The lowest start tag is served next. When its
//! last lane goes, the flow keeps the finish tag.
//!
//! Each route has a clock in each band, since routes that share no session advance at different speeds: a delivery moves
//! the clocks of all routes that its session serves. What lies between a route's time and the group's is its offset, by
//! which routes are compared with each other (`docs/adr/0007`).

#[cfg(test)]
mod check;
mod flow;
mod queue;

use std::collections::BTreeMap;

use sluicegate_protocol::limits::{COST_MAX, PRIORITY_MAX};

use crate::lite::{Chain, LiteKey, Lites};
use crate::route::{RouteKey, Sessions};
use crate::slab::Slab;
use crate::tenant::{TenantKey, Tenants};
use crate::{Charge, SessionKey};

use flow::{Flow, FlowState, Lane};
pub(crate) use flow::{FlowKey, LaneKey};
use queue::{Band, RouteQueues};

/// Number of bands; the highest is served first.
pub(crate) const BANDS: usize = PRIORITY_MAX as usize + 1;

/// Every so many dispatches of a band one goes to a lower band that is ready too.
const TURN_EVERY: u32 = 20;

/// Bits after the point of virtual time. Costs have 40 bits, so 2^48 of the costliest deliveries fit in 128.
const FRACTION_BITS: u32 = 40;

/// A point in virtual time.
type Tag = u128;

/// Which routes count: all while a session that takes all has credit, else those with a session of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    AllRoutes,
    OpenRoutes,
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
    /// By the index of the route's key.
    routes: Vec<RouteQueues>,
    flows: Slab<Flow>,
    lanes: Slab<Lane>,
    /// By session that takes what names it: what its routes' time is behind the group's, in each band. None is 0.
    offsets: BTreeMap<SessionKey, [Tag; BANDS]>,
    sequence: u64,
    /// Dispatches past a lower band that was ready, since the last turn.
    passed_over: u32,
    /// The highest band that passed over lower ones since the last turn.
    passed_by: u8,
    /// The lower band that had the last turn.
    last_turn: Option<u8>,
}

impl Bands {
    pub(crate) fn choose(&self, reach: Reach) -> Option<Choice> {
        let highest = (0..BANDS).rev().find(|&band| self.is_ready(band, reach))?;
        // It may be over with the band that passed others by: then the highest of those is due as well.
        let limit_max = highest.max(usize::from(self.passed_by));
        let below = |limit: usize| (0..limit.min(limit_max)).rev().find(|&band| self.is_ready(band, reach));
        if self.passed_over + 1 < TURN_EVERY {
            return Some(Choice::Highest(band_u8(highest)));
        }
        let after_last = self.last_turn.and_then(|last| below(usize::from(last)));
        Some(match after_last.or_else(|| below(limit_max)) {
            Some(lower) => Choice::Turn(band_u8(lower)),
            None => Choice::Highest(band_u8(highest)),
        })
    }

    /// Puts a lite topic at the end of its tenant's rotation.
    pub(crate) fn push(
        &mut self,
        sessions: &Sessions,
        tenants: &mut Tenants,
        lites: &mut Lites,
        lite: LiteKey,
        band: u8,
    ) {
        let (tenant, route) = (lites[lite].tenant, lites[lite].route);
        self.open_queue(sessions, route, band);
        let flow = self.flow_or_new(tenants, tenant, band);
        tenants[tenant].ready += 1;
        if let Some(lane) = self.lane(flow, route) {
            self.lanes[lane].lites.push(lites, lite);
            return;
        }
        let floor = self.clock(sessions, route, band);
        let finish = self.finish_in(sessions, flow, route, floor);
        self.wake(flow);
        let mut lites_of_lane = Chain::default();
        lites_of_lane.push(lites, lite);
        let lane = Lane { tenant, band, route, lites: lites_of_lane, floor, finish, queued: None, next: None };
        let lane = self.lanes.insert(lane);
        self.append(flow, lane);
        if !tenants[tenant].blocked {
            self.enqueue(lane);
        }
    }

    /// Takes a lite topic out of its tenant's rotation, without service.
    pub(crate) fn remove(
        &mut self,
        sessions: &Sessions,
        tenants: &mut Tenants,
        lites: &mut Lites,
        lite: LiteKey,
        band: u8,
    ) {
        let flow = self.flow(tenants, lites[lite].tenant, band).expect("a ready lite topic is in a flow");
        self.take(tenants, lites, lite, flow);
        self.settle_down(sessions, tenants, flow);
    }

    /// Takes the lite topic out of rotation for a delivery to the session and charges the flow; its tenant's counts are
    /// up to date.
    pub(crate) fn dispatch(
        &mut self,
        sessions: &Sessions,
        tenants: &mut Tenants,
        lites: &mut Lites,
        lite: LiteKey,
        choice: Choice,
        (cost, session): (u64, SessionKey),
    ) {
        let band = choice.band();
        let (tenant, route) = (lites[lite].tenant, lites[lite].route);
        let flow = self.flow(tenants, tenant, band).expect("a ready lite topic is in a flow");
        let lane = self.lane(flow, route).expect("a ready lite topic is in a lane");
        let start = self.start(lane);
        self.dequeue_all(flow);
        self.rotate(flow, lane);
        self.advance(sessions, session, (route, band), start);
        self.charge(sessions, flow, Some((lane, start)), charge(cost, tenants.weight(tenant)));
        self.flows[flow].open += 1;
        self.take(tenants, lites, lite, flow);
        self.enqueue_all(tenants, flow);
        self.settle_down(sessions, tenants, flow);
        self.drop_passed(sessions, tenants, route, band);
        self.count_turn(choice, Reach::of(sessions));
    }

    /// Charges a lease that was open before a restart.
    pub(crate) fn adopt(
        &mut self,
        sessions: &Sessions,
        tenants: &mut Tenants,
        (tenant, route): (TenantKey, RouteKey),
        lease: Charge,
    ) {
        let band = lease.band.min(PRIORITY_MAX);
        self.open_queue(sessions, route, band);
        let flow = self.flow_or_new(tenants, tenant, band);
        let charge = charge(lease.cost, lease.weight);
        self.dequeue_all(flow);
        self.wake(flow);
        self.flows[flow].open += 1;
        if self.flows[flow].lanes.is_some() {
            self.charge(sessions, flow, None, charge);
        } else {
            self.settle_at(sessions, flow, route);
            self.flows[flow].finish += charge;
        }
        self.enqueue_all(tenants, flow);
        self.settle_down(sessions, tenants, flow);
    }

    /// Ends an open lease: the flow pays for `used` instead of what was reserved; `None` is nothing at all. A flow whose
    /// finish tag stays keeps its turn among equals.
    pub(crate) fn settle(
        &mut self,
        sessions: &Sessions,
        tenants: &mut Tenants,
        (tenant, route): (TenantKey, RouteKey),
        lease: Charge,
        used: Option<u64>,
    ) {
        let band = lease.band.min(PRIORITY_MAX);
        let Some(flow) = self.flow(tenants, tenant, band) else { return };
        let reserved = charge(lease.cost, lease.weight);
        let used = used.map_or(0, |cost| charge(cost, lease.weight));
        let row = &mut self.flows[flow];
        row.open = row.open.saturating_sub(1);
        if used != reserved {
            self.dequeue_all(flow);
            self.wake(flow);
            if self.flows[flow].lanes.is_none() {
                // The route of its last lane may be gone; this one has a lite topic.
                self.open_queue(sessions, route, band);
                self.settle_at(sessions, flow, route);
            }
            self.correct(flow, used, reserved);
            self.enqueue_all(tenants, flow);
            self.settle_down(sessions, tenants, flow);
        } else if row.state == FlowState::Passed {
            self.forget_if_unused(tenants, flow);
        }
        self.drop_passed(sessions, tenants, route, band);
    }

    /// The tenant's concurrency is reached: its lanes leave their queues.
    pub(crate) fn block(&mut self, tenants: &mut Tenants, tenant: TenantKey) {
        tenants[tenant].blocked = true;
        let id = tenants[tenant].id;
        tenants.blocked.insert(id);
        for flow in self.flows_of(tenants, tenant) {
            self.dequeue_all(flow);
        }
    }

    /// The tenant has a slot again: its lanes come back, under the clock of now.
    pub(crate) fn unblock(&mut self, sessions: &Sessions, tenants: &mut Tenants, tenant: TenantKey) {
        tenants[tenant].blocked = false;
        let id = tenants[tenant].id;
        tenants.blocked.remove(&id);
        for flow in self.flows_of(tenants, tenant) {
            let band = self.flows[flow].band;
            let mut next = self.flows[flow].lanes;
            while let Some(lane) = next {
                self.lanes[lane].floor = self.clock(sessions, self.lanes[lane].route, band);
                next = self.lanes[lane].next;
            }
            self.enqueue_all(tenants, flow);
        }
    }

    fn count_turn(&mut self, choice: Choice, reach: Reach) {
        match choice {
            Choice::Turn(band) => {
                (self.passed_over, self.passed_by) = (0, 0);
                self.last_turn = Some(band);
            }
            Choice::Highest(band) if (0..usize::from(band)).any(|lower| self.is_ready(lower, reach)) => {
                self.passed_over = (self.passed_over + 1).min(TURN_EVERY - 1);
                self.passed_by = self.passed_by.max(band);
            }
            Choice::Highest(_) => {}
        }
    }
}

impl Reach {
    pub(crate) fn of(sessions: &Sessions) -> Self {
        if sessions.all_open() { Self::AllRoutes } else { Self::OpenRoutes }
    }
}

fn band_u8(band: usize) -> u8 {
    u8::try_from(band).expect("there are ten bands")
}

/// Virtual time of a delivery, rounded up: cost / weight. A message without cost counts as one unit.
fn charge(cost: u64, weight: u32) -> Tag {
    (Tag::from(cost.clamp(1, COST_MAX)) << FRACTION_BITS).div_ceil(Tag::from(weight.max(1)))
}

//! Start-time fair queueing by looking at everything, each time.

use sluicegate_protocol::limits::COST_MAX;
use sluicegate_protocol::{LiteId, TenantId};
use sluicegate_scheduler::{Charge, Scope, SessionKey, WEIGHT_DEFAULT};

use crate::lite::Place;
use crate::model::Model;

/// While a higher band is ready, every so many dispatches one goes to the lower ones.
const TURN_EVERY: u32 = 20;

/// The sessions that lite topics name.
pub(crate) type Route = Vec<SessionKey>;

/// A tenant's ready lite topics in one band that name the same sessions.
pub(crate) type LaneName = (TenantId, u8, Route);

/// A tenant in one band, while its finish tag counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flow {
    finish: u128,
    /// Open leases that were charged here.
    open: u32,
    /// Where it was last.
    home: Route,
    /// It has nothing to serve, and since then the clock of its home passed the finish tag, or its home went.
    is_passed: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Lane {
    /// The route's clock when the lane last became eligible.
    floor: u128,
    /// Decides between equal start tags: when the lane was last filed.
    filed: u64,
    /// When it came, or was served: the order in which a flow's lanes are filed.
    turn: u64,
}

/// Which band is served next; a turn goes to a lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) band: u8,
    pub(crate) is_turn: bool,
}

impl Model {
    pub(crate) fn choose(&self) -> Option<Choice> {
        let ready: Vec<u8> = (0..10).rev().filter(|&band| self.is_ready(band)).collect();
        let highest = *ready.first()?;
        let limit = highest.max(self.passed_by);
        let lower: Vec<u8> = ready.into_iter().filter(|&band| band < limit).collect();
        let is_turn = !lower.is_empty() && self.passed_over + 1 >= TURN_EVERY;
        if !is_turn {
            return Some(Choice { band: highest, is_turn });
        }
        let after_last = self.last_turn.and_then(|last| lower.iter().find(|&&band| band < last));
        Some(Choice { band: *after_last.unwrap_or(&lower[0]), is_turn })
    }

    /// Lanes of this band that may be served, next first.
    pub(crate) fn queue(&self, band: u8) -> Vec<LaneName> {
        let mut lanes: Vec<&LaneName> = self.lanes.keys().filter(|lane| self.may_serve(lane, band)).collect();
        lanes.sort_by_key(|lane| (self.start(lane), self.lanes[*lane].filed));
        lanes.into_iter().cloned().collect()
    }

    /// The lane's lite topics, next first.
    pub(crate) fn rotation(&self, (tenant, band, route): &LaneName) -> Vec<LiteId> {
        let mut lites: Vec<(u64, LiteId)> = (self.lites.iter())
            .filter(|(_, lite)| lite.tenant == *tenant && lite.place == Place::Ready(*band) && lite.route == *route)
            .map(|(&id, lite)| (lite.came, id))
            .collect();
        lites.sort_unstable();
        lites.into_iter().map(|(_, id)| id).collect()
    }

    pub(crate) fn lane_of(&self, id: LiteId, band: u8) -> LaneName {
        let lite = &self.lites[&id];
        (lite.tenant, band, lite.route.clone())
    }

    pub(crate) fn is_ready(&self, band: u8) -> bool {
        self.lanes.keys().any(|lane| self.may_serve(lane, band))
    }

    /// Whether a session that serves these lite topics has credit.
    pub(crate) fn is_open(&self, route: &Route) -> bool {
        self.sessions.iter().any(|session| session.credit > 0 && session.serves(route))
    }

    /// The lite topic is about to be ready in this band.
    pub(crate) fn enter_band(&mut self, id: LiteId, band: u8) {
        let lane = self.lane_of(id, band);
        self.start_clock(&lane.2, band);
        if self.lanes.contains_key(&lane) {
            return;
        }
        let floor = self.clock(&lane.2, band);
        let (filed, turn) = (self.count(), self.count());
        self.flows.entry((lane.0, band)).or_default().is_passed = false;
        self.lanes.insert(lane, Lane { floor, filed, turn });
    }

    /// The lite topic is no longer ready in this band.
    pub(crate) fn leave_band(&mut self, id: LiteId, band: u8) {
        let lane = self.lane_of(id, band);
        self.end_lane_if_empty(&lane);
        self.forget_passed();
    }

    /// Charges a delivery to the session; the lite topic has left the rotation.
    pub(crate) fn charge_dispatch(&mut self, lane: &LaneName, choice: Choice, cost: u64, session: SessionKey) {
        let (tenant, band, _) = *lane;
        let weight = self.weight(tenant);
        let start = self.start(lane);
        let turn = self.count();
        self.lanes.get_mut(lane).expect("it was served").turn = turn;
        self.end_lane_if_empty(lane);
        let flow = self.flow_mut(tenant, band);
        flow.finish = start + charge(cost, weight);
        flow.open += 1;
        self.advance(session, band, start);
        self.refile(tenant, band);
        self.forget_passed();
        if choice.is_turn {
            (self.passed_over, self.passed_by, self.last_turn) = (0, 0, Some(band));
        } else if (0..band).any(|lower| self.is_ready(lower)) {
            self.passed_over = (self.passed_over + 1).min(TURN_EVERY - 1);
            self.passed_by = self.passed_by.max(band);
        }
    }

    pub(crate) fn charge_adopted(&mut self, id: LiteId, lease: Charge) {
        let (tenant, band, route) = self.lane_of(id, lease.band);
        self.start_clock(&route, band);
        let clock = self.clock(&route, band);
        let flow = self.flows.entry((tenant, band)).or_default();
        flow.finish = flow.finish.max(clock) + charge(lease.cost, lease.weight);
        flow.open += 1;
        (flow.home, flow.is_passed) = (route, false);
        self.refile(tenant, band);
        self.forget_passed();
    }

    pub(crate) fn charge_settled(&mut self, id: LiteId, lease: Charge, used: Option<u64>) {
        let (tenant, band, route) = self.lane_of(id, lease.band);
        let reserved = charge(lease.cost, lease.weight);
        let used = used.map_or(0, |cost| charge(cost, lease.weight));
        self.flow_mut(tenant, band).open -= 1;
        if used != reserved {
            self.start_clock(&route, band);
            let flow = self.flow_mut(tenant, band);
            flow.finish = (flow.finish + used).saturating_sub(reserved);
            (flow.home, flow.is_passed) = (route, false);
            self.refile(tenant, band);
        }
        self.forget_passed();
    }

    pub(crate) fn block_if_full(&mut self, tenant: TenantId) {
        if self.in_flight_of(tenant) >= self.concurrency.tenant {
            self.blocked.insert(tenant);
        }
    }

    pub(crate) fn unblock_if_free(&mut self, tenant: TenantId) {
        if self.in_flight_of(tenant) < self.concurrency.tenant && self.blocked.remove(&tenant) {
            for band in 0..10 {
                for lane in self.lanes_of(tenant, band) {
                    let clock = self.clock(&lane.2, band);
                    self.lanes.get_mut(&lane).expect("it is there").floor = clock;
                }
                self.refile(tenant, band);
            }
        }
    }

    pub(crate) fn weight(&self, tenant: TenantId) -> u32 {
        self.weights.get(&tenant).copied().unwrap_or(WEIGHT_DEFAULT)
    }

    /// With the last lite topic that names these sessions their clocks go.
    pub(crate) fn part(&mut self, route: &Route) {
        if self.lites.values().all(|lite| lite.route != *route) {
            self.clocks.retain(|(other, _), _| other != route);
            self.forget_passed();
        }
    }

    fn may_serve(&self, lane: &LaneName, band: u8) -> bool {
        lane.1 == band && !self.blocked.contains(&lane.0) && self.is_open(&lane.2)
    }

    fn start(&self, lane: &LaneName) -> u128 {
        self.lanes[lane].floor.max(self.flows[&(lane.0, lane.1)].finish)
    }

    fn clock(&self, route: &Route, band: u8) -> u128 {
        let own = self.clocks.get(&(route.clone(), band)).copied().unwrap_or(0);
        own.max(self.clocks_of_all[usize::from(band)])
    }

    /// A route's clock starts where the latest is of those that share a session with it.
    fn start_clock(&mut self, route: &Route, band: u8) {
        if self.clocks.contains_key(&(route.clone(), band)) {
            return;
        }
        let near =
            self.clocks.iter().filter(|((near, of), _)| *of == band && near.iter().any(|key| route.contains(key)));
        let clock = near.map(|(_, &clock)| clock).max().unwrap_or(0);
        self.clocks.insert((route.clone(), band), clock);
    }

    /// A delivery moves the clocks of all that its session serves.
    fn advance(&mut self, key: SessionKey, band: u8, start: u128) {
        if self.sessions.iter().any(|session| session.key == key && session.scope == Scope::All) {
            let clock = &mut self.clocks_of_all[usize::from(band)];
            *clock = start.max(*clock);
            return;
        }
        for ((route, of), clock) in &mut self.clocks {
            if *of == band && route.contains(&key) {
                *clock = start.max(*clock);
            }
        }
    }

    fn end_lane_if_empty(&mut self, lane: &LaneName) {
        if self.rotation(lane).is_empty() {
            self.lanes.remove(lane);
            self.flow_mut(lane.0, lane.1).home.clone_from(&lane.2);
        }
    }

    /// A tenant's lanes in this band, the one that was served last at the end.
    fn lanes_of(&self, tenant: TenantId, band: u8) -> Vec<LaneName> {
        let own = self.lanes.iter().filter(|((other, of, _), _)| (*other, *of) == (tenant, band));
        let mut own: Vec<(u64, &LaneName)> = own.map(|(lane, row)| (row.turn, lane)).collect();
        own.sort_unstable();
        own.into_iter().map(|(_, lane)| lane.clone()).collect()
    }

    fn refile(&mut self, tenant: TenantId, band: u8) {
        for lane in self.lanes_of(tenant, band) {
            let filed = self.count();
            self.lanes.get_mut(&lane).expect("it is there").filed = filed;
        }
    }

    /// A finish tag that the clock passed counts no longer, once no lease can correct it.
    fn forget_passed(&mut self) {
        for ((tenant, band), mut flow) in self.flows.clone() {
            if self.lanes.keys().any(|(other, of, _)| (*other, *of) == (tenant, band)) {
                continue;
            }
            let has_home = self.clocks.contains_key(&(flow.home.clone(), band));
            flow.is_passed |= !has_home || flow.finish <= self.clock(&flow.home, band);
            if flow.is_passed && flow.open == 0 {
                self.flows.remove(&(tenant, band));
            } else {
                self.flows.insert((tenant, band), flow);
            }
        }
    }

    fn flow_mut(&mut self, tenant: TenantId, band: u8) -> &mut Flow {
        self.flows.get_mut(&(tenant, band)).expect("it has a lane or a lease")
    }
}

/// Virtual time with 40 bits after the point, rounded up.
fn charge(cost: u64, weight: u32) -> u128 {
    (u128::from(cost.clamp(1, COST_MAX)) << 40).div_ceil(u128::from(weight.max(1)))
}

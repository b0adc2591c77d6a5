//! Start-time fair queueing by looking at everything, each time.

use std::collections::BTreeSet;

use sluicegate_protocol::limits::COST_MAX;
use sluicegate_protocol::{LiteId, TenantId};
use sluicegate_scheduler::{Charge, Scope, SessionKey, WEIGHT_DEFAULT};

use crate::lite::Place;
use crate::model::{Model, Session};

/// While a higher band is ready, every so many dispatches one goes to the lower ones.
const TURN_EVERY: u32 = 20;

/// The sessions that lite topics name.
pub(crate) type Route = Vec<SessionKey>;

/// A tenant's ready lite topics in one band that name the same sessions.
pub(crate) type LaneName = (TenantId, u8, Route);

/// A tenant in one band, while it has lanes or leases, or its finish tag counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flow {
    /// Without lanes: the finish tag of the last one, in the time of its home. Without a home: what it owes.
    finish: u128,
    /// Open leases that were charged here.
    open: u32,
    /// Where it was last, unless that is gone.
    home: Option<Route>,
}

/// Who had credit before sessions changed: of those that take all, and by route.
pub(crate) struct Open {
    all: bool,
    routes: BTreeSet<Route>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Lane {
    /// The route's clock when the lane last became eligible.
    floor: u128,
    finish: u128,
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
        let offset = |lane: &LaneName| self.offset(&lane.2, band).expect("it may be served");
        lanes.sort_by_key(|lane| (self.start(lane) + offset(lane), self.lanes[*lane].filed));
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
        let finish = match self.flows.get(&(lane.0, band)) {
            Some(flow) if self.lanes_of(lane.0, band).is_empty() && flow.home.as_ref() == Some(&lane.2) => {
                flow.finish.max(floor)
            }
            Some(_) => floor + self.owed(lane.0, band),
            None => floor,
        };
        let (filed, turn) = (self.count(), self.count());
        self.flows.entry((lane.0, band)).or_default();
        self.lanes.insert(lane, Lane { floor, finish, filed, turn });
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
        let (start, charge) = (self.start(lane), charge(cost, weight));
        let turn = self.count();
        self.lanes.get_mut(lane).expect("it was served").turn = turn;
        self.advance(session, lane, start);
        self.charge_lanes(tenant, band, charge);
        self.lanes.get_mut(lane).expect("it was served").finish = start + charge;
        self.flow_mut(tenant, band).open += 1;
        self.end_lane_if_empty(lane);
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
        let charge = charge(lease.cost, lease.weight);
        self.flows.entry((tenant, band)).or_default().open += 1;
        if self.lanes_of(tenant, band).is_empty() {
            self.settle_at(tenant, band, &route);
            self.flow_mut(tenant, band).finish += charge;
        } else {
            self.charge_lanes(tenant, band, charge);
        }
        self.refile(tenant, band);
        self.forget_passed();
    }

    pub(crate) fn charge_settled(&mut self, id: LiteId, lease: Charge, used: Option<u64>) {
        let (tenant, band, route) = self.lane_of(id, lease.band);
        let reserved = charge(lease.cost, lease.weight);
        let used = used.map_or(0, |cost| charge(cost, lease.weight));
        self.flow_mut(tenant, band).open -= 1;
        if used != reserved {
            let corrected = |finish: u128| (finish + used).saturating_sub(reserved);
            let lanes = self.lanes_of(tenant, band);
            if lanes.is_empty() {
                self.start_clock(&route, band);
                self.settle_at(tenant, band, &route);
                let flow = self.flow_mut(tenant, band);
                flow.finish = corrected(flow.finish);
            }
            for lane in lanes {
                let lane = self.lanes.get_mut(&lane).expect("it is there");
                lane.finish = corrected(lane.finish);
            }
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
                    let floor = self.clock(&lane.2, band);
                    self.lanes.get_mut(&lane).expect("it is there").floor = floor;
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
        if self.lites.values().any(|lite| lite.route == *route) {
            return;
        }
        let is_here = |flow: &Flow| flow.home.as_ref() == Some(route);
        let here: Vec<_> = self.flows.iter().filter(|(_, flow)| is_here(flow)).map(|(&name, _)| name).collect();
        for (tenant, band) in here {
            let owed = self.owed_at_home(tenant, band);
            let flow = self.flow_mut(tenant, band);
            (flow.home, flow.finish) = (None, owed);
            if flow.open == 0 && self.lanes_of(tenant, band).is_empty() {
                self.flows.remove(&(tenant, band));
            }
        }
        self.clocks.retain(|(other, _), _| other != route);
        self.offsets.retain(|(other, _), _| other != route);
    }

    pub(crate) fn all_open(&self) -> bool {
        self.sessions.iter().any(|session| session.scope == Scope::All && session.credit > 0)
    }

    /// Changes sessions. What nobody has credit for any more keeps the group's time of now. Answers what was open before.
    pub(crate) fn change_sessions(&mut self, change: impl FnOnce(&mut Vec<Session>)) -> Open {
        let open = self.clocks.keys().filter(|(route, _)| self.is_open_to_members(route));
        let before = Open { all: self.all_open(), routes: open.map(|(route, _)| route.clone()).collect() };
        change(&mut self.sessions);
        let closed = before.routes.iter().filter(|route| !self.is_open_to_members(route));
        for route in closed.cloned().collect::<Vec<_>>() {
            for ((_, band), clock) in self.clocks.iter_mut().filter(|((other, _), _)| *other == route) {
                let group_clock = self.group_clocks[usize::from(*band)];
                *clock = group_clock.saturating_sub(self.offsets[&(route.clone(), *band)]).max(*clock);
            }
        }
        if before.all && !self.all_open() {
            for band in 0..10 {
                let now = self.group_clocks[band].saturating_sub(self.offsets_of_all[band]);
                self.clocks_of_all[band] = now.max(self.clocks_of_all[band]);
            }
        }
        before
    }

    /// A session has credit again: what it may serve starts at the group's clock, no earlier.
    pub(crate) fn catch_up(&mut self, key: SessionKey, before: &Open) {
        let takes_all = self.sessions.iter().any(|session| session.key == key && session.scope == Scope::All);
        for band in 0..10 {
            let group_clock = self.group_clocks[usize::from(band)];
            let may_serve = |lane: &&LaneName| {
                lane.1 == band && !self.blocked.contains(&lane.0) && (takes_all || lane.2.contains(&key))
            };
            let first = self.lanes.keys().filter(may_serve).map(|lane| self.start(lane)).min();
            let behind = first.map_or(0, |first| group_clock.saturating_sub(first));
            if takes_all {
                let offset = &mut self.offsets_of_all[usize::from(band)];
                *offset = if before.all { *offset } else { behind.max(*offset) };
                continue;
            }
            let offset = self.session_offsets.entry((key, band)).or_default();
            *offset = behind.max(*offset);
            for ((route, of), now) in &mut self.offsets {
                if *of == band && route.contains(&key) {
                    *now = if before.routes.contains(route) { (*offset).min(*now) } else { *offset };
                }
            }
        }
    }

    /// The largest difference of start tags that are compared, in cost units.
    pub(crate) fn service_gap(&self) -> u64 {
        let gaps = (0..10).map(|band| {
            let lanes = self.queue(band);
            let start = |lane: &LaneName| self.start(lane) + self.offset(&lane.2, band).expect("it may be served");
            let starts = || lanes.iter().map(start);
            starts().max().unwrap_or(0) - starts().min().unwrap_or(0)
        });
        u64::try_from(gaps.max().unwrap_or(0).div_ceil(1 << 40)).unwrap_or(u64::MAX)
    }

    fn is_open_to_members(&self, route: &Route) -> bool {
        let serves = |session: &Session| session.scope == Scope::Named && session.serves(route);
        self.sessions.iter().any(|session| session.credit > 0 && serves(session))
    }

    /// What the route's time is behind the group's, while somebody has credit for it.
    fn offset(&self, route: &Route, band: u8) -> Option<u128> {
        let own = self.offsets.get(&(route.clone(), band)).filter(|_| self.is_open_to_members(route)).copied();
        let of_all = self.all_open().then(|| self.offsets_of_all[usize::from(band)]);
        own.into_iter().chain(of_all).min()
    }

    /// A delivery is paid in all of a tenant's lanes.
    fn charge_lanes(&mut self, tenant: TenantId, band: u8, charge: u128) {
        for lane in self.lanes_of(tenant, band) {
            let finish = self.clock(&lane.2, band) + charge;
            let lane = self.lanes.get_mut(&lane).expect("it is there");
            lane.finish = lane.finish.max(finish);
        }
    }

    /// How far the tenant's finish tags are ahead of where it would start.
    fn owed(&self, tenant: TenantId, band: u8) -> u128 {
        let lanes = self.lanes_of(tenant, band);
        let owed = lanes.iter().map(|lane| self.lanes[lane].finish.saturating_sub(self.clock(&lane.2, band)));
        owed.max().unwrap_or_else(|| self.owed_at_home(tenant, band))
    }

    fn owed_at_home(&self, tenant: TenantId, band: u8) -> u128 {
        let flow = &self.flows[&(tenant, band)];
        flow.home.as_ref().map_or(flow.finish, |home| flow.finish.saturating_sub(self.clock(home, band)))
    }

    /// A tenant without lanes pays at its home, or here if that is gone or it owes nothing there.
    fn settle_at(&mut self, tenant: TenantId, band: u8, route: &Route) {
        let (owed, clock) = (self.owed_at_home(tenant, band), self.clock(route, band));
        let flow = self.flow_mut(tenant, band);
        if flow.home.is_none() || owed == 0 {
            (flow.home, flow.finish) = (Some(route.clone()), clock + owed);
        }
    }

    fn may_serve(&self, lane: &LaneName, band: u8) -> bool {
        lane.1 == band && !self.blocked.contains(&lane.0) && self.is_open(&lane.2)
    }

    fn start(&self, lane: &LaneName) -> u128 {
        self.lanes[lane].floor.max(self.lanes[lane].finish)
    }

    /// The latest of the route's own clock, that of those that take all, and the group's while the route can be served.
    fn clock(&self, route: &Route, band: u8) -> u128 {
        let own = self.clocks.get(&(route.clone(), band)).copied().unwrap_or(0);
        let group_clock = self.group_clocks[usize::from(band)];
        let of_group = self.offset(route, band).map_or(0, |offset| group_clock.saturating_sub(offset));
        own.max(self.clocks_of_all[usize::from(band)]).max(of_group)
    }

    /// A route's clock starts where the latest is of those that share a session with it.
    fn start_clock(&mut self, route: &Route, band: u8) {
        if self.clocks.contains_key(&(route.clone(), band)) {
            return;
        }
        let near = self.clocks.keys().filter(|(near, of)| *of == band && near.iter().any(|key| route.contains(key)));
        let clock = near.map(|(near, _)| self.clock(near, band)).max().unwrap_or(0);
        self.clocks.insert((route.clone(), band), clock);
        let members = self.sessions.iter().filter(|session| session.scope == Scope::Named && session.credit > 0);
        let offsets = members.filter(|session| session.serves(route)).map(|session| (session.key, band));
        let offset = offsets.map(|name| self.session_offsets.get(&name).copied().unwrap_or(0)).min();
        self.offsets.insert((route.clone(), band), offset.unwrap_or(0));
    }

    /// A delivery moves the group's clock, and those of all that its session serves.
    fn advance(&mut self, key: SessionKey, (_, band, route): &LaneName, start: u128) {
        let (band, offset) = (*band, self.offset(route, *band).expect("it was served"));
        let group_clock = &mut self.group_clocks[usize::from(band)];
        *group_clock = (start + offset).max(*group_clock);
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
            let finish = self.lanes.remove(lane).expect("it was there").finish;
            let flow = self.flow_mut(lane.0, lane.1);
            (flow.home, flow.finish) = (Some(lane.2.clone()), finish);
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
        for ((tenant, band), flow) in self.flows.clone() {
            let is_passed = flow.home.is_none() || self.owed_at_home(tenant, band) == 0;
            if flow.open == 0 && is_passed && self.lanes_of(tenant, band).is_empty() {
                self.flows.remove(&(tenant, band));
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

//! Flows and their lanes: the lists that connect them, and how long a finish tag is kept.

use super::{Bands, Tag};
use crate::lite::{Chain, LiteKey, Lites};
use crate::route::{RouteKey, Sessions};
use crate::slab::Key;
use crate::tenant::{TenantKey, Tenants};

/// Names a flow while it exists.
pub(crate) type FlowKey = Key<Flow>;

/// Names a lane while it exists.
pub(crate) type LaneKey = Key<Lane>;

/// A tenant in one band.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) tenant: TenantKey,
    pub(super) band: u8,
    /// While it has no lane: the finish tag of its last one, in its home's time. Without a home it is what the flow owes.
    pub(super) finish: Tag,
    /// Open leases that were charged here and may still be corrected.
    pub(super) open: u32,
    /// Its lanes as a list, those first that are served first under equal start tags.
    pub(super) lanes: Option<LaneKey>,
    /// While it has no lane: the route whose clock decides how long the finish tag counts.
    pub(super) home: Option<RouteKey>,
    pub(super) state: FlowState,
    /// The tenant's next flow.
    pub(super) next: Option<FlowKey>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlowState {
    /// Has lanes, or is between two of the others.
    Busy,
    /// Nothing to serve; its finish tag is ahead of the clock and still counts.
    Resting,
    /// Nothing to serve, the clock passed its finish tag or its home is gone; kept for its open leases.
    Passed,
}

/// A flow's lite topics that have the same route; there is at least one.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(super) tenant: TenantKey,
    pub(super) band: u8,
    pub(super) route: RouteKey,
    /// In FIFO rotation.
    pub(super) lites: Chain,
    /// The route's clock when the lane last became eligible.
    pub(super) floor: Tag,
    /// When its last delivery is over, and what the flow was charged elsewhere, in the route's time.
    pub(super) finish: Tag,
    /// Its place in the queue among equal start tags; none while its tenant is blocked.
    pub(super) queued: Option<u64>,
    /// The flow's next lane.
    pub(super) next: Option<LaneKey>,
}

impl Bands {
    /// Takes the lite topic out of its lane, and the lane away if it was the last.
    pub(super) fn take(&mut self, tenants: &mut Tenants, lites: &mut Lites, lite: LiteKey, flow: FlowKey) {
        let (tenant, route) = (lites[lite].tenant, lites[lite].route);
        tenants[tenant].ready -= 1;
        let lane = self.lane(flow, route).expect("a ready lite topic is in a lane");
        self.lanes[lane].lites.remove(lites, lite);
        if !self.lanes[lane].lites.is_empty() {
            return;
        }
        self.dequeue(lane);
        self.unlink(flow, lane);
        let finish = self.lanes.remove(lane).finish;
        let row = &mut self.flows[flow];
        (row.home, row.finish) = (Some(route), finish);
    }

    /// Charges a delivery to the flow: to the lane that was served, if one was, under its start tag. In the others it is
    /// paid as well: each is at least so far ahead of its route's clock.
    pub(super) fn charge(&mut self, sessions: &Sessions, flow: FlowKey, served: Option<(LaneKey, Tag)>, charge: Tag) {
        let mut next = self.flows[flow].lanes;
        while let Some(lane) = next {
            let Lane { route, band, finish, .. } = self.lanes[lane];
            self.lanes[lane].finish = match served {
                Some((served, start)) if served == lane => start + charge,
                _ => finish.max(self.clock(sessions, route, band) + charge),
            };
            next = self.lanes[lane].next;
        }
    }

    /// The flow pays `used` instead of `reserved`, in all lanes.
    pub(super) fn correct(&mut self, flow: FlowKey, used: Tag, reserved: Tag) {
        let corrected = |finish: Tag| (finish + used).saturating_sub(reserved);
        let row = &mut self.flows[flow];
        if row.lanes.is_none() {
            row.finish = corrected(row.finish);
        }
        let mut next = row.lanes;
        while let Some(lane) = next {
            self.lanes[lane].finish = corrected(self.lanes[lane].finish);
            next = self.lanes[lane].next;
        }
    }

    /// The finish tag of a new lane of the flow in this route, which would start at `floor`: the one that it left there, or
    /// what it owes elsewhere on top of the floor.
    pub(super) fn finish_in(&self, sessions: &Sessions, flow: FlowKey, route: RouteKey, floor: Tag) -> Tag {
        let Flow { lanes, home, finish, .. } = self.flows[flow];
        if lanes.is_none() && home == Some(route) {
            return finish.max(floor);
        }
        let owed_in = |&lane: &LaneKey| {
            let Lane { route, band, finish, .. } = self.lanes[lane];
            finish.saturating_sub(self.clock(sessions, route, band))
        };
        let owed = std::iter::successors(lanes, |&lane| self.lanes[lane].next).map(|lane| owed_in(&lane)).max();
        floor + owed.unwrap_or_else(|| self.owed(sessions, flow))
    }

    /// What a flow without lanes owes.
    pub(super) fn owed(&self, sessions: &Sessions, flow: FlowKey) -> Tag {
        let Flow { home, band, finish, .. } = self.flows[flow];
        home.map_or(finish, |home| finish.saturating_sub(self.clock(sessions, home, band)))
    }

    /// Gives a flow without lanes a home if it has none where it owes something: this route.
    pub(super) fn settle_at(&mut self, sessions: &Sessions, flow: FlowKey, route: RouteKey) {
        let Flow { home, band, .. } = self.flows[flow];
        let owed = self.owed(sessions, flow);
        if home.is_none() || owed == 0 {
            let finish = self.clock(sessions, route, band) + owed;
            let row = &mut self.flows[flow];
            (row.home, row.finish) = (Some(route), finish);
        }
    }

    /// The lane is served: under equal start tags the flow's others come before it.
    pub(super) fn rotate(&mut self, flow: FlowKey, lane: LaneKey) {
        if self.lanes[lane].next.is_some() {
            self.unlink(flow, lane);
            self.append(flow, lane);
        }
    }

    pub(super) fn append(&mut self, flow: FlowKey, lane: LaneKey) {
        match std::iter::successors(self.flows[flow].lanes, |&key| self.lanes[key].next).last() {
            Some(last) => self.lanes[last].next = Some(lane),
            None => self.flows[flow].lanes = Some(lane),
        }
    }

    pub(super) fn unlink(&mut self, flow: FlowKey, lane: LaneKey) {
        let next = self.lanes[lane].next.take();
        match self.lane_before(flow, lane) {
            Some(before) => self.lanes[before].next = next,
            None => self.flows[flow].lanes = next,
        }
    }

    /// The flow is about to change: it counts no longer as resting.
    pub(super) fn wake(&mut self, key: FlowKey) {
        let Flow { state, home, band, finish, .. } = self.flows[key];
        if let Some(home) = home.filter(|_| state == FlowState::Resting) {
            let was_there = self.queue_mut(home, band).resting.remove(&(finish, key));
            assert!(was_there, "a resting flow is where it was left");
        }
        self.flows[key].state = FlowState::Busy;
    }

    /// A flow without lanes rests while its finish tag counts, and is forgotten afterwards.
    pub(super) fn settle_down(&mut self, sessions: &Sessions, tenants: &mut Tenants, key: FlowKey) {
        let Flow { lanes, home, band, finish, .. } = self.flows[key];
        if lanes.is_some() {
            return;
        }
        let owed = self.owed(sessions, key);
        if let Some(home) = home.filter(|_| owed > 0) {
            self.flows[key].state = FlowState::Resting;
            self.queue_mut(home, band).resting.insert((finish, key));
        } else {
            self.pass(tenants, key, owed);
        }
    }

    /// The flow counts nowhere until it is used again; only what it owes is kept, while it has leases.
    pub(super) fn pass(&mut self, tenants: &mut Tenants, key: FlowKey, owed: Tag) {
        let row = &mut self.flows[key];
        (row.home, row.finish, row.state) = (None, owed, FlowState::Passed);
        self.forget_if_unused(tenants, key);
    }

    pub(super) fn forget_if_unused(&mut self, tenants: &mut Tenants, key: FlowKey) {
        let Flow { tenant, open, next, .. } = self.flows[key];
        if open > 0 {
            return;
        }
        let before = std::iter::successors(tenants[tenant].flows, |&flow| self.flows[flow].next)
            .find(|&flow| self.flows[flow].next == Some(key));
        match before {
            Some(before) => self.flows[before].next = next,
            None => tenants[tenant].flows = next,
        }
        self.flows.remove(key);
        tenants.release(tenant);
    }

    pub(super) fn flow(&self, tenants: &Tenants, tenant: TenantKey, band: u8) -> Option<FlowKey> {
        let mut next = tenants[tenant].flows;
        while let Some(key) = next {
            let flow = &self.flows[key];
            if flow.band == band {
                return Some(key);
            }
            next = flow.next;
        }
        None
    }

    pub(super) fn flow_or_new(&mut self, tenants: &mut Tenants, tenant: TenantKey, band: u8) -> FlowKey {
        if let Some(flow) = self.flow(tenants, tenant, band) {
            return flow;
        }
        let next = tenants[tenant].flows;
        let flow = Flow { tenant, band, finish: 0, open: 0, lanes: None, home: None, state: FlowState::Busy, next };
        let key = self.flows.insert(flow);
        tenants[tenant].flows = Some(key);
        key
    }

    /// The tenant's flows: one for each band at most.
    pub(crate) fn flows_of(&self, tenants: &Tenants, tenant: TenantKey) -> Vec<FlowKey> {
        std::iter::successors(tenants[tenant].flows, |&key| self.flows[key].next).collect()
    }

    pub(super) fn lane(&self, flow: FlowKey, route: RouteKey) -> Option<LaneKey> {
        std::iter::successors(self.flows[flow].lanes, |&key| self.lanes[key].next)
            .find(|&key| self.lanes[key].route == route)
    }

    pub(super) fn lane_before(&self, flow: FlowKey, lane: LaneKey) -> Option<LaneKey> {
        std::iter::successors(self.flows[flow].lanes, |&key| self.lanes[key].next)
            .find(|&key| self.lanes[key].next == Some(lane))
    }

    /// Before the flow's finish tag changes.
    pub(super) fn dequeue_all(&mut self, flow: FlowKey) {
        let mut next = self.flows[flow].lanes;
        while let Some(lane) = next {
            self.dequeue(lane);
            next = self.lanes[lane].next;
        }
    }

    /// Queues the flow's lanes, unless its tenant is blocked.
    pub(super) fn enqueue_all(&mut self, tenants: &Tenants, flow: FlowKey) {
        if tenants[self.flows[flow].tenant].blocked {
            return;
        }
        let mut next = self.flows[flow].lanes;
        while let Some(lane) = next {
            self.enqueue(lane);
            next = self.lanes[lane].next;
        }
    }
}

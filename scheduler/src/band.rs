//! Priority bands: start-time fair queueing over tenants, and turns for the lower bands.
//!
//! A tenant that is served in a band has a **flow** there: the finish tag of what it was served so far. Where the flow has
//! lite topics to serve it has a **lane**, one for each route that they have. A lane is queued under its start tag, the
//! flow's finish or the clock at which it became eligible, the later; a delivery moves the finish tag by cost / weight. The
//! lowest start tag is served next.
//!
//! Each route has a clock in each band, since routes that share no session advance at different speeds: a delivery moves
//! the clocks of all routes that its session serves (`docs/adr/0007`).

use std::collections::BTreeSet;

use sluicegate_protocol::limits::{COST_MAX, PRIORITY_MAX};

use crate::lite::{Chain, LiteKey, Lites};
use crate::route::{RouteKey, Sessions};
use crate::slab::{Key, Slab};
use crate::tenant::{TenantKey, Tenants};
use crate::{Charge, SessionKey};

/// Number of bands; the highest is served first.
pub(crate) const BANDS: usize = PRIORITY_MAX as usize + 1;

/// Every so many dispatches of a band one goes to a lower band that is ready too.
const TURN_EVERY: u32 = 20;

/// Bits after the point of virtual time. Costs have 40 bits, so 2^48 of the costliest deliveries fit in 128.
const FRACTION_BITS: u32 = 40;

/// Finish tags ahead of the clock that one route keeps in one band; beyond it the lowest are forgotten first.
const FINISHES_KEPT_MAX: usize = 131_072;

/// Finish tags dropped in one go, so that a jump of the clock has no spike. Each dispatch adds one at most.
const FINISHES_DROPPED_AT_ONCE: usize = 8;

/// Names a flow while it exists.
pub(crate) type FlowKey = Key<Flow>;

/// Names a lane while it exists.
pub(crate) type LaneKey = Key<Lane>;

/// A point in virtual time.
type Tag = u128;

/// A tenant in one band.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) tenant: TenantKey,
    band: u8,
    finish: Tag,
    /// Open leases that were charged here and may still be corrected.
    open: u32,
    /// Its lanes as a list, those first that are served first under equal start tags.
    lanes: Option<LaneKey>,
    /// The route that it was in last, whose clock decides how long the finish tag counts.
    home: RouteKey,
    state: FlowState,
    /// The tenant's next flow.
    next: Option<FlowKey>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FlowState {
    /// Has lanes, or is between two of the others.
    Busy,
    /// Nothing to serve; its finish tag is ahead of the clock and still counts.
    Resting,
    /// Nothing to serve, the clock passed its finish tag; kept for its open leases.
    Passed,
}

/// A flow's lite topics that have the same route; there is at least one.
#[derive(Debug)]
pub(crate) struct Lane {
    flow: FlowKey,
    tenant: TenantKey,
    band: u8,
    route: RouteKey,
    /// In FIFO rotation.
    lites: Chain,
    /// The route's clock when the lane last became eligible.
    floor: Tag,
    /// Its place in the queue among equal start tags; none while its tenant is blocked.
    queued: Option<u64>,
    /// The flow's next lane.
    next: Option<LaneKey>,
}

/// One route in one band.
#[derive(Debug, Default)]
struct Queue {
    clock: Tag,
    lanes: BTreeSet<(Tag, u64, LaneKey)>,
    resting: BTreeSet<(Tag, FlowKey)>,
}

#[derive(Debug, Default)]
struct RouteQueues {
    /// A session that the route names has credit.
    is_open: bool,
    bands: [Option<Box<Queue>>; BANDS],
}

/// The first lane of each route of one band.
#[derive(Debug, Default)]
struct Band {
    fronts: BTreeSet<(Tag, u64, RouteKey)>,
    open_fronts: BTreeSet<(Tag, u64, RouteKey)>,
    /// Clock of the sessions that take all: no route is behind it.
    clock_of_all: Tag,
}

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

    /// The lane with the lowest start tag.
    pub(crate) fn first(&self, band: u8, reach: Reach) -> Option<LaneKey> {
        let &(.., route) = self.all[usize::from(band)].fronts(reach).first()?;
        self.queue(route, band)?.lanes.first().map(|&(.., lane)| lane)
    }

    /// The lite topic that the lane serves next.
    pub(crate) fn front(&self, lane: LaneKey) -> LiteKey {
        self.lanes[lane].lites.first().expect("a lane has a lite topic")
    }

    pub(crate) fn tenant(&self, lane: LaneKey) -> TenantKey {
        self.lanes[lane].tenant
    }

    /// The lane that serves the lite topic, if its tenant may be served.
    pub(crate) fn queued(&self, tenants: &Tenants, lites: &Lites, lite: LiteKey, band: u8) -> Option<LaneKey> {
        let flow = self.flow(tenants, lites[lite].tenant, band)?;
        let lane = self.lane(flow, lites[lite].route)?;
        self.lanes[lane].queued.map(|_| lane)
    }

    /// Up to `count` lite topics near the front of the lane's queue: the first of each lane if there are many, more of
    /// each if there are few.
    pub(crate) fn near_front(&self, lites: &Lites, route: RouteKey, band: u8, count: usize) -> Vec<LiteKey> {
        let Some(queue) = self.queue(route, band) else { return Vec::new() };
        let lanes = queue.lanes.len().min(count);
        let of_each = count / lanes.max(1);
        let first_lanes = queue.lanes.iter().take(lanes).map(|&(.., lane)| lane);
        first_lanes.flat_map(|lane| self.lanes[lane].lites.iter(lites).take(of_each)).collect()
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
        let flow = self.flow_or_new(tenants, tenant, band, route);
        tenants[tenant].ready += 1;
        if let Some(lane) = self.lane(flow, route) {
            self.lanes[lane].lites.push(lites, lite);
            return;
        }
        self.reopen(flow);
        let mut chain = Chain::default();
        chain.push(lites, lite);
        let floor = self.clock(route, band);
        let lane = self.lanes.insert(Lane { flow, tenant, band, route, lites: chain, floor, queued: None, next: None });
        self.append(flow, lane);
        if !tenants[tenant].blocked {
            self.enqueue(lane);
        }
    }

    /// Takes a lite topic out of its tenant's rotation, without service.
    pub(crate) fn remove(&mut self, tenants: &mut Tenants, lites: &mut Lites, lite: LiteKey, band: u8) {
        let flow = self.flow(tenants, lites[lite].tenant, band).expect("a ready lite topic is in a flow");
        self.take(tenants, lites, lite, flow);
        self.settle_down(tenants, flow);
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
        self.take(tenants, lites, lite, flow);
        let row = &mut self.flows[flow];
        row.finish = start + charge(cost, tenants.weight(tenant));
        row.open += 1;
        self.advance(sessions, session, band, start);
        self.enqueue_all(tenants, flow);
        self.settle_down(tenants, flow);
        self.drop_passed(tenants, route, band);
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
        let flow = self.flow_or_new(tenants, tenant, band, route);
        self.dequeue_all(flow);
        self.reopen(flow);
        let clock = self.clock(route, band);
        let row = &mut self.flows[flow];
        row.home = route;
        row.finish = row.finish.max(clock) + charge(lease.cost, lease.weight);
        row.open += 1;
        self.enqueue_all(tenants, flow);
        self.settle_down(tenants, flow);
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
            // The route of its last lane may be gone; this one has a lite topic.
            self.open_queue(sessions, route, band);
            let row = &mut self.flows[flow];
            row.home = route;
            row.finish = (row.finish + used).saturating_sub(reserved);
            self.enqueue_all(tenants, flow);
            self.settle_down(tenants, flow);
        } else if row.state == FlowState::Passed {
            self.forget_if_unused(tenants, flow);
        }
        self.drop_passed(tenants, route, band);
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
    pub(crate) fn unblock(&mut self, tenants: &mut Tenants, tenant: TenantKey) {
        tenants[tenant].blocked = false;
        let id = tenants[tenant].id;
        tenants.blocked.remove(&id);
        for flow in self.flows_of(tenants, tenant) {
            let band = self.flows[flow].band;
            let mut next = self.flows[flow].lanes;
            while let Some(lane) = next {
                self.lanes[lane].floor = self.clock(self.lanes[lane].route, band);
                next = self.lanes[lane].next;
            }
            self.enqueue_all(tenants, flow);
        }
    }

    /// Whether a session that the route names has credit.
    pub(crate) fn set_open(&mut self, route: RouteKey, is_open: bool) {
        let row = self.route_row(route);
        if row.is_open == is_open {
            return;
        }
        row.is_open = is_open;
        for band in 0..BANDS {
            let Some(front) = self.front_of(route, band) else { continue };
            let open_fronts = &mut self.all[band].open_fronts;
            let changed = if is_open { open_fronts.insert(front) } else { open_fronts.remove(&front) };
            assert!(changed, "a route is among the open ones while it is open");
        }
    }

    /// The route's last lite topic went: what it remembers is forgotten.
    pub(crate) fn close(&mut self, tenants: &mut Tenants, route: RouteKey) {
        let Some(row) = self.routes.get_mut(route.index()) else { return };
        for queue in std::mem::take(row).bands.into_iter().flatten() {
            assert!(queue.lanes.is_empty(), "a lane's lite topics have its route");
            for (_, flow) in queue.resting {
                self.flows[flow].state = FlowState::Passed;
                self.forget_if_unused(tenants, flow);
            }
        }
    }

    /// How many lanes are served before this lite topic's, and how many there are, both counted to `count_max`.
    pub(crate) fn lanes_before(
        &self,
        tenants: &Tenants,
        lites: &Lites,
        (lite, band): (LiteKey, u8),
        count_max: usize,
    ) -> Option<(usize, usize)> {
        let own = self.queued(tenants, lites, lite, band)?;
        let lanes = &self.queue(lites[lite].route, band)?.lanes;
        let before = lanes.iter().take(count_max).take_while(|&&(.., lane)| lane != own).count();
        Some((before, lanes.len().min(count_max)))
    }

    fn is_ready(&self, band: usize, reach: Reach) -> bool {
        !self.all[band].fronts(reach).is_empty()
    }

    /// Start tag under which the lane is served.
    fn start(&self, lane: LaneKey) -> Tag {
        let Lane { flow, floor, .. } = self.lanes[lane];
        floor.max(self.flows[flow].finish)
    }

    fn clock(&self, route: RouteKey, band: u8) -> Tag {
        let own = self.queue(route, band).map_or(0, |queue| queue.clock);
        own.max(self.all[usize::from(band)].clock_of_all)
    }

    /// A delivery under this start tag moves the clocks of all routes that its session serves.
    fn advance(&mut self, sessions: &Sessions, session: SessionKey, band: u8, start: Tag) {
        if sessions.takes_all(session) {
            let clock = &mut self.all[usize::from(band)].clock_of_all;
            *clock = start.max(*clock);
            return;
        }
        for route in sessions.routes_of(session) {
            let queue = self.routes.get_mut(route.index()).and_then(|row| row.bands[usize::from(band)].as_mut());
            if let Some(queue) = queue {
                queue.clock = start.max(queue.clock);
            }
        }
    }

    fn queue(&self, route: RouteKey, band: u8) -> Option<&Queue> {
        self.routes.get(route.index()).and_then(|row| row.bands[usize::from(band)].as_deref())
    }

    fn queue_mut(&mut self, route: RouteKey, band: u8) -> &mut Queue {
        self.routes[route.index()].bands[usize::from(band)].as_mut().expect("a lane's queue is there")
    }

    fn route_row(&mut self, route: RouteKey) -> &mut RouteQueues {
        if self.routes.len() <= route.index() {
            self.routes.resize_with(route.index() + 1, RouteQueues::default);
        }
        &mut self.routes[route.index()]
    }

    /// Makes the route's queue if it has none in this band. It starts at the latest clock among the routes that share a
    /// session with it.
    fn open_queue(&mut self, sessions: &Sessions, route: RouteKey, band: u8) {
        if self.route_row(route).bands[usize::from(band)].is_some() {
            return;
        }
        let clock = sessions.neighbours(route).filter_map(|near| self.queue(near, band)).map(|near| near.clock).max();
        let queue = Queue { clock: clock.unwrap_or_default(), ..Queue::default() };
        self.routes[route.index()].bands[usize::from(band)] = Some(Box::new(queue));
    }

    fn front_of(&self, route: RouteKey, band: usize) -> Option<(Tag, u64, RouteKey)> {
        let queue = self.routes[route.index()].bands[band].as_ref()?;
        queue.lanes.first().map(|&(start, sequence, _)| (start, sequence, route))
    }

    /// After the route's first lane may have changed.
    fn refront(&mut self, route: RouteKey, band: u8, before: Option<(Tag, u64, RouteKey)>) {
        let now = self.front_of(route, usize::from(band));
        if before == now {
            return;
        }
        let is_open = self.routes[route.index()].is_open;
        let Band { fronts, open_fronts, .. } = &mut self.all[usize::from(band)];
        // What comes goes in first: a set of one then never gives its memory back.
        if let Some(now) = now {
            fronts.insert(now);
            if is_open {
                open_fronts.insert(now);
            }
        }
        if let Some(before) = before {
            fronts.remove(&before);
            if is_open {
                open_fronts.remove(&before);
            }
        }
    }

    fn enqueue(&mut self, key: LaneKey) {
        self.sequence += 1;
        let (start, sequence) = (self.start(key), self.sequence);
        let lane = &mut self.lanes[key];
        assert!(lane.queued.replace(sequence).is_none(), "a lane is queued once");
        let (route, band) = (lane.route, lane.band);
        let before = self.front_of(route, usize::from(band));
        self.queue_mut(route, band).lanes.insert((start, sequence, key));
        self.refront(route, band, before);
    }

    fn dequeue(&mut self, key: LaneKey) {
        let start = self.start(key);
        let lane = &mut self.lanes[key];
        let Some(sequence) = lane.queued.take() else { return };
        let (route, band) = (lane.route, lane.band);
        let before = self.front_of(route, usize::from(band));
        let was_there = self.queue_mut(route, band).lanes.remove(&(start, sequence, key));
        assert!(was_there, "a queued lane is in its queue");
        self.refront(route, band, before);
    }

    /// Before the flow's finish tag changes.
    fn dequeue_all(&mut self, flow: FlowKey) {
        let mut next = self.flows[flow].lanes;
        while let Some(lane) = next {
            self.dequeue(lane);
            next = self.lanes[lane].next;
        }
    }

    /// Queues the flow's lanes, unless its tenant is blocked.
    fn enqueue_all(&mut self, tenants: &Tenants, flow: FlowKey) {
        if tenants[self.flows[flow].tenant].blocked {
            return;
        }
        let mut next = self.flows[flow].lanes;
        while let Some(lane) = next {
            self.enqueue(lane);
            next = self.lanes[lane].next;
        }
    }

    /// Takes the lite topic out of its lane, and the lane away if it was the last.
    fn take(&mut self, tenants: &mut Tenants, lites: &mut Lites, lite: LiteKey, flow: FlowKey) {
        let (tenant, route) = (lites[lite].tenant, lites[lite].route);
        tenants[tenant].ready -= 1;
        let lane = self.lane(flow, route).expect("a ready lite topic is in a lane");
        self.lanes[lane].lites.remove(lites, lite);
        if !self.lanes[lane].lites.is_empty() {
            return;
        }
        self.dequeue(lane);
        self.unlink(flow, lane);
        self.lanes.remove(lane);
        self.flows[flow].home = route;
    }

    /// The lane is served: under equal start tags the flow's others come before it.
    fn rotate(&mut self, flow: FlowKey, lane: LaneKey) {
        if self.lanes[lane].next.is_some() {
            self.unlink(flow, lane);
            self.append(flow, lane);
        }
    }

    fn append(&mut self, flow: FlowKey, lane: LaneKey) {
        match std::iter::successors(self.flows[flow].lanes, |&key| self.lanes[key].next).last() {
            Some(last) => self.lanes[last].next = Some(lane),
            None => self.flows[flow].lanes = Some(lane),
        }
    }

    fn unlink(&mut self, flow: FlowKey, lane: LaneKey) {
        let next = self.lanes[lane].next.take();
        match self.lane_before(flow, lane) {
            Some(before) => self.lanes[before].next = next,
            None => self.flows[flow].lanes = next,
        }
    }

    /// The flow is about to change: it counts no longer as resting.
    fn wake(&mut self, key: FlowKey) {
        let Flow { state, home, band, finish, .. } = self.flows[key];
        if state == FlowState::Resting {
            let was_there = self.queue_mut(home, band).resting.remove(&(finish, key));
            assert!(was_there, "a resting flow is where it was left");
        }
        self.flows[key].state = FlowState::Busy;
    }

    /// The flow is about to be used again. A finish tag that the clock passed while no lease was open counts no longer,
    /// dropped or not.
    fn reopen(&mut self, key: FlowKey) {
        let Flow { state, home, band, finish, open, .. } = self.flows[key];
        self.wake(key);
        if state == FlowState::Resting && open == 0 && finish <= self.clock(home, band) {
            self.flows[key].finish = 0;
        }
    }

    /// A flow without lanes rests while its finish tag counts, and is forgotten afterwards.
    fn settle_down(&mut self, tenants: &mut Tenants, key: FlowKey) {
        let Flow { lanes, home, band, finish, .. } = self.flows[key];
        if lanes.is_some() {
            return;
        }
        let clock = self.clock(home, band);
        if finish > clock && self.queue(home, band).is_some() {
            self.flows[key].state = FlowState::Resting;
            self.queue_mut(home, band).resting.insert((finish, key));
        } else {
            self.flows[key].state = FlowState::Passed;
            self.forget_if_unused(tenants, key);
        }
    }

    /// Forgets finish tags that the clock passed, and those above the limit.
    fn drop_passed(&mut self, tenants: &mut Tenants, route: RouteKey, band: u8) {
        let clock = self.clock(route, band);
        for _ in 0..FINISHES_DROPPED_AT_ONCE {
            let Some(queue) = self.routes.get_mut(route.index()).and_then(|row| row.bands[usize::from(band)].as_mut())
            else {
                return;
            };
            let Some(&(finish, key)) = queue.resting.first() else { return };
            if finish > clock && queue.resting.len() <= FINISHES_KEPT_MAX {
                return;
            }
            queue.resting.pop_first();
            self.flows[key].state = FlowState::Passed;
            self.forget_if_unused(tenants, key);
        }
    }

    fn forget_if_unused(&mut self, tenants: &mut Tenants, key: FlowKey) {
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

    fn flow(&self, tenants: &Tenants, tenant: TenantKey, band: u8) -> Option<FlowKey> {
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

    fn flow_or_new(&mut self, tenants: &mut Tenants, tenant: TenantKey, band: u8, home: RouteKey) -> FlowKey {
        if let Some(flow) = self.flow(tenants, tenant, band) {
            return flow;
        }
        let next = tenants[tenant].flows;
        let flow = Flow { tenant, band, finish: 0, open: 0, lanes: None, home, state: FlowState::Busy, next };
        let key = self.flows.insert(flow);
        tenants[tenant].flows = Some(key);
        key
    }

    /// The tenant's flows: one for each band at most.
    pub(crate) fn flows_of(&self, tenants: &Tenants, tenant: TenantKey) -> Vec<FlowKey> {
        std::iter::successors(tenants[tenant].flows, |&key| self.flows[key].next).collect()
    }

    fn lane(&self, flow: FlowKey, route: RouteKey) -> Option<LaneKey> {
        std::iter::successors(self.flows[flow].lanes, |&key| self.lanes[key].next)
            .find(|&key| self.lanes[key].route == route)
    }

    fn lane_before(&self, flow: FlowKey, lane: LaneKey) -> Option<LaneKey> {
        std::iter::successors(self.flows[flow].lanes, |&key| self.lanes[key].next)
            .find(|&key| self.lanes[key].next == Some(lane))
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

impl Band {
    fn fronts(&self, reach: Reach) -> &BTreeSet<(Tag, u64, RouteKey)> {
        match reach {
            Reach::AllRoutes => &self.fronts,
            Reach::OpenRoutes => &self.open_fronts,
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

#[cfg(test)]
impl Bands {
    pub(crate) fn check_invariants(&self, sessions: &Sessions, tenants: &Tenants, lites: &Lites) {
        let (mut queued, mut resting) = (0, 0);
        for (key, flow) in self.flows.iter() {
            assert_eq!(self.flow(tenants, flow.tenant, flow.band), Some(key));
            match flow.state {
                FlowState::Busy => assert!(flow.lanes.is_some()),
                FlowState::Resting => {
                    let queue = self.queue(flow.home, flow.band).unwrap();
                    assert!(flow.lanes.is_none() && queue.resting.contains(&(flow.finish, key)));
                    resting += 1;
                }
                FlowState::Passed => assert!(flow.lanes.is_none() && flow.open > 0),
            }
        }
        for (key, lane) in self.lanes.iter() {
            let flow = &self.flows[lane.flow];
            assert_eq!(self.lane(lane.flow, lane.route), Some(key));
            assert!(!lane.lites.is_empty());
            for lite in lane.lites.iter(lites) {
                assert_eq!(lites[lite].place, crate::lite::Place::Ready(flow.band));
                assert_eq!((lites[lite].tenant, lites[lite].route), (flow.tenant, lane.route));
            }
            assert_eq!(lane.queued.is_some(), !tenants[flow.tenant].blocked);
            if let Some(sequence) = lane.queued {
                let queue = self.queue(lane.route, flow.band).unwrap();
                assert!(queue.lanes.contains(&(self.start(key), sequence, key)));
                queued += 1;
            }
        }
        let all_queues = || self.routes.iter().flat_map(|row| row.bands.iter().flatten());
        assert_eq!(queued, all_queues().map(|queue| queue.lanes.len()).sum::<usize>());
        assert_eq!(resting, all_queues().map(|queue| queue.resting.len()).sum::<usize>());
        self.check_fronts(sessions);
        for (key, tenant) in tenants.iter() {
            let flows = self.flows_of(tenants, key);
            assert!(flows.iter().all(|&flow| self.flows[flow].tenant == key));
            let lanes = self.lanes.iter().filter(|(_, lane)| flows.contains(&lane.flow));
            assert_eq!(lanes.map(|(_, lane)| lane.lites.len()).sum::<usize>(), tenant.ready as usize);
            assert_eq!(tenant.blocked, tenants.blocked.contains(&tenant.id));
        }
    }

    fn check_fronts(&self, sessions: &Sessions) {
        for band in 0..BANDS {
            let routes = || sessions.routes().filter(|route| route.index() < self.routes.len());
            let fronts: BTreeSet<_> = routes().filter_map(|route| self.front_of(route, band)).collect();
            assert_eq!(self.all[band].fronts, fronts);
            let open = fronts.into_iter().filter(|&(.., route)| sessions.is_open_to_members(route));
            assert!(self.all[band].open_fronts.iter().copied().eq(open));
        }
    }
}

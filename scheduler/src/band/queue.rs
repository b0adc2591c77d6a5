//! Queues of routes: lanes by start tag, the first of each route, resting finish tags, and the clocks.

use std::collections::BTreeSet;

use super::flow::{FlowKey, FlowState, Lane, LaneKey};
use super::{BANDS, Bands, Reach, Tag};
use crate::SessionKey;
use crate::lite::{LiteKey, Lites};
use crate::route::{RouteKey, Sessions};
use crate::tenant::{TenantKey, Tenants};

/// Finish tags ahead of the clock that one route keeps in one band; beyond it the lowest are forgotten first.
const FINISHES_KEPT_MAX: usize = 131_072;

/// Finish tags dropped in one go, so that a jump of the clock has no spike. Each dispatch adds one at most.
const FINISHES_DROPPED_AT_ONCE: usize = 8;

/// One route in one band.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) clock: Tag,
    pub(super) lanes: BTreeSet<(Tag, u64, LaneKey)>,
    pub(super) resting: BTreeSet<(Tag, FlowKey)>,
}

#[derive(Debug, Default)]
pub(super) struct RouteQueues {
    /// A session that the route names has credit.
    pub(super) is_open: bool,
    pub(super) bands: [Option<Box<Queue>>; BANDS],
}

/// The first lane of each route of one band.
#[derive(Debug, Default)]
pub(super) struct Band {
    pub(super) fronts: BTreeSet<(Tag, u64, RouteKey)>,
    pub(super) open_fronts: BTreeSet<(Tag, u64, RouteKey)>,
    /// Clock of the sessions that take all: no route is behind it.
    pub(super) clock_of_all: Tag,
}

impl Bands {
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

    /// A delivery under this start tag moves the clocks of all routes that its session serves.
    pub(super) fn advance(&mut self, sessions: &Sessions, session: SessionKey, band: u8, start: Tag) {
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

    pub(super) fn clock(&self, route: RouteKey, band: u8) -> Tag {
        let own = self.queue(route, band).map_or(0, |queue| queue.clock);
        own.max(self.all[usize::from(band)].clock_of_all)
    }

    pub(super) fn queue(&self, route: RouteKey, band: u8) -> Option<&Queue> {
        self.routes.get(route.index()).and_then(|row| row.bands[usize::from(band)].as_deref())
    }

    pub(super) fn queue_mut(&mut self, route: RouteKey, band: u8) -> &mut Queue {
        self.routes[route.index()].bands[usize::from(band)].as_mut().expect("a lane's queue is there")
    }

    pub(super) fn route_row(&mut self, route: RouteKey) -> &mut RouteQueues {
        if self.routes.len() <= route.index() {
            self.routes.resize_with(route.index() + 1, RouteQueues::default);
        }
        &mut self.routes[route.index()]
    }

    /// Makes the route's queue if it has none in this band. It starts at the latest clock among the routes that share a
    /// session with it.
    pub(super) fn open_queue(&mut self, sessions: &Sessions, route: RouteKey, band: u8) {
        if self.route_row(route).bands[usize::from(band)].is_some() {
            return;
        }
        let clock = sessions.neighbours(route).filter_map(|near| self.queue(near, band)).map(|near| near.clock).max();
        let queue = Queue { clock: clock.unwrap_or_default(), ..Queue::default() };
        self.routes[route.index()].bands[usize::from(band)] = Some(Box::new(queue));
    }

    pub(super) fn front_of(&self, route: RouteKey, band: usize) -> Option<(Tag, u64, RouteKey)> {
        let queue = self.routes[route.index()].bands[band].as_ref()?;
        queue.lanes.first().map(|&(start, sequence, _)| (start, sequence, route))
    }

    /// After the route's first lane may have changed.
    pub(super) fn refront(&mut self, route: RouteKey, band: u8, before: Option<(Tag, u64, RouteKey)>) {
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

    pub(super) fn enqueue(&mut self, key: LaneKey) {
        self.sequence += 1;
        let (start, sequence) = (self.start(key), self.sequence);
        let lane = &mut self.lanes[key];
        assert!(lane.queued.replace(sequence).is_none(), "a lane is queued once");
        let (route, band) = (lane.route, lane.band);
        let before = self.front_of(route, usize::from(band));
        self.queue_mut(route, band).lanes.insert((start, sequence, key));
        self.refront(route, band, before);
    }

    pub(super) fn dequeue(&mut self, key: LaneKey) {
        let start = self.start(key);
        let lane = &mut self.lanes[key];
        let Some(sequence) = lane.queued.take() else { return };
        let (route, band) = (lane.route, lane.band);
        let before = self.front_of(route, usize::from(band));
        let was_there = self.queue_mut(route, band).lanes.remove(&(start, sequence, key));
        assert!(was_there, "a queued lane is in its queue");
        self.refront(route, band, before);
    }

    pub(super) fn is_ready(&self, band: usize, reach: Reach) -> bool {
        !self.all[band].fronts(reach).is_empty()
    }

    /// Start tag under which the lane is served.
    pub(super) fn start(&self, lane: LaneKey) -> Tag {
        let Lane { flow, floor, .. } = self.lanes[lane];
        floor.max(self.flows[flow].finish)
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

    /// The lane with the lowest start tag.
    pub(crate) fn first(&self, band: u8, reach: Reach) -> Option<LaneKey> {
        let &(.., route) = self.all[usize::from(band)].fronts(reach).first()?;
        self.queue(route, band)?.lanes.first().map(|&(.., lane)| lane)
    }

    /// The lane that serves the lite topic, if its tenant may be served.
    pub(crate) fn queued(&self, tenants: &Tenants, lites: &Lites, lite: LiteKey, band: u8) -> Option<LaneKey> {
        let flow = self.flow(tenants, lites[lite].tenant, band)?;
        let lane = self.lane(flow, lites[lite].route)?;
        self.lanes[lane].queued.map(|_| lane)
    }

    /// The lite topic that the lane serves next.
    pub(crate) fn front(&self, lane: LaneKey) -> LiteKey {
        self.lanes[lane].lites.first().expect("a lane has a lite topic")
    }

    pub(crate) fn tenant(&self, lane: LaneKey) -> TenantKey {
        self.lanes[lane].tenant
    }

    /// Forgets finish tags that the clock passed, and those above the limit.
    pub(super) fn drop_passed(&mut self, tenants: &mut Tenants, route: RouteKey, band: u8) {
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
}

impl Band {
    pub(super) fn fronts(&self, reach: Reach) -> &BTreeSet<(Tag, u64, RouteKey)> {
        match reach {
            Reach::AllRoutes => &self.fronts,
            Reach::OpenRoutes => &self.open_fronts,
        }
    }
}

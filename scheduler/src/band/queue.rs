//! Queues of routes: lanes by start tag, the first of each route, resting finish tags, and the clocks.

use std::collections::BTreeSet;

use super::flow::{FlowKey, Lane, LaneKey};
use sluicegate_protocol::limits::PRIORITY_MAX;

use super::{BANDS, Bands, FRACTION_BITS, Reach, Tag};
use crate::SessionKey;
use crate::lite::{LiteKey, Lites};
use crate::route::{RoomChange, RouteKey, Sessions};
use crate::tenant::{TenantKey, Tenants};

/// Finish tags ahead of the clock that one route keeps in one band; beyond it the lowest are forgotten first.
const FINISHES_KEPT_MAX: usize = 131_072;

/// Finish tags dropped in one go, so that a jump of the clock has no spike. Each dispatch adds one at most.
const FINISHES_DROPPED_AT_ONCE: usize = 8;

/// One route in one band.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) clock: Tag,
    /// What the clock is behind the group's, while a session that the route names has credit.
    pub(super) offset: Tag,
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
    /// In the routes' time.
    pub(super) fronts: BTreeSet<Front>,
    /// Those of open routes, in the group's time.
    pub(super) open_fronts: BTreeSet<Front>,
    /// Clock of the sessions that take all: no route is behind it.
    pub(super) clock_of_all: Tag,
    /// What it is behind the group's.
    pub(super) offset_of_all: Tag,
    /// The latest start tag of a delivery, in the group's time.
    pub(super) clock_of_group: Tag,
}

/// A route's first lane: start tag, place among equal ones, and the route.
pub(super) type Front = (Tag, u64, RouteKey);

impl Bands {
    /// Whether a session that the route names has credit.
    pub(crate) fn set_open(&mut self, route: RouteKey, is_open: bool) {
        let row = self.route_row(route);
        if row.is_open == is_open {
            return;
        }
        row.is_open = is_open;
        for band in 0..BANDS {
            let group_clock = self.all[band].clock_of_group;
            if let Some(queue) = self.routes[route.index()].bands[band].as_mut().filter(|_| !is_open) {
                queue.clock = group_clock.saturating_sub(queue.offset).max(queue.clock);
            }
            let Some(front) = self.front_in_group(route, band) else { continue };
            let open_fronts = &mut self.all[band].open_fronts;
            let changed = if is_open { open_fronts.insert(front) } else { open_fronts.remove(&front) };
            assert!(changed, "a route is among the open ones while it is open");
        }
    }

    /// Who gets room earned nothing while it had none: the first of what it may serve starts at the group's clock. Who has
    /// none left keeps the group's time of now.
    pub(crate) fn room_changed(&mut self, sessions: &Sessions, change: RoomChange) {
        match change {
            RoomChange::AllOpened => {
                for Band { fronts, clock_of_group, offset_of_all, .. } in &mut self.all {
                    if let Some(&(first, ..)) = fronts.first() {
                        *offset_of_all = (*offset_of_all).max(clock_of_group.saturating_sub(first));
                    }
                }
            }
            RoomChange::AllClosed => {
                for Band { clock_of_all, clock_of_group, offset_of_all, .. } in &mut self.all {
                    *clock_of_all = (*clock_of_all).max(clock_of_group.saturating_sub(*offset_of_all));
                }
            }
            RoomChange::Opened(session) => {
                for band in 0..BANDS {
                    self.catch_up_in(sessions, session, band);
                }
            }
        }
    }

    fn catch_up_in(&mut self, sessions: &Sessions, session: SessionKey, band: usize) {
        let fronts = sessions.routes_of(session).filter_map(|route| self.front_of(route, band));
        let first = fronts.map(|(start, ..)| start).min();
        let behind = first.map_or(0, |first| self.all[band].clock_of_group.saturating_sub(first));
        let offset = if behind > 0 {
            let offset = &mut self.offsets.entry(session).or_default()[band];
            *offset = behind.max(*offset);
            *offset
        } else {
            self.offset_of(session, band)
        };
        for route in sessions.routes_of(session) {
            self.move_offset(route, band, offset);
        }
    }

    /// A session with this offset has room. An open route goes by the lowest of those that have.
    fn move_offset(&mut self, route: RouteKey, band: usize, offset: Tag) {
        let Some(row) = self.row_mut(route) else { return };
        let is_open = row.is_open;
        let Some(queue) = row.bands[band].as_mut().filter(|queue| !is_open || offset < queue.offset) else { return };
        let before = std::mem::replace(&mut queue.offset, offset);
        if is_open && let Some((start, sequence, _)) = self.front_of(route, band) {
            let open_fronts = &mut self.all[band].open_fronts;
            open_fronts.remove(&(start + before, sequence, route));
            open_fronts.insert((start + offset, sequence, route));
        }
    }

    /// The session is gone; its time is nobody's.
    pub(crate) fn forget(&mut self, session: SessionKey) {
        self.offsets.remove(&session);
    }

    fn offset_of(&self, session: SessionKey, band: usize) -> Tag {
        self.offsets.get(&session).map_or(0, |offsets| offsets[band])
    }

    /// The route's last lite topic went: what it remembers is forgotten.
    pub(crate) fn close(&mut self, sessions: &Sessions, tenants: &mut Tenants, route: RouteKey) {
        for band in 0..=PRIORITY_MAX {
            let clock = self.clock(sessions, route, band);
            let Some(row) = self.row_mut(route) else { return };
            let Some(queue) = row.bands[usize::from(band)].take() else { continue };
            assert!(queue.lanes.is_empty(), "a lane's lite topics have its route");
            for (finish, flow) in queue.resting {
                self.pass(tenants, flow, finish.saturating_sub(clock));
            }
        }
        self.routes[route.index()] = RouteQueues::default();
    }

    /// A delivery under this start tag moves the group's clock, and those of all routes that its session serves.
    pub(super) fn advance(
        &mut self,
        sessions: &Sessions,
        session: SessionKey,
        (route, band): (RouteKey, u8),
        start: Tag,
    ) {
        let offset = self.offset(sessions, route, band).expect("what is delivered can be served");
        let clock = &mut self.all[usize::from(band)].clock_of_group;
        *clock = (start + offset).max(*clock);
        if sessions.takes_all(session) {
            let clock = &mut self.all[usize::from(band)].clock_of_all;
            *clock = start.max(*clock);
            return;
        }
        for route in sessions.routes_of(session) {
            if let Some(queue) = self.row_mut(route).and_then(|row| row.bands[usize::from(band)].as_mut()) {
                queue.clock = start.max(queue.clock);
            }
        }
    }

    /// What the route's time is behind the group's, if a session has room for it: the lowest offset of those that may.
    fn offset(&self, sessions: &Sessions, route: RouteKey, band: u8) -> Option<Tag> {
        let is_open = self.row(route).is_some_and(|row| row.is_open);
        let own = self.queue(route, band).filter(|_| is_open).map(|queue| queue.offset);
        let of_all = sessions.all_open().then(|| self.all[usize::from(band)].offset_of_all);
        own.into_iter().chain(of_all).min()
    }

    /// The route's clock: its own, that of the sessions that take all, or the group's while the route can be served,
    /// whichever is the latest. It never goes back.
    pub(super) fn clock(&self, sessions: &Sessions, route: RouteKey, band: u8) -> Tag {
        let &Band { clock_of_all, clock_of_group, .. } = &self.all[usize::from(band)];
        let own = self.queue(route, band).map_or(0, |queue| queue.clock);
        let offset = self.offset(sessions, route, band);
        own.max(clock_of_all).max(offset.map_or(0, |offset| clock_of_group.saturating_sub(offset)))
    }

    pub(super) fn queue(&self, route: RouteKey, band: u8) -> Option<&Queue> {
        self.row(route).and_then(|row| row.bands[usize::from(band)].as_deref())
    }

    pub(super) fn queue_mut(&mut self, route: RouteKey, band: u8) -> &mut Queue {
        self.route_row(route).bands[usize::from(band)].as_mut().expect("a lane's queue is there")
    }

    fn row(&self, route: RouteKey) -> Option<&RouteQueues> {
        self.routes.get(route.index())
    }

    fn row_mut(&mut self, route: RouteKey) -> Option<&mut RouteQueues> {
        self.routes.get_mut(route.index())
    }

    fn route_row(&mut self, route: RouteKey) -> &mut RouteQueues {
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
        let near = sessions.neighbours(route).filter(|&near| self.queue(near, band).is_some());
        let clock = near.map(|near| self.clock(sessions, near, band)).max();
        let offsets = sessions.free_members(route).map(|member| self.offset_of(member, usize::from(band)));
        let (clock, offset) = (clock.unwrap_or_default(), offsets.min().unwrap_or_default());
        let queue = Queue { clock, offset, ..Queue::default() };
        self.route_row(route).bands[usize::from(band)] = Some(Box::new(queue));
    }

    /// The route's first lane, in the route's time.
    pub(super) fn front_of(&self, route: RouteKey, band: usize) -> Option<Front> {
        let queue = self.row(route)?.bands[band].as_ref()?;
        queue.lanes.first().map(|&(start, sequence, _)| (start, sequence, route))
    }

    /// The route's first lane, in the group's time.
    pub(super) fn front_in_group(&self, route: RouteKey, band: usize) -> Option<Front> {
        let queue = self.row(route)?.bands[band].as_ref()?;
        queue.lanes.first().map(|&(start, sequence, _)| (start + queue.offset, sequence, route))
    }

    /// After the route's first lane may have changed.
    pub(super) fn refront(&mut self, route: RouteKey, band: u8, before: Option<Front>) {
        let now = self.front_of(route, usize::from(band));
        if before == now {
            return;
        }
        let Band { fronts, open_fronts, .. } = &mut self.all[usize::from(band)];
        let replace = |fronts: &mut BTreeSet<Front>, offset: Tag| {
            let shifted = |(start, sequence, route): Front| (start + offset, sequence, route);
            // What comes goes in first: a set of one then never gives its memory back.
            if let Some(now) = now {
                fronts.insert(shifted(now));
            }
            if let Some(before) = before {
                fronts.remove(&shifted(before));
            }
        };
        replace(fronts, 0);
        let row = &self.routes[route.index()];
        if let Some(queue) = row.bands[usize::from(band)].as_ref().filter(|_| row.is_open) {
            replace(open_fronts, queue.offset);
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
        let Lane { floor, finish, .. } = self.lanes[lane];
        floor.max(finish)
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

    /// The largest difference of start tags, in the group's time, of lanes in one band that can be served; in cost units.
    pub(crate) fn service_gap(&self, sessions: &Sessions) -> u64 {
        let gaps = (0..=PRIORITY_MAX).map(|band| {
            let routes = self.all[usize::from(band)].fronts.iter().map(|&(.., route)| route);
            let ends = routes.filter_map(|route| {
                let (offset, queue) = (self.offset(sessions, route, band)?, self.queue(route, band)?);
                let (first, last) = (queue.lanes.first()?, queue.lanes.last()?);
                Some((first.0 + offset, last.0 + offset))
            });
            let both = ends.reduce(|(lowest, highest), (first, last)| (lowest.min(first), highest.max(last)));
            both.map_or(0, |(lowest, highest)| highest - lowest)
        });
        let gap = gaps.max().unwrap_or_default().div_ceil(1 << FRACTION_BITS);
        u64::try_from(gap).unwrap_or(u64::MAX)
    }

    /// The lane with the lowest start tag.
    pub(crate) fn first(&self, band: u8, reach: Reach) -> Option<LaneKey> {
        let &Band { ref fronts, ref open_fronts, offset_of_all, .. } = &self.all[usize::from(band)];
        let of_all = fronts.first().filter(|_| reach == Reach::AllRoutes);
        let of_all = of_all.map(|&(start, sequence, route)| (start + offset_of_all, sequence, route));
        let (.., route) = of_all.into_iter().chain(open_fronts.first().copied()).min()?;
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
    pub(super) fn drop_passed(&mut self, sessions: &Sessions, tenants: &mut Tenants, route: RouteKey, band: u8) {
        let clock = self.clock(sessions, route, band);
        for _ in 0..FINISHES_DROPPED_AT_ONCE {
            let Some(queue) = self.row_mut(route).and_then(|row| row.bands[usize::from(band)].as_mut()) else { return };
            let Some(&(finish, key)) = queue.resting.first() else { return };
            if finish > clock && queue.resting.len() <= FINISHES_KEPT_MAX {
                return;
            }
            queue.resting.pop_first();
            self.pass(tenants, key, 0);
        }
    }
}

impl Band {
    pub(super) fn fronts(&self, reach: Reach) -> &BTreeSet<Front> {
        match reach {
            Reach::AllRoutes => &self.fronts,
            Reach::OpenRoutes => &self.open_fronts,
        }
    }
}

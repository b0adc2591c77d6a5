//! The pick: which lite topic is served next, by whom, and the gate that quotas form in front of it.

use std::num::NonZeroU64;

use sluicegate_protocol::limits::PRIORITY_MAX;
use sluicegate_protocol::{LiteId, Timestamp};

use crate::band::{Choice, LaneKey, Reach};
use crate::lite::{LiteKey, Place};
use crate::scheduler::Scheduler;
use crate::{Ask, Charge, Decision};

/// What a pick came to.
pub(crate) enum Pick {
    Decided(Decision),
    /// Lite topics near the front, the first included, must be asked about first.
    Stale,
    /// Nothing may be delivered now.
    Nothing,
}

/// The quotas could not pay for a pick: it waits, and so does everything in its band and below.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gate {
    pub(crate) since: Timestamp,
    pub(crate) until: Timestamp,
    /// The pick that waits. When the gate opens it goes first in its band.
    lite: LiteKey,
    pub(crate) id: LiteId,
    pub(crate) cost: u64,
    band: u8,
    /// The highest band that waits with it: its own, or all when it was its turn.
    pub(crate) blocks_to: u8,
}

impl Scheduler {
    /// Picks until something is decided. Each round that decides nothing takes an entry out of the bands.
    pub(crate) fn pick(&mut self) -> Pick {
        self.gate = self.gate.and_then(|gate| self.still_waiting(gate));
        let capacity = self.capacity();
        loop {
            let reach = Reach::of(&self.sessions);
            if self.paused || self.in_flight >= capacity || !self.sessions.any_credit() {
                return Pick::Nothing;
            }
            let Some(choice) = self.bands.choose(reach) else { return Pick::Nothing };
            let band = choice.band();
            if let Some(gate) = self.gate.filter(|gate| gate.until > self.now && band <= gate.blocks_to) {
                if self.sessions.is_open(self.lites[gate.lite].route) {
                    return Pick::Nothing;
                }
                // Those that could serve what waits there have no room: others go on.
                self.gate = None;
            }
            let lane = self.lane_of_gate(band).or_else(|| self.bands.first(band, reach));
            let lane = lane.expect("the chosen band is ready");
            let tenant = self.bands.tenant(lane);
            if self.tenants[tenant].in_flight >= self.concurrency.tenant {
                self.block_if_full(tenant);
                continue;
            }
            let lite = self.bands.front(lane);
            if let Some(expired) = self.expire(lite) {
                return Pick::Decided(expired);
            }
            match self.place_of(lite) {
                Place::Ready(same) if same == band => return self.serve(lane, lite, choice),
                Place::Asking if self.asks.far_behind() => return Pick::Nothing,
                Place::Asking => {
                    self.ask_near_front(lite, band);
                    return Pick::Stale;
                }
                // Its session has no room, its concurrency was lowered, or it changed bands with the policy.
                _ => self.place(lite),
            }
        }
    }

    /// Leases that may be open in the group now.
    pub(crate) fn capacity(&self) -> u32 {
        self.concurrency.group.min(self.asks.concurrency_at(self.now))
    }

    pub(crate) fn gate_closed_until(&self) -> Option<Timestamp> {
        self.gate.map(|gate| gate.until).filter(|&until| until > self.now)
    }

    /// The pick at the gate is tried again: the quotas changed, or paid for something else.
    pub(crate) fn reopen_gate(&mut self) {
        if let Some(gate) = &mut self.gate {
            gate.until = self.now;
        }
    }

    /// Delivers the lite topic's head, or closes the gate until it can be paid.
    fn serve(&mut self, lane: LaneKey, lite: LiteKey, choice: Choice) -> Pick {
        let tenant = self.bands.tenant(lane);
        let row = &self.lites[lite];
        let (offset, cost) = row.offset().zip(row.cost()).expect("a ready lite topic has a head");
        let published_at = row.head_published_at();
        let session = self.sessions.choose(row.route, row.session()).expect("a route with credit was picked");
        if let Err(until) = self.buckets.reserve(self.now, cost) {
            let blocks_to = match choice {
                Choice::Highest(band) => band,
                Choice::Turn(_) => PRIORITY_MAX,
            };
            let (id, band) = (row.id, choice.band());
            let since = self.gate.filter(|gate| gate.id == row.id).map_or(self.now, |gate| gate.since);
            self.gate = Some(Gate { since, until, lite, id, cost, band, blocks_to });
            return Pick::Nothing;
        }
        let charge = Charge { cost, band: choice.band(), weight: self.tenants.weight(tenant) };
        let decision = Decision::Deliver { lite: row.id, offset, tenant: self.tenants[tenant].id, session, charge };
        match self.gate {
            Some(gate) if gate.band != choice.band() => self.reopen_gate(),
            _ => self.gate = None,
        }
        self.pace.count(self.now);
        self.count_lease(lite);
        self.counts.ready -= 1;
        self.asks.banded.remove(&self.lites[lite].id);
        let served = (cost, session);
        self.bands.dispatch(&self.sessions, &mut self.tenants, &mut self.lites, lite, choice, served);
        self.sessions.take_credit(session);
        self.tell_turned();
        self.take_head(lite);
        let row = &mut self.lites[lite];
        row.place = Place::New;
        row.set_session(session);
        if self.asks.bound {
            let wait = self.now.since(published_at);
            let extra = self.lites.extra_mut(lite);
            // A wait below the clock's step is still one.
            extra.last_wait_us = NonZeroU64::new(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX).max(1));
            if let Some(answer) = &mut extra.answer {
                answer.left = answer.left.saturating_sub(1);
            }
        }
        self.block_if_full(tenant);
        self.place(lite);
        Pick::Decided(decision)
    }

    /// Takes the head away if its time is over.
    fn expire(&mut self, lite: LiteKey) -> Option<Decision> {
        if self.lites.expires_at(lite).is_none_or(|at| at > self.now) {
            return None;
        }
        let offset = self.lites[lite].offset().expect("a ready lite topic has a head");
        let expired = Decision::Expired { lite: self.lites[lite].id, offset };
        self.take_head(lite);
        self.place(lite);
        Some(expired)
    }

    /// Moves the lite topic to asking, and with it those near the front that must be asked about as well.
    fn ask_near_front(&mut self, lite: LiteKey, band: u8) {
        let route = self.lites[lite].route;
        self.place(lite);
        for near in self.bands.near_front(&self.lites, route, band, Ask::LITES_MAX - 1) {
            if self.place_of(near) == Place::Asking {
                self.place(near);
            }
        }
    }

    /// The lane whose pick the gate kept waiting, if it is in this band and may be served.
    fn lane_of_gate(&self, band: u8) -> Option<LaneKey> {
        let gate = self.gate.filter(|gate| gate.band == band)?;
        let is_open = self.sessions.is_open(self.lites[gate.lite].route);
        self.bands.queued(&self.tenants, &self.lites, gate.lite, band).filter(|_| is_open)
    }

    /// The gate, if the pick that closed it is still the one that it would make. Its lite topic may have gone and come
    /// back in between.
    fn still_waiting(&self, gate: Gate) -> Option<Gate> {
        let lite = self.lites.find(gate.id)?;
        let row = &self.lites[lite];
        if row.place != Place::Ready(gate.band) || row.cost() != Some(gate.cost) {
            return None;
        }
        let lane = self.bands.queued(&self.tenants, &self.lites, lite, gate.band)?;
        (self.bands.front(lane) == lite).then_some(Gate { lite, ..gate })
    }
}

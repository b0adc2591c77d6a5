//! The model's pick, and the gate that quotas form in front of it.

use std::time::Duration;

use sluicegate_protocol::{LiteId, Timestamp};
use sluicegate_scheduler::{Ask, Charge, Decision, SessionKey};

use crate::fair::{Choice, LaneName};
use crate::lite::{Lite, Place};
use crate::model::Model;

pub(crate) enum Pick {
    Decided(Decision),
    /// Rows were found that must be asked about first.
    Stale,
    Nothing,
}

/// A pick that could not be paid.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gate {
    until: Timestamp,
    lite: LiteId,
    cost: u64,
    band: u8,
    /// The highest band that waits with it.
    blocks_to: u8,
}

impl Model {
    pub(crate) fn pick(&mut self) -> Pick {
        if self.gate.is_some_and(|gate| !self.still_waits(gate)) {
            self.gate = None;
        }
        loop {
            let in_flight: u32 = self.lites.values().map(|lite| lite.open).sum();
            let capacity = self.concurrency.group.min(self.policy_cap());
            let has_room = in_flight < capacity && self.sessions.iter().any(|session| session.credit > 0);
            if self.is_paused || !has_room {
                return Pick::Nothing;
            }
            let Some(choice) = self.choose() else { return Pick::Nothing };
            let band = choice.band;
            if let Some(gate) = self.gate.filter(|gate| gate.until > self.now && band <= gate.blocks_to) {
                if self.is_open(&self.lites[&gate.lite].route) {
                    return Pick::Nothing;
                }
                self.gate = None;
            }
            let queue = self.queue(band);
            let at_gate = self.gate.filter(|gate| gate.band == band).map(|gate| self.lane_of(gate.lite, band));
            let lane = at_gate.filter(|lane| queue.contains(lane)).unwrap_or_else(|| queue[0].clone());
            let tenant = lane.0;
            if self.in_flight_of(tenant) >= self.concurrency.tenant {
                self.block_if_full(tenant);
                continue;
            }
            let id = self.rotation(&lane)[0];
            if let Some(expired) = self.expire(id) {
                return Pick::Decided(expired);
            }
            match self.place_of(id) {
                Place::Ready(same) if same == band => return self.serve(id, &lane, choice),
                Place::Asking if self.is_far_behind() => return Pick::Nothing,
                Place::Asking => {
                    self.ask_near_front(id, band);
                    return Pick::Stale;
                }
                _ => self.place(id),
            }
        }
    }

    pub(crate) fn gate_closed_until(&self) -> Option<Timestamp> {
        self.gate.map(|gate| gate.until).filter(|&until| until > self.now)
    }

    /// What waits at the gate is tried again.
    pub(crate) fn reopen_gate(&mut self) {
        if let Some(gate) = &mut self.gate {
            gate.until = self.now;
        }
    }

    fn serve(&mut self, id: LiteId, lane: &LaneName, choice: Choice) -> Pick {
        let band = choice.band;
        let lite = &self.lites[&id];
        let tenant = lite.tenant;
        let head = lite.head.expect("a ready lite topic has a head");
        let session = self.choose_session(lite);
        if let Err(until) = self.quotas.reserve(self.now, head.cost) {
            let blocks_to = if choice.is_turn { 9 } else { band };
            self.gate = Some(Gate { until, lite: id, cost: head.cost, band, blocks_to });
            return Pick::Nothing;
        }
        match self.gate {
            Some(gate) if gate.band != band => self.reopen_gate(),
            _ => self.gate = None,
        }
        let charge = Charge { cost: head.cost, band, weight: self.weight(tenant) };
        let (now, is_bound) = (self.now, self.policy.is_bound);
        let lite = self.lite(id);
        if is_bound {
            lite.last_wait = Some(now.since(head.published_at).max(Duration::from_micros(1)));
        }
        lite.open += 1;
        lite.take_head();
        (lite.place, lite.is_banded, lite.session) = (Place::New, false, Some(session));
        if let Some(leave) = &mut lite.leave {
            leave.left = leave.left.saturating_sub(1);
        }
        self.charge_dispatch(lane, choice, head.cost, session);
        self.served_at.insert(tenant, now);
        let idle_since = self.count();
        self.change_sessions(|sessions| {
            let chosen = sessions.iter_mut().find(|row| row.key == session).expect("it was chosen");
            (chosen.credit, chosen.idle_since) = (chosen.credit - 1, idle_since);
        });
        self.block_if_full(tenant);
        self.place(id);
        Pick::Decided(Decision::Deliver { lite: id, offset: head.offset, tenant, session, charge })
    }

    /// Who served last if it has credit; else the lowest load, then the most credit, then the longest idle.
    fn choose_session(&self, lite: &Lite) -> SessionKey {
        if let Some(last) = lite.session.filter(|&last| self.may_take(last, lite)) {
            return last;
        }
        let free = self.sessions.iter().filter(|session| session.credit > 0 && session.serves(&lite.route));
        let best =
            free.min_by_key(|session| (session.load_ppm, u32::MAX - session.credit, session.idle_since, session.key));
        best.expect("the route is open").key
    }

    fn expire(&mut self, id: LiteId) -> Option<Decision> {
        let head = self.lites[&id].head.expect("a ready lite topic has a head");
        if head.expires_at.is_none_or(|at| at > self.now) {
            return None;
        }
        self.lite(id).take_head();
        self.place(id);
        Some(Decision::Expired { lite: id, offset: head.offset })
    }

    /// With the first one go those near the front of its route that must be asked about as well: as many of each tenant
    /// as fit.
    fn ask_near_front(&mut self, id: LiteId, band: u8) {
        self.place(id);
        let mut lanes = self.queue(band);
        lanes.retain(|(.., route)| *route == self.lites[&id].route);
        lanes.truncate(Ask::LITES_MAX - 1);
        let of_each = (Ask::LITES_MAX - 1) / lanes.len().max(1);
        let near = lanes.iter().flat_map(|lane| self.rotation(lane).into_iter().take(of_each));
        for near in near.collect::<Vec<_>>() {
            if self.place_of(near) == Place::Asking {
                self.place(near);
            }
        }
    }

    /// Whether the pick that closed the gate is still the one that would be made.
    fn still_waits(&self, gate: Gate) -> bool {
        self.lites.get(&gate.lite).is_some_and(|lite| {
            lite.place == Place::Ready(gate.band)
                && lite.head.is_some_and(|head| head.cost == gate.cost)
                && !self.blocked.contains(&lite.tenant)
                && self.rotation(&self.lane_of(gate.lite, gate.band)).first() == Some(&gate.lite)
        })
    }
}

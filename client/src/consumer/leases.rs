//! Leases that this session holds, and when each is to be extended. Pure: takes `now`, returns what to do.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use sluicegate_protocol::{LeaseToken, wire};
use tokio::time::Instant;

use crate::delivery::LeaseState;

/// A lease that could not be extended is tried again after this time at the earliest.
const PAUSE_MIN: Duration = Duration::from_millis(5);

/// Leases by token, with one timer each: half of the remaining time, then the deadline.
#[derive(Debug, Default)]
pub(super) struct Leases {
    leases: HashMap<LeaseToken, Lease>,
    timers: BTreeSet<(Instant, LeaseToken)>,
}

#[derive(Debug)]
struct Lease {
    lite_id: u64,
    offset: u64,
    deadline: Instant,
    timer: Instant,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Held(Arc<LeaseState>),
    /// An extension is on its way.
    Extending(Arc<LeaseState>),
    /// Dropped without a settle; it runs out.
    Abandoned,
}

impl Phase {
    fn lose(&self) {
        match self {
            Self::Held(state) | Self::Extending(state) => state.lose(),
            Self::Abandoned => {}
        }
    }
}

impl Leases {
    /// A delivery came.
    pub(super) fn insert(
        &mut self,
        token: LeaseToken,
        delivery: &wire::Delivery,
        deadline: Instant,
        state: Arc<LeaseState>,
        now: Instant,
    ) {
        let timer = half_way(now, deadline);
        let (lite_id, offset) = (delivery.lite_id, delivery.offset);
        self.timers.insert((timer, token));
        self.leases.insert(token, Lease { lite_id, offset, deadline, timer, phase: Phase::Held(state) });
    }

    pub(super) fn contains(&self, token: LeaseToken) -> bool {
        self.leases.contains_key(&token)
    }

    /// Nobody wants what it is for.
    pub(super) fn cancel(&self, token: LeaseToken) {
        if let Some(Phase::Held(state) | Phase::Extending(state)) = self.leases.get(&token).map(|lease| &lease.phase) {
            state.cancel();
        }
    }

    /// The holder settles it. False if the lease is over already.
    pub(super) fn settle(&mut self, token: LeaseToken) -> bool {
        self.remove(token).is_some()
    }

    /// Held -> Abandoned
    pub(super) fn abandon(&mut self, token: LeaseToken) {
        self.change(token, |lease| {
            lease.phase = Phase::Abandoned;
            lease.timer = lease.deadline;
        });
    }

    /// Extending -> Held, until a later deadline
    pub(super) fn extended(&mut self, token: LeaseToken, deadline: Instant, now: Instant) {
        self.change(token, |lease| lease.hold(deadline, now));
    }

    /// Extending -> Held, until the same deadline
    pub(super) fn not_extended(&mut self, token: LeaseToken, now: Instant) {
        self.change(token, |lease| {
            lease.hold(lease.deadline, now);
            lease.timer = lease.timer.max(now + PAUSE_MIN);
        });
    }

    /// The broker says that it is over.
    pub(super) fn lose(&mut self, token: LeaseToken) {
        if let Some(lease) = self.remove(token) {
            lease.phase.lose();
        }
    }

    pub(super) fn lose_all(&mut self) {
        self.timers.clear();
        self.leases.drain().for_each(|(_, lease)| lease.phase.lose());
    }

    /// A new stream: what the broker still holds for this session goes on, everything else is lost.
    pub(super) fn reattach(&mut self, held: &HashMap<LeaseToken, Instant>, now: Instant) {
        let tokens: Vec<_> = self.leases.keys().copied().collect();
        for token in tokens {
            match held.get(&token) {
                Some(&deadline) => self.change(token, |lease| lease.hold(deadline, now)),
                None => self.lose(token),
            }
        }
    }

    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|&(timer, _)| timer)
    }

    /// Leases to extend now. Those that ran out are lost.
    pub(super) fn due(&mut self, now: Instant) -> Vec<wire::ExtendOne> {
        let mut extensions = Vec::new();
        while let Some(&(timer, token)) = self.timers.first() {
            if timer > now {
                break;
            }
            self.timers.pop_first();
            let lease = self.leases.get_mut(&token).expect("every timer has its lease");
            match &lease.phase {
                Phase::Held(state) if now < lease.deadline => {
                    lease.phase = Phase::Extending(Arc::clone(state));
                    lease.timer = lease.deadline;
                    self.timers.insert((lease.timer, token));
                    let token = wire::Token { epoch: token.epoch, counter: token.counter };
                    let (lite_id, offset) = (lease.lite_id, lease.offset);
                    extensions.push(wire::ExtendOne { token: Some(token), lite_id, offset });
                }
                Phase::Held(_) | Phase::Extending(_) | Phase::Abandoned => {
                    lease.phase.lose();
                    self.leases.remove(&token);
                }
            }
        }
        extensions
    }

    fn remove(&mut self, token: LeaseToken) -> Option<Lease> {
        let lease = self.leases.remove(&token)?;
        self.timers.remove(&(lease.timer, token));
        Some(lease)
    }

    fn change(&mut self, token: LeaseToken, change: impl FnOnce(&mut Lease)) {
        if let Some(lease) = self.leases.get_mut(&token) {
            self.timers.remove(&(lease.timer, token));
            change(lease);
            self.timers.insert((lease.timer, token));
        }
    }
}

impl Lease {
    fn hold(&mut self, deadline: Instant, now: Instant) {
        self.deadline = deadline;
        self.timer = half_way(now, deadline);
        match &self.phase {
            Phase::Held(_) => {}
            Phase::Extending(state) => self.phase = Phase::Held(Arc::clone(state)),
            Phase::Abandoned => self.timer = deadline,
        }
    }
}

fn half_way(now: Instant, deadline: Instant) -> Instant {
    now + deadline.saturating_duration_since(now) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_mins(1);

    fn token(counter: u64) -> LeaseToken {
        LeaseToken { epoch: 1, counter }
    }

    fn lease(leases: &mut Leases, counter: u64, now: Instant) -> Arc<LeaseState> {
        let state = Arc::new(LeaseState::default());
        let delivery = wire::Delivery { lite_id: 7, offset: counter, ..Default::default() };
        leases.insert(token(counter), &delivery, now + LEASE, Arc::clone(&state), now);
        state
    }

    fn offsets(extensions: &[wire::ExtendOne]) -> Vec<u64> {
        extensions.iter().map(|extension| extension.offset).collect()
    }

    #[test]
    fn a_lease_is_extended_at_half_of_the_remaining_time_and_again_after_that() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        let _state = lease(&mut leases, 1, start);
        assert_eq!(leases.next_timer(), Some(start + LEASE / 2));
        assert_eq!(offsets(&leases.due(start + LEASE / 2)), [1]);
        leases.extended(token(1), start + LEASE * 3 / 2, start + LEASE / 2);
        assert_eq!(leases.next_timer(), Some(start + LEASE));
        assert_eq!(offsets(&leases.due(start + LEASE)), [1]);
    }

    #[test]
    fn a_lease_whose_extension_is_not_answered_is_lost_at_its_deadline() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        let state = lease(&mut leases, 1, start);
        assert_eq!(leases.due(start + LEASE / 2).len(), 1);
        assert_eq!(leases.due(start + LEASE - PAUSE_MIN), []);
        assert!(!state.is_lost());
        assert_eq!(leases.due(start + LEASE), []);
        assert!(state.is_lost());
        assert!(!leases.settle(token(1)));
        assert_eq!(leases.next_timer(), None);
    }

    #[test]
    fn an_abandoned_lease_is_not_extended_and_forgotten_at_its_deadline() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        let _state = lease(&mut leases, 1, start);
        leases.abandon(token(1));
        assert_eq!(leases.due(start + LEASE / 2), []);
        assert!(leases.contains(token(1)));
        assert_eq!(leases.due(start + LEASE), []);
        assert!(!leases.contains(token(1)));
    }

    #[test]
    fn an_extension_that_was_refused_for_now_is_tried_again_before_the_deadline() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        let _state = lease(&mut leases, 1, start);
        leases.due(start + LEASE / 2);
        leases.not_extended(token(1), start + LEASE / 2);
        assert_eq!(leases.next_timer(), Some(start + LEASE * 3 / 4));
    }

    #[test]
    fn a_reattach_keeps_what_the_broker_holds_and_loses_the_rest() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        let (kept, gone) = (lease(&mut leases, 1, start), lease(&mut leases, 2, start));
        leases.due(start + LEASE / 2);
        let now = start + LEASE / 2;
        leases.reattach(&HashMap::from([(token(1), now + LEASE)]), now);
        assert_eq!((kept.is_lost(), gone.is_lost()), (false, true));
        assert_eq!(leases.next_timer(), Some(now + LEASE / 2));
        assert!(leases.settle(token(1)));
        assert!(!leases.settle(token(2)));
    }
}

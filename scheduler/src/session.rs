//! Consumer sessions: credit, load, and which of them a delivery goes to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use sluicegate_protocol::limits::CREDIT_MESSAGES_MAX;

use crate::SessionKey;
use crate::lite::{Chain, LiteKey, Lites};

/// The attached sessions, those with credit in order of preference.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    attached: BTreeMap<SessionKey, Session>,
    free: BTreeSet<Preference>,
    loads: BTreeSet<(u32, SessionKey)>,
    credit: u64,
    /// Counts attachments and deliveries, so that "idle for longest" has no ties.
    turns: u64,
    /// Lite topics that wait for room in the one session that may serve them.
    parked: BTreeMap<SessionKey, Chain>,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    credit: u32,
    load_ppm: u32,
    idle_since: u64,
}

/// Lowest load, then most credit, then longest idle.
type Preference = (u32, Reverse<u32>, u64, SessionKey);

impl Sessions {
    pub(crate) fn attach(&mut self, key: SessionKey) {
        self.detach(key);
        self.turns += 1;
        self.enter(key, Session { credit: 0, load_ppm: 0, idle_since: self.turns });
    }

    pub(crate) fn detach(&mut self, key: SessionKey) {
        self.leave(key);
    }

    /// Adds credit, up to the limit. A session that is not attached has none.
    pub(crate) fn add_credit(&mut self, key: SessionKey, credit: u32) {
        if let Some(session) = self.leave(key) {
            let credit = session.credit.saturating_add(credit).min(CREDIT_MESSAGES_MAX);
            self.enter(key, Session { credit, ..session });
        }
    }

    pub(crate) fn set_load(&mut self, key: SessionKey, load_ppm: u32) {
        if let Some(session) = self.leave(key) {
            self.enter(key, Session { load_ppm, ..session });
        }
    }

    /// Takes one credit for a delivery.
    pub(crate) fn take_credit(&mut self, key: SessionKey) {
        let session = self.leave(key).expect("a delivery goes to an attached session");
        self.turns += 1;
        let credit = session.credit.checked_sub(1).expect("a delivery goes to a session with credit");
        self.enter(key, Session { credit, idle_since: self.turns, ..session });
    }

    pub(crate) fn has_credit(&self, key: SessionKey) -> bool {
        self.attached.get(&key).is_some_and(|session| session.credit > 0)
    }

    pub(crate) fn any_credit(&self) -> bool {
        !self.free.is_empty()
    }

    /// Who serves next: the one that served last if it has credit, else the most preferable.
    pub(crate) fn choose(&self, last: Option<SessionKey>) -> Option<SessionKey> {
        last.filter(|&key| self.has_credit(key)).or_else(|| self.free.first().map(|&(.., key)| key))
    }

    /// Credit of all sessions together.
    pub(crate) fn credit(&self) -> u64 {
        self.credit
    }

    pub(crate) fn load_ppm_max(&self) -> u32 {
        self.loads.last().map_or(0, |&(load_ppm, _)| load_ppm)
    }

    pub(crate) fn park(&mut self, key: SessionKey, lites: &mut Lites, lite: LiteKey) {
        self.parked.entry(key).or_default().push(lites, lite);
    }

    pub(crate) fn unpark(&mut self, key: SessionKey, lites: &mut Lites, lite: LiteKey) {
        let chain = self.parked.get_mut(&key).expect("a parked lite topic is in its session's chain");
        chain.remove(lites, lite);
        if chain.is_empty() {
            self.parked.remove(&key);
        }
    }

    pub(crate) fn first_parked(&self, key: SessionKey) -> Option<LiteKey> {
        self.parked.get(&key).and_then(Chain::first)
    }

    fn enter(&mut self, key: SessionKey, session: Session) {
        self.attached.insert(key, session);
        self.loads.insert((session.load_ppm, key));
        self.credit += u64::from(session.credit);
        if session.credit > 0 {
            self.free.insert(preference(key, session));
        }
    }

    fn leave(&mut self, key: SessionKey) -> Option<Session> {
        let session = self.attached.remove(&key)?;
        self.loads.remove(&(session.load_ppm, key));
        self.credit -= u64::from(session.credit);
        self.free.remove(&preference(key, session));
        Some(session)
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self, lites: &Lites) {
        assert_eq!(self.credit, self.attached.values().map(|session| u64::from(session.credit)).sum::<u64>());
        assert_eq!(self.loads.len(), self.attached.len());
        assert_eq!(self.free.len(), self.attached.values().filter(|session| session.credit > 0).count());
        for (key, chain) in &self.parked {
            assert!(!self.has_credit(*key), "{key:?} has room and lite topics parked");
            for lite in chain.iter(lites) {
                assert_eq!(lites[lite].place, crate::lite::Place::Parked(*key));
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn parked_len(&self) -> usize {
        self.parked.values().map(Chain::len).sum()
    }
}

fn preference(key: SessionKey, session: Session) -> Preference {
    (session.load_ppm, Reverse(session.credit), session.idle_since, key)
}

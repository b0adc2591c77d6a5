//! Routes: which sessions may serve a lite topic, and which of them gets a delivery.
//!
//! A session takes all lite topics, or those that name it. Lite topics that name the same sessions share one route, so a
//! session's credit concerns its routes, never its lite topics.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use sluicegate_protocol::limits::CREDIT_MESSAGES_MAX;

use crate::lite::{Chain, LiteKey, Lites};
use crate::slab::{Key, Slab};
use crate::{Members, Scope, SessionKey};

/// Names a route while a lite topic has it.
pub(crate) type RouteKey = Key<Route>;

/// Lite topics that the same sessions may serve.
#[derive(Debug)]
pub(crate) struct Route {
    /// The sessions that name it; those that take all come on top.
    members: Members,
    /// Members with credit.
    free: BTreeSet<Preference>,
    /// Entries of lite topics that have this route.
    pub(crate) lites: u64,
}

/// The attached sessions, and the routes to them.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    attached: BTreeMap<SessionKey, Session>,
    /// Those that take all lite topics and have credit.
    free_for_all: BTreeSet<Preference>,
    loads: BTreeSet<(u32, SessionKey)>,
    credit: u64,
    /// Counts attachments and deliveries, so that "idle for longest" has no ties.
    turns: u64,
    /// Lite topics that wait for room in the one session that may serve them.
    parked: BTreeMap<SessionKey, Chain>,
    routes: Slab<Route>,
    by_members: HashMap<Members, RouteKey>,
    /// The routes that name a session, attached or not.
    of_session: BTreeMap<SessionKey, BTreeSet<RouteKey>>,
    /// Routes that opened or closed since the bands were told.
    turned: Vec<RouteKey>,
    /// Who got room, or has none left, since the bands were told.
    changes: Vec<RoomChange>,
}

/// Sessions whose credit became some, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RoomChange {
    /// Of those that take all lite topics one has room.
    AllOpened,
    /// Of those that take all lite topics none has room.
    AllClosed,
    /// One that takes what names it has room.
    Opened(SessionKey),
}

#[derive(Debug, Clone, Copy)]
struct Session {
    scope: Scope,
    credit: u32,
    load_ppm: u32,
    idle_since: u64,
}

/// Lowest load, then most credit, then longest idle.
type Preference = (u32, Reverse<u32>, u64, SessionKey);

impl Sessions {
    pub(crate) fn attach(&mut self, key: SessionKey, scope: Scope) {
        self.turns += 1;
        self.attached.insert(key, Session { scope, credit: 0, load_ppm: 0, idle_since: self.turns });
        self.loads.insert((0, key));
    }

    pub(crate) fn detach(&mut self, key: SessionKey) {
        let Some(&session) = self.attached.get(&key) else { return };
        self.change(key, Session { credit: 0, ..session });
        self.loads.remove(&(session.load_ppm, key));
        self.attached.remove(&key);
    }

    /// Adds credit, up to the limit. A session that is not attached has none.
    pub(crate) fn add_credit(&mut self, key: SessionKey, credit: u32) {
        if let Some(&session) = self.attached.get(&key) {
            let credit = session.credit.saturating_add(credit).min(CREDIT_MESSAGES_MAX);
            self.change(key, Session { credit, ..session });
        }
    }

    pub(crate) fn set_load(&mut self, key: SessionKey, load_ppm: u32) {
        if let Some(&session) = self.attached.get(&key) {
            self.loads.remove(&(session.load_ppm, key));
            self.loads.insert((load_ppm, key));
            self.change(key, Session { load_ppm, ..session });
        }
    }

    /// Takes one credit for a delivery.
    pub(crate) fn take_credit(&mut self, key: SessionKey) {
        let session = self.attached[&key];
        self.turns += 1;
        let credit = session.credit.checked_sub(1).expect("a delivery goes to a session with credit");
        self.change(key, Session { credit, idle_since: self.turns, ..session });
    }

    pub(crate) fn has_credit(&self, key: SessionKey) -> bool {
        self.attached.get(&key).is_some_and(|session| session.credit > 0)
    }

    pub(crate) fn any_credit(&self) -> bool {
        self.credit > 0
    }

    /// Whether every route is open, because a session that takes all has credit.
    pub(crate) fn all_open(&self) -> bool {
        !self.free_for_all.is_empty()
    }

    /// Whether a session of the route has credit.
    pub(crate) fn is_open(&self, route: RouteKey) -> bool {
        self.all_open() || self.is_open_to_members(route)
    }

    /// Whether a session that the route names has credit.
    pub(crate) fn is_open_to_members(&self, route: RouteKey) -> bool {
        !self.routes[route].free.is_empty()
    }

    /// Whether the session may serve lite topics of this route, and has credit.
    pub(crate) fn may_serve(&self, key: SessionKey, route: RouteKey) -> bool {
        let session = self.attached.get(&key).filter(|session| session.credit > 0);
        session.is_some_and(|session| session.scope == Scope::All || self.names(route, key))
    }

    /// Who serves next: the one that served last if it may, else the most preferable.
    pub(crate) fn choose(&self, route: RouteKey, last: Option<SessionKey>) -> Option<SessionKey> {
        let best = || {
            let best = [self.free_for_all.first(), self.routes[route].free.first()];
            best.into_iter().flatten().min().map(|&(.., key)| key)
        };
        last.filter(|&key| self.may_serve(key, route)).or_else(best)
    }

    /// The routes that share a member with this one.
    pub(crate) fn neighbours(&self, route: RouteKey) -> impl Iterator<Item = RouteKey> {
        self.routes[route].members.iter().flat_map(|&member| self.routes_of(member))
    }

    /// Members of the route that have credit.
    pub(crate) fn free_members(&self, route: RouteKey) -> impl Iterator<Item = SessionKey> {
        self.routes[route].free.iter().map(|&(.., key)| key)
    }

    /// The routes that name the session.
    pub(crate) fn routes_of(&self, key: SessionKey) -> impl Iterator<Item = RouteKey> {
        self.of_session.get(&key).into_iter().flatten().copied()
    }

    pub(crate) fn takes_all(&self, key: SessionKey) -> bool {
        self.attached.get(&key).is_some_and(|session| session.scope == Scope::All)
    }

    /// Whether an attached session may serve lite topics of this route, with or without credit.
    pub(crate) fn is_served(&self, route: RouteKey) -> bool {
        let serves = |(key, session): (&SessionKey, &Session)| session.scope == Scope::All || self.names(route, *key);
        self.attached.iter().any(serves)
    }

    /// The sessions that the route names, attached or not.
    pub(crate) fn members(&self, route: RouteKey) -> &Members {
        &self.routes[route].members
    }

    /// Credit of all sessions together.
    pub(crate) fn credit(&self) -> u64 {
        self.credit
    }

    pub(crate) fn load_ppm_max(&self) -> u32 {
        self.loads.last().map_or(0, |&(load_ppm, _)| load_ppm)
    }

    pub(crate) fn leads_to(&self, route: RouteKey, members: &Members) -> bool {
        self.routes[route].members == *members
    }

    /// The route to these sessions, for one more lite topic.
    pub(crate) fn join(&mut self, members: &Members) -> RouteKey {
        let key = self.by_members.get(members).copied().unwrap_or_else(|| self.add_route(members));
        self.routes[key].lites += 1;
        key
    }

    /// One lite topic less has this route; the last one takes the route with it (`true`).
    pub(crate) fn part(&mut self, key: RouteKey) -> bool {
        self.routes[key].lites -= 1;
        if self.routes[key].lites > 0 {
            return false;
        }
        let route = self.routes.remove(key);
        self.by_members.remove(&route.members);
        for member in route.members.iter() {
            let routes = self.of_session.get_mut(member).expect("a member knows its routes");
            routes.remove(&key);
            if routes.is_empty() {
                self.of_session.remove(member);
            }
        }
        true
    }

    /// A change of who has room that was not handed out before.
    pub(crate) fn next_room_change(&mut self) -> Option<RoomChange> {
        self.changes.pop()
    }

    /// A route that opened or closed to its members and was not handed out before.
    pub(crate) fn next_turned(&mut self) -> Option<RouteKey> {
        self.turned.pop()
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

    fn names(&self, route: RouteKey, key: SessionKey) -> bool {
        self.routes[route].members.binary_search(&key).is_ok()
    }

    fn add_route(&mut self, members: &Members) -> RouteKey {
        let free = members.iter().filter_map(|&key| {
            let session = self.attached.get(&key)?;
            (session.scope == Scope::Named && session.credit > 0).then(|| preference(key, *session))
        });
        let free = free.collect();
        let key = self.routes.insert(Route { members: members.clone(), free, lites: 0 });
        for &member in members.iter() {
            self.of_session.entry(member).or_default().insert(key);
        }
        self.by_members.insert(members.clone(), key);
        self.turned.push(key);
        key
    }

    /// The session has other credit, load or turn; it is where these put it. What comes goes in before what was goes out,
    /// so that a set of one never gives its memory back.
    fn change(&mut self, key: SessionKey, now: Session) {
        let row = self.attached.get_mut(&key).expect("only an attached session changes");
        let before = std::mem::replace(row, now);
        self.credit = self.credit - u64::from(before.credit) + u64::from(now.credit);
        let preferences = [before, now].map(|row| (row.credit > 0).then(|| preference(key, row)));
        if now.scope == Scope::All {
            let was_open = self.all_open();
            replace(&mut self.free_for_all, preferences);
            match (was_open, self.all_open()) {
                (false, true) => self.changes.push(RoomChange::AllOpened),
                (true, false) => self.changes.push(RoomChange::AllClosed),
                _ => {}
            }
            return;
        }
        if before.credit == 0 && now.credit > 0 {
            self.changes.push(RoomChange::Opened(key));
        }
        for &route in self.of_session.get(&key).into_iter().flatten() {
            let free = &mut self.routes[route].free;
            let was_open = !free.is_empty();
            replace(free, preferences);
            if was_open == free.is_empty() {
                self.turned.push(route);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self, lites: &Lites) {
        assert_eq!(self.credit, self.attached.values().map(|session| u64::from(session.credit)).sum::<u64>());
        assert_eq!(self.loads.len(), self.attached.len());
        let free = |scope: Scope| {
            let free = self.attached.iter().filter(move |(_, row)| row.scope == scope && row.credit > 0);
            free.map(|(&key, &row)| preference(key, row))
        };
        assert!(self.free_for_all.iter().copied().eq(free(Scope::All).collect::<BTreeSet<_>>()));
        assert!(self.turned.is_empty() && self.changes.is_empty(), "the bands know which routes are open");
        assert_eq!(self.routes.iter().count(), self.by_members.len());
        for (key, route) in self.routes.iter() {
            let own = free(Scope::Named).filter(|(.., session)| self.names(key, *session));
            assert!(route.free.iter().copied().eq(own.collect::<BTreeSet<_>>()));
            assert_eq!(route.lites, lites.iter().filter(|(_, row)| row.route == key).count() as u64);
            assert_eq!(self.by_members[&route.members], key);
            assert!(route.members.iter().all(|member| self.of_session[member].contains(&key)));
        }
        let named: usize = self.routes.iter().map(|(_, route)| route.members.len()).sum();
        assert_eq!(named, self.of_session.values().map(BTreeSet::len).sum::<usize>());
        for (key, chain) in &self.parked {
            for lite in chain.iter(lites) {
                assert_eq!(lites[lite].place, crate::lite::Place::Parked(*key));
                assert!(!self.may_serve(*key, lites[lite].route), "{key:?} has room and lite topics parked");
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn routes(&self) -> impl Iterator<Item = RouteKey> {
        self.routes.iter().map(|(key, _)| key)
    }

    #[cfg(test)]
    pub(crate) fn parked_len(&self) -> usize {
        self.parked.values().map(Chain::len).sum()
    }
}

fn replace(free: &mut BTreeSet<Preference>, [before, now]: [Option<Preference>; 2]) {
    if let Some(now) = now {
        free.insert(now);
    }
    if let Some(before) = before.filter(|&before| now != Some(before)) {
        free.remove(&before);
    }
}

fn preference(key: SessionKey, session: Session) -> Preference {
    (session.load_ppm, Reverse(session.credit), session.idle_since, key)
}

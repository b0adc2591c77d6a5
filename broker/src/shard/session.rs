//! The sessions of a group: who is attached, what they hold, who is away.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use sluicegate_protocol::limits::SUBSCRIPTIONS_PER_FRAME_MAX;
use sluicegate_protocol::{LiteId, LiteName, Offset, SessionId, Timestamp, wire};
use sluicegate_scheduler::SessionKey;
use tokio::sync::mpsc;

use super::command::ToConsumer;
use super::visit::Visits;
use crate::id_hash::IdHash;

/// A stream through which a session takes deliveries.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    pub(super) number: u64,
    pub(super) outbox: mpsc::Sender<ToConsumer>,
}

/// A consumer's identity across streams.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) key: SessionKey,
    /// Absent while the session is away.
    pub(super) stream: Option<Stream>,
    /// When its leases return, while it is away.
    pub(super) grace_until: Option<Timestamp>,
    /// It comes by requests: how. None for one that has a stream.
    pub(super) visits: Option<Visits>,
    /// What it holds.
    pub(super) leases: HashSet<(LiteId, Offset), IdHash>,
    /// It was attached as one that subscribes, so that its subscriptions are known here.
    is_named: bool,
    /// Lite topics that went to a newer subscriber, and it was not told.
    lost: Vec<LiteName>,
    /// Lite topics that it subscribed to by name whose life ended, and it was not told.
    ended: BTreeMap<LiteName, LiteId>,
}

/// All sessions of one group.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_id: HashMap<SessionId, Session, IdHash>,
    ids: HashMap<SessionKey, SessionId, IdHash>,
    graces: BTreeSet<(Timestamp, SessionId)>,
    next_key: u64,
    /// Sessions that take all lite topics, or may.
    takers_of_all: usize,
    /// Sessions that are to be told of lives that ended.
    untold: BTreeSet<SessionKey>,
}

impl Session {
    /// What it holds, in order.
    pub(super) fn leases_in_order(&self) -> Vec<(LiteId, Offset)> {
        let mut leases: Vec<_> = self.leases.iter().copied().collect();
        leases.sort_unstable();
        leases
    }
}

impl Sessions {
    /// The session with this id, made if it is new.
    pub(super) fn open(&mut self, id: SessionId) -> &mut Session {
        self.by_id.entry(id).or_insert_with(|| {
            self.next_key += 1;
            let key = SessionKey(self.next_key);
            self.takers_of_all += 1;
            self.ids.insert(key, id);
            Session {
                key,
                stream: None,
                grace_until: None,
                visits: None,
                leases: HashSet::default(),
                is_named: false,
                lost: Vec::new(),
                ended: BTreeMap::new(),
            }
        })
    }

    pub(super) fn get(&mut self, id: SessionId) -> Option<&mut Session> {
        self.by_id.get_mut(&id)
    }

    /// A session attaches as one that subscribes, or takes all. Answers whether it was one that subscribes.
    pub(super) fn set_named(&mut self, id: SessionId, is_named: bool) -> bool {
        let Some(session) = self.by_id.get_mut(&id) else { return false };
        let was_named = std::mem::replace(&mut session.is_named, is_named);
        match (was_named, is_named) {
            (false, true) => self.takers_of_all -= 1,
            (true, false) => self.takers_of_all += 1,
            _ => {}
        }
        was_named
    }

    /// Whether it is one that subscribes.
    pub(super) fn is_named(&self, id: SessionId) -> bool {
        self.by_id.get(&id).is_some_and(|session| session.is_named)
    }

    /// Whether there is a session that takes all lite topics; one that is away counts.
    pub(super) fn take_all(&self) -> bool {
        self.takers_of_all > 0
    }

    /// The id of a session that is here.
    pub(super) fn id(&self, key: SessionKey) -> Option<SessionId> {
        self.ids.get(&key).copied()
    }

    /// The id and stream of an attached session.
    pub(super) fn attached(&self, key: SessionKey) -> (SessionId, &Stream) {
        let id = self.ids.get(&key).expect("the scheduler knows only sessions that are here");
        let stream = self.by_id[id].stream.as_ref().expect("the scheduler serves only attached sessions");
        (*id, stream)
    }

    /// The session, if this is its stream.
    pub(super) fn key_on(&self, id: SessionId, stream: u64) -> Option<SessionKey> {
        let session = self.by_id.get(&id)?;
        session.stream.as_ref().is_some_and(|current| current.number == stream).then_some(session.key)
    }

    /// A lite topic of the session went to a newer subscriber.
    pub(super) fn lost(&mut self, key: SessionKey, name: LiteName) {
        if let Some(session) = self.ids.get(&key).and_then(|id| self.by_id.get_mut(id)) {
            session.lost.push(name);
        }
    }

    /// Tells the session what it lost, now or when it is back.
    pub(super) fn tell_lost(&mut self, key: SessionKey) {
        let Some(session) = self.ids.get(&key).and_then(|id| self.by_id.get_mut(id)) else { return };
        let Some(stream) = &session.stream else { return };
        for lites in session.lost.chunks(SUBSCRIPTIONS_PER_FRAME_MAX) {
            let lites = lites.iter().map(|name| name.as_str().to_owned()).collect();
            // A stream that does not read is ended by its own task.
            let _ = stream.outbox.try_send(ToConsumer::Lost(wire::Lost { lites, ended: Vec::new() }));
        }
        session.lost.clear();
    }

    /// The life of a lite topic ended that the session subscribed to by name.
    pub(super) fn life_ended(&mut self, key: SessionKey, name: &LiteName, lite: LiteId) {
        if let Some(session) = self.ids.get(&key).and_then(|id| self.by_id.get_mut(id)) {
            session.ended.insert(name.clone(), lite);
            self.untold.insert(key);
        }
    }

    /// What sessions are to be told of lives that ended. One that is away is told when it is back.
    pub(super) fn tell_ended(&mut self) -> Vec<(mpsc::Sender<ToConsumer>, wire::Lost)> {
        let mut told = Vec::new();
        for key in std::mem::take(&mut self.untold) {
            let Some(session) = self.ids.get(&key).and_then(|id| self.by_id.get_mut(id)) else { continue };
            let Some(stream) = &session.stream else { continue };
            let ended = std::mem::take(&mut session.ended).into_iter();
            let ended = ended.map(|(name, lite)| wire::EndedLife { lite: name.as_str().to_owned(), lite_id: lite.0 });
            let ended: Vec<_> = ended.collect();
            let frames = ended.chunks(SUBSCRIPTIONS_PER_FRAME_MAX);
            let frame = |ended: &[wire::EndedLife]| wire::Lost { lites: Vec::new(), ended: ended.to_vec() };
            told.extend(frames.map(|ended| (stream.outbox.clone(), frame(ended))));
        }
        told
    }

    pub(super) fn attached_count(&self) -> usize {
        // One that comes by requests is here between them.
        self.by_id.values().filter(|session| session.stream.is_some() || session.visits.is_some()).count()
    }

    pub(super) fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.by_id.values().filter_map(|session| session.stream.as_ref())
    }

    /// Takes all streams away, for good.
    pub(super) fn end_streams(&mut self) -> Vec<Stream> {
        self.by_id.values_mut().filter_map(|session| session.stream.take()).collect()
    }

    /// Attached -> Away: its leases return at `until`.
    pub(super) fn away(&mut self, id: SessionId, until: Timestamp) {
        let Some(session) = self.by_id.get_mut(&id) else { return };
        session.stream = None;
        session.grace_until = Some(until);
        self.graces.insert((until, id));
    }

    /// A session that comes by requests may be silent for as long again.
    pub(super) fn heard(&mut self, id: SessionId, now: Timestamp) {
        let Some(session) = self.by_id.get_mut(&id).filter(|session| session.stream.is_none()) else { return };
        let Some(visits) = &session.visits else { return };
        let until = now.plus(visits.timeout);
        if let Some(before) = session.grace_until.replace(until) {
            self.graces.remove(&(before, id));
        }
        self.graces.insert((until, id));
    }

    /// Away -> Attached.
    pub(super) fn back(&mut self, id: SessionId, stream: Stream) {
        let Some(session) = self.by_id.get_mut(&id) else { return };
        if let Some(until) = session.grace_until.take() {
            self.graces.remove(&(until, id));
        }
        session.stream = Some(stream);
        if !session.ended.is_empty() {
            self.untold.insert(session.key);
        }
    }

    /// Forgets a session and answers what it held.
    pub(super) fn remove(&mut self, id: SessionId) -> Option<Session> {
        let session = self.by_id.remove(&id)?;
        self.ids.remove(&session.key);
        self.takers_of_all -= usize::from(!session.is_named);
        if let Some(until) = session.grace_until {
            self.graces.remove(&(until, id));
        }
        Some(session)
    }

    /// A session whose grace is over.
    pub(super) fn overdue(&self, now: Timestamp) -> Option<SessionId> {
        self.graces.first().filter(|(until, _)| *until <= now).map(|(_, id)| *id)
    }

    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        self.graces.first().map(|(until, _)| *until)
    }
}

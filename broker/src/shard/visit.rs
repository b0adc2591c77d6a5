//! Sessions without a stream: each request stands for itself, and between them the session is away, for as long as it said that it
//! may be silent. All else is as with those that have one.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_protocol::admin::Durability;
use sluicegate_protocol::{ErrorCode, GroupId, LiteName, Position, SessionId, wire};
use sluicegate_scheduler::Scope;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::command::{ExtendRequest, ToConsumer};
use super::cursor::Counted;
use super::fault::{Fault, Reply};
use super::group::Back;
use super::session::Stream;
use super::settle::held_by;
use super::subscribe::SubscriptionChange;
use super::subscription::Names;
use super::{Shard, store_failed};
use crate::metrics::Ended;
use crate::refusal::Refusal;
use crate::uploads::take;

/// Places of sessions of all groups.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) left: Arc<Semaphore>,
    pub(crate) max: u32,
}

/// What a session that comes by requests has.
#[derive(Debug)]
pub(super) struct Visits {
    /// How long it may be silent.
    pub(super) timeout: Duration,
    place: OwnedSemaphorePermit,
}

/// A session is opened, or opened again.
#[derive(Debug)]
pub(crate) struct OpenSession {
    pub(crate) group: GroupId,
    pub(crate) session: SessionId,
    /// None for as long as the group's leases and the grace of its sessions are.
    pub(crate) timeout: Option<Duration>,
    /// What it takes, and where the group begins there; none for all lite topics.
    pub(crate) takes: Option<(Names, Position)>,
    pub(crate) places: Places,
    pub(crate) reply: Reply<Opened>,
}

/// What an opened session gets to know.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) lease: Duration,
    pub(crate) timeout: Duration,
    /// What it holds from before.
    pub(crate) held: Vec<wire::HeldLease>,
    /// Lite topics in which the group goes on where it was, and not where the session said.
    pub(crate) kept: Vec<LiteName>,
}

/// A session takes so many messages, until its stream is [detached](super::Command::Detach).
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) group: GroupId,
    pub(crate) session: SessionId,
    pub(crate) stream: u64,
    pub(crate) credit: u32,
    pub(crate) outbox: mpsc::Sender<ToConsumer>,
    pub(crate) reply: Reply<()>,
}

impl Shard {
    /// - -> Away. What the session holds from before stays with it.
    pub(super) fn open_session(&mut self, asked: OpenSession) {
        let OpenSession { group, session, timeout, takes, places, reply } = asked;
        let done = self.session_opened(group, session, timeout, takes, &places);
        // Where a group begins is written.
        self.answer(reply, done, Durability::Fsync);
    }

    fn session_opened(
        &mut self,
        group: GroupId,
        id: SessionId,
        timeout: Option<Duration>,
        takes: Option<(Names, Position)>,
        places: &Places,
    ) -> Result<Opened, Fault> {
        self.may_attach()?;
        let now = self.ledger.stage.now();
        let group = self.groups.get_mut(&group).ok_or_else(deleted)?;
        let scope = if takes.is_some() { Scope::Named } else { Scope::All };
        group.may_take(scope)?;
        let timeout = timeout.unwrap_or_else(|| group.lease_time().max(group.session_grace()));
        let before = group.sessions.get(id);
        let is_new = before.is_none();
        let place = match before.and_then(|session| session.visits.take()) {
            Some(visits) => visits.place,
            None => take(&places.left, 1, places.max, "sessions over HTTP")?,
        };
        let session = group.sessions.open(id);
        let key = session.key;
        session.visits = Some(Visits { timeout, place });
        group.sessions.set_named(id, scope == Scope::Named);
        group.sessions.heard(id, now);
        let kept = if let Some((names, start)) = takes {
            group.subscribe(&mut self.ledger, key, SubscriptionChange::Add(names, start))
        } else {
            group.subscriptions.forget(key);
            group.taken_all(&self.ledger);
            Ok(Vec::new())
        };
        if kept.is_err() && is_new {
            group.end_session(&mut self.ledger, id, Counted::No)?;
        }
        Ok(Opened { lease: group.lease_time(), timeout, held: held_by(group, &mut self.ledger, id), kept: kept? })
    }

    /// Away -> Attached.
    pub(super) fn visit(&mut self, visit: Visit) {
        let Visit { group, session, stream, credit, outbox, reply } = visit;
        let done = self.visited(group, session, Stream { number: stream, outbox }, credit);
        // The request may have ended while it waited; its detach follows.
        let _ = reply.send(done);
    }

    fn visited(&mut self, group: GroupId, id: SessionId, stream: Stream, credit: u32) -> Result<(), Refusal> {
        self.may_attach()?;
        let group = self.groups.get_mut(&group).ok_or_else(deleted)?;
        let known = group.sessions.get(id).is_some_and(|session| session.visits.is_some());
        if !known {
            return Err(unknown());
        }
        let scope = if group.sessions.is_named(id) { Scope::Named } else { Scope::All };
        group.may_take(scope)?;
        group.take_stream(&mut self.ledger, id, scope, stream, credit);
        Ok(())
    }

    /// It is over: what the session holds returns at once, uncounted.
    pub(super) fn close_session(&mut self, group: GroupId, session: SessionId, reply: Reply<()>) {
        let done = self.session_closed(group, session);
        self.answer(reply, done, Durability::Os);
    }

    fn session_closed(&mut self, group: GroupId, session: SessionId) -> Result<(), Fault> {
        if let Some(error) = &self.failed {
            return Err(store_failed(error).into());
        }
        let group = self.groups.get_mut(&group).ok_or_else(deleted)?;
        if group.sessions.get(session).is_none() {
            return Err(unknown().into());
        }
        Ok(group.end_session(&mut self.ledger, session, Counted::No)?)
    }

    /// Leased -> Waiting, uncounted: whoever was to have these did not get them.
    pub(super) fn take_back(&mut self, group: GroupId, session: SessionId, leases: &[ExtendRequest]) {
        let Some(group) = self.groups.get_mut(&group).filter(|_| self.failed.is_none()) else { return };
        // Highest offset first: each becomes the head only for as long as a lower one is not back.
        for asked in leases.iter().rev() {
            let cursor = self.ledger.lites.get(asked.lite).and_then(|lite| lite.cursor(group.id()));
            let lease = cursor.and_then(|cursor| cursor.lease_of(asked.offset));
            if lease.is_none_or(|lease| lease.token != asked.token || lease.session != session) {
                continue;
            }
            group.meters.ended(Ended::Returned);
            if let Err(error) = group.give_back(&mut self.ledger, asked.lite, asked.offset, Back::Unused) {
                return self.fail(&error);
            }
        }
    }
}

pub(super) fn deleted() -> Refusal {
    Refusal::new(ErrorCode::UnknownGroup, "the group was deleted")
}

/// The session was never opened, or was silent for too long, or was another process's.
pub(crate) fn unknown() -> Refusal {
    Refusal::new(ErrorCode::UnknownSession, "there is no such session, or not any more: open one")
}

//! What consumers ask: attach, settle, extend, detach.

use std::time::Duration;

use sluicegate_protocol::admin::{ConsumeMode, Follows};
use sluicegate_protocol::limits::{SUSPEND_MAX, SUSPEND_MIN};
use sluicegate_protocol::{ErrorCode, GroupId, SessionId, wire};
use sluicegate_scheduler::{Ending, Event, HoldSource, Scope, WorkResult};
use tokio::sync::mpsc;

use super::command::{Attach, Attached, ExtendRequest, Outcome, SettleRequest, ToConsumer};
use super::cursor::Counted;
use super::group::{Back, Group};
use super::ledger::Ledger;
use super::session::Stream;
use super::visit::deleted;
use super::{Effect, Shard, dead_letter, lifecycle, store_failed};
use crate::metrics::{Buried, Ended};
use crate::refusal::Refusal;
use crate::store::StoreError;

/// A consumer that has nothing left to give.
const LOAD_PPM_MAX: u32 = 1_000_000;
/// The number of "done" in a settle or extend result.
const DONE: u32 = 0;

impl Shard {
    pub(super) fn attach(&mut self, attach: Attach) {
        let answer = self.attach_session(&attach);
        // The stream may have ended while it waited; its detach follows.
        let _ = attach.reply.send(answer);
    }

    fn attach_session(&mut self, attach: &Attach) -> Result<Attached, Refusal> {
        self.may_attach()?;
        let group = self.groups.get_mut(&attach.group).ok_or_else(deleted)?;
        group.may_take(attach.scope)?;
        // From now on it comes by a stream.
        group.sessions.open(attach.session).visits = None;
        let stream = Stream { number: attach.stream, outbox: attach.outbox.clone() };
        let was_named = group.take_stream(&mut self.ledger, attach.session, attach.scope, stream, attach.credit);
        Ok(Attached {
            lease: group.lease_time(),
            session_grace: group.session_grace(),
            held: held_by(group, &mut self.ledger, attach.session),
            subscriptions_kept: was_named && attach.scope == Scope::Named,
        })
    }

    /// Whether sessions are let in.
    pub(super) fn may_attach(&self) -> Result<(), Refusal> {
        if let Some(error) = &self.failed {
            return Err(store_failed(error));
        }
        if self.draining {
            let refusal = Refusal::new(ErrorCode::Unavailable, "the broker is draining");
            return Err(refusal.retry_after(Duration::from_secs(1)));
        }
        Ok(())
    }

    pub(super) fn credit(
        &mut self,
        group: GroupId,
        session: SessionId,
        stream: u64,
        messages: u32,
        load_ppm: Option<u32>,
    ) {
        let now = self.ledger.stage.now();
        let Some(group) = self.groups.get_mut(&group) else { return };
        let Some(session) = group.sessions.get(session) else { return };
        if session.stream.as_ref().is_some_and(|current| current.number == stream) {
            let key = session.key;
            group.scheduler.handle(now, Event::Credit(key, messages));
            if let Some(load_ppm) = load_ppm {
                group.scheduler.handle(now, Event::Load(key, load_ppm.min(LOAD_PPM_MAX)));
            }
        }
    }

    pub(super) fn settle(
        &mut self,
        group: GroupId,
        session: SessionId,
        sequence: u64,
        settles: Vec<SettleRequest>,
        replies: mpsc::Sender<ToConsumer>,
    ) {
        let Some(group) = self.groups.get_mut(&group).filter(|_| self.failed.is_none()) else {
            let refusal = self
                .failed
                .as_ref()
                .map_or_else(|| Refusal::new(ErrorCode::UnknownGroup, "the group was deleted"), store_failed);
            // A stream that does not read is ended by its own task.
            let _ = replies.try_send(ToConsumer::Failed(refusal));
            return;
        };
        group.sessions.heard(session, self.ledger.stage.now());
        let mut results = Vec::with_capacity(settles.len());
        for settle in settles {
            match settle_one(group, &mut self.ledger, session, settle) {
                Ok(code) => results.push(wire::SettleResult { code }),
                Err(error) => return self.fail(&error),
            }
        }
        let durability = self.ledger.topics[&group.spec.topic].settings.durability;
        let reply = ToConsumer::Settled(wire::Settled { sequence, results });
        self.ledger.stage.then(durability, Effect::Reply(replies, reply));
    }

    pub(super) fn extend(
        &mut self,
        group: GroupId,
        session: SessionId,
        sequence: u64,
        leases: &[ExtendRequest],
        replies: mpsc::Sender<ToConsumer>,
    ) {
        let Some(group) = self.groups.get_mut(&group).filter(|_| self.failed.is_none()) else { return };
        group.sessions.heard(session, self.ledger.stage.now());
        let deadline = self.ledger.stage.now().plus(group.lease_time());
        let results = leases
            .iter()
            .map(|lease| match extend_one(group, &mut self.ledger, session, lease, deadline) {
                Some(cancelled) => wire::ExtendResult { code: DONE, deadline_us: deadline.0, cancelled },
                None => wire::ExtendResult { code: ErrorCode::LeaseLost.number(), ..Default::default() },
            })
            .collect();
        let reply = ToConsumer::Extended(wire::Extended { sequence, results });
        self.ledger.stage.then(sluicegate_protocol::admin::Durability::Os, Effect::Reply(replies, reply));
    }

    pub(super) fn detach(&mut self, group: GroupId, session: SessionId, stream: u64, orderly: bool) {
        if self.failed.is_some() {
            return;
        }
        let now = self.ledger.stage.now();
        let Some(group) = self.groups.get_mut(&group) else { return };
        let Some(known) = group.sessions.get(session) else { return };
        if known.stream.as_ref().is_none_or(|current| current.number != stream) {
            return; // A newer stream of the session took over.
        }
        let done = if orderly {
            group.end_session(&mut self.ledger, session, Counted::No)
        } else {
            group.scheduler.handle(now, Event::Detached(known.key));
            let timeout = known.visits.as_ref().map(|visits| visits.timeout);
            let grace = timeout.unwrap_or_else(|| group.session_grace());
            group.sessions.away(session, now.plus(grace));
            Ok(())
        };
        if let Err(error) = done {
            self.fail(&error);
        }
    }
}

impl Group {
    /// Whether sessions may take all lite topics, or must say which.
    pub(super) fn may_take(&self, scope: Scope) -> Result<(), Refusal> {
        if scope == Scope::All && self.spec.settings.mode == ConsumeMode::Exclusive {
            let message = "an exclusive group has one owner for each lite topic: consumers must subscribe by names";
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        if scope == Scope::All && self.spec.settings.follows == Follows::Subscribed {
            let message = "the group follows what its consumers subscribe to: they must subscribe by names or prefixes";
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        Ok(())
    }

    /// Away -> Attached. Answers whether the session was one that subscribes.
    pub(super) fn take_stream(
        &mut self,
        ledger: &mut Ledger,
        id: SessionId,
        scope: Scope,
        stream: Stream,
        credit: u32,
    ) -> bool {
        let now = ledger.stage.now();
        let session = self.sessions.open(id);
        let key = session.key;
        if let Some(before) = session.stream.take() {
            // The newest stream of a session counts; the one before is told and ends.
            let overtaken = Refusal::new(ErrorCode::LeaseLost, "the session has a newer stream");
            let _ = before.outbox.try_send(ToConsumer::Failed(overtaken));
            self.scheduler.handle(now, Event::Detached(key));
        }
        let was_named = self.sessions.set_named(id, scope == Scope::Named);
        self.sessions.back(id, stream);
        self.scheduler.handle(now, Event::Attached(key, scope));
        self.scheduler.handle(now, Event::Credit(key, credit));
        if scope == Scope::All {
            self.subscriptions.forget(key);
            self.taken_all(ledger);
        }
        self.sessions.tell_lost(key);
        self.tell_ended(ledger);
        was_named
    }
}

pub(super) fn held_by(group: &mut Group, ledger: &mut Ledger, session: SessionId) -> Vec<wire::HeldLease> {
    let id = group.id();
    let leases = group.sessions.get(session).map(|session| session.leases_in_order()).unwrap_or_default();
    let held = |(lite, offset): &(_, sluicegate_protocol::Offset)| {
        let lite = ledger.lites.get(*lite)?;
        let name = lite.name.as_str().to_owned();
        let lite_id = lite.id.0;
        let lease = lite.cursor(id)?.lease_of(*offset)?;
        let token = wire::Token { epoch: lease.token.epoch, counter: lease.token.counter };
        Some(wire::HeldLease {
            token: Some(token),
            lite: name,
            lite_id,
            offset: offset.0,
            deadline_us: lease.deadline.0,
        })
    };
    leases.iter().filter_map(held).collect()
}

/// Ends one lease; the answer is the result's code.
fn settle_one(
    group: &mut Group,
    ledger: &mut Ledger,
    session: SessionId,
    settle: SettleRequest,
) -> Result<u32, StoreError> {
    let SettleRequest { lite: id, offset, token, cost, outcome } = settle;
    let Some(lite) = ledger.lites.get(id) else { return Ok(ErrorCode::LeaseLost.number()) };
    let lease = lite.cursor(group.id()).and_then(|cursor| cursor.lease_of(offset));
    let Some(lease) = lease.filter(|lease| lease.token == token && lease.session == session) else {
        return Ok(ErrorCode::LeaseLost.number());
    };
    let attempt = lease.attempt;
    let now = ledger.stage.now();
    match outcome {
        Outcome::Ack => {
            ack(group, ledger, id, offset, (cost, WorkResult::Done))?;
            group.stats.acked += 1;
            group.meters.ended(Ended::Ack);
        }
        Outcome::DeadLetter(reason) => {
            dead_letter::copy(ledger, &group.spec, id, offset, &reason)?;
            ack(group, ledger, id, offset, (cost, WorkResult::DeadLettered))?;
            group.stats.dead_lettered += 1;
            group.meters.ended(Ended::DeadLetter);
            group.meters.buried(Buried::Consumer);
        }
        Outcome::Retry { delay, upstream } => {
            let retry_after = delay.filter(|_| upstream).map(|delay| delay.min(SUSPEND_MAX));
            let delay = delay.unwrap_or_else(|| group.retry_delay(attempt)).min(SUSPEND_MAX);
            if attempt < group.spec.settings.max_attempts && !delay.is_zero() {
                hold(group, ledger, id, HoldSource::Retry, now.plus(delay));
            }
            let back = Back::Tried { cost, result: WorkResult::Retried, retry_after };
            group.give_back(ledger, id, offset, back)?;
            group.stats.retried += 1;
            group.meters.ended(Ended::Retry);
        }
        Outcome::Suspend(duration) => {
            let until = now.plus(duration.clamp(SUSPEND_MIN, SUSPEND_MAX));
            hold(group, ledger, id, HoldSource::Settle, until);
            group.give_back(ledger, id, offset, Back::Unused)?;
            group.stats.suspended += 1;
            group.meters.ended(Ended::Suspend);
        }
    }
    Ok(DONE)
}

fn ack(
    group: &mut Group,
    ledger: &mut Ledger,
    id: sluicegate_protocol::LiteId,
    offset: sluicegate_protocol::Offset,
    (cost, result): (Option<u64>, WorkResult),
) -> Result<(), StoreError> {
    let Ledger { stage, lites, .. } = &mut *ledger;
    let lite = lites.get(id).expect("it has an open lease");
    let lease = lifecycle::acked(stage, group.id(), lite, offset).expect("the lease was checked");
    let service = stage.now().since(lease.dispatched_at);
    group.lease_ended(stage.now(), id, offset, &lease, Ending::Used { cost, service, result, retry_after: None });
    group.announce(ledger, id)
}

fn hold(
    group: &mut Group,
    ledger: &mut Ledger,
    id: sluicegate_protocol::LiteId,
    source: HoldSource,
    until: sluicegate_protocol::Timestamp,
) {
    let Ledger { stage, lites, .. } = ledger;
    let lite = lites.get(id).expect("it has an open lease");
    // Leases of one lite topic may end in any order: none shortens what another asked for.
    let before = lite.cursor(group.id()).and_then(|cursor| cursor.hold_by(source));
    let until = before.map_or(until, |before| until.max(before));
    lifecycle::held(stage, group.id(), lite, source, until);
    let event = Event::Held { lite: id, tenant: lite.tenant, source, until };
    group.scheduler.handle(stage.now(), event);
}

fn extend_one(
    group: &mut Group,
    ledger: &mut Ledger,
    session: SessionId,
    request: &ExtendRequest,
    deadline: sluicegate_protocol::Timestamp,
) -> Option<bool> {
    let Ledger { stage, lites, .. } = ledger;
    let lite = lites.get(request.lite)?;
    let lease = lite.cursor(group.id())?.lease_of(request.offset)?;
    if lease.token != request.token || lease.session != session {
        return None;
    }
    let cancelled = lease.cancelled;
    let before = lifecycle::extend(stage, group.id(), lite, request.offset, deadline);
    group.deadlines.remove(&(before.expect("the lease was checked"), request.lite, request.offset));
    group.deadlines.insert((deadline, request.lite, request.offset));
    Some(cancelled)
}

//! What operators ask about one lite topic of a group: look, suspend, resume, seek, skip.

use std::time::Duration;

use sluicegate_protocol::admin::{
    Durability, LiteChange, LiteHead, LiteLease, LiteTopic, Suspension, SuspensionSource,
};
use sluicegate_protocol::limits::SETTLE_WINDOW;
use sluicegate_protocol::{ErrorCode, GroupId, LiteId, LiteName, Offset, Position, SessionId};
use sluicegate_scheduler::{Event, HoldSource};

use super::cursor::{Cursor, Held};
use super::fault::{Answer, Fault, Reply};
use super::group::{Back, Group};
use super::leases::Lease;
use super::ledger::Ledger;
use super::lite::Lite;
use super::position::position;
use super::{Effect, Shard, lifecycle, store_failed};
use crate::catalog::TopicSpec;
use crate::metrics::{Ended, Skipped};
use crate::refusal::Refusal;
use crate::store::StoreError;

/// Something that an operator wants of a lite topic in a group.
#[derive(Debug)]
pub(crate) struct OperatorRequest {
    pub(crate) group: GroupId,
    pub(crate) lite: LiteName,
    pub(crate) verb: Verb,
    pub(crate) reply: Reply<LiteChange>,
}

/// What an operator wants. Its parts are parsed and inside their limits.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verb {
    /// Nothing but to see it.
    Show,
    /// No new deliveries for so long.
    Suspend(Duration, OpenLeases),
    /// The suspension of one source, or of all, ends.
    Resume(Option<SuspensionSource>),
    /// The group goes on from there.
    Seek(Position),
    /// One waiting message is settled without delivery.
    Skip(Offset),
}

/// What becomes of open leases when an operator suspends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenLeases {
    RunOn,
    Revoked,
}

impl Shard {
    pub(super) fn operate(&mut self, request: OperatorRequest) {
        let OperatorRequest { group, lite, verb, reply } = request;
        let durability = match verb {
            // What is shown need not outlive a power cut.
            Verb::Show => Durability::Os,
            Verb::Suspend(..) | Verb::Resume(_) | Verb::Seek(_) | Verb::Skip(_) => Durability::Fsync,
        };
        let done = self.operated(group, &lite, verb);
        self.answer(reply, done, durability);
    }

    /// Tells who asked: what was done when it is as durable as this, what was not done at once.
    pub(super) fn answer<T: Send + 'static>(
        &mut self,
        reply: Reply<T>,
        done: Result<T, Fault>,
        durability: Durability,
    ) {
        match done {
            Ok(value) => self.ledger.stage.then(durability, Effect::Answer(Answer::new(reply, value))),
            Err(fault) => self.answer_now(reply, Err(fault)),
        }
    }

    /// Tells who asked at once.
    pub(super) fn answer_now<T>(&mut self, reply: Reply<T>, done: Result<T, Fault>) {
        let answer = done.map_err(|fault| match fault {
            Fault::Refused(refusal) => refusal,
            Fault::Store(error) => {
                self.fail(&error);
                store_failed(&error)
            }
        });
        // Whoever asked may have given up.
        let _ = reply.send(answer);
    }

    fn operated(&mut self, group: GroupId, name: &LiteName, verb: Verb) -> Result<LiteChange, Fault> {
        if let Some(error) = &self.failed {
            return Err(store_failed(error).into());
        }
        let mut place = self.place(group, name)?;
        let (mut revoked, mut settled) = (0, 0);
        match verb {
            Verb::Show => {}
            Verb::Suspend(duration, leases) => {
                place.suspend(duration)?;
                if leases == OpenLeases::Revoked {
                    revoked = place.revoke()?;
                }
            }
            Verb::Resume(source) => {
                place.resume(source.map(hold_source));
                place.look()?;
            }
            Verb::Seek(to) => settled = place.seek(to)?,
            Verb::Skip(offset) => settled = place.skip(offset, Skipped::Operator)?,
        }
        Ok(LiteChange { revoked, settled, lite_topic: place.describe() })
    }

    /// The lite topic with this name, brought into memory if need be, as the group stands in it.
    pub(super) fn place(&mut self, group: GroupId, name: &LiteName) -> Result<Place<'_>, Fault> {
        let deleted = || Refusal::new(ErrorCode::UnknownGroup, "the group was deleted");
        let group = self.groups.get_mut(&group).ok_or_else(deleted)?;
        let topic = self.ledger.topics.get(&group.spec.topic).cloned().expect("a group is in its topic's shard");
        let id = self.ledger.find(&topic, name)?.ok_or_else(|| unknown_lite(&topic, name))?;
        if self.ledger.open_lite(id).cursor(group.id()).is_none() {
            let group = &group.spec.name;
            let message =
                format!("group `{group}` does not follow lite topic `{name}`: none of its consumers subscribed to it");
            return Err(Refusal::new(ErrorCode::UnknownLite, message).into());
        }
        if !group.scheduler.has_head(id) {
            // It may be known by its rows alone.
            group.announce(&mut self.ledger, id)?;
        }
        Ok(Place { group, ledger: &mut self.ledger, id })
    }
}

/// One group in one lite topic, which is in memory and which it follows.
pub(super) struct Place<'a> {
    pub(super) group: &'a mut Group,
    pub(super) ledger: &'a mut Ledger,
    pub(super) id: LiteId,
}

impl Place<'_> {
    pub(super) fn lite(&mut self) -> &mut Lite {
        self.ledger.open_lite(self.id)
    }

    pub(super) fn cursor(&mut self) -> &mut Cursor {
        self.cursor_if_followed().expect("the group follows it")
    }

    fn cursor_if_followed(&mut self) -> Option<&mut Cursor> {
        let group = self.group.id();
        self.lite().cursor(group)
    }

    /// The scheduler learns what there is to know of it.
    fn look(&mut self) -> Result<(), StoreError> {
        match self.cursor_if_followed() {
            Some(_) => self.group.announce(self.ledger, self.id),
            None => Ok(()),
        }
    }

    fn suspend(&mut self, duration: Duration) -> Result<(), StoreError> {
        let until = self.ledger.stage.now().plus(duration);
        let Ledger { stage, lites, .. } = &mut *self.ledger;
        let lite = lites.get(self.id).expect("it was just found");
        lifecycle::held(stage, self.group.id(), lite, HoldSource::Operator, until);
        let event = Event::Held { lite: self.id, tenant: lite.tenant, source: HoldSource::Operator, until };
        self.group.scheduler.handle(stage.now(), event);
        self.look()
    }

    fn resume(&mut self, source: Option<HoldSource>) {
        let Ledger { stage, lites, .. } = &mut *self.ledger;
        let lite = lites.get(self.id).expect("it was just found");
        lifecycle::resumed(stage, self.group.id(), lite, source);
        self.group.scheduler.handle(stage.now(), Event::Resumed { lite: self.id, source });
    }

    /// Takes all open leases away: their messages wait again, uncounted, and what they reserved is given back.
    pub(super) fn revoke(&mut self) -> Result<u64, StoreError> {
        let offsets: Vec<_> = self.cursor().leases().map(|(offset, _)| offset).collect();
        // Highest offset first: each becomes the head only for as long as a lower one is not back.
        for &offset in offsets.iter().rev() {
            self.group.meters.ended(Ended::Revoked);
            self.group.give_back(self.ledger, self.id, offset, Back::Unused)?;
        }
        Ok(offsets.len() as u64)
    }

    fn seek(&mut self, to: Position) -> Result<u64, Fault> {
        let to = position(self.ledger, self.id, to)?;
        if let Some((offset, lease)) = self.cursor().leases().next() {
            return Err(leased(offset, lease.session).into());
        }
        let Ledger { stage, lites, .. } = &mut *self.ledger;
        let lite = lites.get(self.id).expect("it was just found");
        let passed = lifecycle::sought(stage, self.group.id(), lite, to);
        self.group.meters.skipped(Skipped::Operator, passed);
        let event = Event::Resumed { lite: self.id, source: Some(HoldSource::Retry) };
        self.group.scheduler.handle(stage.now(), event);
        self.group.announce(self.ledger, self.id)?;
        Ok(passed)
    }

    pub(super) fn skip(&mut self, offset: Offset, why: Skipped) -> Result<u64, Fault> {
        let end = self.lite().visible;
        let cursor = self.cursor();
        let refuse = |message: String| Err(Refusal::new(ErrorCode::InvalidArgument, message).into());
        if offset >= end {
            return refuse(format!("offset {offset} is not there: {end} is the next to come"));
        }
        if cursor.is_settled(offset) {
            return refuse(format!("offset {offset} is settled already"));
        }
        if let Some(lease) = cursor.lease_of(offset) {
            return Err(leased(offset, lease.session).into());
        }
        let ahead = offset.0 - cursor.settled_up_to().0;
        if ahead >= SETTLE_WINDOW {
            let limit = "messages past the first unsettled one";
            return Err(Refusal::limit(ErrorCode::LimitReached, limit, SETTLE_WINDOW - 1, ahead).into());
        }
        if cursor.head_offset(end) == Some(offset) {
            // The delay was for this message alone.
            self.resume(Some(HoldSource::Retry));
        }
        self.group.meters.skipped(why, 1);
        self.group.skip(self.ledger, self.id, offset)?;
        Ok(1)
    }

    fn describe(&mut self) -> LiteTopic {
        let (group, now, id) = (self.group.spec.name.clone(), self.ledger.stage.now(), self.group.id());
        let tenant = self.lite().tenant;
        let tenant = self.ledger.tenant_name(tenant).as_ref().to_owned();
        let lite = self.lite();
        let (topic, name, lite_id) = (lite.topic.topic_name(), lite.name.clone(), lite.id);
        let (first_kept, next_offset) = (lite.trimmed, lite.visible);
        // A revoked lease may have been the last of a lite topic that the group left.
        let mut left = Cursor::starting_at(first_kept);
        let cursor = self.lite().cursor(id).unwrap_or(&mut left);
        let head = |offset: Offset| LiteHead { offset, attempts: cursor.attempts_of(offset) };
        LiteTopic {
            topic,
            name,
            lite_id,
            tenant,
            first_kept,
            next_offset,
            group,
            settled_up_to: cursor.settled_up_to(),
            settled_ahead: cursor.settled_ahead().collect(),
            backlog: cursor.backlog(next_offset),
            head: cursor.head_offset(next_offset).map(head),
            leases: cursor.leases().map(lite_lease).collect(),
            suspensions: cursor.holds().iter().filter(|held| held.until > now).map(suspension).collect(),
        }
    }
}

/// An open lease, as operators see it.
pub(super) fn lite_lease((offset, lease): (Offset, &Lease)) -> LiteLease {
    LiteLease {
        offset,
        session: lease.session.to_string(),
        attempt: lease.attempt,
        dispatched_at: lease.dispatched_at,
        deadline: lease.deadline,
    }
}

/// There is no lite topic with this name.
pub(super) fn unknown_lite(topic: &TopicSpec, name: &LiteName) -> Refusal {
    Refusal::new(ErrorCode::UnknownLite, format!("lite topic `{name}` does not exist in topic `{}`", topic.name))
}

/// A lease stands in the way.
pub(super) fn leased(offset: Offset, session: SessionId) -> Refusal {
    let message =
        format!("offset {offset} is leased to session {session}; wait, or suspend the lite topic with revoke first");
    Refusal::new(ErrorCode::InUse, message).detail("offset", &offset.to_string())
}

const fn hold_source(source: SuspensionSource) -> HoldSource {
    match source {
        SuspensionSource::Operator => HoldSource::Operator,
        SuspensionSource::Policy => HoldSource::Policy,
        SuspensionSource::Settle => HoldSource::Settle,
        SuspensionSource::Retry => HoldSource::Retry,
    }
}

pub(super) const fn suspension_source(source: HoldSource) -> SuspensionSource {
    match source {
        HoldSource::Operator => SuspensionSource::Operator,
        HoldSource::Policy => SuspensionSource::Policy,
        HoldSource::Settle => SuspensionSource::Settle,
        HoldSource::Retry => SuspensionSource::Retry,
    }
}

fn suspension(&Held { source, since, until }: &Held) -> Suspension {
    Suspension { source: suspension_source(source), since, until }
}

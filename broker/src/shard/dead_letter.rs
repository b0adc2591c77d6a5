//! Copies into the dead-letter topic, in the same batch that settles the original; and the way back.

use bytes::Bytes;
use sluicegate_protocol::admin::{DeadLetter, Durability, TenantRule};
use sluicegate_protocol::limits::SETTLE_WINDOW;
use sluicegate_protocol::{ErrorCode, GroupId, LiteId, LiteName, Offset};

use super::command::NewBody;
use super::fault::{Fault, Reply};
use super::ledger::Ledger;
use super::lite::{Lite, NewLite};
use super::operator::{leased, unknown_lite};
use super::publish::PublishDone;
use super::stage::Stage;
use super::{Effect, Shard, lifecycle, store_failed};
use crate::catalog::GroupSpec;
use crate::refusal::Refusal;
use crate::store::{BodyRef, MessageHeader, MessageKey, Row as _, StoreError, StoredMessage};

/// Properties that a dead-lettered message has beside its own.
const CAUSE: &str = "sluicegate.dead-letter.cause";
const ATTEMPTS: &str = "sluicegate.dead-letter.attempts";
const OFFSET: &str = "sluicegate.dead-letter.offset";
const GROUP: &str = "sluicegate.dead-letter.group";

/// Bytes that one batch moves back; the message that reaches it is the last.
const REDRIVE_BYTES_MAX: usize = 1 << 20;

/// What one batch of a redrive did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RedriveStep {
    /// Messages that went back.
    pub(crate) moved: u64,
    /// Dead letters of the lite topic that are left.
    pub(crate) left: u64,
}

/// Stages a copy of a waiting message into the group's dead-letter topic, same lite topic name.
pub(super) fn copy(
    ledger: &mut Ledger,
    group: &GroupSpec,
    id: LiteId,
    offset: Offset,
    cause: &str,
) -> Result<(), StoreError> {
    let shard = ledger.stage.shard();
    let key = MessageKey { shard, lite: id, offset };
    let Some(message) = ledger.stage.store().get(&key)? else {
        let problem = "an unsettled message is missing".into();
        return Err(StoreError::Corrupt { table: "message", key: format!("{id} {offset}"), problem });
    };
    let topic = ledger.topics.get(&group.dead_letter).cloned().expect("a group's dead-letter topic is made with it");
    let lite = ledger.open_lite(id);
    let (name, tenant) = (lite.name.clone(), lite.tenant);
    let labels = lite.labels.as_deref().cloned().unwrap_or_default();
    // A consumer that gives up has a lease still, whose attempt counts.
    let attempts = lite.cursor(group.id).map_or(0, |cursor| match cursor.lease_of(offset) {
        Some(lease) => lease.attempt,
        None => cursor.attempts_of(offset),
    });
    let tenant = ledger.tenant_name(tenant);
    let target = match ledger.find(&topic, &name)? {
        Some(target) => target,
        None => ledger.create(&topic, NewLite { name, tenant: Some(&tenant), labels }),
    };
    let mut header = message.header;
    header.published_at_us = ledger.stage.now().0;
    header.deliver_at_us = None;
    header.expires_at_us = None;
    header.properties.extend([
        (CAUSE.to_owned(), cause.to_owned()),
        (ATTEMPTS.to_owned(), attempts.to_string()),
        (OFFSET.to_owned(), offset.to_string()),
        (GROUP.to_owned(), group.name.as_str().to_owned()),
    ]);
    let Ledger { stage, lites, .. } = ledger;
    let body = share_body(stage, header.body, message.body)?;
    let lite = lites.get(target).expect("it was just found or made");
    let waiting = lifecycle::append(stage, lite, header, body);
    let appended = vec![(target, waiting)];
    let done = PublishDone { replies: None, receipts: Vec::new(), appended, bytes: 0, room: None };
    stage.then(Durability::Fsync, Effect::Published(done));
    Ok(())
}

/// The body of a copy. One with rows of its own is not copied: other groups may need the message still, and a batch must not
/// hold a large body. Whichever message goes last takes it along.
fn share_body(stage: &mut Stage, own: Option<BodyRef>, body: Bytes) -> Result<NewBody, StoreError> {
    match own {
        Some(own) => stage.share_body(own).map(|()| NewBody::Shared(own)),
        None => Ok(NewBody::Whole(body)),
    }
}

/// What is known of a dead letter, from what it says itself.
pub(crate) fn describe(lite: LiteName, offset: Offset, header: &MessageHeader) -> DeadLetter {
    let property = |key| header.properties.get(key).map(String::as_str);
    DeadLetter {
        lite,
        offset,
        cause: property(CAUSE).unwrap_or_default().to_owned(),
        attempts: property(ATTEMPTS).and_then(|attempts| attempts.parse().ok()).unwrap_or_default(),
        origin: Offset(property(OFFSET).and_then(|offset| offset.parse().ok()).unwrap_or_default()),
        at: header.published_at(),
    }
}

impl Shard {
    pub(super) fn redrive(&mut self, group: GroupId, lite: &LiteName, limit: u64, reply: Reply<RedriveStep>) {
        let done = self.redriven(group, lite, limit);
        self.answer(reply, done, Durability::Fsync);
    }

    /// Moves the first dead letters of a lite topic back, in one batch.
    fn redriven(&mut self, group: GroupId, name: &LiteName, limit: u64) -> Result<RedriveStep, Fault> {
        if let Some(error) = &self.failed {
            return Err(store_failed(error).into());
        }
        let deleted = || Refusal::new(ErrorCode::UnknownGroup, "the group was deleted");
        let spec = self.groups.get(&group).ok_or_else(deleted)?.spec.clone();
        let dead = self.ledger.topics.get(&spec.dead_letter).cloned().expect("it is made with the group");
        let source = self.ledger.find(&dead, name)?.ok_or_else(|| unknown_lite(&dead, name))?;
        let lite = self.ledger.open_lite(source);
        let (first, visible) = (lite.trimmed, lite.visible);
        let limit = Offset(visible.0.min(first.0.saturating_add(limit)));
        if let Some((offset, session)) = first_lease(lite).filter(|(offset, _)| *offset < limit) {
            return Err(leased(offset, session).into());
        }
        let (messages, end) = read(&mut self.ledger, source, first, limit)?;
        let moved = messages.len() as u64;
        if moved > 0 {
            self.move_back(&spec, name, source, messages)?;
        }
        // Making room for the target may have put the source out of memory.
        let source = self.ledger.find(&dead, name)?.expect("it was there just now");
        let Ledger { stage, lites, .. } = &mut self.ledger;
        let lite = lites.get(source).expect("it was just found");
        lifecycle::removed(stage, lite, end);
        let left = lite.next_offset.0 - end.0;
        if left == 0 && lite.cursors.is_empty() {
            // Nobody follows it and nothing is in it.
            self.ledger.delete(source);
            return Ok(RedriveStep { moved, left });
        }
        let followers: Vec<_> = self.ledger.open_lite(source).cursors.iter().map(|(group, _)| *group).collect();
        for group in followers {
            if let Some(group) = self.groups.get_mut(&group) {
                group.announce(&mut self.ledger, source)?;
            }
        }
        Ok(RedriveStep { moved, left })
    }

    /// Appends dead letters to the lite topic that they came from.
    fn move_back(
        &mut self,
        spec: &GroupSpec,
        name: &LiteName,
        source: LiteId,
        messages: Vec<StoredMessage>,
    ) -> Result<(), StoreError> {
        let topic = self.ledger.topics.get(&spec.topic).cloned().expect("a group is in its topic's shard");
        let source = self.ledger.open_lite(source);
        let (tenant, labels) = (source.tenant, source.labels.as_deref().cloned().unwrap_or_default());
        let tenant = self.ledger.tenant_name(tenant);
        let tenant = match &topic.settings.tenant {
            TenantRule::LiteTopic => None,
            TenantRule::Prefix | TenantRule::Property(_) => Some(&*tenant),
        };
        let target = match self.ledger.find(&topic, name)? {
            Some(target) => target,
            None => self.ledger.create(&topic, NewLite { name: name.clone(), tenant, labels }),
        };
        let Ledger { stage, lites, .. } = &mut self.ledger;
        let lite = lites.get(target).expect("it was just found or made");
        if lite.cursor(spec.id).is_none() {
            // Its consumers unsubscribed, or never subscribed to the new one: what comes back is the group's all the same.
            let end = lite.next_offset;
            lifecycle::followed(stage, spec.id, lite);
            lifecycle::sought(stage, spec.id, lite, end);
        }
        let mut appended = Vec::with_capacity(messages.len());
        let mut bytes = 0;
        for StoredMessage { mut header, body } in messages {
            let body = share_body(stage, header.body, body)?;
            bytes += body.bytes();
            header.published_at_us = stage.now().0;
            for key in [CAUSE, ATTEMPTS, OFFSET, GROUP] {
                header.properties.remove(key);
            }
            let waiting = lifecycle::append(stage, lite, header, body);
            let others: Vec<_> = lite.cursors.iter().map(|(id, _)| *id).filter(|id| *id != spec.id).collect();
            for other in others {
                // The others had it when it was published first. One that is far behind gets it again: a cursor cannot
                // remember more.
                let cursor = lite.cursor(other).expect("it was listed");
                if waiting.offset.0 < cursor.settled_up_to().0 + SETTLE_WINDOW {
                    lifecycle::skipped(stage, other, lite, waiting.offset);
                }
            }
            appended.push((target, waiting));
        }
        let done = PublishDone { replies: None, receipts: Vec::new(), appended, bytes, room: None };
        stage.then(Durability::Fsync, Effect::Published(done));
        Ok(())
    }
}

/// The lowest leased offset of any group.
fn first_lease(lite: &Lite) -> Option<(Offset, sluicegate_protocol::SessionId)> {
    let first = |(_, cursor): &(GroupId, super::cursor::Cursor)| {
        cursor.leases().next().map(|(offset, lease)| (offset, lease.session))
    };
    lite.cursors.iter().filter_map(first).min()
}

/// The messages from `first` on that somebody has not settled, up to `limit` or as many as one batch moves; and where
/// they end.
fn read(
    ledger: &mut Ledger,
    lite: LiteId,
    first: Offset,
    limit: Offset,
) -> Result<(Vec<StoredMessage>, Offset), StoreError> {
    let (mut messages, mut bytes, mut next) = (Vec::new(), 0, first);
    while next < limit && bytes < REDRIVE_BYTES_MAX {
        let key = MessageKey { shard: ledger.stage.shard(), lite, offset: next };
        let corrupt = |problem| StoreError::Corrupt { table: "message", key: format!("{lite} {next}"), problem };
        let missing = || corrupt("a kept message is missing".into());
        let row = ledger.stage.store().get_bytes(&key)?.ok_or_else(missing)?;
        let message = StoredMessage::decode(&row).map_err(corrupt)?;
        bytes += row.len();
        drop(row);
        let cursors = &ledger.open_lite(lite).cursors;
        // What consumers of the dead-letter topic have settled is done with.
        if cursors.is_empty() || !cursors.iter().all(|(_, cursor)| cursor.is_settled(next)) {
            messages.push(message);
        }
        next = next.next();
    }
    Ok((messages, next))
}

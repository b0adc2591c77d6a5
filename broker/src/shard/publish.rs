//! Publishing: from requests to rows, and from durable rows to receipts and heads.

use std::time::Duration;

use sluicegate_protocol::{ErrorCode, LiteId, Offset, ProducerId, TopicId, wire};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::command::{PublishRequest, ToProducer};
use super::cursor::Waiting;
use super::fault::Fault;
use super::ledger::Ledger;
use super::limits::Target;
use super::lite::{NewLite, labels_of, tenant_by_rule};
use super::receipts::{Before, Source};
use super::{Effect, Idempotency, Shard, lifecycle, store_failed};
use crate::refusal::Refusal;
use crate::store::{BodyRef, MessageHeader};

/// When a publish that was refused for want of room may be tried again.
const ROOM_AGAIN: Duration = Duration::from_secs(2);

/// What is to be told and shown when a batch of publishes is durable.
pub(super) struct PublishDone {
    pub(super) replies: Option<mpsc::Sender<ToProducer>>,
    pub(super) receipts: Vec<wire::PublishReceipt>,
    pub(super) appended: Vec<(LiteId, Waiting)>,
    /// Of the bodies.
    pub(super) bytes: u64,
    /// Given back when the publishes are answered.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// Whether a publish became a message now.
enum Appended {
    Yes,
    /// It was one already.
    Before,
}

impl PublishDone {
    pub(super) fn refuse(self, refusal: &Refusal) {
        let Some(replies) = self.replies else { return };
        for receipt in self.receipts {
            // A producer that is gone, or does not read, learns by its resend.
            let _ = replies.try_send(ToProducer::Refused(receipt.sequence, refusal.clone()));
        }
    }
}

/// The topic was deleted: the producer has nowhere to publish to any more.
fn refuse_all(requests: &[PublishRequest], replies: &mpsc::Sender<ToProducer>) {
    let refusal = Refusal::new(ErrorCode::UnknownTopic, "the topic was deleted");
    for request in requests {
        // A producer that does not read is gone, or will be.
        let _ = replies.try_send(ToProducer::Refused(request.sequence, refusal.clone()));
    }
    let _ = replies.try_send(ToProducer::Failed(refusal));
}

impl Shard {
    pub(super) fn publish(
        &mut self,
        topic: TopicId,
        producer: ProducerId,
        requests: Vec<PublishRequest>,
        replies: &mpsc::Sender<ToProducer>,
        room: OwnedSemaphorePermit,
    ) {
        if self.failed.is_none() && !self.ledger.topics.contains_key(&topic) {
            for request in &requests {
                self.drop_upload(request.body.uploaded());
            }
            return refuse_all(&requests, replies);
        }
        let mut done = PublishDone {
            replies: Some(replies.clone()),
            receipts: Vec::with_capacity(requests.len()),
            appended: Vec::with_capacity(requests.len()),
            bytes: 0,
            room: Some(room),
        };
        for request in requests {
            let (sequence, uploaded) = (request.sequence, request.body.uploaded());
            let refusal = match self.failed.clone() {
                Some(error) => store_failed(&error),
                None => match self.publish_one(topic, producer, request, &mut done) {
                    Ok(Appended::Yes) => continue,
                    Ok(Appended::Before) => {
                        self.drop_upload(uploaded);
                        continue;
                    }
                    Err(Fault::Refused(refusal)) => refusal,
                    Err(Fault::Store(error)) => {
                        self.fail(&error);
                        store_failed(&error)
                    }
                },
            };
            self.drop_upload(uploaded);
            // See above: a producer that does not read learns by its resend.
            let _ = replies.try_send(ToProducer::Refused(sequence, refusal));
        }
        self.receipts.save(&mut self.ledger.stage, Source { topic, producer });
        if done.receipts.is_empty() {
            return;
        }
        if let Some(error) = &self.failed {
            return done.refuse(&store_failed(error));
        }
        let durability = self.ledger.topics[&topic].settings.durability;
        self.ledger.stage.then(durability, Effect::Published(done));
    }

    fn publish_one(
        &mut self,
        topic: TopicId,
        producer: ProducerId,
        request: PublishRequest,
        done: &mut PublishDone,
    ) -> Result<Appended, Fault> {
        let (sequence, source) = (request.sequence, Source { topic, producer });
        if let Some(receipt) = self.published_before(source, sequence)? {
            done.receipts.push(receipt);
            return Ok(Appended::Before);
        }
        if let Some((id, offset)) = self.published_under_key(topic, &request)? {
            self.receipts.remember(source, sequence, id, offset);
            let (lite_id, offset) = (id.0, offset.0);
            done.receipts.push(wire::PublishReceipt { sequence, lite_id, offset, created: false, duplicate: true });
            return Ok(Appended::Before);
        }
        self.check_room()?;
        let (id, created) = self.lite_for(topic, &request)?;
        let lite = self.ledger.lites.get(id).expect("it was just found or made");
        let header = MessageHeader {
            position: None,
            published_at_us: self.ledger.stage.now().0,
            priority: request.priority.into(),
            cost: request.cost,
            deliver_at_us: request.deliver_at.map(|at| at.0),
            expires_at_us: request.expires_at.map(|at| at.0),
            properties: request.properties,
            body: None,
            bodies_before: None,
        };
        done.bytes += request.body.bytes();
        let waiting = lifecycle::append(&mut self.ledger.stage, lite, header, request.body);
        if let Some(idempotency) = request.idempotency {
            let window = lite.topic.settings.idempotency_window();
            self.ledger.keys.remember(&mut self.ledger.stage, id, idempotency, waiting.offset, window);
        }
        self.receipts.remember(source, sequence, id, waiting.offset);
        let offset = waiting.offset.0;
        done.receipts.push(wire::PublishReceipt { sequence, lite_id: id.0, offset, created, duplicate: false });
        done.appended.push((id, waiting));
        Ok(Appended::Yes)
    }

    /// What this producer's sequence became before, if it did.
    pub(super) fn published_before(
        &mut self,
        source: Source,
        sequence: u64,
    ) -> Result<Option<wire::PublishReceipt>, Fault> {
        match self.receipts.before(&self.ledger.stage, source, sequence)? {
            Before::New => Ok(None),
            Before::Published(lite, offset) => Ok(Some(wire::PublishReceipt {
                sequence,
                lite_id: lite.0,
                offset: offset.0,
                created: false,
                duplicate: true,
            })),
            Before::Forgotten => {
                let message = format!("sequence {sequence} is older than any that this producer may resend");
                Err(Refusal::new(ErrorCode::IdempotencyConflict, message).into())
            }
        }
    }

    /// What was uploaded for a message that is not appended goes.
    fn drop_upload(&mut self, uploaded: Option<BodyRef>) {
        if let Some(body) = uploaded {
            self.ledger.stage.drop_upload(body);
        }
    }

    /// Where the message is that was published under the same key, if its window has not ended.
    fn published_under_key(
        &mut self,
        topic: TopicId,
        request: &PublishRequest,
    ) -> Result<Option<(LiteId, Offset)>, Fault> {
        let Some(Idempotency { key, body_digest }) = &request.idempotency else { return Ok(None) };
        let Some(topic) = self.ledger.topics.get(&topic).cloned() else { return Ok(None) };
        let Some(id) = self.ledger.find(&topic, &request.lite)? else { return Ok(None) };
        let Some(row) = self.ledger.keys.find(&self.ledger.stage, id, key)? else { return Ok(None) };
        let offset = Offset(row.offset);
        if row.body_digest == body_digest {
            return Ok(Some((id, offset)));
        }
        let message = format!(
            "idempotency key {key:?} was used for another body, at offset {offset} of lite topic `{}`",
            request.lite
        );
        let refusal = Refusal::new(ErrorCode::IdempotencyConflict, message);
        Err(refusal.detail("lite_id", &id.0.to_string()).detail("offset", &offset.0.to_string()).into())
    }

    /// What was published before is answered in any case; only what is new needs room.
    pub(super) fn check_room(&self) -> Result<(), Fault> {
        let space = self.ledger.stage.store().space();
        if !space.is_short() {
            return Ok(());
        }
        let room = space.room();
        let refusal = Refusal::new(ErrorCode::DiskFull, format!("{room}, publishes are refused until there is room"));
        let refusal = refusal.detail("free_bytes", &room.free_bytes.to_string());
        let refusal = refusal.detail("reserve_bytes", &room.reserve_bytes.to_string());
        Err(refusal.retry_after(ROOM_AGAIN).into())
    }

    fn lite_for(&mut self, topic: TopicId, request: &PublishRequest) -> Result<(LiteId, bool), Fault> {
        let unknown = || Refusal::new(ErrorCode::UnknownTopic, "the topic was deleted");
        let topic = self.ledger.topics.get(&topic).cloned().ok_or_else(unknown)?;
        let rule = &topic.settings.tenant;
        let property = |key: &str| request.properties.get(key).map(String::as_str);
        if let Some(id) = self.ledger.find(&topic, &request.lite)? {
            // Only the property rule lets a later message say otherwise.
            if let sluicegate_protocol::admin::TenantRule::Property(key) = rule
                && let Some(named) = property(key)
                && self.ledger.lites.tenant_named(named) != Some(self.ledger.open_lite(id).tenant)
            {
                let tenant = self.ledger.open_lite(id).tenant;
                let tenant = self.ledger.tenant_name(tenant);
                let message =
                    format!("lite topic `{}` belongs to tenant `{tenant}`, the message says `{named}`", request.lite);
                return Err(Refusal::new(ErrorCode::TenantConflict, message).into());
            }
            self.check_limits(&topic, Target::Lite(id), request.bytes())?;
            return Ok((id, false));
        }
        let refuse = |message| Refusal::new(ErrorCode::InvalidArgument, message);
        let tenant = tenant_by_rule(rule, &request.lite, property).map_err(refuse)?;
        let labels = labels_of(&request.properties).map_err(refuse)?;
        self.check_limits(&topic, Target::New(tenant), request.bytes())?;
        Ok((self.ledger.create(&topic, NewLite { name: request.lite.clone(), tenant, labels }), true))
    }

    /// Messages are as durable as their topic asks: the producer is told, the schedulers see them.
    pub(super) fn published(&mut self, done: PublishDone) {
        drop(done.room);
        if let Some(replies) = done.replies {
            self.published_so_far.messages += done.appended.len() as u64;
            self.published_so_far.bytes += done.bytes;
            // A producer that is gone, or does not read, learns by its resend.
            let _ = replies.try_send(ToProducer::Receipts(done.receipts));
        }
        for (id, waiting) in done.appended {
            // It may have been deleted since.
            let Some(lite) = self.ledger.lites.get(id) else { continue };
            lite.saw(waiting.offset);
            if waiting.offset == Offset(0)
                && let Err(error) = self.follow_new(id)
            {
                return self.fail(&error);
            }
            self.record_arrival(id, &waiting);
            let Ledger { readers, lites, .. } = &mut self.ledger;
            let lite = lites.get(id).expect("it was just found");
            readers.saw(lite);
            for (_, cursor) in &mut lite.cursors {
                cursor.appended(&waiting);
            }
            let unannounced: Vec<_> =
                lite.cursors.iter().filter(|(_, cursor)| cursor.announced.is_none()).map(|(group, _)| *group).collect();
            for group in unannounced {
                let Some(group) = self.groups.get_mut(&group) else { continue };
                if let Err(error) = group.announce(&mut self.ledger, id) {
                    return self.fail(&error);
                }
            }
            if let Err(error) = self.trim_bytes(id) {
                return self.fail(&error);
            }
        }
    }
}

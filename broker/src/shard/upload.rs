//! Large bodies on their way in, and whether a session may have one that is there. Chunks do not come through the shard.

use sluicegate_protocol::admin::Durability;
use sluicegate_protocol::{ErrorCode, GroupId, ProducerId, SessionId, TopicId, wire};
use tokio::sync::oneshot;

use super::command::ExtendRequest;
use super::fault::{Fault, Reply};
use super::receipts::Source;
use super::{Shard, store_failed};
use crate::refusal::Refusal;
use crate::store::BodyRef;

/// A message whose body is to come in chunks.
#[derive(Debug)]
pub(crate) struct BeginUpload {
    pub(crate) topic: TopicId,
    pub(crate) producer: ProducerId,
    pub(crate) sequence: u64,
    /// Of the whole body.
    pub(crate) bytes: u64,
    pub(crate) reply: Reply<Begun>,
}

/// How an upload begins.
#[derive(Debug)]
pub(crate) enum Begun {
    /// The chunks go here.
    New(BodyRef),
    /// The message was published before: no chunk is wanted.
    Published(wire::PublishReceipt),
}

impl Shard {
    pub(super) fn begin_upload(&mut self, begin: BeginUpload) {
        let done = self.begun_upload(&begin);
        let topic = self.ledger.topics.get(&begin.topic);
        let durability = match (&done, topic) {
            (Ok(Begun::Published(_)), Some(topic)) => topic.settings.durability,
            // What is on its way need not outlive a power cut.
            _ => Durability::Os,
        };
        self.answer(begin.reply, done, durability);
    }

    fn begun_upload(&mut self, begin: &BeginUpload) -> Result<Begun, Fault> {
        if let Some(error) = &self.failed {
            return Err(store_failed(error).into());
        }
        if !self.ledger.topics.contains_key(&begin.topic) {
            return Err(Refusal::new(ErrorCode::UnknownTopic, "the topic was deleted").into());
        }
        let source = Source { topic: begin.topic, producer: begin.producer };
        if let Some(receipt) = self.published_before(source, begin.sequence)? {
            return Ok(Begun::Published(receipt));
        }
        self.check_room()?;
        Ok(Begun::New(self.ledger.stage.begin_body(begin.bytes)))
    }

    pub(super) fn abort_upload(&mut self, body: BodyRef) {
        // A failed store's uploads are swept by the next life.
        if self.failed.is_none() {
            self.ledger.stage.drop_upload(body);
        }
    }

    pub(super) fn check_lease(
        &mut self,
        group: GroupId,
        session: SessionId,
        asked: &ExtendRequest,
        reply: oneshot::Sender<Result<(), Refusal>>,
    ) {
        let cursor = self.ledger.lites.get(asked.lite).and_then(|lite| lite.cursor(group));
        let lease = cursor.and_then(|cursor| cursor.lease_of(asked.offset));
        let is_held = lease.is_some_and(|lease| lease.token == asked.token && lease.session == session);
        let answer = match (&self.failed, is_held) {
            (Some(error), _) => Err(store_failed(error)),
            (None, true) => Ok(()),
            (None, false) => Err(Refusal::new(ErrorCode::LeaseLost, "the session does not hold this lease")),
        };
        // The stream may have gone.
        let _ = reply.send(answer);
    }
}

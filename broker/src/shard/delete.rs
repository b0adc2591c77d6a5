//! The end of a lite topic's life.

use sluicegate_protocol::admin::{DeletedLite, Durability};
use sluicegate_protocol::{ErrorCode, LiteId, LiteName, TopicId};
use sluicegate_scheduler::Event;

use super::command::ToConsumer;
use super::fault::{Fault, Reply};
use super::group::Group;
use super::ledger::Ledger;
use super::lite::Lite;
use super::operator::{Place, unknown_lite};
use super::{Effect, Shard, store_failed};
use crate::refusal::Refusal;
use crate::store::StoreError;

impl Shard {
    pub(super) fn delete_lite(&mut self, topic: TopicId, name: &LiteName, reply: Reply<DeletedLite>) {
        let done = self.deleted_lite(topic, name);
        self.answer(reply, done, Durability::Fsync);
    }

    fn deleted_lite(&mut self, topic: TopicId, name: &LiteName) -> Result<DeletedLite, Fault> {
        if let Some(error) = &self.failed {
            return Err(store_failed(error).into());
        }
        let deleted = || Refusal::new(ErrorCode::UnknownTopic, "the topic was deleted");
        let topic = self.ledger.topics.get(&topic).cloned().ok_or_else(deleted)?;
        let id = self.ledger.find(&topic, name)?.ok_or_else(|| unknown_lite(&topic, name))?;
        let (lite, revoked) = self.end_life(id)?;
        self.ledger.keys.forget(&mut self.ledger.stage, id)?;
        let messages = lite.next_offset.0 - lite.trimmed.0;
        self.tell_ended();
        Ok(DeletedLite { name: lite.name, lite_id: id, messages, revoked })
    }

    /// Ends the life of a lite topic that is in memory, whatever is in work of it. Answers what it was, and how many leases were
    /// taken away. Who subscribed to it by name is to be told.
    pub(super) fn end_life(&mut self, id: LiteId) -> Result<(Lite, u64), StoreError> {
        let now = self.ledger.stage.now();
        let mut revoked = 0;
        let followers: Vec<_> = self.ledger.open_lite(id).cursors.iter().map(|(group, _)| *group).collect();
        for group in followers {
            let Some(group) = self.groups.get_mut(&group) else { continue };
            revoked += Place { group: &mut *group, ledger: &mut self.ledger, id }.revoke()?;
            group.scheduler.handle(now, Event::Emptied(id));
            group.scheduler.handle(now, Event::Resumed { lite: id, source: None });
        }
        let lite = self.ledger.delete(id);
        let followers = self.ledger.groups_of.get(&lite.topic.id).map_or(&[][..], Vec::as_slice);
        for follower in followers {
            let Some(group) = self.groups.get_mut(&follower.group) else { continue };
            for &session in group.subscriptions.named(&lite.name) {
                group.sessions.life_ended(session, &lite.name, id);
            }
        }
        Ok((lite, revoked))
    }

    /// Tells subscribers of lives that ended, when that is written.
    pub(super) fn tell_ended(&mut self) {
        for group in self.groups.values_mut() {
            group.tell_ended(&mut self.ledger);
        }
    }
}

impl Group {
    pub(super) fn tell_ended(&mut self, ledger: &mut Ledger) {
        for (outbox, lost) in self.sessions.tell_ended() {
            ledger.stage.then(Durability::Os, Effect::Reply(outbox, ToConsumer::Lost(lost)));
        }
    }
}

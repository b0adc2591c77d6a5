//! The end of a lite topic's life.

use sluicegate_protocol::admin::{DeletedLite, Durability};
use sluicegate_protocol::{ErrorCode, LiteName, TopicId};
use sluicegate_scheduler::Event;

use super::fault::{Fault, Reply};
use super::operator::{Place, unknown_lite};
use super::{Shard, store_failed};
use crate::refusal::Refusal;

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
        let now = self.ledger.stage.now();
        let mut revoked = 0;
        let followers: Vec<_> = self.ledger.open_lite(id).cursors.iter().map(|(group, _)| *group).collect();
        for group in followers {
            let Some(group) = self.groups.get_mut(&group) else { continue };
            revoked += Place { group: &mut *group, ledger: &mut self.ledger, id }.revoke()?;
            group.scheduler.handle(now, Event::Emptied(id));
            group.scheduler.handle(now, Event::Resumed { lite: id, source: None });
        }
        let lite = self.ledger.delete(id)?;
        let messages = lite.next_offset.0 - lite.trimmed.0;
        Ok(DeletedLite { name: lite.name, lite_id: id, messages, revoked })
    }
}

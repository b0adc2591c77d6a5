//! What a group follows that chose to follow what its consumers subscribe to: by the cursor rows that it has.
//!
//! Where it begins was said with the subscription, of lite topics that existed then; in later ones it begins with the first message.
//! It begins with a subscription, whether the lite topic exists or comes later, and ends when a consumer unsubscribes and no other
//! is subscribed; not with a session. A lite topic that has open leases of the group is left when they have ended.

use sluicegate_protocol::admin::Follows;
use sluicegate_protocol::{LiteId, LiteName, Offset};
use sluicegate_scheduler::Event;

use super::group::Group;
use super::ledger::Ledger;
use super::lite::Follower;
use super::subscribe::Why;
use super::{Shard, lifecycle};
use crate::store::StoreError;

impl Shard {
    /// The first message of a lite topic is visible: it may be what somebody subscribed to.
    pub(super) fn follow_new(&mut self, id: LiteId) -> Result<(), StoreError> {
        let topic = self.ledger.open_lite(id).topic.id;
        let choosing = |follower: &&Follower| follower.follows == Follows::Subscribed;
        let followers: Vec<_> =
            self.ledger.groups_of.get(&topic).into_iter().flatten().filter(choosing).copied().collect();
        for follower in followers {
            let Some(group) = self.groups.get_mut(&follower.group) else { continue };
            let lite = self.ledger.open_lite(id);
            if lite.cursor(follower.group).is_none() && !group.subscriptions.members(&lite.name).is_empty() {
                group.follow(&mut self.ledger, id, None)?;
            }
        }
        Ok(())
    }
}

impl Group {
    pub(super) fn chooses(&self) -> bool {
        self.spec.settings.follows == Follows::Subscribed
    }

    /// The subscriptions to a lite topic changed; the group begins at `start` if it does not follow it yet.
    pub(super) fn refollow(
        &mut self,
        ledger: &mut Ledger,
        name: &LiteName,
        why: Why,
        start: Option<Offset>,
    ) -> Result<(), StoreError> {
        let topic = ledger.topics.get(&self.spec.topic).cloned().expect("a group is in its topic's shard");
        let Some(id) = ledger.find(&topic, name)? else { return Ok(()) };
        let (group, is_wanted) = (self.id(), !self.subscriptions.members(name).is_empty());
        let Ledger { stage, lites, .. } = &mut *ledger;
        let lite = lites.get(id).expect("it was just found");
        match lite.cursor(group).map(|cursor| cursor.leaving) {
            None if is_wanted => self.follow(ledger, id, start)?,
            Some(true) if is_wanted => lifecycle::staying(stage, group, lite),
            Some(false) if !is_wanted && why == Why::Unsubscribed => {
                lifecycle::leaving(stage, group, lite);
                self.announce(ledger, id)?;
            }
            None | Some(_) => {}
        }
        Ok(())
    }

    /// Begins at this offset, else at the first message that is kept.
    fn follow(&mut self, ledger: &mut Ledger, id: LiteId, start: Option<Offset>) -> Result<(), StoreError> {
        let group = self.id();
        let Ledger { stage, lites, .. } = &mut *ledger;
        let lite = lites.get(id).expect("its owner just used it");
        lifecycle::followed(stage, group, lite);
        if let Some(start) = start {
            lifecycle::sought(stage, group, lite, start);
        }
        let (place, end) = (lite.place(), lite.next_offset);
        let cursor = lite.cursor(group).expect("it was just made");
        if !cursor.is_drained(end) {
            lifecycle::file(stage, group, &place, cursor, None);
        }
        self.announce(ledger, id)
    }

    /// The end of it: the last lease is over, if there was one.
    pub(super) fn leave(&mut self, ledger: &mut Ledger, id: LiteId) {
        let (group, now) = (self.id(), ledger.stage.now());
        let Ledger { stage, lites, .. } = ledger;
        lifecycle::left(stage, group, lites.get(id).expect("its owner just used it"));
        self.scheduler.handle(now, Event::Emptied(id));
        self.scheduler.handle(now, Event::Resumed { lite: id, source: None });
    }
}

//! Lite topics whose life ends by itself: by their `due` rows, never by a look at all of them.
//!
//! A row says when to look. What was published, settled or held since then is in the lite topic's own rows, and says whether its life
//! is over or when to look again.

use std::time::Duration;

use sluicegate_protocol::admin::{Durability, LiteReclaim, ReclaimMode, ReclaimSettings};
use sluicegate_protocol::{ErrorCode, LiteId, LiteName, Timestamp, TopicId};

use super::fault::{Fault, Reply};
use super::group::Group;
use super::lite::Lite;
use super::operator::unknown_lite;
use super::stage::Stage;
use super::{Shard, lifecycle, store_failed};
use crate::refusal::Refusal;
use crate::store::{DueKey, DueKind, DueRow, NameKey, OwnReclaim, StoreError};

/// How long after a start nothing ends that readers may come back to. A client that was without its broker for long tries every 5 s.
const READERS_RETURN: Duration = Duration::from_secs(10);

/// What becomes of a lite topic that was looked at.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Over,
    /// It is to be looked at again.
    Lives(Timestamp),
}

/// Puts the row by which a new lite topic is looked at, if its life is to end by itself.
pub(super) fn arm_new(stage: &mut Stage, reclaim: ReclaimSettings, lite: LiteId) {
    if reclaim.mode != ReclaimMode::Never {
        arm(stage, stage.now().plus(reclaim.after()), lite, 0);
    }
}

fn arm(stage: &mut Stage, at: Timestamp, lite: LiteId, reclaim_changes: u32) -> Timestamp {
    stage.arm((DueKind::Reclaim, lite), at, DueRow { reclaim_changes })
}

impl Shard {
    /// Looks at a lite topic whose time has come.
    pub(super) fn look_at(&mut self, key: &DueKey, row: DueRow) -> Result<(), StoreError> {
        let Some(lite) = self.ledger.lite(key.lite)? else { return Ok(()) };
        let reclaim = effective(lite);
        if row.reclaim_changes != lite.reclaim_changes || reclaim.mode == ReclaimMode::Never {
            return Ok(()); // What changed it armed a row of its own.
        }
        match self.verdict(key.lite, reclaim)? {
            Verdict::Lives(at) => drop(arm(&mut self.ledger.stage, at, key.lite, row.reclaim_changes)),
            Verdict::Over => {
                self.end_life(key.lite)?;
                self.reclaimed_so_far += 1;
            }
        }
        Ok(())
    }

    /// Whether the life is over of a lite topic that is in memory.
    fn verdict(&mut self, id: LiteId, reclaim: ReclaimSettings) -> Result<Verdict, StoreError> {
        let now = self.ledger.stage.now();
        let lite = self.ledger.open_lite(id);
        let over_at = over_at(lite, reclaim);
        if over_at > now {
            return Ok(Verdict::Lives(over_at));
        }
        if reclaim.mode == ReclaimMode::Absolute {
            return Ok(Verdict::Over);
        }
        // What ends the wait counts as activity, so that this look is not too late. Only a subscriber or reader that leaves does not.
        let again = now.plus(reclaim.after());
        let has_leases = lite.cursors.iter().any(|(_, cursor)| cursor.has_leases());
        let is_unseen = lite.visible != lite.next_offset;
        let is_kept = reclaim.mode == ReclaimMode::Empty && lite.trimmed != lite.next_offset;
        if has_leases || is_unseen || is_kept || self.is_subscribed(id) || self.ledger.readers.are_at(id) {
            return Ok(Verdict::Lives(again));
        }
        // The wait begins when it is let go, which may be sooner than is known now.
        let let_go_at = self.held_until(id)?.unwrap_or_default().plus(reclaim.after());
        if let_go_at > now {
            return Ok(Verdict::Lives(let_go_at.min(again)));
        }
        let quiet_until = self.quiet_until(id);
        Ok(if quiet_until > now { Verdict::Lives(quiet_until) } else { Verdict::Over })
    }

    /// Whether a session of any group is subscribed to it by name.
    fn is_subscribed(&mut self, id: LiteId) -> bool {
        let lite = self.ledger.open_lite(id);
        let (topic, name) = (lite.topic.id, lite.name.clone());
        self.groups_of(topic).any(|group| !group.subscriptions.named(&name).is_empty())
    }

    /// Until when it is suspended, or its head waits for its `deliver_at`, in the group where that is longest.
    fn held_until(&mut self, id: LiteId) -> Result<Option<Timestamp>, StoreError> {
        let lite = self.ledger.lites.get(id).expect("it was just looked at");
        let groups: Vec<_> = lite.cursors.iter().map(|(group, _)| *group).collect();
        let (visible, mut until) =
            (lite.visible, lite.cursors.iter().filter_map(|(_, cursor)| cursor.held_until()).max());
        for group in groups {
            let Some(offset) = lite.cursor(group).and_then(|cursor| cursor.head_offset(visible)) else { continue };
            lifecycle::bring_head(&self.ledger.stage, group, lite, offset)?;
            let head = lite.cursor(group).and_then(|cursor| cursor.head(offset));
            until = until.max(head.and_then(|head| head.deliver_at));
        }
        Ok(until)
    }

    /// After a start the sessions and readers are not back yet: their subscriptions and what they do are not known before.
    fn quiet_until(&mut self, id: LiteId) -> Timestamp {
        let topic = self.ledger.open_lite(id).topic.id;
        let graces = self.groups_of(topic).map(Group::session_grace);
        let readers = if self.ledger.stage.is_first_epoch() { Duration::ZERO } else { READERS_RETURN };
        self.started_at.plus(graces.fold(readers, Duration::max))
    }

    fn groups_of(&self, topic: TopicId) -> impl Iterator<Item = &Group> {
        let groups = self.ledger.groups_of.get(&topic).map_or(&[][..], Vec::as_slice);
        groups.iter().filter_map(|follower| self.groups.get(&follower.group))
    }

    pub(super) fn set_reclaim(
        &mut self,
        topic: TopicId,
        lite: &LiteName,
        own: Option<ReclaimSettings>,
        reply: Reply<LiteReclaim>,
    ) {
        let done = self.reclaim_set(topic, lite, own);
        self.answer(reply, done, Durability::Fsync);
    }

    fn reclaim_set(
        &mut self,
        topic: TopicId,
        name: &LiteName,
        own: Option<ReclaimSettings>,
    ) -> Result<LiteReclaim, Fault> {
        if let Some(error) = &self.failed {
            return Err(store_failed(error).into());
        }
        let deleted = || Refusal::new(ErrorCode::UnknownTopic, "the topic was deleted");
        let topic = self.ledger.topics.get(&topic).cloned().ok_or_else(deleted)?;
        let id = self.ledger.find(&topic, name)?.ok_or_else(|| unknown_lite(&topic, name))?;
        let Self { ledger, .. } = self;
        let lite = ledger.lites.get(id).expect("it was just found");
        lite.reclaim = own.map(to_row);
        lite.reclaim_changes = lite.reclaim_changes.wrapping_add(1);
        lite.staged_in = ledger.stage.number();
        ledger.stage.put(&NameKey { shard: ledger.stage.shard(), lite: id }, &lite.name_row());
        let (reclaim, changes) = (effective(lite), lite.reclaim_changes);
        let (over_at, lives) = (over_at(lite, reclaim), reclaim.mode != ReclaimMode::Never);
        let due_at = lives.then(|| arm(&mut ledger.stage, over_at, id, changes));
        Ok(LiteReclaim { name: name.clone(), lite_id: id, reclaim, is_own: own.is_some(), due_at })
    }
}

/// When the life is over if nothing happens any more, as far as the lite topic itself knows.
fn over_at(lite: &Lite, reclaim: ReclaimSettings) -> Timestamp {
    if reclaim.mode == ReclaimMode::Absolute {
        return lite.created_at.plus(reclaim.after());
    }
    let groups = lite.cursors.iter().map(|(_, cursor)| cursor.active_at());
    groups.chain([lite.written_at, lite.created_at]).max().unwrap_or_default().plus(reclaim.after())
}

/// What a lite topic goes by.
fn effective(lite: &Lite) -> ReclaimSettings {
    lite.reclaim.as_ref().map_or(lite.topic.settings.reclaim, from_row)
}

fn from_row(own: &OwnReclaim) -> ReclaimSettings {
    ReclaimSettings { mode: from_number(own.mode), after_ms: own.after_ms }
}

const fn to_row(reclaim: ReclaimSettings) -> OwnReclaim {
    // Numbers are stored: they stay what they are.
    let mode = match reclaim.mode {
        ReclaimMode::Never => 0,
        ReclaimMode::Idle => 1,
        ReclaimMode::Empty => 2,
        ReclaimMode::Absolute => 3,
    };
    OwnReclaim { mode, after_ms: reclaim.after_ms }
}

/// A mode that this broker does not know ends nothing.
const fn from_number(mode: u32) -> ReclaimMode {
    match mode {
        1 => ReclaimMode::Idle,
        2 => ReclaimMode::Empty,
        3 => ReclaimMode::Absolute,
        _ => ReclaimMode::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reclaim_of_its_own_survives_its_row() {
        for mode in [ReclaimMode::Never, ReclaimMode::Idle, ReclaimMode::Empty, ReclaimMode::Absolute] {
            let own = ReclaimSettings { mode, after_ms: 1_234 };
            assert_eq!(from_row(&to_row(own)), own);
        }
    }
}

//! How a lite topic comes into memory from its rows.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use sluicegate_protocol::admin::{Follows, Retention};
use sluicegate_protocol::{GroupId, LiteId, LiteName, Offset, Timestamp};

use super::ShardId;
use super::cursor::{Cursor, Waiting};
use super::lite::{Follower, GroupsOf, Lite, Lites};
use super::stage::Stage;
use crate::catalog::TopicSpec;
use crate::store::{CursorKey, Look, MessageHeader, MessageKey, NameRow, Scan, StoreError, TailKey, split_message};

impl Lites {
    /// Brings a lite topic into memory that is not there, as its rows are.
    pub(super) fn load(
        &mut self,
        stage: &mut Stage,
        look: &Look<'_>,
        (id, name): (LiteId, &NameRow),
        topic: &Arc<TopicSpec>,
        groups: GroupsOf<'_>,
    ) -> Result<(), StoreError> {
        let shard = stage.shard();
        let lite_name = LiteName::parse(&name.name).map_err(|error| StoreError::Corrupt {
            table: "name",
            key: format!("{id}"),
            problem: error.to_string(),
        })?;
        let first_kept = match topic.settings.retention {
            Retention::WorkQueue => None,
            // Whoever settled what: it is written down when it changes.
            Retention::Log(_) => {
                let tail = look.get(&TailKey { shard, lite: id })?;
                Some(Offset(tail.map_or(0, |tail| tail.first_kept)))
            }
        };
        let groups = groups.get(&topic.id).map_or(&[][..], Vec::as_slice);
        let (mut cursors, trimmed, unseen) = read_cursors(stage, look, id, groups, first_kept)?;
        let head = cursors.iter().filter_map(|(_, cursor)| cursor.head_offset(Offset(u64::MAX))).min();
        let (Tail { end, bodies_end, written_at, end_position }, head) =
            read_tail(stage, look, id, trimmed, head.unwrap_or(trimmed).max(trimmed))?;
        for (group, cursor) in &mut cursors {
            cursor.read_up_to(end);
            if let Some(head) = &head {
                cursor.appended(head);
            }
            if unseen.contains(group) {
                let unsettled = cursor.unsettled(end);
                stage.levels.unsettled(*group, unsettled.cast_signed());
            }
        }
        let (tenant, tenant_name) = self.tenant_of(id, name.tenant.as_deref());
        self.insert(Lite {
            id,
            topic: Arc::clone(topic),
            name: lite_name,
            tenant,
            tenant_name,
            next_offset: end,
            visible: end,
            trimmed,
            kept_position: head.filter(|head| head.offset == trimmed).map(|head| head.position),
            end_position,
            unseen: VecDeque::new(),
            bodies_end,
            written_at,
            cursors,
            // What is only read is in its rows already.
            staged_in: if unseen.is_empty() { 0 } else { stage.number() },
            created_at: Timestamp(name.created_at_us),
            reclaim: name.reclaim,
            reclaim_changes: name.reclaim_changes,
            labels: (!name.labels.is_empty()).then(|| Box::new(name.labels.clone())),
        });
        Ok(())
    }
}

/// The end of a lite topic, from the store.
struct Tail {
    /// Where the next message goes.
    end: Offset,
    bodies_end: Offset,
    /// When the last message came.
    written_at: Timestamp,
    /// Bytes of all messages that there ever were.
    end_position: u64,
}

impl Tail {
    /// After this message, which is the last.
    fn after(offset: Offset, header: &MessageHeader, body_bytes: usize) -> Self {
        Self {
            end: offset.next(),
            bodies_end: header.bodies_end(offset),
            written_at: header.published_at(),
            end_position: header.end_position(body_bytes),
        }
    }
}

/// The end, and the message at `head` if there is one: no group has a head before. Rows below `trimmed` are deleted, and from there
/// on each offset has one up to the last. Most lite topics have one message that waits, or none: so these are looked for first,
/// which costs less than to look for the last one.
fn read_tail(
    stage: &Stage,
    look: &Look<'_>,
    lite: LiteId,
    trimmed: Offset,
    head: Offset,
) -> Result<(Tail, Option<Waiting>), StoreError> {
    let shard = stage.shard();
    let key = |offset| MessageKey { shard, lite, offset };
    let mut waiting = None;
    if let Some(row) = look.with_bytes(&key(head), Bytes::copy_from_slice)? {
        let corrupt = |problem| StoreError::Corrupt { table: "message", key: format!("{lite} {head}"), problem };
        let (header, body) = split_message(&row).map_err(corrupt)?;
        let tail = Tail::after(head, &header, body.len());
        waiting = Some(Waiting::new(head, &header, stage.keep(row)));
        if look.with_bytes(&key(head.next()), |_| ())?.is_none() {
            return Ok((tail, waiting));
        }
    }
    if (waiting.is_some() || head > trimmed)
        && let Some((last, message)) = look.store().last(&MessageKey::of_lite(shard, lite), &key(trimmed))?
    {
        return Ok((Tail::after(last.offset, &message.header, message.body.len()), waiting));
    }
    // Without a message the row says it; without both, nothing was published yet.
    let tail = look.get(&TailKey { shard, lite })?;
    let (end, written_at, end_position) = tail.map_or((trimmed, Timestamp(0), 0), |tail| {
        (Offset(tail.next_offset), Timestamp(tail.written_at_us), tail.position)
    });
    Ok((Tail { end, bodies_end: Offset(0), written_at, end_position }, None))
}

/// The first message that is there, of a lite topic that no group follows yet.
fn first_there(look: &Look<'_>, shard: ShardId, lite: LiteId) -> Result<Offset, StoreError> {
    if look.with_bytes(&MessageKey { shard, lite, offset: Offset(0) }, |_| ())?.is_some() {
        return Ok(Offset(0));
    }
    let (prefix, mut first) = (MessageKey::of_lite(shard, lite), None);
    look.store().scan(&prefix, &prefix, |key: MessageKey, _| {
        first = Some(key.offset);
        Scan::Done
    })?;
    if let Some(first) = first {
        return Ok(first);
    }
    let tail = look.get(&TailKey { shard, lite })?;
    Ok(tail.map_or_else(Offset::default, |tail| Offset(tail.next_offset)))
}

/// Cursors, the first kept offset, and the groups without a row.
type Cursors = (Vec<(GroupId, Cursor)>, Offset, Vec<GroupId>);

/// The cursors of the topic's groups; the first kept offset: unless it is given, the first that one of them has not settled; and
/// which groups see the lite topic for the first time.
fn read_cursors(
    stage: &mut Stage,
    look: &Look<'_>,
    lite: LiteId,
    groups: &[Follower],
    first_kept: Option<Offset>,
) -> Result<Cursors, StoreError> {
    let shard = stage.shard();
    let mut cursors = Vec::with_capacity(groups.len());
    let mut unseen = Vec::new();
    for &Follower { group, follows } in groups {
        match (look.get(&CursorKey { shard, group, lite })?, follows) {
            (Some(row), _) => cursors.push((group, Cursor::from_row(&row))),
            (None, Follows::All) => unseen.push(group),
            // It does not follow this one.
            (None, Follows::Subscribed) => {}
        }
    }
    let settled_by_all = cursors.iter().map(|(_, cursor): &(_, Cursor)| cursor.settled_up_to()).min();
    let trimmed = match first_kept.or(settled_by_all) {
        Some(first_kept) => first_kept,
        None => first_there(look, stage.shard(), lite)?,
    };
    for &group in &unseen {
        // A later group starts at the first kept offset, and that is written down at once.
        let cursor = Cursor::starting_at(trimmed);
        stage.put(&CursorKey { shard, group, lite }, &cursor.to_row());
        cursors.push((group, cursor));
    }
    Ok((cursors, trimmed, unseen))
}

#[cfg(test)]
mod tests {
    use sluicegate_protocol::TopicId;
    use sluicegate_protocol::admin::GroupSettings;
    use sluicegate_scheduler::Scope;

    use super::*;
    use crate::kept::KeptRows;
    use crate::shard::command::Outcome;
    use crate::shard::ledger::Ledger;
    use crate::shard::rig::{self, Rig, SHARD};
    use crate::store::{ShardRow, Store};

    const TOPIC: TopicId = TopicId(1);
    const QUICK: GroupId = GroupId(1);
    const SLOW: GroupId = GroupId(2);

    async fn drain(rig: &Rig, group: GroupId, count: usize) {
        let mut consumer = rig.attach(group, u64::from(group.0), Scope::All, 10).await;
        for _ in 0..count {
            let order = consumer.next().await;
            rig.settle(&consumer, &order, Outcome::Ack).await;
        }
        rig.detach(consumer).await;
        rig.until(group, |stats| stats.in_flight == 0 && stats.backlog == 0).await;
    }

    fn ledger(store: &Arc<Store>) -> Ledger {
        let stage = Stage::new(SHARD, Arc::clone(store), KeptRows::default(), ShardRow::default());
        let mut ledger = Ledger::new(stage);
        ledger.topics.insert(TOPIC, rig::topic(TOPIC));
        let follower = |group| Follower { group, follows: Follows::All };
        ledger.groups_of.insert(TOPIC, vec![follower(QUICK), follower(SLOW)]);
        ledger
    }

    /// End, first kept, bytes before that and before the end; the message at hand for each group.
    type Seen = ((u64, u64, Option<u64>, u64), [Option<u64>; 2]);

    fn seen(ledger: &mut Ledger, id: LiteId) -> Seen {
        let lite = ledger.lites.get(id).unwrap();
        let places = (lite.next_offset.0, lite.trimmed.0, lite.kept_position, lite.end_position);
        let at_hand = [QUICK, SLOW].map(|group| lite.cursor(group).unwrap().at_hand().map(|head| head.offset.0));
        (places, at_hand)
    }

    #[tokio::test]
    async fn a_lite_topic_is_as_it_was_whether_read_alone_or_with_others() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), None).unwrap();
        let groups = [QUICK, SLOW].map(|group| (TOPIC, group, GroupSettings::default()));
        let mut rig = Rig::start(&store, &groups);
        let names: Vec<_> = (1..=4).map(|messages| format!("n/{messages}")).collect();
        rig.publish_to(TOPIC, &names, None).await;
        drain(&rig, QUICK, 4).await;
        drain(&rig, SLOW, 4).await;
        rig.publish_to(TOPIC, &names[1..], None).await;
        drain(&rig, QUICK, 3).await;
        rig.publish_to(TOPIC, &names[2..], None).await;
        rig.publish_to(TOPIC, &names[3..], None).await;
        rig.stop().await;

        // Both settled 0, the quick group 1 as well; each message has four bytes.
        let expected: [Seen; 4] = [
            ((1, 1, None, 4), [None, None]),
            ((2, 1, Some(4), 8), [None, Some(1)]),
            ((3, 1, Some(4), 12), [None, Some(1)]),
            ((4, 1, Some(4), 16), [None, Some(1)]),
        ];
        let ids: Vec<_> = (1..=4).map(LiteId).collect();
        let mut alone = ledger(&store);
        for (&id, expected) in ids.iter().zip(&expected) {
            assert!(alone.lite(id).unwrap().is_some());
            assert_eq!(seen(&mut alone, id), *expected, "{id}");
        }
        // One is there already, one does not exist, and each is named twice.
        let mut together = ledger(&store);
        assert!(together.lite(LiteId(2)).unwrap().is_some());
        together.load_together(ids.iter().chain(&ids).copied().chain([LiteId(99)])).unwrap();
        for (&id, expected) in ids.iter().zip(&expected) {
            assert_eq!(seen(&mut together, id), *expected, "{id}");
        }
        assert!(together.lites.get(LiteId(99)).is_none());
    }
}

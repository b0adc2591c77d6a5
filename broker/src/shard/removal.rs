//! Groups and topics that were deleted: at once nobody is served of them, then their rows go, a bounded number in each turn.
//!
//! Nothing here outlives the process but that they are deleted: the next start begins anew with what is left.

use std::collections::VecDeque;
use std::vec::IntoIter;

use sluicegate_protocol::admin::Durability;
use sluicegate_protocol::{ErrorCode, GroupId, LiteId, LiteName, Offset, TopicId};

use super::command::ToConsumer;
use super::fault::{Answer, Reply};
use super::ledger::Ledger;
use super::stage::Stage;
use super::{Effect, Shard, lifecycle, store_failed};
use crate::catalog::Deletion;
use crate::refusal::Refusal;
use crate::store::{
    BodyKey, BucketKey, BusyKey, CountKey, CursorKey, DedupKey, Key, LeaseKey, LevelsKey, LiteKey, LiteRow, MessageKey,
    MessagePlace, NameKey, ReadyKey, ReceiptsKey, Scan, StoreError, TailKey, TenantKey, WakeKey,
};

/// Names, or lite topics, that are looked at in one turn.
const LOOKED_AT_PER_TURN: usize = 256;
/// Lite topics that are read from the store in one turn.
const LOADED_PER_TURN: usize = 64;
/// Lite ids that are sorted together, so that those which follow each other become one range.
const SORTED_TOGETHER: usize = 65_536;
/// Lite ids in a row from which on their rows are deleted as ranges, unseen.
const RUN_MIN: u64 = 64;

/// Something that an operator deleted, and who waits for its end.
#[derive(Debug)]
pub(crate) struct RemoveRequest {
    pub(crate) deletion: Deletion,
    /// Told when nobody is served of it any more.
    pub(crate) ended: Reply<TakenAway>,
    /// Told when none of its rows is left, for good.
    pub(crate) removed: Reply<()>,
}

/// What a deletion took away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TakenAway {
    pub(crate) leases: u64,
    pub(crate) lite_topics: u64,
}

/// What is being removed, the first one first.
#[derive(Default)]
pub(super) struct Removals(VecDeque<Removal>);

struct Removal {
    step: Step,
    /// What was staged up to this batch must be written, so that it is found.
    sees: u64,
    removed: Reply<()>,
}

/// What is to be done next.
enum Step {
    /// Lite topics in memory lose their cursor of the group, and the messages that only this group had not settled.
    Cursors { group: GroupId, topic: TopicId, lites: IntoIter<LiteId> },
    /// Of lite topics that are not in memory the messages are there still that the group held back: of those that its ready
    /// rows name, from this key on.
    HeldBack { group: GroupId, from: Vec<u8> },
    /// The same of those that sleep, by their wake rows.
    HeldBackAsleep { group: GroupId, from: Vec<u8> },
    /// The group's rows.
    Group(GroupId),
    /// Which lite topics a topic has, by name, from this key on.
    Names { topic: TopicId, from: Vec<u8>, chunk: Chunk },
    /// Their rows, by lite id; the bodies first; then the next names, from this key on, if there are more.
    Lites {
        topic: TopicId,
        ids: IntoIter<LiteId>,
        run: Option<Run>,
        names: Option<(LiteName, LiteName)>,
        next: Option<Vec<u8>>,
    },
    /// The topic's rows.
    Topic(TopicId),
}

/// Some of a topic's lite topics.
#[derive(Default)]
struct Chunk {
    ids: Vec<LiteId>,
    first: Option<LiteName>,
}

/// Lite ids that follow each other.
#[derive(Clone, Copy)]
struct Run {
    first: LiteId,
    end: LiteId,
}

/// How far a turn came.
enum Progress {
    Next(Step),
    /// The next step must find all that is staged by now.
    AfterWrite(Step),
    Done,
}

impl Removals {
    /// Whether a turn can do something.
    pub(super) fn is_due(&self, stage: &Stage) -> bool {
        self.0.front().is_some_and(|removal| removal.sees <= stage.written())
    }

    /// The process ends: the next start goes on.
    pub(super) fn give_up(&mut self) {
        self.0.clear();
    }
}

impl Shard {
    pub(super) fn remove(&mut self, request: RemoveRequest) {
        let RemoveRequest { deletion, ended, removed } = request;
        if let Some(error) = &self.failed {
            // The control task may have gone with the process.
            let _ = ended.send(Err(store_failed(error)));
            return;
        }
        let (step, taken) = match deletion {
            Deletion::Group { id, topic, .. } => self.end_group(id, topic),
            Deletion::Topic { id, .. } => self.end_topic(id),
        };
        self.removals.0.push_back(Removal { step, sees: self.ledger.stage.last_staged(), removed });
        // See above.
        let _ = ended.send(Ok(taken));
    }

    fn end_group(&mut self, id: GroupId, topic: TopicId) -> (Step, TakenAway) {
        if let Some(groups) = self.ledger.groups_of.get_mut(&topic) {
            groups.retain(|follower| follower.group != id);
        }
        let Some(mut group) = self.groups.remove(&id) else {
            return (Step::held_back(&self.ledger.stage, id), TakenAway::default());
        };
        self.ledger.stage.forget_group(id);
        let refusal = Refusal::new(ErrorCode::UnknownGroup, format!("group `{}` was deleted", group.spec.name));
        for stream in group.sessions.end_streams() {
            // After the answers that the session is owed.
            let end = Effect::Reply(stream.outbox, ToConsumer::Failed(refusal.clone()));
            self.ledger.stage.then(Durability::Fsync, end);
        }
        let leases = group.deadlines.len() as u64;
        // One with millions of lite topics takes longer than a turn to drop.
        drop(tokio::task::spawn_blocking(move || drop(group)));
        let lites = self.ledger.lites.ids().into_iter();
        (Step::Cursors { group: id, topic, lites }, TakenAway { leases, lite_topics: 0 })
    }

    fn end_topic(&mut self, id: TopicId) -> (Step, TakenAway) {
        self.ledger.topics.remove(&id);
        self.ledger.groups_of.remove(&id);
        self.receipts.forget(id);
        self.ledger.readers.forget(id);
        let lite_topics = self.ledger.stage.counts.forget(id).lite_topics;
        let from = LiteKey::of_topic(self.ledger.stage.shard(), id);
        (Step::Names { topic: id, from, chunk: Chunk::default() }, TakenAway { leases: 0, lite_topics })
    }

    /// Goes on with the first of what is deleted, for one turn.
    pub(super) fn go_on_removing(&mut self) {
        if self.failed.is_some() || !self.ledger.stage.has_room() || !self.removals.is_due(&self.ledger.stage) {
            return;
        }
        let Some(Removal { step, sees, removed }) = self.removals.0.pop_front() else { return };
        let (step, sees) = match step.take(&mut self.ledger) {
            Ok(Progress::Next(step)) => (step, sees),
            Ok(Progress::AfterWrite(step)) => (step, self.ledger.stage.last_staged()),
            Ok(Progress::Done) => {
                return self.ledger.stage.then(Durability::Fsync, Effect::Answer(Answer::new(removed, ())));
            }
            Err(error) => return self.fail(&error),
        };
        self.removals.0.push_front(Removal { step, sees, removed });
    }
}

impl Step {
    fn held_back(stage: &Stage, group: GroupId) -> Self {
        Self::HeldBack { group, from: ReadyKey::of_group(stage.shard(), group) }
    }

    fn take(self, ledger: &mut Ledger) -> Result<Progress, StoreError> {
        match self {
            Self::Cursors { group, topic, lites } => Ok(end_cursors(ledger, group, topic, lites)),
            Self::HeldBack { group, from } => release_ready(ledger, group, &from),
            Self::HeldBackAsleep { group, from } => release_asleep(ledger, group, &from),
            Self::Group(group) => remove_group(&mut ledger.stage, group).map(|()| Progress::Done),
            Self::Names { topic, from, chunk } => read_names(ledger, topic, &from, chunk),
            Self::Lites { topic, ids, run, names, next } => remove_lites(ledger, topic, ids, run, names, next),
            // Large bodies take turns of their own.
            Self::Topic(topic) if ledger.stage.has_dropped_bodies() => Ok(Progress::AfterWrite(Self::Topic(topic))),
            Self::Topic(topic) => remove_topic(&mut ledger.stage, topic).map(|()| Progress::Done),
        }
    }
}

fn end_cursors(ledger: &mut Ledger, group: GroupId, topic: TopicId, mut lites: IntoIter<LiteId>) -> Progress {
    // A topic that is deleted too takes its messages with it.
    if !ledger.topics.contains_key(&topic) {
        return Progress::AfterWrite(Step::Group(group));
    }
    let Ledger { stage, lites: all, .. } = ledger;
    for id in lites.by_ref().take(LOOKED_AT_PER_TURN) {
        if let Some(lite) = all.get(id).filter(|lite| lite.topic.id == topic) {
            lifecycle::unfollowed(stage, group, lite);
        }
        if !stage.has_room() {
            break;
        }
    }
    match lites.len() {
        0 => Progress::AfterWrite(Step::held_back(stage, group)),
        _ => Progress::Next(Step::Cursors { group, topic, lites }),
    }
}

fn release_ready(ledger: &mut Ledger, group: GroupId, from: &[u8]) -> Result<Progress, StoreError> {
    let prefix = ReadyKey::of_group(ledger.stage.shard(), group);
    let next = release(ledger, group, (&prefix, from), |key: &ReadyKey| key.lite)?;
    let asleep = WakeKey::of_group(ledger.stage.shard(), group);
    Ok(Progress::Next(match next {
        Some(from) => Step::HeldBack { group, from },
        None => Step::HeldBackAsleep { group, from: asleep },
    }))
}

fn release_asleep(ledger: &mut Ledger, group: GroupId, from: &[u8]) -> Result<Progress, StoreError> {
    let prefix = WakeKey::of_group(ledger.stage.shard(), group);
    let next = release(ledger, group, (&prefix, from), |key: &WakeKey| key.lite)?;
    Ok(Progress::Next(next.map_or(Step::Group(group), |from| Step::HeldBackAsleep { group, from })))
}

/// Releases the lite topics of some rows, and answers from which key on the next ones are.
fn release<K: Key>(
    ledger: &mut Ledger,
    group: GroupId,
    (prefix, from): (&[u8], &[u8]),
    lite_of: impl Fn(&K) -> LiteId,
) -> Result<Option<Vec<u8>>, StoreError> {
    let (shard, mut found) = (ledger.stage.shard(), Vec::with_capacity(LOADED_PER_TURN));
    ledger.stage.store().scan(prefix, from, |key: K, _| {
        found.push(key);
        if found.len() < LOADED_PER_TURN { Scan::More } else { Scan::Done }
    })?;
    for key in &found {
        let lite = lite_of(key);
        let row = ledger.stage.store().get(&CursorKey { shard, group, lite })?;
        let settled_up_to = Offset(row.map_or(0, |row| row.settled_up_to));
        if ledger.lite(lite)?.is_some() {
            let Ledger { stage, lites, .. } = &mut *ledger;
            lifecycle::released(stage, lites.get(lite).expect("it was just loaded"), settled_up_to);
        }
    }
    Ok(found.last().filter(|_| found.len() == LOADED_PER_TURN).map(Key::after))
}

fn remove_group(stage: &mut Stage, group: GroupId) -> Result<(), StoreError> {
    let shard = stage.shard();
    remove_all::<CursorKey>(stage, &CursorKey::of_group(shard, group))?;
    remove_all::<LeaseKey>(stage, &LeaseKey::of_group(shard, group))?;
    remove_all::<ReadyKey>(stage, &ReadyKey::of_group(shard, group))?;
    remove_all::<WakeKey>(stage, &WakeKey::of_group(shard, group))?;
    remove_all::<BusyKey>(stage, &BusyKey::of_group(shard, group))?;
    stage.delete(&LevelsKey { shard, group });
    stage.delete(&BucketKey { shard, group });
    Ok(())
}

fn read_names(ledger: &mut Ledger, topic: TopicId, from: &[u8], mut chunk: Chunk) -> Result<Progress, StoreError> {
    let (mut count, mut last) = (0, None);
    let prefix = LiteKey::of_topic(ledger.stage.shard(), topic);
    ledger.stage.store().scan(&prefix, from, |key: LiteKey, row: LiteRow| {
        chunk.ids.push(LiteId(row.lite));
        chunk.first.get_or_insert_with(|| key.name.clone());
        last = Some(key);
        count += 1;
        if count < LOOKED_AT_PER_TURN { Scan::More } else { Scan::Done }
    })?;
    let more = last.filter(|_| count == LOOKED_AT_PER_TURN);
    if let Some(last) = &more
        && chunk.ids.len() < SORTED_TOGETHER
    {
        return Ok(Progress::Next(Step::Names { topic, from: last.after(), chunk }));
    }
    chunk.ids.sort_unstable();
    let next = more.as_ref().map(Key::after);
    let names = chunk.first.zip(more.map(|last| last.name));
    Ok(Progress::Next(Step::Lites { topic, ids: chunk.ids.into_iter(), run: None, names, next }))
}

fn remove_lites(
    ledger: &mut Ledger,
    topic: TopicId,
    mut ids: IntoIter<LiteId>,
    mut run: Option<Run>,
    names: Option<(LiteName, LiteName)>,
    next: Option<Vec<u8>>,
) -> Result<Progress, StoreError> {
    let Ledger { stage, lites, .. } = ledger;
    for id in ids.by_ref().take(LOOKED_AT_PER_TURN) {
        lites.forget(id);
        let end = LiteId(id.0 + 1);
        run = match run {
            Some(run) if run.end == id => Some(Run { end, ..run }),
            before => {
                before.map_or(Ok(()), |run| run.remove(stage))?;
                Some(Run { first: id, end })
            }
        };
        if !stage.has_room() {
            break;
        }
    }
    if ids.len() > 0 {
        return Ok(Progress::Next(Step::Lites { topic, ids, run, names, next }));
    }
    run.map_or(Ok(()), |run| run.remove(stage))?;
    let Some(from) = next else { return Ok(Progress::Next(Step::Topic(topic))) };
    if let Some((first, last)) = names {
        let key = |name| LiteKey { shard: stage.shard(), topic, name };
        let (first, last) = (key(first), key(last));
        stage.delete_range(&first, &last);
        stage.delete(&last);
    }
    Ok(Progress::Next(Step::Names { topic, from, chunk: Chunk::default() }))
}

fn remove_topic(stage: &mut Stage, topic: TopicId) -> Result<(), StoreError> {
    let shard = stage.shard();
    remove_all::<LiteKey>(stage, &LiteKey::of_topic(shard, topic))?;
    remove_all::<ReceiptsKey>(stage, &ReceiptsKey::of_topic(shard, topic))?;
    remove_all::<TenantKey>(stage, &TenantKey::of_topic(shard, topic))?;
    stage.delete(&CountKey { shard, topic });
    Ok(())
}

impl Run {
    /// Deletes the rows of lite topics whose groups are gone.
    fn remove(self, stage: &mut Stage) -> Result<(), StoreError> {
        let (shard, Self { first, end }) = (stage.shard(), self);
        if has_bodies(stage, first, end)? {
            stage.drop_bodies((first, Offset(0)), (end, Offset(0)));
        }
        if end.0 - first.0 >= RUN_MIN {
            let message = |lite| MessageKey { shard, lite, offset: Offset(0) };
            stage.delete_range(&message(first), &message(end));
            stage.delete_range(&NameKey { shard, lite: first }, &NameKey { shard, lite: end });
            stage.delete_range(&TailKey { shard, lite: first }, &TailKey { shard, lite: end });
            let [from, end] = DedupKey::of_lites(shard, first, end);
            stage.delete_between::<DedupKey>(&from, &end);
            return Ok(());
        }
        for lite in (first.0..end.0).map(LiteId) {
            if let Some((first, last)) = messages(stage, lite)? {
                lifecycle::delete_messages(stage, lite, first, last.next());
            }
            stage.delete(&NameKey { shard, lite });
            stage.delete(&TailKey { shard, lite });
            remove_all::<DedupKey>(stage, &DedupKey::of_lite(shard, lite))?;
        }
        Ok(())
    }
}

/// Whether messages of these lite topics have bodies with rows of their own.
fn has_bodies(stage: &Stage, first: LiteId, end: LiteId) -> Result<bool, StoreError> {
    let from = BodyKey { shard: stage.shard(), lite: first, offset: Offset(0) };
    let mut found = false;
    stage.store().scan(&BodyKey::of_shard(stage.shard()), &from.encode(), |key: BodyKey, _| {
        found = key.lite < end;
        Scan::Done
    })?;
    Ok(found)
}

/// The first and the last message that a lite topic has.
fn messages(stage: &Stage, lite: LiteId) -> Result<Option<(Offset, Offset)>, StoreError> {
    let (prefix, mut first) = (MessageKey::of_lite(stage.shard(), lite), None);
    stage.store().scan(&prefix, &prefix, |MessagePlace(key), _| {
        first = Some(key);
        Scan::Done
    })?;
    let Some(first) = first.map(MessagePlace) else { return Ok(None) };
    let last = stage.store().last(&prefix, &first)?;
    Ok(last.map(|(last, _)| (first.0.offset, last.0.offset)))
}

/// Deletes all rows that start so: one by one, or, where there are many, as a range.
pub(super) fn remove_all<K: Key>(stage: &mut Stage, prefix: &[u8]) -> Result<(), StoreError> {
    let (max, mut keys) = (lifecycle::DELETED_ONE_BY_ONE_MAX, Vec::new());
    stage.store().scan(prefix, prefix, |key: K, _| {
        keys.push(key);
        if keys.len() as u64 > max { Scan::Done } else { Scan::More }
    })?;
    if keys.len() as u64 > max {
        stage.delete_prefix::<K>(prefix);
        return Ok(());
    }
    for key in &keys {
        stage.delete(key);
    }
    Ok(())
}

#[cfg(test)]
mod tests;

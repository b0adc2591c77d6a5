//! Every change of a message's state, and nothing else. Each function stages its rows.

use std::time::Duration;

use bytes::Bytes;
use sluicegate_protocol::limits::PRIORITY_MAX;
use sluicegate_protocol::{GroupId, LiteId, Offset, SessionId, Timestamp};
use sluicegate_scheduler::{Charge, HoldSource};

use super::command::NewBody;
use super::counts::Amount;
use super::cursor::{Counted, Cursor, RANK_DEFAULT, Waiting};
use super::leases::{Lease, LeasePlace};
use super::lite::{Lite, LitePlace, Lites};
use super::stage::Stage;
use crate::store::{
    BodyPlace, BodyRef, CursorKey, DueKind, DueRow, Hint, HintHead, LeaseKey, LeaseRow, LiteKey, MessageHeader,
    MessageKey, MessagePlace, NameKey, Nothing, ROW_BODY_BYTES_MAX, ReadyKey, Row, Scan, StoreError, StoredMessage,
    TailKey, TailRow, WakeKey,
};

/// Rows that are deleted one by one; more are deleted as a range, which costs readers more.
pub(super) const DELETED_ONE_BY_ONE_MAX: u64 = 1_000;

/// (nothing) -> Waiting
pub(super) fn append(stage: &mut Stage, lite: &mut Lite, mut header: MessageHeader, body: NewBody) -> Waiting {
    let (shard, offset) = (stage.shard(), lite.next_offset);
    let (own, body) = place_body(stage, (lite.id, offset), body);
    header.body = own;
    header.bodies_before = (lite.bodies_end > lite.trimmed).then_some(lite.bodies_end.0);
    if own.is_some() {
        lite.bodies_end = offset.next();
    }
    let (position, bytes) = (lite.end_position, header.bytes(body.len()));
    header.position = Some(position);
    if lite.trimmed == offset {
        lite.kept_position = Some(position);
        if let Some(age) = lite.log().and_then(|log| log.age()) {
            stage.arm((DueKind::Trim, lite.id), stage.now().plus(age), DueRow::default());
        }
    }
    let message = StoredMessage { header, body };
    let row: Bytes = message.encode().into();
    stage.put_encoded(&MessageKey { shard, lite: lite.id, offset }, &row);
    lite.next_offset = offset.next();
    lite.end_position = position + bytes;
    lite.unseen.push_back(position);
    stage.counts.came(lite.owner(), Amount { messages: 1, bytes });
    lite.written_at = stage.now();
    lite.staged_in = stage.number();
    let waiting = Waiting::new(offset, &message.header, stage.keep(row));
    let place = lite.place();
    for (group, cursor) in &mut lite.cursors {
        stage.levels.unsettled(*group, 1);
        file(stage, *group, &place, cursor, Some(&waiting));
    }
    waiting
}

/// Where a message's body goes: to rows of its own, or to the message's.
fn place_body(stage: &mut Stage, owner: BodyPlace, body: NewBody) -> (Option<BodyRef>, Bytes) {
    let own = match body {
        NewBody::Whole(body) if body.len() <= ROW_BODY_BYTES_MAX => return (None, body),
        NewBody::Whole(body) => stage.put_body(owner, &body),
        NewBody::Uploaded(body) => {
            stage.end_upload(owner, body);
            body
        }
        NewBody::Shared(body) => {
            stage.own_shared(owner, body);
            body
        }
    };
    (Some(own), Bytes::new())
}

/// Waiting -> Leased
pub(super) fn lease<'a>(
    stage: &mut Stage,
    group: GroupId,
    lite: &'a mut Lite,
    offset: Offset,
    session: SessionId,
    charge: Charge,
    duration: Duration,
) -> &'a Lease {
    let (at, now) = (lite.place(), stage.now());
    let token = stage.next_token();
    let cursor = lite.cursor(group).expect("the group follows it");
    let message = cursor.take_head(offset);
    let attempt = cursor.attempts_of(offset) + 1;
    let (deadline, place) = (now.plus(duration), cursor.next_lease_place());
    let lease =
        Lease { session, attempt, deadline, token, dispatched_at: now, charge, message, place, cancelled: false };
    let row = lease.to_row();
    cursor.lease(offset, lease);
    cursor.announced = None;
    cursor.busy_place.get_or_insert_with(|| stage.enter_busy(group, at.lite));
    file(stage, group, &at, cursor, None);
    put_lease(stage, group, lite, offset, (place, row));
    lite.cursor(group).and_then(|cursor| cursor.lease_of(offset)).expect("it just began")
}

/// Leased -> Leased, with a later deadline. Answers the deadline before.
pub(super) fn extend(
    stage: &mut Stage,
    group: GroupId,
    lite: &mut Lite,
    offset: Offset,
    deadline: Timestamp,
) -> Option<Timestamp> {
    let cursor = lite.cursor(group)?;
    let before = cursor.extend(offset, deadline)?;
    let lease = cursor.lease_of(offset).expect("it was just extended");
    let row = (lease.place, lease.to_row());
    put_lease(stage, group, lite, offset, row);
    Some(before)
}

/// Leased -> Settled
pub(super) fn acked(stage: &mut Stage, group: GroupId, lite: &mut Lite, offset: Offset) -> Option<Lease> {
    let lease = lite.cursor(group)?.settle_lease(offset)?;
    stage.levels.unsettled(group, -1);
    delete_lease(stage, group, lite, offset, &lease);
    settled(stage, group, lite);
    Some(lease)
}

/// Waiting -> Settled, without delivery: expired, dropped or dead-lettered.
pub(super) fn skipped(stage: &mut Stage, group: GroupId, lite: &mut Lite, offset: Offset) -> Option<Waiting> {
    let cursor = lite.cursor(group)?;
    let message = cursor.take_head(offset);
    cursor.settle(offset);
    cursor.announced = None;
    stage.levels.unsettled(group, -1);
    settled(stage, group, lite);
    message
}

/// Waiting -> Settled before `to`, Settled -> Waiting from there on. Answers how many waiting messages were settled. There must
/// be no open lease, and `to` must not be before the first kept message.
pub(super) fn sought(stage: &mut Stage, group: GroupId, lite: &mut Lite, to: Offset) -> u64 {
    let (place, end) = (lite.place(), lite.next_offset);
    let Some(cursor) = lite.cursor(group) else { return 0 };
    let before = cursor.unsettled(end);
    let passed = cursor.seek(to);
    cursor.announced = None;
    stage.levels.unsettled(group, difference(before, cursor.unsettled(end)));
    if !cursor.is_drained(end) {
        file(stage, group, &place, cursor, None);
    }
    settled(stage, group, lite);
    passed
}

/// Waiting or Settled -> (nothing), for all groups: the messages before `end` are gone. None of them may be leased. Answers the
/// groups that had not settled all of them, and how many each had not.
pub(super) fn removed(stage: &mut Stage, lite: &mut Lite, end: Offset) -> Vec<(GroupId, u64)> {
    let is_before = |(_, cursor): &&(GroupId, Cursor)| cursor.settled_up_to() < end;
    let groups: Vec<_> = lite.cursors.iter().filter(is_before).map(|(group, _)| *group).collect();
    let mut passed = Vec::with_capacity(groups.len());
    for group in groups {
        let next = lite.next_offset;
        let cursor = lite.cursor(group).expect("it was listed");
        let before = cursor.unsettled(next);
        passed.push((group, cursor.settle_below(end)));
        cursor.announced = None;
        stage.levels.unsettled(group, difference(before, cursor.unsettled(next)));
        linger(stage, group, lite);
        touch(stage, group, lite);
    }
    trim(stage, lite, end);
    passed
}

/// Waiting -> (nothing), for all groups, with the lite topic itself. None of its messages may be leased.
pub(super) fn deleted(stage: &mut Stage, lite: &mut Lite) {
    let (shard, id) = (stage.shard(), lite.id);
    match kept(stage, lite) {
        Ok(kept) => stage.counts.went(lite.owner(), kept),
        Err(error) => stage.read_failed(error),
    }
    stage.counts.lite_gone(lite.topic.id);
    delete_messages(stage, id, lite.trimmed, lite.next_offset);
    stage.drop_bodies_of(id, lite.trimmed, lite.bodies_end);
    for (group, cursor) in &lite.cursors {
        assert!(!cursor.has_leases(), "nothing is deleted under an open lease");
        delete_cursor(stage, *group, id, cursor, lite.next_offset);
    }
    stage.delete(&TailKey { shard, lite: id });
    stage.delete(&NameKey { shard, lite: id });
    stage.delete(&LiteKey { shard, topic: lite.topic.id, name: lite.name.clone() });
}

/// Leased -> Waiting
pub(super) fn returned(
    stage: &mut Stage,
    group: GroupId,
    lite: &mut Lite,
    offset: Offset,
    counted: Counted,
) -> Option<Lease> {
    let lease = lite.cursor(group)?.give_back(stage.now(), offset, counted)?;
    delete_lease(stage, group, lite, offset, &lease);
    if counted == Counted::Yes {
        touch(stage, group, lite);
    }
    Some(lease)
}

/// No new delivery of the lite topic to the group before `until`.
pub(super) fn held(stage: &mut Stage, group: GroupId, lite: &mut Lite, source: HoldSource, until: Timestamp) {
    let now = stage.now();
    let Some(cursor) = lite.cursor(group) else { return };
    cursor.drop_ended_holds(now);
    cursor.hold(now, source, until);
    touch(stage, group, lite);
}

/// The hold of one source, or of all, ends now.
pub(super) fn resumed(stage: &mut Stage, group: GroupId, lite: &mut Lite, source: Option<HoldSource>) {
    let now = stage.now();
    let Some(cursor) = lite.cursor(group) else { return };
    cursor.drop_ended_holds(now);
    cursor.resume(source);
    touch(stage, group, lite);
}

/// Sees to it that the header of the head, which is at `offset`, is at hand.
pub(super) fn bring_head(stage: &Stage, group: GroupId, lite: &mut Lite, offset: Offset) -> Result<(), StoreError> {
    let Some(cursor) = lite.cursor(group) else { return Ok(()) };
    cursor.drop_stale(offset);
    if cursor.head(offset).is_none() { refill(stage, group, lite, offset) } else { Ok(()) }
}

/// Reads the headers of the messages from `head` on, where they are not at hand.
fn refill(stage: &Stage, group: GroupId, lite: &mut Lite, head: Offset) -> Result<(), StoreError> {
    let (shard, id, visible) = (stage.shard(), lite.id, lite.visible);
    let Some(cursor) = lite.cursor(group) else { return Ok(()) };
    let (from, count) = cursor.refill_range(head, visible);
    let (mut messages, prefix) = (Vec::with_capacity(count), MessageKey::of_lite(shard, id));
    let first = crate::store::Key::encode(&MessageKey { shard, lite: id, offset: from });
    stage.store().scan(&prefix, &first, |key: MessageKey, message: StoredMessage| {
        if key.offset >= visible {
            return Scan::Done;
        }
        messages.push(Waiting::new(key.offset, &message.header, None));
        if messages.len() < count { Scan::More } else { Scan::Done }
    })?;
    cursor.refill(messages);
    Ok(())
}

/// Files the ready row of a lite topic that has unsettled messages from now on, with what is known of its head.
pub(super) fn file(stage: &mut Stage, group: GroupId, place: &LitePlace, cursor: &mut Cursor, head: Option<&Waiting>) {
    if cursor.filed.is_some() || cursor.wakes_at.is_some() {
        return;
    }
    delete_left_over(stage, group, place.lite, cursor);
    cursor.left_over = None;
    let rank = head.map_or(RANK_DEFAULT, |head| PRIORITY_MAX - head.priority.min(PRIORITY_MAX));
    let key = ReadyKey { shard: stage.shard(), group, rank, lite: place.lite };
    let tenant = place.tenant.as_ref().map(|tenant| tenant.as_ref().to_owned());
    stage.put(&key, &Hint { head: head.map(hint_head), tenant });
    stage.levels.filed(group, 1);
    cursor.filed = Some(rank);
    if !cursor.says_rank() {
        touch_cursor(stage, group, place.lite, cursor);
    }
}

/// Deletes the ready row that an earlier process may have left behind. What is read here is written: this process did not file it.
fn delete_left_over(stage: &mut Stage, group: GroupId, lite: LiteId, cursor: &Cursor) {
    let Some(rank) = cursor.left_over else { return };
    let key = ReadyKey { shard: stage.shard(), group, rank, lite };
    match stage.store().get(&key) {
        Ok(Some(_)) => {
            stage.delete(&key);
            stage.levels.filed(group, -1);
        }
        Ok(None) => {}
        Err(error) => stage.read_failed(error),
    }
}

fn hint_head(head: &Waiting) -> HintHead {
    HintHead {
        offset: head.offset.0,
        published_at_us: head.published_at.0,
        priority: head.priority.into(),
        cost: head.cost,
        deliver_at_us: head.deliver_at.map(|at| at.0),
        expires_at_us: head.expires_at.map(|at| at.0),
    }
}

/// The lite topic was read, and has a ready row of this rank or none.
pub(super) fn refiled(stage: &mut Stage, group: GroupId, lite: &mut Lite, found: Option<u8>) {
    let (place, end) = (lite.place(), lite.next_offset);
    let Some(cursor) = lite.cursor(group) else { return };
    match (found, cursor.filed) {
        // It drained, and the process ended before the row was over with lingering: now it lingers again.
        (Some(found), None) if cursor.left_over == Some(found) => {
            (cursor.filed, cursor.left_over) = (Some(found), None);
        }
        (None, None) if !cursor.is_drained(end) => {
            file(stage, group, &place, cursor, None);
            lite.staged_in = stage.number();
        }
        // The cursor knows it, or a batch that is not written yet deletes it.
        _ => {}
    }
    linger(stage, group, lite);
}

/// A ready row is as it was found, in a store whose cursors do not say its rank.
pub(super) fn adopted(stage: &mut Stage, group: GroupId, lite: &mut Lite, rank: u8) {
    let id = lite.id;
    let Some(cursor) = lite.cursor(group) else { return };
    (cursor.filed, cursor.left_over) = (Some(rank), None);
    if !cursor.says_rank() {
        touch_cursor(stage, group, id, cursor);
        lite.staged_in = stage.number();
    }
    stage.levels.filed(group, 1);
}

/// Waiting, and held for so long that nothing of it is kept in memory: a wake row stands for the ready row. Answers whether that is
/// new.
pub(super) fn asleep(stage: &mut Stage, group: GroupId, lite: &mut Lite, at: Timestamp) -> bool {
    let (shard, id) = (stage.shard(), lite.id);
    let Some(cursor) = lite.cursor(group).filter(|cursor| cursor.wakes_at != Some(at)) else { return false };
    if let Some(before) = cursor.wakes_at.replace(at) {
        stage.delete(&WakeKey { shard, group, at: before, lite: id });
        stage.levels.asleep(group, -1);
    }
    if let Some(rank) = cursor.filed.take() {
        stage.delete(&ReadyKey { shard, group, rank, lite: id });
        stage.levels.filed(group, -1);
    }
    stage.put(&WakeKey { shard, group, at, lite: id }, &Nothing);
    stage.levels.asleep(group, 1);
    touch(stage, group, lite);
    true
}

/// The lite topic is in memory again, if it slept.
pub(super) fn awake(stage: &mut Stage, group: GroupId, lite: &mut Lite) {
    let (place, end) = (lite.place(), lite.next_offset);
    let Some(cursor) = lite.cursor(group) else { return };
    let Some(at) = cursor.wakes_at.take() else { return };
    stage.delete(&WakeKey { shard: stage.shard(), group, at, lite: place.lite });
    stage.levels.asleep(group, -1);
    if !cursor.is_drained(end) {
        let head = cursor.at_hand().cloned();
        file(stage, group, &place, cursor, head.as_ref());
    }
    touch(stage, group, lite);
}

/// Deletes the rows of a cursor that has no lease.
fn delete_cursor(stage: &mut Stage, group: GroupId, lite: LiteId, cursor: &Cursor, end: Offset) {
    let shard = stage.shard();
    stage.levels.unsettled(group, difference(cursor.unsettled(end), 0));
    stage.delete(&CursorKey { shard, group, lite });
    delete_left_over(stage, group, lite, cursor);
    if let Some(rank) = cursor.filed {
        stage.delete(&ReadyKey { shard, group, rank, lite });
        stage.levels.filed(group, -1);
    }
    if let Some(at) = cursor.wakes_at {
        stage.delete(&WakeKey { shard, group, at, lite });
        stage.levels.asleep(group, -1);
    }
}

/// How many more there are now.
fn difference(before: u64, now: u64) -> i64 {
    now.cast_signed().wrapping_sub(before.cast_signed())
}

/// A group that did not follow the lite topic starts at the first message that is kept.
pub(super) fn followed(stage: &mut Stage, group: GroupId, lite: &mut Lite) {
    let cursor = Cursor::starting_at(lite.trimmed);
    stage.levels.unsettled(group, difference(0, cursor.unsettled(lite.next_offset)));
    lite.cursors.push((group, cursor));
    touch(stage, group, lite);
}

/// The group unsubscribed: it stops to follow when its last lease ends.
pub(super) fn leaving(stage: &mut Stage, group: GroupId, lite: &mut Lite) {
    let Some(cursor) = lite.cursor(group) else { return };
    cursor.leaving = true;
    touch(stage, group, lite);
}

/// The group subscribed again before its last lease ended.
pub(super) fn staying(stage: &mut Stage, group: GroupId, lite: &mut Lite) {
    let Some(cursor) = lite.cursor(group) else { return };
    cursor.leaving = false;
    touch(stage, group, lite);
}

/// The group stops to follow. It has no open lease.
pub(super) fn left(stage: &mut Stage, group: GroupId, lite: &mut Lite) {
    let (id, end) = (lite.id, lite.next_offset);
    if let Some(cursor) = lite.cursor(group) {
        delete_cursor(stage, group, id, cursor, end);
    }
    lite.staged_in = stage.number();
    unfollowed(stage, group, lite);
}

/// A group is deleted: what only it had not settled is gone. Without any group all is kept.
pub(super) fn unfollowed(stage: &mut Stage, group: GroupId, lite: &mut Lite) {
    lite.cursors.retain(|(id, _)| *id != group);
    trim(stage, lite, kept_from(lite));
}

/// As [`unfollowed`], of a lite topic that was loaded when the group was deleted already: that group had settled all before
/// `settled_up_to`.
pub(super) fn released(stage: &mut Stage, lite: &mut Lite, settled_up_to: Offset) {
    if lite.cursors.is_empty() || lite.log().is_some() || settled_up_to >= lite.trimmed {
        return;
    }
    // The process before may have come so far.
    let first = match first_from(stage, lite.id, settled_up_to) {
        Ok(Some(first)) if first < lite.trimmed => first,
        Ok(_) => return,
        Err(error) => return stage.read_failed(error),
    };
    match bytes_between(stage, lite, first, lite.trimmed) {
        Ok(bytes) => stage.counts.went(lite.owner(), Amount { messages: lite.trimmed.0 - first.0, bytes }),
        Err(error) => return stage.read_failed(error),
    }
    delete_messages(stage, lite.id, first, lite.trimmed);
    stage.drop_bodies_of(lite.id, first, lite.trimmed);
    lite.staged_in = stage.number();
    if lite.trimmed == lite.next_offset {
        put_tail(stage, lite);
    }
}

/// Removes the ready row of a lite topic, if that is drained still.
pub(super) fn unfile(stage: &mut Stage, group: GroupId, lite: &mut Lite) {
    let (shard, id, end) = (stage.shard(), lite.id, lite.next_offset);
    let Some(cursor) = lite.cursor(group) else { return };
    cursor.lingers = false;
    if cursor.is_drained(end)
        && let Some(rank) = cursor.filed.take()
    {
        stage.delete(&ReadyKey { shard, group, rank, lite: id });
        stage.levels.filed(group, -1);
        lite.staged_in = stage.number();
    }
}

/// Lets the ready row of a drained lite topic stay for a moment: most that drain fill again.
pub(super) fn linger(stage: &mut Stage, group: GroupId, lite: &mut Lite) {
    let (id, end) = (lite.id, lite.next_offset);
    let Some(cursor) = lite.cursor(group) else { return };
    if cursor.wakes_at.is_some() && cursor.is_drained(end) {
        return awake(stage, group, lite);
    }
    if cursor.filed.is_some() && cursor.is_drained(end) && !cursor.lingers {
        cursor.lingers = true;
        stage.linger(group, id);
    }
}

/// After an offset was settled: the cursor, the ready row, and the messages that nobody needs.
fn settled(stage: &mut Stage, group: GroupId, lite: &mut Lite) {
    linger(stage, group, lite);
    touch(stage, group, lite);
    trim(stage, lite, kept_from(lite));
}

/// The first message that is to be kept.
fn kept_from(lite: &Lite) -> Offset {
    match lite.log() {
        Some(_) => lite.trimmed,
        None => lite.cursors.iter().map(|(_, cursor)| cursor.settled_up_to()).min().unwrap_or(lite.trimmed),
    }
}

/// What a lite topic has.
pub(super) fn kept(stage: &Stage, lite: &mut Lite) -> Result<Amount, StoreError> {
    let from = match lite.kept_position {
        Some(position) => position,
        None => *lite.kept_position.insert(position(stage, lite, lite.trimmed)?),
    };
    let bytes = lite.end_position.saturating_sub(from);
    Ok(Amount { messages: lite.next_offset.0 - lite.trimmed.0, bytes })
}

/// Bytes of all messages before a kept offset.
pub(super) fn position(stage: &Stage, lite: &Lite, offset: Offset) -> Result<u64, StoreError> {
    if offset >= lite.next_offset {
        return Ok(lite.end_position);
    }
    if offset >= lite.visible {
        let ahead = usize::try_from(offset.0 - lite.visible.0).expect("what is under way is limited");
        return Ok(lite.unseen.get(ahead).copied().unwrap_or(lite.end_position));
    }
    if let Some(position) = lite.cursors.iter().find_map(|(_, cursor)| cursor.position_of(offset)) {
        return Ok(position);
    }
    let corrupt = |problem| StoreError::Corrupt { table: "message", key: format!("{} {offset}", lite.id), problem };
    let row = stage.store().get_bytes(&MessageKey { shard: stage.shard(), lite: lite.id, offset })?;
    let row = row.ok_or_else(|| corrupt("a kept message is missing".into()))?;
    crate::store::split_message(&row).map(|(header, _)| header.position.unwrap_or(0)).map_err(corrupt)
}

/// The first message that is there, from an offset on.
fn first_from(stage: &Stage, lite: LiteId, from: Offset) -> Result<Option<Offset>, StoreError> {
    let shard = stage.shard();
    let from = crate::store::Key::encode(&MessageKey { shard, lite, offset: from });
    let mut first = None;
    stage.store().scan(&MessageKey::of_lite(shard, lite), &from, |MessagePlace(key), _| {
        first = Some(key.offset);
        Scan::Done
    })?;
    Ok(first)
}

fn bytes_between(stage: &Stage, lite: &Lite, from: Offset, to: Offset) -> Result<u64, StoreError> {
    Ok(position(stage, lite, to)?.saturating_sub(position(stage, lite, from)?))
}

/// Deletes the messages below `kept_from`.
fn trim(stage: &mut Stage, lite: &mut Lite, kept_from: Offset) {
    lite.staged_in = stage.number();
    if lite.trimmed >= kept_from {
        return;
    }
    let read = kept(stage, lite).and_then(|all| Ok((all, position(stage, lite, kept_from)?)));
    let (all, position) = match read {
        Ok(read) => read,
        Err(error) => return stage.read_failed(error),
    };
    let left = lite.end_position.saturating_sub(position);
    let went = Amount { messages: kept_from.0 - lite.trimmed.0, bytes: all.bytes.saturating_sub(left) };
    stage.counts.went(lite.owner(), went);
    delete_messages(stage, lite.id, lite.trimmed, kept_from);
    stage.drop_bodies_of(lite.id, lite.trimmed, kept_from.min(lite.bodies_end));
    (lite.trimmed, lite.kept_position) = (kept_from, Some(position));
    if lite.trimmed == lite.next_offset || lite.log().is_some() {
        put_tail(stage, lite);
    }
}

/// While messages are there, the last of them says where the next one goes; without any, this row does. Where what is settled is kept,
/// it says which the first kept one is.
fn put_tail(stage: &mut Stage, lite: &Lite) {
    let tail = TailRow {
        next_offset: lite.next_offset.0,
        written_at_us: lite.written_at.0,
        first_kept: lite.trimmed.0,
        position: lite.end_position,
    };
    stage.put(&TailKey { shard: stage.shard(), lite: lite.id }, &tail);
}

/// Deletes the messages from `from` up to, not including, `end`.
pub(super) fn delete_messages(stage: &mut Stage, lite: LiteId, from: Offset, end: Offset) {
    let shard = stage.shard();
    let key = |offset| MessageKey { shard, lite, offset };
    if end.0 - from.0 > DELETED_ONE_BY_ONE_MAX {
        return stage.delete_range(&key(from), &key(end));
    }
    for offset in from.0..end.0 {
        stage.delete(&key(Offset(offset)));
    }
}

/// The cursor changed: the open batch gets its row, once, when it is sent on its way.
fn touch(stage: &mut Stage, group: GroupId, lite: &mut Lite) {
    let id = lite.id;
    let cursor = lite.cursor(group).expect("the caller changed it");
    if cursor.touch(stage.now()) {
        stage.touch(group, id);
    }
    lite.staged_in = stage.number();
}

/// Its row is to be written, although nothing happened.
fn touch_cursor(stage: &mut Stage, group: GroupId, lite: LiteId, cursor: &mut Cursor) {
    if !std::mem::replace(&mut cursor.is_touched, true) {
        stage.touch(group, lite);
    }
}

/// Puts the rows of all cursors that changed in the open batch, and the levels of their groups.
pub(super) fn put_touched(stage: &mut Stage, lites: &mut Lites) {
    let shard = stage.shard();
    for (group, id) in stage.take_touched() {
        // Its life may have ended in this batch.
        let Some(cursor) = lites.get(id).and_then(|lite| lite.cursor(group)) else { continue };
        stage.put(&CursorKey { shard, group, lite: id }, &cursor.put());
    }
    stage.put_levels();
}

fn put_lease(stage: &mut Stage, group: GroupId, lite: &mut Lite, offset: Offset, (place, row): (LeasePlace, LeaseRow)) {
    match place {
        LeasePlace::Cursor => touch(stage, group, lite),
        LeasePlace::OwnRow => {
            stage.put(&LeaseKey { shard: stage.shard(), group, lite: lite.id, offset }, &row);
            lite.staged_in = stage.number();
        }
    }
}

fn delete_lease(stage: &mut Stage, group: GroupId, lite: &mut Lite, offset: Offset, lease: &Lease) {
    if let Some(cursor) = lite.cursor(group).filter(|cursor| !cursor.has_leases())
        && let Some(place) = cursor.busy_place.take()
    {
        stage.leave_busy(group, place);
    }
    match lease.place {
        LeasePlace::Cursor => touch(stage, group, lite),
        LeasePlace::OwnRow => {
            stage.delete(&LeaseKey { shard: stage.shard(), group, lite: lite.id, offset });
            lite.staged_in = stage.number();
        }
    }
}

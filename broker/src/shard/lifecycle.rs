//! Every change of a message's state, and nothing else. Each function stages its rows.

use std::time::Duration;

use bytes::Bytes;
use sluicegate_protocol::limits::{PRIORITY_DEFAULT, PRIORITY_MAX};
use sluicegate_protocol::{GroupId, LiteId, Offset, SessionId, Timestamp};
use sluicegate_scheduler::{Charge, HoldSource};

use super::command::NewBody;
use super::cursor::{Counted, Cursor, Waiting};
use super::leases::{Lease, LeasePlace};
use super::lite::{Lite, Lites};
use super::stage::Stage;
use crate::store::{
    BodyPlace, BodyRef, CursorKey, Hint, LeaseKey, LeaseRow, LiteKey, MessageHeader, MessageKey, NameKey,
    ROW_BODY_BYTES_MAX, ReadyKey, Row, Scan, StoreError, StoredMessage, TailKey, TailRow,
};

/// Rows that are deleted one by one; more are deleted as a range, which costs readers more.
pub(super) const DELETED_ONE_BY_ONE_MAX: u64 = 1_000;

/// (nothing) -> Waiting
pub(super) fn append(stage: &mut Stage, lite: &mut Lite, mut header: MessageHeader, body: NewBody) -> Waiting {
    let (shard, offset) = (stage.shard(), lite.next_offset);
    let priority = header.priority();
    let (own, body) = place_body(stage, (lite.id, offset), body);
    header.body = own;
    header.bodies_before = (lite.bodies_end > lite.trimmed).then_some(lite.bodies_end.0);
    if own.is_some() {
        lite.bodies_end = offset.next();
    }
    let message = StoredMessage { header, body };
    let row: Bytes = message.encode().into();
    stage.put_encoded(&MessageKey { shard, lite: lite.id, offset }, &row);
    lite.next_offset = offset.next();
    lite.written_at = stage.now();
    lite.staged_in = stage.number();
    for (group, cursor) in &mut lite.cursors {
        file(stage, *group, lite.id, cursor, priority);
    }
    Waiting::new(offset, &message.header, stage.keep(row))
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
    let (id, now) = (lite.id, stage.now());
    let token = stage.next_token();
    let cursor = lite.cursor(group).expect("the group follows it");
    let message = cursor.take_head(offset);
    let attempt = cursor.attempts_of(offset) + 1;
    let (deadline, place) = (now.plus(duration), cursor.next_lease_place());
    let lease = Lease { session, attempt, deadline, token, dispatched_at: now, charge, message, place };
    let row = lease.to_row();
    cursor.lease(offset, lease);
    cursor.announced = None;
    // It is filed since it has unsettled messages, and must be: a start finds open leases by the ready rows.
    file(stage, group, id, cursor, PRIORITY_DEFAULT);
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
    settled(stage, group, lite);
    message
}

/// Waiting -> Settled before `to`, Settled -> Waiting from there on. Answers how many waiting messages were settled. There must
/// be no open lease, and `to` must not be before the first kept message.
pub(super) fn sought(stage: &mut Stage, group: GroupId, lite: &mut Lite, to: Offset) -> u64 {
    let (id, end) = (lite.id, lite.next_offset);
    let Some(cursor) = lite.cursor(group) else { return 0 };
    let passed = cursor.seek(to);
    cursor.announced = None;
    if !cursor.is_drained(end) {
        file(stage, group, id, cursor, PRIORITY_DEFAULT);
    }
    settled(stage, group, lite);
    passed
}

/// Waiting -> (nothing), for all groups: the messages before `end` are gone. None of them may be leased.
pub(super) fn removed(stage: &mut Stage, lite: &mut Lite, end: Offset) {
    let groups: Vec<_> = lite.cursors.iter().map(|(group, _)| *group).collect();
    for group in groups {
        let cursor = lite.cursor(group).expect("it was listed");
        cursor.settle_below(end);
        cursor.announced = None;
        linger(stage, group, lite);
        touch(stage, group, lite);
    }
    trim(stage, lite, end);
}

/// Waiting -> (nothing), for all groups, with the lite topic itself. None of its messages may be leased.
pub(super) fn deleted(stage: &mut Stage, lite: &Lite) {
    let (shard, id) = (stage.shard(), lite.id);
    delete_messages(stage, id, lite.trimmed, lite.next_offset);
    stage.drop_bodies_of(id, lite.trimmed, lite.bodies_end);
    for (group, cursor) in &lite.cursors {
        assert!(cursor.leases().next().is_none(), "nothing is deleted under an open lease");
        stage.delete(&CursorKey { shard, group: *group, lite: id });
        if let Some(rank) = cursor.filed {
            stage.delete(&ReadyKey { shard, group: *group, rank, lite: id });
        }
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

/// Reads the headers of the messages from `head` on, where they are not at hand.
pub(super) fn refill(stage: &Stage, group: GroupId, lite: &mut Lite, head: Offset) -> Result<(), StoreError> {
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

/// Files the ready row of a lite topic that has unsettled messages from now on.
pub(super) fn file(stage: &mut Stage, group: GroupId, lite: LiteId, cursor: &mut Cursor, priority: u8) {
    if cursor.filed.is_none() {
        let rank = PRIORITY_MAX - priority.min(PRIORITY_MAX);
        stage.put(&ReadyKey { shard: stage.shard(), group, rank, lite }, &Hint);
        cursor.filed = Some(rank);
    }
}

/// A group that did not follow the lite topic starts at the first message that is kept.
pub(super) fn followed(stage: &mut Stage, group: GroupId, lite: &mut Lite) {
    lite.cursors.push((group, Cursor::starting_at(lite.trimmed)));
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
    let (shard, id) = (stage.shard(), lite.id);
    if let Some(rank) = lite.cursor(group).and_then(|cursor| cursor.filed) {
        stage.delete(&ReadyKey { shard, group, rank, lite: id });
    }
    stage.delete(&CursorKey { shard, group, lite: id });
    lite.staged_in = stage.number();
    unfollowed(stage, group, lite);
}

/// A group is deleted: what only it had not settled is gone. Without any group all is kept.
pub(super) fn unfollowed(stage: &mut Stage, group: GroupId, lite: &mut Lite) {
    lite.cursors.retain(|(id, _)| *id != group);
    if let Some(kept_from) = lite.cursors.iter().map(|(_, cursor)| cursor.settled_up_to()).min() {
        trim(stage, lite, kept_from);
    }
}

/// As [`unfollowed`], of a lite topic that was loaded when the group was deleted already: that group had settled all before
/// `settled_up_to`.
pub(super) fn released(stage: &mut Stage, lite: &mut Lite, settled_up_to: Offset) {
    if lite.cursors.is_empty() || settled_up_to >= lite.trimmed {
        return;
    }
    delete_messages(stage, lite.id, settled_up_to, lite.trimmed);
    stage.drop_bodies_of(lite.id, settled_up_to, lite.trimmed);
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
        lite.staged_in = stage.number();
    }
}

/// Lets the ready row of a drained lite topic stay for a moment: most that drain fill again.
pub(super) fn linger(stage: &mut Stage, group: GroupId, lite: &mut Lite) {
    let (id, end) = (lite.id, lite.next_offset);
    let Some(cursor) = lite.cursor(group) else { return };
    if cursor.filed.is_some() && cursor.is_drained(end) && !cursor.lingers {
        cursor.lingers = true;
        stage.linger(group, id);
    }
}

/// After an offset was settled: the cursor, the ready row, and the messages that nobody needs.
fn settled(stage: &mut Stage, group: GroupId, lite: &mut Lite) {
    linger(stage, group, lite);
    touch(stage, group, lite);
    let kept_from = lite.cursors.iter().map(|(_, cursor)| cursor.settled_up_to()).min().unwrap_or_default();
    trim(stage, lite, kept_from);
}

/// Deletes the messages below `kept_from`.
fn trim(stage: &mut Stage, lite: &mut Lite, kept_from: Offset) {
    lite.staged_in = stage.number();
    if lite.trimmed >= kept_from {
        return;
    }
    delete_messages(stage, lite.id, lite.trimmed, kept_from);
    stage.drop_bodies_of(lite.id, lite.trimmed, kept_from.min(lite.bodies_end));
    lite.trimmed = kept_from;
    if lite.trimmed == lite.next_offset {
        put_tail(stage, lite);
    }
}

/// While messages are there, the last of them says where the next one goes; without any, this row does.
fn put_tail(stage: &mut Stage, lite: &Lite) {
    let tail = TailRow { next_offset: lite.next_offset.0, written_at_us: lite.written_at.0 };
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
    let cursor = lite.cursor(group).expect("the caller changed it");
    if !std::mem::replace(&mut cursor.is_touched, true) {
        stage.touch(group, lite.id);
    }
    lite.staged_in = stage.number();
}

/// Puts the rows of all cursors that changed in the open batch.
pub(super) fn put_touched(stage: &mut Stage, lites: &mut Lites) {
    let shard = stage.shard();
    for (group, id) in stage.take_touched() {
        // Its life may have ended in this batch.
        let Some(cursor) = lites.get(id).and_then(|lite| lite.cursor(group)) else { continue };
        cursor.is_touched = false;
        stage.put(&CursorKey { shard, group, lite: id }, &cursor.to_row());
    }
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
    match lease.place {
        LeasePlace::Cursor => touch(stage, group, lite),
        LeasePlace::OwnRow => {
            stage.delete(&LeaseKey { shard: stage.shard(), group, lite: lite.id, offset });
            lite.staged_in = stage.number();
        }
    }
}

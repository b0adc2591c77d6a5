//! Copies into the dead-letter topic, in the same batch that settles the original.

use sluicegate_protocol::admin::Durability;
use sluicegate_protocol::{LiteId, Offset};

use super::ledger::Ledger;
use super::publish::PublishDone;
use super::{Effect, lifecycle};
use crate::catalog::GroupSpec;
use crate::store::{MessageKey, StoreError};

/// Properties that a dead-lettered message has beside its own.
const CAUSE: &str = "sluicegate.dead-letter.cause";
const ATTEMPTS: &str = "sluicegate.dead-letter.attempts";
const OFFSET: &str = "sluicegate.dead-letter.offset";
const GROUP: &str = "sluicegate.dead-letter.group";

/// Stages a copy of a waiting message into the group's dead-letter topic, same lite topic name.
pub(super) fn copy(
    ledger: &mut Ledger,
    group: &GroupSpec,
    id: LiteId,
    offset: Offset,
    cause: &str,
) -> Result<(), StoreError> {
    let shard = ledger.stage.shard();
    let key = MessageKey { shard, lite: id, offset };
    let Some(message) = ledger.stage.store().get(&key)? else {
        let problem = "an unsettled message is missing".into();
        return Err(StoreError::Corrupt { table: "message", key: format!("{id} {offset}"), problem });
    };
    let topic = ledger.topics.get(&group.dead_letter).cloned().expect("a group's dead-letter topic is made with it");
    let lite = ledger.open_lite(id);
    let (name, tenant) = (lite.name.clone(), lite.tenant);
    let attempts = lite.cursor(group.id).map_or(0, |cursor| cursor.attempts_of(offset));
    let tenant = ledger.lites.tenant_name(tenant);
    let target = match ledger.find(&topic, &name)? {
        Some(target) => target,
        None => ledger.create(&topic, name, Some(&tenant)),
    };
    let mut header = message.header;
    header.published_at_us = ledger.stage.now().0;
    header.deliver_at_us = None;
    header.expires_at_us = None;
    header.properties.extend([
        (CAUSE.to_owned(), cause.to_owned()),
        (ATTEMPTS.to_owned(), attempts.to_string()),
        (OFFSET.to_owned(), offset.to_string()),
        (GROUP.to_owned(), group.name.as_str().to_owned()),
    ]);
    let Ledger { stage, lites, .. } = ledger;
    let lite = lites.get(target).expect("it was just found or made");
    let waiting = lifecycle::append(stage, lite, header, message.body);
    let done = PublishDone { replies: None, receipts: Vec::new(), appended: vec![(target, waiting)], room: None };
    stage.then(Durability::Fsync, Effect::Published(done));
    Ok(())
}

//! What groups could not process: list, move back.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use sluicegate_protocol::admin::{DeadLetter, DeadLetterPage, Page, Redrive, Redriven};
use sluicegate_protocol::{ErrorCode, GroupName, LiteId, LiteName, Offset};
use tokio::sync::oneshot;

use super::page::{self, Names};
use super::{App, Body, Params, groups, invalid};
use crate::broker::{Broker, send, stopping};
use crate::catalog::{GroupSpec, TopicSpec};
use crate::refusal::Refusal;
use crate::shard::{Command, RedriveStep, describe_dead_letter};
use crate::store::{Key as _, LiteKey, MessageKey, Scan, Store, StoreError, StoredMessage};

/// Names that are read at once.
const NAMES_AT_ONCE: u32 = 1_000;
/// Names that one page of a list looks at: most are empty where a consumer of the dead-letter topic keeps up.
const NAMES_PER_PAGE_MAX: usize = 10_000;

pub(super) async fn list(
    State(broker): App,
    Path(group): Path<String>,
    Params(page): Params<Page>,
) -> Result<Json<DeadLetterPage>, Refusal> {
    let (_, topic) = find(&broker, &group)?;
    let names = Names::parse(page.prefix.as_deref(), None, Some(NAMES_AT_ONCE))?;
    let after = page.after.as_deref().map(Position::parse).transpose()?;
    let rows = page::rows(page.limit)?;
    page::read(&broker, move |store| read(store, &topic, names, after, rows)).await.map(Json)
}

/// A row of the list, written `OFFSET@LITE`.
struct Position {
    offset: Offset,
    lite: LiteName,
}

impl Position {
    fn parse(text: &str) -> Result<Self, Refusal> {
        let refuse = || Refusal::new(ErrorCode::InvalidArgument, format!("after: `{text}` is not `OFFSET@LITE`"));
        let (offset, lite) = text.split_once('@').ok_or_else(refuse)?;
        let offset = Offset(offset.parse().map_err(|_| refuse())?);
        Ok(Self { offset, lite: LiteName::parse(lite).map_err(|error| invalid(&error))? })
    }

    fn text(offset: Offset, lite: &LiteName) -> String {
        format!("{offset}@{lite}")
    }
}

/// Rows of the list while they are read: one more than is wanted says that there are more.
struct Rows<'a> {
    store: &'a Store,
    topic: &'a TopicSpec,
    found: Vec<DeadLetter>,
    wanted: usize,
}

impl Rows<'_> {
    fn is_full(&self) -> bool {
        self.found.len() > self.wanted
    }

    fn read(&mut self, lite: &LiteName, id: LiteId, from: Offset) -> Result<(), StoreError> {
        let shard = self.topic.shard;
        let first = MessageKey { shard, lite: id, offset: from }.encode();
        self.store.scan(&MessageKey::of_lite(shard, id), &first, |key: MessageKey, message: StoredMessage| {
            self.found.push(describe_dead_letter(lite.clone(), key.offset, &message.header));
            if self.found.len() > self.wanted { Scan::Done } else { Scan::More }
        })
    }

    fn page(mut self) -> DeadLetterPage {
        let more = self.is_full();
        self.found.truncate(self.wanted);
        let last = self.found.last().filter(|_| more);
        let next = last.map(|last| Position::text(last.offset, &last.lite));
        DeadLetterPage { dead_letters: self.found, next }
    }
}

fn read(
    store: &Store,
    topic: &TopicSpec,
    mut names: Names,
    after: Option<Position>,
    wanted: usize,
) -> Result<DeadLetterPage, StoreError> {
    let mut rows = Rows { store, topic, found: Vec::new(), wanted };
    if let Some(Position { offset, lite }) = after {
        let key = LiteKey { shard: topic.shard, topic: topic.id, name: lite.clone() };
        if let (Some(row), Some(from)) = (store.get(&key)?, offset.0.checked_add(1)) {
            rows.read(&lite, LiteId(row.lite), Offset(from))?;
        }
        names.go_on_after(lite);
    }
    let mut looked_at = 0;
    while !rows.is_full() {
        let (found, more) = names.read(store, topic)?;
        looked_at += found.len();
        for (name, id) in &found {
            if rows.is_full() {
                break;
            }
            rows.read(name, *id, Offset(0))?;
        }
        let Some((last, _)) = found.into_iter().next_back().filter(|_| more) else { break };
        if looked_at >= NAMES_PER_PAGE_MAX && !rows.is_full() {
            let next = Some(Position::text(Offset(u64::MAX), &last));
            return Ok(DeadLetterPage { next, ..rows.page() });
        }
        names.go_on_after(last);
    }
    Ok(rows.page())
}

/// Names one lite topic, or none for all.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfSome {
    lite: Option<String>,
}

pub(super) async fn redrive(
    State(broker): App,
    Path(group): Path<String>,
    Params(OfSome { lite }): Params<OfSome>,
    Body(Redrive { limit }): Body<Redrive>,
) -> Result<Json<Redriven>, Refusal> {
    let (group, topic) = find(&broker, &group)?;
    let limit = page::rows(limit)? as u64;
    if let Some(lite) = lite {
        let lite = LiteName::parse(&lite).map_err(|error| invalid(&error))?;
        let RedriveStep { moved, left } = redrive_one(&broker, &group, lite, limit).await?;
        return Ok(Json(Redriven { moved, in_use: 0, more: left > 0 }));
    }
    redrive_all(&broker, &group, &topic, limit).await.map(Json)
}

async fn redrive_all(
    broker: &Broker,
    group: &GroupSpec,
    topic: &Arc<TopicSpec>,
    limit: u64,
) -> Result<Redriven, Refusal> {
    let mut done = Redriven { moved: 0, in_use: 0, more: false };
    let mut after = None;
    loop {
        let (topic, names) = (Arc::clone(topic), Names::parse(None, after.as_deref(), Some(NAMES_AT_ONCE))?);
        let (found, more) = page::read(broker, move |store| names.read(store, &topic)).await?;
        after = found.last().map(|(name, _)| name.as_str().to_owned());
        for (name, _) in found {
            if done.moved == limit {
                return Ok(Redriven { more: true, ..done });
            }
            match redrive_one(broker, group, name, limit - done.moved).await {
                Ok(RedriveStep { moved, left }) => {
                    done.moved += moved;
                    done.more |= left > 0;
                }
                Err(refusal) if refusal.code == ErrorCode::InUse => done.in_use += 1,
                // It was deleted, or moved by another, since its name was read.
                Err(refusal) if refusal.code == ErrorCode::UnknownLite => {}
                Err(refusal) => return Err(refusal),
            }
        }
        if !more {
            return Ok(done);
        }
    }
}

/// Moves at most so many dead letters of one lite topic, batch by batch.
async fn redrive_one(broker: &Broker, group: &GroupSpec, lite: LiteName, limit: u64) -> Result<RedriveStep, Refusal> {
    let mut moved = 0;
    loop {
        let (reply, answer) = oneshot::channel();
        let command = Command::Redrive { group: group.id, lite: lite.clone(), limit: limit - moved, reply };
        send(broker.shard_of(group)?, command).await?;
        let step = answer.await.map_err(|_| stopping())??;
        moved += step.moved;
        if step.left == 0 || step.moved == 0 || moved == limit {
            return Ok(RedriveStep { moved, left: step.left });
        }
    }
}

/// The group, and the topic of its dead letters.
fn find(broker: &Broker, group: &str) -> Result<(Arc<GroupSpec>, Arc<TopicSpec>), Refusal> {
    let name: GroupName = groups::parse(group)?;
    let group = broker.group(&name)?;
    let deleted = || Refusal::new(ErrorCode::UnknownTopic, "the group's dead-letter topic was deleted");
    let topic = broker.catalog().topic(group.dead_letter).cloned().ok_or_else(deleted)?;
    Ok((group, topic))
}

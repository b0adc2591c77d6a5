//! One reader of a lite topic: where it is, and what it may have next. It has no group, no lease and no quota, and changes nothing.
//!
//! It waits for the mark that its shard moves, and reads rows off the shard. It never sends anything: whoever owns it does.

use std::sync::Arc;

use bytes::Bytes;
use sluicegate_protocol::limits::{CHUNK_BYTES_MAX, READERS_MAX};
use sluicegate_protocol::{ErrorCode, LiteId, LiteName, Offset, TopicName, read_credit, wire};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use crate::broker::{Broker, send, stopping};
use crate::catalog::TopicSpec;
use crate::metrics::AttachedReader;
use crate::refusal::Refusal;
use crate::shard::{BeginRead, CheckRead, Command, Mark, ReadFrom, ShardId, reclaimed};
use crate::store::{ChunkKey, Key as _, MessageHeader, MessageKey, Scan, Store, StoreError, StoredMessage};
use crate::uploads::take;

/// Messages that are read at once: their headers fit into one frame.
const MESSAGES_AT_ONCE: usize = 256;

/// What a reader wants.
pub(crate) struct ReadRequest {
    pub(crate) topic: Arc<TopicSpec>,
    pub(crate) lite: LiteName,
    pub(crate) from: ReadFrom,
    /// It waits for what is to come.
    pub(crate) follows: bool,
}

/// A reader that is attached to its lite topic. Dropping it lets go.
pub(crate) struct Reader {
    broker: Arc<Broker>,
    topic: Arc<TopicSpec>,
    lite: LiteName,
    marks: watch::Receiver<Mark>,
    /// The next message; none before the lite topic exists.
    at: Option<(LiteId, Offset)>,
    /// Where it stops, if it does not follow.
    stops_at: Option<Offset>,
    _room: OwnedSemaphorePermit,
    _counted: AttachedReader,
}

/// What a reader may have now.
pub(crate) enum Read {
    Messages(LiteId, Vec<ReadMessage>),
    /// There is no more than it had, for now.
    Nothing,
    /// It does not follow, and has all that there was.
    End,
}

/// A message, as it is sent: a large body is not with it.
pub(crate) type ReadMessage = (wire::ReadMessage, Bytes);

/// The topic with this name, dead-letter topics included. Reading makes none.
pub(crate) fn topic(broker: &Broker, name: &str) -> Result<Arc<TopicSpec>, Refusal> {
    let invalid = |error: sluicegate_protocol::InvalidName| Refusal::new(ErrorCode::InvalidArgument, error.to_string());
    let name = TopicName::parse_existing(name).map_err(invalid)?;
    let unknown = || Refusal::new(ErrorCode::UnknownTopic, format!("topic `{name}` does not exist"));
    broker.catalog().topics.get(name.as_str()).cloned().ok_or_else(unknown)
}

/// Whether the message can be read; a refusal says what became of it.
pub(crate) async fn check(
    broker: &Broker,
    topic: &TopicSpec,
    lite: &LiteName,
    at: (LiteId, Offset),
) -> Result<(), Refusal> {
    let (reply, answer) = oneshot::channel();
    let asked = CheckRead { topic: topic.id, lite: lite.clone(), at, reply };
    send(broker.shard(topic.shard), Command::CheckRead(asked)).await?;
    answer.await.map_err(|_| stopping())?
}

impl Reader {
    /// Attaches a reader.
    ///
    /// # Errors
    /// `trimmed`, `reclaimed`, `beyond_end`: there is no such position. `unknown_lite`: it does not follow. `limit_reached`.
    pub(crate) async fn attach(broker: &Arc<Broker>, request: ReadRequest) -> Result<Self, Refusal> {
        let room = take(&broker.readers, 1, READERS_MAX, "readers of all connections")?;
        let ReadRequest { topic, lite, from, follows } = request;
        let (reply, answer) = oneshot::channel();
        let asked = BeginRead { topic: topic.id, lite: lite.clone(), from, follows, reply };
        send(broker.shard(topic.shard), Command::BeginRead(asked)).await?;
        let begun = answer.await.map_err(|_| stopping())??;
        Ok(Self {
            broker: Arc::clone(broker),
            topic,
            lite,
            marks: begun.marks,
            at: begun.at,
            stops_at: (!follows).then_some(begun.end),
            _room: room,
            _counted: broker.meters.reading(),
        })
    }

    /// Its next message; none before the lite topic exists.
    pub(crate) fn position(&self) -> Option<(LiteId, Offset)> {
        self.at
    }

    /// Whether it has all that it is to have; one that follows never has.
    pub(crate) fn is_at_end(&self) -> bool {
        self.stops_at.is_some_and(|stop| self.at.is_none_or(|(_, next)| next >= stop))
    }

    /// Waits until there may be more. Cancel-safe.
    ///
    /// # Errors
    /// The topic is gone, or the broker is ending.
    pub(crate) async fn changed(&mut self) -> Result<(), Refusal> {
        if self.marks.changed().await.is_ok() {
            return Ok(());
        }
        Err(match self.broker.store.failure() {
            Some(error) => self.broker.read_failed(&error),
            None if self.broker.catalog().topic(self.topic.id).is_none() => {
                Refusal::new(ErrorCode::UnknownTopic, "the topic was deleted")
            }
            None => stopping(),
        })
    }

    /// Whether [`Reader::read`] has something to say.
    ///
    /// # Errors
    /// The life is over.
    pub(crate) fn has_news(&mut self) -> Result<bool, Refusal> {
        Ok(match self.next()? {
            Some((_, next, end)) => next < end || self.stops_at.is_some(),
            None => false,
        })
    }

    /// The next messages, with about so many bytes of credit, but one at least. Does not wait for messages to come.
    ///
    /// # Errors
    /// `trimmed` and `reclaimed`: what comes next is gone.
    pub(crate) async fn read(&mut self, bytes: u64) -> Result<Read, Refusal> {
        let Some((lite, next, end)) = self.next()? else { return Ok(Read::Nothing) };
        if next >= end {
            return Ok(if self.stops_at.is_some() { Read::End } else { Read::Nothing });
        }
        let rows = Rows { store: &self.broker.store, shard: self.topic.shard, lite, skips: self.skips() };
        let (messages, reached) = rows.read((next, end), bytes).map_err(|error| self.broker.read_failed(&error))?;
        self.at = Some((lite, reached));
        if !messages.is_empty() {
            self.broker.meters.read(messages.len() as u64);
            return Ok(Read::Messages(lite, messages));
        }
        if reached > next {
            // Settled, all of them.
            return Ok(Read::Nothing);
        }
        check(&self.broker, &self.topic, &self.lite, (lite, next)).await?;
        let problem = "a kept message is missing".to_owned();
        Err(self.broker.read_failed(&StoreError::Corrupt {
            table: MessageKey::TABLE,
            key: format!("{lite} {next}"),
            problem,
        }))
    }

    /// The life, the next message in it, and the first that it may not have.
    fn next(&mut self) -> Result<Option<(LiteId, Offset, Offset)>, Refusal> {
        let mark = *self.marks.borrow_and_update();
        match (mark, self.at) {
            (Mark::Life(lite, visible), at) if at.is_none_or(|(own, _)| own == lite) => {
                let next = at.map_or(Offset(0), |(_, next)| next);
                Ok(Some((lite, next, self.stops_at.map_or(visible, |stop| visible.min(stop)))))
            }
            (_, Some((own, _))) => Err(reclaimed(&self.lite, own)),
            (_, None) => Ok(None),
        }
    }

    /// In a work queue what is settled goes, which is no gap; a log is read without one.
    fn skips(&self) -> bool {
        matches!(self.topic.settings.retention, sluicegate_protocol::admin::Retention::WorkQueue)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // The shard looks whether anybody is left, so this receiver must be gone by then.
        let (_, gone) = watch::channel(Mark::Ended);
        let life = match *self.marks.borrow() {
            Mark::Life(life, _) => Some(life),
            Mark::Awaited | Mark::Ended => None,
        };
        self.marks = gone;
        let shard = self.broker.shard(self.topic.shard).clone();
        let end = Command::EndRead { topic: self.topic.id, lite: self.lite.clone(), life };
        if let Err(tokio::sync::mpsc::error::TrySendError::Full(end)) = shard.try_send(end) {
            // A shard that is gone needs no word.
            tokio::spawn(async move { shard.send(end).await.is_ok() });
        }
    }
}

/// The rows of a life.
struct Rows<'a> {
    store: &'a Store,
    shard: ShardId,
    lite: LiteId,
    /// What is missing is passed over.
    skips: bool,
}

impl Rows<'_> {
    /// Messages from one offset on, below another, up to the first that is missing; and where to go on.
    fn read(&self, (next, end): (Offset, Offset), bytes: u64) -> Result<(Vec<ReadMessage>, Offset), StoreError> {
        let (mut found, mut taken, mut reached) = (Vec::new(), 0, next);
        let first = MessageKey { shard: self.shard, lite: self.lite, offset: next }.encode();
        let mut is_full = false;
        self.store.scan(
            &MessageKey::of_lite(self.shard, self.lite),
            &first,
            |key: MessageKey, row: StoredMessage| {
                if key.offset >= end || (key.offset != reached && !self.skips) {
                    return Scan::Done;
                }
                let own = row.header.body;
                let message = message(key.offset, row.header, row.body.len());
                taken += read_credit(&message);
                reached = key.offset.next();
                found.push((message, own, row.body));
                is_full = taken >= bytes || found.len() == MESSAGES_AT_ONCE;
                if is_full { Scan::Done } else { Scan::More }
            },
        )?;
        if !is_full && self.skips {
            reached = end;
        }
        let mut messages = Vec::with_capacity(found.len());
        for (message, own, in_row) in found {
            let chunk = own.filter(|own| own.bytes <= CHUNK_BYTES_MAX as u64);
            let Some(body) = chunk else {
                messages.push((message, in_row));
                continue;
            };
            match self.store.get(&ChunkKey { shard: self.shard, body: body.id, number: 0 })? {
                Some(chunk) => messages.push((message, body.check(0, chunk)?)),
                None if self.skips => {}
                None => return Ok((messages, Offset(message.offset))),
            }
        }
        Ok((messages, reached))
    }
}

/// A message as it is sent, whose row has a body of so many bytes.
pub(crate) fn message(offset: Offset, header: MessageHeader, in_row: usize) -> wire::ReadMessage {
    let (body_bytes, large_body_bytes) = match header.body {
        None => (in_row as u64, 0),
        Some(body) if body.bytes <= CHUNK_BYTES_MAX as u64 => (body.bytes, 0),
        Some(body) => (0, body.bytes),
    };
    wire::ReadMessage {
        offset: offset.0,
        published_at_us: header.published_at_us,
        priority: header.priority,
        cost: header.cost,
        properties: header.properties,
        body_bytes: u32::try_from(body_bytes).expect("larger bodies are left out"),
        large_body_bytes,
    }
}

//! A producer's stream: Publish frames in, receipts out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest as _, Sha256};
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::limits::{
    CHUNK_BYTES_MAX, COST_DEFAULT, COST_MAX, IDEMPOTENCY_KEY_BYTES_MAX, PRIORITY_DEFAULT, PRIORITY_MAX, PROPERTIES_MAX,
    PROPERTY_BYTES_MAX, UNACKNOWLEDGED_PUBLISHES_MAX,
};
use sluicegate_protocol::{
    ErrorCode, GroupName, IdempotencyKey, InvalidIdempotencyKey, LiteName, ProducerId, REPLY_PREFIX, Timestamp,
    TopicName, wire,
};
use tokio::sync::mpsc;

use super::framed::{FrameReader, FrameWriter};
use super::{StreamError, unexpected, welcome};
use crate::broker::{Broker, send};
use crate::catalog::TopicSpec;
use crate::config::Right;
use crate::refusal::Refusal;
use crate::shard::{Command, Idempotency, NewBody, PublishRequest, ToProducer};

/// Bytes of publishes that go to the shard as one command.
const COMMAND_BYTES_MAX: usize = 256 << 10;
/// Bytes of replies that are written at once.
const WRITE_BYTES_MAX: usize = 64 << 10;

pub(super) async fn serve(
    broker: &Arc<Broker>,
    peer: SocketAddr,
    token: &str,
    role: wire::ProducerRole,
    mut writer: FrameWriter,
    mut reader: FrameReader,
) -> Result<(), StreamError> {
    let opened = match open(broker, peer, token, &role).await {
        Ok(opened) => opened,
        Err(refusal) => {
            writer.end_with(Some(refusal.clone())).await;
            return Err(refusal.into());
        }
    };
    let welcome = wire::Welcome {
        unacknowledged_publishes_max: u32::try_from(UNACKNOWLEDGED_PUBLISHES_MAX).expect("the limit is small"),
        replies: opened.replies(),
        ..welcome(broker)
    };
    reader.trust();
    writer.encode(&Frame::Welcome(welcome, ()));
    writer.flush().await?;
    // Every publish has one reply, and the stream one end, so this many can never be too few.
    let (replies, outbox) = mpsc::channel(UNACKNOWLEDGED_PUBLISHES_MAX + 1);
    let unanswered = Arc::new(AtomicUsize::new(0));
    let mut writing = tokio::spawn(write_replies(writer, outbox, Arc::clone(&unanswered)));
    let (result, written) = tokio::select! {
        result = read_publishes(broker, &opened, &mut reader, &replies, &unanswered) => (result, None),
        // A writer that ends first has lost its peer, or the shard has ended the stream.
        written = &mut writing => (Err(StreamError::Lost("the peer is gone, or the topic".into())), Some(written)),
    };
    let refusal = result.as_ref().err().and_then(StreamError::refusal);
    drop(replies);
    // The writer ends when the shard has answered everything that it took.
    let written = match written {
        Some(written) => written,
        None => writing.await,
    };
    if let Ok(writer) = written {
        writer.end_with(refusal).await;
    }
    result
}

/// What a stream may publish, and where.
pub(super) struct Opened {
    pub(super) topic: Arc<TopicSpec>,
    pub(super) producer: ProducerId,
    publishes: Publishes,
}

/// What a stream may publish.
enum Publishes {
    /// What it likes.
    All,
    /// Replies to what the group of this name has in work.
    Replies(GroupName),
}

pub(super) async fn open(
    broker: &Broker,
    peer: SocketAddr,
    token: &str,
    role: &wire::ProducerRole,
) -> Result<Opened, Refusal> {
    let right = if role.replies_of.is_empty() { Right::Publish } else { Right::Consume };
    broker.auth.check(token, peer.ip(), right)?;
    let producer =
        ProducerId::from_bytes(&role.producer_id).ok_or_else(|| invalid("producer_id is not 16 bytes".into()))?;
    if role.replies_of.is_empty() {
        let topic = TopicName::parse(&role.topic).map_err(|error| invalid(error.to_string()))?;
        return Ok(Opened { topic: broker.topic(&topic).await?, producer, publishes: Publishes::All });
    }
    let group = GroupName::parse(&role.replies_of).map_err(|error| invalid(error.to_string()))?;
    let topic = replies_topic(broker, &group)?;
    if !role.topic.is_empty() && role.topic != topic.name {
        let message = format!("replies of group `{group}` go to topic `{}` only", topic.name);
        return Err(Refusal::new(ErrorCode::PermissionDenied, message));
    }
    Ok(Opened { topic, producer, publishes: Publishes::Replies(group) })
}

/// The topic that a group's replies go to: the one that its topic names.
pub(crate) fn replies_topic(broker: &Broker, group: &GroupName) -> Result<Arc<TopicSpec>, Refusal> {
    let (catalog, group) = (broker.catalog(), broker.group(group)?);
    let gone = || Refusal::new(ErrorCode::UnknownTopic, "the topic was deleted");
    replies_of(broker, catalog.topic(group.topic).ok_or_else(gone)?)
}

/// The topic that replies to what is in this one go to.
pub(crate) fn replies_of(broker: &Broker, asked: &TopicSpec) -> Result<Arc<TopicSpec>, Refusal> {
    let unknown = |message: String| Refusal::new(ErrorCode::UnknownTopic, message);
    let Some(replies) = &asked.settings.replies else {
        return Err(unknown(format!("topic `{}` names no topic that replies go to (setting `replies`)", asked.name)));
    };
    let gone =
        || unknown(format!("topic `{replies}`, which takes the replies to topic `{}`, does not exist", asked.name));
    broker.catalog().topics.get(replies.as_str()).cloned().ok_or_else(gone)
}

impl Opened {
    /// What the client is told of where replies go.
    fn replies(&self) -> String {
        match &self.publishes {
            Publishes::All => {
                self.topic.settings.replies.as_ref().map_or_else(String::new, |topic| topic.as_str().into())
            }
            Publishes::Replies(_) => self.topic.name.clone(),
        }
    }

    /// Refuses what the stream may not publish.
    pub(super) fn check(&self, request: PublishRequest) -> Result<PublishRequest, Refusal> {
        match &self.publishes {
            Publishes::Replies(group) if !request.lite.as_str().starts_with(REPLY_PREFIX) => {
                let message =
                    format!("replies of group `{group}` go to lite topics whose names begin with `{REPLY_PREFIX}`");
                Err(Refusal::new(ErrorCode::PermissionDenied, message))
            }
            Publishes::Replies(_) | Publishes::All => Ok(request),
        }
    }
}

async fn read_publishes(
    broker: &Broker,
    opened: &Opened,
    reader: &mut FrameReader,
    replies: &mpsc::Sender<ToProducer>,
    unanswered: &AtomicUsize,
) -> Result<(), StreamError> {
    let (topic, producer) = (opened.topic.id, opened.producer);
    let shard = broker.shard(opened.topic.shard);
    while let Some(frame) = reader.next().await? {
        let (mut requests, mut bytes, mut next) = (Vec::new(), 0, Some(frame));
        let mut closed = false;
        while let Some(frame) = next.take() {
            match frame {
                Frame::Publish(header, body) => {
                    bytes += body.len() + header.lite.len() + 64;
                    count(unanswered)?;
                    let sequence = header.sequence;
                    match broker
                        .uploads
                        .check_size(body.len() as u64)
                        .and_then(|()| request(header, NewBody::Whole(body)))
                        .and_then(|request| opened.check(request))
                    {
                        Ok(request) => requests.push(request),
                        Err(refusal) => drop(replies.try_send(ToProducer::Refused(sequence, refusal))),
                    }
                }
                Frame::Close(..) => closed = true,
                other => return Err(unexpected(&other)),
            }
            if !closed && bytes < COMMAND_BYTES_MAX {
                next = reader.next_buffered()?;
            }
        }
        if !requests.is_empty() {
            let room = broker.publish_room(bytes).await;
            let replies = replies.clone();
            send(shard, Command::Publish { topic, producer, requests, replies, room }).await?;
        }
        if closed {
            return Ok(());
        }
    }
    Ok(())
}

fn count(unanswered: &AtomicUsize) -> Result<(), Refusal> {
    let before = unanswered.fetch_add(1, Ordering::Relaxed);
    if before < UNACKNOWLEDGED_PUBLISHES_MAX {
        return Ok(());
    }
    let max = UNACKNOWLEDGED_PUBLISHES_MAX as u64;
    Err(Refusal::limit(ErrorCode::LimitReached, "unacknowledged publishes", max, before as u64 + 1))
}

/// Parses a message at the edge: inside, nothing can be wrong with it.
pub(crate) fn request(header: wire::Publish, body: NewBody) -> Result<PublishRequest, Refusal> {
    let too_large =
        |limit, max: usize, bytes: usize| Refusal::limit(ErrorCode::TooLarge, limit, max as u64, bytes as u64);
    let lite = LiteName::parse(&header.lite).map_err(|error| invalid(error.to_string()))?;
    if header.sequence == 0 {
        return Err(invalid("sequences count from 1".into()));
    }
    if let NewBody::Whole(body) = &body
        && body.len() > CHUNK_BYTES_MAX
    {
        return Err(too_large("body bytes in a Publish frame", CHUNK_BYTES_MAX, body.len()));
    }
    if header.properties.len() > PROPERTIES_MAX {
        return Err(too_large("properties", PROPERTIES_MAX, header.properties.len()));
    }
    let property_bytes = header.properties.iter().map(|(key, value)| key.len() + value.len()).sum();
    if property_bytes > PROPERTY_BYTES_MAX {
        return Err(too_large("property bytes", PROPERTY_BYTES_MAX, property_bytes));
    }
    let key =
        header.idempotency_key.as_deref().map(IdempotencyKey::parse).transpose().map_err(|error| match error {
            InvalidIdempotencyKey::Empty => invalid(error.to_string()),
            InvalidIdempotencyKey::TooLong { bytes } => {
                too_large("idempotency key bytes", IDEMPOTENCY_KEY_BYTES_MAX, bytes)
            }
        })?;
    let priority = match header.priority {
        None => PRIORITY_DEFAULT,
        Some(priority) => match u8::try_from(priority) {
            Ok(priority) if priority <= PRIORITY_MAX => priority,
            _ => return Err(invalid(format!("priority is {priority}, allowed are 0 to {PRIORITY_MAX}"))),
        },
    };
    let cost = header.cost.unwrap_or(COST_DEFAULT);
    if cost > COST_MAX {
        return Err(invalid(format!("cost is {cost}, at most {COST_MAX} is allowed")));
    }
    Ok(PublishRequest {
        sequence: header.sequence,
        lite,
        priority,
        cost,
        deliver_at: header.deliver_at_us.map(Timestamp),
        expires_at: header.expires_at_us.map(Timestamp),
        properties: header.properties,
        idempotency: key.map(|key| Idempotency { key, body_digest: digest(&body) }),
        body,
    })
}

fn invalid(message: String) -> Refusal {
    Refusal::new(ErrorCode::InvalidArgument, message)
}

/// The digest of a body; of one that is still to come, whoever brings it says it.
fn digest(body: &NewBody) -> [u8; 32] {
    match body {
        NewBody::Whole(body) => Sha256::digest(body).into(),
        NewBody::Uploaded(_) | NewBody::Shared(_) => [0; 32],
    }
}

async fn write_replies(
    mut writer: FrameWriter,
    mut outbox: mpsc::Receiver<ToProducer>,
    unanswered: Arc<AtomicUsize>,
) -> FrameWriter {
    let mut taken = Vec::new();
    while outbox.recv_many(&mut taken, UNACKNOWLEDGED_PUBLISHES_MAX).await > 0 {
        let (mut receipts, mut end) = (Vec::new(), None);
        for reply in taken.drain(..) {
            match reply {
                ToProducer::Receipts(more) => receipts.extend(more),
                ToProducer::Refused(sequence, refusal) => {
                    unanswered.fetch_sub(1, Ordering::Relaxed);
                    writer.encode(&Frame::Error(refusal.to_wire(Some(sequence)), ()));
                }
                ToProducer::Failed(refusal) => end = Some(refusal),
            }
        }
        unanswered.fetch_sub(receipts.len(), Ordering::Relaxed);
        // A receipt is at most 40 bytes, so this many stay far below the header's limit.
        for receipts in receipts.chunks(WRITE_BYTES_MAX / 40) {
            writer.encode(&Frame::Published(wire::Published { receipts: receipts.to_vec() }, ()));
        }
        if let Some(refusal) = end {
            writer.encode(&Frame::Error(refusal.to_wire(None), ()));
            // The stream ends in either case.
            let _ = writer.flush().await;
            return writer;
        }
        if writer.flush().await.is_err() {
            // The peer is gone; its replies are dropped, its resend will ask again.
            outbox.close();
        }
    }
    writer
}

//! An upload's stream: one message, its body in chunks, one reply.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::limits::{CHUNK_BYTES_MAX, UPLOAD_IDLE_MAX};
use sluicegate_protocol::{ErrorCode, wire};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::framed::{FrameReader, FrameWriter};
use super::producer::{open, request};
use super::{StreamError, Transfers, unexpected, welcome};
use crate::broker::{Broker, send, stopping};
use crate::catalog::TopicSpec;
use crate::refusal::Refusal;
use crate::shard::{BeginUpload, Begun, Command, NewBody, PublishRequest, ToProducer};
use crate::store::{BodyRef, ChunkKey};

/// A message whose body is on its way.
struct Upload {
    broker: Arc<Broker>,
    topic: Arc<TopicSpec>,
    role: wire::ProducerRole,
    body: BodyRef,
}

pub(super) async fn serve(
    broker: &Arc<Broker>,
    peer: SocketAddr,
    token: &str,
    role: wire::UploadRole,
    transfers: &Transfers,
    (mut writer, mut reader): (FrameWriter, FrameReader),
) -> Result<(), StreamError> {
    let role = wire::ProducerRole { topic: role.topic, producer_id: role.producer_id, replies_of: role.replies_of };
    let served = receive(broker, peer, token, role, transfers, (&mut writer, &mut reader)).await;
    let refusal = served.as_ref().err().and_then(StreamError::refusal);
    writer.end_with(refusal).await;
    served
}

async fn receive(
    broker: &Arc<Broker>,
    peer: SocketAddr,
    token: &str,
    role: wire::ProducerRole,
    transfers: &Transfers,
    (writer, reader): (&mut FrameWriter, &mut FrameReader),
) -> Result<(), StreamError> {
    let opened = open(broker, peer, token, &role).await?;
    reader.trust();
    let (message, bytes) = match next(reader).await? {
        Frame::Upload(wire::Upload { message: Some(message), body_bytes }, ()) => (message, body_bytes),
        other => return Err(unexpected(&other)),
    };
    broker.uploads.check_size(bytes)?;
    let mut request = opened.check(request(message, NewBody::Whole(Bytes::new()))?)?;
    let (topic, producer) = (opened.topic, opened.producer);
    let _room = (transfers.upload()?, broker.uploads.enter(bytes)?);
    let (reply, answer) = oneshot::channel();
    let begin = BeginUpload { topic: topic.id, producer, sequence: request.sequence, bytes, reply };
    send(broker.shard(topic.shard), Command::BeginUpload(begin)).await?;
    let welcome = welcome(broker);
    let body = match answer.await.map_err(|_| stopping())?? {
        Begun::New(body) => body,
        Begun::Published(receipt) => {
            writer.encode(&Frame::Welcome(wire::Welcome { published: Some(receipt), ..welcome }, ()));
            return writer.flush().await;
        }
    };
    let upload = Upload { broker: Arc::clone(broker), topic, role, body };
    writer.encode(&Frame::Welcome(welcome, ()));
    let received = match writer.flush().await {
        Ok(()) => upload.receive_chunks(reader).await,
        Err(error) => Err(error),
    };
    let body_digest = match received {
        Ok(digest) => digest,
        Err(error) => {
            upload.abort().await;
            return Err(error);
        }
    };
    if let Some(idempotency) = &mut request.idempotency {
        idempotency.body_digest = body_digest;
    }
    request.body = NewBody::Uploaded(upload.body);
    upload.publish(request, writer).await
}

/// The next frame; the peer must not be silent for too long.
async fn next(reader: &mut FrameReader) -> Result<Frame, StreamError> {
    let idle = || {
        let seconds = UPLOAD_IDLE_MAX.as_secs();
        Refusal::limit(ErrorCode::LimitReached, "seconds in which an upload brings nothing", seconds, seconds)
    };
    let frame = timeout(UPLOAD_IDLE_MAX, reader.next()).await.map_err(|_| idle())??;
    frame.ok_or_else(|| StreamError::Lost("the upload ended before its body did".into()))
}

impl Upload {
    /// Writes the chunks as they come, one after the other: what the store does not take yet stays with the peer. Answers the
    /// body's digest.
    async fn receive_chunks(&self, reader: &mut FrameReader) -> Result<[u8; 32], StreamError> {
        let (mut gathered, mut left, mut number) = (BytesMut::new(), self.body.bytes, 0);
        let mut digest = Sha256::new();
        while left > 0 {
            let bytes = match next(reader).await? {
                Frame::Chunk(_, bytes) if !bytes.is_empty() && bytes.len() <= CHUNK_BYTES_MAX => bytes,
                Frame::Chunk(_, bytes) => {
                    let (max, bytes) = (CHUNK_BYTES_MAX as u64, bytes.len() as u64);
                    return Err(Refusal::limit(ErrorCode::TooLarge, "bytes of a chunk", max, bytes).into());
                }
                other => return Err(unexpected(&other)),
            };
            left = left.checked_sub(bytes.len() as u64).ok_or_else(|| {
                let message = format!("more chunks than the {} bytes that were announced", self.body.bytes);
                Refusal::new(ErrorCode::ProtocolViolation, message)
            })?;
            digest.update(&bytes);
            let mut whole = bytes;
            if !gathered.is_empty() {
                gathered.extend_from_slice(&whole);
                whole = gathered.split().freeze();
            }
            while whole.len() >= CHUNK_BYTES_MAX || (left == 0 && !whole.is_empty()) {
                let chunk = whole.split_to(whole.len().min(CHUNK_BYTES_MAX));
                self.write(number, chunk).await?;
                number += 1;
            }
            gathered.extend_from_slice(&whole);
        }
        Ok(digest.finalize().into())
    }

    async fn write(&self, number: u32, chunk: Bytes) -> Result<(), Refusal> {
        let space = self.broker.store.space();
        if space.is_short() {
            return Err(Refusal::new(ErrorCode::DiskFull, format!("{}, the upload is refused", space.room())));
        }
        let key = ChunkKey { shard: self.topic.shard, body: self.body.id, number };
        let written = self.broker.uploads.write(&key, chunk).await;
        written.map_err(|error| Refusal::new(ErrorCode::StoreFailed, error.to_string()))
    }

    /// The message becomes one; whatever the shard says, the body is its own from now on.
    async fn publish(self, request: PublishRequest, writer: &mut FrameWriter) -> Result<(), StreamError> {
        let producer =
            sluicegate_protocol::ProducerId::from_bytes(&self.role.producer_id).expect("it was parsed before");
        let (replies, mut outbox) = mpsc::channel(2);
        let room = self.broker.publish_room(CHUNK_BYTES_MAX).await;
        let publish = Command::Publish { topic: self.topic.id, producer, requests: vec![request], replies, room };
        send(self.broker.shard(self.topic.shard), publish).await?;
        match outbox.recv().await {
            Some(ToProducer::Receipts(receipts)) => {
                writer.encode(&Frame::Published(wire::Published { receipts }, ()));
                writer.flush().await
            }
            Some(ToProducer::Refused(_, refusal) | ToProducer::Failed(refusal)) => Err(refusal.into()),
            None => Err(stopping().into()),
        }
    }

    async fn abort(self) {
        // A shard that is gone leaves it to the next process.
        let _ = send(self.broker.shard(self.topic.shard), Command::AbortUpload(self.body)).await;
    }
}

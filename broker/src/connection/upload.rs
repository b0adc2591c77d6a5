//! An upload's stream: one message, its body in chunks, one reply.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::limits::{CHUNK_BYTES_MAX, UPLOAD_IDLE_MAX};
use sluicegate_protocol::{ErrorCode, ProducerId, wire};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::framed::{FrameReader, FrameWriter};
use super::producer::{open, request};
use super::{StreamError, Transfers, unexpected, welcome};
use crate::broker::{Broker, send, stopping};
use crate::catalog::TopicSpec;
use crate::incoming::IncomingBody;
use crate::refusal::Refusal;
use crate::shard::{BeginUpload, Begun, Command, NewBody, PublishRequest, ToProducer};

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
    let mut incoming = IncomingBody::new(broker, Arc::clone(&topic), body);
    writer.encode(&Frame::Welcome(welcome, ()));
    let received = match writer.flush().await {
        Ok(()) => receive_chunks(&mut incoming, reader).await,
        Err(error) => Err(error),
    };
    if let Err(error) = received {
        incoming.abort().await;
        return Err(error);
    }
    request.set_uploaded(body, incoming.digest());
    publish(broker, &topic, producer, request, writer).await
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

/// Hands the chunks on as they come.
async fn receive_chunks(incoming: &mut IncomingBody, reader: &mut FrameReader) -> Result<(), StreamError> {
    while incoming.left() > 0 {
        match next(reader).await? {
            Frame::Chunk(_, bytes) if !bytes.is_empty() && bytes.len() <= CHUNK_BYTES_MAX => {
                incoming.take(bytes).await?;
            }
            Frame::Chunk(_, bytes) => {
                let (max, bytes) = (CHUNK_BYTES_MAX as u64, bytes.len() as u64);
                return Err(Refusal::limit(ErrorCode::TooLarge, "bytes of a chunk", max, bytes).into());
            }
            other => return Err(unexpected(&other)),
        }
    }
    Ok(())
}

/// The message becomes one; whatever the shard says, the body is its own from now on.
async fn publish(
    broker: &Broker,
    topic: &TopicSpec,
    producer: ProducerId,
    request: PublishRequest,
    writer: &mut FrameWriter,
) -> Result<(), StreamError> {
    let (replies, mut outbox) = mpsc::channel(2);
    let room = broker.publish_room(CHUNK_BYTES_MAX).await;
    let publish = Command::Publish { topic: topic.id, producer, requests: vec![request], replies, room };
    send(broker.shard(topic.shard), publish).await?;
    match outbox.recv().await {
        Some(ToProducer::Receipts(receipts)) => {
            writer.encode(&Frame::Published(wire::Published { receipts }, ()));
            writer.flush().await
        }
        Some(ToProducer::Refused(_, refusal) | ToProducer::Failed(refusal)) => Err(refusal.into()),
        None => Err(stopping().into()),
    }
}

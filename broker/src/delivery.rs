//! Delivery: from the shard's orders to frames. Bodies that are not at hand are read here, off the shard; the largest are
//! left to a stream of their own.

use std::sync::Arc;

use bytes::Bytes;
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::limits::{CHUNK_BYTES_MAX, HEADER_BYTES_MAX};
use sluicegate_protocol::{ErrorCode, wire};
use tokio::sync::mpsc;

use crate::broker::Broker;
use crate::connection::WriteHalf;
use crate::kept::KeptRow;
use crate::refusal::Refusal;
use crate::shard::{DeliveryOrder, ShardId, ToConsumer};
use crate::store::{BodyRef, ChunkKey, MessageHeader, MessageKey, StoreError, split_message};

/// Bytes of bodies in one frame: little enough that the largest body on top of it still fits.
const FRAME_BYTES: usize = 64 << 10;
/// Bytes of headers in one frame: half of what it may have, so that the largest properties on top still fit.
const HEADER_BYTES: usize = HEADER_BYTES_MAX / 2;
/// Bytes that are encoded before they are sent.
const WRITE_BYTES: usize = 128 << 10;
/// Items taken from the outbox at once.
const ITEMS_AT_ONCE: usize = 256;

/// Writes what the shard sends to a consumer, until the shard lets go of the stream or it fails.
pub(crate) async fn write(
    broker: Arc<Broker>,
    shard: ShardId,
    mut writer: WriteHalf,
    mut inbox: mpsc::Receiver<ToConsumer>,
) -> WriteHalf {
    let mut taken = Vec::new();
    loop {
        if !writer.flush().await || inbox.recv_many(&mut taken, ITEMS_AT_ONCE).await == 0 {
            return writer;
        }
        let mut frame = DeliveryFrame::default();
        for item in taken.drain(..) {
            match item {
                ToConsumer::Deliveries(orders) => {
                    for order in orders {
                        if let Err(error) = frame.add(&broker, shard, order) {
                            broker.store.failed(&error);
                            return refuse(writer, &error).await;
                        }
                        if frame.is_full() {
                            frame.finish(&mut writer);
                        }
                        if writer.buffered() >= WRITE_BYTES && !writer.flush().await {
                            return writer;
                        }
                    }
                }
                ToConsumer::Settled(settled) => writer.encode(&Frame::Settled(settled, ())),
                ToConsumer::Extended(extended) => writer.encode(&Frame::Extended(extended, ())),
                ToConsumer::Subscribed(subscribed) => writer.encode(&Frame::Subscribed(subscribed, ())),
                ToConsumer::Cancel(cancel) => writer.encode(&Frame::Cancel(cancel, ())),
                ToConsumer::Lost(lost) => writer.encode(&Frame::Lost(lost, ())),
                ToConsumer::Refused(sequence, refusal) => {
                    writer.encode(&Frame::Error(refusal.to_wire(Some(sequence)), ()));
                }
                ToConsumer::Draining => writer.encode(&Frame::Draining(wire::Draining {}, ())),
                ToConsumer::Failed(refusal) => {
                    writer.encode(&Frame::Error(refusal.to_wire(None), ()));
                    // The stream ends in either case.
                    writer.flush().await;
                    return writer;
                }
            }
        }
        frame.finish(&mut writer);
    }
}

async fn refuse(mut writer: WriteHalf, error: &StoreError) -> WriteHalf {
    tracing::error!(%error, "a leased message cannot be read, its consumer's stream ends");
    let refusal = Refusal::new(ErrorCode::StoreFailed, error.to_string());
    writer.encode(&Frame::Error(refusal.to_wire(None), ()));
    // The stream ends in either case.
    writer.flush().await;
    writer
}

/// Deliveries that will travel together.
#[derive(Default)]
struct DeliveryFrame {
    deliveries: Vec<wire::Delivery>,
    bodies: Vec<Body>,
    body_bytes: usize,
    header_bytes: usize,
}

/// The end of a message's row, from where its body begins.
struct Body {
    row: BodyRow,
    begin: usize,
}

enum BodyRow {
    Kept(KeptRow),
    Read(Bytes),
}

impl BodyRow {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Kept(row) => row,
            Self::Read(row) => row,
        }
    }
}

impl Body {
    fn none() -> Self {
        Self { row: BodyRow::Read(Bytes::new()), begin: 0 }
    }

    fn bytes(&self) -> &[u8] {
        &self.row.bytes()[self.begin..]
    }
}

/// The one chunk of a body that is not large enough for a stream of its own.
fn read_chunk(broker: &Broker, shard: ShardId, body: BodyRef) -> Result<Option<Bytes>, StoreError> {
    let chunk = broker.store.get(&ChunkKey { shard, body: body.id, number: 0 })?;
    chunk.map(|chunk| body.check(0, chunk)).transpose()
}

impl DeliveryFrame {
    fn is_full(&self) -> bool {
        self.body_bytes >= FRAME_BYTES || self.header_bytes >= HEADER_BYTES
    }

    fn add(&mut self, broker: &Broker, shard: ShardId, mut order: DeliveryOrder) -> Result<(), StoreError> {
        let row = if let Some(row) = order.row.take() {
            Some(BodyRow::Kept(row))
        } else {
            let key = MessageKey { shard, lite: order.lite, offset: order.offset };
            broker.store.get_bytes(&key)?.map(|row| BodyRow::Read(Bytes::copy_from_slice(&row)))
        };
        let is_there = match row {
            Some(row) => self.push(broker, shard, &order, row)?,
            None => false,
        };
        if !is_there {
            // The order waited here for longer than its lease, and another session settled the message.
            tracing::debug!(lite = %order.lite, offset = %order.offset, "the message of an old order is gone");
        }
        Ok(())
    }

    /// Adds a message, unless its body is gone.
    fn push(
        &mut self,
        broker: &Broker,
        shard: ShardId,
        order: &DeliveryOrder,
        row: BodyRow,
    ) -> Result<bool, StoreError> {
        let (header, in_row) = split_message(row.bytes()).map_err(|problem| corrupt(order, problem))?;
        let (begin, own) = (row.bytes().len() - in_row.len(), header.body);
        let body = match own {
            None => Body { row, begin },
            Some(body) if body.bytes > CHUNK_BYTES_MAX as u64 => Body::none(),
            Some(body) => match read_chunk(broker, shard, body)? {
                Some(chunk) => Body { row: BodyRow::Read(chunk), begin: 0 },
                None => return Ok(false),
            },
        };
        let large = own.filter(|own| own.bytes > CHUNK_BYTES_MAX as u64);
        self.push_header(order, header, body.bytes().len(), large);
        self.bodies.push(body);
        Ok(true)
    }

    fn push_header(&mut self, order: &DeliveryOrder, header: MessageHeader, body_bytes: usize, large: Option<BodyRef>) {
        let delivery = wire::Delivery {
            token: Some(wire::Token { epoch: order.token.epoch, counter: order.token.counter }),
            lite: order.name.as_str().to_owned(),
            lite_id: order.lite.0,
            offset: order.offset.0,
            attempt: order.attempt,
            deadline_us: order.deadline.0,
            published_at_us: header.published_at_us,
            dispatched_at_us: order.dispatched_at.0,
            priority: header.priority,
            cost: header.cost,
            properties: header.properties,
            body_bytes: u32::try_from(body_bytes).expect("larger bodies are left out"),
            tenant: order.tenant.as_ref().to_owned(),
            large_body_bytes: large.map_or(0, |body| body.bytes),
        };
        self.header_bytes += prost::Message::encoded_len(&delivery) + 8;
        self.body_bytes += body_bytes;
        self.deliveries.push(delivery);
    }

    fn finish(&mut self, writer: &mut WriteHalf) {
        if self.deliveries.is_empty() {
            return;
        }
        let header = wire::Deliveries { deliveries: std::mem::take(&mut self.deliveries) };
        writer.encode_deliveries(&header, self.bodies.iter().map(Body::bytes));
        self.bodies.clear();
        (self.body_bytes, self.header_bytes) = (0, 0);
    }
}

fn corrupt(order: &DeliveryOrder, problem: String) -> StoreError {
    StoreError::Corrupt { table: "message", key: format!("{} {}", order.lite, order.offset), problem }
}

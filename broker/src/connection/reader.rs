//! A reader's stream: credit in, messages out.
//!
//! A connection may have many thousand of them. What a peer that does not read can make the broker hold of messages is bounded by the
//! turns of its connection: each is one batch that was read and is not written yet.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::limits::{READ_CREDIT_BYTES_MAX, READERS_PER_CONNECTION_MAX};
use sluicegate_protocol::{ErrorCode, LiteId, LiteName, Offset, Position, read_credit, wire};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::framed::{FrameReader, FrameWriter};
use super::{STREAMS_MAX, StreamError, unexpected, welcome};
use crate::broker::Broker;
use crate::config::Right;
use crate::reader::{Read, ReadMessage, ReadRequest, Reader, topic};
use crate::refusal::Refusal;
use crate::shard::ReadFrom;
use crate::uploads::take;

/// Bytes of messages that are read for one write, but for the last message.
const TURN_BYTES: u64 = 64 << 10;
/// Batches of a connection's readers that are read and not written yet.
const TURNS_MAX: usize = 16;
/// Streams that are allowed in advance for each reader that is there: many connect within a few round trips.
const STREAMS_AHEAD: u32 = 4;

/// The readers of one connection.
pub(super) struct ReaderRoom {
    connection: quinn::Connection,
    places: Arc<Semaphore>,
    turns: Semaphore,
}

/// The place of one reader.
struct Place<'a> {
    room: &'a ReaderRoom,
    permit: Option<OwnedSemaphorePermit>,
}

impl ReaderRoom {
    pub(super) fn new(connection: quinn::Connection) -> Self {
        let places = Arc::new(Semaphore::new(READERS_PER_CONNECTION_MAX as usize));
        Self { connection, places, turns: Semaphore::new(TURNS_MAX) }
    }

    fn enter(&self) -> Result<Place<'_>, Refusal> {
        let permit = take(&self.places, 1, READERS_PER_CONNECTION_MAX, "readers of a connection")?;
        self.fit();
        Ok(Place { room: self, permit: Some(permit) })
    }

    /// The connection may open as many streams as its readers need. A stream that may be opened takes memory already, so they are not
    /// allowed before somebody reads.
    fn fit(&self) {
        let free = u32::try_from(self.places.available_permits()).unwrap_or(READERS_PER_CONNECTION_MAX);
        let ahead = match READERS_PER_CONNECTION_MAX.saturating_sub(free) {
            0 => 0,
            readers => (readers * STREAMS_AHEAD).next_power_of_two().min(READERS_PER_CONNECTION_MAX),
        };
        self.connection.set_max_concurrent_bi_streams((STREAMS_MAX + ahead).into());
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.permit.take();
        self.room.fit();
    }
}

pub(super) async fn serve(
    broker: &Arc<Broker>,
    peer: SocketAddr,
    token: &str,
    role: wire::ReaderRole,
    room: &ReaderRoom,
    (mut writer, mut reader): (FrameWriter, FrameReader),
) -> Result<(), StreamError> {
    let served = read(broker, peer, token, role, room, (&mut writer, &mut reader)).await;
    let refusal = served.as_ref().err().and_then(StreamError::refusal);
    writer.end_with(refusal).await;
    served
}

async fn read(
    broker: &Arc<Broker>,
    peer: SocketAddr,
    token: &str,
    role: wire::ReaderRole,
    room: &ReaderRoom,
    (writer, requests): (&mut FrameWriter, &mut FrameReader),
) -> Result<(), StreamError> {
    broker.auth.check(token, peer.ip(), Right::Read)?;
    let _place = room.enter()?;
    // Below nothing when the last message took more than there was.
    let mut credit = granted(0, role.credit_bytes);
    let mut reader = Reader::attach(broker, request(broker, &role)?).await?;
    let reading = reader.position().map(|(lite, offset)| wire::ReadPosition { lite_id: lite.0, offset: offset.0 });
    writer.encode(&Frame::Welcome(wire::Welcome { reading, ..welcome(broker) }, ()));
    writer.flush_spare().await?;
    loop {
        while reader.has_news()? && credit > 0 {
            let _turn = room.turns.acquire().await.expect("the semaphore is never closed");
            match reader.read(credit.unsigned_abs().min(TURN_BYTES)).await? {
                Read::Messages(lite, messages) => {
                    let spent: u64 = messages.iter().map(|(message, _)| read_credit(message)).sum();
                    credit = credit.saturating_sub_unsigned(spent);
                    encode(writer, lite, messages);
                    writer.flush_spare().await?;
                }
                Read::Nothing => {}
                Read::End => {
                    writer.encode(&Frame::ReadEnd(wire::ReadEnd {}, ()));
                    return Ok(());
                }
            }
        }
        tokio::select! {
            frame = requests.next() => match frame? {
                Some(Frame::ReadCredit(more, ())) => credit = granted(credit, more.bytes),
                Some(Frame::Close(..)) | None => return Ok(()),
                Some(other) => return Err(unexpected(&other)),
            },
            changed = reader.changed() => changed?,
        }
    }
}

/// The credit with so much more.
fn granted(credit: i64, more: u64) -> i64 {
    credit.saturating_add_unsigned(more).min(READ_CREDIT_BYTES_MAX.cast_signed())
}

fn encode(writer: &mut FrameWriter, lite: LiteId, messages: Vec<ReadMessage>) {
    let (messages, bodies): (Vec<_>, Vec<Bytes>) = messages.into_iter().unzip();
    writer.encode_messages(&wire::Messages { lite_id: lite.0, messages }, bodies.iter().map(|body| &body[..]));
}

fn request(broker: &Broker, role: &wire::ReaderRole) -> Result<ReadRequest, Refusal> {
    let invalid = |message: String| Refusal::new(ErrorCode::InvalidArgument, message);
    let topic = topic(broker, &role.topic)?;
    let lite = LiteName::parse(&role.lite).map_err(|error| invalid(error.to_string()))?;
    let unknown = || Refusal::new(ErrorCode::ProtocolViolation, "a start that this broker does not know");
    let from = match (role.lite_id, Position::from_wire(role.start).ok_or_else(unknown)?) {
        (None, position) => ReadFrom::Position(position),
        (Some(lite), Position::Offset(offset)) => {
            ReadFrom::Life { lite: LiteId(lite), offset: Offset(offset.0), goes_on: role.goes_on }
        }
        (Some(_), _) => return Err(invalid("a reader that names a life begins at an offset of it".into())),
    };
    Ok(ReadRequest { topic, lite, from, follows: role.follow })
}

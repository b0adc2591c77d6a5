//! A consumer's stream: credit, settles and extensions in, deliveries out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::limits::{
    COST_MAX, CREDIT_MESSAGES_MAX, HELD_PER_FRAME, REASON_BYTES_MAX, SETTLES_PER_FRAME_MAX, SUBSCRIPTIONS_PER_FRAME_MAX,
};
use sluicegate_protocol::wire::settle_one;
use sluicegate_protocol::{ErrorCode, GroupName, LeaseToken, LiteId, LiteName, Offset, Position, SessionId, wire};
use sluicegate_scheduler::Scope;
use tokio::sync::{mpsc, oneshot};

use super::framed::{FrameReader, FrameWriter};
use super::{StreamError, unexpected, welcome};
use crate::broker::{Broker, send, stopping};
use crate::catalog::GroupSpec;
use crate::config::Right;
use crate::delivery;
use crate::refusal::Refusal;
use crate::shard::{
    Attach, Attached, Command, ExtendRequest, Names, Outcome, SettleRequest, ShardHandle, ShardId, SubscribeRequest,
    SubscriptionChange, ToConsumer,
};

/// Frames for a consumer that wait to be written: all that its credit allows, and some replies. Beyond,
/// a consumer asks and does not read; what does not fit is dropped, and its leases run out.
const OUTBOX_MAX: usize = CREDIT_MESSAGES_MAX as usize + 8_192;

/// A consumer stream that is attached to its group.
struct Session {
    group: Arc<GroupSpec>,
    shard_id: ShardId,
    shard: ShardHandle,
    id: SessionId,
    stream: u64,
    scope: Scope,
}

pub(super) async fn serve(
    broker: &Arc<Broker>,
    peer: SocketAddr,
    token: &str,
    role: wire::ConsumerRole,
    mut writer: FrameWriter,
    mut reader: FrameReader,
) -> Result<(), StreamError> {
    let (outbox, inbox) = mpsc::channel(OUTBOX_MAX);
    let (session, attached) = match open(broker, peer, token, &role, outbox.clone()).await {
        Ok(opened) => opened,
        Err(refusal) => {
            writer.end_with(Some(refusal.clone())).await;
            return Err(refusal.into());
        }
    };
    reader.trust();
    let mut held = attached.held.chunks(HELD_PER_FRAME);
    let welcome = wire::Welcome {
        lease_ms: millis(attached.lease),
        session_grace_ms: millis(attached.session_grace),
        held: held.next().unwrap_or_default().to_vec(),
        subscriptions_kept: attached.subscriptions_kept,
        held_total: u32::try_from(attached.held.len()).expect("a session holds at most its credit"),
        ..welcome(broker)
    };
    writer.encode(&Frame::Welcome(welcome, ()));
    for more in held {
        writer.encode(&Frame::Held(wire::Held { held: more.to_vec() }, ()));
    }
    let mut writing = tokio::spawn(delivery::write(Arc::clone(broker), session.shard_id, WriteHalf(writer), inbox));
    let (result, written) = tokio::select! {
        result = read_requests(&session, &mut reader, outbox) => (result, None),
        // A writer that ends first has lost its peer, or the shard has ended the stream.
        written = &mut writing => (Err(StreamError::Lost("the peer is gone, or the broker ended the stream".into())), Some(written)),
    };
    let orderly = matches!(result, Ok(Ending::Orderly));
    let detach = Command::Detach { group: session.group.id, session: session.id, stream: session.stream, orderly };
    // A shard that is gone needs no detach.
    let _ = send(&session.shard, detach).await;
    let refusal = result.as_ref().err().and_then(StreamError::refusal);
    let written = match written {
        Some(written) => written,
        None => writing.await,
    };
    if let Ok(WriteHalf(writer)) = written {
        writer.end_with(refusal).await;
    }
    result.map(drop)
}

/// The writing side, on its way through the delivery task.
pub(crate) struct WriteHalf(FrameWriter);

impl WriteHalf {
    pub(crate) fn encode(&mut self, frame: &Frame) {
        self.0.encode(frame);
    }

    pub(crate) fn encode_deliveries<'a>(
        &mut self,
        header: &wire::Deliveries,
        bodies: impl Iterator<Item = &'a [u8]> + Clone,
    ) {
        self.0.encode_deliveries(header, bodies);
    }

    pub(crate) fn buffered(&self) -> usize {
        self.0.buffered()
    }

    /// Sends what is encoded; false when the peer is gone.
    pub(crate) async fn flush(&mut self) -> bool {
        self.0.flush().await.is_ok()
    }
}

async fn open(
    broker: &Broker,
    peer: SocketAddr,
    token: &str,
    role: &wire::ConsumerRole,
    outbox: mpsc::Sender<ToConsumer>,
) -> Result<(Session, Attached), Refusal> {
    broker.auth.check(token, peer.ip(), Right::Consume)?;
    let invalid = |message: String| Refusal::new(ErrorCode::InvalidArgument, message);
    let id = SessionId::from_bytes(&role.session_id).ok_or_else(|| invalid("session_id is not 16 bytes".into()))?;
    let name = GroupName::parse(&role.group).map_err(|error| invalid(error.to_string()))?;
    let group = broker.group(&name)?;
    let (shard, stream) = (broker.shard_of(&group)?.clone(), broker.stream_number());
    let (reply, answer) = oneshot::channel();
    let credit = role.credit_messages.min(CREDIT_MESSAGES_MAX);
    let scope = if role.named { Scope::Named } else { Scope::All };
    let attach = Attach { group: group.id, session: id, stream, scope, credit, outbox, reply };
    send(&shard, Command::Attach(attach)).await?;
    let attached = answer.await.map_err(|_| stopping())??;
    let shard_id = broker.catalog().topic(group.topic).map_or(ShardId(0), |topic| topic.shard);
    Ok((Session { group, shard_id, shard, id, stream, scope }, attached))
}

/// How a consumer's stream ended.
enum Ending {
    /// By Close: what is open returns at once.
    Orderly,
    /// Without: the session has its grace.
    Abrupt,
}

async fn read_requests(
    session: &Session,
    reader: &mut FrameReader,
    replies: mpsc::Sender<ToConsumer>,
) -> Result<Ending, StreamError> {
    let (group, id) = (session.group.id, session.id);
    while let Some(frame) = reader.next().await? {
        let command = match frame {
            Frame::Credit(credit, ()) => {
                let wire::Credit { messages, load_ppm } = credit;
                Command::Credit { group, session: id, stream: session.stream, messages, load_ppm }
            }
            Frame::Settle(settle, ()) => {
                check_count(settle.settles.len())?;
                let sequence = settle.sequence;
                let settles = settle.settles.into_iter().map(settle_request).collect::<Result<_, _>>()?;
                Command::Settle { group, session: id, sequence, settles, replies: replies.clone() }
            }
            Frame::Extend(extend, ()) => {
                check_count(extend.leases.len())?;
                let sequence = extend.sequence;
                let leases = extend.leases.into_iter().map(extend_request).collect::<Result<_, _>>()?;
                Command::Extend { group, session: id, sequence, leases, replies: replies.clone() }
            }
            Frame::Subscribe(wire::Subscribe { sequence, lites, prefixes, start }, ()) => {
                let change = SubscriptionChange::Add(names(&lites, &prefixes)?, position(start)?);
                subscribe(session, sequence, change, &replies)?
            }
            Frame::Unsubscribe(wire::Unsubscribe { sequence, lites, prefixes }, ()) => {
                let change = SubscriptionChange::Remove(names(&lites, &prefixes)?);
                subscribe(session, sequence, change, &replies)?
            }
            Frame::Close(..) => return Ok(Ending::Orderly),
            other => return Err(unexpected(&other)),
        };
        send(&session.shard, command).await?;
    }
    Ok(Ending::Abrupt)
}

fn subscribe(
    session: &Session,
    sequence: u64,
    change: SubscriptionChange,
    replies: &mpsc::Sender<ToConsumer>,
) -> Result<Command, Refusal> {
    if session.scope == Scope::All {
        let message = "this consumer takes all lite topics: only one that said `named` in its Hello subscribes";
        return Err(Refusal::new(ErrorCode::ProtocolViolation, message));
    }
    let Session { id, stream, .. } = *session;
    let (group, replies) = (session.group.id, replies.clone());
    Ok(Command::Subscribe(SubscribeRequest { group, session: id, stream, sequence, change, replies }))
}

pub(crate) fn names(lites: &[String], prefixes: &[String]) -> Result<Names, Refusal> {
    let count = lites.len() + prefixes.len();
    if count > SUBSCRIPTIONS_PER_FRAME_MAX {
        let max = SUBSCRIPTIONS_PER_FRAME_MAX as u64;
        return Err(Refusal::limit(ErrorCode::TooLarge, "names and prefixes in one frame", max, count as u64));
    }
    let parse = |list: &[String]| list.iter().map(|name| LiteName::parse(name)).collect::<Result<Vec<_>, _>>();
    let invalid = |error: sluicegate_protocol::InvalidName| Refusal::new(ErrorCode::InvalidArgument, error.to_string());
    Ok(Names { lites: parse(lites).map_err(invalid)?, prefixes: parse(prefixes).map_err(invalid)? })
}

fn position(start: Option<wire::Start>) -> Result<Position, Refusal> {
    let unknown = || Refusal::new(ErrorCode::ProtocolViolation, "a start that this broker does not know");
    Position::from_wire(start).ok_or_else(unknown)
}

fn check_count(count: usize) -> Result<(), Refusal> {
    if count <= SETTLES_PER_FRAME_MAX {
        return Ok(());
    }
    let max = SETTLES_PER_FRAME_MAX as u64;
    Err(Refusal::limit(ErrorCode::TooLarge, "leases in one frame", max, count as u64))
}

fn lease_token(token: Option<wire::Token>) -> Result<LeaseToken, Refusal> {
    let missing = || Refusal::new(ErrorCode::ProtocolViolation, "a lease without its token");
    token.map(|token| LeaseToken { epoch: token.epoch, counter: token.counter }).ok_or_else(missing)
}

fn settle_request(settle: wire::SettleOne) -> Result<SettleRequest, Refusal> {
    let invalid = |message: String| Refusal::new(ErrorCode::InvalidArgument, message);
    let outcome = match settle.outcome {
        Some(settle_one::Outcome::Ack(_)) => Outcome::Ack,
        Some(settle_one::Outcome::Retry(retry)) => {
            let delay = retry.delay_ms.map(Duration::from_millis);
            Outcome::Retry { delay, upstream: retry.upstream }
        }
        Some(settle_one::Outcome::Suspend(suspend)) => Outcome::Suspend(Duration::from_millis(suspend.duration_ms)),
        Some(settle_one::Outcome::DeadLetter(dead)) if dead.reason.len() <= REASON_BYTES_MAX => {
            Outcome::DeadLetter(dead.reason)
        }
        Some(settle_one::Outcome::DeadLetter(dead)) => {
            let (max, bytes) = (REASON_BYTES_MAX as u64, dead.reason.len() as u64);
            return Err(Refusal::limit(ErrorCode::TooLarge, "reason bytes", max, bytes));
        }
        None => {
            return Err(Refusal::new(
                ErrorCode::ProtocolViolation,
                "a settle without an outcome that this broker knows",
            ));
        }
    };
    if settle.cost.is_some_and(|cost| cost > COST_MAX) {
        return Err(invalid(format!("measured cost is above {COST_MAX}")));
    }
    Ok(SettleRequest {
        lite: LiteId(settle.lite_id),
        offset: Offset(settle.offset),
        token: lease_token(settle.token)?,
        cost: settle.cost,
        outcome,
    })
}

pub(super) fn extend_request(extend: wire::ExtendOne) -> Result<ExtendRequest, Refusal> {
    Ok(ExtendRequest { lite: LiteId(extend.lite_id), offset: Offset(extend.offset), token: lease_token(extend.token)? })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

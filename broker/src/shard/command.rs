//! What a shard is asked, and what it sends to streams.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use sluicegate_protocol::admin::{
    Activation, DeletedLite, GroupStats, LiteReclaim, PolicyRuns, PolicyStrike, ReclaimSettings, Shadow as ShadowReport,
};
use sluicegate_protocol::{
    GroupId, LeaseToken, LiteId, LiteName, Offset, Position, ProducerId, SessionId, Timestamp, TopicId, wire,
};
use sluicegate_scheduler::Scope;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::cancel::CancelRequest;
use super::counts::TopicCount;
use super::dead_letter::RedriveStep;
use super::explain::{Explained, Wait, WaitersStep};
use super::fault::Reply;
use super::idempotency::Idempotency;
use super::operator::OperatorRequest;
use super::readers::{BeginRead, CheckRead};
use super::record::RecordRequest;
use super::removal::RemoveRequest;
use super::subscribe::SubscribeRequest;
use super::upload::BeginUpload;
use super::visit::{OpenSession, Visit};
use crate::catalog::{GroupSpec, PolicyBinding, TopicSpec};
use crate::kept::KeptRow;
use crate::metrics::ShardSample;
use crate::policy::{CompiledPolicy, Shadow};
use crate::refusal::Refusal;
use crate::store::BodyRef;

/// Asks a shard for something.
pub(crate) enum Command {
    /// Publish these, in order.
    Publish {
        topic: TopicId,
        producer: ProducerId,
        requests: Vec<PublishRequest>,
        replies: mpsc::Sender<ToProducer>,
        /// Room that the bodies take until they are answered.
        room: OwnedSemaphorePermit,
    },
    /// A consumer stream opened.
    Attach(Attach),
    /// Room for more messages, and how busy the consumer is.
    Credit { group: GroupId, session: SessionId, stream: u64, messages: u32, load_ppm: Option<u32> },
    /// Leases end.
    Settle {
        group: GroupId,
        session: SessionId,
        sequence: u64,
        settles: Vec<SettleRequest>,
        replies: mpsc::Sender<ToConsumer>,
    },
    /// Leases live on.
    Extend {
        group: GroupId,
        session: SessionId,
        sequence: u64,
        leases: Vec<ExtendRequest>,
        replies: mpsc::Sender<ToConsumer>,
    },
    /// A session subscribes to more or fewer lite topics.
    Subscribe(SubscribeRequest),
    /// A consumer stream ended; in order or not.
    Detach { group: GroupId, session: SessionId, stream: u64, orderly: bool },
    /// A session that comes by requests is opened.
    OpenSession(OpenSession),
    /// It takes messages.
    Visit(Visit),
    /// Deliveries did not reach it.
    TakeBack { group: GroupId, session: SessionId, leases: Vec<ExtendRequest> },
    /// It is over.
    CloseSession { group: GroupId, session: SessionId, reply: Reply<()> },
    /// There is a topic.
    AddTopic(Arc<TopicSpec>),
    /// There is a group.
    AddGroup { spec: Arc<GroupSpec>, start: Position, reply: oneshot::Sender<Result<(), Refusal>> },
    /// A group's settings changed, or it was paused or resumed; the answer comes when no decision goes by the old ones.
    ChangeGroup(Arc<GroupSpec>, oneshot::Sender<()>),
    /// A policy decides for a group from now on; none for built-in fair scheduling.
    Activate {
        group: Arc<GroupSpec>,
        policy: Option<(Arc<CompiledPolicy>, PolicyBinding)>,
        reply: oneshot::Sender<Result<Activation, Refusal>>,
    },
    /// A policy is asked beside the one that decides from now on, or none.
    Shadow { group: GroupId, shadow: Option<Box<Shadow>>, reply: oneshot::Sender<()> },
    /// Counters and levels of a group.
    GroupStats { group: GroupId, reply: oneshot::Sender<GroupReport> },
    /// A group or topic was deleted: its end here.
    Remove(RemoveRequest),
    /// An operator's verb on a lite topic.
    Operate(OperatorRequest),
    /// Why a lite topic is not being served to a group.
    Explain { group: GroupId, lite: LiteName, reply: Reply<Explained> },
    /// The lite topics that wait longest in a group, after this one, at most so many.
    Waiters { group: GroupId, after: Option<Wait>, limit: usize, reply: Reply<WaitersStep> },
    /// A lite topic's life ends, with all that it holds.
    DeleteLite { topic: TopicId, lite: LiteName, reply: Reply<DeletedLite> },
    /// A lite topic gets a reclaim of its own, or goes by its topic's again.
    SetReclaim { topic: TopicId, lite: LiteName, reclaim: Option<ReclaimSettings>, reply: Reply<LiteReclaim> },
    /// Dead letters of a lite topic go back to where they came from, at most so many.
    Redrive { group: GroupId, lite: LiteName, limit: u64, reply: Reply<RedriveStep> },
    /// What a scrape of the metrics shows, of these groups.
    Sample { groups: Vec<GroupId>, reply: oneshot::Sender<ShardSample> },
    /// A group's traffic is to be written down.
    Record(RecordRequest),
    /// And no more; the answer comes when nothing is added.
    EndRecording { group: GroupId, reply: oneshot::Sender<()> },
    /// What a topic has.
    CountTopic { topic: TopicId, reply: oneshot::Sender<TopicCount> },
    /// A large body is on its way.
    BeginUpload(BeginUpload),
    /// It will not come; what there is of it goes.
    AbortUpload(BodyRef),
    /// Whether the session holds this lease.
    CheckLease { group: GroupId, session: SessionId, lease: ExtendRequest, reply: oneshot::Sender<Result<(), Refusal>> },
    /// A reader attaches.
    BeginRead(BeginRead),
    /// Whether a message can be read.
    CheckRead(CheckRead),
    /// A request that nobody wants any more.
    Cancel(CancelRequest),
    /// A reader of this lite topic went away, when it was in this life.
    EndRead { topic: TopicId, lite: LiteName, life: Option<LiteId> },
    /// No new leases; sessions are told.
    Drain,
}

/// What the shard knows of a group.
#[derive(Debug, Default)]
pub(crate) struct GroupReport {
    pub(crate) stats: GroupStats,
    /// Why the bound policy does not decide at present.
    pub(crate) policy_suspended_because: Option<String>,
    /// Where its frames are answered.
    pub(crate) policy_runs: Option<PolicyRuns>,
    /// The last fault of a policy since the broker started.
    pub(crate) last_strike: Option<PolicyStrike>,
    /// What is asked too, or was until it failed too often.
    pub(crate) shadow: Option<ShadowReport>,
    /// A consumer of the shard waits for an answer that is not durable yet.
    pub(crate) owes_replies: bool,
}

/// A message to publish. Its parts are parsed and inside their limits.
#[derive(Debug)]
pub(crate) struct PublishRequest {
    pub(crate) sequence: u64,
    pub(crate) lite: LiteName,
    pub(crate) priority: u8,
    pub(crate) cost: u64,
    pub(crate) deliver_at: Option<Timestamp>,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) properties: BTreeMap<String, String>,
    pub(crate) idempotency: Option<Idempotency>,
    pub(crate) body: NewBody,
}

/// The body of a message that is to be appended.
#[derive(Debug, Clone)]
pub(crate) enum NewBody {
    /// All of it.
    Whole(Bytes),
    /// Its chunks are written.
    Uploaded(BodyRef),
    /// Another message has it too, and this one is counted.
    Shared(BodyRef),
}

impl NewBody {
    /// What was uploaded for this message alone.
    pub(crate) fn uploaded(&self) -> Option<BodyRef> {
        match self {
            Self::Uploaded(body) => Some(*body),
            Self::Whole(_) | Self::Shared(_) => None,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Whole(body) => body.len() as u64,
            Self::Uploaded(body) | Self::Shared(body) => body.bytes,
        }
    }
}

impl PublishRequest {
    /// The body, which is at hand.
    pub(crate) fn set_body(&mut self, body: Bytes) {
        if let Some(idempotency) = &mut self.idempotency {
            idempotency.body_digest = Sha256::digest(&body).into();
        }
        self.body = NewBody::Whole(body);
    }

    /// The body, whose chunks are written, and its digest.
    pub(crate) fn set_uploaded(&mut self, body: BodyRef, digest: [u8; 32]) {
        if let Some(idempotency) = &mut self.idempotency {
            idempotency.body_digest = digest;
        }
        self.body = NewBody::Uploaded(body);
    }

    /// What it counts: its body and its properties.
    pub(crate) fn bytes(&self) -> u64 {
        let properties = self.properties.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        self.body.bytes() + properties as u64
    }
}

/// What a shard sends to a producer stream.
#[derive(Debug)]
pub(crate) enum ToProducer {
    Receipts(Vec<wire::PublishReceipt>),
    Refused(u64, Refusal),
    /// The stream must end: why.
    Failed(Refusal),
}

/// A consumer stream that wants to take deliveries.
#[derive(Debug)]
pub(crate) struct Attach {
    pub(crate) group: GroupId,
    pub(crate) session: SessionId,
    /// Tells this stream from an earlier one of the same session.
    pub(crate) stream: u64,
    pub(crate) scope: Scope,
    pub(crate) credit: u32,
    pub(crate) outbox: mpsc::Sender<ToConsumer>,
    pub(crate) reply: oneshot::Sender<Result<Attached, Refusal>>,
}

/// What an attached session gets to know.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) lease: Duration,
    pub(crate) session_grace: Duration,
    pub(crate) held: Vec<wire::HeldLease>,
    /// The session's subscriptions are known from before.
    pub(crate) subscriptions_kept: bool,
}

/// What a shard sends to a consumer stream.
#[derive(Debug)]
pub(crate) enum ToConsumer {
    Deliveries(Vec<DeliveryOrder>),
    Settled(wire::Settled),
    Extended(wire::Extended),
    Subscribed(wire::Subscribed),
    Lost(wire::Lost),
    Cancel(wire::Cancel),
    /// The request with this sequence is refused.
    Refused(u64, Refusal),
    Draining,
    /// The stream must end: why.
    Failed(Refusal),
}

/// A lease whose message is to be delivered.
#[derive(Debug)]
pub(crate) struct DeliveryOrder {
    pub(crate) token: LeaseToken,
    pub(crate) lite: LiteId,
    pub(crate) name: LiteName,
    pub(crate) tenant: Arc<str>,
    pub(crate) offset: Offset,
    pub(crate) attempt: u32,
    pub(crate) deadline: Timestamp,
    pub(crate) dispatched_at: Timestamp,
    /// The message's row, where it was at hand.
    pub(crate) row: Option<KeptRow>,
}

/// The end of a lease, as its holder wants it.
#[derive(Debug)]
pub(crate) struct SettleRequest {
    pub(crate) lite: LiteId,
    pub(crate) offset: Offset,
    pub(crate) token: LeaseToken,
    pub(crate) cost: Option<u64>,
    pub(crate) outcome: Outcome,
}

/// How a lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ack,
    /// Again, after this delay or the group's back-off.
    Retry {
        delay: Option<Duration>,
        /// What does the work asked for the delay.
        upstream: bool,
    },
    /// The message comes back uncounted; nothing of the lite topic for this long.
    Suspend(Duration),
    DeadLetter(String),
}

/// A lease that is still worked on.
#[derive(Debug)]
pub(crate) struct ExtendRequest {
    pub(crate) lite: LiteId,
    pub(crate) offset: Offset,
    pub(crate) token: LeaseToken,
}

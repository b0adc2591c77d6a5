//! A shard that runs on a store, for tests that look at its rows: real commands, a real committer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sluicegate_protocol::admin::{GroupSettings, GroupStats, LiteChange, TopicSettings};
use sluicegate_protocol::{
    GroupId, GroupName, IdempotencyKey, LiteName, Offset, Position, ProducerId, SessionId, Timestamp, TopicId,
};
use sluicegate_scheduler::Scope;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::command::{Attach, DeliveryOrder, NewBody, Outcome, PublishRequest, SettleRequest, ToConsumer, ToProducer};
use super::operator::{OperatorRequest, Verb};
use super::subscribe::{SubscribeRequest, SubscriptionChange};
use super::subscription::Names;
use super::{Command, GroupStart, Idempotency, Shard, ShardHandle, ShardId, begin_epoch};
use crate::catalog::{GroupSpec, TopicSpec};
use crate::clock::Clock;
use crate::kept::KeptRows;
use crate::metrics::Meters;
use crate::refusal::Refusal;
use crate::store::{Committer, Key, Scan, Store, Watermark};

pub(super) const SHARD: ShardId = ShardId(0);

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running shard.
pub(super) struct Rig {
    shard: ShardHandle,
    running: tokio::task::JoinHandle<()>,
    committer: Committer,
    clock: Clock,
    sequence: u64,
    /// Of the messages that are published next.
    pub(super) priority: u8,
    /// Who publishes them.
    pub(super) producer: ProducerId,
}

/// A consumer's stream.
pub(super) struct Consumer {
    pub(super) session: SessionId,
    group: GroupId,
    stream: u64,
    outbox: mpsc::Sender<ToConsumer>,
    inbox: mpsc::Receiver<ToConsumer>,
    ready: std::collections::VecDeque<DeliveryOrder>,
}

pub(super) fn topic(id: TopicId) -> Arc<TopicSpec> {
    let settings = TopicSettings::default();
    Arc::new(TopicSpec { id, name: format!("t{id}"), settings, created_at: Timestamp(0), shard: SHARD })
}

fn group(topic: TopicId, id: GroupId, settings: GroupSettings) -> GroupStart {
    let spec = GroupSpec {
        id,
        name: GroupName::parse(&format!("g{id}")).unwrap(),
        topic,
        dead_letter: TopicId(9),
        settings,
        created_at: Timestamp(0),
        paused: false,
        policy: None,
        policy_history: Vec::new(),
        shadow: None,
        shadow_history: Vec::new(),
    };
    GroupStart { spec: Arc::new(spec), policy: None, shadow: None }
}

/// How many rows a table has.
pub(super) fn rows<K: Key>(store: &Store, some_key: &[u8]) -> usize {
    // Tag and shard.
    let (table, mut count) = (&some_key[..3], 0);
    let visit = |_: K, _| {
        count += 1;
        Scan::More
    };
    store.scan(table, table, visit).unwrap();
    count
}

impl Rig {
    /// A shard with these topics and groups; a topic may have several.
    pub(super) fn start(store: &Arc<Store>, groups: &[(TopicId, GroupId, GroupSettings)]) -> Self {
        Self::start_later(store, groups, Duration::ZERO)
    }

    /// The same, so much later.
    pub(super) fn start_later(
        store: &Arc<Store>,
        groups: &[(TopicId, GroupId, GroupSettings)],
        later: Duration,
    ) -> Self {
        let row = begin_epoch(store, SHARD).unwrap();
        let clock = Clock::start(Timestamp(row.committed_at_us).plus(later));
        let (mark, marks) = watch::channel(Watermark::default());
        let committer = Committer::start((Arc::clone(store), clock, Meters::default()), vec![mark]);
        let (handle, mailbox) = Shard::mailbox();
        let loading = super::Loading::default();
        let parts = (Arc::clone(store), KeptRows::default(), committer.clone(), clock, loading);
        let mut topics: Vec<_> = groups.iter().map(|(topic, ..)| *topic).collect();
        topics.dedup();
        let specs = topics.into_iter().map(topic).collect();
        let groups = groups.iter().map(|(topic, id, settings)| group(*topic, *id, settings.clone())).collect();
        let shard = Shard::recover(parts, (SHARD, row), specs, groups, marks, mailbox);
        Self {
            shard: handle,
            running: tokio::spawn(shard.run()),
            committer,
            clock,
            sequence: row.epoch << 32,
            priority: 4,
            producer: ProducerId(7),
        }
    }

    pub(super) async fn send(&self, command: Command) {
        self.shard.send(command).await.unwrap();
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Publishes one message to each of so many new lite topics.
    pub(super) async fn publish(&mut self, topic: TopicId, lites: u64) {
        let mut outbox = self.start_publish(topic, lites).await;
        assert!(matches!(outbox.recv().await, Some(ToProducer::Receipts(all)) if all.len() as u64 == lites));
    }

    /// As [`Rig::publish`], with an idempotency key each; the answer comes later.
    pub(super) async fn start_publish(&mut self, topic: TopicId, lites: u64) -> mpsc::Receiver<ToProducer> {
        let first = self.sequence + 1;
        let names: Vec<_> = (first..first + lites).map(|number| format!("x{}", number % (1 << 32))).collect();
        let key = Idempotency { key: IdempotencyKey::parse("k").unwrap(), body_digest: [7; 32] };
        self.start_publish_to(topic, &names, None, Some(key)).await
    }

    /// Publishes one message to each of these lite topics.
    pub(super) async fn publish_to(&mut self, topic: TopicId, names: &[String], deliver_at: Option<Timestamp>) {
        let mut outbox = self.start_publish_to(topic, names, deliver_at, None).await;
        assert!(matches!(outbox.recv().await, Some(ToProducer::Receipts(all)) if all.len() == names.len()));
    }

    async fn start_publish_to(
        &mut self,
        topic: TopicId,
        names: &[String],
        deliver_at: Option<Timestamp>,
        idempotency: Option<Idempotency>,
    ) -> mpsc::Receiver<ToProducer> {
        let request = |(sequence, name): (u64, &String)| PublishRequest {
            sequence,
            lite: LiteName::parse(name).unwrap(),
            priority: self.priority,
            cost: 1,
            deliver_at,
            expires_at: None,
            properties: BTreeMap::new(),
            idempotency: idempotency.clone(),
            body: NewBody::Whole(bytes::Bytes::from_static(b"body")),
        };
        let requests = (self.sequence + 1..).zip(names).map(request).collect();
        self.sequence += names.len() as u64;
        let (replies, outbox) = mpsc::channel(4);
        let room = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let producer = self.producer;
        self.send(Command::Publish { topic, producer, requests, replies, room }).await;
        outbox
    }

    /// A session with this number attaches.
    pub(super) async fn attach(&self, group: GroupId, session: u64, scope: Scope, credit: u32) -> Consumer {
        let (outbox, inbox) = mpsc::channel(4_096);
        let (reply, attached) = oneshot::channel();
        let session = SessionId(session.into());
        let attach = Attach { group, session, stream: 1, scope, credit, outbox: outbox.clone(), reply };
        self.send(Command::Attach(attach)).await;
        attached.await.unwrap().unwrap();
        Consumer { session, group, stream: 1, outbox, inbox, ready: std::collections::VecDeque::new() }
    }

    /// The session subscribes to these names and prefixes.
    pub(super) async fn subscribe(&self, consumer: &mut Consumer, lites: &[String], prefixes: &[&str]) {
        let names = Names {
            lites: lites.iter().map(|name| LiteName::parse(name).unwrap()).collect(),
            prefixes: prefixes.iter().map(|prefix| LiteName::parse(prefix).unwrap()).collect(),
        };
        let request = SubscribeRequest {
            group: consumer.group,
            session: consumer.session,
            stream: consumer.stream,
            sequence: 1,
            change: SubscriptionChange::Add(names, Position::Earliest),
            replies: consumer.outbox.clone(),
        };
        self.send(Command::Subscribe(request)).await;
        let told = tokio::time::timeout(PATIENCE, consumer.inbox.recv()).await.unwrap();
        assert!(matches!(told, Some(ToConsumer::Subscribed(_))), "{told:?}");
    }

    /// The session goes, in order.
    pub(super) async fn detach(&self, consumer: Consumer) {
        let Consumer { session, group, stream, .. } = consumer;
        self.send(Command::Detach { group, session, stream, orderly: true }).await;
    }

    /// Ends a lease, and gives the session room for one more.
    pub(super) async fn settle(&self, consumer: &Consumer, order: &DeliveryOrder, outcome: Outcome) {
        let (group, session, replies) = (consumer.group, consumer.session, consumer.outbox.clone());
        let settle = SettleRequest { lite: order.lite, offset: order.offset, token: order.token, cost: None, outcome };
        self.send(Command::Settle { group, session, sequence: 1, settles: vec![settle], replies }).await;
        let stream = consumer.stream;
        self.send(Command::Credit { group, session, stream, messages: 1, load_ppm: None }).await;
    }

    pub(super) async fn stats(&self, group: GroupId) -> GroupStats {
        let (reply, report) = oneshot::channel();
        self.send(Command::GroupStats { group, reply }).await;
        report.await.unwrap().stats
    }

    /// Waits until the group's figures are so.
    pub(super) async fn until(&self, group: GroupId, is_so: impl Fn(&GroupStats) -> bool) -> GroupStats {
        let started = self.now();
        loop {
            let stats = self.stats(group).await;
            if is_so(&stats) {
                return stats;
            }
            assert!(self.now().since(started) < PATIENCE, "{stats:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) async fn operate(&self, group: GroupId, lite: &str, verb: Verb) -> Result<LiteChange, Refusal> {
        let (reply, done) = oneshot::channel();
        let lite = LiteName::parse(lite).unwrap();
        self.send(Command::Operate(OperatorRequest { group, lite, verb, reply })).await;
        done.await.unwrap()
    }

    pub(super) async fn stop(self) {
        drop(self.shard);
        self.running.await.unwrap();
        self.committer.finish().await;
    }
}

impl Consumer {
    /// The next delivery.
    pub(super) async fn next(&mut self) -> DeliveryOrder {
        self.next_within(PATIENCE).await.expect("a delivery was due")
    }

    /// The next delivery, if one comes in this time.
    pub(super) async fn next_within(&mut self, time: Duration) -> Option<DeliveryOrder> {
        loop {
            if let Some(order) = self.ready.pop_front() {
                return Some(order);
            }
            match tokio::time::timeout(time, self.inbox.recv()).await.ok()?? {
                ToConsumer::Deliveries(orders) => self.ready.extend(orders),
                ToConsumer::Failed(refusal) => panic!("the stream ended: {refusal:?}"),
                _ => {}
            }
        }
    }

    /// Where a delivery is from.
    pub(super) fn place(order: &DeliveryOrder) -> (String, Offset) {
        (order.name.as_str().to_owned(), order.offset)
    }
}

//! Carries a plan out against a real broker process and records what happened.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sluicegate_client::admin::{Admin, AdminError, ErrorBody, LiteChange};
use sluicegate_client::{
    Consumer, Delivery, ErrorCode, GroupName, LiteName, Message, Offset, Producer, SessionId, Timestamp, TopicName,
};
use sluicegate_tests::history::{Blind, Delivered, Ended, Life, Place, Record, Session, Span};
use sluicegate_tests::{Broker, PATIENCE};
use tokio::runtime::Runtime;

use crate::draw::{COST_MAX, LITES, Plan, Publish, Takes};

/// Its shortest suspension answers what time it is at the broker.
const CLOCK: &str = "clock";
const TICK: Duration = Duration::from_millis(1);

pub(crate) struct Run {
    pub(crate) broker: Broker,
    pub(crate) admin: Admin,
    pub(crate) topic: TopicName,
    pub(crate) group: GroupName,
    pub(crate) producer: Producer,
    /// The number of the producer's next message.
    pub(crate) next_sequence: u64,
    pub(crate) members: Vec<Member>,
    pub(crate) vanished: Vec<Vanished>,
    /// Deliveries that are not settled, each with its index in the record.
    pub(crate) held: Vec<(usize, Delivery)>,
    pub(crate) record: Record,
    /// The newest reading of the broker's clock.
    pub(crate) now: Timestamp,
    /// The last `kill -9`, with the start after it.
    pub(crate) killed: Option<Span>,
    next_body: u64,
}

/// A consumer with a runtime of its own, so that it can be gone without a word.
pub(crate) struct Member {
    pub(crate) consumer: Consumer,
    pub(crate) runtime: Runtime,
    pub(crate) session: usize,
    pub(crate) takes: Takes,
    pub(crate) workers: u32,
}

pub(crate) struct Vanished {
    pub(crate) id: SessionId,
    pub(crate) session: usize,
    pub(crate) takes: Takes,
    pub(crate) workers: u32,
    /// Index of its blind time in the record.
    pub(crate) blind: usize,
}

pub(crate) fn lite(index: usize) -> LiteName {
    LiteName::parse(LITES[index]).expect("a good name")
}

impl Run {
    pub(crate) async fn start(plan: &Plan) -> Result<Self> {
        let broker = tokio::task::block_in_place(Broker::start)?;
        let (topic, group) = broker.topic_and_group(plan.topic.clone(), plan.group.clone()).await?;
        let admin = broker.admin(None)?;
        let producer = broker.client().producer(topic.clone()).connect().await?;
        let clock = LiteName::parse(CLOCK)?;
        producer.send(Message::to_lite(&clock)).await?;
        admin.skip_message(&group, &clock, Offset(0)).await?;
        let record = Record {
            max_attempts: plan.group.max_attempts,
            cost_max: COST_MAX,
            lites: LITES.map(|name| Life { name: name.to_owned(), over: None }).to_vec(),
            grace: Duration::from_millis(plan.group.session_grace_ms),
            concurrency: vec![(Span::exact(Timestamp(0)), plan.group.concurrency)],
            quotas: vec![(Span::exact(Timestamp(0)), plan.group.quotas)],
            ..Record::default()
        };
        let (members, vanished, held) = (Vec::new(), Vec::new(), Vec::new());
        let mut run = Self {
            broker,
            admin,
            topic,
            group,
            producer,
            // The clock's own message was the first.
            next_sequence: 2,
            members,
            vanished,
            held,
            record,
            now: Timestamp(0),
            killed: None,
            next_body: 0,
        };
        run.tick().await?;
        Ok(run)
    }

    /// Reads the broker's clock: what took effect since the last reading did so in the span.
    pub(crate) async fn tick(&mut self) -> Result<Span> {
        let change = self.admin.suspend_lite(&self.group, &LiteName::parse(CLOCK)?, TICK).await?;
        let until = change.lite_topic.suspensions.iter().map(|suspension| suspension.until).max();
        let now = until.context("the clock's suspension is over already")?.0 - 1_000;
        let span = Span { after: self.now, before: Timestamp(now) };
        ensure!(span.before >= span.after, "the broker's clock went back from {} to {}", span.after, span.before);
        self.now = span.before;
        Ok(span)
    }

    /// Ends all that runs; what is left is what happened.
    pub(crate) fn finish(self) -> Record {
        for member in self.members {
            member.runtime.shutdown_background();
        }
        self.record
    }

    pub(crate) fn tell(&mut self, text: &str) {
        self.record.story.push(format!("{} {text}", self.now));
    }

    /// Takes what has come to the consumers.
    pub(crate) async fn collect(&mut self) {
        for member in &mut self.members {
            while let Ok(next) = tokio::time::timeout(Duration::ZERO, member.consumer.next()).await {
                let delivery = match next {
                    Some(Ok(delivery)) => delivery,
                    other => {
                        self.record.wrong.push(format!("session {} ended: {other:?}", member.session));
                        break;
                    }
                };
                let mut delivered = delivered(&delivery, member.session);
                if let Some(killed) = self.killed.filter(|killed| delivered.at <= killed.before) {
                    delivered.survives(killed, self.record.grace);
                }
                self.record.story.push(format!(
                    "{} session {} got {}@{} #{}",
                    delivered.at,
                    member.session,
                    delivery.lite(),
                    delivery.offset(),
                    delivery.attempt()
                ));
                self.held.push((self.record.deliveries.len(), delivery));
                self.record.deliveries.push(delivered);
            }
        }
    }

    /// Lets time pass, as quiet as a consumer that works.
    pub(crate) async fn wait(&mut self, duration: Duration) {
        const SLICE: Duration = Duration::from_millis(20);
        let mut left = duration;
        while !left.is_zero() {
            tokio::time::sleep(left.min(SLICE)).await;
            left = left.saturating_sub(SLICE);
            self.collect().await;
        }
    }

    pub(crate) fn message(&mut self, publish: Publish) -> (usize, String, Message) {
        let body = format!("m{}", self.next_body);
        self.next_body += 1;
        self.next_sequence += 1;
        let message = Message::to_lite(&lite(publish.lite)).body(body.clone());
        (publish.lite, body, message.priority(publish.priority).cost(publish.cost))
    }

    /// A consumer with this session, or with a new one.
    pub(crate) async fn attach(&mut self, takes: Takes, workers: u32, as_session: Option<Vanished>) -> Result<usize> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let session = as_session.as_ref().map_or(self.record.sessions.len(), |vanished| vanished.session);
        let client = sluicegate_client::Client::builder(self.broker.address(), self.broker.trust());
        let (group, subscription) = (self.group.clone(), subscription(&takes));
        let id = as_session.as_ref().map(|vanished| vanished.id);
        let connecting = runtime.spawn(async move {
            let mut consumer = client.build().consumer(group).workers(workers);
            if let Some(subscription) = subscription {
                consumer = consumer.subscribe_to(subscription);
            }
            if let Some(id) = id {
                consumer = consumer.session(id);
            }
            consumer.connect().await
        });
        let consumer = match connecting.await? {
            Ok(consumer) => consumer,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error.into());
            }
        };
        if as_session.is_none() {
            self.record.sessions.push(Session::default());
            self.subscribed(session, &takes);
        }
        self.members.push(Member { consumer, runtime, session, takes, workers });
        Ok(session)
    }

    pub(crate) async fn close(&mut self, index: usize) -> Result<()> {
        let member = self.members.swap_remove(index);
        let from = self.now;
        member.consumer.close().await;
        member.runtime.shutdown_background();
        let span = self.tick().await?;
        // What was on its way to it came back uncounted.
        self.record.blind.push(Blind { from, until: span.before, leases: member.workers, counted: 0 });
        for index in self.latest_of(|delivered| delivered.session == member.session) {
            let delivered = &mut self.record.deliveries[index];
            match delivered.ended {
                None => delivered.ended = Some((span, Ended::Closed)),
                Some((_, Ended::Abandoned)) => delivered.ended = Some((span, Ended::Unsure)),
                Some(_) => {}
            }
        }
        self.held.retain(|(index, _)| self.record.deliveries[*index].session != member.session);
        Ok(())
    }

    /// The last delivery of each message, where it is one of these.
    pub(crate) fn latest_of(&self, is_one: impl Fn(&Delivered) -> bool) -> Vec<usize> {
        let mut latest = BTreeMap::<Place, usize>::new();
        for (index, delivered) in self.record.deliveries.iter().enumerate() {
            let newest = latest.entry(delivered.place).or_insert(index);
            if self.record.deliveries[*newest].at <= delivered.at {
                *newest = index;
            }
        }
        latest.into_values().filter(|&index| is_one(&self.record.deliveries[index])).collect()
    }

    /// What an operator's change answered; none where it was refused because a lease or nothing is there.
    pub(crate) fn unless_refused(&mut self, answer: Result<LiteChange, AdminError>) -> Result<Option<LiteChange>> {
        match answer {
            Ok(change) => Ok(Some(change)),
            Err(AdminError::Refused(ErrorBody {
                code: ErrorCode::UnknownLite | ErrorCode::InUse | ErrorCode::InvalidArgument,
                message,
                ..
            })) => {
                self.tell(&format!("  refused: {message}"));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn delivered(delivery: &Delivery, session: usize) -> Delivered {
    let lite = LITES.iter().position(|&name| name == delivery.lite()).unwrap_or(LITES.len());
    Delivered {
        place: (lite, delivery.offset().0),
        body: Some(String::from_utf8_lossy(delivery.body()).into_owned()),
        session,
        attempt: delivery.attempt(),
        at: delivery.dispatched_at(),
        deadline: delivery.deadline(),
        cost: delivery.cost(),
        tenant: delivery.tenant().to_owned(),
        token: None,
        ended: None,
    }
}

fn subscription(takes: &Takes) -> Option<sluicegate_client::Subscription> {
    let Takes::Named { lites, prefixes } = takes else { return None };
    let named = sluicegate_client::Subscription::default().lite_topics(lites.iter().map(|&index| lite(index)));
    let prefix = |index: &usize| LiteName::parse(crate::draw::PREFIXES[*index]).expect("a good prefix");
    Some(prefixes.iter().map(prefix).fold(named, sluicegate_client::Subscription::prefix))
}

/// Waits for what must come.
pub(crate) async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, future).await.with_context(|| format!("{what} got no answer"))
}

//! One topic with one group, the clients that work on it, and what is known of it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use sluicegate_client::admin::{
    Admin, AdminError, CreateGroup, CreateTopic, Durability, ErrorBody, Group, GroupSettings, LiteTopic, Page,
    QuotaSettings, TenantRule, TopicSettings,
};
use sluicegate_client::{ErrorCode, GroupName, LiteName, Message, Offset, Timestamp, TopicName};
use sluicegate_tests::Broker;
use sluicegate_tests::history::{BrokerClock, Session, Span, Subscribed};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::fact::Fact;
use crate::merge::Story;
use crate::operator::Operator;
use crate::publisher::Publisher;
use crate::worker::{Mood, Worker};

/// Lite topics, four tenants of them.
pub(crate) const LITES_MAX: usize = 24;
/// From this one on an operator deletes them now and then.
pub(crate) const DELETABLE_FROM: usize = 20;
/// Silence after which a client believes that nothing more comes of a broker that was killed.
pub(crate) const QUIET: Duration = Duration::from_millis(50);

const PUBLISHERS: usize = 3;
const WORKERS: usize = 5;
const MAX_ATTEMPTS: u32 = 4;
/// Far above what a restart takes: workers come back in time.
const GRACE: Duration = Duration::from_secs(6);
const LEASE: Duration = Duration::from_secs(3);
const RETRY_INITIAL: Duration = Duration::from_millis(40);
/// Never delivered: its shortest suspension answers what time it is at the broker.
const CLOCK: &str = "clock";
const CLOCK_READINGS: u32 = 5;

/// The name of a lite topic that is published to.
pub(crate) fn lite(index: usize) -> LiteName {
    LiteName::parse(&format!("t{}/{index}", index % 4)).expect("a good name")
}

pub(crate) struct World {
    pub(crate) topic: TopicName,
    pub(crate) group: GroupName,
    pub(crate) story: Story,
    pub(crate) workers: Vec<Worker>,
    pub(crate) operator: Option<Operator>,
    publishers: Vec<Publisher>,
    /// What was last answered as set.
    pub(crate) quotas: QuotaSettings,
    pub(crate) policy: Option<String>,
    /// Of the broker process that everybody works with.
    pub(crate) clock: Option<BrokerClock>,
    seed: u64,
}

/// Clients at work.
pub(crate) struct Working {
    stop: watch::Sender<bool>,
    publishers: Vec<JoinHandle<Publisher>>,
    workers: Vec<JoinHandle<Worker>>,
    operator: Option<JoinHandle<Operator>>,
}

impl World {
    /// Makes the topic and the group, and its clients.
    pub(crate) async fn new(broker: &Broker, name: &str, durability: Durability, seed: u64) -> Result<Self> {
        let (admin, topic, group) = (broker.admin(None)?, TopicName::parse(name)?, GroupName::parse(name)?);
        let settings = TopicSettings { durability, tenant: TenantRule::Prefix, ..TopicSettings::default() };
        admin.create_topic(&CreateTopic { name: topic.clone(), settings }).await?;
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).expect("short");
        let settings = GroupSettings {
            lease_ms: millis(LEASE),
            session_grace_ms: millis(GRACE),
            max_attempts: MAX_ATTEMPTS,
            retry_initial_ms: millis(RETRY_INITIAL),
            retry_max_ms: 4 * millis(RETRY_INITIAL),
            ..GroupSettings::default()
        };
        let concurrency = settings.concurrency;
        admin.create_group(&CreateGroup::new(group.clone(), topic.clone(), settings)).await?;
        let clock = LiteName::parse(CLOCK)?;
        broker.client().producer(topic.clone()).connect().await?.send(Message::to_lite(&clock)).await?;
        admin.skip_message(&group, &clock, Offset(0)).await?;
        let operator = Operator::new(&admin, topic.clone(), group.clone(), seed ^ 1).await?;
        let mut story = Story::default();
        story.record.max_attempts = MAX_ATTEMPTS;
        story.record.grace = GRACE;
        story.record.concurrency = vec![(Span::exact(Timestamp::default()), concurrency)];
        let publisher = |index| Publisher::new(index, topic.clone(), seed ^ (100 + index as u64));
        let publishers = (0..PUBLISHERS).map(publisher).collect();
        let mut this = Self {
            publishers,
            story,
            workers: Vec::new(),
            operator: Some(operator),
            quotas: QuotaSettings::default(),
            policy: None,
            clock: None,
            seed,
            topic,
            group,
        };
        while this.workers.len() < WORKERS {
            this.hire();
        }
        Ok(this)
    }

    fn hire(&mut self) {
        let session = self.story.record.sessions.len();
        self.story.record.sessions.push(Session { subscriptions: vec![Subscribed::all()] });
        self.workers.push(Worker::new(session, self.group.clone(), self.seed ^ (10_000 + session as u64)));
    }

    /// A worker's process is gone for good, and a new one takes its place.
    pub(crate) fn replace(&mut self, index: usize) -> Worker {
        let gone = self.workers.swap_remove(index);
        self.hire();
        gone
    }

    pub(crate) async fn read_clock(&mut self, admin: &Admin) -> Result<BrokerClock> {
        let clock = BrokerClock::read(admin, &self.group, &LiteName::parse(CLOCK)?, CLOCK_READINGS).await?;
        self.clock = Some(clock);
        Ok(clock)
    }

    /// Attaches everybody and lets them work.
    pub(crate) async fn work(&mut self, broker: &Broker, mood: Mood) -> Result<Working> {
        let admin = broker.admin(None)?;
        let clock = self.read_clock(&admin).await?;
        let (stop, stopped) = watch::channel(false);
        let mut working = Working { stop, publishers: Vec::new(), workers: Vec::new(), operator: None };
        for mut worker in std::mem::take(&mut self.workers) {
            let (stream, welcome) = worker.connect(broker).await?;
            self.attached(&mut worker, &welcome);
            worker.resume(mood);
            working.workers.push(tokio::spawn(worker.run(stream, clock, stopped.clone())));
        }
        if mood == Mood::Diligent {
            return Ok(working);
        }
        for mut publisher in std::mem::take(&mut self.publishers) {
            publisher.connect(broker).await?;
            working.publishers.push(tokio::spawn(publisher.run(stopped.clone())));
        }
        let operator = self.operator.take().context("the operator is at work")?;
        working.operator = Some(tokio::spawn(operator.run(admin, clock, stopped)));
        Ok(working)
    }

    /// Stops everybody and puts together what they saw.
    pub(crate) async fn stop(&mut self, working: Working) -> Result<()> {
        working.stop.send_replace(true);
        let mut facts = Vec::new();
        for publisher in working.publishers {
            let mut publisher = publisher.await?;
            facts.append(&mut publisher.facts);
            self.publishers.push(publisher);
        }
        for worker in working.workers {
            let mut worker = worker.await?;
            facts.append(&mut worker.facts);
            self.workers.push(worker);
        }
        // Last, since it speaks of lite topics that the others know.
        if let Some(operator) = working.operator {
            let mut operator = operator.await?;
            facts.append(&mut operator.facts);
            self.operator = Some(operator);
        }
        for fact in &facts {
            match fact {
                Fact::Quotas(quotas) => self.quotas = *quotas,
                Fact::Policy(policy) => self.policy.clone_from(policy),
                _ => {}
            }
        }
        self.story.merge(facts);
        Ok(())
    }

    /// Waits until every message has its receipt.
    pub(crate) async fn close_publishers(&mut self, broker: &Broker) -> Result<()> {
        let mut facts = Vec::new();
        for mut publisher in std::mem::take(&mut self.publishers) {
            publisher.connect(broker).await?;
            facts.append(&mut publisher.close().await);
        }
        self.story.merge(facts);
        Ok(())
    }

    /// The group, and the lite topics that are there.
    pub(crate) async fn look(&self, admin: &Admin) -> Result<(Group, Vec<LiteTopic>)> {
        let group = admin.group(&self.group).await?;
        let mut shown = Vec::new();
        for index in 0..LITES_MAX {
            match admin.lite_topic(&self.group, &lite(index)).await {
                Ok(lite) => shown.push(lite),
                Err(AdminError::Refused(ErrorBody { code: ErrorCode::UnknownLite, .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok((group, shown))
    }

    pub(crate) async fn read_dead_letters(&mut self, admin: &Admin) -> Result<()> {
        let mut page = Page { limit: Some(1_000), ..Page::default() };
        loop {
            let letters = admin.dead_letters(&self.group, &page).await?;
            self.story.record.end.dead_letters.extend(letters.dead_letters);
            match letters.next {
                Some(next) => page.after = Some(next),
                None => return Ok(()),
            }
        }
    }
}

//! A topic whose messages are only written, not synced: a power cut may take the newest, and nothing else.

use anyhow::Result;
use sluicegate_client::admin::{
    Admin, AdminError, BodyPreview, CreateGroup, CreateTopic, Durability, ErrorBody, GroupSettings, TopicSettings,
};
use sluicegate_client::{Client, ErrorCode, GroupName, LiteName, Message, Offset, TopicName};
use sluicegate_tests::Broker;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::process::Process;

const LITES: usize = 4;
const BURST: usize = 16;
const PAGE: u32 = 100;

pub(crate) struct OsTopic {
    topic: TopicName,
    group: GroupName,
    round: usize,
}

/// A producer at work.
pub(crate) struct Publishing {
    stop: watch::Sender<bool>,
    sent: JoinHandle<Result<Vec<Vec<String>>>>,
    _process: Process,
}

impl Publishing {
    /// Ends it, and answers what it sent to each lite topic. To be called while the broker is dead: the next one would get
    /// what has no receipt yet, and messages with a receipt may be gone.
    pub(crate) async fn stop(self) -> Result<Vec<Vec<String>>> {
        self.stop.send_replace(true);
        self.sent.await?
    }
}

impl OsTopic {
    pub(crate) async fn new(admin: &Admin, name: &str) -> Result<Self> {
        let (topic, group) = (TopicName::parse(name)?, GroupName::parse(name)?);
        let settings = TopicSettings { durability: Durability::Os, ..TopicSettings::default() };
        admin.create_topic(&CreateTopic { name: topic.clone(), settings }).await?;
        admin.create_group(&CreateGroup::new(group.clone(), topic.clone(), GroupSettings::default())).await?;
        Ok(Self { topic, group, round: 0 })
    }

    /// Publishes to lite topics that are new in this round, until it is stopped.
    pub(crate) fn publish(&mut self, broker: &Broker) -> Result<Publishing> {
        self.round += 1;
        let process = Process::start()?;
        let (stop, stopped) = watch::channel(false);
        let (address, trust, topic) = (broker.address().to_owned(), broker.trust(), self.topic.clone());
        let lites = (0..LITES).map(|index| self.lite(index)).collect();
        let sent = process
            .spawn(async move { publish(&Client::builder(address, trust).build(), topic, lites, stopped).await });
        Ok(Publishing { stop, sent, _process: process })
    }

    fn lite(&self, index: usize) -> LiteName {
        LiteName::parse(&format!("round {}/{index}", self.round)).expect("a good name")
    }

    /// What is there of each lite topic must be the beginning of what was sent to it. Answers what is wrong, and how many
    /// messages are not there.
    pub(crate) async fn check(&self, admin: &Admin, sent: &[Vec<String>]) -> Result<(Vec<String>, usize)> {
        let (mut wrong, mut gone) = (Vec::new(), 0);
        for (index, sent) in sent.iter().enumerate() {
            let lite = self.lite(index);
            let found = self.bodies(admin, &lite).await?;
            if !sent.starts_with(&found) {
                wrong.push(format!("{}/{lite} has {found:?}, and was sent {sent:?}", self.topic));
            }
            gone += sent.len().saturating_sub(found.len());
        }
        Ok((wrong, gone))
    }

    async fn bodies(&self, admin: &Admin, lite: &LiteName) -> Result<Vec<String>> {
        let (mut bodies, mut from) = (Vec::new(), Offset(0));
        loop {
            let page = match admin.peek(&self.group, lite, Some(from), Some(PAGE)).await {
                Ok(page) => page,
                Err(AdminError::Refused(ErrorBody { code: ErrorCode::UnknownLite, .. })) => return Ok(bodies),
                Err(error) => return Err(error.into()),
            };
            bodies.extend(page.messages.into_iter().map(|message| match message.body {
                BodyPreview::Text(text) | BodyPreview::Base64(text) => text,
            }));
            match page.next {
                Some(next) => from = next,
                None => return Ok(bodies),
            }
        }
    }
}

/// The bodies that were sent to each lite topic, in order; the last of them may not have arrived.
async fn publish(
    client: &Client,
    topic: TopicName,
    lites: Vec<LiteName>,
    mut stop: watch::Receiver<bool>,
) -> Result<Vec<Vec<String>>> {
    let producer = client.producer(topic).connect().await?;
    let mut sent = vec![Vec::new(); lites.len()];
    while !*stop.borrow() {
        let mut receipts = Vec::with_capacity(BURST);
        for _ in 0..BURST {
            let index = receipts.len() % lites.len();
            let body = format!("{}", sent[index].len());
            sent[index].push(body.clone());
            tokio::select! {
                _ = stop.changed() => return Ok(sent),
                receipt = producer.enqueue(Message::to_lite(&lites[index]).body(body)) => receipts.push(receipt?),
            }
        }
        for receipt in receipts {
            tokio::select! {
                _ = stop.changed() => return Ok(sent),
                receipt = receipt => drop(receipt?),
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    Ok(sent)
}

//! What a policy may cost its shard, and what it may keep back, in a real broker.

use std::time::Duration;

use anyhow::{Context, Result};
use sluicegate_client::admin::{
    ActivatePolicy, Admin, GroupSettings, PolicyRuns, PolicyVerdict, TopicSettings, WatchdogSettings,
};
use sluicegate_client::{Consumer, Delivery, GroupName, LiteName, Message};
use sluicegate_tests::{Broker, PATIENCE, policy};

async fn next(consumer: &mut Consumer) -> Result<Delivery> {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
    Ok(next.context("the consumer ended")??)
}

/// The hostile guest with this configuration decides for the group.
async fn hostile(admin: &Admin, group: &GroupName, config: &str) -> Result<()> {
    let digest = admin.push_policy(policy("hostile")).await?.digest;
    admin.activate_policy(group, &ActivatePolicy { digest, config: config.into() }).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_computes_much_decides_off_its_shard() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    hostile(&admin, &group, r#"{"misbehave":"slow-memory","always":true,"turns":6000}"#).await?;
    let producer = broker.client().producer(topic).connect().await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(4).connect().await?;
    let mut sent = 0;
    let leaves = async {
        loop {
            for _ in 0..50 {
                producer.send(Message::to(&format!("session-{sent}"))?).await?;
                next(&mut consumer).await?.ack().await?;
                sent += 1;
            }
            let runs = admin.group(&group).await?.policy.and_then(|policy| policy.runs);
            if matches!(runs, Some(PolicyRuns::OffShard | PolicyRuns::Resting)) {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(PATIENCE, leaves).await.context("it stayed on its shard")??;
    let before = admin.group(&group).await?.stats;
    // It goes on deciding there.
    let decides = async {
        while admin.group(&group).await?.stats.policy_frames == before.policy_frames {
            producer.send(Message::to(&format!("session-{sent}"))?).await?;
            next(&mut consumer).await?.ack().await?;
            sent += 1;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, decides).await.context("it decides no more")??;
    let stats = admin.group(&group).await?.stats;
    assert_eq!(stats.acked, sent);
    assert!(stats.policy_on_shard_us > 0 && stats.policy_off_shard_us > before.policy_off_shard_us, "{stats:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_policy_throttles_for_ever_is_let_through_after_the_groups_time() -> Result<()> {
    let broker = Broker::start()?;
    let settings = GroupSettings { watchdog_ms: 1_000, ..GroupSettings::default() };
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), settings).await?;
    let admin = broker.admin(None)?;
    hostile(&admin, &group, r#"{"misbehave":"throttle-forever","always":true}"#).await?;
    let producer = broker.client().producer(topic).connect().await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(4).connect().await?;
    producer.send(Message::to("kept")?).await?;
    producer.send(Message::to("kept")?).await?;
    let delivery = next(&mut consumer).await?;
    let explained = admin.explain(&group, &LiteName::parse("kept")?).await?;
    let said = explained.policy.and_then(|policy| policy.said).context("the policy said something")?;
    assert_eq!((said.verdict, said.overruled), (PolicyVerdict::Throttle { for_ms: 60_000 }, true));
    delivery.ack().await?;
    let stats = admin.group(&group).await?.stats;
    assert_eq!((stats.policy_starved, stats.policy_strikes), (1, 0));

    // Without a watchdog the second one waits; with a time that is not allowed nothing changes.
    assert_eq!(admin.set_watchdog(&group, &WatchdogSettings { after_ms: 0 }).await?.settings.watchdog(), None);
    let refused = admin.set_watchdog(&group, &WatchdogSettings { after_ms: 999 }).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("allowed are 1000 (1 s)")));
    let early = tokio::time::timeout(Duration::from_secs(3), consumer.next()).await;
    assert!(early.is_err(), "it was let through without a watchdog");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_does_not_start_leaves_the_one_before_deciding() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    hostile(&admin, &group, "").await?;
    for how in ["spin-in-init", "refuse-to-start"] {
        let refused = hostile(&admin, &group, &format!(r#"{{"misbehave":"{how}"}}"#)).await;
        assert!(refused.is_err(), "{how} was taken");
    }
    let bound = admin.group(&group).await?.policy.context("a policy is bound")?;
    assert_eq!((bound.config.as_str(), bound.runs), ("", Some(PolicyRuns::OnShard)));
    broker.client().producer(topic).connect().await?.send(Message::to("a")?).await?;
    next(&mut broker.client().consumer(group.clone()).connect().await?).await?.ack().await?;
    assert!(admin.group(&group).await?.stats.policy_frames > 0);
    Ok(())
}

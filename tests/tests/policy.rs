//! Wasm policies decide before delivery, are swapped while traffic flows, and outlive a restart.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluicegate_client::admin::{ActivatePolicy, Admin, GroupSettings, TopicSettings};
use sluicegate_client::{Consumer, Delivery, GroupName, Message};
use sluicegate_tests::{Broker, PATIENCE, policy};

async fn next(consumer: &mut Consumer) -> Result<Delivery> {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
    Ok(next.context("the consumer ended")??)
}

async fn activate(admin: &Admin, group: &GroupName, config: &str) -> Result<sluicegate_client::admin::Activation> {
    let digest = admin.push_policy(policy("token-bucket")).await?.digest;
    Ok(admin.activate_policy(group, &ActivatePolicy { digest, config: config.into() }).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_over_its_rate_waits_and_the_others_do_not() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    // Ten cost units at once, then one every ten seconds: whoever is throttled waits longer than this test looks.
    let config = r#"{"unit":"cost","rate_per_second":1,"burst":10,"overrides":[{"tenant":"vip","rate_per_second":1000,"burst":1000}]}"#;
    activate(&admin, &group, config).await?;
    let producer = broker.client().producer(topic).connect().await?;
    for _ in 0..5 {
        for lite in ["greedy", "vip"] {
            producer.send(Message::to(lite)?.cost(10)).await?;
        }
    }
    producer.send(Message::to("light")?.cost(10)).await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(16).connect().await?;
    let mut served = BTreeMap::<String, u32>::new();
    for _ in 0..7 {
        let delivery = next(&mut consumer).await?;
        *served.entry(delivery.lite().to_owned()).or_default() += 1;
        delivery.ack_with_cost(10).await?;
    }
    assert_eq!(served, [("greedy".into(), 1), ("light".into(), 1), ("vip".into(), 5)].into());
    let early = tokio::time::timeout(Duration::from_millis(500), consumer.next()).await;
    assert!(early.is_err(), "the greedy tenant was served beyond its rate");
    let stats = admin.group(&group).await?.stats;
    assert!(stats.throttled > 0 && stats.policy_frames > 0 && stats.policy_strikes == 0, "{stats:?}");

    // Built-in scheduling throttles nobody: the four that wait come at once.
    admin.deactivate_policy(&group).await?;
    for _ in 0..4 {
        next(&mut consumer).await?.ack().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_activation_survives_a_crash() -> Result<()> {
    let mut broker = Broker::start()?;
    let (_, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let activation = activate(&broker.admin(None)?, &group, "").await?;
    broker.crash_and_restart()?;
    let bound = broker.admin(None)?.group(&group).await?.policy.context("the policy is gone")?;
    let before = activation.policy.context("the activation names its policy")?;
    assert_eq!((bound.digest, bound.name, bound.suspended_because), (before.digest, before.name, None));
    let listed = broker.admin(None)?.policies().await?;
    assert_eq!(listed[0].active_in, [group]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn swaps_under_load_lose_nothing_and_carry_state() -> Result<()> {
    const LITES: u64 = 20;
    const MESSAGES: u64 = 4_000;
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let producer = broker.client().producer(topic).connect().await?;
    let producing = tokio::spawn(async move {
        for n in 0..MESSAGES {
            drop(producer.enqueue(Message::to(&format!("lite-{}", n % LITES))?).await?);
        }
        producer.close().await;
        anyhow::Ok(())
    });
    let swapping = tokio::spawn({
        let (admin, group) = (admin.clone(), group.clone());
        async move {
            let mut carried = 0;
            for n in 0..40 {
                let config = format!(r#"{{"unit":"cost","rate_per_second":{},"burst":100000}}"#, 100_000 + n);
                carried += u32::from(activate(&admin, &group, &config).await?.state_carried);
            }
            anyhow::Ok(carried)
        }
    });
    let mut consumer = broker.client().consumer(group.clone()).workers(64).connect().await?;
    let mut seen = BTreeMap::<String, Vec<u64>>::new();
    for _ in 0..MESSAGES {
        let delivery = next(&mut consumer).await?;
        ensure!(delivery.attempt() == 1, "delivered twice");
        seen.entry(delivery.lite().to_owned()).or_default().push(delivery.offset().0);
        delivery.ack().await?;
    }
    producing.await??;
    assert_eq!(swapping.await??, 39, "every swap after the first takes the state over");
    assert_eq!(seen.len() as u64, LITES);
    for offsets in seen.values() {
        assert_eq!(*offsets, (0..MESSAGES / LITES).collect::<Vec<_>>());
    }
    let stats = admin.group(&group).await?.stats;
    assert_eq!((stats.acked, stats.policy_strikes), (MESSAGES, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_consumer_gets_urgent_work_only() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let digest = admin.push_policy(policy("calm")).await?.digest;
    admin.activate_policy(&group, &ActivatePolicy { digest, config: String::new() }).await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(16).connect().await?;
    let load = consumer.load();
    load.report(1.0);
    let producer = broker.client().producer(topic).connect().await?;
    // The load travels on another connection than the messages: once one is throttled, it has arrived.
    let mut waiting = 0;
    while admin.group(&group).await?.stats.throttled == 0 {
        ensure!(waiting < 10_000, "the load never held anything back");
        producer.send(Message::to(&format!("batch/{waiting}"))?).await?;
        waiting += 1;
    }
    producer.send(Message::to("urgent")?.priority(9)).await?;
    let mut before = 0;
    while next(&mut consumer).await.map(|delivery| delivery.lite() != "urgent")? {
        before += 1;
    }
    assert!(before < waiting, "nothing waited");
    load.report(0.2);
    for _ in before..waiting {
        next(&mut consumer).await?.ack().await?;
    }
    Ok(())
}

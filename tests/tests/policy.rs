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

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_keeps_failing_gives_way_to_the_last_good_one() -> Result<()> {
    let mut broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let good = activate(&admin, &group, r#"{"rate_per_second":1000}"#).await?.policy.context("a policy")?;
    let hostile = admin.push_policy(policy("hostile")).await?.digest;
    let fails = ActivatePolicy { digest: hostile.clone(), config: r#"{"misbehave":"panic","always":true}"#.into() };
    admin.activate_policy(&group, &fails).await?;

    // Whoever decides, everything is served.
    let producer = broker.client().producer(topic).connect().await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(4).connect().await?;
    let mut served = 0;
    let taken_over = async {
        loop {
            producer.send(Message::to(&format!("session-{served}"))?).await?;
            next(&mut consumer).await?.ack().await?;
            served += 1;
            let bound = admin.group(&group).await?.policy.context("a policy is bound")?;
            if bound.digest == good.digest {
                return anyhow::Ok(bound);
            }
        }
    };
    let bound =
        tokio::time::timeout(PATIENCE, taken_over).await.context("the last good policy did not take over")??;
    assert_eq!((bound.config, bound.suspended_because), (good.config, None));

    let changes = admin.policy_history(&group).await?;
    let told: Vec<_> = changes.iter().map(|change| (change.by.as_str(), change.digest.as_deref())).collect();
    let (good, hostile) = (Some(good.digest.as_str()), Some(hostile.as_str()));
    assert_eq!(told, [("broker", good), ("127.0.0.1", hostile), ("127.0.0.1", good)]);
    let because = changes[0].because.as_deref().context("the broker says why")?;
    assert!(because.contains("deliberate"), "{because}");

    // What failed is nobody's policy until it is released, across a restart too.
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let admin = broker.admin(None)?;
    let Err(refused) = admin.activate_policy(&group, &fails).await else { anyhow::bail!("it was activated again") };
    assert!(refused.to_string().contains("is in quarantine since it failed for group `g`"), "{refused}");
    let listed = admin.policies().await?;
    let quarantine = listed.iter().find_map(|policy| policy.quarantine.as_ref()).context("one is in quarantine")?;
    assert!(quarantine.cause.contains("deliberate"), "{quarantine:?}");
    assert_eq!(admin.release_policy(&fails.digest[..8]).await?.quarantine, None);
    admin.activate_policy(&group, &ActivatePolicy { config: String::new(), ..fails.clone() }).await?;

    // Back, and forth.
    for expected in [good, hostile] {
        let activation = admin.roll_back_policy(&group).await?;
        assert_eq!(activation.policy.map(|policy| policy.digest).as_deref(), expected);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_without_a_policy_from_before_goes_back_to_fair_scheduling() -> Result<()> {
    let broker = Broker::start()?;
    let (_, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    assert_eq!(admin.policy_history(&group).await?, []);
    let refused = admin.roll_back_policy(&group).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("nothing but fair scheduling ever decided")));
    activate(&admin, &group, r#"{"rate_per_second":1000}"#).await?;
    assert_eq!(admin.roll_back_policy(&group).await?.policy, None);
    assert!(admin.roll_back_policy(&group).await?.policy.is_some());
    Ok(())
}

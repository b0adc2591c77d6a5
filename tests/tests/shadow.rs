//! A shadow is asked what the deciding policy is asked; its answers are compared and not used, and its faults are its own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluicegate_client::admin::{
    ActivatePolicy, Admin, GroupSettings, PolicyRole, Shadow, ShadowFigures, TopicSettings,
};
use sluicegate_client::{Client, GroupName, Message, TopicName};
use sluicegate_tests::{Broker, PATIENCE, policy};

async fn pushed(admin: &Admin, name: &str, config: &str) -> Result<ActivatePolicy> {
    let digest = admin.push_policy(policy(name)).await?.digest;
    Ok(ActivatePolicy { digest, config: config.into() })
}

/// Traffic of two lite topics, until what came of the shadow is as wanted.
async fn serve_until(
    (client, admin): (Client, &Admin),
    (topic, group): (&TopicName, &GroupName),
    is_wanted: impl Fn(&Shadow) -> bool,
) -> Result<Shadow> {
    let producer = client.producer(topic.clone()).connect().await?;
    let mut consumer = client.consumer(group.clone()).workers(8).connect().await?;
    let served = async {
        for nth in 0.. {
            producer.send(Message::to(&format!("lite-{}", nth % 2))?.cost(10)).await?;
            consumer.next().await.context("the consumer ended")??.ack().await?;
            let shadow = admin.policy_shadow(group).await?.context("there is a shadow")?;
            if is_wanted(&shadow) {
                return Ok(shadow);
            }
        }
        unreachable!("it goes on for ever")
    };
    tokio::time::timeout(PATIENCE, served).await.context("the shadow does not come to it")?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_is_compared_with_what_decides_survives_a_crash_and_ends_when_it_decides() -> Result<()> {
    let mut broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    assert_eq!(admin.policy_shadow(&group).await?, None);
    let loose = pushed(&admin, "token-bucket", r#"{"rate_per_second":1000000,"burst":1000000}"#).await?;
    admin.activate_policy(&group, &loose).await?;
    let wrong = pushed(&admin, "token-bucket", r#"{"rate_per_second":1,"colour":"red"}"#).await?;
    let refused = admin.shadow_policy(&group, &wrong).await;
    ensure!(
        refused.is_err_and(|error| error.to_string().starts_with("policy_rejected: ")),
        "a wrong setting is refused"
    );
    let hostile = pushed(&admin, "hostile", "").await?;
    admin.shadow_policy(&group, &hostile).await?;

    let shadow = serve_until((broker.client(), &admin), (&topic, &group), |shadow| shadow.figures.frames >= 20).await?;
    let figures = shadow.figures;
    assert_eq!((figures.faults, figures.frames_alone), (0, 0), "{figures:?}");
    // It gives tenants weights by their names, which nobody else does.
    ensure!(figures.weights_different > 0 && figures.weight_distance > 1.0, "{figures:?}");
    ensure!(figures.rows >= figures.frames && figures.guest_us > 0 && figures.deciding_guest_us > 0, "{figures:?}");
    let stats = admin.group(&group).await?.stats;
    assert_eq!((stats.throttled, stats.policy_strikes), (0, 0));

    // It outlives the process, and is in the history.
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let admin = broker.admin(None)?;
    let again = admin.policy_shadow(&group).await?.context("the shadow is back")?;
    assert_eq!((again.digest.as_str(), again.since, again.by), (hostile.digest.as_str(), shadow.since, shadow.by));
    let changes = admin.policy_history(&group).await?;
    assert_eq!((changes[0].role, changes[0].digest.as_ref()), (PolicyRole::Shadow, Some(&hostile.digest)));
    assert_eq!(changes[1].role, PolicyRole::Deciding);

    // What decides is no shadow.
    admin.activate_policy(&group, &hostile).await?;
    assert_eq!(admin.policy_shadow(&group).await?, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_that_would_throttle_says_so_and_throttles_nobody() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let tight = pushed(&admin, "token-bucket", r#"{"unit":"cost","rate_per_second":1,"burst":1}"#).await?;
    admin.shadow_policy(&group, &tight).await?;
    // After the burst it would let nothing through for ten seconds.
    let enough = |shadow: &Shadow| shadow.figures.throttled_more >= 5;
    let shadow = serve_until((broker.client(), &admin), (&topic, &group), enough).await?;
    let ShadowFigures { rows, rows_different, disagreement, deciding_guest_us, .. } = shadow.figures;
    let is_their_part = (disagreement * rows as f64 - rows_different as f64).abs() < 1e-6;
    ensure!(rows_different >= 5 && is_their_part, "{:?}", shadow.figures);
    assert_eq!((deciding_guest_us, admin.group(&group).await?.stats.throttled), (0, 0));
    let shown = admin.group(&group).await?;
    assert_eq!((shown.policy, shown.shadow.map(|shadow| shadow.digest)), (None, Some(tight.digest)));
    let out = tokio::task::block_in_place(|| broker.sluice(&["policy", "shadow", group.as_str(), "--stop"]))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(out.status.success() && text.contains("rows that differ"), "{text}");
    assert_eq!(admin.policy_shadow(&group).await?, None);
    admin.end_shadow(&group).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_third_fault_ends_a_shadow_and_nothing_else() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let good = pushed(&admin, "token-bucket", r#"{"rate_per_second":1000}"#).await?;
    admin.activate_policy(&group, &good).await?;
    let fails = pushed(&admin, "hostile", r#"{"misbehave":"panic","after":2}"#).await?;
    admin.shadow_policy(&group, &fails).await?;
    let is_over = |shadow: &Shadow| shadow.ended_because.is_some();
    let shadow = serve_until((broker.client(), &admin), (&topic, &group), is_over).await?;
    ensure!(shadow.ended_because.is_some_and(|why| why.contains("deliberate")));
    assert_eq!(shadow.figures.faults, 3);

    // Nobody is in quarantine, nothing else decides, and the faults can be had again.
    let written_down = async {
        loop {
            let changes = admin.policy_history(&group).await?;
            if changes[0].role == PolicyRole::Shadow && changes[0].digest.is_none() {
                return anyhow::Ok(changes);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let changes = tokio::time::timeout(PATIENCE, written_down).await??;
    assert_eq!(changes[0].by, "broker");
    ensure!(admin.policies().await?.iter().all(|policy| policy.quarantine.is_none()));
    assert_eq!(admin.group(&group).await?.policy.map(|bound| bound.digest), Some(good.digest));
    assert_eq!(admin.group(&group).await?.stats.policy_strikes, 0);
    let capsule = changes[0].capsule.clone().context("the last fault left a capsule")?;
    let out = tokio::task::block_in_place(|| broker.sluice(&["policy", "replay", &capsule]))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(out.status.success() && text.contains("reproduced"), "{text} {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

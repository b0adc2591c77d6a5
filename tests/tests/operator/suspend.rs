//! Lite topics: suspend, revoke, resume.

use std::time::Duration;

use anyhow::Result;
use sluicegate_client::admin::{ConcurrencySettings, GroupSettings, QuotaSettings, SuspensionSource};
use sluicegate_client::{GroupName, LiteName, SettleError};

use super::{json, next, nothing_comes, publish, refusal, sources, started, text};

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_suspension_holds_across_a_crash_until_it_is_resumed() -> Result<()> {
    let (mut broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic.clone()).connect().await?;
    publish(&producer, "x", 1).await?;
    let lite = LiteName::parse("x")?;
    let change = broker.admin(None)?.suspend_lite(&group, &lite, Duration::from_mins(10)).await?;
    assert_eq!(sources(&change.lite_topic), [SuspensionSource::Operator]);
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let mut consumer = broker.client().consumer(group.clone()).workers(2).connect().await?;
    assert!(nothing_comes(&mut consumer).await, "the suspension was forgotten");
    let change = broker.admin(None)?.resume_lite(&group, &lite, None).await?;
    assert_eq!(sources(&change.lite_topic), []);
    assert_eq!(text(&next(&mut consumer).await?), "x 0 #1 m0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_of_a_drained_lite_topic_holds_what_comes_after_a_restart() -> Result<()> {
    let (mut broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic.clone()).connect().await?;
    publish(&producer, "x", 1).await?;
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    next(&mut consumer).await?.ack().await?;
    consumer.close().await;
    let lite = LiteName::parse("x")?;
    broker.admin(None)?.suspend_lite(&group, &lite, Duration::from_mins(10)).await?;
    tokio::task::block_in_place(|| broker.stop_and_restart())?;
    let producer = broker.client().producer(topic).connect().await?;
    publish(&producer, "x", 1).await?;
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    assert!(nothing_comes(&mut consumer).await, "the suspension was forgotten");
    broker.admin(None)?.resume_lite(&group, &lite, Some(SuspensionSource::Operator)).await?;
    assert_eq!(text(&next(&mut consumer).await?), "x 1 #1 m0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_ends_by_itself_and_leaves_open_leases_alone() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    publish(&producer, "x", 2).await?;
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    let held = next(&mut consumer).await?;
    let suspended_at = held.dispatched_at();
    broker.admin(None)?.suspend_lite(&group, &LiteName::parse("x")?, Duration::from_millis(700)).await?;
    held.ack().await?;
    let second = next(&mut consumer).await?;
    assert_eq!(text(&second), "x 1 #1 m1");
    assert!(second.dispatched_at().since(suspended_at) >= Duration::from_millis(700), "it came early");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn resuming_one_source_leaves_the_others() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    publish(&producer, "x", 1).await?;
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    next(&mut consumer).await?.suspend(Duration::from_mins(10)).await?;
    json(&broker, &["lite", "suspend", "g", "x", "--for", "10m"])?;
    let change = json(&broker, &["lite", "resume", "g", "x", "--source", "settle"])?;
    assert_eq!(change["lite_topic"]["suspensions"][0]["source"], "operator");
    assert!(nothing_comes(&mut consumer).await, "the operator's suspension ended too");
    json(&broker, &["lite", "resume", "g", "x"])?;
    assert_eq!(text(&next(&mut consumer).await?), "x 0 #1 m0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_fences_the_holder_and_counts_no_attempt_and_refunds() -> Result<()> {
    let quotas = QuotaSettings { messages: Some("1/h burst 1".parse()?), cost: None };
    let (mut broker, topic, group) = started(GroupSettings { quotas, ..GroupSettings::default() }).await?;
    let producer = broker.client().producer(topic).connect().await?;
    publish(&producer, "x", 2).await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(4).connect().await?;
    let held = next(&mut consumer).await?;
    let change = broker.admin(None)?.revoke_lite(&group, &LiteName::parse("x")?, Duration::from_mins(10)).await?;
    assert_eq!((change.revoked, change.lite_topic.backlog, change.lite_topic.leases.len()), (1, 2, 0));
    let settled = held.ack().await;
    assert!(matches!(settled, Err(SettleError::LeaseLost)), "{settled:?}");
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    assert!(nothing_comes(&mut consumer).await, "the suspension was forgotten");
    // The quota's only message of this hour was given back.
    broker.admin(None)?.resume_lite(&group, &LiteName::parse("x")?, None).await?;
    assert_eq!(text(&next(&mut consumer).await?), "x 0 #1 m0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_suspended_is_refused_with_the_reason() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    publish(&broker.client().producer(topic).connect().await?, "x", 1).await?;
    let (admin, lite) = (broker.admin(None)?, LiteName::parse("x")?);
    let suspend = async |group: &GroupName, lite: &str, duration| {
        refusal(admin.suspend_lite(group, &LiteName::parse(lite)?, duration).await)
    };
    let minute = Duration::from_mins(1);
    let refusals = [
        suspend(&group, "never-seen", minute).await?,
        suspend(&GroupName::parse("nobody")?, "x", minute).await?,
        suspend(&group, "x", Duration::ZERO).await?,
        suspend(&group, "x", Duration::from_hours(30 * 24 + 1)).await?,
        refusal(admin.lite_topic(&group, &LiteName::parse("never-seen")?).await)?,
        refusal(admin.resume_lite(&group, &LiteName::parse("never-seen")?, None).await)?,
    ];
    insta::assert_snapshot!(refusals.join("\n"), @r"
    unknown_lite: lite topic `never-seen` does not exist in topic `t`
    unknown_group: group `nobody` does not exist
    invalid_argument: for_ms: 0, allowed are 1 to 2592000000 (30 days)
    invalid_argument: for_ms: 2595600000, allowed are 1 to 2592000000 (30 days)
    unknown_lite: lite topic `never-seen` does not exist in topic `t`
    unknown_lite: lite topic `never-seen` does not exist in topic `t`
    ");
    assert_eq!(sources(&admin.lite_topic(&group, &lite).await?), []);
    let out = broker.sluice(&["lite", "suspend", "g", "x", "--for", "soon"])?;
    assert_eq!(out.status.code(), Some(2), "{}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn several_leases_of_a_lite_topic_are_revoked_and_come_back_in_order() -> Result<()> {
    let concurrency = ConcurrencySettings { lite_topic: 3, ..ConcurrencySettings::default() };
    let (broker, topic, group) = started(GroupSettings { concurrency, ..GroupSettings::default() }).await?;
    publish(&broker.client().producer(topic).connect().await?, "x", 5).await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(3).connect().await?;
    let held = [next(&mut consumer).await?, next(&mut consumer).await?, next(&mut consumer).await?];
    let (admin, lite) = (broker.admin(None)?, LiteName::parse("x")?);
    let change = admin.revoke_lite(&group, &lite, Duration::from_mins(10)).await?;
    assert_eq!((change.revoked, change.lite_topic.backlog), (3, 5));
    for delivery in held {
        assert!(matches!(delivery.ack().await, Err(SettleError::LeaseLost)));
    }
    admin.resume_lite(&group, &lite, None).await?;
    for expected in ["x 0 #1 m0", "x 1 #1 m1", "x 2 #1 m2", "x 3 #1 m3", "x 4 #1 m4"] {
        let delivery = next(&mut consumer).await?;
        assert_eq!(text(&delivery), expected);
        delivery.ack().await?;
    }
    Ok(())
}

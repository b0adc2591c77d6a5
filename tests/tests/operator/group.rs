//! Groups: pause, concurrency, back-off.

use anyhow::Result;
use sluicegate_client::admin::{BackOff, ConcurrencySettings, GroupSettings, RetrySettings};

use super::{json, next, nothing_comes, publish, started, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_group_gets_nothing_across_a_crash_and_goes_on_when_resumed() -> Result<()> {
    let (mut broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    publish(&producer, "x", 2).await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(2).connect().await?;
    let held = next(&mut consumer).await?;
    assert!(broker.admin(None)?.pause_group(&group).await?.paused);
    // Open leases run on.
    held.ack().await?;
    assert!(nothing_comes(&mut consumer).await, "a paused group got a message");
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    assert!(broker.admin(None)?.group(&group).await?.paused);
    assert!(nothing_comes(&mut consumer).await, "the pause was forgotten");
    assert!(!broker.admin(None)?.resume_group(&group).await?.paused);
    assert_eq!(text(&next(&mut consumer).await?), "x 1 #1 m1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_higher_concurrency_serves_lite_topics_that_have_open_leases() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    publish(&producer, "x", 3).await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(4).connect().await?;
    let first = next(&mut consumer).await?;
    assert!(nothing_comes(&mut consumer).await, "strict order was broken");
    let concurrency = ConcurrencySettings { lite_topic: 2, ..ConcurrencySettings::default() };
    broker.admin(None)?.set_concurrency(&group, &concurrency).await?;
    let second = next(&mut consumer).await?;
    assert_eq!((text(&first), text(&second)), ("x 0 #1 m0".into(), "x 1 #1 m1".into()));
    assert!(nothing_comes(&mut consumer).await, "more than two at once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_concurrency_of_the_group_holds_until_the_next_change_and_survives_a_restart() -> Result<()> {
    let (mut broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    for lite in ["a", "b", "c"] {
        publish(&producer, lite, 1).await?;
    }
    let concurrency = ConcurrencySettings { group: Some(1), tenant: Some(1), lite_topic: 1 };
    broker.admin(None)?.set_concurrency(&group, &concurrency).await?;
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    assert_eq!(broker.admin(None)?.group(&group).await?.settings.concurrency, concurrency);
    let mut consumer = broker.client().consumer(group.clone()).workers(4).connect().await?;
    let held = next(&mut consumer).await?;
    assert!(nothing_comes(&mut consumer).await, "more than one at once");
    broker.admin(None)?.set_concurrency(&group, &ConcurrencySettings::default()).await?;
    let others = [next(&mut consumer).await?, next(&mut consumer).await?];
    assert_eq!((held.lite(), others[0].lite(), others[1].lite()), ("a", "b", "c"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_back_off_waits_the_same_time_before_each_retry() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    let retry = RetrySettings { back_off: BackOff::Fixed, initial_ms: 200, max_ms: 1 };
    let changed = broker.admin(None)?.set_retry(&group, &retry).await?;
    assert_eq!((changed.settings.retry_back_off, changed.settings.retry_initial_ms), (BackOff::Fixed, 200));
    let producer = broker.client().producer(topic).connect().await?;
    publish(&producer, "x", 1).await?;
    let mut consumer = broker.client().consumer(group).connect().await?;
    let mut delivery = next(&mut consumer).await?;
    for attempt in 2..=5 {
        let before = delivery.dispatched_at();
        delivery.retry(None).await?;
        delivery = next(&mut consumer).await?;
        let waited = delivery.dispatched_at().since(before);
        assert_eq!(delivery.attempt(), attempt);
        // Doubled, the fourth would wait 1.6 s.
        assert!((200..1_200).contains(&waited.as_millis()), "attempt {attempt} came after {waited:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_changed_from_the_command_line() -> Result<()> {
    let (broker, _, _) = started(GroupSettings::default()).await?;
    let paused = json(&broker, &["group", "pause", "g"])?;
    let resumed = json(&broker, &["group", "resume", "g"])?;
    assert_eq!((&paused["paused"], &resumed["paused"]), (&true.into(), &false.into()));
    let changed = json(&broker, &["group", "concurrency", "g", "--concurrency", "7", "--lite-topic-concurrency", "2"])?;
    assert_eq!(changed["settings"]["concurrency"], serde_json::json!({"group": 7, "tenant": null, "lite_topic": 2}));
    let changed = json(&broker, &["group", "retry", "g", "--retry-back-off", "fixed", "--retry-initial", "3s"])?;
    assert_eq!(
        (&changed["settings"]["retry_back_off"], &changed["settings"]["retry_initial_ms"]),
        (&"fixed".into(), &3_000.into())
    );
    let refused = broker.sluice(&["group", "concurrency", "g", "--lite-topic-concurrency", "0"])?;
    assert_eq!(
        String::from_utf8_lossy(&refused.stderr).trim(),
        "sluice: invalid_argument: concurrency: at least 1 is needed"
    );
    assert_eq!(refused.status.code(), Some(4));
    let unknown = broker.sluice(&["group", "pause", "nobody"])?;
    assert_eq!(String::from_utf8_lossy(&unknown.stderr).trim(), "sluice: unknown_group: group `nobody` does not exist");
    assert_eq!(unknown.status.code(), Some(4));
    Ok(())
}

//! What operators do while traffic flows: pause, suspend, revoke, seek, skip, redrive, against a real broker process.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluicegate_client::admin::{
    AdminError, BackOff, BodyPreview, ConcurrencySettings, CreateGroup, GroupSettings, LiteTopic, MessageState, Page,
    QuotaSettings, RetrySettings, SeekTo, SuspensionSource, TopicSettings,
};
use sluicegate_client::{Consumer, Delivery, GroupName, LiteName, Message, Offset, Producer, SettleError, TopicName};
use sluicegate_tests::{Broker, PATIENCE};

/// Long enough that what must not happen would have happened.
const A_WHILE: Duration = Duration::from_millis(300);

async fn next(consumer: &mut Consumer) -> Result<Delivery> {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
    Ok(next.context("the consumer ended")??)
}

async fn nothing_comes(consumer: &mut Consumer) -> bool {
    tokio::time::timeout(A_WHILE, consumer.next()).await.is_err()
}

fn text(delivery: &Delivery) -> String {
    let body = String::from_utf8_lossy(delivery.body());
    format!("{} {} #{} {body}", delivery.lite(), delivery.offset(), delivery.attempt())
}

/// Publishes `m0`, `m1`, … to a lite topic.
async fn publish(producer: &Producer, lite: &str, count: u64) -> Result<()> {
    for n in 0..count {
        producer.send(Message::to(lite)?.body(format!("m{n}"))).await?;
    }
    Ok(())
}

async fn started(group: GroupSettings) -> Result<(Broker, TopicName, GroupName)> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), group).await?;
    Ok((broker, topic, group))
}

/// What a command prints with `-o json`.
fn json(broker: &Broker, arguments: &[&str]) -> Result<Value> {
    let out = broker.sluice(&[arguments, &["-o", "json"]].concat())?;
    ensure!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).with_context(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// What the broker says when it refuses.
fn refusal<T: std::fmt::Debug>(answer: Result<T, AdminError>) -> Result<String> {
    match answer {
        Err(AdminError::Refused(refusal)) => Ok(format!("{}: {}", refusal.code, refusal.message)),
        other => anyhow::bail!("not refused: {other:?}"),
    }
}

fn sources(lite: &LiteTopic) -> Vec<SuspensionSource> {
    lite.suspensions.iter().map(|suspension| suspension.source).collect()
}

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

#[tokio::test(flavor = "multi_thread")]
async fn pages_name_every_lite_topic_exactly_once() -> Result<()> {
    const LITES: usize = 250;
    let (broker, topic, _) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic.clone()).connect().await?;
    let mut names: Vec<_> = (0..LITES).map(|n| format!("user/{}", n * 7919 % 1_000)).collect();
    names.push("other".into());
    let mut pending = Vec::new();
    for name in &names {
        pending.push(producer.enqueue(Message::to(name)?).await?);
    }
    for receipt in pending {
        receipt.await?;
    }
    names.sort_unstable();
    let admin = broker.admin(None)?;
    for (prefix, limit, expected) in [(None, 7, &names[..]), (Some("user/"), 50, &names[1..]), (Some("v"), 9, &[])] {
        let mut found = Vec::new();
        let mut page = Page { prefix: prefix.map(str::to_owned), after: None, limit: Some(limit) };
        loop {
            let got = admin.lite_topics(&topic, &page).await?;
            assert!(got.lite_topics.len() <= limit as usize);
            found.extend(got.lite_topics.into_iter().map(|lite| lite.name.as_str().to_owned()));
            page.after = got.next;
            if page.after.is_none() {
                break;
            }
        }
        assert_eq!(found, expected, "prefix {prefix:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_limit_is_1_to_1000() -> Result<()> {
    let (broker, topic, _) = started(GroupSettings::default()).await?;
    for (limit, message) in [(0, "limit: 0, allowed are 1 to 1000"), (1_001, "limit: 1001, allowed are 1 to 1000")] {
        let page = Page { limit: Some(limit), ..Page::default() };
        assert_eq!(
            refusal(broker.admin(None)?.lite_topics(&topic, &page).await)?,
            format!("invalid_argument: {message}")
        );
    }
    let unknown = broker.admin(None)?.lite_topics(&TopicName::parse("nope")?, &Page::default()).await;
    assert_eq!(refusal(unknown)?, "unknown_topic: topic `nope` does not exist");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lite_topic_shows_where_a_group_stands_in_it() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    publish(&producer, "chat/1", 4).await?;
    let mut consumer = broker.client().consumer(group).connect().await?;
    next(&mut consumer).await?.ack().await?;
    next(&mut consumer).await?.retry(Some(Duration::ZERO)).await?;
    let held = next(&mut consumer).await?;
    let shown = json(&broker, &["lite", "show", "g", "chat/1"])?;
    assert_eq!([&shown["topic"], &shown["name"], &shown["tenant"], &shown["group"]], ["t", "chat/1", "chat/1", "g"]);
    assert_eq!([&shown["first_kept"], &shown["settled_up_to"], &shown["next_offset"], &shown["backlog"]], [1, 1, 4, 2]);
    assert_eq!(shown["head"], serde_json::json!({"offset": 2, "attempts": 0}));
    assert_eq!((&shown["leases"][0]["offset"], &shown["leases"][0]["attempt"]), (&1.into(), &2.into()));
    assert_eq!(shown["suspensions"], serde_json::json!([]));
    held.ack().await?;
    Ok(())
}

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

/// A seek of the group `g` in the lite topic `x`, from the command line.
fn seek(broker: &Broker, to: &str) -> Result<Value> {
    json(broker, &["lite", "seek", "g", "x", "--to", to])
}

#[tokio::test(flavor = "multi_thread")]
async fn seeking_moves_a_group_forth_and_what_is_passed_over_is_settled_for_good() -> Result<()> {
    let (mut broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    publish(&producer, "x", 6).await?;
    let change = seek(&broker, "offset:2")?;
    assert_eq!(
        [&change["settled"], &change["lite_topic"]["settled_up_to"], &change["lite_topic"]["backlog"]],
        [2, 2, 4]
    );
    assert_eq!(seek(&broker, "last:3")?["lite_topic"]["head"]["offset"], 3);
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let mut consumer = broker.client().consumer(group).connect().await?;
    for expected in ["x 3 #1 m3", "x 4 #1 m4", "x 5 #1 m5"] {
        let delivery = next(&mut consumer).await?;
        assert_eq!(text(&delivery), expected);
        delivery.ack().await?;
    }
    let change = seek(&broker, "earliest")?;
    assert_eq!(change["lite_topic"]["first_kept"], 6, "what every group has settled is gone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn seeking_back_delivers_again_what_another_group_keeps() -> Result<()> {
    let (mut broker, topic, group) = started(GroupSettings::default()).await?;
    let slow =
        CreateGroup { name: GroupName::parse("slow")?, topic: topic.clone(), settings: GroupSettings::default() };
    broker.admin(None)?.create_group(&slow).await?;
    let producer = broker.client().producer(topic).connect().await?;
    publish(&producer, "x", 3).await?;
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    let mut published = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut consumer).await?;
        published.push(delivery.published_at());
        delivery.ack().await?;
    }
    let lite = LiteName::parse("x")?;
    let change = broker.admin(None)?.seek_lite(&group, &lite, SeekTo::Timestamp(published[1])).await?;
    assert_eq!((change.settled, change.lite_topic.head.map(|head| head.offset.0)), (0, Some(1)));
    consumer.close().await;
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    for expected in ["x 1 #1 m1", "x 2 #1 m2"] {
        let delivery = next(&mut consumer).await?;
        assert_eq!(text(&delivery), expected);
        delivery.ack().await?;
    }
    seek(&broker, "earliest")?;
    assert_eq!(text(&next(&mut consumer).await?), "x 0 #1 m0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_moved_under_an_open_lease_until_it_is_revoked() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    publish(&producer, "x", 3).await?;
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    let held = next(&mut consumer).await?;
    let (admin, lite) = (broker.admin(None)?, LiteName::parse("x")?);
    for answer in [
        admin.seek_lite(&group, &lite, SeekTo::Latest).await,
        admin.skip_message(&group, &lite, Offset(0)).await,
        admin.purge_lite(&group, &lite).await,
    ] {
        let refusal = refusal(answer)?;
        assert!(refusal.starts_with("in_use: offset 0 is leased to session "), "{refusal}");
    }
    admin.revoke_lite(&group, &lite, Duration::from_mins(10)).await?;
    assert_eq!(admin.seek_lite(&group, &lite, SeekTo::Offset(Offset(2))).await?.settled, 2);
    assert!(matches!(held.ack().await, Err(SettleError::LeaseLost)));
    admin.resume_lite(&group, &lite, None).await?;
    assert_eq!(text(&next(&mut consumer).await?), "x 2 #1 m2");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_skipped_message_is_never_delivered_and_its_neighbours_are() -> Result<()> {
    let (mut broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    publish(&producer, "x", 4).await?;
    for offset in ["2", "0"] {
        assert_eq!(json(&broker, &["lite", "skip", "g", "x", "--offset", offset])?["settled"], 1);
    }
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let mut consumer = broker.client().consumer(group).connect().await?;
    for expected in ["x 1 #1 m1", "x 3 #1 m3"] {
        let delivery = next(&mut consumer).await?;
        assert_eq!(text(&delivery), expected);
        delivery.ack().await?;
    }
    assert!(nothing_comes(&mut consumer).await);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn skipping_a_head_ends_its_retry_delay() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    publish(&broker.client().producer(topic).connect().await?, "x", 2).await?;
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    next(&mut consumer).await?.retry(Some(Duration::from_mins(10))).await?;
    broker.admin(None)?.skip_message(&group, &LiteName::parse("x")?, Offset(0)).await?;
    assert_eq!(text(&next(&mut consumer).await?), "x 1 #1 m1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn purging_settles_more_messages_than_are_deleted_one_by_one() -> Result<()> {
    const COUNT: u64 = 1_500;
    let (mut broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic.clone()).connect().await?;
    let mut pending = Vec::new();
    for n in 0..COUNT {
        pending.push(producer.enqueue(Message::to("x")?.body(n.to_string())).await?);
    }
    for receipt in pending {
        receipt.await?;
    }
    let change = json(&broker, &["lite", "purge", "g", "x"])?;
    assert_eq!([&change["settled"], &change["lite_topic"]["first_kept"]], [COUNT, COUNT]);
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let producer = broker.client().producer(topic).connect().await?;
    assert_eq!(producer.send(Message::to("x")?.body("after")).await?.offset.0, COUNT);
    let mut consumer = broker.client().consumer(group).connect().await?;
    assert_eq!(text(&next(&mut consumer).await?), "x 1500 #1 after");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peek_shows_messages_and_changes_nothing() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    producer.send(Message::to("x")?.body("hello").property("model", "small").priority(7).cost(3)).await?;
    producer.send(Message::to("x")?.body(vec![0xff; 5_000])).await?;
    producer.send(Message::to("x")?.body("last")).await?;
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    let held = next(&mut consumer).await?;
    let (admin, lite) = (broker.admin(None)?, LiteName::parse("x")?);
    let before = admin.lite_topic(&group, &lite).await?;
    let peek = admin.peek(&group, &lite, None, Some(2)).await?;
    assert_eq!((peek.messages.len(), peek.next), (2, Some(Offset(2))));
    let first = &peek.messages[0];
    assert_eq!((first.state, first.priority, first.cost, first.body_bytes), (MessageState::Leased, 7, 3, 5));
    assert_eq!((&first.body, &first.properties["model"]), (&BodyPreview::Text("hello".into()), &"small".to_owned()));
    let BodyPreview::Base64(shown) = &peek.messages[1].body else { panic!("{peek:?}") };
    assert_eq!((peek.messages[1].body_bytes, shown.len()), (5_000, 5_464), "4 KiB in base64");
    assert_eq!(admin.lite_topic(&group, &lite).await?, before);
    held.ack().await?;
    let shown = json(&broker, &["lite", "peek", "g", "x", "--from", "2"])?;
    assert_eq!(shown["messages"][0]["body"], serde_json::json!({"text": "last"}));
    let past = json(&broker, &["lite", "peek", "g", "x", "--from", "99"])?;
    assert_eq!(past, serde_json::json!({"messages": [], "next": null}));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_that_are_not_there_are_refused() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    publish(&broker.client().producer(topic).connect().await?, "x", 3).await?;
    let (admin, lite) = (broker.admin(None)?, LiteName::parse("x")?);
    admin.skip_message(&group, &lite, Offset(0)).await?;
    let refusals = [
        refusal(admin.seek_lite(&group, &lite, SeekTo::Offset(Offset(4))).await)?,
        refusal(admin.seek_lite(&group, &lite, SeekTo::Offset(Offset(0))).await)?,
        refusal(admin.skip_message(&group, &lite, Offset(3)).await)?,
        refusal(admin.skip_message(&group, &lite, Offset(0)).await)?,
        refusal(admin.peek(&group, &lite, None, Some(101)).await)?,
        refusal(admin.peek(&group, &lite, None, Some(0)).await)?,
        refusal(admin.purge_lite(&group, &LiteName::parse("never-seen")?).await)?,
    ];
    insta::assert_snapshot!(refusals.join("\n"), @r"
    invalid_argument: offset 4 is not there: 1 is the first kept, 3 the next to come
    invalid_argument: offset 0 is not there: 1 is the first kept, 3 the next to come
    invalid_argument: offset 3 is not there: 3 is the next to come
    invalid_argument: offset 0 is settled already
    invalid_argument: limit: 101, allowed are 1 to 100
    invalid_argument: limit: 0, allowed are 1 to 100
    unknown_lite: lite topic `never-seen` does not exist in topic `t`
    ");
    for position in ["sideways", "offset:-1", "timestamp:yesterday"] {
        assert_eq!(broker.sluice(&["lite", "seek", "g", "x", "--to", position])?.status.code(), Some(2), "{position}");
    }
    Ok(())
}

/// Publishes to each of these lite topics and lets the group `g` give the messages up.
async fn bury(broker: &Broker, topic: &TopicName, group: &GroupName, lites: &[&str]) -> Result<()> {
    let producer = broker.client().producer(topic.clone()).connect().await?;
    for lite in lites {
        producer.send(Message::to(lite)?.body(format!("of {lite}")).property("own", "kept").priority(7)).await?;
    }
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    for _ in lites {
        next(&mut consumer).await?.dead_letter("no use").await?;
    }
    consumer.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_page_by_page_with_their_cause() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    bury(&broker, &topic, &group, &["a", "b", "b", "c", "b"]).await?;
    let admin = broker.admin(None)?;
    let mut found = Vec::new();
    let mut page = Page { limit: Some(2), ..Page::default() };
    loop {
        let got = admin.dead_letters(&group, &page).await?;
        found.extend(got.dead_letters.into_iter().map(|dead| format!("{} {} {}", dead.lite, dead.offset, dead.origin)));
        page.after = got.next;
        if page.after.is_none() {
            break;
        }
    }
    assert_eq!(found, ["a 0 0", "b 0 0", "b 1 1", "b 2 2", "c 0 0"]);
    let listed = json(&broker, &["dead-letter", "list", "g", "--prefix", "c"])?;
    let listed = &listed["dead_letters"][0];
    assert_eq!((&listed["cause"], &listed["attempts"], &listed["origin"]), (&"no use".into(), &1.into(), &0.into()));
    assert_eq!(listed.as_object().context("an object")?.len(), 6, "{listed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn redriven_messages_start_anew_and_leave_the_dead_letter_topic() -> Result<()> {
    let (mut broker, topic, group) = started(GroupSettings::default()).await?;
    bury(&broker, &topic, &group, &["a", "b", "b"]).await?;
    let done = json(&broker, &["dead-letter", "redrive", "g", "--limit", "2"])?;
    assert_eq!(done, serde_json::json!({"moved": 2, "in_use": 0, "more": true}));
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let done = json(&broker, &["dead-letter", "redrive", "g"])?;
    assert_eq!(done, serde_json::json!({"moved": 1, "in_use": 0, "more": false}));
    assert_eq!(json(&broker, &["dead-letter", "redrive", "g"])?["moved"], 0, "the second time moves nothing");
    assert_eq!(broker.admin(None)?.dead_letters(&group, &Page::default()).await?.dead_letters, []);
    let mut consumer = broker.client().consumer(group).connect().await?;
    let mut got = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut consumer).await?;
        assert_eq!((delivery.priority(), delivery.property("own")), (7, Some("kept")));
        assert_eq!(delivery.property("sluicegate.dead-letter.cause"), None);
        got.push(text(&delivery));
        delivery.ack().await?;
    }
    got.sort_unstable();
    assert_eq!(got, ["a 1 #1 of a", "b 2 #1 of b", "b 3 #1 of b"]);
    assert!(nothing_comes(&mut consumer).await, "a message was doubled");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_is_for_its_own_group() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    let other = CreateGroup { name: GroupName::parse("h")?, topic: topic.clone(), settings: GroupSettings::default() };
    broker.admin(None)?.create_group(&other).await?;
    bury(&broker, &topic, &group, &["a"]).await?;
    let done = broker.admin(None)?.redrive(&group, Some(&LiteName::parse("a")?), None).await?;
    assert_eq!((done.moved, done.more), (1, false));
    let mut consumer = broker.client().consumer(other.name).connect().await?;
    let first = next(&mut consumer).await?;
    assert_eq!(text(&first), "a 0 #1 of a");
    first.ack().await?;
    assert!(nothing_comes(&mut consumer).await, "another group got the message again");
    let mut consumer = broker.client().consumer(group).connect().await?;
    assert_eq!(text(&next(&mut consumer).await?), "a 1 #1 of a");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_on_the_dead_letter_topic_never_sees_what_was_redriven() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    bury(&broker, &topic, &group, &["a", "a", "b"]).await?;
    let admin = broker.admin(None)?;
    assert_eq!(admin.redrive(&group, Some(&LiteName::parse("a")?), Some(1)).await?.moved, 1);
    // A group that comes later starts at the first that is kept.
    let doctor = CreateGroup {
        name: GroupName::parse("doctor")?,
        topic: TopicName::parse_existing("t.dlq.g")?,
        settings: GroupSettings::default(),
    };
    admin.create_group(&doctor).await?;
    let mut consumer = broker.client().consumer(doctor.name).workers(2).connect().await?;
    let mut deliveries = [next(&mut consumer).await?, next(&mut consumer).await?];
    deliveries.sort_unstable_by_key(|delivery| delivery.lite().to_owned());
    let [held, other] = deliveries;
    assert_eq!((text(&held), text(&other)), ("a 1 #1 of a".into(), "b 0 #1 of b".into()));
    other.ack().await?;
    // What it works on stays; what it is done with is not moved.
    let refused = refusal(admin.redrive(&group, Some(&LiteName::parse("a")?), None).await)?;
    assert!(refused.starts_with("in_use: offset 1 is leased to session "), "{refused}");
    let done = admin.redrive(&group, None, None).await?;
    assert_eq!((done.moved, done.in_use), (0, 1));
    held.retry(Some(Duration::from_mins(10))).await?;
    assert_eq!(admin.redrive(&group, None, None).await?.moved, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_lite_topic_is_gone_and_its_name_begins_a_new_life() -> Result<()> {
    const COUNT: u64 = 1_200;
    let (mut broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic.clone()).connect().await?;
    let mut pending = Vec::new();
    for n in 0..COUNT {
        pending.push(producer.enqueue(Message::to("x")?.body(n.to_string())).await?);
    }
    for receipt in pending {
        receipt.await?;
    }
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    let held = next(&mut consumer).await?;
    let gone = json(&broker, &["lite", "delete", "t", "x"])?;
    assert_eq!([&gone["messages"], &gone["revoked"]], [COUNT, 1]);
    assert!(matches!(held.ack().await, Err(SettleError::LeaseLost)));
    let (admin, lite) = (broker.admin(None)?, LiteName::parse("x")?);
    assert_eq!(
        refusal(admin.lite_topic(&group, &lite).await)?,
        "unknown_lite: lite topic `x` does not exist in topic `t`"
    );
    assert_eq!(admin.topic(&topic).await?.lite_topics, 0);
    let receipt = producer.send(Message::to("x")?.body("anew")).await?;
    assert_eq!((receipt.offset.0, receipt.created), (0, true));
    assert_ne!(Value::from(receipt.lite_id.0), gone["lite_id"]);
    assert_eq!(text(&next(&mut consumer).await?), "x 0 #1 anew");
    consumer.close().await;
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let shown = broker.admin(None)?.lite_topic(&group, &lite).await?;
    assert_eq!((shown.lite_id, shown.next_offset.0, shown.backlog), (receipt.lite_id, 1, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_while_messages_come_is_gone_for_good() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic.clone()).connect().await?;
    let (admin, lite) = (broker.admin(None)?, LiteName::parse("x")?);
    let mut lives = std::collections::BTreeSet::new();
    for round in 0..20 {
        let pending: Vec<_> = {
            let mut pending = Vec::new();
            for n in 0..20 {
                pending.push(producer.enqueue(Message::to("x")?.body(format!("{round}.{n}"))).await?);
            }
            pending
        };
        // It may not be there yet, or be there twice; it must never be half there.
        match admin.delete_lite(&topic, &lite).await {
            Ok(_) => {}
            other => assert_eq!(refusal(other)?, "unknown_lite: lite topic `x` does not exist in topic `t`"),
        }
        for receipt in pending {
            lives.insert(receipt.await?.lite_id);
        }
    }
    let newest = *lives.last().context("messages were published")?;
    let left = admin.lite_topic(&group, &lite).await;
    let Ok(left) = left else { return Ok(()) };
    assert_eq!((left.lite_id, left.first_kept, left.backlog), (newest, Offset(0), left.next_offset.0));
    let mut consumer = broker.client().consumer(group).connect().await?;
    for offset in 0..left.next_offset.0 {
        let delivery = next(&mut consumer).await?;
        assert_eq!((delivery.lite_id(), delivery.offset().0), (newest, offset));
        delivery.ack().await?;
    }
    Ok(())
}

//! `GET /metrics`: figures move with what happens, labels stay few, and the page says what it means.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluicegate_client::admin::{CreateGroup, CreateTopic, GroupSettings, QuotaSettings, TopicSettings};
use sluicegate_client::{Consumer, Delivery, GroupName, Message, Timestamp, TopicName};
use sluicegate_tests::openmetrics::Page;
use sluicegate_tests::{Broker, PATIENCE};

const DOCS: &str = include_str!("../../docs/metrics.md");

async fn get(broker: &Broker, token: Option<&str>) -> Result<reqwest::Response> {
    let http = reqwest::Client::builder().tls_backend_preconfigured(broker.trust().tls_config()?).no_proxy().build()?;
    let mut request = http.get(format!("{}/metrics", broker.admin_url()));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    Ok(request.send().await?)
}

async fn scrape(broker: &Broker) -> Result<Page> {
    let answer = get(broker, None).await?;
    let content_type = answer.headers().get("content-type").context("a content type")?.to_str()?.to_owned();
    assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    Page::parse(&answer.text().await?)
}

async fn next(consumer: &mut Consumer) -> Result<Delivery> {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
    Ok(next.context("the consumer ended")??)
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_follow_what_happens_to_messages() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    for lite in ["ack", "retry", "suspend", "dead", "open"] {
        producer.send(Message::to(lite)?.body("0123456789")).await?;
    }
    let of_group = [("group", "g"), ("topic", "t")];
    let before = scrape(&broker).await?;
    assert_eq!(before.count("sluicegate_published_messages_total", &[])?, 5);
    assert_eq!(before.count("sluicegate_published_bytes_total", &[])?, 50);
    assert_eq!(before.count("sluicegate_backlog_messages", &of_group)?, 5);
    assert_eq!(before.count("sluicegate_ready_lite_topics", &of_group)?, 5);
    assert_eq!(before.count("sluicegate_deliveries_total", &of_group)?, 0);

    let mut consumer = broker.client().consumer(group).workers(8).connect().await?;
    let mut open = None;
    // The message of `retry` comes a second time.
    for _ in 0..6 {
        let delivery = next(&mut consumer).await?;
        match (delivery.lite(), delivery.attempt()) {
            ("retry", 1) => delivery.retry(Some(Duration::ZERO)).await?,
            ("suspend", _) => delivery.suspend(Duration::from_hours(1)).await?,
            ("dead", _) => delivery.dead_letter("no use").await?,
            ("open", _) => open = Some(delivery),
            _ => delivery.ack().await?,
        }
    }
    let after = scrape(&broker).await?;
    let ended =
        |outcome| after.count("sluicegate_leases_ended_total", &[of_group[0], of_group[1], ("outcome", outcome)]);
    assert_eq!(
        [
            ended("ack")?,
            ended("retry")?,
            ended("suspend")?,
            ended("dead_letter")?,
            ended("expired")?,
            ended("returned")?
        ],
        [2, 1, 1, 1, 0, 0]
    );
    let figures = [
        ("sluicegate_deliveries_total", 6),
        ("sluicegate_wait_seconds_count", 6),
        ("sluicegate_service_seconds_count", 5),
        ("sluicegate_dead_letters_total", 1),
        ("sluicegate_backlog_messages", 1),
        ("sluicegate_held_lite_topics", 1),
        ("sluicegate_open_leases", 1),
        ("sluicegate_sessions", 1),
    ];
    for (name, value) in figures {
        assert_eq!(after.count(name, &of_group)?, value, "{name}");
    }
    assert_eq!(after.count("sluicegate_dead_letters_total", &[("reason", "consumer")])?, 1);
    assert_eq!(after.count("sluicegate_published_messages_total", &[])?, 5, "a dead letter is no publish");
    assert_eq!(after.count("sluicegate_health", &[("status", "ok")])?, 1);
    assert!(after.count("sluicegate_connections", &[])? >= 1);
    assert!(after.count("sluicegate_store_commits_total", &[])? >= 5);
    assert!(after.count("sluicegate_store_sync_seconds_count", &[])? >= 1);
    open.context("the message of `open` was delivered")?.ack().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_and_the_delivery_before_it_are_not_counted_as_waiting() -> Result<()> {
    const SUSPENSION: Duration = Duration::from_secs(1);
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let mut consumer = broker.client().consumer(group).connect().await?;
    broker.client().producer(topic).connect().await?.send(Message::to("a")?).await?;
    next(&mut consumer).await?.suspend(SUSPENSION).await?;
    next(&mut consumer).await?.ack().await?;
    let page = scrape(&broker).await?;
    assert_eq!(page.count("sluicegate_wait_seconds_count", &[])?, 2);
    let waited = page.value("sluicegate_wait_seconds_sum", &[])?;
    assert!(waited < SUSPENSION.as_secs_f64(), "{waited}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_gates_are_timed_and_expired_messages_counted() -> Result<()> {
    let broker = Broker::start()?;
    let quotas = QuotaSettings { messages: Some("2/s burst 1".parse()?), cost: Some("1000/s".parse()?) };
    let (topic, group) =
        broker.topic_and_group(TopicSettings::default(), GroupSettings { quotas, ..GroupSettings::default() }).await?;
    let producer = broker.client().producer(topic).connect().await?;
    let mut consumer = broker.client().consumer(group).connect().await?;
    for lite in ["a", "b"] {
        producer.send(Message::to(lite)?).await?;
    }
    next(&mut consumer).await?.suspend(Duration::from_millis(1)).await?;
    // The first is refunded and comes at once, the second waits for the quota.
    for _ in 0..2 {
        next(&mut consumer).await?.ack().await?;
    }
    let page = scrape(&broker).await?;
    let closed = page.value("sluicegate_gate_closed_seconds_total", &[("group", "g")])?;
    assert!(closed > 0.2 && closed < PATIENCE.as_secs_f64(), "{closed}");
    assert!(page.value("sluicegate_quota_left_messages", &[])? <= 1.0);
    assert!(page.value("sluicegate_quota_left_cost", &[])? > 900.0);
    assert_eq!(page.count("sluicegate_quota_refunds_total", &[])?, 1);
    let late = Message::to("late")?.expires_at(Timestamp(1));
    producer.send(late).await?;
    let skipped = async {
        while scrape(&broker).await?.count("sluicegate_messages_skipped_total", &[("reason", "expired")])? < 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, skipped).await.context("an expired message was not counted")?
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_lite_topics_bring_no_series() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let series = |page: &Page| {
        page.samples().map(|sample| format!("{}{:?}", sample.name, sample.labels)).collect::<BTreeSet<_>>()
    };
    let before = scrape(&broker).await?;
    let producer = broker.client().producer(topic).connect().await?;
    let mut pending = Vec::new();
    for number in 0..5_000 {
        pending.push(producer.enqueue(Message::to(&format!("user-{number}"))?.body("m")).await?);
    }
    for receipt in pending {
        tokio::time::timeout(PATIENCE, receipt).await.context("no receipt")??;
    }
    let mut consumer = broker.client().consumer(group).workers(64).connect().await?;
    for _ in 0..100 {
        next(&mut consumer).await?.ack().await?;
    }
    let after = scrape(&broker).await?;
    assert_eq!(after.count("sluicegate_lite_topics", &[])?, 5_000);
    assert_eq!(series(&after), series(&before));
    let labels: BTreeSet<_> = after.samples().flat_map(|sample| sample.labels.keys().map(String::as_str)).collect();
    assert_eq!(labels, ["group", "topic", "outcome", "reason", "le", "part", "place", "status", "version"].into());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_one_page_have_a_limit() -> Result<()> {
    let broker = Broker::start()?;
    let (admin, topic) = (broker.admin(None)?, TopicName::parse("t")?);
    admin.create_topic(&CreateTopic { name: topic.clone(), settings: TopicSettings::default() }).await?;
    for number in 0..258 {
        let name = GroupName::parse(&format!("g{number:03}"))?;
        admin.create_group(&CreateGroup::new(name, topic.clone(), GroupSettings::default())).await?;
    }
    let page = scrape(&broker).await?;
    assert_eq!(page.count("sluicegate_groups_left_out", &[])?, 2);
    assert_eq!(page.families["sluicegate_open_leases"].samples.len(), 256);
    assert_eq!(page.count("sluicegate_shards_missing", &[])?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_to_read_is_needed_and_enough() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("sluice.toml");
    let sha256 = |token: &str| {
        use sha2::Digest as _;
        format!("{:x}", sha2::Sha256::digest(token.as_bytes()))
    };
    let token = |name: &str| format!("[[tokens]]\nname = '{name}'\nsha256 = '{}'\nrights = ['{name}']\n", sha256(name));
    std::fs::write(&config, [token("read"), token("publish")].concat())?;
    let broker = Broker::start_with(&["--dev", "--config", config.to_str().context("a path")?])?;
    let status = async |token| anyhow::Ok(get(&broker, token).await?.status().as_u16());
    assert_eq!(
        [status(Some("read")).await?, status(Some("publish")).await?, status(Some("no")).await?],
        [200, 403, 401]
    );
    Ok(())
}

/// Every row of the tables in `docs/metrics.md`: name, type, unit, labels.
fn documented() -> Result<BTreeSet<[String; 4]>> {
    let rows = DOCS.lines().filter(|line| line.starts_with("| `sluicegate_"));
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
        ensure!(cells.len() == 5 && !cells[4].is_empty(), "a row has name, type, unit, labels, meaning: {row}");
        Ok([cells[0].clone(), cells[1].clone(), cells[2].clone(), cells[3].clone()])
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documentation_names_every_metric_and_no_other() -> Result<()> {
    let broker = Broker::start()?;
    let quotas = QuotaSettings { messages: Some("100/s".parse()?), cost: Some("100/s".parse()?) };
    broker.topic_and_group(TopicSettings::default(), GroupSettings { quotas, ..GroupSettings::default() }).await?;
    let page = scrape(&broker).await?;
    let real = page.families.iter().map(|(name, family)| {
        let suffix = match family.kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let mut labels: Vec<&str> = Vec::new();
        for label in family.samples.iter().flat_map(|sample| sample.labels.keys()) {
            if label != "le" && !labels.contains(&label.as_str()) {
                labels.push(label);
            }
        }
        // In the order of the documentation: group, topic, then what is the metric's own.
        labels.sort_unstable_by_key(|label| (*label != "group", *label != "topic"));
        let or_dash = |text: &str| if text.is_empty() { "–".to_owned() } else { text.to_owned() };
        let unit = family.unit.as_deref().unwrap_or_default();
        [format!("{name}{suffix}"), family.kind.clone(), or_dash(unit), or_dash(&labels.join(", "))]
    });
    assert_eq!(documented()?, real.collect());
    Ok(())
}

//! A group's traffic is written down as it passes: what came and what became of it, no bodies.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sluicegate_client::admin::{Admin, GroupSettings, RecordGroup, Recording, TenantRule, TopicSettings};
use sluicegate_client::{Consumer, Delivery, GroupName, Message};
use sluicegate_protocol::recording::{Arrival, Header, Line, Outcome, WorkResult};
use sluicegate_tests::{Broker, PATIENCE, policy_file, sluice};

/// A recording, read.
struct Read {
    header: Header,
    lines: Vec<Line>,
    text: String,
}

impl Read {
    /// All of it, when it ended.
    async fn of(mut recording: Recording) -> Result<Self> {
        let mut text = Vec::new();
        while let Some(chunk) = tokio::time::timeout(PATIENCE, recording.chunk()).await.context("no end came")?? {
            text.extend_from_slice(&chunk);
        }
        let text = String::from_utf8(text)?;
        let mut lines = text.lines();
        let header: Header = serde_json::from_str(lines.next().context("a recording has a header")?)?;
        header.check()?;
        let lines = lines.map(serde_json::from_str).collect::<Result<Vec<Line>, _>>()?;
        for line in &lines {
            line.check()?;
        }
        Ok(Self { header, lines, text })
    }

    fn arrivals(&self) -> Vec<&Arrival> {
        let mut arrivals = Vec::new();
        for line in &self.lines {
            if let Line::Arrival(arrival) = line {
                arrivals.push(arrival);
            }
        }
        arrivals
    }

    fn outcomes(&self) -> Vec<&Outcome> {
        let mut outcomes = Vec::new();
        for line in &self.lines {
            if let Line::Outcome(outcome) = line {
                outcomes.push(outcome);
            }
        }
        outcomes
    }

    /// Lines that the broker could not keep up with; only a whole recording says it.
    fn lost(&self) -> Result<u64> {
        match self.lines.last() {
            Some(Line::End(end)) => Ok(end.lost),
            other => bail!("the recording ends with {other:?}"),
        }
    }
}

async fn next(consumer: &mut Consumer) -> Result<Delivery> {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
    Ok(next.context("the consumer ended")??)
}

async fn record(admin: &Admin, group: &GroupName) -> Result<tokio::task::JoinHandle<Result<Read>>> {
    let recording = admin.record(group, &RecordGroup::default()).await?;
    Ok(tokio::spawn(Read::of(recording)))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_and_what_became_of_it_is_in_a_recording() -> Result<()> {
    let broker = Broker::start()?;
    let topic = TopicSettings { tenant: TenantRule::Prefix, ..TopicSettings::default() };
    let (topic, group) = broker.topic_and_group(topic, GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let producer = broker.client().producer(topic.clone()).connect().await?;
    producer.send(Message::to("old/1")?.cost(9)).await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(4).connect().await?;
    let old = next(&mut consumer).await?;

    let reading = record(&admin, &group).await?;
    let again = admin.record(&group, &RecordGroup::default()).await;
    ensure!(again.is_err_and(|error| error.to_string().starts_with("in_use: ")), "two recordings at once");
    // In flight at the start: not in it. Waiting at the start: in it, when it is delivered.
    let expires_at = old.dispatched_at().plus(Duration::from_secs(100));
    old.ack().await?;
    let message = Message::to("acme/1")?.body("secret body").cost(7).priority(8);
    let message = message.property("label.class", "batch").property("tokens", "120").property("word", "x");
    producer.send(message.expires_at(expires_at)).await?;
    next(&mut consumer).await?.retry(Some(Duration::from_millis(1))).await?;
    next(&mut consumer).await?.ack_with_cost(30).await?;
    producer.send(Message::to("acme/1")?).await?;
    next(&mut consumer).await?.dead_letter("no good").await?;
    admin.end_recording(&group).await?;
    let read = reading.await??;

    let Header { topic: of, group: by, sessions, slots, one_in, policy, .. } = read.header.clone();
    assert_eq!((of, by, sessions, slots, one_in, policy), (topic, group.clone(), 1, 4, 1, None));
    let Line::Lite(lite) = &read.lines[0] else { bail!("a lite topic comes before what it has: {:?}", read.lines) };
    assert_eq!((lite.name.as_str(), lite.tenant.as_str(), lite.labels.len()), ("acme/1", "acme", 1));
    let arrivals = read.arrivals();
    let told: Vec<_> = arrivals.iter().map(|arrival| (arrival.offset.0, arrival.cost, arrival.priority)).collect();
    assert_eq!(told, [(0, 7, 8), (1, 1, 4)]);
    assert_eq!(arrivals[0].numbers, [("tokens".to_owned(), 120)].into());
    ensure!(arrivals[0].expires_in_us.is_some_and(|us| us <= 100_000_000), "{arrivals:?}");
    let outcomes = read.outcomes();
    let told: Vec<_> =
        outcomes.iter().map(|outcome| (outcome.offset.0, outcome.attempt, outcome.cost, outcome.result)).collect();
    let expected = [(0, 1, 7, WorkResult::Retried), (0, 2, 30, WorkResult::Done), (1, 1, 1, WorkResult::DeadLettered)];
    assert_eq!(told, expected);
    ensure!(
        outcomes.iter().all(|outcome| outcome.lite == lite.id && outcome.at_us >= outcome.service_us),
        "{outcomes:?}"
    );
    assert_eq!(read.lost()?, 0);
    ensure!(!read.text.contains("secret") && !read.text.contains("no good"), "bodies and reasons stay where they are");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_at_the_start_is_in_when_it_is_delivered_and_another_recording_may_follow() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let producer = broker.client().producer(topic).connect().await?;
    for nth in 0..3 {
        producer.send(Message::to("waits")?.cost(nth + 1)).await?;
    }
    for _ in 0..2 {
        let reading = record(&admin, &group).await?;
        let mut consumer = broker.client().consumer(group.clone()).workers(1).connect().await?;
        let first = next(&mut consumer).await?;
        let offset = first.offset();
        first.retry(Some(Duration::from_millis(1))).await?;
        let again = next(&mut consumer).await?;
        assert_eq!(again.offset(), offset);
        again.ack().await?;
        admin.end_recording(&group).await?;
        let read = reading.await??;
        // Told once, although it was delivered twice. What was delivered and not settled is told without an outcome.
        let arrivals: Vec<_> = read.arrivals().iter().map(|arrival| (arrival.at_us, arrival.offset)).collect();
        assert_eq!(arrivals[0], (0, offset));
        ensure!(arrivals.len() <= 2 && arrivals.iter().all(|(at, _)| *at == 0), "{arrivals:?}");
        assert_eq!(
            read.outcomes().iter().map(|outcome| outcome.result).collect::<Vec<_>>(),
            [WorkResult::Retried, WorkResult::Done]
        );
        consumer.close().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_has_some_lite_topics_with_all_that_they_have() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let wrong = admin.record(&group, &RecordGroup { one_in: 0, ..RecordGroup::default() }).await;
    ensure!(wrong.is_err_and(|error| error.to_string().contains("one_in: at least 1")));
    let recording = admin.record(&group, &RecordGroup { one_in: 4, ..RecordGroup::default() }).await?;
    let reading = tokio::spawn(Read::of(recording));
    let producer = broker.client().producer(topic).connect().await?;
    for nth in 0..600 {
        drop(producer.enqueue(Message::to(&format!("lite-{}", nth % 200))?).await?);
    }
    producer.close().await;
    admin.end_recording(&group).await?;
    let read = reading.await??;
    let lites = read.lines.iter().filter(|line| matches!(line, Line::Lite(_))).count();
    ensure!((20..100).contains(&lites), "{lites} of 200 lite topics");
    assert_eq!(read.arrivals().len(), 3 * lites);
    ensure!(read.arrivals().is_sorted_by_key(|arrival| arrival.at_us), "arrivals are in the order of time");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_writes_a_file_that_ends_by_its_time_or_its_size() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("traffic.jsonl");
    let file = file.to_str().context("a path")?;
    let arguments = ["record", "--group", group.as_str(), "--out", file, "--seconds", "1", "-o", "json"];
    let out = tokio::task::block_in_place(|| broker.sluice(&arguments))?;
    let report: serde_json::Value = serde_json::from_slice(&out.stdout)?;
    assert_eq!((&report["lines"], &report["lost"]), (&2.into(), &0.into()), "{report}");
    let header: Header = serde_json::from_str(std::fs::read_to_string(file)?.lines().next().context("a line")?)?;
    assert_eq!(header.group, group);

    let admin = broker.admin(None)?;
    let recording = admin.record(&group, &RecordGroup { bytes_max: 2_000, ..RecordGroup::default() }).await?;
    let reading = tokio::spawn(Read::of(recording));
    let producer = broker.client().producer(topic).connect().await?;
    let mut sent = 0;
    while !reading.is_finished() {
        producer.send(Message::to(&format!("lite-{sent}"))?).await?;
        sent += 1;
        ensure!(sent < 10_000, "the recording does not end");
    }
    let read = reading.await??;
    assert_eq!(read.lost()?, 0);
    ensure!((2_000..100_000).contains(&read.text.len()), "{} bytes", read.text.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_too_slowly_loses_lines_which_are_counted_and_holds_nobody_up() -> Result<()> {
    const MESSAGES: u64 = 40_000;
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let recording = admin.record(&group, &RecordGroup::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    // Lines that are longer than what is on its way between the two.
    let long = |nth: u32| format!("{nth:0>60}");
    let mut receipt = None;
    for _ in 0..MESSAGES {
        let message = (0..10).fold(Message::to("lite")?, |message, nth| message.property(long(nth), "1"));
        receipt = Some(producer.enqueue(message).await?);
    }
    receipt.context("something was sent")?.await?;
    admin.end_recording(&group).await?;
    let read = Read::of(recording).await?;
    let lost = read.lost()?;
    ensure!(lost > 0, "{} lines waited for their reader", read.lines.len());
    assert_eq!(read.arrivals().len() as u64 + lost, MESSAGES);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_is_simulated_the_same_each_time() -> Result<()> {
    let broker = Broker::start()?;
    let topic = TopicSettings { tenant: TenantRule::Prefix, ..TopicSettings::default() };
    let (topic, group) = broker.topic_and_group(topic, GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let producer = broker.client().producer(topic).connect().await?;
    for nth in 0..20 {
        producer.send(Message::to(&format!("early/{}", nth % 5))?.cost(5)).await?;
    }
    let mut consumer = broker.client().consumer(group.clone()).workers(2).connect().await?;
    let reading = record(&admin, &group).await?;
    for nth in 0..60 {
        producer.send(Message::to(&format!("{}/{}", ["acme", "beta", "core"][nth % 3], nth % 7))?.cost(10)).await?;
    }
    let mut done = 0;
    while done < 80 {
        let delivery = next(&mut consumer).await?;
        if delivery.attempt() == 1 && delivery.offset().0 == 1 {
            delivery.retry(Some(Duration::from_millis(1))).await?;
        } else {
            delivery.ack_with_cost(12).await?;
            done += 1;
        }
    }
    admin.end_recording(&group).await?;
    let read = reading.await??;
    // What was delivered before the recording began is not in it.
    ensure!((78..=80).contains(&read.arrivals().len()), "{} messages", read.arrivals().len());

    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name).to_str().context("a path").map(str::to_owned);
    let (trace, page) = (file("traffic.jsonl")?, file("page.html")?);
    std::fs::write(&trace, &read.text)?;
    let component = policy_file("token-bucket");
    let limited = format!("{}={{\"rate_per_second\":100,\"burst\":20}}", component.to_str().context("a path")?);
    let simulate = || -> Result<serde_json::Value> {
        let arguments = ["policy", "simulate", "--trace", &trace, "--against", "fair", "--against", &limited];
        let output = Command::new(sluice()).args(arguments).args(["--report", &page, "-o", "json"]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let (once, again) = (simulate()?, simulate()?);
    let [fair, limited] = [&once["runs"][0], &once["runs"][1]];
    ensure!(fair["digest"].is_string() && fair["digest"] != limited["digest"], "{once}");
    ensure!(limited["throttled"].as_u64() > Some(0), "{limited}");
    assert_eq!(once["runs"], again["runs"]);
    Ok(())
}

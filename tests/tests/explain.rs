//! Why a lite topic waits, and who waits longest, asked of a real broker over HTTP and by the command line.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluicegate_client::admin::{
    ActivatePolicy, Admin, AdminError, Blocker, Bucket, Cause, ConcurrencySettings, Explanation, GroupSettings,
    PolicyVerdict, QuotaSettings, Rank, SuspensionSource, TenantRule, TopicSettings,
};
use sluicegate_client::{Consumer, Delivery, GroupName, LiteName, Message, Offset, Producer, TopicName};
use sluicegate_tests::{Broker, PATIENCE, policy};

async fn next(consumer: &mut Consumer) -> Result<Delivery> {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
    Ok(next.context("the consumer ended")??)
}

async fn publish(producer: &Producer, lites: &[&str]) -> Result<()> {
    for lite in lites {
        producer.send(Message::to(lite)?).await?;
    }
    Ok(())
}

async fn started(group: GroupSettings) -> Result<(Broker, Producer, GroupName)> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), group).await?;
    let producer = broker.client().producer(topic).connect().await?;
    Ok((broker, producer, group))
}

async fn explain(admin: &Admin, group: &GroupName, lite: &str) -> Result<Explanation> {
    Ok(admin.explain(group, &LiteName::parse(lite)?).await?)
}

/// Asks until the first blocker is as wanted.
async fn blocked(
    admin: &Admin,
    group: &GroupName,
    lite: &str,
    is_it: impl Fn(&Cause) -> bool,
) -> Result<(Explanation, Blocker)> {
    let mut last = None;
    let asked = async {
        loop {
            let why = explain(admin, group, lite).await?;
            if let Some(first) = why.blockers.first().filter(|first| is_it(&first.cause)) {
                return anyhow::Ok((why.clone(), first.clone()));
            }
            last = Some(why);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.with_context(|| format!("it is blocked otherwise: {last:?}"))?
}

fn causes(why: &Explanation) -> Vec<Cause> {
    why.blockers.iter().map(|blocker| blocker.cause.clone()).collect()
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, AdminError>) -> Result<String> {
    match answer {
        Err(AdminError::Refused(refusal)) => Ok(format!("{}: {}", refusal.code, refusal.message)),
        other => anyhow::bail!("not refused: {other:?}"),
    }
}

/// What a command prints for people, without its layout and what differs from run to run.
fn text(broker: &Broker, arguments: &[&str]) -> Result<String> {
    let out = broker.sluice(arguments)?;
    ensure!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    let lines: Vec<_> = String::from_utf8(out.stdout)?.lines().map(redacted).filter(|line| !line.is_empty()).collect();
    Ok(lines.join("\n"))
}

fn redacted(line: &str) -> String {
    const BRACKETS: [char; 4] = ['(', ')', ',', ':'];
    let mut redacted = Vec::<String>::new();
    let mut words = line.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let bare = word.trim_matches(BRACKETS);
        let is_unit = |next: &&str| ["ms", "s", "min", "h", "d"].contains(&next.trim_matches(BRACKETS));
        if bare.parse::<u64>().is_ok()
            && let Some(unit) = words.next_if(is_unit)
        {
            let end = unit.trim_start_matches(char::is_alphabetic);
            match redacted.last_mut().filter(|last| last.ends_with('…')) {
                Some(last) => last.push_str(end),
                None => redacted.push(word.replace(bare, "…") + end),
            }
        } else if bare.len() == 24 && bare.ends_with('Z') {
            redacted.push(word.replace(bare, "[time]"));
        } else if matches!(bare.len(), 12 | 32) && bare.chars().all(|digit| digit.is_ascii_hexdigit()) {
            redacted.push(word.replace(bare, "[id]"));
        } else {
            redacted.push(word.to_owned());
        }
    }
    redacted.join(" ")
}

fn json(broker: &Broker, arguments: &[&str]) -> Result<Value> {
    let out = broker.sluice(&[arguments, &["-o", "json"]].concat())?;
    ensure!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(serde_json::from_slice(&out.stdout)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_quota_gate_names_the_bucket_and_how_short_it_is() -> Result<()> {
    let quotas = QuotaSettings { messages: Some("1000/h".parse()?), cost: Some("100/h".parse()?) };
    let (broker, producer, group) = started(GroupSettings { quotas, ..GroupSettings::default() }).await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(4).connect().await?;
    producer.send(Message::to("x")?.cost(60)).await?;
    let leased = next(&mut consumer).await?;
    producer.send(Message::to("y")?.cost(70).priority(7)).await?;
    let admin = broker.admin(None)?;
    let is_quota = |cause: &Cause| matches!(cause, Cause::Quota { .. });
    let (why, gate) = blocked(&admin, &group, "y", is_quota).await?;
    // 60 of 100 are used, and a unit comes every 36 s.
    assert_eq!(causes(&why), [Cause::Quota { bucket: Bucket::Cost, short: 30 }]);
    let (since, until) = (gate.since.context("since")?, gate.until.context("until")?);
    assert!(since <= why.at && (17 * 60..=18 * 60).contains(&until.since(why.at).as_secs()), "{why:?}");
    let head = why.head.context("a head")?;
    assert_eq!((head.offset, head.priority, head.cost, head.attempts), (Offset(0), 7, 70, 0));
    assert_eq!((why.band, why.weight, why.backlog, why.estimated_start), (Some(7), Some(1), 1, Some(until)));
    assert_eq!((why.rank_in_tenant, why.rank_in_band), (Some(Rank::Exactly(0)), Some(Rank::Exactly(0))));
    let stats = admin.group(&group).await?.stats;
    assert_eq!((stats.gate_closed_until, stats.messages_left, stats.cost_left), (Some(until), Some(999), Some(40)));
    assert_eq!((stats.oldest_wait, stats.backlog, stats.ready_lite_topics), (Some(head.published_at), 1, 1));
    insta::assert_snapshot!(text(&broker, &["lite", "explain", "g", "y"])?, @r"
    y waits in group g for …: the cost quota is 30 units short of the next message
    blocked by the cost quota is 30 units short of the next message, since [time] (… ago), until [time] (in …)
    policy built-in fair scheduling
    estimated start [time] (in …)
    head offset 0, published [time] (… ago), priority 7, cost 70, attempts 0
    backlog 1
    tenant y, weight 1
    band 7
    before it 0 lite topics of its tenant, 0 tenants of its band
    ");
    insta::assert_snapshot!(text(&broker, &["group", "top", "g"])?, @r"
    group g is served
    sessions 1
    in flight 1
    backlog 1
    lite topics: waiting 1
    held until a time 0
    not in memory, held / other 0 / 0
    asking the policy 0
    throttled so far 0
    quota left messages 999, cost 40
    quota gate closed until [time] (in …)
    longest wait …
    LITE TOPIC TENANT WAITS BLOCKED BY BEFORE IT: OF ITS TENANT TENANTS
    y y … the cost quota is 30 units short of the next message 0 0
    ");
    let shown = json(&broker, &["lite", "explain", "g", "y"])?;
    assert_eq!((&shown["blockers"][0]["cause"], &shown["blockers"][0]["short"]), (&"quota".into(), &30.into()));
    leased.ack().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn suspensions_are_named_by_source_with_their_ends_the_last_to_end_first() -> Result<()> {
    let (broker, producer, group) = started(GroupSettings::default()).await?;
    publish(&producer, &["x"]).await?;
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    next(&mut consumer).await?.suspend(Duration::from_mins(10)).await?;
    let (admin, lite) = (broker.admin(None)?, LiteName::parse("x")?);
    let shown = admin.suspend_lite(&group, &lite, Duration::from_hours(1)).await?.lite_topic;
    let of = |source| shown.suspensions.iter().find(|held| held.source == source);
    let end_of = |source| of(source).map(|held| held.until);
    let why = explain(&admin, &group, "x").await?;
    let suspended = |source| {
        let since = of(source).and_then(|held| held.since);
        Blocker { cause: Cause::Suspended { source }, since, until: end_of(source) }
    };
    assert_eq!(why.blockers, [SuspensionSource::Operator, SuspensionSource::Settle].map(suspended));
    assert_eq!(why.estimated_start, end_of(SuspensionSource::Operator));
    assert_eq!(admin.group(&group).await?.stats.held_lite_topics, 1);
    assert_eq!(admin.waiters(&group, None).await?.waiters, [], "what is suspended does not wait for the group");
    insta::assert_snapshot!(text(&broker, &["lite", "explain", "g", "x"])?, @r"
    x waits in group g for …: an operator suspended it
    blocked by an operator suspended it, since [time] (… ago), until [time] (in …)
    blocked by a consumer suspended it when it settled, since [time] (… ago), until [time] (in …)
    policy built-in fair scheduling
    estimated start [time] (in …)
    head offset 0, published [time] (… ago), priority 4, cost 1, attempts 0
    backlog 1
    tenant x, weight 1
    band -
    ");
    admin.resume_lite(&group, &lite, Some(SuspensionSource::Operator)).await?;
    assert_eq!(explain(&admin, &group, "x").await?.blockers, [suspended(SuspensionSource::Settle)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn since_when_a_suspension_holds_is_known_across_a_crash_and_a_later_end() -> Result<()> {
    let (mut broker, producer, group) = started(GroupSettings::default()).await?;
    publish(&producer, &["operator", "settle", "retry"]).await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(3).connect().await?;
    let mut asked = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut consumer).await?;
        let (at, name) = (delivery.dispatched_at(), delivery.lite().to_owned());
        match name.as_str() {
            "settle" => delivery.suspend(Duration::from_mins(10)).await?,
            "retry" => delivery.retry(Some(Duration::from_mins(20))).await?,
            _ => {
                let (admin, lite) = (broker.admin(None)?, LiteName::parse(&name)?);
                admin.suspend_lite(&group, &lite, Duration::from_mins(30)).await?;
                delivery.suspend(Duration::from_millis(1)).await?;
            }
        }
        asked.push((name, at));
    }
    consumer.close().await;
    let since = async |broker: &Broker, name: &str| {
        let source = match name {
            "settle" => SuspensionSource::Settle,
            "retry" => SuspensionSource::Retry,
            _ => SuspensionSource::Operator,
        };
        let why = explain(&broker.admin(None)?, &group, name).await?;
        let held = why.blockers.iter().find(|blocker| blocker.cause == Cause::Suspended { source });
        let held = held.with_context(|| format!("it is not suspended: {why:?}"))?;
        anyhow::Ok((held.since.context("since")?, held.until.context("until")?))
    };
    let mut before = Vec::new();
    for (name, dispatched_at) in &asked {
        let (since, until) = since(&broker, name).await?;
        assert!(since >= *dispatched_at && until.since(since) >= Duration::from_mins(9), "{name}: {since:?} {until:?}");
        before.push((since, until));
    }
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    for ((name, _), before) in asked.iter().zip(before) {
        assert_eq!(since(&broker, name).await?, before, "{name}");
    }
    // A second suspension moves the end alone.
    let (admin, lite) = (broker.admin(None)?, LiteName::parse("operator")?);
    let shown = admin.suspend_lite(&group, &lite, Duration::from_hours(5)).await?.lite_topic;
    let (began, until) = since(&broker, "operator").await?;
    assert_eq!(shown.suspensions[0].since, Some(began));
    assert!(until.since(began) >= Duration::from_hours(5));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_lease_blocks_what_is_behind_it() -> Result<()> {
    let (broker, producer, group) = started(GroupSettings::default()).await?;
    publish(&producer, &["x", "x", "y"]).await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(4).connect().await?;
    let held = [next(&mut consumer).await?, next(&mut consumer).await?];
    let admin = broker.admin(None)?;
    let why = explain(&admin, &group, "x").await?;
    let dispatched_at = why.leases.iter().map(|lease| lease.dispatched_at).min();
    let blocker = Blocker { cause: Cause::LiteConcurrency { limit: 1 }, since: dispatched_at, until: None };
    assert_eq!((why.leases.len(), &why.blockers), (1, &vec![blocker]));
    assert_eq!((why.head.context("a head")?.offset, why.backlog, why.estimated_start), (Offset(1), 1, None));
    let why = explain(&admin, &group, "y").await?;
    assert_eq!((causes(&why), why.head, why.backlog), (vec![Cause::AllLeased], None, 0));
    insta::assert_snapshot!(text(&broker, &["lite", "explain", "g", "y"])?, @r"
    y does not wait in group g: all that is in it is being worked on
    blocked by all that is in it is being worked on, since [time] (… ago)
    policy built-in fair scheduling
    estimated start -
    head -
    backlog 0
    tenant y, weight 1
    band -
    lease offset 0, attempt 1, session [id], since [time] (… ago), until [time] (in …) unless it is extended
    ");
    for delivery in held {
        delivery.ack().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_at_its_concurrency_says_so() -> Result<()> {
    let concurrency = ConcurrencySettings { group: Some(1), ..ConcurrencySettings::default() };
    let (broker, producer, group) = started(GroupSettings { concurrency, ..GroupSettings::default() }).await?;
    publish(&producer, &["x"]).await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(4).connect().await?;
    let held = next(&mut consumer).await?;
    publish(&producer, &["y"]).await?;
    let why = explain(&broker.admin(None)?, &group, "y").await?;
    assert_eq!(causes(&why), [Cause::GroupConcurrency { limit: 1, by_policy: false }]);
    held.ack().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_consumer_that_is_what_is_missing() -> Result<()> {
    let (broker, producer, group) = started(GroupSettings::default()).await?;
    publish(&producer, &["x"]).await?;
    let admin = broker.admin(None)?;
    assert_eq!(causes(&explain(&admin, &group, "x").await?), [Cause::NoSession]);
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    next(&mut consumer).await?.ack().await?;
    let why = explain(&admin, &group, "x").await?;
    assert_eq!((causes(&why), why.head, why.leases.len()), (vec![Cause::Empty], None, 0));
    insta::assert_snapshot!(text(&broker, &["lite", "explain", "g", "x"])?, @r"
    x does not wait in group g: nothing waits in it
    blocked by nothing waits in it
    policy built-in fair scheduling
    estimated start -
    head -
    backlog 0
    tenant x, weight 1
    band -
    ");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_group_says_so_first() -> Result<()> {
    let (broker, producer, group) = started(GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let _consumer = broker.client().consumer(group.clone()).connect().await?;
    admin.pause_group(&group).await?;
    publish(&producer, &["x"]).await?;
    admin.suspend_lite(&group, &LiteName::parse("x")?, Duration::from_mins(10)).await?;
    let operator = Cause::Suspended { source: SuspensionSource::Operator };
    assert_eq!(causes(&explain(&admin, &group, "x").await?), [Cause::Paused, operator]);
    assert!(admin.waiters(&group, None).await?.paused);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttle_names_the_policy_and_its_reason() -> Result<()> {
    let (broker, producer, group) = started(GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    publish(&producer, &["unasked"]).await?;
    let digest = admin.push_policy(policy("token-bucket")).await?.digest;
    // Ten units at once, and ten more in 18 s: who waits for longer than 20 s would be suspended, and this test looks for less.
    let config = r#"{"unit":"cost","rate_per_second":0.55,"burst":10}"#;
    admin.activate_policy(&group, &ActivatePolicy { digest: digest.clone(), config: config.into() }).await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(4).connect().await?;
    for _ in 0..2 {
        producer.send(Message::to("greedy")?.cost(10)).await?;
    }
    for _ in 0..2 {
        next(&mut consumer).await?.ack_with_cost(10).await?;
    }
    let (why, throttle) = blocked(&admin, &group, "greedy", |cause| *cause == Cause::Throttled).await?;
    let policy = why.policy.context("a policy decides")?;
    assert_eq!((policy.digest, policy.name.as_str(), policy.suspended_because), (digest, "token-bucket", None));
    let said = policy.said.context("it said something")?;
    let PolicyVerdict::Throttle { for_ms } = said.verdict else { panic!("{said:?}") };
    assert_eq!((said.reason.as_str(), Some(said.at)), ("over rate", throttle.since));
    assert_eq!(throttle.until, Some(said.at.plus(Duration::from_millis(for_ms))));
    insta::assert_snapshot!(text(&broker, &["lite", "explain", "g", "greedy"])?, @r"
    greedy waits in group g for …: the policy throttles it
    blocked by the policy throttles it, since [time] (… ago), until [time] (in …)
    policy token-bucket ([id]) said throttle for …, because: over rate, at [time] (… ago)
    estimated start [time] (in …)
    head offset 1, published [time] (… ago), priority 4, cost 10, attempts 0
    backlog 1
    tenant greedy, weight 1
    band 4
    ");
    admin.deactivate_policy(&group).await?;
    next(&mut consumer).await?.ack().await?;
    let why = explain(&admin, &group, "greedy").await?;
    assert_eq!((causes(&why), why.policy), (vec![Cause::Empty], None));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_count_those_of_the_tenant_and_the_tenants_before() -> Result<()> {
    let broker = Broker::start()?;
    let topic = TopicSettings { tenant: TenantRule::Prefix, ..TopicSettings::default() };
    let (topic, group) = broker.topic_and_group(topic, GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    publish(&producer, &["ann/1", "ann/2", "ann/3", "bob/1"]).await?;
    let admin = broker.admin(None)?;
    let mut found = Vec::new();
    for lite in ["ann/1", "ann/3", "bob/1"] {
        let why = explain(&admin, &group, lite).await?;
        found.push((why.tenant.clone(), why.rank_in_tenant, why.rank_in_band, causes(&why)));
    }
    let rank = |count| Some(Rank::Exactly(count));
    let row =
        |tenant: &str, lites, tenants, causes: &[Cause]| (tenant.into(), rank(lites), rank(tenants), causes.to_vec());
    let behind = [Cause::NoSession, Cause::Turn];
    assert_eq!(found, [row("ann", 0, 0, &behind[..1]), row("ann", 2, 0, &behind), row("bob", 0, 1, &behind)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_waiters_come_first_across_the_steps_of_a_long_list() -> Result<()> {
    let (broker, producer, group) = started(GroupSettings::default()).await?;
    let names: Vec<_> = (0..25).map(|n| format!("w{}", n * 7 % 25)).collect();
    publish(&producer, &names.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let admin = broker.admin(None)?;
    for (limit, count) in [(None, 10), (Some(3), 3), (Some(20), 20), (Some(25), 25), (Some(1_000), 25)] {
        let top = admin.waiters(&group, limit).await?;
        let found: Vec<_> = top.waiters.iter().map(|waiter| waiter.name.as_str()).collect();
        assert_eq!(found, names[..count], "limit {limit:?}");
        assert!(top.waiters.is_sorted_by_key(|waiter| waiter.since));
        assert_eq!((top.stats.oldest_wait, top.stats.backlog), (Some(top.waiters[0].since), 25));
    }
    let second = &admin.waiters(&group, Some(2)).await?.waiters[1];
    assert_eq!((second.tenant.as_str(), second.rank_in_band), ("w7", Some(Rank::Exactly(1))));
    assert_eq!(second.blocker.as_ref().map(|blocker| &blocker.cause), Some(&Cause::NoSession));
    let top = json(&broker, &["group", "top", "g", "--limit", "2"])?;
    assert_eq!((&top["waiters"][0]["name"], &top["waiters"][2]), (&"w0".into(), &Value::Null));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_what_was_drained_is_explained_from_the_store() -> Result<()> {
    let (mut broker, producer, group) = started(GroupSettings::default()).await?;
    publish(&producer, &["held", "idle"]).await?;
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    for _ in 0..2 {
        next(&mut consumer).await?.ack().await?;
    }
    consumer.close().await;
    broker.admin(None)?.suspend_lite(&group, &LiteName::parse("held")?, Duration::from_mins(10)).await?;
    tokio::task::block_in_place(|| broker.stop_and_restart())?;
    let why = explain(&broker.admin(None)?, &group, "held").await?;
    assert_eq!(causes(&why), [Cause::Suspended { source: SuspensionSource::Operator }, Cause::Empty]);
    let why = explain(&broker.admin(None)?, &group, "idle").await?;
    assert_eq!(causes(&why), [Cause::Empty]);
    assert_eq!((why.head, why.backlog, why.weight, why.rank_in_band), (None, 0, None, None));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_names_and_limits_out_of_range_are_refused() -> Result<()> {
    let (broker, producer, group) = started(GroupSettings::default()).await?;
    publish(&producer, &["x"]).await?;
    let (admin, nobody) = (broker.admin(None)?, GroupName::parse("nobody")?);
    let refusals = [
        refusal(admin.explain(&group, &LiteName::parse("never-seen")?).await)?,
        refusal(admin.explain(&nobody, &LiteName::parse("x")?).await)?,
        refusal(admin.waiters(&nobody, None).await)?,
        refusal(admin.waiters(&group, Some(0)).await)?,
        refusal(admin.waiters(&group, Some(1_001)).await)?,
    ];
    insta::assert_snapshot!(refusals.join("\n"), @r"
    unknown_lite: lite topic `never-seen` does not exist in topic `t`
    unknown_group: group `nobody` does not exist
    unknown_group: group `nobody` does not exist
    invalid_argument: limit: 0, allowed are 1 to 1000
    invalid_argument: limit: 1001, allowed are 1 to 1000
    ");
    assert_eq!(broker.sluice(&["lite", "explain", "g", "never-seen"])?.status.code(), Some(4));
    assert_eq!(broker.sluice(&["group", "top", "g", "--watch", "-o", "json"])?.status.code(), Some(2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_broker_is_the_first_blocker() -> Result<()> {
    let (broker, producer, group) = started(GroupSettings::default()).await?;
    publish(&producer, &["x", "x"]).await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(4).connect().await?;
    let held = next(&mut consumer).await?;
    broker.ask_to_stop()?;
    let admin = broker.admin(None)?;
    let (why, _) = blocked(&admin, &group, "x", |cause| *cause == Cause::Draining).await?;
    assert_eq!(causes(&why), [Cause::Draining, Cause::LiteConcurrency { limit: 1 }]);
    assert!(admin.waiters(&group, None).await?.draining);
    drop(held);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_store_is_the_answer_instead_of_what_may_not_be_so() -> Result<()> {
    const MESSAGES: u64 = 400;
    let broker = Broker::start_with_small_files()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let producer = broker.client().producer(TopicName::parse(topic.as_str())?).connect().await?;
    // 25 MB, of which the log takes a few.
    for _ in 0..MESSAGES {
        drop(producer.enqueue(Message::to("x")?.body(vec![0x5a; 64_000])).await?);
    }
    let (admin, lite) = (broker.admin(None)?, LiteName::parse("x")?);
    let asked = async {
        loop {
            if let Ok(refused) = refusal(admin.explain(&group, &lite).await)
                && refused.starts_with("store_failed: ")
            {
                return anyhow::Ok(refused);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let refused = tokio::time::timeout(PATIENCE, asked).await.context("the store does not fail")??;
    // By the shard that met it, or by what stands in for all of them while the store is opened again.
    assert!(refused.contains("store: IO error"), "{refused}");
    Ok(())
}

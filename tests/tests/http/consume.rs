//! Messages that are taken and settled in a group over HTTP.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Response;
use serde_json::{Value, json};
use sluicegate_client::admin::{CreateGroup, GroupSettings, TopicSettings};
use sluicegate_client::{GroupName, TopicName};
use sluicegate_tests::{Broker, PATIENCE};

use super::{World, client, refused};

/// A topic `t` that is a work queue, with a group `g`.
pub(crate) async fn world(settings: GroupSettings) -> Result<World> {
    world_with(TopicSettings::default(), settings).await
}

pub(crate) async fn world_with(topic: TopicSettings, settings: GroupSettings) -> Result<World> {
    let world = World::start(topic).await?;
    let group = CreateGroup::new(GroupName::parse("g")?, TopicName::parse("t")?, settings);
    world.admin.create_group(&group).await?;
    Ok(world)
}

/// A session of group `g`.
pub(crate) struct Session {
    http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) id: String,
    pub(crate) opened: Value,
}

impl Session {
    pub(crate) async fn open(world: &World, opening: Value) -> Result<Self> {
        let sessions = format!("{}/v1/groups/g/sessions", world.broker.http_url());
        let answer = world.http.post(&sessions).json(&opening).send().await?;
        let (status, opened): (_, Value) = (answer.status(), answer.json().await?);
        ensure!(status == 201, "{status}: {opened}");
        let id = opened["session"].as_str().context("a session has an id")?.to_owned();
        Ok(Self { http: world.http.clone(), url: format!("{sessions}/{id}"), id, opened })
    }

    pub(crate) async fn ask(&self, query: &str) -> Result<Response> {
        Ok(self.http.post(format!("{}/receive?{query}", self.url)).send().await?)
    }

    /// What it is given.
    pub(crate) async fn receive(&self, query: &str) -> Result<Value> {
        let answer = tokio::time::timeout(PATIENCE, self.ask(query)).await.context("no answer")??;
        let (status, received): (_, Value) = (answer.status(), answer.json().await?);
        ensure!(status == 200, "{status}: {received}");
        Ok(received)
    }

    /// The one message that it is given.
    pub(crate) async fn one(&self) -> Result<Value> {
        let mut received = self.receive("wait_ms=10000").await?;
        let deliveries = received["deliveries"].as_array_mut().context("deliveries")?;
        ensure!(deliveries.len() == 1, "{deliveries:?}");
        Ok(deliveries.remove(0))
    }

    pub(crate) async fn settle(&self, settles: Value) -> Result<Vec<Value>> {
        let answer = self.http.post(format!("{}/settle", self.url)).json(&settles).send().await?;
        let (status, settled): (_, Value) = (answer.status(), answer.json().await?);
        ensure!(status == 200, "{status}: {settled}");
        Ok(settled["results"].as_array().context("results")?.clone())
    }

    /// The code of one settle, none if it is done.
    pub(crate) async fn settle_one(&self, delivery: &Value, outcome: &str) -> Result<Option<String>> {
        let results = self.settle(json!([{ "delivery": delivery["delivery"], "outcome": outcome }])).await?;
        Ok(results[0]["error"]["code"].as_str().map(str::to_owned))
    }

    pub(crate) async fn close(&self) -> Result<Response> {
        Ok(self.http.delete(&self.url).send().await?)
    }
}

fn quick() -> GroupSettings {
    GroupSettings { session_grace_ms: 100, ..GroupSettings::default() }
}

fn count(received: &Value) -> usize {
    received["deliveries"].as_array().map_or(usize::MAX, Vec::len)
}

#[tokio::test]
async fn what_is_taken_is_settled_as_the_session_says() -> Result<()> {
    let world = world(GroupSettings::default()).await?;
    for lite in ["ack", "retry", "suspend", "bury", "extend"] {
        world.publish(&format!("lite={lite}&property.k={lite}&cost=3"), lite).await?;
    }
    let session = Session::open(&world, json!({ "timeout_ms": 30_000 })).await?;
    assert_eq!(session.opened["held"], json!([]));
    let received = session.receive("max=10&wait_ms=10000").await?;
    let delivery = |lite: &str| -> Result<&Value> {
        let all = received["deliveries"].as_array().context("deliveries")?;
        all.iter().find(|delivery| delivery["lite"] == lite).context("it was delivered")
    };
    assert_eq!(count(&received), 5, "{received}");
    let one = delivery("ack")?;
    let shown = ["body", "tenant", "attempt", "cost", "priority", "offset"].map(|key| one[key].clone());
    assert_eq!(json!(shown), json!(["ack", "ack", 1, 3, 4, 0]));
    assert_eq!(one["properties"], json!({ "k": "ack" }));
    let of = |lite: &str| delivery(lite).map(|delivery| delivery["delivery"].clone());
    let results = session
        .settle(json!([
            { "delivery": of("ack")?, "outcome": "ack", "cost": 7 },
            { "delivery": of("retry")?, "outcome": "retry", "delay_ms": 0 },
            { "delivery": of("suspend")?, "outcome": "suspend", "duration_ms": 3_600_000 },
            { "delivery": of("bury")?, "outcome": "dead_letter", "reason": "no good" },
            { "delivery": of("extend")?, "outcome": "extend" },
            { "delivery": of("ack")?, "outcome": "ack" },
        ]))
        .await?;
    assert_eq!(json!(results[..4]), json!([{}, {}, {}, {}]));
    assert!(results[4]["deadline_us"].as_u64() >= delivery("extend")?["deadline_us"].as_u64(), "{results:?}");
    assert_eq!(results[5]["error"]["code"], "lease_lost");
    let again = session.one().await?;
    assert_eq!((&again["lite"], &again["attempt"]), (&json!("retry"), &json!(2)));
    let stats = world.admin.group(&GroupName::parse("g")?).await?.stats;
    let counted = [stats.acked, stats.retried, stats.suspended, stats.dead_lettered, stats.in_flight, stats.sessions];
    assert_eq!(counted, [1, 1, 1, 1, 2, 1]);
    // What it holds returns at once, uncounted.
    assert_eq!(session.close().await?.status(), 204);
    let next = Session::open(&world, json!({})).await?;
    let received = next.receive("max=10&wait_ms=10000").await?;
    let attempts: Vec<_> = received["deliveries"].as_array().context("deliveries")?.iter().collect();
    let attempts: Vec<_> = attempts.iter().map(|delivery| (&delivery["lite"], &delivery["attempt"])).collect();
    assert_eq!(json!(attempts), json!([["extend", 1], ["retry", 2]]), "{received}");
    assert_eq!(refused(session.ask("wait_ms=0").await?).await?, "404 unknown_session");
    Ok(())
}

#[tokio::test]
async fn a_long_poll_is_woken_by_a_publish_or_ends_with_nothing() -> Result<()> {
    let world = world(GroupSettings::default()).await?;
    let session = Session::open(&world, json!({})).await?;
    assert_eq!(session.receive("wait_ms=50").await?, json!({ "deliveries": [], "lost": [], "ended": [] }));
    // Nothing is given to a session that does not ask, nor more than it asked for.
    world.publish("lite=a", "first").await?;
    world.publish("lite=b", "second").await?;
    assert_eq!(session.one().await?["body"], "first");
    let stats = world.admin.group(&GroupName::parse("g")?).await?.stats;
    assert_eq!((stats.in_flight, stats.delivered), (1, 1));
    assert_eq!(session.one().await?["body"], "second");
    let waiting = tokio::spawn(async move { session.one().await });
    world.publish("lite=c", "third").await?;
    assert_eq!(waiting.await??["body"], "third");
    Ok(())
}

#[tokio::test]
async fn a_client_that_goes_away_while_it_waits_takes_nothing() -> Result<()> {
    let world = world(GroupSettings::default()).await?;
    let (gone, session) = (Session::open(&world, json!({})).await?, Session::open(&world, json!({})).await?);
    let waiting = gone.ask("wait_ms=60000");
    assert!(tokio::time::timeout(Duration::from_millis(300), waiting).await.is_err(), "there was nothing to take");
    // Its request is dropped, and so is its connection; whether the broker knows yet or not, the message is not lost.
    world.publish("lite=a", "x").await?;
    let delivery = session.one().await?;
    assert_eq!((&delivery["body"], &delivery["attempt"]), (&json!("x"), &json!(1)));
    Ok(())
}

#[tokio::test]
async fn a_session_that_is_silent_loses_what_it_holds_and_its_late_settle_is_fenced() -> Result<()> {
    let world = world(quick()).await?;
    world.publish("lite=a", "x").await?;
    let session = Session::open(&world, json!({ "timeout_ms": 1_000 })).await?;
    let delivery = session.one().await?;
    // One that is heard of lives on.
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(session.settle_one(&delivery, "extend").await?, None);
    }
    let other = Session::open(&world, json!({})).await?;
    let again = other.one().await?;
    assert_eq!((&again["body"], &again["attempt"]), (&json!("x"), &json!(2)));
    assert_eq!(session.settle_one(&delivery, "ack").await?.as_deref(), Some("lease_lost"));
    assert_eq!(refused(session.ask("wait_ms=0").await?).await?, "404 unknown_session");
    assert_eq!(other.settle_one(&again, "ack").await?, None);
    Ok(())
}

#[tokio::test]
async fn a_session_goes_on_after_the_broker_was_killed() -> Result<()> {
    let mut world = world(GroupSettings::default()).await?;
    for lite in ["a", "b"] {
        world.publish(&format!("lite={lite}"), lite).await?;
    }
    let session = Session::open(&world, json!({})).await?;
    let (first, second) = (session.one().await?, session.one().await?);
    world.broker.crash_and_restart()?;
    world.http = client(&world.broker)?;
    // Leases are in the store, so what was received before is settled after.
    let session = Session { http: world.http.clone(), ..session };
    assert_eq!(session.settle_one(&first, "ack").await?, None);
    // To take more it says who it is, and learns what it still has.
    assert_eq!(refused(session.ask("wait_ms=0").await?).await?, "404 unknown_session");
    let session = Session::open(&world, json!({ "session": session.id })).await?;
    let held = session.opened["held"].as_array().context("held")?;
    assert_eq!((held.len(), &held[0]["delivery"], &held[0]["lite"]), (1, &second["delivery"], &second["lite"]));
    assert_eq!(session.settle_one(&second, "ack").await?, None);
    world.publish("lite=c", "c").await?;
    assert_eq!(session.one().await?["body"], "c");
    Ok(())
}

#[tokio::test]
async fn large_bodies_are_fetched_by_who_holds_the_lease() -> Result<()> {
    let world = world(GroupSettings::default()).await?;
    let body: Vec<u8> = (0..1_000_003_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect();
    let published = world.post("messages?lite=a").body(body.clone()).send().await?;
    assert_eq!(published.status(), 201);
    world.post("messages?lite=b").body(&b"\xff\xfe"[..]).send().await?.error_for_status()?;
    let session = Session::open(&world, json!({})).await?;
    let received = session.receive("max=2&wait_ms=10000").await?;
    let of = |lite: &str| received["deliveries"].as_array()?.iter().find(|delivery| delivery["lite"] == lite);
    let (large, small) = (of("a").context("a")?, of("b").context("b")?);
    assert_eq!((&large["large_body_bytes"], &small["body_base64"]), (&json!(body.len()), &json!("//4=")));
    let fetch = |session: &Session| {
        let delivery = large["delivery"].as_str().unwrap_or_default();
        world.http.get(format!("{}/deliveries/{delivery}", session.url)).send()
    };
    assert!(fetch(&session).await?.error_for_status()?.bytes().await? == body, "the body is another one");
    let other = Session::open(&world, json!({})).await?;
    assert_eq!(refused(fetch(&other).await?).await?, "409 lease_lost");
    assert_eq!(session.settle_one(large, "ack").await?, None);
    assert_eq!(refused(fetch(&session).await?).await?, "409 lease_lost");
    Ok(())
}

#[tokio::test]
async fn sessions_that_say_what_they_take_are_told_what_they_lose() -> Result<()> {
    use sluicegate_client::admin::ConsumeMode;
    let settings = GroupSettings { mode: ConsumeMode::Exclusive, ..GroupSettings::default() };
    let world = world(settings).await?;
    for lite in ["a", "b"] {
        world.publish(&format!("lite={lite}"), lite).await?;
    }
    let url = format!("{}/v1/groups/g/sessions", world.broker.http_url());
    let all = world.http.post(&url).send().await?;
    assert_eq!(refused(all).await?, "400 invalid_argument");
    let first = Session::open(&world, json!({ "lites": ["a"] })).await?;
    assert_eq!(first.receive("max=10&wait_ms=10000").await?["deliveries"][0]["lite"], "a");
    let second = Session::open(&world, json!({ "lites": ["a", "b"] })).await?;
    assert_eq!(count(&second.receive("max=10&wait_ms=10000").await?), 2);
    let told = first.receive("wait_ms=10000").await?;
    assert_eq!((count(&told), &told["lost"]), (0, &json!(["a"])));
    Ok(())
}

#[tokio::test]
async fn curl_takes_a_message_and_settles_it() -> Result<()> {
    let world = world(GroupSettings::default()).await?;
    world.publish("lite=a", "hello").await?;
    let Some(curl) = super::tools::curl(&world.broker) else { return Ok(()) };
    let sessions = format!("{}/v1/groups/g/sessions", world.broker.http_url());
    let opened: Value = serde_json::from_str(&curl(&["-X", "POST", &sessions])?)?;
    let session = format!("{sessions}/{}", opened["session"].as_str().context("an id")?);
    let received: Value = serde_json::from_str(&curl(&["-X", "POST", &format!("{session}/receive?wait_ms=10000")])?)?;
    assert_eq!(received["deliveries"][0]["body"], "hello");
    let settles = json!([{ "delivery": received["deliveries"][0]["delivery"], "outcome": "ack" }]).to_string();
    let settled = curl(&["--json", &settles, &format!("{session}/settle")])?;
    assert_eq!(settled, r#"{"results":[{}]}"#);
    curl(&["-X", "DELETE", &session])?;
    Ok(())
}

/// Ids of garbage, other sessions' deliveries, too many of everything.
#[tokio::test]
async fn what_breaks_a_rule_in_a_group_is_refused() -> Result<()> {
    let world = world(GroupSettings::default()).await?;
    world.publish("lite=a", "x").await?;
    let (session, other) = (Session::open(&world, json!({})).await?, Session::open(&world, json!({})).await?);
    let delivery = session.one().await?;
    assert_eq!(other.settle_one(&delivery, "ack").await?.as_deref(), Some("lease_lost"));
    let groups = format!("{}/v1/groups", world.broker.http_url());
    let post = |path: String, body: Value| world.http.post(format!("{groups}/{path}")).json(&body).send();
    // Only its head: who is refused before all of a body is sent may find the connection closed.
    let mut raw = world.raw()?;
    raw.say("POST /v1/groups/g/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 307200\r\n\r\n")?;
    assert!(raw.all()?.starts_with("HTTP/1.1 413"));
    let unknown = "0".repeat(32);
    let rules = [
        ("none/sessions".to_owned(), json!({}), "404 unknown_group"),
        ("a%20b/sessions".to_owned(), json!({}), "400 invalid_argument"),
        ("g/sessions".to_owned(), json!([]), "400 invalid_argument"),
        ("g/sessions".to_owned(), json!({ "unknown": 1 }), "400 invalid_argument"),
        ("g/sessions".to_owned(), json!({ "timeout_ms": 999 }), "400 invalid_argument"),
        ("g/sessions".to_owned(), json!({ "timeout_ms": 3_600_001 }), "400 invalid_argument"),
        ("g/sessions".to_owned(), json!({ "session": "xyz" }), "400 invalid_argument"),
        ("g/sessions".to_owned(), json!({ "lites": [""] }), "400 invalid_argument"),
        ("g/sessions".to_owned(), json!({ "lites": ["a"], "start": "first" }), "400 invalid_argument"),
        ("g/sessions".to_owned(), json!({ "start": "latest" }), "400 invalid_argument"),
        ("g/sessions".to_owned(), json!({ "lites": vec!["a"; 513] }), "413 too_large"),
        ("g/sessions?a=1".to_owned(), json!({}), "400 invalid_argument"),
        ("g/sessions/garbage/receive".to_owned(), json!({}), "400 invalid_argument"),
        ("g/sessions/garbage/settle".to_owned(), json!([]), "400 invalid_argument"),
        (format!("g/sessions/{unknown}/receive"), json!({}), "404 unknown_session"),
        (format!("none/sessions/{unknown}/receive"), json!({}), "404 unknown_group"),
        (format!("g/sessions/{}/receive?max=0", session.id), json!({}), "400 invalid_argument"),
        (format!("g/sessions/{}/receive?max=257", session.id), json!({}), "400 invalid_argument"),
        (format!("g/sessions/{}/receive?max=-1", session.id), json!({}), "400 invalid_argument"),
        (format!("g/sessions/{}/receive?wait_ms=60001", session.id), json!({}), "400 invalid_argument"),
        (format!("g/sessions/{}/settle", session.id), json!({}), "400 invalid_argument"),
        (format!("g/sessions/{}/settle", session.id), json!([{ "delivery": "1-1-1-1" }]), "400 invalid_argument"),
    ];
    for (path, body, expected) in rules {
        assert_eq!(refused(post(path.clone(), body).await?).await?, expected, "{path}");
    }
    let id = delivery["delivery"].clone();
    let many: Vec<_> = (0..1_025).map(|_| json!({ "delivery": id, "outcome": "ack" })).collect();
    let answer = post(format!("g/sessions/{}/settle", session.id), json!(many)).await?;
    assert_eq!(refused(answer).await?, "413 too_large");
    let garbage = session
        .settle(json!([
            { "delivery": "garbage", "outcome": "ack" },
            { "delivery": "1-2-3-4", "outcome": "ack" },
            { "delivery": id, "outcome": "ack", "cost": (1_u64 << 40) + 1 },
            { "delivery": id, "outcome": "ack", "delay_ms": 1 },
            { "delivery": id, "outcome": "suspend" },
            { "delivery": id, "outcome": "dead_letter", "reason": "x".repeat(257) },
        ]))
        .await?;
    let codes: Vec<_> = garbage.iter().map(|result| result["error"]["code"].as_str().unwrap_or_default()).collect();
    let invalid = "invalid_argument";
    assert_eq!(codes, [invalid, "lease_lost", invalid, invalid, invalid, "too_large"]);
    assert_eq!(
        refused(world.http.delete(format!("{groups}/g/sessions/{unknown}")).send().await?).await?,
        "404 unknown_session"
    );
    // None of that harmed the delivery.
    assert_eq!(session.settle_one(&delivery, "ack").await?, None);
    Ok(())
}

#[tokio::test]
async fn the_newest_receive_of_a_session_counts() -> Result<()> {
    let world = world(GroupSettings::default()).await?;
    let session = Session::open(&world, json!({})).await?;
    let url = format!("{}/receive?wait_ms=60000", session.url);
    let before = tokio::spawn(client(&world.broker)?.post(url).send());
    // Whichever comes to the broker first, the other one ends it.
    let now = tokio::spawn(async move { session.ask("wait_ms=60000").await });
    let answer = tokio::time::timeout(PATIENCE, async {
        tokio::select! { before = before => Ok::<_, anyhow::Error>(before??), now = now => now? }
    });
    assert_eq!(refused(answer.await??).await?, "409 lease_lost");
    Ok(())
}

#[tokio::test]
async fn one_session_more_than_there_may_be_is_refused() -> Result<()> {
    const SESSIONS: usize = 10_000;
    let world = world(GroupSettings::default()).await?;
    let url = format!("{}/v1/groups/g/sessions", world.broker.http_url());
    let before = world.broker.memory_bytes("VmRSS")?;
    let mut ids = Vec::new();
    while ids.len() < SESSIONS {
        let some = (0..100).map(|_| tokio::spawn(world.http.post(&url).send())).collect::<Vec<_>>();
        for answer in some {
            let opened: Value = answer.await??.error_for_status()?.json().await?;
            ids.push(opened["session"].as_str().context("an id")?.to_owned());
        }
    }
    let grown = world.broker.memory_bytes("VmRSS")?.saturating_sub(before);
    eprintln!("{SESSIONS} sessions: {} bytes each", grown / SESSIONS as u64);
    let answer = world.http.post(&url).send().await?;
    assert_eq!(answer.headers()["retry-after"], "1");
    assert_eq!(refused(answer).await?, "429 limit_reached");
    // One of them is opened again all the same, and the place of one that is closed is free.
    let again = world.http.post(&url).json(&json!({ "session": ids[0] })).send().await?;
    assert_eq!(again.status(), 201);
    assert_eq!(world.http.delete(format!("{url}/{}", ids[1])).send().await?.status(), 204);
    assert_eq!(world.http.post(&url).send().await?.status(), 201);
    Ok(())
}

#[tokio::test]
async fn only_who_may_consume_has_a_session() -> Result<()> {
    let (_folder, config) = super::bad::with_tokens("")?;
    let broker = Broker::start_with(&["--dev", "--config", &config])?;
    let url = format!("{}/v1/groups/g/sessions", broker.http_url());
    let open = client(&broker)?.post(&url).bearer_auth("pub").send().await?;
    assert_eq!(refused(open).await?, "403 permission_denied");
    let unknown = "0".repeat(32);
    for path in ["receive", "settle"] {
        let answer = client(&broker)?.post(format!("{url}/{unknown}/{path}")).bearer_auth("read").send().await?;
        assert_eq!(refused(answer).await?, "403 permission_denied");
    }
    Ok(())
}

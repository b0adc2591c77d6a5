//! Those who may not, and those who lie.

use anyhow::{Context, Result};
use serde_json::json;
use sluicegate_tests::Broker;

use super::{World, client, log, refused};

/// Tokens `pub` and `read` with one right each.
pub(crate) fn with_tokens(extra: &str) -> Result<(tempfile::TempDir, String)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("sluice.toml");
    let grant = |token: &str, right: &str| {
        let digest = <sha2::Sha256 as sha2::Digest>::digest(token);
        format!("[[tokens]]\nname = \"{token}\"\nsha256 = \"{digest:x}\"\nrights = [\"{right}\"]\n")
    };
    std::fs::write(&path, format!("{extra}\n{}{}", grant("pub", "publish"), grant("read", "read")))?;
    let path = path.to_str().context("temporary paths are UTF-8")?.to_owned();
    Ok((folder, path))
}

#[tokio::test]
async fn a_token_has_its_rights_and_comes_in_the_query_for_streams_only() -> Result<()> {
    let (_folder, config) = with_tokens("")?;
    let broker = Broker::start_with(&["--dev", "--config", &config])?;
    let (http, url) = (client(&broker)?, |path: &str| format!("{}/v1/topics/t/{path}", broker.http_url()));
    let publish = |token: &str| http.post(url("messages?lite=a")).bearer_auth(token).body("x").send();
    assert_eq!(publish("pub").await?.status(), 201);
    assert_eq!(refused(publish("read").await?).await?, "403 permission_denied");
    let unknown = publish("other").await?;
    assert_eq!(unknown.headers()["www-authenticate"], "Bearer");
    assert_eq!(refused(unknown).await?, "401 unauthenticated");
    let read = |path: &str, token: &str| http.get(url(path)).bearer_auth(token).send();
    assert_eq!(read("messages?lite=a", "read").await?.status(), 200);
    assert_eq!(refused(read("messages?lite=a", "pub").await?).await?, "403 permission_denied");
    assert_eq!(refused(read("stream?lite=a", "pub").await?).await?, "403 permission_denied");
    let get = |path: &str| http.get(url(path)).send();
    assert_eq!(get("stream?lite=a&access_token=read").await?.status(), 200);
    assert_eq!(refused(get("stream?lite=a&access_token=other").await?).await?, "401 unauthenticated");
    assert_eq!(refused(get("messages?lite=a&access_token=read").await?).await?, "400 invalid_argument");
    Ok(())
}

#[tokio::test]
async fn pages_of_other_origins_come_in_where_the_settings_say_so() -> Result<()> {
    let (_folder, config) = with_tokens("http_origins = [\"https://app.example\"]")?;
    let preflight = |http: &reqwest::Client, broker: &Broker, origin: &'static str| {
        http.request(reqwest::Method::OPTIONS, format!("{}/v1/topics/t/messages?lite=a", broker.http_url()))
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "authorization,sluice-property-x")
            .send()
    };
    let allowed = |answer: &reqwest::Response, name: &str| answer.headers().get(name).cloned();
    let broker = Broker::start_with(&["--dev", "--config", &config])?;
    let http = client(&broker)?;
    let ours = preflight(&http, &broker, "https://app.example").await?;
    assert_eq!(allowed(&ours, "access-control-allow-origin").context("allowed")?, "https://app.example");
    assert_eq!(allowed(&ours, "access-control-allow-headers").context("allowed")?, "authorization,sluice-property-x");
    let other = preflight(&http, &broker, "https://evil.example").await?;
    assert_eq!(allowed(&other, "access-control-allow-origin"), None);
    let closed = Broker::start()?;
    let answer = preflight(&client(&closed)?, &closed, "https://app.example").await?;
    assert_eq!(allowed(&answer, "access-control-allow-origin"), None);
    Ok(())
}

#[tokio::test]
async fn what_breaks_a_rule_is_refused_and_publishes_nothing() -> Result<()> {
    let world = World::start(log(None)).await?;
    let long = format!("lite={}", "x".repeat(256));
    let rules = [
        ("", "400 invalid_argument"),
        ("lite=", "400 invalid_argument"),
        (long.as_str(), "400 invalid_argument"),
        ("lite=a&lite=b", "400 invalid_argument"),
        ("lite=a%FF", "400 invalid_argument"),
        ("lite=a&property.x=%C3", "400 invalid_argument"),
        ("lite=a&priority=10", "400 invalid_argument"),
        ("lite=a&priority=+1", "400 invalid_argument"),
        ("lite=a&cost=1099511627777", "400 invalid_argument"),
        ("lite=a&deliver_at_us=1&delay_ms=1", "400 invalid_argument"),
        ("lite=a&tenant=ann", "400 invalid_argument"),
        ("lite=a&end=maybe", "400 invalid_argument"),
        ("lite=a&property.=x", "400 invalid_argument"),
        ("lite=a&unknown=1", "400 invalid_argument"),
    ];
    for (query, expected) in rules {
        let answer = world.post(&format!("messages?{query}")).body("x").send().await?;
        assert_eq!(refused(answer).await?, expected, "{query}");
    }
    let many = (0..65).map(|number| format!("&property.{number}=x")).collect::<Vec<_>>().concat();
    let answer = world.post(&format!("messages?lite=a{many}")).body("x").send().await?;
    assert_eq!(refused(answer).await?, "413 too_large");
    let long_key = world.post("messages?lite=a").header("Idempotency-Key", "k".repeat(129)).body("x").send().await?;
    assert_eq!(refused(long_key).await?, "413 too_large");
    assert_eq!(refused(world.http.put(world.url("messages?lite=a")).send().await?).await?, "405 invalid_argument");
    assert_eq!(refused(world.get("other").send().await?).await?, "404 invalid_argument");
    assert_eq!(refused(world.get("messages?lite=a").send().await?).await?, "404 unknown_lite");
    Ok(())
}

#[tokio::test]
async fn bodies_that_are_not_as_long_as_announced_leave_nothing() -> Result<()> {
    let world = World::start(log(None)).await?;
    // Small, and large enough to be stored while it comes.
    for announced in [1_000, 3 << 20] {
        let mut raw = world.raw()?;
        raw.say(&format!(
            "POST /v1/topics/t/messages?lite=a HTTP/1.1\r\nHost: x\r\nContent-Length: {announced}\r\n\r\n"
        ))?;
        raw.say(&"x".repeat(announced - 100))?;
        raw.say_no_more()?;
        let answer = raw.all()?;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    }
    let mut raw = world.raw()?;
    let too_large = 65 << 20;
    raw.say(&format!("POST /v1/topics/t/messages?lite=a HTTP/1.1\r\nHost: x\r\nContent-Length: {too_large}\r\n\r\n"))?;
    assert!(raw.all()?.starts_with("HTTP/1.1 413"));
    // One that does not say how long it is may be small only.
    let mut raw = world.raw()?;
    raw.say("POST /v1/topics/t/messages?lite=a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    raw.say(&format!("{:x}\r\n{}", 300 << 10, "x".repeat((256 << 10) + 1)))?;
    assert!(raw.all()?.starts_with("HTTP/1.1 411"));
    assert_eq!(refused(world.get("messages?lite=a").send().await?).await?, "404 unknown_lite");
    // What is beyond the announced length is no part of the message, and no request either.
    let mut raw = world.raw()?;
    raw.say("POST /v1/topics/t/messages?lite=a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nabcdefgh\r\n\r\n")?;
    let answer = raw.all()?;
    assert!(answer.starts_with("HTTP/1.1 201") && answer.contains("HTTP/1.1 400"), "{answer}");
    assert_eq!(world.page("lite=a").await?["messages"][0]["body"], json!("ab"));
    Ok(())
}

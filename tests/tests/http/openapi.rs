//! What the door says of itself is what it does.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{World, log};

/// The keys of an object, sorted.
fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn every_route_that_is_described_is_there_and_answers_as_described() -> Result<()> {
    let world = World::start(log(None)).await?;
    let receipt = world.publish("lite=a&end=1", "x").await?;
    let id = receipt["id"].as_str().context("an id")?;
    let (base, http) = (world.broker.http_url(), &world.http);
    let document: Value = http.get(format!("{base}/v1/openapi.json")).send().await?.error_for_status()?.json().await?;
    let mut described = Vec::new();
    for (path, methods) in document["paths"].as_object().context("paths")? {
        for (method, route) in methods.as_object().context("methods")? {
            described.push(format!("{method} {path}"));
            let url = format!("{base}{path}?lite=a").replace("{topic}", "t").replace("{id}", id);
            let request = match (method.as_str(), path.ends_with("/batch")) {
                ("post", true) => http.post(url.replace("?lite=a", "")).json(&serde_json::json!([{ "lite": "b" }])),
                ("post", false) => http.post(url).body("x"),
                _ => http.get(url),
            };
            let answer = request.send().await?;
            let status = answer.status().as_u16().to_string();
            let described = &route["responses"][&status]["content"];
            let kind = answer.headers()["content-type"].to_str()?.to_owned();
            assert!(status.starts_with('2') && keys(described) == [kind.as_str()], "{method} {path}: {status} {kind}");
            // An answer has no key that is not described.
            if let Some(name) = described[&kind]["schema"]["$ref"].as_str() {
                let schema = document.pointer(&name[1..]).context("what is referred to is there")?;
                let shown: Value = answer.json().await?;
                let known = keys(&schema["properties"]);
                assert!(keys(&shown).iter().all(|key| known.contains(key)), "{shown} is not {schema}");
            }
        }
    }
    described.sort_unstable();
    let expected = [
        "get /v1/topics/{topic}/messages",
        "get /v1/topics/{topic}/messages/{id}",
        "get /v1/topics/{topic}/stream",
        "post /v1/topics/{topic}/messages",
        "post /v1/topics/{topic}/messages/batch",
    ];
    assert_eq!(described, expected);
    Ok(())
}

//! What the door says of itself is what it does.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sluicegate_client::admin::{GroupSettings, TopicSettings};

use super::consume::{self, Session};

/// The keys of an object, sorted.
fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    keys
}

/// The keys that a schema has, sorted; none if it has no say in that.
fn described(document: &Value, schema: &Value) -> Option<Vec<String>> {
    if let Some(name) = schema["$ref"].as_str() {
        return described(document, document.pointer(&name[1..])?);
    }
    if let Some(parts) = schema["allOf"].as_array() {
        return Some(parts.iter().filter_map(|part| described(document, part)).flatten().collect());
    }
    Some(schema["properties"].as_object()?.keys().cloned().collect())
}

/// What is shown has no key that is not described, all the way down.
fn holds(document: &Value, schema: &Value, shown: &Value) {
    if let Some(name) = schema["$ref"].as_str() {
        let named = document.pointer(&name[1..]).expect("what is referred to is there");
        return holds(document, named, shown);
    }
    if let Some(items) = shown.as_array() {
        return items.iter().for_each(|item| holds(document, &schema["items"], item));
    }
    let Some(known) = described(document, schema) else { return };
    for (key, value) in shown.as_object().into_iter().flatten() {
        assert!(known.contains(key), "`{key}` of {shown} is not in {schema}");
        holds(document, &schema["properties"][key], value);
    }
}

#[tokio::test]
async fn every_route_that_is_described_is_there_and_answers_as_described() -> Result<()> {
    let replies = Some(sluicegate_client::TopicName::parse("r")?);
    let world =
        consume::world_with(TopicSettings { replies, ..TopicSettings::default() }, GroupSettings::default()).await?;
    // Whose reply is asked for, and which is taken back.
    let receipt = world.publish("lite=a&end=1&property.request.id=one", "x").await?;
    let id = receipt["id"].as_str().context("an id")?;
    let session = Session::open(&world, json!({})).await?;
    let delivery = session.one().await?;
    let held = delivery["delivery"].as_str().context("a delivery")?;
    world.publish("lite=b", "y").await?;
    let (base, http) = (world.broker.http_url(), &world.http);
    let document: Value = http.get(format!("{base}/v1/openapi.json")).send().await?.error_for_status()?.json().await?;
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().context("paths")? {
        for (method, route) in methods.as_object().context("methods")? {
            found.push(format!("{method} {path}"));
            let of_group = path.starts_with("/v1/groups/");
            let query = match (of_group, path.rsplit('/').next().unwrap_or_default()) {
                (true, "replies") => "?lite=reply/http/one&request=one",
                (true, _) | (false, "batch") => "",
                (false, "requests") => "?lite=c&timeout_ms=0&request=one",
                (false, "{request}") if method == "delete" => &format!("?lite=a&message={id}"),
                (false, "{request}") => "?timeout_ms=0",
                (false, _) => "?lite=a",
            };
            // The session that is closed is one of its own.
            let closed =
                if method == "delete" && of_group { Some(Session::open(&world, json!({})).await?.id) } else { None };
            let url = format!("{base}{path}{query}").replace("{topic}", "t").replace("{id}", id);
            let url = url.replace("{group}", "g").replace("{session}", closed.as_deref().unwrap_or(&session.id));
            let url = url.replace("{delivery}", held).replace("{request}", "one");
            let request = match (method.as_str(), path.rsplit('/').next().context("a last part")?) {
                ("post", "batch") => http.post(url).json(&json!([{ "lite": "b" }])),
                ("post", "settle") => http.post(url).json(&json!([
                    { "delivery": held, "outcome": "extend" },
                    { "delivery": "1-1-1-1", "outcome": "ack" },
                ])),
                ("post", "sessions") => http.post(url).json(&json!({ "session": session.id })),
                ("post", "messages" | "requests" | "replies") => http.post(url).body("x"),
                ("post", _) => http.post(url),
                ("delete", _) => http.delete(url),
                _ => http.get(url),
            };
            let answer = request.send().await?;
            let status = answer.status().as_u16().to_string();
            let described = &route["responses"][&status]["content"];
            let kind = answer.headers().get("content-type").map(|kind| kind.to_str().map(str::to_owned)).transpose()?;
            let kinds: Vec<_> = kind.as_deref().into_iter().collect();
            assert!(status.starts_with('2') && keys(described) == kinds, "{method} {path}: {status} {kind:?}");
            if kind.as_deref() == Some("application/json") {
                holds(&document, &described["application/json"]["schema"], &answer.json().await?);
            }
        }
    }
    found.sort_unstable();
    let expected = [
        "delete /v1/groups/{group}/sessions/{session}",
        "delete /v1/topics/{topic}/requests/{request}",
        "get /v1/groups/{group}/sessions/{session}/deliveries/{delivery}",
        "get /v1/topics/{topic}/messages",
        "get /v1/topics/{topic}/messages/{id}",
        "get /v1/topics/{topic}/requests/{request}",
        "get /v1/topics/{topic}/stream",
        "post /v1/groups/{group}/replies",
        "post /v1/groups/{group}/sessions",
        "post /v1/groups/{group}/sessions/{session}/receive",
        "post /v1/groups/{group}/sessions/{session}/settle",
        "post /v1/topics/{topic}/messages",
        "post /v1/topics/{topic}/messages/batch",
        "post /v1/topics/{topic}/requests",
    ];
    assert_eq!(found, expected);
    Ok(())
}

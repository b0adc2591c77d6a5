//! Many messages in one request.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{World, log, refused};

impl World {
    fn batch(&self, kind: &str, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        self.post("messages/batch").header("Content-Type", kind).body(body)
    }
}

#[tokio::test]
async fn each_message_of_a_batch_has_its_answer_and_its_order() -> Result<()> {
    let world = World::start(log(None)).await?;
    let batch = json!([
        { "lite": "a", "body": "one", "idempotency_key": "k", "properties": { "p": "v" } },
        { "lite": "a", "body": "bad", "priority": 10 },
        { "lite": "a", "body_base64": "//4=", "end": true },
        { "lite": "b", "cost": 3 },
        { "lite": "a", "body": "another", "idempotency_key": "k" },
        { "lite": "a", "body": "one", "idempotency_key": "k" },
    ]);
    let answer = world.batch("application/json", batch.to_string()).send().await?;
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await?;
    let results = answer["results"].as_array().context("results")?;
    let shown: Vec<_> =
        results.iter().map(|result| [&result["offset"], &result["duplicate"], &result["error"]["code"]]).collect();
    let expected = json!([
        [0, false, null],
        [null, null, "invalid_argument"],
        [1, false, null],
        [0, false, null],
        [null, null, "idempotency_conflict"],
        [0, true, null],
    ]);
    assert_eq!(json!(shown), expected);
    let page = world.page("lite=a").await?;
    let messages = page["messages"].as_array().context("messages")?;
    assert_eq!(
        (messages.len(), &messages[0]["properties"]["p"], &messages[1]["body_base64"]),
        (2, &json!("v"), &json!("//4="))
    );
    Ok(())
}

#[tokio::test]
async fn a_thousand_lines_are_published_in_order() -> Result<()> {
    let world = World::start(log(None)).await?;
    let lines: Vec<_> =
        (0..1_000).map(|number| json!({ "lite": "a", "body": number.to_string() }).to_string()).collect();
    let answer = world.batch("application/x-ndjson", lines.join("\n") + "\n").send().await?.error_for_status()?;
    let answer: Value = answer.json().await?;
    let offsets: Vec<_> =
        answer["results"].as_array().context("results")?.iter().map(|result| result["offset"].as_u64()).collect();
    assert_eq!(offsets, (0..1_000).map(Some).collect::<Vec<_>>());
    let page = world.page("lite=a&limit=1000").await?;
    let bodies: Vec<_> =
        page["messages"].as_array().context("messages")?.iter().map(|message| message["body"].clone()).collect();
    assert_eq!(json!(bodies), json!((0..1_000).map(|number| number.to_string()).collect::<Vec<_>>()));
    Ok(())
}

#[tokio::test]
async fn what_is_no_batch_is_refused_as_a_whole() -> Result<()> {
    let world = World::start(log(None)).await?;
    let good = r#"{"lite":"a","body":"x"}"#;
    let too_many = vec![good; 1_001].join("\n");
    let cases = [
        ("text/plain", "x".to_owned(), "415 invalid_argument"),
        ("application/json", good.to_owned(), "400 invalid_argument"),
        ("application/json", format!("[{good}"), "400 invalid_argument"),
        ("application/x-ndjson", format!("{good}\ngarbage"), "400 invalid_argument"),
        ("application/x-ndjson", r#"{"lite":"a","bdoy":"x"}"#.to_owned(), "400 invalid_argument"),
        ("application/x-ndjson", too_many, "413 too_large"),
    ];
    for (kind, body, expected) in cases {
        assert_eq!(refused(world.batch(kind, body).send().await?).await?, expected, "{kind}");
    }
    let mut raw = world.raw()?;
    let head = "POST /v1/topics/t/messages/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json";
    raw.say(&format!("{head}\r\nContent-Length: {}\r\n\r\n", (1 << 20) + 1))?;
    assert!(raw.all()?.starts_with("HTTP/1.1 413"));
    assert_eq!(refused(world.get("messages?lite=a").send().await?).await?, "404 unknown_lite");
    Ok(())
}

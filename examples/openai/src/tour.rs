//! Uses the door as callers do, and checks what it promises.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use sluicegate_example_broker::Broker;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::door::{self, Door};
use crate::telling::DONE;
use crate::topics::QUEUE;
use crate::worker::Desk;
use crate::{listen, model, topics};

/// What `curl` is shown to send.
pub(crate) const EXAMPLE_REQUEST: &str =
    r#"{"model": "parrot-1", "stream": true, "messages": [{"role": "user", "content": "Once upon a time"}]}"#;

/// A token takes so long.
const PACE: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_mins(1);

/// A caller with an API key.
#[derive(Clone)]
struct Caller {
    http: reqwest::Client,
    base: String,
    key: &'static str,
}

/// An answer that streams.
struct Stream {
    response: Response,
    unread: String,
}

/// An event of it.
struct Event {
    id: String,
    data: String,
}

/// Runs it all, and prints what is to be seen.
pub(crate) async fn run(broker: &Broker) -> Result<()> {
    let admin = broker.admin()?;
    topics::ensure(&admin, QUEUE).await?;
    let door = Door::new(broker.client(), admin, Vec::new(), PATIENCE).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}/v1", listener.local_addr()?);
    let mut serving = JoinSet::new();
    serving.spawn(listen::serve(listener, door::router(door)));
    let client = broker.client();
    serving.spawn(async move { Desk::new(model::shipped(), PACE).work(&client, 4).await });
    // The client wants to know whose cryptography it has, although this door speaks plain HTTP.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().build()?;
    let caller = |key| Caller { http: http.clone(), base: base.clone(), key };
    println!("a door at {base}, and a worker with {} models", model::shipped().len());
    tokio::select! {
        told = async {
            whole(&caller("anna")).await?;
            cut_and_resumed(&caller("anna")).await?;
            greedy_and_modest(&caller("greedy"), &caller("modest")).await
        } => told?,
        ended = serving.join_next() => anyhow::bail!("door or worker ended: {ended:?}"),
    }
    println!("\nTo try it with the openai package or curl: cargo xtask example openai -- serve");
    Ok(())
}

/// One answer in a whole, asked for twice under one key.
async fn whole(caller: &Caller) -> Result<()> {
    let request =
        json!({"model": "parrot-1", "messages": [{"role": "user", "content": "one answer, whatever ran twice"}]});
    let once = async || -> Result<Value> {
        let asked = caller.ask(&request).header("Idempotency-Key", "order-42").send().await?;
        Ok(asked.error_for_status()?.json().await?)
    };
    let (first, second) = (once().await?, once().await?);
    let content = &first["choices"][0]["message"]["content"];
    ensure!(content == "one answer, whatever ran twice", "another answer: {first}");
    ensure!(first["id"].is_string() && first == second, "two answers to one request: {first} {second}");
    println!(
        "\nwhole: {content}, {} tokens; asked again with its Idempotency-Key: the same {}",
        first["usage"]["total_tokens"], first["id"]
    );
    Ok(())
}

/// A caller that loses its connection has the rest of its answer, and nothing twice.
async fn cut_and_resumed(caller: &Caller) -> Result<()> {
    const TOKENS: u64 = 60;
    let request = json!({"model": "counter-1", "stream": true, "max_tokens": TOKENS, "messages": [{"role": "user", "content": "count"}]});
    let mut stream = Stream::of(caller.ask(&request).send().await?)?;
    let (mut text, mut last, mut path) = (String::new(), String::new(), String::new());
    for _ in 0..20 {
        let event = stream.next().await?;
        let chunk: Value = serde_json::from_str(&event.data)?;
        text.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
        path = format!("chat/completions/{}", chunk["id"].as_str().context("a chunk has an id")?);
        last = event.id;
    }
    drop(stream);
    println!("\nstream: {text}— the connection is cut behind event {last}");
    println!("  GET /v1/{path} with Last-Event-ID: {last}");
    let get = caller.get(&path).header("Last-Event-ID", &last).header("Accept", "text/event-stream");
    let mut rest = Stream::of(get.send().await?)?;
    let before = text.len();
    loop {
        let event = rest.next().await?;
        if event.data == "[DONE]" {
            ensure!(event.id == DONE, "the last event is `{}`", event.id);
            break;
        }
        let chunk: Value = serde_json::from_str(&event.data)?;
        text.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
    }
    println!("  {}", &text[before..]);
    let all = (1..=TOKENS).map(|number| format!("{number} ")).collect::<Vec<_>>().concat();
    ensure!(text == all, "not the whole answer, each token once: {text}");
    let over = caller.get(&path).header("Last-Event-ID", DONE).send().await?;
    ensure!(over.status() == StatusCode::NO_CONTENT, "an EventSource would come again for ever: {}", over.status());
    Ok(())
}

/// One caller wants more than its queue takes, and is told when to come again; another does not notice.
async fn greedy_and_modest(greedy: &Caller, modest: &Caller) -> Result<()> {
    let slow = json!({"model": "counter-1", "max_tokens": 30, "messages": [{"role": "user", "content": "count"}]});
    let mut asked = JoinSet::new();
    for _ in 0..2 * QUEUE {
        asked.spawn(greedy.ask(&slow).send());
    }
    // Those that are refused come first: the others wait for one after the other.
    let mut told = 0;
    while told < QUEUE {
        let answer = asked.join_next().await.context("all were taken, although the queue is short")???;
        ensure!(answer.status() == StatusCode::TOO_MANY_REQUESTS, "{}, although the queue is full", answer.status());
        let after = answer.headers().get("retry-after").context("no Retry-After")?.to_str()?.to_owned();
        let error: Value = answer.json().await?;
        ensure!(error["error"]["code"] == "rate_limit_exceeded", "not an error as the API has it: {error}");
        if told == 0 {
            println!("\nqueue: 429, Retry-After: {after}, {}", error["error"]["message"]);
        }
        told += 1;
    }
    let quick = json!({"model": "parrot-1", "messages": [{"role": "user", "content": "me too"}]});
    let answer: Value = modest.ask(&quick).send().await?.error_for_status()?.json().await?;
    ensure!(answer["choices"][0]["message"]["content"] == "me too", "another answer: {answer}");
    let (taken, mut waiting) = (asked.len(), 0);
    while let Some(answer) = asked.try_join_next() {
        ensure!(answer??.status().is_success(), "what was taken is answered");
        waiting += 1;
    }
    ensure!(!asked.is_empty(), "all {taken} of the greedy caller's were answered first");
    while let Some(answer) = asked.join_next().await {
        ensure!(answer??.status().is_success(), "what was taken is answered");
        waiting += 1;
    }
    ensure!(told + waiting == 2 * QUEUE, "{told} refused, {waiting} answered");
    println!(
        "fair: of {} requests of one caller {waiting} were taken; another one's was answered meanwhile",
        2 * QUEUE
    );
    Ok(())
}

impl Caller {
    fn ask(&self, request: &Value) -> RequestBuilder {
        self.http.post(format!("{}/chat/completions", self.base)).bearer_auth(self.key).json(request)
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}/{path}", self.base)).bearer_auth(self.key)
    }
}

impl Stream {
    fn of(response: Response) -> Result<Self> {
        Ok(Self { response: response.error_for_status()?, unread: String::new() })
    }

    /// The next event; comments are skipped.
    async fn next(&mut self) -> Result<Event> {
        loop {
            while let Some(end) = self.unread.find("\n\n") {
                let lines: String = self.unread.drain(..end + 2).collect();
                let field =
                    |name| lines.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
                if let Some(data) = field("data:") {
                    return Ok(Event { id: field("id:").unwrap_or_default(), data });
                }
            }
            let more = self.response.chunk().await?.context("the stream ended without its end")?;
            self.unread.push_str(std::str::from_utf8(&more)?);
        }
    }
}

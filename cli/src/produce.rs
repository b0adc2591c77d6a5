//! `sluice produce`.

use std::collections::VecDeque;
use std::path::PathBuf;

use serde::Serialize;
use sluicegate_client::{IdempotencyKey, LiteId, LiteName, Message, Pending, PublishError, Receipt, TopicName};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::connect::Broker;
use crate::exit::WrongInput;
use crate::output::{self, Format};

/// Messages on their way at once.
const PIPELINE_MAX: usize = 1_024;

/// Publishes messages to one lite topic, in order: `--body`, `--body-file`, or one per line of standard input.
#[derive(Debug, clap::Args)]
pub(crate) struct Produce {
    /// The topic.
    topic: TopicName,
    /// The lite topic: 1 to 255 bytes of UTF-8; made by its first message.
    lite: LiteName,
    /// The message; without, each line of standard input is one.
    #[arg(long)]
    body: Option<String>,
    /// The message's body is this file, of any size that the broker takes.
    #[arg(long, value_name = "FILE", conflicts_with = "body")]
    body_file: Option<PathBuf>,
    /// 0 to 9, 9 is served first.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: u8,
    /// Estimated cost in the group's cost unit, for example tokens.
    #[arg(long, default_value_t = 1)]
    cost: u64,
    /// A property; may be given several times.
    #[arg(long = "property", value_name = "KEY=VALUE", value_parser = property)]
    properties: Vec<(String, String)>,
    /// Names the message: sent again within the topic's window it is not published twice.
    #[arg(long, value_name = "KEY", requires = "body")]
    idempotency_key: Option<IdempotencyKey>,
    /// Mark the end of the stream, at which readers stop: with the message, or, where each line is one, with an empty message
    /// behind the last.
    #[arg(long)]
    end: bool,
}

#[derive(Debug, Serialize)]
struct Published {
    lite_id: LiteId,
    offset: u64,
    created: bool,
    duplicate: bool,
}

impl Produce {
    pub(crate) async fn run(self, broker: &Broker, format: Format) -> anyhow::Result<()> {
        let producer = broker.client().producer(self.topic.clone()).connect().await?;
        let mut pending: VecDeque<Pending> = VecDeque::new();
        let print = |receipt: Result<Receipt, PublishError>| {
            let receipt = receipt?;
            let published = Published {
                lite_id: receipt.lite_id,
                offset: receipt.offset.0,
                created: receipt.created,
                duplicate: receipt.duplicate,
            };
            output::print(format, &published, |published| format!("{} {}", published.lite_id, published.offset))
        };
        if let Some(body) = &self.body {
            print(producer.send(self.only_message(body.clone())).await)?;
        } else if let Some(path) = &self.body_file {
            let wrong = |error: std::io::Error| WrongInput(format!("{}: {error}", path.display()));
            let file = tokio::fs::File::open(path).await.map_err(wrong)?;
            let bytes = file.metadata().await.map_err(wrong)?.len();
            print(producer.upload(self.only_message(String::new()), bytes, file).await)?;
        } else {
            let mut lines = BufReader::new(tokio::io::stdin()).lines();
            while let Some(line) =
                lines.next_line().await.map_err(|error| WrongInput(format!("standard input: {error}")))?
            {
                pending.push_back(producer.enqueue(self.message(line)).await?);
                if pending.len() >= PIPELINE_MAX
                    && let Some(oldest) = pending.pop_front()
                {
                    print(oldest.await)?;
                }
            }
            if self.end {
                pending.push_back(producer.enqueue(self.message(String::new()).end()).await?);
            }
            for oldest in pending {
                print(oldest.await)?;
            }
        }
        producer.close().await;
        Ok(())
    }

    /// The message, where there is one.
    fn only_message(&self, body: String) -> Message {
        let message = self.message(body);
        if self.end { message.end() } else { message }
    }

    fn message(&self, body: String) -> Message {
        let mut message = Message::to_lite(&self.lite).body(body).priority(self.priority).cost(self.cost);
        if let Some(key) = &self.idempotency_key {
            message = message.idempotency_key(key.as_str());
        }
        self.properties.iter().fold(message, |message, (key, value)| message.property(key, value))
    }
}

fn property(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

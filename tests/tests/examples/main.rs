//! Each of `examples/` keeps its promise, against a real broker process. An example checks itself; what it left in the broker is looked
//! at here once more, with other eyes.

mod agents;
mod busy_idle;
mod sessions;

use anyhow::{Context, Result};
use sluicegate_client::{LiteName, ReadMessage, TopicName};
use sluicegate_tests::Broker;

/// What an example printed on a line that begins like this.
fn line<'a>(printed: &'a str, beginning: &str) -> Result<&'a str> {
    let found = printed.lines().find_map(|line| line.trim_start().strip_prefix(beginning));
    found.with_context(|| format!("no line `{beginning}…` in:\n{printed}"))
}

/// The number that a text begins with.
fn number(text: &str) -> Result<usize> {
    let digits = text.trim_start().split(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().with_context(|| format!("`{text}` does not begin with a number"))
}

/// All messages of a lite topic.
async fn read(broker: &Broker, topic: &str, lite: &str) -> Result<Vec<ReadMessage>> {
    let reader = broker.client().reader(TopicName::parse(topic)?, LiteName::parse(lite)?);
    let (mut reader, mut read) = (reader.connect().await?, Vec::new());
    while let Some(message) = reader.next().await {
        read.push(message?);
    }
    Ok(read)
}

fn text(message: &ReadMessage) -> Result<String> {
    Ok(String::from_utf8(message.body().to_vec())?)
}

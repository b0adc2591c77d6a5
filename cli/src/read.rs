//! `sluice read`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use sluicegate_client::{
    InvalidName, LiteId, LiteName, MessageId, Offset, Position, ReadMessage, Timestamp, TopicName,
};

use crate::connect::Broker;
use crate::consume::write_body;
use crate::exit::WrongInput;
use crate::lite::{position, timestamp};
use crate::output::{self, Body, Format};

/// Prints the messages of a lite topic, in order, settled or not, and settles none. Broker restarts do not end it.
#[derive(Debug, clap::Args)]
pub(crate) struct Read {
    /// The lite topic, as `TOPIC/LITE`; its own name may have slashes too.
    #[arg(value_name = "TOPIC/LITE", value_parser = place)]
    place: Place,
    /// Where to begin: `earliest`, `latest`, an offset, a time (`2026-03-01T12:00:00Z`), `last:N`, or `after:LITE_ID-OFFSET` to go
    /// on behind that message.
    #[arg(long, value_name = "POSITION", default_value = "earliest", value_parser = start)]
    from: Start,
    /// Wait for messages to come, and for a lite topic that does not exist yet; until the stream's end is marked, or Ctrl-C.
    #[arg(long, short = 'f')]
    follow: bool,
    /// With `--follow`, go on past messages that mark the end of a stream.
    #[arg(long, requires = "follow")]
    past_end: bool,
    /// Write each body to a file of its own in this directory, `LITE_ID-OFFSET`, and print its path in place of the body.
    #[arg(long, value_name = "DIR")]
    body_dir: Option<PathBuf>,
    /// Stop after so many messages.
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
}

#[derive(Debug, Clone)]
struct Place {
    topic: TopicName,
    lite: LiteName,
}

#[derive(Debug, Clone, Copy)]
enum Start {
    At(Position),
    After(MessageId),
}

#[derive(Debug, Serialize)]
struct Printed {
    /// Names the message for good: `--from after:ID` goes on behind it.
    id: String,
    lite_id: LiteId,
    offset: u64,
    published_at: Timestamp,
    priority: u8,
    cost: u64,
    properties: BTreeMap<String, String>,
    end: bool,
    body_bytes: u64,
    /// With `--body-dir` the path of its file.
    #[serde(flatten)]
    body: Body,
}

impl Read {
    pub(crate) async fn run(self, broker: &Broker, format: Format) -> anyhow::Result<()> {
        let Place { topic, lite } = self.place;
        let mut reader = broker.client().reader(topic, lite).follow(self.follow);
        reader = match self.from {
            Start::At(position) => reader.from(position),
            Start::After(id) => reader.after(id),
        };
        if self.past_end {
            reader = reader.past_end();
        }
        if let Some(directory) = &self.body_dir {
            let wrong = |error: std::io::Error| WrongInput(format!("{}: {error}", directory.display()));
            tokio::fs::create_dir_all(directory).await.map_err(wrong)?;
            reader = reader.stream_bodies_above(0);
        }
        let mut reader = reader.connect().await?;
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let next = tokio::select! {
                next = reader.next() => next,
                _ = tokio::signal::ctrl_c() => break,
            };
            let Some(message) = next.transpose()? else { break };
            let body = match &self.body_dir {
                Some(directory) => {
                    let path = directory.join(message.id().to_string());
                    write_body(message.body_reader(), &path).await?;
                    Body::at(&path)
                }
                None => Body::of(message.body()),
            };
            output::print(format, &describe(&message, body), |printed| {
                format!("{} {}", printed.offset, printed.body.text())
            })?;
            left -= 1;
        }
        Ok(())
    }
}

fn describe(message: &ReadMessage, body: Body) -> Printed {
    Printed {
        id: message.id().to_string(),
        lite_id: message.lite_id(),
        offset: message.offset().0,
        published_at: message.published_at(),
        priority: message.priority(),
        cost: message.cost(),
        properties: message.properties().clone(),
        end: message.is_end(),
        body_bytes: message.body_bytes(),
        body,
    }
}

fn place(text: &str) -> Result<Place, String> {
    let (topic, lite) = text.split_once('/').ok_or("it is TOPIC/LITE")?;
    let wrong = |error: InvalidName| error.to_string();
    Ok(Place { topic: TopicName::parse_existing(topic).map_err(wrong)?, lite: LiteName::parse(lite).map_err(wrong)? })
}

fn start(text: &str) -> Result<Start, String> {
    if let Some(id) = text.strip_prefix("after:") {
        return id.parse().map(Start::After).map_err(|error: sluicegate_client::ParseMessageIdError| error.to_string());
    }
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        return match text.parse() {
            Ok(offset) => Ok(Start::At(Position::Offset(Offset(offset)))),
            Err(_) => timestamp(text).map(|at| Start::At(Position::Timestamp(at))),
        };
    }
    let other = "it is `earliest`, `latest`, an offset, a time, `last:N` or `after:LITE_ID-OFFSET`";
    position(text).map(Start::At).map_err(|_| other.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_said_as_people_say_it_and_what_is_none_is_explained() {
        let said = |text| start(text).map_or_else(|error| error, |start| format!("{start:?}"));
        insta::assert_snapshot!(
            ["earliest", "7", "1970-01-01T00:00:01Z", "last:3", "after:5-9", "after:5", "yesterday", "7x"].map(said).join("\n"),
            @r"
        At(Earliest)
        At(Offset(Offset(7)))
        At(Timestamp(Timestamp(1000000)))
        At(Last(3))
        After(MessageId { lite_id: LiteId(5), offset: Offset(9) })
        `5` is not a lite id and an offset, as in `140737488355329-7`
        it is `earliest`, `latest`, an offset, a time, `last:N` or `after:LITE_ID-OFFSET`
        `7x` is not a time: timestamp format is invalid
        ");
    }

    #[test]
    fn a_lite_topics_name_may_have_slashes() {
        let Place { topic, lite } = place("chat/user-42/session").unwrap();
        assert_eq!((topic.as_str(), lite.as_str()), ("chat", "user-42/session"));
        assert_eq!(place("chat").unwrap_err(), "it is TOPIC/LITE");
    }
}

//! What an `EventSource` makes of a stream, as the standard has it.

use anyhow::{Context, Result, bail};
use reqwest::Response;
use sluicegate_tests::PATIENCE;

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
    pub(crate) id: String,
}

/// A stream of which some was read.
pub(crate) struct Events {
    response: Response,
    unread: Vec<u8>,
    last_id: String,
}

impl Events {
    pub(crate) async fn of(response: Response) -> Result<Self> {
        if response.status() != 200 {
            bail!("{}: {}", response.status(), response.text().await?);
        }
        let kind = response.headers().get("content-type").context("a stream has a type")?;
        assert_eq!(kind, "text/event-stream");
        Ok(Self { response, unread: Vec::new(), last_id: String::new() })
    }

    /// The next event that is dispatched; none when the stream ends.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            while let Some(end) = self.unread.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.unread.drain(..end + 2).collect();
                if let Some(event) = self.dispatch(std::str::from_utf8(&block)?) {
                    return Ok(Some(event));
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.context("nothing came")??;
            let Some(chunk) = chunk else { return Ok(None) };
            self.unread.extend_from_slice(&chunk);
        }
    }

    fn dispatch(&mut self, block: &str) -> Option<Event> {
        let (mut name, mut data) = ("message".to_owned(), None::<String>);
        for line in block.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut name),
                "id" => value.clone_into(&mut self.last_id),
                "data" => match &mut data {
                    None => data = Some(value.to_owned()),
                    Some(data) => *data = format!("{data}\n{value}"),
                },
                _ => {}
            }
        }
        data.map(|data| Event { name, data, id: self.last_id.clone() })
    }

    /// The data of so many messages.
    pub(crate) async fn texts(&mut self, count: usize) -> Result<Vec<String>> {
        let mut texts = Vec::new();
        for _ in 0..count {
            let event = self.next().await?.context("the stream ended")?;
            assert_eq!(event.name, "message", "{event:?}");
            texts.push(event.data);
        }
        Ok(texts)
    }
}

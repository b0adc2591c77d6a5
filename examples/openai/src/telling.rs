//! The answer on its way to the caller: what the workers publish to its lite topic, as it comes or in a whole.

use std::time::Duration;

use axum::response::sse::Event;
use futures_util::stream::{self, Stream};
use serde_json::Value;
use sluicegate_client::{MessageId, REPLY_ERROR_PROPERTY, ReadError, ReadMessage, Reader};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::chunk::{Chunk, Whole};
use crate::refused::Refused;

/// The id of the event that ends a stream. Who comes back with it is answered that there is no more.
pub(crate) const DONE: &str = "done";
/// Bytes of text of an answer that is put together.
const TEXT_BYTES_MAX: usize = 8 << 20;

/// An answer that is being told.
pub(crate) struct Telling {
    reader: Reader,
    /// How long the next chunk may take.
    patience: Duration,
    /// One of the answers that may be told at once.
    _place: OwnedSemaphorePermit,
}

/// What comes next.
enum Next {
    Chunk(MessageId, Chunk),
    /// All of it was told.
    Done,
}

impl Telling {
    pub(crate) fn new(reader: Reader, patience: Duration, place: OwnedSemaphorePermit) -> Self {
        Self { reader, patience, _place: place }
    }

    /// All of it.
    pub(crate) async fn whole(mut self) -> Result<Value, Refused> {
        let mut whole = Whole::default();
        while let Next::Chunk(_, chunk) = self.next().await? {
            whole.add(chunk);
            if whole.bytes() > TEXT_BYTES_MAX {
                return Err(Refused::failed(format!("the answer has more than {TEXT_BYTES_MAX} bytes: stream it")));
            }
        }
        whole.finish().ok_or_else(|| Refused::failed("the answer is empty"))
    }

    /// Chunk by chunk. Each event's id is where a caller goes on that lost its connection behind it.
    pub(crate) fn events(self) -> impl Stream<Item = Result<Event, axum::Error>> {
        stream::unfold(Some(self), async |telling| {
            let mut telling = telling?;
            Some(match telling.next().await {
                Ok(Next::Chunk(id, chunk)) => (Event::default().id(id.to_string()).json_data(&chunk), Some(telling)),
                Ok(Next::Done) => (Ok(Event::default().id(DONE).data("[DONE]")), None),
                // Who comes back goes on where it was.
                Err(refused) if refused.passes() => (Event::default().json_data(refused.json()), None),
                Err(refused) => (Event::default().id(DONE).json_data(refused.json()), None),
            })
        })
    }

    async fn next(&mut self) -> Result<Next, Refused> {
        let waited = timeout(self.patience, self.reader.next()).await;
        let late =
            |_| Refused::late(format!("no word for {} s; come back for the answer by its id", self.patience.as_secs()));
        match waited.map_err(late)? {
            Some(message) => told(&message.map_err(|error| gone(&error))?),
            None => Ok(Next::Done),
        }
    }
}

fn told(message: &ReadMessage) -> Result<Next, Refused> {
    if let Some(reason) = message.property(REPLY_ERROR_PROPERTY) {
        return Err(Refused::failed(reason));
    }
    if message.is_end() {
        return Ok(Next::Done);
    }
    let chunk = serde_json::from_slice(message.body());
    chunk.map(|chunk| Next::Chunk(message.id(), chunk)).map_err(|_| Refused::failed("the worker sent no chunk"))
}

/// Why an answer cannot be read.
pub(crate) fn gone(error: &ReadError) -> Refused {
    use axum::http::StatusCode;
    match error {
        ReadError::Trimmed { .. } | ReadError::Reclaimed => {
            Refused::invalid_as(StatusCode::GONE, "answer_gone", "the answer, or its beginning, is not kept any more")
        }
        ReadError::BeyondEnd { .. } => Refused::invalid(None, "`Last-Event-ID` is no event of this answer"),
        ReadError::Connect(_) | ReadError::Ended(_) => {
            Refused::unavailable(format!("the answer cannot be read now: {error}"))
        }
        ReadError::TooLarge { .. } | ReadError::Body(_) => Refused::failed("the worker sent no chunk"),
    }
}

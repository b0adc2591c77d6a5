//! Workers: take what the group may do now, and stream what the model says to the lite topic of its answer.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use sluicegate_client::{Client, Delivery, Outcome, REQUEST_ID_PROPERTY, ReplyError, ReplyStream};
use tokio::time::sleep;

use crate::chat::ChatRequest;
use crate::chunk::{Chunk, Head, Usage};
use crate::identity::AnswerId;
use crate::model::Model;
use crate::topics;

/// Where the work is done.
pub(crate) struct Desk {
    models: Vec<Box<dyn Model>>,
    /// What a token takes.
    pace: Duration,
}

impl Desk {
    pub(crate) fn new(models: Vec<Box<dyn Model>>, pace: Duration) -> Self {
        Self { models, pace }
    }

    /// Works on so many requests at once, until the broker ends it.
    pub(crate) async fn work(self, client: &Client, workers: u32) -> anyhow::Result<()> {
        let mut consumer = client.consumer(topics::workers()?).workers(workers).connect().await?;
        let desk = Arc::new(self);
        let work = consumer.run(move |delivery| {
            let desk = Arc::clone(&desk);
            async move {
                tokio::select! {
                    outcome = desk.take(&delivery) => outcome,
                    // Somebody else has the request now, and goes on with the answer; what is settled here goes nowhere.
                    () = delivery.lease_lost() => Outcome::Retry(None),
                }
            }
        });
        Ok(work.await?)
    }

    async fn take(&self, delivery: &Delivery) -> Outcome {
        let asked = ChatRequest::parse(delivery.body()).map_err(|refused| refused.to_string());
        let id = delivery.property(REQUEST_ID_PROPERTY).and_then(AnswerId::of_request);
        let model = asked.as_ref().ok().and_then(|asked| self.models.iter().find(|model| model.name() == asked.model));
        let (Ok(asked), Some(id), Some(model)) = (&asked, &id, model) else {
            let reason = asked.err().unwrap_or_else(|| "there is no such model here".into());
            return match delivery.reply_error(&reason).await {
                Ok(_) | Err(ReplyError::Nobody | ReplyError::Address(_)) => Outcome::DeadLetter(reason),
                Err(_) => Outcome::Retry(None),
            };
        };
        let created = delivery.published_at().as_millis() / 1_000;
        let head = Head { id: id.to_string(), created, model: asked.model.clone() };
        match self.answer(delivery, asked, model.as_ref(), &head).await {
            Ok(usage) => Outcome::AckWithCost(usage.total()),
            // Who began the answer is gone, and the model says something else now. The two do not go together.
            Err(ReplyError::Differs { .. }) => match delivery.reply_error("the answer was interrupted").await {
                Ok(_) => Outcome::Ack,
                Err(_) => Outcome::Retry(None),
            },
            Err(ReplyError::Nobody) => Outcome::DeadLetter("no request".into()),
            Err(error @ ReplyError::Address(_)) => Outcome::DeadLetter(error.to_string()),
            Err(ReplyError::Connect(_) | ReplyError::Publish(_)) => Outcome::Retry(None),
        }
    }

    /// Streams the answer. What an earlier run of the same request sent is there already, and stays as it is.
    async fn answer(
        &self,
        delivery: &Delivery,
        asked: &ChatRequest,
        model: &dyn Model,
        head: &Head,
    ) -> Result<Usage, ReplyError> {
        let mut reply = delivery.reply_stream()?;
        send(&mut reply, &head.begin()).await?;
        let (mut tokens, mut reason) = (0, "stop");
        let mut answer = model.answer(&asked.messages);
        while let Some(token) = answer.next().await {
            if tokens == u64::from(asked.tokens_max()) {
                reason = "length";
                break;
            }
            sleep(self.pace).await;
            send(&mut reply, &head.token(token)).await?;
            tokens += 1;
        }
        send(&mut reply, &head.finish(reason)).await?;
        let usage = Usage::new(asked.prompt_tokens(), tokens);
        if asked.says_usage() {
            send(&mut reply, &head.usage(usage)).await?;
        }
        reply.end().await?;
        Ok(usage)
    }
}

async fn send(reply: &mut ReplyStream, chunk: &Chunk) -> Result<(), ReplyError> {
    reply.send(serde_json::to_vec(chunk).expect("a chunk has nothing that JSON has not")).await
}

//! Takes chunks as the group may, embeds each, and publishes the vector to the folder's index.

use std::sync::Arc;

use anyhow::Result;
use sluicegate_client::{Client, Delivery, ErrorCode, Message, Outcome, Producer, PublishError};
use tokio::sync::Mutex;

use crate::embedder::Embedder;
use crate::index::{INDEX, KEY, MODEL};
use crate::topics;

/// Works until the broker ends it.
pub(crate) async fn run(client: Client, embedder: Arc<Mutex<Embedder>>) -> Result<()> {
    let index = client.producer(topics::index()?).connect().await?;
    let mut consumer = client.consumer(topics::embedders()?).workers(4).connect().await?;
    let work = consumer.run(move |delivery| {
        let (index, embedder) = (index.clone(), Arc::clone(&embedder));
        async move { outcome(&delivery, &index, &embedder).await }
    });
    Ok(work.await?)
}

async fn outcome(delivery: &Delivery, index: &Producer, embedder: &Mutex<Embedder>) -> Outcome {
    let (Some(folder), Some(key), Ok(text)) =
        (delivery.property(INDEX), delivery.property(KEY), std::str::from_utf8(delivery.body()))
    else {
        return Outcome::DeadLetter("no chunk".into());
    };
    let mut embedder = embedder.lock().await;
    if delivery.property(MODEL) != Some(embedder.name()) {
        return Outcome::Retry(None);
    }
    let vector = match embedder.embed(text).await {
        Ok(vector) => vector,
        Err(error) => {
            eprintln!("{}: {error:#}", delivery.lite());
            return Outcome::Retry(None);
        }
    };
    drop(embedder);
    let Ok(message) = Message::to(folder) else { return Outcome::DeadLetter("no name of an index".into()) };
    let body: Vec<_> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    match index.send(message.body(body).property(KEY, key).idempotency_key(key)).await {
        Ok(_) => Outcome::AckWithCost(text.len() as u64),
        // A worker that died between this and its ack left the vector. On another machine its last digits may differ.
        Err(PublishError::Refused(refusal)) if refusal.code == ErrorCode::IdempotencyConflict => Outcome::Ack,
        Err(_) => Outcome::Retry(None),
    }
}

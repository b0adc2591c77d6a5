//! A back end. It keeps nothing between two messages, and may be killed at any of them.

use sluicegate_client::{Client, Delivery, GroupName, LiteName, Message, MessageId, Outcome, Pending, Producer};
use sluicegate_example_broker::Broker;

use crate::conversation::{self, BACK_END, TURN};
use crate::model;

/// Conversations that one back end may stream at once.
const WORKERS: u32 = 2;

/// Answers questions until it is killed.
pub(crate) async fn run(broker: &Broker, group: GroupName) -> anyhow::Result<()> {
    let client = broker.client();
    let producer = client.producer(conversation::topic()).connect().await?;
    let mut consumer = client.consumer(group).workers(WORKERS).connect().await?;
    let work = consumer.run(|delivery| {
        let (client, producer) = (client.clone(), producer.clone());
        async move {
            match answer(&client, &producer, &delivery).await {
                Ok(()) => Outcome::Ack,
                Err(error) => {
                    eprintln!("{}: {error:#}", delivery.lite());
                    Outcome::Retry(None)
                }
            }
        }
    });
    Ok(work.await?)
}

/// Streams the answer to a question, from where whoever began it stopped.
async fn answer(client: &Client, producer: &Producer, delivery: &Delivery) -> anyhow::Result<()> {
    let session = LiteName::parse(delivery.lite())?;
    let question = String::from_utf8(delivery.body().to_vec())?;
    let turn = MessageId { lite_id: delivery.lite_id(), offset: delivery.offset() }.to_string();

    // The state of the conversation is its lite topic, and nothing else.
    let conversation = conversation::read(client, &session).await?;
    let begun = conversation.iter().position(|known| known.id == turn);
    let there_already = begun.map_or(0, |begun| 1 + conversation[begun].answer.len());
    let tokens = model::answer(&conversation[..begun.unwrap_or(conversation.len())], &question);

    // The key is the place in the answer: two that stream at once cannot say the same token twice.
    let message = |place: String| {
        let message =
            Message::to_lite(&session).property(TURN, &turn).property(BACK_END, std::process::id().to_string());
        message.idempotency_key(format!("{turn}#{place}"))
    };
    let mut sent: Vec<Pending> = Vec::new();
    for (number, text) in std::iter::once(question).chain(tokens).enumerate().skip(there_already) {
        tokio::select! {
            // Somebody else goes on with it.
            () = delivery.lease_lost() => return Ok(()),
            () = tokio::time::sleep(model::PACE) => {}
        }
        // It does not wait for the disk: what comes while the broker syncs goes with the next sync.
        sent.push(producer.enqueue(message(number.to_string()).body(text)).await?);
    }
    sent.push(producer.enqueue(message("end".into()).end()).await?);
    // All of it is durable before the question is settled.
    for receipt in sent {
        receipt.await?;
    }
    Ok(())
}

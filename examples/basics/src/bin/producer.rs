//! Publishes three messages to the lite topic of one user.
//!
//! Needs `sluice serve --dev` in the same directory.

use sluicegate_client::{Client, Message, TopicName, Trust};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let trust = Trust::Certificate("sluicegate-data/dev-cert.pem".into());
    let client = Client::builder("127.0.0.1:7420", trust).build();
    let producer = client.producer(TopicName::parse("chat")?).connect().await?;
    for prompt in ["hello", "how are you?", "bye"] {
        let receipt = producer.send(Message::to("user-42")?.body(prompt).cost(20)).await?;
        println!("offset {} is durable", receipt.offset);
    }
    producer.close().await;
    Ok(())
}

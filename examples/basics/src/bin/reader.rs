//! Streams an answer, word by word, to whoever reads its session. Kill the broker and start it again meanwhile: nothing is missing,
//! nothing comes twice.
//!
//! Needs `sluice serve --dev` in the same directory, and `sluice topic create chat.replies --for sessions`.

use std::time::Duration;

use sluicegate_client::{Client, LiteName, Message, TopicName, Trust};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let trust = Trust::Certificate("sluicegate-data/dev-cert.pem".into());
    let client = Client::builder("127.0.0.1:7420", trust).build();
    let (topic, session) = (TopicName::parse("chat.replies")?, LiteName::parse("user-42/session-1")?);
    // It waits for the first message: the session need not exist yet.
    let mut reader = client.reader(topic.clone(), session.clone()).follow(true).connect().await?;

    let producer = client.producer(topic).connect().await?;
    tokio::spawn(async move {
        for word in ["Whoever", "reads", "this", "may", "come", "and", "go."] {
            producer.send(Message::to_lite(&session).body(word)).await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        producer.send(Message::to_lite(&session).end()).await?;
        anyhow::Ok(())
    });
    while let Some(message) = reader.next().await {
        let message = message?;
        println!("{} {}", message.id(), String::from_utf8_lossy(message.body()));
    }
    Ok(())
}

//! Works on whatever the group may do now, eight messages at once, and reports what each cost.
//!
//! Needs `sluice serve --dev` in the same directory, and the group: `sluice topic create chat`,
//! `sluice group create workers --topic chat`.

use sluicegate_client::{Client, GroupName, Outcome, Trust};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let trust = Trust::Certificate("sluicegate-data/dev-cert.pem".into());
    let client = Client::builder("127.0.0.1:7420", trust).build();
    let mut consumer = client.consumer(GroupName::parse("workers")?).workers(8).connect().await?;
    let work = consumer.run(|delivery| async move {
        println!("{}: {}", delivery.lite(), String::from_utf8_lossy(delivery.body()));
        Outcome::AckWithCost(delivery.body().len() as u64)
    });
    Ok(work.await?)
}

//! The topic setting `replies`.

use anyhow::Result;
use sluicegate_client::admin::{AdminError, CreateTopic, Dependents, TopicSettings};
use sluicegate_client::{ErrorCode, TopicName};

use super::{World, asks, topic};

fn asks_of(replies: &str) -> Result<TopicSettings> {
    Ok(TopicSettings { replies: Some(TopicName::parse_existing(replies)?), ..TopicSettings::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_go_to_a_log_that_exists() -> Result<()> {
    let world = World::start().await?;
    let mut said = Vec::new();
    for replies in ["nothing", "new", "agents", "agents.dlq.workers"] {
        let create = CreateTopic { name: topic("new"), settings: asks_of(replies)? };
        said.push(world.admin.create_topic(&create).await.unwrap_err().to_string());
    }
    insta::assert_snapshot!(said.join("\n"), @r"
    unknown_topic: replies: topic `nothing` does not exist: create it first, `--for replies`
    invalid_argument: replies: topic `new` cannot take the replies to its own requests
    invalid_argument: replies: topic `agents` is a work queue, replies need a log: create one `--for replies`
    invalid_argument: replies: topic name contains `.dlq.`, which is reserved for dead-letter topics
    ");
    let same = world.admin.create_topic(&CreateTopic { name: topic("agents"), settings: asks() }).await?;
    assert_eq!(same.settings.replies, Some(topic("agents.replies")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_replies_stays_while_it_is_named() -> Result<()> {
    let mut world = World::start().await?;
    for _ in 0..2 {
        for groups in [Dependents::Keep, Dependents::Delete] {
            let error = world.admin.delete_topic(&topic("agents.replies"), groups).await.unwrap_err();
            let AdminError::Refused(refusal) = error else { anyhow::bail!("{error}") };
            assert_eq!(refusal.code, ErrorCode::InUse);
            assert_eq!(
                refusal.message,
                "topic `agents.replies` takes the replies to requests of topic `agents`: delete that first"
            );
        }
        world.broker.crash_and_restart()?;
    }
    world.admin.delete_topic(&topic("agents"), Dependents::Delete).await?;
    world.admin.delete_topic(&topic("agents.replies"), Dependents::Keep).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_makes_and_shows_it() -> Result<()> {
    let world = World::start().await?;
    let sluice = |arguments: &[&str]| -> Result<String> {
        let out = world.broker.sluice(arguments)?;
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8(out.stdout)?)
    };
    sluice(&["topic", "create", "tools.replies", "--for", "replies"])?;
    sluice(&["topic", "create", "tools", "--replies", "tools.replies"])?;
    let shown: serde_json::Value = serde_json::from_str(&sluice(&["topic", "show", "tools", "-o", "json"])?)?;
    assert_eq!(shown["settings"]["replies"], "tools.replies", "{shown}");
    let table = sluice(&["topic", "show", "tools"])?;
    assert!(table.contains("REPLIES") && table.contains("tools.replies"), "{table}");
    Ok(())
}

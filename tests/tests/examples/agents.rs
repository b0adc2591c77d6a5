//! Agents that ask each other, and die at the worst moments.

use anyhow::{Context, Result};
use sluicegate_client::admin::Page;
use sluicegate_client::{GroupName, TopicName};
use sluicegate_tests::Broker;

use super::{line, number, read, text};

#[tokio::test(flavor = "multi_thread")]
async fn each_task_has_one_result_whatever_ran_twice() -> Result<()> {
    let broker = Broker::start()?;
    let printed = tokio::task::block_in_place(|| broker.example("agents", &[]))?;
    assert!(printed.matches("is killed").count() >= 4, "{printed}");
    for task in 1..=3 {
        let said = line(&printed, &format!("task-{task}/"))?;
        let (run, result) = said.split_once(": ").context("a task has a result")?;
        let results = read(&broker, "results", &format!("task-{task}/{run}")).await?;
        assert_eq!(results.iter().map(text).collect::<Result<Vec<_>>>()?, [result]);
        assert_eq!(number(result)?, 98, "{result}");
    }
    let admin = broker.admin(None)?;
    // A step that was asked for again is no second message, and nothing was given up.
    assert_eq!(admin.topic(&TopicName::parse("steps.replies")?).await?.lite_topics, 3 * 4);
    for group in ["planners", "workers"] {
        let group = GroupName::parse(group)?;
        let stats = admin.group(&group).await?.stats;
        assert_eq!(stats.acked, if group.as_str() == "planners" { 3 } else { 3 * 4 }, "{stats:?}");
        assert!(stats.delivered > stats.acked, "nothing ran twice: {stats:?}");
        assert!(admin.dead_letters(&group, &Page::default()).await?.dead_letters.is_empty());
    }
    Ok(())
}

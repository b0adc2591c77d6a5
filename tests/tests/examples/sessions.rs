//! Session as topic.

use std::collections::BTreeSet;

use anyhow::Result;
use sluicegate_tests::Broker;

use super::{line, number, read, text};

#[tokio::test(flavor = "multi_thread")]
async fn conversations_outlive_connections_and_back_ends() -> Result<()> {
    let broker = Broker::start()?;
    let printed = tokio::task::block_in_place(|| broker.example("sessions", &[]))?;
    assert!(printed.contains("is killed in the middle of a token stream"), "{printed}");
    let mut writers = BTreeSet::new();
    for user in ["ada", "grace", "barbara", "edsger"] {
        let said = line(&printed, &format!("{user}/"))?;
        let (run, counts) = said.split_once(": ").unwrap_or_default();
        let messages = read(&broker, "chat.replies", &format!("{user}/{run}")).await?;
        assert_eq!(messages.len(), number(counts)?, "{said}");
        assert!(messages.iter().enumerate().all(|(index, message)| message.offset().0 == index as u64));
        assert_eq!(messages.iter().filter(|message| message.is_end()).count(), 3);
        let words = messages.iter().map(text).collect::<Result<String>>()?;
        assert_eq!(words.matches("whoever runs me.").count(), 3, "{words}");
        // The last answer looks back on the one that was cut: 1 + 2 turns before, each with all its words.
        assert!(words.contains("Before that you asked me 2 thing(s)"), "{words}");
        writers.extend(messages.iter().filter_map(|message| message.property("back-end").map(str::to_owned)));
    }
    assert!(writers.len() > 2, "two back ends were there in the beginning: {writers:?}");
    Ok(())
}

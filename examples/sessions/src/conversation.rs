//! A conversation as its lite topic has it: the one place where it is kept.

use sluicegate_client::{Client, ConnectError, ErrorCode, LiteName, ReadError, ReadMessage, TopicName};

/// Property of every message: the id of the question that it belongs to.
pub(crate) const TURN: &str = "turn";
/// Property of every message: the process that published it.
pub(crate) const BACK_END: &str = "back-end";

/// A question and what there is of its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) id: String,
    pub(crate) question: String,
    pub(crate) answer: Vec<String>,
}

/// The topic that sessions are lite topics of.
pub(crate) fn topic() -> TopicName {
    TopicName::parse("chat.replies").expect("a good name")
}

/// All that there is of a session now. What is read here is durable and in order, whichever back ends wrote it.
pub(crate) async fn read(client: &Client, session: &LiteName) -> anyhow::Result<Vec<Turn>> {
    let mut reader = match client.reader(topic(), session.clone()).connect().await {
        Ok(reader) => reader,
        // Its first question.
        Err(ReadError::Connect(ConnectError::Refused(refusal))) if refusal.code == ErrorCode::UnknownLite => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error.into()),
    };
    let mut turns = Vec::new();
    while let Some(message) = reader.next().await {
        add(&mut turns, &message?)?;
    }
    Ok(turns)
}

/// The first message of a turn is the question, then come the tokens, then the end, which is empty.
pub(crate) fn add(turns: &mut Vec<Turn>, message: &ReadMessage) -> anyhow::Result<()> {
    let text = String::from_utf8(message.body().to_vec())?;
    let id = message.property(TURN).unwrap_or_default();
    match turns.iter_mut().find(|turn| turn.id == id) {
        _ if message.is_end() => {}
        Some(turn) => turn.answer.push(text),
        None => turns.push(Turn { id: id.into(), question: text, answer: Vec::new() }),
    }
    Ok(())
}

//! A user's device, on a bad network: it knows the last message that it has shown, and reads on behind that.

use anyhow::Context as _;
use sluicegate_client::{Client, LiteName, Message, MessageId, Offset, ReadMessage, Reader, TopicName};
use sluicegate_example_broker::Broker;

use crate::conversation::{self, BACK_END, Turn};

/// Messages after which the connection is lost again.
const MESSAGES_PER_CONNECTION: usize = 9;

/// One session as its user sees it.
pub(crate) struct Caller {
    broker: Broker,
    session: LiteName,
    /// All that a device keeps.
    last: Option<MessageId>,
    pub(crate) turns: Vec<Turn>,
    /// Of each message, in order: the turn that it belongs to, and the process that wrote it.
    pub(crate) writers: Vec<(usize, u32)>,
    pub(crate) connections: usize,
}

impl Caller {
    pub(crate) fn new(broker: Broker, session: LiteName) -> Self {
        Self { broker, session, last: None, turns: Vec::new(), writers: Vec::new(), connections: 0 }
    }

    pub(crate) fn session(&self) -> &LiteName {
        &self.session
    }

    /// Asks in the lite topic of this session, where questions wait for a back end in their order.
    pub(crate) async fn ask(&self, questions: TopicName, question: &str) -> anyhow::Result<()> {
        let producer = self.broker.client().producer(questions).connect().await?;
        producer.send(Message::to_lite(&self.session).body(question.to_owned())).await?;
        producer.close().await;
        Ok(())
    }

    /// Reads up to the end of the answer, or so many messages, by one connection after the other.
    pub(crate) async fn read(&mut self, messages_max: usize) -> anyhow::Result<()> {
        let mut read = 0;
        loop {
            // A client has one connection, which is lost with it.
            let client = self.broker.client();
            let mut reader = self.reader(&client).await?;
            for _ in 0..MESSAGES_PER_CONNECTION {
                let message = reader.next().await.context("a stream has an end")??;
                self.show(&message)?;
                read += 1;
                if message.is_end() || read == messages_max {
                    return Ok(());
                }
            }
        }
    }

    async fn reader(&mut self, client: &Client) -> anyhow::Result<Reader> {
        self.connections += 1;
        let reader = client.reader(conversation::topic(), self.session.clone()).follow(true);
        Ok(match self.last {
            Some(id) => reader.after(id).connect().await?,
            None => reader.connect().await?,
        })
    }

    fn show(&mut self, message: &ReadMessage) -> anyhow::Result<()> {
        let expected = self.last.map_or(Offset(0), |last| last.offset.next());
        anyhow::ensure!(message.offset() == expected, "offset {} where {expected} is next", message.offset());
        self.last = Some(message.id());
        conversation::add(&mut self.turns, message)?;
        let writer = message.property(BACK_END).context("a message says who wrote it")?;
        self.writers.push((self.turns.len() - 1, writer.parse()?));
        Ok(())
    }
}

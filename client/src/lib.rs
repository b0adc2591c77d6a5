//! Sluicegate's client: publish to lite topics, consume what the broker decides to deliver, read lite topics,
//! administer the broker.
//!
//! Start from a [`Client`]: it makes [`Producer`]s, [`Consumer`]s and [`Reader`]s that share one QUIC connection and find their way
//! back after a loss. [`admin::Admin`] speaks the admin HTTP API. Everything is async and needs a tokio runtime.
//!
//! ```no_run
//! use sluicegate_client::{Client, GroupName, Message, TopicName, Trust};
//!
//! # async fn example() -> anyhow::Result<()> {
//! let client = Client::builder("localhost:7420", Trust::Certificate("data/dev-cert.pem".into())).build();
//!
//! let producer = client.producer(TopicName::parse("chat.requests")?).connect().await?;
//! producer.send(Message::to("user-42")?.body("hello")).await?;
//!
//! let mut consumer = client.consumer(GroupName::parse("llm-workers")?).connect().await?;
//! while let Some(delivery) = consumer.next().await {
//!     let delivery = delivery?;
//!     println!("{}: {:?}", delivery.lite(), delivery.body());
//!     delivery.ack().await?;
//! }
//! # Ok(())
//! # }
//! ```

pub mod admin;
mod backoff;
mod body;
mod client;
mod connection;
mod consumer;
mod delivery;
mod message;
mod producer;
mod reader;
mod refusal;
mod reply;
mod request;
mod stream;
mod trust;

pub use body::{BodyError, BodyReader};
pub use client::{Client, ClientBuilder};
pub use connection::ConnectError;
pub use consumer::{
    ConsumeError, Consumer, ConsumerBuilder, ConsumerState, EndedLife, Load, SubscribeError, Subscribed, Subscription,
};
pub use delivery::{Delivery, Outcome, SettleError, Settling};
pub use message::Message;
pub use producer::{Pending, Producer, ProducerBuilder, PublishError, Receipt};
pub use reader::{ReadError, ReadMessage, Reader, ReaderBuilder};
pub use refusal::Refusal;
pub use reply::{Replied, ReplyError, ReplyStream};
pub use request::{Cancelled, Reply, Request, RequestError, Requester};
pub use sluicegate_protocol::{
    END_PROPERTY, ErrorCode, GroupName, IdempotencyKey, InvalidIdempotencyKey, InvalidName, LiteId, LiteName,
    MessageId, Offset, ParseMessageIdError, Position, ProducerId, REPLY_CANCELLED, REPLY_ERROR_PROPERTY,
    REPLY_LITE_PROPERTY, REPLY_PREFIX, REPLY_TOPIC_PROPERTY, REQUEST_ID_PROPERTY, Rate, RequestId, RequesterId,
    SessionId, Timestamp, TopicName,
};
pub use trust::{Trust, TrustError};

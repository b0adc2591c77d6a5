//! `sluice request`, `sluice resume` and `sluice cancel`.

use serde::Serialize;
use sluicegate_client::{
    Cancelled, LiteName, Message, MessageId, REPLY_ERROR_PROPERTY, Request, RequestError, RequestId, Requester,
    RequesterId, TopicName,
};

use crate::connect::Broker;
use crate::output::{self, Body, Format};

/// Publishes a request and prints its reply. When none comes in time it says how to go on: the request does.
#[derive(Debug, clap::Args)]
pub(crate) struct Ask {
    /// The topic, which names where replies go (`topic create --replies`).
    topic: TopicName,
    /// The lite topic.
    lite: LiteName,
    /// The request.
    #[arg(long, default_value = "")]
    body: String,
    /// Its id; without, one is drawn. Asked again with the same id and body it is the same request.
    #[arg(long, value_name = "REQUEST_ID")]
    id: Option<RequestId>,
    #[command(flatten)]
    wait: Wait,
}

/// Prints the reply to a request that was made before.
#[derive(Debug, clap::Args)]
pub(crate) struct Resume {
    /// The request's topic.
    topic: TopicName,
    /// The request.
    request: RequestId,
    #[command(flatten)]
    wait: Wait,
}

/// Takes a request back: one that waits is settled without delivery, who has it in work is told. Its reply is an error from now on,
/// unless it had one.
#[derive(Debug, clap::Args)]
pub(crate) struct Cancel {
    /// The request's topic.
    topic: TopicName,
    /// The request's lite topic.
    lite: LiteName,
    /// The request.
    request: RequestId,
    /// Which message it is, as `sluice request` said: `LITE_ID-OFFSET`.
    message: MessageId,
    #[command(flatten)]
    name: Name,
}

#[derive(Debug, clap::Args)]
struct Name {
    /// What the requester calls itself: replies go to `reply/NAME/REQUEST_ID`.
    #[arg(long = "as", value_name = "NAME", default_value = "sluice")]
    name: RequesterId,
}

#[derive(Debug, clap::Args)]
struct Wait {
    #[command(flatten)]
    name: Name,
    /// How long to wait for the reply.
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    timeout: humantime::Duration,
    /// Print the reply's parts as they come, until its end, however long that takes.
    #[arg(long, conflicts_with = "timeout")]
    stream: bool,
}

#[derive(Debug, Serialize)]
struct Printed {
    request: String,
    #[serde(flatten)]
    body: Body,
    /// Messages that it came in.
    parts: u64,
}

#[derive(Debug, Serialize)]
struct Part {
    request: String,
    #[serde(flatten)]
    body: Body,
    end: bool,
}

#[derive(Debug, Serialize)]
struct Said {
    request: String,
    cancelled: &'static str,
}

impl Ask {
    pub(crate) async fn run(self, broker: &Broker, format: Format) -> anyhow::Result<()> {
        let requester = requester(broker, self.topic.clone(), self.wait.name.name.clone()).await?;
        let message = Message::to_lite(&self.lite).body(self.body);
        let request = match self.id {
            Some(id) => requester.start_as(id, message).await?,
            None => requester.start(message).await?,
        };
        let printed = self.wait.print(&request, format).await;
        let is_late = |error: &anyhow::Error| matches!(error.downcast_ref(), Some(RequestError::TimedOut { .. }));
        if let (Some(at), true) = (request.message(), printed.as_ref().is_err_and(is_late)) {
            let (topic, lite, id, name) = (&self.topic, &self.lite, request.id(), requester.id());
            eprintln!("sluice: later: sluice resume {topic} {id} --as {name}");
            eprintln!("sluice: or never: sluice cancel {topic} '{lite}' {id} {at} --as {name}");
        }
        printed
    }
}

impl Resume {
    pub(crate) async fn run(self, broker: &Broker, format: Format) -> anyhow::Result<()> {
        let requester = requester(broker, self.topic, self.wait.name.name.clone()).await?;
        self.wait.print(&requester.resume(self.request), format).await
    }
}

impl Cancel {
    pub(crate) async fn run(self, broker: &Broker, format: Format) -> anyhow::Result<()> {
        let requester = requester(broker, self.topic.clone(), self.name.name).await?;
        let request = requester.resume(self.request).at(self.topic, self.lite, self.message);
        let cancelled = match request.cancel().await? {
            Cancelled::Dropped => "dropped",
            Cancelled::Running => "running",
            Cancelled::Over => "over",
        };
        let said = Said { request: request.id().to_string(), cancelled };
        output::print(format, &said, |said| match cancelled {
            "dropped" => format!("request {} is dropped", said.request),
            "running" => format!("request {} is in work, and who has it was told", said.request),
            _ => format!("nothing was left of request {}", said.request),
        })
    }
}

impl Wait {
    async fn print(&self, request: &Request, format: Format) -> anyhow::Result<()> {
        if self.stream {
            return print_parts(request, format).await;
        }
        let reply = request.reply(*self.timeout).await?;
        if format == Format::Text {
            return output::bytes(&reply.body);
        }
        let body = Body::of(&reply.body);
        output::json(&Printed { request: reply.request.to_string(), body, parts: reply.parts })
    }
}

async fn print_parts(request: &Request, format: Format) -> anyhow::Result<()> {
    let mut reader = request.stream().await?;
    while let Some(message) = reader.next().await {
        let message = message?;
        if let Some(reason) = message.property(REPLY_ERROR_PROPERTY) {
            let (request, reason) = (request.id().clone(), reason.to_owned());
            return Err(RequestError::Failed { request, reason }.into());
        }
        match format {
            Format::Text => output::bytes(message.body())?,
            Format::Json => {
                let body = Body::of(message.body());
                output::json(&Part { request: request.id().to_string(), body, end: message.is_end() })?;
            }
        }
    }
    Ok(())
}

async fn requester(broker: &Broker, topic: TopicName, name: RequesterId) -> anyhow::Result<Requester> {
    Ok(broker.client().requester(topic, name).await?)
}

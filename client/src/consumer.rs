//! Consuming: leases that are extended, settled in batches, and carried over a lost connection.

mod leases;
mod requests;
mod subscriptions;
mod task;

use std::future::{IntoFuture, pending};
use std::pin::{Pin, pin};
use std::sync::Arc;

use sluicegate_protocol::limits::{BODY_BYTES_DEFAULT, CREDIT_MESSAGES_MAX};
use sluicegate_protocol::{GroupName, LiteId, LiteName, SessionId};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::connection::ConnectError;
use crate::delivery::{Delivery, Outcome};
use crate::refusal::Refusal;
pub(crate) use requests::SettleRequest;
use subscriptions::{Change, Kind};
pub use subscriptions::{SubscribeError, Subscribed, Subscription};
pub(crate) use task::Command;
use task::ConsumerTask;

/// Changes of the subscription that wait for the task; more wait with their callers.
const CHANGES_MAX: usize = 16;
/// Lite topics that were lost, or ended, that a slow listener may be behind.
const LOST_MAX: usize = 1_024;

/// Receives the messages of one group over one stream.
///
/// At most as many messages as it has [`workers`](ConsumerBuilder::workers) are with it at once; each one that is
/// settled or dropped makes room for another. When the connection is lost, the consumer connects again with the same
/// session: leases that the broker still holds for it go on, the others are [lost](Delivery::lease_lost).
///
/// Dropping a consumer closes it: what was not settled returns to the broker at once, uncounted.
///
/// ```no_run
/// use std::time::Duration;
/// use sluicegate_client::{Client, GroupName, Outcome};
///
/// # async fn example(client: Client) -> anyhow::Result<()> {
/// let mut consumer = client.consumer(GroupName::parse("llm-workers")?).workers(8).connect().await?;
///
/// // One at a time:
/// if let Some(delivery) = consumer.next().await {
///     let delivery = delivery?;
///     println!("{}: {:?}", delivery.lite(), delivery.body());
///     delivery.ack().await?;
/// }
///
/// // Or as many at once as there are workers, until Ctrl-C:
/// let stop = async { drop(tokio::signal::ctrl_c().await) };
/// consumer.run_until(stop, |delivery| async move { Outcome::AckWithCost(delivery.cost()) }).await?;
/// consumer.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Consumer {
    session: SessionId,
    workers: u32,
    deliveries: mpsc::Receiver<Result<Delivery, ConsumeError>>,
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<ConsumerState>,
    load: Load,
    changes: mpsc::Sender<Change>,
    takes_all: bool,
    lost: broadcast::Sender<LiteName>,
    ended: broadcast::Sender<EndedLife>,
}

/// The life of a lite topic that is over, with all that it held. The next message to its name begins a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedLife {
    /// Its name, to which the consumer is subscribed still.
    pub lite: LiteName,
    /// The life that ended.
    pub lite_id: LiteId,
}

/// Reports how busy the compute behind a consumer is; policies may hold work back by it. Cheap to clone.
///
/// ```no_run
/// # async fn example(consumer: sluicegate_client::Consumer, busy: u32, slots: u32) {
/// let load = consumer.load();
/// load.report(f64::from(busy) / f64::from(slots));
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Load(watch::Sender<u32>);

impl Load {
    /// From 0, idle, to 1, nothing left to give; what is beyond is cut. The newest report counts until the next.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to a million, and NaN becomes 0")]
    pub fn report(&self, load: f64) {
        self.0.send_replace((load.clamp(0.0, 1.0) * 1_000_000.0) as u32);
    }
}

/// How a consumer stands with its broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerState {
    /// Deliveries come.
    Connected,
    /// The broker is going down in an orderly way: no new deliveries come, settles still go through.
    Draining,
    /// The connection was lost; deliveries and settles wait for the next.
    Reconnecting,
    /// It has ended.
    Closed,
}

/// Why no further deliveries come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConsumeError {
    /// The broker ended the consumer for good, for example because its token lacks the right.
    #[error("consumer ended by the broker: {0}")]
    Ended(Refusal),
}

/// Settings of a [`Consumer`]. Await it, or its [`connect`](Self::connect), to have the consumer.
#[derive(Debug, Clone)]
#[must_use]
pub struct ConsumerBuilder {
    client: Client,
    group: GroupName,
    session: SessionId,
    workers: u32,
    subscription: Option<Subscription>,
    bodies: Bodies,
}

/// What becomes of large bodies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bodies {
    /// Larger ones are not taken.
    pub(crate) bytes_max: u64,
    /// Larger ones are delivered before they are here.
    pub(crate) streamed_above: u64,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client, group: GroupName) -> Self {
        Self {
            client,
            group,
            session: SessionId(rand::random()),
            workers: 1,
            subscription: None,
            bodies: Bodies::default(),
        }
    }

    /// Messages that may be with this consumer at once, from 1 to 65,536; default 1.
    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = workers.clamp(1, CREDIT_MESSAGES_MAX);
        self
    }

    /// Bytes of the largest body that the consumer takes; default 64 MiB, as a broker takes unless it is told otherwise. A message
    /// with a larger one goes to the dead-letter topic, and says why.
    pub fn body_bytes_max(mut self, bytes: u64) -> Self {
        self.bodies.bytes_max = bytes;
        self
    }

    /// Delivers messages whose bodies are larger than this before the body is here, to be read by
    /// [`Delivery::body_reader`]; bodies up to 256 KiB are always here. Without it a delivery is handed out when all of its
    /// body is here, and memory holds as many as there are workers.
    pub fn stream_bodies_above(mut self, bytes: u64) -> Self {
        self.bodies.streamed_above = bytes;
        self
    }

    /// Takes only these lite topics; without it a consumer takes all of its group. What it takes can be changed while it
    /// runs, from nothing ([`Subscription::default`]) too. A broker that refuses them ends the consumer.
    pub fn subscribe_to(mut self, subscription: Subscription) -> Self {
        self.subscription = Some(subscription);
        self
    }

    /// The session's identity; default a random one. A program that takes over a session from before a restart returns
    /// the leases that it finds there, uncounted.
    pub fn session(mut self, session: SessionId) -> Self {
        self.session = session;
        self
    }

    /// Connects the consumer.
    ///
    /// # Errors
    /// [`ConnectError`] when the broker does not answer within the client's connect timeout, or refuses.
    pub async fn connect(self) -> Result<Consumer, ConnectError> {
        // Each delivery sends once, the workers bound the deliveries, and a close may come on top: it is never full.
        let (command_sender, commands) = mpsc::channel(self.workers as usize + 2);
        let (output, deliveries) = mpsc::channel(self.workers as usize);
        let (state_sender, state) = watch::channel(ConsumerState::Connected);
        let (load_sender, load) = watch::channel(0);
        let (change_sender, changes) = mpsc::channel(CHANGES_MAX);
        let (lost, _) = broadcast::channel(LOST_MAX);
        let (ended, _) = broadcast::channel(LOST_MAX);
        let consumer = Consumer {
            session: self.session,
            workers: self.workers,
            deliveries,
            commands: command_sender,
            state,
            load: Load(load_sender),
            changes: change_sender,
            takes_all: self.subscription.is_none(),
            lost: lost.clone(),
            ended: ended.clone(),
        };
        let subscribing = (changes, lost, ended);
        let sender = consumer.commands.clone();
        let mut task = ConsumerTask::new(&self, sender, commands, output, state_sender, load, subscribing);
        let opened = self.client.open_first(task.role()).await?;
        tokio::spawn(task.run(opened));
        Ok(consumer)
    }
}

impl Default for Bodies {
    fn default() -> Self {
        Self { bytes_max: BODY_BYTES_DEFAULT, streamed_above: u64::MAX }
    }
}

impl IntoFuture for ConsumerBuilder {
    type Output = Result<Consumer, ConnectError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.connect())
    }
}

impl Consumer {
    /// The session's identity.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// How the consumer stands with its broker now.
    pub fn state(&self) -> ConsumerState {
        *self.state.borrow()
    }

    /// The consumer's [state](Self::state), to be waited on.
    pub fn watch_state(&self) -> watch::Receiver<ConsumerState> {
        self.state.clone()
    }

    /// To report how busy the compute behind this consumer is.
    pub fn load(&self) -> Load {
        self.load.clone()
    }

    /// Takes these lite topics too, from when the future is ready. In an exclusive group they are taken from whoever
    /// subscribed before.
    ///
    /// # Errors
    /// [`SubscribeError`] when the broker refuses, for example above a limit, or the consumer takes all.
    pub async fn subscribe(&self, names: Subscription) -> Result<Subscribed, SubscribeError> {
        self.change(Kind::Add, names).await
    }

    /// Takes these lite topics no longer; deliveries that are there are not taken away.
    ///
    /// # Errors
    /// [`SubscribeError`] when the consumer takes all or has ended.
    pub async fn unsubscribe(&self, names: Subscription) -> Result<(), SubscribeError> {
        self.change(Kind::Remove, names).await.map(drop)
    }

    /// Lite topics of an exclusive group that a newer subscriber took, from now on.
    pub fn watch_lost(&self) -> broadcast::Receiver<LiteName> {
        self.lost.subscribe()
    }

    /// Lite topics that this consumer subscribed to by name and whose life ended from now on, by reclaim or by an operator. The
    /// subscription goes on.
    pub fn watch_ended(&self) -> broadcast::Receiver<EndedLife> {
        self.ended.subscribe()
    }

    async fn change(&self, kind: Kind, names: Subscription) -> Result<Subscribed, SubscribeError> {
        if self.takes_all {
            return Err(SubscribeError::TakesAll);
        }
        let (done, is_done) = oneshot::channel();
        let change = Change { kind, names, done: Some(done) };
        self.changes.send(change).await.map_err(|_| SubscribeError::Closed)?;
        is_done.await.map_err(|_| SubscribeError::Closed)?
    }

    /// Waits for the next delivery; none after the end. Cancel-safe.
    ///
    /// # Errors
    /// [`ConsumeError`], once, when the broker ended the consumer for good.
    pub async fn next(&mut self) -> Option<Result<Delivery, ConsumeError>> {
        loop {
            match self.deliveries.recv().await? {
                // Lost while it waited here; dropping it makes room for another.
                Ok(delivery) if delivery.is_lease_lost() => drop(delivery),
                next => return Some(next),
            }
        }
    }

    /// Runs `handler` for each delivery, for as many at once as there are workers, and settles with what it returns.
    ///
    /// A handler that panics settles nothing: the lease runs out. Dropping the future stops the handlers; to let them
    /// finish, use [`run_until`](Self::run_until).
    ///
    /// # Errors
    /// [`ConsumeError`] when the broker ended the consumer for good.
    pub async fn run<H, F>(&mut self, handler: H) -> Result<(), ConsumeError>
    where
        H: FnMut(Arc<Delivery>) -> F,
        F: Future<Output = Outcome> + Send + 'static,
    {
        self.run_until(pending(), handler).await
    }

    /// Like [`run`](Self::run) until `stop` resolves; then it waits for the handlers that are at work.
    ///
    /// # Errors
    /// [`ConsumeError`] when the broker ended the consumer for good.
    pub async fn run_until<H, F>(&mut self, stop: impl Future<Output = ()>, mut handler: H) -> Result<(), ConsumeError>
    where
        H: FnMut(Arc<Delivery>) -> F,
        F: Future<Output = Outcome> + Send + 'static,
    {
        let workers = self.workers as usize;
        let mut stop = pin!(stop);
        let mut handlers = JoinSet::new();
        let ended = loop {
            tokio::select! {
                biased;
                () = &mut stop => break Ok(()),
                Some(joined) = handlers.join_next() => report(joined),
                next = self.next(), if handlers.len() < workers => match next {
                    Some(Ok(delivery)) => {
                        let delivery = Arc::new(delivery);
                        let outcome = handler(Arc::clone(&delivery));
                        handlers.spawn(async move { delivery.settle_unattended(outcome.await) });
                    }
                    Some(Err(error)) => break Err(error),
                    None => break Ok(()),
                },
            }
        };
        while let Some(joined) = handlers.join_next().await {
            report(joined);
        }
        ended
    }

    /// Sends the settles that wait, then ends the session in an orderly way: what is not settled returns to the broker
    /// at once, uncounted.
    ///
    /// It waits at most ten seconds for a broker that is away.
    pub async fn close(self) {
        let (done, is_done) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            // The task drops the sender only with itself, which is closed enough.
            let _ = is_done.await;
        }
    }
}

fn report(joined: Result<(), tokio::task::JoinError>) {
    if let Err(error) = joined {
        tracing::error!(%error, "handler failed, its message is not settled");
    }
}

//! The HTTPS door for messages: publish, and read as pages, as a stream of events or body by body. For programs that do not speak QUIC.
//!
//! Refusals have the codes of the wire. Nothing here owns state of messages: publishes go to the shards, reads are those of a
//! [`crate::reader::Reader`]. What a client can make the door hold has the limits below.

mod batch;
mod body;
mod caller;
mod delivery;
mod doorway;
mod draft;
mod fields;
mod long_poll;
mod message;
mod openapi;
mod page;
mod publish;
mod receive;
mod reply;
mod request;
mod session;
mod settle;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, Method, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post};
use sluicegate_protocol::{ErrorCode, ProducerId, TopicName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tower_http::compression::CompressionLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

pub(crate) use self::doorway::{Doorway, origins};
use crate::broker::{Broker, send, stopping};
use crate::catalog::TopicSpec;
use crate::refusal::Refusal;
use crate::shard::{Command, Places, PublishRequest, ToProducer};
use crate::uploads::take;

/// Publishes of all HTTP clients that have come in part or are not answered yet. Each has at most one chunk of its body in memory.
const PUBLISHES_MAX: u32 = 512;
/// Batches of all HTTP clients that have come in part or are not answered yet.
const BATCHES_MAX: u32 = 64;
/// Streams of events of all HTTP clients.
const STREAMS_MAX: u32 = 8_192;
/// Large bodies that HTTP clients are being sent.
const FETCHES_MAX: u32 = 256;
/// Sessions of groups, of all HTTP clients.
const SESSIONS_MAX: u32 = 10_000;
/// Requests to settle that have come in part or are not answered yet.
const SETTLES_MAX: u32 = 512;
/// Requests whose replies are waited for.
const REQUESTS_MAX: u32 = 8_192;
/// How long a browser may remember what it was told of other origins.
const CORS_MAX_AGE: Duration = Duration::from_mins(10);

type App = State<Arc<Door>>;

/// What the routes share.
pub(crate) struct Door {
    broker: Arc<Broker>,
    producer: ProducerId,
    /// Of the next publish.
    sequence: AtomicU64,
    publishes: Arc<Semaphore>,
    batches: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    fetches: Arc<Semaphore>,
    settles: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    sessions: Places,
}

/// What became of a publish.
type Published = Result<sluicegate_protocol::wire::PublishReceipt, Refusal>;

impl Door {
    pub(crate) fn new(broker: &Arc<Broker>, producer: ProducerId) -> Arc<Self> {
        // The clock never goes back, over restarts neither, and nobody publishes a million messages a second: sequences go on
        // from those of earlier lives, and their receipts are let go of.
        let sequence = AtomicU64::new(broker.clock.now().0);
        let room = |max: u32| Arc::new(Semaphore::new(max as usize));
        let [publishes, batches, streams] = [PUBLISHES_MAX, BATCHES_MAX, STREAMS_MAX].map(room);
        let [fetches, settles, requests] = [FETCHES_MAX, SETTLES_MAX, REQUESTS_MAX].map(room);
        let sessions = Places { left: room(SESSIONS_MAX), max: SESSIONS_MAX };
        let broker = Arc::clone(broker);
        Arc::new(Self { broker, producer, sequence, publishes, batches, streams, fetches, settles, requests, sessions })
    }

    /// The first of so many numbers for publishes.
    fn sequences(&self, count: usize) -> u64 {
        self.sequence.fetch_add(count as u64, Ordering::Relaxed)
    }

    fn publish_place(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        take(&self.publishes, 1, PUBLISHES_MAX, "publishes over HTTP")
    }

    fn batch_place(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        take(&self.batches, 1, BATCHES_MAX, "batches over HTTP")
    }

    fn stream_place(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        take(&self.streams, 1, STREAMS_MAX, "streams over HTTP")
    }

    fn fetch_place(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        take(&self.fetches, 1, FETCHES_MAX, "large bodies sent over HTTP")
    }

    fn settle_place(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        take(&self.settles, 1, SETTLES_MAX, "requests to settle over HTTP")
    }

    fn request_place(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        take(&self.requests, 1, REQUESTS_MAX, "requests over HTTP whose replies are waited for")
    }

    /// A topic to publish to; made now where development mode allows.
    async fn topic(&self, name: &str) -> Result<Arc<TopicSpec>, Refusal> {
        let name =
            TopicName::parse(name).map_err(|error| Refusal::new(ErrorCode::InvalidArgument, error.to_string()))?;
        self.broker.topic(&name).await
    }

    /// Publishes one message, which takes so many bytes of the shard's memory until it is answered.
    async fn publish(&self, topic: &TopicSpec, request: PublishRequest, bytes: usize) -> Published {
        let mut published = self.publish_all(topic, vec![request], bytes).await?;
        published.pop().expect("each has an answer")
    }

    /// The same for many, in their order.
    async fn publish_all(
        &self,
        topic: &TopicSpec,
        mut requests: Vec<PublishRequest>,
        bytes: usize,
    ) -> Result<Vec<Published>, Refusal> {
        let count = requests.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let room = self.broker.publish_room(bytes).await;
        // Nothing is waited for between the numbers and the mailbox, so that they come nearly in order.
        let first = self.sequences(count);
        for (request, sequence) in requests.iter_mut().zip(first..) {
            request.sequence = sequence;
        }
        let (replies, mut outbox) = mpsc::channel(count + 1);
        let publish = Command::Publish { topic: topic.id, producer: self.producer, requests, replies, room };
        send(self.broker.shard(topic.shard), publish).await?;
        let mut answers: Vec<Option<Published>> = vec![None; count];
        let mut unanswered = count;
        while unanswered > 0 {
            let told = match outbox.recv().await {
                Some(ToProducer::Receipts(receipts)) => {
                    receipts.into_iter().map(|receipt| (receipt.sequence, Ok(receipt))).collect()
                }
                Some(ToProducer::Refused(sequence, refusal)) => vec![(sequence, Err(refusal))],
                Some(ToProducer::Failed(refusal)) => return Err(refusal),
                None => return Err(stopping()),
            };
            for (sequence, answer) in told {
                let at = usize::try_from(sequence - first).expect("it is one of those that were asked for");
                unanswered -= usize::from(answers[at].replace(answer).is_none());
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }
}

impl Doorway {
    /// All routes.
    pub(crate) fn router(&self, door: Arc<Door>) -> Router {
        let in_json = Router::new()
            .route("/v1/topics/{topic}/messages", get(page::messages).post(publish::publish))
            .route("/v1/topics/{topic}/messages/batch", post(batch::publish_batch))
            .route("/v1/groups/{group}/sessions", post(session::open))
            .route("/v1/groups/{group}/sessions/{session}", delete(session::close))
            .route("/v1/groups/{group}/sessions/{session}/settle", post(settle::settle))
            .route("/v1/groups/{group}/replies", post(reply::answer))
            .route(openapi::PATH, get(openapi::serve))
            .layer(CompressionLayer::new());
        let as_it_is = Router::new()
            .route("/v1/topics/{topic}/messages/{id}", get(body::body))
            .route("/v1/groups/{group}/sessions/{session}/receive", post(long_poll::receive))
            .route("/v1/groups/{group}/sessions/{session}/deliveries/{delivery}", get(delivery::delivery_body))
            .route("/v1/topics/{topic}/requests", post(request::ask))
            .route("/v1/topics/{topic}/requests/{request}", get(request::resume).delete(request::cancel))
            .route("/v1/topics/{topic}/stream", get(stream::stream));
        let router = Router::new()
            .merge(in_json)
            .merge(as_it_is)
            .fallback(no_route)
            .method_not_allowed_fallback(no_method)
            // Bodies have limits of their own, which are larger.
            .layer(DefaultBodyLimit::disable())
            .with_state(door);
        with_cors(router, self.origins.as_ref())
    }

    /// What is answered while the store is closed after a failure.
    pub(crate) fn failed(&self, problem: watch::Receiver<String>) -> Router {
        let refuse = |State(problem): State<watch::Receiver<String>>, request: Request| async move {
            let message = format!("the store failed and is being opened again: {}", *problem.borrow());
            let refusal = Refusal::new(ErrorCode::StoreFailed, message).retry_after(Duration::from_secs(1));
            stream::refused(request.headers(), refusal)
        };
        with_cors(Router::new().fallback(refuse).with_state(problem), self.origins.as_ref())
    }
}

/// Web pages of these origins may use the routes. A page sends its token as a header, never a cookie.
fn with_cors(router: Router, origins: Option<&AllowOrigin>) -> Router {
    let Some(origins) = origins else { return router };
    let cors = CorsLayer::new()
        .allow_origin(origins.clone())
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        // Properties are headers of any name.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::RETRY_AFTER, HeaderName::from_static("sluice-request")])
        .max_age(CORS_MAX_AGE);
    router.layer(cors)
}

/// A number that nobody can guess.
fn drawn() -> Result<u128, Refusal> {
    let drawn = ring::rand::generate(&ring::rand::SystemRandom::new());
    let drawn = drawn.map_err(|_| Refusal::new(ErrorCode::Internal, "the system has no randomness"))?;
    Ok(u128::from_be_bytes(drawn.expose()))
}

async fn no_route(request: Request) -> Refusal {
    Refusal::new(ErrorCode::InvalidArgument, format!("no route {}", request.uri().path())).detail("status", "404")
}

async fn no_method(request: Request) -> Response {
    let message = format!("{} is not allowed on {}", request.method(), request.uri().path());
    Refusal::new(ErrorCode::InvalidArgument, message).detail("status", "405").into_response()
}

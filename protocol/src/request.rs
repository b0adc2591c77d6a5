//! Request and reply: the properties by which a request says where its reply goes, and the reply how it ended.

/// Of a request: its id, which is the idempotency key of the message that ends its reply.
pub const REQUEST_ID_PROPERTY: &str = "request.id";

/// Of a request: the topic that its reply goes to. A worker's group may reply there only if the request's topic names it in its
/// setting `replies`.
pub const REPLY_TOPIC_PROPERTY: &str = "reply.topic";

/// Of a request: the lite topic that its reply goes to, which begins with [`REPLY_PREFIX`].
pub const REPLY_LITE_PROPERTY: &str = "reply.lite";

/// Of the message that ends a reply: the worker failed, and this is why.
pub const REPLY_ERROR_PROPERTY: &str = "reply.error";

/// What [`REPLY_ERROR_PROPERTY`] says of a request that its requester cancelled.
pub const REPLY_CANCELLED: &str = "cancelled";

/// What the names of lite topics begin with that replies go to; who may consume publishes to no others.
pub const REPLY_PREFIX: &str = "reply/";

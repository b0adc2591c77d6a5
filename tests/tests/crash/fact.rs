//! What one client saw. Each keeps its own list; they are put together when all of them have stopped.

use sluicegate_client::admin::{ConcurrencySettings, QuotaSettings};
use sluicegate_client::{LiteId, Offset, SettleError, Timestamp};
use sluicegate_protocol::LeaseToken;
use sluicegate_tests::history::{Delivered, End, Source, Span};

#[derive(Debug, Clone)]
pub(crate) enum Fact {
    Acknowledged {
        producer: usize,
        sequence: u64,
        lite: OneLife,
        offset: Offset,
        body: String,
    },
    /// Its place's life is not known yet.
    Delivered(OneLife, Box<Delivered>),
    Extended(LeaseToken, Timestamp),
    /// The holder asked for it in the span, and got this answer.
    Settled(LeaseToken, Span, End, Result<(), SettleError>),
    /// The holder does nothing any more.
    Abandoned(LeaseToken, Span),
    /// By an operator, between these times.
    Suspended(OneLife, Span),
    /// The holds of this source, or of all, ended in the span.
    Resumed(LiteId, Option<Source>, Span),
    Revoked(LiteId, Timestamp),
    Deleted(LiteId, Span),
    Paused(Span),
    Unpaused(Span),
    Concurrency(Span, ConcurrencySettings),
    Quotas(QuotaSettings),
    /// The digest, or built-in fair scheduling.
    Policy(Option<String>),
    Wrong(String),
}

/// A life of a lite topic as clients see it.
#[derive(Debug, Clone)]
pub(crate) struct OneLife {
    pub(crate) id: LiteId,
    pub(crate) name: String,
}

//! What the demo's clients recorded: every publish that was acknowledged and every delivery.

use std::collections::HashMap;

use sluicegate_protocol::Timestamp;

/// A publish that the broker acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Published {
    /// Whose lite topic.
    pub(crate) user: u32,
    /// Position among the user's requests, from 0; it travels in the body.
    pub(crate) sequence: u64,
    /// Offset that the broker gave.
    pub(crate) offset: u64,
    /// When the request arrived at the client, by the client's clock.
    pub(crate) arrived_at: Timestamp,
    /// When the receipt came, by the client's clock.
    pub(crate) receipt_at: Timestamp,
    /// Cost that the client named.
    pub(crate) cost_estimate: u32,
}

/// One delivery of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// Whose lite topic.
    pub(crate) user: u32,
    /// Sequence in its body.
    pub(crate) sequence: u64,
    /// Offset that it carries.
    pub(crate) offset: u64,
    /// Attempt that it carries, the first is 1.
    pub(crate) attempt: u32,
    /// When the broker dispatched it, as it carries.
    pub(crate) dispatched_at: Timestamp,
    /// When it came, by the client's clock.
    pub(crate) delivered_at: Timestamp,
    /// When its settle was confirmed or its lease was lost, by the client's clock.
    pub(crate) settled_at: Timestamp,
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// Cost that the broker reserved.
    pub(crate) cost_estimate: u32,
    /// Cost that the worker measured.
    pub(crate) cost_actual: u32,
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Acknowledged, and the broker confirmed it.
    Acked,
    /// Given back: retry, suspend, or an orderly close. It is delivered again.
    Returned,
    /// The lease ended without the worker, or the settle's outcome is not known. It may be delivered again.
    LeaseLost,
}

/// All records of a run, in any order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Ledger {
    /// Acknowledged publishes.
    pub(crate) published: Vec<Published>,
    /// Deliveries, repeated ones too.
    pub(crate) deliveries: Vec<Delivery>,
}

/// How long a message waited for its first delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    /// Whose lite topic.
    pub(crate) user: u32,
    /// When it arrived, by the client's clock.
    pub(crate) arrived_at: Timestamp,
    /// When the broker first dispatched it.
    pub(crate) dispatched_at: Timestamp,
}

impl Wait {
    /// From arrival to dispatch; zero if the two clocks disagree by more than the wait.
    pub(crate) fn length(&self) -> std::time::Duration {
        self.dispatched_at.since(self.arrived_at)
    }
}

impl Ledger {
    /// Deliveries in the order in which the broker dispatched them.
    pub(crate) fn by_dispatch(&self) -> Vec<Delivery> {
        let mut deliveries = self.deliveries.clone();
        deliveries.sort_by_key(|delivery| (delivery.dispatched_at, delivery.user, delivery.offset, delivery.attempt));
        deliveries
    }

    /// One wait per message that was delivered, in the order of first dispatches.
    pub(crate) fn waits(&self) -> Vec<Wait> {
        let mut arrived: HashMap<(u32, u64), Timestamp> =
            self.published.iter().map(|published| ((published.user, published.offset), published.arrived_at)).collect();
        let wait = |delivery: Delivery| {
            let arrived_at = arrived.remove(&(delivery.user, delivery.offset))?;
            Some(Wait { user: delivery.user, arrived_at, dispatched_at: delivery.dispatched_at })
        };
        self.by_dispatch().into_iter().filter_map(wait).collect()
    }

    /// When the first request arrived.
    pub(crate) fn started_at(&self) -> Timestamp {
        self.published.iter().map(|published| published.arrived_at).min().unwrap_or_default()
    }

    /// When the last message was dispatched.
    pub(crate) fn ended_at(&self) -> Timestamp {
        self.deliveries.iter().map(|delivery| delivery.dispatched_at).max().unwrap_or_default()
    }
}

//! What the scheduler wants done.

use sluicegate_protocol::{LiteId, Offset, TenantId, Timestamp};

use crate::{Ask, SessionKey};

/// What one delivery reserved; kept with its lease and handed back when the lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// Estimated cost, as reserved from the cost quota.
    pub cost: u64,
    /// Band that it was served from, for the fairness clock to correct.
    pub band: u8,
    /// The tenant's weight at dispatch.
    pub weight: u32,
}

/// Something to do now.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Lease this message to this session. The lite topic has no head until the owner names one.
    Deliver {
        /// Which lite topic.
        lite: LiteId,
        /// Which message: the head that the owner named last.
        offset: Offset,
        /// Whose it is.
        tenant: TenantId,
        /// Who gets it.
        session: SessionKey,
        /// What was reserved.
        charge: Charge,
    },
    /// Ask the policy; answer with [`crate::Event::Answered`] or [`crate::Event::AskFailed`].
    Ask(Ask),
    /// The policy suspended the lite topic; the scheduler holds it already, the owner makes it durable.
    Suspend {
        /// Which lite topic.
        lite: LiteId,
        /// Until when.
        until: Timestamp,
        /// The policy's reason, an index into its reasons.
        reason: u32,
    },
    /// The head's `expires_at` passed: it must never be delivered. The owner names the next head.
    Expired {
        /// Which lite topic.
        lite: LiteId,
        /// Which message.
        offset: Offset,
    },
    /// The policy refused the head. The owner dead-letters it and names the next head.
    DeadLetter {
        /// Which lite topic.
        lite: LiteId,
        /// Which message.
        offset: Offset,
        /// The policy's reason, an index into its reasons.
        reason: u32,
    },
    /// The policy dropped the head. The owner settles it and names the next head.
    Drop {
        /// Which lite topic.
        lite: LiteId,
        /// Which message.
        offset: Offset,
        /// The policy's reason, an index into its reasons.
        reason: u32,
    },
}

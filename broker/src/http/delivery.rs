//! A delivery as HTTP has it: its id, its JSON, and the body of one that is too large for that.

use std::fmt;
use std::str::FromStr;

use axum::extract::{Path, State};
use axum::response::Response;
use serde::Serialize;
use sluicegate_protocol::{ErrorCode, LeaseToken, LiteId, Offset};
use utoipa::ToSchema;

use super::App;
use super::caller::Caller;
use super::fields::{Fields, invalid};
use super::message::JsonMessage;
use super::openapi::Refused;
use super::session::Whose;
use crate::config::Right;
use crate::refusal::Refusal;
use crate::shard::{Command, DeliveryOrder, ExtendRequest};
use crate::store::MessageKey;

/// Names one lease of one message: `{lite id}-{offset}-{epoch}-{counter}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeliveryId {
    pub(super) lite: LiteId,
    pub(super) offset: Offset,
    pub(super) token: LeaseToken,
}

impl DeliveryId {
    pub(super) fn of(order: &DeliveryOrder) -> Self {
        Self { lite: order.lite, offset: order.offset, token: order.token }
    }

    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        text.parse().map_err(|()| invalid(format!("`{text}` is no delivery")))
    }

    pub(super) fn lease(self) -> ExtendRequest {
        ExtendRequest { lite: self.lite, offset: self.offset, token: self.token }
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}-{}", self.lite, self.offset, self.token.epoch, self.token.counter)
    }
}

impl FromStr for DeliveryId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<_> = text.splitn(5, '-').collect();
        let [lite, offset, epoch, counter] = parts[..] else { return Err(()) };
        let number = |part: &str| {
            let is_digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse().ok().filter(|_| is_digits).ok_or(())
        };
        let token = LeaseToken { epoch: number(epoch)?, counter: number(counter)? };
        Ok(Self { lite: LiteId(number(lite)?), offset: Offset(number(offset)?), token })
    }
}

/// A message that a session has in work.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JsonDelivery {
    /// Names this delivery, to settle it.
    delivery: String,
    /// The lite topic.
    lite: String,
    tenant: String,
    /// Counted from 1.
    attempt: u32,
    /// It is the session's own until then, in microseconds since 1970.
    deadline_us: u64,
    #[serde(flatten)]
    message: JsonMessage,
}

impl JsonDelivery {
    pub(super) fn new(order: &DeliveryOrder, message: JsonMessage) -> Self {
        Self {
            delivery: DeliveryId::of(order).to_string(),
            lite: order.name.as_str().to_owned(),
            tenant: order.tenant.as_ref().to_owned(),
            attempt: order.attempt,
            deadline_us: order.deadline.0,
            message,
        }
    }
}

/// The body of a message that the session has in work, as it is, of any size.
#[utoipa::path(
    get,
    path = "/v1/groups/{group}/sessions/{session}/deliveries/{delivery}",
    params(("group" = String, Path, description = "Name of the group"), ("session" = String, Path, description = "Id of the session"), ("delivery" = String, Path, description = "The delivery")),
    responses((status = 200, description = "The body", content_type = "application/octet-stream", body = String), (status = "4XX", description = "Refused", body = Refused), (status = "5XX", description = "Not now", body = Refused))
)]
pub(super) async fn delivery_body(
    State(door): App,
    Path((group, session, delivery)): Path<(String, String, String)>,
    caller: Caller,
    fields: Fields,
) -> Result<Response, Refusal> {
    caller.may(&door, Right::Consume)?;
    fields.end()?;
    let (whose, delivery) = (Whose::of(&door, &group, &session)?, DeliveryId::parse(&delivery)?);
    let (group, session, lease) = (whose.group.id, whose.session, delivery.lease());
    whose.ask(|reply| Command::CheckLease { group, session, lease, reply }).await?;
    let key = MessageKey { shard: whose.shard_id, lite: delivery.lite, offset: delivery.offset };
    let settled = || Refusal::new(ErrorCode::LeaseLost, "the message was deleted or settled, its body is gone");
    super::body::whole(&door, &key)?.ok_or_else(settled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_has_one_text_and_no_other_text_is_one() {
        let token = LeaseToken { epoch: 3, counter: u64::MAX };
        let delivery = DeliveryId { lite: LiteId(7), offset: Offset(0), token };
        assert_eq!(delivery.to_string(), "7-0-3-18446744073709551615");
        assert_eq!(DeliveryId::parse(&delivery.to_string()).unwrap(), delivery);
        for garbage in ["", "7", "7-0-3", "7-0-3-1-1", "7-0-3-", "+7-0-3-1", "7-0-3-18446744073709551616", "a-b-c-d"] {
            assert_eq!(DeliveryId::parse(garbage).unwrap_err().code, ErrorCode::InvalidArgument, "{garbage}");
        }
    }
}

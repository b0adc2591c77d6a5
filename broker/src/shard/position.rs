//! Positions in a lite topic that are not said as an offset.

use sluicegate_protocol::{ErrorCode, LiteId, Offset, Position, Timestamp};

use super::fault::Fault;
use super::ledger::Ledger;
use crate::refusal::Refusal;
use crate::store::{MessageKey, StoreError, split_message};

/// The offset of a position; it is among the kept messages, or the next one to come. The lite topic is in memory.
pub(super) fn position(ledger: &mut Ledger, lite: LiteId, to: Position) -> Result<Offset, Fault> {
    let open = ledger.open_lite(lite);
    let (first, end) = (open.trimmed, open.visible);
    match to {
        Position::Earliest => Ok(first),
        Position::Latest => Ok(end),
        Position::Offset(offset) if (first..=end).contains(&offset) => Ok(offset),
        Position::Offset(offset) => {
            let message = format!("offset {offset} is not there: {first} is the first kept, {end} the next to come");
            Err(Refusal::new(ErrorCode::InvalidArgument, message).into())
        }
        Position::Timestamp(at) => Ok(first_since(ledger, lite, at, (first, end))?),
        Position::Last(count) => Ok(first.max(Offset(end.0.saturating_sub(count)))),
    }
}

/// The first message that was published at this time or later. Later messages have later times.
pub(super) fn first_since(
    ledger: &Ledger,
    lite: LiteId,
    at: Timestamp,
    (first, end): (Offset, Offset),
) -> Result<Offset, StoreError> {
    let (mut from, mut to) = (first.0, end.0);
    while from < to {
        let middle = Offset(from + (to - from) / 2);
        if published_at(ledger, lite, middle)? < at {
            from = middle.0 + 1;
        } else {
            to = middle.0;
        }
    }
    Ok(Offset(from))
}

pub(super) fn published_at(ledger: &Ledger, lite: LiteId, offset: Offset) -> Result<Timestamp, StoreError> {
    let stage = &ledger.stage;
    let key = MessageKey { shard: stage.shard(), lite, offset };
    let corrupt = |problem| StoreError::Corrupt { table: "message", key: format!("{lite} {offset}"), problem };
    let row = stage.store().get_bytes(&key)?.ok_or_else(|| corrupt("a kept message is missing".into()))?;
    split_message(&row).map(|(header, _)| header.published_at()).map_err(corrupt)
}

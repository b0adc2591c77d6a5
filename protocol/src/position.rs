//! A position in a lite topic, however one says it.

use serde::{Deserialize, Serialize};

#[cfg(feature = "wire")]
use crate::wire::{self, start::At};
use crate::{Offset, Timestamp};

/// A position in a lite topic.
///
/// Messages that every group of the topic has settled are deleted, so no position is before the first kept one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// The first message that is kept.
    #[default]
    Earliest,
    /// After the last message.
    Latest,
    /// This message, which must be kept; or the next one to come.
    Offset(Offset),
    /// The first kept message that was published at this time or later.
    Timestamp(Timestamp),
    /// So many messages before the end, as far as they are kept.
    Last(u64),
}

impl Position {
    pub(crate) const fn is_earliest(&self) -> bool {
        matches!(self, Self::Earliest)
    }
}

#[cfg(feature = "wire")]
impl Position {
    /// As a Subscribe frame says it, which leaves out the earliest.
    pub fn to_wire(self) -> Option<wire::Start> {
        let at = match self {
            Self::Earliest => return None,
            Self::Latest => At::Latest(wire::Latest {}),
            Self::Offset(offset) => At::Offset(offset.0),
            Self::Timestamp(at) => At::TimestampUs(at.as_micros()),
            Self::Last(count) => At::Last(count),
        };
        Some(wire::Start { at: Some(at) })
    }

    /// What a Subscribe frame says; none if it says something that this version does not know.
    pub fn from_wire(start: Option<wire::Start>) -> Option<Self> {
        let Some(start) = start else { return Some(Self::Earliest) };
        Some(match start.at? {
            At::Latest(wire::Latest {}) => Self::Latest,
            At::Offset(offset) => Self::Offset(Offset(offset)),
            At::TimestampUs(micros) => Self::Timestamp(Timestamp(micros)),
            At::Last(count) => Self::Last(count),
        })
    }
}

#[cfg(all(test, feature = "wire"))]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_the_wire_and_an_unknown_one_is_noticed() {
        let (offset, at) = (Position::Offset(Offset(7)), Position::Timestamp(Timestamp(8)));
        for position in [Position::Earliest, Position::Latest, offset, at, Position::Last(9)] {
            assert_eq!(Position::from_wire(position.to_wire()), Some(position));
        }
        assert_eq!(Position::from_wire(Some(wire::Start { at: None })), None);
    }
}

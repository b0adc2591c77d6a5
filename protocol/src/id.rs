//! Ids: numbers that the broker gives out, and identities that clients choose.

use std::fmt;
use std::str::FromStr;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id! {
    /// A topic. Never reused.
    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(transparent)]
    TopicId(u32)
}
number_id! {
    /// A consumer group. Never reused.
    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(transparent)]
    GroupId(u32)
}
number_id! {
    /// One life of a lite topic. Never reused, so an old position can never name new data.
    ///
    /// In JSON it is a string: most are above 2^53, where JavaScript and others have no whole numbers any more.
    LiteId(u64)
}

impl serde::Serialize for LiteId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_u64(self.0) }
    }
}

impl<'de> serde::Deserialize<'de> for LiteId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Recordings from before have numbers.
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Said {
            Text(String),
            Number(u64),
        }
        if !deserializer.is_human_readable() {
            return u64::deserialize(deserializer).map(Self);
        }
        match Said::deserialize(deserializer)? {
            Said::Text(text) => text.parse().map(Self).map_err(serde::de::Error::custom),
            Said::Number(number) => Ok(Self(number)),
        }
    }
}
number_id! {
    /// Position of a message in its lite topic, from 0, dense.
    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(transparent)]
    Offset(u64)
}
number_id! {
    /// A tenant, the unit of fairness, interned by its shard; the name is with the shard.
    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(transparent)]
    TenantId(u64)
}

impl Offset {
    /// The offset after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Names one lease for good: the shard's durable epoch, then a counter inside it.
///
/// A later lease of the same message has a higher token, so a holder that was overtaken is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseToken {
    /// Epoch of the shard, raised at each start.
    pub epoch: u64,
    /// Counts the leases of that epoch.
    pub counter: u64,
}

/// Text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct ParseIdError {
    text: String,
    expected: &'static str,
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u128);

        impl $name {
            /// Sixteen bytes, big-endian, as the wire and the store carry it.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// The identity in exactly sixteen bytes.
            pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(|bytes| Self(u128::from_be_bytes(bytes)))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let parsed = (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
                parsed.map(Self).ok_or_else(|| ParseIdError { text: text.into(), expected: "32 hexadecimal digits" })
            }
        }
    };
}

identity! {
    /// A consumer's identity across connections. The client draws it at random and keeps it.
    SessionId
}
identity! {
    /// A producer's identity across connections and restarts; with a sequence number it makes a
    /// resend recognisable. The client draws it at random and keeps it.
    ProducerId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_text_and_bytes() {
        let session = SessionId(0x0123_4567_89ab_cdef);
        assert_eq!(session.to_string().parse::<SessionId>().unwrap(), session);
        assert_eq!(SessionId::from_bytes(&session.to_bytes()), Some(session));
        assert_eq!(SessionId::from_bytes(&[1, 2, 3]), None);
        assert_eq!("xyz".parse::<SessionId>().unwrap_err().to_string(), "`xyz` is not 32 hexadecimal digits");
    }
}

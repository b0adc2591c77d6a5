//! Names that users choose, parsed once at the edge.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::REPLY_PREFIX;
use crate::limits::{LITE_NAME_BYTES_MAX, NAME_BYTES_MAX, REQUEST_NAME_BYTES_MAX};

/// A name that broke a rule; the message says which.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// The name has no bytes.
    #[error("{kind} name is empty")]
    Empty {
        /// What was being named.
        kind: &'static str,
    },
    /// The name is longer than its kind allows.
    #[error("{kind} name has {bytes} bytes, at most {max} are allowed")]
    TooLong {
        /// What was being named.
        kind: &'static str,
        /// Bytes of the name.
        bytes: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A character outside the allowed set.
    #[error("{kind} name has {character:?} at byte {at}, allowed are {allowed}")]
    Character {
        /// What was being named.
        kind: &'static str,
        /// The first character that is not allowed.
        character: char,
        /// Its byte position.
        at: usize,
        /// The rule in words.
        allowed: &'static str,
    },
    /// `.dlq.` is kept for dead-letter topics, which the broker names itself.
    #[error("{kind} name contains `.dlq.`, which is reserved for dead-letter topics")]
    Reserved {
        /// What was being named.
        kind: &'static str,
    },
}

const TOPIC_CHARACTERS: &str = "A-Z a-z 0-9 `.` `_` `-`";
const LITE_CHARACTERS: &str = "any UTF-8 but control characters";

fn check_name(kind: &'static str, name: &str, max: usize) -> Result<(), InvalidName> {
    check_length(kind, name, max)?;
    let bad = name.char_indices().find(|(_, c)| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')));
    match bad {
        Some((at, character)) => Err(InvalidName::Character { kind, character, at, allowed: TOPIC_CHARACTERS }),
        None => Ok(()),
    }
}

fn check_length(kind: &'static str, name: &str, max: usize) -> Result<(), InvalidName> {
    if name.is_empty() {
        return Err(InvalidName::Empty { kind });
    }
    if name.len() > max {
        return Err(InvalidName::TooLong { kind, bytes: name.len(), max });
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The name as shared text.
            pub fn shared(&self) -> Arc<str> {
                Arc::clone(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(name: &str) -> Result<Self, InvalidName> {
                Self::parse(name)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::parse_existing(&name).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type! {
    /// Name of a topic: 1 to 127 bytes of `[A-Za-z0-9._-]`.
    ///
    /// ```
    /// use sluicegate_protocol::TopicName;
    /// assert!(TopicName::parse("chat.requests").is_ok());
    /// assert!(TopicName::parse("chat requests").is_err());
    /// ```
    TopicName
}

name_type! {
    /// Name of a consumer group: 1 to 127 bytes of `[A-Za-z0-9._-]`.
    GroupName
}

name_type! {
    /// Name of a lite topic: 1 to 255 bytes of UTF-8 without control characters, compared byte by
    /// byte. `chatbot/{session}` is fine.
    LiteName
}

name_type! {
    /// Who asks, across restarts: 1 to 64 bytes of `[A-Za-z0-9._-]`, chosen by the application.
    RequesterId
}

name_type! {
    /// Names a request of a requester: 1 to 64 bytes of `[A-Za-z0-9._-]`.
    RequestId
}

impl TopicName {
    /// Parses a topic name that a user chose.
    ///
    /// # Errors
    /// [`InvalidName`] names the rule that was broken. `.dlq.` is reserved.
    pub fn parse(name: &str) -> Result<Self, InvalidName> {
        check_name("topic", name, NAME_BYTES_MAX)?;
        if name.contains(".dlq.") {
            return Err(InvalidName::Reserved { kind: "topic" });
        }
        Ok(Self(name.into()))
    }

    /// Parses a topic name that may be one of the broker's own dead-letter topics.
    ///
    /// # Errors
    /// [`InvalidName`] names the rule that was broken.
    pub fn parse_existing(name: &str) -> Result<Self, InvalidName> {
        match name.contains(".dlq.") {
            // Longer than a user's name by construction: `{topic}.dlq.{group}`.
            true => check_length("topic", name, 2 * NAME_BYTES_MAX + ".dlq.".len()).map(|()| Self(name.into())),
            false => Self::parse(name),
        }
    }

    /// The topic that holds what `group` could not process of this topic: `{topic}.dlq.{group}`.
    #[must_use]
    pub fn dead_letter(&self, group: &GroupName) -> Self {
        Self(format!("{self}.dlq.{group}").into())
    }
}

impl GroupName {
    /// As [`Self::parse`]: the broker makes no group names of its own.
    fn parse_existing(name: &str) -> Result<Self, InvalidName> {
        Self::parse(name)
    }

    /// Parses a group name.
    ///
    /// # Errors
    /// [`InvalidName`] names the rule that was broken. `.dlq.` is reserved.
    pub fn parse(name: &str) -> Result<Self, InvalidName> {
        check_name("group", name, NAME_BYTES_MAX)?;
        if name.contains(".dlq.") {
            return Err(InvalidName::Reserved { kind: "group" });
        }
        Ok(Self(name.into()))
    }
}

impl RequesterId {
    /// As [`Self::parse`]: the broker makes none of its own.
    fn parse_existing(name: &str) -> Result<Self, InvalidName> {
        Self::parse(name)
    }

    /// Parses what an application calls itself.
    ///
    /// # Errors
    /// [`InvalidName`] names the rule that was broken.
    pub fn parse(name: &str) -> Result<Self, InvalidName> {
        check_name("requester", name, REQUEST_NAME_BYTES_MAX).map(|()| Self(name.into()))
    }
}

impl RequestId {
    /// As [`Self::parse`]: the broker makes none of its own.
    fn parse_existing(name: &str) -> Result<Self, InvalidName> {
        Self::parse(name)
    }

    /// Parses a request's id.
    ///
    /// # Errors
    /// [`InvalidName`] names the rule that was broken.
    pub fn parse(name: &str) -> Result<Self, InvalidName> {
        check_name("request", name, REQUEST_NAME_BYTES_MAX).map(|()| Self(name.into()))
    }
}

impl LiteName {
    /// Where replies to a request go: `reply/{requester}/{request}`.
    #[must_use]
    pub fn reply(requester: &RequesterId, request: &RequestId) -> Self {
        Self(format!("{REPLY_PREFIX}{requester}/{request}").into())
    }

    /// As [`Self::parse`]: the broker makes no lite topic names of its own.
    fn parse_existing(name: &str) -> Result<Self, InvalidName> {
        Self::parse(name)
    }

    /// Parses a lite topic name.
    ///
    /// # Errors
    /// [`InvalidName`] names the rule that was broken.
    pub fn parse(name: &str) -> Result<Self, InvalidName> {
        check_length("lite topic", name, LITE_NAME_BYTES_MAX)?;
        match name.char_indices().find(|(_, c)| c.is_control()) {
            Some((at, character)) => {
                Err(InvalidName::Character { kind: "lite topic", character, at, allowed: LITE_CHARACTERS })
            }
            None => Ok(Self(name.into())),
        }
    }

    /// The part up to the first `/`, or the whole name: the tenant under the `prefix` rule.
    ///
    /// # Panics
    /// Never: a split has at least one part.
    pub fn prefix(&self) -> &str {
        self.0.split('/').next().expect("split yields at least one part")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_name_is_refused_with_the_rule_that_it_broke() {
        let refusals = [
            TopicName::parse("").unwrap_err().to_string(),
            TopicName::parse(&"x".repeat(128)).unwrap_err().to_string(),
            TopicName::parse("a/b").unwrap_err().to_string(),
            TopicName::parse("a.dlq.b").unwrap_err().to_string(),
            GroupName::parse("grüße").unwrap_err().to_string(),
            LiteName::parse("line\nbreak").unwrap_err().to_string(),
            LiteName::parse(&"é".repeat(128)).unwrap_err().to_string(),
        ];
        insta::assert_snapshot!(refusals.join("\n"), @r"
        topic name is empty
        topic name has 128 bytes, at most 127 are allowed
        topic name has '/' at byte 1, allowed are A-Z a-z 0-9 `.` `_` `-`
        topic name contains `.dlq.`, which is reserved for dead-letter topics
        group name has 'ü' at byte 2, allowed are A-Z a-z 0-9 `.` `_` `-`
        lite topic name has '\n' at byte 4, allowed are any UTF-8 but control characters
        lite topic name has 256 bytes, at most 255 are allowed
        ");
    }

    #[test]
    fn names_at_their_limits_are_accepted() {
        assert!(TopicName::parse(&"x".repeat(127)).is_ok());
        assert!(LiteName::parse(&"y".repeat(255)).is_ok());
        assert_eq!(LiteName::parse("chatbot/42/a").unwrap().prefix(), "chatbot");
        assert_eq!(LiteName::parse("plain").unwrap().prefix(), "plain");
    }
}

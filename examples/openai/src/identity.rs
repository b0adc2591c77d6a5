//! Who calls, where its requests wait, and what its answers are called.

use std::fmt;

use sha2::{Digest as _, Sha256};
use sluicegate_client::{InvalidName, LiteName, RequestId};

/// What the API calls an answer, before the request's id.
const PREFIX: &str = "chatcmpl-";
/// Bytes of a digest of an API key, of which twice as many digits are shown.
const CALLER_BYTES: usize = 8;

/// A digest of an API key: it may be seen where the key may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller(String);

/// Names an answer, for its caller alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AnswerId(RequestId);

impl Caller {
    pub(crate) fn of_key(key: &str) -> Self {
        Self(digest(&[key], CALLER_BYTES))
    }

    /// Where its requests wait: one after the other for a key, or for each user that the key speaks for.
    pub(crate) fn lite(&self, user: Option<&str>) -> Result<LiteName, InvalidName> {
        match user {
            Some(user) => LiteName::parse(&format!("{}/{user}", self.0)),
            None => LiteName::parse(&self.0),
        }
    }

    /// A new answer's id: the same for the same `Idempotency-Key`, so that a request that is repeated is one.
    pub(crate) fn answer(&self, idempotency_key: Option<&str>) -> AnswerId {
        let rest = match idempotency_key {
            Some(key) => digest(&[&self.0, key], 16),
            None => format!("{:032x}", rand::random::<u128>()),
        };
        AnswerId(RequestId::parse(&format!("{}-{rest}", self.0)).expect("digits and a hyphen are allowed"))
    }

    /// One of its answers; nothing else is its.
    pub(crate) fn own(&self, id: &str) -> Option<AnswerId> {
        let request = id.strip_prefix(PREFIX)?;
        request.strip_prefix(&self.0)?.strip_prefix('-')?;
        RequestId::parse(request).ok().map(AnswerId)
    }
}

impl AnswerId {
    pub(crate) fn of_request(request: &str) -> Option<Self> {
        RequestId::parse(request).ok().map(Self)
    }

    pub(crate) fn request(&self) -> &RequestId {
        &self.0
    }
}

impl fmt::Display for AnswerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PREFIX}{}", self.0)
    }
}

fn digest(parts: &[&str], bytes: usize) -> String {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update((part.len() as u64).to_le_bytes());
        sha.update(part);
    }
    format!("{:x}", sha.finalize())[..2 * bytes].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_callers_alone() {
        let (mine, other) = (Caller::of_key("mine"), Caller::of_key("other"));
        let id = mine.answer(None);
        assert_eq!(mine.own(&id.to_string()), Some(id.clone()));
        assert_eq!(other.own(&id.to_string()), None);
        assert_ne!(mine.answer(None), id);
        for garbage in ["", "chatcmpl-", id.request().as_str(), "chatcmpl-../x"] {
            assert_eq!(mine.own(garbage), None, "{garbage}");
        }
    }

    #[test]
    fn the_same_key_names_the_same_answer_of_one_caller() {
        let (mine, other) = (Caller::of_key("mine"), Caller::of_key("other"));
        assert_eq!(mine.answer(Some("a")), mine.answer(Some("a")));
        assert_ne!(mine.answer(Some("a")), mine.answer(Some("b")));
        assert_ne!(mine.answer(Some("a")), other.answer(Some("a")));
    }
}

//! What a query says: each key once, and none that nobody knows.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use sluicegate_protocol::{ErrorCode, LiteId, LiteName, MessageId, Offset, Position, Timestamp};

use super::Door;
use crate::refusal::Refusal;
use crate::shard::ReadFrom;

/// Keys and values that nobody has taken yet.
#[derive(Debug, Default)]
pub(super) struct Fields(BTreeMap<String, String>);

pub(super) fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::InvalidArgument, message)
}

impl Fields {
    fn of(pairs: Vec<(String, String)>) -> Result<Self, Refusal> {
        let mut fields = BTreeMap::new();
        for (key, value) in pairs {
            if fields.contains_key(&key) {
                return Err(invalid(format!("`{key}` is in the query twice")));
            }
            fields.insert(key, value);
        }
        Ok(Self(fields))
    }

    /// What the key says, if it is there.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    pub(super) fn number<T: FromStr>(&mut self, key: &str) -> Result<Option<T>, Refusal> {
        let parse = |text: String| {
            digits(&text).ok_or_else(|| invalid(format!("{key} is `{text}`, which is no whole number that it may be")))
        };
        self.text(key).map(parse).transpose()
    }

    /// `true`, `1` or nothing after the key; `false` or `0`; else what it is without the key.
    pub(super) fn flag(&mut self, key: &str, otherwise: bool) -> Result<bool, Refusal> {
        match self.text(key).as_deref() {
            None => Ok(otherwise),
            Some("" | "1" | "true") => Ok(true),
            Some("0" | "false") => Ok(false),
            Some(text) => Err(invalid(format!("{key} is `{text}`, it may be true or false"))),
        }
    }

    pub(super) fn lite(&mut self) -> Result<LiteName, Refusal> {
        let name = self.text("lite").ok_or_else(|| invalid("`lite` is missing in the query: the lite topic's name"))?;
        LiteName::parse(&name).map_err(|error| invalid(error.to_string()))
    }

    /// Keys that begin so, without what they begin with.
    pub(super) fn with_prefix(&mut self, prefix: &str) -> Vec<(String, String)> {
        let (with, without) = std::mem::take(&mut self.0).into_iter().partition(|(key, _)| key.starts_with(prefix));
        self.0 = without;
        let with: BTreeMap<String, String> = with;
        with.into_iter().map(|(key, value)| (key[prefix.len()..].to_owned(), value)).collect()
    }

    /// Where to begin: `after`, which a header may say instead, or `from`.
    pub(super) fn start(&mut self, last_seen: Option<&str>) -> Result<Start, Refusal> {
        let (from, after) = (self.text("from"), self.text("after"));
        // A browser that connects again asks for what it asked for at first; the header says how far it has come.
        let after = last_seen.or(after.as_deref());
        if let Some(after) = after {
            let after: MessageId = after.parse().map_err(|error| invalid(format!("{error}")))?;
            let offset = after.offset.0.checked_add(1).ok_or_else(|| invalid("no offset is so high"))?;
            return Ok(Start { after: Some(after), from: life(after.lite_id, Offset(offset)) });
        }
        let from = from.map_or(Ok(Position::Earliest), |text| position(&text))?;
        Ok(Start { after: None, from: ReadFrom::Position(from) })
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), Refusal> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(key) => Err(invalid(format!("`{key}` in the query is not known here"))),
        }
    }
}

/// Where a client begins to read.
pub(super) struct Start {
    /// The message that it had last.
    pub(super) after: Option<MessageId>,
    pub(super) from: ReadFrom,
}

fn life(lite: LiteId, offset: Offset) -> ReadFrom {
    ReadFrom::Life { lite, offset, goes_on: true }
}

/// A number without a sign, which `parse` would take.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `earliest`, `latest`, an offset, `last:N` or `since:MICROSECONDS`.
pub(super) fn position(text: &str) -> Result<Position, Refusal> {
    let parsed = match text.split_once(':') {
        Some(("last", count)) => digits(count).map(Position::Last),
        Some(("since", at)) => digits(at).map(|at| Position::Timestamp(Timestamp(at))),
        Some(_) => None,
        None if text == "earliest" => Some(Position::Earliest),
        None if text == "latest" => Some(Position::Latest),
        None => digits(text).map(|offset| Position::Offset(Offset(offset))),
    };
    let rule = "it may be earliest, latest, an offset, last:N, or since: and microseconds since 1970";
    parsed.ok_or_else(|| invalid(format!("from is `{text}`, {rule}")))
}

impl FromRequestParts<Arc<Door>> for Fields {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Door>) -> Result<Self, Refusal> {
        let query = parts.uri.query().unwrap_or_default();
        // What is no text would become another text, and name another lite topic.
        if percent_encoding::percent_decode_str(query).decode_utf8().is_err() {
            return Err(invalid("the query is not UTF-8"));
        }
        let Query(pairs) = Query::try_from_uri(&parts.uri).map_err(|error| invalid(error.body_text()))?;
        Self::of(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        Fields::of(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()).unwrap()
    }

    #[test]
    fn positions_are_what_the_docs_say_and_nothing_else() {
        assert_eq!(position("earliest").unwrap(), Position::Earliest);
        assert_eq!(position("latest").unwrap(), Position::Latest);
        assert_eq!(position("7").unwrap(), Position::Offset(Offset(7)));
        assert_eq!(position("last:3").unwrap(), Position::Last(3));
        assert_eq!(position("since:5").unwrap(), Position::Timestamp(Timestamp(5)));
        for wrong in ["", "-1", "+1", "last:", "last:-1", "since:x", "first", "after:1-1", "18446744073709551616"] {
            assert_eq!(position(wrong).unwrap_err().code, ErrorCode::InvalidArgument, "{wrong}");
        }
    }

    #[test]
    fn what_is_said_twice_or_not_known_is_refused() {
        let twice = vec![("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())];
        assert_eq!(Fields::of(twice).unwrap_err().message, "`a` is in the query twice");
        assert_eq!(fields(&[("x", "")]).end().unwrap_err().message, "`x` in the query is not known here");
    }

    #[test]
    fn a_browser_that_comes_again_goes_on_behind_what_it_has() {
        let start = fields(&[("from", "latest"), ("after", "7-1")]).start(Some("7-3")).unwrap();
        assert_eq!(start.from, life(LiteId(7), Offset(4)));
        assert!(fields(&[]).start(Some("garbage")).is_err());
        assert!(fields(&[]).start(Some("7-18446744073709551615")).is_err());
    }
}

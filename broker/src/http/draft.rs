//! A message as a request says it, before it is checked.

use std::collections::BTreeMap;
use std::time::Duration;

use sluicegate_protocol::admin::TenantRule;
use sluicegate_protocol::{END_PROPERTY, Timestamp, wire};

use super::fields::invalid;
use crate::catalog::TopicSpec;
use crate::refusal::Refusal;

/// All of a message but its body. A time is said in microseconds since 1970, or in milliseconds from now.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) lite: String,
    pub(super) properties: BTreeMap<String, String>,
    pub(super) priority: Option<u32>,
    pub(super) cost: Option<u64>,
    pub(super) tenant: Option<String>,
    pub(super) deliver_at: (Option<u64>, Option<u64>),
    pub(super) expires_at: (Option<u64>, Option<u64>),
    pub(super) idempotency_key: Option<String>,
    /// It marks the end of a stream.
    pub(super) end: bool,
}

impl Draft {
    /// The message, as a producer's frame has it.
    pub(super) fn message(self, topic: &TopicSpec, now: Timestamp) -> Result<wire::Publish, Refusal> {
        let mut properties = self.properties;
        if let Some(tenant) = self.tenant {
            let TenantRule::Property(key) = &topic.settings.tenant else {
                return Err(invalid("the topic does not have its tenants from messages"));
            };
            insert(&mut properties, key.clone(), tenant)?;
        }
        if self.end {
            insert(&mut properties, END_PROPERTY.to_owned(), String::new())?;
        }
        Ok(wire::Publish {
            // It gets its own when all of it is here.
            sequence: 1,
            lite: self.lite,
            properties,
            priority: self.priority,
            cost: self.cost,
            deliver_at_us: time("deliver_at_us and delay_ms", self.deliver_at, now)?,
            expires_at_us: time("expires_at_us and expires_in_ms", self.expires_at, now)?,
            idempotency_key: self.idempotency_key,
        })
    }
}

fn time(keys: &str, said: (Option<u64>, Option<u64>), now: Timestamp) -> Result<Option<u64>, Refusal> {
    match said {
        (Some(_), Some(_)) => Err(invalid(format!("{keys} say the same thing twice"))),
        (at, None) => Ok(at),
        (None, Some(ms)) => Ok(Some(now.plus(Duration::from_millis(ms)).0)),
    }
}

/// Adds a property, which must have a name and not be there.
pub(super) fn insert(properties: &mut BTreeMap<String, String>, name: String, value: String) -> Result<(), Refusal> {
    if name.is_empty() {
        return Err(invalid("a property has no name"));
    }
    let message = format!("property `{name}` is said twice");
    properties.insert(name, value).map_or(Ok(()), |_| Err(invalid(message)))
}

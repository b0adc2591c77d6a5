//! How much a topic lets in. Asked before anything is changed: a publish that is refused leaves nothing.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_protocol::{ErrorCode, LiteId};

use super::Shard;
use super::counts::Amount;
use super::fault::Fault;
use super::lifecycle;
use crate::catalog::TopicSpec;
use crate::refusal::Refusal;

/// When a publish that a limit refused may be tried again.
const LIMIT_AGAIN: Duration = Duration::from_secs(1);

/// Where a message is to go.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target<'a> {
    /// A lite topic that is in memory.
    Lite(LiteId),
    /// One that is to be made, with this tenant; without one it is its own.
    New(Option<&'a str>),
}

impl Shard {
    /// Whether a message of so many bytes may come.
    pub(super) fn check_limits(&mut self, topic: &Arc<TopicSpec>, to: Target<'_>, bytes: u64) -> Result<(), Fault> {
        let limits = topic.settings.limits;
        let count = self.ledger.stage.counts.of_topic(topic.id);
        if let Target::New(_) = to {
            check("lite topics of the topic", limits.lite_topics, count.lite_topics, 1)?;
        }
        check("messages of the topic", limits.messages, count.kept.messages, 1)?;
        check("bytes of the topic", limits.bytes, count.kept.bytes, bytes)?;
        let of_lite = match to {
            Target::Lite(id) if limits.lite_messages > 0 || limits.lite_bytes > 0 || is_tenant_limited(topic) => {
                lifecycle::kept(&self.ledger.stage, self.ledger.lites.get(id).expect("it was just found"))?
            }
            Target::Lite(_) | Target::New(_) => Amount::default(),
        };
        check("messages of the lite topic", limits.lite_messages, of_lite.messages, 1)?;
        check("bytes of the lite topic", limits.lite_bytes, of_lite.bytes, bytes)?;
        if is_tenant_limited(topic) {
            let of_tenant = self.amount_of_tenant(topic, to, of_lite)?;
            check("messages of the tenant", limits.tenant_messages, of_tenant.messages, 1)?;
            check("bytes of the tenant", limits.tenant_bytes, of_tenant.bytes, bytes)?;
        }
        Ok(())
    }

    fn amount_of_tenant(&mut self, topic: &TopicSpec, to: Target<'_>, of_lite: Amount) -> Result<Amount, Fault> {
        let name: Option<Arc<str>> = match to {
            Target::Lite(id) => {
                let tenant = self.ledger.open_lite(id).tenant;
                self.ledger.lites.tenant_named_by(tenant)
            }
            Target::New(name) => name.map(Into::into),
        };
        // A tenant that is a lite topic has what that has.
        let Some(name) = name else { return Ok(of_lite) };
        let tenant = self.ledger.lites.tenant_named(&name);
        Ok(self.ledger.stage.amount_of_tenant(topic.id, tenant, &name)?)
    }
}

/// Whether what its tenants have is counted.
pub(super) const fn is_tenant_limited(topic: &TopicSpec) -> bool {
    topic.settings.limits.tenant_messages > 0 || topic.settings.limits.tenant_bytes > 0
}

/// 0 is no limit.
fn check(limit: &str, max: u64, current: u64, more: u64) -> Result<(), Refusal> {
    let wanted = current.saturating_add(more);
    if max == 0 || wanted <= max {
        return Ok(());
    }
    Err(Refusal::limit(ErrorCode::LimitReached, limit, max, wanted).retry_after(LIMIT_AGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_lets_in_what_fits_exactly() {
        assert_eq!((check("x", 10, 7, 3), check("x", 0, u64::MAX, 5)), (Ok(()), Ok(())));
        let refused = check("bytes", 10, 7, 4).unwrap_err();
        assert_eq!((refused.code, refused.retry_after), (ErrorCode::LimitReached, Some(LIMIT_AGAIN)));
        let detail = |key: &str| refused.detail[key].clone();
        assert_eq!([detail("limit"), detail("max"), detail("current")], ["bytes", "10", "11"]);
    }
}

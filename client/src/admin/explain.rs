//! Why a lite topic waits, and who waits longest.

use reqwest::Method;
use serde::Serialize;
use sluicegate_protocol::admin::{Explanation, Waiters};
use sluicegate_protocol::{GroupName, LiteName};

use super::lite::OfLite;
use super::{Admin, AdminError, answer};

/// How many are wanted.
#[derive(Serialize)]
struct Limit {
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
}

impl Admin {
    /// Why a lite topic is not being served to a group now, until when, and behind whom.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group or lite topic, the store failed, or the broker refuses or does not answer.
    pub async fn explain(&self, group: &GroupName, lite: &LiteName) -> Result<Explanation, AdminError> {
        let query = OfLite { lite: lite.as_str() };
        answer(self.request(Method::GET, &format!("groups/{group}/explain")).query(&query)).await
    }

    /// How a group stands, and the lite topics that wait longest in it: at most so many, 1 to 1,000; by default 10.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group, the store failed, or the broker refuses or does not answer.
    pub async fn waiters(&self, group: &GroupName, limit: Option<u32>) -> Result<Waiters, AdminError> {
        answer(self.request(Method::GET, &format!("groups/{group}/waiters")).query(&Limit { limit })).await
    }
}

#[cfg(test)]
mod tests {
    use sluicegate_protocol::Timestamp;
    use sluicegate_protocol::admin::{Blocker, Bucket, Cause, PolicyVerdict, PolicyWord};

    #[test]
    fn a_blocker_is_one_flat_object_that_reads_back() {
        let quota = Cause::Quota { bucket: Bucket::Cost, short: 40 };
        let blocker = Blocker { cause: quota, since: Some(Timestamp(1)), until: Some(Timestamp(2)) };
        let text = serde_json::to_string(&blocker).unwrap();
        assert_eq!(text, r#"{"cause":"quota","bucket":"cost","short":40,"since":1,"until":2}"#);
        assert_eq!(serde_json::from_str::<Blocker>(&text).unwrap(), blocker);
        assert_eq!(
            serde_json::from_str::<Blocker>(r#"{"cause":"paused"}"#).unwrap(),
            Blocker { cause: Cause::Paused, since: None, until: None }
        );
        let word = PolicyWord {
            at: Timestamp(3),
            verdict: PolicyVerdict::Throttle { for_ms: 100 },
            reason: "over rate".into(),
            overruled: false,
        };
        let text = serde_json::to_string(&word).unwrap();
        assert_eq!(text, r#"{"at":3,"verdict":"throttle","for_ms":100,"reason":"over rate"}"#);
        assert_eq!(serde_json::from_str::<PolicyWord>(&text).unwrap(), word);
        assert!(serde_json::from_str::<Blocker>(r#"{"cause":"magic"}"#).is_err());
    }
}

//! Lite topics as operators see and change them.

use std::time::Duration;

use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sluicegate_protocol::admin::{
    DeadLetterPage, DeletedLite, LiteChange, LitePage, LiteReclaim, LiteTopic, Page, Peek, ReclaimSettings, Redrive,
    Redriven, ResumeLite, SeekLite, SetReclaim, SkipMessage, SuspendLite, SuspensionSource,
};
use sluicegate_protocol::{GroupName, LiteName, Offset, Position, TopicName};

use super::{Admin, AdminError, answer};

/// Names a lite topic in the query: a proxy would decode it in the path.
#[derive(Serialize)]
pub(super) struct OfLite<'a> {
    pub(super) lite: &'a str,
}

/// Messages to look at.
#[derive(Serialize)]
struct Messages<'a> {
    lite: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Offset>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
}

impl Admin {
    /// Some of a topic's lite topics, in the byte order of their names.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such topic, or the broker refuses or does not answer.
    pub async fn lite_topics(&self, topic: &TopicName, page: &Page) -> Result<LitePage, AdminError> {
        answer(self.request(Method::GET, &format!("topics/{topic}/lite")).query(page)).await
    }

    /// A lite topic as a group stands in it.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group or lite topic, or the broker refuses or does not answer.
    pub async fn lite_topic(&self, group: &GroupName, lite: &LiteName) -> Result<LiteTopic, AdminError> {
        let query = OfLite { lite: lite.as_str() };
        answer(self.request(Method::GET, &format!("groups/{group}/lite")).query(&query)).await
    }

    /// Holds new deliveries of a lite topic to a group back, for 1 ms to 30 days; open leases run on.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group or lite topic, or the broker refuses or does not answer.
    pub async fn suspend_lite(
        &self,
        group: &GroupName,
        lite: &LiteName,
        duration: Duration,
    ) -> Result<LiteChange, AdminError> {
        let body = SuspendLite { for_ms: millis(duration), revoke: false };
        self.lite_verb(group, lite, "suspend", &body).await
    }

    /// As [`Admin::suspend_lite`], and takes open leases away: their messages wait again, uncounted, and their holders can no
    /// longer settle.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group or lite topic, or the broker refuses or does not answer.
    pub async fn revoke_lite(
        &self,
        group: &GroupName,
        lite: &LiteName,
        duration: Duration,
    ) -> Result<LiteChange, AdminError> {
        let body = SuspendLite { for_ms: millis(duration), revoke: true };
        self.lite_verb(group, lite, "suspend", &body).await
    }

    /// Ends the suspension of one source, or of all.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group or lite topic, or the broker refuses or does not answer.
    pub async fn resume_lite(
        &self,
        group: &GroupName,
        lite: &LiteName,
        source: Option<SuspensionSource>,
    ) -> Result<LiteChange, AdminError> {
        self.lite_verb(group, lite, "resume", &ResumeLite { source }).await
    }

    /// Moves a group to another position in a lite topic. See [`SeekLite`].
    ///
    /// # Errors
    /// [`AdminError`] when a lease is open, the position is not there, there is no such group or lite topic, or the broker
    /// refuses or does not answer.
    pub async fn seek_lite(&self, group: &GroupName, lite: &LiteName, to: Position) -> Result<LiteChange, AdminError> {
        self.lite_verb(group, lite, "seek", &SeekLite { to }).await
    }

    /// Settles one waiting message without delivery.
    ///
    /// # Errors
    /// [`AdminError`] when it is leased or settled or not there, there is no such group or lite topic, or the broker refuses
    /// or does not answer.
    pub async fn skip_message(
        &self,
        group: &GroupName,
        lite: &LiteName,
        offset: Offset,
    ) -> Result<LiteChange, AdminError> {
        self.lite_verb(group, lite, "skip", &SkipMessage { offset }).await
    }

    /// Settles all messages of a lite topic that wait for a group, without delivery.
    ///
    /// # Errors
    /// [`AdminError`] when a lease is open, there is no such group or lite topic, or the broker refuses or does not answer.
    pub async fn purge_lite(&self, group: &GroupName, lite: &LiteName) -> Result<LiteChange, AdminError> {
        let query = OfLite { lite: lite.as_str() };
        answer(self.request(Method::POST, &format!("groups/{group}/lite/purge")).query(&query)).await
    }

    /// Messages as they are stored, from this offset on, or from the first that the group has not settled. Delivers nothing and
    /// changes nothing.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group or lite topic, or the broker refuses or does not answer.
    pub async fn peek(
        &self,
        group: &GroupName,
        lite: &LiteName,
        from: Option<Offset>,
        limit: Option<u32>,
    ) -> Result<Peek, AdminError> {
        let query = Messages { lite: lite.as_str(), from, limit };
        answer(self.request(Method::GET, &format!("groups/{group}/lite/messages")).query(&query)).await
    }

    /// Ends a lite topic's life: its messages, cursors and leases are gone, in all groups. The next message to its name begins a
    /// new one.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such topic or lite topic, or the broker refuses or does not answer.
    pub async fn delete_lite(&self, topic: &TopicName, lite: &LiteName) -> Result<DeletedLite, AdminError> {
        let query = OfLite { lite: lite.as_str() };
        answer(self.request(Method::DELETE, &format!("topics/{topic}/lite")).query(&query)).await
    }

    /// Gives a lite topic a reclaim of its own, for this life; none for its topic's.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such topic or lite topic, or the broker refuses or does not answer.
    pub async fn set_reclaim(
        &self,
        topic: &TopicName,
        lite: &LiteName,
        reclaim: Option<ReclaimSettings>,
    ) -> Result<LiteReclaim, AdminError> {
        let query = OfLite { lite: lite.as_str() };
        let request = self.request(Method::PUT, &format!("topics/{topic}/lite/reclaim"));
        answer(request.query(&query).json(&SetReclaim { reclaim })).await
    }

    /// Some of a group's dead letters, by lite topic and in the order in which they came.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group, or the broker refuses or does not answer.
    pub async fn dead_letters(&self, group: &GroupName, page: &Page) -> Result<DeadLetterPage, AdminError> {
        answer(self.request(Method::GET, &format!("groups/{group}/dead-letters")).query(page)).await
    }

    /// Moves dead letters back to the end of the lite topics that they came from: of one lite topic or of all, at most so many.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group or lite topic, a consumer of the dead-letter topic works on this lite topic,
    /// or the broker refuses or does not answer.
    pub async fn redrive(
        &self,
        group: &GroupName,
        lite: Option<&LiteName>,
        limit: Option<u32>,
    ) -> Result<Redriven, AdminError> {
        let request = self.request(Method::POST, &format!("groups/{group}/dead-letters/redrive"));
        let request = match lite {
            Some(lite) => request.query(&OfLite { lite: lite.as_str() }),
            None => request,
        };
        answer(request.json(&Redrive { limit })).await
    }

    async fn lite_verb<A: DeserializeOwned>(
        &self,
        group: &GroupName,
        lite: &LiteName,
        verb: &str,
        body: &impl Serialize,
    ) -> Result<A, AdminError> {
        let query = OfLite { lite: lite.as_str() };
        answer(self.request(Method::POST, &format!("groups/{group}/lite/{verb}")).query(&query).json(body)).await
    }
}

/// A duration that is too long for its number is too long for the broker.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

//! Recordings of a group's traffic.

use std::time::Duration;

use reqwest::{Method, Response};
use sluicegate_protocol::GroupName;
use sluicegate_protocol::admin::RecordGroup;

use super::{Admin, AdminError, done, no_answer, refused};

/// How long a recording may go on after the time that it was to take.
const LAST_LINES: Duration = Duration::from_mins(1);

/// A recording as it happens. It ends by itself; dropping it ends it without its last line.
#[derive(Debug)]
pub struct Recording(Response);

impl Recording {
    /// The next piece of it, cut anywhere; none at the end.
    ///
    /// # Errors
    /// [`AdminError::Http`] when the connection broke: what came before is a recording without its last line.
    pub async fn chunk(&mut self) -> Result<Option<bytes::Bytes>, AdminError> {
        self.0.chunk().await.map_err(no_answer)
    }
}

impl Admin {
    /// Records a group's traffic: what arrives and what becomes of it, without bodies, as lines of
    /// [`recording`](sluicegate_protocol::recording). A group has one recording at a time. A reader that is too slow loses lines, which the
    /// last one counts.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group, it is being recorded, or the broker refuses or does not answer.
    pub async fn record(&self, group: &GroupName, recording: &RecordGroup) -> Result<Recording, AdminError> {
        let request = self.request(Method::POST, &format!("groups/{group}/recording")).json(recording);
        let time = Duration::from_secs(recording.seconds.into()) + LAST_LINES;
        let response = request.timeout(time).send().await.map_err(no_answer)?;
        let (url, status) = (response.url().to_string(), response.status());
        match status.is_success() {
            true => Ok(Recording(response)),
            false => Err(refused(url, status, &response.bytes().await.map_err(no_answer)?)),
        }
    }

    /// Ends a group's recording: whoever reads it gets the last line. Nothing happens if there is none.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group, or the broker refuses or does not answer.
    pub async fn end_recording(&self, group: &GroupName) -> Result<(), AdminError> {
        done(self.request(Method::DELETE, &format!("groups/{group}/recording"))).await
    }
}

//! The admin HTTP API, typed.

mod explain;
mod lite;
mod record;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::{Method, RequestBuilder, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sluicegate_protocol::admin::{CapsuleQuery, DeleteGroup, DeleteTopic, TenantQuery};
use sluicegate_protocol::{GroupName, TopicName};

pub use sluicegate_protocol::admin::{
    ActivatePolicy, Activation, BackOff, BackUp, BackedUp, Blocker, BodyPreview, BoundPolicy, Bucket, Capsule,
    CapsuleHeader, CapsuleLimits, CapsulePolicy, Cause, ConcurrencySettings, ConfigurePolicy, ConsumeMode, CreateGroup,
    CreateTopic, DeadLetter, DeadLetterPage, DeletedGroup, DeletedLite, DeletedTopic, Dependents, Durability,
    ErrorBody, ExpiredMessages, ExplainedHead, ExplainedPolicy, Explanation, Follows, Group, GroupSettings, GroupStats,
    Health, HealthStatus, LiteChange, LiteEntry, LiteHead, LiteLease, LitePage, LiteReclaim, LiteTopic, LogRetention,
    MessageState, Page, Peek, PeekedMessage, Policy, PolicyAct, PolicyChange, PolicyDescription, PolicyDetails,
    PolicyEvent, PolicyLimits, PolicyRole, PolicyRuns, PolicyStrike, PolicyVerdict, PolicyWord, Quarantine,
    QuotaSettings, Rank, ReclaimMode, ReclaimSettings, RecordGroup, Redriven, Retention, RetrySettings, SetReclaim,
    Shadow, ShadowFigures, Suspension, SuspensionSource, TenantRule, Topic, TopicLimits, TopicSettings, ValidatePolicy,
    ValidatedPolicy, Waiter, Waiters, WatchdogSettings,
};

pub use record::Recording;

use crate::trust::{Trust, TrustError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Long enough for a policy to be compiled.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);
/// Long enough for files that cannot be linked to be copied.
const BACKUP_TIMEOUT: Duration = Duration::from_hours(1);

/// A cheap handle on a broker's admin API.
///
/// ```no_run
/// use sluicegate_client::admin::{Admin, CreateTopic, TopicSettings};
/// use sluicegate_client::{TopicName, Trust};
///
/// # async fn example() -> anyhow::Result<()> {
/// let trust = Trust::Certificate("data/dev-cert.pem".into());
/// let admin = Admin::new("https://localhost:7421", &trust, None)?;
/// let name = TopicName::parse("chat.requests")?;
/// let topic = admin.create_topic(&CreateTopic { name, settings: TopicSettings::default() }).await?;
/// println!("{} has {} lite topics", topic.name, topic.lite_topics);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Admin {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

/// Why a request to the admin API has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The broker refused the request.
    #[error("{}: {}", .0.code, .0.message)]
    Refused(ErrorBody),
    /// The trusted certificates cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The broker was not reached, or the connection broke; the request may or may not have had its effect.
    #[error("no answer from {url}: {problem}")]
    Http {
        /// What was asked.
        url: String,
        /// What went wrong.
        problem: String,
    },
    /// What answered is not this API.
    #[error("{url} answered {status}, which is not understood: {problem}")]
    Answer {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What is wrong with the answer.
        problem: String,
    },
}

impl Admin {
    /// The admin API at `base`, for example `https://localhost:7421`, whose broker proves itself to `trust`. A token is
    /// not needed for a development broker on loopback.
    ///
    /// # Errors
    /// [`AdminError`] when the certificates cannot be used.
    pub fn new(base: impl Into<String>, trust: &Trust, token: Option<String>) -> Result<Self, AdminError> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(trust.tls_config()?)
            .https_only(true)
            // The broker is named by its address; a proxy for the web does not lead to it.
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(no_answer)?;
        let base = base.into();
        Ok(Self { http, base: base.trim_end_matches('/').into(), token })
    }

    /// The broker's health, whatever it is. Needs no token.
    ///
    /// # Errors
    /// [`AdminError`] when the broker does not answer.
    pub async fn health(&self) -> Result<Health, AdminError> {
        let (url, status, body) = exchange(self.request(Method::GET, "health")).await?;
        serde_json::from_slice(&body).or_else(|_| understand(url, status, &body))
    }

    /// The broker's metrics, OpenMetrics text.
    ///
    /// # Errors
    /// [`AdminError`] when the broker refuses or does not answer.
    pub async fn metrics(&self) -> Result<String, AdminError> {
        let (url, status, body) = exchange(self.request_at(Method::GET, "metrics")).await?;
        match status.is_success() {
            true => Ok(String::from_utf8_lossy(&body).into_owned()),
            false => understand(url, status, &body),
        }
    }

    /// All topics.
    ///
    /// # Errors
    /// [`AdminError`] when the broker refuses or does not answer.
    pub async fn topics(&self) -> Result<Vec<Topic>, AdminError> {
        self.get("topics").await
    }

    /// One topic.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such topic, or the broker refuses or does not answer.
    pub async fn topic(&self, topic: &TopicName) -> Result<Topic, AdminError> {
        self.get(&format!("topics/{topic}")).await
    }

    /// Creates a topic. The same settings again change nothing.
    ///
    /// # Errors
    /// [`AdminError`] when it exists with other settings, or the broker refuses or does not answer.
    pub async fn create_topic(&self, topic: &CreateTopic) -> Result<Topic, AdminError> {
        self.send(Method::POST, "topics", topic).await
    }

    /// Deletes a topic with its lite topics, its messages and its dead letters. Its name is free at once; a new topic of that name
    /// sees nothing of it. With [`Dependents::Delete`] the groups that consume it or its dead letters are deleted too.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such topic, groups consume it and are to stay, it takes the dead letters of a group that
    /// stays, or the broker refuses or does not answer.
    pub async fn delete_topic(&self, topic: &TopicName, groups: Dependents) -> Result<DeletedTopic, AdminError> {
        let query = DeleteTopic { groups };
        answer(self.request(Method::DELETE, &format!("topics/{topic}")).query(&query)).await
    }

    /// Makes a backup in this directory of the broker's machine, while the broker serves. What is acknowledged before is in it.
    ///
    /// # Errors
    /// [`AdminError`] when the directory is not absolute or not empty, or the broker refuses or does not answer.
    pub async fn back_up(&self, directory: &str) -> Result<BackedUp, AdminError> {
        let body = BackUp { directory: directory.to_owned() };
        answer(self.request(Method::POST, "store/backup").timeout(BACKUP_TIMEOUT).json(&body)).await
    }

    /// All groups.
    ///
    /// # Errors
    /// [`AdminError`] when the broker refuses or does not answer.
    pub async fn groups(&self) -> Result<Vec<Group>, AdminError> {
        self.get("groups").await
    }

    /// One group.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group, or the broker refuses or does not answer.
    pub async fn group(&self, group: &GroupName) -> Result<Group, AdminError> {
        self.get(&format!("groups/{group}")).await
    }

    /// Creates a group. The same settings again change nothing.
    ///
    /// # Errors
    /// [`AdminError`] when it exists with other settings, or the broker refuses or does not answer.
    pub async fn create_group(&self, group: &CreateGroup) -> Result<Group, AdminError> {
        self.send(Method::POST, "groups", group).await
    }

    /// Deletes a group: its consumers are ended, nothing waits for it any more. What it could not process stays in its dead-letter
    /// topic, or, with [`Dependents::Delete`], goes too.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group, its dead letters are to go and a group consumes them, or the broker refuses
    /// or does not answer.
    pub async fn delete_group(&self, group: &GroupName, dead_letters: Dependents) -> Result<DeletedGroup, AdminError> {
        let query = DeleteGroup { dead_letters };
        answer(self.request(Method::DELETE, &format!("groups/{group}")).query(&query)).await
    }

    /// Changes a group's quotas while it runs.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group, or the broker refuses or does not answer.
    pub async fn set_quotas(&self, group: &GroupName, quotas: &QuotaSettings) -> Result<Group, AdminError> {
        self.send(Method::PUT, &format!("groups/{group}/quotas"), quotas).await
    }

    /// Changes how many leases of a group may be open at once, while it runs. Open leases above a lower bound run on.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group, or the broker refuses or does not answer.
    pub async fn set_concurrency(
        &self,
        group: &GroupName,
        concurrency: &ConcurrencySettings,
    ) -> Result<Group, AdminError> {
        self.send(Method::PUT, &format!("groups/{group}/concurrency"), concurrency).await
    }

    /// Changes when a group's failed messages are tried again, from the next failure on.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group, or the broker refuses or does not answer.
    pub async fn set_retry(&self, group: &GroupName, retry: &RetrySettings) -> Result<Group, AdminError> {
        self.send(Method::PUT, &format!("groups/{group}/retry"), retry).await
    }

    /// Changes how long a group's policy may keep work back without a word.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group, the time is not allowed, or the broker refuses or does not answer.
    pub async fn set_watchdog(&self, group: &GroupName, watchdog: &WatchdogSettings) -> Result<Group, AdminError> {
        self.send(Method::PUT, &format!("groups/{group}/watchdog"), watchdog).await
    }

    /// Gives a tenant labels, which the group's policy learns; none take its labels away.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group, a label breaks a limit, or the broker refuses or does not answer.
    pub async fn set_tenant_labels(
        &self,
        group: &GroupName,
        tenant: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Group, AdminError> {
        let query = TenantQuery { tenant: tenant.into() };
        let request = self.request(Method::PUT, &format!("groups/{group}/tenant-labels")).query(&query).json(labels);
        answer(request).await
    }

    /// No new deliveries to a group until [`Admin::resume_group`], across restarts too; open leases run on.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group, or the broker refuses or does not answer.
    pub async fn pause_group(&self, group: &GroupName) -> Result<Group, AdminError> {
        answer(self.request(Method::POST, &format!("groups/{group}/pause"))).await
    }

    /// Deliveries to a group go on.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group, or the broker refuses or does not answer.
    pub async fn resume_group(&self, group: &GroupName) -> Result<Group, AdminError> {
        answer(self.request(Method::POST, &format!("groups/{group}/resume"))).await
    }

    /// All uploaded policies.
    ///
    /// # Errors
    /// [`AdminError`] when the broker refuses or does not answer.
    pub async fn policies(&self) -> Result<Vec<Policy>, AdminError> {
        self.get("policies").await
    }

    /// Uploads a policy: the bytes of its Wasm component, at most 1 MiB.
    ///
    /// # Errors
    /// [`AdminError`] when the policy is rejected, or the broker refuses or does not answer.
    pub async fn push_policy(&self, component: impl Into<bytes::Bytes>) -> Result<Policy, AdminError> {
        let request = self.request(Method::POST, "policies");
        answer(request.header(header::CONTENT_TYPE, "application/wasm").body(component.into())).await
    }

    /// An uploaded policy, named by its digest or at least 8 digits of it, and all that is known of it.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such policy, or the broker refuses or does not answer.
    pub async fn policy(&self, digest: &str) -> Result<PolicyDetails, AdminError> {
        self.get(&format!("policies/{digest}")).await
    }

    /// Finds out what [`Admin::push_policy`], and [`Admin::activate_policy`] with this configuration for this group or for any,
    /// would say: compiles the component, checks the configuration, starts an instance. No policy is stored.
    ///
    /// # Errors
    /// [`AdminError`] when something is wrong with them, or the broker refuses or does not answer.
    pub async fn validate_policy(
        &self,
        component: &[u8],
        config: &str,
        group: Option<&GroupName>,
    ) -> Result<ValidatedPolicy, AdminError> {
        let component = BASE64_STANDARD.encode(component);
        let validate = ValidatePolicy { component, config: config.into(), group: group.cloned() };
        self.send(Method::POST, "policies/validate", &validate).await
    }

    /// Lets an uploaded policy decide for a group, between two of its frames.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group or policy, or the broker refuses or does not answer.
    pub async fn activate_policy(&self, group: &GroupName, policy: &ActivatePolicy) -> Result<Activation, AdminError> {
        self.send(Method::PUT, &format!("groups/{group}/policy"), policy).await
    }

    /// Gives the policy that decides for a group another configuration; its state is carried over.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group, no policy decides for it, the configuration is refused, or the broker refuses or does
    /// not answer.
    pub async fn configure_policy(&self, group: &GroupName, config: &str) -> Result<Activation, AdminError> {
        let configure = ConfigurePolicy { config: config.into() };
        self.send(Method::PUT, &format!("groups/{group}/policy/config"), &configure).await
    }

    /// Returns a group to built-in fair scheduling.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group, or the broker refuses or does not answer.
    pub async fn deactivate_policy(&self, group: &GroupName) -> Result<Activation, AdminError> {
        answer(self.request(Method::DELETE, &format!("groups/{group}/policy"))).await
    }

    /// Goes back to what decided for a group before; once more, and what decides now is back.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group, the policy from before is in quarantine, or the broker refuses or does not answer.
    pub async fn roll_back_policy(&self, group: &GroupName) -> Result<Activation, AdminError> {
        answer(self.request(Method::POST, &format!("groups/{group}/policy/rollback"))).await
    }

    /// What decided for a group when, newest first: the last 32 changes.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group, or the broker refuses or does not answer.
    pub async fn policy_history(&self, group: &GroupName) -> Result<Vec<PolicyChange>, AdminError> {
        self.get(&format!("groups/{group}/policy/history")).await
    }

    /// Has a policy be asked beside the one that decides for a group, in place of the shadow before. Its answers are compared, and not used.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group or policy, the policy refuses its configuration or is in quarantine, 16 groups have
    /// shadows, or the broker refuses or does not answer.
    pub async fn shadow_policy(&self, group: &GroupName, policy: &ActivatePolicy) -> Result<Shadow, AdminError> {
        self.send(Method::PUT, &format!("groups/{group}/policy/shadow"), policy).await
    }

    /// A group's shadow, and what came of it; none without one.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group, or the broker refuses or does not answer.
    pub async fn policy_shadow(&self, group: &GroupName) -> Result<Option<Shadow>, AdminError> {
        self.get(&format!("groups/{group}/policy/shadow")).await
    }

    /// Ends a group's shadow. Nothing happens if it has none.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such group, or the broker refuses or does not answer.
    pub async fn end_shadow(&self, group: &GroupName) -> Result<(), AdminError> {
        done(self.request(Method::DELETE, &format!("groups/{group}/policy/shadow"))).await
    }

    /// Takes a policy, named by its digest or at least 8 digits of it, out of quarantine: it may be activated again.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such policy, or the broker refuses or does not answer.
    pub async fn release_policy(&self, digest: &str) -> Result<Policy, AdminError> {
        answer(self.request(Method::POST, &format!("policies/{digest}/release"))).await
    }

    /// The bytes of a policy's component, by its whole digest.
    ///
    /// # Errors
    /// [`AdminError`] when there is no such policy, or the broker refuses or does not answer.
    pub async fn policy_component(&self, digest: &str) -> Result<bytes::Bytes, AdminError> {
        self.get_bytes(&format!("policies/{digest}/component")).await
    }

    /// What policies' faults left, newest first: of one group, or of all. The broker keeps the last 64, of at most 128 MiB together.
    ///
    /// # Errors
    /// [`AdminError`] when the broker refuses or does not answer.
    pub async fn capsules(&self, group: Option<&GroupName>) -> Result<Vec<Capsule>, AdminError> {
        let query = CapsuleQuery { group: group.cloned() };
        answer(self.request(Method::GET, "capsules").query(&query)).await
    }

    /// A capsule, as `sluice policy replay` reads it: JSON lines. It has names and labels of tenants in it.
    ///
    /// # Errors
    /// [`AdminError`] when it is not kept, or the broker refuses or does not answer.
    pub async fn capsule(&self, id: &str) -> Result<bytes::Bytes, AdminError> {
        self.get_bytes(&format!("capsules/{id}")).await
    }

    async fn get_bytes(&self, path: &str) -> Result<bytes::Bytes, AdminError> {
        let (url, status, body) = exchange(self.request(Method::GET, path)).await?;
        match status.is_success() {
            true => Ok(body),
            false => Err(refused(url, status, &body)),
        }
    }

    async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, AdminError> {
        answer(self.request(Method::GET, path)).await
    }

    async fn send<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<A, AdminError> {
        answer(self.request(method, path).json(body)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.request_at(method, &format!("admin/v1/{path}"))
    }

    fn request_at(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}/{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

async fn answer<A: DeserializeOwned>(request: RequestBuilder) -> Result<A, AdminError> {
    let (url, status, body) = exchange(request).await?;
    understand(url, status, &body)
}

/// For what is answered by nothing.
async fn done(request: RequestBuilder) -> Result<(), AdminError> {
    let (url, status, body) = exchange(request).await?;
    match status.is_success() {
        true => Ok(()),
        false => Err(refused(url, status, &body)),
    }
}

async fn exchange(request: RequestBuilder) -> Result<(String, StatusCode, bytes::Bytes), AdminError> {
    let response = request.send().await.map_err(no_answer)?;
    let (url, status) = (response.url().to_string(), response.status());
    Ok((url, status, response.bytes().await.map_err(no_answer)?))
}

fn understand<A: DeserializeOwned>(url: String, status: StatusCode, body: &[u8]) -> Result<A, AdminError> {
    match status.is_success() {
        true => serde_json::from_slice(body).map_err(|error| not_understood(url, status, &error)),
        false => Err(refused(url, status, body)),
    }
}

fn refused(url: String, status: StatusCode, body: &[u8]) -> AdminError {
    serde_json::from_slice(body).map_or_else(|error| not_understood(url, status, &error), AdminError::Refused)
}

fn not_understood(url: String, status: StatusCode, error: &serde_json::Error) -> AdminError {
    AdminError::Answer { url, status: status.as_u16(), problem: error.to_string() }
}

/// One line with all causes: the outermost alone says only that something failed.
fn no_answer(error: reqwest::Error) -> AdminError {
    let url = error.url().map_or_else(|| "the admin API".into(), ToString::to_string);
    let error = error.without_url();
    let mut problem = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        problem = format!("{problem}: {error}");
        cause = error.source();
    }
    AdminError::Http { url, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understand_group(status: u16, body: &str) -> String {
        let status = StatusCode::from_u16(status).unwrap();
        understand::<Group>("https://broker/admin/v1/groups/g".into(), status, body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_refusal_and_an_answer_that_is_none_are_told_apart_in_one_line() {
        let refusal = r#"{"code": "unknown_group", "message": "no group `g`"}"#;
        assert_eq!(understand_group(404, refusal), "unknown_group: no group `g`");
        assert_eq!(
            understand_group(502, "<html>"),
            "https://broker/admin/v1/groups/g answered 502, which is not understood: expected value at line 1 column 1"
        );
    }

    #[tokio::test]
    async fn a_broker_that_is_away_is_named_with_the_cause() {
        let certificate = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap().cert;
        let trust = Trust::Pinned(certificate.pem().into_bytes());
        // Port 9 (discard) is served nowhere today.
        let error = Admin::new("https://127.0.0.1:9/", &trust, None).unwrap().health().await.unwrap_err().to_string();
        assert!(error.starts_with("no answer from https://127.0.0.1:9/admin/v1/health: "), "{error}");
        assert!(error.contains("refused"), "{error}");
    }
}

//! Where policies are made ready, beside the control task: components are compiled, configurations checked. All of it may take
//! long, none of it changes anything, and no other change waits for it.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_protocol::limits::POLICY_CONFIG_BYTES_MAX;
use sluicegate_protocol::{ErrorCode, GroupName};
use tokio::sync::{Semaphore, watch};

use super::policy::find;
use super::{failed, unknown_group};
use crate::broker::stopping;
use crate::catalog::{Catalog, PolicySpec};
use crate::clock::Clock;
use crate::policy::{CompiledPolicy, ConfigRefused, Init, PolicyHost, PolicyRejected};
use crate::refusal::Refusal;
use crate::store::Store;

/// Uploads that wait to be compiled, the one that is under way included.
const UPLOADS_MAX: usize = 8;
/// Components that are compiled at once: a broker has other things to do.
const COMPILING_MAX: usize = 1;
/// Configurations that are held against their schemas at once.
const CHECKING_MAX: usize = 1;
/// When there may be room for an upload again.
const UPLOAD_AGAIN: Duration = Duration::from_secs(5);

/// Makes policies ready. It never refuses what decides without them.
pub(super) struct Workshop {
    host: Arc<PolicyHost>,
    store: Arc<Store>,
    clock: Clock,
    catalog: watch::Receiver<Arc<Catalog>>,
    uploads: Semaphore,
    compiling: Semaphore,
    checking: Semaphore,
}

/// A policy that can decide as it is: compiled, and its configuration fits its schema.
#[derive(Clone)]
pub(crate) struct Ready {
    pub(super) compiled: Arc<CompiledPolicy>,
    pub(super) config: String,
}

impl Workshop {
    pub(super) fn new(
        host: Arc<PolicyHost>,
        (store, clock): (Arc<Store>, Clock),
        catalog: watch::Receiver<Arc<Catalog>>,
    ) -> Self {
        let (uploads, compiling) = (Semaphore::new(UPLOADS_MAX), Semaphore::new(COMPILING_MAX));
        Self { host, store, clock, catalog, uploads, compiling, checking: Semaphore::new(CHECKING_MAX) }
    }

    pub(super) fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.borrow())
    }

    /// What somebody sends, compiled.
    pub(super) async fn uploaded(&self, wasm: &[u8]) -> Result<Arc<CompiledPolicy>, Refusal> {
        let full = |_| {
            let max = UPLOADS_MAX as u64;
            Refusal::limit(ErrorCode::LimitReached, "policy uploads at once", max, max).retry_after(UPLOAD_AGAIN)
        };
        let _place = self.uploads.try_acquire().map_err(full)?;
        self.compiled(wasm).await
    }

    /// A policy that was uploaded before, by its whole digest.
    pub(super) async fn stored(&self, digest: &str) -> Result<Arc<CompiledPolicy>, Refusal> {
        if let Some(known) = self.host.known(digest).await {
            return Ok(known);
        }
        let (store, key) = (Arc::clone(&self.store), digest.to_owned());
        let bytes = tokio::task::spawn_blocking(move || store.policy_bytes(&key)).await.map_err(|_| stopping())?;
        let lost =
            || Refusal::new(ErrorCode::UnknownPolicy, format!("the bytes of policy {digest} are not in the store"));
        let bytes = bytes.map_err(|error| failed(&error))?.ok_or_else(lost)?;
        self.compiled(&bytes).await
    }

    /// A stored policy for a group, with a configuration that nobody has looked at yet.
    pub(super) async fn ready(&self, digest: &str, config: String) -> Result<Ready, Refusal> {
        let digest = find(&self.catalog(), digest)?.digest.clone();
        let ready = self.again(&digest, config).await?;
        self.check(&ready).await?;
        Ok(ready)
    }

    /// What decided before, whose configuration was checked when it was new.
    pub(super) async fn again(&self, digest: &str, config: String) -> Result<Ready, Refusal> {
        if config.len() > POLICY_CONFIG_BYTES_MAX {
            let (max, bytes) = (POLICY_CONFIG_BYTES_MAX as u64, config.len() as u64);
            return Err(Refusal::limit(ErrorCode::TooLarge, "policy configuration bytes", max, bytes));
        }
        Ok(Ready { compiled: self.stored(digest).await?, config })
    }

    /// Everything that an upload, and an activation for this group or for any, would find wrong.
    pub(super) async fn validated(
        &self,
        wasm: &[u8],
        config: String,
        group: Option<&GroupName>,
    ) -> Result<Arc<CompiledPolicy>, Refusal> {
        let init = self.init(group)?;
        let compiled = self.uploaded(wasm).await?;
        let ready = Ready { compiled, config };
        self.check(&ready).await?;
        let starting = ready.clone();
        let started = move || starting.compiled.instantiate(&init, &starting.config).map(drop);
        let started = tokio::task::spawn_blocking(started).await.map_err(|_| stopping())?;
        started.map_err(|fault| Refusal::new(ErrorCode::PolicyRejected, fault.to_string()))?;
        Ok(ready.compiled)
    }

    fn init(&self, group: Option<&GroupName>) -> Result<Init, Refusal> {
        let now = self.clock.now();
        let Some(name) = group else {
            return Ok(Init { group: "any".into(), shard: 0, seed: 0, now });
        };
        let catalog = self.catalog();
        let spec = catalog.groups.get(name).ok_or_else(|| unknown_group(name))?;
        let shard = catalog.topic(spec.topic).map_or(0, |topic| topic.shard.0);
        Ok(Init { group: name.as_str().into(), shard, seed: 0, now })
    }

    async fn check(&self, Ready { compiled, config }: &Ready) -> Result<(), Refusal> {
        let _place = self.checking.acquire().await.map_err(|_| stopping())?;
        self.host.check_config(compiled, config).await.map_err(config_refused)
    }

    async fn compiled(&self, wasm: &[u8]) -> Result<Arc<CompiledPolicy>, Refusal> {
        let _place = self.compiling.acquire().await.map_err(|_| stopping())?;
        // Somebody may have sent the same just now.
        if let Some(known) = self.host.known(&crate::policy::digest(wasm)).await {
            return Ok(known);
        }
        self.host.compile(wasm).await.map_err(|refused| rejected(&refused))
    }
}

fn rejected(rejected: &PolicyRejected) -> Refusal {
    let code = if rejected.is_ours() { ErrorCode::Internal } else { ErrorCode::PolicyRejected };
    Refusal::new(code, rejected.to_string())
}

fn config_refused(refused: ConfigRefused) -> Refusal {
    let refusal = Refusal::new(ErrorCode::PolicyRejected, refused.to_string());
    match refused {
        ConfigRefused::Problems(first, _) => refusal.detail("path", &first.path).detail("expected", &first.expected),
        ConfigRefused::Unchecked(_) => refusal,
    }
}

/// Whether a policy may be given to a group.
pub(super) fn check_quarantine(policy: &PolicySpec) -> Result<(), Refusal> {
    let Some(quarantine) = &policy.quarantine else { return Ok(()) };
    let message = format!(
        "policy {} ({}) is in quarantine since it failed for group `{}`: {}; release it with `sluice policy release`",
        policy.name, policy.digest, quarantine.group, quarantine.cause
    );
    Err(Refusal::new(ErrorCode::PolicyRejected, message))
}

//! Policies: what is uploaded, what decides for which group, and what may decide no more.

use std::sync::Arc;

use sluicegate_protocol::admin::{Activation, PolicyRole, Quarantine};
use sluicegate_protocol::limits::POLICY_CONFIG_BYTES_MAX;
use sluicegate_protocol::{ErrorCode, GroupName};
use tokio::sync::oneshot;

use super::{COMPILED_MAX, Control, Wanted, failed};
use crate::auth::Who;
use crate::broker::{send, stopping};
use crate::catalog::{Because, GroupSpec, PolicyBinding, PolicySpec};
use crate::policy::{Broken, CompiledPolicy, ShadowBinding};
use crate::refusal::Refusal;
use crate::shard::Command;
use crate::store::{Batch, ControlKind};

/// Who changes a group's policy when it failed.
pub(super) const BROKER: &str = "broker";

impl Control {
    pub(super) async fn push_policy(&mut self, wasm: Vec<u8>) -> Result<Arc<PolicySpec>, Refusal> {
        if let Some(existing) = self.catalog.policies.get(&crate::policy::digest(&wasm)) {
            return Ok(Arc::clone(existing));
        }
        let (compiled, wasm) = self.compile(wasm).await?;
        let digest = compiled.digest().to_owned();
        let descriptor = compiled.descriptor();
        let spec = PolicySpec {
            digest: digest.clone(),
            name: descriptor.name.clone(),
            version: descriptor.version.clone(),
            bytes: wasm.len() as u64,
            uploaded_at: self.clock.now(),
            quarantine: None,
        };
        let mut batch = Batch::new(&self.store);
        batch.put_policy_bytes(&digest, &wasm);
        batch.put_control(ControlKind::Policy, &digest, &spec);
        self.write(batch).await?;
        tracing::info!(policy = spec.name, digest, "policy uploaded");
        let spec = Arc::new(spec);
        self.catalog.policies.insert(digest, Arc::clone(&spec));
        Ok(spec)
    }

    /// Changes what decides for a group, between two frames.
    pub(super) async fn activate(
        &mut self,
        name: &GroupName,
        wanted: Wanted,
        by: &str,
        because: Option<Because>,
    ) -> Result<Activation, Refusal> {
        let mut spec = GroupSpec::clone(self.group(name)?);
        let wanted = match wanted {
            Wanted::Policy { digest, config } => Some((digest, config)),
            Wanted::BuiltIn => None,
            Wanted::Before if spec.policy.is_none() && spec.policy_history.is_empty() => {
                let message = format!("nothing but fair scheduling ever decided for group `{name}`");
                return Err(Refusal::new(ErrorCode::InvalidArgument, message));
            }
            Wanted::Before => spec.policy_before(),
        };
        let policy = match wanted {
            None => None,
            Some((digest, config)) => Some(self.usable_policy(&digest, config).await?),
        };
        let binding = policy.as_ref().map(|(_, binding)| binding.clone());
        let (reply, answer) = oneshot::channel();
        let shard = &self.shards[self.shard_of(&spec)];
        send(shard, Command::Activate { group: Arc::new(spec.clone()), policy, reply }).await?;
        // The shard refuses what does not start; only what decides is written down.
        let activation = answer.await.map_err(|_| stopping())??;
        let is_shadow = |shadow: &ShadowBinding| binding.as_ref().is_some_and(|bound| bound.digest == shadow.digest);
        let ends_shadow = spec.shadow.as_ref().is_some_and(is_shadow);
        spec.bind(binding, activation.at, by, because);
        self.replace_group(spec).await?;
        if ends_shadow {
            // It decides now: nothing is left to compare.
            self.end_shadow(name, by).await?;
        }
        let digest = activation.policy.as_ref().map_or("built-in", |policy| &policy.digest);
        tracing::info!(group = %name, policy = digest, by, carried = activation.state_carried, "policy activated");
        Ok(activation)
    }

    /// A policy failed too often: nobody is given to it until it is released, and what decided before decides for its group, or
    /// built-in fair scheduling.
    pub(super) async fn policy_broke(&mut self, broken: &Broken) {
        let Broken { role, group, digest, config, cause, capsule } = broken;
        let Ok(name) = GroupName::parse(group) else { return };
        if *role == PolicyRole::Shadow {
            return self.shadow_broke(&name, broken).await;
        }
        if let Err(refusal) = self.quarantine(&name, broken).await {
            tracing::error!(group, digest, cause, %refusal, "a policy that failed is not in quarantine");
        }
        let Some(spec) = self.catalog.groups.get(&name) else { return };
        // Something else may have been activated since.
        if spec.policy.as_ref().is_none_or(|bound| bound.digest != *digest || bound.config != *config) {
            return;
        }
        let is_good = |digest: &str| self.catalog.policies.get(digest).is_some_and(|known| known.quarantine.is_none());
        let last_good = spec.last_good(digest, is_good);
        let last_good = last_good.map(|(digest, config)| Wanted::Policy { digest, config });
        for wanted in last_good.into_iter().chain([Wanted::BuiltIn]) {
            let because = Because { cause: cause.clone(), capsule: capsule.clone() };
            match self.activate(&name, wanted, BROKER, Some(because)).await {
                Ok(_) => return,
                Err(refusal) => tracing::warn!(group, %refusal, "the policy from before cannot take over"),
            }
        }
    }

    async fn quarantine(&mut self, group: &GroupName, broken: &Broken) -> Result<(), Refusal> {
        let mut spec = PolicySpec::clone(self.policy(&broken.digest)?);
        let (since, cause) = (self.clock.now(), broken.cause.clone());
        spec.quarantine.get_or_insert(Quarantine { since, group: group.clone(), cause });
        self.replace_policy(spec).await.map(drop)
    }

    /// The policy may be activated again.
    pub(super) async fn release_policy(&mut self, digest: &str, who: &Who) -> Result<Arc<PolicySpec>, Refusal> {
        let mut spec = PolicySpec::clone(self.policy(digest)?);
        if spec.quarantine.take().is_some() {
            tracing::info!(policy = spec.digest, by = &*who.0, "policy released from quarantine");
        }
        self.replace_policy(spec).await
    }

    async fn replace_policy(&mut self, spec: PolicySpec) -> Result<Arc<PolicySpec>, Refusal> {
        let mut batch = Batch::new(&self.store);
        batch.put_control(ControlKind::Policy, &spec.digest, &spec);
        self.write(batch).await?;
        let spec = Arc::new(spec);
        self.catalog.policies.insert(spec.digest.clone(), Arc::clone(&spec));
        Ok(spec)
    }

    /// A policy that may be given to a group, compiled.
    pub(super) async fn usable_policy(
        &mut self,
        digest: &str,
        config: String,
    ) -> Result<(Arc<CompiledPolicy>, PolicyBinding), Refusal> {
        if config.len() > POLICY_CONFIG_BYTES_MAX {
            let (max, bytes) = (POLICY_CONFIG_BYTES_MAX as u64, config.len() as u64);
            return Err(Refusal::limit(ErrorCode::TooLarge, "policy configuration bytes", max, bytes));
        }
        let policy = self.policy(digest)?;
        if let Some(quarantine) = &policy.quarantine {
            return Err(quarantined(policy, quarantine));
        }
        let digest = policy.digest.clone();
        let compiled = self.stored_policy(&digest).await?;
        Ok((compiled, PolicyBinding { digest, config, activated_at: self.clock.now() }))
    }

    async fn stored_policy(&mut self, digest: &str) -> Result<Arc<CompiledPolicy>, Refusal> {
        if let Some(compiled) = self.compiled.iter().find(|compiled| compiled.digest() == digest) {
            return Ok(Arc::clone(compiled));
        }
        let bytes = self.store.policy_bytes(digest).map_err(|error| failed(&error))?;
        let lost =
            || Refusal::new(ErrorCode::UnknownPolicy, format!("the bytes of policy {digest} are not in the store"));
        Ok(self.compile(bytes.ok_or_else(lost)?).await?.0)
    }

    async fn compile(&mut self, wasm: Vec<u8>) -> Result<(Arc<CompiledPolicy>, Vec<u8>), Refusal> {
        let host = Arc::clone(&self.host);
        let compiled = tokio::task::spawn_blocking(move || (host.compile(&wasm), wasm)).await;
        let (compiled, wasm) = compiled.map_err(|_| stopping())?;
        let rejected =
            |rejected: crate::policy::PolicyRejected| Refusal::new(ErrorCode::PolicyRejected, rejected.to_string());
        let compiled = compiled.map_err(rejected)?;
        if self.compiled.len() >= COMPILED_MAX {
            self.compiled.pop_front();
        }
        self.compiled.push_back(Arc::clone(&compiled));
        Ok((compiled, wasm))
    }

    /// The policy with this digest, or with a digest that begins so and no other does.
    fn policy(&self, digest: &str) -> Result<&Arc<PolicySpec>, Refusal> {
        let mut matching = self.catalog.policies.values().filter(|policy| policy.digest.starts_with(digest));
        match (matching.next(), matching.next()) {
            (Some(policy), None) if digest.len() >= 8 => Ok(policy),
            (Some(_), Some(_)) => {
                Err(Refusal::new(ErrorCode::InvalidArgument, format!("several policies begin with `{digest}`")))
            }
            (Some(_), None) => Err(Refusal::new(ErrorCode::InvalidArgument, "a digest needs at least 8 digits")),
            (None, _) => Err(Refusal::new(ErrorCode::UnknownPolicy, format!("no policy has the digest `{digest}`"))),
        }
    }
}

fn quarantined(policy: &PolicySpec, quarantine: &Quarantine) -> Refusal {
    let Quarantine { group, cause, .. } = quarantine;
    let message = format!(
        "policy {} ({}) is in quarantine since it failed for group `{group}`: {cause}; release it with `sluice policy release`",
        policy.name, policy.digest
    );
    Refusal::new(ErrorCode::PolicyRejected, message)
}

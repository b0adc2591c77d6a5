//! Shadows: which policy is asked beside the one that decides, for which group.

use sluicegate_protocol::admin::{PolicyChange, PolicyRole, Shadow as ShadowReport};
use sluicegate_protocol::{ErrorCode, GroupName};
use tokio::sync::oneshot;

use super::Control;
use super::policy::{BROKER, find};
use super::workshop::{Ready, check_quarantine};
use crate::broker::{send, stopping};
use crate::catalog::{Because, GroupSpec};
use crate::policy::{Broken, Recipe, Shadow, ShadowBinding};
use crate::refusal::Refusal;
use crate::shard::{Command, ShardId, init_for};

/// Groups with shadows: each has a thread.
const SHADOWS_MAX: usize = 16;

impl Control {
    /// A policy is asked beside the one that decides from now on, in place of the shadow before.
    pub(super) async fn shadow(
        &mut self,
        name: &GroupName,
        Ready { compiled, config }: Ready,
        by: &str,
    ) -> Result<ShadowReport, Refusal> {
        let spec = GroupSpec::clone(self.group(name)?);
        let shadows = self.catalog.groups.values().filter(|group| group.shadow.is_some()).count();
        if spec.shadow.is_none() && shadows >= SHADOWS_MAX {
            let (max, shadows) = (SHADOWS_MAX as u64, shadows as u64);
            return Err(Refusal::limit(ErrorCode::LimitReached, "groups with shadows", max, shadows));
        }
        let policy = find(&self.catalog, compiled.digest())?;
        check_quarantine(policy)?;
        let now = self.clock.now();
        let binding = ShadowBinding { digest: policy.digest.clone(), config, since: now, by: by.to_owned() };
        let shard = self.shard_of(&spec);
        let number = ShardId(u16::try_from(shard).expect("shards are at most 1024"));
        let recipe = Recipe { compiled, config: binding.config.as_str().into(), init: init_for(&spec, number, now) };
        let started = binding.clone();
        let started = tokio::task::spawn_blocking(move || Shadow::start(recipe, started)).await;
        let refused = |fault: crate::policy::PolicyFault| Refusal::new(ErrorCode::PolicyRejected, fault.to_string());
        let shadow = started.map_err(|_| stopping())?.map_err(refused)?;
        let report = shadow.report();
        self.give_shadow(shard, &spec, Some(shadow)).await?;
        self.shadowed(spec, Some(binding), by, None).await?;
        tracing::info!(group = %name, policy = report.digest, by, "shadow started");
        Ok(report)
    }

    /// No shadow any more. Nothing changes if there was none.
    pub(super) async fn end_shadow(&mut self, name: &GroupName, by: &str) -> Result<(), Refusal> {
        let spec = GroupSpec::clone(self.group(name)?);
        // One that ended by itself is still shown: that ends too.
        self.give_shadow(self.shard_of(&spec), &spec, None).await?;
        if spec.shadow.is_some() {
            self.shadowed(spec, None, by, None).await?;
            tracing::info!(group = %name, by, "shadow ended");
        }
        Ok(())
    }

    /// A shadow failed too often, and ended itself.
    pub(super) async fn shadow_broke(&mut self, name: &GroupName, broken: &Broken) {
        let Some(spec) = self.catalog.groups.get(name) else { return };
        // Another one may have been started since.
        let is_it = |shadow: &ShadowBinding| shadow.digest == broken.digest && shadow.config == broken.config;
        if !spec.shadow.as_ref().is_some_and(is_it) {
            return;
        }
        let because = Because { cause: broken.cause.clone(), capsule: broken.capsule.clone() };
        let spec = GroupSpec::clone(spec);
        if let Err(refusal) = self.shadowed(spec, None, BROKER, Some(because)).await {
            tracing::error!(group = %name, %refusal, "a shadow that ended is not written down as such");
        }
    }

    async fn give_shadow(&self, shard: usize, spec: &GroupSpec, shadow: Option<Shadow>) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Shadow { group: spec.id, shadow: shadow.map(Box::new), reply };
        send(&self.shards[shard], command).await?;
        answer.await.map_err(|_| stopping())
    }

    async fn shadowed(
        &mut self,
        mut spec: GroupSpec,
        binding: Option<ShadowBinding>,
        by: &str,
        because: Option<Because>,
    ) -> Result<(), Refusal> {
        spec.set_shadow(binding, self.clock.now(), by, because);
        self.replace_group(spec).await.map(drop)
    }
}

/// The changes of a group's policy and of its shadow, newest first.
pub(crate) fn history(spec: &GroupSpec) -> Vec<PolicyChange> {
    let mut changes: Vec<_> = spec.policy_history.iter().chain(&spec.shadow_history).rev().cloned().collect();
    changes.sort_by_key(|change| (std::cmp::Reverse(change.at), change.role == PolicyRole::Shadow));
    changes
}

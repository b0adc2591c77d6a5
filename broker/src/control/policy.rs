//! Policies: what is uploaded, what decides for which group, and what may decide no more. What takes long is done before, in the
//! [workshop](super::workshop): here it is written down.

use std::sync::Arc;

use sluicegate_protocol::admin::{Activation, PolicyAct, PolicyEvent, PolicyRole, Quarantine};
use sluicegate_protocol::{ErrorCode, GroupName};
use tokio::sync::oneshot;

use super::workshop::{Ready, check_quarantine};
use super::{Change, Control, ControlHandle, Decision, Wanted, unknown_group};
use crate::auth::Who;
use crate::broker::{send, stopping};
use crate::catalog::{Because, Catalog, GroupSpec, PolicyBinding, PolicySpec};
use crate::policy::{Broken, CompiledPolicy, ShadowBinding};
use crate::refusal::Refusal;
use crate::shard::Command;
use crate::store::{Batch, ControlKind};

/// Who changes a group's policy when it failed.
pub(super) const BROKER: &str = "broker";

impl ControlHandle {
    /// Takes a component, if it is a policy. The same again changes nothing.
    pub(crate) async fn push_policy(&self, wasm: Vec<u8>, who: Who) -> Result<Arc<PolicySpec>, Refusal> {
        if let Some(existing) = self.workshop.catalog().policies.get(&crate::policy::digest(&wasm)) {
            return Ok(Arc::clone(existing));
        }
        let compiled = self.workshop.uploaded(&wasm).await?;
        self.ask(|reply| Change::AddPolicy(compiled, wasm, who, reply)).await
    }

    /// Finds out what a push, and an activation with this configuration, would say. Changes nothing.
    pub(crate) async fn validate_policy(
        &self,
        wasm: &[u8],
        config: String,
        group: Option<&GroupName>,
    ) -> Result<Arc<CompiledPolicy>, Refusal> {
        self.workshop.validated(wasm, config, group).await
    }

    /// An uploaded policy, by its digest or a prefix that no other has, and its code.
    pub(crate) async fn policy(&self, digest: &str) -> Result<(Arc<PolicySpec>, Arc<CompiledPolicy>), Refusal> {
        let spec = Arc::clone(find(&self.workshop.catalog(), digest)?);
        let compiled = self.workshop.stored(&spec.digest).await?;
        Ok((spec, compiled))
    }

    /// Changes what decides for a group. Fair scheduling needs nothing of a policy, and waits for none.
    pub(crate) async fn activate(&self, group: GroupName, wanted: Wanted, who: Who) -> Result<Activation, Refusal> {
        let decision = self.decision(&group, wanted).await?;
        self.ask(|reply| Change::Decide(group, decision, who, reply)).await
    }

    async fn decision(&self, name: &GroupName, wanted: Wanted) -> Result<Decision, Refusal> {
        let workshop = &self.workshop;
        let wanted = match wanted {
            Wanted::BuiltIn => return Ok(Decision::BuiltIn),
            Wanted::Policy { digest, config } => return Ok(Decision::Policy(workshop.ready(&digest, config).await?)),
            Wanted::Config(_) | Wanted::Before => wanted,
        };
        let catalog = workshop.catalog();
        let group = catalog.groups.get(name).ok_or_else(|| unknown_group(name))?;
        if let Wanted::Config(config) = wanted {
            let bound = group.policy.as_ref().ok_or_else(|| nothing_to_configure(name))?;
            return Ok(Decision::Configured(workshop.ready(&bound.digest, config).await?));
        }
        if group.policy.is_none() && group.policy_history.is_empty() {
            let message = format!("nothing but fair scheduling ever decided for group `{name}`");
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        match group.policy_before() {
            Some((digest, config)) => Ok(Decision::Before(Some(workshop.again(&digest, config).await?))),
            None => Ok(Decision::Before(None)),
        }
    }
}

impl Control {
    pub(super) async fn add_policy(
        &mut self,
        compiled: &CompiledPolicy,
        wasm: &[u8],
        who: &Who,
    ) -> Result<Arc<PolicySpec>, Refusal> {
        let digest = compiled.digest().to_owned();
        if let Some(existing) = self.catalog.policies.get(&digest) {
            return Ok(Arc::clone(existing));
        }
        let descriptor = compiled.descriptor();
        let (now, by) = (self.clock.now(), &*who.0);
        let mut spec = PolicySpec {
            digest: digest.clone(),
            name: descriptor.name.clone(),
            version: descriptor.version.clone(),
            bytes: wasm.len() as u64,
            uploaded_at: now,
            quarantine: None,
            history: Vec::new(),
        };
        spec.remember(PolicyEvent { at: now, by: by.into(), act: PolicyAct::Upload, group: None, because: None });
        let mut batch = Batch::new(&self.store);
        batch.put_policy_bytes(&digest, wasm);
        batch.put_control(ControlKind::Policy, &digest, &spec);
        self.write(batch).await?;
        tracing::info!(policy = spec.name, digest, by, "policy uploaded");
        let spec = Arc::new(spec);
        self.catalog.policies.insert(digest, Arc::clone(&spec));
        Ok(spec)
    }

    /// Changes what decides for a group, between two frames.
    pub(super) async fn decide(
        &mut self,
        name: &GroupName,
        decision: Decision,
        by: &str,
        because: Option<Because>,
    ) -> Result<Activation, Refusal> {
        let mut spec = GroupSpec::clone(self.group(name)?);
        let policy = still_meant(&spec, decision)?;
        let policy = match policy {
            None => None,
            Some(Ready { compiled, config }) => {
                let policy = find(&self.catalog, compiled.digest())?;
                check_quarantine(policy)?;
                let binding = PolicyBinding { digest: policy.digest.clone(), config, activated_at: self.clock.now() };
                Some((compiled, binding))
            }
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

    /// A policy failed too often: nobody is given to it until it is released, and what decided before is made ready to take over.
    /// Meanwhile, and where there is none, built-in fair scheduling decides.
    pub(super) async fn policy_broke(&mut self, broken: Broken) {
        let Ok(name) = GroupName::parse(&broken.group) else { return };
        if broken.role == PolicyRole::Shadow {
            return self.shadow_broke(&name, &broken).await;
        }
        if let Err(refusal) = self.quarantine(&name, &broken).await {
            let Broken { group, digest, cause, .. } = &broken;
            tracing::error!(group, digest, cause, %refusal, "a policy that failed is not in quarantine");
        }
        let Some(spec) = self.bound_to(&name, &broken) else { return };
        let is_good = |digest: &str| self.catalog.policies.get(digest).is_some_and(|known| known.quarantine.is_none());
        let last_good = spec.last_good(&broken.digest, is_good);
        let workshop = Arc::clone(&self.workshop);
        self.taking_over.spawn(async move {
            let Some((digest, config)) = last_good else { return (name, broken, None) };
            let ready = workshop.again(&digest, config).await;
            let lost =
                |refusal: Refusal| tracing::warn!(group = %name, %refusal, "the policy from before cannot take over");
            let ready = ready.map_err(lost).ok();
            (name, broken, ready)
        });
    }

    /// What decided before takes the place of what failed.
    pub(super) async fn take_over(&mut self, name: &GroupName, broken: &Broken, last_good: Option<Ready>) {
        // Something else may have been activated since.
        if self.bound_to(name, broken).is_none() {
            return;
        }
        for decision in last_good.map(Decision::Policy).into_iter().chain([Decision::BuiltIn]) {
            let because = Because { cause: broken.cause.clone(), capsule: broken.capsule.clone() };
            match self.decide(name, decision, BROKER, Some(because)).await {
                Ok(_) => return,
                Err(refusal) => tracing::warn!(group = %name, %refusal, "the policy from before cannot take over"),
            }
        }
    }

    /// The group, if what broke is what decides for it.
    fn bound_to(&self, name: &GroupName, broken: &Broken) -> Option<&Arc<GroupSpec>> {
        let is_bound = |bound: &PolicyBinding| bound.digest == broken.digest && bound.config == broken.config;
        self.catalog.groups.get(name).filter(|group| group.policy.as_ref().is_some_and(is_bound))
    }

    async fn quarantine(&mut self, group: &GroupName, broken: &Broken) -> Result<(), Refusal> {
        let mut spec = PolicySpec::clone(find(&self.catalog, &broken.digest)?);
        if spec.quarantine.is_some() {
            return Ok(());
        }
        let (since, cause) = (self.clock.now(), broken.cause.clone());
        let (by, because) = (BROKER.into(), Some(cause.clone()));
        spec.quarantine = Some(Quarantine { since, group: group.clone(), cause });
        let group = Some(group.clone());
        spec.remember(PolicyEvent { at: since, by, act: PolicyAct::Quarantine, group, because });
        self.replace_policy(spec).await.map(drop)
    }

    /// The policy may be activated again.
    pub(super) async fn release_policy(&mut self, digest: &str, who: &Who) -> Result<Arc<PolicySpec>, Refusal> {
        let spec = find(&self.catalog, digest)?;
        if spec.quarantine.is_none() {
            return Ok(Arc::clone(spec));
        }
        let mut spec = PolicySpec::clone(spec);
        let (at, by) = (self.clock.now(), &*who.0);
        spec.quarantine = None;
        spec.remember(PolicyEvent { at, by: by.into(), act: PolicyAct::Release, group: None, because: None });
        tracing::info!(policy = spec.digest, by, "policy released from quarantine");
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
}

/// The policy with this digest, or with a digest that begins so and no other does.
pub(super) fn find<'a>(catalog: &'a Catalog, digest: &str) -> Result<&'a Arc<PolicySpec>, Refusal> {
    let mut matching = catalog.policies.values().filter(|policy| policy.digest.starts_with(digest));
    match (matching.next(), matching.next()) {
        (Some(policy), None) if digest.len() >= 8 => Ok(policy),
        (Some(_), Some(_)) => {
            Err(Refusal::new(ErrorCode::InvalidArgument, format!("several policies begin with `{digest}`")))
        }
        (Some(_), None) => Err(Refusal::new(ErrorCode::InvalidArgument, "a digest needs at least 8 digits")),
        (None, _) => Err(Refusal::new(ErrorCode::UnknownPolicy, format!("no policy has the digest `{digest}`"))),
    }
}

/// The policy that was made ready, none for fair scheduling, if the group is still what it was made ready for.
fn still_meant(group: &GroupSpec, decision: Decision) -> Result<Option<Ready>, Refusal> {
    match decision {
        Decision::BuiltIn => Ok(None),
        Decision::Policy(ready) => Ok(Some(ready)),
        Decision::Configured(ready) => match &group.policy {
            Some(bound) if bound.digest == ready.compiled.digest() => Ok(Some(ready)),
            _ => Err(changed_meanwhile(group)),
        },
        Decision::Before(ready) => {
            let meant = ready.as_ref().map(|ready| (ready.compiled.digest().to_owned(), ready.config.clone()));
            if group.policy_before() == meant { Ok(ready) } else { Err(changed_meanwhile(group)) }
        }
    }
}

fn changed_meanwhile(group: &GroupSpec) -> Refusal {
    let message = format!("what decides for group `{}` was changed meanwhile: look at it, and try again", group.name);
    Refusal::new(ErrorCode::InUse, message)
}

fn nothing_to_configure(name: &GroupName) -> Refusal {
    let message = format!("fair scheduling decides for group `{name}`: activate a policy, with its configuration");
    Refusal::new(ErrorCode::InvalidArgument, message)
}

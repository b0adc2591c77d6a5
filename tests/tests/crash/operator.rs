//! An operator who changes things all the time, over HTTP.

use std::time::Duration;

use anyhow::Result;
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use sluicegate_client::admin::{
    ActivatePolicy, Admin, AdminError, ConcurrencySettings, ErrorBody, LiteChange, QuotaSettings, SuspensionSource,
};
use sluicegate_client::{ErrorCode, GroupName, Timestamp, TopicName};
use sluicegate_tests::history::{BrokerClock, Source, Span};
use sluicegate_tests::policy;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fact::{Fact, OneLife};
use crate::world::{DELETABLE_FROM, LITES_MAX, lite};

/// What an operator does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verb {
    Suspend {
        lite: usize,
        duration: Duration,
    },
    Revoke {
        lite: usize,
        duration: Duration,
    },
    Resume {
        lite: usize,
    },
    Delete {
        lite: usize,
    },
    Pause,
    Unpause,
    Quotas(QuotaSettings),
    Concurrency(ConcurrencySettings),
    /// A policy's digest with its configuration, or none.
    Policy(Option<(String, String)>),
}

pub(crate) struct Operator {
    topic: TopicName,
    group: GroupName,
    random: Pcg64Mcg,
    /// Digests of what may be activated, with a configuration.
    policies: Vec<(String, String)>,
    pub(crate) is_paused: bool,
    /// Asked of a broker that went away before it answered, and when.
    pub(crate) unsure: Option<(Verb, Timestamp)>,
    pub(crate) facts: Vec<Fact>,
}

impl Operator {
    pub(crate) async fn new(admin: &Admin, topic: TopicName, group: GroupName, seed: u64) -> Result<Self> {
        let mut policies = Vec::new();
        let rate = r#"{"unit":"cost","rate_per_second":2000,"burst":200}"#;
        for (name, config) in [("calm", ""), ("token-bucket", rate)] {
            policies.push((admin.push_policy(policy(name)).await?.digest, config.to_owned()));
        }
        let random = Pcg64Mcg::seed_from_u64(seed);
        Ok(Self { topic, group, random, policies, is_paused: false, unsure: None, facts: Vec::new() })
    }

    pub(crate) async fn run(mut self, admin: Admin, clock: BrokerClock, mut stop: watch::Receiver<bool>) -> Self {
        while !*stop.borrow() {
            let verb = self.draw();
            let asked = Instant::now();
            // A request is not cancelled: the broker's end ends it.
            if let Err(error) = self.carry_out(&admin, &verb, &clock, asked).await {
                let is_stopped =
                    tokio::time::timeout(Duration::from_secs(1), stop.wait_for(|stop| *stop)).await.is_ok();
                match error {
                    AdminError::Http { .. } if is_stopped => self.unsure = Some((verb, clock.earliest(asked))),
                    error => self.facts.push(Fact::Wrong(format!("{verb:?}: {error}"))),
                }
                break;
            }
            let pause = Duration::from_millis(self.random.random_range(10..80));
            tokio::select! {
                _ = stop.changed() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self
    }

    fn draw(&mut self) -> Verb {
        if self.is_paused && self.random.random_range(0..100) < 70 {
            return Verb::Unpause;
        }
        let index = self.random.random_range(0..LITES_MAX);
        match self.random.random_range(0..100) {
            0..28 => Verb::Suspend { lite: index, duration: self.suspension() },
            28..46 => Verb::Revoke { lite: index, duration: self.millis(1, 60) },
            46..62 => Verb::Resume { lite: index },
            62..70 => Verb::Delete { lite: self.random.random_range(DELETABLE_FROM..LITES_MAX) },
            70..74 => Verb::Pause,
            74..80 => Verb::Quotas(self.quotas()),
            80..90 => Verb::Concurrency(self.concurrency()),
            _ => {
                let which = self.random.random_range(0..=self.policies.len());
                Verb::Policy(self.policies.get(which).cloned())
            }
        }
    }

    fn suspension(&mut self) -> Duration {
        if self.random.random_range(0..100) < 10 { self.millis(2_000, 4_000) } else { self.millis(1, 400) }
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.random.random_range(from..=to))
    }

    fn quotas(&mut self) -> QuotaSettings {
        let rate = |text: &str| Some(text.parse().expect("a good rate"));
        match self.random.random_range(0..3) {
            0 => QuotaSettings { messages: rate("800/s burst 40"), cost: None },
            1 => QuotaSettings { messages: None, cost: rate("6000/s burst 300") },
            _ => QuotaSettings::default(),
        }
    }

    fn concurrency(&mut self) -> ConcurrencySettings {
        let mut bound = |percent, from, to| {
            let is_bound = self.random.random_range(0..100) < percent;
            is_bound.then(|| self.random.random_range(from..=to))
        };
        let (group, tenant, lite_topic) = (bound(30, 12, 24), bound(30, 4, 8), bound(40, 2, 3));
        ConcurrencySettings { group, tenant, lite_topic: lite_topic.unwrap_or(1) }
    }

    async fn carry_out(
        &mut self,
        admin: &Admin,
        verb: &Verb,
        clock: &BrokerClock,
        asked: Instant,
    ) -> Result<(), AdminError> {
        let span = || clock.span(asked, Instant::now());
        let group = &self.group;
        match verb {
            Verb::Suspend { lite: index, duration } => {
                let change = allowed(admin.suspend_lite(group, &lite(*index), *duration).await)?;
                self.facts.extend(change.iter().flat_map(|change| suspended(change, *duration)));
            }
            Verb::Revoke { lite: index, duration } => {
                let change = allowed(admin.revoke_lite(group, &lite(*index), *duration).await)?;
                if let Some(change) = &change {
                    let facts = suspended(change, *duration);
                    if let Some(Fact::Suspended(life, held)) = facts.last() {
                        self.facts.push(Fact::Revoked(life.id, held.after));
                    }
                    self.facts.extend(facts);
                }
            }
            Verb::Resume { lite: index } => {
                if let Some(change) = allowed(admin.resume_lite(group, &lite(*index), None).await)? {
                    self.facts.push(Fact::Resumed(change.lite_topic.lite_id, None, span()));
                }
            }
            Verb::Delete { lite: index } => {
                if let Some(deleted) = allowed(admin.delete_lite(&self.topic, &lite(*index)).await)? {
                    self.facts.push(Fact::Deleted(deleted.lite_id, span()));
                }
            }
            Verb::Pause => {
                admin.pause_group(group).await?;
                self.is_paused = true;
                self.facts.push(Fact::Paused(span()));
            }
            Verb::Unpause => {
                admin.resume_group(group).await?;
                self.is_paused = false;
                self.facts.push(Fact::Unpaused(span()));
            }
            Verb::Quotas(quotas) => {
                admin.set_quotas(group, quotas).await?;
                self.facts.push(Fact::Quotas(*quotas));
            }
            Verb::Concurrency(concurrency) => {
                admin.set_concurrency(group, concurrency).await?;
                self.facts.push(Fact::Concurrency(span(), *concurrency));
            }
            Verb::Policy(None) => {
                admin.deactivate_policy(group).await?;
                self.facts.push(Fact::Policy(None));
            }
            Verb::Policy(Some((digest, config))) => {
                let activate = ActivatePolicy { digest: digest.clone(), config: config.clone() };
                admin.activate_policy(group, &activate).await?;
                self.facts.push(Fact::Policy(Some(digest.clone())));
            }
        }
        Ok(())
    }
}

/// None where the lite topic is not there.
fn allowed<T>(answer: Result<T, AdminError>) -> Result<Option<T>, AdminError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(AdminError::Refused(ErrorBody { code: ErrorCode::UnknownLite, .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

/// An operator's suspension replaces the one before, and says itself when it began.
fn suspended(change: &LiteChange, duration: Duration) -> Vec<Fact> {
    let shown = &change.lite_topic;
    let operator = shown.suspensions.iter().find(|suspension| suspension.source == SuspensionSource::Operator);
    let Some(operator) = operator else {
        return vec![Fact::Wrong(format!("{} was suspended, and shows {:?}", shown.name, shown.suspensions))];
    };
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let held = Span { after: Timestamp(operator.until.0 - micros), before: operator.until };
    let life = OneLife { id: shown.lite_id, name: shown.name.as_str().to_owned() };
    let replaced = Fact::Resumed(shown.lite_id, Some(Source::Operator), Span::exact(held.after));
    vec![replaced, Fact::Suspended(life, held)]
}

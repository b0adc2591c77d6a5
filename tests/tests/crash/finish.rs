//! The end of a run: everything that holds back ends, and the workers take what is left.

use std::time::Duration;

use anyhow::Result;
use sluicegate_client::admin::{Admin, AdminError, ConcurrencySettings, ErrorBody, QuotaSettings};
use sluicegate_client::{ErrorCode, Timestamp};
use sluicegate_tests::history::Span;
use sluicegate_tests::history::rules::{self, Breach};
use sluicegate_tests::{Broker, PATIENCE};
use tokio::time::Instant;

use crate::worker::Mood;
use crate::world::{LITES_MAX, World, lite};

impl World {
    /// Everything that is wrong when all is delivered.
    pub(crate) async fn finish(&mut self, broker: &Broker) -> Result<Vec<Breach>> {
        let admin = broker.admin(None)?;
        self.close_publishers(broker).await?;
        self.let_everything_run(&admin).await?;
        let working = self.work(broker, Mood::Diligent).await?;
        let give_up_at = Instant::now() + PATIENCE;
        // What is left then is told by the rules.
        while !self.is_drained(&admin).await? && Instant::now() < give_up_at {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.stop(working).await?;
        let (_, shown) = self.look(&admin).await?;
        let mut by_life = vec![None; self.story.record.lites.len()];
        for shown in shown {
            if let Some(life) = self.story.known_life(shown.lite_id) {
                by_life[life] = Some(shown);
            }
        }
        self.story.record.end.lite_topics = by_life;
        self.read_dead_letters(&admin).await?;
        let record = &self.story.record;
        Ok(rules::broken_so_far(record).into_iter().chain(rules::unaccounted(record)).collect())
    }

    async fn let_everything_run(&mut self, admin: &Admin) -> Result<()> {
        let clock = self.read_clock(admin).await?;
        let asked = Instant::now();
        admin.resume_group(&self.group).await?;
        admin.deactivate_policy(&self.group).await?;
        admin.set_quotas(&self.group, &QuotaSettings::default()).await?;
        let concurrency = ConcurrencySettings::default();
        admin.set_concurrency(&self.group, &concurrency).await?;
        for index in 0..LITES_MAX {
            match admin.resume_lite(&self.group, &lite(index), None).await {
                Ok(_) | Err(AdminError::Refused(ErrorBody { code: ErrorCode::UnknownLite, .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let span: Span = clock.span(asked, Instant::now());
        self.story.unpaused(span.after);
        self.story.record.concurrency.push((span, concurrency));
        for hold in &mut self.story.record.holds {
            hold.until = hold.until.min(span.after);
        }
        Ok(())
    }

    async fn is_drained(&self, admin: &Admin) -> Result<bool> {
        let (group, shown) = self.look(admin).await?;
        let is_done = shown.iter().all(|shown| shown.settled_up_to == shown.next_offset && shown.leases.is_empty());
        Ok(group.stats.in_flight == 0 && is_done)
    }

    /// What broke, and the life of each message that it is about.
    pub(crate) fn report(&self, broken: &[Breach]) -> String {
        const SHOWN_MAX: usize = 8;
        let one = |breach: &Breach| match breach.place {
            Some(place) => format!("{breach}\n    {}", self.story.record.life_of(place)),
            None => breach.to_string(),
        };
        let shown: Vec<_> = broken.iter().take(SHOWN_MAX).map(one).collect();
        format!("topic {} breaks {} times:\n  {}", self.topic, broken.len(), shown.join("\n  "))
    }

    /// Publishes, deliveries, restarts: so that a run that did nothing is not taken for one that went well.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let record = &self.story.record;
        (record.published.len(), record.deliveries.len(), record.restarts.len())
    }

    /// The time of a kill, by the clock of the broker that was killed.
    pub(crate) fn killed_at(&self, at: Instant) -> Timestamp {
        self.clock.as_ref().map_or_else(Timestamp::default, |clock| clock.earliest(at))
    }
}

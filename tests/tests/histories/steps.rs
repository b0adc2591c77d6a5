//! One step of a plan: done, and recorded with the span in which it took effect.

use std::time::Duration;

use anyhow::{Context as _, Result};
use sluicegate_client::admin::{ActivatePolicy, ConcurrencySettings, QuotaSettings};
use sluicegate_client::{Offset, SettleError, Subscription, Timestamp};
use sluicegate_tests::history::{Blind, End, Ended, Hold, Source, Span, Subscribed};
use sluicegate_tests::policy;

use crate::draw::{LITES, PREFIXES, Pick, Publish, Step, Takes, has_room};
use crate::run::{Run, Vanished, lite, patiently};

/// Long enough for a message that was revoked to go out again.
const LEASED_ANEW: Duration = Duration::from_millis(30);

impl Run {
    pub(crate) async fn step(&mut self, step: &Step) -> Result<()> {
        self.collect().await;
        self.tick().await?;
        self.tell(&format!("{step:?}"));
        match step {
            Step::Publish(publishes) => self.publish(publishes).await?,
            Step::Settle(settles) => {
                for &(pick, end) in settles {
                    self.settle(pick, end).await?;
                    self.collect().await;
                }
            }
            Step::Wait(duration) => self.wait(*duration).await,
            Step::Attach { takes, workers } if has_room(self.members.len()) => {
                self.attach(takes.clone(), *workers, None).await?;
            }
            Step::Subscribe { consumer, lite } => self.subscribe(*consumer, *lite).await?,
            Step::Unsubscribe { consumer, name } => self.unsubscribe(*consumer, *name).await?,
            Step::Close(pick) if !self.members.is_empty() => self.close(pick % self.members.len()).await?,
            Step::Vanish(pick) if !self.members.is_empty() => self.vanish(pick % self.members.len()).await?,
            // There is no room for another, or nobody to end.
            Step::Attach { .. } | Step::Close(_) | Step::Vanish(_) => {}
            Step::TakeOver(pick) => self.take_over(*pick).await?,
            Step::SuspendLite(lite, duration) => self.suspend_lite(*lite, *duration).await?,
            Step::RevokeLite { held, duration, at_once } => self.revoke_lite(*held, *duration, *at_once).await?,
            Step::ResumeLite(lite) => self.resume_lite(*lite).await?,
            Step::Pause => {
                self.admin.pause_group(&self.group).await?;
                let from = self.tick().await?.before;
                self.record.pauses.push((from, Timestamp::MAX));
            }
            Step::Resume => self.resume().await?,
            Step::Quotas(quotas) => self.set_quotas(*quotas).await?,
            Step::Concurrency(concurrency) => self.set_concurrency(*concurrency).await?,
            Step::Skip { lite, ahead } => self.skip(*lite, *ahead).await?,
            Step::Purge(lite) => self.purge(*lite).await?,
            Step::Activate { calm, rate } => self.activate(*calm, *rate).await?,
            Step::Deactivate => drop(self.admin.deactivate_policy(&self.group).await?),
            Step::Crash { clients, publishes, settles, down } => {
                self.crash(*clients, publishes, settles, *down).await?;
            }
        }
        Ok(())
    }

    async fn publish(&mut self, publishes: &[Publish]) -> Result<()> {
        let mut pending = Vec::new();
        for &publish in publishes {
            let (lite, body, message) = self.message(publish);
            pending.push((lite, body, self.producer.enqueue(message).await?));
        }
        for (lite, body, receipt) in pending {
            let receipt = patiently("a publish", receipt).await??;
            self.record.acknowledged((lite, receipt.offset.0), &body);
        }
        Ok(())
    }

    async fn settle(&mut self, pick: Pick, end: End) -> Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let (index, delivery) = self.held.remove(pick % self.held.len());
        self.tick().await?;
        let Some(outcome) = end.outcome() else {
            drop(delivery);
            let span = self.tick().await?;
            self.ended(index, span, Ended::Abandoned);
            return Ok(());
        };
        let result = patiently("a settle", delivery.settle(outcome)).await?;
        let span = self.tick().await?;
        self.settled(index, span, end, result);
        Ok(())
    }

    /// Writes down what a settle was answered.
    pub(crate) fn settled(&mut self, index: usize, span: Span, end: End, result: Result<(), SettleError>) {
        let delivered = &self.record.deliveries[index];
        let ((lite, offset), attempt, deadline) = (delivered.place, delivered.attempt, delivered.deadline);
        let was_revoked = delivered.ended.is_some();
        let what = format!("{}@{offset} #{attempt}", LITES[lite]);
        self.tell(&format!("  {what} {end:?}: {result:?}"));
        let wrong = match &result {
            Ok(()) if was_revoked => "was settled by a token that was revoked",
            Err(SettleError::LeaseLost) if !was_revoked && span.before < deadline => "lost its lease for no reason",
            Err(SettleError::Refused(_) | SettleError::Closed) => "could not be settled",
            Ok(()) | Err(SettleError::LeaseLost | SettleError::Unknown) => "",
        };
        if !wrong.is_empty() {
            self.record.wrong.push(format!("{what} {wrong}: {result:?}"));
        }
        if was_revoked {
            return;
        }
        let is_last = attempt >= self.record.max_attempts;
        let hold = match (end, &result) {
            (End::Suspend(duration), Ok(())) => Some((Source::Settle, duration)),
            (End::Retry(Some(delay)), Ok(())) if !is_last => Some((Source::Retry, delay)),
            _ => None,
        };
        if let Some((source, duration)) = hold {
            let until = span.after.plus(duration);
            self.record.holds.push(Hold { lite, source, from: span.before, until });
        }
        self.ended(index, span, Ended::Settled(end, result));
    }

    fn ended(&mut self, index: usize, span: Span, how: Ended) {
        let delivered = &mut self.record.deliveries[index];
        // What an operator revoked ended then.
        if delivered.ended.is_none() {
            delivered.ended = Some((span, how));
        }
    }

    pub(crate) fn subscribed(&mut self, session: usize, takes: &Takes) {
        let names = match takes {
            Takes::All => vec![(String::new(), true)],
            Takes::Named { lites, prefixes } => {
                let lites = lites.iter().map(|&lite| (LITES[lite].to_owned(), false));
                lites.chain(prefixes.iter().map(|&prefix| (PREFIXES[prefix].to_owned(), true))).collect()
            }
        };
        let subscribed = |(name, is_prefix)| Subscribed { name, is_prefix, from: self.now, until: Timestamp::MAX };
        self.record.sessions[session].subscriptions.extend(names.into_iter().map(subscribed));
    }

    async fn subscribe(&mut self, pick: Pick, index: usize) -> Result<()> {
        let mut named = self.members.iter_mut().filter(|member| matches!(member.takes, Takes::Named { .. }));
        let count = named.by_ref().count();
        let mut named = self.members.iter_mut().filter(|member| matches!(member.takes, Takes::Named { .. }));
        let Some(member) = named.nth(pick % count.max(1)) else { return Ok(()) };
        let Takes::Named { lites, .. } = &mut member.takes else { return Ok(()) };
        lites.push(index);
        let (session, name) = (member.session, Subscription::default().lite_topic(lite(index)));
        patiently("a subscribe", member.consumer.subscribe(name)).await??;
        self.subscribed(session, &Takes::Named { lites: vec![index], prefixes: Vec::new() });
        Ok(())
    }

    async fn unsubscribe(&mut self, pick: Pick, name: Pick) -> Result<()> {
        let named = self.members.iter_mut().filter_map(|member| match &mut member.takes {
            Takes::Named { lites, .. } if !lites.is_empty() => Some((&member.consumer, member.session, lites)),
            Takes::Named { .. } | Takes::All => None,
        });
        let mut named: Vec<_> = named.collect();
        if named.is_empty() {
            return Ok(());
        }
        let place = pick % named.len();
        let (consumer, session, lites) = &mut named[place];
        let (index, session) = (lites[name % lites.len()], *session);
        lites.retain(|&other| other != index);
        patiently("an unsubscribe", consumer.unsubscribe(Subscription::default().lite_topic(lite(index)))).await??;
        let span = self.tick().await?;
        let gone = |subscribed: &&mut Subscribed| !subscribed.is_prefix && subscribed.name == LITES[index];
        for subscribed in self.record.sessions[session].subscriptions.iter_mut().filter(gone) {
            subscribed.until = subscribed.until.min(span.before);
        }
        Ok(())
    }

    async fn vanish(&mut self, index: usize) -> Result<()> {
        let after = self.now;
        let vanished = self.kill_client(index);
        let span = Span { after, before: self.tick().await?.before };
        self.abandoned(&vanished, span);
        self.vanished.push(vanished);
        Ok(())
    }

    /// The consumer's process is gone. Until its connection times out the broker may send to it.
    pub(crate) fn kill_client(&mut self, index: usize) -> Vanished {
        let member = self.members.swap_remove(index);
        let (id, session) = (member.consumer.session(), member.session);
        member.runtime.shutdown_background();
        let blind = self.record.blind.len();
        self.record.blind.push(Blind {
            from: self.now,
            until: Timestamp::MAX,
            leases: member.workers,
            counted: member.workers,
        });
        Vanished { id, session, takes: member.takes, workers: member.workers, blind }
    }

    /// What a client held that is gone.
    pub(crate) fn abandoned(&mut self, vanished: &Vanished, span: Span) {
        for index in self.latest_of(|delivered| delivered.session == vanished.session) {
            self.ended(index, span, Ended::Abandoned);
        }
        self.held.retain(|(index, _)| self.record.deliveries[*index].session != vanished.session);
    }

    pub(crate) async fn take_over(&mut self, pick: Pick) -> Result<()> {
        if self.vanished.is_empty() {
            return Ok(());
        }
        let vanished = self.vanished.swap_remove(pick % self.vanished.len());
        let (takes, workers, blind) = (vanished.takes.clone(), vanished.workers, vanished.blind);
        let after = self.now;
        let session = self.attach(takes, workers, Some(vanished)).await?;
        let span = Span { after, before: self.tick().await?.before };
        self.record.blind[blind].until = span.before;
        for index in self.latest_of(|delivered| delivered.session == session) {
            let delivered = &mut self.record.deliveries[index];
            if let Some((_, Ended::Abandoned)) = delivered.ended {
                delivered.ended = Some((span, Ended::Unsure));
            }
        }
        Ok(())
    }

    async fn suspend_lite(&mut self, index: usize, duration: Duration) -> Result<()> {
        let answer = self.admin.suspend_lite(&self.group, &lite(index), duration).await;
        let Some(change) = self.unless_refused(answer)? else { return Ok(()) };
        self.held_by_operator(index, &change, duration)?;
        Ok(())
    }

    /// An operator's suspension replaces the one before, and says itself when it began.
    fn held_by_operator(
        &mut self,
        lite: usize,
        change: &sluicegate_client::admin::LiteChange,
        duration: Duration,
    ) -> Result<Timestamp> {
        let operator = |suspension: &&sluicegate_client::admin::Suspension| {
            suspension.source == sluicegate_client::admin::SuspensionSource::Operator
        };
        let suspension = change.lite_topic.suspensions.iter().find(operator).context("a suspension is not shown")?;
        let from = Timestamp(suspension.until.0 - u64::try_from(duration.as_micros())?);
        self.record.cut_holds(lite, Some(Source::Operator), from);
        self.record.holds.push(Hold { lite, source: Source::Operator, from, until: suspension.until });
        Ok(from)
    }

    async fn revoke_lite(&mut self, held: Pick, duration: Duration, at_once: bool) -> Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let (place, _) = self.held[held % self.held.len()];
        let (index, _) = self.record.deliveries[place].place;
        let answer = self.admin.revoke_lite(&self.group, &lite(index), duration).await;
        let Some(change) = self.unless_refused(answer)? else { return Ok(()) };
        let at = self.held_by_operator(index, &change, duration)?;
        self.tick().await?;
        // What was given out before may have been on its way still.
        self.collect().await;
        for index in self.latest_of(|delivered| delivered.place.0 == index && delivered.at <= at) {
            let delivered = &mut self.record.deliveries[index];
            match delivered.ended {
                None => delivered.ended = Some((Span::exact(at), Ended::Revoked)),
                Some((_, Ended::Abandoned)) => delivered.ended = Some((Span::exact(at), Ended::Unsure)),
                Some(_) => {}
            }
        }
        if !at_once {
            self.resume_lite(index).await?;
            self.wait(LEASED_ANEW).await;
        }
        // The settle shows whether its token is worth something still.
        match self.held.iter().position(|(held, _)| *held == place) {
            Some(held) => self.settle(held, End::Ack).await,
            None => Ok(()),
        }
    }

    pub(crate) async fn resume_lite(&mut self, index: usize) -> Result<()> {
        let after = self.now;
        let answer = self.admin.resume_lite(&self.group, &lite(index), None).await;
        if self.unless_refused(answer)?.is_some() {
            self.record.cut_holds(index, None, after);
        }
        Ok(())
    }

    pub(crate) async fn resume(&mut self) -> Result<()> {
        let after = self.now;
        self.admin.resume_group(&self.group).await?;
        for (_, until) in &mut self.record.pauses {
            *until = after.min(*until);
        }
        Ok(())
    }

    pub(crate) async fn set_quotas(&mut self, quotas: QuotaSettings) -> Result<()> {
        self.admin.set_quotas(&self.group, &quotas).await?;
        let span = self.tick().await?;
        self.record.quotas.push((span, quotas));
        Ok(())
    }

    pub(crate) async fn set_concurrency(&mut self, concurrency: ConcurrencySettings) -> Result<()> {
        self.admin.set_concurrency(&self.group, &concurrency).await?;
        let span = self.tick().await?;
        self.record.concurrency.push((span, concurrency));
        Ok(())
    }

    async fn skip(&mut self, index: usize, ahead: u64) -> Result<()> {
        let Ok(shown) = self.admin.lite_topic(&self.group, &lite(index)).await else { return Ok(()) };
        let offset = shown.settled_up_to.0 + ahead;
        let after = self.tick().await?.before;
        let answer = self.admin.skip_message(&self.group, &lite(index), Offset(offset)).await;
        if self.unless_refused(answer)?.is_some() {
            let before = self.tick().await?.before;
            self.record.skipped.insert((index, offset), Span { after, before });
            // The delay was for this message alone.
            self.record.cut_holds(index, Some(Source::Retry), after);
        }
        Ok(())
    }

    async fn purge(&mut self, index: usize) -> Result<()> {
        let after = self.now;
        let answer = self.admin.purge_lite(&self.group, &lite(index)).await;
        let Some(change) = self.unless_refused(answer)? else { return Ok(()) };
        let before = self.tick().await?.before;
        for offset in 0..change.lite_topic.next_offset.0 {
            self.record.skipped.entry((index, offset)).or_insert(Span { after, before });
        }
        self.record.cut_holds(index, Some(Source::Retry), after);
        Ok(())
    }

    async fn activate(&mut self, calm: bool, rate: u32) -> Result<()> {
        let (name, config) = match calm {
            true => ("calm", String::new()),
            false => ("token-bucket", format!(r#"{{"unit":"cost","rate_per_second":{rate},"burst":100}}"#)),
        };
        let digest = self.admin.push_policy(policy(name)).await?.digest;
        self.admin.activate_policy(&self.group, &ActivatePolicy { digest, config }).await?;
        Ok(())
    }
}

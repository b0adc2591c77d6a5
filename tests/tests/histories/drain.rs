//! The end of a history: everything that holds back ends, and one consumer takes what is left.

use std::time::Duration;

use anyhow::{Result, bail};
use sluicegate_client::SettleError;
use sluicegate_client::admin::{AdminError, ConcurrencySettings, LiteTopic, Page, QuotaSettings};
use sluicegate_tests::PATIENCE;
use sluicegate_tests::history::{End, Span};
use tokio::time::Instant;

use crate::draw::{LITES, Takes};
use crate::run::{Run, lite};

const WORKERS: u32 = 8;

impl Run {
    pub(crate) async fn drain(&mut self) -> Result<()> {
        self.tell("drain");
        self.collect().await;
        self.tick().await?;
        while !self.vanished.is_empty() {
            self.take_over(0).await?;
        }
        while !self.members.is_empty() {
            self.collect().await;
            self.tick().await?;
            self.close(0).await?;
        }
        self.tick().await?;
        self.resume().await?;
        self.admin.deactivate_policy(&self.group).await?;
        self.set_quotas(QuotaSettings::default()).await?;
        self.set_concurrency(ConcurrencySettings::default()).await?;
        self.attach(Takes::All, WORKERS, None).await?;
        // What is held is held from this one too.
        self.wait(Duration::from_millis(40)).await;
        for index in 0..LITES.len() {
            self.tick().await?;
            self.resume_lite(index).await?;
        }
        let give_up_at = Instant::now() + PATIENCE;
        while !self.is_drained().await? {
            if Instant::now() >= give_up_at {
                // What is left is told by the rules.
                break;
            }
            self.wait(Duration::from_millis(5)).await;
            self.acknowledge_all().await?;
        }
        self.look().await
    }

    async fn acknowledge_all(&mut self) -> Result<()> {
        while !self.held.is_empty() {
            let after = self.tick().await?.before;
            let mut settling = Vec::new();
            for (index, delivery) in std::mem::take(&mut self.held) {
                settling.push((index, tokio::spawn(delivery.ack())));
            }
            for (index, settle) in settling {
                let result: Result<(), SettleError> = settle.await?;
                let before = self.tick().await?.before;
                self.settled(index, Span { after, before }, End::Ack, result);
            }
            self.collect().await;
        }
        Ok(())
    }

    async fn is_drained(&mut self) -> Result<bool> {
        let stats = self.admin.group(&self.group).await?.stats;
        if stats.in_flight > 0 || stats.waiting_lite_topics > 0 {
            return Ok(false);
        }
        for index in 0..LITES.len() {
            if self.shown(index).await?.is_some_and(|shown| shown.settled_up_to < shown.next_offset) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn look(&mut self) -> Result<()> {
        for index in 0..LITES.len() {
            let shown = self.shown(index).await?;
            self.record.end.lite_topics.push(shown);
        }
        let mut page = Page::default();
        loop {
            let letters = self.admin.dead_letters(&self.group, &page).await?;
            self.record.end.dead_letters.extend(letters.dead_letters);
            match letters.next {
                Some(next) => page.after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn shown(&mut self, index: usize) -> Result<Option<LiteTopic>> {
        match self.admin.lite_topic(&self.group, &lite(index)).await {
            Ok(shown) => Ok(Some(shown)),
            // Nothing was published to it.
            Err(AdminError::Refused(refusal)) if refusal.code == sluicegate_client::ErrorCode::UnknownLite => Ok(None),
            Err(error) => bail!("{}: {error}", LITES[index]),
        }
    }
}

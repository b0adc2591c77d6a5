//! The text of a scrape, in the order of `docs/metrics.md`.

use std::fmt::Error;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use sluicegate_protocol::admin::{HealthStatus, PolicyRuns};

use super::gather::{Figures, Group};
use super::group::{Buried, Ended, GroupSample, Skipped};
use super::histogram::Histogram;
use crate::store::StoreMemory;

const PREFIX: &str = "sluicegate";
const HEALTH: [(HealthStatus, &str); 4] = [
    (HealthStatus::Ok, "ok"),
    (HealthStatus::Draining, "draining"),
    (HealthStatus::DiskFull, "disk_full"),
    (HealthStatus::Failed, "failed"),
];

/// All metrics of one scrape.
pub(super) fn print(figures: Figures) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(figures));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("writing to a String cannot fail");
    text
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut page = Page { encoder, groups: &self.groups };
        page.leases()?;
        page.levels()?;
        page.quotas()?;
        page.policies()?;
        self.process(&mut page)
    }
}

impl Figures {
    fn process(&self, page: &mut Page<'_, '_>) -> Result<(), Error> {
        page.counter("published_messages", "Messages that producers published", None, self.published.messages)?;
        page.counter("published", "Bodies that producers published", Some(&Unit::Bytes), self.published.bytes)?;
        page.counter("read_messages", "Messages sent to readers", None, self.read_messages)?;
        page.counter("store_commits", "Batches that the store wrote", None, self.commits)?;
        let mut syncs =
            page.describe("store_sync", "Waits for the disk", Some(&Unit::Seconds), MetricType::Histogram)?;
        encode_histogram(&mut syncs, &self.syncs)?;
        let help = "Memory that the store has taken";
        let mut memory = page.describe("store_memory", help, Some(&Unit::Bytes), MetricType::Gauge)?;
        let StoreMemory { block_cache, memtables } = self.store_memory;
        for (part, bytes) in [("block_cache", block_cache), ("memtables", memtables)] {
            memory.encode_family(&[("part", part)])?.encode_gauge(&bytes)?;
        }
        page.gauge("connections", "QUIC connections", self.connections)?;
        page.gauge("readers", "Readers that are attached", self.readers)?;
        page.gauge("topics", "Topics, dead-letter topics included", self.topics)?;
        page.gauge("lite_topics", "Lite topics that exist", self.lite_topics)?;
        let reclaimed = self.lite_topics_reclaimed;
        page.counter("reclaimed_lite_topics", "Lite topics whose life ended by itself", None, reclaimed)?;
        page.gauge("deletions", "Deleted groups and topics whose rows are being removed", self.deletions)?;
        page.gauge("groups_left_out", "Groups beyond those that a scrape shows", self.groups_left_out)?;
        page.gauge("shards_missing", "Shards that did not answer this scrape in time", self.shards_missing)?;
        let mut health = page.describe("health", "1 for the status that the broker has", None, MetricType::Gauge)?;
        for (status, name) in HEALTH {
            let labels = [("status", name)];
            health.encode_family(&labels)?.encode_gauge(&u64::from(self.health == status))?;
        }
        let mut build = page.describe("build", "The running broker", None, MetricType::Info)?;
        build.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }
}

/// Writes metrics one after the other.
struct Page<'a, 'b> {
    encoder: DescriptorEncoder<'a>,
    groups: &'b [Group],
}

impl Page<'_, '_> {
    /// What happened to messages.
    fn leases(&mut self) -> Result<(), Error> {
        self.count("deliveries", "Messages delivered to consumers", |group| group.stats.delivered)?;
        self.count_by("leases_ended", "Leases that ended", "outcome", &Ended::ALL, GroupSample::ended)?;
        self.count_by(
            "dead_letters",
            "Messages moved to the dead-letter topic",
            "reason",
            &Buried::ALL,
            GroupSample::buried,
        )?;
        self.count_by(
            "messages_skipped",
            "Messages settled without delivery",
            "reason",
            &Skipped::ALL,
            GroupSample::skipped,
        )?;
        self.histogram("wait", "From when a message could be had to its dispatch", |group| &group.meters.wait)?;
        self.histogram("service", "From dispatch to settle", |group| &group.meters.service)
    }

    /// What there is now.
    fn levels(&mut self) -> Result<(), Error> {
        self.level("backlog_messages", "Messages that wait", |group| Some(group.stats.backlog))?;
        self.level("waiting_lite_topics", "Lite topics with a message that waits", |group| {
            Some(group.stats.waiting_lite_topics)
        })?;
        self.level("ready_lite_topics", "Lite topics that may be served now", |group| {
            Some(group.stats.ready_lite_topics)
        })?;
        self.level("held_lite_topics", "Lite topics that are held until a time", |group| {
            Some(group.stats.held_lite_topics)
        })?;
        self.level(
            "asleep_lite_topics",
            "Lite topics that are held for so long that they are not in memory",
            |group| Some(group.stats.asleep_lite_topics),
        )?;
        self.level("unloaded_lite_topics", "Lite topics with a message that waits, and not in memory", |group| {
            Some(group.stats.unloaded_lite_topics)
        })?;
        self.level("asking_lite_topics", "Lite topics that wait for the policy", |group| {
            Some(group.stats.asking_lite_topics)
        })?;
        let help = "How long the head waits that waits longest";
        let mut metric =
            self.encoder.encode_descriptor("oldest_wait", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for group in self.groups {
            let seconds = group.sample.oldest_wait.as_secs_f64();
            metric.encode_family(&group.labels())?.encode_gauge(&seconds)?;
        }
        self.level(
            "service_gap_cost",
            "Largest difference of service between tenants that could be served",
            |group| Some(group.stats.service_gap),
        )?;
        self.level("open_leases", "Messages that consumers work on", |group| Some(group.stats.in_flight))?;
        self.level("sessions", "Consumer sessions that are connected, or come by requests over HTTP", |group| {
            Some(group.stats.sessions)
        })
    }

    fn quotas(&mut self) -> Result<(), Error> {
        self.level("quota_left_messages", "Deliveries that the quota allows at once", |group| {
            group.stats.messages_left
        })?;
        self.level("quota_left_cost", "Cost units that the quota allows at once", |group| group.stats.cost_left)?;
        let (help, unit) = ("Time that quotas kept deliveries back", Some(&Unit::Seconds));
        let mut metric = self.encoder.encode_descriptor("gate_closed", help, unit, MetricType::Counter)?;
        for group in self.groups {
            let seconds = group.sample.gate_closed_seconds();
            metric.encode_family(&group.labels())?.encode_counter::<NoLabelSet, _, u64>(&seconds, None)?;
        }
        self.count("quota_refunds", "Settles that gave quota back", |group| group.stats.refunds)?;
        self.count("quota_debts", "Deliveries and settles booked as debt", |group| group.stats.debts)
    }

    fn policies(&mut self) -> Result<(), Error> {
        self.count("policy_frames", "Frames that the policy answered", |group| group.stats.policy_frames)?;
        self.count("policy_missed_frames", "Frames that nobody answered", |group| group.stats.policy_missed)?;
        self.count("policy_strikes", "Faults of the policy", |group| group.stats.policy_strikes)?;
        self.count("policy_starved", "Messages that the watchdog let through", |group| group.stats.policy_starved)?;
        let (help, unit) = ("Processor time of the policy", Some(&Unit::Seconds));
        let mut metric = self.encoder.encode_descriptor("policy_guest", help, unit, MetricType::Counter)?;
        for group in self.groups {
            let stats = group.sample.stats;
            for (place, micros) in [("shard", stats.policy_on_shard_us), ("thread", stats.policy_off_shard_us)] {
                let [name, topic] = group.labels();
                let (labels, seconds) = ([name, topic, ("place", place)], Duration::from_micros(micros).as_secs_f64());
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&seconds, None)?;
            }
        }
        self.level("policy_off_shard", "Whether the policy's frames are answered off the shard", |group| {
            Some(u64::from(group.policy_runs.is_some_and(|runs| runs != PolicyRuns::OnShard)))
        })?;
        self.count("policy_throttles", "Rows that the policy throttled", |group| group.stats.throttled)?;
        self.shadows()
    }

    /// Figures begin anew with each shadow: levels, not counters.
    fn shadows(&mut self) -> Result<(), Error> {
        self.level("shadow_rows", "Rows for which the shadow's answer was compared", |group| {
            Some(group.shadow.map_or(0, |shadow| shadow.rows))
        })?;
        self.level("shadow_rows_different", "Those for which something would have been different", |group| {
            Some(group.shadow.map_or(0, |shadow| shadow.rows_different))
        })?;
        self.level("shadow_frames_skipped", "Frames that the shadow was too busy for", |group| {
            Some(group.shadow.map_or(0, |shadow| shadow.frames_skipped))
        })?;
        self.level("shadow_faults", "Faults of the shadow; the third ends it", |group| {
            Some(group.shadow.map_or(0, |shadow| shadow.faults))
        })
    }

    fn describe(
        &mut self,
        name: &'static str,
        help: &str,
        unit: Option<&'static Unit>,
        kind: MetricType,
    ) -> Result<MetricEncoder<'_>, Error> {
        self.encoder.encode_descriptor(name, help, unit, kind)
    }

    fn counter(
        &mut self,
        name: &'static str,
        help: &str,
        unit: Option<&'static Unit>,
        value: u64,
    ) -> Result<(), Error> {
        self.describe(name, help, unit, MetricType::Counter)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn gauge(&mut self, name: &'static str, help: &str, value: u64) -> Result<(), Error> {
        self.describe(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn count(&mut self, name: &'static str, help: &str, value: impl Fn(&GroupSample) -> u64) -> Result<(), Error> {
        let groups = self.groups;
        let mut metric = self.describe(name, help, None, MetricType::Counter)?;
        groups.iter().try_for_each(|group| encode_counter(&mut metric, &group.labels(), value(&group.sample)))
    }

    /// One series for each value of a label that has few.
    fn count_by<T: Copy>(
        &mut self,
        name: &'static str,
        help: &str,
        label: &'static str,
        values: &[(T, &'static str)],
        count: impl Fn(&GroupSample, T) -> u64,
    ) -> Result<(), Error> {
        let groups = self.groups;
        let mut metric = self.describe(name, help, None, MetricType::Counter)?;
        for group in groups {
            for &(value, value_name) in values {
                let [name, topic] = group.labels();
                encode_counter(&mut metric, &[name, topic, (label, value_name)], count(&group.sample, value))?;
            }
        }
        Ok(())
    }

    fn level(
        &mut self,
        name: &'static str,
        help: &str,
        value: impl Fn(&GroupSample) -> Option<u64>,
    ) -> Result<(), Error> {
        let groups = self.groups;
        let mut metric = self.describe(name, help, None, MetricType::Gauge)?;
        for group in groups {
            if let Some(value) = value(&group.sample) {
                metric.encode_family(&group.labels())?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    fn histogram(
        &mut self,
        name: &'static str,
        help: &str,
        of: impl Fn(&GroupSample) -> &Histogram,
    ) -> Result<(), Error> {
        let groups = self.groups;
        let mut metric = self.describe(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        groups
            .iter()
            .try_for_each(|group| encode_histogram(&mut metric.encode_family(&group.labels())?, of(&group.sample)))
    }
}

impl Group {
    fn labels(&self) -> [(&'static str, &str); 2] {
        [("group", &self.name), ("topic", &self.topic)]
    }
}

fn encode_counter(metric: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, value: u64) -> Result<(), Error> {
    metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn encode_histogram(metric: &mut MetricEncoder<'_>, histogram: &Histogram) -> Result<(), Error> {
    metric.encode_histogram::<NoLabelSet>(histogram.sum_seconds(), histogram.count(), &histogram.buckets(), None)
}
